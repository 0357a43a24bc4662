"""The scale `s` of a nested quantization layer: learned, as it is or by its logarithm, or measured on the parameter.

A *measure* computes a scale from a parameter,

    measure(parameter, axes, levels) -> scale, with size 1 on the `axes` along which elements share one

where `levels` is the pair of the lowest and the highest integer. `lqs.rules.Measured` takes it at every training step,
`NestedQuantization(initial_scale=...)` once, from the initial values.
"""

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from lqs.granularity import Granularity, scale_shape, sharing_axes
from lqs.parts import Tensor

FLOAT32_EPSILON = 2.0**-23
MIN_SCALE = 100 * FLOAT32_EPSILON
PARAMETRIZATIONS = ("linear", "log")
RANGE_OF_ZEROS = 0.25  # what the levels of a parameter reach to whose initial values are all zero, as biases often are
MUCH_TOO_SMALL = 0.101  # of the scale: the largest element of a parameter of which nothing would be left
MAX_CLIPPED = 0.05  # share of the elements beyond the levels from which on a warning is given


@keras.saving.register_keras_serializable("lqs")
class MinValue(keras.constraints.Constraint):
    """Keeps every element of a weight at or above `minimum`.

    Example:

    >>> np.asarray(MinValue(0.5)(np.array([-1.0, 2.0], "float32"))).tolist()
    [0.5, 2.0]
    """

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def __call__(self, value: Tensor) -> Tensor:
        return ops.maximum(value, ops.cast(self.minimum, value.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"minimum": self.minimum}


def max_scale(parameter: Tensor, axes: tuple[int, ...], levels: tuple[int, int]) -> Tensor:
    """Return `max(abs(P)) / highest`: the highest integer stands for the largest element.

    This is min-max quantization (Jacob et al. 2018, arXiv 1712.05877) in its symmetric form, that of weights.

    Example:

    >>> np.asarray(max_scale(np.array([[1.0, -3.5], [7.0, 0.0]]), (1,), (-8, 7))).tolist()
    [[0.5], [1.0]]
    """
    return ops.max(ops.abs(parameter), axis=axes, keepdims=True) / levels[1]


def mean_scale(parameter: Tensor, axes: tuple[int, ...], levels: tuple[int, int]) -> Tensor:
    """Return `mean(abs(P))`, with which signs are nearest to `P` (XNOR-Net, Rastegari et al. 2016, arXiv 1603.05279).

    Example:

    >>> np.asarray(mean_scale(np.array([1.0, -3.0]), (0,), (-1, 1))).tolist()
    [2.0]
    """
    return ops.mean(ops.abs(parameter), axis=axes, keepdims=True)


def lsq_scale(parameter: Tensor, axes: tuple[int, ...], levels: tuple[int, int]) -> Tensor:
    """Return `2 mean(abs(P)) / sqrt(highest)`, from which LSQ starts (Esser et al. 2020, arXiv 1902.08153).

    Example:

    >>> np.asarray(lsq_scale(np.array([1.0, -3.0]), (0,), (-4, 4))).tolist()
    [2.0]
    """
    return mean_scale(parameter, axes, levels) * (2 / math.sqrt(levels[1]))


TERNARY_THRESHOLD = 0.7


def is_large(parameter: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the mask of the elements that TWN does not round to zero: `abs(P) > 0.7 mean(abs(P))`."""
    magnitude = ops.abs(parameter)
    return magnitude > TERNARY_THRESHOLD * ops.mean(magnitude, axis=axes, keepdims=True)


def ternary_scale(parameter: Tensor, axes: tuple[int, ...], levels: tuple[int, int]) -> Tensor:
    """Return the mean of `abs(P)` over the elements that `is_large` (TWN, Li et al. 2016, arXiv 1605.04711).

    Example: of 4, 0 and 2 in magnitude, the mean is 2 and the threshold 1.4.

    >>> np.asarray(ternary_scale(np.array([4.0, 0.0, -2.0], "float32"), (0,), (-1, 1))).tolist()
    [3.0]
    """
    large = ops.cast(is_large(parameter, axes), parameter.dtype)
    total = ops.sum(ops.abs(parameter) * large, axis=axes, keepdims=True)
    return total / ops.maximum(ops.sum(large, axis=axes, keepdims=True), 1)


SPREAD_STEPS = 16


def spread_scale(parameter: Tensor, axes: tuple[int, ...], levels: tuple[int, int]) -> Tensor:
    """Return a sixteenth of the root mean square: rounding to nearest then changes `P` by a fiftieth of that.

    Example:

    >>> np.asarray(spread_scale(np.array([[8.0, -8.0], [4.0, 4.0]], "float32"), (1,), (-1, 1))).tolist()
    [[0.5], [0.25]]
    """
    return ops.sqrt(ops.mean(ops.square(parameter), axis=axes, keepdims=True)) / SPREAD_STEPS


MEASURES = {
    "max": max_scale,
    "mean": mean_scale,
    "lsq": lsq_scale,
    "ternary": ternary_scale,
    "spread": spread_scale,
}
_NEED_LEVELS = ("max", "lsq")


def validate_measure(argument: str, name: Any, levels: tuple[int, int] | None) -> None:
    """Raise unless `name` is among `MEASURES` and, if it depends on `levels`, there are some.

    Raises:
        ValueError: as said.
    """
    if not isinstance(name, str) or name not in MEASURES:
        raise ValueError(f"Argument `{argument}` must be one of {tuple(MEASURES)}. Received: {argument}={name!r}")
    if levels is None and name in _NEED_LEVELS:
        raise ValueError(f"Argument `bits` must be given, for a scale by the measure {name!r}. Received: bits=None")


def validate_initial_scale(initial_scale: Any, levels: tuple[int, int] | None) -> float | str:
    """Return the initial scale as a float or as a name among `MEASURES`; for `None` the default.

    That is `MIN_SCALE` where integers are unbounded. With `bits` it is `"max"`, with which nothing is clipped.

    Raises:
        ValueError: if it is neither, or smaller than `MIN_SCALE`.
    """
    if initial_scale is None:
        return MIN_SCALE if levels is None else "max"
    if isinstance(initial_scale, str) and initial_scale in MEASURES:
        validate_measure("initial_scale", initial_scale, levels)
        return initial_scale
    is_number = isinstance(initial_scale, (int, float)) and not isinstance(initial_scale, bool)
    if not is_number or not MIN_SCALE <= initial_scale < math.inf:
        raise ValueError(
            f"Argument `initial_scale` must be a finite number of at least {MIN_SCALE:.4g}, or one of "
            f"{tuple(MEASURES)}. Received: initial_scale={initial_scale!r}"
        )
    return float(initial_scale)


def validate_parametrization(parametrization: Any, clips: bool) -> str:
    """Return `parametrization` if it is among `PARAMETRIZATIONS`; for `None` the default.

    That is `"linear"`, as in the thesis, unless integers are clipped. A step of the optimizer that is larger than a
    linear scale takes it to its least, where all elements are clipped and none learns: hence `"log"` with `bits`.

    Raises:
        ValueError: if it is neither.
    """
    if parametrization is None:
        return "log" if clips else "linear"
    if not isinstance(parametrization, str) or parametrization not in PARAMETRIZATIONS:
        raise ValueError(
            f"Argument `parametrization` must be one of {PARAMETRIZATIONS}. "
            f"Received: parametrization={parametrization!r}"
        )
    return parametrization


def log_of(scale: np.ndarray) -> np.ndarray:
    """Return logarithms of an array whose exponentials are the array again, bit for bit where there are such.

    Example:

    >>> scale = np.array([0.25, 1.0], "float32")
    >>> np.asarray(ops.exp(log_of(scale))).tolist()
    [0.25, 1.0]
    """
    nearest = np.log(scale.astype("float64")).astype(scale.dtype)
    steps = [nearest + np.spacing(nearest) * step for step in (0, 1, -1, 2, -2)]  # exp may differ by one or two
    errors = [np.abs(np.asarray(ops.convert_to_numpy(ops.exp(value))) - scale) for value in steps]
    return np.take_along_axis(np.stack(steps), np.argmin(errors, axis=0)[None], axis=0)[0]


class Scale:
    """The scale of one parameter: the weight that holds it, and where its values come from.

    Args:
        layer: the layer that owns the weight.
        granularity: axes along which the scale varies; see `lqs.granularity`.
        shape: shape of the parameter.
        levels: `lqs.parts.Levels`, or `None`.
        initial_scale: what `validate_initial_scale` returned.
        parametrization: `"linear"`, the weight is `s`, or `"log"`, it is `log s` if the scale is learned.
        measure: `None` for a scale that is learned, or the function `parameter -> scale` that gives it in training.

    Attributes:
        weight: the variable, trainable if the scale is learned.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        granularity: Granularity,
        shape: tuple[int, ...],
        levels: tuple[int, int] | None,
        initial_scale: float | str | None,
        parametrization: str,
        measure: Any = None,
    ) -> None:
        self.levels, self.initial_scale, self.measure = levels, initial_scale, measure
        self.axes, self.is_log = sharing_axes(granularity, len(shape)), parametrization == "log" and measure is None
        initial = initial_scale if isinstance(initial_scale, float) else MIN_SCALE
        self.initial_weight = math.log(initial) if self.is_log else initial
        self._asked: tuple[np.ndarray, np.ndarray] | None = None
        self.weight = layer.add_weight(
            name="log_scale" if self.is_log else "scale",
            shape=scale_shape(granularity, shape),
            initializer=keras.initializers.Constant(self.initial_weight),
            constraint=MinValue(math.log(MIN_SCALE) if self.is_log else MIN_SCALE),
            trainable=measure is None,
        )

    @property
    def value(self) -> Tensor:
        """The scale `s`, of the rank of the parameter."""
        return ops.exp(self.weight) if self.is_log else self.weight

    @property
    def follows_parameter(self) -> bool:
        """Whether initial values depend on those of the parameter."""
        return self.measure is not None or isinstance(self.initial_scale, str)

    @property
    def is_initial(self) -> bool:
        """Whether the weight still has the value that was given for it; one that is measured is not known to."""
        return not self.follows_parameter and self._is_unchanged

    @property
    def _is_unchanged(self) -> bool:
        initial = ops.cast(self.initial_weight, self.weight.dtype)
        return bool(ops.convert_to_numpy(ops.all(ops.equal(self.weight, initial))))

    def weight_of(self, scale: np.ndarray) -> np.ndarray:
        """Return the array that the weight has if the scale is the given array, and remember both for `exact`."""
        if not self.is_log:
            return scale
        self._asked = log_of(scale), scale
        return self._asked[0]

    @property
    def exact(self) -> np.ndarray:
        """The scale as an array: the one that was asked of `weight_of`, where the weight has not changed since.

        No logarithm may have just this exponential on a backend, since exponentials differ in the last bit.
        """
        scale = np.asarray(ops.convert_to_numpy(self.value))
        if self._asked is None:
            return scale
        weight, asked = self._asked
        return np.where(ops.convert_to_numpy(self.weight) == weight, asked, scale)

    def assign(self, scale: Tensor) -> None:
        """Assign a tensor, `MIN_SCALE` where it is smaller."""
        scale = ops.maximum(ops.cast(scale, self.weight.dtype), MIN_SCALE)
        self.weight.assign(ops.log(scale) if self.is_log else scale)

    def follow(self, parameter: Tensor) -> None:
        """Assign what is measured on the parameter, if the scale is not learned."""
        if self.measure is not None:
            self.assign(self.measure(ops.stop_gradient(parameter)))

    def initialize(self, parameter: Tensor, clips: bool) -> None:
        """Assign the initial scale where it depends on the parameter, unless one has been assigned.

        Args:
            parameter: `P`.
            clips: as of `lqs.Rounding`.
        """
        if self.measure is not None:
            self.follow(parameter)
        elif isinstance(self.initial_scale, str) and self._is_unchanged:
            scale = MEASURES[self.initial_scale](parameter, self.axes, self.levels or (-1, 1))
            if clips and self.is_log and self.initial_scale == "max":
                scale *= 1 + 8 * FLOAT32_EPSILON  # the exponential of a rounded logarithm must not clip the largest
            # A learned scale of zeros must be able to grow: by what is clipped it would not.
            highest = SPREAD_STEPS if self.initial_scale == "spread" else (self.levels or (-1, 1))[1]
            self.assign(ops.where(scale == 0.0, RANGE_OF_ZEROS / highest, scale))

    def warn_of_loss(self, parameter: Tensor, clips: bool) -> None:
        """Warn if the initial scale makes all of the parameter 0, or, given as a number, clips much of it.

        By NumPy: JAX would compile each operation for each shape, which took as long as all else of `lqs.quantize`.
        """
        parameter, scale = (np.asarray(ops.convert_to_numpy(t)) for t in (parameter, self.value))
        ratio = parameter / scale
        loss, what = None, f"of a parameter of the shape {parameter.shape}"
        if 0 < np.abs(ratio).max(initial=0.0) < MUCH_TOO_SMALL:
            loss = f"All elements {what} are at most a tenth of their scale, and become 0."
        elif clips and self.levels is not None and not self.follows_parameter:
            lowest, highest = self.levels
            clipped = np.mean((ratio < lowest - 0.5) | (ratio > highest + 1.0))
            if clipped > MAX_CLIPPED:
                loss = (
                    f"{clipped:.0%} {what} lie beyond the levels {lowest} to {highest} at the scale "
                    f"{self.initial_scale:g}, and are clipped."
                )
        if loss:
            hint = "Give another `initial_scale`, such as 'spread', or leave the parameter in float by `where`."
            warnings.warn(f"{loss} {hint}", stacklevel=2)
