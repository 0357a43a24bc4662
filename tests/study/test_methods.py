"""Tests of `study.methods`: what a preset's signature asks of a configuration, and what comes out."""

import pytest

import lqs
from lqs import methods as published
from lqs import rules
from lqs.rounding import Rounding
from study import methods, nulls
from study.configs import make_config
from study.methods import make_preset, quantizes_all_layers, quantizes_biases, strength_name, validate_quantizer


def quantizer(method, strength=0.0, **overrides):
    return make_config("mnist", method, strength, "row", **overrides).quantizer


def make(method, strength=0.0, **overrides):
    return make_preset(quantizer(method, strength, **overrides))("row")


def test_methods_are_the_thesis_s_ours_those_that_test_it_and_all_published_ones():
    assert list(methods.NULLS) == list(nulls.RULES)
    ours = {"float", "nested", "max_bin", "inverse", "difference", "code_length", "fisher_information"}
    ours |= set(nulls.RULES)
    assert set(methods.METHODS) == ours | set(published.METHODS)
    assert len(methods.METHODS) == len(ours) + len(published.METHODS) >= 23


@pytest.mark.parametrize(
    "method, rule, penalty, strength",
    [
        ("nested", lqs.GradientRatio, None, "threshold"),
        ("max_bin", lqs.Frozen, lqs.MaxBinPenalty, "rate"),
        ("inverse", lqs.Frozen, lqs.InversePenalty, "rate"),
        ("difference", lqs.Frozen, lqs.DifferencePenalty, "rate"),
        ("code_length", lqs.StraightThrough, lqs.CodeLengthPenalty, "rate"),
        ("fisher_information", rules.FisherInformation, None, "threshold"),
    ],
)
def test_rule_penalty_and_strength_of_the_thesis_s_methods_and_ours(method, rule, penalty, strength):
    layer = make(method, 0.25)
    assert type(layer.rule) is rule and type(layer.penalty) is (penalty or type(None))
    assert strength_name(method) == strength
    assert float(getattr(layer.penalty or layer.rule, strength)) == 0.25


@pytest.mark.parametrize("method", [name for name in methods.METHODS if name != "float"])
def test_every_method_gives_a_layer_of_the_configuration_s_settings(method):
    has_bits = "bits" in methods._parameters(method)
    layer = make(method, 0.5 if strength_name(method) else 0.0, bits=4 if has_bits else None, parametrization="log")
    assert (layer.granularity, layer.parametrization) == ("row", "log")
    assert layer.bits == (4 if has_bits else None)
    again = lqs.NestedQuantization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_fields_of_one_method_reach_it():
    assert make("nested", update_stalled=False).rule.update_stalled is False
    assert make("code_length", code="elias").penalty.code == "elias"


@pytest.mark.parametrize(
    "method, rounding, initial_scale",
    [("nested", "nearest", 0.5), ("lsq", "nearest", "lsq"), ("dorefa", None, "max"), ("quant_noise", None, "max")],
)
def test_rounding_and_initial_scale_are_the_configuration_s_unless_the_method_has_its_own(
    method, rounding, initial_scale
):
    bits = None if method == "nested" else 4
    layer = make(method, 0.5 * (method == "quant_noise"), bits=bits, rounding="nearest", initial_scale=0.5)
    assert layer.initial_scale == initial_scale
    assert layer.rounding == rounding or (rounding is None and isinstance(layer.rounding, Rounding))


def test_rounding_of_the_thesis_is_floor():
    assert make("min_max", bits=4).rounding == make("nested").rounding == "floor"


@pytest.mark.parametrize(
    "method, settings, message",
    [
        ("lsq", {}, "`bits` must be an integer for the method 'lsq'. Received: bits=None"),
        ("xnor", {"bits": 2}, "`bits` must be None for the method 'xnor'. Received: bits=2"),
        ("float", {"bits": 2}, "`bits` must be None for the method 'float'. Received: bits=2"),
        ("twn", {"strength": 0.5}, "`strength` must be 0 for the method 'twn', which has none. Received: strength=0.5"),
    ],
)
def test_settings_that_do_not_fit_the_method(method, settings, message):
    with pytest.raises(ValueError, match=message):
        validate_quantizer(quantizer(method, **settings))


def test_bits_are_optional_for_the_thesis_s_methods():
    assert (make("nested").bits, make("nested", bits=4).bits) == (None, 4)


def test_what_is_quantized():
    """The thesis's methods: convolutions with biases; ours: all with biases; published ones: all kernels."""
    choices = {
        name: (quantizes_all_layers(name), quantizes_biases(name))
        for name in ("nested", "votes_constant", "code_length", "lsq")
    }
    assert choices == {
        "nested": (False, True),
        "votes_constant": (False, True),
        "code_length": (True, True),
        "lsq": (True, False),
    }


def test_unknown_method():
    with pytest.raises(ValueError, match="neted"):
        methods.get_preset("neted")
