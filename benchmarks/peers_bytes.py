"""Bytes and accuracy of the same trained networks in the files of other programs, each by its own quantizer.

    LQS_MIRROR=... python benchmarks/peers_bytes.py --nncodec PYTHON

`dense` is the float network of `compress.py`, and the others are committed models, which peers get as float networks of
their quantized values. Writes `data/peers_bytes.csv`, a row for each network and peer as soon as it is known; what is
there is not measured again. Accuracy is of all test images, by what is read back from the file. Integers that need
examples get the first 500 of training, without labels. PYTHON is the interpreter of an environment with `nncodec`
(Fraunhofer HHI's program of the standard ISO/IEC 15938-17); without it, its rows are left out. `zstandard` is needed
for the rows of zstd.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # which Keras's exporters need

import argparse
import importlib.metadata
import json
import subprocess
import tempfile
import warnings
from pathlib import Path

import compress
import keras
import numpy as np
import pandas as pd
from exports import by_litert, by_onnx

import lqs
from lqs.file.saving import pack_model
from lqs.file.sizes import fp32_bytes
from lqs.inspection import quantized_parameters, to_numpy
from study import datasets
from study.configs import Config
from study.examples import load_dataset
from study.paths import DATA, MODELS, RUNS

TABLE = DATA / "peers_bytes.csv"
COMMITTED = {
    "mnist": "mnist/compact-code_length-scalar-0.25-scratch-s42-8947ec29",
    "cifar10": "cifar10/compact-code_length-scalar-0.4-scratch-s42-3009a462",
    "lenet_300_100": "mnist/lenet_300_100-code_length-scalar-0.25-scratch-s42-999552aa",
    "lenet_5": "mnist/lenet_5_caffe-code_length-scalar-0.25-scratch-s42-97b257fb",
}
NUM_CALIBRATION, BATCH_SIZE = 500, 200
QUALITIES = (-38, -32, -26, -20, -14, -8)  # NNCodec's parameter of the step size, -32 by default
TO_PYTORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
FROM_PYTORCH = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
NNCODEC = """
import sys, numpy as np
from nncodec.nn import encode, decode
source, target, qp = sys.argv[1:]
with np.load(source) as archive:
    arrays = {name: archive[name] for name in archive.files}
stream = encode(arrays, {"qp": int(qp), "verbose": False, "results": target})
open(target + "/file.nnc", "wb").write(stream)
decoded = decode(stream)
np.savez(target + "/decoded.npz", **{name: np.asarray(decoded[name]).reshape(arrays[name].shape) for name in arrays})
"""


class Network:
    """A trained network, its test images and labels, and a few training images.

    Attributes:
        quantized: as it was committed, `None` for a float network.
        model: the float network, or that of the quantized values.
    """

    def __init__(self, name):
        self.name, self.quantized = name, None
        if name == "dense":
            data, scale = datasets.load("mnist"), 1 / 255
            x = data.x_train / np.float32(255)
            make, epochs = compress.NETWORKS[name]
            self.model = make()  # without an optimizer, which Keras would save
            self.model.set_weights(compress.trained(make, x, data.y_train, epochs, seed=1).get_weights())
        else:
            config = Config.from_flat(json.loads((RUNS / f"{COMMITTED[name]}.json").read_text())["config"])
            data, scale = load_dataset(config.replace(holdout=None)), config.data.input_scale
            self.quantized = lqs.load(MODELS / f"{COMMITTED[name]}.lqs")
            self.model = lqs.dequantize(self.quantized)
        x = (images.astype("float32") * np.float32(scale) for images in (data.x_train[:NUM_CALIBRATION], data.x_test))
        (self.x, self.x_test), self.y_test = x, data.y_test

    def accuracy(self, outputs):
        """Return the share of test images that a function from images to outputs has right."""
        parts = np.split(self.x_test, len(self.x_test) // BATCH_SIZE)
        return float(np.mean(np.concatenate([np.argmax(outputs(part), -1) for part in parts]) == self.y_test))

    def with_weights(self, values):
        """Return the outputs of the float network with other weights."""
        model = keras.models.clone_model(self.model)
        model.set_weights(values)
        return by_keras(model)


def by_keras(model):
    """Return the function from a batch of images to the outputs of a model."""
    return lambda images: model.predict(images, batch_size=BATCH_SIZE, verbose=0)


# Each peer takes a network and a folder, and returns the bytes of its file and a function to the outputs.


def float32(network, folder):
    """Four bytes for each parameter, no file."""
    return fp32_bytes(network.quantized or network.model), by_keras(network.model)


def ours(network, folder):
    """What `lqs.save` writes for inference alone."""
    model = network.quantized
    (folder / "model.lqs").write_bytes(pack_model(model, inference_only=True))
    return (folder / "model.lqs").stat().st_size, by_keras(lqs.load(folder / "model.lqs"))


def float16(network, folder):
    """All weights in float16 in one stream, by zstd at its highest level."""
    from zstandard import ZstdCompressor  # is not locked

    halves = [value.astype("float16") for value in network.model.get_weights()]
    stream = ZstdCompressor(22).compress(b"".join(value.tobytes() for value in halves))
    return len(stream), network.with_weights([value.astype("float32") for value in halves])


def by_keras_quantize(network, folder, mode):
    """Keras's `quantize`, its file as it is saved."""
    model = keras.models.clone_model(network.model)
    model.set_weights(network.model.get_weights())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights, and of layers that it does not quantize
        model.quantize(mode)
    model.save(folder / "model.keras")
    return (folder / "model.keras").stat().st_size, by_keras(model)


