"""Scale-update rules: which gradient the scale factor of a nested quantization layer receives.

A rule is a plug-in: a `Rule`, or a pure function of five tensors and axes,

    rule(upstream, parameter, integers, scale, axes) -> gradient with the shape of `scale`

where `upstream` is the gradient of the loss with respect to the reconstructed parameter `P_r = P_q * s`, and `axes` are
the axes along which elements share one scale. Pass it as `lqs.NestedQuantization(rule=...)`.
"""

import math

import keras
from keras import ops

from lqs.parts import Levels, Part
from lqs.reductions import is_for_one_pass, maximum, num_replicas, sum_and_max_of_tanh, sum_over_replicas
from lqs.rounding import is_within
from lqs.scales import FLOAT32_EPSILON, MEASURES, validate_measure
from lqs.strengths import add_strength, strength_value, validate_strength

DEFAULT_THRESHOLD = 1e-10


def sensitivity_ratio(upstream, reconstructed):
    """Return `r = abs(dL/dP_r) / max(eps, abs(P_r))`, elementwise, with `eps = 2**-23` (thesis, section 3.1).

    Example:

    >>> import numpy as np
    >>> np.asarray(sensitivity_ratio(np.array([1.0, -1.0]), np.array([4.0, 0.0]))).tolist()
    [0.25, 8388608.0]
    """
    return ops.abs(upstream) / ops.maximum(ops.abs(reconstructed), FLOAT32_EPSILON)


def gradient_ratio(upstream, parameter, integers, scale, axes, threshold, update_stalled=False):
    """Return the thesis's gradient of the scale: the mean vote of its elements times their range.

    With `r` the `sensitivity_ratio` and `lam` the threshold, per element and per scale

        g = 0 if r >= lam else -tanh(lam - r)
        gradient = mean(g) * max(abs(P_q))

    which is never positive: an optimizer only ever raises the scale, until the elements vote "sensitive".

    Args:
        upstream: gradient of the loss with respect to `P_r`, of the shape of `P`.
        parameter: `P`; not used by this rule.
        integers: `P_q`, as floats.
        scale: `s`, broadcastable to `P`.
        axes: axes along which elements share one scale.
        threshold: `lam`, a non-negative scalar.
        update_stalled: if true, a scale whose elements are all sensitive (`r >= lam`) receives
            `-tanh(lam) * max(abs(P_q))` instead of 0 (the submitted version of the thesis).

    Returns:
        Tensor of the shape of `scale`.

    Example: the first of two rows votes, the second is sensitive throughout.

    >>> import numpy as np
    >>> upstream = np.array([[0.0, 8.0], [8.0, 8.0]], "float32")
    >>> integers = np.array([[2.0, 4.0], [1.0, 1.0]], "float32")
    >>> scale = np.ones((2, 1), "float32")
    >>> np.asarray(gradient_ratio(upstream, integers, integers, scale, (1,), 0.5), "float64").round(4).tolist()
    [[-0.9242], [0.0]]
    """
    take = _in_one_pass if is_for_one_pass(integers, axes) else _mean_and_largest
    mean_vote, largest = take(upstream, integers, scale, axes, threshold)
    if update_stalled:
        mean_vote = ops.where(mean_vote == 0.0, -ops.tanh(threshold), mean_vote)
    return mean_vote * largest


def _mean_and_largest(upstream, integers, scale, axes, threshold):
    """Return the mean vote and the largest integer in magnitude of each scale."""
    magnitude = ops.abs(integers)
    votes = ops.tanh(_capped_difference(upstream, magnitude * scale, threshold))
    return ops.mean(votes, axis=axes, keepdims=True), maximum(magnitude, axes)


def _in_one_pass(upstream, integers, scale, axes, threshold):
    """Return the same from `P_r`, which the forward pass has written; see `lqs.reductions`."""
    reconstructed = integers * scale

    def terms():
        return _capped_difference(upstream, reconstructed, threshold), ops.abs(reconstructed)

    total, largest = sum_and_max_of_tanh(terms, threshold)
    *others, _ = axes
    total, largest = ops.sum(total, axis=others, keepdims=True), ops.max(largest, axis=others, keepdims=True)
    # An integer up to 2**21 differs from its quotient by less than this; others are values of a codebook.
    quotient = largest / scale
    integer = ops.round(quotient)
    largest = ops.where(ops.abs(quotient - integer) <= 2.0**-22 * quotient, integer, quotient)
    return total / math.prod(upstream.shape[axis] for axis in axes), largest


def _capped_difference(upstream, reconstructed, threshold):
    """Return `min(r - lam, 0)`. As `tanh` is odd, its `tanh` is the vote in both cases: 0 where `r >= lam`."""
    return ops.minimum(sensitivity_ratio(upstream, reconstructed) - threshold, 0.0)


