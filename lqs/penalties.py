"""Penalties: loss terms that make scales grow (thesis, section 3.2).

The loss of a model with penalties is `L_task + rate * L_term`, where a term is a mean over the whole model,

    L_term = sum_P #P * term(P, s) / sum_P #P

with `#P` the number of elements of the parameter `P` and the sums over every quantized parameter of the model
that is trained. The terms are continuous: none of them contains a floor.
"""

import functools
import math

import keras
from keras import ops

from lqs.rounding import to_integers
from lqs.rules import FLOAT32_EPSILON, MinValue, add_strength, validate_strength

LOG_2 = math.log(2.0)
SMALLEST_MEAN = 1e-6  # of the magnitude of integers, where the gradient of their code length is cut off
SMALLEST_SQUARES = 1e-12  # so that the term of zeros and its gradient are 0; float32 holds the square


def max_bin(parameter, scale, axes):
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
    return ops.mean(ops.max(ops.divide(ops.abs(parameter), scale), axis=axes))


def inverse(parameter, scale, axes):
    """Return `mean(1 / s)`; see `max_bin` for the arguments.

    Example:

    >>> import numpy as np
    >>> float(inverse(np.ones((2, 1)), np.array([[1.0], [2.0]]), (1,)))
    0.75
    """
    return ops.mean(ops.reciprocal(scale))


def difference(parameter, scale, axes):
    """Return `mean(abs(P - P / s))`; see `max_bin` for the arguments.

    The term compares `P` with `P / s`, not with `s * floor(P / s)`: it is least at `s = 1`, not at `s = 0`.

    Example:

    >>> import numpy as np
    >>> float(difference(np.array([1.0, -3.0]), np.array([0.5]), (0,)))
    2.0
    """
    return ops.mean(ops.abs(ops.subtract(parameter, ops.divide(parameter, scale))))


def elias_code_length(parameter, scale, axes):
    """Return `mean(log2(1 + abs(P) / s))`, about the bits of a code whose words grow with the logarithm of an integer.

    See `max_bin` for the arguments; Elias 1975, doi 10.1109/TIT.1975.1055349, for such codes.

    Example:

    >>> import numpy as np
    >>> float(elias_code_length(np.array([1.0, -3.0]), np.array([1.0]), (0,)))
    1.5
    """
    quotient = ops.divide(ops.abs(parameter), scale)
    return ops.mean(ops.divide(ops.log1p(quotient), LOG_2))


def geometric_code_length(parameter, scale, axes):
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
    mean = ops.mean(ops.divide(ops.abs(parameter), scale))
    inverse_mean = ops.reciprocal(ops.maximum(mean, SMALLEST_MEAN))
    nats = ops.add(ops.multiply(mean, ops.arcsinh(inverse_mean)), ops.arcsinh(mean))
    return ops.divide(nats, LOG_2)


CODES = {"elias": elias_code_length, "geometric": geometric_code_length}


class Penalty(keras.layers.Layer):
    """Base of the penalties. A subclass implements `term`.

    Args:
        rate: `gamma >= 0`, the weight of the term in the loss. Kept as the non-trainable weight `rate`.

    Raises:
        ValueError: if the rate is negative, not finite, or not a number.

    Example: a term of one's own, the mean of `-log(s)`.

    >>> @keras.saving.register_keras_serializable("docs")
    ... class LogPenalty(Penalty):
    ...     def term(self, parameter, scale, axes):
    ...         return -ops.mean(ops.log(scale))
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self._initial_rate = validate_strength("rate", rate)
        self.rate = add_strength(self, "rate", rate)
        self.built = True

    def bind(self, levels):
        """Return the function that a layer with the given `(lowest, highest)` integer, or `None`, calls.

        Override it in a penalty that depends on the levels.
        """
        return self.term

    def bind_measure(self, levels):
        """Return `None`, or the function `(parameter, axes) -> scale` of a penalty that gives the scale.

        It is then measured in training, as by `lqs.Measured`.
        """
        return None

    def term(self, parameter, scale, axes):
        """Return the scalar term of one parameter; the arguments are those of `max_bin`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `term`.")

    def get_config(self):
        return {**super().get_config(), "rate": self._initial_rate}


