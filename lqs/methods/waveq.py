"""WaveQ: a sinusoidal penalty whose number of bits is learned (Elthakeb et al. 2020, arXiv 2003.00146)."""

import math

import keras
from keras import ops

from lqs.parts import refuse_levels
from lqs.penalties import Penalty
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen
from lqs.scales import FLOAT32_EPSILON, MinValue
from lqs.strengths import strength_value, validate_strength


@keras.saving.register_keras_serializable("lqs")
class WaveQPenalty(Penalty):
    """Penalizes the distance from a grid, and the number of bits that the grid has.

    With a trainable weight `beta`, the bits of a parameter's magnitudes, and `w = P / m` with the maximum `m` of
    `abs(P)` over the elements that share a scale, as a constant, the term is

        mean(sin(pi w (2**beta - 1))**2) / 2**beta + bits_rate beta

    with the gradients

        d/dw = pi (2**beta - 1) sin(2 pi w (2**beta - 1)) / 2**beta / N
        d/dbeta = log(2) mean(pi w sin(2 pi w (2**beta - 1)) - sin(pi w (2**beta - 1))**2 / 2**beta) + bits_rate

    It gives the scale as well, at every training step: `m / (2**ceil(beta) - 1)`, so that the integers have
    `ceil(beta)` bits and a sign. The task has no say in `beta`: if `w` is spread evenly over the waves, it moves to
    `log2(log(2) / (2 bits_rate))`; if `w` has snapped to the levels, it stays.

    What the paper has beyond: three phases, first the task alone, then rates that rise, at last fixed bits (`rate` is a
    weight, which a callback can assign); and weights times `ceil(beta) / beta`.

    Args:
        rate: see `Penalty`.
        bits_rate: weight of `beta` within the term.
        bits: initial value of `beta`, at least 1.

    Raises:
        ValueError: if an argument is not as above, or the layer has `bits`.

    Example: at 1 bit, half a step beside the grid; the largest element lies on it.

    >>> import numpy as np
    >>> penalty = WaveQPenalty(1.0, bits_rate=0.5, bits=1)
    >>> penalty.build((2,), (0,), None)
    >>> float(penalty.term(np.array([1.0, 0.5], "float32"), None))
    0.75
    """

    def __init__(self, rate, bits_rate=0.05, bits=8, **kwargs):
        super().__init__(rate, **kwargs)
        self.bits_rate = validate_strength("bits_rate", bits_rate)
        validate_strength("bits", bits)
        if bits < 1:
            raise ValueError(f"Argument `bits` must be at least 1. Received: bits={bits!r}")
        initializer, constraint = keras.initializers.Constant(bits), MinValue(1)
        self.bits = self.add_weight(
            name="bits", shape=(), initializer=initializer, dtype="float32", constraint=constraint
        )

    def validate_levels(self, levels):
        refuse_levels(self, levels)

    def measured_scale(self, parameter):
        highest = ops.power(2.0, ops.ceil(ops.cast(self.bits, parameter.dtype))) - 1.0
        return ops.stop_gradient(self._largest(parameter) / highest)

    def term(self, parameter, scale):
        bits = ops.cast(self.bits, parameter.dtype)
        bins = ops.power(2.0, bits)
        phase = parameter / self._largest(parameter) * (bins - 1.0)
        wave = ops.mean(ops.square(ops.sin(phase * math.pi)))
        return wave / bins + self.bits_rate * bits

    def get_config(self):
        return {**super().get_config(), "bits_rate": self.bits_rate, "bits": strength_value(self.bits)}

    def _largest(self, parameter):
        largest = ops.max(ops.abs(parameter), axis=self.axes, keepdims=True)
        return ops.stop_gradient(ops.maximum(largest, FLOAT32_EPSILON))


def waveq(rate, **overrides):
    """Return the `NestedQuantization` of WaveQ.

    Args:
        rate: weight of the penalty.
        overrides: other arguments of `NestedQuantization`.
    """
    return NestedQuantization(**{"rule": Frozen(), "penalty": WaveQPenalty(rate), "rounding": "nearest", **overrides})