def straight_through(upstream, parameter, integers, scale, axes, levels=None):
    """Return the straight-through gradient of the scale (LSQ, Esser et al. 2020, arXiv 1902.08153, eq. 3).

    With `v = P / s`, summed over the elements that share a scale:

        dP_r/ds = P_q - v      where lowest <= v <= highest (everywhere if `levels` is None)
                = lowest       where v < lowest
                = highest      where v > highest

    Example: one scale, rounding down 0.75 and 0.5 to 0 at s = 1.

    >>> import numpy as np
    >>> parameter = np.array([0.75, 0.5], "float32")
    >>> one = np.ones(1, "float32")
    >>> np.asarray(straight_through(np.ones(2, "float32"), parameter, 0 * parameter, one, (0,))).tolist()
    [-1.25]
    """
    ratio = parameter / scale
    slope = integers - ratio
    if levels is not None:
        slope = ops.where(is_within(ratio, levels), slope, ops.clip(ratio, *levels))
    return ops.sum(upstream * slope, axis=axes, keepdims=True)


def fisher_information(upstream, parameter, integers, scale, axes, threshold):
    """Return the gradient of a scale that weighs what rounding costs the loss against the bits that it saves.

    To second order, an error `e = P - P_r` raises the loss by `F e**2 / 2`, where the empirical Fisher information
    `F = (dL/dP_r)**2` stands for the second derivative (optimal brain damage, LeCun et al. 1990; Theis et al. 2018,
    arXiv 1801.05787). Errors grow with the scale, and codes shorten by its logarithm. Per scale, with means over the
    elements that share it,

        J(s) = mean(F e**2) / 2 - lam * ln(s)
        gradient = (mean(F e**2) - lam) / s

    so that an optimizer raises the scale while `mean(F e**2) < lam`, and lowers it beyond. Where the integers are at
    most two neighbours, a larger scale saves nothing, and `lam` counts as 0.

    Args:
        upstream: gradient of the loss with respect to `P_r`, of the shape of `P`.
        parameter: `P`.
        integers: `P_q`, as floats.
        scale: `s`, broadcastable to `P`.
        axes: axes along which elements share one scale.
        threshold: `lam`, a non-negative scalar.

    Returns:
        Tensor of the shape of `scale`.

    Example: errors of 0.5 cost 0.25 where the gradient is 1, and nothing where it is 0.

    >>> import numpy as np
    >>> upstream = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], "float32")
    >>> integers = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], "float32")
    >>> scale = np.ones((2, 1), "float32")
    >>> np.asarray(fisher_information(upstream, integers + 0.5, integers, scale, (1,), 0.125)).tolist()
    [[0.125], [-0.125]]
    """
    error = parameter - integers * scale
    cost = ops.mean(ops.square(upstream * error), axis=axes, keepdims=True)
    spread = ops.max(integers, axis=axes, keepdims=True) - ops.min(integers, axis=axes, keepdims=True)
    return (cost - ops.where(spread > 1.0, threshold, ops.zeros_like(cost))) / scale


class Rule(Part):
    """Base of the rules that carry configuration.

    A subclass implements `scale_gradient` and, if it has arguments, `get_config`. The axes along which elements share a
    scale are `self.axes`, the `Levels` are `self.levels`.

    Example: a rule in a few lines, by which a scale follows the sign of the straight-through gradient.

    >>> @keras.saving.register_keras_serializable("docs")
    ... class SignRule(Rule):
    ...     def scale_gradient(self, upstream, parameter, integers, scale):
    ...         return ops.sign(straight_through(upstream, parameter, integers, scale, self.axes))
    """

    def scale_gradient(self, upstream, parameter, integers, scale):
        """Return the gradient of `scale`, with its shape; the arguments are those of `gradient_ratio`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `scale_gradient`.")


class FunctionRule(Rule):
    """The rule that a function `(upstream, parameter, integers, scale, axes) -> gradient` stands for."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def scale_gradient(self, upstream, parameter, integers, scale):
        return self.function(upstream, parameter, integers, scale, self.axes)


@keras.saving.register_keras_serializable("lqs")
class GradientRatio(Rule):
    """The thesis's rule: scales grow while the parameters' gradients are small relative to the parameters.

    See `gradient_ratio` for the equations. Under Adam only the ratio of this gradient to Adam's `epsilon`
    matters, so a useful threshold moves with the optimizer's `epsilon`. The rule compares gradients with a threshold,
    and so does not go with the loss scaling of the policy `mixed_float16`, under which all would seem large: train
    in `float32` or `mixed_bfloat16`.

    Args:
        threshold: `lam >= 0`; larger means coarser. Kept as the non-trainable weight `threshold`.
        update_stalled: `False` is the thesis draft's rule, `True` that of the published experiments: scales
            whose elements are all sensitive still grow.

    Raises:
        ValueError: if the threshold is negative, not finite, or not a number.

    Example:

    >>> GradientRatio(1e-10).get_config()["threshold"]
    1e-10
    """

    def __init__(self, threshold=DEFAULT_THRESHOLD, update_stalled=False, **kwargs):
        super().__init__(**kwargs)
        threshold = validate_strength("threshold", threshold)
        if not isinstance(update_stalled, bool):
            raise ValueError(f"Argument `update_stalled` must be a bool. Received: {update_stalled!r}")
        self.update_stalled = update_stalled
        self.threshold = add_strength(self, "threshold", threshold)

    def scale_gradient(self, upstream, parameter, integers, scale):
        threshold = ops.convert_to_tensor(self.threshold)
        # The vote is not linear in the gradient: it is that of the whole batch. TensorFlow adds up those of replicas.
        upstream = sum_over_replicas(upstream)
        gradient = gradient_ratio(upstream, parameter, integers, scale, self.axes, threshold, self.update_stalled)
        return gradient if num_replicas() == 1 else gradient / num_replicas()

    def get_config(self):
        config = {"threshold": strength_value(self.threshold), "update_stalled": self.update_stalled}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("lqs")
