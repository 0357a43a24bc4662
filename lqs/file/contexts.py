"""The coding `contexts`: flags by context-adaptive models, as in DeepCABAC (Wiedemann et al. 2020, arXiv 1907.11900).

The integers are a matrix, the last axis its columns, all others its rows. Row by row come the flags

    P_q != 0        of all columns
    P_q > 0         of those that are set
    abs(P_q) > k    of those where the flag before is set, for k = 1, 2, ... while there are any

in the ANS coder of `lqs.file.ans`. Let `n` be the number of flags of the same kind and context in all rows above, and
`a` the number of ones among them. A flag is 1 with the frequency

    (2 * a + 1) * (2**24 - 2) // (2 * n + d) + 1        of 2**24

where `d` is 16 for the first kind and 2 for the others; 0 comes first. With `i` the row and `L` the `line` of the
entry, the rows around it are `i - 1`, `i - L`, `i - L - 1`, `i - L + 1`, one of them twice if `L` is 2; those before
the first are zeros. The contexts are

    P_q != 0        (near, level, seen)
                    near: the numbers not zero in the same column of the rows around, those of the first two counted
                          twice, at most 3
                    level: half the bit length, rounded up, of how many are not zero in the rows around, at most 4
                    seen: the bit length of how many are not zero in the column so far, at most 4
    P_q > 0         the sign of the sum of the signs in the same column of the rows around
    abs(P_q) > k    k
"""

import numpy as np

from lqs.file.bins import PRECISION

MAX_SIDE = 2**14
MAX_ELEMENTS = 2**22
MAX_MAGNITUDE = 15
NUM_CONTEXTS = (4 * 5 * 5, 3, MAX_MAGNITUDE)  # of the three kinds
DENOMINATORS = (16, 2, 2)
_LEVEL = np.array([1, 4, 16, 64])  # from which on half the bit length, rounded up, is one more
_SEEN = np.array([0, 1, 2, 2, 3, 3, 3, 3, 4], "uint8")  # bit lengths


def decode(shape, line, next_flags):
    """Return a matrix of integers.

    Args:
        shape: of the matrix.
        line: number of rows between vertical neighbours.
        next_flags: function from the frequencies of some flags to these flags, a decoder's method `flags`.
    """
    num_rows, num_columns = shape
    result = np.zeros((num_rows + line + 1, num_columns), "int32")  # with rows of zeros above the first
    signs, result = np.zeros_like(result, "int64"), result[line + 1 :]
    seen = np.zeros(num_columns, "int64")
    models = [_Adaptive(*sizes) for sizes in zip(NUM_CONTEXTS, DENOMINATORS, strict=True)]
    not_zero, positive, more = [lambda contexts, m=model: m.decode(contexts, next_flags) for model in models]
    for index in range(num_rows):
        here = index + line + 1
        around = signs[[here - 1, here - line, here - line - 1, here - line + 1]]
        flags = not_zero(_contexts_of_zero(around, np.count_nonzero(around), seen))
        seen += flags
        columns = np.flatnonzero(flags)
        if columns.size == 0:
            continue
        signs[here, columns] = sign = np.where(positive(_contexts_of_sign(around[:, columns])), 1, -1)
        magnitude, going_on = np.ones(columns.size, "int32"), np.arange(columns.size)
        for smallest in range(1, MAX_MAGNITUDE + 1):
            going_on = going_on[more(np.full(going_on.size, smallest - 1))]
            magnitude[going_on] += 1
            if going_on.size == 0:
                break
        result[index, columns] = sign * magnitude
    return result


class Flags:
    """All flags of a matrix of integers, with their frequencies: what `decode` meets, computed for all rows at once.

    Args:
        matrix: integers of at most `MAX_MAGNITUDE`.
        line: number of rows between vertical neighbours.

    Example: 32 flags of columns, each with the frequency 1 / 16 of a 1 as long as nothing is known.

    >>> round(Flags(np.zeros((1, 32), "int32"), 2).num_bits(), 2)
    2.98
    """

    def __init__(self, matrix, line):
        num_rows, num_columns = matrix.shape
        not_zero = matrix != 0
        self.rows, columns = np.nonzero(not_zero)
        integers = matrix[self.rows, columns]
        self.magnitudes = np.abs(integers)
        around, num_around = _rows_around(np.sign(matrix).astype("int8"), line)
        seen = np.cumsum(not_zero, axis=0, dtype="int16") - not_zero
        self.all_rows = np.repeat(np.arange(num_rows), num_columns)
        self.flags = not_zero.ravel(), integers > 0
        self.contexts = (
            _contexts_of_zero(around, num_around, seen).ravel(),
            _contexts_of_sign(np.stack([signs[self.rows, columns] for signs in around])),
        )
        self.counts = [
            _counts(num_rows, NUM_CONTEXTS[0], self.all_rows, self.contexts[0], self.flags[0]),
            _counts(num_rows, NUM_CONTEXTS[1], self.rows, self.contexts[1], self.flags[1]),
            _counts_of_magnitudes(num_rows, self.rows, self.magnitudes),
        ]
        self.frequencies = [
            _frequencies(total, ones, denominator)
            for (total, ones), denominator in zip(self.counts, DENOMINATORS, strict=True)
        ]

    def num_bits(self):
        """Return the information of all flags: about what their codes take, without coding them."""
        bits = 0.0
        for (total, ones), frequencies in zip(self.counts, self.frequencies, strict=True):
            bits -= np.sum(ones * np.log2(frequencies / 2**PRECISION))
            bits -= np.sum((total - ones) * np.log2(1 - frequencies / 2**PRECISION))
        return float(bits)

    def in_order(self):
        """Return all flags, and the frequency of a 1 of each, in the order in which they are coded."""
        groups = [
            (self.all_rows, self.flags[0], self.frequencies[0][self.all_rows, self.contexts[0]]),
            (self.rows, self.flags[1], self.frequencies[1][self.rows, self.contexts[1]]),
        ]
        for smallest in range(1, MAX_MAGNITUDE + 1):
            is_as_large = self.magnitudes >= smallest
            rows, flags = self.rows[is_as_large], self.magnitudes[is_as_large] > smallest
            groups.append((rows, flags, self.frequencies[2][rows, smallest - 1]))
        positions = _positions([rows for rows, *_ in groups], len(self.counts[0][0]))
        flags = np.empty(sum(map(len, positions)), bool)
        frequencies = np.empty(flags.size, "int64")
        for position, (_, some_flags, some_frequencies) in zip(positions, groups, strict=True):
            flags[position], frequencies[position] = some_flags, some_frequencies
        return flags, frequencies


