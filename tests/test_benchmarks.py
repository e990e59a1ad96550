"""The scripts of benchmarks/: their arithmetic, what they leave out, and that they resume; no time is asserted."""

from __future__ import annotations

import csv
import doctest
import json
import math
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT, thin_model
from torch.utils.flop_counter import flop_registry

import stylezoo
from stylezoo.errors import StylezooError
from stylezoo.images import read_image, to_tensor


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def public() -> ModuleType:
    return import_module("public_style")


@pytest.mark.parametrize("system", ["adain", "efdm", "sanet", "johnson", "microast"])
@pytest.mark.parametrize("size", [(96, 64), (90, 77)])
def test_public_networks_compute_the_same(public: ModuleType, system: str, size: tuple[int, int]) -> None:
    model = thin_model(system).eval()
    content, style = torch.rand(1, 3, *size), torch.rand(1, 3, 80, 96)
    if system == "efdm":
        style = torch.rand(1, 3, *size)  # the public code exchanges values one by one
    if system == "sanet":
        content, style = content[..., :64, :48], style[..., :64, :64]  # where the levels agree in size
    with torch.inference_mode():
        output = model(content, style if model.kind == "arbitrary" else None)
        baseline = public.public_style(model)(content, style)[..., : content.shape[-2], : content.shape[-1]]
    assert float(output.std()) > 1e-3  # the comparison is of something
    torch.testing.assert_close(baseline, output, rtol=1e-4, atol=1e-4 * float(output.abs().max()))


def test_public_networks_of_other_structures(public: ModuleType) -> None:
    for system, settings, message in [
        ("gatys", {}, "system"),
        ("adain", {"encoder": "vgg19_slim"}, "other layers"),
        ("johnson", {"upsample": "transposed"}, "pytorch/examples"),
    ]:
        model = stylezoo.create_model(system, **settings) if "encoder" in settings else thin_model(system, **settings)
        with pytest.raises(StylezooError, match=message):
            public.public_style(model)


