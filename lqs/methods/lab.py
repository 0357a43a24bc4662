"""LAB, loss-aware binarization (Hou, Yao and Kwok 2017, arXiv 1611.01600)."""

import keras
from keras import ops

from lqs.methods.signs import Signs
from lqs.quantizer import NestedQuantization
from lqs.rules import Rule

EPSILON = 1e-8  # of the curvature, where a gradient is 0


@keras.saving.register_keras_serializable("lqs")
class LossAwareScale(Rule):
    """Moves the scale to the mean magnitude of the parameter, in which elements count by the curvature of the loss.

    The paper minimizes the loss over signs and a scale by proximal Newton steps with a diagonal Hessian `d`, whose
    solution is

        s = sum(d abs(P)) / sum(d)        P_q = sign(P)

    It takes `d = eps + sqrt(v)`, with the second moments `v` of the gradient that Adam keeps. A layer does not see the
    optimizer, and moments of its own would take four bytes of the file for each element. Here
    `d = eps + abs(dL/dP_r)` is that of the batch, and the optimizer averages over the steps:

        dL/ds = s - sum(d abs(P)) / sum(d)

    Example: the first element alone has a gradient.

    >>> import numpy as np
    >>> rule, one = LossAwareScale(), np.ones(1, "float32")
    >>> upstream, parameter = np.array([0.5, 0.0], "float32"), np.array([3.0, -1.0], "float32")
    >>> rule.build((2,), (0,), None)
    >>> np.asarray(rule.scale_gradient(upstream, parameter, None, one)).tolist()
    [-2.0]
    """

    def scale_gradient(self, upstream, parameter, integers, scale):
        curvature = ops.abs(upstream) + EPSILON
        total = ops.sum(curvature * ops.abs(parameter), axis=self.axes, keepdims=True)
        return scale - total / ops.sum(curvature, axis=self.axes, keepdims=True)


@keras.saving.register_keras_serializable("lqs")
class LossAwareSigns(Signs):
    """The sign; the gradient of `P_r` is applied to `P`. The paper then clips `P` to -1 to 1."""

    def parameter_gradient(self, upstream, parameter, scale):
        return upstream


def lab(**overrides):
    """Return the `NestedQuantization` of LAB, which begins with the plain mean magnitude, as for equal curvature."""
    settings = {"rule": LossAwareScale(), "rounding": LossAwareSigns(), "initial_scale": "mean"}
    return NestedQuantization(**{**settings, **overrides})
