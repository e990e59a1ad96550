"""Downloads against a server on this machine: resumed, checked, renamed; zip files unpacked safely."""

import errno
import hashlib
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from stylezoo import download
from stylezoo.data import COCO
from stylezoo.download import DataError, checksum, extract, fetch

BODY = bytes(range(256)) * 8192  # 2 MiB
MD5 = hashlib.md5(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Counts requests; `cut_after` ends every answer early, `ranges` says whether Range is understood."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut_after: int | None = None
        self.ranges = True
        self.pause = 0.0
        self.headers: dict[str, str] = {}
        self.answer: Callable[[Handler], None] | None = None
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
        time.sleep(self.server.pause)
        if self.server.answer is not None:
            self.server.answer(self)
            return
        if start >= len(BODY):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(BODY)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
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


def says(status: int, body: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    """A server's answer, whatever is asked for."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize("url", ["file:///etc/hostname", "data:,x", "ftp://example.org/x", "/etc/hostname", ""])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must begin with http:// or https://"):
        fetch(url, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(416), r"answers 416 .*by hand"),
        (says(416, Content_Range="bytes */7"), r"answers 416"),
        (says(302, Location="/data.bin"), r"answers 302 \(.*infinite loop"),
        (says(302, Location="file:///etc/hostname"), r"answers 302 .*not allowed"),
        (says(302, Location="ftp://127.0.0.1:1/x"), r"Cannot download .*unknown url type: ftp"),
        (says(500), "the server answers 500, Internal Server Error"),
        (says(204), r"answers 204 \(No Content\)"),
        (says(206, b"x", Content_Range="bytes"), "unusable Content-Range"),
        (says(206, b"x", Content_Range="bytes 5-6/9"), "sent bytes from 5 instead of 0"),
        (says(206, BODY[:9], Content_Range=f"bytes 0-8/{len(BODY)}"), f"ended after 9 of {len(BODY)} bytes"),
        (says(200, b"<!DOCTYPE html><p>Log in"), "sent an HTML page instead of the file"),
        (says(200, b"version https://git-lfs.github.com/spec/v1"), "sent a Git LFS pointer"),
        (says(200, b"x", Content_Length=str(10**18)), "data.bin needs 1,000,000,000.0 GB, but .* are free"),
        (says(200, b"x", Content_Length="-5"), "instead of"),
        (says(200, b"x", Content_Length="many"), "instead of"),
    ],
)
def test_odd_answers_are_one_sentence(
    answer: Callable[[Handler], None], words: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a server says, the attempts end, and no wrong file gets the name."""
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    server.answer = answer
    for beginning in (0, 5):
        if beginning:
            (tmp_path / "data.bin.part").write_bytes(BODY[:beginning])
        with pytest.raises(DataError) as info:
            fetch(server.url, tmp_path / "data.bin", md5=MD5, timeout=5)
        assert "\n" not in str(info.value) and not (tmp_path / "data.bin").exists()
        if not beginning:
            assert info.match(words)
    assert len(server.starts) <= 40


def test_pages_are_no_files_without_a_checksum_either(server: Server, tmp_path: Path) -> None:
    server.answer = says(200, b"\n<html>moved</html>")
    with pytest.raises(DataError, match="sent an HTML page"):
        fetch(server.url, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stalls_is_given_up(server: Server, tmp_path: Path) -> None:
    server.pause = 2.0
    with pytest.raises(DataError, match=r"the server sent nothing for 0.2 seconds.*run the same command again"):
        fetch(server.url, tmp_path / "data.bin", attempts=2, timeout=0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changed_on_the_server_is_not_patched_together(server: Server, tmp_path: Path) -> None:
    """Without a checksum nothing else would notice."""
    part = tmp_path / "data.bin.part"
    part.write_bytes(b"old" * 1000)
    server.headers = {"Last-Modified": "Fri, 01 Jan 2038 00:00:00 GMT"}
    assert fetch(server.url, tmp_path / "data.bin").read_bytes() == BODY
    assert server.starts == [3000, 0]


def test_several_at_once_get_one_file(server: Server, tmp_path: Path) -> None:
    """One downloads, the others wait: threads here, a process of its own beside them."""
    server.pause = 0.3
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: fetch(server.url, tmp_path / "data.bin", md5=MD5), range(6)))
    assert server.starts == [0] and {path.read_bytes() for path in paths} == {BODY}
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_another_process_that_dies_hands_over(server: Server, tmp_path: Path) -> None:
    """The lock of a killed process is gone, and what it has received is kept."""
    part = tmp_path / "data.bin.part"
    code = f"import fcntl, time; f = open({str(part)!r}, 'ab'); fcntl.flock(f, 2); f.write({BODY[:100]!r}); f.flush()"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; print(flush=True); time.sleep(60)"], stdout=-1)
    assert process.stdout is not None and process.stdout.readline()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetch, server.url, tmp_path / "data.bin", MD5)
        time.sleep(0.3)
        assert not waiting.done() and server.starts == []
        process.kill()
        assert waiting.result(30).read_bytes() == BODY and server.starts == [100]
    process.wait()


def test_a_wrong_download_is_not_accepted_by_those_who_wait(server: Server, tmp_path: Path) -> None:
    server.pause, server.answer = 0.2, says(200, b"wrong")

    def attempt(_: int) -> str:
        with pytest.raises(DataError) as info:
            fetch(server.url, tmp_path / "data.bin", md5=MD5)
        return str(info.value)

    with ThreadPoolExecutor(3) as pool:
        assert all("has been removed" in message for message in pool.map(attempt, range(3)))
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_keeps_what_was_received(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(download, "CHUNK", 1 << 16)
        patch.setattr(download._Transfer, "_read", interrupted(download._Transfer._read, 5))
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, tmp_path / "data.bin", md5=MD5)
    size = (tmp_path / "data.bin.part").stat().st_size
    assert size == 4 << 16
    assert fetch(server.url, tmp_path / "data.bin", md5=MD5).read_bytes() == BODY and server.starts == [0, size]


def interrupted(function: Callable[..., bytes], call: int) -> Callable[..., bytes]:
    """A function that is interrupted at one of its calls."""
    calls = iter(range(1, 1000))

    def wrapped(*args: object) -> bytes:
        if next(calls) == call:
            raise KeyboardInterrupt
        return function(*args)

    return wrapped


def test_a_full_disk_is_one_sentence(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"data.bin cannot be written: .*No space left.*same command again"):
            fetch(server.url, tmp_path / "data.bin", md5=MD5)
        assert not (tmp_path / "data.bin").exists()
    fetch(server.url, tmp_path / "data.bin", md5=MD5)
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_places_that_are_no_files(server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "b.part")
    (tmp_path / "folder").mkdir()
    for name, words in (("pipe", "is not a regular file"), ("folder", "is a folder, not a file")):
        with pytest.raises(DataError, match=words):
            fetch(server.url, tmp_path / name, md5=MD5)
        with pytest.raises(DataError, match=words):
            checksum(tmp_path / name)
        with pytest.raises(DataError, match=words):
            extract(tmp_path / name, tmp_path)
    with pytest.raises(DataError, match="b.part is not a regular file"):
        fetch(server.url, tmp_path / "b")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="x cannot be written: .*file"):
        fetch(server.url, tmp_path / "file" / "x")


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
    """What an interrupted run has unpacked is kept, unless it is something else of the same size."""
    archive = zipped(tmp_path / "x.zip", {"a/1.txt": b"one", "a/2.txt": b"two", "a/3.txt": b"six"})
    staging = tmp_path / ".x.extracting"
    (staging / "a").mkdir(parents=True)
    for name, content in (("a/1.txt", b"one"), ("a/2.txt", b"TWO"), (staging.name, b"si")):
        (staging / name).write_bytes(content)
    before = (staging / "a" / "1.txt").stat().st_ino
    extract(archive, tmp_path)
    assert [path.read_bytes() for path in sorted(tmp_path.rglob("*.txt"))] == [b"one", b"two", b"six"]
    assert (tmp_path / "a" / "1.txt").stat().st_ino == before and not staging.exists()


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


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("method", METHODS)
def test_any_damage_is_one_sentence(method: int, tmp_path: Path) -> None:
    """A flipped bit or a missing end, wherever it is: the members, or an error and nothing in the folder."""
    content = {"a/1.txt": b"one two three " * 40, "a/2.txt": random.Random(0).randbytes(300)}
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    original, rng = whole.read_bytes(), random.Random(1)
    damages = [rng.randrange(len(original) * 8) for _ in range(50)]
    folder, damaged = tmp_path / "out", tmp_path / "x.zip"
    for bit in damages:
        data = bytearray(original)
        data[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(data if bit % 5 else data[: bit // 8])
        try:
            extract(damaged, folder)
        except DataError as error:
            assert "\n" not in str(error)
            assert not folder.exists() or list(folder.iterdir()) == []
        else:
            assert all(path.read_bytes() in content.values() for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)


def bomb(path: Path, size: int, declared: int | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file of zeros that declares another size."""
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("zeros", "w", force_zip64=False) as member:
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    if declared is not None:
        data = path.read_bytes()
        path.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", declared)))
    return path


def test_bombs_are_refused_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "HARMLESS", 10_000_000)
    with pytest.raises(DataError, match=r"would unpack to 12.6 MB, which no data set does"):
        extract(bomb(tmp_path / "x.zip", 12 << 20), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 1000, 10))  # type: ignore[attr-defined]
        with pytest.raises(DataError, match=r"unpacks to 0.0 MB, but 0.0 MB are free"):
            extract(zipped(tmp_path / "y.zip", {"a": b"x" * 11}), tmp_path / "out")


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_bomb_that_declares_less_writes_no_more(method: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is damaged"):
        extract(bomb(tmp_path / "x.zip", 8 << 20, 1000, method), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def member(name: str, **attributes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["a", "a"], "two members called 'a'"),
        (["b/a", "b//a"], "two members called 'b/a'"),
        (["b\\a", "b/a"], "two members called 'b/a'"),
        (["a", "a/b"], "a file and a folder called 'a'"),
        (["a/b/c", "a/b"], "a file and a folder called 'a/b'"),
        (["a/", "a"], "a file and a folder called 'a'"),
        ([member("")], "a member without a usable name"),
        (["."], "a member without a usable name"),
        ([".x.extracting"], "a member without a usable name"),
        ([".x.extracting/a"], "a member without a usable name"),
        (["C:\\a"], "outside its folder"),
        (["a" * 300], "a name that is too long"),
        (["a/" * 3000 + "b"], "a name that is too long"),
        ([member("a", external_attr=(stat.S_IFLNK | 0o777) << 16)], "a link or a device"),
        ([member("a", external_attr=(stat.S_IFIFO | 0o777) << 16)], "a link or a device"),
        (["there/a"], "there is a file where .* has a folder"),
        (["taken"], "taken is a folder where .* has a file"),
        (["taken/in/there/a"], "in is a file where .* has a folder"),
    ],
)
def test_members_in_each_others_way(members: list[str | zipfile.ZipInfo], words: str, tmp_path: Path) -> None:
    """One sentence, and the folder is as before."""
    folder = tmp_path / "out"
    (folder / "taken").mkdir(parents=True)
    for name in ("there", "taken/in"):
        (folder / name).write_bytes(b"own")
    before = sorted(folder.rglob("*"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("good", *members):
            archive.writestr(name, b"content")
    with pytest.raises(DataError, match=words) as info:
        extract(tmp_path / "x.zip", folder)
    assert "\n" not in str(info.value)
    after = [path for path in folder.rglob("*") if ".x.extracting" not in path.relative_to(folder).parts]
    assert sorted(after) == before


def test_encrypted_members_and_unknown_methods(tmp_path: Path) -> None:
    for value, offset, words in ((1, 6, "is encrypted"), (97, 8, "is damaged")):
        data = bytearray(zipped(tmp_path / "x.zip", {"a": b"content"}).read_bytes())
        data[offset] = data[data.index(b"PK\x01\x02") + 2 + offset] = value
        (tmp_path / "x.zip").write_bytes(data)
        with pytest.raises(DataError, match=words):
            extract(tmp_path / "x.zip", tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


def test_two_that_unpack_one_archive(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {f"a/{i}.bin": bytes([i]) * 20_000 for i in range(200)})
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: extract(archive, tmp_path / "out"), range(3)))
    assert len(list((tmp_path / "out").rglob("*.bin"))) == 200 and not list((tmp_path / "out").glob(".*"))


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
