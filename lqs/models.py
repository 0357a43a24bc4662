"""The networks of the thesis, in float, and which of their parameters it quantizes."""

import keras
from keras import layers

from lqs.wrapping import is_not_normalization

INITIAL_STDDEV = 0.05


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


def is_convolution(layer, variable):
    """Return whether `layer`, which owns `variable`, is a convolution: what the thesis quantizes but on MNIST."""
    return isinstance(layer, layers.Conv2D)


# name of the network: (function that makes it, which parameters are quantized)
NETWORKS = {
    "dense": (dense_network, is_not_normalization),
    "cifar10": (cifar10_network, is_convolution),
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
