"""Tests of `lqs.file.mixing`: by its description in plain Python, and by codes that stay what they are."""

import math
import zlib
from collections import defaultdict

import numpy as np
import pytest

from lqs.file import compiled, mixing
from lqs.file.ans import NumpyDecoder, words_of
from lqs.file.compiled import CompiledDecoder
from lqs.file.layout import FileFormatError
from lqs.file.reader import parse
from lqs.file.writer import encode_integers, pack

pytestmark = pytest.mark.once
DECODERS = [NumpyDecoder, CompiledDecoder]


def sparse(rng, shape, density, largest):
    """Return integers of which the first and the last are as large as any may be."""
    integers = np.where(rng.random(shape) < density, np.rint(rng.laplace(0, largest / 3, shape)), 0)
    integers = integers.clip(-largest, largest).astype("int32")
    integers.flat[0], integers.flat[-1] = -largest, largest
    return integers


def encoded(matrix, line):
    return compiled.encode_flags(*mixing.flags_of(matrix, line))


def decoded(codes, shape, line, decoder):
    flags = decoder(words_of(codes))
    integers = mixing.decode(shape, line, flags.flags)
    flags.finish()
    return integers


class Kind:
    """Models, weights and counts of a kind of flags, one flag at a time, in plain Python."""

    def __init__(self, num_models, d):
        self.weights, self.power, self.d = [78643 // num_models] * num_models, 2**34, d
        self.counts, self.base = defaultdict(lambda: [0, 0]), defaultdict(lambda: [0, 0])

    def code(self, contexts, flags, step=0):
        """Yield the flags of a step, with their frequencies, and learn from them."""
        keys = [list(enumerate(context)) for context in contexts]
        for key in {key for of_flag in keys for key in of_flag}:
            while sum(self.counts[key]) > 32 * 4095:
                self.counts[key] = [count >> 1 for count in self.counts[key]]
        n, a = self.base[step]
        q = 4096 * (2 * a + 1) // (2 * n + self.d)
        b = T(q + 1) - T(4096 - q)
        gradient, power = [0] * len(self.weights), 0
        for of_flag, flag in zip(keys, flags, strict=True):
            counts = [self.counts[key] for key in of_flag]
            x = [T(ones + q // 128 + 1) - T(zeros + 32 - q // 128) - b for zeros, ones in counts]
            y = b + (sum(w * each for w, each in zip(self.weights, x, strict=True)) >> 16)
            f = S(min(max(y, -3071), 3071))
            yield int(flag), f
            r = (int(flag) * 2**24 - f) >> 12
            gradient = [g + r * each for g, each in zip(gradient, x, strict=True)]
            power += sum(abs(r) * each**2 for each in x)
        self.power += power - (self.power >> 3)
        step_size = ((self.power + 2**34) >> 8) + 1
        self.weights = [w + (g << 16) // step_size for w, g in zip(self.weights, gradient, strict=True)]
        for of_flag, flag in zip(keys, flags, strict=True):
            for key in of_flag:
                self.counts[key][int(flag)] += 32
            self.base[step] = [self.base[step][0] + 1, self.base[step][1] + int(flag)]


SUMS, EXPONENTIALS = [2**41], [2**64]
for index in range(1, 4096 * 33):
    SUMS.append(SUMS[-1] + 2**41 // (2 * index + 1))
for _ in range(3071):
    EXPONENTIALS.append(EXPONENTIALS[-1] * 18374827034086858296 >> 64)


def T(i):
    return 256 * SUMS[i] >> 40


def S(y):
    return 2**24 - S(-y) if y < 0 else 2**88 // (2**64 + EXPONENTIALS[y])


def sign(x):
    return (x > 0) - (x < 0)


def limited(x, most):
    return min(max(x, -most), most)


def flags_by_definition(matrix, line):
    """Return all flags of a matrix, a list of rows, with the frequency of a 1 of each."""
    zero, positive, more = Kind(7, 16), Kind(8, 2), Kind(4, 2)
    result = []
    for i, row in enumerate(matrix):
        p, block = i % line, i // line
        above = [matrix[j] if j >= 0 else [0] * len(row) for j in (i - 1, i - line, i - line - 1, i - line + 1)]
        above += [matrix[j] if j >= 0 else [0] * len(row) for j in (i - 2, i - 2 * line)]
        level = min(math.ceil(sum(x != 0 for other in above[:4] for x in other).bit_length() / 2), 4)
        of_zero, of_sign, of_more = [], [], []
        for c in range(len(row)):
            v = [other[c] for other in above]
            own = [c, p, (p, c), (block, c)]
            near = min(sum(weight for weight, x in zip((2, 2, 1, 1), v, strict=False) if x), 3)
            seen = min(sum(matrix[j][c] != 0 for j in range(i)).bit_length(), 7)
            magnitudes = min(abs(v[0]), 3), min(abs(v[1]), 3)
            of_zero.append([*own, tuple(x == 0 for x in v), (near, level, min(seen, 4)), (*magnitudes, seen)])
            signs = tuple(map(sign, v[:4]))
            of_place = limited(sum(sign(matrix[j][c]) for j in range(p, i, line)), 4)
            of_block = limited(sum(sign(matrix[j][c]) for j in range(block * line, i)), 4)
            near_values = limited(v[0], 2), limited(v[1], 2)
            of_sign.append([*own, signs, near_values, sign(sum(signs)), (of_place, of_block)])
            of_more.append([[(c, m), (p, m), (*magnitudes, m), (min(abs(v[0]) + abs(v[1]), 9), m)] for m in range(4)])
        result += zero.code(of_zero, [x != 0 for x in row])
        left = [c for c, x in enumerate(row) if x]
        if left:
            result += positive.code([of_sign[c] for c in left], [row[c] > 0 for c in left])
        for k in range(1, 16):
            if left:
                contexts = [of_more[c][min(k - 1, 3)] for c in left]
                result += more.code(contexts, [abs(row[c]) > k for c in left], ("k", k))
            left = [c for c in left if abs(row[c]) > k]
        rest = [abs(row[c]) - 15 for c in left]
        widths = [x.bit_length() - 1 for x in rest]
        for j in range(16):
            going_on = [c for c, width in zip(left, widths, strict=True) if width >= j]
            if going_on:
                flags = [width > j for width in widths if width >= j]
                result += more.code([of_more[c][3] for c in going_on], flags, ("j", j))
        for bit in range(max(widths, default=0) - 1, -1, -1):
            result += [(x >> bit & 1, 2**23) for x, width in zip(rest, widths, strict=True) if width > bit]
    return result


@pytest.mark.parametrize(
    ("shape", "line", "density", "largest"),
    [
        ((60, 20), 2, 0.05, 2),
        ((40, 30), 7, 0.5, 3),
        ((20, 10), 20, 0.9, 40),
        ((1, 60), 2, 0.4, 16),
        ((60, 1), 3, 0.4, 15),
        ((7, 5), 3, 0.8, mixing.MAX_MAGNITUDE),
        ((5, 900), 2, 0.02, 1),  # whose counts are halved
    ],
)
def test_flags_and_frequencies_by_definition(shape, line, density, largest, rng):
    matrix = sparse(rng, shape, density, largest)
    flags, frequencies = mixing.flags_of(matrix, line)
    expected = flags_by_definition(matrix.tolist(), line)
    assert list(zip(flags.tolist(), frequencies.tolist(), strict=True)) == expected
    assert min(frequencies) > 0 and max(frequencies) < 2**24
    codes = compiled.encode_flags(flags, frequencies)
    for decoder in DECODERS:
        np.testing.assert_array_equal(decoded(codes, shape, line, decoder), matrix)


def test_codes_stay_what_they_are():
    """A matrix of a formula, so that no generator of random numbers has to stay what it is."""
    i, j = np.divmod(np.arange(1500), 25)
    matrix = ((i * i + 3 * j) % 11 // 8 * ((i // 6 + j) % 5 - 2) * (1 + (i * j) % 97 // 90 * 20)).reshape(60, 25)
    codes = encoded(matrix.astype("int32"), 6)
    assert np.bincount(np.abs(matrix).ravel(), minlength=43)[[0, 1, 2, 21, 42]].tolist() == [1175, 147, 151, 17, 10]
    assert (len(codes), zlib.crc32(codes)) == (240, 1244154377)
    for decoder in DECODERS:
        np.testing.assert_array_equal(decoded(codes, matrix.shape, 6, decoder), matrix)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("value", [0, 1, -1, 15, 16, -mixing.MAX_MAGNITUDE])
def test_equal_integers(decoder, value):
    """What is always the same takes no bits, but for those below a bit length."""
    matrix = np.full((300, 8), value, "int32")
    codes = encoded(matrix, 2)
    assert len(codes) <= (300 if abs(value) < 32 else 5200)
    np.testing.assert_array_equal(decoded(codes, matrix.shape, 2, decoder), matrix)


@pytest.mark.parametrize("decoder", DECODERS)
def test_sudden_changes(decoder, rng):
    """Learned weights and counts are wrong by far at once: numbers stay in range."""
    matrix = np.zeros((120, 300), "int32")
    matrix[80:90] = rng.integers(-40, 41, (10, 300))
    matrix[100:] = 1
    codes = encoded(matrix, 20)
    np.testing.assert_array_equal(decoded(codes, matrix.shape, 20, decoder), matrix)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("seed", range(20))
def test_any_words_are_decoded_or_refused(decoder, seed):
    """And all integers are below twice the largest magnitude."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 2**32, rng.integers(0, 200), "uint32") | np.uint32(seed % 2 * 2**31)
    flags = decoder(words)
    integers = mixing.decode((30, 20), 1 + seed % 9 + 1, flags.flags)
    assert np.abs(integers).max() <= 2 * mixing.MAX_MAGNITUDE


def test_mixing_is_written_where_it_takes_less(rng):
    """A matrix whose rows have densities of their own: its columns are coded as rows."""
    density = rng.uniform(0, 1, (120, 1)) ** 6
    integers = ((rng.random((120, 60)) < density) * rng.choice([-2, 1], (120, 60))).astype("int32")
    entry, sections = encode_integers(integers, np.ones((1, 1), "float32"))
    fast, fast_sections = encode_integers(integers, np.ones((1, 1), "float32"), slow=False)
    assert entry["coding"] == "mixing" and len(sections[0]) < 0.97 * sum(map(len, fast_sections[:-1]))
    content = pack({}, [({"name": "a", **entry}, sections)])
    assert content[4] == 4 and fast["coding"] != "mixing"
    for decoder in DECODERS:
        np.testing.assert_array_equal(parse(content, decoder=decoder).tensors[0].integers, integers)


def test_mixing_is_not_tried_where_contexts_find_nothing(rng, monkeypatch):
    monkeypatch.setattr(mixing, "flags_of", None)
    integers = rng.integers(-7, 8, (300, 200), "int32")
    assert encode_integers(integers, np.ones((1, 1), "float32"))[0]["coding"] == "ans"


def test_larger_integers_than_the_reader_takes(rng):
    limit = mixing.MAX_MAGNITUDE
    integers = np.where(rng.random((50, 20)) < 0.02, 1, 0).astype("int32")
    for largest, coding in ((limit, "mixing"), (limit + 1, "ans")):
        integers[0, 0] = largest
        assert encode_integers(integers, np.ones((1, 1), "float32"))[0]["coding"] == coding
    entry, sections = encode_integers(np.where(integers > 1, limit, integers), np.ones((1, 1), "float32"))
    with pytest.raises(FileFormatError, match="a: range too large"):
        parse(pack({}, [({"name": "a", **entry, "max": limit + 1}, sections)]))
