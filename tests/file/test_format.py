"""Tests of `docs/format.md`: its example is a file, and its limits are the code's."""

import json
import re
from pathlib import Path

import numpy as np

from lqs.file import bins, contexts, layout, mixing
from lqs.file.dictionary import header_text, make_dictionary
from lqs.file.reader import parse
from lqs.file.writer import encode_integers, pack

TEXT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def example():
    (block,) = re.findall(r"```\n(93 .*?)```", TEXT, re.DOTALL)
    digits = [re.match(r"(?:[0-9a-f]{2}\s{1,2})+", f"{line}\n").group() for line in block.splitlines()]
    return bytes.fromhex("".join(digits))


def test_example_is_what_is_written_and_read():
    content = example()
    (tensor,) = parse(content).tensors
    assert tensor.integers.tolist() == [-2, 0, 3] and tensor.array.tolist() == [-1, 0, 1.5]
    entry, sections = encode_integers(np.array([-2, 0, 3], "int32"), np.array([0.5], "float32"))
    header = json.loads(re.search(r"```json\n(.*?)\n```", TEXT).group(1))
    assert header == {"model": {"class_name": "none"}, "tensors": [{"name": "a", **entry}]}
    packed = pack(header["model"], [({"name": "a", **entry}, sections)])
    assert parse(packed).configuration == header["model"] and len(content) == 55
    assert header_text(content) == json.dumps(header, separators=(",", ":")).encode()


def test_limits():
    superscripts = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    row = {line.split("|")[1].strip(): line.split("|")[2] for line in TEXT.splitlines() if line.count("|") == 3}
    for name, limits in {
        "header, inflated": [layout.MAX_HEADER_BYTES],
        "arrays together, 8 bytes counted for each element": [layout.MAX_BYTES],
        "bins of a table": [bins.MAX_BINS],
        "`contexts`": [contexts.MAX_SIDE, contexts.MAX_ELEMENTS],
    }.items():
        for limit in limits:
            exponent = str(limit.bit_length() - 1).translate(superscripts)
            assert limit & (limit - 1) == 0 and f"2{exponent}" in row[name], name
    assert f"magnitude {contexts.MAX_MAGNITUDE}" in row["`contexts`"]
    assert f"magnitude {mixing.MAX_MAGNITUDE:,}" in row["`mixing`"]
    assert f"`octave` of {bins.MAX_OCTAVE}" in row["bins of a table"]


def test_dictionary_is_the_end_of_headers():
    assert make_dictionary([example(), example()]) == 2 * header_text(example())
    long = pack({"a": "x" * 40_000}, [])
    assert make_dictionary([example(), long]) == header_text(long)[-(2**15) :]
