r"""Reader of `.lqs` files that needs NumPy alone, so that a file outlives Keras.

    python -m lqs.file.reader model.lqs            # a table of the tensors

`docs/format.md` describes the file. `read` gives its configuration and arrays; `lqs.load` makes a Keras model of them.
"""

import json
import math
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lqs.file import contexts, mixing
from lqs.file.ans import fastest_decoder, words_of
from lqs.file.bins import MAX_BINS, MAX_OCTAVE, bins, cumulative_frequencies, unpack_bits
from lqs.file.layout import (
    CHECKSUM,
    DICTIONARY,
    DTYPES,
    FLOATS,
    INT32,
    KNOWN_VERSIONS,
    MAGIC,
    MAX_BYTES,
    MAX_HEADER_BYTES,
    NUM_SECTIONS,
    PREFIX,
    FileFormatError,
    check,
    inflate,
)

MATRIX_CODINGS = {"contexts": contexts, "mixing": mixing}
INTEGER_CODINGS = ("fixed", "ans", *MATRIX_CODINGS)


class Contents(NamedTuple):
    """What is in a `.lqs` file.

    Attributes:
        configuration: the configuration of the Keras model, a dictionary.
        tensors: list of `Tensor`.
    """

    configuration: dict
    tensors: list


class Header(NamedTuple):
    """The header of a `.lqs` file: the configuration of the Keras model, and the entries of the tensors."""

    configuration: dict
    entries: list


@dataclass
class Tensor:
    """One array of a `.lqs` file.

    Attributes:
        name: path of the Keras variable.
        dtype: name of the variable's dtype.
        values: the array; for a quantized parameter `None`.
        integers: `P_q`, an int32 array, or `None`.
        scale: `s`, broadcastable to `integers`, or `None`.
        levels: what the integers from `lowest` on stand for, in units of the scale; `None`: themselves. In a matrix,
            each row is what as many elements as it has columns stand for, by the integer of the first of them.
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
        numbers = self.integers if self.levels is None else self._levels_of_integers()
        return numbers.astype(self.scale.dtype) * self.scale

    def _levels_of_integers(self):
        if self.levels.ndim == 1:
            return self.levels[self.integers - self.lowest]
        vectors = self.levels[self.integers.ravel()[:: self.levels.shape[1]] - self.lowest]
        return vectors.ravel()[: self.integers.size].reshape(self.integers.shape)


def read(path, max_bytes=MAX_BYTES, decoder=None):
    """Return the `Contents` of a `.lqs` file: the configuration of the model, and its tensors.

    Args:
        path: path of the file.
        max_bytes: limit of the size of all arrays together, 8 bytes counted for each element.
        decoder: class that decodes ANS codes; by default `lqs.file.ans.fastest_decoder()`.

    Raises:
        FileFormatError: if the file is not whole, not well-formed, or larger than `max_bytes` when decoded.
        OSError: if it cannot be read.
    """
    return parse(Path(path).read_bytes(), max_bytes, decoder)


def parse(content, max_bytes=MAX_BYTES, decoder=None):
    """Return what `read` does, from the bytes of a file."""
    decoder = decoder or fastest_decoder()
    with _Refusing():
        header, body = split(content)
        entries = check_entries(header, body, max_bytes)
        tensors, position = [], 0
        for entry in entries:
            sections = []
            for length in section_lengths(entry):
                sections.append(body[position : position + length])
                position += length
            tensors.append(_tensor(entry, sections, decoder))
        _find_levels(entries, tensors)
        return Contents(header["model"], tensors)


def parse_header(content, max_bytes=MAX_BYTES):
    """Return the `Header` in the bytes of a file, checked as `parse` does, without decoding the arrays."""
    with _Refusing():
        header, body = split(content)
        return Header(header["model"], check_entries(header, body, max_bytes))


class _Refusing:
    """Context that turns the errors of a header of another structure into `FileFormatError`."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, KeyError | TypeError | AttributeError | OverflowError | RecursionError | zlib.error):
            name = type(error).__name__
            raise FileFormatError(f"The file is not a well-formed .lqs file: {name}: {error}") from error


