"""LSQ, learned step size quantization (Esser et al. 2020, arXiv 1902.08153)."""

from lqs.quantizer import NestedQuantization
from lqs.rules import StraightThrough


def lsq(bits, **overrides):
    """Return the `NestedQuantization` of LSQ: the straight-through gradient of the scale, times the paper's factor.

    Args:
        bits: width of the integers.
        overrides: other arguments of `NestedQuantization`.
    """
    rule = StraightThrough(normalize=True)
    settings = {"rule": rule, "rounding": "nearest", "bits": bits, "initial_scale": "lsq", "parametrization": "linear"}
    return NestedQuantization(**{**settings, **overrides})
