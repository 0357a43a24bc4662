"""Tests of `lqs.file.reader`, on files made here byte by byte from the description of the format alone."""

import hashlib
import json
import math
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lqs.file import compiled, contexts, layout, reader
from lqs.file.ans import NumpyDecoder, fastest_decoder
from lqs.file.bins import bins, weights
from lqs.file.compiled import CompiledDecoder
from lqs.file.reader import FileFormatError, parse, parse_header, read

FOLDER = Path(reader.__file__).parent
DECODERS = [NumpyDecoder, CompiledDecoder]


def make_file(header, body=b"", version=2, magic=b"\x93LQS"):
    """Return a file as `docs/format.md` describes it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    stream = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=(FOLDER / "header.dict").read_bytes())
    stored = stream.compress(text) + stream.flush()
    content = magic + bytes([version]) + struct.pack("<II", len(stored), len(text)) + stored + body
    return content + struct.pack("<I", zlib.crc32(content))


def one(entry, body, version=2):
    """Return a file of one tensor."""
    return make_file({"model": {}, "tensors": [{"name": "a", **entry}]}, body, version)


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


def in_contexts(entry=None, codes=CODES):
    """Return a file of one `contexts` entry, with some of its values or its codes replaced."""
    return one({**CONTEXTS, "bytes": [len(codes)], **(entry or {})}, codes + HALF)


@pytest.mark.parametrize("decoder", DECODERS)
def test_integers_coded_in_contexts(decoder):
    (tensor,) = parse(in_contexts(), decoder=decoder)[1]
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
    content = in_contexts({"shape": shape, "line": line, "min": -spread, "max": spread, "scale": scale}, codes)
    np.testing.assert_array_equal(parse(content, decoder=decoder)[1][0].integers, integers)
    assert compiled.encode_flags(*contexts.Flags(matrix, line).in_order()) == codes


@pytest.mark.parametrize("decoder", DECODERS)
def test_contexts_with_axes_in_another_order(decoder):
    """The second axis first: the columns of the array are the rows that are coded."""
    (tensor,) = parse(one({**CONTEXTS, "axes": [1, 0]}, CODES + HALF, version=4), decoder=decoder)[1]
    assert tensor.integers.tolist() == [[0, 1], [-2, -1]] and tensor.integers.flags.c_contiguous
    coded_shape, axes = [4, 2, 3], [2, 0, 1]  # of an array of the shape (2, 3, 4)
    coded_matrix = np.arange(24).reshape(8, 3) % 3 - 1
    entry = {"shape": [2, 3, 4], "axes": axes, "min": -1, "max": 1, "scale": {**SCALE, "shape": [1, 1, 1]}}
    content = in_contexts(entry, codes_of_flags(flags_of(coded_matrix.tolist(), 2)))
    (tensor,) = parse(content, decoder=decoder)[1]
    assert tensor.integers.shape == (2, 3, 4)
    for place, integer in np.ndenumerate(coded_matrix.reshape(coded_shape)):
        assert tensor.integers[place[1], place[2], place[0]] == integer


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("shape", [[1], [5], [3, 4], [2, 1, 3, 4]])
def test_contexts_without_codes_are_zeros(shape, decoder):
    content = in_contexts({"shape": shape, "scale": {**SCALE, "shape": [1] * len(shape)}}, b"")
    assert parse(content, decoder=decoder)[1][0].integers.tolist() == np.zeros(shape).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[(in_contexts({"line": n}), "a: bad line") for n in (0, 1, 3, -2, 2**60, 2.0, True, None, "2", [2])],
        (in_contexts({"shape": [1, 4], "line": 3}), "a: bad line"),
        (one({key: CONTEXTS[key] for key in CONTEXTS if key != "line"}, CODES + HALF), "KeyError: 'line'"),
        (in_contexts({"shape": [], "scale": {**SCALE, "shape": []}}), "a: bad size"),
        *[(in_contexts({"shape": shape}), "a: bad size") for shape in ([0, 2], [2, 0], [0, 2**47], [2**47, 0])],
        *[(in_contexts({"shape": shape}), "a: bad size") for shape in ([1, 2**22 + 1], [2**47, 2**47])],
        (in_contexts({"shape": [2**14 + 1, 1]}), "a: too many rows or columns"),
        (in_contexts({"shape": [1, 2**14 + 1]}), "a: too many rows or columns"),
        (in_contexts({"shape": [2**14 + 1, 1], "line": 2**14 + 1}), "a: too many rows or columns"),
        (in_contexts({"max": 16}), "a: range too large"),
        (in_contexts({"min": -16}), "a: range too large"),
        (in_contexts({"min": 2}), "a: bad range"),
        (in_contexts({"max": True}), "a: bad range"),
        (in_contexts({"bytes": []}), "a: bad number of sections"),
        (in_contexts({"bytes": [len(CODES), 0, 0]}), "a: bad number of sections"),
        (in_contexts({"scale": SCALE}), "a: shapes of scale and integers do not match"),
        (in_contexts({"scale": {**SCALE, "shape": [3, 1]}}), "a: shapes of scale and integers do not match"),
        (one({key: CONTEXTS[key] for key in CONTEXTS if key != "scale"}, CODES), "a: integers have a scale"),
        (in_contexts(codes=CODES[:-1]), "codes are no whole words"),
        (in_contexts(codes=CODES * 2), "codes are left over"),
        (in_contexts(codes=codes_of_flags([*FLAGS, (1, 2**23)])), "codes are left over"),
        (in_contexts({"shape": [1, 2]}), "codes are left over"),
        (in_contexts(codes=CODES + bytes(4)), "codes end in a word of zeros"),
        (in_contexts(codes=bytes(4)), "codes end in a word of zeros"),
        (in_contexts({"min": -1}), "a: an integer is out of its range"),
        (in_contexts({"max": 0}), "a: an integer is out of its range"),
        (in_contexts({"min": 1}, b""), "a: an integer is out of its range"),
        (
            in_contexts({"min": -15, "max": 15}, codes_of_flags(flags_of([[0, 16], [0, 0]], 2)[:-1])),
            "a: an integer is out of its range",
        ),
    ],
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_error_of_contexts(content, message, decoder):
    with pytest.raises(FileFormatError, match="^The file is not a well-formed .lqs file: ") as caught:
        parse(content, decoder=decoder)
    assert message in str(caught.value)


@pytest.mark.parametrize(("limit", "value"), [("MAX_SIDE", 2), ("MAX_ELEMENTS", 4)])
def test_limits_of_contexts(limit, value, monkeypatch):
    monkeypatch.setattr(contexts, limit, value)
    assert parse(in_contexts())[1][0].integers.tolist() == MATRIX
    monkeypatch.setattr(contexts, limit, value - 1)
    with pytest.raises(FileFormatError, match="a: (too many rows|bad size)"):
        parse(in_contexts())


@pytest.mark.parametrize(
    ("shape", "line", "factor"),
    [([2**12, 1, 1], 2, 3), ([2**12, 1, 1], 2**12, 5), ([2**6, 1, 2**6], 2**6, 5), ([1, 1, 2**14], 2, 24)],
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_memory_of_contexts_is_bounded(shape, line, factor, decoder):
    """By a few times the 8 bytes that are counted for each element, however few the rows or long the `line`."""
    content = in_contexts({"shape": shape, "line": line, "scale": {**SCALE, "shape": [1, 1, 1]}}, b"")
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


def run_with_numpy_alone(folder, *arguments):
    """Run the module in a process that has NumPy, the folder `lqs/file`, and nothing else that we depend on."""
    shutil.copytree(FOLDER, folder / "lqs" / "file", dirs_exist_ok=True)
    (folder / "lqs" / "__init__.py").touch()
    missing = ("keras", "tensorflow", "jax", "torch", "constriction", "pandas", "click", "ml_dtypes")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); sys.path.insert(0, sys.argv.pop(1));"
        "import runpy; runpy.run_module('lqs.file.reader', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-I", "-W", "error", "-c", program, str(folder), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_runs_with_numpy_alone(tmp_path):
    (tmp_path / "a.lqs").write_bytes(one(FIXED, bytes([0b00001010, 0b10000000]) + HALF))
    result = run_with_numpy_alone(tmp_path, "a.lqs")
    assert result.stderr == "" and result.stdout.split() == ["a", "(3,)", "-2…3", "6", "bytes"]
    result = run_with_numpy_alone(tmp_path, str(FOLDER / "reader.py"))
    assert result.returncode == 1
    assert result.stderr == "error: The file is not a well-formed .lqs file: it does not begin as one\n"
    result = run_with_numpy_alone(tmp_path)
    assert result.returncode == 1 and result.stderr == "usage: python -m lqs.file.reader FILE\n"


def test_committed_file_is_read_with_numpy_alone(tmp_path):
    path = MODELS / "mnist" / "thesis-inverse-scalar-1e-11-pretrained-s42-399c5846.lqs"
    result = run_with_numpy_alone(tmp_path, str(path))
    assert result.stderr == "" and [line.split()[0] for line in result.stdout.splitlines()] == [
        tensor.name for tensor in read(path).tensors
    ]


def test_fastest_decoder(monkeypatch):
    assert fastest_decoder() is CompiledDecoder
    monkeypatch.setitem(sys.modules, "lqs.file.compiled", None)
    assert fastest_decoder() is NumpyDecoder


def test_empty_integers_are_printed(tmp_path, capsys):
    path = tmp_path / "a.lqs"
    path.write_bytes(one({**FIXED, "shape": [0], "bytes": [0]}, HALF))
    assert reader.main([str(path)]) == 0
    assert capsys.readouterr().out.split() == ["a", "(0,)", "float32", "4", "bytes"]


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


def test_integers_that_stand_for_rows_of_a_matrix():
    """Two elements have a row of two, by the integer of the first of them: -2 and 0, the rows 0 and 2, the last cut."""
    tensor, levels = parse(with_levels([6, 2]))[1]
    assert tensor.integers.tolist() == [-2, 3, 0] and levels.values.tolist()[::2] == [[10, 11], [14, 15], [18, 19]]
    assert tensor.array.tolist() == [5, 5.5, 7]


def changed(entry, **changes):
    return {**entry, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is too short"),
        (make_file({"model": {}, "tensors": []}, magic=b"\x93NUM"), "it does not begin as one"),
        (make_file({"model": {}, "tensors": []}, version=1), "its version is 1, and this reader knows (2, 3, 4)"),
        (make_file({"model": {}, "tensors": []}, version=5), "its version is 5, and this reader knows (2, 3, 4)"),
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
        (one(changed(FIXED, levels="a", lowest=-2), bytes(6)), "a: its levels are neither a vector nor a matrix"),
        (one(changed(FIXED, levels="c", lowest=-2), bytes(6)), "a: its levels are neither a vector nor a matrix"),
        (one(changed(FIXED, levels=["a"], lowest=-2), bytes(6)), "TypeError"),
        (with_levels([2, 3, 1]), "a: its levels are neither a vector nor a matrix"),
        (with_levels([6, 0]), "a: its levels are neither a vector nor a matrix"),
        (with_levels([6], dtype="int32"), "a: its levels are neither a vector nor a matrix"),
        (with_levels([5]), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-1), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-3), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-2.0), "a: there are no levels for some of its integers"),
        (with_levels([6], lowest=-(2**31) - 1), "a: there are no levels for some of its integers"),
        (one(changed(FIXED, axes=[0]), bytes(6)), "a: its coding has no order of axes"),
        (in_contexts({"axes": [0, 0]}), "a: bad order of axes"),
        (in_contexts({"axes": [1]}), "a: bad order of axes"),
        (in_contexts({"axes": [1, -1]}), "a: bad order of axes"),
        (in_contexts({"axes": [True, False]}), "a: bad order of axes"),
        (in_contexts({"axes": "10"}), "a: bad order of axes"),
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


MODELS = Path(__file__).parents[2] / "data" / "models"
FILES = sorted(MODELS.rglob("*.lqs"))


def test_committed_files_are_there():
    assert len(FILES) >= 15


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_files_are_read(path):
    content = path.read_bytes()
    configuration, tensors = parse(content)
    assert content[4] in (2, 3, 4) and configuration["class_name"] in ("Sequential", "Functional")
    entries = parse_header(content)[1]
    for entry, tensor in zip(entries, tensors, strict=True):
        assert tensor.array.shape == tuple(entry["shape"]) and np.all(np.isfinite(tensor.array)), tensor.name
        assert tensor.sections == reader.section_sizes(entry)


def test_decoders_agree_on_committed_files():
    """On the small ones: NumPy's decoder is for when nothing else is left."""
    for path in FILES:
        if path.stat().st_size < 30_000:
            tensors = [read(path, decoder=decoder).tensors for decoder in DECODERS]
            assert all(a.array.tobytes() == b.array.tobytes() for a, b in zip(*tensors, strict=True)), path


