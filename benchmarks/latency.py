"""Milliseconds of ONNX and LiteRT files of quantized networks, beside the float network in the same runtime.

    KERAS_BACKEND=tensorflow python benchmarks/latency.py data/models/mnist/<id>.lqs ...

Without arguments: the smallest committed network of each data set. Every file is called in turn, round after round,
with random images in batches of 1 and of 64, on one thread. Needs the extra `export`.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # which Keras's exporters need
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

import lqs
from lqs import export
from study.paths import DATA

BATCHES, ROUNDS, SECONDS_A_ROUND = (1, 64), 9, 0.05


def by_onnx(path, images):
    """Return the function that runs an ONNX file on the images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)


def by_litert(path, images):
    """Return the function that runs a LiteRT file on the images."""
    interpreter = Interpreter(str(path), num_threads=1)
    (entry,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(entry["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], images)
    return interpreter.invoke


def write_all(model, folder):
    """Write a model quantized and in float, and return `{name: (path, runtime)}`."""
    network = lqs.dequantize(model)
    network.predict(np.zeros((1, *model.input_shape[1:]), "float32"), verbose=0)  # Keras exports what has been called
    files = {}
    for name, suffix, form, write, runtime in (
        ("ONNX", ".onnx", "onnx", export.export_onnx, by_onnx),
        ("LiteRT", ".tflite", "litert", export.export_litert, by_litert),
    ):
        network.export(folder / f"float{suffix}", format=form, verbose=False)
        write(model, folder / f"small{suffix}")
        files[f"{name}, float32"] = folder / f"float{suffix}", runtime
        files[f"{name}, quantized"] = folder / f"small{suffix}", runtime
    return files


def milliseconds(calls):
    """Return the medians of the milliseconds of a call, `{name: ms}`."""
    times = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS_A_ROUND:
                call()
                count += 1
            times[name].append(1e3 * (time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}


def smallest():
    """Return the smallest committed `.lqs` file of each data set."""
    folders = [folder for folder in (DATA / "models").iterdir() if folder.is_dir()]
    return [min(folder.glob("*.lqs"), key=lambda path: path.stat().st_size) for folder in sorted(folders)]


def main():
    """Print one row per file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="FILE", help=".lqs file")
    for source in parser.parse_args().paths or smallest():
        model = lqs.load(source)
        print(
            f"\n| {source.parent.name}: {source.stem} | bytes | " + " | ".join(f"ms, batch {n}" for n in BATCHES) + " |"
        )
        print("| --- " * (2 + len(BATCHES)) + "|")
        with tempfile.TemporaryDirectory() as folder:
            files, rng = write_all(model, Path(folder)), np.random.default_rng(0)
            columns = []
            for size in BATCHES:
                images = rng.uniform(size=(size, *model.input_shape[1:])).astype("float32")
                columns.append(milliseconds({name: run(path, images) for name, (path, run) in files.items()}))
            for name, (path, _) in files.items():
                cells = " | ".join(f"{column[name]:.3g}" for column in columns)
                print(f"| {name} | {path.stat().st_size:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
