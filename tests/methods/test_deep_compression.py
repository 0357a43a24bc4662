"""Deep Compression: by hand, and its centroids against k-means of NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.methods.deep_compression import DeepCompression


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def built(shape, threshold, codebook):
    """Return a layer with the scale 2, a threshold and centroids, those of 2 bits."""
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), rounding=DeepCompression(), bits=2, initial_scale=2.0)
    layer.build_for(keras.Variable(np.ones(shape, "float32")))
    layer.rounding.threshold.assign(threshold)
    layer.codebook.assign(codebook)
    return layer


def test_by_hand(gradients):
    """The threshold is 0.5, where it begins to be kept, and middles of the centroids are -2, 0 and 2."""
    layer = built((7,), 0.5, [-3, -1, 0, 1, 3])
    parameter = 2 * np.array([2.5, -0.5, 0.4999, -7, 1.2, 1.9, -0.1], "float32")
    upstream = np.array([1, -1, 5, 2, 3, 1, 7], "float32")
    assert numbers(layer.integers(parameter)).tolist() == [2, -1, 0, -2, 1, 1, 0]
    assert numbers(layer(parameter)).tolist() == [6, -2, 0, -6, 2, 2, 0]
    weights = [layer.scale_weight, layer.codebook]
    of_parameter, of_scale, of_codebook = gradients(layer, parameter, upstream, weights, training=True)
    assert of_parameter.tolist() == upstream.tolist() and of_scale.tolist() == [0]
    assert of_codebook.tolist() == [2 * 2, 2 * -1, 0, 2 * (3 + 1), 2 * 1]
    assert not layer.rounding.threshold.trainable


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_starts_from_twenty_iterations_of_k_means(strength, rng):
    parameter = rng.normal(size=2000).astype("float32") ** 3
    layer = methods.get("deep_compression")(bits=3, threshold=strength, initial_scale=1.0, rule=lqs.Frozen())
    layer.levels and layer.build(parameter.shape)
    layer.initialize(parameter)
    threshold = strength * parameter.std()
    assert float(numbers(layer.rounding.threshold)) == pytest.approx(threshold, rel=1e-5)
    kept = parameter[np.abs(parameter) >= threshold]
    centroids = np.linspace(parameter.min(), parameter.max(), 8)
    for _ in range(20):
        positions = np.where(centroids < 0, -1, 1) * np.maximum(np.abs(centroids), threshold)
        indices = np.abs(kept[:, None] - positions).argmin(1)
        centroids = np.array([kept[indices == k].mean() if np.any(indices == k) else centroids[k] for k in range(8)])
    np.testing.assert_allclose(numbers(layer.codebook), [*centroids[:4], 0, *centroids[4:]], rtol=2e-3, atol=2e-3)
    assert np.mean(numbers(layer.integers(parameter)) == 0) == np.mean(np.abs(parameter) < threshold)


@pytest.mark.parametrize(
    "codebook, expected", [([-3, -0.1, 0, 0.2, 3], [1, -2, 0, 2]), ([-2, 0.1, 0, 0.3, 0.2], [1, -2, 0, 1])]
)
def test_centroids_within_the_threshold_keep_their_integers(codebook, expected):
    """They lie just beyond it; of several, the largest is nearest to almost all that is beyond."""
    layer = built((4,), 1 / 3, codebook)
    parameter = 2 * np.array([0.4, -2.4, 0.3, 2.9], "float32")
    integers = numbers(layer.integers(parameter))
    assert integers.tolist() == expected
    again = layer.parameter_of(integers, numbers(layer.scale))
    assert numbers(layer.integers(again)).tolist() == integers.tolist()
    np.testing.assert_array_equal(numbers(layer(again)), numbers(layer(parameter)))


def test_positions_of_centroids_are_just_beyond_the_threshold():
    """By 2**-19 of it and 2**-10 of their magnitude, in their order."""
    positions = numbers(built((4,), 1.0, [0] * 5).rounding._positions(np.array([-3.0, -0.5, 0.0, 0.5, 1.0], "float32")))
    expected = [-3, -(1 + 2**-19 + 2**-11), 1 + 2**-19, 1 + 2**-19 + 2**-11, 1 + 2**-19 + 2**-10]
    np.testing.assert_allclose(positions, expected, rtol=2**-22)


@pytest.mark.parametrize("value", [-1, "1", None, float("nan")])
def test_bad_strength(value):
    with pytest.raises(ValueError, match="`strength` must be a finite number >= 0. Received: strength="):
        DeepCompression(value)


def test_configuration_round_trip():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(DeepCompression(1.5)))
    assert again.strength == 1.5 and again.codebook is None and DeepCompression().strength == 1.0
