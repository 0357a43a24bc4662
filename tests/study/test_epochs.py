"""Tests of `study.gpu.epochs`: members against the network that `fit` trains under the same seed. JAX only."""

import functools

import jax
import keras
import numpy as np
import pytest
from jax import numpy as jnp

from lqs.inspection import model_integers
from study import training
from study.augmentation import augment_on_device
from study.configs import make_config
from study.datasets import Dataset
from study.gpu.epochs import assign_state, example_order, initial_state, make_epoch, make_training
from study.networks import NETWORKS, is_convolution
from study.protocols import scheduled_learning_rate

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.vmap")
SHAPE, NUM_CLASSES = (8, 8, 3), 10


def small_network(input_shape, num_classes):
    """Every kind of layer of the thesis's convolutional networks, once."""
    layers = [
        keras.Input(input_shape),
        keras.layers.Conv2D(4, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(0.1)),
        keras.layers.BatchNormalization(),
        keras.layers.MaxPooling2D(2),
        keras.layers.Dropout(0.3),
        keras.layers.Flatten(),
        keras.layers.Dense(num_classes, name="output"),
    ]
    return keras.Sequential(layers)


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small", (small_network, is_convolution))
        patch.setattr(training, "STEPS_PER_EXECUTION", 1)  # quicker to compile
        yield


@pytest.fixture(scope="module")
def dataset():
    """70 and 23 images: neither is a multiple of 16, a batch."""
    rng = np.random.default_rng(42)
    images = rng.integers(0, 256, (93, *SHAPE), dtype="uint8")
    labels = rng.integers(0, NUM_CLASSES, 93).astype("int32")
    return Dataset("digits", images[:70], labels[:70], images[70:], labels[70:], NUM_CLASSES, "random")


def small_config(method="nested", strength=0.0, seed=42, **settings):
    # Adam's large epsilon keeps gradients that are nothing but rounding from becoming steps of full length.
    settings = {"network": "small", "epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "epsilon": 1e-3, **settings}
    return make_config("digits", method, strength, "channel", seed=seed, protocol="smoke", backend="jax", **settings)


def make_models(configs):
    return [training.make_model(config, SHAPE, NUM_CLASSES) for config in configs]


def train(configs, dataset):
    """Return models, the state after the last epoch, and the history, a list of dictionaries."""
    models = make_models(configs)
    run_epoch, state, history = make_epoch(configs, models[0], dataset), initial_state(models), []
    for epoch in range(configs[0].training.epochs):
        state, values = run_epoch(state, epoch)
        history.append(values)
    return models, state, history


@pytest.fixture(scope="module")
def members(dataset):
    """Return configurations, models, state and history of two strengths by two seeds."""
    configs = [small_config(strength=strength, seed=seed) for strength in (0.0, 1.0) for seed in (1, 2)]
    return configs, *train(configs, dataset)


def assert_as_by_fit(config, index, state, history, dataset):
    """Compare a member with what `fit` makes of its configuration, to the precision of floating-point sums."""
    (model,) = make_models([config])
    expected = training.fit(config, model, dataset)
    assert set(history[0]) == set(expected)
    for name, values in expected.items():
        tolerance = {"abs": 2} if name in ("unique", "min", "max") else {"rel": 1e-4}
        assert [epoch[name][index] for epoch in history] == pytest.approx(values, **tolerance), name
    weights = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    assign_state(model, state, index)
    for variable, values in zip(model.variables, weights, strict=True):
        np.testing.assert_allclose(variable.value, values, rtol=1e-3, atol=1e-5, err_msg=variable.path)


def test_member_is_the_network_that_fit_trains(members, dataset):
    configs, _, state, history = members
    index = 3  # of the other seed and the other strength than the first
    assert_as_by_fit(configs[index], index, state, history, dataset)


@pytest.mark.slow
def test_penalty_schedule_and_scaled_input(dataset):
    settings = {"schedule": "steps", "epochs": 3, "batch_size": 35, "input_scale": 0.5}
    configs = [small_config("max_bin", strength, **settings) for strength in (0.0, 1e-2)]
    assert scheduled_learning_rate(configs[0].training, 2) == pytest.approx(1e-4)
    _, state, history = train(configs, dataset)
    assert_as_by_fit(configs[1], 1, state, history, dataset)


def test_members_differ_in_strength_and_seed(members):
    _, _, state, history = members
    assert len({float(loss) for loss in history[-1]["loss"]}) == 4
    scales = next(values for values in state[0] if values.shape[1:] == (1, 1, 3, 1))
    assert np.all(scales[:2] == scales[0, 0, 0, 0, 0]) and np.all(scales[2:] > scales[0, 0, 0, 0, 0])


def test_statistics_of_integers(members):
    _, models, state, history = members
    for index, model in enumerate(models):
        assign_state(model, state, index)
        integers = np.concatenate([array.ravel() for array in model_integers(model).values()])
        expected = {"unique": len(set(integers.tolist())), "min": integers.min(), "max": integers.max()}
        assert {name: history[-1][name][index] for name in expected} == expected


def test_order_has_every_example_once():
    orders = [example_order(seed, epoch, 50) for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_gradients_of_kernels_are_convolutions_with_groups_of_the_batch(dataset):
    """Without them a GPU has no fast kernel for the step; see `make_training`."""
    models = make_models([small_config(seed=seed) for seed in (1, 2, 3)])
    keys = jnp.stack([jax.random.key(seed) for seed in (1, 2, 3)])
    order = np.zeros((2, 3, 16), int)
    arguments = initial_state(models), order, keys, dataset.x_train, dataset.y_train
    text = make_training(models[0]).lower(*arguments).as_text()
    assert text.count("batch_group_count = 3") == 1 and text.count("feature_group_count = 3") == 1


@pytest.mark.slow
def test_augmented_images_differ_by_member_epoch_and_example():
    """One batch of one image, over and over: the loss differs by what augmentation draws."""
    images, labels = (
        np.tile(np.linspace(0, 255, 10 * 10 * 3, dtype="uint8").reshape(1, 10, 10, 3), (4, 1, 1, 1)),
        [1] * 4,
    )
    configs = [small_config("float", seed=seed, image_size=8, learning_rate=0.0) for seed in (1, 1, 2)]
    models = make_models(configs)
    state = initial_state([models[0]] * 3)
    step = make_training(models[0], functools.partial(augment_on_device, size=8))

    def losses(epoch, order):
        keys = jnp.stack([jax.random.fold_in(jax.random.key(config.seed), epoch) for config in configs])
        return step(state, np.array(order)[:, None, None].repeat(3, axis=1), keys, images, np.array(labels))[1]["loss"]

    first, again, later = losses(0, [0, 1]), losses(0, [0, 1]), losses(1, [0, 1])
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:, 0], first[:, 1])  # of the same seed
    assert len(np.unique([first[:, 0], first[:, 2], later[:, 0], later[:, 2]])) == 8
