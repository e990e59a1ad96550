"""The command `stylize` over many files: past whatever is wrong with one of them, and stopped at any moment."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import thin_model
from PIL import Image
from processes import command, ends, start
from torch import Tensor

import stylezoo
from stylezoo.cli import main
from stylezoo.errors import StylezooError
from stylezoo.images import read_image, to_tensor, write_image
from stylezoo.inference import Stylizer, files
from stylezoo.inference.plan import Job
from stylezoo.inference.shards import Shard
from stylezoo.inference.tuning import Work


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    stylezoo.save_model(thin_model("adain"), path)
    return str(path)


@pytest.fixture
def style(tmp_path: Path) -> str:
    write_image(torch.rand(3, 40, 32), tmp_path / "styles" / "waves.png")
    return str(tmp_path / "styles" / "waves.png")


def run(*arguments: str) -> int:
    """The exit code of `stylize`."""
    try:
        main(["stylize", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def contents(folder: Path, *sizes: tuple[int, int]) -> str:
    for index, size in enumerate(sizes):
        write_image(torch.rand(3, *size), folder / f"{index}.png")
    return str(folder)


def test_the_original_is_not_overwritten(
    model: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    write_image(torch.rand(3, 32, 32), photo)
    before, damaged = photo.read_bytes(), tmp_path / "damaged.safetensors"
    damaged.touch()  # reading it would be an error of its own
    assert run("--model", str(damaged), "--content", str(photo), "--style", style, "--output", str(photo)) == 1
    said = capsys.readouterr().err
    assert "would replace the input" in said and len(said.splitlines()) == 1 and photo.read_bytes() == before


def test_what_is_cheap_is_checked_before_the_model_is_loaded(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, damaged = contents(tmp_path / "in", (32, 32)), tmp_path / "damaged.safetensors"
    damaged.touch()  # reading it would be an error of its own
    common = {"--model": str(damaged), "--content": photo, "--style": style, "--output": str(tmp_path / "out")}
    for changes, message in (
        ({"--content": "gone.png"}, "gone.png does not exist"),
        ({"--style": "gone.png"}, "style gone.png does not exist"),
        ({"--masks": "gone.png"}, "gone.png does not exist"),
        ({"--content": str(tmp_path / "styles" / "*.jpg")}, "There is no image in"),
        ({"--output": str(tmp_path / "out.psd")}, "Cannot write"),
        ({"--output": ""}, "--output has no name"),
        ({"--content": ""}, "A file has an empty name"),
        ({"--output": f"{style}/out"}, "Cannot write to the folder"),
        ({"--alpha": "2"}, "alpha is the strength of the style between 0 and 1, not 2.0"),
        ({"--size": "0"}, "size is the short side in pixels that contents are resized to, 16 to 17320, not 0"),
        ({"--size": "3000000"}, "size is the short side"),
        ({"--style_size": "0"}, "style_size is the short side"),
        ({"--tile": "0"}, "tile is the side of a tile in pixels"),
        ({"--quality": "101"}, "quality is the quality of JPEG and WebP files, 1 to 100, not 101"),
        ({"--quality": "-5"}, "not -5"),
        ({"--batch_size": "0"}, "batch_size is the number of images stylized together, 1 or more, not 0"),
        ({"--batch_size": "-2"}, "not -2"),
        ({"--preview": "-1"}, "preview is the number of iterations between two previews, 0 for none, not -1"),
        ({"--masks": style, "--style_weights": "1,2"}, "give only one of them"),
        ({"--device": "nonsense"}, "There is no device 'nonsense'"),
        ({"--device": "meta"}, "There is no device 'meta'"),
        ({"--device": "cuda:77"}, "There is no device 'cuda:77'"),
    ):
        options = {**common, **changes}
        assert run(*(word for option in options.items() for word in option)) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1, said
    assert not (tmp_path / "out").exists()


def test_files_and_places_are_checked_without_pytorch(style: str, tmp_path: Path) -> None:
    program = f"""
