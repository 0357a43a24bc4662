"""DeepHoyer: a measure of sparsity that does not depend on size (Yang, Wen and Li 2020, arXiv 1908.09979)."""

import math

import keras
from keras import ops

from lqs.penalties import Penalty
from lqs.quantizer import NestedQuantization
from lqs.rules import Measured

SMALLEST_SQUARES = 1e-12  # so that the term of zeros and its gradient are 0; float32 holds the square


@keras.saving.register_keras_serializable("lqs")
class HoyerPenalty(Penalty):
    """The Hoyer-square measure: penalizes elements that are not zero.

    The term is `sum(abs(P))**2 / sum(P**2) / N`, from `1 / N` with one element to 1 with equal ones, whatever their
    size. The paper then prunes by a threshold; here that is the bin of zero.

    Example:

    >>> import numpy as np
    >>> float(HoyerPenalty(1.0).term(np.array([1.0, -1.0, 0.0, 0.0], "float32"), None))
    0.5
    """

    def term(self, parameter, scale):
        magnitude = parameter * ops.sign(parameter)  # of gradient 0 at 0, on every backend
        squares = ops.maximum(ops.sum(ops.square(parameter)), SMALLEST_SQUARES)
        return ops.square(ops.mean(magnitude)) / squares * math.prod(parameter.shape)


def deep_hoyer(bits, rate, **overrides):
    """Return the `NestedQuantization` of DeepHoyer, with the scale of min-max quantization.

    Args:
        bits: width of the integers.
        rate: weight of the penalty.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Measured("max"), "penalty": HoyerPenalty(rate), "rounding": "nearest", "bits": bits}
    return NestedQuantization(**{**settings, **overrides})
