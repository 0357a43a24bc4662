"""Rounding: from a parameter tensor and its scale to integers, and back.

A rounding is a plug-in: the names `"floor"` and `"nearest"`, or a `Rounding`, which also says what gradient the
parameter receives, and which parameter has given integers. It may own weights, made for one parameter, and say what
integers stand for in units of the scale, by an expression through which these weights learn. Roundings whose levels are
not evenly spaced are in `lqs.codebooks`.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from lqs.rules import FLOAT32_EPSILON, MinValue, add_strength, is_within, validate_strength
from lqs.scales import is_large

MIN_HALF_WIDTH = 1e-3

# Thesis: floor. Its zero bin [0, s) is one-sided and it shifts every weight by -s/2 on average; rounding to
# nearest (half to even) has neither fault.
ROUNDINGS = {"floor": ops.floor, "nearest": ops.round}


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


class Rounding(keras.layers.Layer):
    """Base of the roundings with more to them than a name. A subclass implements `integers`.

    It is a Keras layer, as rules and penalties are, so that it can have strengths, random numbers and, by
    `create_weights`, weights for the one parameter that it rounds.

    Attributes:
        codebook: vector of what the integers from the lowest on stand for, in units of the scale; `None` if they stand
            for themselves. See `lqs.codebooks`.

    Example: a rounding away from zero.

    >>> @keras.saving.register_keras_serializable("docs")
    ... class AwayFromZero(Rounding):
    ...     def integers(self, parameter, scale, axes, levels, noise=None):
    ...         return ops.sign(parameter) * ops.ceil(ops.abs(parameter) / scale)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.codebook: Any = None
        self.built = True

    def levels(self, bits):
        """Return the lowest and the highest integer, or `None`, for the argument `bits` of `NestedQuantization`."""
        return signed_levels(bits)

    def create_weights(self, scale_shape, levels):
        """Make the weights for one parameter, by `add_own_weight`; called when its nested layer is built."""

    def add_own_weight(self, name, shape, initializer, **kwargs):
        """Add a weight for one parameter; the arguments are those of `add_weight`.

        Raises:
            ValueError: if it is there, since two layers were given the same rounding.
        """
        if name in [weight.name for weight in self.weights]:
            raise ValueError(
                f"Each `lqs.NestedQuantization` needs an `lqs.{type(self).__name__}` of its own. "
                "Received: one for two layers"
            )
        return self.add_weight(name=name, shape=shape, initializer=initializer, **kwargs)

    def initialize(self, parameter, scale, axes, levels):
        """Give own weights values by the initial ones of the parameter."""

    def update(self, parameter, scale, axes, levels):
        """Give own weights new values in a training step, if they do not learn by gradients."""

    def noise(self, parameter):
        """Return random numbers for one training step, or `None`."""
        return None

    def integers(self, parameter, scale, axes, levels, noise=None):
        """Return `P_q`, as floats.

        Args:
            parameter: float tensor `P`.
            scale: positive float tensor `s`, broadcastable to `P`.
            axes: axes along which elements share one scale.
            levels: what `levels` returned.
            noise: what `noise` returned in training, `None` in evaluation. Integers are needed in evaluation alone.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `integers`.")

    def values(self, integers, parameter, scale, axes, levels):
        """Return what the integers stand for in units of the scale, `P_r / s`: by default themselves.

        Its gradient reaches the weights of the rounding, and the parameter, in addition to `parameter_gradient`.
        """
        return integers

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        """Return the gradient of `P` from that of `P_r`: the straight-through estimator, 0 where clipped."""
        if levels is None:
            return upstream
        return ops.where(is_within(ops.divide(parameter, scale), levels), upstream, ops.zeros_like(upstream))

    def parameter_of(self, integers, scale, levels):
        """Return NumPy's array of a parameter with these integers, far from where others begin."""
        return integers.astype(scale.dtype) * scale


class _Named(Rounding):
    """The rounding that a name stands for."""

    def integers(self, parameter, scale, axes, levels, noise=None):
        return to_integers(parameter, scale, self.name, levels)

    def parameter_of(self, integers, scale, levels):
        shift = 0.5 if self.name == "floor" else 0.0
        return (integers.astype(scale.dtype) + np.asarray(shift, scale.dtype)) * scale


