"""Second moments of what is multiplied with each kernel, captured in calls of the layers."""

import contextlib
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from lqs._keras import is_concrete
from lqs.inspection import to_numpy

MAX_SIDE = 2048  # of a matrix of moments; more inputs are taken as independent blocks
MAX_ELEMENTS = 2**24  # of the inputs of a kernel in one call; those of further examples are left out
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)


class Kernel(NamedTuple):
    """A parameter that is multiplied with inputs, as matrices.

    Attributes:
        variable: the parameter.
        bias: the variable that is added to the products, or `None`.
        inputs: function of an argument of the layer's call, and its result, that returns `(positions, groups, n)`.
        to_matrix: function from an array of the parameter's shape to `(groups, n, m)`.
        from_matrix: its inverse.
        are_blocks: whether the groups are blocks of inputs of the same outputs.
    """

    variable: Any
    bias: Any
    inputs: Any
    to_matrix: Any
    from_matrix: Any
    are_blocks: bool = False


def kernels(layer):
    """Return the list of `Kernel` of a layer: of those kinds of which it is known what their inputs are."""
    if isinstance(layer, layers.Dense):
        return [_dense(layer.kernel, layer.bias, lambda x, _: x.reshape(-1, 1, x.shape[-1]))]
    if isinstance(layer, layers.EinsumDense):
        return [_einsum(layer)]
    if isinstance(layer, TRANSPOSED):
        return [_transposed(layer)]
    if isinstance(layer, DEPTHWISE):
        return [_depthwise(layer, layer.kernel, layer.bias)]
    if isinstance(layer, SEPARABLE):
        return _separable(layer)
    if isinstance(layer, CONVOLUTIONS):
        return [_convolution(layer)]
    if isinstance(layer, RECURRENT):
        return _recurrent(layer)
    return []


def _blocked(kernel):
    """Return a `Kernel` of one group in blocks of at most `MAX_SIDE` inputs, with zeros at the end of the last."""
    groups, n, m = kernel.to_matrix(np.zeros(kernel.variable.shape, "bool")).shape
    if groups > 1 or n <= MAX_SIDE:
        return kernel
    num = -(-n // MAX_SIDE)
    side = -(-n // num)

    def split(array):
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, num * side - n)])

    return kernel._replace(
        inputs=lambda x, y: split(kernel.inputs(x, y)[:, 0]).reshape(-1, num, side),
        to_matrix=lambda w: split(kernel.to_matrix(w)[0].T).T.reshape(num, side, m),
        from_matrix=lambda w: kernel.from_matrix(w.reshape(1, num * side, m)[:, :n]),
        are_blocks=True,
    )


def _dense(variable, bias, inputs):
    shape = tuple(variable.shape)
    n, m = int(np.prod(shape[:-1])), shape[-1]
    return _blocked(Kernel(variable, bias, inputs, lambda w: w.reshape(1, n, m), lambda w: w.reshape(shape)))


def _convolution(layer):
    shape, groups = tuple(layer.kernel.shape), layer.groups
    n, m = int(np.prod(shape[:-1])), shape[-1] // groups

    def inputs(x, _):
        return patches(layer, x, groups).reshape(-1, groups, n)

    def to_matrix(w):
        return w.reshape(n, groups, m).swapaxes(0, 1)

    return _blocked(Kernel(layer.kernel, layer.bias, inputs, to_matrix, lambda w: w.swapaxes(0, 1).reshape(shape)))


def _depthwise(layer, variable, bias):
    shape = tuple(variable.shape)  # (..., channels, multiplier)
    channels, multiplier = shape[-2:]

    def to_matrix(w):
        return w.reshape(-1, channels, multiplier).swapaxes(0, 1)

    def inputs(x, _):
        return patches(layer, x, channels).reshape(-1, channels, int(np.prod(shape[:-2])))

    return Kernel(variable, bias, inputs, to_matrix, lambda w: w.swapaxes(0, 1).reshape(shape))


