"""Files: found and checked before they are read, written whole or not at all.

A file of a data set is looked for

    1. in the cache: the folder `LQS_DATA`, by default `data/raw` of the checkout or of the current directory;
    2. at the mirror, if any: the folder or URL `LQS_MIRROR`;
    3. at its publishers.

A copy counts only if its content is the published one.
"""

import functools
import io
import lzma
import os
import re
import shutil
import sys
import tarfile
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch

from lqs.file.atomic import replacing
from study.paths import RAW

MAX_MEMBER_BYTES = 2**26
# What a missing, partial or foreign copy raises.
UNUSABLE = (OSError, ValueError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Args:
        folder: folder of the data set, in the cache and at the mirror.
        hashes: its names, best first, each with `"algorithm:digest"`, or with `None` where `read` alone checks
            the content.
        urls: where its publishers have it.
        read: function `(path, known_hash)` that returns the content or raises one of `UNUSABLE`.
    """

    folder: str
    hashes: dict
    urls: tuple
    read: Callable


def cache_folder(cache=None):
    """Return the cache as a path: `cache`, `LQS_DATA`, or `data/raw` of the checkout or current directory."""
    if cache or os.environ.get("LQS_DATA"):
        return Path(cache or os.environ["LQS_DATA"]).expanduser()
    return RAW


def obtain(file, cache, mirror=None):
    """Return path and content of a `File`, from the first of cache, mirror and publishers that has it whole.

    Args:
        file: the `File`.
        cache: path of the folder that keeps the files.
        mirror: folder or URL (http, https, file), or `None`.

    Raises:
        ConnectionError: if no source has a usable copy; it says where to put one.
    """
    failures = []
    for path, url in _places(file, cache, mirror):
        read = functools.partial(file.read, known_hash=file.hashes[path.name])
        try:
            return path, _fetch(url, path, read) if url else read(path)
        except UNUSABLE as error:
            failures.append(f"    {url or path}: {error or type(error).__name__}")
    raise ConnectionError(
        f"No usable copy of {' or '.join(file.hashes)}. Put the file into {cache / file.folder}, or set the "
        f"environment variable LQS_MIRROR to a folder or URL that has it in {file.folder}/. "
        + "\n".join(["Tried:", *failures])
    )


def check_hash(path, known_hash):
    """Raise a `ValueError` unless the file has the hash `"algorithm:digest"`."""
    algorithm, digest = known_hash.split(":")
    if (found := pooch.file_hash(str(path), alg=algorithm)) != digest:
        raise ValueError(f"its {algorithm} is {found}, not the published {digest}")


def read_tar(path, pattern):
    """Yield `(name, bytes)` of an archive's files whose whole name matches a regular expression.

    Files of more than `MAX_MEMBER_BYTES` are left out.

    Raises:
        ValueError: if a member is a link, a device or has a path that leaves the archive.
    """
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if not (member.isfile() or member.isdir()) or name.is_absolute() or ".." in name.parts:
                raise ValueError(f"member {member.name!r} is a link, a device or outside of the archive")
            if member.isfile() and re.fullmatch(pattern, str(name)) and member.size <= MAX_MEMBER_BYTES:
                content = archive.extractfile(member)
                assert content is not None  # a plain file has content
                yield str(name), content.read()


def write_tar(path, members):
    """Write `{name: bytes}` as an uncompressed tar."""
    with replacing(path) as partial, tarfile.open(partial, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def _places(file, cache, mirror):
    """Yield `(path in the cache, url)` of the copies to try, with `url=None` for those in the cache."""
    paths = [cache / file.folder / name for name in file.hashes]
    yield from ((path, None) for path in paths if path.exists())
    if mirror:
        base = str(mirror) if "://" in str(mirror) else Path(mirror).expanduser().resolve().as_uri()
        yield from ((path, f"{base.rstrip('/')}/{file.folder}/{path.name}") for path in paths)
    yield from ((cache / file.folder / url.rsplit("/", 1)[1], url) for url in file.urls)


def _fetch(url, path, read):
    """Copy `url` to `path` if its content is whole, and return the content."""
    with replacing(path) as partial:
        parts = urllib.parse.urlparse(url)
        if parts.scheme == "file":
            shutil.copyfile(urllib.request.url2pathname(parts.path), partial)
        else:  # a bar in a notebook's output would differ from run to run
            pooch.HTTPDownloader(progressbar=sys.stderr.isatty())(url, str(partial), None)
        return read(partial)
