"""Co-clustering: rows and columns of a matrix of symbols in classes, so that each block is cheap to code.

A network that was trained to be small has rows and columns that are nearly all zero: pixels that never matter, units
that hardly do. One table of probabilities for all of them wastes bits; one for each block of row and column classes
does not. Rows and columns are assigned in turns to the class in which their symbols take the fewest bits, as in
information-theoretic co-clustering (Dhillon, Mallela and Modha 2003, doi 10.1145/956750.956764).
"""

import numpy as np

NUM_ROUNDS = 10
SMALLEST_COUNT = 1e-6  # of a symbol that a block does not have, so that its code length is finite


def cocluster(symbols, num_symbols, num_classes):
    """Return the class of each row and of each column of a matrix of symbols.

    Args:
        symbols: integer array `(num_rows, num_columns)` of symbols from 0 to `num_symbols - 1`.
        num_symbols: number of different symbols.
        num_classes: number of row classes and of column classes.

    Returns:
        Integer arrays `(num_rows,)` and `(num_columns,)`.

    Example:

    >>> symbols = np.zeros((4, 6), int)
    >>> symbols[1::2, ::3] = 1
    >>> [classes.tolist() for classes in cocluster(symbols, 2, 2)]
    [[0, 1, 0, 1], [1, 0, 0, 1, 0, 0]]
    """
    usual = np.bincount(symbols.ravel()).argmax()
    rows, columns = (_by_density((symbols != usual).sum(axis), num_classes) for axis in (1, 0))
    for _ in range(NUM_ROUNDS):
        before = rows, columns
        rows = _reassign(symbols, rows, columns, num_symbols, num_classes)
        columns = _reassign(symbols.T, columns, rows, num_symbols, num_classes)
        if all(np.array_equal(*pair) for pair in zip(before, (rows, columns), strict=True)):
            break
    return rows, columns


def block_counts(symbols, rows, columns, num_symbols, num_classes):
    """Return how often each symbol is in each block, `(num_classes, num_classes, num_symbols)`."""
    counts = _counts(symbols, columns, num_symbols, num_classes)
    return np.stack([counts[rows == index].sum(axis=0) for index in range(num_classes)])


def _by_density(num_unusual, num_classes):
    """Return classes of rows by increasing density, each with about as many unusual symbols as any other."""
    order = np.argsort(num_unusual, kind="stable")
    shares = np.cumsum(num_unusual[order] + 0.5)
    classes = np.empty(len(order), int)
    classes[order] = np.minimum(shares / shares[-1] * num_classes, num_classes - 1)
    return classes


def _reassign(symbols, rows, columns, num_symbols, num_classes):
    """Return for each row the class whose tables code it, and its class, in the fewest bits."""
    counts = _counts(symbols, columns, num_symbols, num_classes)
    tables = np.stack([counts[rows == index].sum(axis=0) for index in range(num_classes)]) + SMALLEST_COUNT
    code_lengths = -np.log2(tables / tables.sum(axis=2, keepdims=True))
    sizes = np.bincount(rows, minlength=num_classes) + SMALLEST_COUNT
    bits = np.einsum("rcs,kcs->rk", counts, code_lengths) - np.log2(sizes / sizes.sum())
    return bits.argmin(axis=1)


def _counts(symbols, columns, num_symbols, num_classes):
    """Return how often each symbol is in each row and column class, `(num_rows, num_classes, num_symbols)`."""
    num_rows = len(symbols)
    index = (np.arange(num_rows)[:, None] * num_classes + columns) * num_symbols + symbols
    counts = np.bincount(index.ravel(), minlength=num_rows * num_classes * num_symbols)
    return counts.reshape(num_rows, num_classes, num_symbols)