def _separable(layer):
    depthwise = _depthwise(layer, layer.depthwise_kernel, None)

    def inputs(x, _):
        products = depthwise.inputs(x, None).swapaxes(0, 1) @ depthwise.to_matrix(to_numpy(layer.depthwise_kernel))
        return products.swapaxes(0, 1).reshape(len(products[0]), 1, -1)

    return [depthwise, _dense(layer.pointwise_kernel, layer.bias, inputs)]


def _transposed(layer):
    """A convolution by the mirrored kernel, of inputs with zeros between them."""
    shape = tuple(layer.kernel.shape)  # (..., out, in)
    spatial = tuple(range(len(shape) - 2))
    size, dilation = layer.kernel_size, _pairs(layer.dilation_rate, len(spatial))
    turned = (*shape[:-2], shape[-1], shape[-2])
    n, m = int(np.prod(turned[:-1])), turned[-1]

    def inputs(x, _):
        x = _channels_last(layer, x)
        strides = _pairs(layer.strides, len(spatial))
        spread = [(length - 1) * stride + 1 for length, stride in zip(x.shape[1:-1], strides, strict=True)]
        zeros = np.zeros((len(x), *spread, x.shape[-1]), x.dtype)
        zeros[(slice(None), *(slice(None, None, stride) for stride in strides))] = x
        margins = [((k - 1) * d,) * 2 for k, d in zip(size, dilation, strict=True)]
        return _windows(np.pad(zeros, [(0, 0), *margins, (0, 0)]), size, (1,) * len(spatial), dilation, 1)[:, None, :]

    def to_matrix(w):
        return np.flip(w, spatial).swapaxes(-1, -2).reshape(1, n, m)

    def from_matrix(w):
        return np.flip(w.reshape(turned).swapaxes(-1, -2), spatial)

    return _blocked(Kernel(layer.kernel, layer.bias, inputs, to_matrix, from_matrix))


def _einsum(layer):
    operands, output = layer.equation.replace(" ", "").split("->")
    of_input, of_kernel = operands.split(",")
    groups = [label for label in of_kernel if label in of_input and label in output]
    summed = [label for label in of_kernel if label in of_input and label not in output]
    kept = [label for label in of_kernel if label not in of_input]
    order = [of_kernel.index(label) for label in (*groups, *summed, *kept)]
    ordered_shape = [layer.kernel.shape[axis] for axis in order]
    sizes = [int(np.prod(part)) for part in np.split(ordered_shape, [len(groups), len(groups) + len(summed)])]

    def inputs(x, _):
        labels = of_input
        if "..." in labels:
            start, end = labels.split("...")
            free = [chr(number) for number in range(0x4E00, 0x4E00 + x.ndim - len(start) - len(end))]
            labels = start + "".join(free) + end
        rest = [axis for axis, label in enumerate(labels) if label not in (*groups, *summed)]
        axes = [labels.index(label) for label in (*groups, *summed)]
        return x.transpose(*rest, *axes).reshape(-1, *sizes[:2])

    def to_matrix(w):
        return w.transpose(order).reshape(sizes)

    def from_matrix(w):
        return w.reshape(ordered_shape).transpose(np.argsort(order))

    is_one_each = not groups and kept == [label for label in output if label in (layer.bias_axes or "")]
    bias = layer.bias if is_one_each else None  # one of another shape is rounded alone
    return _blocked(Kernel(layer.kernel, bias, inputs, to_matrix, from_matrix))


def _recurrent(layer):
    """The kernel has the sequence as its inputs, the recurrent kernel the states, one step late."""
    cell = layer.cell

    def states(_, y):
        y = np.concatenate([np.zeros_like(y[:, :1]), y[:, :-1]], axis=1)
        return y.reshape(-1, 1, y.shape[-1])

    return [
        _dense(cell.kernel, None, lambda x, _: x.reshape(-1, 1, x.shape[-1])),
        _dense(cell.recurrent_kernel, None, states),
    ]


def patches(layer, x, groups):
    """Return the inputs of a convolution at each position, `(positions, groups * n)`."""
    x = _channels_last(layer, x)
    rank = x.ndim - 2
    size = _pairs(layer.kernel_size, rank)
    strides, dilation = _pairs(layer.strides, rank), _pairs(layer.dilation_rate, rank)
    margins = []
    for length, k, stride, d in zip(x.shape[1:-1], size, strides, dilation, strict=True):
        reach = (k - 1) * d
        total = {"valid": 0, "causal": reach}.get(layer.padding)
        if total is None:
            total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
        before = total if layer.padding == "causal" else total // 2
        margins.append((before, total - before))
    return _windows(np.pad(x, [(0, 0), *margins, (0, 0)]), size, strides, dilation, groups)


