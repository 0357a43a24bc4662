"""Files that are written whole or not at all."""

import contextlib
import os
import uuid


def write_atomically(path, content):
    """Write bytes to `path`; a crash in the middle leaves the old file, or none."""
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def replacing(path):
    """Give a new path beside `path`, moved there if the block succeeds and removed if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
