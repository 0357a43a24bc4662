"""Tests of `lqs.file.writer`: what it writes, `lqs.file.reader` reads, and in how many bytes."""

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lqs.file import bins, contexts, reader, writer
from lqs.file.ans import NumpyDecoder
from lqs.file.compiled import CompiledDecoder, encode_flags
from lqs.file.writer import encode_integers, encode_numbers, pack, write
from lqs.inspection import entropy_bits

DECODERS = [NumpyDecoder, CompiledDecoder]
INT32 = (-(2**31), 2**31 - 1)
SCALE = np.ones(1, "float32")


def read_one(entry, sections, decoder=None):
    content = pack({}, [({"name": "a", **entry}, sections)])
    (tensor,) = reader.parse(content, decoder=decoder)[1]
    return tensor


def shapes(max_side):
    return st.lists(st.integers(0, max_side), max_size=4).map(tuple)


@pytest.mark.parametrize("decoder", DECODERS)
@settings(deadline=None, derandomize=True)
@given(data=st.data(), spread=st.sampled_from([1, 3, 40, 3000, 2**31]))
def test_integers_of_any_shape_and_range(decoder, data, spread):
    elements = st.integers(max(INT32[0], -spread), min(INT32[1], spread))
    integers = data.draw(arrays("int32", shapes(12), elements=elements))
    scale = np.full((1,) * integers.ndim, 0.25, "float32")
    tensor = read_one(*encode_integers(integers, scale), decoder)
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


@pytest.mark.parametrize("decoder", DECODERS)
def test_integers_take_what_their_entropy_says(rng, decoder):
    size = 100_000
    for name, integers in samples(rng, size).items():
        entry, sections = encode_integers(integers, SCALE)
        assert entry["coding"] == "ans"
        np.testing.assert_array_equal(read_one(entry, sections, decoder).integers, integers)
        num_bytes, bound = sum(map(len, sections[:3])), entropy_bits(integers) * size / 8
        # The empirical entropy of many distinct integers is below that of what they were drawn from.
        assert bound <= num_bytes * 1.001 and num_bytes <= 1.02 * bound + 100, name


@pytest.mark.parametrize("size", [1, 2, 10, 50, 200])
def test_table_of_a_small_parameter_does_not_outweigh_its_codes(rng, size):
    for name, integers in samples(rng, size).items():
        tensor = read_one(*encode_integers(integers, SCALE))
        assert tensor.sections["table"] <= max(tensor.sections["codes"], 1), name


def sparse(rng, shape, density, largest):
    """Return integers of a shape, most of them small, that reach `-largest` or `largest`."""
    magnitude = np.minimum(rng.geometric(0.6, shape), largest) * (rng.random(shape) < density)
    magnitude.flat[rng.integers(magnitude.size)] = largest
    return (magnitude * rng.choice([-1, 1], shape)).astype("int32")


def blobs(rng, num_columns=64):
    """Return a matrix whose rows are the pixels of an image of 12 x 12, with a disc of -1 or 1 in each column."""
    y, x = np.divmod(np.arange(144)[:, None], 12)
    centre_y, centre_x = rng.integers(0, 12, (2, num_columns))
    disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 <= 5
    return (disc * rng.choice([-1, 1], num_columns)).astype("int32")


def scale_of(integers):
    return np.ones((1,) * integers.ndim, "float32")


def in_contexts(integers, line):
    """Return what `encode_integers` does where it chooses contexts."""
    entry, sections = encode_numbers(scale_of(integers))
    codes = encode_flags(*contexts.Flags(integers.reshape(-1, integers.shape[-1]), line).in_order())
    limits = {"min": int(integers.min()), "max": int(integers.max()), "line": line}
    common = {"shape": list(integers.shape), "dtype": "float32", "coding": "contexts", "bytes": [len(codes)]}
    return {**common, **limits, "scale": entry}, [codes, *sections]


