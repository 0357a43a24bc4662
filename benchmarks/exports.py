"""Size and accuracy of one trained network in every format, each run by its own runtime on all test images.

    python benchmarks/exports.py data/models/cifar10/<id>.lqs ...

Needs the `export` extra and the data set, and writes or replaces the rows of each network in `data/exports.csv`. The id
of the run tells which images the network was trained on, and how they were scaled. With `--lqs`, only `.lqs` files are
written, and rows of other formats stay: what floats of 16 bits change, and another coder.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # which Keras's exporters need

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from ai_edge_litert.interpreter import Interpreter

import lqs
from lqs import export
from study.configs import Config
from study.examples import batches, load_dataset
from study.paths import DATA, RUNS

TABLE = DATA / "exports.csv"
BATCH_SIZE = 200


def test_examples(config):
    """Return the test images as the network of `config` gets them, and their labels."""
    arguments = batches(config, load_dataset(config))["validation_data"]
    if isinstance(arguments, tuple):
        return arguments
    images, labels = zip(*arguments.as_numpy_iterator(), strict=True)
    return np.concatenate(images).astype("float32"), np.concatenate(labels)


def by_onnx(path):
    """Return the function from a batch of images to the outputs of an ONNX file."""
    session = onnxruntime.InferenceSession(path)
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def by_litert(path):
    """Return the function from a batch of images to the outputs of a LiteRT file."""
    interpreter = Interpreter(str(path))
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def outputs(images):
        interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return outputs


def by_keras(path):
    """Return the function from a batch of images to the outputs of a `.lqs` file."""
    model = lqs.load(path)
    return lambda images: model.predict(images, verbose=0)


def write_all(model, folder, is_lqs_only=False):
    """Write `model` in every format and return `{description: (path, types of its parameters, runtime)}`."""
    lqs.save(model, folder / "exact.lqs")
    lqs.save(model, folder / "float16.lqs", float_dtype="float16")
    formats = {
        ".lqs": (folder / "exact.lqs", None, by_keras),
        ".lqs, rest in float16": (folder / "float16.lqs", None, by_keras),
    }
    if is_lqs_only:
        return formats
    for name, write, suffix, runtime in (
        ("ONNX", export.export_onnx, ".onnx", by_onnx),
        ("LiteRT", export.export_litert, ".tflite", by_litert),
    ):
        path = folder / f"quantized{suffix}"
        formats[name] = (path, write(model, path)["stored"], runtime)
    path = folder / "float.onnx"
    network = lqs.dequantize(model)
    network.predict(np.zeros((1, *model.input_shape[1:]), "float32"), verbose=0)  # Keras exports what has been called
    network.export(path, format="onnx", verbose=False)
    formats["ONNX, float32"] = (path, None, by_onnx)
    return formats


def rows_of(path, is_lqs_only):
    """Return one row per format for the network of the file at `path`."""
    (record,) = RUNS.glob(f"*/{path.stem}.json")
    config = Config.from_flat(json.loads(record.read_text())["config"])
    images, labels = test_examples(config)
    rows, classes = [], None
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, types, runtime) in write_all(lqs.load(path), Path(folder), is_lqs_only).items():
            outputs = runtime(file)
            found = [outputs(images[i : i + BATCH_SIZE]).argmax(axis=-1) for i in range(0, len(images), BATCH_SIZE)]
            found = np.concatenate(found)
            classes = found if classes is None else classes
            stored = "" if types is None else ", ".join(f"{n} {t}" for t, n in types.value_counts().items())
            row = {"dataset": config.data.dataset, "id": path.stem, "format": name, "bytes": file.stat().st_size}
            row |= {"accuracy": np.mean(found == labels), "same_class": np.mean(found == classes), "stored": stored}
            rows.append(row)
            print(row, flush=True)
    return rows


def main():
    """Measure the files of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE", help=".lqs file named by the id of its run")
    parser.add_argument("--lqs", action="store_true", help="write .lqs files only")
    arguments = parser.parse_args()
    old = pd.read_csv(TABLE, keep_default_na=False) if TABLE.exists() else pd.DataFrame({"id": [], "format": []})
    for path in arguments.paths:
        new = pd.DataFrame(rows_of(path, arguments.lqs))
        is_new = (old["id"] == path.stem) & old["format"].isin(new["format"])
        old = pd.concat([new, old[~is_new]]).sort_values(["dataset", "id"], kind="stable")
        old.astype({"bytes": int}).round({"accuracy": 4, "same_class": 4}).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
