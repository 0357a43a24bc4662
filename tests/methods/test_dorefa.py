"""DoReFa's weights, by hand."""

import keras
import numpy as np
from keras import ops

from lqs import methods
from lqs.methods.dorefa import DoReFa


def test_by_hand(gradients):
    """With 2 bits n = 3, and at a scale of 2, for the hyperbolic tangents 1/2, -1/4, 1/8 and 0, whose maximum is 1/2:

    3 (P / 2m + 1/2) = 3, 3/4, 15/8, 3/2, which go to 3, 1, 2, 2
    slopes s n (1 - tanh**2) / m = 12 (3/4, 15/16, 63/64, 1)
    """
    layer = methods.get("dorefa")(bits=2, initial_scale="mean")
    layer.build_for(keras.Variable(np.full(4, 2.0, "float32")))
    parameter, upstream = (
        np.arctanh(np.array([1 / 2, -1 / 4, 1 / 8, 0], "float32")),
        np.array([1, -1, 1, -1], "float32"),
    )
    assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == [3, -1, 1, 1]
    assert ops.convert_to_numpy(layer(parameter)).tolist() == [6, -2, 2, 2]
    of_parameter, of_scale = gradients(layer, parameter, upstream)
    np.testing.assert_allclose(of_parameter, 12 * np.array([3 / 4, -15 / 16, 63 / 64, -1]), rtol=1e-5)
    assert of_scale.tolist() == [0]


def test_range_is_that_of_the_initial_values():
    layer = methods.get("dorefa")(bits=3)
    layer.build_for(keras.Variable(np.array([0.7, -1.4], "float32")))
    np.testing.assert_allclose(layer.scale, [1.4 / 7], rtol=1e-6)


def test_maximum_is_that_of_the_elements_that_share_a_scale():
    layer = methods.get("dorefa")(bits=2, granularity="row")
    parameter = np.array([[3.0, -3.0], [0.001, -0.001]], "float32")
    assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == [[3, -3], [3, -3]]


def test_parameter_of_integers_has_the_hyperbolic_tangent_one_half_at_most():
    rounding = DoReFa()
    rounding.build((4,), (0,), rounding.levels_of(2))
    parameter = rounding.parameter_of(np.array([-3, -1, 1, 3]), np.ones(1, "float32"))
    np.testing.assert_allclose(np.tanh(parameter), [-1 / 2, -1 / 6, 1 / 6, 1 / 2], rtol=1e-6)
