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
            layers.Dense(128, "relu", **_initializers()),
            layers.Dense(num_classes, **_initializers()),
        ],
        name="dense",
    )


# name of the network: (function that makes it, which parameters are quantized)
NETWORKS = {"dense": (dense_network, is_not_normalization)}


def _initializers():
    """Return the thesis's initializers of kernels and biases, drawn from the global seed."""
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
        "bias_initializer": keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
    }
