"""Tests of `lqs.coclustering`: planted blocks are found, and classes never cost more than those it starts from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lqs import coclustering
from lqs.coclustering import block_counts, cocluster


def planted(rng, num_rows=60, num_columns=40, num_classes=2):
    """Return symbols, row classes and column classes, each block with its own distribution of three symbols."""
    rows, columns = rng.integers(0, num_classes, num_rows), rng.integers(0, num_classes, num_columns)
    share = np.linspace(0.02, 0.9, num_classes**2).reshape(num_classes, num_classes)[rows[:, None], columns]
    return np.where(rng.random(share.shape) < share, rng.integers(1, 3, share.shape), 0), rows, columns


def same_partition(classes, others):
    """Return whether two arrays of classes differ by their names at most."""
    return len(set(zip(classes, others, strict=True))) == len(set(classes)) == len(set(others))


def code_length(symbols, rows, columns, num_classes):
    """Return the bits of all symbols, each block by its own entropy, and of the classes, by theirs: by loops."""
    groups = [rows, columns]
    for row in range(num_classes):
        groups += [symbols[rows == row][:, columns == column].ravel() for column in range(num_classes)]
    bits = 0.0
    for group in groups:
        counts = np.unique(group, return_counts=True)[1]
        bits -= np.sum(counts * np.log2(counts / len(group)))
    return bits


def matrices(num_symbols, max_side=9):
    shapes = st.tuples(st.integers(1, max_side), st.integers(1, max_side))
    return arrays("int64", shapes, elements=st.integers(0, num_symbols - 1))


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_planted_blocks_are_found(num_classes, seed):
    symbols, rows, columns = planted(np.random.default_rng(seed), 90, 80, num_classes)
    found = cocluster(symbols, 3, num_classes)
    assert code_length(symbols, *found, num_classes) <= 1.001 * code_length(symbols, rows, columns, num_classes)
    if num_classes == 2:
        assert same_partition(found[0], rows) and same_partition(found[1], columns)


def test_symbols_have_no_order():
    """Blocks that differ in which symbol is rare, not in how many are."""
    rows, columns = np.arange(40) % 2, np.arange(30) % 2
    symbols = np.where((rows[:, None] + columns) % 2, 2, 1)
    symbols[::7, ::5] = 0
    found = cocluster(symbols, 3, 2)
    assert code_length(symbols, *found, 2) <= code_length(symbols, np.zeros(40, int), np.zeros(30, int), 2)


def test_permuted_rows_have_permuted_classes(rng):
    symbols = planted(rng)[0]
    order, other = rng.permutation(60), rng.permutation(40)
    rows, columns = cocluster(symbols, 3, 2)
    permuted = cocluster(symbols[order][:, other], 3, 2)
    np.testing.assert_array_equal(permuted[0], rows[order])
    np.testing.assert_array_equal(permuted[1], columns[other])


def test_same_matrix_has_the_same_classes(rng):
    symbols = planted(rng, num_classes=3)[0]
    for first, second in zip(cocluster(symbols, 3, 3), cocluster(symbols.copy(), 3, 3), strict=True):
        np.testing.assert_array_equal(first, second)


@settings(deadline=None, derandomize=True)
@given(symbols=matrices(4), num_classes=st.integers(2, 5))
def test_classes_of_any_matrix(symbols, num_classes):
    """Also of one row or column, of equal symbols, and of fewer rows than classes."""
    found = cocluster(symbols, 4, num_classes)
    for classes, length in zip(found, symbols.shape, strict=True):
        assert classes.shape == (length,) and classes.dtype.kind == "i"
        assert classes.min() >= 0 and classes.max() < num_classes


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 3)])
@pytest.mark.parametrize("symbol", [0, 2])
def test_equal_symbols_take_no_more_than_their_classes(shape, symbol):
    rows, columns = cocluster(np.full(shape, symbol), 3, 4)
    counts = block_counts(np.full(shape, symbol), rows, columns, 3, 4)
    assert counts.sum() == counts[..., symbol].sum() == np.prod(shape)


@settings(deadline=None, derandomize=True)
@given(symbols=matrices(3, 12), num_classes=st.integers(2, 4))
def test_never_more_bits_than_at_its_start(symbols, num_classes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coclustering, "NUM_ROUNDS", 0)
        start = cocluster(symbols, 3, num_classes)
    found = cocluster(symbols, 3, num_classes)
    before, after = (code_length(symbols, *classes, num_classes) for classes in (start, found))
    assert after <= before + 1e-3


@settings(deadline=None, derandomize=True)
@given(data=st.data(), symbols=matrices(4))
def test_block_counts_by_loops(data, symbols):
    rows, columns = (data.draw(arrays("int64", length, elements=st.integers(0, 2))) for length in symbols.shape)
    counts = np.zeros((3, 3, 4), int)
    for (row, column), symbol in np.ndenumerate(symbols):
        counts[rows[row], columns[column], symbol] += 1
    np.testing.assert_array_equal(block_counts(symbols, rows, columns, 4, 3), counts)
