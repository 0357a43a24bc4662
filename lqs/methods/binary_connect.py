"""BinaryConnect: the sign, of parameters that stay within the scale (Courbariaux et al. 2015, arXiv 1511.00363)."""

import keras
from keras import ops

from lqs.methods.signs import Signs
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen


@keras.saving.register_keras_serializable("lqs")
class BinaryConnect(Signs):
    """The sign, whose gradient reaches parameters that do not move further beyond the scale.

    The paper applies the gradient of `P_r` to `P` and then clips `P`. Here gradients that lead an element further
    beyond the scale are left out, which has the same effect: a layer does not own its parameter.
    """

    def parameter_gradient(self, upstream, parameter, scale):
        is_beyond = ops.abs(parameter) >= scale
        leads_out = upstream * parameter < 0  # a step is against the gradient
        return ops.where(is_beyond & leads_out, ops.zeros_like(upstream), upstream)


def binary_connect(**overrides):
    """Return the `NestedQuantization` of BinaryConnect.

    The scale is fixed. In the paper it is 1, and batch normalization follows; here it is the largest initial element.
    """
    settings = {"rule": Frozen(), "rounding": BinaryConnect(), "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})
