"""Size and accuracy of `lqs.compress`, beside rounding to the nearest, through the same coder.

    LQS_MIRROR=... python benchmarks/compress.py dense convolutional
    LQS_MIRROR=... python benchmarks/compress.py then_fit
    LQS_MIRROR=... KERAS_BACKEND=tensorflow python benchmarks/compress.py cifar10 imagenette
    python benchmarks/compress.py MobileNetV2 ResNet50

`dense`, the thesis's network, and `convolutional`, a small one, are trained on MNIST in float for some epochs, and
compressed by unlabelled training images. Their rows go into `data/compress.csv`, where those of a network that is not
named stay, and the table of all into `benchmarks/compress.md`. `then_fit` trains on from what `lqs.compress` makes of
both, beside the same number of epochs from `lqs.quantize`. `cifar10` and `imagenette` are the networks of the thesis
with the configuration of a recorded float run, trained first where its weights are not kept. The names of networks of
`keras.applications` compress these at 64 x 64 pixels, 8 times, with random weights and statistics of normalization of
their own: for time and memory, and how near their outputs stay.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers

import lqs
from lqs.file.sizes import file_bytes, fp32_bytes
from study import datasets, networks
from study.configs import Config
from study.environment import environment
from study.examples import load_dataset
from study.paths import DATA, RUNS
from study.training import make_model

TABLE, PAGE = DATA / "compress.csv", Path(__file__).with_suffix(".md")
NUM_EXAMPLES = 6000
REQUESTS = [
    *({"max_change": c} for c in (0.001, 0.002, 0.005, 0.01)),
    *({"ratio": r} for r in (10, 15, 20, 25, 30, 35)),
]
RECORDED = {
    "cifar10": "cifar10/compact-float-scalar-0-scratch-s42-c26b2707",
    "imagenette": "imagenette/laptop-float-scalar-0-scratch-s42-cd100b46",
}
NUM_RECORDED = {"cifar10": 1500, "imagenette": 600}  # examples, as many as the time allows
EPOCHS_AFTER, LEARNING_RATE_AFTER = 3, 1e-3
THEN_FIT = "trained on"
APPLICATION_RATIO = 8
HEADINGS = ("network", "how", "bytes", "times smaller", "accuracy (%)", "to float (points)", "seconds")


def convolutional():
    """Return a convolutional network with batch normalization."""
    convolutions = [
        part
        for filters in (16, 32)
        for part in (
            layers.Conv2D(filters, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        )
    ]
    head = [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *head])


def trained(make, x, y, epochs, seed):
    """Return a float network that has been trained."""
    keras.utils.set_random_seed(seed)
    return fit(make(), x, y, epochs, 2e-3)


def fit(model, x, y, epochs, learning_rate, callbacks=()):
    """Train a network in batches of 128, and return it."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * (len(x) // 128))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def to_nearest(model, bits):
    """Return a model each of whose parameters is rounded to the nearest of evenly spaced values."""
    prototype = lqs.NestedQuantization(rounding="nearest", bits=bits, rule=lqs.Frozen(), initial_scale="max")
    return lqs.quantize(model, prototype, prototype)


def accuracy(model, x, y):
    """Return the accuracy in percent."""
    return 100 * float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(-1) == y))


def rows_of(name, model, x, x_test, y_test, widths, requests, others=()):
    """Yield the rows of the table of a network: float, to the nearest, by requests, by 10 times of other examples."""

    def row(how, make):
        start = time.perf_counter()
        small = make()
        seconds = time.perf_counter() - start
        return {
            **common,
            "how": how,
            "bytes": file_bytes(small),
            "accuracy": accuracy(small, x_test, y_test),
            "seconds": seconds,
        }

    common = {"network": name, "fp32_bytes": fp32_bytes(model)}
    yield {
        **common,
        "how": "float",
        "bytes": fp32_bytes(model),
        "accuracy": accuracy(model, x_test, y_test),
        "seconds": 0.0,
    }
    for bits in widths:
        yield row(f"nearest, {bits} bits", lambda bits=bits: to_nearest(model, bits))
    for request in requests:
        ((key, value),) = request.items()
        yield row(f"`{key}={value}`", lambda request=request: lqs.compress(model, x, **request))
    for what, examples in others:
        yield row(f"`ratio=10`, {what}", lambda examples=examples: lqs.compress(model, examples, ratio=10))


NETWORKS = {"dense": (lambda: networks.dense_network((28, 28, 1), 10), 10), "convolutional": (convolutional, 4)}


