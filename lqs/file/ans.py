"""Asymmetric numeral systems: a stream coder with 64 bits of state and words of 32 (Duda 2013, arXiv 1311.2540).

`NumpyDecoder` is the definition, and `lqs.file.compiled` has the same coder by the package constriction, as compiled
code. Both have the methods `symbols`, `flags` and `finish`.
"""

import bisect

import numpy as np

from lqs.file.bins import PRECISION
from lqs.file.layout import check

MASK = 2**PRECISION - 1


def fastest_decoder():
    """Return `CompiledDecoder` where constriction is installed, else `NumpyDecoder`."""
    try:
        from lqs.file.compiled import CompiledDecoder
    except ImportError:
        return NumpyDecoder
    return CompiledDecoder


def words_of(section):
    """Return the words of a section of codes."""
    check(len(section) % 4 == 0, "codes are no whole words")
    words = np.frombuffer(section, "<u4")
    check(words.size == 0 or words[-1] != 0, "codes end in a word of zeros")
    return words


class NumpyDecoder:
    """Decodes what a stream ANS coder coded into 32-bit words.

    Args:
        words: array of the words, the last one first to be read.
    """

    def __init__(self, words):
        self.words, self.state = words.tolist(), 0
        for _ in range(min(2, len(self.words))):
            self._refill()

    def symbols(self, num_symbols, cumulative):
        """Return the next symbols, which have these cumulative frequencies."""
        starts, frequencies = cumulative.tolist(), np.diff(cumulative).tolist()
        symbols = np.empty(num_symbols, "int32")
        for index in range(num_symbols):
            symbol = bisect.bisect_right(starts, self.state & MASK) - 1
            self._advance(starts[symbol], frequencies[symbol])
            symbols[index] = symbol
        return symbols

    def flags(self, frequencies):
        """Return the next flags, each with its own frequency of a 1."""
        flags = np.empty(len(frequencies), bool)
        for index, frequency in enumerate(frequencies.tolist()):
            start = 2**PRECISION - frequency
            flag = (self.state & MASK) >= start
            self._advance(*((start, frequency) if flag else (0, start)))
            flags[index] = flag
        return flags

    def finish(self):
        """Raise a `FileFormatError` unless everything is decoded."""
        check(self.state == 0 and not self.words, "codes are left over")

    def _advance(self, start, frequency):
        self.state = (self.state >> PRECISION) * frequency + (self.state & MASK) - start
        if self.state < 2**32 and self.words:
            self._refill()

    def _refill(self):
        self.state = self.state << 32 | self.words.pop()
