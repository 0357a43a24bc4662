"""The thesis's dense network on digits, trained within seconds for the first notebooks. JAX only."""

import jax
import keras
import numpy as np
from jax import numpy as jnp

import lqs
from study.datasets import load
from study.gpu.epochs import assign_state, example_order, initial_state, make_training
from study.networks import dense_network

INPUT_SCALE = 1 / 16  # pixels from 0 to 1


def read_test_set():
    """Return the test images as `(297, 64)` numbers from 0 to 1, and their labels."""
    digits = load("digits")
    return INPUT_SCALE * digits.x_test.reshape(len(digits.x_test), -1).astype("float32"), digits.y_test


def train(changes, seeds, epochs=20, batch_size=32, learning_rate=4e-3):
    """Return the trained parameters of networks, as they compute with them: quantized where a network is.

    All are trained at once, by Adam, from the initial weights and in the order of examples of their seed.

    Args:
        changes: functions from the float network to the one that is trained, such as
            `lambda model: lqs.quantize(model, "thesis", threshold=1e-10)`. They differ in strengths alone.
        seeds: list of seeds; each change is trained from each of them.
        epochs: number of epochs.
        batch_size: number of examples in a batch; those that are left over in an epoch are left out.
        learning_rate: of Adam.

    Returns:
        For each change the arrays `[(seeds, 64, 128), (seeds, 128), (seeds, 128, 10), (seeds, 10)]`.
    """
    digits = load("digits")
    members = [(change, seed) for change in changes for seed in seeds]
    models = []
    for change, seed in members:
        keras.utils.set_random_seed(seed)
        models.append(change(dense_network(digits.input_shape, digits.num_classes)))
    models[0].compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    num_full = len(digits.x_train) // batch_size
    epoch_orders = [
        np.stack([example_order(seed, epoch, len(digits.x_train))[: num_full * batch_size] for _, seed in members])
        for epoch in range(epochs)
    ]
    order = np.concatenate([o.reshape(len(members), num_full, batch_size).swapaxes(0, 1) for o in epoch_orders])
    keys = jnp.stack([jax.random.key(seed) for _, seed in members])
    train_all = make_training(models[0], input_scale=INPUT_SCALE)
    state, _ = train_all(initial_state(models), order, keys, jnp.asarray(digits.x_train), jnp.asarray(digits.y_train))
    trained = []
    for index in range(len(members)):
        assign_state(models[0], state, index)
        trained.append(lqs.dequantize(models[0]).get_weights())
    stacked = [
        np.stack(arrays).reshape(len(changes), len(seeds), *arrays[0].shape) for arrays in zip(*trained, strict=True)
    ]
    return [list(arrays) for arrays in zip(*stacked, strict=True)]


def logits(parameters, images, activation=lambda values: values):
    """Return the outputs of one network as a function that JAX differentiates.

    Args:
        parameters: the four arrays of one network.
        images: array `(examples, 64)`.
        activation: what is made of the hidden layer's outputs after ReLU.
    """
    kernel, bias, output_kernel, output_bias = parameters
    return activation(jnp.maximum(images @ kernel + bias, 0.0)) @ output_kernel + output_bias
