"""Time of a training step with nested quantization, as a ratio to the same float network in the same run.

    KERAS_BACKEND=jax python benchmarks/step_time.py mnist          (or tensorflow; or cifar10)

Every variant is trained in turn, round after round, so that a machine whose speed drifts slows all of them. The ratio
is the median over rounds of the variant's time to the float network's in the same round. `--peer` adds hgq2, which is
not among this project's dependencies (see benchmarks/README.md). `--processor` counts the time of the process on all
cores: for a machine that is not idle, with `taskset -c 0`.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import lqs
from study.networks import NETWORKS

# name: (network, input shape, batch size, steps per round)
SETTINGS = {"mnist": ("dense", (28, 28, 1), 32, 400), "cifar10": ("cifar10", (32, 32, 3), 128, 20)}
NUM_CLASSES = 10
STEPS_PER_EXECUTION = 20  # as in the experiments


def float_network(setting):
    """Return the float network of a setting."""
    network, input_shape, *_ = SETTINGS[setting]
    return NETWORKS[network][0](input_shape, NUM_CLASSES)


def nested_network(setting, granularity, rule):
    """Return the network with nested quantization of what the thesis quantizes."""
    kernel, bias = lqs.NestedQuantization(granularity, rule), lqs.NestedQuantization("scalar", rule)
    return lqs.quantize(float_network(setting), kernel, bias, where=NETWORKS[SETTINGS[setting][0]][1])


def code_length_network(setting):
    """Return the network with README's recipe for small files."""
    penalty, options = lqs.CodeLengthPenalty(0.01), {"rounding": "nearest", "parametrization": "log"}
    prototype = lqs.NestedQuantization("scalar", lqs.StraightThrough(), penalty, initial_scale=0.01, **options)
    return lqs.quantize(float_network(setting), prototype, prototype)


def network_of_layers():
    """Return the MNIST network made of `lqs.QuantDense`."""
    rule = lqs.GradientRatio(1e-10)
    arguments = {
        "kernel_quantizer": lqs.NestedQuantization("row", rule),
        "bias_quantizer": lqs.NestedQuantization("scalar", rule),
    }
    hidden, output = lqs.QuantDense(128, "relu", **arguments), lqs.QuantDense(NUM_CLASSES, **arguments)
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), hidden, output])


def hgq_network(setting):
    """Return the MNIST network of hgq2's quantized layers, with its defaults (Sun et al., arXiv 2405.00645)."""
    from hgq.config import LayerConfigScope, QuantizerConfigScope
    from hgq.layers import QDense

    if setting != "mnist":
        raise ValueError(f"The peer is set up for mnist only. Received: setting={setting!r}")
    with QuantizerConfigScope(), LayerConfigScope():
        hidden, output = QDense(128, activation="relu"), QDense(NUM_CLASSES)
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), hidden, output])


def variants(setting, with_peer):
    """Return `{name: compiled model}`."""
    varying = "row" if setting == "mnist" else "channel"
    models = {
        "float": float_network(setting),
        f"nested, {varying}, GradientRatio": nested_network(setting, varying, lqs.GradientRatio(1e-10)),
        "nested, scalar, GradientRatio": nested_network(setting, "scalar", lqs.GradientRatio(1e-10)),
        "nested, scalar, Frozen": nested_network(setting, "scalar", lqs.Frozen()),
        "nested, scalar, code length": code_length_network(setting),
    }
    if setting == "mnist":
        models["nested, row, GradientRatio, of QuantDense"] = network_of_layers()
    if with_peer:
        models["hgq2, defaults"] = hgq_network(setting)
    for model in models.values():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"], steps_per_execution=STEPS_PER_EXECUTION)
    return models


def main():
    """Print one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--peer", action="store_true", help="also time hgq2")
    parser.add_argument("--processor", action="store_true", help="processor time in place of the clock's")
    arguments = parser.parse_args()

    _, input_shape, batch_size, num_steps = SETTINGS[arguments.setting]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size * num_steps, *input_shape)).astype("float32")
    labels = rng.integers(0, NUM_CLASSES, len(images))
    keras.utils.set_random_seed(0)
    models = variants(arguments.setting, arguments.peer)
    clock = time.process_time if arguments.processor else time.perf_counter
    seconds = {name: [] for name in models}
    for round_number in range(arguments.rounds + 1):  # the first one compiles
        for name, model in models.items():
            start = clock()
            model.fit(images, labels, batch_size=batch_size, verbose=0)
            if round_number:
                seconds[name].append((clock() - start) / num_steps)
    print(f"\n| {arguments.setting}, batch {batch_size}, on {keras.backend.backend()} | a step | ratio |")
    print("| --- | --- | --- |")
    for name, times in seconds.items():
        ratios = [own / reference for own, reference in zip(times, seconds["float"], strict=True)]
        median, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"| {name} | {1e3 * statistics.median(times):.2f} ms | {median:.2f} ({low:.2f}–{high:.2f}) |")


if __name__ == "__main__":
    main()
