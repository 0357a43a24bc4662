"""Rounding: from a parameter tensor and its scale to integers, and back."""

from keras import ops

# Thesis: floor. Its zero bin [0, s) is one-sided and it shifts every weight by -s/2 on average; rounding to
# nearest (half to even) has neither fault.
ROUNDINGS = {"floor": ops.floor, "nearest": ops.round}


def validate_rounding(rounding):
    """Return `rounding` if it names a rounding.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(rounding, str) or rounding not in ROUNDINGS:
        raise ValueError(f"Argument `rounding` must be one of {tuple(ROUNDINGS)}. Received: rounding={rounding!r}")
    return rounding


def signed_levels(bits):
    """Return the lowest and the highest integer of a signed `bits`-bit code, or `None` for `bits=None`.

    Raises:
        ValueError: if `bits` is neither `None` nor an integer from 2 to 24 (float32 holds 24-bit integers).

    Example:

    >>> signed_levels(4)
    (-8, 7)
    """
    if bits is None:
        return None
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 24:
        raise ValueError(f"Argument `bits` must be None or an integer from 2 to 24. Received: bits={bits!r}")
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def to_integers(parameter, scale, rounding="floor", levels=None):
    """Return the integers `P_q = round(clip(P / s))`, as floats of the dtype of `parameter`.

    Args:
        parameter: float tensor `P`.
        scale: positive float tensor `s`, broadcastable to `P`.
        rounding: `"floor"` or `"nearest"` (half to even).
        levels: `(lowest, highest)` integer to clip to, or `None` for no clipping.

    Returns:
        Tensor of the shape of `P`; multiplied by `s` it is the reconstructed parameter `P_r`.

    Example:

    >>> import numpy as np
    >>> np.asarray(to_integers(np.array([-0.3, 0.4, 9.0], "float32"), 0.25, levels=(-8, 7))).tolist()
    [-2.0, 1.0, 7.0]
    """
    ratio = ops.divide(parameter, scale)
    if levels is not None:
        ratio = ops.clip(ratio, *levels)
    return ROUNDINGS[rounding](ratio)
