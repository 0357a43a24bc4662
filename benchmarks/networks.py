"""The one line on networks of others: what was asked, what came, how long it took.

    python benchmarks/networks.py                                   everything that data/networks.csv lacks
    python benchmarks/networks.py --backends jax --only unet lstm --again

`lqs.quantize(model, "compact")`, then three epochs of eight steps with `TargetSize(ratio=20)`, on networks with random
weights. Each runs in a process of its own, for ten minutes at most; its row is written at once. Where KerasHub or a
backend is not installed, what needs it is left out.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pandas as pd

from study.paths import DATA

TABLE = DATA / "networks.csv"
BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
APPLICATIONS = ("MobileNetV3Small", "MobileNetV2", "ResNet50V2", "EfficientNetV2B0", "ConvNeXtTiny", "DenseNet121")
OWN = ("unet", "lstm", "vae", "siamese", "train_step")
HUB = ("bert", "gpt2", "vit")
RATIO, EPOCHS, STEPS, BATCH_SIZE = 20, 3, 8, 16
SIDE, NUM_CLASSES, VOCABULARY, LENGTH = 64, 10, 1000, 32
LIMIT, ROUNDS = 600, 5
COLUMNS = [
    *("backend", "network", "parameters", "asked_bytes", "bytes_at_first", "bytes", "ratio"),
    *("quantize_seconds", "step_ratio", "output_change", "loaded_change"),
    *("warning", "error", "seconds", "versions", "date"),
]


def digits():
    """Return scikit-learn's digits as colour images of 64 x 64 pixels from -1 to 1, and their labels."""
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.kron(images.reshape(-1, 8, 8, 1) / 8 - 1, np.ones((SIDE // 8, SIDE // 8, 3)))
    count = BATCH_SIZE * STEPS
    return images[:count].astype("float32"), labels[:count]


def tokens():
    """Return random tokens, and labels of two classes."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(1, VOCABULARY, (BATCH_SIZE * STEPS, LENGTH)), rng.integers(0, 2, BATCH_SIZE * STEPS)


def example(name):
    """Return a network with inputs, targets and its loss."""
    import keras

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if name in APPLICATIONS:
        options = {"weights": None, "classes": NUM_CLASSES, "classifier_activation": None}
        return getattr(keras.applications, name)(input_shape=(SIDE, SIDE, 3), **options), *digits(), cross_entropy
    if name in HUB:
        return hub(name, cross_entropy)
    return globals()[name](keras, cross_entropy)


def hub(name, loss):
    """Return a small network of KerasHub with random weights, and its examples."""
    import keras_hub.models as hub
    import numpy as np

    x, y = tokens()
    text = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 128}
    text |= {"intermediate_dim": 512, "max_sequence_length": LENGTH}
    inputs = {"token_ids": x, "padding_mask": np.ones_like(x)}
    if name == "bert":
        backbone = hub.BertBackbone(**text)
        return hub.BertTextClassifier(backbone, 2), {**inputs, "segment_ids": np.zeros_like(x)}, y, loss
    if name == "gpt2":
        return hub.GPT2CausalLM(hub.GPT2Backbone(**text)), inputs, np.roll(x, -1, 1), loss
    sizes = {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "mlp_dim": 512}
    backbone = hub.ViTBackbone((SIDE, SIDE, 3), patch_size=8, **sizes)
    return hub.ViTImageClassifier(backbone, NUM_CLASSES), *digits(), loss


def unet(keras, loss):
    """Return a network that finds the pixels of the digits."""
    layers = keras.layers

    def block(x, filters):
        for _ in range(2):
            x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(x)))
        return x

    x = inputs = keras.Input((SIDE, SIDE, 3))
    skips = []
    for filters in (16, 32):
        skips.append(block(x, filters))
        x = layers.MaxPooling2D()(skips[-1])
    x = block(x, 64)
    for filters in (32, 16):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = block(layers.Concatenate()([x, skips.pop()]), filters)
    images, _ = digits()
    return keras.Model(inputs, layers.Conv2D(2, 1)(x)), images, images[..., 0] > 0, loss


def lstm(keras, loss):
    """Return a text classifier."""
    layers = keras.layers
    parts = layers.Embedding(VOCABULARY, 64, mask_zero=True), layers.LSTM(64), layers.Dense(2)
    return keras.Sequential([keras.Input((LENGTH,), dtype="int32"), *parts]), *tokens(), loss


def vae(keras, loss):
    """Return a variational autoencoder, its divergence added by a layer."""
    layers, ops = keras.layers, keras.ops

    @keras.saving.register_keras_serializable("networks")
    class Sampling(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed_generator = keras.random.SeedGenerator(0)

        def call(self, mean, log_variance, training=None):
            divergence = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
            self.add_loss(1e-3 * ops.mean(ops.sum(divergence, -1)) / 2)
            if not training:
                return mean
            return mean + ops.exp(log_variance / 2) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)

    x = inputs = keras.Input((SIDE, SIDE, 3))
    for filters in (16, 32, 64):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dense(64, "relu")(layers.Flatten()(x))
    x = Sampling()(layers.Dense(8)(x), layers.Dense(8)(x))
    x = layers.Reshape((8, 8, 32))(layers.Dense(8 * 8 * 32, "relu")(x))
    for filters in (32, 16):
        x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", activation="relu")(x)
    images, _ = digits()
    return keras.Model(inputs, layers.Conv2DTranspose(3, 3, strides=2, padding="same")(x)), images, images, "mse"


def siamese(keras, loss):
    """Return a network that says whether two images are of the same digit."""
    layers = keras.layers
    convolutions = [layers.Conv2D(filters, 3, strides=2, activation="relu") for filters in (16, 32, 64)]
    encoder = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *convolutions, layers.Flatten(), layers.Dense(64)])
    first, second = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3))
    product = layers.Multiply()([encoder(first), encoder(second)])
    images, labels = digits()
    model = keras.Model([first, second], layers.Dense(2)(product))
    return model, [images, images[::-1].copy()], labels == labels[::-1], loss


def train_step(keras, loss):
    """Return a model whose `train_step` mixes each image with the next one."""

    @keras.saving.register_keras_serializable("networks")
    class Mixing(keras.Model):
        def train_step(self, *arguments):
            *state, (x, y) = arguments
            return super().train_step(*state, (0.9 * x + 0.1 * keras.ops.roll(x, 1, axis=0), y))

    layers = keras.layers
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for filters in (16, 32, 64):
        x = layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
    return Mixing(inputs, layers.Dense(NUM_CLASSES)(layers.Flatten()(x))), *digits(), loss


def measured(name):
    """Yield the columns of a network's row, as soon as they are known."""
    import keras

    import lqs
    from lqs.file.sizes import file_bytes, fp32_bytes

    keras.utils.set_random_seed(0)
    model, x, y, loss = example(name)
    yield {"parameters": model.count_params()}
    few = keras.tree.map_structure(lambda array: array[:BATCH_SIZE], x)
    expected = model(few)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has a `compile` of its own")  # it follows
        small = lqs.quantize(model, "compact")
    yield {"quantize_seconds": time.perf_counter() - start}
    yield {"output_change": change(expected, small(few))}
    size = lqs.TargetSize(ratio=RATIO)
    compile_(keras, small, loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        small.fit(x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, shuffle=False, callbacks=[size], verbose=0)
    said = [str(warning.message) for warning in caught]
    num_bytes = file_bytes(small)
    sizes = {"asked_bytes": round(size.target), "bytes_at_first": size.first_size, "bytes": num_bytes}
    yield {**sizes, "ratio": fp32_bytes(small) / num_bytes, "warning": first_line(said[0]) if said else ""}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.lqs"
        lqs.save(small, path)
        yield {"loaded_change": change(small(few), lqs.load(path)(few))}
    compile_(keras, model, loss)
    yield {"step_ratio": step_ratio(model, small, x, y)}


def compile_(keras, model, loss):
    """Compile with an optimizer of its own."""
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)


def change(expected, outputs):
    """Return the largest difference of the outputs, by the largest output."""
    import keras
    import numpy as np

    expected, outputs = (np.asarray(keras.ops.convert_to_numpy(array)) for array in (expected, outputs))
    return float(np.abs(expected - outputs).max() / np.abs(expected).max())


def step_ratio(model, small, x, y):
    """Return the time of a training step of `small`, by that of `model`: the median over rounds in turns."""
    ratios = []
    for number in range(ROUNDS + 1):  # the first one compiles
        seconds = []
        for each in (model, small):
            start = time.perf_counter()
            each.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
            seconds.append(time.perf_counter() - start)
        if number:
            ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


def first_line(error):
    """Return the first line of what an error or a warning says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def row_of(name, backend):
    """Return the row of a network: what its process has printed until it ended."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONWARNINGS": "ignore"}
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("keras", backend, "lqs"))
    row = {"backend": backend, "network": name, "versions": versions, "date": datetime.date.today().isoformat()}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        try:
            command = [sys.executable, __file__, "--one", name]
            done = subprocess.run(command, stdout=output, timeout=LIMIT, env=environment, check=False)
            ended = f"the process ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            ended = f"not done after {LIMIT} s"
        output.seek(0)
        for line in output:
            with contextlib.suppress(json.JSONDecodeError):
                row |= json.loads(line)
    return {**row, "error": row.get("error") or ended, "seconds": time.perf_counter() - start}


def written(rows, row):
    """Write the table with one row replaced, or added."""
    rows = [other for other in rows if (other["backend"], other["network"]) != (row["backend"], row["network"])]
    rows = sorted([*rows, row], key=lambda each: (each["backend"], NAMES.index(each["network"])))
    integers = {column: "Int64" for column in COLUMNS if "bytes" in column or column == "parameters"}
    numbers = {column: "float" for column in COLUMNS if column.endswith(("seconds", "change")) or "ratio" in column}
    table = pd.DataFrame(rows, columns=COLUMNS).replace("", None)
    table = table.astype({**integers, **numbers}).map(lambda v: float(f"{v:.4g}") if isinstance(v, float) else v)
    table.to_csv(TABLE, index=False)
    return rows


NAMES = (*OWN, *HUB, *APPLICATIONS)


def main():
    """Measure what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        try:
            for columns in measured(arguments.one):
                print(json.dumps(columns), flush=True)
        except Exception as error:  # a row of the table
            print(json.dumps({"error": f"{type(error).__name__}: {first_line(error)}"}), flush=True)
        return
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    known = {(row["backend"], row["network"]) for row in rows}
    for backend in arguments.backends:
        for name in arguments.only:
            left_out = name in HUB and not importlib.util.find_spec("keras_hub")
            if left_out or ((backend, name) in known and not arguments.again):
                continue
            row = row_of(name, backend)
            rows = written(rows, row)
            print({key: row.get(key) for key in COLUMNS}, flush=True)


if __name__ == "__main__":
    main()
