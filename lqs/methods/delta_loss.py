"""Channel-wise widths by the change of the loss (Okado et al. 2022, ICMLSC)."""

import keras
from keras import ops

from lqs.parts import refuse_levels
from lqs.quantizer import NestedQuantization
from lqs.rounding import to_integers
from lqs.rules import Rule
from lqs.strengths import add_strength, strength_value, validate_strength


@keras.saving.register_keras_serializable("lqs")
class DeltaLoss(Rule):
    """Makes the scale of a channel coarser as long as the loss hardly changes by it, and finer if it does.

    By the first order of the loss, rounding with the scale `s` changes it by at most

        d(s) = sum(abs(dL/dP_r (P - s round(P / s))))       over the elements that share a scale

    and a bit less means twice the scale. The gradient has the size of the scale,

        dL/ds = s     if d(s) > t                           too coarse: the scale shrinks
                -s    if d(2 s) <= t                        a bit could be spared: it grows
                0     otherwise, and where all integers are 0 already and nothing is left to spare

    The paper chooses the bit width of each channel of a trained network by the change of the loss that it causes. We
    had no more than its abstract: the first order, the bound, and widths that follow during training are our reading.

    Args:
        threshold: `t`, what a channel may change the loss by. Kept as the non-trainable weight `threshold`.

    Raises:
        ValueError: if the threshold is negative, not finite, or not a number.

    Example: at the scale 1 the loss changes by 0.25, at the scale 2 by 0.75.

    >>> import numpy as np
    >>> parameter, one = np.array([0.75, 3.0], "float32"), np.ones(1, "float32")
    >>> for threshold in (0.2, 0.5, 2.0):
    ...     rule = DeltaLoss(threshold)
    ...     rule.build((2,), (0,), None)
    ...     np.asarray(rule.scale_gradient(np.array([1.0, 0.0], "float32"), parameter, None, one)).tolist()
    [1.0]
    [0.0]
    [-1.0]
    """

    def __init__(self, threshold, **kwargs):
        super().__init__(**kwargs)
        self.threshold = add_strength(self, "threshold", validate_strength("threshold", threshold))

    def validate_levels(self, levels):
        refuse_levels(self, levels)

    def scale_gradient(self, upstream, parameter, integers, scale):
        threshold = ops.cast(self.threshold, parameter.dtype)
        now, coarser = (self._change(upstream, parameter, scale * factor) for factor in (1.0, 2.0))
        largest = ops.max(ops.abs(parameter), axis=self.axes, keepdims=True)
        can_grow = ops.logical_and(coarser <= threshold, largest > scale / 2)
        direction = ops.where(now > threshold, 1.0, ops.where(can_grow, -1.0, 0.0))
        return ops.cast(direction, scale.dtype) * scale

    def _change(self, upstream, parameter, scale):
        error = parameter - scale * to_integers(parameter, scale, "nearest")
        return ops.sum(ops.abs(upstream * error), axis=self.axes, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "threshold": strength_value(self.threshold)}


def delta_loss(threshold, **overrides):
    """Return the `NestedQuantization` of the paper, which begins with a sixteenth of the spread.

    Args:
        threshold: what a channel may change the loss by.
        overrides: other arguments of `NestedQuantization`; the paper has channels, `granularity="output"`.
    """
    settings = {"rule": DeltaLoss(threshold), "rounding": "nearest", "initial_scale": "spread"}
    return NestedQuantization(**{**settings, **overrides})
