"""XNOR-Net, by hand."""

import keras
import numpy as np
from keras import ops

from lqs import methods


def test_by_hand(gradients):
    """Four elements share the scale 2: a gradient of 1/4 + 2 within -1 to 1, bounds included, and of 1/4 beyond."""
    layer = methods.get("xnor")()
    layer.build_for(keras.Variable(np.array([[2.0, -2.0, 2.0, -2.0]], "float32")))
    parameter, upstream = np.array([[0.5, -1, 1.5, 0]], "float32"), np.array([[1, -1, 1, -1]], "float32")
    assert ops.convert_to_numpy(layer(parameter)).tolist() == [[2, -2, 2, 2]]
    (of_parameter,) = gradients(layer, parameter, upstream, [])
    np.testing.assert_allclose(of_parameter, [[2.25, -2.25, 0.25, -2.25]], rtol=1e-6)


def test_elements_that_share_a_scale(gradients):
    """By columns there are two to each: 1/2 and scales 0.5 and 0.75."""
    layer = methods.get("xnor")(granularity="column")
    parameter = np.array([[0.25, 0.75], [-0.75, 0.75]], "float32")
    layer.build_for(keras.Variable(parameter))
    (of_parameter,) = gradients(layer, parameter, np.ones((2, 2), "float32"), [], training=True)
    np.testing.assert_allclose(of_parameter, [[1.0, 1.25], [1.0, 1.25]], rtol=1e-6)
    assert ops.convert_to_numpy(layer.scale).tolist() == [[0.5, 0.75]]
