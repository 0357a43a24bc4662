"""Differentiable quantization: levels that learn (Polino, Pascanu and Alistarh 2018, arXiv 1802.05668)."""

import keras
import numpy as np
from keras import ops

from lqs.methods.codebook import Codebook, nearest
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen


@keras.saving.register_keras_serializable("lqs")
class LearnedLevels(Codebook):
    """The nearest of levels that have gradients of their own.

        P_q = index of the level nearest to P / s, less 2**(bits - 1)
        dL/dlevel_k = s sum(dL/dP_r where P_q = k)
        dL/dP = dL/dP_r

    The levels start evenly spaced, from the smallest to the largest initial element. The paper trains them alone, with
    the weights of a trained network fixed; here the weights are trained along.

    Example: after a step, levels need not be evenly spaced.

    >>> rounding, one = LearnedLevels(), np.ones(1, "float32")
    >>> rounding.build((3,), (0,), rounding.levels_of(2))
    >>> rounding.initialize(np.array([-1.0, 2.0, 0.4], "float32"), one)
    >>> np.asarray(rounding.codebook).tolist()
    [-1.0, 0.0, 1.0, 2.0]
    >>> np.asarray(rounding.integers(np.array([-9.0, 0.4, 0.6], "float32"), one)).tolist()
    [-2.0, -1.0, 0.0]
    """

    def initialize(self, parameter, scale):
        numbers = parameter / scale
        lowest, highest = ops.min(numbers), ops.max(numbers)
        places = ops.cast(np.linspace(0, 1, self.levels.highest + 1 - self.levels.lowest), numbers.dtype)
        self.codebook.assign(lowest + places * (highest - lowest))

    def integers(self, parameter, scale):
        codebook = ops.cast(self.codebook, parameter.dtype)
        return ops.cast(nearest(parameter / scale, codebook) + self.levels.lowest, parameter.dtype)


def polino(bits, **overrides):
    """Return the `NestedQuantization` of differentiable quantization.

    Half of the paper is the loss: the student also learns from the answers of the float network. That is up to the
    training, not to the layer. The other half, quantized distillation, is `min_max` with such a loss.

    Args:
        bits: there are `2**bits` levels.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "rounding": LearnedLevels(), "bits": bits, "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})
