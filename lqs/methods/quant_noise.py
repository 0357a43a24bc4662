"""Quant-Noise: in training, only some elements are rounded at each step (Fan et al. 2021, arXiv 2004.07320)."""

import keras
from keras import ops

from lqs.methods.noise import NoisyRounding
from lqs.quantizer import NestedQuantization
from lqs.rounding import to_integers
from lqs.rules import Measured
from lqs.strengths import add_strength, strength_value, validate_strength


@keras.saving.register_keras_serializable("lqs")
class QuantNoise(NoisyRounding):
    """Rounds a part of the elements, drawn anew at each step; in evaluation, all of them to nearest.

    The others keep their value, and all have the gradient of `P_r`.

    Args:
        probability: share of the elements that are rounded; at 1, training is that of rounding to nearest. Kept as the
            non-trainable weight `probability`.
        seed: see `NoisyRounding`.

    Raises:
        ValueError: if the probability is not a number from 0 to 1.
    """

    def __init__(self, probability=0.5, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.probability = add_strength(self, "probability", validate_strength("probability", probability, 1))

    def integers(self, parameter, scale):
        return to_integers(parameter, scale, "nearest", self.levels)

    def training_integers(self, parameter, scale):
        is_rounded = self.uniform(parameter) < ops.cast(self.probability, parameter.dtype)
        return ops.where(is_rounded, self.integers(parameter, scale), parameter / scale)

    def parameter_gradient(self, upstream, parameter, scale):
        return upstream

    def get_config(self):
        return {**super().get_config(), "probability": strength_value(self.probability)}


def quant_noise(bits, probability=0.5, **overrides):
    """Return the `NestedQuantization` of Quant-Noise, with the scale of min-max quantization.

    Args:
        bits: width of the integers.
        probability: see `QuantNoise`.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Measured("max"), "rounding": QuantNoise(probability), "bits": bits}
    return NestedQuantization(**{**settings, **overrides})
