"""The coding `mixing`: flags by several adaptive models, whose probabilities are mixed by weights that are learned.

Mixing in the logistic domain is that of the compressors PAQ (Mahoney 2005, Florida Tech CS-2005-16). Here models and
weights change from row to row only, so that NumPy computes whole rows, and all numbers are integers, so that every
machine computes the same. `//` and `>>` round down.

The integers are a matrix with a `line`, as in `lqs.file.contexts`. Row by row come the steps

    P_q != 0        of all columns
    P_q > 0         of those that are set
    abs(P_q) > k    of those where the flag before is set, for k = 1, ..., 15 while there are any
    w > j           of those where the last flag is set, for j = 0, ..., 15 while there are any

in the ANS coder of `lqs.file.ans`; after them the lower `w` bits of `abs(P_q) - 15`, whose bit length is `w + 1`: bit
by bit from the highest in the row on, each with the frequency `2**23`.

A flag has one context in each model of its kind; the last two steps are one kind. A context has counts `C0` and `C1`
of the zeros and ones before this row, in units of 1 / 32. With `n` the number of flags in rows above of the same kind,
and for the last kind of the same `k` or `j`, and `a` of them ones, a flag is 1 with the frequency `f` of `2**24`:

    q = 4096 * (2 * a + 1) // (2 * n + d)                       d: 16 for the first kind, 2 for the others
    b = T[q + 1] - T[4096 - q]
    x = T[C1 + q // 128 + 1] - T[C0 + 32 - q // 128] - b        of each model
    y = b + (sum(weight * x) >> 16)                             limited to -3071, ..., 3071
    f = S[y] = 2**88 // (2**64 + e[y]),    S[-y] = 2**24 - S[y]

0 comes first. About 256 times a logarithm is `T[i] = 256 * sum(2**41 // (2 * j + 1) for j = 0, ..., i) >> 40`, and
`e[0] = 2**64`, `e[y + 1] = e[y] * 18374827034086858296 >> 64` is about `2**64 * exp(-y / 256)`. After a step

    r = (flag * 2**24 - f) >> 12
    power = power + sum(abs(r) * x**2) - (power >> 3)           over all flags and models; 2**34 at first
    weight = weight + (sum(r * x) << 16) // ((power + 2**34 >> 8) + 1)      over all flags, of each model

with the weights of a kind 78643 // (number of its models) at first, and 32 is added to a count for each flag. Before a
step, both counts of the contexts in it are halved while they are more than 32 * 4095 together.

With `i` the row, `c` the column, `L` the line, `p = i % L`, the integers `v1, ..., v6` of the same column in the rows
`i - 1`, `i - L`, `i - L - 1`, `i - L + 1`, `i - 2`, `i - 2 * L`, 0 before the first row, and `seen` the bit length of
how many are not zero in the column so far, at most 7, the contexts are

    P_q != 0 and P_q > 0    c;    p;    (p, c);    (i // L, c)
    P_q != 0                which of v1, ..., v6 are zero;    the context of `P_q != 0` in `lqs.file.contexts`;
                            (min(abs(v1), 3), min(abs(v2), 3), seen)
    P_q > 0                 the signs of v1, ..., v4;    (v1, v2), from -2 to 2;    the sign of the sum of the signs of
                            v1, ..., v4;    the sums of the signs so far, from -4 to 4, in (p, c) and in (i // L, c)
    the others              (c, m);    (p, m);    (min(abs(v1), 3), min(abs(v2), 3), m);
                            (min(abs(v1) + abs(v2), 9), m)    with m = min(k - 1, 3), and 3 for j
"""

import functools

import numpy as np

from lqs.file.bins import PRECISION

MAX_UNARY = 15  # flags of a magnitude before its bit length
MAX_WIDTH = 16  # bits below the highest one
MAX_MAGNITUDE = MAX_UNARY + 2**MAX_WIDTH - 1
DENOMINATORS = (16, 2, 2)
UNIT, LIMIT = 32, 4095  # of counts
QUANTA = 4096  # of the probability of a whole kind
NAT = 256  # of the logarithms
HIGHEST = 12 * NAT - 1
FIRST_WEIGHT = 78643  # of all models together; 2**16 is one
FIRST_POWER, DECAY = 2**34, 3
_DECAYED = 18374827034086858296  # exp(-1 / NAT) * 2**64
_LENGTHS = np.array([number.bit_length() for number in range(128)])
_SIX_FLAGS, _FOUR_SIGNS, _NEAR = np.array([32, 16, 8, 4, 2, 1]), np.array([27, 9, 3, 1]), np.array([2, 2, 1, 1])


