"""AQE, gradients of a smooth staircase in the place of rounding (Chen et al. 2020, arXiv 2003.04296)."""

import math

import keras
from keras import ops

from lqs.quantizer import NestedQuantization
from lqs.rounding import Rounding, to_integers
from lqs.rules import Measured
from lqs.strengths import validate_strength


@keras.saving.register_keras_serializable("lqs")
class AsymptoticEstimator(Rounding):
    """Rounds to nearest; the gradient is that of a staircase that is smooth.

    With `v = P / s`, the sharpness `a` and the distance `t = v - floor(v) - 1/2` from the middle between two integers,

        P_q = round(v)
        f(v) = floor(v) + 1/2 + tanh(a t) / (2 tanh(a / 2))             from integer to integer, where f(v) = v
        dL/dP = dL/dP_r f'(v) = dL/dP_r a (1 - tanh(a t)**2) / (2 tanh(a / 2))

    and 0 where clipped. For `a = 0` this is the straight-through estimator; for large `a` the staircase is rounding.
    Elements midway between two integers have the largest gradient.

    The paper's estimator is a smooth function, too, which becomes the quantizer as training goes on. We had its
    abstract alone: `tanh`, a constant sharpness and exact rounding forwards are our reading.

    Args:
        sharpness: `a`.

    Raises:
        ValueError: if the sharpness is not a finite number >= 0.

    Example: on an integer, and midway between two.

    >>> import numpy as np
    >>> rounding, one = AsymptoticEstimator(4.0), np.ones(2, "float32")
    >>> rounding.build((2,), (0,), None)
    >>> [f"{slope:.3f}" for slope in np.asarray(rounding.parameter_gradient(one, np.array([1.0, 1.5], "float32"), one))]
    ['0.147', '2.075']
    """

    def __init__(self, sharpness=4.0, **kwargs):
        super().__init__(**kwargs)
        self.sharpness = validate_strength("sharpness", sharpness)

    def integers(self, parameter, scale):
        return to_integers(parameter, scale, "nearest", self.levels)

    def parameter_gradient(self, upstream, parameter, scale):
        gradient = super().parameter_gradient(upstream, parameter, scale)
        if not self.sharpness:
            return gradient
        ratio = parameter / scale
        steepness = ops.tanh(self.sharpness * (ratio - ops.floor(ratio) - 0.5))
        return gradient * (1.0 - ops.square(steepness)) * (0.5 * self.sharpness / math.tanh(0.5 * self.sharpness))

    def get_config(self):
        return {**super().get_config(), "sharpness": self.sharpness}


def aqe(bits, sharpness=4.0, **overrides):
    """Return the `NestedQuantization` of AQE, with the scale of min-max quantization.

    Args:
        bits: width of the integers.
        sharpness: of the staircase.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Measured("max"), "rounding": AsymptoticEstimator(sharpness), "bits": bits}
    return NestedQuantization(**{**settings, **overrides})
