"""Tests of `study.networks`: the thesis's networks."""

import keras
import numpy as np
import pytest

import lqs
from lqs.inspection import quantized_parameters
from study.networks import (
    BLOCK_L2,
    INITIAL_STDDEV,
    NETWORKS,
    cifar10_network,
    dense_network,
    imagenette_network,
    lenet_5_caffe,
    resnet_20,
)

CONVOLUTIONS = ["conv1", "conv2"], ["conv1", "conv2", "shortcut"]  # of a block that keeps the size, of one that halves


@pytest.fixture
def network():
    keras.utils.set_random_seed(42)
    return dense_network((28, 28, 1), 10)


@pytest.fixture(scope="module")
def imagenette():
    keras.utils.set_random_seed(42)
    return imagenette_network((224, 224, 3), 10)


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


def test_cifar10_network_has_the_parameters_of_the_thesis():
    network = cifar10_network((32, 32, 3), 10)
    assert network.count_params() == 552_874
    assert sum(np.prod(variable.shape) for variable in network.trainable_variables) == 551_722
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(layer.count_params() for layer in convolutions) == 287_008


def residual_convolutions():
    """Return the names of the convolutions in the residual blocks, with their filters, stride and kernel size."""
    expected = {}
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            halves = stage > 1 and block == 1
            for part in CONVOLUTIONS[halves]:
                stride = 2 if halves and part != "conv2" else 1
                name = f"stage{stage}_block{block}_{part}"
                expected[name] = (filters, (stride, stride), (1, 1) if part == "shortcut" else (3, 3))
    return expected


def test_imagenette_network_has_the_parameters_of_the_thesis(imagenette):
    # Convolutions with biases, four statistics of each of their filters, and the output layer.
    shapes = [(7, 3, 64), *[(3, 64, 64)] * 4, (3, 64, 128), *[(3, 128, 128)] * 3, (1, 64, 128)]
    shapes += [(3, 128, 256), *[(3, 256, 256)] * 3, (1, 128, 256), (3, 256, 512), *[(3, 512, 512)] * 3, (1, 256, 512)]
    convolutions = sum((size * size * inputs + 1 + 4) * filters for size, inputs, filters in shapes)
    assert imagenette.count_params() == convolutions + 512 * 10 + 10 == 11_196_042
    assert imagenette_network((64, 64, 3), 10).count_params() == 11_196_042  # the size of the images does not matter


