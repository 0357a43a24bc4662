"""Tests of `study.scan`: the steps are those that Keras takes, to the last bit."""

import keras
import numpy as np
import pytest

import lqs
from study.scan import scan_steps

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="on one backend: JAX")
NUM_EXAMPLES = 90  # in batches of 8: eleven, and one of 2


def network(preset="thesis", **arguments):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    layers = [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(3)]
    model = lqs.quantize(keras.Sequential(layers), preset, **arguments)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], steps_per_execution=4)
    return model


def trained(model, rng):
    x, y = rng.normal(size=(NUM_EXAMPLES, 6)).astype("float32"), rng.integers(3, size=NUM_EXAMPLES)
    keras.utils.set_random_seed(5)
    history = model.fit(x, y, batch_size=8, epochs=2, validation_split=0.1, verbose=0).history
    return history, [np.asarray(variable.value) for variable in model.variables + model.optimizer.variables]


@pytest.mark.parametrize(
    "settings", [{"preset": "compact"}, pytest.param({"preset": "stochastic", "bits": 4}, marks=pytest.mark.slow)]
)
def test_every_bit_is_that_of_fit(settings):
    expected_history, expected = trained(network(**settings), np.random.default_rng(0))
    model = network(**settings)
    scan_steps(model)
    scan = model.train_function
    history, variables = trained(model, np.random.default_rng(0))
    assert model.train_function is scan
    assert history == expected_history
    assert len(history["loss"]) == 2
    for received, wanted in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(received, wanted)


def test_compile_undoes_it():
    model = network()
    scan_steps(model)
    model.compile("sgd", "mse")
    assert model.train_function is None


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_of_a_generator(rng):
    model = network()
    scan_steps(model)
    batches = [(rng.normal(size=(n, 6)).astype("float32"), rng.integers(3, size=n)) for n in (8, 8, 3, 8, 8)]
    before = np.asarray(model.optimizer.iterations)
    model.fit((batch for batch in batches), shuffle=False, verbose=0)
    assert np.asarray(model.optimizer.iterations) - before == len(batches)
