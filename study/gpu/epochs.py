"""Epochs of many networks of one architecture at once: `jax.vmap` over Keras's stateless calls.

The state is that of one network with one more axis, that of its *members*: lists of the trainable, the other and the
optimizer's variables, each of the shape `(members, ...)`. Strengths of rules and penalties are among them, so members
may differ in strength. All data lie on the device, and the batches of an epoch are one compiled call (two, if the last
batch is smaller).

A member takes the steps that `study.training.fit` takes under its seed on JAX: the same order of examples, the same
dropout. What differs is the order of floating-point sums, and where images are augmented, their order and the random
changes, which are drawn on the device.
"""

import functools

import jax
import keras
import numpy as np
from jax import numpy as jnp

from lqs.inspection import quantized_parameters
from study.augmentation import augment_on_device
from study.examples import VALIDATION_BATCH_SIZE
from study.protocols import scheduled_learning_rate


def initial_state(models):
    """Return the state of compiled models of one architecture, one for each member, before the first epoch."""
    optimizer = models[0].optimizer
    optimizer.build(models[0].trainable_variables)
    return (
        _stack(model.trainable_variables for model in models),
        _stack(model.non_trainable_variables for model in models),
        _stack([optimizer.variables] * len(models)),
    )


def assign_state(model, state, index):
    """Give a model the variables of the member of that index; its optimizer stays as it is."""
    variables = model.trainable_variables + model.non_trainable_variables
    for variable, values in zip(variables, state[0] + state[1], strict=True):
        variable.assign(values[index])


def make_epoch(configs, model, dataset):
    """Return the function `(state, epoch) -> (state, {name: (members,)})` that trains and validates all members.

    The names are those of a run record's history.

    Args:
        configs: configurations of the members, `study.configs.Config` that differ in `strength` and `seed` alone.
        model: compiled model of one of them, whose optimizer is built.
        dataset: `study.datasets.Dataset`.
    """
    config = configs[0]
    train_data = jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)
    test_data = jnp.asarray(dataset.x_test), jnp.asarray(dataset.y_test)
    training, input_scale = config.training, config.data.input_scale
    is_augmented = config.data.image_size is not None
    change = functools.partial(augment_on_device, size=config.data.image_size) if is_augmented else None
    train, test = make_training(model, change, input_scale), _make_validation(model, input_scale)
    statistics = _make_integer_statistics(model)
    test_orders = np.arange(len(dataset.x_test))[None]
    test_batch_size = training.batch_size if is_augmented else VALIDATION_BATCH_SIZE
    rate_index = [variable is model.optimizer.learning_rate for variable in model.optimizer.variables].index(True)

    def run_epoch(state, epoch):
        trainable, rest, optimizer = state
        rates = jnp.full_like(optimizer[rate_index], scheduled_learning_rate(training, epoch))
        state = trainable, rest, [*optimizer[:rate_index], rates, *optimizer[rate_index + 1 :]]
        orders = np.stack([example_order(config.seed, epoch, len(dataset.x_train)) for config in configs])
        keys = jnp.stack([jax.random.fold_in(jax.random.key(config.seed), epoch) for config in configs])
        logs, test_logs = [], []
        for order in _batches(orders, training.batch_size):
            state, values = train(state, order, keys, *train_data)
            logs.append((order.shape, values))
        for order in _batches(test_orders, test_batch_size):
            test_logs.append((order.shape, test(state, order[:, 0], *test_data)))
        validation = {f"val_{name}": values for name, values in _mean(test_logs).items()}
        counts = {name: np.asarray(values) for name, values in statistics(*state[:2]).items()}
        return state, {**_mean(logs), **validation, **counts}

    return run_epoch


def example_order(seed, epoch, num_examples):
    """Return the order of the training examples in an epoch, counted from 0: that of `fit` on JAX under the seed.

    Example:

    >>> [example_order(42, epoch, 5).tolist() for epoch in (0, 1)]
    [[3, 1, 2, 0, 4], [1, 0, 3, 4, 2]]
    """
    generator = np.random.RandomState(seed)
    for _ in range(epoch + 1):  # `fit` draws one more before the first epoch, to look at the shapes
        generator.permutation(num_examples)
    return generator.permutation(num_examples)