_NAMED = {name: _Named(name=name) for name in ROUNDINGS}


def get_rounding(rounding):
    """Return the `Rounding` that `rounding`, a name or already one, stands for."""
    return _NAMED[rounding] if isinstance(rounding, str) else rounding


def validate_rounding(rounding):
    """Return `rounding` if it names a rounding, or is one.

    Raises:
        ValueError: if it does not.
    """
    if isinstance(rounding, Rounding) or (isinstance(rounding, str) and rounding in ROUNDINGS):
        return rounding
    raise ValueError(
        f"Argument `rounding` must be one of {tuple(ROUNDINGS)} or an `lqs.Rounding`. Received: rounding={rounding!r}"
    )


class _Binary(Rounding):
    """Base of the roundings to the sign, 1 for zero."""

    def levels(self, bits):
        return levels_of_one(self, bits)

    def integers(self, parameter, scale, axes, levels, noise=None):
        is_positive = ops.cast(ops.greater_equal(parameter, 0), parameter.dtype)
        return ops.subtract(ops.multiply(2.0, is_positive), 1.0)


@keras.saving.register_keras_serializable("lqs")
class BinaryConnect(_Binary):
    """BinaryConnect: the sign, of parameters that stay within the scale (Courbariaux et al. 2015, arXiv 1511.00363).

    The paper applies the gradient of `P_r` to `P` and then clips `P`. That is to leave out the gradients that lead an
    element further beyond the scale, as here: a layer does not own its parameter. The scale is fixed, 1 in the paper:

        NestedQuantization(rule=lqs.Frozen(), rounding=lqs.BinaryConnect(), initial_scale=1.0)
    """

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        is_beyond = ops.greater_equal(ops.abs(parameter), scale)
        leads_out = ops.less(ops.multiply(upstream, parameter), 0)  # a step is against the gradient
        return ops.where(ops.logical_and(is_beyond, leads_out), ops.zeros_like(upstream), upstream)


@keras.saving.register_keras_serializable("lqs")
class XnorNet(_Binary):
    """XNOR-Net's weights: the sign, times the mean magnitude (Rastegari et al. 2016, arXiv 1603.05279).

    With `n` elements that share the scale `s = mean(abs(P))`, the paper's gradient is

        dL/dP = dL/dP_r (1 / n + s 1[abs(P) <= 1])

    The paper has one scale for each filter:

        NestedQuantization("filter", rule=lqs.Measured("mean"), rounding=lqs.XnorNet())
    """

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        num_sharing = math.prod(parameter.shape[axis] for axis in axes)
        is_inside = ops.cast(ops.less_equal(ops.abs(parameter), 1), parameter.dtype)
        return ops.multiply(upstream, ops.add(1 / num_sharing, ops.multiply(scale, is_inside)))


@keras.saving.register_keras_serializable("lqs")
class TernaryWeights(Rounding):
    """Ternary weight networks: the sign where `P` is large, else 0 (Li, Zhang and Liu 2016, arXiv 1605.04711).

    Large is `abs(P) > 0.7 mean(abs(P))` over the elements that share a scale, which is the mean of the large ones; the
    gradient of `P_r` is applied to `P`:

        NestedQuantization(rule=lqs.Measured("ternary"), rounding=lqs.TernaryWeights())
    """

    def levels(self, bits):
        return levels_of_one(self, bits)

    def integers(self, parameter, scale, axes, levels, noise=None):
        return ops.multiply(ops.sign(parameter), ops.cast(is_large(parameter, axes), parameter.dtype))

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        return upstream


