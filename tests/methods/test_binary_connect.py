"""BinaryConnect, by hand."""

import keras
import numpy as np
import pytest
from keras import ops

from lqs import methods


# At the scale 2, which a step of a negative gradient leads an element towards, of a positive one away from.
@pytest.mark.parametrize(
    "parameter, upstream, expected",
    [
        ([3, 3, -3, -3], [1, -1, 1, -1], [1, 0, 0, -1]),  # beyond
        ([2, 2, -2, -2], [1, -1, 1, -1], [1, 0, 0, -1]),  # on it
        ([1.99, 1.99, -1.99, -1.99], [1, -1, 1, -1], [1, -1, 1, -1]),  # within
        ([0, 0, 5, -5], [1, -1, 0, 0], [1, -1, 0, 0]),
    ],
)
def test_gradient_does_not_lead_beyond_the_scale(parameter, upstream, expected, gradients):
    layer = methods.get("binary_connect")(initial_scale="mean")
    layer.build_for(keras.Variable(np.array([2.0, -2.0, 2.0, -2.0], "float32")))
    parameter = np.array(parameter, "float32")
    assert ops.convert_to_numpy(layer(parameter)).tolist() == [2 if p >= 0 else -2 for p in parameter]
    of_parameter, of_scale = gradients(layer, parameter, np.array(upstream, "float32"))
    assert of_parameter.tolist() == expected and of_scale.tolist() == [0]


def test_scale_is_the_largest_initial_element_for_good():
    layer = methods.get("binary_connect")()
    layer.build_for(keras.Variable(np.array([0.5, -0.25], "float32")))
    layer(np.array([5.0, 1.0], "float32"), training=True)
    assert ops.convert_to_numpy(layer.scale).tolist() == [0.5]
