"""Levels that learn: where they start, and their gradients."""

import keras
import numpy as np
from keras import ops

from lqs import methods


def test_by_hand(gradients):
    """Levels from -2 to 4 at the scale 2: -1, 0, 1, 2; each has the sum of the gradients of its elements, times 2."""
    parameter, upstream = np.array([-2, 4, 0.9, 1.1, 3.1], "float32"), np.array([1, 2, 4, 8, 16], "float32")
    layer = methods.get("polino")(bits=2, initial_scale=2.0)
    layer.build_for(keras.Variable(parameter))
    assert ops.convert_to_numpy(layer.codebook).tolist() == [-1, 0, 1, 2]
    assert ops.convert_to_numpy(layer(parameter)).tolist() == [-2, 4, 0, 2, 4]
    of_parameter, of_codebook = gradients(layer, parameter, upstream, [layer.codebook], training=True)
    np.testing.assert_array_equal(of_parameter, upstream)
    assert of_codebook.tolist() == [2 * 1, 2 * 4, 2 * 8, 2 * (2 + 16)]
