"""The networks of the thesis, in float, and which of their parameters it quantizes."""

import keras
from keras import layers

from lqs.conversion import is_not_normalization

INITIAL_STDDEV = 0.05
BLOCK_L2 = 1e-4


def dense_network(input_shape, num_classes):
    """Return the thesis's MNIST network: flatten, dense 128 ReLU, dense softmax (section 4.1).

    The softmax is left to the loss (`from_logits=True`). On TensorFlow, Keras undoes a softmax before a cross
    entropy anyway; on JAX it does not, and with pixels up to 255 the saturated outputs lose their gradient.

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values as they are.
        num_classes: number of outputs.

    Example:

    >>> dense_network((28, 28, 1), 10).count_params()
    101770
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(128, "relu", **_initializers(), name="hidden"),
            layers.Dense(num_classes, **_initializers(), name="output"),
        ],
        name="dense",
    )


def gelu_network(input_shape, num_classes):
    """Return the dense network with no input and no unit that is exactly 0: pixels from -1 to 1, GELU in place of ReLU.

    In `dense_network`, a dark pixel or a unit below 0 gives its weights a gradient of exactly 0.

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values up to 255.
        num_classes: number of outputs, logits as in `dense_network`.

    Example:

    >>> gelu_network((28, 28, 1), 10).count_params()
    101770
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 127.5, -1.0),
            layers.Flatten(),
            layers.Dense(128, "gelu", **_initializers(), name="hidden"),
            layers.Dense(num_classes, **_initializers(), name="output"),
        ],
        name="dense_gelu",
    )


def cifar10_network(input_shape, num_classes):
    """Return the thesis's CIFAR-10 network: three blocks of two convolutions, then two dense layers (section 4.1).

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values as they are.
        num_classes: number of outputs, logits as in `dense_network`.

    Example:

    >>> cifar10_network((32, 32, 3), 10).count_params()
    552874
    """
    blocks = [
        layer
        for filters, rate in ((32, 0.2), (64, 0.3), (128, 0.4))
        for layer in (*_convolution(filters), *_convolution(filters), layers.MaxPooling2D(2), layers.Dropout(rate))
    ]
    head = [
        layers.Flatten(),
        layers.Dense(128, "relu", **_initializers(), name="hidden"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(num_classes, **_initializers(), name="output"),
    ]
    return keras.Sequential([keras.Input(input_shape), *blocks, *head], name="cifar10")


def imagenette_network(input_shape, num_classes):
    """Return the thesis's Imagenette network, an 18-layer residual network with dropout (section 4.1).

    A 7 x 7 convolution, then four stages of two basic blocks (He et al. 2016, arXiv 1512.03385) of 64, 128, 256 and 512
    filters; the first block of a stage halves the image and has a 1 x 1 convolution as its shortcut, but in the first
    stage. An L2 term of 1e-4 on the kernels of the blocks is part of the loss.

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values as they are.
        num_classes: number of outputs, logits as in `dense_network`.

    Example:

    >>> imagenette_network((224, 224, 3), 10).count_params()
    11196042
    """
    inputs = keras.Input(input_shape)
    features = layers.Conv2D(64, 7, strides=2, padding="same", **_initializers(), name="stem")(inputs)
    features = layers.ReLU()(layers.BatchNormalization()(features))
    features = layers.MaxPooling2D(3, strides=2, padding="same")(features)
    features = layers.Dropout(0.2)(features)
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block, strides in enumerate((1 if stage == 1 else 2, 1), start=1):
            features = _residual_block(features, filters, strides, f"stage{stage}_block{block}")
    features = layers.Dropout(0.3)(features)
    features = layers.GlobalAveragePooling2D()(features)
    features = layers.Dropout(0.3)(features)
    outputs = layers.Dense(num_classes, **_initializers(), name="output")(features)
    return keras.Model(inputs, outputs, name="imagenette")


def is_convolution(layer, variable):
    """Return whether `layer`, which owns `variable`, is a convolution: what the thesis quantizes but on MNIST."""
    return isinstance(layer, layers.Conv2D)


# name of the network: (function that makes it, which parameters are quantized)
NETWORKS = {
    "dense": (dense_network, is_not_normalization),
    "dense_gelu": (gelu_network, is_not_normalization),
    "cifar10": (cifar10_network, is_convolution),
    "imagenette": (imagenette_network, is_convolution),
}


def _initializers():
    """Return the thesis's initializers of kernels and biases, drawn from the global seed."""
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
        "bias_initializer": keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
    }


def _convolution(filters):
    """Return convolution with ReLU and batch normalization, in the thesis's order."""
    return layers.Conv2D(filters, 3, padding="same", activation="relu", **_initializers()), layers.BatchNormalization()


def _residual_block(inputs, filters, strides, name):
    """Return the outputs of a basic residual block: two convolutions, and a shortcut around both."""

    def convolution(features, kernel_size, strides, part):
        settings = {"padding": "same", "kernel_regularizer": keras.regularizers.L2(BLOCK_L2), **_initializers()}
        layer = layers.Conv2D(filters, kernel_size, strides=strides, name=f"{name}_{part}", **settings)
        return layers.BatchNormalization()(layer(features))

    features = layers.ReLU()(convolution(inputs, 3, strides, "conv1"))
    features = convolution(features, 3, 1, "conv2")
    shortcut = inputs if strides == 1 else convolution(inputs, 1, strides, "shortcut")
    return layers.ReLU()(layers.add([features, shortcut]))
