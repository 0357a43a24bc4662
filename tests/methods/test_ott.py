"""Stochastic ternary weights: by given noise, in the mean, and the gradient beyond the scale."""

import numpy as np
import pytest
from keras import ops

from lqs import methods
from lqs.methods.ott import StochasticTernary
from lqs.parts import Levels

PARAMETER = np.array([0.5, -0.5, 1.4, -3.0, 0.0, 2.0], "float32")  # of the scale 2: 1/4, -1/4, 0.7, -1.5, 0 and 1


@pytest.mark.parametrize("noise, expected", [(0.1, [0, -1, 0, -1, 0, 1]), (0.8, [1, 0, 1, -1, 0, 1])])
def test_given_noise(noise, expected):
    """A positive element is 1 from the noise 1 - P / s on, a negative one -1 below -P / s."""
    rounding = StochasticTernary()
    rounding.build((6,), (0,), Levels(-1, 1))
    rounding.uniform = lambda parameter: ops.full_like(parameter, noise)
    parameter, scale = ops.convert_to_tensor(PARAMETER), ops.full((1,), 2.0)
    assert ops.convert_to_numpy(rounding.training_integers(parameter, scale)).tolist() == expected
    assert ops.convert_to_numpy(rounding.integers(parameter, scale)).tolist() == [0, 0, 1, -1, 0, 1]


def test_gradients_that_lead_further_out_are_left_out(gradients):
    """A step is against the gradient: positive ones lead the fourth element out, negative ones the last."""
    for sign, expected in ((1, [1, 1, 1, 0, 1, 1]), (-1, [-1, -1, -1, -1, -1, 0])):
        layer = methods.get("ott")(initial_scale=2.0)
        (of_parameter,) = gradients(layer, PARAMETER, np.full(6, sign, "float32"), [], training=True)
        assert of_parameter.tolist() == expected
