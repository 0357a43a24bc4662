"""Output units: the axes of a parameter along which those of its layer lie, for `granularity="output"`."""

import keras

_DEPTHWISE = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


def output_axes(layer: keras.layers.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """Return the axes of a layer's parameter along which its output units lie.

    It is the last axis, of a kernel `(..., in, out)`, a table of embeddings or a bias, but for

    - depthwise kernels `(..., channels, multiplier)`: the last two;
    - kernels of transposed convolutions `(..., out, in)`: the last but one;
    - kernels of `EinsumDense`, and so of attention: those that its equation keeps.

    Args:
        layer: the layer that owns the variable.
        variable: the parameter.

    Example:

    >>> layer = keras.layers.EinsumDense("abc,chd->abhd", output_shape=(None, 2, 3))
    >>> layer.build((None, 5, 4))
    >>> output_axes(layer, layer.kernel)
    (1, 2)
    """
    rank = len(variable.shape)
    if rank < 2:
        return tuple(range(rank))
    if isinstance(layer, _DEPTHWISE) and variable.name != "pointwise_kernel":
        return rank - 2, rank - 1
    if isinstance(layer, _TRANSPOSED):
        return (rank - 2,)
    if isinstance(layer, keras.layers.EinsumDense) and variable.name == "kernel":
        operands, output = layer.equation.split("->")
        return tuple(axis for axis, label in enumerate(operands.split(",")[1]) if label in output)
    return (rank - 1,)
