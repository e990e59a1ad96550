"""What the command line sets for PyTorch, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylezoo.environment import allowed_processors, settle


def test_threads_sleep_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    settle(environment, tmp_path / "none")
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"):
        environment = {name: "user", "THP_MEM_ALLOC_ENABLE": "0"}
        settle(environment, tmp_path / "none")
        assert environment == {name: "user", "THP_MEM_ALLOC_ENABLE": "0"}


def test_a_container_has_as_many_threads_as_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    quota = tmp_path / "cpu.max"
    for text, expected in (("150000 100000\n", 2), ("max 100000\n", None), ("", None), ("50000 100000", 1)):
        quota.write_text(text, encoding="ascii")
        assert allowed_processors(quota) == expected
    environment: dict[str, str] = {}
    settle(environment, quota)
    assert environment["OMP_NUM_THREADS"] == "1"
    environment = {"OMP_NUM_THREADS": "3"}
    settle(environment, quota)
    assert environment["OMP_NUM_THREADS"] == "3"
    quota.write_text("800000 100000", encoding="ascii")
    environment = {}
    settle(environment, quota)
    assert "OMP_NUM_THREADS" not in environment


def test_nothing_changes_in_programs_that_have_imported_pytorch() -> None:
    code = "import os, sys; sys.modules['torch'] = sys; from stylezoo.environment import settle"
    code += "; old = dict(os.environ); settle(); assert old == dict(os.environ)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