def vgg_flops_per_pixel(divisor: int) -> float:
    """Of VGG-19 up to relu4_1, from the sizes of its convolutions: 2 C_in 3^2 C_out at 1, 1/4, 1/16 and 1/64 of the pixels."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 256, 512]
    blocks = [1, 1, 2, 2, 3, 3, 3, 3, 4]
    channels = [3, *(width // divisor for width in widths[1:])]
    pairs = zip(channels, channels[1:], blocks, strict=False)
    return 2 * 3 * 3 + sum(18 * before * after / 4 ** (block - 1) for before, after, block in pairs)


def test_work_is_that_of_the_formulas() -> None:
    """AdaIN: that of the encoder and of its mirror; attention: 4 N M C."""
    work = import_module("work")
    assert vgg_flops_per_pixel(1) == pytest.approx(482_706, rel=1e-6)
    model = thin_model("adain").eval()
    content = torch.rand(1, 3, 64, 48)
    code = model.encode_style(content)
    counter = work.count(model.decode, content, code)
    assert counter.flops == 64 * 48 * (2 * vgg_flops_per_pixel(8) - 2 * 3 * 3)  # the decoder has no map of colors
    assert work.count(torch.inference_mode()(model.decode), content, code).flops == counter.flops
    if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:
        pytest.skip("this PyTorch does not count the work of attention on a CPU")
    query, key = torch.rand(1, 1, 24, 16), torch.rand(1, 1, 40, 16)
    attention = work.count(torch.nn.functional.scaled_dot_product_attention, query, key, key)
    assert attention.flops == 4 * 24 * 40 * 16


def test_the_least_time_is_arithmetic_or_traffic() -> None:
    work = import_module("work")
    counter = work.WorkCounter()
    counter.operations = [work.Operation("mm", 1000, 10), work.Operation("mm", 10, 1000)]
    assert counter.seconds(100, 50, 2) == pytest.approx(1000 / 100 + 1000 * 2 / 50)
    product = work.count(torch.mm, torch.rand(3, 5), torch.rand(5, 7)).operations
    assert product == [work.Operation("mm", 2 * 3 * 5 * 7, 3 * 5 + 5 * 7 + 3 * 7)]


def test_ratios_are_those_of_the_rounds() -> None:
    table = import_module("inference_table")
    spread = table.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 1.0])
    assert (spread.median, spread.low, spread.high) == (3.0, 2.0, 4.0)  # the ratio of the medians would be 4
    with pytest.raises(ValueError, match="shorter"):
        table.ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize("name", ["inference", "inference_case", "inference_table"])
def test_examples_of_docstrings(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.attempted and not results.failed


def test_estimates() -> None:
    """Convolutions grow with the pixels, attention with their square; noise at small sizes does not make them shrink."""
    extrapolated = import_module("inference").extrapolated
    for linear, quadratic in [(3.0, 0.0), (2.0, 1e-6), (0.0, 1e-6)]:
        known = {s: linear * s**2 + quadratic * s**4 for s in (128, 256, 512)}
        assert extrapolated(known, 2048) == pytest.approx(linear * 2048**2 + quadratic * 2048**4)
    assert extrapolated({256: 2.0, 512: 4.0}, 1024) == 16.0
    assert extrapolated({512: 4.0}, 1024) == 16.0
    assert extrapolated({1024: 4.0}, 512) is None


class Machine:
    """Stands for the process of a case: images of 256 px take a second and 100 MiB, the baseline twice of both."""

    def __init__(self) -> None:
        self.cases: list[Any] = []

    def __call__(self, case: Any, timeout: float) -> dict[str, Any]:
        self.cases.append(case)
        scale = (case.size / 256) ** 2
        factors = {task: (2.0 if task.startswith("public") else 1.0) * scale for task in case.tasks}
        if case.what == "memory":
            (factor,) = factors.values()
            return {"loaded": 50.0, "peak": 50 + 100 * factor, "first": factor, "seconds": factor, "flops": [10**9] * 2}
        factors = {task: factor / (2 if task == "eager/kept" else 1) for task, factor in factors.items()}
        return {
            "seconds": {task: [factor] * case.rounds for task, factor in factors.items()},
            "matrix": [1e10] * case.rounds,
            "difference": {},
        }


def benchmark(folder: Path, machine: Machine, **options: Any) -> Any:
    inference = import_module("inference")
    settings = {"models": ["adain", "cin"], "sizes": [256, 512, 1024, 2048], "engines": ["eager"], "rounds": 5}
    settings |= {"seconds": 20.0, "memory_gib": 100.0, "threads": 1, **options}
    return inference.Benchmark(inference.Options(output=folder, **settings), machine)


def test_what_takes_too_long_or_too_much_memory_is_left_out(tmp_path: Path) -> None:
    machine = Machine()
    run = benchmark(tmp_path, machine)
    assert run.run() == []
    left_out = run.measured.left_out
    # 1024 px take 16 s, once but not in four rounds; the baseline would take 32 s.
    assert "about 32 s per image" in left_out["adain", "public", 1024]
    assert "about 16 s in each of 4 rounds" in left_out["adain", "time of eager/encoded", 1024]
    assert "left out already at 1024 px" in left_out["adain", "public", 2048]
    assert "about 64 s per image" in left_out["cin", "eager", 2048]
    assert {c.rounds for c in machine.cases if c.what == "time" and c.size == 256} == {5}
    # A task of CIN takes 4 s once at 512 px, but 2 s by its times at 256 px; one of AdaIN 4 s: four rounds after the first.
    rounds = {c.model: c.rounds for c in machine.cases if c.what == "time" and c.size == 512}
    assert rounds == {"cin": 5, "adain": 4}
    limited = benchmark(tmp_path / "memory", Machine(), memory_gib=0.6)
    limited.run()
    assert "about 0.8 GiB, and a case may take 0.6 GiB" in limited.measured.left_out["adain", "public", 512]
    assert ("adain", "eager", 512) in limited.measured.memories


def test_tiles_are_engines_of_large_images(tmp_path: Path) -> None:
    machine = Machine()
    benchmark(tmp_path, machine, models=["adain", "johnson"], engines=["eager+tile512"], sizes=[512, 1024]).run()
    tiled = {(case.model, case.size) for case in machine.cases if any("tile" in task for task in case.tasks)}
    assert ("adain", 1024) in tiled and not {("adain", 512), ("johnson", 512)} & tiled


def test_tables(tmp_path: Path) -> None:
    run = benchmark(tmp_path, Machine(), seconds=40.0)
    run.write(run.run(), "python benchmarks/inference.py")
    with (tmp_path / "inference.csv").open(newline="") as file:
        found = {(row["model"], row["size"], row["engine"]): row for row in csv.DictReader(file)}
    row = found["adain", "512", "eager"]
    assert [float(row[f"ratio, {mode}, median"]) for mode in ("style encoded", "code kept")] == [2, 4]
    assert (float(row["s, code kept"]), float(row["images per s"])) == (2, 0.5)
    assert float(row["share of matrix rate"]) == pytest.approx(1e9 / 2 / 1e10)
    assert (float(row["peak, MiB"]), float(row["peak less loaded, MiB"])) == (450, 400)
    assert row["must show"] == ">= 1.5 encoded: holds; >= 2.4 kept: holds"
    public = found["adain", "512", "public"]
    assert (public["s, code kept"], public["ratio, style encoded, median"]) == ("", "")
    assert found["cin", "512", "eager"]["ratio, code kept, median"] == ""  # there is no baseline
    text = (tmp_path / "README.md").read_text()
    assert "| 4.00 (4.00 to 4.00) x | eager | yes |" in text and "| not measured |" in text
    assert "- adain at 2048 px, public: about 128 s per image" in text


def test_lines_that_do_not_hold() -> None:
    table = import_module("inference_table")
    seconds = {"public/encoded": [3.0, 3.0, 3.0], "eager/encoded": [2.5, 2.0, 2.4], "eager/kept": [1.0, 1.0, 1.0]}
    memories = {
        ("sanet", "eager", 1024): {"peak": 1000.0, "loaded": 500.0},
        ("adain", "eager", 1024): {"peak": 900.0, "loaded": 450.0},
    }
    measured = table.Measured(["adain"], ["eager"], [512], {("adain", 512): {"seconds": seconds}}, memories)
    lines = {str(row["line"]): row for row in table.claim_rows(measured)}
    held = {line.partition(":")[0]: row["holds"] for line, row in lines.items() if row["holds"]}
    assert held == {
        "adain at 512 px with the style encoded": "no",
        "adain at 512 px with the style's code kept": "yes",
        "sanet at 1024 px": "no",
    }
    assert table.PeakClaim("sanet", 1024, 1000.0).verdict(measured, "eager")[0]
    assert not table.PeakClaim("sanet", 1024, 999.0).verdict(measured, "eager")[0]
    only = table.RatioClaim("adain", 512, "kept", 3.0, "bfloat16")
    assert only.verdict(measured, "eager") is None  # it is about another engine
    assert lines["sanet at 1024 px: peak memory at most 64 MiB above that of adain"]["measured"].startswith("100 MiB")


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, told = Machine(), list[tuple[str, int, int]]()
    waiting = benchmark(tmp_path, first, minutes=0.0).run()
    assert len(waiting) == 8 and waiting[0] == "adain at 256 px" and not first.cases
    begun = benchmark(tmp_path, first, sizes=[256])
    begun.tell = lambda *words: told.append(words)
    begun.run()
    assert told[0] == ("adain at 256 px, memory", 0, 2) and told[-1] == ("cin at 256 px, time", 1, 2)
    second = Machine()
    run = benchmark(tmp_path, second)
    run.run()
    assert first.cases and {case.size for case in second.cases} == {512, 1024}
    assert not set(first.cases) & set(second.cases) and ("adain", "eager", 256) in run.measured.memories
    third = Machine()
    benchmark(tmp_path, third).run()
    assert not third.cases
    monkeypatch.setattr(import_module("inference"), "code_version", lambda: "another")
    benchmark(tmp_path, third, keep=True).run()
    assert not third.cases
    benchmark(tmp_path, third).run()
    assert set(third.cases) == set(first.cases) | set(second.cases)


def test_failures_are_named_and_tried_again(tmp_path: Path) -> None:
    machine = Machine()
    run = benchmark(tmp_path, lambda case, timeout: {"error": "killed"} if case.size == 512 else machine(case, timeout))
    run.run()
    assert run.measured.left_out["adain", "eager", 512] == "killed"
    assert ("adain", 256) in run.measured.times and ("adain", 512) not in run.measured.times
    again = Machine()
    benchmark(tmp_path, again, sizes=[256, 512]).run()
    assert {case.size for case in again.cases} == {512}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {}}'])
def test_damaged_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "cases.json").write_text(text)
    with pytest.raises(StylezooError, match="is damaged: delete it"):
        benchmark(tmp_path, Machine())
    assert (tmp_path / "cases.json").read_text() == text


def test_models_of_the_table(tmp_path: Path) -> None:
    run = benchmark(tmp_path, Machine(), models=None)
    assert {"adain", "johnson", "adain.slim"} <= set(run.measured.models) and "gatys" not in run.measured.models
    for name, message in [("gatys", "optimizes"), ("adian", "did you mean")]:
        with pytest.raises(StylezooError, match=message):
            benchmark(tmp_path, Machine(), models=[name])


def test_a_case_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    case = import_module("inference_case")
    monkeypatch.setattr(case, "build", lambda name, device: thin_model(case.system_of(name)).eval())
    tasks = ("public/encoded", "eager/encoded", "eager/kept")
    result = case.measure(case.Case("time", "adain", 64, tasks, rounds=2))
    assert {name: len(seconds) for name, seconds in result["seconds"].items()} == dict.fromkeys(tasks, 2)
    assert all(second > 0 for seconds in result["seconds"].values() for second in seconds)
    assert len(result["matrix"]) == 2 and 0 <= result["difference"]["eager"] < 1e-3
    in_tiles = case.measure(case.Case("time", "adain", 64, ("public/encoded", "eager+tile32/kept"), rounds=1))
    assert 0 <= in_tiles["difference"]["eager+tile32"] < 1e-3
    encoded, kept = (case.measure(case.Case("memory", "adain", 64, (task,))) for task in tasks[1:])
    public = case.measure(case.Case("memory", "adain", 64, tasks[:1]))
    assert encoded["peak"] >= encoded["loaded"] > 0 and len(encoded["flops"]) == 2
    assert sum(encoded["flops"]) == sum(public["flops"]) and kept["flops"] == encoded["flops"][1:]
    assert case.modes("cin") == ("kept",) and not case.has_baseline("cin") and case.has_baseline("adain.slim")


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inference, case = import_module("inference"), import_module("inference_case")
    script = tmp_path / "inference_case.py"
    monkeypatch.setattr(inference, "__file__", str(tmp_path / "inference.py"))
    given = case.Case("time", "adain", 64, ("eager/kept",))
    for code, message in [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("import time; time.sleep(60)", "more than 1 s"),
    ]:
        script.write_text(code)
        assert message in inference.in_process(given, 1.0)["error"]
    script.write_text("import sys; print('noise'); print(sys.argv[1])")
    assert inference.in_process(given, 60.0)["tasks"] == ["eager/kept"]


# gpu_check


@pytest.mark.slow
def test_gpu_check_runs_everywhere(tmp_path: Path) -> None:
    """Every part at tiny sizes on the CPU."""
    gpu_check = import_module("gpu_check")
    found = gpu_check.main(gpu_check.Options(tmp_path, device="cpu", quick=True))
    assert list(found) == list(import_module("gpu_parts").PARTS)
    rows = [(name, row) for name, part in found.items() for row in part]
    assert not [row for _, row in rows if row.get("error")] and all(part for part in found.values())
    assert all(math.isfinite(value) for _, row in rows for value in row.values() if isinstance(value, float))
    by_label = {(name, *map(str, list(row.values())[:2])): row for name, row in rows}
    assert by_label["precision", "adain.slim", "bfloat16"]["finite"] is True
    assert by_label["engines", "sanet", "winograd"]["within"] is True
    assert by_label["attention", "sanet", "float32"]["linear memory"] is True
    assert by_label["engines", "adain", "cuda"]["not here"].startswith("it is for NVIDIA GPUs")
    assert all(row["losses are equal"] for row in found["deterministic"])
    assert json.loads((tmp_path / "gpu_check.json").read_text())["parts"] == found
    text = (tmp_path / "gpu_check.md").read_text()
    assert "Failed or left out: none." in text and all(f"## {part.title}" in text for part in gpu_check.PARTS.values())


def test_gpu_check_goes_on_after_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check, parts = import_module("gpu_check"), import_module("gpu_parts")
    clock = iter(range(100))
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: next(clock))

    def measure(setup: Any, item: int) -> dict[str, Any]:
        if item == 1:
            raise RuntimeError("reflection_pad2d_backward_cuda\ndoes not have a deterministic implementation")
        return {"number": 2.0 * item, "within": item == 0}

    part = parts.Part("Numbers", lambda setup: [(n,) for n in range(5)], ("item",), measure, 1)
    setup = parts.Setup(torch.device("cpu"), True, tmp_path)
    rows = list(gpu_check.rows_of(part, setup, 3.5))
    assert rows[0] == {"item": 0, "number": 0.0, "within": True} and rows[2]["number"] == 4
    assert rows[1]["error"].startswith("RuntimeError: reflection_pad2d_backward_cuda does not")
    assert "the time of this part was up" in rows[3]["error"] and "error" in rows[4]
    monkeypatch.setitem(gpu_check.PARTS, "rates", part)
    text = gpu_check.page({"processor": "x"}, {"rates": rows}, 4.0, "python")
    assert "Failed or left out: 3.\n\n- rates, 1: RuntimeError" in text and "Out of bounds: 1.\n\n- rates, 2" in text


def test_gpu_check_shares_its_time() -> None:
    gpu_check = import_module("gpu_check")
    names, left, used = list(gpu_check.PARTS), 400.0, []
    for number in range(len(names)):
        used.append(gpu_check.shares(names[number:], left))
        left -= used[-1]
    assert left == pytest.approx(0) and used[0] / used[1] == pytest.approx(1) and min(used) > 10
    with pytest.raises(StylezooError, match="parts must be"):
        gpu_check.main(gpu_check.Options(Path("x"), device="cpu", parts=["everything"]))


def test_a_part_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had written stays when it is killed; what it says when it fails is the reason."""
    gpu_check = import_module("gpu_check")
    script, options = tmp_path / "part.py", gpu_check.Options(tmp_path, device="cpu", quick=True)
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(gpu_check, "GRACE", 1.0)
    begin = 'import sys, time, pathlib; pathlib.Path(sys.argv[2]).write_text(\'[{"kind": "float32"}]\');'
    for end, reason in [("time.sleep(60)", "stopped after 2 s"), ("sys.exit('CUDA error')", "exit code 1: CUDA error")]:
        script.write_text(begin + end)
        first, last = gpu_check.in_process(options, "rates", tmp_path, 1.0)
        assert first == {"kind": "float32"} and last == {"kind": "(the process)", "error": reason}
    script.write_text(begin)
    assert gpu_check.in_process(options, "rates", tmp_path, 10.0) == [{"kind": "float32"}]


