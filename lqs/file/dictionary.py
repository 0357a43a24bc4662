"""Makes a preset dictionary for headers: what many models have in common, so that it takes no bytes in their files.

    python -m lqs.file.dictionary NEW.dict SAMPLE.lqs ...

A dictionary is the end of the samples' headers, one after another, as much of it as deflate can look back. What most
files have should come last, where it takes the fewest bits. Headers that are written without names of modules need
samples of this version.

**The committed `header.dict` is part of the format and must never be made again**: every file in the world is read with
it. By its content, it was made in this way, in two steps, from parts of headers:

1. The end of that of a residual float network for inputs of 16 x 16 x 3, with depthwise convolution, normalizations and
   regularizers; then a quantized convolution of 8 filters for 28 x 28 x 1, with `Frozen` and `DifferencePenalty`; then
   a quantized layer of 784 x 128 with `GradientRatio`.
2. After that, two networks with a log scale, `StraightThrough` and `CodeLengthPenalty`: a convolution of 32 filters for
   32 x 32 x 3, and 784-64-10. The whole was cut to its last 32 KiB.

The samples are of 2026-11-23 and 24, when modules had other names. Another dictionary needs another version of the
format.
"""

import sys
from pathlib import Path

from lqs.file.layout import DICTIONARY, PREFIX, inflate
from lqs.file.reader import parse_header

WINDOW = 2**15  # how far deflate looks back


def header_text(content):
    """Return the JSON text of the header in the bytes of a file."""
    parse_header(content)
    _, _, stored, inflated = PREFIX.unpack_from(content)
    return inflate(content[PREFIX.size : PREFIX.size + stored], inflated, DICTIONARY)


def make_dictionary(contents):
    """Return a preset dictionary of the headers of files, given as bytes, the most typical one last."""
    return b"".join(map(header_text, contents))[-WINDOW:]


def main(output, *samples):
    """Write the dictionary of some sample files."""
    Path(output).write_bytes(make_dictionary([Path(sample).read_bytes() for sample in samples]))


if __name__ == "__main__":
    main(*sys.argv[1:])
