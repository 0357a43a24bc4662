"""Penalties: loss terms that make scales grow (thesis, section 3.2).

The loss of a model with penalties is `L_task + rate * L_term`, where a term is a mean over the whole model,

    L_term = sum_P #P * term(P, s) / sum_P #P

with `#P` the number of elements of the parameter `P` and the sums over every quantized parameter of the model
that is trained. The terms are continuous: none of them contains a floor.
"""

import math
from typing import Any

import keras
from keras import ops

from lqs.parts import Part, Tensor
from lqs.strengths import add_strength, strength_value, validate_strength

LOG_2 = math.log(2.0)
SMALLEST_MEAN = 1e-6  # of the magnitude of integers, where the gradient of their code length is cut off


def max_bin(parameter: Tensor, scale: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return `mean_k(max(abs(P) / s_k))`: the maximum over the elements that share `s_k`, the mean over scales.

    Args:
        parameter: float tensor `P`.
        scale: positive float tensor `s`, broadcastable to `P`.
        axes: axes along which elements share one scale.

    Returns:
        Scalar tensor.

    Example:

    >>> import numpy as np
    >>> parameter, scale = np.array([[1.0, -3.0], [2.0, 1.0]]), np.array([[1.0], [2.0]])
    >>> float(max_bin(parameter, scale, (1,)))
    2.0
    """
    return ops.mean(ops.max(ops.abs(parameter) / scale, axis=axes))


def inverse(parameter: Tensor, scale: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return `mean(1 / s)`; see `max_bin` for the arguments.

    Example:

    >>> import numpy as np
    >>> float(inverse(np.ones((2, 1)), np.array([[1.0], [2.0]]), (1,)))
    0.75
    """
    return ops.mean(ops.reciprocal(scale))


def difference(parameter: Tensor, scale: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return `mean(abs(P - P / s))`; see `max_bin` for the arguments.

    The term compares `P` with `P / s`, not with `s * floor(P / s)`: it is least at `s = 1`, not at `s = 0`.

    Example:

    >>> import numpy as np
    >>> float(difference(np.array([1.0, -3.0]), np.array([0.5]), (0,)))
    2.0
    """
    return ops.mean(ops.abs(parameter - parameter / scale))


def elias_code_length(parameter: Tensor, scale: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return `mean(log2(1 + abs(P) / s))`, about the bits of a code whose words grow with the logarithm of an integer.

    See `max_bin` for the arguments; Elias 1975, doi 10.1109/TIT.1975.1055349, for such codes.

    Example:

    >>> import numpy as np
    >>> float(elias_code_length(np.array([1.0, -3.0]), np.array([1.0]), (0,)))
    1.5
    """
    return ops.mean(ops.log1p(ops.abs(parameter) / scale) / LOG_2)


def geometric_code_length(parameter: Tensor, scale: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the bits per element of the best two-sided geometric code for integers of the same mean magnitude.

    With `m = mean(abs(P) / s)`, the code for integers `k` of probability proportional to `exp(-c abs(k))` is shortest
    at `c = asinh(1 / m)`, where an integer of magnitude `m` takes

        (m * asinh(1 / m) + asinh(m)) / log(2)

    bits. The prior is thus always the one that fits, and needs no weights of its own. Its gradient is the same for all
    elements, and the larger the fewer of them there are.

    See `max_bin` for the arguments; Golomb 1966, doi 10.1109/TIT.1966.1053907, for codes of geometric distributions.

    Example: fair signs of magnitude one, and mostly zeros.

    >>> import numpy as np
    >>> f"{float(geometric_code_length(np.array([1.0, -1.0]), np.array([1.0]), (0,))):.3f}"
    '2.543'
    >>> f"{float(geometric_code_length(np.array([1.0] + 99 * [0.0]), np.array([1.0]), (0,))):.3f}"
    '0.091'
    """
    mean = ops.mean(ops.mean(ops.abs(parameter), axis=axes, keepdims=True) / scale)
    inverse_mean = ops.reciprocal(ops.maximum(mean, SMALLEST_MEAN))
    return (mean * ops.arcsinh(inverse_mean) + ops.arcsinh(mean)) / LOG_2


CODES = {"elias": elias_code_length, "geometric": geometric_code_length}


class Penalty(Part):
    """Base of the penalties. A subclass implements `term`.

    The axes along which elements share a scale are `self.axes`, the `Levels` are `self.levels`.

    Args:
        rate: `gamma >= 0`, the weight of the term in the loss. Kept as the non-trainable weight `rate`.

    Raises:
        ValueError: if the rate is negative, not finite, or not a number.

    Example: a term of one's own, the mean of `-log(s)`.

    >>> @keras.saving.register_keras_serializable("docs")
    ... class LogPenalty(Penalty):
    ...     def term(self, parameter, scale):
    ...         return -ops.mean(ops.log(scale))
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = add_strength(self, "rate", validate_strength("rate", rate))

    def term(self, parameter: Tensor, scale: Tensor) -> Tensor:
        """Return the scalar term of one parameter.

        Args:
            parameter: float tensor `P`.
            scale: positive float tensor `s`, broadcastable to `P`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `term`.")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": strength_value(self.rate)}


@keras.saving.register_keras_serializable("lqs")
class MaxBinPenalty(Penalty):
    """Penalizes the range of the integers; see `max_bin`."""

    def term(self, parameter: Tensor, scale: Tensor) -> Tensor:
        return max_bin(parameter, scale, self.axes)


@keras.saving.register_keras_serializable("lqs")
class InversePenalty(Penalty):
    """Penalizes small scales; see `inverse`.

    The gradient of a scale is `-rate * share / s**2`. At the least scale it outweighs all others: with a rate of 1e-8
    and a scale of 100 * 2**-23, `rate / s**2` is 70. An optimizer with `global_clipnorm=1` divides all gradients by
    their common norm, those of the parameters as well. Use `clipnorm`, which clips each variable by itself, or
    `parametrization="log"`, where the gradient is `-rate * share / s`.
    """

    def term(self, parameter: Tensor, scale: Tensor) -> Tensor:
        return inverse(parameter, scale, self.axes)


@keras.saving.register_keras_serializable("lqs")
class DifferencePenalty(Penalty):
    """Penalizes the distance between a parameter and its quotient by the scale; see `difference`."""

    def term(self, parameter: Tensor, scale: Tensor) -> Tensor:
        return difference(parameter, scale, self.axes)


@keras.saving.register_keras_serializable("lqs")
class CodeLengthPenalty(Penalty):
    """Penalizes the code length of the integers, in bits per parameter: what a coded file will take.

    It is meant for `NestedQuantization(rule=StraightThrough(), rounding="nearest", parametrization="log")`: the task
    then resists a scale that grows too large for it, and the penalty one that is too small.

    Args:
        rate: see `Penalty`; `TargetSize` can find it.
        code: `"geometric"`, see `geometric_code_length`, or `"elias"`, see `elias_code_length`.

    Raises:
        ValueError: if an argument is not as above.
    """

    def __init__(self, rate: float, code: str = "geometric", **kwargs: Any) -> None:
        super().__init__(rate, **kwargs)
        if not isinstance(code, str) or code not in CODES:
            raise ValueError(f"Argument `code` must be one of {tuple(CODES)}. Received: code={code!r}")
        self.code = code

    def term(self, parameter: Tensor, scale: Tensor) -> Tensor:
        return CODES[self.code](parameter, scale, self.axes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "code": self.code}


def validate_penalty(penalty: Any) -> Penalty | None:
    """Return `penalty` if it is a `Penalty` or `None`.

    Raises:
        ValueError: if it is neither.
    """
    if penalty is not None and not isinstance(penalty, Penalty):
        raise ValueError(
            "Argument `penalty` must be None or an `lqs.Penalty` such as `lqs.MaxBinPenalty(1e-8)`. "
            f"Received: penalty={penalty!r}"
        )
    return penalty
