"""QNN's weights: powers of two (Hubara et al. 2016, arXiv 1609.07061)."""

import keras
import numpy as np
from keras import ops

from lqs.methods.codebook import Codebook
from lqs.quantizer import NestedQuantization
from lqs.rules import Measured

SMALLEST = 2.0**-126


@keras.saving.register_keras_serializable("lqs")
class PowersOfTwo(Codebook):
    """Rounds the logarithm of the magnitude: products with such weights are shifts.

    With the highest integer `n = 2**(bits - 1) - 1`, and the sign of `P`, 1 for zero,

        k = clip(round(log2(abs(P) / s / n)) + n, 0, n)       the power's number, the largest is n
        P_q = k if P >= 0 else -1 - k                         -n - 1 to n
        P_r = sign(P) n 2**(k - n) s
        dL/dP = dL/dP_r

    This is the paper's `LogQuant`, the power of two that is nearest in the logarithm, clipped to a range; there is no
    level at zero. The paper's shift-based batch normalization and optimizer are not part of it.

    Example: the levels are 1, 1/2 and so on of the largest, 3.

    >>> rounding, parameter = PowersOfTwo(), np.array([3.0, -1.4, 0.0, -0.01, 2.0], "float32")
    >>> rounding.build((5,), (0,), rounding.levels_of(3))
    >>> np.asarray(rounding.codebook).tolist()
    [-3.0, -1.5, -0.75, -0.375, 0.375, 0.75, 1.5, 3.0]
    >>> np.asarray(rounding.integers(parameter, np.ones(1, "float32"))).tolist()
    [3.0, -3.0, 0.0, -1.0, 2.0]
    """

    is_trained = False

    def first_levels(self):
        highest = self.levels.highest
        powers = highest * 2.0 ** np.arange(-highest, 1)
        return np.concatenate([-powers[::-1], powers])

    def integers(self, parameter, scale):
        highest = self.levels.highest
        share = ops.maximum(ops.abs(parameter) / (scale * highest), SMALLEST)
        number = ops.clip(ops.round(ops.log2(share)) + highest, 0, highest)
        return ops.where(parameter >= 0, number, -1.0 - number)


def qnn(bits, **overrides):
    """Return the `NestedQuantization` of QNN's weights.

    In the paper the largest level is a constant, and batch normalization follows. Here it is the largest element, at
    every training step.

    Args:
        bits: of the sign and the number of the power, at most 8.
        overrides: other arguments of `NestedQuantization`.
    """
    return NestedQuantization(**{"rule": Measured("max"), "rounding": PowersOfTwo(), "bits": bits, **overrides})
