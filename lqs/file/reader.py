r"""Reader of `.lqs` files that needs NumPy alone, so that a file outlives Keras and this package.

    python lqs/reader.py model.lqs            # a table of the tensors

The format, version 3 (version 2 has no `levels`, version 1 the dictionary `header_v1.dict` and no `contexts` either;
files without `levels` are written as version 2); all numbers are little-endian:

| bytes | content |
| --- | --- |
| 4 | `\x93LQS` |
| 1 | version |
| 4, 4 | length of the header as stored, and inflated |
| | header: JSON, deflated (no zlib frame) with the preset dictionary `header_v2.dict`, a file beside this one |
| | sections: the bytes of the tensors, in the order of the header |
| 4 | CRC-32 of everything before |

The header is `{"model": configuration, "tensors": [entry, ...]}`, the configuration that of Keras. An entry has `name`,
`shape`, `dtype`, `coding` and `bytes`, the lengths of its sections. Elements are in C order. Codings of numbers:

* `raw`: the array's bytes; `stored` names their type if that is not `dtype`. `bfloat16` is the upper half of a float32.
* `deflate`: the same with the first bytes of all elements first, then the second ones ..., in one raw deflate stream.

Integers `P_q` have an entry `scale` inside of theirs, whose sections follow, and stand for `P_q * scale`. Where an
entry has `levels`, the name of a tensor with a vector, and `lowest`, they stand for `vector[P_q - lowest] * scale`.
Codings of integers, whose entry has further `min` and `max`:

* `fixed`: `P_q - min` in as many bits as `max - min` needs, most significant first.
* `ans`: three sections, a table, codes and remainders. With `m = P_q`, or `-1 - P_q` if that is negative, and `octave`
  from the entry, `e = max(floor(log2(m)) - octave, 0)` and the bin `b = (e << octave) + (m >> e)`, or `-1 - b` for a
  negative `P_q`: bins hold one integer each about 0, and `2**octave` to an octave further out. The table has a byte
  for each bin from that of `min` to that of `max`: `t` stands for the weight `t` below 8, else
  `(8 + t % 8) << (t // 8 - 1)`. With `c` the cumulative weights, `C` their sum and `B` the number of bins,
  `c * (2**24 - B) // C + arange(B + 1)` are the cumulative frequencies of a stream ANS coder (Duda 2013, arXiv
  1311.2540) with 64 bits of state, words of 32 bits and 24 of precision: the codes. The remainders are the lower `e`
  bits of every `m`, most significant first, those with `e = 1` first, then those with `e = 2`, and so on.
* `contexts`, since version 2: one section, flags in that ANS coder, by context-adaptive models as in DeepCABAC
  (Wiedemann et al. 2020, arXiv 1907.11900). The integers are a matrix, the last axis its columns, all others its
  rows. Row by row come the flags `P_q != 0` of all columns, `P_q > 0` of those, then `|P_q| > 1` of those,
  `|P_q| > 2` of those where that is set, and so on while a flag is set. With `a` set flags among the `n` flags of the
  same context in the calls before (one call for every kind of flag in a row), a flag is 1 with frequency
  `(2 * a + 1) * (2**24 - 2) // (2 * n + d) + 1` of `2**24`, where `d` is 16 for the first kind and 2 for the others;
  0 comes first. With `i` the row and `L` the `line` of the entry, consider rows `i - 1`, `i - L`, `i - L - 1`,
  `i - L + 1`, one of them twice if `L` is 2; those before the first are zeros. The context of `P_q != 0` is a triple:
  the numbers not zero in the same column of these rows, those of the first two counted twice, at most 3; half the bit
  length, rounded up, of how many are not zero in these rows, at most 4; the bit length of how many are not zero in
  the column so far, at most 4. The context of `P_q > 0` is the sign of the sum of the signs in the same column of
  these rows, that of `|P_q| > k` is `k`.
"""

