"""Rounding: every representable level maps to itself, clipping and its gradient, hand-worked values, errors."""

import numpy as np
import pytest
from keras import ops

import lqs
from lqs.parts import Levels
from lqs.rounding import (
    NamedRounding,
    is_within,
    levels_of_signs,
    required_levels,
    signed_levels,
    to_integers,
    validate_rounding,
    with_gradient,
)


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("bits, expected", [(None, None), (2, (-2, 1)), (4, (-8, 7)), (24, (-(2**23), 2**23 - 1))])
def test_signed_levels(bits, expected):
    assert signed_levels(bits) == expected


@pytest.mark.parametrize("bits", [1, 0, -4, 25, 4.0, "4", True])
def test_bad_bits(bits):
    with pytest.raises(ValueError, match="`bits` must be None or an integer from 2 to 24.*Received: bits="):
        signed_levels(bits)
    with pytest.raises(ValueError, match="`bits` must be None or an integer from 2 to 24.*Received: bits="):
        lqs.NestedQuantization(bits=bits)


def test_roundings_with_and_without_bits():
    rounding = lqs.Rounding()
    assert (required_levels(rounding, 3), levels_of_signs(rounding, None)) == ((-4, 3), (-1, 1))
    assert (rounding.levels_of(3), rounding.levels_of(None)) == ((-4, 3), None)
    with pytest.raises(ValueError, match="^Argument `bits` must be given, for `Rounding`. Received: bits=None"):
        required_levels(rounding, None)
    with pytest.raises(ValueError, match="^Argument `bits` must be None, for `Rounding`. Received: bits=2"):
        levels_of_signs(rounding, 2)


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
    integers = numbers(to_integers(parameter, 0.5, rounding, levels))
    assert integers.tolist() == expected and integers.dtype == "float32"


# At s = 0.5 and levels -2 to 1, around both bounds. Of the floor's highest bin, from 1 on, 1.75 is still within.
QUOTIENTS = [-2.25, -2, -1.75, 0, 0.75, 1, 1.25, 1.75, 2, 2.25]
WITHIN = [False, True, True, True, True, True, False, False, False, False]
WITHIN_BINS = [False, True, True, True, True, True, True, True, False, False]


def test_bounds_are_within_the_levels():
    assert numbers(is_within(np.array(QUOTIENTS, "float32"), (-2, 1))).tolist() == WITHIN


@pytest.mark.parametrize("rounding, within", [("nearest", WITHIN), ("floor", WITHIN_BINS)])
def test_parameter_gradient_at_the_bounds(rounding, within):
    part = NamedRounding(rounding)
    part.build((10,), (0,), Levels(-2, 1))
    parameter, upstream = 0.5 * np.array(QUOTIENTS, "float32"), np.arange(1, 11, dtype="float32")
    gradient = numbers(part.parameter_gradient(upstream, parameter, np.full(1, 0.5, "float32")))
    assert gradient.tolist() == np.where(within, upstream, 0).tolist()


@pytest.mark.parametrize("rounding", ["nearest", "floor"])
def test_parameter_gradient_without_levels(rounding):
    part = NamedRounding(rounding)
    part.build((2,), (0,), None)
    upstream = np.array([1.0, -2.0], "float32")
    assert numbers(part.parameter_gradient(upstream, 1e6 * upstream, np.ones(1, "float32"))).tolist() == [1, -2]


@pytest.mark.parametrize("rounding, middle", [("nearest", 0.0), ("floor", 0.5)])
def test_parameter_of_integers_is_the_middle_of_their_bins(rounding, middle):
    integers, scale = np.array([[-2, 0, 1], [3, -1, 5]], "int32"), np.array([[0.25], [2.0]], "float32")
    parameter = NamedRounding(rounding).parameter_of(integers, scale)
    assert parameter.dtype == "float32"
    np.testing.assert_array_equal(parameter, (integers + middle) * scale)


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("rounding, scale", [("floor", 0.25), ("nearest", 0.25), ("nearest", 0.0123)])
def test_every_level_maps_to_itself(rounding, scale, bits):
    levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype="float32")
    layer = lqs.NestedQuantization(rounding=rounding, bits=bits, initial_scale=scale, parametrization="linear")
    parameter = levels * np.float32(scale)
    np.testing.assert_array_equal(numbers(layer(parameter)), parameter)
    np.testing.assert_array_equal(numbers(layer.integers(parameter)), levels)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [0.25, 0.0123, 1 / 3])
