"""TWN, by hand."""

import keras
import numpy as np
from keras import ops

from lqs import methods


def test_by_hand(gradients):
    """The mean of 4, 1, 3 and 0 is 2, the threshold 1.4, and the mean of the two beyond 3.5."""
    layer = methods.get("twn")()
    parameter, upstream = np.array([4, 1, -3, 0], "float32"), np.array([1, -1, 2, -2], "float32")
    layer.build_for(keras.Variable(parameter))
    assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == [1, 0, -1, 0]
    assert ops.convert_to_numpy(layer(parameter)).tolist() == [3.5, 0, -3.5, 0]
    (of_parameter,) = gradients(layer, parameter, upstream, [])
    assert of_parameter.tolist() == upstream.tolist()


def test_threshold_is_that_of_the_elements_that_share_a_scale():
    """0.5 is large in its row, and would not be in the whole."""
    parameter = np.array([[4.0, 4.0], [0.5, 0.1]], "float32")
    for granularity, expected in (("row", [[1, 1], [1, 0]]), ("scalar", [[1, 1], [0, 0]])):
        layer = methods.get("twn")(granularity=granularity)
        assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == expected