def test_schedules_are_those_of_the_recipes() -> None:
    recipe = import_module("gpu_parts").recipe
    assert recipe("adain") == (8, 256, 160_000) and recipe("johnson") == (4, 256, 41_390)
    assert recipe("multi_level_adain") == (10, 512, 31_780)  # ten epochs of 31,783 images


def test_augmentation_compares_a_batch_with_single_images(tmp_path: Path) -> None:
    script = import_module("augmentation")
    options = script.Options(
        tmp_path / "a.csv", ("microast.wikiart",), (32,), batch=3, styles=2, style_size=32, rounds=2
    )
    script.main(options)
    heading, *rows = (tmp_path / "a.csv").read_text().splitlines()
    assert heading.startswith("# ") and "threads 1" in heading
    (row,) = csv.DictReader(rows)
    assert row["model"] == "microast.wikiart" and row["size"] == "32" and float(row["batch ms"]) > 0
    low, high = map(float, row["one / batch, range"].split(" to "))
    assert low <= float(row["one / batch"]) <= high


def test_robustness_trains_and_tests(tmp_path: Path) -> None:
    """Tiny, but the images are what the page says: the same shapes, and other textures on them."""
    script = import_module("robustness")
    same, swapped = (script.images(8, 32, 3, swapped=other) for other in (0.0, 1.0))
    assert torch.equal(same.shapes, swapped.shapes) and same.shapes.tolist() == [0, 1, 2, 3] * 2
    assert torch.equal(same.textures, same.shapes) and bool((swapped.textures != swapped.shapes).all())
    assert same.pixels.shape == (8, 3, 32, 32) and float((same.pixels - swapped.pixels).abs().mean()) > 0.01
    sizes = {"styles": 2, "versions": 2, "size": 32, "train": 8, "test": 8, "batch": 4, "epochs": 1, "seeds": 2}
    script.main(script.Options(tmp_path / "r.csv", tmp_path / "r.png", **sizes))
    assert to_tensor(read_image(tmp_path / "r.png")).shape == (3, 4 * 36 + 4, 8 * 36 + 4)
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()))
    names = ["nothing", "ColorJitter", "GaussianBlur", "RandomStylize", "RandomStylize, GaussianBlur"]
    assert [row["augmentation"] for row in rows] == names
    tests = ("same", "swapped", "noisy", "swapped: texture")
    assert all(0 <= float(row[test].split(" ± ")[0]) <= 100 for row in rows for test in tests)