@keras.saving.register_keras_serializable("lqs")
class DoReFa(Rounding):
    """DoReFa's weights: uniform levels of `tanh(P)` (Zhou et al. 2016, arXiv 1606.06160).

    With `n = 2**bits - 1` and the maximum `m` of `abs(tanh(P))` over the elements that share a scale,

        P_q = 2 round(n (tanh(P) / (2 m) + 1 / 2)) - n      odd integers from -n to n
        dL/dP = dL/dP_r s n (1 - tanh(P)**2) / m            with m as a constant

    In the paper `P_r` reaches from -1 to 1, hence `s = 1 / n`, and batch normalization follows. In a network without,
    `initial_scale="max"` keeps the range of the initial values:

        NestedQuantization(rule=lqs.Frozen(), rounding=lqs.DoReFa(), bits=4, initial_scale="max")
    """

    def levels(self, bits):
        required_levels(self, bits)
        return 1 - 2**bits, 2**bits - 1

    def integers(self, parameter, scale, axes, levels, noise=None):
        squashed = ops.tanh(parameter)
        share = ops.add(ops.divide(squashed, ops.multiply(2.0, _largest(squashed, axes))), 0.5)
        return ops.subtract(ops.multiply(2.0, ops.round(ops.multiply(share, levels[1]))), levels[1])

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        squashed = ops.tanh(parameter)
        slope = ops.divide(ops.subtract(1.0, ops.square(squashed)), _largest(squashed, axes))
        return ops.multiply(upstream, ops.multiply(slope, ops.multiply(scale, levels[1])))

    def parameter_of(self, integers, scale, levels):
        return np.arctanh(integers / (2 * levels[1])).astype(scale.dtype)  # any maximum will do: here tanh is 1/2


@keras.saving.register_keras_serializable("lqs")
class QIL(Rounding):
    """QIL: rounds within an interval of magnitudes that is learned (Jung et al. 2019, arXiv 1808.05779).

    With the highest integer `n = 2**(bits - 1) - 1`, the magnitude `x = abs(P) / (s n)`, and for each scale a centre
    `c` and a half width `d` of the interval,

        u = clip(0.5 (x - c) / d + 0.5, 0, 1)       0 is pruned, 1 clipped
        P_q = round(n u) sign(P)                    -n to n

    and, within the interval and 0 outside,

        dL/dP = dL/dP_r 0.5 / d
        dL/dc = -sum(dL/dP_r sign(P) s n 0.5 / d)
        dL/dd = -sum(dL/dP_r sign(P) s n 0.5 (x - c) / d**2)

    This is the paper's transformation with its exponent at 1. In the paper `P_r` reaches from -1 to 1, hence
    `s = 1 / n`, and batch normalization follows. In a network without, `initial_scale="max"` keeps the range of the
    initial values:

        NestedQuantization(rule=lqs.Frozen(), rounding=lqs.QIL(), bits=4, initial_scale="max")

    Example: `x` is 1/8, 1/2 and 1; the interval reaches from 1/4 to 3/4.

    >>> rounding = QIL()
    >>> rounding.create_weights((1,), rounding.levels(3))
    >>> _ = rounding.half_width.assign([0.25])
    >>> parameter, one = np.array([0.375, -1.5, 3.0], "float32"), np.ones(1, "float32")
    >>> np.asarray(rounding.integers(parameter, one, (0,), (-3, 3))).tolist()
    [0.0, -2.0, 3.0]
    """

    def levels(self, bits):
        highest = required_levels(self, bits)[1]
        return -highest, highest

    def create_weights(self, scale_shape, levels):
        half = keras.initializers.Constant(0.5)
        constraint = MinValue(MIN_HALF_WIDTH)
        self.center = self.add_own_weight("center", scale_shape, half)
        self.half_width = self.add_own_weight("half_width", scale_shape, half, constraint=constraint)

    def integers(self, parameter, scale, axes, levels, noise=None):
        return ops.round(self._transformed(parameter, scale, levels))

    def values(self, integers, parameter, scale, axes, levels):
        return with_gradient(integers, self._transformed(parameter, scale, levels))

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        return ops.zeros_like(upstream)  # it is that of `values`

    def parameter_of(self, integers, scale, levels):
        """Return the middle of the part of each bin that magnitudes reach: that of an integer but 0 may begin at 0."""
        center, half_width = (np.asarray(weight, scale.dtype) for weight in (self.center, self.half_width))
        with np.errstate(all="ignore"):
            magnitude, half_bin = np.abs(integers) / levels[1], 0.5 / levels[1]
            highest, lowest = (center + half_width * (2 * (magnitude + k * half_bin) - 1) for k in (1, -1))
            middle = 0.5 * (highest + np.maximum(lowest, 0))
            return (np.sign(integers) * middle * levels[1] * scale).astype(scale.dtype)

    def _transformed(self, parameter, scale, levels):
        """Return `n u sign(P)`, not rounded yet."""
        center, half_width = (ops.cast(weight, parameter.dtype) for weight in (self.center, self.half_width))
        sign = ops.sign(parameter)
        magnitude = ops.divide(ops.multiply(sign, parameter), ops.multiply(scale, levels[1]))
        position = ops.add(ops.divide(ops.multiply(0.5, ops.subtract(magnitude, center)), half_width), 0.5)
        return ops.multiply(sign, ops.multiply(ops.clip(position, 0, 1), levels[1]))