@keras.saving.register_keras_serializable("lqs")
class MaxBinPenalty(Penalty):
    """Penalizes the range of the integers; see `max_bin`."""

    def term(self, parameter, scale, axes):
        return max_bin(parameter, scale, axes)


@keras.saving.register_keras_serializable("lqs")
class InversePenalty(Penalty):
    """Penalizes small scales; see `inverse`."""

    def term(self, parameter, scale, axes):
        return inverse(parameter, scale, axes)


@keras.saving.register_keras_serializable("lqs")
class DifferencePenalty(Penalty):
    """Penalizes the distance between a parameter and its quotient by the scale; see `difference`."""

    def term(self, parameter, scale, axes):
        return difference(parameter, scale, axes)


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

    def __init__(self, rate, code="geometric", **kwargs):
        super().__init__(rate, **kwargs)
        if not isinstance(code, str) or code not in CODES:
            raise ValueError(f"Argument `code` must be one of {tuple(CODES)}. Received: code={code!r}")
        self.code = code

    def term(self, parameter, scale, axes):
        return CODES[self.code](parameter, scale, axes)

    def get_config(self):
        return {**super().get_config(), "code": self.code}


@keras.saving.register_keras_serializable("lqs")
class SinReQPenalty(Penalty):
    """SinReQ: penalizes what is not a multiple of the scale (Elthakeb et al. 2019, arXiv 1905.01416).

    The term is `mean(sin(pi P / s)**2)`, from 0 on the grid to 1 midway. The grid is given: the scale has no gradient.

    Example: on the grid, and a quarter of a step beside it.

    >>> import numpy as np
    >>> penalty = SinReQPenalty(1.0)
    >>> f"{float(penalty.term(np.array([3.0, 0.25], 'float32'), np.ones(1, 'float32'), (0,))):.3f}"
    '0.250'
    """

    def term(self, parameter, scale, axes):
        quotient = ops.divide(parameter, ops.stop_gradient(scale))
        return ops.mean(ops.square(ops.sin(ops.multiply(quotient, math.pi))))


@keras.saving.register_keras_serializable("lqs")
class MSQEPenalty(Penalty):
    """MSQE: penalizes the mean square quantization error (Choi, El-Khamy and Lee 2020, arXiv 1809.00095).

    The term is `mean((P - Q s)**2)` with the nearest integers `Q` among the levels, which count as constants:

        d/dP = 2 (P - Q s) / N
        d/ds = -2 sum((P - Q s) Q) / N

    It needs `bits`: among all integers, the error is least at `s = 0`. The paper also learns the rate.

    Example: the integers are 1 and, clipped, 1.

    >>> import numpy as np
    >>> term = MSQEPenalty(1.0).bind((-2, 1))
    >>> float(term(np.array([1.0, 3.0], "float32"), np.ones(1, "float32"), (0,)))
    2.0
    """

    def bind(self, levels):
        if levels is None:
            raise ValueError("Argument `bits` must be given, for an `lqs.MSQEPenalty`. Received: bits=None")
        return functools.partial(self.term, levels=levels)

    def term(self, parameter, scale, axes, levels=None):
        integers = ops.stop_gradient(to_integers(parameter, scale, "nearest", levels))
        return ops.mean(ops.square(ops.subtract(parameter, ops.multiply(integers, scale))))


@keras.saving.register_keras_serializable("lqs")
class BinaryPenalty(Penalty):
    """Penalizes the distance from plus or minus the scale (Tang, Hua and Wang 2017, AAAI).

    The term is the mean of `1 - (P / s)**2` within the scale and of 0 beyond it. The scale is given: no gradient.

    Example:

    >>> import numpy as np
    >>> float(BinaryPenalty(1.0).term(np.array([1.0, -2.0, 5.0, 0.0], "float32"), np.full(1, 2.0, "float32"), (0,)))
    0.4375
    """

    def term(self, parameter, scale, axes):
        quotient = ops.divide(parameter, ops.stop_gradient(scale))
        return ops.mean(ops.relu(ops.subtract(1.0, ops.square(quotient))))


