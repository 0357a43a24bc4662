"""MSQE: the mean square quantization error as a penalty (Choi, El-Khamy and Lee 2020, arXiv 1809.00095)."""

import keras
from keras import ops

from lqs.penalties import Penalty
from lqs.quantizer import NestedQuantization
from lqs.rounding import to_integers
from lqs.rules import Frozen


@keras.saving.register_keras_serializable("lqs")
class MSQEPenalty(Penalty):
    """Penalizes the mean square quantization error.

    The term is `mean((P - Q s)**2)` with the nearest integers `Q` among the levels, which count as constants:

        d/dP = 2 (P - Q s) / N
        d/ds = -2 sum((P - Q s) Q) / N

    It needs `bits`: among all integers, the error is least at `s = 0`. The paper also learns the rate.

    Example: the integers are 1 and, clipped, 1.

    >>> import numpy as np
    >>> penalty = MSQEPenalty(1.0)
    >>> penalty.build((2,), (0,), (-2, 1))
    >>> float(penalty.term(np.array([1.0, 3.0], "float32"), np.ones(1, "float32")))
    2.0
    """

    def validate_levels(self, levels):
        if levels is None:
            raise ValueError("Argument `bits` must be given, for an `MSQEPenalty`. Received: bits=None")

    def term(self, parameter, scale):
        integers = ops.stop_gradient(to_integers(parameter, scale, "nearest", self.levels))
        return ops.mean(ops.square(parameter - integers * scale))


def msqe(bits, rate, **overrides):
    """Return the `NestedQuantization` of MSQE, which starts from LSQ's scale.

    Args:
        bits: width of the integers.
        rate: weight of the penalty.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {
        "penalty": MSQEPenalty(rate),
        "rounding": "nearest",
        "bits": bits,
        "initial_scale": "lsq",
        "parametrization": "linear",
    }
    return NestedQuantization(**{"rule": Frozen(), **settings, **overrides})