import sys
from stylezoo.cli import main
for content, output in (("gone.png", "out"), ({style!r}, {style!r}), ({style!r}, "x.psd")):
    try:
        main(["stylize", "--model", "adain", "--content", content, "--style", {style!r}, "--output", output])
    except SystemExit as stop:
        assert stop.code == 1
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    said = run.stderr.splitlines()
    assert len(said) == 3 and "gone.png does not exist" in said[0] and "would replace" in said[1] and "x.psd" in said[2]


def test_one_file_never_ends_a_run(
    model: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for a lack of memory, nor by an error of this package, nor by a bug, which surfaces at the end."""
    folder = contents(tmp_path / "in", *[(24, 24)] * 3, *[(32, 24)] * 3)
    plain = Stylizer.__call__
    bad = {"0.png": RuntimeError("DefaultCPUAllocator: can't allocate memory"), "4.png": IndexError("bug")}
    tensors = {name: to_tensor(read_image(tmp_path / "in" / name)) for name in bad}

    def fragile(self: Stylizer, batch: Tensor) -> Tensor:
        for name, error in bad.items():
            if any(torch.equal(image, tensors[name]) for image in batch):
                raise error
        return plain(self, batch)

    monkeypatch.setattr(Stylizer, "__call__", fragile)
    with pytest.raises(IndexError, match="bug"):
        run("--model", model, "--content", folder, "--style", style, "--output", str(tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == 4
    said = capsys.readouterr().err
    assert "0.png: There is not enough memory" in said and "4.png: IndexError: bug" in said


def test_a_style_that_fails_is_named_and_the_rest_goes_on(
    model: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = contents(tmp_path / "in", (24, 24), (24, 24))
    write_image(torch.rand(3, 300, 1), tmp_path / "styles" / "thread.png")
    code = run(
        *("--model", model, "--content", folder, "--style", str(tmp_path / "styles")),
        *("--output", str(tmp_path / "out"), "--style_size", "256"),
    )
    shown = capsys.readouterr()
    assert code == 1 and "2 of 4 images stylized, 2 failed" in shown.out
    assert len(shown.err.splitlines()) == 1 and "style " in shown.err and "thread.png" in shown.err
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_each_file_is_read_once(
    model: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = contents(tmp_path / "in", (24, 24), (24, 24), (8, 8))
    for name in ("b", "c"):
        write_image(torch.rand(3, 40, 32), tmp_path / "styles" / f"{name}.png")
    read: Counter[str] = Counter()
    load = files.load_with_alpha
    monkeypatch.setattr(files, "load_with_alpha", lambda path, size: (read.update([path.name]), load(path, size))[1])
    styles = str(tmp_path / "styles")
    assert run("--model", model, "--content", folder, "--style", styles, "--output", str(tmp_path / "out")) == 1
    assert set(read.values()) == {1} and len(read) == 3
    shown = capsys.readouterr()
    assert "6 of 9 images stylized, 3 failed" in shown.out and len(shown.err.splitlines()) == 1  # told once
    monkeypatch.setattr(files, "CACHED_BYTES", 1)  # one content at a time gives the same
    outputs = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run("--model", model, "--content", folder, "--style", styles, "--output", str(tmp_path / "one")) == 1
    assert outputs.keys() == {path.name for path in (tmp_path / "one").iterdir()}
    for name in outputs:
        pair = [np.asarray(read_image(tmp_path / folder / name)).astype(int) for folder in ("out", "one")]
        assert np.abs(pair[0] - pair[1]).max() <= 1


def test_one_block_of_contents_is_held_at_a_time(
    model: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = contents(tmp_path / "in", *[(24, 24)] * 6)
    monkeypatch.setattr(files, "CACHED_BYTES", 1)
    images: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    load = files.load_with_alpha

    def watched(path: Path, size: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        image, alpha = load(path, size)
        alive.append(sum(reference() is not None for reference in images))
        images.append(weakref.ref(image))
        return image, alpha

    monkeypatch.setattr(files, "load_with_alpha", watched)
    assert run("--model", model, "--content", folder, "--style", style, "--output", str(tmp_path / "out")) == 0
    assert alive == [0] * 6


def test_a_rerun_continues(model: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = contents(tmp_path / "in", (24, 24), (24, 24), (24, 24))
    options = ("--model", model, "--content", folder, "--style", style, "--output", str(tmp_path / "in" / "out"))
    assert run(*options) == 0
    first = tmp_path / "in" / "out" / "0_stylized_waves.png"
    first.unlink()
    times = {path.name: path.stat().st_mtime_ns for path in first.parent.iterdir()}
    assert run(*options, "--skip_existing", "true") == 0
    assert "1 of 3 images stylized, 0 failed, 2 exist already" in capsys.readouterr().out
    assert {p.name: p.stat().st_mtime_ns for p in first.parent.iterdir() if p != first} == times and first.exists()
    assert run(*options, "--skip_existing", "true") == 0
    assert "0 of 3 images stylized, 0 failed, 3 exist already" in capsys.readouterr().out


def test_pairs_and_random_styles_leave_a_list(model: str, style: str, tmp_path: Path) -> None:
    folder = contents(tmp_path / "in", (24, 24), (24, 24))
    write_image(torch.rand(3, 40, 32), tmp_path / "styles" / "muse.png")
    out = tmp_path / "out"
    options = ("--model", model, "--output", str(out), "--alpha", "0.5")
    draw = ("--content", folder, "--style", str(tmp_path / "styles"), "--random_styles", "1", "--seed", "7")
    assert run(*options, *draw) == 0
    lines = (out / "stylized.csv").read_text().splitlines()
    assert lines[0] == "content,style,alpha,seed,output" and len(lines) == 3
    assert all(line.split(",")[2:4] == ["0.5", "7"] and (out / line.split(",")[4]).exists() for line in lines[1:])
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"content,style\n{folder}/0.png,{style}\n")
    assert run("--model", model, "--output", str(tmp_path / "pairs"), "--pairs", str(pairs)) == 0
    assert sorted(p.name for p in (tmp_path / "pairs").iterdir()) == ["0_stylized_waves.png", "stylized.csv"]


def test_trained_styles_by_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = thin_model("cin")
    stylezoo.save_model(network, tmp_path / "cin.safetensors")
    folder = contents(tmp_path / "in", (24, 24))
    (tmp_path / "pairs.csv").write_text(f"content,style\n{folder}/0.png,{network.styles[1]}\n")
    options = ("--model", str(tmp_path / "cin.safetensors"), "--output", str(tmp_path / "out"))
    assert run(*options, "--pairs", str(tmp_path / "pairs.csv")) == 0
    assert (tmp_path / "out" / f"0_stylized_{network.styles[1]}.png").exists()
    for option, message in ((["--style", "nothing"], "nothing"), (["--style_size", "64"], "takes no style image")):
        capsys.readouterr()
        assert run(*options, "--content", folder, *option) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1


def test_what_the_file_was_comes_back(model: str, style: str, tmp_path: Path) -> None:
    """Transparency, resolution and date of the content, and how the image was made."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 4), np.uint8))
    exif = Image.Exif()
    exif[306] = "2020:01:02 03:04:05"
    photo.save(tmp_path / "photo.png", dpi=(300, 300), exif=exif)
    out = tmp_path / "out.png"
    assert run("--model", model, "--content", str(tmp_path / "photo.png"), "--style", style, "--output", str(out)) == 0
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image.getchannel("A")), np.asarray(photo.getchannel("A")))
        assert round(image.info["dpi"][0]) == 300 and image.getexif()[306] == "2020:01:02 03:04:05"
        made = json.loads(image.info["stylezoo"])
    assert made["styles"] == ["waves.png"] and made["alpha"] == 1 and made["model"] == "model"
    assert made["version"] == stylezoo.__version__


