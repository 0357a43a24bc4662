"""Min-max quantization in training (Jacob et al. 2018, arXiv 1712.05877), in its symmetric form, that of weights."""

from lqs.quantizer import NestedQuantization
from lqs.rules import Measured


def min_max(bits, **overrides):
    """Return the `NestedQuantization` whose highest level stands for the largest element at every training step.

    Args:
        bits: width of the integers.
        overrides: other arguments of `NestedQuantization`.
    """
    return NestedQuantization(**{"rule": Measured("max"), "rounding": "nearest", "bits": bits, **overrides})