@pytest.mark.parametrize("decoder", DECODERS)
@settings(deadline=None, derandomize=True)
@given(data=st.data(), largest=st.sampled_from([1, 2, 14, 15]))
def test_contexts_of_any_matrix_come_back(decoder, data, largest):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
    integers = data.draw(arrays("int32", shape, elements=st.integers(-largest, largest)))
    line = data.draw(st.integers(2, max(2, math.prod(shape[:-1]))))
    np.testing.assert_array_equal(read_one(*in_contexts(integers, line), decoder).integers, integers)


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(400,), (400, 1), (1, 400), (60, 40), (3, 3, 8, 12), (2, 1, 300, 3)]),
    density=st.sampled_from([0, 0.01, 0.1, 0.5, 1]),
    largest=st.sampled_from([0, 1, 2, 14, 15, 16, 30]),
    seed=st.integers(0, 99),
)
def test_contexts_make_no_file_larger(decoder, shape, density, largest, seed):
    """Also where they save no more than what they take in the header; that is known to a few bytes."""
    integers = sparse(np.random.default_rng(seed), shape, density, largest)
    chosen = encode_integers(integers, scale_of(integers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "MAX_ELEMENTS", 0)
        without = encode_integers(integers, scale_of(integers))
    np.testing.assert_array_equal(read_one(*chosen, decoder).integers, integers)
    sizes = [len(pack({}, [({"name": "a", **entry}, sections)])) for entry, sections in (chosen, without)]
    assert sizes[0] <= sizes[1] + 3 and without[0]["coding"] != "contexts"


@pytest.mark.parametrize("shape", [(300, 200), (3, 3, 40, 60), (60_000,), (9000, 3)])
@pytest.mark.parametrize("density", [0.005, 0.1, 0.9])
def test_contexts_take_what_their_frequencies_say(shape, density, rng):
    integers = sparse(rng, shape, density, 15)
    flags, frequencies = (made := contexts.Flags(integers.reshape(-1, shape[-1]), 2)).in_order()
    information = -np.log2(np.where(flags, frequencies, 2**24 - frequencies) / 2**24).sum()
    assert made.num_bits() == pytest.approx(information, rel=1e-9)
    assert information / 8 - 1 <= len(encode_flags(flags, frequencies)) <= 1.001 * information / 8 + 8


def test_contexts_take_what_the_entropy_says_where_there_is_no_structure(rng):
    """Of independent integers, the contexts say nothing, and learning that costs a few bytes for each."""
    for density in (0.02, 0.3, 1):
        integers = sparse(rng, (1000, 100), density, 15)
        bound = entropy_bits(integers) * integers.size / 8
        assert bound <= len(in_contexts(integers, 2)[1][0]) <= 1.01 * bound + 150


def test_zeros_take_no_codes(rng):
    """Or a few bytes where one number is not zero, anywhere."""
    zeros = np.zeros((500, 40), "int32")
    assert len(in_contexts(zeros, 2)[1][0]) <= 32
    zeros[rng.integers(500), rng.integers(40)] = 1
    entry, sections = encode_integers(zeros, scale_of(zeros))
    assert entry["coding"] == "contexts" and len(sections[0]) <= 40


@pytest.mark.parametrize("decoder", DECODERS)
def test_structure_of_an_image_is_found(decoder, rng):
    integers = blobs(rng)
    entry, sections = encode_integers(integers, scale_of(integers), slow=False)
    assert (entry["coding"], entry["line"]) == ("contexts", 12)
    np.testing.assert_array_equal(read_one(entry, sections, decoder).integers, integers)
    assert len(sections[0]) < 0.4 * entropy_bits(integers) * integers.size / 8
    assert len(sections[0]) < 0.9 * len(in_contexts(integers, 2)[1][0])


@pytest.mark.parametrize("decoder", DECODERS)
def test_order_of_axes_is_found(decoder, rng):
    """Where what lies together does so along the columns, and along the outputs of a convolution."""
    integers = blobs(rng)
    plain = encode_integers(integers, scale_of(integers), slow=False)
    for turned, axes in ((integers.T, [1, 0]), (integers.T[None, None], [3, 0, 1, 2])):
        entry, sections = encode_integers(turned, scale_of(turned), slow=False)
        assert entry["axes"] == axes and sections[0] == plain[1][0]
        content = pack({}, [({"name": "a", **entry}, sections)])
        assert content[4] == 4
        np.testing.assert_array_equal(reader.parse(content, decoder=decoder)[1][0].integers, turned)
    assert "axes" not in plain[0] and pack({}, [({"name": "a", **plain[0]}, plain[1])])[4] == 2


def test_input_channels_in_use_are_found(rng):
    """With four of 16, whatever is not zero is so again 16 rows below, at the next place of the kernel."""
    used = rng.permutation(np.arange(16) < 4)[:, None] & (rng.random((3, 3, 16, 20)) < 0.7)
    integers = (used * rng.choice([-1, 1], used.shape)).astype("int32")
    entry, sections = encode_integers(integers, scale_of(integers), slow=False)
    assert entry["coding"] == "contexts" and contexts.best_line(integers.reshape(-1, 20)) == 16
    for codes in (sections[0], in_contexts(integers, 16)[1][0]):
        assert len(codes) < 0.95 * entropy_bits(integers) * integers.size / 8


def test_no_contexts_without_structure(rng):
    mixed = rng.permutation(blobs(rng, 640).ravel()).reshape(144, 640)
    for integers in (mixed, *(rng.integers(-k, k + 1, (200, 100), "int32") for k in (1, 3, 7))):
        assert encode_integers(integers, scale_of(integers), slow=False)[0]["coding"] == "ans"


@pytest.mark.parametrize("sign", [-1, 1])
def test_largest_integer_in_contexts(sign, rng):
    """A flag for each step of a magnitude takes time: the writer leaves larger ones to bins."""
    integers = blobs(rng)
    for largest, coding in ((15, "contexts"), (16, "ans")):
        integers[-1, -1] = sign * largest
        entry, sections = encode_integers(integers, scale_of(integers), slow=False)
        assert entry["coding"] == coding
        np.testing.assert_array_equal(read_one(entry, sections).integers, integers)


@pytest.mark.parametrize(("limit", "value"), [("MAX_SIDE", 144), ("MAX_ELEMENTS", 144 * 64)])
def test_limits_of_contexts(limit, value, rng, monkeypatch):
    """Rows take time and elements memory; what the reader would refuse is not written, in no order of the axes."""
    integers = blobs(rng).reshape(2, 72, 64)
    for lower, coding in ((0, "contexts"), (1, "ans")):
        monkeypatch.setattr(contexts, limit, value - lower)
        assert encode_integers(integers, scale_of(integers), slow=False)[0]["coding"] == coding


def test_line_has_the_most_in_common(rng):
    for num_rows in (3, 4, 5, 30, 100):
        used = rng.random((num_rows, 7)) < 0.3
        in_common = [np.sum(used[line:] & used[:-line]) for line in range(2, num_rows)]
        assert contexts.best_line(np.where(used, -5, 0)) == 2 + np.argmax(in_common)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 50])