def test_every_bin_maps_to_its_level(scale, bits):
    """The middle of bin `[k, k + 1) * s` goes to `k` by floor; what is beyond the levels goes to the ends."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    levels = np.arange(lowest - 5, highest + 6)
    expected = np.clip(levels, lowest, highest)
    for rounding, offset in (("floor", 0.5), ("nearest", -0.4), ("nearest", 0.4)):
        parameter = ((levels + offset) * scale).astype("float32")
        integers = to_integers(parameter, np.float32(scale), rounding, (lowest, highest))
        np.testing.assert_array_equal(numbers(integers), expected)


@pytest.mark.parametrize("scale", [1e-5 * 1.3, 0.0123, 1 / 3, 7.0])
@pytest.mark.parametrize("rounding, bits", [("floor", None), ("nearest", None), ("floor", 3), ("nearest", 3)])
def test_parameter_of_integers_has_these_integers(rounding, bits, scale):
    part = NamedRounding(rounding)
    part.build((9,), (0,), signed_levels(bits))
    integers, scale = np.arange(-4, 4 if bits else 5), np.array([scale], "float32")
    again = numbers(part.integers(ops.convert_to_tensor(part.parameter_of(integers, scale)), scale))
    np.testing.assert_array_equal(again, integers)


def test_values_and_training_integers_are_the_integers_by_default():
    part = NamedRounding("nearest")
    part.build((2,), (0,), None)
    parameter, one = np.array([1.4, -2.6], "float32"), np.ones(1, "float32")
    integers = part.training_integers(parameter, one)
    assert numbers(integers).tolist() == [1, -3] and part.values(integers, parameter, one) is integers
    assert part.codebook is None and not part.follows_parameter
    assert part.clips and lqs.Rounding().clips


def test_with_gradient_leaves_values_as_they_are():
    values, straight = np.array([1.0, 1e-8, 3e8], "float32"), np.array([0.3, 1e8, -7.0], "float32")
    assert numbers(with_gradient(*map(ops.convert_to_tensor, (values, straight)))).tolist() == values.tolist()


class AwayFromZero(lqs.Rounding):
    def integers(self, parameter, scale):
        return ops.sign(parameter) * ops.ceil(ops.abs(parameter) / scale)


def test_a_rounding_of_ones_own(gradients):
    """It has the straight-through estimator, cut off beyond the levels, and integers as middles of bins."""
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), rounding=AwayFromZero(), bits=3, initial_scale=0.5)
    parameter, upstream = np.array([0.1, -1.1, 2.0], "float32"), np.array([1.0, 2.0, 3.0], "float32")
    assert numbers(layer.integers(parameter)).tolist() == [1, -3, 4]
    assert gradients(layer, parameter, upstream)[0].tolist() == [1, 2, 0]
    assert layer.parameter_of(np.array([1, -3]), np.array([0.5], "float32")).tolist() == [0.5, -1.5]


@pytest.mark.parametrize("rounding", ["ceil", None, "", ["floor"], lqs.Rounding])
def test_unknown_rounding(rounding):
    with pytest.raises(ValueError, match="`rounding` must be one of .*Received: rounding="):
        validate_rounding(rounding)
    with pytest.raises(ValueError, match="`rounding` must be one of .*Received: rounding="):
        lqs.NestedQuantization(rounding=rounding)


def test_abstract_rounding():
    with pytest.raises(NotImplementedError, match="Rounding must implement `integers`"):
        lqs.Rounding().integers(None, None)
