"""Tests of `lqs.packing`: what it writes, `lqs.reader` reads, and in how many bytes."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lqs import packing, reader
from lqs.packing import encode_integers, encode_numbers, pack, write
from lqs.statistics import entropy_bits

DECODERS = [None, packing.decode_symbols]
INT32 = (-(2**31), 2**31 - 1)
SCALE = np.ones(1, "float32")


def read_one(entry, sections, decode=None):
    content = pack({}, [({"name": "a", **entry}, sections)])
    (tensor,) = reader.parse(content, decode=decode)[1]
    return tensor


def shapes(max_side):
    return st.lists(st.integers(0, max_side), max_size=4).map(tuple)


@pytest.mark.parametrize("decode", DECODERS)
@settings(deadline=None, derandomize=True)
@given(data=st.data(), spread=st.sampled_from([1, 3, 40, 3000, 2**31]))
def test_integers_of_any_shape_and_range(decode, data, spread):
    elements = st.integers(max(INT32[0], -spread), min(INT32[1], spread))
    integers = data.draw(arrays("int32", shapes(12), elements=elements))
    scale = np.full((1,) * integers.ndim, 0.25, "float32")
    tensor = read_one(*encode_integers(integers, scale), decode)
    assert tensor.integers.dtype == "int32" and tensor.scale.tobytes() == scale.tobytes()
    np.testing.assert_array_equal(tensor.integers, integers)
    assert tensor.integers.shape == integers.shape


def samples(rng, size):
    """Return arrays of `size` integers, of the kinds that networks have."""
    kinds = {
        "few": rng.laplace(0, 2, size),
        "sparse": rng.choice([-1, 0, 1], size, p=[0.01, 0.98, 0.01]),
        "many": rng.laplace(0, 3000, size),
        "normal": rng.normal(0, 4000, size),
        "outliers": np.where(rng.random(size) < 1e-3, rng.normal(0, 1e6, size), rng.normal(0, 2, size)),
        "far from zero": rng.normal(5000, 20, size),
    }
    return {name: np.floor(values).astype("int32") for name, values in kinds.items()}


@pytest.mark.parametrize("decode", DECODERS)
def test_integers_take_what_their_entropy_says(rng, decode):
    size = 100_000
    for name, integers in samples(rng, size).items():
        entry, sections = encode_integers(integers, SCALE)
        assert entry["coding"] == "ans"
        np.testing.assert_array_equal(read_one(entry, sections, decode).integers, integers)
        num_bytes, bound = sum(map(len, sections[:3])), entropy_bits(integers) * size / 8
        # The empirical entropy of many distinct integers is below that of what they were drawn from.
        assert bound <= num_bytes * 1.001 and num_bytes <= 1.02 * bound + 100, name


@pytest.mark.parametrize("size", [1, 2, 10, 50, 200])
def test_table_of_a_small_parameter_does_not_outweigh_its_codes(rng, size):
    for name, integers in samples(rng, size).items():
        tensor = read_one(*encode_integers(integers, SCALE))
        assert tensor.sections["table"] <= max(tensor.sections["codes"], 1), name


def planted(rng, shape, spreads, offset=0):
    """Return integers of a shape whose rows and columns are of two kinds, with a spread for each kind of block."""
    matrix = (math.prod(shape[:-1]), shape[-1])
    rows, columns = (rng.integers(0, 2, length) for length in matrix)
    spread = np.reshape(spreads, (2, 2))[rows[:, None], columns]
    return np.round(rng.laplace(offset, spread, matrix)).astype("int32").reshape(shape)


def numbers_of_classes(patch, *numbers):
    patch.setattr(packing, "NUMBERS_OF_CLASSES", numbers)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("num_classes", [2, 4])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(60, 40), (3, 2, 12, 30), (400, 3), (4, 300), (1, 900), (900, 1)]),
    spreads=st.lists(st.sampled_from([0.05, 1, 30, 3000, 1e6]), min_size=4, max_size=4),
    offset=st.sampled_from([0, -40, 10_000]),
    seed=st.integers(0, 99),
)
def test_matrices_of_blocks_come_back(decode, num_classes, shape, spreads, offset, seed):
    """Whether blocks are the smallest coding or not, with octaves and remainders; blocks only where it is smaller."""
    integers = planted(np.random.default_rng(seed), shape, spreads, offset)
    scale = np.ones((1,) * integers.ndim, "float32")
    with pytest.MonkeyPatch.context() as patch:
        numbers_of_classes(patch)
        without = sum(map(len, encode_integers(integers, scale)[1]))
        numbers_of_classes(patch, num_classes)
        entry, sections = encode_integers(integers, scale)
    assert entry.get("classes", num_classes) == num_classes
    assert sum(map(len, sections)) < without or (entry["coding"] != "blocks" and sum(map(len, sections)) == without)
    np.testing.assert_array_equal(read_one(entry, sections, decode).integers, integers)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_blocks_take_what_the_entropy_of_each_says(decode, num_classes, rng, monkeypatch):
    """A tenth of the rows and of the columns are in use: zeros elsewhere take next to nothing."""
    rows, columns = np.arange(1000) % 10 == 3, np.arange(300) % 10 == 7
    integers = np.where(rows[:, None] & columns, np.round(rng.laplace(0, 2, (1000, 300))), 0).astype("int32")
    numbers_of_classes(monkeypatch, num_classes)
    entry, sections = encode_integers(integers, SCALE.reshape(1, 1))
    assert entry["coding"] == "blocks" and entry["classes"] == num_classes
    tensor = read_one(entry, sections, decode)
    np.testing.assert_array_equal(tensor.integers, integers)
    in_use = integers[np.ix_(rows, columns)]
    bound = (entropy_bits(in_use) * in_use.size + entropy_bits(rows) * 1000 + entropy_bits(columns) * 300) / 8
    num_bytes = tensor.sections["codes"] + tensor.sections["table"]
    assert bound <= num_bytes * 1.001 and num_bytes <= 1.02 * bound + num_classes**2 * len(np.unique(integers)) + 100
    numbers_of_classes(monkeypatch)
    assert num_bytes < 0.6 * sum(map(len, encode_integers(integers, SCALE.reshape(1, 1))[1]))


def test_blocks_make_no_file_larger(rng):
    """Also where they save no more than what they take in the header; that is known to a few bytes."""
    codings = set()
    for difference in np.linspace(0, 12, 60):
        integers = planted(rng, (50, 40), [2, 2, 2, 2 + difference])
        files = []
        for numbers in ((2,), ()):
            with pytest.MonkeyPatch.context() as patch:
                numbers_of_classes(patch, *numbers)
                entry, sections = encode_integers(integers, SCALE.reshape(1, 1))
            files.append(len(pack({}, [({"name": "a", **entry}, sections)])))
            codings.add(entry["coding"])
        assert files[0] <= files[1] + 3
    assert codings == {"ans", "blocks"}


def test_number_of_classes_is_the_best(rng):
    """Four kinds of rows take four classes, two kinds two."""
    for num_kinds in (2, 4):
        spread = np.array([0.01, 1, 20, 400])[:: 4 // num_kinds + num_kinds // 4 - 1][:num_kinds]
        integers = np.round(rng.laplace(0, np.repeat(spread, 2000 // num_kinds)[:, None], (2000, 40))).astype("int32")
        assert encode_integers(integers, SCALE.reshape(1, 1))[0]["classes"] == num_kinds


def test_no_blocks_without_structure_or_a_matrix(rng):
    structured = planted(rng, (200, 100), [0.05, 1, 30, 400])
    assert encode_integers(structured, SCALE.reshape(1, 1))[0]["coding"] == "blocks"
    assert encode_integers(structured.ravel(), SCALE)[0]["coding"] == "ans"
    mixed = rng.permutation(structured.ravel()).reshape(structured.shape)
    assert encode_integers(mixed, SCALE.reshape(1, 1))[0]["coding"] == "ans"


@pytest.mark.parametrize(("limit", "per_bin"), [("MAX_BLOCK_BINS", 2 * 2), ("MAX_COUNTS", 2 * 300)])
def test_limits_of_blocks(limit, per_bin, rng, monkeypatch):
    """Beyond them, tables or the counts of symbols would take more memory than the matrix."""
    integers = planted(rng, (300, 40), [0.05, 0.05, 0.05, 2])
    numbers_of_classes(monkeypatch, 2)
    entry = encode_integers(integers, SCALE.reshape(1, 1))[0]
    num_bins = entry["bytes"][0] // 4
    for value, coding in ((per_bin * num_bins, "blocks"), (per_bin * num_bins - 1, "ans")):
        monkeypatch.setattr(packing, limit, value)
        assert encode_integers(integers, SCALE.reshape(1, 1))[0]["coding"] == coding


def test_equal_integers_take_no_bytes():
    entry, sections = encode_integers(np.full((1000,), -7, "int32"), SCALE)
    assert entry["coding"] == "fixed" and sections[0] == b""


def test_integers_of_the_whole_range():
    integers = np.array([*INT32, 0, -1] * 100, "int32")
    for decode in DECODERS:
        np.testing.assert_array_equal(read_one(*encode_integers(integers, SCALE), decode).integers, integers)


def test_tables_of_many_elements_are_scaled_down():
    counts = np.array([2**40, 2**39, 1, 0])
    cumulative = reader.cumulative_frequencies(packing._table(counts))
    np.testing.assert_allclose(np.diff(cumulative)[:2] / 2**24, [2 / 3, 1 / 3], rtol=0.05)
    assert np.diff(cumulative).min() == 1 and cumulative[-1] == 2**24


@settings(deadline=None, derandomize=True)
@given(data=st.data(), dtype=st.sampled_from(["float16", "float32", "float64", "int8", "uint32", "int64", "bool"]))
def test_numbers_of_any_shape_and_type(data, dtype):
    array = data.draw(arrays(dtype, shapes(5)))
    tensor = read_one(*encode_numbers(array))
    assert tensor.values.dtype == array.dtype and tensor.values.shape == array.shape
    assert tensor.values.tobytes() == array.tobytes()  # bit for bit, also what is not a number


def test_numbers_are_deflated_where_that_is_smaller(rng):
    noise = rng.integers(0, 2**32, 1000, "uint32")
    assert encode_numbers(noise)[0]["coding"] == "raw"
    assert encode_numbers(noise % 256)[0]["coding"] == "deflate"


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_numbers_are_rounded_to_nearest(rng, stored):
    array = np.concatenate([rng.normal(size=500), [0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8]]).astype(
        "float32"
    )
    tensor = read_one(*encode_numbers(array, stored=stored))
    expected = array.astype(ml_dtypes.bfloat16 if stored == "bfloat16" else "float16").astype("float32")
    assert tensor.values.tobytes() == expected.tobytes()
    assert np.isnan(read_one(*encode_numbers(np.array([np.nan], "float32"), stored=stored)).values).all()


@pytest.mark.parametrize(("stored", "value"), [("float16", 1e5), ("bfloat16", 3.4e38)])
def test_numbers_that_do_not_fit(stored, value):
    with pytest.raises(ValueError, match=f"Numbers up to .* do not fit into {stored}"):
        encode_numbers(np.array([1, value], "float32"), stored=stored)


def test_same_input_gives_the_same_bytes(rng):
    integers = samples(rng, 1000)["few"]
    assert pack({}, [encode_integers(integers, SCALE)]) == pack({}, [encode_integers(integers.copy(), SCALE)])


def test_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.lqs"
    write(path, {"a": 1}, [])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, {"a": object()}, [])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