def split(content):
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
    text = inflate(content[PREFIX.size : end], inflated, DICTIONARY)
    try:
        header = json.loads(text, object_pairs_hook=_unique_keys)
    except ValueError as error:  # also one that is not UTF-8
        raise FileFormatError(f"The file is not a well-formed .lqs file: header: {error}") from error
    return header, content[end:]


def _unique_keys(pairs):
    dictionary = dict(pairs)
    check(len(dictionary) == len(pairs), "a key of the header is there twice")
    return dictionary


def check_entries(header, body, max_bytes):
    """Return the entries of the tensors, checked against each other and the length of all sections."""
    entries = header["tensors"]
    check(isinstance(header["model"], dict) and isinstance(entries, list), "the header has another structure")
    names = [entry["name"] for entry in entries]
    check(all(isinstance(name, str) for name in names), "a name is not a text")
    check(len(set(names)) == len(names), "two tensors have one name")
    for entry in entries:
        quantized = entry["coding"] in INTEGER_CODINGS
        _check_entry(entry)
        check(("scale" in entry) == quantized, f"{entry['name']}: integers have a scale, other numbers do not")
        check("levels" not in entry or quantized, f"{entry['name']}: integers have levels, other numbers do not")
        if quantized:
            _check_integers(entry)
    check(sum(map(_num_bytes, entries)) <= max_bytes, f"its arrays take more than {max_bytes:,} bytes")
    check(sum(map(sum, map(section_lengths, entries))) == len(body), "its sections do not fill it")
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
    check(INT32[0] <= lowest <= highest <= INT32[1], f"{name}: bad range")
    if entry["coding"] == "ans":
        check(_is_count(entry["octave"]) and entry["octave"] <= MAX_OCTAVE, f"{name}: bad octave")
        first, last = bins([lowest, highest], entry["octave"])[0].tolist()
        check(first < last and entry["bytes"][0] == last - first + 1 <= MAX_BINS, f"{name}: bad length of the table")
    is_matrix = entry["coding"] in MATRIX_CODINGS
    check("axes" not in entry or is_matrix, f"{name}: its coding has no order of axes")
    if is_matrix:
        shape = _ordered_shape(entry)
        check(len(shape) > 0 and 0 < math.prod(shape) <= contexts.MAX_ELEMENTS, f"{name}: bad size")
        num_rows = math.prod(shape[:-1])
        check(max(num_rows, shape[-1]) <= contexts.MAX_SIDE, f"{name}: too many rows or columns")
        check(_is_count(entry["line"]) and 2 <= entry["line"] <= max(num_rows, 2), f"{name}: bad line")
        check(max(-lowest, highest) <= MATRIX_CODINGS[entry["coding"]].MAX_MAGNITUDE, f"{name}: range too large")


def _ordered_shape(entry):
    """Return the shape of integers with their axes in the order in which they are coded."""
    shape = entry["shape"]
    axes = entry.get("axes", list(range(len(shape))))
    is_order = isinstance(axes, list) and all(map(_is_count, axes)) and sorted(axes) == list(range(len(shape)))
    check(is_order, f"{entry['name']}: bad order of axes")
    return [shape[axis] for axis in axes]


def _is_count(value):
    return type(value) is int and 0 <= value < 2**48


def _num_bytes(entry):
    """Return the size of the decoded arrays of an entry."""
    scale = _num_bytes(entry["scale"]) if "scale" in entry else 0
    return math.prod(entry["shape"]) * 8 + scale


def section_lengths(entry):
    """Return the bytes of all sections of an entry, those of its scale last."""
    return [*entry["bytes"], *(entry["scale"]["bytes"] if "scale" in entry else [])]


