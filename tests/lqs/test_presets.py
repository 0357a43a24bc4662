"""Presets by their names, in `lqs.quantize`: what they give to kernels and biases, and how close the network stays."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs.inspection import quantized_parameters
from lqs.presets import NAMES, compact, kernel_and_bias, thesis
from lqs.scales import MIN_SCALE


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(3)])


def quantizers(model):
    return {variable.path.split("/")[-1]: quantizer for variable, quantizer in quantized_parameters(model)}


def test_compact():
    found = quantizers(lqs.quantize(network(), "compact", rate=0.25, granularity="output"))
    for name, granularity in (("kernel", "output"), ("bias", "scalar")):
        quantizer = found[name]
        assert quantizer.granularity == granularity and quantizer.parametrization == "log"
        assert isinstance(quantizer.rule, lqs.StraightThrough) and quantizer.rounding == "nearest"
        assert float(quantizer.penalty.rate) == 0.25


def test_compact_keeps_the_predictions_at_first(rng):
    """Whatever the spread of a parameter: within a few hundredths of the largest output."""
    model = network()
    for layer, factor in zip(model.layers, (1e-3, 1e3), strict=True):
        layer.kernel.assign(factor * layer.kernel)
    x = rng.normal(size=(64, 4)).astype("float32")
    expected, found = (ops.convert_to_numpy(m(x)) for m in (model, lqs.quantize(model, "compact")))
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_scale_of_a_bias_of_zeros_can_learn():
    bias = quantizers(lqs.quantize(network(), "compact"))["bias"]
    np.testing.assert_allclose(ops.convert_to_numpy(bias.scale), [0.25 / 16], rtol=1e-5)


@pytest.mark.parametrize("factor, is_float", [(1e-6, True), (0.0, False), (0.1, False)])
def test_small_factors_stay_in_float(factor, is_float):
    """Which the least scale would round to 0, and with them the branch that they scale."""
    model = network()
    model.layers[0].kernel.assign(np.full((4, 4), factor))
    parameters = [variable for variable, _ in quantized_parameters(lqs.quantize(model, "compact", bias=None))]
    assert len(parameters) == (1 if is_float else 2)
    assert 1e-6 < 16 * MIN_SCALE < 0.1


@pytest.mark.parametrize("update_stalled", [True, False])
def test_thesis(update_stalled):
    arguments = {} if update_stalled else {"update_stalled": False}
    kernel, bias = kernel_and_bias("thesis", {"threshold": 1e-9, "granularity": "row", **arguments})
    assert (kernel.granularity, bias.granularity) == ("row", "scalar")
    for quantizer in (kernel, bias):
        config = quantizer.rule.get_config()
        assert (config["threshold"], config["update_stalled"]) == (1e-9, update_stalled)
        assert (quantizer.rounding, quantizer.initial_scale, quantizer.parametrization) == (
            "floor",
            MIN_SCALE,
            "linear",
        )


def test_published_methods_leave_biases_in_float():
    found = quantizers(lqs.quantize(network(), "lsq", bits=4))
    assert set(found) == {"kernel"} and found["kernel"].bits == 4
    with_bias = lqs.quantize(network(), "lsq", bias=lqs.NestedQuantization(bits=8, rounding="nearest"), bits=4)
    assert quantizers(with_bias)["bias"].bits == 8


@pytest.mark.once
def test_overrides():
    assert compact(rounding="floor").rounding == "floor" and thesis(bits=4).bits == 4


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kernel": "small"}, r"Argument `kernel` must name a preset, one of \('compact', 'thesis', 'min_max', "),
        ({"kernel": "lsq"}, r"The arguments must be those of the preset 'lsq'. Received: {} \(.*'bits'\)"),
        (
            {"kernel": "compact", "speed": 3},
            r"Unrecognized keyword arguments passed to NestedQuantization: {'speed': 3}",
        ),
        (
            {"kernel": None, "bits": 4},
            r"Argument `kernel` must name a preset, to have arguments .* Received: {'bits': 4}",
        ),
        (
            {"kernel": "compact", "bias": "lsq"},
            r"Argument `bias` must be an `lqs.NestedQuantization`, None or 'default'",
        ),
    ],
)
def test_what_is_no_preset(arguments, message):
    with pytest.raises(ValueError, match=message):
        lqs.quantize(network(), **arguments)
    assert NAMES[:2] == ("compact", "thesis")