def test_arrays_of_a_committed_file_never_change():
    tensors = read(MODELS / "mnist" / "thesis-inverse-scalar-1e-11-pretrained-s42-399c5846.lqs").tensors
    integers = [tensor.integers.ravel() for tensor in tensors if tensor.integers is not None]
    digest = hashlib.sha256(b"".join(tensor.array.tobytes() for tensor in tensors)).hexdigest()
    assert (np.unique(np.concatenate(integers)).size, digest[:16]) == (29, "062b611ba2190f12")


def test_dictionary_never_changes():
    """Files that are out in the world are read with it."""
    assert (len(layout.DICTIONARY), zlib.crc32(layout.DICTIONARY)) == (32768, 830330597)


def test_stream_that_is_too_short_is_refused_by_its_length():
    """Deflate makes at most 1032 bytes of one: what would take more is refused before memory is taken."""
    entry = {"shape": [2**20], "dtype": "float64", "coding": "deflate", "bytes": [100]}
    with pytest.raises(FileFormatError, match="a stream is too short$"):
        parse(one(entry, bytes(100)))
    tracemalloc.start()
    with pytest.raises(FileFormatError):
        parse(one({**entry, "shape": [2**24]}, bytes(100)))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("num_elements", [1031, 1032, 1033])
def test_longest_stream_of_deflate(num_elements):
    """The bound is deflate's own: 1032 bytes of one, no more. The stream here is too short inside of it, too."""
    entry = {"shape": [num_elements], "dtype": "bool", "coding": "deflate", "bytes": [1]}
    message = "a stream is too short$" if num_elements > 1032 else "a stream is too short or too long"
    with pytest.raises(FileFormatError, match=message):
        parse(one(entry, b"\0"))


def test_header_is_checked_as_the_whole_is():
    content = one(FIXED, bytes([0b00001010, 0b10000000]) + HALF)
    configuration, (entry,) = parse_header(content)
    assert configuration == {} and entry["name"] == "a"
    for damaged in (content[:-1], one(changed(FIXED, shape=[-2]), bytes(6)), one(FIXED, bytes(7)), b""):
        with pytest.raises(FileFormatError):
            parse_header(damaged)
