"""QNN: powers of two of the largest element, by hand."""

import keras
import numpy as np
import pytest
from keras import ops

from lqs import methods


def built(parameter, bits):
    layer = methods.get("qnn")(bits=bits)
    layer.build_for(keras.Variable(parameter))
    return layer


def test_by_hand(gradients):
    """The largest is 8; powers change at the square root of two: 5.7 goes to 8, 5.6 to 4. None is below 1."""
    parameter = np.array([8, 5.7, 5.6, -3, -1.5, 1.4, -0.1, 0], "float32")
    layer = built(parameter, 3)
    assert ops.convert_to_numpy(layer.integers(parameter)).tolist() == [3, 3, 2, -3, -2, 0, -1, 0]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(parameter)), [8, 8, 4, -4, -2, 1, -1, 1], rtol=1e-6)
    upstream = np.arange(8, dtype="float32")
    (of_parameter,) = gradients(layer, parameter, upstream, [], training=True)
    np.testing.assert_array_equal(of_parameter, upstream)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_levels_are_powers_of_two(bits):
    codebook = ops.convert_to_numpy(built(np.array([1, -0.5], "float32"), bits).codebook)
    exponents = np.log2(np.abs(codebook) / codebook.max())
    assert exponents.tolist() == [*range(0, -(2 ** (bits - 1)), -1), *range(1 - 2 ** (bits - 1), 1)]
    assert np.all(np.diff(codebook) > 0)
