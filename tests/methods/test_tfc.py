"""Entropy-penalized weights of TensorFlow Compression's tutorial, by hand."""

import numpy as np
import pytest

import lqs
from lqs.methods.tfc import PowerLawPenalty


def test_by_hand(gradients):
    """With a = 1/2 and s = 2, of P = 3, -1, 0, 4: the mean of ln(1 + abs(P)), whose slopes are sign(P) / (1 + abs(P)).

    d/ds = -mean(abs(P) / (1 + abs(P))) / s
    """
    layer = lqs.NestedQuantization("scalar", lqs.Frozen(), PowerLawPenalty(0.5, 0.5), "nearest", initial_scale=2.0)
    parameter = np.array([3, -1, 0, 4], "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * np.log([4, 2, 1, 5]).mean(), rel=1e-6)
    of_parameter, of_scale = gradients(layer, parameter, np.zeros(4, "float32"))
    np.testing.assert_allclose(of_parameter, 0.5 * np.array([1 / 4, -1 / 2, 0, 1 / 5]) / 4, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(of_scale, [-0.5 * np.mean([3 / 4, 1 / 2, 0, 4 / 5]) / 2], rtol=1e-5)


def test_alpha_must_be_positive():
    with pytest.raises(ValueError, match="`alpha` must be positive. Received: alpha=0"):
        PowerLawPenalty(0.1, alpha=0)
    assert PowerLawPenalty(0.1, alpha=2).get_config()["alpha"] == 2.0
