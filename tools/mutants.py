"""Changes the code a little, many times, and counts the changes that no test notices (mutation testing).

build/tools/bin/python tools/mutants.py draw --number 200 --seed 0   # writes build/mutants/mutants.json; needs mutmut
python tools/mutants.py test                                         # runs the tests; make mutants does both
python tools/mutants.py test --file stylezoo/losses.py --tests tests/test_losses.py
python tools/mutants.py test --again                                 # only those that survived the last run

``draw`` makes mutants by the operators of mutmut (numbers, comparisons, arithmetic, arguments, keys, assignments, branches) in the
bodies of functions, and draws some of each file at random. Wording is left alone: what is raised or warned, and strings of
several words.

``test`` imports and collects the tests once, and runs them once to learn which lines each of them executes. For each mutant
a forked process replaces the code of one function and runs the tests that execute the changed statement, first those of the file's
own name, then the shortest, until one fails. A mutant survives where none fails within ``--seconds`` of tests; what a test starts in a
new process is not mutated. Survivors are written as differences to build/mutants/survivors.diff.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import json
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build/mutants"
FILES = ("stylezoo/losses.py", "stylezoo/layers.py", "stylezoo/vgg.py", "stylezoo/inference")
TESTS = (
    *("tests/test_losses.py", "tests/test_layers.py", "tests/test_vgg.py", "tests/test_attention.py"),
    *("tests/test_tiled_loss.py", "tests/test_robustness.py", "tests/test_weights.py", "tests/test_zoo.py"),
    *("tests/inference", "tests/models"),
)
SELECTED = "not test_zoo.py or adain or sanet"
"""Of the tests of every system, those of two systems: the files under test know no systems."""

LEAST = 4
"""Mutants of each file, however small it is."""

CACHE = type(cache(lambda: None))
Mutant = dict[str, Any]


def files(names: list[str]) -> list[str]:
    """The Python files of files and folders, as paths in the repository."""
    paths = [
        path for name in names for path in (sorted((ROOT / name).glob("*.py")) if (ROOT / name).is_dir() else [name])
    ]
    return [str((ROOT / path).relative_to(ROOT)) for path in paths if Path(path).name != "__init__.py"]


def draw(names: list[str], number: int, seed: int) -> list[Mutant]:
    """Draws mutants: each file has its share of the number, and a generator of its own."""
    places = {name: list(mutations((ROOT / name).read_text())) for name in files(names)}
    total = sum(map(len, places.values()))
    drawn = []
    for name, candidates in places.items():
        count = min(len(candidates), max(LEAST, round(number * len(candidates) / total)))
        chosen = sorted(random.Random(f"{seed} {name}").sample(range(len(candidates)), count))
        for index in chosen:
            first, last, source = candidates[index]
            drawn.append({"file": name, "first": first, "last": last, "source": source()})
        print(f"{name}: {count} of {len(candidates)} mutants")
    return drawn


def mutations(source: str) -> Iterator[tuple[int, int, Callable[[], str]]]:
    """First and last line of the statement that each mutant of a file changes, and a function that returns its source."""
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators

    untouched = (cst.Annotation, cst.Decorator, cst.Raise, cst.Parameters, cst.ConcatenatedString)

    class Visitor(cst.CSTVisitor):
        METADATA_DEPENDENCIES = (PositionProvider,)

        def __init__(self) -> None:
            super().__init__()
            self.functions = 0
            self.statements: list[tuple[int, int]] = []
            self.found: list[tuple[int, int, cst.CSTNode, cst.CSTNode]] = []

        def on_visit(self, node: cst.CSTNode) -> bool:
            if isinstance(node, untouched) or is_wording(node):
                return False
            if isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
                place = self.get_metadata(PositionProvider, node)
                body = getattr(node, "body", None)
                last = place.end.line
                if isinstance(body, cst.IndentedBlock) and not isinstance(node, cst.Try):
                    last = self.get_metadata(PositionProvider, body).start.line - 1  # of the head alone
                self.statements.append((place.start.line, max(place.start.line, last)))
            self.functions += isinstance(node, cst.FunctionDef)
            if self.functions:
                for kind, operator in mutation_operators:
                    if isinstance(node, kind):
                        self.found += [(*self.statements[-1], node, other) for other in operator(node)]
            return True

        def on_leave(self, node: cst.CSTNode) -> None:
            if isinstance(node, untouched) or is_wording(node):
                return
            if isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
                self.statements.pop()
            self.functions -= isinstance(node, cst.FunctionDef)

    def is_wording(node: cst.CSTNode) -> bool:
        if isinstance(node, cst.SimpleString):
            return " " in node.value
        return isinstance(node, cst.Call) and wrapper.module.code_for_node(node.func).endswith(("Error", "warn"))

    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = Visitor()
    wrapper.visit(visitor)
    once = set()
    for first, last, node, other in visitor.found:
        same = isinstance(node, cst.SimpleString)  # mutmut has three of each string
        if not (same and node in once):
            once.add(node)
            yield first, last, lambda n=node, o=other: wrapper.module.deep_replace(n, o).code


def functions_of(source: str, path: str) -> list[CodeType]:
    """The code of functions and methods in the order of a file, without those inside of them."""

    def walk(code: CodeType) -> Iterator[CodeType]:
        for inner in code.co_consts:
            if isinstance(inner, CodeType) and not inner.co_name.startswith("<"):
                if inner.co_flags & CO_OPTIMIZED:
                    yield inner
                else:  # a class
                    yield from walk(inner)

    return sorted(walk(compile(source, path, "exec", dont_inherit=True)), key=lambda code: code.co_firstlineno)


class Mutation:
    """Replaces the code of one function of this process by that of a mutant."""

    def __init__(self) -> None:
        self.functions: dict[tuple[str, int], list[FunctionType]] = {}
        for function in gc.get_objects():
            if type(function) is FunctionType:  # isinstance asks proxies, which warn
                code = function.__code__
                self.functions.setdefault((code.co_filename, code.co_firstlineno), []).append(function)

    def apply(self, mutant: Mutant) -> None:
        """Every name and every table of the function gets the mutant, because the function itself stays."""
        path = str(ROOT / mutant["file"])
        before = functions_of(Path(path).read_text(), path)
        after = functions_of(mutant["source"], path)
        index = max(n for n, code in enumerate(before) if code.co_firstlineno <= mutant["first"])
        found = [
            function
            for function in self.functions.get((path, before[index].co_firstlineno), [])
            if function.__code__.co_name == before[index].co_name
        ]
        if not found:
            raise LookupError(f"{mutant['file']}: no function {before[index].co_name} in this process")
        for function in found:
            function.__code__ = after[index]


class Runner:
    """A plugin of pytest that runs the tests once, and then those of each mutant in a process of its own."""

    def __init__(self, mutants: list[Mutant], seconds: float, longest: float) -> None:
        self.mutants, self.seconds, self.longest = mutants, seconds, longest
        self.files = {str(ROOT / mutant["file"]): mutant["file"] for mutant in mutants}
        self.lines: set[tuple[str, int]] = set()
        self.failed = False
        self.known: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed = True
            print(report.nodeid, report.longreprtext, sep="\n")

    def pytest_runtestloop(self, session: Any) -> bool:
        """Instead of the tests: the tests once, then the mutants."""
        self.mutation = Mutation()
        self.items = {item.nodeid: item for item in session.items}
        self.plugins = session.config.pluginmanager
        started = time.monotonic()
        if _forked(self._measure, 3600, "base") != 0:
            raise RuntimeError(f"The tests fail without any mutant: see {FOLDER / 'base.log'}")
        self.known = json.loads((FOLDER / "tests.json").read_text())
        print(f"{len(self.known)} tests in {time.monotonic() - started:.0f} seconds", flush=True)
        for number, mutant in enumerate(self.mutants):
            tests = self._tests(mutant)
            limit = 60 + 5 * sum(self.known[name]["seconds"] for name in tests)
            started = time.monotonic()
            code = _forked(lambda m=mutant, t=tests: self._survives(m, t), limit, "mutant") if tests else 0
            mutant["tests"] = len(tests)
            mutant["survived"] = code == 0
            state = "survived" if code == 0 else "killed"
            print(
                f"{number + 1}/{len(self.mutants)} {mutant['file']}:{mutant['first']} {state},"
                f" {len(tests)} tests, {time.monotonic() - started:.1f} s",
                flush=True,
            )
            if mutant["survived"]:
                print(difference(mutant), flush=True)
        return True

    def _measure(self) -> int:
        """Writes duration and lines of each test that passes; returns 1 where one fails."""
        self.plugins.unregister(name="terminalreporter")
        tests = {}
        names = list(self.items)
        cached = [each for each in gc.get_objects() if type(each) is CACHE and self._is_mutated(each.__wrapped__)]
        threading.settrace(self._trace)
        for name, following in zip(names, [*names[1:], None], strict=True):
            for each in cached:  # a test that finds a result there does not execute the function
                each.cache_clear()
            self.lines = set()
            started = time.monotonic()
            sys.settrace(self._trace)
            self._run(name, following)
            sys.settrace(None)
            if self.failed:
                return 1
            tests[name] = {"seconds": time.monotonic() - started, "lines": sorted(self.lines)}
        (FOLDER / "tests.json").write_text(json.dumps(tests))
        return 0

    def _is_mutated(self, function: Any) -> bool:
        return type(function) is FunctionType and function.__code__.co_filename in self.files

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        name = self.files.get(frame.f_code.co_filename)
        if name is None:
            return None

        def line(frame: FrameType, event: str, argument: object) -> Any:
            self.lines.add((name, frame.f_lineno))
            return line

        return line(frame, event, argument)

    def _tests(self, mutant: Mutant) -> list[str]:
        """The tests that execute the changed statement, in the order in which they are run."""
        place = {(mutant["file"], number) for number in range(mutant["first"], mutant["last"] + 1)}
        found = [
            name
            for name, test in self.known.items()
            if test["seconds"] <= self.longest and not place.isdisjoint(map(tuple, test["lines"]))
        ]
        own = f"test_{Path(mutant['file']).stem}.py"
        found.sort(key=lambda name: (own not in name, self.known[name]["seconds"]))
        chosen, seconds = [], 0.0
        for name in found:
            seconds += self.known[name]["seconds"]
            if chosen and seconds > self.seconds:
                break
            chosen.append(name)
        return chosen

    def _survives(self, mutant: Mutant, tests: list[str]) -> int:
        self.plugins.unregister(name="terminalreporter")
        self.mutation.apply(mutant)
        for name, following in zip(tests, [*tests[1:], None], strict=True):
            self._run(name, following)
            if self.failed:
                return 1
        return 0

    def _run(self, name: str, following: str | None) -> None:
        item = self.items[name]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following and self.items[following])


MEMORY = 8 * 2**30
"""Bytes that a forked process may take: a mutant whose loop never ends must not take all of the machine."""


def _forked(function: Callable[[], int], limit: float, name: str) -> int:
    """The exit code of a function in a forked process, which is killed after some seconds (-9)."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            log = os.open(FOLDER / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            temporary = FOLDER / f"{name}.tmp"  # pytest has not made its folder yet: each process has its own files
            temporary.mkdir(exist_ok=True)
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(temporary)
            code = function()
        except BaseException:  # noqa: BLE001 - a forked process must not go on as its parent
            traceback.print_exc()
            code = 2
        sys.stdout.flush()
        os._exit(code)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


