"""Stochastic ternary weights (Ott et al. 2016, arXiv 1608.06902), which that paper gives to recurrent networks."""

import keras

from lqs.methods.binary_connect import BinaryConnect
from lqs.methods.stochastic_rounding import StochasticRounding
from lqs.quantizer import NestedQuantization
from lqs.rounding import levels_of_signs
from lqs.rules import Frozen


@keras.saving.register_keras_serializable("lqs")
class StochasticTernary(StochasticRounding):
    """In training, the sign with the probability of the magnitude, else 0; in evaluation, the nearest of -1, 0 and 1.

        P_q = sign(P) with probability min(abs(P) / s, 1), else 0

    This is stochastic rounding between three levels. The paper clips `P` to the scale after each step; here gradients
    that lead an element further beyond are left out, as in `BinaryConnect`.
    """

    def levels_of(self, bits):
        return levels_of_signs(self, bits)

    parameter_gradient = BinaryConnect.parameter_gradient


def ott(**overrides):
    """Return the `NestedQuantization` of Ott et al., with a fixed scale: the largest initial element.

    Those of Glorot's uniform initializer reach from minus to plus its limit. That the paper divides by this limit is
    our reading of it.
    """
    settings = {"rule": Frozen(), "rounding": StochasticTernary(), "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})