def section_sizes(entry):
    """Return `{name: bytes}` of the sections of an entry: `values`, or `codes`, `table` and `scale`."""
    if "scale" not in entry:
        return {"values": sum(entry["bytes"])}
    table = entry["bytes"][0] if entry["coding"] == "ans" else 0
    return {"codes": sum(entry["bytes"]) - table, "table": table, "scale": sum(entry["scale"]["bytes"])}


def _tensor(entry, sections, decoder):
    name, dtype, sizes = entry["name"], entry["dtype"], section_sizes(entry)
    if "scale" not in entry:
        return Tensor(name, dtype, values=_numbers(entry, *sections), sections=sizes)
    *codes, scale = sections
    decoders: dict[str, Any] = {"fixed": _fixed, "ans": _binned, **dict.fromkeys(MATRIX_CODINGS, _matrix)}
    integers = decoders[entry["coding"]](entry, decoder, *codes)
    in_range = integers.size == 0 or (entry["min"] <= integers.min() and integers.max() <= entry["max"])
    check(in_range, f"{name}: an integer is out of its range")
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
        is_table = levels is not None and (levels.ndim == 1 or (levels.ndim == 2 and levels.shape[1] > 0))
        check(is_table, f"{tensor.name}: its levels are neither a vector nor a matrix")
        in_range = type(lowest) is int and INT32[0] <= lowest <= entry["min"] and entry["max"] < lowest + len(levels)
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
    return unpack_bits(section, [size], [num_bits]) + entry["min"]


def _matrix(entry, decoder, codes):
    *rows, num_columns = shape = _ordered_shape(entry)
    flags = decoder(words_of(codes))
    decode = MATRIX_CODINGS[entry["coding"]].decode
    integers = decode((math.prod(rows), num_columns), entry["line"], flags.flags)
    flags.finish()
    axes = entry.get("axes", range(len(shape)))
    return integers.reshape(shape).transpose(np.argsort(axes)).ravel()


def _binned(entry, decoder, table, codes, remainders):
    octave, size = entry["octave"], math.prod(entry["shape"])
    first, last = bins([entry["min"], entry["max"]], octave)[0].tolist()
    decoder = decoder(words_of(codes))
    symbols = decoder.symbols(size, cumulative_frequencies(table))
    decoder.finish()
    bin_ = np.arange(first, last + 1)
    sign, magnitude = np.where(bin_ < 0, -1, 1), np.where(bin_ < 0, -1 - bin_, bin_)
    exponent = np.maximum((magnitude >> octave) - 1, 0)
    lowest = (magnitude - (exponent << octave)) << exponent
    integers = np.where(bin_ < 0, -1 - lowest, lowest)[symbols]  # without their remainders
    if exponent.any():
        exponents = exponent.astype("uint8")[symbols]  # below 64
        places = [np.flatnonzero(exponents == width) for width in range(1, 1 + exponent.max())]
        remainders = unpack_bits(remainders, [place.size for place in places], range(1, 1 + len(places)))
        for place, of_width in zip(places, np.split(remainders, np.cumsum([p.size for p in places])[:-1]), strict=True):
            integers[place] += sign[symbols[place]] * of_width
    else:
        check(len(remainders) == 0, "packed bits have another length than their number says")
    return integers


def print_tensors(path):
    """Print a line for each tensor of a file: name, shape, range of the integers or dtype, and bytes."""
    for tensor in read(path).tensors:
        integers = tensor.integers
        is_range = integers is not None and integers.size
        kind = f"{integers.min()}…{integers.max()}" if is_range else tensor.dtype
        print(f"{tensor.name:40} {tensor.array.shape!s:20} {kind:16} {sum(tensor.sections.values()):10,} bytes")


def main(arguments):
    """Run the module as a command; return the exit code, or what is printed as an error."""
    if len(arguments) != 1:
        return "usage: python -m lqs.file.reader FILE"
    try:
        print_tensors(*arguments)
    except (OSError, ValueError) as error:
        return f"error: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