def make_training(model, change=None, input_scale=1.0):
    """Return the compiled function that trains all members on batches, and also returns their losses and accuracies.

    Its arguments are the state, the examples `(batches, members, batch)`, a key for each member, images and labels.
    `change`, if given, is a function `(image, key) -> image`; `input_scale` is the factor of the pixel values.

    What is differentiated is the sum of the members' losses, outside of `vmap`: the gradient of a kernel is then a
    convolution with a group of the *batch* for each member, for which XLA calls cuDNN. `vmap` of a gradient would make
    it one with groups of *features* and a window as large as the image, which XLA does not know as a gradient.
    """

    def train_batch(state, indices, keys, images, labels):
        trainable, rest, optimizer = state
        batch = images[indices]
        if change is not None:
            keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys, indices)
            batch = jax.vmap(jax.vmap(change))(batch, keys)

        def total_loss(trainable):
            evaluate = jax.vmap(functools.partial(_evaluate, model, is_training=True))
            logs, new_rest = evaluate(trainable, rest, input_scale * batch.astype("float32"), labels[indices])
            return jnp.sum(logs["loss"]), (logs, new_rest)

        gradients, (logs, rest) = jax.grad(total_loss, has_aux=True)(trainable)
        trainable, optimizer = jax.vmap(model.optimizer.stateless_apply)(optimizer, gradients, trainable)
        return (trainable, rest, optimizer), logs

    def train(state, order, *data):
        return jax.lax.scan(lambda state, indices: train_batch(state, indices, *data), state, order)

    return jax.jit(train)


def _make_validation(model, input_scale):
    """Return the compiled function that evaluates all members on batches of the same examples `(batches, batch)`."""

    def test(state, order, images, labels):
        trainable, rest, _ = state

        def test_batch(indices):
            evaluate = jax.vmap(functools.partial(_evaluate, model, is_training=False), in_axes=(0, 0, None, None))
            return evaluate(trainable, rest, input_scale * images[indices].astype("float32"), labels[indices])[0]

        return jax.lax.map(test_batch, order)

    return jax.jit(test)


def _evaluate(model, trainable, rest, images, labels, is_training):
    """Return loss, cross entropy and accuracy of one member on a batch, and its variables that are not trained."""
    arguments = {"training": is_training, "return_losses": True}
    logits, rest, losses = model.stateless_call(trainable, rest, images, **arguments)
    cross_entropy = jnp.mean(keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return {"loss": cross_entropy + sum(losses), "cross_entropy": cross_entropy, "accuracy": accuracy}, rest


def _make_integer_statistics(model):
    """Return the compiled function from the members' variables, trainable and other, to statistics of integers."""
    pairs, variables = quantized_parameters(model), model.trainable_variables + model.non_trainable_variables

    def statistics(trainable, rest):
        with keras.StatelessScope(state_mapping=list(zip(variables, trainable + rest, strict=True))):
            integers = [jnp.ravel(quantizer.integers(variable.value)) for variable, quantizer in pairs]
        ordered = jnp.sort(jnp.concatenate(integers))
        return {"unique": 1 + jnp.sum(ordered[1:] != ordered[:-1]), "min": ordered[0], "max": ordered[-1]}

    return jax.jit(jax.vmap(statistics)) if pairs else lambda trainable, rest: {}


def _batches(orders, batch_size):
    """Return orders `(members, examples)` as full batches `(batches, members, batch)`, and one of what is left."""
    num_full = orders.shape[1] - orders.shape[1] % batch_size
    full = orders[:, :num_full].reshape(len(orders), -1, batch_size).swapaxes(0, 1)
    return [order for order in (full, orders[None, :, num_full:]) if order.size]


def _mean(parts):
    """Return means over all examples from pairs of the shape `(batches, members, batch)` and the means of batches."""
    weights = np.concatenate([np.full(shape[0], shape[2]) for shape, _ in parts])
    columns = {name: np.concatenate([values[name] for _, values in parts]) for name in parts[0][1]}
    return {name: np.average(values, axis=0, weights=weights) for name, values in columns.items()}


def _stack(variables_of_members):
    """Return the values of each variable, `(members, ...)`."""
    return [jnp.stack([v.value for v in variables]) for variables in zip(*variables_of_members, strict=True)]
