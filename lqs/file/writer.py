"""Writer of `.lqs` files; `docs/format.md` describes the format."""

import functools
import json
import math
import zlib
from typing import Any, NamedTuple

import numpy as np

from lqs.file import compiled, contexts, mixing
from lqs.file.atomic import write_atomically
from lqs.file.bins import best_octave, bins, cumulative_frequencies, pack_bits, table_of
from lqs.file.layout import CHECKSUM, DICTIONARY, MAGIC, PREFIX, VERSION, VERSION_WITH, deflate

MAX_SPAN = 2**24  # of integers that are counted rather than sorted
# A coding is not tried where it would take more than another one does, by this share and these bytes. Codes take as
# many bits as their frequencies say, up to a thousandth and the words of the coder's state.
MARGIN, MARGIN_BYTES = 0.002, 32
# How many bits mixing takes is known only when it is coded: hardly less than this share of those in contexts.
LEAST_SHARE_OF_CONTEXTS = 0.7
# Of more integers than this, mixing is tried in one order of the axes, and only if contexts take less than bins do.
MAX_ALWAYS_MIXED = 2**13
MIXING_GAIN = 0.01  # least share of the bytes that mixing has to save: it takes more time to read


class Candidate(NamedTuple):
    """A way to code integers.

    Attributes:
        coding: its part of the entry.
        num_bits: about what its sections take.
        encode: function that returns the sections.
        is_bound: whether `num_bits` is the least that they may take instead.
    """

    coding: dict
    num_bits: float
    encode: Any
    is_bound: bool = False


def pack(model, tensors):
    """Return the bytes of a `.lqs` file.

    Args:
        model: configuration of the Keras model, a dictionary.
        tensors: list of pairs `(entry, sections)`, as `encode_numbers` and `encode_integers` return them, with
            the `name` of the tensor added to the entry.
    """
    sections = [section for _, sections in tensors for section in sections]
    content = b"".join([_head(model, tensors), *sections])
    return content + CHECKSUM.pack(zlib.crc32(content))


def packed_bytes(model, tensors):
    """Return how many bytes `pack` returns."""
    lengths = [len(section) for _, sections in tensors for section in sections]
    return len(_head(model, tensors)) + sum(lengths) + CHECKSUM.size


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
    planes = deflate(raw.reshape(-1, 1).view("uint8").T.tobytes())
    if len(planes) < len(section):
        section, coding = planes, "deflate"
    entry = {"shape": list(array.shape), "dtype": dtype, "coding": coding, "bytes": [len(section)]}
    return {**entry, "stored": stored} if stored != dtype else entry, [section]


def encode_integers(integers, scale, dtype="float32", slow=True):
    """Return `(entry, sections)` of the integers and the scale of a quantized parameter.

    Integers are entropy-coded with the resolution of bins, `octave`, that gives the fewest bytes with its table. Small
    ones are coded in contexts or by mixing, with their axes in order or with the last one first, or all take the same
    number of bits, where that is smaller still.

    Args:
        integers: int32 array.
        scale: array broadcastable to it.
        dtype: name of the parameter's dtype.
        slow: whether mixing is tried, which takes the fewest bytes and the most time.

    Example:

    >>> entry, sections = encode_integers(np.arange(8, dtype="int32") - 4, np.ones(1, "float32"))
    >>> entry["coding"], entry["min"], entry["max"], [len(section) for section in sections]
    ('fixed', -4, 3, [3, 4])
    """
    scale_entry, scale_sections = encode_numbers(scale)
    lowest, highest = (int(integers.min()), int(integers.max())) if integers.size else (0, 0)
    entry = {"shape": list(integers.shape), "dtype": dtype, "min": lowest, "max": highest}
    coding, sections = _smallest(_candidates(integers, lowest, highest, slow))
    entry = {**entry, **coding, "bytes": [len(section) for section in sections], "scale": scale_entry}
    return entry, [*sections, *scale_sections]


def _candidates(integers, lowest, highest, slow=True):
    """Yield every `Candidate` for integers; without `slow`, but the one of mixing."""
    offsets = integers.ravel().astype("int64") - lowest
    num_bits = (highest - lowest).bit_length()
    yield Candidate({"coding": "fixed"}, num_bits * integers.size, lambda: [pack_bits([offsets], [num_bits])])
    if integers.size:
        values, indices, counts = _distinct(offsets, highest - lowest + 1)
        values = values + lowest
        octave, ans_bits = best_octave(values, counts)
        if octave is not None:
            yield Candidate({"coding": "ans", "octave": octave}, ans_bits, lambda: _in_bins(values, indices, octave))
    in_contexts = []
    order = list(range(integers.ndim))
    for axes in [order, order[-1:] + order[:-1]][: integers.ndim]:
        ordered = integers.transpose(axes)
        if fits(ordered.shape, lowest, highest, mixing.MAX_MAGNITUDE):
            in_contexts.append(_in_contexts(ordered, {} if axes == order else {"axes": axes}))
    if max(-lowest, highest) <= contexts.MAX_MAGNITUDE:
        yield from (candidate for candidate, _ in in_contexts)
    if slow and in_contexts:
        yield from _mixed(in_contexts, integers.size, ans_bits)