def best_line(matrix):
    """Return how many rows below its own a row finds most of its elements that are not zero again, at least two."""
    num_rows = len(matrix)
    spectrum = np.fft.rfft(matrix != 0, 2 * num_rows, axis=0)
    in_common = np.fft.irfft((np.abs(spectrum) ** 2).sum(1))[:num_rows]
    return 2 + int(np.argmax(in_common[2:].round())) if num_rows > 2 else 2


class _Adaptive:
    """Counts of the flags of a kind by their contexts, row by row."""

    def __init__(self, num_contexts, denominator):
        self.total, self.ones = np.zeros((2, num_contexts), "int64")
        self.denominator = denominator

    def decode(self, contexts, next_flags):
        """Return the flags of a row that have these contexts, and count them."""
        flags = next_flags(_frequency(self.total, self.ones, self.denominator)[contexts])
        self.total += np.bincount(contexts, minlength=self.total.size)
        self.ones += np.bincount(contexts[flags], minlength=self.ones.size)
        return flags


def _frequency(total, ones, denominator):
    return (2 * ones + 1) * (2**PRECISION - 2) // (2 * total + denominator) + 1


def _frequencies(total, ones, denominator):
    """Return the frequencies in each row, of counts in each row: those of the rows above count."""
    return _frequency(np.cumsum(total, 0) - total, np.cumsum(ones, 0) - ones, denominator)


def _contexts_of_zero(around, num_around, seen):
    """Return the contexts of `P_q != 0`, by the signs in four rows around, how many are not zero, and `seen`."""
    above, line_above, *beside = [signs != 0 for signs in around]
    near = np.minimum(2 * above.view("uint8") + 2 * line_above.view("uint8") + beside[0] + beside[1], 3)
    level = np.searchsorted(_LEVEL, num_around, side="right").astype("uint8")
    return (near * np.uint8(5) + level[..., None]) * np.uint8(5) + _SEEN[np.minimum(seen, 8)]


def _contexts_of_sign(around):
    return np.sign(around.sum(0)) + 1


def _rows_around(signs, line):
    """Return the signs in the four rows around every row, and how many of these are not zero."""
    num_rows = len(signs)
    padded = np.concatenate([np.zeros((line + 1, signs.shape[1]), signs.dtype), signs])
    num_set = np.count_nonzero(padded, axis=1)
    starts = [line + 1 - offset for offset in (1, line, line + 1, line - 1)]
    around = [padded[start : start + num_rows] for start in starts]
    return around, sum(num_set[start : start + num_rows] for start in starts)


def _counts(num_rows, num_contexts, rows, contexts, flags):
    """Return how often each context comes in each row, in all and with a 1."""
    cells = rows * num_contexts + contexts
    total, ones = (np.bincount(some, minlength=num_rows * num_contexts) for some in (cells, cells[flags]))
    return total.reshape(num_rows, -1), ones.reshape(num_rows, -1)


def _counts_of_magnitudes(num_rows, rows, magnitudes):
    """Return the same of the flags `abs(P_q) > k`: how many integers are at least `k`, and how many are more."""
    num = MAX_MAGNITUDE + 2
    histogram = np.bincount(rows * num + magnitudes, minlength=num_rows * num).reshape(num_rows, num)
    at_least = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    return at_least[:, 1:-1], at_least[:, 2:]


def _positions(rows_of_groups, num_rows):
    """Return where the flags of each group go, of which the rows are given: by row, then by group."""
    lengths = np.stack([np.bincount(rows, minlength=num_rows) for rows in rows_of_groups], axis=1)
    starts = np.cumsum(lengths).reshape(lengths.shape) - lengths
    shifts = starts - (np.cumsum(lengths, axis=0) - lengths)
    return [np.arange(len(rows)) + shifts[rows, group] for group, rows in enumerate(rows_of_groups)]
