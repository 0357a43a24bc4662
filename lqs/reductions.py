"""Reductions that a backend needs of its own: over replicas on TensorFlow, and over large parameters on a CPU.

The votes of a scale (`lqs.rules.gradient_ratio`) go through three loops on JAX: XLA writes the integers, leaves `tanh`,
and the sum of it, to its library YNN, and takes the maximum in a loop of its own. Here, one loop takes both, with no
`tanh` where it is the identity. XLA chooses the order of its sums by what stands around them. Here it is fixed, as XLA
has it in a training step of the thesis's MNIST network, whose bits are therefore the same either way: the two halves of
32 neighbours, these 16 sums, then the sums of 32, one after the other.

The last axis has this way, alone or with others: without it XLA's loops are quick. So are those of small parameters. On
TensorFlow only the maximum is worth it. Figures are in benchmarks/README.md.
"""

import math

import keras
from keras import ops

LANES, WINDOW = 16, 32
LEAST_SIZE = 8192  # elements of the parameter
TANH_IS_IDENTITY_BELOW = 2.0**-25  # in YNN; in XLA itself it is below 4e-4


def num_replicas():
    """Return over how many replicas TensorFlow trains, each on a part of the batch; 1 on other backends.

    Under `keras.distribution`, JAX computes with the whole batch.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(tensor):
    """Return the sum of a tensor over the replicas of TensorFlow, if there are several."""
    if num_replicas() == 1:
        return tensor
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def is_for_one_pass(parameter, axes):
    """Return whether `sum_and_max` is made for such a tensor, whose elements along `axes` are summed.

    Example: a small one.

    >>> is_for_one_pass(ops.zeros((128, 10)), (1,))
    False
    """
    shape = parameter.shape
    in_rows = len(shape) > 1 and len(shape) - 1 in axes
    if keras.backend.backend() != "jax" or not in_rows or math.prod(shape) < LEAST_SIZE:
        return False
    is_float32 = keras.backend.standardize_dtype(parameter.dtype) == "float32"
    return is_float32 and shape[-1] % WINDOW == 0 and _is_on_cpu()


def sum_and_max_of_tanh(terms, bound):
    """Return the sum of `tanh` of some values and the maximum of some magnitudes, each along the last axis, kept.

    Args:
        terms: function of no arguments that returns the values and the magnitudes, none of them negative: two tensors
            for which `is_for_one_pass`. Each branch calls it for itself, so that its loops compute them and XLA does
            not write them.
        bound: scalar, which no value exceeds in magnitude.
    """

    def by_library():
        values, magnitudes = terms()
        return _sum_by_library(ops.tanh(values)), ops.max(magnitudes, axis=-1, keepdims=True)

    return ops.cond(bound < TANH_IS_IDENTITY_BELOW, lambda: sum_and_max(*terms()), by_library)


def sum_and_max(values, magnitudes):
    """Return the sum of the values and the maximum of the magnitudes along the last axis, kept, from one loop."""
    import jax

    def both(left, right):
        return left[0] + right[0], ops.maximum(left[1], right[1])

    *outer, length = values.shape
    shape, zero = (*outer, length // WINDOW, WINDOW // LANES, LANES), ops.zeros((), values.dtype)
    operands = ops.reshape(values, shape), ops.reshape(magnitudes, shape)
    sums, maxima = jax.lax.reduce(operands, (zero, zero), both, (len(outer) + 1,))
    return _sum_of_windows(ops.sum(sums, axis=-1)), ops.max(maxima, axis=(-2, -1))[..., None]


def maximum(values, axes):
    """Return the maximum along axes, which are kept with size 1.

    Example:

    >>> ops.convert_to_numpy(maximum(ops.convert_to_tensor([[1.0, 3.0], [2.0, 0.0]]), (1,))).tolist()
    [[3.0], [2.0]]
    """
    if (
        keras.backend.backend() == "tensorflow"
        and math.prod(values.shape) >= LEAST_SIZE
        and len(values.shape) - 1 in axes
    ):
        while values.shape[-1] % 2 == 0:  # loops that XLA compiles to vector instructions there, unlike its maximum
            values = ops.maximum(*ops.split(values, 2, axis=-1))
    return ops.max(values, axis=axes, keepdims=True)


def _sum_by_library(values):
    """Return the sum along the last axis, kept: in windows, which YNN takes together with `tanh`."""
    *outer, length = values.shape
    return _sum_of_windows(ops.sum(ops.reshape(values, (*outer, length // WINDOW, WINDOW)), axis=-1))


def _sum_of_windows(windows):
    import jax

    # The barrier keeps XLA from one sum over both axes, in another order.
    return ops.sum(jax.lax.optimization_barrier(windows), axis=-1, keepdims=True)


def _is_on_cpu():
    import jax

    return jax.default_backend() == "cpu"
