"""RDO-Q: the bit width of least distortion and rate, against a search by NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from lqs import methods


def best_scales(parameter, rate):
    """Return the scale of each row by trying all widths."""
    found = []
    for row in parameter.astype("float64"):
        costs = {}
        for bits in (0, 2, 3, 4, 5, 6, 7, 8):
            scale = np.abs(row).max() / (2 ** (bits - 1) - 1) if bits else 4 * np.abs(row).max()
            error = np.mean((row - scale * np.round(row / scale)) ** 2) / np.mean(parameter.astype("float64") ** 2)
            costs[error + rate * bits] = scale
        found.append([costs[min(costs)]])
    return found


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.1])
def test_every_row_has_the_best_width(rate, rng):
    parameter = (rng.normal(size=(4, 16)) * [[0.01], [0.1], [1], [3]]).astype("float32")
    layer = methods.get("rdo_q")(rate=rate, granularity="row")
    layer.build_for(keras.Variable(parameter))
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), best_scales(parameter, rate), rtol=1e-5)


def test_small_rows_cost_nothing(rng):
    parameter = (rng.normal(size=(2, 8)) * [[0.01], [1]]).astype("float32")
    layer = methods.get("rdo_q")(rate=0.01, granularity="row")
    layer.build_for(keras.Variable(parameter))
    small, large = ops.convert_to_numpy(layer.integers(parameter))
    assert not small.any() and len(np.unique(large)) > 4
