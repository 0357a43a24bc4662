"""Time of a training step of a population, by the number of its members.

    KERAS_BACKEND=jax python benchmarks/population.py cifar10 1 5 20

Nested layer, channel-wise (MNIST: row-wise), on random images. The first epoch, which compiles, does not count;
`--steps` is the number of steps in each of the two after it.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np

from study import training
from study.configs import make_config
from study.datasets import Dataset
from study.gpu.epochs import initial_state, make_epoch

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "imagenette": (256, 256, 3)}
NUM_CLASSES = 10


def random_dataset(config, num_images):
    """Return a data set of random images to train on and one to test, of the sizes of the configuration's."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *SHAPES[config.data.dataset]), dtype="uint8")
    labels = rng.integers(0, NUM_CLASSES, num_images).astype("int32")
    size = config.data.image_size
    return Dataset(config.data.dataset, images, labels, images[:1, :size, :size], labels[:1], NUM_CLASSES, "random")


def seconds_per_step(dataset_name, num_members, num_steps, precision):
    """Return the seconds of a step of all members together."""
    granularity = "row" if dataset_name == "mnist" else "channel"
    strengths = np.linspace(0, 1e-10, num_members).tolist()
    configs = [make_config(dataset_name, "nested", strength, granularity) for strength in strengths]
    dataset = random_dataset(configs[0], num_steps * configs[0].training.batch_size)
    models = [training.make_model(config, dataset.input_shape, NUM_CLASSES) for config in configs]
    run_epoch, state = make_epoch(configs, models[0], dataset), initial_state(models)
    with jax.default_matmul_precision(precision):
        state, _ = run_epoch(state, 0)
        start = time.perf_counter()
        for epoch in (1, 2):
            state, _ = run_epoch(state, epoch)
        jax.block_until_ready(state)
    return (time.perf_counter() - start) / 2 / num_steps


def main():
    """Print one line per number of members."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=SHAPES)
    parser.add_argument("members", type=int, nargs="+")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--precision", choices=("float32", "tensorfloat32"), default="float32")
    arguments = parser.parse_args()
    print(f"{arguments.dataset} on {jax.devices()[0].device_kind}: members | ms a step | ms a step and member")
    for num_members in arguments.members:
        milliseconds = 1e3 * seconds_per_step(arguments.dataset, num_members, arguments.steps, arguments.precision)
        print(f"| {num_members} | {milliseconds:.2f} | {milliseconds / num_members:.2f} |", flush=True)


if __name__ == "__main__":
    main()