def test_line_of_few_rows_or_of_zeros(num_rows):
    assert contexts.best_line(np.zeros((num_rows, 3), "int32")) == 2
    assert contexts.best_line(np.ones((num_rows, 3), "int32")) == 2


def test_equal_integers_take_no_bytes():
    entry, sections = encode_integers(np.full((1000,), -7, "int32"), SCALE)
    assert entry["coding"] == "fixed" and sections[0] == b""


def test_integers_of_the_whole_range():
    integers = np.array([*INT32, 0, -1] * 100, "int32")
    for decoder in DECODERS:
        np.testing.assert_array_equal(read_one(*encode_integers(integers, SCALE), decoder).integers, integers)


def test_tables_of_many_elements_are_scaled_down():
    counts = np.array([2**40, 2**39, 1, 0])
    cumulative = bins.cumulative_frequencies(bins.table_of(counts))
    np.testing.assert_allclose(np.diff(cumulative)[:2] / 2**24, [2 / 3, 1 / 3], rtol=0.05)
    assert np.diff(cumulative).min() == 1 and cumulative[-1] == 2**24


def test_tables_have_the_nearest_weights():
    """By a search over all bytes: the nearest one, the lower one midway, so that 17 is 16, between 16 and 18."""
    counts = np.unique(np.concatenate([np.arange(600), np.geomspace(600, 2**33, 500).astype("int64")]))
    distances = np.abs(counts[:, None] - bins.weights(bytes(range(256))))
    for count, table in zip(counts.tolist(), distances.argmin(1).tolist(), strict=True):
        assert list(bins.table_of([count])) == [table], count
    assert list(bins.table_of([17, 19, 33, 34, 35])) == [16, 17, 24, 24, 25]


