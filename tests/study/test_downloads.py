"""Tests of `study.downloads`: a small file in a cache, at mirrors, and at a publisher made here; archives."""

import contextlib
import errno
import functools
import hashlib
import http.server
import io
import socket
import tarfile
import threading
import time
from pathlib import Path

import pytest

from study import downloads

CONTENT = b"seven bits make a character, or eight\n" * 100
HASH = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
REGISTRY = {"best.txt": HASH, "other.txt": HASH}
NO_HASH = dict.fromkeys(REGISTRY)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for variable in ("LQS_MIRROR", "LQS_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def closed():
    """URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def fetch(tmp_path, closed):
    """`downloads.fetch` of a text with two names; the cache is `tmp_path / "cache"`, the publisher does not answer."""
    return functools.partial(downloads.fetch, "texts", REGISTRY, [f"{closed}/other.txt"], read, tmp_path / "cache")


@pytest.fixture
def mirror(tmp_path):
    return put(tmp_path / "a mirror" / "texts" / "best.txt").parent.parent


def read(path):
    if path.read_bytes() != CONTENT:
        raise ValueError("not the text")
    return path.read_bytes()


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def serve():
    """Function that serves a folder over HTTP and returns its URL; `send(file, content)` sends the content."""
    servers = []

    def start(folder, send=lambda file, content: file.write(content), announce=True):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = Path(f"{folder}{self.path}")
                if not path.exists():
                    return self.send_error(404)
                self.send_response(200)
                if announce:
                    self.send_header("Content-Length", str(path.stat().st_size))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client closes the connection
                    send(self.wfile, path.read_bytes())

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# Where files are looked for.


def test_cache_folder_is_named_by_argument_or_environment(tmp_path, monkeypatch):
    assert downloads.cache_folder() == downloads.RAW
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LQS_DATA", "~/data")
    assert downloads.cache_folder() == tmp_path / "data"
    assert downloads.cache_folder("elsewhere") == Path("elsewhere").absolute()


@pytest.mark.parametrize("form", [str, Path, Path.as_uri, lambda path: path.as_uri() + "/"])
def test_mirror_is_a_folder_or_a_file_url(fetch, mirror, tmp_path, form):
    path, content = fetch(mirror=form(mirror))
    assert (path, content) == (tmp_path / "cache" / "texts" / "best.txt", CONTENT)
    assert files_in(tmp_path / "cache") == ["texts/best.txt"] and path.read_bytes() == CONTENT
    assert path.stat().st_mode == put(tmp_path / "reference").stat().st_mode


@pytest.mark.parametrize("announce", [True, False])
def test_mirror_over_http_named_by_the_environment(fetch, mirror, serve, monkeypatch, capfd, announce):
    monkeypatch.setenv("LQS_MIRROR", serve(mirror, announce=announce))
    assert fetch()[1] == CONTENT
    assert capfd.readouterr().err == ""  # no progress bar where there is no terminal


def test_cache_comes_first_and_needs_the_content_alone(fetch, mirror, tmp_path):
    path = put(tmp_path / "cache" / "texts" / "other.txt")
    assert fetch(mirror=mirror) == (path, CONTENT)
    assert files_in(tmp_path / "cache") == ["texts/other.txt"]


def test_second_name_at_the_mirror_and_then_the_publishers(fetch, mirror, tmp_path, serve):
    put(tmp_path / "old" / "texts" / "other.txt")
    assert fetch(mirror=tmp_path / "old")[0].name == "other.txt"
    urls = [fetch.args[2][0], serve(mirror) + "/texts/best.txt"]
    path, content = downloads.fetch("texts", REGISTRY, urls, read, tmp_path / "new", tmp_path / "nowhere")
    assert (path, content) == (tmp_path / "new" / "texts" / "best.txt", CONTENT)


def test_error_says_where_to_put_what_and_what_was_tried(fetch, closed, tmp_path):
    put(tmp_path / "cache" / "texts" / "best.txt", b"not it")
    with pytest.raises(ConnectionError, match="No usable copy of best.txt or other.txt") as caught:
        fetch(mirror=tmp_path / "mirror")
    message = str(caught.value)
    assert f"Put the file into {tmp_path / 'cache' / 'texts'}" in message
    assert "LQS_MIRROR to a folder or URL that has it in texts/" in message
    tried = message.split("Tried:\n")[1].splitlines()
    places = [f"file://{tmp_path}/cache/texts/best.txt: SHA256 hash of", f"file://{tmp_path}/mirror/texts/best.txt: "]
    places += [f"file://{tmp_path}/mirror/texts/other.txt: ", f"{closed}/other.txt: "]
    assert len(tried) == 4 and all(place in line for place, line in zip(places, tried, strict=True))


# Copies that are not whole.


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"!", b""])
def test_corrupt_file_in_the_cache_is_fetched_again(fetch, mirror, tmp_path, content):
    path = put(tmp_path / "cache" / "texts" / "best.txt", content)
    assert fetch(mirror=mirror) == (path, CONTENT)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("registry, message", [(REGISTRY, "SHA256 hash of"), (NO_HASH, "not the text")])
def test_corrupt_mirror_is_refused_and_leaves_nothing(mirror, tmp_path, registry, message):
    put(mirror / "texts" / "best.txt", b"not it")
    with pytest.raises(ConnectionError, match=f"best.txt: {message}"):
        downloads.fetch("texts", registry, [], read, tmp_path / "cache", mirror)
    assert files_in(tmp_path / "cache") == []
    put(mirror / "texts" / "other.txt")
    assert downloads.fetch("texts", registry, [], read, tmp_path / "cache", mirror)[0].name == "other.txt"


@pytest.mark.parametrize("announce", [True, False])
def test_truncated_download_is_refused_and_leaves_nothing(fetch, mirror, tmp_path, serve, announce):
    url = serve(mirror, lambda file, content: file.write(content[:-5]), announce)
    with pytest.raises(ConnectionError, match="No usable copy"):
        fetch(mirror=url)
    assert files_in(tmp_path / "cache") == []


def test_interrupted_download_leaves_nothing(fetch, mirror, tmp_path, monkeypatch):
    def interrupt(url, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "download", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(mirror=mirror)
    assert files_in(tmp_path / "cache") == []


# Slow mirrors, full disks.


def trickle(file, content):
    for byte in content:
        file.write(bytes([byte]))
        file.flush()
        time.sleep(0.02)


@pytest.mark.parametrize(
    "limits, send, message",
    [
        ({"TIMEOUT": 0.1, "MIN_SPEED": 10_000}, trickle, r"too slow: \d+ bytes in 0 seconds"),
        ({"MAX_SECONDS": 0.1}, trickle, r"too slow: \d+ bytes in 0 seconds"),
        ({"TIMEOUT": 0.1}, lambda file, content: time.sleep(1), "timed out"),
    ],
    ids=["slow", "long", "silent"],
)
def test_slow_mirror_is_given_up(fetch, mirror, serve, monkeypatch, limits, send, message):
    for name, limit in limits.items():
        monkeypatch.setattr(downloads, name, limit)
    with pytest.raises(ConnectionError, match=message):
        fetch(mirror=serve(mirror, send))
    assert fetch(mirror=mirror)[1] == CONTENT


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError("Pooch could not write")]
)
def test_full_or_read_only_cache_is_reported_in_one_line(fetch, mirror, tmp_path, monkeypatch, error):
    def fail(url, path):
        raise error

    monkeypatch.setattr(downloads, "download", fail)
    message = f"Cannot write into {tmp_path} .*(No space|Pooch could not).*: texts need 4 MB. Set .* LQS_DATA"
    with pytest.raises(OSError, match=message) as caught, downloads.storing(tmp_path, "texts need 4 MB"):
        fetch(mirror=mirror)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_about_the_cache(tmp_path):
    with pytest.raises(ConnectionError, match="^no copy$"), downloads.storing(tmp_path, "texts need 4 MB"):
        raise ConnectionError("no copy")


# Archives.


def write_archive(path, members, mode="w", kind=tarfile.REGTYPE):
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.type, header.linkname, header.size = kind, "a/1.txt" * (kind == tarfile.SYMTYPE), len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_only_matching_files_are_read(tmp_path, mode):
    members = {"a/1.txt": b"one", "./a/2.txt": b"", "a/1.txt.bak": b"no", "b/1.txt": b"no", "a/é.txt": b"no"}
    path = write_archive(tmp_path / "archive", members, mode)
    assert dict(downloads.read_tar(path, r"a/\d\.txt")) == {"a/1.txt": b"one", "a/2.txt": b""}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_is_not_read(tmp_path, kind):
    path = write_archive(tmp_path / "archive", {"a/1.txt": b""}, kind=kind)
    assert list(downloads.read_tar(path, ".*")) == []


@pytest.mark.parametrize(
    "limit, value, message",
    [
        ("MAX_MEMBERS", 2, "more than 2 members"),
        ("MAX_BYTES", 5, "or 5 bytes"),
        ("MAX_NAME_BYTES", 300, "a header of more than 300 bytes"),
    ],
)
def test_limits_of_an_archive(tmp_path, monkeypatch, limit, value, message):
    path = write_archive(tmp_path / "archive", {"a": b"one", "b": b"two", "long" * 100: b""})
    assert len(list(downloads.read_tar(path, ".*"))) == 3
    monkeypatch.setattr(downloads, limit, value)
    with pytest.raises(ValueError, match=message):
        list(downloads.read_tar(path, "nothing"))
    path = write_archive(tmp_path / "archive", {"a": b"one", "b": b"tw"})
    assert len(list(downloads.read_tar(path, ".*"))) == 2  # a limit is the largest that is allowed


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.95])
def test_truncated_archive_is_unusable(tmp_path, rng, mode, part):
    path = write_archive(tmp_path / "archive", {f"a/{i}.txt": rng.bytes(2000) for i in range(5)}, mode)
    whole = path.read_bytes().rstrip(b"\0")  # the end of a plain tar is padding
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(downloads.UNUSABLE):
        list(downloads.read_tar(path, ".*"))