def by_litert_converter(network, folder, full):
    """LiteRT's quantization after training: of the weights, or of all, with examples."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(network.model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if full:
        converter.representative_dataset = lambda: ([image[None]] for image in network.x)
    (folder / "model.tflite").write_bytes(converter.convert())
    return (folder / "model.tflite").stat().st_size, by_litert(folder / "model.tflite")


def by_onnx_runtime(network, folder, static):
    """ONNX Runtime's quantizer: of the weights, or of all, with examples."""
    from onnxruntime import quantization

    network.model.predict(network.x[:1], verbose=0)  # Keras exports what has been called
    network.model.export(folder / "float.onnx", format="onnx", verbose=False)
    paths = folder / "float.onnx", folder / "model.onnx"
    if static:
        quantization.quantize_static(*paths, Examples(network.x, paths[0]))
    else:
        quantization.quantize_dynamic(*paths)
    return paths[1].stat().st_size, by_onnx(paths[1])


class Examples:
    """What ONNX Runtime's quantizer reads its examples from."""

    def __init__(self, x, path):
        import onnx

        name = onnx.load(path).graph.input[0].name
        self.batches = iter([{name: x[i : i + 50]} for i in range(0, len(x), 50)])

    def get_next(self):
        """Return the next batch, `None` at the end."""
        return next(self.batches, None)


def by_nncodec(network, folder, python, quality=None):
    """NNCodec of the float weights in PyTorch's order of axes; without a `quality`, of our integers and scales."""
    values = {f"{i:02}": value for i, value in enumerate(network.model.get_weights())}
    scales = {}
    for variable, quantizer in quantized_parameters(network.quantized) if quality is None else ():
        integers, scale = to_numpy(quantizer.integers(variable.value)), to_numpy(quantizer.scale)
        name = next(name for name, value in values.items() if np.array_equal(value, integers.astype("float32") * scale))
        values[name], scales[name] = integers.astype("int32"), float(scale.item())
    arrays = {name: value.transpose(TO_PYTORCH[value.ndim]) for name, value in values.items()}
    if scales:
        arrays["scales"] = np.array(list(scales.values()), "float32")
    np.savez(folder / "values.npz", **arrays)
    subprocess.run([python, "-c", NNCODEC, folder / "values.npz", folder, str(quality or -32)], check=True, stdout=-3)
    with np.load(folder / "decoded.npz") as archive:
        decoded = {name: archive[name] for name in archive.files}
    decoded_scales = dict(zip(scales, decoded.pop("scales", ()), strict=True))
    weights = [
        (value.transpose(FROM_PYTORCH[value.ndim]) * decoded_scales.get(name, 1)).astype("float32")
        for name, value in sorted(decoded.items())
    ]
    return (folder / "file.nnc").stat().st_size, network.with_weights(weights)


def peers(network, python):
    """Yield `(name, package whose version counts, function of the network and a folder)`."""
    yield "float32", "keras", float32
    if network.quantized is not None:
        yield "lqs", "lqs", ours
    yield "float16, zstd 22", "zstandard", float16
    for mode in ("int8", "int4"):
        yield f"Keras {mode}", "keras", lambda *a, mode=mode: by_keras_quantize(*a, mode)
    yield "LiteRT, dynamic range", "tensorflow", lambda *a: by_litert_converter(*a, full=False)
    yield "LiteRT, int8", "tensorflow", lambda *a: by_litert_converter(*a, full=True)
    yield "ONNX Runtime, dynamic", "onnxruntime", lambda *a: by_onnx_runtime(*a, static=False)
    yield "ONNX Runtime, static", "onnxruntime", lambda *a: by_onnx_runtime(*a, static=True)
    if python is None:
        return
    if network.quantized is not None:
        yield "NNCodec, our integers", "nncodec", lambda *a: by_nncodec(*a, python)
    for quality in QUALITIES:
        yield f"NNCodec, qp {quality}", "nncodec", lambda *a, q=quality: by_nncodec(*a, python, q)


def version(package, python):
    """Return the version of a package; that of NNCodec is asked of its own interpreter."""
    if package == "lqs":
        return lqs.__version__
    if package != "nncodec":
        return importlib.metadata.version(package)
    code = "import importlib.metadata; print(importlib.metadata.version('nncodec'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def main():
    """Measure what is not in the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["dense", *COMMITTED], metavar="NETWORK")
    parser.add_argument("--nncodec", metavar="PYTHON", help="interpreter of an environment with nncodec")
    arguments = parser.parse_args()
    for name in arguments.names:
        network = Network(name)
        for peer, package, measure in peers(network, arguments.nncodec):
            table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame({"network": [], "peer": []})
            if ((table["network"] == name) & (table["peer"] == peer)).any():
                continue
            with tempfile.TemporaryDirectory() as folder:
                num_bytes, outputs = measure(network, Path(folder))
                row = {"network": name, "peer": peer, "package": package}
                row |= {"version": version(package, arguments.nncodec), "bytes": num_bytes}
                row |= {"accuracy": round(network.accuracy(outputs), 4)}
            row["date"] = pd.Timestamp.now(tz="UTC").date().isoformat()
            print(row, flush=True)
            pd.concat([table, pd.DataFrame([row])]).astype({"bytes": int}).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
