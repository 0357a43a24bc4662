"""Stochastic rounding: by given noise, and in the mean."""

import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.methods.stochastic_rounding import StochasticRounding
from lqs.parts import Levels


@pytest.mark.parametrize("noise, expected", [(0.2, [1, -2, 3, -4]), (0.3, [2, -1, 3, -4])])
def test_given_noise(noise, expected):
    """At the scale 2, quotients 1.75, -1.25, 9 and -9: both 0.75 above 1 and -2, and two that are clipped."""
    rounding = StochasticRounding()
    rounding.build((4,), (0,), Levels(-4, 3))
    rounding.uniform = lambda parameter: ops.full_like(parameter, noise)
    parameter, scale = ops.convert_to_tensor(np.array([3.5, -2.5, 18.0, -18.0], "float32")), ops.full((1,), 2.0)
    assert ops.convert_to_numpy(rounding.training_integers(parameter, scale)).tolist() == expected
    assert ops.convert_to_numpy(rounding.integers(parameter, scale)).tolist() == [2, -1, 3, -4]


def test_mean_is_the_parameter():
    """That of 10,000 roundings of 0.3 and -0.3 is within five standard deviations; none is rounded in evaluation."""
    layer = lqs.NestedQuantization(rounding=StochasticRounding(1), initial_scale=1.0)
    for value, levels in ((0.3, {0, 1}), (-0.3, {0, -1})):
        parameter = np.full(10_000, value, "float32")
        found = ops.convert_to_numpy(layer(parameter, training=True))
        assert set(found) == levels and abs(found.mean() - value) < 5 * (0.21 / 10_000) ** 0.5
        assert not ops.convert_to_numpy(layer(parameter)).any()


def test_gradient_is_straight_through_the_noise(gradients):
    layer = methods.get("stochastic")(bits=3)
    parameter = np.array([3.0, -1.2, 0.4, -3.0], "float32")
    (of_parameter,) = gradients(layer, parameter, np.array([1, -1, 2, -2], "float32"), [], training=True)
    assert of_parameter.tolist() == [1, -1, 2, -2]
