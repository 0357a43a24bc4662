"""Seconds of what is done with a file, for a network of 2.3 million parameters that nobody here made.

    KERAS_BACKEND=jax python benchmarks/files.py

MobileNetV2 with random weights at 96 x 96, every kernel with one scale of 8 bits; and of 4 bits, whose integers are
small enough for contexts, which are tried in two orders of the axes. Each number is the least processor time of three
calls, the first of which compiles.
"""

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from packing import best_time

import lqs
from lqs.file.sizes import file_bytes


def main():
    """Print one row per call."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)
    prototype, small = (lqs.NestedQuantization(rounding="nearest", bits=bits) for bits in (8, 4))
    print(f"\n| MobileNetV2, {model.count_params():,} parameters, on {keras.backend.backend()} | seconds |")
    print("| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.lqs"
        quantized, seconds = best_time(lambda: lqs.quantize(model, prototype, None), time.process_time)
        print(f"| `quantize` | {seconds:.2f} |")
        of_4_bits = lqs.quantize(model, small, None)
        calls = {
            "`save`, 4 bits": lambda: lqs.save(of_4_bits, path),
            "`load`, 4 bits": lambda: lqs.load(path),
            "`save`": lambda: lqs.save(quantized, path),
            "`load`": lambda: lqs.load(path),
            "`size_report`": lambda: lqs.size_report(quantized),
            "`file_bytes`": lambda: file_bytes(quantized),
            "`summary`": lambda: lqs.summary(quantized),
            "`dequantize`": lambda: lqs.dequantize(quantized),
        }
        for name, call in calls.items():
            print(f"| {name} | {best_time(call, time.process_time)[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
