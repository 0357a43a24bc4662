"""TTQ, trained ternary quantization (Zhu et al. 2017, arXiv 1612.01064)."""

import keras
from keras import ops

from lqs.methods.codebook import Codebook
from lqs.quantizer import NestedQuantization
from lqs.rounding import levels_of_signs, with_gradient
from lqs.rules import Frozen

TERNARY_SHARE = 0.05


@keras.saving.register_keras_serializable("lqs")
class TrainedTernary(Codebook):
    """A trained level for each sign.

    With the threshold `t = 0.05 max(abs(P))` over the elements that share a scale, the levels are `-W_n`, 0 and `W_p`:

        P_q = sign(P) 1[abs(P) > t]
        dL/dP = dL/dP_r (W_p if P > t, W_n if P < -t, else 1)
        dL/dW_p = s sum(dL/dP_r where P > t)
        dL/dW_n = -s sum(dL/dP_r where P < -t)

    The levels start from the mean magnitudes.

    Example: the threshold is 0.2.

    >>> import numpy as np
    >>> rounding, parameter, one = TrainedTernary(), np.array([4.0, 0.1, -1.0, 3.0], "float32"), np.ones(1, "float32")
    >>> rounding.build((4,), (0,), rounding.levels_of(None))
    >>> rounding.initialize(parameter, one)
    >>> np.asarray(rounding.integers(parameter, one)).tolist()
    [1.0, 0.0, -1.0, 1.0]
    >>> np.asarray(rounding.codebook).tolist()
    [-1.0, 0.0, 3.5]
    """

    is_zero_fixed = True

    def levels_of(self, bits):
        return levels_of_signs(self, bits)

    def initialize(self, parameter, scale):
        numbers, integers = parameter / scale, self.integers(parameter, scale)
        means = [_mean_where(numbers, integers == sign) for sign in (-1, 1)]
        self.codebook.assign(ops.stack([means[0], ops.zeros_like(means[0]), means[1]]))

    def integers(self, parameter, scale):
        magnitude = ops.abs(parameter)
        threshold = TERNARY_SHARE * ops.max(magnitude, axis=self.axes, keepdims=True)
        return ops.sign(parameter) * ops.cast(magnitude > threshold, parameter.dtype)

    def values(self, integers, parameter, scale):
        values = super().values(integers, parameter, scale)
        magnitude = ops.where(integers == 0, ops.ones_like(values), integers * values)
        return with_gradient(values, ops.stop_gradient(magnitude) / scale * parameter)

    def parameter_gradient(self, upstream, parameter, scale):
        return ops.zeros_like(upstream)  # it is that of `values`

    def parameter_of(self, integers, scale):
        return integers.astype(scale.dtype) * scale


def ttq(**overrides):
    """Return the `NestedQuantization` of TTQ; the paper divides each parameter by its maximum first, as here."""
    settings = {"rule": Frozen(), "rounding": TrainedTernary(), "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})


def _mean_where(numbers, mask):
    mask = ops.cast(mask, numbers.dtype)
    return ops.sum(numbers * mask) / ops.maximum(ops.sum(mask), 1)
