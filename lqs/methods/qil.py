"""QIL, quantization interval learning (Jung et al. 2019, arXiv 1808.05779)."""

import keras
import numpy as np
from keras import ops

from lqs.parts import Levels
from lqs.quantizer import NestedQuantization
from lqs.rounding import Rounding, required_levels, with_gradient
from lqs.rules import Frozen
from lqs.scales import MinValue

MIN_HALF_WIDTH = 1e-3


@keras.saving.register_keras_serializable("lqs")
class QIL(Rounding):
    """Rounds within an interval of magnitudes that is learned.

    With the highest integer `n = 2**(bits - 1) - 1`, the magnitude `x = abs(P) / (s n)`, and for each scale a centre
    `c` and a half width `d` of the interval,

        u = clip(0.5 (x - c) / d + 0.5, 0, 1)       0 is pruned, 1 clipped
        P_q = round(n u) sign(P)                    -n to n

    and, within the interval and 0 outside,

        dL/dP = dL/dP_r 0.5 / d
        dL/dc = -sum(dL/dP_r sign(P) s n 0.5 / d)
        dL/dd = -sum(dL/dP_r sign(P) s n 0.5 (x - c) / d**2)

    This is the paper's transformation with its exponent at 1.

    Example: `x` is 1/8, 1/2 and 1; the interval reaches from 1/4 to 3/4.

    >>> rounding = QIL()
    >>> rounding.build((3,), (0,), rounding.levels_of(3))
    >>> _ = rounding.half_width.assign([0.25])
    >>> parameter, one = np.array([0.375, -1.5, 3.0], "float32"), np.ones(1, "float32")
    >>> np.asarray(rounding.integers(parameter, one)).tolist()
    [0.0, -2.0, 3.0]
    """

    def levels_of(self, bits):
        highest = required_levels(self, bits).highest
        return Levels(-highest, highest)

    def build(self, shape, axes, levels):
        super().build(shape, axes, levels)
        scale_shape = tuple(1 if axis in self.axes else size for axis, size in enumerate(self.shape))
        half, constraint = keras.initializers.Constant(0.5), MinValue(MIN_HALF_WIDTH)
        self.center = self.add_weight(name="center", shape=scale_shape, initializer=half)
        self.half_width = self.add_weight(name="half_width", shape=scale_shape, initializer=half, constraint=constraint)

    def integers(self, parameter, scale):
        return ops.round(self._transformed(parameter, scale))

    def values(self, integers, parameter, scale):
        return with_gradient(integers, self._transformed(parameter, scale))

    def parameter_gradient(self, upstream, parameter, scale):
        return ops.zeros_like(upstream)  # it is that of `values`

    def parameter_of(self, integers, scale):
        """Return the middle of the part of each bin that magnitudes reach: that of an integer but 0 may begin at 0."""
        center, half_width = (np.asarray(weight, scale.dtype) for weight in (self.center, self.half_width))
        highest_level = self.levels.highest
        with np.errstate(all="ignore"):
            magnitude, half_bin = np.abs(integers) / highest_level, 0.5 / highest_level
            highest, lowest = (center + half_width * (2 * (magnitude + k * half_bin) - 1) for k in (1, -1))
            middle = 0.5 * (highest + np.maximum(lowest, 0))
            return (np.sign(integers) * middle * highest_level * scale).astype(scale.dtype)

    def _transformed(self, parameter, scale):
        """Return `n u sign(P)`, not rounded yet."""
        center, half_width = (ops.cast(weight, parameter.dtype) for weight in (self.center, self.half_width))
        sign, highest = ops.sign(parameter), self.levels.highest
        magnitude = sign * parameter / (scale * highest)
        position = 0.5 * (magnitude - center) / half_width + 0.5
        return sign * (ops.clip(position, 0, 1) * highest)


def qil(bits, **overrides):
    """Return the `NestedQuantization` of QIL.

    In the paper `P_r` reaches from -1 to 1, hence `s = 1 / n`, and batch normalization follows. For networks without,
    the range is that of the initial values here.

    Args:
        bits: width of the integers.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "rounding": QIL(), "bits": bits, "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})