def rows_after_fit(name, model, data, x, x_test):
    """Yield rows of `compress`, of epochs after it, and of as many from `quantize`, brought to the same size."""
    common = {"network": f"{name}, {THEN_FIT}", "fp32_bytes": fp32_bytes(model)}

    def row(how, small, start):
        seconds = time.perf_counter() - start
        found = accuracy(small, x_test, data.y_test)
        return {**common, "how": how, "bytes": file_bytes(small), "accuracy": found, "seconds": seconds}

    after = x, data.y_train, EPOCHS_AFTER, LEARNING_RATE_AFTER
    yield {**row("float", model, time.perf_counter()), "bytes": fp32_bytes(model), "seconds": 0.0}
    for ratio in (20, 35):
        keras.utils.set_random_seed(2)
        start = time.perf_counter()
        small = lqs.compress(model, x[:NUM_EXAMPLES], ratio=ratio)
        yield row(f"`compress`, `ratio={ratio}`", small, start)
        start = time.perf_counter()
        size = file_bytes(fit(small, *after))
        yield row(f"that, and {EPOCHS_AFTER} epochs", small, start)
        start = time.perf_counter()
        target = lqs.TargetSize(bytes=size)
        small = fit(lqs.quantize(model, "compact"), *after, [target])
        yield row(f"`quantize`, and {EPOCHS_AFTER} epochs to that size", small, start)


def on_mnist(name, then_fit=False):
    """Measure a network on MNIST, and replace its rows of the table."""
    data = datasets.load("mnist")
    x, x_test = (images / np.float32(255) for images in (data.x_train, data.x_test))
    make, epochs = NETWORKS[name]
    model = trained(make, x, data.y_train, epochs, seed=1)
    if then_fit:
        replace_rows(rows_after_fit(name, model, data, x, x_test))
    else:
        others = ("300 examples", x[:300]), ("without examples", None)
        examples = x[:NUM_EXAMPLES], x_test, data.y_test
        replace_rows(rows_of(name, model, *examples, (8, 6, 5, 4, 3), REQUESTS, others))


def record_of(name):
    """Return the configuration of the float run of a network of the thesis, and the seconds that it took."""
    record = json.loads((RUNS / f"{RECORDED[name]}.json").read_text())
    return Config.from_flat(record["config"]), record["environment"]["seconds"]


def on_recorded(name):
    """Measure a network of the thesis with the weights of its float run, and replace its rows of the table."""
    config, _ = record_of(name)
    if config.backend != keras.backend.backend():
        raise SystemExit(f"Network {name} needs KERAS_BACKEND={config.backend}")
    data = load_dataset(config)
    training = load_dataset(config.replace(holdout=NUM_RECORDED[name])).x_test  # at the size of test images
    x, x_test = (images * np.float32(config.data.input_scale) for images in (training, data.x_test))
    model = make_model(config.replace(regime="pretrained"), data.input_shape, data.num_classes)
    requests = [{"max_change": 0.01}, {"ratio": 10}, {"ratio": 20}]
    others = [("without examples", None)]
    replace_rows(rows_of(name, model, x, x_test, data.y_test, (8, 6, 4), requests, others))


def replace_rows(measured):
    """Put the rows of a network into the table, where they replace those that it has."""
    here = {key: value for key, value in environment().items() if key in ("keras_version", "lqs_version")}
    here |= {"backend": keras.backend.backend(), "date": pd.Timestamp.now(tz="UTC").date().isoformat()}
    here["load"] = f"{os.getloadavg()[0]:.0f}"
    rows = []
    for row in measured:
        rows.append({**row, **here})
        print(rows[-1], flush=True)
    table = pd.read_csv(TABLE)
    table = pd.concat([table[table["network"] != rows[0]["network"]], pd.DataFrame(rows)])
    table.round({"accuracy": 2, "seconds": 0, "agreement": 4, "peak_gb": 1}).to_csv(TABLE, index=False)


