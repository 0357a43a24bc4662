"""Faults: each call that writes fails in turn, and what is left is the old file or the new one, whole."""

import builtins
import errno
import io
import os
import zipfile

import keras
import numpy as np
import pytest

from lqs.cli import commands
from lqs.conversion import quantize
from lqs.file.reader import read
from lqs.file.saving import save
from study.configs import make_config
from study.records import read_record, record_path, write_record
from study.weights import write_arrays

pytestmark = pytest.mark.once  # no backend takes part in writing
OLD = b"what was there before"
MODES = ("before", "halfway", "after")


class Faults:
    """Counts the calls that write, and lets the one of a number fail: before it, halfway if it can, or after it."""

    def __init__(self, monkeypatch):
        self.calls, self.number, self.mode = [], 0, ""
        for name in ("open", "close", "fsync", "mkdir", "replace", "unlink"):
            monkeypatch.setattr(os, name, self.failing(name, getattr(os, name)))
        opened = self.failing("open", io.open)
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", lambda *args, **kwargs: self.watched(opened(*args, **kwargs)))

    def reset(self, number, mode):
        self.calls, self.number, self.mode = [], number, mode

    def failing(self, name, function, halfway=None):
        def call(*args, **kwargs):
            self.calls.append(name)
            fails = len(self.calls) == self.number
            if fails and self.mode == "halfway" and halfway:
                halfway(*args)
            if fails and self.mode != "after":
                raise OSError(errno.ENOSPC, f"{name} failed")
            result = function(*args, **kwargs)
            if fails:
                if name == "open":
                    os.close(result) if isinstance(result, int) else result.close()
                raise OSError(errno.EIO, f"{name} failed afterwards")
            return result

        return call

    def watched(self, file):
        return Watched(self, file) if file.writable() else file


class Watched:
    """A file whose `write` may fail."""

    def __init__(self, faults, file):
        self.file = file
        self.write = faults.failing(
            "write", file.write, lambda content: file.write(bytes(content)[: len(content) // 2])
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def saving(folder):
    keras.utils.set_random_seed(1)
    model = quantize(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))
    path = folder / "a" / "model.lqs"
    return path, lambda: save(model, path), lambda: read(path)


def recording(folder):
    config = make_config("digits", "nested", 0.0, protocol="smoke")
    record = {"config": config.flat(), "environment": {}, "history": {}, "final": {}, "parameters": []}
    return record_path(config, folder), lambda: write_record(record, folder), lambda: read_record(config, folder)


def arrays(folder):
    path = folder / "a" / "weights.npz"

    def check():
        with np.load(path) as archive:
            assert archive["arr_0"].shape == (9,)

    return path, lambda: write_arrays(path, np.ones(9)), check


def unpacking(folder):
    _, write, _ = saving(folder / "from")
    write()
    path = folder / "model.keras"
    arguments = ["unpack", str(folder / "from" / "a" / "model.lqs"), "-o", str(path)]

    def check():
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None and "model.weights.h5" in archive.namelist()

    return path, lambda: commands.main(arguments, standalone_mode=False), check


@pytest.mark.parametrize("old", [OLD, None], ids=["over an old file", "a new file"])
@pytest.mark.parametrize("kind, modes", [(saving, MODES), (recording, MODES), (arrays, MODES), (unpacking, ["before"])])
def test_old_or_new_file_is_left_whole(kind, modes, old, tmp_path, monkeypatch):
    path, write, check = kind(tmp_path)
    faults = Faults(monkeypatch)

    def attempt(number, mode):
        """Return the calls until the one of a number failed, and whether it left the new file."""
        faults.reset(0, "")
        for left in path.parent.glob(f".{path.name}*"):
            left.unlink()
        path.unlink(missing_ok=True)
        if old is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(old)
        elif path.parent != tmp_path and path.parent.exists():
            path.parent.rmdir()
        faults.reset(number, mode)
        failed = None
        try:
            write()
        except OSError as error:
            failed = error
        calls = faults.calls
        faults.reset(0, "")
        left = path.read_bytes() if path.exists() else None
        assert failed or left != old  # such as that of a `mkdir` of what is there
        if left != old:
            check()
        parts = [part.name for part in path.parent.glob(f".{path.name}*")] if path.parent.exists() else []
        assert not parts or calls[number - 1] == "unlink", (calls[number - 1], parts)
        return calls, left != old

    calls, is_new = attempt(0, "")
    assert is_new and {"open", "write", "fsync", "replace"} <= set(calls)
    results = {(n, mode): attempt(n, mode)[1] for n in range(1, len(calls) + 1) for mode in modes}
    assert not results[calls.index("write") + 1, modes[0]]
