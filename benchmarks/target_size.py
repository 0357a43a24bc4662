"""`TargetSize` alone on short trainings: which size comes, and what accuracy is left, by the size that is asked for.

    KERAS_BACKEND=tensorflow python benchmarks/target_size.py               what data/target_size.csv lacks
    KERAS_BACKEND=tensorflow python benchmarks/target_size.py lstm --again

Each network is trained in float for ten epochs on 1,500 of scikit-learn's digits, by Adam at 0.001 along a cosine; then
its copy `lqs.quantize(model, "compact")` in the same way, with `TargetSize(ratio)`. Accuracy is on the other 297
images, which nothing was chosen by. One seed. A row is written as soon as it is there.
"""

import argparse
import datetime
import warnings

import keras
import pandas as pd
from keras import layers
from sklearn.datasets import load_digits

import lqs
from lqs.file.sizes import file_bytes, fp32_bytes
from study.paths import DATA

TABLE = DATA / "target_size.csv"
RATIOS = (5, 10, 20, 40, 100)
EPOCHS, BATCH_SIZE, RATE, NUM_TRAINED, SEED = 10, 32, 1e-3, 1500, 42
KEYS = ["network", "asked_ratio"]


def dense():
    """Return README's network of 300 and 100 units."""
    units = layers.Dense(300, "relu"), layers.Dense(100, "relu"), layers.Dense(10)
    return keras.Sequential([keras.Input((8, 8)), layers.Flatten(), *units])


def normalized():
    """Return three dense layers, each with batch normalization."""
    parts = [(layers.Dense(256, use_bias=False), layers.BatchNormalization(), layers.ReLU()) for _ in range(3)]
    return keras.Sequential([keras.Input((8, 8)), layers.Flatten(), *sum(parts, ()), layers.Dense(10)])


def transformer():
    """Return one transformer block over the rows of an image."""
    x = inputs = keras.Input((8, 8))
    x = layers.Dense(48)(x)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 12)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(48)(layers.Dense(96, "gelu")(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def lstm():
    """Return an LSTM over the rows of an image."""
    return keras.Sequential([keras.Input((8, 8)), layers.LSTM(64), layers.Dense(10)])


def mobile():
    """Return inverted residuals, as in MobileNetV2, of images with 16 x 16 pixels."""

    def convolution(x, layer, is_linear=False):
        x = layers.BatchNormalization(momentum=0.9)(layer(x))  # ten epochs are too short for the default
        return x if is_linear else layers.ReLU(6)(x)

    inputs = keras.Input((8, 8))
    x = layers.UpSampling2D(2)(layers.Reshape((8, 8, 1))(inputs))
    x = convolution(x, layers.Conv2D(64, 3, 2, "same", use_bias=False))
    for strides in (2, 1, 1):
        y = convolution(x, layers.Conv2D(256, 1, use_bias=False))
        y = convolution(y, layers.DepthwiseConv2D(3, strides, "same", use_bias=False))
        y = convolution(y, layers.Conv2D(64, 1, use_bias=False), is_linear=True)
        x = x + y if strides == 1 else y
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


NETWORKS = {function.__name__: function for function in (dense, normalized, transformer, lstm, mobile)}


def trained(model, *callbacks):
    """Train a model, and return its accuracy on the images that are left."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype("float32")
    schedule = keras.optimizers.schedules.CosineDecay(RATE, EPOCHS * -(-NUM_TRAINED // BATCH_SIZE))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    settings = {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "callbacks": list(callbacks), "verbose": 0}
    model.fit(images[:NUM_TRAINED], labels[:NUM_TRAINED], **settings)
    accuracy = model.evaluate(images[NUM_TRAINED:], labels[NUM_TRAINED:], verbose=0, return_dict=True)["accuracy"]
    return round(accuracy, 4)


def row_of(model, ratio):
    """Return what comes of a trained model where this ratio is asked for."""
    keras.utils.set_random_seed(SEED)
    small, row = lqs.quantize(model, "compact"), {"asked_ratio": ratio}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            row["accuracy"] = trained(small, lqs.TargetSize(ratio=ratio))
        except ValueError as error:
            return {**row, "said": str(error)}
        said = [str(warning.message) for warning in caught if "The file takes" in str(warning.message)]
    num_bytes = file_bytes(small)
    return {**row, "bytes": num_bytes, "ratio": round(fp32_bytes(small) / num_bytes, 2), "said": "; ".join(said)}


def main():
    """Measure what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--again", action="store_true", help="also what is there already")
    arguments = parser.parse_args()
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEYS)
    fixed = {"backend": keras.backend.backend(), "keras_version": keras.__version__, "lqs_version": lqs.__version__}
    for name in arguments.networks or NETWORKS:
        known = set() if arguments.again else set(table.loc[table["network"] == name, "asked_ratio"])
        missing = [ratio for ratio in RATIOS if ratio not in known]
        if not missing:
            continue
        keras.utils.set_random_seed(SEED)
        model = NETWORKS[name]()
        first = {"network": name, "parameters": model.count_params(), "float_accuracy": trained(model)}
        for ratio in missing:
            row = {**first, **row_of(model, ratio), **fixed, "date": datetime.date.today().isoformat()}
            others = table[(table["network"] != name) | (table["asked_ratio"] != ratio)]
            table = pd.concat([others, pd.DataFrame([row])], ignore_index=True)
            order = table["network"].map(list(NETWORKS).index)
            table = table.assign(order=order).sort_values(["order", "asked_ratio"]).drop(columns="order")
            table.astype({"bytes": "Int64", "parameters": "Int64"}).to_csv(TABLE, index=False)
            print(row, flush=True)


if __name__ == "__main__":
    main()
