"""Min-max quantization, by hand."""

import keras
import numpy as np
from keras import ops

from lqs import methods


def test_highest_level_stands_for_the_largest_element_of_each_step():
    """With 3 bits it is 3: by rows, scales 1 and 2, and then twice those."""
    layer = methods.get("min_max")(bits=3, granularity="row")
    parameter = np.array([[3, -1.4, 0.6], [1, 2.9, -6]], "float32")
    layer.build_for(keras.Variable(parameter))
    assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == [[3, -1, 1], [0, 1, -3]]
    output = layer(2 * parameter, training=True)
    assert ops.convert_to_numpy(output).tolist() == [[6, -2, 2], [0, 4, -12]]
    assert ops.convert_to_numpy(layer.scale).tolist() == [[2], [4]]