@keras.saving.register_keras_serializable("lqs")
class HoyerPenalty(Penalty):
    """DeepHoyer's Hoyer-square: penalizes elements that are not zero (Yang, Wen and Li 2020, arXiv 1908.09979).

    The term is `sum(abs(P))**2 / sum(P**2) / N`, from `1 / N` with one element to 1 with equal ones, whatever their
    size. The paper then prunes by a threshold; here that is the bin of zero.

    Example:

    >>> import numpy as np
    >>> float(HoyerPenalty(1.0).term(np.array([1.0, -1.0, 0.0, 0.0], "float32"), None, None))
    0.5
    """

    def term(self, parameter, scale, axes):
        magnitude = ops.multiply(parameter, ops.sign(parameter))  # of gradient 0 at 0, on every backend
        squares = ops.maximum(ops.sum(ops.square(parameter)), SMALLEST_SQUARES)
        return ops.divide(ops.square(ops.mean(magnitude)), squares) * math.prod(parameter.shape)


@keras.saving.register_keras_serializable("lqs")
class WaveQPenalty(Penalty):
    """WaveQ: a sinusoidal penalty whose number of bits is learned (Elthakeb et al. 2020, arXiv 2003.00146).

    With a trainable weight `beta`, the bits of a parameter's magnitudes, and `w = P / m` with the maximum `m` of
    `abs(P)` over the elements that share a scale, as a constant, the term is

        mean(sin(pi w (2**beta - 1))**2) / 2**beta + bits_rate beta

    with the gradients

        d/dw = pi (2**beta - 1) sin(2 pi w (2**beta - 1)) / 2**beta / N
        d/dbeta = log(2) mean(pi w sin(2 pi w (2**beta - 1)) - sin(pi w (2**beta - 1))**2 / 2**beta) + bits_rate

    It gives the scale as well, at every training step: `m / (2**ceil(beta) - 1)`, so that the integers have
    `ceil(beta)` bits and a sign. The task has no say in `beta`: if `w` is spread evenly over the waves, it moves to
    `log2(log(2) / (2 bits_rate))`; if `w` has snapped to the levels, it stays.

        NestedQuantization(rule=lqs.Frozen(), penalty=lqs.WaveQPenalty(0.1), rounding="nearest")

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
    >>> float(penalty.term(np.array([1.0, 0.5], "float32"), None, (0,)))
    0.75
    """

    def __init__(self, rate, bits_rate=0.05, bits=8, **kwargs):
        super().__init__(rate, **kwargs)
        self.bits_rate = validate_strength("bits_rate", bits_rate)
        self._initial_bits = validate_strength("bits", bits)
        if bits < 1:
            raise ValueError(f"Argument `bits` must be at least 1. Received: bits={bits!r}")
        self.bits = self.add_weight(
            name="bits",
            shape=(),
            initializer=keras.initializers.Constant(bits),
            dtype="float32",
            constraint=MinValue(1),
        )

    def bind(self, levels):
        if levels is not None:
            raise ValueError(f"Argument `bits` must be None, for an `lqs.WaveQPenalty`. Received: levels {levels}")
        return self.term

    def bind_measure(self, levels):
        return self._scale

    def term(self, parameter, scale, axes):
        bins = ops.power(2.0, ops.cast(self.bits, parameter.dtype))
        phase = ops.multiply(ops.divide(parameter, _largest(parameter, axes)), ops.subtract(bins, 1.0))
        wave = ops.mean(ops.square(ops.sin(ops.multiply(phase, math.pi))))
        return ops.add(ops.divide(wave, bins), ops.multiply(self.bits_rate, ops.cast(self.bits, parameter.dtype)))

    def _scale(self, parameter, axes):
        highest = ops.subtract(ops.power(2.0, ops.ceil(ops.cast(self.bits, parameter.dtype))), 1.0)
        return ops.stop_gradient(ops.divide(_largest(parameter, axes), highest))

    def get_config(self):
        return {**super().get_config(), "bits_rate": self.bits_rate, "bits": self._initial_bits}


def _largest(parameter, axes):
    largest = ops.max(ops.abs(parameter), axis=axes, keepdims=True)
    return ops.stop_gradient(ops.maximum(largest, FLOAT32_EPSILON))


def validate_penalty(penalty):
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
