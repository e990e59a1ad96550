"""What stays constant under load: the memory of many files and of many requests, and the numbers of many pairs.

    python benchmarks/load.py --output docs/load.csv

Three parts, each of which can be left out by the number 0:

* ``--requests 200``: the web page on the loopback interface gets so many requests at once, which wait in its queue. All are
  answered, in the order in which they came; then a page whose queue takes 20 refuses the others and answers on.
* ``--files 5000``: `stylize` of so many files by one process.
* ``--pairs 2000``: `evaluate` of so many pairs by two processes has the means of one process, to the last digit.

Images are drawn by `stylezoo.data.Synthetic` and small, since what is measured does not depend on their size. Memory is that
of the process without files that are mapped (RssAnon), after a tenth of the work and at its end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import torch
from machine import process_memory

from stylezoo.data.synthetic import draw
from stylezoo.demo.backend import Backend, Limits
from stylezoo.demo.page import launch
from stylezoo.files import replacing
from stylezoo.studies.base import as_csv

MODEL = "microast.wikiart"
STYLEZOO = (sys.executable, "-m", "stylezoo")
DRAWN = 20
"""Different images, of which the files are copies."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = {requests: arguments.requests, files: arguments.files, pairs: arguments.pairs}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
        rows = [row for part, count in parts.items() if count for row in part(count, Path(folder))]
    text = as_csv(rows)
    with replacing(arguments.output) as file:
        file.write(text.encode())
    print(text)


def row(part: str, count: int, done: int, early: float, late: float, finding: str) -> dict[str, Any]:
    megabytes = {"MiB after a tenth": round(early) or "", "MiB at the end": round(late) or ""}
    return {"part": part, "given": count, "done": done, **megabytes, "finding": finding}


# The page


class Page:
    """A page on the loopback interface, and one of its users.

    Args:
        waiting: Requests that may wait.
        content: A photo, which is uploaded.
        style: A style, which is uploaded.
    """

    def __init__(self, waiting: int, content: Path, style: Path) -> None:
        self.page = launch(Backend([MODEL], "cpu", Limits(waiting=waiting)))
        self.user = httpx.Client(base_url=f"{self.page.local_url}gradio_api/", timeout=600)
        self.session = "load"
        config = httpx.get(f"{self.page.local_url}config", timeout=60).json()
        function = next(each for each in config["dependencies"] if each["api_name"] == "stylize")
        parts = {part["id"]: part["props"] for part in config["components"]}
        images = {"content": content, "style": style}
        files = {name: self._uploaded(path) for name, path in images.items()}
        values = [files.get(parts[part].get("elem_id"), parts[part].get("value")) for part in function["inputs"]]
        self.request = {"data": values, "fn_index": function["id"], "session_hash": self.session}

    def _uploaded(self, path: Path) -> dict[str, Any]:
        (place,) = self.user.post("upload", files={"files": (path.name, path.read_bytes())}).json()
        return {"path": place, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def ask(self) -> str | None:
        """Joins the queue and returns the number of the request, or None if it is refused."""
        answer = self.user.post("queue/join", json=self.request)
        return str(answer.json()["event_id"]) if answer.is_success else None

    def answers(self, count: int) -> Iterator[tuple[str, bool]]:
        """Yields requests as they are done, and whether they succeeded."""
        with self.user.stream("GET", "queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    yield message["event_id"], bool(message["success"])
                    count -= 1
                    if not count:
                        return

    def close(self) -> None:
        self.user.close()
        self.page.close()


def requests(count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields what a page does with more requests than it can answer at once."""
    images = drawn(folder / "page", "photos", 2)
    for waiting in (count, 20):
        page = Page(waiting, *images)
        try:
            asked = [page.ask() for _ in range(count)]
            accepted = [number for number in asked if number is not None]
            done, early = [], 0.0
            for number, succeeded in page.answers(len(accepted)):
                done += [number] if succeeded else []
                early = early or (process_memory("RssAnon") if 10 * len(done) >= len(accepted) else 0.0)
            order = "in the order of asking" if done == accepted else "in another order"
            again = page.ask() is not None and next(page.answers(1))[1]
            finding = f"{order}; {count - len(accepted)} refused; {'answers on' if again else 'answers no more'}"
            yield row(f"page, queue of {waiting}", count, len(done), early, process_memory("RssAnon"), finding)
        finally:
            page.close()


# Files


def drawn(folder: Path, kind: Any, count: int) -> list[Path]:
    """Draws images, of which further files are copies."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05}.png" for number in range(count)]
    for number, path in enumerate(paths):
        if number < DRAWN:
            draw(kind, number, 64).save(path)
        else:
            shutil.copy(paths[number % DRAWN], path)
    return paths


def files(count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the memory of `stylize` over many files."""
    drawn(folder / "contents", "photos", count)
    (style,) = drawn(folder / "style", "paintings", 1)
    output = folder / "stylized"
    words = ["--model", MODEL, "--content", folder / "contents", "--style", style, "--output", output]
    process = subprocess.Popen([*STYLEZOO, "stylize", *map(str, words)], stdout=subprocess.DEVNULL)
    memory: dict[int, float] = {}  # by the number of files that are done
    while process.poll() is None:
        if output.exists():
            memory[sum(1 for _ in os.scandir(output))] = process_memory("RssAnon", process.pid)
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"stylize ended with {process.returncode}.")
    counts = sorted(number for number, size in memory.items() if size < float("inf"))
    early, late = next(number for number in counts if 10 * number >= count), counts[-1]
    growth = 1024 * (memory[late] - memory[early]) / (late - early)
    done = sum(1 for path in output.iterdir() if path.suffix == ".png")
    yield row("stylize", count, done, memory[early], memory[late], f"{growth:.2f} KiB more per file")


# Pairs


def pairs(count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields whether two processes measure what one does."""
    contents, styles = folder / "photos", folder / "paintings"
    drawn(contents, "photos", count)
    drawn(styles, "paintings", DRAWN)
    tables = []
    for processes in (1, 2):
        output = folder / f"evaluated{processes}"
        options = {
            "models": MODEL,
            "content": contents,
            "style": styles,
            "output": output,
            "pairs": count,
            "size": 64,
            "encoder": "vgg19_slim",
            "devices": processes,
            "accelerator": "cpu",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [*STYLEZOO, "evaluate", *words, "--metrics", "content_loss", "style_loss"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tables.append((output / f"{MODEL}.csv").read_bytes())
    same = "the values of one, byte for byte" if tables[0] == tables[1] else "other values"
    yield row("evaluate, two processes", count, tables[1].count(b"\n") - 1, 0, 0, same)


if __name__ == "__main__":
    main()
