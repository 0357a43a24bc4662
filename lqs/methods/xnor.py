"""XNOR-Net's weights: the sign, times the mean magnitude (Rastegari et al. 2016, arXiv 1603.05279)."""

import math

import keras
from keras import ops

from lqs.methods.signs import Signs
from lqs.quantizer import NestedQuantization
from lqs.rules import Measured


@keras.saving.register_keras_serializable("lqs")
class XnorNet(Signs):
    """The sign, with the paper's gradient.

    With `n` elements that share the scale `s = mean(abs(P))`,

        dL/dP = dL/dP_r (1 / n + s 1[abs(P) <= 1])
    """

    def parameter_gradient(self, upstream, parameter, scale):
        num_sharing = math.prod(self.shape[axis] for axis in self.axes)
        is_inside = ops.cast(ops.abs(parameter) <= 1, parameter.dtype)
        return upstream * (1 / num_sharing + scale * is_inside)


def xnor(**overrides):
    """Return the `NestedQuantization` of XNOR-Net; the paper has one scale for each filter: `granularity="filter"`."""
    return NestedQuantization(**{"rule": Measured("mean"), "rounding": XnorNet(), **overrides})
