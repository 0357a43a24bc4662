"""Writer of `.lqs` files; `lqs.file.reader` has the format."""

import json
import zlib

import constriction
import numpy as np

from lqs.file.atomic import write_atomically
from lqs.file.reader import (
    CHECKSUM,
    DICTIONARIES,
    MAGIC,
    MAX_BINS,
    MAX_CONTEXT_ELEMENTS,
    MAX_CONTEXT_SIDE,
    MAX_MAGNITUDE,
    MAX_OCTAVE,
    PRECISION,
    PREFIX,
    VERSION,
    VERSION_WITHOUT_LEVELS,
    bins,
    check,
    code_in_contexts,
    cumulative_frequencies,
    weights,
)

MAX_SPAN = 2**24  # of integers that are counted rather than sorted
_WEIGHTS = weights(bytes(range(256)))


def pack(model, tensors):
    """Return the bytes of a `.lqs` file.

    Args:
        model: configuration of the Keras model, a dictionary.
        tensors: list of pairs `(entry, sections)`, as `encode_numbers` and `encode_integers` return them, with
            the `name` of the tensor added to the entry.
    """
    header = {"model": model, "tensors": [entry for entry, _ in tensors]}
    text = json.dumps(header, separators=(",", ":")).encode()
    version = VERSION if any("levels" in entry for entry, _ in tensors) else VERSION_WITHOUT_LEVELS
    stored = _deflate(text, DICTIONARIES[version])
    sections = [section for _, sections in tensors for section in sections]
    content = b"".join([PREFIX.pack(MAGIC, version, len(stored), len(text)), stored, *sections])
    return content + CHECKSUM.pack(zlib.crc32(content))


def write(path, model, tensors):
    """Write a `.lqs` file whole or not at all; the arguments are those of `pack`."""
    write_atomically(path, pack(model, tensors))


def encode_numbers(array, dtype=None, stored=None):
    """Return `(entry, sections)` of an array, stored as it is or deflated, whichever is smaller.

    Args:
        array: NumPy array.
        dtype: name of the dtype to be read as; by default the array's.
        stored: name of the dtype in the file, by default `dtype`.

    Raises:
        ValueError: if a finite number is not finite in the dtype `stored`.

    Example:

    >>> entry, (section,) = encode_numbers(np.zeros(1000, "float32"))
    >>> entry["coding"], len(section) < 100
    ('deflate', True)
    """
    dtype = dtype or array.dtype.name
    stored = stored or dtype
    raw = _to_stored(array, stored)
    section, coding = raw.tobytes(), "raw"
    planes = _deflate(raw.reshape(-1, 1).view("uint8").T.tobytes())
    if len(planes) < len(section):
        section, coding = planes, "deflate"
    entry = {"shape": list(array.shape), "dtype": dtype, "coding": coding, "bytes": [len(section)]}
    return {**entry, "stored": stored} if stored != dtype else entry, [section]


def encode_integers(integers, scale, dtype="float32"):
    """Return `(entry, sections)` of the integers and the scale of a quantized parameter.

    Integers are entropy-coded with the resolution of bins, `octave`, that gives the fewest bytes with its table. Small
    ones are coded in contexts, or all take the same number of bits, where that is smaller still.

    Args:
        integers: int32 array.
        scale: array broadcastable to it.
        dtype: name of the parameter's dtype.

    Example:

    >>> entry, sections = encode_integers(np.arange(8, dtype="int32") - 4, np.ones(1, "float32"))
    >>> entry["coding"], entry["min"], entry["max"], [len(section) for section in sections]
    ('fixed', -4, 3, [3, 4])
    """
    scale_entry, scale_sections = encode_numbers(scale)
    lowest, highest = (int(integers.min()), int(integers.max())) if integers.size else (0, 0)
    entry = {"shape": list(integers.shape), "dtype": dtype, "min": lowest, "max": highest}
    num_bits = (highest - lowest).bit_length()
    offsets = integers.ravel().astype("int64") - lowest
    values, indices, counts = _distinct(offsets, highest - lowest + 1)
    octave = _best_octave(values + lowest, counts) if integers.size else None
    candidates = [({"coding": "fixed"}, [_pack_bits([offsets], [num_bits])])]
    if octave is not None:
        symbols, remainders = _symbols(values + lowest, indices, octave)
        candidates.append(({"coding": "ans", "octave": octave}, [*_ans(symbols), remainders]))
    if _fits_contexts(integers):
        matrix = integers.reshape(-1, integers.shape[-1])
        line = _line(matrix)
        candidates.append(({"coding": "contexts", "line": line}, [_in_contexts(matrix, line)]))
    coding, sections = min(candidates, key=lambda candidate: _num_bytes(*candidate))
    entry = {**entry, **coding, "bytes": [len(section) for section in sections], "scale": scale_entry}
    return entry, [*sections, *scale_sections]


class Decoder:
    """Does what `lqs.file.reader.Decoder` does, at the speed of compiled code."""

    def __init__(self, words):
        self.coder = constriction.stream.stack.AnsCoder(words.astype("uint32"))

    def symbols(self, num_symbols, cumulative):
        return self.coder.decode(_model(np.diff(cumulative)), num_symbols)

    def flags(self, frequencies):
        return self.coder.decode(*_flag_models(frequencies)).astype(bool)

    def finish(self):
        check(self.coder.is_empty(), "codes are left over")


