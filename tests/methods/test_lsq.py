"""LSQ, by hand: initial scale, and both gradients with the paper's factor."""

import keras
import numpy as np
from keras import ops

from lqs import methods


def test_by_hand(gradients):
    """With 3 bits the highest level is 3: magnitudes of mean 3 give a scale of 2 * 3 / sqrt(3) = 2 sqrt(3).

    At a scale of 1, quotients are 0.25, -1.5, -6 and 4.25. Slopes of the scale: -0.25, -0.5, -4, 3, times the factor
    1 / sqrt(4 * 3).
    """
    parameter = np.array([0.25, -1.5, -6, 4.25], "float32")
    layer = methods.get("lsq")(bits=3)
    layer.build_for(keras.Variable(parameter))
    np.testing.assert_allclose(layer.scale, [2 * 3**0.5], rtol=1e-6)
    layer.scale.assign([1.0])
    assert ops.convert_to_numpy(layer(parameter)).tolist() == [0, -2, -4, 3]
    of_parameter, of_scale = gradients(layer, parameter, np.array([1, 2, 4, 8], "float32"))
    assert of_parameter.tolist() == [1, 2, 0, 0]
    np.testing.assert_allclose(of_scale, [(-0.25 - 1 - 16 + 24) / 12**0.5], rtol=1e-6)
