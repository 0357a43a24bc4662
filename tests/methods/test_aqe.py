"""AQE: the gradient is that of the staircase of the docstring, by differences."""

import numpy as np
import pytest

from lqs import methods


def staircase(ratio, sharpness):
    whole = np.floor(ratio)
    return whole + 0.5 + np.tanh(sharpness * (ratio - whole - 0.5)) / (2 * np.tanh(sharpness / 2))


@pytest.mark.parametrize("sharpness", [0.5, 4.0, 10.0])
def test_gradient_by_differences(sharpness, gradients):
    ratio = np.array([-2.7, -1.5, -0.2, 0.3, 0.5, 1.9], "float32")
    layer = methods.get("aqe")(bits=4, sharpness=sharpness, initial_scale=0.5)
    (found,) = gradients(layer, ratio * 0.5, np.full(6, 2, "float32"), [])
    scale = np.abs(ratio).max() * 0.5 / 7  # measured on the parameter
    ratio = (ratio * 0.5).astype("float64") / scale
    expected = (staircase(ratio + 1e-6, sharpness) - staircase(ratio - 1e-6, sharpness)) / 1e-6
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_no_sharpness_is_straight_through(gradients):
    parameter, upstream = np.array([0.3, -0.8, 0.5], "float32"), np.array([1, -2, 3], "float32")
    (found,) = gradients(methods.get("aqe")(bits=3, sharpness=0.0), parameter, upstream, [])
    np.testing.assert_array_equal(found, upstream)