def _windows(x, size, strides, dilation, groups):
    rank = len(size)
    axes = tuple(range(1, rank + 1))
    extent = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(x, extent, axes)  # (batch, *positions, channels, *extent)
    steps = [slice(None, None, stride) for stride in (*strides, 1, *dilation)]
    views = views[(slice(None), *steps)]
    num_positions = views.shape[1 : 1 + rank]
    views = views.reshape(len(x), *num_positions, groups, -1, *size)
    channels = 2 + rank
    views = np.moveaxis(views, channels, -1)  # behind the axes of the kernel
    return np.ascontiguousarray(views).reshape(len(x) * int(np.prod(num_positions)), -1)


def _channels_last(layer, x):
    return np.moveaxis(x, 1, -1) if layer.data_format == "channels_first" else x


def _pairs(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


class Stop(BaseException):
    """Ends a call of a model of which nothing more is to be captured.

    Not an `Exception`: Keras makes a new one of these with the call's arguments, in a cycle of references that keeps
    all that the call has computed until garbage is collected.
    """


@contextlib.contextmanager
def captured(chosen, capture):
    """Hand what layers are called with to `capture(layer, inputs, outputs)`, as NumPy arrays, within the block.

    Calls within a compiled function, where inputs have no values, are left out.
    """
    originals = [(layer, layer.call) for layer in chosen]
    for layer, call in originals:
        layer.call = _capturing(layer, call, capture)
    try:
        yield
    finally:
        for layer, _ in originals:
            del layer.call


def _capturing(layer, call, capture):
    def capturing(inputs, *args, **kwargs):
        if not is_concrete(inputs):
            return call(inputs, *args, **kwargs)
        if not isinstance(layer, RECURRENT):
            capture(layer, _as_float(inputs), None)
            return call(inputs, *args, **kwargs)
        returned, layer.return_sequences = layer.return_sequences, True
        try:
            states = keras.tree.flatten(call(inputs, *args, **kwargs))[0]
        finally:
            layer.return_sequences = returned
        capture(layer, _as_float(inputs), _as_float(states))
        return call(inputs, *args, **kwargs)

    return capturing


def _as_float(tensor):
    return to_numpy(ops.cast(tensor, "float32"))


class Moments:
    """Sums over examples, of the quantized network's inputs `x` and the float network's `z`, for one kernel.

    Attributes:
        moments: `sum x x'` of each group, `(groups, n, n)`.
        cross: `sum x z'`.
        means, float_means: `sum x`, `sum z`, each `(groups, n)`.
        num: number of positions.
        num_examples: number of examples that they are from.
        is_exact: whether both networks have the same inputs.
    """

    def __init__(self, side):
        groups, n = side
        self.moments, self.cross = np.zeros((2, groups, n, n))
        self.means, self.float_means = np.zeros((2, groups, n))
        self.num = self.num_examples = 0
        self.is_exact = True

    def add(self, x, z, num_examples):
        """Add inputs `(positions, groups, n)` of the two networks."""
        self.num += len(x)
        self.num_examples += num_examples
        self.is_exact = self.is_exact and z is x
        x, mean = _centred(x)
        z, float_mean = (x, mean) if self.is_exact else _centred(z)
        self.means += len(x) * mean
        self.float_means += len(x) * float_mean
        x, z = x.transpose(1, 2, 0), z.transpose(1, 0, 2)
        self.moments += x @ x.swapaxes(1, 2) + len(z[0]) * mean[:, :, None] * mean[:, None]
        self.cross += x @ z + len(z[0]) * mean[:, :, None] * float_mean[:, None]


def _centred(x):
    """Return inputs without their mean, and this: products of large means are not exact in float32."""
    mean = x.mean(0, dtype="float64")
    return x - mean.astype("float32"), mean
