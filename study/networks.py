"""The networks in float, and which of their parameters are quantized: those of the thesis, and three of the field's."""

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
    return _cifar10_network(input_shape, num_classes, (32, 64, 128), hidden=128, name="cifar10")


def cifar10_quarter(input_shape, num_classes):
    """Return the thesis's CIFAR-10 network with a quarter of its filters and hidden units: small enough for two cores.

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values as they are.
        num_classes: number of outputs, logits as in `dense_network`.

    Example:

    >>> cifar10_quarter((32, 32, 3), 10).count_params()
    35506
    """
    return _cifar10_network(input_shape, num_classes, (8, 16, 32), hidden=32, name="cifar10_quarter")


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


def lenet_300_100(input_shape, num_classes):
    """Return LeNet-300-100: flatten, dense 300 ReLU, dense 100 ReLU, dense (LeCun et al. 1998).

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values from 0 to 1.
        num_classes: number of outputs, logits as in `dense_network`.

    Example:

    >>> lenet_300_100((28, 28, 1), 10).count_params()
    266610
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(300, "relu", name="hidden1"),
            layers.Dense(100, "relu", name="hidden2"),
            layers.Dense(num_classes, name="output"),
        ],
        name="lenet_300_100",
    )


def lenet_5_caffe(input_shape, num_classes):
    """Return LeNet-5 as Caffe has it: two convolutions of 5 x 5, each before a maximum of 2 x 2, and two dense layers.

    A ReLU follows the first dense layer alone, as in Caffe. Papers on compression mean this network by LeNet-5.

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values from 0 to 1.
        num_classes: number of outputs, logits as in `dense_network`.

    Example:

    >>> lenet_5_caffe((28, 28, 1), 10).count_params()
    431080
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(20, 5, name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(50, 5, name="conv2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, "relu", name="hidden"),
            layers.Dense(num_classes, name="output"),
        ],
        name="lenet_5_caffe",
    )


def resnet_20(input_shape, num_classes):
    """Return ResNet-20 for CIFAR-10 (He et al. 2016, arXiv 1512.03385, section 4.2).

    A 3 x 3 convolution of 16 filters, then three stages of three blocks of 16, 32 and 64 filters. Where a stage begins
    with half the image, the shortcut takes every other pixel and fills up the channels with zeros, so that it has no
    parameters. Convolutions have no biases. There is no L2 term.

    Args:
        input_shape: shape of one image, `(height, width, channels)`, pixel values from 0 to 1.
        num_classes: number of outputs, logits as in `dense_network`.

    Example: 269,722 parameters are trained.

    >>> resnet_20((32, 32, 3), 10).count_params()
    271098
    """
    inputs = keras.Input(input_shape)
    features = layers.ReLU()(_normalized_convolution(inputs, 16, 1, "stem"))
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in (1, 2, 3):
            strides, name = 2 if stage > 1 and block == 1 else 1, f"stage{stage}_block{block}"
            shortcut = features
            if strides == 2:
                added = filters // 4  # before and after the channels that there are
                shortcut = layers.MaxPooling2D(1, strides=2)(shortcut)
                # The last two axes of what it takes for channels first are width and channels.
                shortcut = layers.ZeroPadding2D(((0, 0), (added, added)), data_format="channels_first")(shortcut)
            features = layers.ReLU()(_normalized_convolution(features, filters, strides, f"{name}_conv1"))
            features = _normalized_convolution(features, filters, 1, f"{name}_conv2")
            features = layers.ReLU()(layers.add([features, shortcut]))
    outputs = layers.Dense(num_classes, name="output")(layers.GlobalAveragePooling2D()(features))
    return keras.Model(inputs, outputs, name="resnet_20")


def is_convolution(layer, variable):
    """Return whether `layer`, which owns `variable`, is a convolution: what the thesis quantizes but on MNIST."""
    return isinstance(layer, layers.Conv2D)


# name of the network: (function that makes it, which parameters are quantized)
NETWORKS = {
    "dense": (dense_network, is_not_normalization),
    "dense_gelu": (gelu_network, is_not_normalization),
    "cifar10": (cifar10_network, is_convolution),
    "cifar10_quarter": (cifar10_quarter, is_convolution),
    "imagenette": (imagenette_network, is_convolution),
    "lenet_300_100": (lenet_300_100, is_not_normalization),
    "lenet_5_caffe": (lenet_5_caffe, is_not_normalization),
    "resnet_20": (resnet_20, is_not_normalization),
}


def _initializers():
    """Return the thesis's initializers of kernels and biases, drawn from the global seed."""
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
        "bias_initializer": keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
    }


def _cifar10_network(input_shape, num_classes, filters, hidden, name):
    """Return the thesis's CIFAR-10 network with `filters` in the convolutions of each block and `hidden` units."""
    blocks = [
        layer
        for number, rate in zip(filters, (0.2, 0.3, 0.4), strict=True)
        for layer in (*_convolution(number), *_convolution(number), layers.MaxPooling2D(2), layers.Dropout(rate))
    ]
    head = [
        layers.Flatten(),
        layers.Dense(hidden, "relu", **_initializers(), name="hidden"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(num_classes, **_initializers(), name="output"),
    ]
    return keras.Sequential([keras.Input(input_shape), *blocks, *head], name=name)


def _convolution(filters):
    """Return convolution with ReLU and batch normalization, in the thesis's order."""
    return layers.Conv2D(filters, 3, padding="same", activation="relu", **_initializers()), layers.BatchNormalization()


def _normalized_convolution(inputs, filters, strides, name):
    """Return a 3 x 3 convolution without biases, batch normalized, with He's initial weights."""
    settings = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    features = layers.Conv2D(filters, 3, strides=strides, name=name, **settings)(inputs)
    return layers.BatchNormalization()(features)


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
