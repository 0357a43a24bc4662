"""SQ, stochastic quantization: in training, some channels at a time, by their error (Dong et al. 2019, IJCV)."""

import keras
from keras import ops

from lqs.methods.noise import NoisyRounding
from lqs.methods.twn import TernaryWeights
from lqs.quantizer import NestedQuantization
from lqs.rules import Measured
from lqs.scales import FLOAT32_EPSILON
from lqs.strengths import add_strength, strength_value, validate_strength


@keras.saving.register_keras_serializable("lqs")
class StochasticQuantization(NoisyRounding):
    """Makes some channels ternary, drawn anew at each step; in evaluation, all of them.

    With the ternary weights of TWN, and for each channel `c`, the last axis,

        e_c = sum(abs(P_c - P_q s)) / sum(abs(P_c))         the error
        p_c proportional to 1 / e_c

    a share of the channels is drawn without replacement by the probabilities `p_c` (here at once: the largest
    `log p_c + g_c`, with `g_c` of the Gumbel distribution). The others keep their value, and all have the gradient of
    `P_r`. The paper raises the share from 1/2 by 3/4 and 7/8 to 1 as training goes on; `probability` is a weight, which
    a callback can assign. Biases are one channel.

    Args:
        probability: share of the channels that are quantized. Kept as the non-trainable weight `probability`.
        seed: see `NoisyRounding`.

    Raises:
        ValueError: if the probability is not a number from 0 to 1.
    """

    clips = False

    def __init__(self, probability=0.5, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.probability = add_strength(self, "probability", validate_strength("probability", probability, 1))

    levels_of = TernaryWeights.levels_of
    integers = TernaryWeights.integers
    parameter_gradient = TernaryWeights.parameter_gradient

    def training_integers(self, parameter, scale):
        integers, numbers = self.integers(parameter, scale), parameter / scale
        axes = tuple(range(max(1, len(self.shape) - 1)))
        size = ops.maximum(ops.sum(ops.abs(numbers), axis=axes, keepdims=True), FLOAT32_EPSILON)
        error = ops.sum(ops.abs(numbers - integers), axis=axes, keepdims=True) / size
        uniform = self.uniform(error) * (1 - 2 * FLOAT32_EPSILON) + FLOAT32_EPSILON
        keys = -ops.log(ops.maximum(error, FLOAT32_EPSILON)) - ops.log(-ops.log(uniform))
        ordered = ops.sort(ops.ravel(keys))
        number = ops.cast(ops.ceil(ops.cast(self.probability, keys.dtype) * ordered.shape[0]), "int32")
        least = ops.take(ordered, ops.minimum(ordered.shape[0] - number, ordered.shape[0] - 1))
        is_quantized = (keys >= least) & (number > 0)
        return ops.where(is_quantized, integers, numbers)

    def get_config(self):
        return {**super().get_config(), "probability": strength_value(self.probability)}


def sq(probability=0.5, **overrides):
    """Return the `NestedQuantization` of SQ with ternary weights, whose scale is that of TWN.

    Args:
        probability: see `StochasticQuantization`.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Measured("ternary"), "rounding": StochasticQuantization(probability)}
    return NestedQuantization(**{**settings, **overrides})
