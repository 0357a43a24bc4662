"""Size, speed and memory of `.lqs` coding for as many parameters as the thesis's Imagenette network has.

    python benchmarks/packing.py

Codes are drawn from a Laplace distribution, floored, with a spread for each of the 20 convolutions as trained networks
have them, between half an integer and some hundreds. The other compressors get the same codes in the smallest integer
type that holds them, one file for all, and their strongest setting. Each time is the least of three.
"""

import functools
import gzip
import io
import time
import tracemalloc
import zipfile

import numpy as np

from lqs.file import reader, writer
from lqs.file.compiled import CompiledDecoder

STAGES = [(64, 64, 4), (64, 128, 1), (128, 128, 3), (128, 256, 1), (256, 256, 3), (256, 512, 1), (512, 512, 3)]
SHAPES = [(7, 7, 3, 64), *[(3, 3, i, o) for i, o, count in STAGES for _ in range(count)]]
SHAPES += [(1, 1, 64, 128), (1, 1, 128, 256), (1, 1, 256, 512)]
REPEATS = 3


def draw_codes(spread, rng):
    """Return a list of int32 arrays, spreads between a third of and three times `spread`."""
    spreads = spread * 3 ** rng.uniform(-1, 1, len(SHAPES))
    return [np.floor(rng.laplace(0, s, shape)).astype("int32") for s, shape in zip(spreads, SHAPES, strict=True)]


def best_time(function, clock=time.perf_counter):
    """Return the result of a function and the least of its times in seconds."""
    times = []
    for _ in range(REPEATS):
        start = clock()
        result = function()
        times.append(clock() - start)
    return result, min(times)


def peak_memory(function):
    """Return the peak of the memory that Python and NumPy take in a call, in bytes."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def entropy_bytes(arrays):
    """Return the sum of the arrays' empirical entropies."""
    total = 0.0
    for array in arrays:
        counts = np.unique(array, return_counts=True)[1]
        total -= np.sum(counts * np.log2(counts / array.size)) / 8
    return total


def encode(arrays):
    """Return the `.lqs` bytes of integers whose scales are one number each."""
    scale = np.ones((1, 1, 1, 1), "float32")
    encoded = [writer.encode_integers(array, scale) for array in arrays]
    return writer.pack({}, [({"name": str(i), **entry}, s) for i, (entry, s) in enumerate(encoded)])


def others(arrays):
    """Return `{name: function that returns compressed bytes}` of the other compressors."""
    lowest, highest = min(a.min() for a in arrays), max(a.max() for a in arrays)
    dtype = np.min_scalar_type(min(int(lowest), -int(highest) - 1))
    raw = b"".join(array.astype(dtype).tobytes() for array in arrays)

    def zipped():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.writestr("codes", raw)
        return buffer.getvalue()

    def savez():
        buffer = io.BytesIO()
        np.savez_compressed(buffer, *[array.astype(dtype) for array in arrays])
        return buffer.getvalue()

    functions = {"zip": zipped, "gzip": lambda: gzip.compress(raw, 9), "np.savez_compressed": savez}
    try:
        from zstandard import ZstdCompressor
    except ImportError:
        print("Without zstd, which is not among the dependencies: pip install zstandard")
    else:
        functions["zstd, level 19"] = lambda: ZstdCompressor(19).compress(raw)
    return {f"{name} of {dtype.name}": function for name, function in functions.items()}


def main():
    """Print a table for each spread."""
    size = sum(int(np.prod(shape)) for shape in SHAPES)
    for spread in (0.5, 5, 50):
        arrays = draw_codes(spread, np.random.default_rng(0))
        bound = entropy_bytes(arrays)
        pack = functools.partial(encode, arrays)
        content, encoding = best_time(pack)
        parse = functools.partial(reader.parse, content, decoder=CompiledDecoder)
        _, decoding = best_time(parse)
        print(
            f"\n{size:,} parameters, spread {spread}: {8 * bound / size:.2f} bits of entropy each, {bound:,.0f} bytes"
        )
        print("\n| | bytes | to the bound | encoding / M per s |\n| --- | --- | --- | --- |")
        print(f"| .lqs | {len(content):,} | {len(content) / bound:.4f} | {size / encoding / 1e6:.1f} |")
        for name, compress in others(arrays).items():
            start = time.perf_counter()
            num_bytes = len(compress())
            speed = size / (time.perf_counter() - start) / 1e6
            print(f"| {name} | {num_bytes:,} | {num_bytes / bound:.4f} | {speed:.1f} |")
        peaks = [f"{peak_memory(function) / 1e6:.0f} MB" for function in (pack, parse)]
        print(f"\nDecoding {size / decoding / 1e6:.1f} M/s. Peak memory: packing {peaks[0]}, reading {peaks[1]}.")


if __name__ == "__main__":
    main()