def _to_stored(array, stored):
    """Return the little-endian array of what is stored for an array."""
    if stored == "bfloat16":  # half of a float32, rounded to nearest, ties to even
        bits = array.astype("float32").view("uint32")
        converted = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        finite = np.isfinite((converted.astype("uint32") << 16).view("float32"))
    else:
        with np.errstate(over="ignore"):
            converted = array.astype(np.dtype(stored).newbyteorder("<"))
        finite = np.isfinite(converted)
    if np.any(np.isfinite(array) & ~finite):
        raise ValueError(f"Numbers up to {np.abs(array).max():.4g} do not fit into {stored}.")
    return np.ascontiguousarray(converted)


def _best_octave(values, counts):
    """Return the resolution of bins that takes the fewest bits, `None` if no table can be made.

    Args:
        values: the distinct integers, in order.
        counts: how often each is there.
    """
    bits = {}
    for octave in range(MAX_OCTAVE + 1):
        bin_, exponent, _ = bins(values, octave)
        symbols = bin_ - bin_[0]
        if not 1 <= symbols[-1] < MAX_BINS:
            continue
        in_bin = np.bincount(symbols, counts)
        frequencies = np.diff(cumulative_frequencies(_table(in_bin))) / 2**PRECISION
        bits[octave] = 8 * len(in_bin) - np.sum(in_bin * np.log2(frequencies)) + np.sum(exponent * counts)
        if not exponent.any():
            break  # a finer resolution changes nothing
    return min(bits, key=bits.__getitem__, default=None)


def _symbols(values, indices, octave):
    """Return the symbols of the integers `values[indices]`, and the section of their remainders."""
    bin_, exponent, remainder = bins(values, octave)
    widths = np.unique(exponent[exponent > 0]).tolist()
    exponents = exponent[indices] if widths else None
    remainders = _pack_bits([remainder[indices[exponents == width]] for width in widths], widths)
    return (bin_ - bin_[0]).astype("int32")[indices], remainders


def _ans(symbols):
    """Return the sections `[table, codes]` of symbols that share one table."""
    table = _table(np.bincount(symbols))
    return [table, _encode(symbols, _model(np.diff(cumulative_frequencies(table))))]


def _num_bytes(coding, sections):
    """Return the bytes of sections, and about those that their coding takes in the header."""
    header = {**coding, "bytes": [len(section) for section in sections]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return sum(header["bytes"]) + len(_deflate(text, DICTIONARIES[VERSION]))


def _fits_contexts(integers):
    return (
        0 < integers.size <= MAX_CONTEXT_ELEMENTS
        and integers.ndim > 0
        and max(integers.size // integers.shape[-1], integers.shape[-1]) <= MAX_CONTEXT_SIDE
        and -MAX_MAGNITUDE <= integers.min() <= integers.max() <= MAX_MAGNITUDE
    )


def _line(matrix):
    """Return how many rows below its own a row finds most of its elements that are not zero again, at least two."""
    num_rows = len(matrix)
    spectrum = np.fft.rfft(matrix != 0, 2 * num_rows, axis=0)
    in_common = np.fft.irfft((np.abs(spectrum) ** 2).sum(1))[:num_rows]
    return 2 + int(np.argmax(in_common[2:].round())) if num_rows > 2 else 2


def _in_contexts(matrix, line):
    """Return the section of a matrix of integers that is coded in contexts."""
    calls = []

    def code(frequencies, flags):
        calls.append((frequencies, flags))
        return flags

    code_in_contexts(matrix.shape, line, code, matrix)
    frequencies, flags = map(np.concatenate, zip(*calls, strict=True))
    return _encode(flags, *_flag_models(frequencies))


def _encode(symbols, *model):
    """Return the bytes of symbols, in the order in which they are decoded."""
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols.astype("int32"), *model)
    return coder.get_compressed().astype("<u4").tobytes()


def _distinct(offsets, span):
    """Return the distinct numbers among `offsets`, all below `span`, their counts, and the index of each element."""
    if span > MAX_SPAN:
        return np.unique(offsets, return_counts=True, return_inverse=True)
    counts = np.bincount(offsets, minlength=span)  # many times as fast as sorting
    values = np.flatnonzero(counts)
    index = np.zeros(span, "int64")
    index[values] = np.arange(len(values))
    return values, index[offsets], counts[values]


def _table(counts):
    """Return the bytes whose weights are nearest to counts, scaled down if they are larger than a table may sum to."""
    counts = np.asarray(counts, "float64")
    shrink = max(1.0, counts.sum() / 2**33)
    above = np.searchsorted(_WEIGHTS, counts / shrink).clip(1, 255)
    nearer_below = counts / shrink - _WEIGHTS[above - 1] <= _WEIGHTS[above] - counts / shrink
    return (above - nearer_below).astype("uint8").tobytes()


def _model(frequencies):
    """Return constriction's model with exactly these frequencies.

    It gives every symbol one of the `2**24` slots and divides the others in proportion to the probabilities. In
    float64, the sums of these are exact.
    """
    return constriction.stream.model.Categorical((frequencies - 1) / 2.0**PRECISION, perfect=False)


def _flag_models(frequencies):
    """Return constriction's model of flags, and its parameters for each one: exactly these frequencies of a 1."""
    both = np.stack([2**PRECISION - frequencies, frequencies], 1)
    return constriction.stream.model.Categorical(perfect=False), (both - 1) / 2.0**PRECISION


def _pack_bits(groups, widths):
    """Return the bytes of the numbers of each group in its width of bits, most significant first."""
    digits = [
        ((group[:, None] >> np.arange(width - 1, -1, -1)) & 1).astype("uint8").ravel()
        for group, width in zip(groups, widths, strict=True)
    ]
    return np.packbits(np.concatenate([np.empty(0, "uint8"), *digits])).tobytes()


def _deflate(content, dictionary=b""):
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return stream.compress(content) + stream.flush()
