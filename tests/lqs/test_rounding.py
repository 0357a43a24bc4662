"""Rounding: every representable level maps to itself, clipping, hand-worked values, errors."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs.quantizer import NestedQuantization
from lqs.rounding import signed_levels, to_integers, validate_rounding


@pytest.mark.parametrize("bits, expected", [(None, None), (2, (-2, 1)), (4, (-8, 7)), (8, (-128, 127))])
def test_signed_levels(bits, expected):
    assert signed_levels(bits) == expected


# P / s = -2.5, -1.25, -0.5, 0, 0.5, 1.5, 1.75
@pytest.mark.parametrize(
    "rounding, levels, expected",
    [
        ("floor", None, [-3, -2, -1, 0, 0, 1, 1]),
        ("nearest", None, [-2, -1, 0, 0, 0, 2, 2]),
        ("floor", (-2, 1), [-2, -2, -1, 0, 0, 1, 1]),
        ("nearest", (-2, 1), [-2, -1, 0, 0, 0, 1, 1]),
    ],
)
def test_hand_worked(rounding, levels, expected):
    parameter = np.array([-1.25, -0.625, -0.25, 0.0, 0.25, 0.75, 0.875], "float32")
    integers = ops.convert_to_numpy(to_integers(parameter, 0.5, rounding, levels))
    assert integers.tolist() == expected and integers.dtype == "float32"


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12, 16])
@pytest.mark.parametrize("rounding, scale", [("floor", 0.25), ("nearest", 0.25), ("nearest", 0.0123)])
def test_every_level_maps_to_itself(rounding, scale, bits):
    levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype="float32")
    layer = NestedQuantization(rounding=rounding, bits=bits, initial_scale=scale)
    parameter = levels * np.float32(scale)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(parameter)), parameter)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.integers(parameter)), levels)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [0.25, 0.0123, 1 / 3])
def test_every_bin_maps_to_its_level(scale, bits):
    """The middle of bin `[k, k + 1) * s` goes to `k` by floor; what is beyond the levels goes to the ends."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    levels = np.arange(lowest - 5, highest + 6)
    expected = np.clip(levels, lowest, highest)
    middles = NestedQuantization(bits=bits, initial_scale=scale).integers(((levels + 0.5) * scale).astype("float32"))
    nearest = NestedQuantization(rounding="nearest", bits=bits, initial_scale=scale)
    np.testing.assert_array_equal(ops.convert_to_numpy(middles), expected)
    for offset in (-0.4, 0.4):
        integers = nearest.integers(((levels + offset) * scale).astype("float32"))
        np.testing.assert_array_equal(ops.convert_to_numpy(integers), expected)


@pytest.mark.parametrize("rounding", ["ceil", None, "", ["floor"]])
def test_unknown_rounding(rounding):
    with pytest.raises(ValueError, match="`rounding` must be one of .*Received: rounding="):
        validate_rounding(rounding)


@pytest.mark.parametrize("bits", [1, 0, -4, 25, 4.0, "4", True])
def test_bad_bits(bits):
    with pytest.raises(ValueError, match="`bits` must be None or an integer from 2 to 24.*Received: bits="):
        signed_levels(bits)


# Published roundings: integers and gradients by hand, at s = 2 and upstream gradients 1, -1, 1, -1, ...
# BinaryConnect  3 and -3 lie beyond 2: a gradient of -1 would lead 3, and one of 1 would lead -3, further out
# XnorNet        n = 4: 1/4 + 2 within 1, 1/4 beyond
# TernaryWeights mean magnitude 2 of 4, 1, 3, 0: threshold 1.4
# DoReFa         of atanh(1/2, -1/4, 1/8, 0), m = 1/2, n = 3: 3 (P/2m + 1/2) = 3, 3/4, 15/8, 3/2, to 3, 1, 2, 2;
#                slopes s n (1 - tanh**2) / m = 12 (3/4, 15/16, 63/64, 1)
PUBLISHED = {
    "BinaryConnect": (lqs.BinaryConnect(), None, [3, 3, -3, -3], [1, 1, -1, -1], [1, 0, 0, -1]),
    "BinaryConnect inside": (lqs.BinaryConnect(), None, [1, -1, 0, -0.5], [1, -1, 1, -1], [1, -1, 1, -1]),
    "XnorNet": (lqs.XnorNet(), None, [0.5, -1, 1.5, 0], [1, -1, 1, 1], [2.25, -2.25, 0.25, -2.25]),
    "TernaryWeights": (lqs.TernaryWeights(), None, [4, 1, -3, 0], [1, 0, -1, 0], [1, -1, 1, -1]),
    "DoReFa": (
        lqs.DoReFa(),
        2,
        np.arctanh([1 / 2, -1 / 4, 1 / 8, 0]),
        [3, -1, 1, 1],
        12 * np.array([3 / 4, -15 / 16, 63 / 64, -1]),
    ),
    "StochasticRounding": (lqs.StochasticRounding(), 3, [9, -1.8, 3.2, -9], [3, -1, 2, -4], [0, -1, 1, 0]),
    "QuantNoise": (lqs.QuantNoise(), 3, [9, -1.8, 3.2, -9], [3, -1, 2, -4], [1, -1, 1, -1]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_roundings_by_hand(name, gradients):
    rounding, bits, parameter, integers, expected = PUBLISHED[name]
    layer = NestedQuantization(rule=lqs.Frozen(), rounding=rounding, bits=bits, initial_scale=2.0).copy()
    parameter, upstream = np.array(parameter, "float32"), np.array([1, -1, 1, -1], "float32")
    assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == integers
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(parameter)), 2 * np.array(integers))
    parameter_gradient, scale_gradient = gradients(layer, parameter, upstream)
    np.testing.assert_allclose(parameter_gradient, expected, rtol=1e-5)
    np.testing.assert_array_equal(scale_gradient, [0])


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("scale", [0.25, 0.0123])
def test_parameter_of_integers_has_these_integers(name, scale, rng):
    rounding, bits, *_ = PUBLISHED[name]
    layer = NestedQuantization("row", rounding=rounding, bits=bits and 8, initial_scale=scale).copy()
    parameter = rng.normal(scale=5 * scale, size=(3, 50)).astype("float32")
    integers = ops.convert_to_numpy(layer.integers(parameter))
    assert len(np.unique(integers)) > 1
    again = layer.parameter_of(integers, np.asarray(ops.convert_to_numpy(layer.scale)))
    assert again.dtype == "float32"
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.integers(again)), integers)


