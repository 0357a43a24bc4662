"""Rules: gradients of the scale against NumPy float64 loops over groups; plug-ins, configuration, errors."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from oracles import BAD_STRENGTHS, CASES, drawn, ratio_by_loops, straight_by_loops

import lqs
from lqs.rules import get_rule, sensitivity_ratio, straight_through


def applied(rule, upstream, parameter, integers, scale, axes, levels=None):
    arrays = [ops.convert_to_tensor(array) for array in (upstream, parameter, integers, scale)]
    return ops.convert_to_numpy(get_rule(rule, levels)(*arrays, axes))


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


def test_sensitivity_ratio():
    upstream, reconstructed = np.array([-3.0, 0.0, 2.0**-23], "float32"), np.array([-2.0, 5.0, 0.0], "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(sensitivity_ratio(upstream, reconstructed)), [1.5, 0, 1])


@pytest.mark.parametrize("bits", [None, 3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shape, varying, sharing", CASES)
def test_straight_through(shape, varying, sharing, normalize, bits):
    upstream, parameter, integers, scale = drawn(shape, varying)
    levels = None if bits is None else (-4, 3)
    rule = lqs.StraightThrough(normalize=normalize)
    clipped = integers if bits is None else np.clip(integers, -4, 3)
    expected = straight_by_loops(upstream, parameter, clipped, scale, varying, levels)
    if normalize:
        expected /= math.sqrt(upstream.size / scale.size * (1 if bits is None else 3))
    result = applied(rule, upstream, parameter, clipped, scale, sharing, levels)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_straight_through_by_hand():
    # s = 0.5, levels (-2, 1), quotients -3, -1.5, 0.5, 4 -> slopes -2, floor(-1.5) + 1.5 = -0.5, -0.5, 1
    parameter = np.array([-1.5, -0.75, 0.25, 2.0], "float32")
    integers, upstream = np.array([-2.0, -2.0, 0.0, 1.0], "float32"), np.array([1.0, 2.0, 4.0, 8.0], "float32")
    half = np.full(1, 0.5, "float32")
    result = straight_through(upstream, parameter, integers, half, (0,), levels=(-2, 1))
    np.testing.assert_allclose(ops.convert_to_numpy(result), [-2 - 1 - 2 + 8])


def test_frozen():
    upstream, parameter, integers, scale = drawn((4, 3), (0,))
    np.testing.assert_array_equal(applied(lqs.Frozen(), upstream, parameter, integers, scale, (1,)), 0 * scale)


def test_a_rule_may_be_shared(gradients):
    """One rule in two layers: the levels of each hold for its own gradient, whichever was made last."""
    rule = lqs.StraightThrough()
    bits = [2, None, 3]
    for layer_bits, expected in zip(bits, [1.0, 3 - 3.5, 3.0], strict=True):  # P / s = 3.5 for a gradient of 1
        made = [lqs.NestedQuantization(rule=rule, bits=b, initial_scale=0.5) for b in bits]
        layer = made[bits.index(layer_bits)]
        _, scale_gradient = gradients(layer, np.full((1,), 1.75, "float32"), np.ones((1,), "float32"))
        assert scale_gradient == [expected]


@keras.saving.register_keras_serializable("test_rules")
class HalfStep(lqs.Rule):
    def __init__(self, factor=0.5, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def scale_gradient(self, upstream, parameter, integers, scale, axes):
        return self.factor * ops.sum(upstream, axis=axes, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("test_rules")
def upstream_sum(upstream, parameter, integers, scale, axes):
    return ops.sum(upstream, axis=axes, keepdims=True)


@pytest.mark.parametrize("rule, factor", [(HalfStep(0.25), 0.25), (upstream_sum, 1.0)])
def test_plug_in(rule, factor, gradients):
    upstream, parameter, _, _ = drawn((4, 3), (1,))
    layer = lqs.NestedQuantization("column", rule=rule)
    copy = lqs.NestedQuantization.from_config(layer.get_config())
    for instance in (layer, copy):
        _, scale_gradient = gradients(instance, parameter, upstream)
        np.testing.assert_allclose(scale_gradient, factor * upstream.sum(0, keepdims=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [lqs.GradientRatio(3e-9, update_stalled=True), lqs.StraightThrough(normalize=True), lqs.Frozen(), HalfStep(0.1)],
    ids=lambda rule: type(rule).__name__,
)
def test_configuration_round_trip(rule):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule))
    assert type(again) is type(rule) and again.get_config() == rule.get_config()
    assert [float(v.numpy() if hasattr(v, "numpy") else v.value) for v in again.weights] == pytest.approx(
        [3e-9] if isinstance(rule, lqs.GradientRatio) else []
    )


def test_strength_is_a_non_trainable_weight():
    rule = lqs.GradientRatio(0.25)
    assert not rule.trainable_variables and rule.non_trainable_variables == [rule.threshold]
    rule.threshold.assign(0.5)
    assert float(ops.convert_to_numpy(rule.threshold)) == 0.5


@pytest.mark.parametrize("value", BAD_STRENGTHS)
def test_bad_threshold(value):
    with pytest.raises(ValueError, match="`threshold` must be a finite number >= 0. Received: threshold="):
        lqs.GradientRatio(value)


@pytest.mark.parametrize("rule", ["gradient_ratio", 3, lqs.GradientRatio, object()])
def test_unknown_rule(rule):
    with pytest.raises(ValueError, match="`rule` must be an `lqs.Rule`.*Received: rule="):
        lqs.NestedQuantization(rule=rule)


def test_flags_must_be_bool():
    with pytest.raises(ValueError, match="`update_stalled` must be a bool"):
        lqs.GradientRatio(1e-10, update_stalled=1)
    with pytest.raises(ValueError, match="`normalize` must be a bool"):
        lqs.StraightThrough(normalize="yes")


def test_abstract_rule():
    with pytest.raises(NotImplementedError, match="Rule must implement `scale_gradient`"):
        lqs.Rule().scale_gradient(None, None, None, None, ())
