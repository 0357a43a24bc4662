"""Value-aware quantization: few bits for most, 16 for the largest (Park, Yoo and Vajda 2018, arXiv 1804.07802)."""

import keras
from keras import ops

from lqs.quantizer import NestedQuantization
from lqs.rounding import Rounding, required_levels, signed_levels, to_integers
from lqs.rules import Frozen
from lqs.strengths import validate_strength

OUTLIER_BITS = 16


@keras.saving.register_keras_serializable("lqs")
class ValueAware(Rounding):
    """Rounds to nearest; a share of the elements, the largest, may have integers of 16 bits, the others of `bits`.

    With the highest integer `n = 2**(bits - 1) - 1` and the quantile `q` of `abs(P)` over the elements that share a
    scale, below which lie all but `ratio` of them, at every training step

        s = q / n        P_q = round(P / s)        within 16 bits

    The paper keeps the large elements apart in a format of their own, together with their places. Here they lie on the
    grid of the others, and the entropy coder gives them long codes.

    Args:
        ratio: share of the large elements.

    Raises:
        ValueError: if the ratio is not a number from 0 to 1.

    Example: at 2 bits, 4 of 5 magnitudes reach up to 2.

    >>> import numpy as np
    >>> rounding, parameter = ValueAware(0.25), np.array([1.0, -2.0, 0.0, 20.0, -1.5], "float32")
    >>> rounding.build((5,), (0,), rounding.levels_of(2))
    >>> scale = rounding.measured_scale(parameter)
    >>> np.asarray(scale).tolist(), np.asarray(rounding.integers(parameter, scale)).tolist()
    ([2.0], [0.0, -1.0, 0.0, 10.0, -1.0])
    """

    def __init__(self, ratio=0.01, **kwargs):
        super().__init__(**kwargs)
        self.ratio = validate_strength("ratio", ratio, 1)
        self.highest_of_most = None

    def levels_of(self, bits):
        self.highest_of_most = required_levels(self, bits).highest
        return signed_levels(OUTLIER_BITS)

    def measured_scale(self, parameter):
        place = {"axis": self.axes, "method": "nearest", "keepdims": True}
        return ops.quantile(ops.abs(parameter), 1 - self.ratio, **place) / self.highest_of_most

    def integers(self, parameter, scale):
        return to_integers(parameter, scale, "nearest", self.levels)

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio}


def value_aware(bits, ratio=0.01, **overrides):
    """Return the `NestedQuantization` of value-aware quantization.

    Args:
        bits: width of the integers but those of the large elements.
        ratio: share of the large elements.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "rounding": ValueAware(ratio), "bits": bits}
    return NestedQuantization(**{**settings, **overrides})