def test_names_with_brackets_and_bytes(model: str, style: str, tmp_path: Path) -> None:
    """Names that a progress bar could take for markup, or that are no text."""
    name = os.fsdecode(b"a[b]\xff.png")
    write_image(torch.rand(3, 24, 24), tmp_path / "in" / name)
    assert (
        run("--model", model, "--content", str(tmp_path / "in"), "--style", style, "--output", str(tmp_path / "out"))
        == 0
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == [os.fsdecode(b"a[b]\xff_stylized_waves.png")]


def test_how_much_there_is_to_do(tmp_path: Path) -> None:
    """Megapixels after resizing, and the sizes of which each engine prepares one; broken files count nothing."""
    write_image(torch.rand(3, 20, 40), tmp_path / "a.png")
    write_image(torch.rand(3, 40, 20), tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"")
    jobs = [Job(tmp_path / f"{name}.png", (), tmp_path / "out.png") for name in "aabc"]
    assert files.expected_work(jobs, None) == Work(pytest.approx(3 * 800 / 1e6), 2)
    assert files.expected_work(jobs, 10) == Work(pytest.approx(3 * 200 / 1e6), 2)
    assert files.expected_work(jobs[:2], 60) == Work(pytest.approx(2 * 7200 / 1e6), 1)
    assert files.expected_work([], 60) == Work(0.0, 1)


def test_processes_share_the_gpus_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu, shard = torch.device("cuda"), Shard(7, 8, local_rank=3)
    assert files.own_device(gpu, shard) == torch.device("cuda", 1)
    for device, place in ((torch.device("cuda", 0), shard), (torch.device("cpu"), shard), (gpu, Shard())):
        assert files.own_device(device, place) == device


def test_clips_fail_with_their_style(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> Stylizer:
        raise StylezooError("waves.png is damaged.")

    jobs = [Job(tmp_path / f"{name}.mp4", ("waves.png",), tmp_path / f"{name}.mkv", is_clip=True) for name in "ab"]
    run = files.Run(thin_model("adain"), broken)
    run(jobs)
    assert run.failed == 2 and not run.done and run.bug is None
    assert capsys.readouterr().err == "skipped: style waves.png is damaged.\n"


def test_a_log_file_gets_a_line_now_and_then(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stylezoo.save_model(thin_model("gatys", iterations=4), tmp_path / "gatys.safetensors")
    folder = contents(tmp_path / "in", (24, 24))
    monkeypatch.setattr(files, "SECONDS_BETWEEN_LINES", 0.0)
    options = ("--model", str(tmp_path / "gatys.safetensors"), "--content", f"{folder}/0.png", "--style", style)
    assert run(*options, "--output", str(tmp_path / "out.png")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("out.png: iteration 1 of 4, loss ") and lines[-1] == "1 of 1 images"


def test_a_stop_leaves_whole_images_and_no_preview(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stylezoo.save_model(thin_model("gatys", iterations=4), tmp_path / "gatys.safetensors")
    folder = contents(tmp_path / "in", (24, 24), (24, 24), (24, 24))
    options = ("--model", str(tmp_path / "gatys.safetensors"), "--content", folder, "--style", style, "--preview", "1")
    write, out = files.write_image, tmp_path / "out"

    def stopped(image: Tensor, path: Path, *others: object) -> None:
        write(image, path, *others)  # type: ignore[arg-type]
        if path.name == "1_stylized_waves_preview.png":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(files, "write_image", stopped)
    assert run(*options, "--output", str(out)) == 130
    assert f"stylezoo: stopped after 1 of 3 images: {out}" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["0_stylized_waves.png"]


def in_little_memory(*words: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (5_000_000 * 1024,) * 2)
    command(*words)


def test_a_process_in_little_memory_goes_on(style: str, tmp_path: Path) -> None:
    """Of 24 x 24, 3000 x 3000 and 24 x 24 pixels within 5 GB of addresses, the first and the third are stylized."""
    folder = contents(tmp_path / "in", (24, 24), (24, 24))
    Image.new("RGB", (3000, 3000)).save(tmp_path / "in" / "00.png")
    words = ["stylize", "--model", "adain.slim", "--content", folder, "--style", style, "--device", "cpu"]
    words += ["--output", str(tmp_path / "out"), "--tile", "none"]
    process = start(in_little_memory, *words, folder=tmp_path, log=tmp_path / "said")
    code, said = ends(process, 300), (tmp_path / "said.err").read_text()
    assert code == 1 and "Traceback" not in said, said
    assert "2 of 3 images stylized, 1 failed" in (tmp_path / "said.out").read_text()
    assert "00.png: There is not enough memory for an image of 3000 x 3000 pixels: work in tiles" in said
    assert len(list((tmp_path / "out").iterdir())) == 2