def test_distinct_integers_by_counting_and_by_sorting(rng, monkeypatch):
    """Either way gives values, indices and counts; more than `MAX_SPAN` apart would take too much memory."""
    offsets = rng.integers(0, 1000, 300)
    offsets[0], offsets[1] = 0, 999
    by_counting = writer._distinct(offsets, 1000)
    monkeypatch.setattr(writer, "MAX_SPAN", 999)
    by_sorting = writer._distinct(offsets, 1000)
    for one, other in zip(by_counting, by_sorting, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(by_counting[0][by_counting[1]], offsets)


def test_few_integers_far_apart_take_little_memory():
    integers = np.array([-(2**31), 2**31 - 1] * 50, "int32")
    tracemalloc.start()
    encode_integers(integers, SCALE)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def all_candidates(integers):
    """Return coding and sections of the smallest candidate, with every one of them coded."""
    lowest, highest = int(integers.min()), int(integers.max())
    encoded = [(c.coding, c.encode()) for c in writer._candidates(integers, lowest, highest)]
    return min(encoded, key=lambda pair: writer._cost(*pair))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(1, 1), (7, 3), (400,), (60, 40), (3, 3, 8, 12), (300, 70)]),
    density=st.sampled_from([0, 0.01, 0.1, 0.5, 1]),
    largest=st.sampled_from([0, 1, 2, 15, 16, 300, 10**6]),
    seed=st.integers(0, 99),
)
def test_what_is_not_coded_would_not_have_been_chosen(shape, density, largest, seed):
    rng = np.random.default_rng(seed)
    integers = rng.laplace(0, largest / 4 + 1e-9, shape).round().clip(-largest, largest)
    integers = (integers * (rng.random(shape) < density)).astype("int32")
    coding, sections = all_candidates(integers)
    entry, chosen = encode_integers(integers, scale_of(integers))
    assert coding.items() <= entry.items() and chosen[: len(sections)] == sections


def test_coders_take_what_was_estimated(rng):
    """Within half of the margin by which a coding is left out."""
    for integers in [*samples(rng, 5000).values(), sparse(rng, (300, 40), 0.1, 15), blobs(rng)]:
        for candidate in writer._candidates(integers, int(integers.min()), int(integers.max())):
            num_bytes = sum(map(len, candidate.encode()))
            estimate = candidate.num_bits / 8
            if candidate.is_bound:
                assert estimate <= num_bytes
                continue
            assert abs(num_bytes - estimate) <= 0.5 * (writer.MARGIN * estimate + writer.MARGIN_BYTES)


def test_contexts_that_cannot_pay_are_not_coded(rng, monkeypatch):
    coded = []
    monkeypatch.setattr(writer.compiled, "encode_flags", lambda *flags: coded.append(flags) or b"")
    integers = rng.integers(-7, 8, (300, 200), "int32")
    assert encode_integers(integers, scale_of(integers))[0]["coding"] != "contexts" and not coded


def test_bytes_are_counted_without_packing(rng):
    tensors = [({"name": name, **entry}, s) for name, (entry, s) in encoded_samples(rng)]
    assert writer.packed_bytes({"a": 1}, tensors) == len(pack({"a": 1}, tensors))


def encoded_samples(rng):
    return [(name, encode_integers(integers, SCALE)) for name, integers in samples(rng, 200).items()]


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
