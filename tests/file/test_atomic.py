"""Tests of `lqs.file.atomic`: a crash or a loss of power leaves the old file or the new one."""

import os
import subprocess
import sys

import pytest

from lqs.file.atomic import replacing, write_atomically


@pytest.fixture
def calls(monkeypatch):
    """List of the calls that reach the disk, with the names of what they are for."""
    calls, fsync, replace = [], os.fsync, os.replace

    def traced_fsync(descriptor):
        calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def traced_replace(source, target):
        calls.append(("replace", source.name, target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    return calls


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of descriptors are read from /proc")
def test_file_reaches_the_disk_before_its_name_and_its_name_before_the_end(calls, tmp_path):
    write_atomically(tmp_path / "a.lqs", b"new")
    (kind, partial), replaced, synced = calls
    assert kind == "fsync" and partial.startswith(".a.lqs.") and partial.endswith(".part")
    assert replaced == ("replace", partial, "a.lqs") and synced == ("fsync", tmp_path.name)
    assert (tmp_path / "a.lqs").read_bytes() == b"new"


def test_nothing_is_replaced_by_what_did_not_reach_the_disk(tmp_path, monkeypatch):
    (tmp_path / "a.lqs").write_bytes(b"old")

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "a.lqs", b"new")
    assert (tmp_path / "a.lqs").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_failed_block_leaves_the_old_file(tmp_path):
    (tmp_path / "a.lqs").write_bytes(b"old")

    def fail():
        with replacing(tmp_path / "a.lqs") as partial:
            partial.write_bytes(b"ne")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "a.lqs").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_leaves_does_no_harm(tmp_path):
    program = (
        "import os, pathlib, signal; from lqs.file.atomic import replacing\n"
        "with replacing(pathlib.Path('a.lqs')) as partial:\n"
        "    partial.write_bytes(b'ne'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    write_atomically(tmp_path / "a.lqs", b"old")
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=False)
    assert result.returncode < 0
    (left,) = (path for path in tmp_path.iterdir() if path.name != "a.lqs")
    assert left.name.startswith(".a.lqs.") and left.suffix == ".part"
    assert (tmp_path / "a.lqs").read_bytes() == b"old"
    write_atomically(tmp_path / "a.lqs", b"new")
    assert (tmp_path / "a.lqs").read_bytes() == b"new" and left.read_bytes() == b"ne"


def test_folders_are_made(tmp_path):
    write_atomically(tmp_path / "b" / "c" / "a.lqs", b"new")
    assert (tmp_path / "b" / "c" / "a.lqs").read_bytes() == b"new"
