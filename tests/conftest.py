"""Shared fixtures: seeds, gradients on any backend, save and load."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import ops


@pytest.fixture(autouse=True)
def _reproducible():
    keras.utils.set_random_seed(42)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def rng():
    return np.random.default_rng(42)


def _tensorflow_gradients(loss, weights, parameter):
    import tensorflow as tf

    parameter = tf.constant(parameter)
    with tf.GradientTape() as tape:
        tape.watch(parameter)
        value = loss(parameter)
    sources = [parameter, *(weight.value for weight in weights)]
    return tape.gradient(value, sources, unconnected_gradients="zero")


def _jax_gradients(loss, weights, parameter):
    import jax

    def stateless(parameter, values):
        with keras.StatelessScope(list(zip(weights, values, strict=True)), collect_losses=True):
            return loss(parameter)

    gradient, of_weights = jax.grad(stateless, argnums=(0, 1))(parameter, [weight.value for weight in weights])
    return [gradient, *of_weights]


def _torch_gradients(loss, weights, parameter):
    import torch

    parameter = torch.tensor(parameter, requires_grad=True)
    sources = [parameter, *(weight.value for weight in weights)]
    return torch.autograd.grad(loss(parameter), sources, allow_unused=True, materialize_grads=True)


@pytest.fixture(scope="session")
def gradients():
    """Function `(layer, parameter, upstream) -> (dL/dP, dL/dw)` with `L = sum(upstream * layer(P)) + losses`.

    `w` is the layer's weight: the scale, or its logarithm; or the weights that are given, each with a gradient.
    """
    compute = {"tensorflow": _tensorflow_gradients, "jax": _jax_gradients, "torch": _torch_gradients}

    def run(layer, parameter, upstream, weights=None, training=False):
        if not layer.built:
            layer.build_for(keras.Variable(parameter))

        def loss(parameter):
            return ops.sum(ops.multiply(layer(parameter, training=training), upstream)) + sum(layer.losses)

        weights = [layer.scale_weight] if weights is None else weights
        found = compute[keras.backend.backend()](loss, weights, parameter)
        return [ops.convert_to_numpy(gradient) for gradient in found]

    return run


@pytest.fixture
def reload(tmp_path):
    """Function that saves a model as `.keras` and loads it, without `custom_objects`."""

    def run(model):
        model.save(tmp_path / "model.keras")
        return keras.models.load_model(tmp_path / "model.keras")

    return run
