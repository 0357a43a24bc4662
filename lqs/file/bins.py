"""Bins of integers, as the coding `ans` has them: tables of how probable they are, and packed bits of what is left.

With `m = P_q`, or `-1 - P_q` if that is negative, an integer has the exponent and the bin

    e = max(floor(log2(m)) - octave, 0)
    b = (e << octave) + (m >> e),    or -1 - b for a negative P_q

so that bins hold one integer each about 0, and there are `2**octave` of them to an octave further out. The lower `e`
bits of `m` are its remainder.
"""

import itertools

import numpy as np

from lqs.file.layout import check

PRECISION = 24  # bits of a frequency
MAX_OCTAVE = 15
MAX_BINS = 2**16
MAX_TABLE_SUM = 2**33  # what the writer scales the counts of a table down to


def bins(integers, octave):
    """Return bin, exponent `e` and remainder of each integer.

    Example:

    >>> [array.tolist() for array in bins(np.array([0, -1, 3, 4, 13]), 1)]
    [[0, -1, 3, 4, 7], [0, 0, 0, 1, 2], [0, 0, 0, 0, 1]]
    """
    integers = np.asarray(integers, "int64")
    negative = integers < 0
    magnitude = np.where(negative, -1 - integers, integers)
    exponent = np.maximum(np.frexp(magnitude.astype("float64"))[1] - 1 - octave, 0).astype("int64")
    bin_ = (exponent << octave) + (magnitude >> exponent)
    return np.where(negative, -1 - bin_, bin_), exponent, magnitude & ((1 << exponent) - 1)


def weights(table):
    """Return the weight that each byte of a table stands for.

    A byte `t` stands for `t` below 8, else for `(8 + t % 8) << (t // 8 - 1)`.

    Example:

    >>> weights(bytes([0, 7, 8, 15, 16, 17])).tolist()
    [0, 7, 8, 15, 16, 18]
    """
    code = np.frombuffer(table, "uint8").astype("int64")
    return np.where(code < 8, code, (8 + code % 8) << np.maximum(code // 8 - 1, 0))


_WEIGHTS = weights(bytes(range(256)))


def table_of(counts):
    """Return the bytes whose weights are nearest to counts, the lower one midway.

    Counts whose sum is more than `2**33` are scaled down first.

    Example:

    >>> list(table_of([0, 7, 16, 17, 18]))
    [0, 7, 16, 16, 17]
    """
    counts = np.asarray(counts, "float64")
    counts = counts / max(1.0, counts.sum() / MAX_TABLE_SUM)
    above = np.searchsorted(_WEIGHTS, counts).clip(1, 255)
    is_below_nearer = counts - _WEIGHTS[above - 1] <= _WEIGHTS[above] - counts
    return (above - is_below_nearer).astype("uint8").tobytes()


def cumulative_frequencies(table):
    """Return the frequencies of a table's bins as their cumulative sum, from 0 to `2**24`.

    With `c` the cumulative weights, `C` their sum and `B` the number of bins:

        c * (2**24 - B) // C + arange(B + 1)
    """
    cumulative = np.concatenate([[0], np.cumsum(weights(table))])
    check(0 < cumulative[-1] < 2**38, "the weights of a table are all zero or too large")
    num_bins = len(table)
    return cumulative * (2**PRECISION - num_bins) // cumulative[-1] + np.arange(num_bins + 1)


def best_octave(values, counts):
    """Return the resolution of bins that takes the fewest bits, and these; `None` and infinity if there is no table.

    Args:
        values: the distinct integers, in order.
        counts: how often each is there.
    """
    bits: dict[int | None, float] = {}
    for octave in range(MAX_OCTAVE + 1):
        bin_, exponent, _ = bins(values, octave)
        symbols = bin_ - bin_[0]
        if not 1 <= symbols[-1] < MAX_BINS:
            continue
        in_bin = np.bincount(symbols, counts)
        frequencies = np.diff(cumulative_frequencies(table_of(in_bin))) / 2**PRECISION
        bits[octave] = 8 * len(in_bin) - np.sum(in_bin * np.log2(frequencies)) + np.sum(exponent * counts)
        if not exponent.any():
            break  # a finer resolution changes nothing
    best = min(bits, key=bits.__getitem__, default=None)
    return best, bits.get(best, np.inf)


def pack_bits(groups, widths):
    """Return the bytes of the numbers of each group in its width of bits, most significant first.

    Example:

    >>> pack_bits([np.array([2, 5])], [3]).hex()
    '54'
    """
    digits = [
        ((group[:, None] >> np.arange(width - 1, -1, -1)) & 1).astype("uint8").ravel()
        for group, width in zip(groups, widths, strict=True)
    ]
    return np.packbits(np.concatenate([np.empty(0, "uint8"), *digits])).tobytes()


def unpack_bits(section, counts, widths):
    """Return `counts[i]` numbers of `widths[i]` bits each, for all `i` in turn, packed into a section.

    Example:

    >>> unpack_bits(bytes([0x54]), [2], [3]).tolist()
    [2, 5]
    """
    num_bits = sum(count * width for count, width in zip(counts, widths, strict=True))
    check(len(section) == -(-num_bits // 8), "packed bits have another length than their number says")
    bits = np.unpackbits(np.frombuffer(section, "uint8"), count=num_bits)
    starts = itertools.accumulate((count * width for count, width in zip(counts, widths, strict=True)), initial=0)
    numbers = [np.empty(0, "int64")]
    for start, count, width in zip(starts, counts, widths, strict=False):
        digits = bits[start : start + count * width].reshape(count, width)
        numbers.append(np.zeros(count, "int64"))
        for column in digits.T:
            numbers[-1] = numbers[-1] << 1 | column
    return np.concatenate(numbers)