def test_robustness_counts_shapes_and_textures() -> None:
    """A network that knows one of the two answers is right on all of one column, and wrong on all of the other."""
    script = import_module("robustness")
    conflict = script.images(8, 32, 3, swapped=1.0)
    by_texture = torch.nn.functional.one_hot(conflict.textures, script.CLASSES).float()
    found = script.percentages(lambda pixels: by_texture, {"swapped": conflict})
    assert found == {"swapped": 0.0, "swapped: texture": 100.0}


@pytest.mark.long
def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of each: all is answered in order and measured; docs/load.csv has the figures of many."""
    pytest.importorskip("gradio", reason="the page needs Gradio (pip install stylezoo[demo])")
    load = import_module("load")
    monkeypatch.setattr("sys.argv", ["load.py", "--output", str(tmp_path / "load.csv"), *LITTLE_LOAD])
    load.main()
    rows = {row["part"]: row for row in csv.DictReader((tmp_path / "load.csv").open())}
    assert all(row["given"] == row["done"] for row in rows.values() if row["part"] != "page, queue of 20")
    assert rows["page, queue of 25"]["finding"] == "in the order of asking; 0 refused; answers on"
    short = rows["page, queue of 20"]
    assert 20 <= int(short["done"]) < 25 and "in the order of asking" in short["finding"]
    assert rows["evaluate, two processes"]["finding"] == "the values of one, byte for byte"


LITTLE_LOAD = ["--requests", "25", "--files", "40", "--pairs", "30"]
