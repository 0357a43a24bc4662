"""Value-aware quantization: the scale is a quantile, and the largest elements have large integers."""

import keras
import numpy as np
from keras import ops

from lqs import methods


def test_by_hand():
    """Of 0 to 100 and 1e9 a hundredth is beyond 100: with 3 bits, the scale is 100 / 3, the last one clipped."""
    parameter = np.append(np.arange(101), 1e9).astype("float32")
    layer = methods.get("value_aware")(bits=3, ratio=1 / 101)
    layer.build_for(keras.Variable(parameter))
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [100 / 3], rtol=1e-5)
    integers = ops.convert_to_numpy(layer.integers(parameter)).tolist()
    assert integers[::25] == [0, 1, 2, 2, 3] and integers[-1] == 2**15 - 1


def test_each_row_has_its_quantile():
    parameter = np.array([[1, -2, 3, 9], [10, 20, -30, 90]], "float32")
    layer = methods.get("value_aware")(bits=2, ratio=1 / 3, granularity="row")
    layer.build_for(keras.Variable(parameter))
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [[3], [30]], rtol=1e-5)
    assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == [[0, -1, 1, 3], [0, 1, -1, 3]]


def test_without_a_ratio_it_is_min_max(rng):
    parameter = rng.normal(size=(4, 6)).astype("float32")
    layers = [methods.get("value_aware")(bits=4, ratio=0.0), methods.get("min_max")(bits=4)]
    for layer in layers:
        layer.build_for(keras.Variable(parameter))
    np.testing.assert_array_equal(*[ops.convert_to_numpy(layer.integers(parameter)) for layer in layers])
