"""Examples: the images and labels of a run, as `fit` takes them."""

import numpy as np

from study import datasets
from study.augmentation import size_to_crop_from

VALIDATION_BATCH_SIZE = 1000


def load_dataset(config):
    """Return the data set of `config`, its images of the size that the configuration asks for."""
    size, holdout = config.data.image_size, config.data.holdout
    if size is None:
        return datasets.load(config.data.dataset, holdout=holdout)
    return datasets.load(config.data.dataset, size=size, train_size=size_to_crop_from(size), holdout=holdout)


def batches(config, dataset):
    """Return the arguments of `fit` that give it the training and the test examples, as float32 images.

    Images are augmented if the configuration asks for their size, as the thesis's are for Imagenette.
    """
    batch_size, input_scale = config.training.batch_size, config.data.input_scale
    if config.data.image_size is not None:
        train, test = dataset.as_tf_data(batch_size, config.seed, augment=True)
        if input_scale != 1:
            train, test = (_with_scaled_images(examples, input_scale) for examples in (train, test))
        return {"x": train, "shuffle": False, "validation_data": test}
    x_train, x_test = (np.asarray(images, "float32") for images in (dataset.x_train, dataset.x_test))
    if input_scale != 1:
        x_train, x_test = x_train * np.float32(input_scale), x_test * np.float32(input_scale)
    return {
        "x": x_train,
        "y": dataset.y_train,
        "batch_size": batch_size,
        "validation_data": (x_test, dataset.y_test),
        "validation_batch_size": VALIDATION_BATCH_SIZE,
    }


def _with_scaled_images(examples, factor):
    """Return the `tf.data.Dataset` of batches `(images, labels)` with float32 images, times `factor`."""
    import tensorflow as tf

    return examples.map(lambda images, labels: (factor * tf.cast(images, "float32"), labels))
