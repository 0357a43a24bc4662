"""A penalty that makes weights binary (Tang, Hua and Wang 2017, AAAI)."""

import keras
from keras import ops

from lqs.methods.binary_connect import BinaryConnect
from lqs.penalties import Penalty
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen


@keras.saving.register_keras_serializable("lqs")
class BinaryPenalty(Penalty):
    """Penalizes the distance from plus or minus the scale.

    The term is the mean of `1 - (P / s)**2` within the scale and of 0 beyond it. The scale is given: no gradient.

    Example:

    >>> import numpy as np
    >>> float(BinaryPenalty(1.0).term(np.array([1.0, -2.0, 5.0, 0.0], "float32"), np.full(1, 2.0, "float32")))
    0.4375
    """

    def term(self, parameter, scale):
        return ops.mean(ops.relu(1.0 - ops.square(parameter / ops.stop_gradient(scale))))


def tang(rate, **overrides):
    """Return the `NestedQuantization` of the paper, whose network is trained with binary weights here.

    Args:
        rate: weight of the penalty.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "penalty": BinaryPenalty(rate), "rounding": BinaryConnect(), "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})
