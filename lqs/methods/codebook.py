"""Codebooks: roundings whose integers stand for levels of a small table, where those of others are evenly spaced.

With the integers `P_q` from `lowest` on and the vector `codebook`, one for each parameter,

    P_r = codebook[P_q - lowest] * s

The table is an ordinary weight of the rounding. If it is trainable, a level has the sum of the gradients of its
elements, and `P` has the gradient of `P_r` (or what a subclass says). The scale is a unit; with `rule=Frozen()` and
`initial_scale="max"` the integers stand for about themselves at first. Files hold the table beside the integers.
"""

import numpy as np
from keras import ops

from lqs.rounding import Rounding, required_levels

MAX_BITS = 8  # of a table
NUM_STEPS = 20  # of a fit to the initial values


def nearest(numbers, codebook):
    """Return the index of the level that is nearest to each number, of the lower one midway.

    Example:

    >>> np.asarray(nearest(np.array([[0.2, 1.9]]), np.array([2.0, -1.0, 1.0]))).tolist()
    [[2, 0]]
    """
    order = ops.argsort(codebook)
    ordered = ops.take(codebook, order)
    middles = 0.5 * (ordered[1:] + ordered[:-1])
    indices = ops.searchsorted(middles, ops.ravel(numbers), side="left")
    return ops.reshape(ops.take(order, indices), ops.shape(numbers))


def shares_and_means(numbers, indices, num_levels, mask=None):
    """Return for each level, over all numbers, the mean of one for its own and the mean of its own."""
    mask = ops.ones_like(numbers) if mask is None else ops.cast(mask, numbers.dtype)
    sums = [ops.segment_sum(ops.ravel(a), ops.ravel(indices), num_levels) for a in (mask, mask * numbers)]
    return [total / float(np.prod(numbers.shape)) for total in sums]


class Codebook(Rounding):
    """Base of the roundings with a table of levels. A subclass implements `integers`.

    Until `initialize` gives it other values, the levels are the integers themselves.
    """

    clips = False  # the scale is a unit, and levels lie anywhere
    is_trained = True  # by gradients
    is_zero_fixed = False  # whether the integer 0 stands for 0, as it does at first, for good

    def levels_of(self, bits):
        """Return the `Levels` of `2**bits` integers.

        Raises:
            ValueError: if `bits` is not an integer from 2 to 8.
        """
        levels = required_levels(self, bits)
        if bits > MAX_BITS:
            name = type(self).__name__
            raise ValueError(f"Argument `bits` must be at most {MAX_BITS}, for `{name}`. Received: bits={bits!r}")
        return levels

    def first_levels(self):
        """Return the levels that there are until `initialize`, as an array: the integers."""
        return np.arange(self.levels.lowest, self.levels.highest + 1)

    def build(self, shape, axes, levels):
        super().build(shape, axes, levels)
        levels = self.first_levels()

        def initializer(shape, dtype=None):
            return ops.cast(levels, dtype)

        size, trainable = levels.shape, self.is_trained
        self.codebook = self.add_weight(name="codebook", shape=size, initializer=initializer, trainable=trainable)

    def values(self, integers, parameter, scale):
        codebook, (lowest, highest) = ops.cast(self.codebook, parameter.dtype), self.levels
        if self.is_zero_fixed:
            is_zero = ops.arange(lowest, highest + 1) == 0
            codebook = ops.where(is_zero, ops.stop_gradient(codebook), codebook)
        return ops.take(codebook, ops.cast(integers, "int32") - lowest)

    def parameter_gradient(self, upstream, parameter, scale):
        return upstream

    def parameter_of(self, integers, scale):
        """Return the level of each integer."""
        codebook = ops.convert_to_numpy(self.codebook)
        return codebook[integers - self.levels.lowest].astype(scale.dtype) * scale
