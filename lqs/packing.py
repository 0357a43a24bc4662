"""Writer of `.lqs` files; `lqs.reader` has the format."""

import json
import zlib

import constriction
import numpy as np

from lqs.coclustering import block_counts, cocluster
from lqs.files import write_atomically
from lqs.reader import (
    CHECKSUM,
    DICTIONARIES,
    MAGIC,
    MAX_BINS,
    MAX_OCTAVE,
    PRECISION,
    PREFIX,
    VERSION,
    bins,
    check,
    cumulative_frequencies,
    weights,
)

MAX_SPAN = 2**24  # of integers that are counted rather than sorted
NUMBERS_OF_CLASSES = (2, 4)
MAX_BLOCK_BINS = 2**12  # of the tables of all blocks together
MAX_COUNTS = 2**25  # of symbols in each row, or column, and class: 256 MiB
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
    stored = _deflate(text, DICTIONARIES[VERSION])
    sections = [section for _, sections in tensors for section in sections]
    content = b"".join([PREFIX.pack(MAGIC, VERSION, len(stored), len(text)), stored, *sections])
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

    Integers are entropy-coded with the resolution of bins, `octave`, that gives the fewest bytes with its table. A
    matrix is coded in blocks, of the row and column classes of `lqs.coclustering`, or integers take the same number
    of bits each, where that is smaller still.

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
        for num_classes in _numbers_of_classes(integers.shape, symbols):
            sections = _blocks(symbols.reshape(-1, integers.shape[-1]), num_classes, remainders)
            candidates.append(({"coding": "blocks", "octave": octave, "classes": num_classes}, sections))
    coding, sections = min(candidates, key=lambda candidate: _num_bytes(*candidate))
    entry = {**entry, **coding, "bytes": [len(section) for section in sections], "scale": scale_entry}
    return entry, [*sections, *scale_sections]


def decode_symbols(words, runs):
    """Return what `lqs.reader.decode_symbols` does, at the speed of compiled code."""
    coder = constriction.stream.stack.AnsCoder(words.astype("uint32"))
    symbols = [coder.decode(_model(cumulative), num_symbols) for num_symbols, cumulative in runs]
    check(coder.is_empty(), "codes are left over")
    return np.concatenate(symbols)


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
    return [table, _encode([(symbols, table)])]


def _num_bytes(coding, sections):
    """Return the bytes of sections, and about those that their coding takes in the header."""
    header = {**coding, "bytes": [len(section) for section in sections]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return sum(header["bytes"]) + len(_deflate(text, DICTIONARIES[VERSION]))


def _numbers_of_classes(shape, symbols):
    """Return the numbers of classes to try for symbols of an array of the given shape."""
    if len(shape) < 2:
        return []
    num_symbols, longest = int(symbols.max()) + 1, max(symbols.size // shape[-1], shape[-1])
    num_counts = longest * num_symbols
    return [
        n
        for n in NUMBERS_OF_CLASSES
        if n <= longest and num_symbols * n**2 <= MAX_BLOCK_BINS and num_counts * n <= MAX_COUNTS
    ]


def _blocks(symbols, num_classes, remainders):
    """Return the sections of a matrix of symbols, coded in blocks; see `lqs.reader`."""
    num_symbols = int(symbols.max()) + 1
    rows, columns = cocluster(symbols, num_symbols, num_classes)
    counts = block_counts(symbols, rows, columns, num_symbols, num_classes).reshape(-1, num_symbols)
    tables = [_table(of_block) if of_block.any() else bytes(num_symbols) for of_block in counts]
    blocks = [
        symbols[np.ix_(rows == row, columns == column)].ravel() for row, column in np.ndindex(num_classes, num_classes)
    ]
    steps = [np.diff(classes, prepend=0) % num_classes for classes in (rows, columns)]
    class_tables = [_table(np.bincount(step, minlength=num_classes)) for step in steps]
    codes = _encode(zip(blocks, tables, strict=True))
    class_codes = _encode(zip(steps, class_tables, strict=True))
    return [b"".join(tables), codes, remainders, b"".join(class_tables), class_codes]


def _encode(runs):
    """Return the bytes of runs of symbols, each with its table, in the order in which they are decoded."""
    coder = constriction.stream.stack.AnsCoder()
    for symbols, table in reversed([(symbols, table) for symbols, table in runs if len(symbols)]):
        coder.encode_reverse(symbols.astype("int32"), _model(cumulative_frequencies(table)))
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


def _model(cumulative):
    """Return constriction's model with exactly these cumulative frequencies.

    It gives every symbol one of the `2**24` slots and divides the others in proportion to the probabilities. In
    float64, the sums of these are exact.
    """
    probabilities = (np.diff(cumulative) - 1) / 2.0**PRECISION
    return constriction.stream.model.Categorical(probabilities, perfect=False)


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
