"""Training steps on JAX as one compiled loop, where Keras calls the compiled step once for each batch."""

import itertools

import jax
import numpy as np


def scan_steps(model):
    """Let `fit` take the `steps_per_execution` training steps of a compiled model in one `jax.lax.scan`.

    The steps are those of `model.train_step`, on the batches that `fit` would give it, in their order. Batches of
    another shape, as the last of an epoch may be, are scanned apart. `compile` undoes it.

    Args:
        model: compiled Keras model on the backend JAX.
    """

    def step(state, batch):
        logs, state = model.train_step(state, batch)
        return state, logs

    scan = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0)

    def train_function(state, iterator):
        batches = list(itertools.islice(iterator, model.steps_per_execution))
        if not batches:
            raise StopIteration
        for _, group in itertools.groupby(batches, key=_shapes):
            state, logs = scan(state, jax.tree.map(lambda *arrays: np.stack(arrays), *group))
        return jax.tree.map(lambda values: values[-1], logs), state

    model.train_function = train_function


def _shapes(batch):
    return [array.shape for array in jax.tree.leaves(batch)]
