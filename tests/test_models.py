"""Tests of `lqs.models`: the thesis's networks."""

import keras
import numpy as np
import pytest

import lqs
from lqs.models import INITIAL_STDDEV, NETWORKS, cifar10_network, dense_network
from lqs.statistics import quantized_parameters


@pytest.fixture
def network():
    keras.utils.set_random_seed(42)
    return dense_network((28, 28, 1), 10)


def test_parameters_are_those_of_the_thesis(network):
    assert [tuple(weight.shape) for weight in network.weights] == [(784, 128), (128,), (128, 10), (10,)]
    assert network.count_params() == 101_770


def test_initial_weights_are_normal_with_the_thesis_deviation(network):
    hidden, hidden_bias, output, output_bias = network.get_weights()
    assert INITIAL_STDDEV == 0.05
    # Five standard errors of the deviation, sigma / sqrt(2 n), and of the mean, sigma / sqrt(n).
    for values in (hidden, hidden_bias, output, output_bias):
        error = 0.05 / np.sqrt(values.size)
        assert abs(values.std() - 0.05) < 5 * error / np.sqrt(2)
        assert abs(values.mean()) < 5 * error
    assert np.mean(np.abs(hidden) > 0.1) == pytest.approx(0.0455, abs=0.004)  # two deviations; none are cut off
    assert np.abs(hidden).max() > 0.18


def test_weights_of_different_tensors_differ(network):
    hidden, hidden_bias, _, output_bias = network.get_weights()
    assert len({*hidden.ravel()[:10], *hidden_bias[:10], *output_bias}) == 30


def test_same_seed_same_weights(network):
    keras.utils.set_random_seed(42)
    for ours, theirs in zip(network.get_weights(), dense_network((28, 28, 1), 10).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_seed_other_weights(network):
    keras.utils.set_random_seed(43)
    for ours, theirs in zip(network.get_weights(), dense_network((28, 28, 1), 10).get_weights(), strict=True):
        assert np.mean(ours != theirs) > 0.99


def test_outputs_are_logits(network, rng):
    images = rng.uniform(0, 255, (5, 28, 28, 1)).astype("float32")
    hidden, hidden_bias, output, output_bias = (weights.astype("float64") for weights in network.get_weights())
    activations = np.maximum(images.reshape(5, 784) @ hidden + hidden_bias, 0)
    expected = activations @ output + output_bias
    np.testing.assert_allclose(network.predict(images, verbose=0), expected, rtol=1e-3, atol=1e-3)
    assert (expected < 0).any() and (expected > 1).any()  # a softmax would give neither


def test_networks_by_name():
    make_network, where = NETWORKS["dense"]
    network = make_network((8, 8, 1), 3)
    assert network.output_shape == (None, 3)
    assert all(where(layer, weight) for layer in network.layers for weight in layer.weights)
    assert not where(keras.layers.BatchNormalization(), None)


def test_convolutions_alone_are_quantized_in_the_cifar10_network():
    model = lqs.quantize(cifar10_network((32, 32, 3), 10), where=NETWORKS["cifar10"][1])
    shapes = [tuple(variable.shape) for variable, _ in quantized_parameters(model)]
    channels = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    assert shapes == [shape for inputs, filters in channels for shape in ((3, 3, inputs, filters), (filters,))]


def test_cifar10_network_is_that_of_the_thesis():
    keras.utils.set_random_seed(42)
    network = cifar10_network((32, 32, 3), 10)
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["Conv2D", "BatchNormalization"] * 2 + ["MaxPooling2D", "Dropout"]
    assert kinds == block * 3 + ["Flatten", "Dense", "BatchNormalization", "Dropout", "Dense"]
    rates = [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.2, 0.3, 0.4, 0.5]
    assert network.get_layer("hidden").kernel.shape == (4 * 4 * 128, 128)
    deviations = [np.std(weight) for weight in network.get_weights() if weight.ndim == 4]
    np.testing.assert_allclose(deviations, 0.05, rtol=0.1)
