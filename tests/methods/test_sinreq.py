"""SinReQ, by hand."""

import math

import numpy as np
import pytest

import lqs
from lqs.methods.sinreq import SinReQPenalty


def test_by_hand(gradients):
    """At the scale 2, sines of pi (3/2, -1/2, 1/4, 0), squares 1, 1, 1/2, 0; d/dP = pi / s sin(2 pi P / s) / 4."""
    layer = lqs.NestedQuantization("scalar", lqs.Frozen(), SinReQPenalty(0.5), "nearest", initial_scale=2.0)
    parameter = np.array([3, -1, 0.5, 0], "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * 5 / 8, rel=1e-6)
    of_parameter, of_scale = gradients(layer, parameter, np.zeros(4, "float32"))
    np.testing.assert_allclose(of_parameter, [0, 0, 0.5 * math.pi / 8, 0], rtol=1e-5, atol=1e-6)
    assert of_scale.tolist() == [0]
