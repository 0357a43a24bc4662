"""Tests of `lqs.file.reader`, on files made here byte by byte from the description of the format alone."""

import hashlib
import json
import math
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lqs.file import reader, writer
from lqs.file.reader import FileFormatError, bins, parse, read, weights

MODULE = Path(reader.__file__)
DECODERS = [reader.Decoder, writer.Decoder]


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
    """Return the codes of pairs `(symbol, cumulative frequencies)`, in the order in which they are decoded."""
    state, words = 0, []
    for symbol, starts in reversed(symbols):
        frequency = starts[symbol + 1] - starts[symbol]
        if state >= frequency << 40:
            words.append(state % 2**32)
            state >>= 32
        state = (state // frequency << 24) + state % frequency + starts[symbol]
    while state:
        words.append(state % 2**32)
        state >>= 32
    return struct.pack(f"<{len(words)}I", *words)


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


def flags_of(matrix, line):
    """Return the flags of a matrix, a list of rows, with the frequency of a 1 of each: `contexts` in plain Python."""
    counts, result = defaultdict(lambda: [0, 0]), []

    def code(flags, d):
        for context, flag in flags:
            n, a = sum(counts[context]), counts[context][1]
            result.append((int(flag), (2 * a + 1) * (2**24 - 2) // (2 * n + d) + 1))
        for context, flag in flags:
            counts[context][flag] += 1

    for i, row in enumerate(matrix):
        around = [matrix[j] if j >= 0 else [0] * len(row) for j in (i - 1, i - line, i - line - 1, i - line + 1)]
        level = min(math.ceil(sum(x != 0 for other in around for x in other).bit_length() / 2), 4)
        first, sign = [], []
        for j, x in enumerate(row):
            column = [other[j] for other in around]
            near = min(sum(weight for weight, y in zip((2, 2, 1, 1), column, strict=True) if y), 3)
            before = min(sum(other[j] != 0 for other in matrix[:i]).bit_length(), 4)
            first.append((("not zero", near, level, before), x != 0))
            total = sum((y > 0) - (y < 0) for y in column)
            sign += [(("positive", (total > 0) - (total < 0)), x > 0)] if x else []
        code(first, 16)
        code(sign, 2)
        for k in range(1, max(map(abs, row)) + 1):
            code([((k,), abs(x) > k) for x in row if abs(x) >= k], 2)
    return result


def codes_of_flags(flags):
    return coded([(flag, [0, 2**24 - frequency, 2**24]) for flag, frequency in flags])


# The integers 0 -2 / 1 -1. In the second row, a flag that is set counts twice in the row above, as row i - 1 and as
# row i - L + 1; the bit length of 2 is 2.
MATRIX = [[0, -2], [1, -1]]
FLAGS = [
    (0, 2**20),  # 0: the context 0, 0, 0
    (1, 2**20),  # -2: the same in the same call
    (0, 2**23),  # not positive, nothing around it
    (1, 2**23),  # more than 1
    (0, 2**23),  # not more than 2
    (1, 2**20),  # 1: the context 0, 1, 0
    (1, 2**20),  # -1: the context 3, 1, 1
    (1, 2**22),  # positive, nothing around it: 0 of 1
    (0, 2**23),  # not positive, with negative ones above it
    (0, 3 * (2**24 - 2) // 4 + 1),  # not more than 1: 1 of 1
    (0, 3 * (2**24 - 2) // 4 + 1),
]
CODES = codes_of_flags(FLAGS)
CONTEXTS = {
    "shape": [2, 2],
    "dtype": "float32",
    "coding": "contexts",
    "min": -2,
    "max": 1,
    "line": 2,
    "bytes": [len(CODES)],
    "scale": {**SCALE, "shape": [1, 1]},
}


def contexts(entry=None, codes=CODES):
    """Return a file of one `contexts` entry, with some of its values or its codes replaced."""
    return one({**CONTEXTS, "bytes": [len(codes)], **(entry or {})}, codes + HALF)


@pytest.mark.parametrize("decoder", DECODERS)
def test_integers_coded_in_contexts(decoder):
    (tensor,) = parse(contexts(), decoder=decoder)[1]
    assert tensor.integers.tolist() == MATRIX and tensor.integers.dtype == "int32"
    assert tensor.array.tolist() == [[0, -1], [0.5, -0.5]]
    assert tensor.sections == {"codes": len(CODES), "table": 0, "scale": 4}
    assert flags_of(MATRIX, 2) == FLAGS


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("shape", "line", "spread", "density"),
    [
        ([40, 30], 2, 1, 0.02),
        ([40, 30], 7, 3, 0.3),
        ([40, 30], 40, 1, 0.98),
        ([5, 150], 2, 1, 0.9),
        ([3, 2, 5, 16], 5, 2, 0.2),
        ([60, 1], 3, 2, 0.3),
        ([1, 60], 2, 2, 0.3),
        ([60], 2, 12, 0.3),
        ([12, 4], 3, 15, 0.3),
    ],
)
def test_contexts_by_their_definition(decoder, shape, line, spread, density, rng):
    """Codes of the description in plain Python are read, and are what is written."""
    integers = np.where(rng.random(shape) < density, rng.integers(-spread, spread + 1, shape), 0)
    integers.flat[-1], integers.flat[0] = -spread, spread
    matrix = integers.reshape(-1, shape[-1])
    codes = codes_of_flags(flags_of(matrix.tolist(), line))
    scale = {**SCALE, "shape": [1] * len(shape)}
    content = contexts({"shape": shape, "line": line, "min": -spread, "max": spread, "scale": scale}, codes)
    np.testing.assert_array_equal(parse(content, decoder=decoder)[1][0].integers, integers)
    assert writer._in_contexts(matrix, line) == codes


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("shape", [[1], [5], [3, 4], [2, 1, 3, 4]])
def test_contexts_without_codes_are_zeros(shape, decoder):
    content = contexts({"shape": shape, "scale": {**SCALE, "shape": [1] * len(shape)}}, b"")
    assert parse(content, decoder=decoder)[1][0].integers.tolist() == np.zeros(shape).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[(contexts({"line": n}), "a: bad line") for n in (0, 1, 3, -2, 2**60, 2.0, True, None, "2", [2])],
        (contexts({"shape": [1, 4], "line": 3}), "a: bad line"),
        (one({key: CONTEXTS[key] for key in CONTEXTS if key != "line"}, CODES + HALF), "KeyError: 'line'"),
        (contexts({"shape": [], "scale": {**SCALE, "shape": []}}), "a: bad size"),
        *[(contexts({"shape": shape}), "a: bad size") for shape in ([0, 2], [2, 0], [0, 2**47], [2**47, 0])],
        *[(contexts({"shape": shape}), "a: bad size") for shape in ([1, 2**22 + 1], [2**47, 2**47])],
        (contexts({"shape": [2**14 + 1, 1]}), "a: too many rows or columns"),
        (contexts({"shape": [1, 2**14 + 1]}), "a: too many rows or columns"),
        (contexts({"shape": [2**14 + 1, 1], "line": 2**14 + 1}), "a: too many rows or columns"),
        (contexts({"max": 16}), "a: range too large"),
        (contexts({"min": -16}), "a: range too large"),
        (contexts({"min": 2}), "a: bad range"),
        (contexts({"max": True}), "a: bad range"),
        (contexts({"bytes": []}), "a: bad number of sections"),
        (contexts({"bytes": [len(CODES), 0, 0]}), "a: bad number of sections"),
        (contexts({"scale": SCALE}), "a: shapes of scale and integers do not match"),
        (contexts({"scale": {**SCALE, "shape": [3, 1]}}), "a: shapes of scale and integers do not match"),
        (one({key: CONTEXTS[key] for key in CONTEXTS if key != "scale"}, CODES), "a: integers have a scale"),
        (contexts(codes=CODES[:-1]), "codes are no whole words"),
        (contexts(codes=CODES * 2), "codes are left over"),
        (contexts(codes=codes_of_flags([*FLAGS, (1, 2**23)])), "codes are left over"),
        (contexts({"shape": [1, 2]}), "codes are left over"),
        (contexts(codes=CODES + bytes(4)), "codes end in a word of zeros"),
        (contexts(codes=bytes(4)), "codes end in a word of zeros"),
        (contexts({"min": -1}), "a: an integer is out of its range"),
        (contexts({"max": 0}), "a: an integer is out of its range"),
        (contexts({"min": 1}, b""), "a: an integer is out of its range"),
        (
            contexts({"min": -15, "max": 15}, codes_of_flags(flags_of([[0, 16], [0, 0]], 2)[:-1])),
            "a: an integer is out of its range",
        ),
    ],
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_error_of_contexts(content, message, decoder):
    with pytest.raises(FileFormatError, match="^The file is not a well-formed .lqs file: ") as caught:
        parse(content, decoder=decoder)
    assert message in str(caught.value)


@pytest.mark.parametrize(("limit", "value"), [("MAX_CONTEXT_SIDE", 2), ("MAX_CONTEXT_ELEMENTS", 4)])
def test_limits_of_contexts(limit, value, monkeypatch):
    monkeypatch.setattr(reader, limit, value)
    assert parse(contexts())[1][0].integers.tolist() == MATRIX
    monkeypatch.setattr(reader, limit, value - 1)
    with pytest.raises(FileFormatError, match="a: (too many rows|bad size)"):
        parse(contexts())


@pytest.mark.parametrize(
    ("shape", "line", "factor"),
    [([2**12, 1, 1], 2, 3), ([2**12, 1, 1], 2**12, 5), ([2**6, 1, 2**6], 2**6, 5), ([1, 1, 2**14], 2, 24)],
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_memory_of_contexts_is_bounded(shape, line, factor, decoder):
    """By a few times the 8 bytes that are counted for each element, however few the rows or long the `line`."""
    content = contexts({"shape": shape, "line": line, "scale": {**SCALE, "shape": [1, 1, 1]}}, b"")
    tracemalloc.start()
    assert not parse(content, decoder=decoder)[1][0].integers.any()
    assert tracemalloc.get_traced_memory()[1] < factor * 8 * math.prod(shape) + 2**16
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


@pytest.mark.parametrize("decoder", DECODERS)
def test_nothing_is_decoded_from_no_words(decoder):
    nothing = decoder(np.empty(0, "<u4"))
    assert nothing.symbols(0, np.array([0, 2**23, 2**24])).size == 0
    nothing.finish()


@pytest.mark.parametrize("decoder", DECODERS)
def test_zeros_of_most_probable_symbol(decoder):
    zeros = decoder(np.empty(0, "<u4"))
    assert zeros.symbols(3, np.array([0, 2**23, 2**24])).tolist() == [0, 0, 0]
    assert zeros.flags(np.array([1, 2**23, 2**24 - 1])).tolist() == [False] * 3
    assert zeros.symbols(2, np.array([0, 1, 2**24])).tolist() == [0, 0]
    zeros.finish()


def test_decoders_agree_step_by_step(rng):
    """On any words, for the smallest and largest frequencies, beyond the end of the words."""
    for num_words in (1, 2, 3, 50):
        words = rng.integers(1, 2**32, num_words, "uint32").astype("<u4")
        decoders = [decoder(words) for decoder in DECODERS]
        cumulative = np.array([0, 1, 5000, 2**22, 2**24 - 1, 2**24])
        for _ in range(20):
            frequencies = rng.choice([1, 2, 2**10, 2**23, 2**24 - 2, 2**24 - 1], 10)
            flags = [decoder.flags(frequencies).tolist() for decoder in decoders]
            symbols = [decoder.symbols(3, cumulative).tolist() for decoder in decoders]
            assert flags[0] == flags[1] and symbols[0] == symbols[1]


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


def with_levels(shape, dtype="float32", lowest=-2):
    """Return a file of the integers -2, 3 and 0, whose levels have a shape: 10, 11, 12 ..."""
    number = math.prod(shape)
    levels = {"name": "b", "shape": shape, "dtype": dtype, "coding": "raw", "bytes": [4 * number]}
    entry = {"name": "a", **FIXED, "levels": "b", "lowest": lowest}
    body = bytes([0b00010101, 0]) + HALF + np.arange(10, 10 + number).astype(f"<{dtype[0]}4").tobytes()
    return make_file({"model": {}, "tensors": [entry, levels]}, body, version=3)


def test_integers_that_stand_for_levels():
    tensor, levels = parse(with_levels([6]))[1]
    assert tensor.integers.tolist() == [-2, 3, 0] and tensor.lowest == -2
    assert tensor.array.tolist() == [5, 7.5, 6] and tensor.array.dtype == "float32"
    assert tensor.levels is levels.values


def changed(entry, **changes):
    return {**entry, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is too short"),
        (make_file({"model": {}, "tensors": []}, magic=b"\x93NUM"), "it does not begin as one"),
        (make_file({"model": {}, "tensors": []}, version=0), "its version is 0, and this reader knows (1, 2, 3)"),
        (make_file({"model": {}, "tensors": []}, version=4), "its version is 4, and this reader knows (1, 2, 3)"),
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
        (one(changed(RAW, levels="a"), bytes(8)), "a: integers have levels, other numbers do not"),
        (one(changed(FIXED, levels="a"), bytes(6)), "KeyError: 'lowest'"),
        (one(changed(FIXED, levels="a", lowest=-2), bytes(6)), "a: its levels are no vector"),
        (one(changed(FIXED, levels="c", lowest=-2), bytes(6)), "a: its levels are no vector"),
        (one(changed(FIXED, levels=["a"], lowest=-2), bytes(6)), "TypeError"),
        (with_levels([2, 3]), "a: its levels are no vector"),
        (with_levels([6], dtype="int32"), "a: its levels are no vector"),
        (with_levels([5]), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-1), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-3), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-2.0), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-(2**31) - 1), "a: there are no levels for some of its integers"),
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
MODELS = Path(__file__).parents[2] / "data" / "models" / "mnist"
FILES = {
    1: Path(__file__).with_name("format_1.lqs"),
    2: MODELS / "thesis-inverse-scalar-1e-11-pretrained-s42-399c5846.lqs",
}


@pytest.mark.parametrize("version", FILES)
def test_files_of_every_version_are_read(version):
    content = FILES[version].read_bytes()
    assert content[4] == version
    tensors = read(FILES[version], decoder=writer.Decoder)[1]
    integers = [tensor.integers.ravel() for tensor in tensors if tensor.integers is not None]
    digest = hashlib.sha256(b"".join(tensor.array.tobytes() for tensor in tensors)).hexdigest()
    assert (np.unique(np.concatenate(integers)).size, digest[:16]) == (29, "062b611ba2190f12")


@pytest.mark.parametrize("version, checksum", [(1, 528582384), (2, 830330597), (3, 830330597)])
def test_dictionaries_never_change(version, checksum):
    """Files that are out in the world are read with them."""
    assert zlib.crc32(reader.DICTIONARIES[version]) == checksum