class _Noisy(Rounding):
    """Base of the roundings that are random in training, and to nearest in evaluation."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def noise(self, parameter):
        return keras.random.uniform(ops.shape(parameter), dtype=parameter.dtype, seed=self.seed_generator)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("lqs")
class StochasticRounding(_Noisy):
    """In training, up with the probability of the fraction (Gupta et al. 2015, arXiv 1502.02551).

        P_q = floor(P / s + u), with u uniform from 0 to 1      so that the mean of P_q is P / s

    In evaluation, to nearest.

    Args:
        seed: of the random numbers; `None` for one by the global seed, another one in every copy.
    """

    def integers(self, parameter, scale, axes, levels, noise=None):
        if noise is None:
            return to_integers(parameter, scale, "nearest", levels)
        integers = ops.floor(ops.add(ops.divide(parameter, scale), noise))
        return integers if levels is None else ops.clip(integers, *levels)


@keras.saving.register_keras_serializable("lqs")
class QuantNoise(_Noisy):
    """Quant-Noise: in training, only some elements are rounded at each step (Fan et al. 2021, arXiv 2004.07320).

    Which ones is drawn anew; the others keep their value, and all have the gradient of `P_r`. In evaluation, all are
    rounded to nearest.

    Args:
        probability: share of the elements that are rounded; at 1, training is that of rounding to nearest. Kept as the
            non-trainable weight `probability`.
        seed: of the random numbers; `None` for one by the global seed, another one in every copy.

    Raises:
        ValueError: if the probability is not a number from 0 to 1.
    """

    def __init__(self, probability=0.5, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self._initial_probability = validate_strength("probability", probability)
        if self._initial_probability > 1:
            raise ValueError(f"Argument `probability` must be at most 1. Received: probability={probability!r}")
        self.probability = add_strength(self, "probability", probability)

    def integers(self, parameter, scale, axes, levels, noise=None):
        integers = to_integers(parameter, scale, "nearest", levels)
        if noise is None:
            return integers
        is_rounded = ops.less(noise, ops.cast(self.probability, noise.dtype))
        return ops.where(is_rounded, integers, ops.divide(parameter, scale))

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        return upstream

    def get_config(self):
        return {**super().get_config(), "probability": self._initial_probability}


def with_gradient(values, straight):
    """Return `values`, bit for bit, with the gradient of `straight` besides their own: the straight-through estimator.

    Example:

    >>> import numpy as np
    >>> np.asarray(with_gradient(np.array([1.0, 2.0]), np.array([0.1, 0.7]))).tolist()
    [1.0, 2.0]
    """
    return ops.add(values, ops.subtract(straight, ops.stop_gradient(straight)))


def required_levels(rounding, bits):
    """Return the `signed_levels` of a rounding that needs `bits`.

    Raises:
        ValueError: if `bits` is `None`, or not as of `signed_levels`.
    """
    if signed_levels(bits) is None:
        raise ValueError(f"Argument `bits` must be given, for `lqs.{type(rounding).__name__}`. Received: bits=None")
    return signed_levels(bits)


def levels_of_one(rounding, bits):
    """Return the levels -1 to 1 of a rounding without `bits`.

    Raises:
        ValueError: if `bits` is not `None`.
    """
    if bits is not None:
        raise ValueError(f"Argument `bits` must be None, for `lqs.{type(rounding).__name__}`. Received: bits={bits!r}")
    return -1, 1


def _largest(squashed, axes):
    return ops.maximum(ops.max(ops.abs(squashed), axis=axes, keepdims=True), FLOAT32_EPSILON)
