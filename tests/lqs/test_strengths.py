"""Strengths: what is accepted, how they are kept, and that the present value is the one that counts everywhere."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from oracles import BAD_STRENGTHS

import lqs
from lqs import inspection
from lqs.methods.quant_noise import QuantNoise
from lqs.methods.waveq import WaveQPenalty
from lqs.strengths import add_strength, strength_value, validate_strength


@pytest.mark.parametrize("value", [0, 0.0, 1, 1e-10, 3.5, 1e30])
def test_numbers_from_zero_on(value):
    result = validate_strength("rate", value)
    assert result == value and isinstance(result, float)


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_up_to_the_highest(value):
    assert validate_strength("probability", value, 1) == value


@pytest.mark.parametrize("value", BAD_STRENGTHS)
def test_no_numbers_from_zero_on(value):
    with pytest.raises(ValueError, match="^Argument `rate` must be a finite number >= 0. Received: rate="):
        validate_strength("rate", value)


@pytest.mark.parametrize("value", [1.001, *BAD_STRENGTHS])
def test_not_up_to_the_highest(value):
    with pytest.raises(ValueError, match="^Argument `probability` must be a number from 0 to 1. Received: probability"):
        validate_strength("probability", value, 1)


@pytest.mark.parametrize("policy", ["float32", "bfloat16", "mixed_float16"])
def test_kept_as_a_weight_in_full_precision(policy):
    layer = keras.layers.Layer(dtype=policy)
    weight = add_strength(layer, "rate", 1e-10)
    assert layer.non_trainable_weights == [weight] and not layer.trainable_weights
    assert (weight.name, tuple(weight.shape), weight.dtype) == ("rate", (), "float32")
    assert strength_value(weight) == 1e-10


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(0, allow_infinity=False, width=32, allow_subnormal=False))
def test_value_is_the_shortest_decimal_of_its_float32(number):
    weight = keras.Variable(np.float32(number))
    value = strength_value(weight)
    assert np.float32(value) == np.float32(number) and repr(value) == repr(float(str(np.float32(number))))


@pytest.mark.parametrize("value", [0.1, 0.3, 1e-10, 2e-8, 0.0, 1.0, 40.0])
def test_value_is_what_was_given(value):
    assert strength_value(add_strength(keras.layers.Layer(), "rate", value)) == value


# A strength that was assigned counts: in configurations, in copies of prototypes, in clones and files.

STRENGTHS = {
    "threshold": lambda: lqs.NestedQuantization(rule=lqs.GradientRatio(0.25)),
    "rate": lambda: lqs.NestedQuantization(penalty=lqs.CodeLengthPenalty(0.01)),
    "bits": lambda: lqs.NestedQuantization(penalty=WaveQPenalty(0.01, bits=2)),
    "probability": lambda: lqs.NestedQuantization(rounding=QuantNoise(0.25)),
}


def strength(quantizer, name):
    parts = (quantizer.rule, quantizer.penalty, quantizer.rounding)
    return next(weight for part in parts for weight in getattr(part, "weights", []) if weight.name == name)


VALUE = {"threshold": 0.3, "rate": 0.3, "bits": 2.3, "probability": 0.3}


def assigned(name):
    quantizer = STRENGTHS[name]()
    strength(quantizer, name).assign(VALUE[name])
    return quantizer


@pytest.mark.parametrize("name", STRENGTHS)
def test_assigned_strength_is_in_configurations_and_copies(name):
    quantizer = assigned(name)
    serialized = keras.saving.serialize_keras_object(quantizer)
    for copy in (quantizer, quantizer.copy(), keras.saving.deserialize_keras_object(serialized)):
        assert strength_value(strength(copy, name)) == VALUE[name]
        parts = [copy.get_config()[part] for part in ("rule", "penalty", "rounding")]
        found = [part["config"][name] for part in parts if isinstance(part, dict) and name in part["config"]]
        assert found == [VALUE[name]]
    copy = quantizer.copy()
    strength(copy, name).assign(1.0)
    assert strength_value(strength(quantizer, name)) == VALUE[name]  # the copy has one of its own


def small_network():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])


@pytest.mark.parametrize("name", STRENGTHS)
def test_strength_assigned_before_quantize_counts(name, reload):
    model = lqs.quantize(small_network(), assigned(name), None)
    for instance in (model, keras.models.clone_model(model), reload(model)):
        found = [strength_value(strength(layer, name)) for layer in inspection.nested_layers(instance)]
        assert found == [VALUE[name]] * 2


def test_strength_assigned_after_quantize_reaches_the_model_by_inspection(rng):
    model = lqs.quantize(small_network(), assigned("rate"), None)
    x = rng.normal(size=(2, 4)).astype("float32")
    losses = []
    for rate in (1.0, 3.0):
        for penalty in inspection.penalties(model):
            penalty.rate.assign(rate)
        model(x)
        losses.append(float(sum(model.losses)))
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-6) and losses[0] > 0
    assert [rule.get_config()["threshold"] for rule in inspection.rules(model)] == [1e-10, 1e-10]
    inspection.rules(model)[1].threshold.assign(0.5)
    again = keras.models.clone_model(model)
    assert [strength_value(rule.threshold) for rule in inspection.rules(again)] == [1e-10, 0.5]
    assert [strength_value(penalty.rate) for penalty in inspection.penalties(again)] == [3.0, 3.0]


def test_mixed_strengths_stay_with_their_parameters():
    """Kernel and bias have prototypes of their own; None has no penalty to be found."""
    kernel, bias = assigned("rate"), lqs.NestedQuantization()
    model = lqs.quantize(small_network(), kernel, bias)
    assert [strength_value(penalty.rate) for penalty in inspection.penalties(model)] == [0.3, 0.3]
    assert len(inspection.rules(model)) == 4
    assert math.isclose(float(ops.convert_to_numpy(inspection.rules(model)[3].threshold)), 1e-10, rel_tol=1e-6)
