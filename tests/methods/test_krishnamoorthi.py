"""One scale for each output channel."""

import keras
import numpy as np
from keras import ops

import lqs
from lqs.inspection import quantized_parameters


def test_each_unit_has_the_scale_of_its_largest_weight():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    ((_, quantizer),) = quantized_parameters(lqs.quantize(model, "krishnamoorthi", bits=3))
    parameter = np.array([[3, 0.6, -9], [1, -0.2, 4]], "float32")
    quantizer(parameter, training=True)
    np.testing.assert_allclose(ops.convert_to_numpy(quantizer.scale), [[1, 0.2, 3]], rtol=1e-6)
    assert ops.convert_to_numpy(quantizer.integers(parameter)).tolist() == [[3, 3, -3], [1, -1, 1]]
