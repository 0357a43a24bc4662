"""Files of the datasets: fetched by pooch, and checked before they are used.

A file is looked for in three places:

1. the cache: the folder `LQS_DATA`, by default `data/raw` of the checkout;
2. the mirror: the folder or URL `LQS_MIRROR`, if there is one;
3. its publishers.
"""

import contextlib
import errno
import http.client
import lzma
import os
import re
import tarfile
import time
import urllib.request
import zlib
from pathlib import Path, PurePosixPath

import pooch
from tqdm import tqdm

from study.paths import RAW

TIMEOUT = 30  # seconds without a byte
MIN_SPEED = 20_000  # bytes per second: the mean since the start, after the first `TIMEOUT` seconds
MAX_SECONDS = 3600
# Limits of an archive. The largest are CIFAR-10 (186 MB) and Imagenette (13,394 images).
MAX_BYTES = 2**28
MAX_MEMBERS = 20_000
MAX_NAME_BYTES = 2**12
# A missing, partial or foreign copy raises one of these.
UNUSABLE = (OSError, ValueError, EOFError, http.client.HTTPException, tarfile.TarError, lzma.LZMAError, zlib.error)

pooch.get_logger().setLevel("WARNING")  # a notebook's output is the same with and without a download


def cache_folder(cache=None):
    """Return the cache as an absolute path: `cache`, or `LQS_DATA`, or `data/raw` of the checkout."""
    return Path(cache or os.environ.get("LQS_DATA") or RAW).expanduser().absolute()


def fetch(folder, registry, urls, read, cache=None, mirror=None):
    """Return path and content of the first usable copy of a file.

    Args:
        folder: folder of the dataset, in the cache and at the mirror.
        registry: names of the file, best first. Each has its hash as pooch writes it (`"md5:..."`), or `None` if
            `read` alone checks the content.
        urls: where the publishers have it. Each URL ends in one of the names.
        read: function of a path that returns the content, or raises one of `UNUSABLE` if it is not the published one.
        cache: folder that keeps the files. Default: see `cache_folder`.
        mirror: folder or URL (http, https, file). Default: the environment variable `LQS_MIRROR`.

    Raises:
        ConnectionError: if no source has a usable copy. The message says where to put one.
    """

    def download_checked(url, path, _):
        download(url, path)
        if registry[name] is None:  # otherwise pooch compares the hash before it moves the file into the cache
            read(Path(path))

    cache, failures = cache_folder(cache) / folder, []
    for url in _sources(cache, registry, urls, mirror or os.environ.get("LQS_MIRROR")):
        name = url.rsplit("/", 1)[1]
        try:
            path = Path(pooch.retrieve(url, registry[name], name, cache, downloader=download_checked))
            return path, read(path)
        except UNUSABLE as error:
            if _is_about_storage(error):
                raise
            failures.append(f"    {url}: {error or type(error).__name__}")
    raise ConnectionError(
        f"No usable copy of {' or '.join(registry)}. Put the file into {cache}, or set the environment variable "
        f"LQS_MIRROR to a folder or URL that has it in {folder}/. Tried:\n" + "\n".join(failures)
    )


def download(url, path):
    """Copy `url` to `path`, with a progress bar if there is a terminal.

    Raises:
        TimeoutError: if no byte comes for `TIMEOUT` seconds, or the mean speed is below `MIN_SPEED`, or it takes
            longer than `MAX_SECONDS`.
    """
    start = time.monotonic()
    Path(path).unlink(missing_ok=True)  # pooch's temporary file is readable by its owner alone
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(path, "wb") as file:
        total = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(total=total, desc=url.rsplit("/", 1)[1], unit="B", unit_scale=True, disable=None) as bar:
            while chunk := response.read1(2**16):  # returns whatever has arrived
                file.write(chunk)
                bar.update(len(chunk))
                seconds = time.monotonic() - start
                if seconds > MAX_SECONDS or (seconds > TIMEOUT and file.tell() < MIN_SPEED * seconds):
                    raise TimeoutError(f"too slow: {file.tell()} bytes in {seconds:.0f} seconds")


@contextlib.contextmanager
def storing(folder, need):
    """Replace the error of a folder that is read-only or full by one that says what to do.

    Args:
        folder: the cache.
        need: what needs how much space, for the message.
    """
    try:
        yield
    except OSError as error:
        if not _is_about_storage(error):
            raise
        reason = error.strerror or error
        message = (
            f"Cannot write into {folder} ({reason}): {need}. Set the environment variable LQS_DATA to another folder"
        )
        raise OSError(message) from error


def read_tar(path, pattern):
    """Yield `(name, bytes)` of the files of an archive whose whole name matches a regular expression.

    Nothing is unpacked to the disk, so that names and links in the archive do no harm.

    Raises:
        ValueError: if the archive exceeds `MAX_MEMBERS`, `MAX_BYTES` or `MAX_NAME_BYTES`.
    """
    num_members = num_bytes = 0
    with tarfile.open(path, "r:*", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
            num_members, num_bytes = num_members + 1, num_bytes + member.size
            if num_members > MAX_MEMBERS or num_bytes > MAX_BYTES:
                raise ValueError(f"the archive has more than {MAX_MEMBERS} members or {MAX_BYTES} bytes")
            name = str(PurePosixPath(member.name))
            if member.isreg() and re.fullmatch(pattern, name):
                content = archive.extractfile(member)
                assert content is not None  # a regular file has content
                yield name, content.read()


class _Member(tarfile.TarInfo):
    """A header of an archive. Its size is checked before tarfile reads what follows: long names, for instance."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if not member.isreg() and member.size > MAX_NAME_BYTES:
            raise ValueError(f"the archive has a header of more than {MAX_NAME_BYTES} bytes")
        return member


def _sources(cache, registry, urls, mirror):
    """Yield the URLs of the copies in the cache, of those that the mirror may have, and of the publishers'."""
    yield from (path.as_uri() for path in map(cache.joinpath, registry) if path.exists())
    if mirror:
        base = str(mirror) if "://" in str(mirror) else Path(mirror).expanduser().resolve().as_uri()
        yield from (f"{base.rstrip('/')}/{cache.name}/{name}" for name in registry)
    yield from urls


def _is_about_storage(error):
    numbers = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, PermissionError) or getattr(error, "errno", None) in numbers