def _in_contexts(ordered, axes):
    """Return the `Candidate` of contexts, for integers whose axes are in the order that they are coded in.

    With it comes their matrix. Larger integers than those of contexts are counted as the largest of them.
    """
    matrix = ordered.reshape(-1, ordered.shape[-1])
    line = contexts.best_line(matrix)
    flags = contexts.Flags(matrix.clip(-contexts.MAX_MAGNITUDE, contexts.MAX_MAGNITUDE), line)
    coding = {"coding": "contexts", "line": line, **axes}
    return Candidate(coding, flags.num_bits(), lambda: [compiled.encode_flags(*flags.in_order())]), matrix


def _mixed(in_contexts, size, ans_bits):
    """Yield a `Candidate` of mixing for each of those of contexts and their matrices that is worth the time."""
    if size > MAX_ALWAYS_MIXED:
        best = min(in_contexts, key=lambda pair: pair[0].num_bits)
        in_contexts = [best] if best[0].num_bits < ans_bits else []
    for candidate, matrix in in_contexts:
        coding = {**candidate.coding, "coding": "mixing"}
        encode = functools.partial(_encode_mixed, matrix, coding["line"])
        yield Candidate(coding, LEAST_SHARE_OF_CONTEXTS * candidate.num_bits, encode, is_bound=True)


def _encode_mixed(matrix, line):
    return [compiled.encode_flags(*mixing.flags_of(matrix, line))]


def _smallest(candidates):
    """Return coding and sections of the candidate that takes the fewest bytes, the first one if equal.

    Only those are encoded that may be it. Mixing has to take fewer by the share `MIXING_GAIN`.
    """
    candidates = list(candidates)
    limit = (1 + MARGIN) * min(c.num_bits for c in candidates if not c.is_bound) + 8 * MARGIN_BYTES
    encoded = [(c.coding, c.encode()) for c in candidates if c.num_bits <= limit]
    return min(encoded, key=lambda pair: _cost(*pair))


def _cost(coding, sections):
    """Return what the codings are compared by."""
    return _num_bytes(coding, sections) * (1 + MIXING_GAIN * (coding["coding"] == "mixing"))


def _num_bytes(coding, sections):
    """Return the bytes of sections, and about those that their coding takes in the header."""
    header = {**coding, "bytes": [len(section) for section in sections]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return sum(header["bytes"]) + len(deflate(text, DICTIONARY))


def fits(shape, lowest, highest, max_magnitude):
    """Return whether a coding of matrices with this limit is for integers of a shape and range."""
    size = math.prod(shape)
    return (
        0 < size <= contexts.MAX_ELEMENTS
        and len(shape) > 0
        and max(size // shape[-1], shape[-1]) <= contexts.MAX_SIDE
        and max(-lowest, highest) <= max_magnitude
    )


def _head(model, tensors):
    """Return the bytes before the sections: the prefix and the header."""
    entries = [entry for entry, _ in tensors]
    text = json.dumps({"model": model, "tensors": entries}, separators=(",", ":")).encode()
    keys = {key for entry in entries for key in (*entry, entry["coding"])}
    version = max([VERSION, *(VERSION_WITH[key] for key in keys & VERSION_WITH.keys())])
    stored = deflate(text, DICTIONARY)
    return PREFIX.pack(MAGIC, version, len(stored), len(text)) + stored


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


def _in_bins(values, indices, octave):
    """Return the sections `[table, codes, remainders]` of the integers `values[indices]`."""
    bin_, exponent, remainder = bins(values, octave)
    symbols = (bin_ - bin_[0]).astype("int32")[indices]
    table = table_of(np.bincount(symbols))
    widths = np.unique(exponent[exponent > 0]).tolist()
    exponents = exponent.astype("uint8")[indices] if widths else None  # below 64
    remainders = pack_bits([remainder[indices[np.flatnonzero(exponents == width)]] for width in widths], widths)
    return [table, compiled.encode_symbols(symbols, cumulative_frequencies(table)), remainders]


def _distinct(offsets, span):
    """Return the distinct numbers among `offsets`, all below `span`, the index of each element, and their counts."""
    if span > MAX_SPAN:
        return np.unique(offsets, return_counts=True, return_inverse=True)
    counts = np.bincount(offsets, minlength=span)  # many times as fast as sorting
    values = np.flatnonzero(counts)
    index = np.zeros(span, "int32")
    index[values] = np.arange(len(values))
    return values, index[offsets], counts[values]
