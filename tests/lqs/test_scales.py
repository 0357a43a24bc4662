"""Measures of a scale, by hand, and what becomes of a scale that is measured."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs.scales import MEASURES, get_measure, is_large

# Magnitudes by row: 6, 0, 3, 3, of mean 3 and threshold 2.1, and 8, 2, 1, 1, of mean 3 too. Highest level 4, root 2.
PARAMETER = np.array([[6.0, 0.0, -3.0, 3.0], [-8.0, 2.0, 1.0, -1.0]], "float32")
BY_HAND = {"max": [1.5, 2.0], "mean": [3.0, 3.0], "lsq": [3.0, 3.0], "ternary": [4.0, 8.0]}


@pytest.mark.parametrize("name", MEASURES)
def test_by_hand(name):
    scale = get_measure(name, (-4, 4))(ops.convert_to_tensor(PARAMETER), (1,))
    np.testing.assert_allclose(ops.convert_to_numpy(scale), np.array(BY_HAND[name])[:, None], rtol=1e-6)
    zero = get_measure(name, (-4, 4))(ops.zeros((3,)), (0,))
    np.testing.assert_array_equal(ops.convert_to_numpy(zero), [0.0])


def test_large_elements():
    assert ops.convert_to_numpy(is_large(ops.convert_to_tensor(PARAMETER), (1,))).tolist() == [
        [True, False, True, True],
        [True, False, False, False],
    ]


@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_scale_is_measured_in_training_alone(parametrization):
    """With 3 bits the highest integer is 3: scales 2 and 8/3; half of the parameter has half of the scales."""
    layer = lqs.NestedQuantization("row", lqs.Measured("max"), None, "nearest", 3, parametrization=parametrization)
    layer.build(PARAMETER.shape)
    assert not layer.trainable_variables
    layer.initialize_scale(PARAMETER)
    expected = np.array([[2.0], [8 / 3]])
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), expected, rtol=1e-6)
    output = ops.convert_to_numpy(layer(PARAMETER / 2, training=True))
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), expected / 2, rtol=1e-6)
    np.testing.assert_allclose(output[0], [3, 0, -2, 2], rtol=1e-6)  # 1.5 to 2, the even one
    layer(PARAMETER)
    layer.integers(PARAMETER)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), expected / 2, rtol=1e-6)


def test_zero_parameter_has_the_least_scale():
    layer = lqs.NestedQuantization(rule=lqs.Measured("mean"))
    layer.build((3,))
    layer.initialize_scale(np.zeros(3, "float32"))
    assert float(ops.convert_to_numpy(layer.scale)[0]) == np.float32(lqs.MIN_SCALE)


@pytest.mark.parametrize("make", ["quantize", "layer"])
@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_initial_scale_from_the_initial_values(make, parametrization):
    """LSQ's with 3 bits, of sixteen ones: 2 / sqrt(3)."""
    arguments = {"rule": lqs.StraightThrough(normalize=True), "rounding": "nearest", "bits": 3}
    quantizer = lqs.NestedQuantization(**arguments, initial_scale="lsq", parametrization=parametrization)
    if make == "quantize":
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, kernel_initializer="ones")])
        inner = lqs.quantize(model, quantizer, None).layers[0].quantizers[0]
    else:
        layer = lqs.QuantDense(4, kernel_quantizer=quantizer, kernel_initializer="ones")
        layer.build((None, 4))
        inner = layer.kernel_quantizer
    assert inner.initial_scale == "lsq" and len(inner.trainable_variables) == 1
    np.testing.assert_allclose(ops.convert_to_numpy(inner.scale), [[2 / 3**0.5]], rtol=1e-6)


@pytest.mark.parametrize("measure", ["min", None, ["max"]])
def test_unknown_measure(measure):
    with pytest.raises(ValueError, match="`measure` must be one of .*'max'.*Received: measure="):
        lqs.Measured(measure)


@pytest.mark.parametrize("arguments", [{"rule": lqs.Measured("max")}, {"initial_scale": "lsq"}])
def test_measure_that_needs_levels(arguments):
    with pytest.raises(ValueError, match="`bits` must be given, for a scale by the measure .*Received: bits=None"):
        lqs.NestedQuantization(**arguments)


def test_configuration_round_trip():
    layer = lqs.NestedQuantization(rule=lqs.Measured("ternary"), initial_scale="mean")
    copy = layer.copy()
    assert copy.rule.measure == "ternary" and copy.rule is not layer.rule and copy.initial_scale == "mean"