class FisherInformation(Rule):
    """Scales grow until the loss feels their rounding errors, by the empirical Fisher information.

    See `fisher_information` for the equations. The information is that of one batch; the optimizer averages the
    gradient over steps. Unlike by `GradientRatio`, a scale can fall again, and where it rests does not depend on Adam's
    `epsilon`. Like that rule, it does not go with the loss scaling of the policy `mixed_float16`.

    Args:
        threshold: `lam >= 0`, what an element's rounding error may cost; larger means coarser. Kept as the
            non-trainable weight `threshold`.

    Raises:
        ValueError: if the threshold is negative, not finite, or not a number.

    Example:

    >>> FisherInformation(1e-6).get_config()["threshold"]
    1e-06
    """

    def __init__(self, threshold, **kwargs):
        super().__init__(**kwargs)
        self.threshold = add_strength(self, "threshold", validate_strength("threshold", threshold))

    def scale_gradient(self, upstream, parameter, integers, scale):
        # Squares are not linear in the gradient: it is that of the whole batch, as in `GradientRatio`.
        upstream, threshold = sum_over_replicas(upstream), ops.convert_to_tensor(self.threshold)
        return fisher_information(upstream, parameter, integers, scale, self.axes, threshold) / num_replicas()

    def get_config(self):
        return {**super().get_config(), "threshold": strength_value(self.threshold)}


@keras.saving.register_keras_serializable("lqs")
class StraightThrough(Rule):
    """The true straight-through gradient of the scale, as in LSQ (Esser et al. 2020, arXiv 1902.08153).

    See `straight_through` for the equation.

    Args:
        normalize: if true, multiply by LSQ's gradient scale `1 / sqrt(N * highest)`, with `N` the number of
            elements that share the scale and `highest` the highest level (1 if the layer has no `bits`).

    Example:

    >>> StraightThrough(normalize=True).normalize
    True
    """

    def __init__(self, normalize=False, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(normalize, bool):
            raise ValueError(f"Argument `normalize` must be a bool. Received: normalize={normalize!r}")
        self.normalize = normalize

    def scale_gradient(self, upstream, parameter, integers, scale):
        gradient = straight_through(upstream, parameter, integers, scale, self.axes, self.levels)
        if not self.normalize:
            return gradient
        num_sharing = math.prod(self.shape[axis] for axis in self.axes)
        highest = 1 if self.levels is None else self.levels.highest
        return gradient * (1.0 / math.sqrt(num_sharing * highest))

    def get_config(self):
        return {**super().get_config(), "normalize": self.normalize}


@keras.saving.register_keras_serializable("lqs")
class Frozen(Rule):
    """No task gradient for the scale: it stays, unless a penalty moves it (thesis, section 3.2).

    Equal to `GradientRatio(0)`, without computing the votes.
    """

    def scale_gradient(self, upstream, parameter, integers, scale):
        return ops.zeros_like(scale)


@keras.saving.register_keras_serializable("lqs")
class Measured(Rule):
    """No gradient for the scale: it is measured on the parameter at every training step.

    As a moving statistic of batch normalization, the scale is then a non-trainable weight, which training assigns, and
    evaluation and files use as it is. Until the first step it is that of the initial values.

    Args:
        measure: `"max"` (min-max, Jacob et al. 2018), `"mean"` (XNOR-Net, Rastegari et al. 2016) or `"ternary"` (TWN,
            Li et al. 2016); see `lqs.scales`.

    Raises:
        ValueError: if the measure is unknown.

    Example:

    >>> Measured("mean").get_config()["measure"]
    'mean'
    """

    def __init__(self, measure="max", **kwargs):
        super().__init__(**kwargs)
        validate_measure("measure", measure, Levels(-1, 1))
        self.measure = measure

    def validate_levels(self, levels):
        validate_measure("measure", self.measure, levels)

    def measured_scale(self, parameter):
        return MEASURES[self.measure](parameter, self.axes, self.levels)

    def scale_gradient(self, upstream, parameter, integers, scale):
        return ops.zeros_like(scale)

    def get_config(self):
        return {**super().get_config(), "measure": self.measure}


def as_rule(rule):
    """Return the `Rule` that `rule`, one already or a function, stands for.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(rule, Rule):
        return rule
    if callable(rule) and not isinstance(rule, type):
        return FunctionRule(rule)
    raise ValueError(
        "Argument `rule` must be an `lqs.Rule` such as `lqs.GradientRatio(1e-10)`, or a function "
        f"`(upstream, parameter, integers, scale, axes) -> gradient`. Received: rule={rule!r}"
    )
