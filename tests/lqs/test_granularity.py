"""Granularity: axes and shapes by hand, over hypothesis-drawn shapes, and each error by its message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqs.granularity import scale_shape, sharing_axes, validate_granularity, varying_axes

pytestmark = pytest.mark.once

EXPECTED = [
    ("scalar", (), ()),
    ("scalar", (5,), (1,)),
    ("scalar", (4, 3), (1, 1)),
    ("scalar", (3, 2, 4, 5), (1, 1, 1, 1)),
    ("row", (4, 3), (4, 1)),
    ("row", (3, 2, 4, 5), (3, 1, 1, 1)),
    ("column", (4, 3), (1, 3)),
    ("column", (3, 2, 4, 5), (1, 2, 1, 1)),
    ("channel", (7, 4, 5), (1, 4, 1)),
    ("channel", (3, 2, 4, 5), (1, 1, 4, 1)),
    ("channel", (2, 3, 2, 4, 5), (1, 1, 1, 4, 1)),
    ("filter", (3, 2, 4, 5), (1, 1, 1, 5)),
    ("output", (6,), (6,)),
    ("output", (4, 3), (1, 3)),
    ("output", (3, 2, 4, 5), (1, 1, 1, 5)),
    ((), (4, 3), (1, 1)),
    ((0, 1), (4, 3), (4, 3)),
    ((-1,), (4, 3), (1, 3)),
    ((-1, 0), (3, 2, 4, 5), (3, 1, 1, 5)),
    ([2, 3], (3, 2, 4, 5), (1, 1, 4, 5)),
    ((0,), (6,), (6,)),
]


@pytest.mark.parametrize("granularity, shape, expected", EXPECTED)
def test_scale_shape(granularity, shape, expected):
    assert scale_shape(granularity, shape) == expected
    varying = tuple(axis for axis, size in enumerate(expected) if size > 1)
    assert varying_axes(granularity, len(shape)) == varying  # every axis above has a size of 2 or more
    assert set(sharing_axes(granularity, len(shape))) == set(range(len(shape))) - set(varying)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_any_tuple_of_axes(shape, data):
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(0, rank - 1), unique=True))
    signed = tuple(data.draw(st.sampled_from([axis, axis - rank])) for axis in axes)
    scale = scale_shape(signed, shape)
    assert len(scale) == rank
    assert all(scale[axis] == (shape[axis] if axis in axes else 1) for axis in range(rank))
    assert sorted(varying_axes(signed, rank) + sharing_axes(signed, rank)) == list(range(rank))


@pytest.mark.parametrize("granularity", ["rows", "", None, 1, ("0",), (0.0,), (True,), {0}, "SCALAR"])
def test_unknown_granularity(granularity):
    with pytest.raises(ValueError, match=r"`granularity` must be one of .*Received: granularity="):
        validate_granularity(granularity)


@pytest.mark.parametrize("granularity", [(0, 0), (1, -1), (2,), (-3,), (0, 5)])
def test_axes_must_be_distinct_and_exist(granularity):
    with pytest.raises(ValueError, match="distinct axes of a tensor of rank 2.*Received: granularity="):
        varying_axes(granularity, 2)


@pytest.mark.parametrize(
    "granularity, rank, least", [("row", 1, 2), ("column", 1, 2), ("channel", 2, 3), ("filter", 2, 3), ("row", 0, 2)]
)
def test_wrong_granularity_for_rank(granularity, rank, least):
    message = f"'{granularity}' needs a parameter tensor of rank {least} or more.*for a tensor of rank {rank}"
    with pytest.raises(ValueError, match=message):
        varying_axes(granularity, rank)