def decode(shape, line, next_flags):
    """Return a matrix of integers.

    Args:
        shape: of the matrix.
        line: number of rows between vertical neighbours.
        next_flags: function from the frequencies of some flags to these flags, a decoder's method `flags`.
    """
    num_rows, num_columns = shape
    above = 2 * line  # rows of zeros
    result = np.zeros((above + num_rows, num_columns), "int64")
    columns, seen = np.arange(num_columns), np.zeros(num_columns, "int64")
    signs_of_place, signs_of_block = np.zeros((line, num_columns), "int64"), np.zeros(num_columns, "int64")
    sizes = [num_columns, line, line * num_columns, -(-num_rows // line) * num_columns]
    not_zero = _Mixer([*sizes, 2**6, 4 * 5 * 5, 4 * 4 * 8], DENOMINATORS[0])
    positive = _Mixer([*sizes, 3**4, 5 * 5, 3, 9 * 9], DENOMINATORS[1])
    more = _Mixer([4 * num_columns, 4 * line, 4 * 16, 4 * 10], DENOMINATORS[2])
    distances = np.array([1, line, line + 1, line - 1, 2, 2 * line])
    for index in range(num_rows):
        here, place, block = above + index, index % line, index // line
        around = result[here - distances]
        everywhere = columns, columns * 0 + place, columns + place * num_columns, columns + block * num_columns
        own = np.array(everywhere)
        flags = not_zero.code([*own, *_contexts_of_zero(np.abs(around), seen)], next_flags)
        (set_columns,) = flags.nonzero()
        if place == 0:
            signs_of_block[:] = 0
        if set_columns.size == 0:
            continue
        seen += flags
        around = around[:4, set_columns]
        sums = signs_of_place[place, set_columns], signs_of_block[set_columns]
        flags = positive.code([*own[:, set_columns], *_contexts_of_sign(around, *sums)], next_flags)
        signs = 2 * flags - 1
        signs_of_place[place, set_columns] += signs
        signs_of_block[set_columns] += signs
        contexts = np.array([4 * set_columns, 0 * set_columns + 4 * place, *_contexts_of_more(np.abs(around[:2]))])
        result[here, set_columns] = signs * _magnitudes(contexts, more, next_flags)
    return result[above:]


def _magnitudes(contexts, more, next_flags):
    """Return the magnitudes of integers that are not zero, in contexts of the first flag."""
    magnitudes, going_on = np.ones(contexts.shape[1], "int64"), np.arange(contexts.shape[1])
    for step in range(MAX_UNARY):
        going_on = going_on[more.code(contexts[:, going_on] + min(step, 3), next_flags, step)]
        if going_on.size == 0:
            return magnitudes
        magnitudes[going_on] += 1
    widths, longer = np.zeros(going_on.size, "int64"), np.arange(going_on.size)
    for step in range(MAX_WIDTH):
        longer = longer[more.code(contexts[:, going_on[longer]] + 3, next_flags, MAX_UNARY + step)]
        if longer.size == 0:
            break
        widths[longer] += 1
    rest = np.ones_like(widths)
    for bit in range(widths.max() - 1, -1, -1):
        (with_bit,) = np.nonzero(widths > bit)
        rest[with_bit] = 2 * rest[with_bit] + next_flags(np.full(with_bit.size, 2 ** (PRECISION - 1)))
    magnitudes[going_on] = MAX_UNARY + rest
    return magnitudes


def flags_of(matrix, line):
    """Return the flags of a matrix of integers and the frequencies of a 1 of each, in the order of coding."""
    steps, frequencies = _steps(matrix), []

    def next_flags(some):
        frequencies.append(some)
        flags.append(next(steps))
        return flags[-1]

    flags: list = []
    decode(matrix.shape, line, next_flags)
    return np.concatenate(flags), np.concatenate(frequencies)


def _steps(matrix):
    """Yield the flags of each step of `decode`."""
    for row in matrix:
        yield row != 0
        row = row[row != 0].astype("int64")
        if row.size == 0:
            continue
        yield row > 0
        left, k = np.abs(row), 0
        while left.size and k < MAX_UNARY:
            k += 1
            yield left > k
            left = left[left > k]
        if left.size:
            widths = np.frexp((left - MAX_UNARY).astype("float64"))[1] - 1
            longer, step = widths, 0
            while longer.size and step < MAX_WIDTH:
                yield longer > step
                longer, step = longer[longer > step], step + 1
            for bit in range(widths.max() - 1, -1, -1):
                yield (left[widths > bit] - MAX_UNARY) >> bit & 1 == 1


class _Mixer:
    """The models of a kind of flags, each with counts in so many contexts, and their weights."""

    def __init__(self, num_contexts, denominator):
        num_contexts = np.array(num_contexts)
        self.starts = 2 * (np.cumsum(num_contexts) - num_contexts)[:, None]
        self.counts = np.zeros(2 * num_contexts.sum(), "int64")  # zeros and ones in turn, in units
        self.weights = np.full(len(num_contexts), FIRST_WEIGHT // len(num_contexts))
        self.power, self.denominator = FIRST_POWER, denominator
        self.base = np.zeros((MAX_UNARY + MAX_WIDTH, 2), "int64")  # flags and ones
        self.stretch, self.squash = _tables()

    def code(self, contexts, next_flags, step=0):
        """Return the flags of a step, those with these contexts in each model, and learn from them."""
        places = 2 * np.asarray(contexts) + self.starts
        zeros, ones = self.counts.take(places), self.counts.take(places + 1)
        if (zeros + ones).max() > LIMIT * UNIT:
            zeros, ones = self._halved(places)
        num, num_ones = self.base[step].tolist()
        quanta = QUANTA * (2 * num_ones + 1) // (2 * num + self.denominator)
        prior = quanta * UNIT // QUANTA
        base = self.stretch[quanta + 1] - self.stretch[QUANTA - quanta]
        inputs = self.stretch.take(ones + (prior + 1)) - self.stretch.take(zeros + (UNIT - prior)) - base
        mixed = (self.weights @ inputs >> 16) + base
        frequencies = self.squash.take(np.minimum(np.maximum(mixed, -HIGHEST), HIGHEST) + HIGHEST)
        flags = next_flags(frequencies)
        error = (flags * 2**PRECISION - frequencies) >> 12
        self.power += (inputs * inputs @ np.abs(error)).sum() - (self.power >> DECAY)
        self.weights += (inputs @ error << 16) // ((self.power + FIRST_POWER >> 8) + 1)
        np.add.at(self.counts, (places + flags).ravel(), UNIT)
        self.base[step] += len(flags), np.count_nonzero(flags)
        return flags

    def _halved(self, places):
        """Return the counts of places, after halving those that are too many together."""
        pairs, places = self.counts.reshape(-1, 2), places >> 1
        while (too_many := pairs[places].sum(-1) > LIMIT * UNIT).any():
            pairs[places[too_many]] >>= 1
        return pairs[places, 0], pairs[places, 1]


@functools.cache
def _tables():
    """Return the tables `T` and `S`, the latter from `-HIGHEST` on."""
    odd = 2 * np.arange((LIMIT + 1) * UNIT + 1) + 1
    stretch = np.cumsum(2**41 // odd) * NAT >> 40
    squash, power = [], 2**64
    for _ in range(HIGHEST + 1):
        squash.append(2 ** (64 + PRECISION) // (2**64 + power))
        power = power * _DECAYED >> 64
    upper = np.array(squash)
    return stretch, np.concatenate([2**PRECISION - upper[:0:-1], upper])


def _contexts_of_zero(magnitudes, seen):
    near, far = np.minimum(magnitudes[:2], 3)
    is_set = magnitudes != 0
    level = min((int(np.count_nonzero(is_set[:4])).bit_length() + 1) // 2, 4)
    length = _LENGTHS.take(np.minimum(seen, 127))
    around = np.minimum(_NEAR @ is_set[:4], 3)
    return _SIX_FLAGS @ is_set, 25 * around + 5 * level + np.minimum(length, 4), 32 * near + 8 * far + length


def _contexts_of_sign(around, signs_of_place, signs_of_block):
    signs = np.sign(around)
    near, far = np.minimum(np.maximum(around[:2], -2), 2)
    of_place, of_block = np.minimum(np.maximum([signs_of_place, signs_of_block], -4), 4)
    return _FOUR_SIGNS @ signs + 40, 5 * near + far + 12, np.sign(signs.sum(0)) + 1, 9 * of_place + of_block + 40


def _contexts_of_more(magnitudes):
    near, far = np.minimum(magnitudes, 3)
    return 16 * near + 4 * far, 4 * np.minimum(magnitudes[0] + magnitudes[1], 9)
