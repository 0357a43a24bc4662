"""RDO-Q: bit widths by rate and distortion (Wang et al. 2022, ECCV)."""

import keras
from keras import ops

from lqs.parts import refuse_levels
from lqs.quantizer import NestedQuantization
from lqs.rounding import to_integers
from lqs.rules import Rule
from lqs.scales import FLOAT32_EPSILON
from lqs.strengths import add_strength, strength_value, validate_strength

WIDTHS = (0, 2, 3, 4, 5, 6, 7, 8)  # with 0 bits, all are 0


@keras.saving.register_keras_serializable("lqs")
class RateDistortion(Rule):
    """Chooses a bit width for each scale, at every training step: the one of least distortion and rate together.

    With `m` the maximum of `abs(P)` over the elements that share a scale, `b` bits stand for the scale
    `s_b = m / (2**(b - 1) - 1)`, 0 bits for `4 m`, with which all are rounded to 0. Then

        s = s_b of the least D_b + rate b,        b in 0, 2, 3, ..., 8
        D_b = mean((P - s_b round(P / s_b))**2) / mean(P**2)

    where the mean in the numerator is over the elements that share a scale, that in the denominator over all of the
    parameter: of two channels, the one with the larger elements has more bits.

    This is our reading. The paper chooses once, after training, for activations too, and measures the distortion at
    the network's output; it finds, as is used here, that the distortions of channels add up, so that with a Lagrangian
    each channel chooses alone. A parameter does not see the output, hence the error of the parameter itself.

    Args:
        rate: what a bit costs. Kept as the non-trainable weight `rate`.

    Raises:
        ValueError: if the rate is negative, not finite, or not a number.

    Example: the second row is small beside the first.

    >>> import numpy as np
    >>> rule, parameter = RateDistortion(0.01), np.array([[8.0, 4.0, 1.0], [0.1, 0.1, 0.05]], "float32")
    >>> rule.build((2, 3), (1,), None)
    >>> np.asarray(8 / rule.measured_scale(parameter)).round(1).tolist()
    [[7.0], [20.0]]
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = add_strength(self, "rate", validate_strength("rate", rate))

    def validate_levels(self, levels):
        refuse_levels(self, levels)

    def measured_scale(self, parameter):
        largest = ops.max(ops.abs(parameter), axis=self.axes, keepdims=True)
        power = ops.maximum(ops.mean(ops.square(parameter)), FLOAT32_EPSILON**2)
        best, least = None, None
        for bits in WIDTHS:
            scale = ops.maximum(largest / (2 ** (bits - 1) - 1) if bits else 4 * largest, FLOAT32_EPSILON)
            error = parameter - scale * to_integers(parameter, scale, "nearest")
            distortion = ops.mean(ops.square(error), axis=self.axes, keepdims=True) / power
            cost = distortion + ops.cast(self.rate, parameter.dtype) * bits
            is_less = True if best is None else cost < least
            best = scale if best is None else ops.where(is_less, scale, best)
            least = cost if least is None else ops.minimum(cost, least)
        return best

    def scale_gradient(self, upstream, parameter, integers, scale):
        return ops.zeros_like(scale)

    def get_config(self):
        return {**super().get_config(), "rate": strength_value(self.rate)}


def rdo_q(rate, **overrides):
    """Return the `NestedQuantization` of RDO-Q; the paper has one bit width for each channel: `granularity="output"`.

    Args:
        rate: what a bit costs.
        overrides: other arguments of `NestedQuantization`.
    """
    return NestedQuantization(**{"rule": RateDistortion(rate), "rounding": "nearest", **overrides})
