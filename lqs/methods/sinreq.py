"""SinReQ: a sinusoidal penalty on what is not a multiple of the scale (Elthakeb et al. 2019, arXiv 1905.01416)."""

import math

import keras
from keras import ops

from lqs.penalties import Penalty
from lqs.quantizer import NestedQuantization
from lqs.rules import Measured


@keras.saving.register_keras_serializable("lqs")
class SinReQPenalty(Penalty):
    """Penalizes the distance from the grid of the scale.

    The term is `mean(sin(pi P / s)**2)`, from 0 on the grid to 1 midway. The grid is given: the scale has no gradient.

    Example: on the grid, and a quarter of a step beside it.

    >>> import numpy as np
    >>> penalty = SinReQPenalty(1.0)
    >>> f"{float(penalty.term(np.array([3.0, 0.25], 'float32'), np.ones(1, 'float32'))):.3f}"
    '0.250'
    """

    def term(self, parameter, scale):
        return ops.mean(ops.square(ops.sin(parameter / ops.stop_gradient(scale) * math.pi)))


def sinreq(bits, rate, **overrides):
    """Return the `NestedQuantization` of SinReQ, with the scale of min-max quantization.

    Args:
        bits: width of the integers.
        rate: weight of the penalty.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Measured("max"), "penalty": SinReQPenalty(rate), "rounding": "nearest", "bits": bits}
    return NestedQuantization(**{**settings, **overrides})
