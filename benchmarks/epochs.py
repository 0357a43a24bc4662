"""Seconds of an epoch of 1,875 steps of the thesis's MNIST network, by `fit`, and with the steps as compiled loops.

    KERAS_BACKEND=jax python benchmarks/epochs.py        (or tensorflow, which has `fit` alone)

`fit` is called as it is; `study.scan` is how the study trains on JAX; the bound is one `jax.lax.scan` over batches that
lie on the device in their order. All take turns, without validation; each number is the median of the rounds, with the
least and the greatest.
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from step_time import NUM_CLASSES, float_network, nested_network

import lqs

BATCH_SIZE, NUM_STEPS, ROUNDS = 32, 1875, 7
STEPS = {"fit": 25, "fit, scans of 375 steps": 375}


def compiled(make_network, steps_per_execution=1):
    """Return a compiled network."""
    model = make_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"], steps_per_execution=steps_per_execution)
    return model


def by_fit(make_network, name, images, labels):
    """Return the function that trains a network for an epoch by `fit`."""
    model = compiled(make_network, STEPS[name])
    if "scan" in name:
        from study.scan import scan_steps

        scan_steps(model)
    return lambda: model.fit(images, labels, batch_size=BATCH_SIZE, verbose=0)


def by_one_scan(make_network, images, labels):
    """Return the function that trains a network for an epoch by one `jax.lax.scan`."""
    import jax

    model = compiled(make_network)
    model.optimizer.build(model.trainable_variables)
    model.train_on_batch(images[:1], labels[:1])  # makes the metrics' variables
    batches = [jax.device_put(array.reshape(NUM_STEPS, BATCH_SIZE, *array.shape[1:])) for array in (images, labels)]
    weights = model.trainable_variables, model.non_trainable_variables
    groups = *weights, model.optimizer.variables, model.metrics_variables
    state = tuple([variable.value for variable in group] for group in groups)

    def step(state, batch):
        logs, state = model.train_step(state, batch)
        return state, logs["loss"]

    scan = jax.jit(lambda state, *batches: jax.lax.scan(step, state, batches))
    return lambda: jax.block_until_ready(scan(state, *batches))


def main():
    """Print a table."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH_SIZE * NUM_STEPS, 28, 28, 1)).astype("float32")
    labels = rng.integers(0, NUM_CLASSES, len(images))
    networks = {
        "float": lambda: float_network("mnist"),
        "nested, row": lambda: nested_network("mnist", "row", lqs.GradientRatio(1e-10)),
    }
    is_jax = keras.backend.backend() == "jax"
    trainings = {}
    for network, make_network in networks.items():
        for name in STEPS if is_jax else ["fit"]:
            trainings[f"{network}: {name}"] = by_fit(make_network, name, images, labels)
        if is_jax:
            trainings[f"{network}: one scan, the bound"] = by_one_scan(make_network, images, labels)
    seconds = {name: [] for name in trainings}
    processor = {name: [] for name in trainings}
    for round_number in range(ROUNDS + 1):  # the first one compiles
        for name, train in trainings.items():
            start, cpu = time.perf_counter(), time.process_time()
            train()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - cpu)
    print(f"\n| MNIST, an epoch of {NUM_STEPS:,} steps, on {keras.backend.backend()} | seconds | of the processor |")
    print("| --- | --- | --- |")
    for name, times in seconds.items():
        ranges = (f"{statistics.median(t):.2f} ({min(t):.2f}–{max(t):.2f})" for t in (times, processor[name]))
        print(f"| {name} | {' | '.join(ranges)} |")


if __name__ == "__main__":
    main()
