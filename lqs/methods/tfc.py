"""Entropy-penalized weights, as the tutorial of TensorFlow Compression has them (2022, after Oktay et al. 2020)."""

import keras
from keras import ops

from lqs.penalties import Penalty
from lqs.quantizer import NestedQuantization
from lqs.rules import StraightThrough
from lqs.strengths import validate_strength

ALPHA = 0.01


@keras.saving.register_keras_serializable("lqs")
class PowerLawPenalty(Penalty):
    """Penalizes about the length of the integers' Elias gamma codes, those of zeros least.

    The term is the mean of `ln((abs(P) / s + alpha) / alpha)`: 0 for zeros, and steep beside them if `alpha` is small.
    The tutorial takes it of the rounded integers, straight through; here it is of the quotients, as in all penalties.

    Args:
        rate: see `Penalty`.
        alpha: where the logarithm begins; positive.

    Raises:
        ValueError: if an argument is not as above.

    Example: a zero and a one.

    >>> import numpy as np
    >>> term = PowerLawPenalty(1.0).term(np.array([0.0, 1.0], "float32"), np.ones(1, "float32"))
    >>> f"{float(term):.3f}"
    '2.308'
    """

    def __init__(self, rate, alpha=ALPHA, **kwargs):
        super().__init__(rate, **kwargs)
        self.alpha = validate_strength("alpha", alpha)
        if self.alpha == 0.0:
            raise ValueError(f"Argument `alpha` must be positive. Received: alpha={alpha!r}")

    def term(self, parameter, scale):
        magnitude = parameter * ops.sign(parameter)  # of gradient 0 at 0, on every backend
        return ops.mean(ops.log1p(magnitude / scale / self.alpha))

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha}


def tfc(rate, **overrides):
    """Return the `NestedQuantization` of the tutorial: a step learned as a logarithm, and the power-law penalty.

    Args:
        rate: weight of the penalty.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": StraightThrough(), "penalty": PowerLawPenalty(rate), "rounding": "nearest"}
    return NestedQuantization(**{**settings, "parametrization": "log", "initial_scale": "spread", **overrides})
