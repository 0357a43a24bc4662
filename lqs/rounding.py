"""Rounding: from a parameter and its scale to integers, and back.

A rounding is a plug-in: the names `"floor"` and `"nearest"`, or a `Rounding`, which also says what gradient the
parameter receives, and which parameter has given integers. Roundings of published methods are in `lqs.methods`.
"""

from typing import Any

import numpy as np
from keras import ops

from lqs.parts import Levels, Part, Tensor

# Thesis: floor. Its zero bin [0, s) is one-sided and it shifts every weight by -s/2 on average; rounding to
# nearest (half to even) has neither fault.
ROUNDINGS = {"floor": ops.floor, "nearest": ops.round}
MIDDLES = {"floor": 0.5, "nearest": 0.0}  # of the bin of the integer 0, in units of the scale


def signed_levels(bits: int | None) -> Levels | None:
    """Return the `Levels` of a signed `bits`-bit code, or `None` for `bits=None`.

    Raises:
        ValueError: if `bits` is neither `None` nor an integer from 2 to 24 (float32 holds 24-bit integers).

    Example:

    >>> signed_levels(4)
    Levels(lowest=-8, highest=7)
    """
    if bits is None:
        return None
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 24:
        raise ValueError(f"Argument `bits` must be None or an integer from 2 to 24. Received: bits={bits!r}")
    return Levels(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def required_levels(rounding: "Rounding", bits: int | None) -> Levels:
    """Return the `signed_levels` of a rounding that needs `bits`.

    Raises:
        ValueError: if `bits` is `None`, or not as of `signed_levels`.
    """
    levels = signed_levels(bits)
    if levels is None:
        raise ValueError(f"Argument `bits` must be given, for `{type(rounding).__name__}`. Received: bits=None")
    return levels


def levels_of_signs(rounding: "Rounding", bits: int | None) -> Levels:
    """Return the levels -1 to 1 of a rounding without `bits`.

    Raises:
        ValueError: if `bits` is not `None`.
    """
    if bits is not None:
        raise ValueError(f"Argument `bits` must be None, for `{type(rounding).__name__}`. Received: bits={bits!r}")
    return Levels(-1, 1)


def to_integers(
    parameter: Tensor, scale: Tensor, rounding: str = "floor", levels: tuple[int, int] | None = None
) -> Tensor:
    """Return the integers `P_q = round(clip(P / s))`, as floats of the dtype of `parameter`.

    Args:
        parameter: float tensor `P`.
        scale: positive float tensor `s`, broadcastable to `P`.
        rounding: `"floor"` or `"nearest"` (half to even).
        levels: `(lowest, highest)` integer to clip to, or `None` for no clipping.

    Returns:
        Tensor of the shape of `P`; multiplied by `s` it is the reconstructed parameter `P_r`.

    Example:

    >>> np.asarray(to_integers(np.array([-0.3, 0.4, 9.0], "float32"), 0.25, levels=(-8, 7))).tolist()
    [-2.0, 1.0, 7.0]
    """
    ratio = ops.divide(parameter, scale)
    if levels is not None:
        ratio = ops.clip(ratio, *levels)
    return ROUNDINGS[rounding](ratio)


def is_within(ratio: Tensor, levels: tuple[int, int]) -> Tensor:
    """Return the mask of the elements `P / s` that clipping to `levels` leaves alone, the bounds themselves included.

    A scale by `"max"` puts the largest element on the highest level, and `lqs.load` puts all elements of an outermost
    level there: they have to keep their gradient.

    Example:

    >>> np.asarray(is_within(np.array([-3.0, -2.0, 1.0, 1.5]), (-2, 1))).tolist()
    [False, True, True, False]
    """
    lowest, highest = levels
    return (ratio >= lowest) & (ratio <= highest)


class Rounding(Part):
    """Base of the roundings with more to them than a name. A subclass implements `integers`.

    What `integers` returns may stand for other numbers than itself, and a rounding may own weights: then `values`
    says for which numbers, by an expression through which these weights learn, and `initialize` gives the weights
    their first values.

    Attributes:
        codebook: vector of what the integers from the lowest on stand for, in units of the scale; `None` if they stand
            for themselves. See `lqs.methods.codebook`.
        clips: whether elements beyond the levels, in units of the scale, are moved there.

    Example: a rounding away from zero.

    >>> import keras
    >>> @keras.saving.register_keras_serializable("docs")
    ... class AwayFromZero(Rounding):
    ...     def integers(self, parameter, scale):
    ...         return ops.sign(parameter) * ops.ceil(ops.abs(parameter) / scale)
    """

    codebook: Any = None
    clips = True

    def levels_of(self, bits: int | None) -> Levels | None:
        """Return the `Levels`, or `None`, for the argument `bits` of `lqs.NestedQuantization`."""
        return signed_levels(bits)

    def initialize(self, parameter: Tensor, scale: Tensor) -> None:
        """Give own weights their first values, which may depend on the parameter's."""

    @property
    def follows_parameter(self) -> bool:
        """Whether there is anything to `initialize`."""
        return type(self).initialize is not Rounding.initialize

    def integers(self, parameter: Tensor, scale: Tensor) -> Tensor:
        """Return `P_q`, as floats.

        Args:
            parameter: float tensor `P`.
            scale: positive float tensor `s`, broadcastable to `P`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `integers`.")

    def training_integers(self, parameter: Tensor, scale: Tensor) -> Tensor:
        """Return `P_q` in a training step, by default `integers`; it may be random, and may assign own weights."""
        return self.integers(parameter, scale)

    def values(self, integers: Tensor, parameter: Tensor, scale: Tensor) -> Tensor:
        """Return what the integers stand for in units of the scale, `P_r / s`: by default themselves.

        Its gradient reaches the weights of the rounding, and the parameter, in addition to `parameter_gradient`.
        """
        return integers

    def parameter_gradient(self, upstream: Tensor, parameter: Tensor, scale: Tensor) -> Tensor:
        """Return the gradient of `P` from that of `P_r`: the straight-through estimator, 0 where clipped."""
        if self.levels is None:
            return upstream
        return ops.where(is_within(ops.divide(parameter, scale), self.levels), upstream, ops.zeros_like(upstream))

    def parameter_of(self, integers: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return NumPy's array of a parameter with these integers, far from where others begin."""
        return integers.astype(scale.dtype) * scale


class NamedRounding(Rounding):
    """The rounding that a name among `ROUNDINGS` stands for."""

    def __init__(self, rounding: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rounding = rounding

    def integers(self, parameter: Tensor, scale: Tensor) -> Tensor:
        return to_integers(parameter, scale, self.rounding, self.levels)

    def parameter_gradient(self, upstream: Tensor, parameter: Tensor, scale: Tensor) -> Tensor:
        if self.levels is None or self.rounding == "nearest":
            return super().parameter_gradient(upstream, parameter, scale)
        # Rounded down, the whole bin of the highest integer is within the levels.
        ratio, (lowest, highest) = ops.divide(parameter, scale), self.levels
        return ops.where((ratio >= lowest) & (ratio < highest + 1), upstream, ops.zeros_like(upstream))

    def parameter_of(self, integers: np.ndarray, scale: np.ndarray) -> np.ndarray:
        middle = np.asarray(MIDDLES[self.rounding], scale.dtype)
        return (integers.astype(scale.dtype) + middle) * scale


def validate_rounding(rounding: Any) -> str | Rounding:
    """Return `rounding` if it names a rounding, or is one.

    Raises:
        ValueError: if it does not.
    """
    if isinstance(rounding, Rounding) or (isinstance(rounding, str) and rounding in ROUNDINGS):
        return rounding
    raise ValueError(
        f"Argument `rounding` must be one of {tuple(ROUNDINGS)} or an `lqs.Rounding`. Received: rounding={rounding!r}"
    )


def with_gradient(values: Tensor, straight: Tensor) -> Tensor:
    """Return `values`, bit for bit, with the gradient of `straight` besides their own: the straight-through estimator.

    Example:

    >>> np.asarray(with_gradient(np.array([1.0, 2.0]), np.array([0.1, 0.7]))).tolist()
    [1.0, 2.0]
    """
    return values + (straight - ops.stop_gradient(straight))
