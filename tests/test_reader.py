"""Tests of `lqs.reader`, on files made here byte by byte from the description of the format alone."""

import hashlib
import json
import math
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from lqs import packing, reader
from lqs.reader import FileFormatError, bins, decode_symbols, parse, read, weights

MODULE = Path(reader.__file__)
DECODERS = [None, packing.decode_symbols]


def make_file(header, body=b"", version=2, magic=b"\x93LQS", dictionary=None):
    """Return a file as the module's head describes it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    name = f"header_v{version}.dict" if version in (1, 2) else "header_v2.dict"
    dictionary = MODULE.with_name(name).read_bytes() if dictionary is None else dictionary
    stream = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary)
    stored = stream.compress(text) + stream.flush()
    content = magic + bytes([version]) + struct.pack("<II", len(stored), len(text)) + stored + body
    return content + struct.pack("<I", zlib.crc32(content))


def one(entry, body):
    """Return a file of one tensor."""
    return make_file({"model": {}, "tensors": [{"name": "a", **entry}]}, body)


RAW = {"shape": [2], "dtype": "float32", "coding": "raw", "bytes": [8]}
SCALE = {"shape": [1], "dtype": "float32", "coding": "raw", "bytes": [4]}
FIXED = {"shape": [3], "dtype": "float32", "coding": "fixed", "min": -2, "max": 3, "bytes": [2], "scale": SCALE}
HALF = struct.pack("<f", 0.5)


def test_raw_numbers():
    model, (tensor,) = parse(
        make_file({"model": {"b": 1}, "tensors": [{"name": "a", **RAW}]}, struct.pack("<2f", 1, -2))
    )
    assert model == {"b": 1}
    assert tensor.name == "a" and tensor.integers is None and tensor.sections == {"values": 8}
    assert tensor.array.tolist() == [1, -2] and tensor.array.dtype == "float32"


@pytest.mark.parametrize(
    ("stored", "body"), [("float16", struct.pack("<2e", 1, -2)), ("bfloat16", bytes.fromhex("803f00c0"))]
)
def test_numbers_stored_in_fewer_bits_are_read_in_their_own_type(stored, body):
    (tensor,) = parse(one({**RAW, "stored": stored, "bytes": [4]}, body))[1]
    assert tensor.array.tolist() == [1, -2] and tensor.array.dtype == "float32"


def test_deflated_numbers_have_their_first_bytes_first():
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    planes = b"\1\2" + b"\0\0" + b"\0\0" + b"\0\0"
    body = stream.compress(planes) + stream.flush()
    (tensor,) = parse(one({"shape": [2], "dtype": "int32", "coding": "deflate", "bytes": [len(body)]}, body))[1]
    assert tensor.array.tolist() == [1, 2]


def test_fixed_width_integers():
    # -2, 0, 3 above -2: 0, 2, 5 in the three bits that 5 needs: 000 010 101 and seven zeros.
    (tensor,) = parse(one(FIXED, bytes([0b00001010, 0b10000000]) + HALF))[1]
    assert tensor.integers.tolist() == [-2, 0, 3] and tensor.integers.dtype == "int32"
    assert tensor.array.tolist() == [-1, 0, 1.5]
    assert tensor.sections == {"codes": 2, "table": 0, "scale": 4}


def coded(symbols):
    """Return the codes of a few pairs `(symbol, cumulative frequencies)`, in the order in which they are decoded."""
    state = 0
    for symbol, starts in reversed(symbols):  # they fit into one word
        frequency = starts[symbol + 1] - starts[symbol]
        state = (state // frequency << 24) + state % frequency + starts[symbol]
    assert 0 < state < 2**32
    return struct.pack("<I", state)


def test_entropy_coded_integers():
    # Bins at octave 0: 0 and 1 by themselves, then 2…3; the table has weights 2, 1, 1 for them. All of the
    # 2**24 - 3 slots beyond one for each are shared: 2**23 - 1.5 to the first, down to a whole number.
    starts = [0, (2**24 - 3) * 2 // 4 + 1, (2**24 - 3) * 3 // 4 + 2, 2**24]
    codes = coded([(symbol, starts) for symbol in [0, 2, 1, 0, 2]])
    entry = {**FIXED, "coding": "ans", "min": 0, "max": 3, "octave": 0, "shape": [5], "bytes": [3, 4, 1]}
    body = bytes([2, 1, 1]) + codes + bytes([0b01000000]) + HALF  # remainders of the second and fifth: 0, 1
    (tensor,) = parse(one(entry, body))[1]
    assert tensor.integers.tolist() == [0, 2, 1, 0, 3]
    assert tensor.sections == {"codes": 5, "table": 3, "scale": 4}


# The integers 0 2 / 3 1 / 2 0, of shape (3, 1, 2), of which 2 and 3 share a bin, in three classes: rows 2, 0, 2 and
# columns 1, 1. The block of row class 0 and column class 1 is 3 1, that of row class 2 is 0 2 2 0; all others are
# empty, and their tables are not read. Steps from class to class: 2, 0 - 2 = 1, 2 and 1, 0 modulo 3.
BLOCKS = {
    "shape": [3, 1, 2],
    "dtype": "float32",
    "coding": "blocks",
    "min": 0,
    "max": 3,
    "octave": 0,
    "classes": 3,
    "bytes": [27, 4, 1, 6, 4],
    "scale": {**SCALE, "shape": [1, 1, 1]},
}
SHARED = 2**24 - 3  # slots beyond one for each of three
TABLES = bytes(3) + bytes([0, 1, 3]) + bytes(15) + bytes([2, 0, 1]) + bytes(3)
STARTS = {
    "0, 1": [0, 1, SHARED // 4 + 2, 2**24],
    "2, 1": [0, 2 * SHARED // 3 + 1, 2 * SHARED // 3 + 2, 2**24],
    "steps of rows": [0, 1, SHARED // 3 + 2, 2**24],  # weights 0, 1, 2
    "steps of columns": [0, SHARED // 2 + 1, SHARED + 2, 2**24],  # weights 1, 1, 0
}
CODES = coded(
    [(symbol, STARTS[block]) for block, symbols in {"0, 1": [2, 1], "2, 1": [0, 2, 2, 0]}.items() for symbol in symbols]
)
STEPS = {"steps of rows": [2, 1, 2], "steps of columns": [1, 0]}
CLASS_CODES = coded([(step, STARTS[axis]) for axis, steps in STEPS.items() for step in steps])
REMAINDERS = bytes([0b01000000])  # of 2, 3, 2, in C order
CLASS_TABLE = bytes([0, 1, 2, 1, 1, 0])


def blocks(entry=None, tables=TABLES, codes=CODES, remainders=REMAINDERS, class_table=CLASS_TABLE, steps=CLASS_CODES):
    """Return a file of one `blocks` entry, with some of its values or sections replaced."""
    sections = [tables, codes, remainders, class_table, steps]
    entry = {**BLOCKS, "bytes": [len(section) for section in sections], **(entry or {})}
    return one(entry, b"".join(sections) + HALF)


@pytest.mark.parametrize("decode", DECODERS)
def test_integers_coded_in_blocks(decode):
    (tensor,) = parse(blocks(), decode=decode)[1]
    assert tensor.integers.tolist() == [[[0, 2]], [[3, 1]], [[2, 0]]] and tensor.integers.dtype == "int32"
    assert tensor.sections == {"codes": 5, "table": 27 + 6 + 4, "scale": 4}


@pytest.mark.parametrize("decode", DECODERS)
def test_blocks_without_codes_are_their_most_probable_symbols(decode):
    """No words of steps: all in class 0, whose table is then read; no words of symbols: zeros."""
    content = blocks(tables=b"\1\0\0" * 9, codes=b"", remainders=b"", class_table=b"\1\0\0" * 2, steps=b"")
    assert parse(content, decode=decode)[1][0].integers.tolist() == [[[0, 0]]] * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[(blocks({"classes": n}), "a: bad number of classes") for n in (0, 1, 17, -3, 2**60, 3.0, True, None, [3])],
        (one({key: BLOCKS[key] for key in BLOCKS if key != "classes"}, bytes(46)), "KeyError: 'classes'"),
        (blocks({"shape": [6], "scale": SCALE}), "a: no matrix"),
        (blocks({"shape": [], "scale": {**SCALE, "shape": []}}), "a: no matrix"),
        *[(blocks({"shape": [*shape, 2]}), "a: no matrix") for shape in ([0, 1], [0, 2**47], [2**47, 0])],
        (blocks({"shape": [3, 1, 0]}), "a: no matrix"),
        *[(blocks({"shape": [n, 1, m]}), "its arrays take more than") for n in (3, 2**47) for m in (2**30, 2**47)],
        (blocks(class_table=CLASS_TABLE[:5]), "a: bad length of the table of classes"),
        (blocks(class_table=CLASS_TABLE * 2), "a: bad length of the table of classes"),
        (blocks(class_table=b""), "a: bad length of the table of classes"),
        (blocks(tables=TABLES[:-1]), "a: bad length of the table"),
        (blocks(tables=TABLES[:3]), "a: bad length of the table"),
        (blocks({"classes": 2}, class_table=CLASS_TABLE[:4]), "a: bad length of the table"),
        (blocks({"max": 0}, tables=b"\1" * 9), "a: bad length of the table"),  # of one bin
        (blocks({"max": 2**16, "octave": 15}, tables=bytes(9 * 2**16)), "a: bad length of the table"),
        (blocks({"octave": 16}), "a: bad octave"),
        (blocks({"bytes": [27, 4, 1]}), "a: bad number of sections"),
        (blocks(class_table=bytes(6)), "weights of a table are all zero"),
        (blocks(class_table=CLASS_TABLE[:3] + bytes(3)), "weights of a table are all zero"),
        (blocks(tables=bytes(27)), "weights of a table are all zero"),
        (blocks(tables=TABLES[:3] + bytes(24)), "weights of a table are all zero"),
        (
            blocks({"max": 20, "octave": 4}, tables=bytes([255]) * 9 * 21),
            "weights of a table are all zero or too large",
        ),
        (blocks(codes=CODES[:3]), "codes are no whole words"),
        (blocks(steps=CLASS_CODES[:1]), "codes are no whole words"),
        (blocks(codes=CODES * 2), "codes are left over"),
        (blocks(steps=CLASS_CODES * 2), "codes are left over"),
        (blocks(codes=CODES + bytes(4)), "codes end in a word of zeros"),
        (blocks(steps=bytes(8)), "codes end in a word of zeros"),
        (blocks(remainders=b""), "packed bits have another length"),
        (blocks(remainders=REMAINDERS * 2), "packed bits have another length"),
        (blocks(codes=b"", tables=b"\1\0\0" * 9), "packed bits have another length"),
        (blocks({"scale": SCALE}), "shapes of scale and integers do not match"),
    ],
)
@pytest.mark.parametrize("decode", DECODERS)
def test_error_of_blocks(content, message, decode):
    with pytest.raises(FileFormatError, match="^The file is not a well-formed .lqs file: ") as caught:
        parse(content, decode=decode)
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", [[2**14, 1, 1], [1, 1, 2**14], [2**7, 1, 2**7]])
@pytest.mark.parametrize("decode", DECODERS)
def test_memory_of_blocks_is_bounded(shape, decode):
    """By a few times the 8 bytes that are counted for each element, however many classes there are."""
    entry = {"shape": shape, "classes": 16, "max": 1}
    content = blocks(entry, b"\1" * 512, b"", b"", b"\1" * 32, b"")
    tracemalloc.start()
    assert not parse(content, decode=decode)[1][0].integers.any()
    assert tracemalloc.get_traced_memory()[1] < 48 * 2**14 + 2**18
    tracemalloc.stop()


def test_bins_by_their_definition():
    integers = np.concatenate([np.arange(-300, 300), [-(2**31), 2**31 - 1]])
    for octave in (0, 1, 3, 15):
        bin_, exponent, remainder = bins(integers, octave)
        for integer, b, e, r in zip(*(a.tolist() for a in (integers, bin_, exponent, remainder)), strict=True):
            magnitude = integer if integer >= 0 else -1 - integer
            expected = max(math.floor(math.log2(magnitude)) - octave, 0) if magnitude else 0
            assert e == expected and r == magnitude % 2**e
            assert (b if integer >= 0 else -1 - b) == (e << octave) + (magnitude >> e)
        assert np.all(np.diff(np.sort(bin_[:-2])) <= 1)  # no bin is left out


def test_weights_are_integers_below_16_and_then_within_an_eighth_of_the_next():
    table = weights(bytes(range(256)))
    assert table[:17].tolist() == list(range(17))
    assert np.all(np.diff(table) > 0) and np.all(table[9:] / table[8:-1] <= 1.125)


def test_no_symbols_need_no_words():
    assert decode_symbols(np.empty(0, "<u4"), [(0, np.array([0, 2**23, 2**24]))]).size == 0


def test_zeros_of_most_probable_symbol():
    runs = [(3, np.array([0, 2**23, 2**24])), (2, np.array([0, 1, 2**24]))]
    assert decode_symbols(np.empty(0, "<u4"), runs).tolist() == [0, 0, 0, 0, 0]


def test_read(tmp_path):
    path = tmp_path / "a.lqs"
    path.write_bytes(one(RAW, bytes(8)))
    assert read(path)[1][0].array.tolist() == [0, 0]
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "b.lqs")


def test_runs_with_numpy_alone(tmp_path):
    (tmp_path / "a.lqs").write_bytes(one(FIXED, bytes([0b00001010, 0b10000000]) + HALF))
    for name in ("reader.py", "header_v1.dict", "header_v2.dict"):
        (tmp_path / name).write_bytes(MODULE.with_name(name).read_bytes())
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'jax', 'constriction', 'lqs')));"
        "import runpy; sys.argv = ['reader.py', sys.argv[1]]; runpy.run_path('reader.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run([*command, "a.lqs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["a", "(3,)", "-2…3", "6", "bytes"]
    result = subprocess.run([*command, "reader.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "error: The file is not a well-formed .lqs file: it does not begin as one\n"


def changed(entry, **changes):
    return {**entry, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is too short"),
        (make_file({"model": {}, "tensors": []}, magic=b"\x93NUM"), "it does not begin as one"),
        (make_file({"model": {}, "tensors": []}, version=0), "its version is 0, and this reader knows (1, 2)"),
        (make_file({"model": {}, "tensors": []}, version=3), "its version is 3, and this reader knows (1, 2)"),
        (make_file({"model": {}, "tensors": []})[:-1] + b"\0", "it is damaged"),
        (make_file({"model": {}, "tensors": []}, b"\0"), "its sections do not fill it"),
        (make_file({"model": [], "tensors": []}), "the header has another structure"),
        (make_file({"tensors": []}), "KeyError: 'model'"),
        (make_file(b"{"), "header: Expecting property name"),
        (make_file(b"\xff"), "header: 'utf-8' codec can't decode"),
        (make_file(b'{"model": {}, "model": {}, "tensors": []}'), "a key of the header is there twice"),
        (make_file(b"[" * 100_000), "RecursionError"),
        (make_file({"model": {}, "tensors": [{"name": "a", **RAW}] * 2}, bytes(16)), "two tensors have one name"),
        (make_file({"model": {}, "tensors": [{"name": 1, **RAW}]}, bytes(8)), "a name is not a text"),
        (one(changed(RAW, coding="zip"), bytes(8)), "a: unknown coding 'zip'"),
        (one(changed(RAW, dtype="object"), bytes(8)), "a: unknown dtype"),
        (one(changed(RAW, stored="float128"), bytes(8)), "a: unknown dtype"),
        (one(changed(RAW, shape=[-2]), bytes(8)), "a: bad shape"),
        (one(changed(RAW, shape=[2.0]), bytes(8)), "a: bad shape"),
        (one(changed(RAW, shape=[3]), bytes(8)), "an array has another length"),
        (one(changed(RAW, bytes=[4, 4]), bytes(8)), "a: bad number of sections"),
        (one(changed(RAW, bytes=["8"]), bytes(8)), "a: bad lengths"),
        (one(changed(RAW, scale=SCALE), bytes(12)), "a: integers have a scale, other numbers do not"),
        (one({key: FIXED[key] for key in FIXED if key != "scale"}, bytes(2)), "a: integers have a scale"),
        (one(changed(FIXED, scale=changed(SCALE, dtype="int32")), bytes(6)), "a: bad scale"),
        (one(changed(FIXED, scale=changed(SCALE, shape=[2])), bytes(6)), "shapes of scale and integers do not match"),
        (one(changed(FIXED, min=4), bytes(6)), "a: bad range"),
        (one(changed(FIXED, max=2**31), bytes(6)), "a: bad range"),
        (one(changed(FIXED, min=True), bytes(6)), "a: bad range"),
        (one(FIXED, bytes([0b00001111, 0]) + HALF), "an integer is out of its range"),
        (one(changed(FIXED, coding="ans", octave=16, bytes=[6, 0, 0]), bytes(10)), "a: bad octave"),
        (one(changed(FIXED, coding="ans", octave=1, bytes=[5, 0, 0]), bytes(9)), "a: bad length of the table"),
        (one(changed(FIXED, coding="ans", octave=1, bytes=[6, 0, 0]), bytes(10)), "weights of a table are all zero"),
        (one(changed(FIXED, coding="ans", octave=1, bytes=[6, 3, 0]), b"\1" * 13), "codes are no whole words"),
        (one(changed(FIXED, coding="ans", octave=1, bytes=[6, 8, 0]), b"\1" * 18), "codes are left over"),
        (one(changed(FIXED, coding="ans", octave=1, bytes=[6, 8, 0]), b"\1" * 6 + bytes(8) + HALF), "a word of zeros"),
        (one(changed(FIXED, coding="ans", octave=0, max=4, bytes=[6, 0, 1]), b"\1" * 11), "packed bits have another"),
        (one(changed(FIXED, coding="ans", octave=1, bytes=[6, 0, 1]), b"\1" * 11), "packed bits have another length"),
    ],
)
def test_error(content, message):
    with pytest.raises(FileFormatError, match="^The file is not a well-formed .lqs file: ") as caught:
        parse(content)
    assert message in str(caught.value)


def test_limit_of_memory():
    content = one(RAW, bytes(8))
    assert parse(content, max_bytes=16)
    with pytest.raises(FileFormatError, match="its arrays take more than 15 bytes"):
        parse(content, max_bytes=15)


# One network, Inverse, scalar, 1e-11, as each version of the format holds it: the same integers and scales.
MODELS = Path(__file__).parents[1] / "data" / "models" / "mnist"
FILES = {
    1: Path(__file__).with_name("format_1.lqs"),
    2: MODELS / "thesis-inverse-scalar-1e-11-pretrained-s42-399c5846.lqs",
}


@pytest.mark.parametrize("version", FILES)
def test_files_of_every_version_are_read(version):
    content = FILES[version].read_bytes()
    assert content[4] == version
    tensors = read(FILES[version], decode=packing.decode_symbols)[1]
    integers = [tensor.integers.ravel() for tensor in tensors if tensor.integers is not None]
    digest = hashlib.sha256(b"".join(tensor.array.tobytes() for tensor in tensors)).hexdigest()
    assert (np.unique(np.concatenate(integers)).size, digest[:16]) == (29, "062b611ba2190f12")


@pytest.mark.parametrize("version, checksum", [(1, 528582384), (2, 4169101279)])
def test_dictionaries_never_change(version, checksum):
    """Files that are out in the world are read with them."""
    assert zlib.crc32(reader.DICTIONARIES[version]) == checksum
