"""Roundings to the sign."""

import numpy as np
from keras import ops

from lqs.methods.binary_connect import BinaryConnect
from lqs.methods.signs import Signs


def test_zero_is_positive():
    parameter = np.array([-3.0, -1e-30, -0.0, 0.0, 1e-30, 5.0], "float32")
    integers = Signs().integers(ops.convert_to_tensor(parameter), np.ones(1, "float32"))
    assert ops.convert_to_numpy(integers).tolist() == [-1, -1, 1, 1, 1, 1]
    assert BinaryConnect().levels_of(None) == (-1, 1) and not BinaryConnect().clips