import bisect
import itertools
import json
import math
import struct
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"\x93LQS"
VERSION = 3
VERSION_WITHOUT_LEVELS = 2
KNOWN_VERSIONS = (1, 2, 3)
PREFIX = struct.Struct("<4sBII")
CHECKSUM = struct.Struct("<I")
PRECISION = 24
MAX_OCTAVE = 15
MAX_BINS = 2**16
MAX_HEADER_BYTES = 2**26
MAX_BYTES = 2**31
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*FLOATS, "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
# Pieces of headers of small models, as a preset dictionary for deflate. Part of the format: they never change.
DICTIONARIES = {version: Path(__file__).with_name(f"header_v{version}.dict").read_bytes() for version in (1, 2)}
DICTIONARIES[3] = DICTIONARIES[2]
NUM_SECTIONS = {"raw": 1, "deflate": 1, "fixed": 1, "ans": 3, "contexts": 1}
NEIGHBOUR_WEIGHTS = np.array([2, 2, 1, 1])
MAX_CONTEXT_SIDE = 2**14
MAX_CONTEXT_ELEMENTS = 2**22
MAX_MAGNITUDE = 15


class FileFormatError(ValueError):
    """A file is not a whole and well-formed `.lqs` file."""


@dataclass
class Tensor:
    """One array of a `.lqs` file.

    Attributes:
        name: path of the Keras variable.
        dtype: name of the variable's dtype.
        values: the array; for a quantized parameter `None`.
        integers: `P_q`, an int32 array, or `None`.
        scale: `s`, broadcastable to `integers`, or `None`.
        levels: what the integers from `lowest` on stand for, in units of the scale; `None`: themselves.
        lowest: see `levels`.
        sections: `{name: bytes in the file}`.
    """

    name: str
    dtype: str
    values: Any = None
    integers: Any = None
    scale: Any = None
    levels: Any = None
    lowest: int = 0
    sections: dict = field(default_factory=dict)

    @property
    def array(self):
        """The parameter as the network computes with it: the values, or `P_q`, or its levels, times `s`."""
        if self.integers is None:
            return self.values
        numbers = self.integers if self.levels is None else self.levels[self.integers - self.lowest]
        return numbers.astype(self.scale.dtype) * self.scale


def read(path, max_bytes=MAX_BYTES, decoder=None):
    """Return the configuration of the model, a dictionary, and the list of `Tensor` in a `.lqs` file.

    Args:
        path: path of the file.
        max_bytes: limit of the size of all arrays together.
        decoder: class that decodes ANS codes; by default `Decoder`.

    Raises:
        FileFormatError: if the file is not whole, not well-formed, or larger than `max_bytes` when decoded.
        OSError: if it cannot be read.
    """
    return parse(Path(path).read_bytes(), max_bytes, decoder)


def parse(content, max_bytes=MAX_BYTES, decoder=None):
    """Return what `read` does, from the bytes of a file."""
    try:
        header, body = _split(content)
        entries = _entries(header)
        check(sum(map(_num_bytes, entries)) <= max_bytes, f"its arrays take more than {max_bytes:,} bytes")
        check(sum(map(sum, map(_lengths, entries))) == len(body), "its sections do not fill it")
        tensors, position = [], 0
        for entry in entries:
            sections = []
            for length in _lengths(entry):
                sections.append(body[position : position + length])
                position += length
            tensors.append(_tensor(entry, sections, decoder or Decoder))
        _find_levels(entries, tensors)
        return header["model"], tensors
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, zlib.error) as error:
        raise FileFormatError(f"The file is not a well-formed .lqs file: {type(error).__name__}: {error}") from error


def check(condition, message):
    """Raise a `FileFormatError` unless the condition holds."""
    if not condition:
        raise FileFormatError(f"The file is not a well-formed .lqs file: {message}")


def bins(integers, octave):
    """Return bin, exponent `e` and remainder of each integer; see the head of this module.

    Example:

    >>> [array.tolist() for array in bins(np.array([0, -1, 3, 4, 13]), 1)]
    [[0, -1, 3, 4, 7], [0, 0, 0, 1, 2], [0, 0, 0, 0, 1]]
    """
    integers = np.asarray(integers, "int64")
    negative = integers < 0
    magnitude = np.where(negative, -1 - integers, integers)
    exponent = np.maximum(np.frexp(magnitude.astype("float64"))[1] - 1 - octave, 0).astype("int64")
    bin_ = (exponent << octave) + (magnitude >> exponent)
    return np.where(negative, -1 - bin_, bin_), exponent, magnitude & ((1 << exponent) - 1)


