"""Tests of `study.downloads`: a file of one line in a cache, at mirrors, at a publisher made here; hostile archives."""

import functools
import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading
from pathlib import Path

import pytest

from study import downloads

CONTENT = b"seven bits make a character, or eight\n" * 100


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for variable in ("LQS_MIRROR", "LQS_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def closed():
    """Return a URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def file(closed):
    """Return a file under two names; its publisher does not answer."""
    known = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    return downloads.File("texts", {"best.txt": known, "other.txt": known}, (f"{closed}/other.txt",), read_checked)


def read_checked(path, known_hash):
    downloads.check_hash(path, known_hash)
    return path.read_bytes()


@pytest.fixture
def mirror(tmp_path):
    return put(tmp_path / "mirror" / "texts" / "best.txt").parent.parent


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def serve():
    """Return a function that serves a folder over HTTP and returns its URL."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    def start(folder, handler=Quiet):
        handler = functools.partial(handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    start.quiet = Quiet
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# Where files are looked for.


def test_cache_folder_is_named_by_argument_or_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LQS_DATA", "~/data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / "data"
    assert downloads.cache_folder("elsewhere") == Path("elsewhere")


def test_default_cache_is_the_checkout_or_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads, "__file__", str(tmp_path / "installed" / "lqs" / "downloads.py"))
    assert downloads.cache_folder() == tmp_path / "data" / "raw"
    (tmp_path / "installed" / "lqs").mkdir(parents=True)
    (tmp_path / "installed" / "pyproject.toml").touch()
    assert downloads.cache_folder() == tmp_path / "installed" / "data" / "raw"


@pytest.mark.parametrize("form", [str, Path, Path.as_uri, lambda path: path.as_uri() + "/"])
def test_mirror_is_a_folder_or_a_file_url(file, mirror, tmp_path, form):
    path, content = downloads.obtain(file, tmp_path / "cache", form(mirror))
    assert (path, content) == (tmp_path / "cache" / "texts" / "best.txt", CONTENT)
    assert files_in(tmp_path / "cache") == ["texts/best.txt"] and path.read_bytes() == CONTENT


def test_mirror_folder_with_a_space(file, mirror, tmp_path):
    assert downloads.obtain(file, tmp_path / "cache", mirror.rename(tmp_path / "a mirror"))[1] == CONTENT


def test_mirror_over_http(file, mirror, tmp_path, serve, capsys):
    assert downloads.obtain(file, tmp_path / "cache", serve(mirror))[1] == CONTENT
    assert capsys.readouterr().err == ""  # no bar where there is no terminal


def test_second_name_at_the_mirror(file, tmp_path):
    put(tmp_path / "mirror" / "texts" / "other.txt")
    path, content = downloads.obtain(file, tmp_path / "cache", tmp_path / "mirror")
    assert (path.name, content) == ("other.txt", CONTENT)


def test_cache_comes_first(file, tmp_path):
    path = put(tmp_path / "cache" / "texts" / "other.txt")
    assert downloads.obtain(file, tmp_path / "cache", tmp_path / "nowhere") == (path, CONTENT)


def test_publisher_comes_last(file, closed, tmp_path, serve):
    put(tmp_path / "publisher" / "other.txt")
    urls = (f"{closed}/other.txt", f"{serve(tmp_path / 'publisher')}/other.txt")
    file = downloads.File(file.folder, file.hashes, urls, file.read)
    assert downloads.obtain(file, tmp_path / "cache", tmp_path / "nowhere")[1] == CONTENT


def test_error_says_where_to_put_what_and_what_was_tried(file, closed, tmp_path):
    put(tmp_path / "cache" / "texts" / "best.txt", b"not it")
    with pytest.raises(ConnectionError, match="No usable copy of best.txt or other.txt") as caught:
        downloads.obtain(file, tmp_path / "cache", tmp_path / "mirror")
    message = str(caught.value)
    assert f"Put the file into {tmp_path / 'cache' / 'texts'}" in message
    assert "LQS_MIRROR to a folder or URL that has it in texts/" in message
    tried = message.split("Tried:\n")[1].splitlines()
    places = [f"{tmp_path}/cache/texts/best.txt: its sha256 is", f"file://{tmp_path}/mirror/texts/best.txt: "]
    places += [f"file://{tmp_path}/mirror/texts/other.txt: ", f"{closed}/other.txt: "]
    assert len(tried) == 4 and all(place in line for place, line in zip(places, tried, strict=True))


# Copies that are not whole.


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_check_hash(tmp_path, algorithm):
    path, digest = put(tmp_path / "file"), hashlib.new(algorithm, CONTENT).hexdigest()
    downloads.check_hash(path, f"{algorithm}:{digest}")
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(ValueError, match=f"its {algorithm} is .*, not the published {digest}"):
        downloads.check_hash(path, f"{algorithm}:{digest}")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"!", lambda b: b""])
def test_corrupt_cache_is_fetched_again(file, mirror, tmp_path, damage):
    path = put(tmp_path / "cache" / "texts" / "best.txt", damage(CONTENT))
    assert downloads.obtain(file, tmp_path / "cache", mirror) == (path, CONTENT)
    assert path.read_bytes() == CONTENT


