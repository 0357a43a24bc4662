"""Tests of `study.digits`: networks that are trained at once are those that Keras trains one by one. JAX only."""

import keras
import numpy as np
import pytest

import lqs
from study.datasets import load
from study.digits import INPUT_SCALE, logits, read_test_set, train
from study.networks import dense_network

pytestmark = [pytest.mark.once, pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.vmap")]


def thesis(threshold):
    return lambda model: lqs.quantize(model, "thesis", threshold=threshold)


@pytest.fixture(scope="module")
def trained():
    return train([thesis(0.0), thesis(1e-3)], [1, 2], epochs=1, batch_size=500)


def test_networks_are_those_that_keras_trains(trained):
    digits = load("digits")
    keras.utils.set_random_seed(2)
    model = thesis(1e-3)(dense_network(digits.input_shape, 10))
    model.compile(keras.optimizers.Adam(4e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x_train * np.float32(INPUT_SCALE), digits.y_train, 500, epochs=1, verbose=0)
    for ours, theirs in zip(trained[1], lqs.dequantize(model).get_weights(), strict=True):
        np.testing.assert_allclose(ours[1], theirs, atol=0.02)  # a scale: floor may tip over


def test_changes_and_seeds_differ(trained):
    fine, coarse = trained
    assert [array.shape for array in fine] == [(2, 64, 128), (2, 128), (2, 128, 10), (2, 10)]
    assert not np.allclose(fine[0][0], fine[0][1])
    assert len(np.unique(coarse[2][0])) < len(np.unique(fine[2][0]))


def test_outputs_are_those_of_the_network():
    images, labels = read_test_set()
    assert images.shape == (297, 64) and images.max() == 1.0 and labels.shape == (297,)
    keras.utils.set_random_seed(1)
    model = dense_network((8, 8, 1), 10)
    expected = np.asarray(model(images.reshape(-1, 8, 8, 1)))
    np.testing.assert_allclose(logits(model.get_weights(), images), expected, atol=1e-5)
    nothing = logits(model.get_weights(), images, activation=lambda values: 0.0 * values)
    np.testing.assert_allclose(nothing, np.broadcast_to(model.get_weights()[3], (297, 10)))
