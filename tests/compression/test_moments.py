"""Tests of what is multiplied with each kernel: inputs times matrix are the outputs of the layer."""

import contextlib
import gc
import weakref

import keras
import models
import numpy as np
import pytest
from keras import layers

from lqs.compression import moments
from lqs.inspection import to_numpy

SAME = {"padding": "same"}
LAYERS = {
    "Dense": (layers.Dense(3), (4,)),
    "Dense, sequence": (layers.Dense(3), (5, 4)),
    "EinsumDense": (layers.EinsumDense("abc,chd->abhd", (None, 2, 3), bias_axes="hd"), (5, 4)),
    "EinsumDense, two summed": (layers.EinsumDense("abhd,hdc->abc", (None, 3), bias_axes="c"), (5, 2, 3)),
    "EinsumDense, ellipsis": (layers.EinsumDense("...c,cd->...d", (5, 3), bias_axes="d"), (5, 4)),
    "EinsumDense, groups": (layers.EinsumDense("abh,hd->abhd", (None, 4, 3)), (5, 4)),
    "Conv1D, causal": (layers.Conv1D(3, 2, padding="causal", dilation_rate=2), (7, 4)),
    "Conv2D": (layers.Conv2D(3, (2, 3)), (5, 6, 2)),
    "Conv2D, strides": (layers.Conv2D(3, 3, strides=2, **SAME), (6, 5, 2)),
    "Conv2D, dilation": (layers.Conv2D(3, 2, dilation_rate=2, **SAME), (5, 5, 2)),
    "Conv2D, groups": (layers.Conv2D(6, 2, groups=2), (5, 5, 4)),
    "Conv3D": (layers.Conv3D(2, 2, **SAME), (3, 4, 3, 2)),
    "DepthwiseConv1D": (layers.DepthwiseConv1D(2, depth_multiplier=2), (5, 3)),
    "DepthwiseConv2D": (layers.DepthwiseConv2D(3, depth_multiplier=2, **SAME), (5, 4, 2)),
}


def with_bias(layer, shape, rng):
    layer.build((None, *shape))
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return rng.normal(size=(2, *shape)).astype("float32")


def products(kernel, x, y=None):
    """Return what the inputs of a kernel make with its matrices, `(positions, outputs)`."""
    weights = kernel.to_matrix(to_numpy(kernel.variable))
    of_groups = np.einsum("pgn,gnm->pgm", kernel.inputs(x, y), weights)
    return of_groups.sum(1) if kernel.are_blocks else of_groups.reshape(len(of_groups), -1)


@pytest.mark.parametrize("max_side", [2048, 3], ids=["whole", "blocks"])
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_times_matrix_are_the_outputs(kind, max_side, rng, monkeypatch):
    monkeypatch.setattr(moments, "MAX_SIDE", max_side)
    layer, shape = LAYERS[kind]
    layer = type(layer).from_config(layer.get_config())
    x = with_bias(layer, shape, rng)
    (kernel,) = moments.kernels(layer)
    outputs = to_numpy(layer(x))
    if layer.bias is not None:
        outputs = outputs - to_numpy(layer.bias)
    found = products(kernel, x)
    np.testing.assert_allclose(found.ravel(), outputs.ravel(), rtol=1e-3, atol=1e-5)
    matrix = kernel.to_matrix(to_numpy(kernel.variable))
    np.testing.assert_array_equal(kernel.from_matrix(matrix), to_numpy(kernel.variable))
    if kernel.bias is not None:
        assert matrix.shape[-1] * (1 if kernel.are_blocks else len(matrix)) == np.prod(kernel.bias.shape)


@pytest.mark.parametrize("strides", [1, 2])
def test_transposed_convolution(strides, rng):
    layer = layers.Conv2DTranspose(3, (2, 3), strides=strides)
    x = with_bias(layer, (3, 4, 2), rng)
    (kernel,) = moments.kernels(layer)
    outputs = (to_numpy(layer(x)) - to_numpy(layer.bias)).reshape(-1, 3)
    np.testing.assert_allclose(products(kernel, x), outputs, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(kernel.from_matrix(kernel.to_matrix(to_numpy(layer.kernel))), to_numpy(layer.kernel))


def test_separable_convolution(rng):
    layer = layers.SeparableConv2D(3, 2, depth_multiplier=2)
    x = with_bias(layer, (4, 4, 2), rng)
    _, pointwise = moments.kernels(layer)
    outputs = (to_numpy(layer(x)) - to_numpy(layer.bias)).reshape(-1, 3)
    np.testing.assert_allclose(products(pointwise, x), outputs, rtol=1e-3, atol=1e-5)


def test_recurrent_layer_is_captured_with_its_states(rng):
    model = models.stack(models.SEQUENCE, layers.SimpleRNN(4, activation="linear", use_bias=False, unroll=True))
    (layer,), seen = model.layers, []
    x = rng.normal(size=(2, *models.SEQUENCE)).astype("float32")
    with moments.captured([layer], lambda *arguments: seen.append(arguments)):
        outputs = to_numpy(model(x))
    ((_, inputs, states),) = seen
    assert outputs.shape == (2, 4) and "call" not in vars(layer)
    of_inputs, of_states = (products(kernel, inputs, states) for kernel in moments.kernels(layer))
    np.testing.assert_allclose((of_inputs + of_states).reshape(states.shape), states, rtol=1e-3, atol=1e-5)


def test_call_that_is_stopped_keeps_nothing(rng):
    """Also before garbage is collected."""
    model, references = models.stack((4,), layers.Dense(3), layers.Dense(2)), []

    def capture(layer, x, y):
        references.append(weakref.ref(x))
        raise moments.Stop

    gc.disable()
    try:
        with moments.captured(model.layers[1:], capture), contextlib.suppress(moments.Stop):
            model(rng.normal(size=(2, 4)).astype("float32"))
        assert [reference() for reference in references] == [None]
    finally:
        gc.enable()


def test_moments_add_up(rng):
    x, z = rng.normal(size=(2, 6, 2, 3))
    found = moments.Moments((2, 3))
    for part in (slice(0, 2), slice(2, 6)):
        found.add(x[part], z[part], 1)
    np.testing.assert_allclose(found.cross, np.einsum("pgi,pgj->gij", x, z))
    np.testing.assert_allclose(found.moments, np.einsum("pgi,pgj->gij", x, x))
    assert (found.num, found.num_examples, found.is_exact) == (6, 2, False)


def test_layers_of_other_kinds_have_none():
    assert moments.kernels(keras.layers.Embedding(3, 4)) == []
