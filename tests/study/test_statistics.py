"""Tests of `study.statistics`: histograms by counting, sizes by unzipping."""

import io
import itertools
import types
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lqs.file import sizes
from study.statistics import histogram, zipped_bytes

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "integers, max_bins, expected",
    [
        ([3], 512, (3, 1, [1])),
        ([-1, 0, 0, 2], 512, (-1, 1, [1, 2, 0, 1])),
        ([0, 511], 512, (0, 1, [1, *[0] * 510, 1])),
        ([0, 512], 512, (0, 2, [1, *[0] * 255, 1])),
        ([-2, -1, 0, 1, 2, 3, 4], 3, (-2, 3, [3, 3, 1])),
        ([-1, 4], 2, (-1, 3, [1, 1])),
    ],
)
def test_histogram(integers, max_bins, expected):
    start, width, counts = expected
    assert histogram(np.array(integers, "int32"), max_bins) == {"start": start, "width": width, "counts": counts}


@settings(deadline=None, derandomize=True)
@given(hnp.arrays("int32", hnp.array_shapes(max_dims=3, max_side=6)), st.integers(1, 600))
def test_histogram_counts_every_integer_in_its_bin(integers, max_bins):
    bins = histogram(integers, max_bins)
    assert len(bins["counts"]) <= max_bins and sum(bins["counts"]) == integers.size
    edges = [bins["start"] + i * bins["width"] for i in range(len(bins["counts"]) + 1)]
    counted = [sum(low <= int(i) < high for i in integers.ravel()) for low, high in itertools.pairwise(edges)]
    assert bins["counts"] == counted
    assert (bins["width"] == 1) == (int(integers.max()) - int(integers.min()) < max_bins)


@pytest.fixture
def archive(monkeypatch):
    """Function `arrays -> (bytes, dtype, members)` that opens the archive that `zipped_bytes` measures."""
    buffer = io.BytesIO()
    monkeypatch.setattr(sizes, "io", types.SimpleNamespace(BytesIO=lambda: buffer))

    def run(arrays):
        num_bytes, dtype = zipped_bytes(arrays)
        assert num_bytes == len(buffer.getvalue())
        with zipfile.ZipFile(buffer) as zipped:
            assert {info.compress_type for info in zipped.infolist()} == {zipfile.ZIP_DEFLATED}
            return num_bytes, dtype, [np.frombuffer(zipped.read(name), dtype) for name in zipped.namelist()]

    return run


@pytest.mark.parametrize(
    "values, dtype",
    [
        ([0], "int8"),
        ([-128, 127], "int8"),
        ([-129, 0], "int16"),
        ([0, 128], "int16"),
        ([128, 255], "int16"),
        ([-32768, 32767], "int16"),
        ([-32769], "int32"),
        ([32768, 65535], "int32"),
    ],
)
def test_archive_holds_the_codes_in_the_smallest_type_for_all(archive, values, dtype):
    arrays = [np.array(values, "int32"), np.array([[1, 0], [-1, 5]], "int32")]
    _, found, members = archive(arrays)
    assert found == dtype
    assert [member.tolist() for member in members] == [values, [1, 0, -1, 5]]


def test_float_archive_holds_the_floats(archive, rng):
    arrays = [rng.normal(size=(3, 4)).astype("float32"), np.zeros(5, "float32")]
    _, dtype, members = archive(arrays)
    assert dtype == "float32"
    np.testing.assert_array_equal(members[0], arrays[0].ravel())
    np.testing.assert_array_equal(members[1], arrays[1])


def test_archive_is_compressed(rng):
    varied, constant = rng.integers(-128, 128, 10_000), np.zeros(10_000, "int32")
    assert zipped_bytes([constant])[0] < 200 and 10_000 < zipped_bytes([varied])[0] < 10_300
