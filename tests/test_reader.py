"""Tests of `lqs.reader`, on files made here byte by byte from the description of the format alone."""

import json
import math
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from lqs import reader
from lqs.reader import FileFormatError, bins, decode_symbols, parse, read, weights

MODULE = Path(reader.__file__)


def make_file(header, body=b"", version=1, magic=b"\x93LQS", dictionary=None):
    """Return a file as the module's head describes it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    dictionary = MODULE.with_name("header_v1.dict").read_bytes() if dictionary is None else dictionary
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


def test_entropy_coded_integers():
    # Bins at octave 0: 0 and 1 by themselves, then 2…3; the table has weights 2, 1, 1 for them. All of the
    # 2**24 - 3 slots beyond one for each are shared: 2**23 - 1.5 to the first, down to a whole number.
    starts = [0, (2**24 - 3) * 2 // 4 + 1, (2**24 - 3) * 3 // 4 + 2, 2**24]
    symbols, state = [0, 2, 1, 0, 2], 0
    for symbol in reversed(symbols):  # they fit into one word
        frequency = starts[symbol + 1] - starts[symbol]
        state = (state // frequency << 24) + state % frequency + starts[symbol]
    assert 0 < state < 2**32
    codes = struct.pack("<I", state)
    entry = {**FIXED, "coding": "ans", "min": 0, "max": 3, "octave": 0, "shape": [5], "bytes": [3, 4, 1]}
    body = bytes([2, 1, 1]) + codes + bytes([0b01000000]) + HALF  # remainders of the second and fifth: 0, 1
    (tensor,) = parse(one(entry, body))[1]
    assert tensor.integers.tolist() == [0, 2, 1, 0, 3]
    assert tensor.sections == {"codes": 5, "table": 3, "scale": 4}


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
    assert decode_symbols(np.empty(0, "<u4"), 0, np.array([0, 2**23, 2**24])).size == 0


def test_zeros_of_most_probable_symbol():
    assert decode_symbols(np.empty(0, "<u4"), 3, np.array([0, 2**23, 2**24])).tolist() == [0, 0, 0]


def test_read(tmp_path):
    path = tmp_path / "a.lqs"
    path.write_bytes(one(RAW, bytes(8)))
    assert read(path)[1][0].array.tolist() == [0, 0]
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "b.lqs")


def test_runs_with_numpy_alone(tmp_path):
    (tmp_path / "a.lqs").write_bytes(one(FIXED, bytes([0b00001010, 0b10000000]) + HALF))
    for name in ("reader.py", "header_v1.dict"):
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
        (make_file({"model": {}, "tensors": []}, version=2), "its version is 2, and this reader knows 1"),
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


def test_format_1_never_changes():
    """Files that are out in the world are read with this dictionary."""
    assert zlib.crc32(reader.DICTIONARY) == 528582384
