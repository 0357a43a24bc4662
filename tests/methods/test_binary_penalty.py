"""The penalty of Tang, Hua and Wang, by hand."""

import keras
import numpy as np
import pytest

from lqs import methods


def test_by_hand(gradients):
    """At the scale 2, of 3, -1, 1/2, 0: beyond, 1 - 1/4, 1 - 1/16 and 1; d/dP = -2 P / s**2 / 4, none for the scale."""
    layer = methods.get("tang")(rate=0.5, initial_scale="mean")
    layer.build_for(keras.Variable(np.full(4, 2.0, "float32")))
    parameter = np.array([3, -1, 0.5, 0], "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * (12 + 15 + 16) / 64, rel=1e-6)
    of_parameter, of_scale = gradients(layer, parameter, np.zeros(4, "float32"))
    np.testing.assert_allclose(of_parameter, 0.5 * np.array([0, 1 / 8, -1 / 16, 0]), rtol=1e-6)
    assert of_scale.tolist() == [0]
