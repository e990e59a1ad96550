"""Files are replaced whole or not at all, and only regular files are read."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from stylezoo.files import open_regular, problem, replacing


def test_replaces_the_file_when_the_block_ends(tmp_path):
    target = tmp_path / "folder" / "a.bin"
    with replacing(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert [p.name for p in target.parent.iterdir()] == ["a.bin"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), replacing(target) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, unnamed):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"), replacing(target) as file:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fileno())  # whatever is written from here on meets a full disk
        os.close(full)
        file.write(b"x" * 100_000)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_killed_process_leaves_the_old_file_and_no_other(tmp_path):
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no unnamed files")
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    code = (
        "import sys, time\nfrom stylezoo.files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half' * 9999); file.flush(); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_keeps_permissions_and_links(tmp_path):
    real, link = tmp_path / "real.bin", tmp_path / "link.bin"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_writes_beside_a_name_of_255_bytes(tmp_path):
    target = tmp_path / ("x" * 255)
    with replacing(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"


def test_only_regular_files_are_opened(tmp_path):
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    started = time.monotonic()
    for path, expected in {
        pipe: "is not a regular file",
        Path("/dev/zero"): "is not a regular file",
        tmp_path: "is a folder, not a file",
        tmp_path / "none": "does not exist",
    }.items():
        with pytest.raises(OSError) as error:
            open_regular(path)
        assert problem(error.value) == expected
    assert time.monotonic() - started < 1


def test_the_package_writes_files_in_one_place() -> None:
    """Not by the calls that empty a file before they fill it, nor do the tools whose files are published."""
    tools = [ROOT / "tools" / f"{name}.py" for name in ("cards", "publish_encoder", "update_results")]
    for path in [*(ROOT / "stylezoo").rglob("*.py"), *tools]:
        source = path.read_text()
        assert ".write_text(" not in source and ".write_bytes(" not in source, path
        opened = re.search(r"""open\((["']w|.*, ["']w)""", source)
        # the function itself, an empty file that tries a folder, and a temporary file that is renamed
        assert not opened or path.name in ("files.py", "run_folder.py", "download.py"), path
