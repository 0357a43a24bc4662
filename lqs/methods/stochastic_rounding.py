"""Stochastic rounding (Gupta et al. 2015, arXiv 1502.02551)."""

import keras
from keras import ops

from lqs.methods.noise import NoisyRounding
from lqs.quantizer import NestedQuantization
from lqs.rounding import to_integers
from lqs.rules import Measured


@keras.saving.register_keras_serializable("lqs")
class StochasticRounding(NoisyRounding):
    """In training, up with the probability of the fraction; in evaluation, to nearest.

        P_q = floor(P / s + u), with u uniform from 0 to 1      so that the mean of P_q is P / s

    Args:
        seed: see `NoisyRounding`.
    """

    def integers(self, parameter, scale):
        return to_integers(parameter, scale, "nearest", self.levels)

    def training_integers(self, parameter, scale):
        integers = ops.floor(parameter / scale + self.uniform(parameter))
        return integers if self.levels is None else ops.clip(integers, *self.levels)


def stochastic(bits, **overrides):
    """Return the `NestedQuantization` with stochastic rounding and the scale of min-max quantization.

    Args:
        bits: width of the integers.
        overrides: other arguments of `NestedQuantization`.
    """
    return NestedQuantization(**{"rule": Measured("max"), "rounding": StochasticRounding(), "bits": bits, **overrides})