def weights(table):
    """Return the weight that each byte of a table stands for.

    Example:

    >>> weights(bytes([0, 7, 8, 15, 16, 17])).tolist()
    [0, 7, 8, 15, 16, 18]
    """
    code = np.frombuffer(table, "uint8").astype("int64")
    return np.where(code < 8, code, (8 + code % 8) << np.maximum(code // 8 - 1, 0))


def cumulative_frequencies(table):
    """Return the frequencies of a table's bins as their cumulative sum, from 0 to `2**24`."""
    cumulative = np.concatenate([[0], np.cumsum(weights(table))])
    check(0 < cumulative[-1] < 2**38, "the weights of a table are all zero or too large")
    num_bins = len(table)
    return cumulative * (2**PRECISION - num_bins) // cumulative[-1] + np.arange(num_bins + 1)


class Decoder:
    """Decodes what a stream ANS coder coded into 32-bit words.

    Args:
        words: array of the words.
    """

    def __init__(self, words):
        self.words, self.state = words.tolist(), 0
        for _ in range(min(2, len(self.words))):
            self._refill()

    def symbols(self, num_symbols, cumulative):
        """Return the next symbols, which have these cumulative frequencies."""
        starts, frequencies = cumulative.tolist(), np.diff(cumulative).tolist()
        symbols = np.empty(num_symbols, "int32")
        for index in range(num_symbols):
            symbol = bisect.bisect_right(starts, self.state & (2**PRECISION - 1)) - 1
            self._advance(starts[symbol], frequencies[symbol])
            symbols[index] = symbol
        return symbols

    def flags(self, frequencies):
        """Return the next flags, each with its own frequency of a 1."""
        flags = np.empty(len(frequencies), bool)
        for index, frequency in enumerate(frequencies.tolist()):
            start = 2**PRECISION - frequency
            flag = (self.state & (2**PRECISION - 1)) >= start
            self._advance(*((start, frequency) if flag else (0, start)))
            flags[index] = flag
        return flags

    def finish(self):
        """Raise a `FileFormatError` unless everything is decoded."""
        check(self.state == 0 and not self.words, "codes are left over")

    def _advance(self, start, frequency):
        self.state = (self.state >> PRECISION) * frequency + (self.state & (2**PRECISION - 1)) - start
        if self.state < 2**32 and self.words:
            self._refill()

    def _refill(self):
        self.state = self.state << 32 | self.words.pop()


class FlagCounts:
    """Counts of flags by their contexts, and the frequencies that follow from them."""

    def __init__(self, num_contexts, denominator):
        self.counts, self.denominator = np.zeros((num_contexts, 2), "int64"), denominator

    def frequencies(self, contexts):
        """Return how many of `2**24` slots stand for a 1, in each of some contexts."""
        counts = self.counts[contexts]
        odds = (2 * counts[:, 1] + 1) * (2**PRECISION - 2)
        return odds // (2 * counts.sum(1) + self.denominator) + 1

    def add(self, contexts, flags):
        """Count flags that have been coded in some contexts."""
        self.counts += np.bincount(2 * contexts + flags, minlength=self.counts.size).reshape(-1, 2)


def code_in_contexts(shape, line, code, matrix=None):
    """Return a matrix of integers whose flags are coded as `contexts`; see the head of this module.

    The same steps decode and encode.

    Args:
        shape: of the matrix.
        line: number of rows between vertical neighbours.
        code: function `(frequencies, flags) -> flags`, called for the flags of each kind in each row. It gets the
            frequencies of a 1, and the flags, or `None` if there is no `matrix`.
        matrix: the integers, when they are encoded.
    """
    num_rows, num_columns = shape
    result = np.zeros((num_rows + line + 1, num_columns), "int32")  # with rows of zeros above the first
    signs, result = np.zeros_like(result, "int64"), result[line + 1 :]
    seen = np.zeros(num_columns, "int64")
    not_zero, positive, more = FlagCounts(100, 16), FlagCounts(3, 2), FlagCounts(MAX_MAGNITUDE + 1, 2)
    bit_length = np.array([0, 1, 2, 2, 3, 3, 3, 3, 4])

    def coded(counts, contexts, flags):
        flags = code(counts.frequencies(contexts), flags)
        counts.add(contexts, flags)
        return flags

    for index in range(num_rows):
        row = None if matrix is None else matrix[index]
        here = index + line + 1
        around = signs[[here - 1, here - line, here - line - 1, here - line + 1]]
        near = np.minimum(NEIGHBOUR_WEIGHTS @ (around != 0), 3)
        level = min((int(np.count_nonzero(around)).bit_length() + 1) // 2, 4)
        contexts = (near * 5 + level) * 5 + bit_length[np.minimum(seen, 8)]
        flags = coded(not_zero, contexts, None if row is None else row != 0)
        seen += flags
        columns = np.flatnonzero(flags)
        if columns.size == 0:
            continue
        contexts = np.sign(around[:, columns].sum(0)) + 1
        flags = coded(positive, contexts, None if row is None else row[columns] > 0)
        signs[here, columns] = sign = np.where(flags, 1, -1)
        magnitude, going_on = np.ones(columns.size, "int32"), np.arange(columns.size)
        for smallest in range(1, MAX_MAGNITUDE + 1):
            larger = None if row is None else np.abs(row[columns[going_on]]) > smallest
            going_on = going_on[coded(more, np.full(going_on.size, smallest), larger)]
            magnitude[going_on] += 1
            if going_on.size == 0:
                break
        result[index, columns] = sign * magnitude
    return result


def _split(content):
    """Return the header, a dictionary, and the bytes of all sections."""
    check(len(content) >= PREFIX.size + CHECKSUM.size, "it is too short")
    magic, version, stored, inflated = PREFIX.unpack_from(content)
    check(magic == MAGIC, "it does not begin as one")
    check(version in KNOWN_VERSIONS, f"its version is {version}, and this reader knows {KNOWN_VERSIONS}")
    (checksum,) = CHECKSUM.unpack_from(content, len(content) - CHECKSUM.size)
    content = memoryview(content)[: -CHECKSUM.size]
    check(zlib.crc32(content) == checksum, "it is damaged: the checksum is another")
    check(stored <= len(content) - PREFIX.size and inflated <= MAX_HEADER_BYTES, "the header is too long")
    end = PREFIX.size + stored
    text = inflate(content[PREFIX.size : end], inflated, DICTIONARIES[version])
    try:
        header = json.loads(text, object_pairs_hook=_unique_keys)
    except ValueError as error:  # also one that is not UTF-8
        raise FileFormatError(f"The file is not a well-formed .lqs file: header: {error}") from error
    return header, content[end:]


def _unique_keys(pairs):
    dictionary = dict(pairs)
    check(len(dictionary) == len(pairs), "a key of the header is there twice")
    return dictionary


def inflate(data, num_bytes, dictionary=b""):
    """Return the content of a raw deflate stream, of exactly `num_bytes`."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS, zdict=dictionary)
    content = stream.decompress(data, num_bytes + 1)
    check(stream.eof and not stream.unused_data and len(content) == num_bytes, "a stream is too short or too long")
    return content


def _entries(header):
    """Return the checked entries of the tensors."""
    entries = header["tensors"]
    check(isinstance(header["model"], dict) and isinstance(entries, list), "the header has another structure")
    names = [entry["name"] for entry in entries]
    check(all(isinstance(name, str) for name in names), "a name is not a text")
    check(len(set(names)) == len(names), "two tensors have one name")
    for entry in entries:
        quantized = entry["coding"] in ("fixed", "ans", "contexts")
        _check_entry(entry)
        check(("scale" in entry) == quantized, f"{entry['name']}: integers have a scale, other numbers do not")
        check("levels" not in entry or quantized, f"{entry['name']}: integers have levels, other numbers do not")
        if quantized:
            _check_integers(entry)
    return entries


def _check_entry(entry):
    name, shape, lengths = entry.get("name", "scale"), entry["shape"], entry["bytes"]
    check(entry["coding"] in NUM_SECTIONS, f"{name}: unknown coding {entry['coding']!r}")
    check(entry["dtype"] in DTYPES and entry.get("stored", entry["dtype"]) in DTYPES, f"{name}: unknown dtype")
    check(isinstance(shape, list) and len(shape) <= 32 and all(map(_is_count, shape)), f"{name}: bad shape")
    check(isinstance(lengths, list) and all(map(_is_count, lengths)), f"{name}: bad lengths")
    check(len(lengths) == NUM_SECTIONS[entry["coding"]], f"{name}: bad number of sections")


def _check_integers(entry):
    name, shape, scale = entry["name"], entry["shape"], entry["scale"]
    _check_entry(scale)
    check(scale["coding"] in ("raw", "deflate") and scale["dtype"] in FLOATS, f"{name}: bad scale")
    matches = len(scale["shape"]) == len(shape) and all(s in (1, p) for s, p in zip(scale["shape"], shape, strict=True))
    check(matches, f"{name}: shapes of scale and integers do not match")
    lowest, highest = entry["min"], entry["max"]
    check(all(type(limit) is int for limit in (lowest, highest)), f"{name}: bad range")
    check(-(2**31) <= lowest <= highest < 2**31, f"{name}: bad range")
    if entry["coding"] == "ans":
        check(_is_count(entry["octave"]) and entry["octave"] <= MAX_OCTAVE, f"{name}: bad octave")
        first, last = bins([lowest, highest], entry["octave"])[0].tolist()
        check(first < last and entry["bytes"][0] == last - first + 1 <= MAX_BINS, f"{name}: bad length of the table")
    if entry["coding"] == "contexts":
        check(len(shape) > 0 and 0 < math.prod(shape) <= MAX_CONTEXT_ELEMENTS, f"{name}: bad size")
        num_rows = math.prod(shape[:-1])
        check(max(num_rows, shape[-1]) <= MAX_CONTEXT_SIDE, f"{name}: too many rows or columns")
        check(_is_count(entry["line"]) and 2 <= entry["line"] <= max(num_rows, 2), f"{name}: bad line")
        check(-MAX_MAGNITUDE <= lowest <= highest <= MAX_MAGNITUDE, f"{name}: range too large")


def _is_count(value):
    return type(value) is int and 0 <= value < 2**48


def _num_bytes(entry):
    """Return the size of the decoded arrays of an entry."""
    scale = _num_bytes(entry["scale"]) if "scale" in entry else 0
    return math.prod(entry["shape"]) * 8 + scale


def _lengths(entry):
    return [*entry["bytes"], *(entry["scale"]["bytes"] if "scale" in entry else [])]


def _tensor(entry, sections, decoder):
    name, dtype = entry["name"], entry["dtype"]
    if "scale" not in entry:
        return Tensor(name, dtype, values=_numbers(entry, *sections), sections={"values": len(sections[0])})
    *codes, scale = sections
    decoders: dict[str, Any] = {"fixed": _fixed, "ans": _binned, "contexts": _in_contexts}
    integers = decoders[entry["coding"]](entry, decoder, *codes)
    in_range = integers.size == 0 or (entry["min"] <= integers.min() and integers.max() <= entry["max"])
    check(in_range, f"{name}: an integer is out of its range")
    table = len(codes[0]) if entry["coding"] == "ans" else 0
    sizes = {"codes": sum(map(len, codes)) - table, "table": table, "scale": len(scale)}
    integers = integers.astype("int32").reshape(entry["shape"])
    return Tensor(name, dtype, integers=integers, scale=_numbers(entry["scale"], scale), sections=sizes)


def _find_levels(entries, tensors):
    """Give the tensors whose integers stand for the levels in another one these levels."""
    by_name = {tensor.name: tensor for tensor in tensors}
    for entry, tensor in zip(entries, tensors, strict=True):
        if "levels" not in entry:
            continue
        found, lowest = by_name.get(entry["levels"]), entry["lowest"]
        levels: Any = None if found is None or found.dtype not in FLOATS else found.values
        check(levels is not None and levels.ndim == 1, f"{tensor.name}: its levels are no vector")
        in_range = type(lowest) is int and -(2**31) <= lowest <= entry["min"] and entry["max"] < lowest + len(levels)
        check(in_range, f"{tensor.name}: there are no levels for some of its integers")
        tensor.levels, tensor.lowest = levels, lowest


def _numbers(entry, section):
    """Return the array of a `raw` or `deflate` entry."""
    shape, stored = entry["shape"], entry.get("stored", entry["dtype"])
    dtype = np.dtype("uint16" if stored == "bfloat16" else stored).newbyteorder("<")
    num_bytes = math.prod(shape) * dtype.itemsize
    if entry["coding"] == "deflate":
        check(num_bytes <= 1032 * len(section), "a stream is too short")  # deflate does no better
        planes = np.frombuffer(inflate(section, num_bytes), "uint8").reshape(dtype.itemsize, -1)
        section = planes.T.tobytes()
    check(len(section) == num_bytes, "an array has another length than its shape says")
    array = np.frombuffer(section, dtype).reshape(shape)
    if stored == "bfloat16":
        array = (array.astype("uint32") << 16).view("float32")
    return array.astype("float32" if entry["dtype"] == "bfloat16" else entry["dtype"])


def _fixed(entry, _, section):
    size, num_bits = math.prod(entry["shape"]), (entry["max"] - entry["min"]).bit_length()
    return _bits(section, [size], [num_bits]) + entry["min"]


def _words(section):
    check(len(section) % 4 == 0, "codes are no whole words")
    words = np.frombuffer(section, "<u4")
    check(words.size == 0 or words[-1] != 0, "codes end in a word of zeros")
    return words


def _in_contexts(entry, decoder, codes):
    *rows, num_columns = entry["shape"]
    flags = decoder(_words(codes))
    integers = code_in_contexts((math.prod(rows), num_columns), entry["line"], lambda f, _: flags.flags(f))
    flags.finish()
    return integers.ravel()


def _binned(entry, decoder, table, codes, remainders):
    octave, size = entry["octave"], math.prod(entry["shape"])
    first, last = bins([entry["min"], entry["max"]], octave)[0].tolist()
    decoder = decoder(_words(codes))
    symbols = decoder.symbols(size, cumulative_frequencies(table))
    decoder.finish()
    bin_ = np.arange(first, last + 1)
    negative = bin_ < 0
    bin_ = np.where(negative, -1 - bin_, bin_)
    exponent = np.maximum((bin_ >> octave) - 1, 0)
    lowest = (bin_ - (exponent << octave)) << exponent
    magnitude = lowest[symbols]
    if exponent.any():
        exponents = exponent[symbols]
        widths, counts = np.unique(exponents[exponents > 0], return_counts=True)
        remainders = _bits(remainders, counts.tolist(), widths.tolist())
        for width, of_width in zip(widths, np.split(remainders, np.cumsum(counts))[:-1], strict=True):
            magnitude[exponents == width] += of_width
    else:
        check(len(remainders) == 0, "packed bits have another length than their number says")
    return np.where(negative[symbols], -1 - magnitude, magnitude)


def _bits(section, counts, widths):
    """Return `counts[i]` numbers of `widths[i]` bits each, for all `i` in turn, packed into a section."""
    num_bits = sum(count * width for count, width in zip(counts, widths, strict=True))
    check(len(section) == -(-num_bits // 8), "packed bits have another length than their number says")
    bits = np.unpackbits(np.frombuffer(section, "uint8"), count=num_bits)
    ends = itertools.accumulate((count * width for count, width in zip(counts, widths, strict=True)), initial=0)
    numbers = [np.empty(0, "int64")]
    for start, count, width in zip(ends, counts, widths, strict=False):
        digits = bits[start : start + count * width].reshape(count, width)
        numbers.append(np.zeros(count, "int64"))
        for column in digits.T:
            numbers[-1] = numbers[-1] << 1 | column
    return np.concatenate(numbers)


def _main(path):
    for tensor in read(path)[1]:
        kind = tensor.dtype if tensor.integers is None else f"{tensor.integers.min()}…{tensor.integers.max()}"
        print(f"{tensor.name:40} {tensor.array.shape!s:20} {kind:16} {sum(tensor.sections.values()):10,} bytes")


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
