"""SQ: how many channels are ternary, and which."""

import keras
import numpy as np
import pytest
from keras import ops

from lqs import methods

# Channels are columns: the first is ternary already, at the scale 1; the others are far from it.
PARAMETER = np.array([[1, 0.5, 2], [-1, 0.6, -1.5], [1, -0.5, 1.4], [0, 1.6, 2]], "float32")


def built(probability):
    layer = methods.get("sq")(probability=probability)
    layer.build_for(keras.Variable(PARAMETER))
    return layer.rounding


def quantized_channels(rounding, scale=1.0):
    """Return which columns have integers alone in a training step."""
    output = ops.convert_to_numpy(rounding.training_integers(ops.convert_to_tensor(PARAMETER), ops.full((1, 1), scale)))
    return [np.array_equal(column, np.round(column)) and np.abs(column).max() <= 1 for column in output.T]


@pytest.mark.parametrize("probability, number", [(0.0, 0), (0.3, 1), (0.5, 2), (1.0, 3)])
def test_share_of_the_channels(probability, number):
    """Rounded up. At a scale of 3, nothing is an integer before it is quantized, but a zero."""
    rounding = built(probability)
    assert [sum(quantized_channels(rounding, 3.0)) for _ in range(3)] == [number] * 3


def test_channels_of_a_small_error_are_drawn_more_often():
    """The first has an error of a millionth, the others of about a half: it is always drawn, they take turns."""
    rounding = built(2 / 3)
    drawn = np.array([quantized_channels(rounding, 1.0) for _ in range(20)])
    assert drawn[:, 0].all() and np.all(drawn[:, 1:].sum(axis=1) == 1) and drawn[:, 1].any() and drawn[:, 2].any()


def test_all_have_the_gradient_once_and_evaluation_is_twn(gradients):
    layers = [methods.get("sq")(probability=0.5), methods.get("twn")()]
    for layer in layers:
        (of_parameter,) = gradients(layer, PARAMETER, np.full((4, 3), 2, "float32"), [], training=True)
        assert np.all(of_parameter == 2)
    np.testing.assert_array_equal(*[ops.convert_to_numpy(layer(PARAMETER)) for layer in layers])