def write_page(table):
    """Write the table of `data/compress.csv` as a page."""
    is_application = table["peak_gb"].notna()
    is_after = table["network"].str.contains(THEN_FIT)
    lines = []
    is_recorded = table["network"].isin(RECORDED)
    recorded = recorded_text(table.loc[is_recorded, "network"].unique())
    parts = ("", ~is_application & ~is_after & ~is_recorded), (recorded, is_recorded), (AFTER, is_after)
    for text, is_part in parts:
        part = table[is_part]
        lines += [text, f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
        for name, rows in part.groupby("network", sort=False):
            full = rows.accuracy[rows.how == "float"].item()
            for row in rows.itertuples():
                cells = [name, row.how, f"{row.bytes:,}", f"{row.fp32_bytes / row.bytes:.1f}", f"{row.accuracy:.2f}"]
                cells += ["", ""] if row.how == "float" else [f"{row.accuracy - full:+.2f}", f"{row.seconds:.0f}"]
                lines.append(f"| {' | '.join(cells)} |")
    lines += [APPLICATIONS, f"| {' | '.join(LARGE_HEADINGS)} |", f"|{' --- |' * len(LARGE_HEADINGS)}"]
    for row in table[is_application].itertuples():
        cells = row.network, f"{row.fp32_bytes // 4:,}", f"{row.bytes:,}", f"{row.fp32_bytes / row.bytes:.1f}"
        lines.append(f"| {' | '.join(cells)} | {row.agreement:.1%} | {row.seconds:.0f} | {row.peak_gb:.1f} |")
    made = [
        f"`{row.network}`: {row.date}, lqs {row.lqs_version}, Keras {row.keras_version} on {row.backend}; load of the "
        f"machine {row.load}."
        for row in table.drop_duplicates("network").itertuples()
    ]
    PAGE.write_text("\n".join([TEXT, *made, *lines, ""]), encoding="utf-8")


def recorded_text(names):
    """Return what the page says of networks of the thesis."""
    lines = []
    for name in names:
        config, seconds = record_of(name)
        size = config.data.image_size
        training = f"{config.training.epochs} epochs in batches of {config.training.batch_size}"
        at = f" at {size} x {size} pixels" if size else ""
        lines.append(
            f"- `{name}`{at}: {training}, protocol `{config.protocol}`, {seconds / 60:.0f} minutes when recorded; "
            f"{NUM_RECORDED[name]:,} images for `lqs.compress`."
        )
    return RECORDED_TEXT.format(trained="\n".join(lines))


LARGE_HEADINGS = "network", "parameters", "bytes", "times smaller", "same predictions", "seconds", "peak memory (GB)"
AFTER = f"""
## And then `fit`

What `lqs.compress` returns goes on training with the scales that it has. Beside it, the same float network by
`lqs.quantize(model, "compact")`, trained for as long; `lqs.TargetSize` brings it to the same bytes. All 60,000 training
images with their labels, batches of 128, {EPOCHS_AFTER} epochs of Adam from {LEARNING_RATE_AFTER:g} along a cosine. One
seed.
"""
RECORDED_TEXT = """
## The networks of the thesis

Trained in float by `study.training`, from seed 42, on all training images; on another machine than that of the record
the accuracy is another one. The weights are those of the last epoch, so that the test images did not choose them.
`lqs.compress` gets some of the training images without labels, drawn at random and cut as test images are, and holds
out a third of these for `max_change`.

{trained}
"""
APPLICATIONS = """
## Large networks

Networks of `keras.applications` at 64 x 64 pixels with random weights and 384 random images: for time and memory alone.
What such networks predict means nothing, and so the share of equal predictions says little.
"""
TEXT = """# `lqs.compress`, measured

Made of [`data/compress.csv`](../data/compress.csv) by `compress.py`: one seed, 6,000 unlabelled training images, of
which a third is held out; accuracy on the 10,000 test images of MNIST. "Nearest" rounds every parameter to evenly
spaced values between its largest and smallest, through the same coder. Seconds are of one run; the load of the machine
is how many processes were at work on it then. [pretrained.md](pretrained.md) has networks that others trained.
"""


def application(name):
    """Measure time, memory and agreement of a network of `keras.applications`."""
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
    x = np.kron(np.random.default_rng(0).normal(size=(384, 8, 8, 3)), np.ones((1, 8, 8, 1))).astype("float32")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(x[:192], training=True)
    start = time.perf_counter()
    small = lqs.compress(model, x, ratio=APPLICATION_RATIO, measure=relative_error, verbose=True)
    row = {"network": name, "how": f"`ratio={APPLICATION_RATIO}`", "seconds": time.perf_counter() - start}
    row |= {"bytes": file_bytes(small), "fp32_bytes": fp32_bytes(model)}
    row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    expected, found = (some.predict(x, verbose=0) for some in (model, small))
    row["agreement"] = np.mean(expected.argmax(-1) == found.argmax(-1))
    replace_rows([row])


def relative_error(expected, found):
    """Return the error of outputs relative to their deviation from their mean."""
    a, b = (np.concatenate([arrays[0] for arrays in some]) for some in (expected, found))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a - a.mean(0)))


def main():
    """Measure the networks that are asked for."""
    for name in sys.argv[1:]:
        if name == "then_fit":
            for network in NETWORKS:
                on_mnist(network, then_fit=True)
        elif name in NETWORKS:
            on_mnist(name)
        elif name in RECORDED:
            on_recorded(name)
        else:  # each in a process of its own, for the sake of its memory
            application(name) if len(sys.argv) == 2 else subprocess.run([sys.executable, __file__, name], check=True)
    write_page(pd.read_csv(TABLE))


if __name__ == "__main__":
    main()
