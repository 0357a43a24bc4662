"""DoReFa's weights: uniform levels of `tanh(P)` (Zhou et al. 2016, arXiv 1606.06160)."""

import keras
import numpy as np
from keras import ops

from lqs.parts import Levels
from lqs.quantizer import NestedQuantization
from lqs.rounding import Rounding, required_levels
from lqs.rules import Frozen
from lqs.scales import FLOAT32_EPSILON


@keras.saving.register_keras_serializable("lqs")
class DoReFa(Rounding):
    """Rounds `tanh(P)` to evenly spaced levels.

    With `n = 2**bits - 1` and the maximum `m` of `abs(tanh(P))` over the elements that share a scale,

        P_q = 2 round(n (tanh(P) / (2 m) + 1 / 2)) - n      odd integers from -n to n
        dL/dP = dL/dP_r s n (1 - tanh(P)**2) / m            with m as a constant
    """

    clips = False  # the largest element has the highest level at any scale

    def levels_of(self, bits):
        required_levels(self, bits)
        return Levels(1 - 2**bits, 2**bits - 1)

    def integers(self, parameter, scale):
        squashed, highest = ops.tanh(parameter), self.levels.highest
        share = squashed / (2.0 * self._largest(squashed)) + 0.5
        return 2.0 * ops.round(share * highest) - highest

    def parameter_gradient(self, upstream, parameter, scale):
        squashed = ops.tanh(parameter)
        slope = (1.0 - ops.square(squashed)) / self._largest(squashed)
        return upstream * (slope * (scale * self.levels.highest))

    def parameter_of(self, integers, scale):
        return np.arctanh(integers / (2 * self.levels.highest)).astype(scale.dtype)  # any maximum: here tanh is 1/2

    def _largest(self, squashed):
        return ops.maximum(ops.max(ops.abs(squashed), axis=self.axes, keepdims=True), FLOAT32_EPSILON)


def dorefa(bits, **overrides):
    """Return the `NestedQuantization` of DoReFa.

    In the paper `P_r` reaches from -1 to 1, hence `s = 1 / n`, and batch normalization follows. For networks without,
    the range is that of the initial values here.

    Args:
        bits: width of the integers.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "rounding": DoReFa(), "bits": bits, "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})
