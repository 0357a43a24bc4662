"""LAB: the scale moves to the mean magnitude, weighted by the gradients."""

import keras
import numpy as np
from keras import ops

from lqs import methods

PARAMETER = np.array([[1, -3], [2, 2]], "float32")


def built(**overrides):
    layer = methods.get("lab")(**overrides)
    layer.build_for(keras.Variable(PARAMETER))
    return layer


def test_by_hand(gradients):
    """Weights 1, 3, 0 and 4 of the magnitudes 1, 3, 2 and 2: (1 + 9 + 0 + 8) / 8; the initial scale is their mean."""
    layer, upstream = built(), np.array([[1, -3], [0, 4]], "float32")
    assert ops.convert_to_numpy(layer(PARAMETER)).tolist() == [[2, -2], [2, 2]]
    of_parameter, of_scale = gradients(layer, PARAMETER, upstream, training=True)
    np.testing.assert_array_equal(of_parameter, upstream)
    np.testing.assert_allclose(of_scale, [[2 - 18 / 8]], rtol=1e-6)


def test_without_gradients_it_is_the_plain_mean(gradients):
    layer = built(granularity="row", initial_scale=1.0)
    _, of_scale = gradients(layer, PARAMETER, np.zeros((2, 2), "float32"))
    np.testing.assert_allclose(of_scale, [[1 - 2], [1 - 2]], rtol=1e-6)


def test_gradient_descent_finds_the_solution_of_the_paper():
    """With a constant curvature `d`, the scale goes to sum(d abs(P)) / sum(d), here 12 / 8."""
    layer, curvature = built(), ops.convert_to_tensor(np.array([[4, 0], [1, 3]], "float32"))
    parameter, scale = ops.convert_to_tensor(PARAMETER), ops.ones((1, 1)) * 2
    for _ in range(50):
        scale = scale - 0.2 * layer.rule.scale_gradient(curvature, parameter, None, scale)
    np.testing.assert_allclose(ops.convert_to_numpy(scale), [[12 / 8]], rtol=1e-4)
