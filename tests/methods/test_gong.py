"""Product quantization: vectors by hand, k-means, and files."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.file import reader
from lqs.inspection import quantized_parameters
from lqs.methods.gong import ProductQuantization

PARAMETER = np.array([[2, 4, -6], [0, 2, 4.4]], "float32")  # vectors (2, 4), (-6, 0), (2, 4.4)
CENTROIDS = np.array([[1, 2], [-3, 0], [9, 9], [-9, 9]], "float32")  # at the scale 2


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def built(parameter=PARAMETER, centroids=CENTROIDS, length=2):
    layer = methods.get("gong")(bits=2, length=length, initial_scale=2.0)
    layer.build_for(keras.Variable(parameter))
    layer.codebook.assign(centroids)
    return layer


def test_by_hand(gradients):
    """A centroid has the sum of the gradients of its vectors, times the scale."""
    layer, upstream = built(), np.array([[1, 2, 3], [4, 5, 6]], "float32")
    assert numbers(layer.integers(PARAMETER)).tolist() == [[-2, 0, -1], [0, -2, 0]]
    assert numbers(layer(PARAMETER)).tolist() == [[2, 4, -6], [0, 2, 4]]
    of_parameter, of_scale, of_codebook = gradients(
        layer, PARAMETER, upstream, [layer.scale_weight, layer.codebook], training=True
    )
    np.testing.assert_array_equal(of_parameter, upstream)
    assert of_scale.tolist() == [[0]] and of_codebook.tolist() == [[2 * 6, 2 * 8], [2 * 3, 2 * 4], [0, 0], [0, 0]]


def test_last_vector_is_filled_up():
    """Of five elements, the last stands alone, beside a zero: (-6, 0)."""
    parameter = np.array([2, 4, 2, 4, -6], "float32")
    layer = built(parameter)
    assert numbers(layer.integers(parameter)).tolist() == [-2, 0, -2, 0, -1]
    assert numbers(layer(parameter)).tolist() == [2, 4, 2, 4, -6]


def test_centroids_start_from_means_of_clusters(rng):
    """Four clusters far apart: their means are the centroids."""
    centers = np.array([[5, 5], [5, -5], [-5, 5], [-5, -5]], "float32")
    vectors = (centers[:, None] + rng.normal(0, 0.1, (4, 6, 2))).astype("float32")
    layer = methods.get("gong")(bits=2, initial_scale=1.0)
    layer.build_for(keras.Variable(vectors.reshape(8, 6)))
    np.testing.assert_allclose(numbers(layer.codebook), vectors.mean(axis=1), rtol=1e-5)


def test_scalars_are_vectors_of_one():
    parameter = np.array([1.8, -6.4, 2.2], "float32")
    layer = built(parameter, np.array([[1], [-3], [9], [-9]], "float32"), length=1)
    assert numbers(layer.integers(parameter)).tolist() == [-2, -1, -2]
    assert numbers(layer(parameter)).tolist() == [2, -6, 2]


@pytest.mark.parametrize("length", [0, 2.0, True])
def test_length_must_be_a_whole_number(length):
    with pytest.raises(ValueError, match="^Argument `length` must be a whole number of at least 1. Received: length="):
        ProductQuantization(length)


@pytest.mark.once
def test_a_vector_costs_one_index(rng, tmp_path):
    """With 16 centroids of two elements, 2 bits an element, not 4; the file is read by NumPy alone."""
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    model = lqs.quantize(model, "gong", bits=4)
    ((variable, quantizer),) = quantized_parameters(model)
    variable.assign(rng.normal(size=variable.shape))
    quantizer.initialize(variable.value)
    lqs.save(model, tmp_path / "model.lqs")
    tensors = {tensor.name: tensor for tensor in reader.read(tmp_path / "model.lqs")[1]}
    kernel = tensors[variable.path]
    np.testing.assert_array_equal(kernel.array, numbers(quantizer(variable.value)))
    assert kernel.integers is not None and 8 * sum(kernel.sections.values()) < 2.2 * kernel.integers.size