def test_random_roundings_with_given_noise():
    """P / s = 1.75, -1.25, 9; the fractions of the first two are 0.75 above 1 and -2."""
    parameter, scale = np.array([3.5, -2.5, 18.0], "float32"), np.array([2.0], "float32")
    for noise, up in ((0.2, False), (0.3, True)):
        noises = np.full(3, noise, "float32")
        stochastic = lqs.StochasticRounding().integers(parameter, scale, (0,), (-4, 3), noises)
        assert ops.convert_to_numpy(stochastic).tolist() == ([2, -1, 3] if up else [1, -2, 3])
        quant_noise = lqs.QuantNoise(0.25).integers(parameter, scale, (0,), (-4, 3), noises)
        assert ops.convert_to_numpy(quant_noise).tolist() == ([1.75, -1.25, 9] if up else [2, -1, 3])


def test_noise_is_drawn_in_training_alone():
    """The mean of 10,000 stochastic roundings of 0.3 is within five standard deviations; so is the share that stays."""
    parameter = np.full(10_000, 0.3, "float32")
    layer = NestedQuantization(rounding=lqs.StochasticRounding(), initial_scale=1.0)
    first, second = (ops.convert_to_numpy(layer(parameter, training=True)) for _ in range(2))
    assert set(first) == {0, 1} and abs(first.mean() - 0.3) < 5 * (0.21 / 10_000) ** 0.5 and np.any(first != second)
    assert (
        not ops.convert_to_numpy(layer(parameter)).any() and not ops.convert_to_numpy(layer.integers(parameter)).any()
    )
    layer = NestedQuantization(rounding=lqs.QuantNoise(0.5), initial_scale=1.0)
    kept = ops.convert_to_numpy(layer(parameter, training=True)) != 0
    assert abs(kept.mean() - 0.5) < 5 * (0.25 / 10_000) ** 0.5


def test_seed_decides_the_noise():
    parameter = np.full(100, 0.5, "float32")
    layers = [NestedQuantization(rounding=lqs.StochasticRounding(seed), initial_scale=1.0) for seed in (1, 1, 2)]
    same, again, other = (ops.convert_to_numpy(layer.copy()(parameter, training=True)) for layer in layers)
    assert np.array_equal(same, again) and not np.array_equal(same, other)


@pytest.mark.parametrize("rounding", [lqs.BinaryConnect(), lqs.StochasticRounding(3), lqs.QuantNoise(0.25)])
def test_configuration_of_a_rounding_round_trips(rounding):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rounding))
    assert type(again) is type(rounding) and again.get_config() == rounding.get_config()


@pytest.mark.parametrize("rounding", [lqs.BinaryConnect(), lqs.XnorNet(), lqs.TernaryWeights()])
def test_roundings_without_bits(rounding):
    assert NestedQuantization(rounding=rounding).levels == (-1, 1)
    with pytest.raises(ValueError, match="`bits` must be None, for `lqs.*Received: bits=2"):
        NestedQuantization(rounding=rounding, bits=2)


def test_rounding_that_needs_bits():
    with pytest.raises(ValueError, match="`bits` must be given, for `lqs.DoReFa`. Received: bits=None"):
        NestedQuantization(rounding=lqs.DoReFa())


@pytest.mark.parametrize("value", [-0.1, 1.5, "1", None])
def test_bad_probability(value):
    with pytest.raises(ValueError, match="`probability` must be .*Received: probability="):
        lqs.QuantNoise(value)


def test_abstract_rounding():
    with pytest.raises(NotImplementedError, match="Rounding must implement `integers`"):
        lqs.Rounding().integers(None, None, (), None)
