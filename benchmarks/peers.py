"""Keras's own post-training quantization of the float networks of the leaderboard, in the same file format.

    KERAS_BACKEND=jax python benchmarks/peers.py

Writes rows of `data/peers.csv`, one per seed and mode; those of `hgq2.py` stay. The float networks are those of the
batch `mnist-compact`, as training left them in `data/raw/weights`; nothing is tuned, as nothing can be.
`model.quantize` gives integers and one scale per unit, which a `.lqs` file holds exactly, so its bytes compare with
those of the other methods. Accuracy is that of Keras's quantized network, which also quantizes the inputs of its
layers, as its users get it.
"""

import warnings

import keras
import numpy as np
import pandas as pd

from lqs.conversion import from_integers
from lqs.file.sizes import file_bytes, fp32_bytes
from study import datasets
from study.configs import make_config
from study.networks import dense_network
from study.paths import DATA
from study.weights import weights_path

SEEDS = (42, 43, 44, 45, 46)
MODES = {
    "int8": lambda: keras.quantizers.Int8QuantizationConfig(),
    "int4": lambda: keras.quantizers.Int4QuantizationConfig(block_size=None),  # the default has zero points
}


def float_network(seed):
    """Return the trained float network of one seed."""
    model = dense_network((28, 28, 1), 10)
    with np.load(weights_path(make_config("mnist", "float", seed=seed, protocol="compact"))) as archive:
        model.set_weights([archive[name] for name in archive.files])
    return model


def post_training_quantized(model, mode):
    """Return a copy of `model`, quantized by Keras."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights
        copy.quantize(config=MODES[mode]())
    return copy


def as_nested(model, quantized):
    """Return the network of the nested layer that has the integers and scales of `quantized`, for its file."""
    parameters: list = [None] * len(model.weights)
    layers = [layer for layer in quantized.layers if getattr(layer, "quantization_mode", None)]
    for variable, layer in zip([layer.kernel for layer in model.layers if layer.weights], layers, strict=True):
        integers = keras.ops.convert_to_numpy(layer.kernel)
        if layer.quantization_mode == "int4":  # two in a byte
            integers = keras.ops.convert_to_numpy(
                keras.quantizers.unpack_int4(layer.kernel, variable.shape[-1], axis=-1)
            )
        scale = 1 / keras.ops.convert_to_numpy(layer.kernel_scale).astype("float32")[None]
        parameters[[weight is variable for weight in model.weights].index(True)] = integers, scale
    return from_integers(model, parameters)


def write_rows(rows, path=DATA / "peers.csv"):
    """Write rows into the table: in place of those of the same method and seed, or after the others."""
    known = pd.read_csv(path).to_dict("records") if path.exists() else []
    table = {(row["method"], row["seed"]): row for row in [*known, *rows]}
    pd.DataFrame(list(table.values())).to_csv(path, index=False)


def main():
    """Write the rows."""
    dataset = datasets.load("mnist")
    images = dataset.x_test * np.float32(1 / 255)
    rows = []
    for seed in SEEDS:
        model = float_network(seed)
        for mode in MODES:
            quantized = post_training_quantized(model, mode)
            classes = quantized.predict(images, batch_size=1000, verbose=0).argmax(axis=-1)
            nested = as_nested(model, quantized)
            row = {"method": f"Keras {mode}", "seed": seed, "accuracy": np.mean(classes == dataset.y_test)}
            rows.append({**row, "fp32_bytes": fp32_bytes(nested), "file_bytes": file_bytes(nested)})
            print(rows[-1], flush=True)
    write_rows(rows)


if __name__ == "__main__":
    main()
