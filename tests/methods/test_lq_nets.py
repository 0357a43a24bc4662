"""LQ-Nets: by hand, and its basis against NumPy's least squares."""

import keras
import numpy as np
import pytest
from keras import ops

from lqs import methods
from lqs.methods.lq_nets import _signs


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def built(parameter, bits, codebook=None):
    layer = methods.get("lq_nets")(bits=bits, initial_scale=2.0)
    layer.build_for(keras.Variable(parameter))
    if codebook is not None:
        layer.codebook.assign(codebook)
    return layer


def signs(bits):
    return np.array([[2 * (code >> bit & 1) - 1 for code in range(2**bits)] for bit in reversed(range(bits))])


def fitted(values, levels, bits):
    """Return the levels of the basis that fits best to the numbers that are nearest to each of the given ones."""
    codes = np.abs(values[:, None] - levels).argmin(-1)
    return np.linalg.lstsq(signs(bits)[:, codes].T, values, rcond=None)[0] @ signs(bits)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_signs(bits):
    assert _signs(2**bits).tolist() == signs(bits).tolist()


@pytest.mark.parametrize("training", [False, True])
def test_by_hand(training, gradients):
    """The levels of the basis 2, 1, which has no gradient, and gives the parameter none."""
    parameter, upstream = 2 * np.array([2.5, -0.5, 0.4, -7], "float32"), np.array([1, -1, 2, -2], "float32")
    layer = built(parameter, 2, [-3, -1, 1, 3])
    assert numbers(layer.integers(parameter)).tolist() == [1, -1, 0, -2]
    assert numbers(layer(parameter)).tolist() == [6, -2, 2, -6]
    of_parameter, of_scale = gradients(layer, parameter, upstream, training=training)
    assert of_parameter.tolist() == upstream.tolist() and of_scale.tolist() == [0]
    assert layer.trainable_variables == [layer.scale_weight]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_step_is_the_moving_average_of_least_squares(bits, rng):
    levels = 1.3 ** np.arange(bits)[::-1] @ signs(bits)
    parameter = rng.normal(scale=4, size=(50, 9)).astype("float32")
    layer = built(parameter, bits, levels)
    layer(parameter)
    np.testing.assert_allclose(numbers(layer.codebook), levels, rtol=1e-6)  # in evaluation it stays
    layer(parameter, training=True)
    expected = 0.9 * levels + 0.1 * fitted(parameter.ravel() / 2, levels, bits)
    np.testing.assert_allclose(numbers(layer.codebook), expected, rtol=1e-4, atol=1e-4)


def test_starts_from_twenty_fits(rng):
    """From levels evenly spaced between the largest magnitude and its negative; one more would still change them."""
    values = rng.exponential(size=4000).astype("float32") * rng.choice([-1, 1], 4000)
    expected = np.abs(values).max() * np.linspace(-1, 1, 16)
    for _ in range(20):
        expected = fitted(values, expected, 4)
    found = numbers(built((2 * values).astype("float32"), 4).codebook)
    assert np.abs(fitted(values, expected, 4) - expected).max() > 4 * np.abs(found - expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_of_zeros_is_finite():
    """Where no basis is determined, the smallest is taken."""
    zeros = np.zeros(4, "float32")
    layer = built(zeros, 3)
    assert not numbers(layer(zeros, training=True)).any() and not numbers(layer.codebook).any()
