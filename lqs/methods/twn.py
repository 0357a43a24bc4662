"""TWN, ternary weight networks (Li, Zhang and Liu 2016, arXiv 1605.04711)."""

import keras
from keras import ops

from lqs.quantizer import NestedQuantization
from lqs.rounding import Rounding, levels_of_signs
from lqs.rules import Measured
from lqs.scales import is_large


@keras.saving.register_keras_serializable("lqs")
class TernaryWeights(Rounding):
    """The sign where `P` is large, else 0; the gradient of `P_r` is applied to `P`.

    Large is `abs(P) > 0.7 mean(abs(P))` over the elements that share a scale.
    """

    clips = False

    def levels_of(self, bits):
        return levels_of_signs(self, bits)

    def integers(self, parameter, scale):
        return ops.sign(parameter) * ops.cast(is_large(parameter, self.axes), parameter.dtype)

    def parameter_gradient(self, upstream, parameter, scale):
        return upstream


def twn(**overrides):
    """Return the `NestedQuantization` of TWN: the scale is the mean of the large elements at every training step."""
    return NestedQuantization(**{"rule": Measured("ternary"), "rounding": TernaryWeights(), **overrides})
