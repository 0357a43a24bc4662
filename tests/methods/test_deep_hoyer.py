"""DeepHoyer, by hand."""

import numpy as np
import pytest
from keras import ops

import lqs
from lqs.methods.deep_hoyer import HoyerPenalty


def test_by_hand(gradients):
    """Of 3, -1, 1/2, 0 with the sum A = 9/2, of squares B = 41/4: A**2 / B / 4 = 81/164.

    d/dP = 2 sign(P) A / B**2 (B - A abs(P)) / 4
    """
    layer = lqs.NestedQuantization("scalar", lqs.Frozen(), HoyerPenalty(0.5), "nearest", initial_scale=2.0)
    parameter = np.array([3, -1, 0.5, 0], "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * 81 / 164, rel=1e-6)
    of_parameter, of_scale = gradients(layer, parameter, np.zeros(4, "float32"))
    expected = np.array([-13 / 4, -23 / 4, 8, 0]) * 36 / 41**2
    np.testing.assert_allclose(of_parameter, 0.5 * expected, rtol=1e-5, atol=1e-6)
    assert of_scale.tolist() == [0]


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_does_not_depend_on_size(size):
    parameter = ops.convert_to_tensor(np.array([[size, 0.0], [0.0, -size]], "float32"))
    assert float(HoyerPenalty(1.0).term(parameter, None)) == pytest.approx(0.5, rel=1e-5)


def test_of_zeros_and_almost_zeros():
    """Squares that sum up to less than 1e-12 count as that."""
    assert float(HoyerPenalty(1.0).term(ops.zeros(4), None)) == 0
    tiny = ops.convert_to_tensor(np.array([1e-7, 0.0], "float32"))
    assert float(HoyerPenalty(1.0).term(tiny, None)) == pytest.approx(1e-14 / 1e-12 / 2, rel=1e-5)
