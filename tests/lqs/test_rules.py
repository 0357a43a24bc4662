"""Rules: gradients of the scale against NumPy float64 loops over groups; plug-ins, configuration, errors."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from oracles import BAD_STRENGTHS, CASES, drawn, fisher_by_loops, ratio_by_loops, straight_by_loops

import lqs
from lqs.parts import Levels
from lqs.reductions import is_for_one_pass
from lqs.rules import (
    FisherInformation,
    FunctionRule,
    Measured,
    _in_one_pass,
    _mean_and_largest,
    as_rule,
    gradient_ratio,
    sensitivity_ratio,
    straight_through,
)
from lqs.strengths import strength_value

WAYS = _mean_and_largest, _in_one_pass


def applied(rule, upstream, parameter, integers, scale, axes, levels=None):
    rule.build(parameter.shape, axes, levels)
    arrays = [ops.convert_to_tensor(array) for array in (upstream, parameter, integers, scale)]
    return ops.convert_to_numpy(rule.scale_gradient(*arrays))


@pytest.mark.parametrize("stalled", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 1e-3, 0.1, 0.7, 30.0])
@pytest.mark.parametrize("shape, varying, sharing", CASES)
def test_gradient_ratio(shape, varying, sharing, threshold, stalled):
    upstream, parameter, integers, scale = drawn(shape, varying)
    rule = lqs.GradientRatio(threshold, update_stalled=stalled)
    expected = ratio_by_loops(upstream, integers, scale, varying, threshold, stalled)
    result = applied(rule, upstream, parameter, integers, scale, sharing)
    assert result.shape == scale.shape and (result <= 0).all()
    np.testing.assert_allclose(result, expected, rtol=2e-4, atol=1e-6)
    if threshold == 0:
        np.testing.assert_array_equal(result, 0)


def test_gradient_ratio_cases_differ():
    """The draws above reach groups with no vote, some votes and only votes, so that both variants are told apart."""
    upstream, _, integers, scale = drawn((4, 3), (0, 1))
    plain, stalled = (ratio_by_loops(upstream, integers, scale, (0, 1), 0.1, s) for s in (False, True))
    assert (plain != stalled).any() and (plain < 0).any()


def test_function_is_not_stalled_by_default():
    one = ops.ones(1)
    assert float(gradient_ratio(one, one, one, one, (0,), 0.5)[0]) == 0


@pytest.mark.parametrize("stalled", [False, True])
def test_all_sensitive_rows(stalled):
    # Row 0: r = 4 / 2 and 9 / 3, both >= 0.5. Row 1: r = 0.25 votes -tanh(0.25), r = 1 does not; max |P_q| is 4.
    upstream = np.array([[4.0, 9.0], [1.0, 1.0]], "float32")
    integers = np.array([[2.0, -3.0], [-4.0, 1.0]], "float32")
    rule = lqs.GradientRatio(0.5, update_stalled=stalled)
    result = applied(rule, upstream, integers, integers, np.ones((2, 1), "float32"), (1,))
    expected = [[-3 * math.tanh(0.5) if stalled else 0.0], [-math.tanh(0.25) / 2 * 4]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("stalled", [False, True])
def test_ratio_equal_to_threshold_is_sensitive(stalled):
    one = np.ones((1,), "float32")
    result = applied(lqs.GradientRatio(0.5, update_stalled=stalled), 0.5 * one, one, one, one, (0,))
    np.testing.assert_allclose(result, [-math.tanh(0.5) if stalled else 0.0], rtol=1e-6)


@pytest.mark.parametrize("stalled", [False, True])
@pytest.mark.parametrize("upstream", [0.0, 1e-9, 1.0])
def test_zero_parameters_give_finite_zero(upstream, stalled):
    """The range of an all-zero group is 0, and so is its gradient, whatever the votes."""
    zero, one = np.zeros((2, 3), "float32"), np.ones((2, 1), "float32")
    rule = lqs.GradientRatio(0.1, update_stalled=stalled)
    np.testing.assert_array_equal(applied(rule, zero + np.float32(upstream), zero, zero, one, (1,)), 0 * one)


def test_zero_parameter_beside_others():
    # |P_r| = 0 is replaced by 2**-23: r = 2**-24 / 2**-23 = 0.5 < 1 votes -tanh(0.5); the other, r = 8 / 4, none.
    upstream, integers = np.array([2.0**-24, 8.0], "float32"), np.array([0.0, 4.0], "float32")
    result = applied(lqs.GradientRatio(1.0), upstream, integers, integers, np.ones(1, "float32"), (0,))
    np.testing.assert_allclose(result, [-math.tanh(0.5) / 2 * 4], rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone has another way for large rows")
@pytest.mark.parametrize("threshold", [1e-10, 0.3])
def test_large_rows_have_the_same_mean_and_exactly_the_same_maximum(threshold, rng):
    upstream = (rng.normal(size=(64, 128)) * 10.0 ** rng.integers(-12, 1, (64, 128))).astype("float32")
    scale = rng.uniform(0.001, 3, (64, 1)).astype("float32")
    limits = rng.integers(1, 2 ** rng.integers(1, 21, (64, 1)) + 1)
    integers = rng.integers(-limits, limits + 1, (64, 128)).astype("float32")
    assert is_for_one_pass(ops.convert_to_tensor(integers), (1,))
    for values in (integers, (integers + 0.375) / 1.25):  # also those of a codebook
        arguments = [ops.convert_to_tensor(array) for array in (upstream, values, scale)]
        plain, quick = ([np.asarray(a) for a in way(*arguments, (1,), threshold)] for way in WAYS)
        np.testing.assert_allclose(quick[0], plain[0], rtol=1e-5, atol=0)
        np.testing.assert_allclose(quick[1], plain[1], rtol=0 if values is integers else 3e-7)
    rule = lqs.GradientRatio(threshold, update_stalled=True)
    result = applied(rule, upstream, integers, integers, scale, (1,))
    expected = ratio_by_loops(upstream, integers, scale, (0,), threshold, True)
    np.testing.assert_allclose(result, expected, rtol=2e-4)


def test_sensitivity_ratio():
    upstream, reconstructed = np.array([-3.0, 0.0, 2.0**-23], "float32"), np.array([-2.0, 5.0, 0.0], "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(sensitivity_ratio(upstream, reconstructed)), [1.5, 0, 1])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("shape, varying, sharing", CASES)
def test_fisher_information(shape, varying, sharing, threshold):
    upstream, parameter, integers, scale = drawn(shape, varying)
    expected = fisher_by_loops(upstream, parameter, integers, scale, varying, threshold)
    result = applied(FisherInformation(threshold), upstream, parameter, integers, scale, sharing)
    assert result.shape == scale.shape
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_scale_finds_the_error_that_the_threshold_allows():
    """Where all gradients are 2, the mean of the squared errors becomes `lam / 4`, from either side."""
    threshold, parameter = 0.04, np.linspace(-3, 3, 1001).astype("float32")
    for scale in (0.02, 1.5):
        for _ in range(300):
            integers = np.floor(parameter / scale)
            one = np.full(1, scale, "float32")
            gradient = applied(FisherInformation(threshold), 2 + 0 * parameter, parameter, integers, one, (0,))
            scale -= 0.1 * float(gradient[0])
        assert np.mean((parameter - integers * scale) ** 2) == pytest.approx(threshold / 4, rel=0.05)


@pytest.mark.parametrize("rounding", ["floor", "nearest"])
def test_scale_of_elements_without_a_gradient_ends_at_two_integers(rounding):
    parameter = np.array([-0.9, -0.2, 0.5], "float32")
    grown = []
    for scale in (0.01, 0.3, 0.95, 4.0):
        integers = np.floor(parameter / scale) if rounding == "floor" else np.round(parameter / scale)
        one = np.full(1, scale, "float32")
        gradient = applied(FisherInformation(0.1), 0 * parameter, parameter, integers, one, (0,))
        grown.append(bool(gradient[0] < 0))
    assert grown == [True, True, rounding == "nearest", False]


@pytest.mark.parametrize("levels", [None, Levels(-4, 3)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shape, varying, sharing", CASES)
def test_straight_through(shape, varying, sharing, normalize, levels):
    upstream, parameter, integers, scale = drawn(shape, varying)
    rule = lqs.StraightThrough(normalize=normalize)
    clipped = integers if levels is None else np.clip(integers, *levels)
    expected = straight_by_loops(upstream, parameter, clipped, scale, varying, levels)
    if normalize:
        expected /= math.sqrt(upstream.size / scale.size * (1 if levels is None else 3))
    result = applied(rule, upstream, parameter, clipped, scale, sharing, levels)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_straight_through_by_hand():
    # s = 0.5, levels (-2, 1), quotients -3, -1.5, 0.5, 4 -> slopes -2, floor(-1.5) + 1.5 = -0.5, -0.5, 1
    parameter = np.array([-1.5, -0.75, 0.25, 2.0], "float32")
    integers, upstream = np.array([-2.0, -2.0, 0.0, 1.0], "float32"), np.array([1.0, 2.0, 4.0, 8.0], "float32")
    half = np.full(1, 0.5, "float32")
    tensors = map(ops.convert_to_tensor, (upstream, parameter, integers, half))
    result = straight_through(*tensors, (0,), levels=(-2, 1))
    np.testing.assert_allclose(ops.convert_to_numpy(result), [-2 - 1 - 2 + 8])


def test_bounds_are_within_the_levels():
    """Quotients -2 and 1 are integers: what is rounded to nearest has slope 0 there, and is not clipped."""
    parameter = ops.convert_to_tensor([-2.0, 1.0])
    result = straight_through(ops.ones(2), parameter, parameter, ops.ones(1), (0,), levels=(-2, 1))
    assert ops.convert_to_numpy(result).tolist() == [0]


@pytest.mark.parametrize("rule", [lqs.Frozen(), Measured("mean")])
def test_no_gradient(rule):
    upstream, parameter, integers, scale = drawn((4, 3), (0,))
    np.testing.assert_array_equal(applied(rule, upstream, parameter, integers, scale, (1,)), 0 * scale)


# Rules of one's own.


@keras.saving.register_keras_serializable("test_rules")
class HalfStep(lqs.Rule):
    def __init__(self, factor=0.5, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def scale_gradient(self, upstream, parameter, integers, scale):
        return self.factor * ops.sum(upstream, axis=self.axes, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("test_rules")
def upstream_sum(upstream, parameter, integers, scale, axes):
    return ops.sum(upstream, axis=axes, keepdims=True)


@pytest.mark.parametrize("make, factor", [(lambda: HalfStep(0.25), 0.25), (lambda: upstream_sum, 1.0)])
def test_plug_in(make, factor, gradients):
    upstream, parameter, _, _ = drawn((4, 3), (1,))
    layer = lqs.NestedQuantization("column", rule=make())
    for instance in (layer, lqs.NestedQuantization.from_config(layer.get_config()), layer.copy()):
        _, scale_gradient = gradients(instance, parameter, upstream)
        np.testing.assert_allclose(scale_gradient, factor * upstream.sum(0, keepdims=True), rtol=1e-5, atol=1e-6)


def test_function_need_not_be_registered_to_be_copied():
    """Registration is for files, and for clones."""
    layer = lqs.NestedQuantization(rule=lambda upstream, parameter, integers, scale, axes: -ops.ones_like(scale))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    (_, quantizer), _ = lqs.inspection.quantized_parameters(lqs.quantize(model, layer, layer))
    assert quantizer.rule is layer.rule


def test_as_rule():
    rule = lqs.Frozen()
    assert as_rule(rule) is rule
    assert isinstance(as_rule(upstream_sum), FunctionRule) and as_rule(upstream_sum).function is upstream_sum


@pytest.mark.parametrize("rule", ["gradient_ratio", 3, None, lqs.GradientRatio, object()])
def test_unknown_rule(rule):
    with pytest.raises(ValueError, match="`rule` must be an `lqs.Rule`.*Received: rule="):
        as_rule(rule)
    if rule is not None:  # which stands for the default
        with pytest.raises(ValueError, match="`rule` must be an `lqs.Rule`.*Received: rule="):
            lqs.NestedQuantization(rule=rule)


# Configurations and errors.


@pytest.mark.parametrize(
    "rule",
    [
        lqs.GradientRatio(3e-9, update_stalled=True),
        FisherInformation(3e-9),
        lqs.StraightThrough(normalize=True),
        lqs.Frozen(),
        Measured("ternary"),
        HalfStep(0.1),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_configuration_round_trip(rule):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule))
    assert type(again) is type(rule) and again.get_config() == rule.get_config()
    assert [strength_value(weight) for weight in again.weights] == ([3e-9] if hasattr(rule, "threshold") else [])


def test_defaults():
    assert lqs.GradientRatio().get_config()["threshold"] == 1e-10 and not lqs.GradientRatio().update_stalled
    assert not lqs.StraightThrough().normalize and Measured().measure == "max"
    assert isinstance(lqs.NestedQuantization().rule, lqs.GradientRatio)


@pytest.mark.parametrize("value", BAD_STRENGTHS)
def test_bad_threshold(value):
    with pytest.raises(ValueError, match="`threshold` must be a finite number >= 0. Received: threshold="):
        lqs.GradientRatio(value)
    with pytest.raises(ValueError, match="`threshold` must be a finite number >= 0. Received: threshold="):
        FisherInformation(value)


def test_flags_must_be_bool():
    with pytest.raises(ValueError, match="`update_stalled` must be a bool"):
        lqs.GradientRatio(1e-10, update_stalled=1)
    with pytest.raises(ValueError, match="`normalize` must be a bool"):
        lqs.StraightThrough(normalize="yes")


@pytest.mark.parametrize("measure", ["min", None, ["max"], max])
def test_unknown_measure(measure):
    with pytest.raises(ValueError, match="`measure` must be one of .*'max'.*Received: measure="):
        Measured(measure)


def test_abstract_rule():
    with pytest.raises(NotImplementedError, match="Rule must implement `scale_gradient`"):
        lqs.Rule().scale_gradient(None, None, None, None)
