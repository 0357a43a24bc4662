"""MSQE, by hand."""

import keras
import numpy as np
import pytest

import lqs
from lqs import methods
from lqs.methods.msqe import MSQEPenalty


def test_by_hand(gradients):
    """At the scale 2 with 2 bits: integers 1, 0 (-1/2 to the even one), 0 and 0, errors 1, -1, 1/2, 0.

    d/dP = 2 error / 4 and d/ds = -2 sum(error integer) / 4
    """
    layer = methods.get("msqe")(bits=2, rate=0.5, initial_scale="mean")
    layer.build_for(keras.Variable(np.full(4, 2.0, "float32")))
    parameter = np.array([3, -1, 0.5, 0], "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * 9 / 16, rel=1e-6)
    of_parameter, of_scale = gradients(layer, parameter, np.zeros(4, "float32"))
    np.testing.assert_allclose(of_parameter, 0.5 * np.array([1 / 2, -1 / 2, 1 / 4, 0]), rtol=1e-6)
    np.testing.assert_allclose(of_scale, [0.5 * -1 / 2], rtol=1e-6)


def test_begins_with_the_scale_of_lsq():
    """Sixteen ones with 3 bits: 2 / sqrt(3)."""
    layer = methods.get("msqe")(bits=3, rate=0.5)
    layer.build_for(keras.Variable(np.ones(16, "float32")))
    np.testing.assert_allclose(layer.scale, [2 / 3**0.5], rtol=1e-6)
    assert layer.is_scale_learned


def test_needs_levels():
    with pytest.raises(ValueError, match="^Argument `bits` must be given, for an `MSQEPenalty`. Received: bits=None"):
        lqs.NestedQuantization(penalty=MSQEPenalty(1.0))
