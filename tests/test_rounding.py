"""Rounding: every representable level maps to itself, clipping, hand-worked values, errors."""

import numpy as np
import pytest
from keras import ops

from lqs.nested import NestedQuantization
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