def test_imagenette_network_halves_the_image_as_the_thesis_does(imagenette):
    shapes = {layer.name: tuple(layer.output.shape) for layer in imagenette.layers}
    assert shapes["stem"] == (None, 112, 112, 64)
    (pool,) = [layer for layer in imagenette.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert tuple(pool.output.shape) == (None, 56, 56, 64)
    assert (pool.pool_size, pool.strides, pool.padding) == ((3, 3), (2, 2), "same")
    for stage, (size, filters) in enumerate(((56, 64), (28, 128), (14, 256), (7, 512)), start=1):
        for block in (1, 2):
            assert shapes[f"stage{stage}_block{block}_conv2"] == (None, size, size, filters)
    assert imagenette.output_shape == (None, 10)


def test_imagenette_network_has_eight_residual_blocks(imagenette):
    convolutions = {layer.name: layer for layer in imagenette.layers if isinstance(layer, keras.layers.Conv2D)}
    stem = convolutions.pop("stem")
    assert (stem.filters, stem.strides, stem.kernel_size, stem.padding) == (64, (2, 2), (7, 7), "same")
    found = {name: (layer.filters, layer.strides, layer.kernel_size) for name, layer in convolutions.items()}
    assert found == residual_convolutions() and len(found) == 19
    additions = [layer for layer in imagenette.layers if isinstance(layer, keras.layers.Add)]
    assert len(additions) == 8
    kinds = [type(layer).__name__ for layer in imagenette.layers]
    assert kinds.count("BatchNormalization") == 20 and kinds.count("ReLU") == 1 + 2 * 8


def test_block_adds_its_input_to_two_convolutions(imagenette, rng):
    """With the second normalization's factor at 0, only the shortcut is left: the rectified input of the block."""
    first, last = imagenette.get_layer("stage1_block1_conv1"), imagenette.get_layer("stage1_block2_conv1")
    block = keras.models.clone_model(keras.Model(first.input, last.input))
    second = [layer for layer in block.layers if isinstance(layer, keras.layers.BatchNormalization)][1]
    second.gamma.assign(np.zeros(64))
    features = rng.normal(size=(1, 56, 56, 64)).astype("float32")
    np.testing.assert_allclose(block.predict(features, verbose=0), np.maximum(features, 0), atol=1e-6)


def test_imagenette_network_drops_out_where_the_thesis_does(imagenette):
    names = [layer.name for layer in imagenette.layers]
    kinds = [type(layer).__name__ for layer in imagenette.layers]
    dropouts = [index for index, kind in enumerate(kinds) if kind == "Dropout"]
    assert [imagenette.layers[index].rate for index in dropouts] == [0.2, 0.3, 0.3]
    first, second, third = dropouts
    assert kinds[first - 1] == "MaxPooling2D" and names[first + 1] == "stage1_block1_conv1"
    assert kinds[second - 1 : third + 2] == ["ReLU", "Dropout", "GlobalAveragePooling2D", "Dropout", "Dense"]


def test_l2_is_on_the_kernels_of_the_residual_blocks_alone(imagenette):
    regularized = {
        layer.name
        for layer in imagenette.layers
        if getattr(layer, "kernel_regularizer", None) or getattr(layer, "bias_regularizer", None)
    }
    assert regularized == set(residual_convolutions())
    assert BLOCK_L2 == 1e-4
    kernels = [np.asarray(imagenette.get_layer(name).kernel, "float64") for name in regularized]
    expected = 1e-4 * sum(np.sum(kernel**2) for kernel in kernels)
    assert float(sum(imagenette.losses)) == pytest.approx(expected, rel=1e-4)


def test_twenty_convolutions_are_quantized_in_the_imagenette_network(imagenette):
    model = lqs.quantize(imagenette, lqs.NestedQuantization("channel"), where=NETWORKS["imagenette"][1])
    pairs = quantized_parameters(model)
    kernels = [(variable, quantizer) for variable, quantizer in pairs if len(variable.shape) == 4]
    assert len(kernels) == 20 and len(pairs) == 40  # a bias each
    assert all(tuple(q.scale.shape) == (1, 1, v.shape[2], 1) for v, q in kernels)
    assert sum(np.prod(variable.shape) for variable, _ in pairs) == 11_196_042 - 5130 - 4 * 4800
    assert float(sum(model.losses)) == pytest.approx(float(sum(imagenette.losses)), rel=1e-6)  # L2 on the parameters


@pytest.fixture(scope="module")
def quarter():
    return NETWORKS["cifar10_quarter"][0]((32, 32, 3), 10)


def test_a_quarter_of_the_cifar10_network_has_a_quarter_of_its_width(quarter):
    whole = NETWORKS["cifar10"][0]((32, 32, 3), 10)
    assert [type(layer) for layer in quarter.layers] == [type(layer) for layer in whole.layers]
    for narrow, wide in zip(quarter.layers[:-1], whole.layers[:-1], strict=True):
        assert narrow.output.shape[1:-1] == wide.output.shape[1:-1]
        assert 4 * narrow.output.shape[-1] == wide.output.shape[-1]
    assert [layer.rate for layer in quarter.layers if isinstance(layer, keras.layers.Dropout)] == [0.2, 0.3, 0.4, 0.5]


# The field's networks.


@pytest.mark.parametrize(
    "name, image, trained",
    [
        ("lenet_300_100", (28, 28, 1), 785 * 300 + 301 * 100 + 101 * 10),
        ("lenet_5_caffe", (28, 28, 1), 26 * 20 + 501 * 50 + 801 * 500 + 501 * 10),
        ("resnet_20", (32, 32, 3), 269_722),
    ],
)
def test_all_parameters_of_the_fields_networks_are_quantized(name, image, trained):
    make_network, where = NETWORKS[name]
    network = make_network(image, 10)
    assert sum(np.prod(variable.shape) for variable in network.trainable_variables) == trained
    pairs = quantized_parameters(lqs.quantize(network, where=where))
    normalized = sum(layer.gamma.shape[0] for layer in network.layers if "batch" in layer.name)
    assert sum(np.prod(variable.shape) for variable, _ in pairs) == trained - 2 * normalized


def test_lenet_5_has_no_relu_after_a_convolution():
    layers = lenet_5_caffe((28, 28, 1), 10).layers
    activations = {layer.name: layer.activation.__name__ for layer in layers if hasattr(layer, "activation")}
    assert activations == {"conv1": "linear", "conv2": "linear", "hidden": "relu", "output": "linear"}


def test_shortcut_of_resnet_20_takes_every_other_pixel_and_fills_up_channels(rng):
    network = resnet_20((32, 32, 3), 10)
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in network.layers) == 19
    additions = [layer for layer in network.layers if isinstance(layer, keras.layers.Add)]
    assert [layer.output.shape[1:] for layer in additions] == [(32, 32, 16)] * 3 + [(16, 16, 32)] * 3 + [(8, 8, 64)] * 3
    shortcut = keras.Model(additions[2].output, additions[3].input[1])
    features = rng.normal(size=(1, 32, 32, 16)).astype("float32")
    expected = np.pad(np.maximum(features, 0)[:, ::2, ::2], [(0, 0)] * 3 + [(8, 8)])
    np.testing.assert_array_equal(shortcut.predict(features, verbose=0), expected)