def difference(mutant: Mutant) -> str:
    """What a mutant changes, as a unified difference."""
    before = (ROOT / mutant["file"]).read_text().splitlines(keepends=True)
    after = mutant["source"].splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, mutant["file"], mutant["file"], n=2))


def table(mutants: list[Mutant]) -> str:
    """Mutants, killed, survived and the share that was killed, by file."""
    mutated = Counter(mutant["file"] for mutant in mutants)
    survived = Counter(mutant["file"] for mutant in mutants if mutant["survived"])
    lines = [f"{'file':36} {'mutants':>8} {'killed':>8} {'survived':>9} {'share':>6}"]
    for name, count in [*mutated.items(), ("all", len(mutants))]:
        left = survived[name] if name != "all" else survived.total()
        lines.append(f"{name:36} {count:8} {count - left:8} {left:9} {1 - left / count:6.0%}")
    return "\n".join(lines)


def test(arguments: argparse.Namespace) -> int:
    """Tests the mutants that were drawn and prints the table; returns the exit code."""
    import pytest

    state = FOLDER / "mutants.json"
    mutants = json.loads(state.read_text())
    chosen = [
        mutant
        for mutant in mutants
        if (not arguments.file or mutant["file"] in files(arguments.file))
        and (not arguments.again or mutant.get("survived"))
    ]
    sys.path.insert(0, str(ROOT))
    for name in {mutant["file"] for mutant in chosen}:
        __import__(name.removesuffix(".py").replace("/", "."))
    options = ["-q", "-s", "-p", "no:cacheprovider", "-k", SELECTED, "-m", "not long and not slow", "--durations=0"]
    runner = Runner(chosen, arguments.seconds, arguments.longest)
    code = pytest.main([*options, f"--rootdir={ROOT}", *(str(ROOT / name) for name in arguments.tests)], [runner])
    if code != 0:
        return int(code)
    state.write_text(json.dumps(mutants))
    survivors = [mutant for mutant in mutants if mutant.get("survived")]
    (FOLDER / "survivors.diff").write_text("\n".join(difference(mutant) for mutant in survivors))
    print(table([mutant for mutant in mutants if "survived" in mutant]))
    return 0


def main() -> int:
    """Draws mutants, or tests them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Counts small changes of the code that no test notices.")
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="draw mutants (needs mutmut)")
    drawing.add_argument("--files", nargs="+", default=list(FILES), help="files and folders")
    drawing.add_argument("--number", type=int, default=200, help=f"about how many, at least {LEAST} of each file")
    drawing.add_argument("--seed", type=int, default=0)
    testing = commands.add_parser("test", help="run the tests of the mutants that were drawn")
    testing.add_argument("--file", nargs="+", help="only mutants of these files and folders")
    testing.add_argument("--again", action="store_true", help="only those that survived the last time")
    testing.add_argument("--tests", nargs="+", default=list(TESTS), help="files and folders of tests")
    testing.add_argument("--seconds", type=float, default=20.0, help="of tests for each mutant")
    testing.add_argument("--longest", type=float, default=20.0, help="leave out tests that take more seconds")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.command == "test":
        return test(arguments)
    (FOLDER / "mutants.json").write_text(json.dumps(draw(arguments.files, arguments.number, arguments.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
