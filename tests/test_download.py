"""Downloads against a server on this machine: resumed, checked, renamed; zip files unpacked safely."""

import hashlib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from stylezoo.data import COCO
from stylezoo.download import DataError, extract, fetch

BODY = bytes(range(256)) * 8192  # 2 MiB
MD5 = hashlib.md5(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Counts requests; `cut_after` ends every answer early, `ranges` says whether Range is understood."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut_after: int | None = None
        self.ranges = True
        self.starts: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/data.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path != "/data.bin":
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        self.server.starts.append(start)
        if start >= len(BODY):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(BODY)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        end = len(BODY) if self.server.cut_after is None else start + self.server.cut_after
        self.wfile.write(BODY[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_fetch(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url, tmp_path / "sub" / "data.bin", md5=MD5, sha256=hashlib.sha256(BODY).hexdigest())
    assert path.read_bytes() == BODY and [entry.name for entry in path.parent.iterdir()] == ["data.bin"]
    fetch(server.url, path, md5=MD5)  # there already
    assert server.starts == [0]


def test_an_interrupted_transfer_is_continued(server: Server, tmp_path: Path) -> None:
    server.cut_after = 500_000
    with pytest.raises(DataError, match="run the same command again to continue, or put the file from .* by hand"):
        fetch(server.url, tmp_path / "data.bin", md5=MD5, attempts=1)
    assert (tmp_path / "data.bin.part").stat().st_size == 500_000 and not (tmp_path / "data.bin").exists()
    server.cut_after = None
    fetch(server.url, tmp_path / "data.bin", md5=MD5)
    assert server.starts == [0, 500_000] and (tmp_path / "data.bin").read_bytes() == BODY


def test_one_call_survives_a_broken_connection(server: Server, tmp_path: Path) -> None:
    server.cut_after = 1_500_000
    fetch(server.url, tmp_path / "data.bin", md5=MD5)
    assert server.starts == [0, 1_500_000]


def test_a_server_that_ignores_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    assert fetch(server.url, tmp_path / "data.bin", md5=MD5).read_bytes() == BODY


def test_a_complete_partial_file_needs_no_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(BODY)
    assert fetch(server.url, tmp_path / "data.bin", md5=MD5).read_bytes() == BODY


def test_a_partial_file_that_is_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(BODY + b"more")
    assert fetch(server.url, tmp_path / "data.bin", md5=MD5).read_bytes() == BODY


def test_a_wrong_checksum_removes_the_download(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has the md5 {MD5} instead of 0000: the download was damaged"):
        fetch(server.url, tmp_path / "data.bin", md5="0000")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_put_there_by_hand_is_not_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"something else")
    with pytest.raises(DataError, match="remove it and fetch it again"):
        fetch(server.url, tmp_path / "data.bin", md5=MD5)
    assert (tmp_path / "data.bin").exists() and server.starts == []


def test_offline_and_not_found_name_address_and_place(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/gone answers 404 \(Not Found\): put the file at .*data.bin by hand"):
        fetch(server.url.replace("data.bin", "gone"), tmp_path / "data.bin")
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"Cannot download http://127.0.0.1.*refused.*put the file from"):
        fetch(server.url, tmp_path / "data.bin", attempts=1)


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_extract_merges_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.txt").write_bytes(b"old")
    archive = zipped(tmp_path / "x.zip", {"a/1.txt": b"one", "a/b/2.txt": b"two", "c.txt": b"three"})
    for _ in range(2):
        extract(archive, tmp_path)
        files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.txt")}
        assert files == {"a/1.txt": b"one", "a/b/2.txt": b"two", "c.txt": b"three", "a/old.txt": b"old"}
        assert not list(tmp_path.glob(".*"))


def test_extract_continues(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a/1.txt": b"one", "a/2.txt": b"two"})
    staged = tmp_path / ".x.extracting" / "a" / "1.txt"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"ONE")  # same size: unpacked before the interruption
    extract(archive, tmp_path)
    assert (tmp_path / "a" / "1.txt").read_bytes() == b"ONE" and (tmp_path / "a" / "2.txt").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_extract_stays_inside(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="outside its folder"):
        extract(zipped(tmp_path / "x.zip", {"good.txt": b"", name: b"evil"}), tmp_path / "in")
    assert not list(tmp_path.rglob("*.txt"))


def test_extract_notices_damage(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a/1.txt": b"one" * 1000})
    content = bytearray(archive.read_bytes())
    content[100] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        extract(archive, tmp_path)
    assert not (tmp_path / "a").exists()
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="is damaged"):
        extract(archive, tmp_path)


def test_coco_fetches_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def give(url: str, path: Path, md5: str) -> Path:
        fetched.append((url, md5))
        path.parent.mkdir(parents=True, exist_ok=True)
        return zipped(path, {f"{path.stem}/1.jpg": b""})

    monkeypatch.setattr("stylezoo.data.coco.fetch", give)
    (tmp_path / "train2017").mkdir()
    module = COCO(str(tmp_path), year=2017, download=True)
    module.prepare_data()
    assert fetched == [("http://images.cocodataset.org/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80")]
    assert len(module.files("val")) == 1