def test_corrupt_mirror_is_refused_and_leaves_nothing(file, tmp_path):
    put(tmp_path / "mirror" / "texts" / "best.txt", b"not it")
    with pytest.raises(ConnectionError, match="best.txt: its sha256 is"):
        downloads.obtain(file, tmp_path / "cache", tmp_path / "mirror")
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize("announced", [True, False])
def test_truncated_download_is_refused_and_leaves_nothing(file, mirror, tmp_path, serve, announced):
    class Truncated(serve.quiet):
        def do_GET(self):
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            if announced:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-5])

    with pytest.raises(ConnectionError, match="No usable copy"):
        downloads.obtain(file, tmp_path / "cache", serve(mirror, Truncated))
    assert files_in(tmp_path / "cache") == []


def test_interrupted_download_leaves_nothing(file, mirror, tmp_path, monkeypatch):
    def interrupt(source, target):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads.shutil, "copyfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        downloads.obtain(file, tmp_path / "cache", mirror)
    assert files_in(tmp_path / "cache") == []


# Writing.


def test_write_atomically_makes_the_folder_and_an_ordinary_file(tmp_path):
    path = tmp_path / "new" / "file.json"
    downloads.write_atomically(path, b"{}")
    assert path.read_bytes() == b"{}"
    reference = put(tmp_path / "reference")
    assert path.stat().st_mode == reference.stat().st_mode


@pytest.mark.parametrize("old", [None, b"old"])
def test_crash_before_the_rename_leaves_what_was_there(tmp_path, monkeypatch, old):
    path = tmp_path / "file.json"
    if old is not None:
        path.write_bytes(old)
    before = files_in(tmp_path)

    def crash(source, target):
        assert Path(source).read_bytes() == b"new" and Path(source).parent == path.parent
        raise OSError("no space")

    monkeypatch.setattr(downloads.os, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        downloads.write_atomically(path, b"new")
    assert files_in(tmp_path) == before and (old is None or path.read_bytes() == old)


def test_path_is_replaced_at_the_end_of_the_block(tmp_path):
    path = put(tmp_path / "file.json", b"old")
    with downloads.replacing(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and files_in(tmp_path) == ["file.json"]


def write_half(path):
    with downloads.replacing(path) as partial:
        partial.write_bytes(b"ne")
        raise KeyboardInterrupt


def test_failed_block_leaves_the_old_file(tmp_path):
    path = put(tmp_path / "file.json", b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"old" and files_in(tmp_path) == ["file.json"]


def test_two_writers_do_not_share_a_partial_file(tmp_path):
    with downloads.replacing(tmp_path / "file") as first, downloads.replacing(tmp_path / "file") as second:
        assert first != second
        first.touch(), second.touch()


# Archives.


def write_archive(path, members, mode="w", extra=()):
    """Write `{name: bytes}` and the `TarInfo`s `extra` as a tar."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for header in extra:
            archive.addfile(header)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_only_matching_members_are_read(tmp_path, mode):
    members = {"a/1.txt": b"one", "a/2.txt": b"", "a/1.txt.bak": b"no", "b/1.txt": b"no"}
    folder = tarfile.TarInfo("a/3.txt")
    folder.type = tarfile.DIRTYPE
    path = write_archive(tmp_path / "archive", members, mode, [folder])
    assert dict(downloads.read_tar(path, r"a/\d\.txt")) == {"a/1.txt": b"one", "a/2.txt": b""}


def test_member_that_is_too_big_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_MEMBER_BYTES", 3)
    path = write_archive(tmp_path / "archive", {"a": b"four", "b": b"two"})
    assert dict(downloads.read_tar(path, ".*")) == {"b": b"two"}


def hostile(name, kind=tarfile.REGTYPE, target=""):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


@pytest.mark.parametrize(
    "header",
    [
        hostile("../evil"),
        hostile("a/../../evil"),
        hostile("/evil"),
        hostile("a/evil", tarfile.SYMTYPE, "../../evil"),
        hostile("a/evil", tarfile.LNKTYPE, "a/1.txt"),
        hostile("a/evil", tarfile.CHRTYPE),
        hostile("a/evil", tarfile.FIFOTYPE),
    ],
    ids=lambda header: f"{header.name} {header.type.decode()}",
)
def test_hostile_archive_is_refused(tmp_path, header):
    path = write_archive(tmp_path / "archive", {"a/1.txt": b"one"}, extra=[header])
    message = f"member {header.name!r} is a link, a device or outside of the archive"
    with pytest.raises(ValueError, match=re.escape(message)):
        list(downloads.read_tar(path, ".*"))
    assert files_in(tmp_path) == ["archive"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.95])
def test_truncated_archive_raises_what_obtain_expects(tmp_path, rng, mode, part):
    path = write_archive(tmp_path / "archive", {f"a/{i}.txt": rng.bytes(2000) for i in range(5)}, mode)
    whole = path.read_bytes().rstrip(b"\0")  # the end of a plain tar is padding
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(downloads.UNUSABLE):
        list(downloads.read_tar(path, ".*"))


def test_written_archive_is_read_back(tmp_path):
    members = {"a/1": b"one", "a/2": CONTENT}
    downloads.write_tar(tmp_path / "new" / "archive.tar", members)
    assert dict(downloads.read_tar(tmp_path / "new" / "archive.tar", ".*")) == members
