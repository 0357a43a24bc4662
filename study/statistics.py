"""Statistics that a run record keeps: of integers, epoch by epoch and at the end, and sizes of files."""

import keras
import numpy as np

from lqs.file.sizes import file_bytes, fp32_bytes, zip_archive
from lqs.inspection import integer_statistics, model_integers, quantized_parameters, to_numpy
from study.nulls import votes_of


def histogram(integers, max_bins=512):
    """Return a histogram of an integer array as `{"start", "width", "counts"}`.

    Bin `i` counts the integers from `start + i * width` up to, not including, `start + (i + 1) * width`. The
    width is 1, that is the histogram is exact, if the range has at most `max_bins` integers.

    Example:

    >>> histogram(np.array([-1, 0, 0, 2]))
    {'start': -1, 'width': 1, 'counts': [1, 2, 0, 1]}
    """
    start, stop = int(integers.min()), int(integers.max()) + 1
    width = -(-(stop - start) // max_bins)
    counts = np.bincount((np.ravel(integers).astype("int64") - start) // width)
    return {"start": start, "width": width, "counts": counts.tolist()}


def zipped_bytes(arrays):
    """Return the size in bytes of a deflated zip archive with one member per array, and their dtype.

    This is the thesis's accounting: int8 codes, no scales. Integers that int8 does not hold are stored in the
    smallest type that holds them all (the thesis's cast wraps around); float arrays as they are.

    Example:

    >>> zipped_bytes([np.zeros(1000, "int32")])[1], zipped_bytes([np.array([0, 200])])[1]
    ('int8', 'int16')
    """
    buffer, dtype = zip_archive(arrays)
    return buffer.getbuffer().nbytes, dtype.name


def final_statistics(model):
    """Return the statistics of all integers together, and sizes: in the thesis's accounting, and of `.lqs` files.

    For a float network, the former is that of the zipped float32 parameters, the thesis's baseline.
    """
    integers = list(model_integers(model).values())
    statistics = integer_statistics(integers) if integers else {}
    num_bytes, dtype = zipped_bytes(integers or model.get_weights())
    sizes = {
        "zip_bytes": num_bytes,
        "zip_dtype": dtype,
        "fp32_bytes": fp32_bytes(model),
        "file_bytes": file_bytes(model),
        "inference_bytes": file_bytes(model, inference_only=True),
    }
    return {**statistics, **sizes}


def parameter_statistics(variable, quantizer):
    """Return the entry of one quantized parameter in the record."""
    integers, scale = to_numpy(quantizer.integers(variable.value)), to_numpy(quantizer.scale)
    return {
        "name": variable.path,
        "shape": list(variable.shape),
        "granularity": quantizer.granularity,
        **integer_statistics([integers]),
        "histogram": histogram(integers),
        "scale": {name: float(f"{getattr(np, name)(scale):.6g}") for name in ("min", "median", "mean", "max")},
    }


class IntegerHistory(keras.callbacks.Callback):
    """Records the number of unique integers and their extremes after every epoch, in `history`."""

    def __init__(self):
        super().__init__()
        self.history = {}

    def on_epoch_end(self, epoch, logs=None):
        arrays = list(model_integers(self.model).values())
        if arrays:
            statistics = integer_statistics(arrays)
            for key in ("unique", "min", "max"):
                self.history.setdefault(key, []).append(statistics[key])


def loss_gradients(model, images, labels):
    """Return `{path of the variable: gradient of the loss}` on a batch, by the network as it is evaluated.

    The gradient of a quantized parameter is the one with respect to `P_r`, where nothing is clipped.

    Raises:
        ValueError: on another backend than JAX and TensorFlow.
    """
    variables = model.trainable_variables
    values = [variable.value for variable in variables]
    if keras.backend.backend() == "jax":
        import jax

        others = [variable.value for variable in model.non_trainable_variables]

        def loss(values):
            outputs, _ = model.stateless_call(values, others, images, training=False)
            return model.loss(labels, outputs)

        gradients = jax.grad(loss)(values)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss_of_batch = model.loss(labels, model(images, training=False))
        gradients = tape.gradient(loss_of_batch, values)
    else:
        raise ValueError(f"Gradients are taken on JAX and TensorFlow. Received: {keras.backend.backend()!r}")
    return {variable.path: gradient for variable, gradient in zip(variables, gradients, strict=True)}


class VoteHistory(keras.callbacks.Callback):
    """Records shares of the elements of each quantized kernel after every epoch, in `history`; biases are left out.

    `voters/<path>` is the share whose vote is not 0 by the rule that the network is trained with (one of `study.nulls`
    or `lqs.GradientRatio`), `dead/<path>` the share with a gradient of exactly 0.

    Args:
        images, labels: the batch that gradients are taken on.
    """

    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels, self.history = images, labels, {}

    def on_epoch_end(self, epoch, logs=None):
        gradients = loss_gradients(self.model, self.images, self.labels)
        for variable, quantizer in quantized_parameters(self.model):
            if len(variable.shape) > 1:
                gradient = gradients[variable.path]
                votes = to_numpy(votes_of(quantizer.rule, gradient, quantizer(variable.value)))
                shares = {"voters": np.mean(votes != 0), "dead": np.mean(to_numpy(gradient) == 0)}
                for name, share in shares.items():
                    self.history.setdefault(f"{name}/{variable.path}", []).append(float(f"{share:.6g}"))
