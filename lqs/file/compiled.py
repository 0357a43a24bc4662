"""The coder of `lqs.file.ans` as compiled code, by the package constriction; its encoder, too."""

import constriction
import numpy as np

from lqs.file.bins import PRECISION
from lqs.file.layout import check

_ans = constriction.stream.stack.AnsCoder
_Categorical = constriction.stream.model.Categorical


class CompiledDecoder:
    """Does what `lqs.file.ans.NumpyDecoder` does, at the speed of compiled code."""

    def __init__(self, words):
        self.coder = _ans(words.astype("uint32"))

    def symbols(self, num_symbols, cumulative):
        return self.coder.decode(_model(cumulative), num_symbols)

    def flags(self, frequencies):
        return self.coder.decode(*_flag_models(frequencies)).astype(bool)

    def finish(self):
        check(self.coder.is_empty(), "codes are left over")


def encode_symbols(symbols, cumulative):
    """Return the codes of symbols with these cumulative frequencies, in the order in which they are decoded."""
    return _encode(symbols, _model(cumulative))


def encode_flags(flags, frequencies):
    """Return the codes of flags, each with its own frequency of a 1."""
    return _encode(flags, *_flag_models(frequencies))


def _encode(symbols, *model):
    coder = _ans()
    coder.encode_reverse(symbols.astype("int32"), *model)
    return coder.get_compressed().astype("<u4").tobytes()


def _model(cumulative):
    """Return constriction's model with exactly these frequencies.

    It gives every symbol one of the `2**24` slots and divides the others in proportion to the probabilities. In
    float64, the sums of these are exact.
    """
    return _Categorical((np.diff(cumulative) - 1) / 2.0**PRECISION, perfect=False)


def _flag_models(frequencies):
    """Return constriction's model of flags, and its parameters for each one: exactly these frequencies of a 1."""
    both = np.stack([2**PRECISION - frequencies, frequencies], 1)
    return _Categorical(perfect=False), (both - 1) / 2.0**PRECISION
