"""Constants of the `.lqs` format, its error and its deflate streams; `docs/format.md` describes the format."""

import struct
import zlib
from pathlib import Path

MAGIC = b"\x93LQS"
VERSION = 2
# Of files in which an entry has this key or this coding, the higher version where there are several.
VERSION_WITH = {"levels": 3, "axes": 4, "mixing": 4}
KNOWN_VERSIONS = (VERSION, *sorted(set(VERSION_WITH.values())))
PREFIX = struct.Struct("<4sBII")  # magic, version, bytes of the header: stored, inflated
CHECKSUM = struct.Struct("<I")
MAX_HEADER_BYTES = 2**26
MAX_BYTES = 2**31
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*FLOATS, "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
INT32 = (-(2**31), 2**31 - 1)
NUM_SECTIONS = {"raw": 1, "deflate": 1, "fixed": 1, "ans": 3, "contexts": 1, "mixing": 1}
# Preset dictionary of the headers' deflate streams. Part of the format: it never changes.
DICTIONARY = Path(__file__).with_name("header.dict").read_bytes()


class FileFormatError(ValueError):
    """A file is not a whole and well-formed `.lqs` file."""


def check(condition, message):
    """Raise a `FileFormatError` unless the condition holds."""
    if not condition:
        raise FileFormatError(f"The file is not a well-formed .lqs file: {message}")


def deflate(content, dictionary=b""):
    """Return a raw deflate stream of bytes."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return stream.compress(content) + stream.flush()


def inflate(data, num_bytes, dictionary=b""):
    """Return the content of a raw deflate stream, of exactly `num_bytes`."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS, zdict=dictionary)
    content = stream.decompress(data, num_bytes + 1)
    check(stream.eof and not stream.unused_data and len(content) == num_bytes, "a stream is too short or too long")
    return content
