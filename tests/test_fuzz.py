"""Files that are broken on purpose get one sentence, and the fuzzer notices where they do not."""

from pathlib import Path

import pytest
from conftest import ROOT, load_module

fuzz = load_module("fuzz_tool", ROOT / "tools" / "fuzz.py")


def test_broken_images_get_one_sentence(capfd) -> None:
    count, failure = fuzz.fuzz_images(4, seed=0)
    capfd.readouterr()  # libtiff tells about every broken file
    assert failure is None
    assert count > 20


def test_broken_clips_get_one_sentence() -> None:
    pytest.importorskip("av", reason="clips need PyAV (pip install stylezoo[video])")
    count, failure = fuzz.fuzz(fuzz.FUZZERS["clips"], 2, seed=0)
    assert failure is None
    assert count > 10


def test_a_failure_is_found_and_made_small() -> None:
    def use(path: Path) -> None:
        if b"\xff" in path.read_bytes():
            raise KeyError("no such tag")

    count, failure = fuzz.fuzz(fuzz.Fuzzer(lambda: {"a.bin": bytes(500)}, use), 60, seed=1)
    assert count > 0 and failure is not None
    assert failure.content == b"\xff" and failure.problem == "KeyError: 'no such tag'"
