"""What users read before anything runs: help, completion, the doctor, pictures in a terminal, and what to type next."""

from __future__ import annotations

import inspect
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, load_module, thin_model
from PIL import Image
from rich.console import Console

import stylezoo
from stylezoo import catalog, cli, commands, completion, doctor, files, gallery, help, plugins, weights
from stylezoo.cli import main
from stylezoo.commands import COMMANDS
from stylezoo.training import ending
from stylezoo.usage import UsageError, options_with_values

fuzz = load_module("fuzz_for_help", ROOT / "tools" / "fuzz.py")


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line prints that ends with code 0."""
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code in (0, None), capsys.readouterr().err
    return capsys.readouterr().out


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code in (1, 2)
    return capsys.readouterr().err


# Help


def test_the_help_of_every_command_is_read_without_pytorch() -> None:
    """In one fresh process; Lightning's commands, too."""
    program = f"""
import sys
from stylezoo.cli import main
for words in [["--help"], ["help"], *([name, "--help"] for name in {[*COMMANDS, *help.TRAINER_HELP]!r})]:
    try:
        main(words)
    except SystemExit as stop:
        assert not stop.code, words
    print("=" * 9)
heavy = {{"torch", "lightning", "torchvision", "numpy", "huggingface_hub", "shtab", "PIL"}} & sys.modules.keys()
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    first, same, *others, _ = run.stdout.split("=" * 9 + "\n")
    assert first == same and len(others) == len(COMMANDS) + 4
    for text in (first, *others):  # the examples come before the options
        assert 0 < text.index("\nexamples:\n  python -m stylezoo ") < text.index("\n  -")
        assert "Lightning" not in text.split("All options")[0]


def test_every_command_has_a_topic_and_is_listed_once() -> None:
    text = help.overview(cli.summaries())
    for name in (*COMMANDS, *help.TRAINER_HELP):
        assert len(re.findall(rf"^  {name} ", text, re.MULTILINE)) == 1, name
    assert "further commands" not in text
    assert "further commands:\n  shiny" in help.overview({**cli.summaries(), "shiny": "A new command."})


def example_lines() -> list[str]:
    lines = [f"{help.PROGRAM} {line}" for line in help.EXAMPLES]
    lines += [f"{help.PROGRAM} {line}" for about in help.TRAINER_HELP.values() for line in about.examples]
    for function in COMMANDS.values():
        found = re.findall(r"python -m stylezoo .*", help.description(function).split("examples:")[1].split("\n\n")[0])
        assert found, function
        lines += found
    return lines


@pytest.mark.parametrize("line", example_lines())
def test_examples_are_command_lines(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are parsed by the command's own parser; nothing runs."""
    words = shlex.split(line.partition(" > ")[0])
    assert words[:3] == ["python", "-m", "stylezoo"]
    command, *options = words[3:]
    if command in COMMANDS:
        assert cli.parse(command, options) is not None
    else:
        monkeypatch.setattr(cli, "is_missing", lambda option, value: False)
        monkeypatch.setattr(cli, "check_recipe", lambda command, recipe: None)
        assert cli.checked_options(command, options)
        recipes = [value for option, value in options_with_values(options) if option == "--config"]
        assert recipes and all((ROOT / str(name)).is_file() for name in recipes if "experiments" in str(name))


@pytest.mark.parametrize("command", help.TRAINER_HELP)
def test_the_short_help_of_the_trainer_names_options_that_exist(command: str) -> None:
    recipe = f"--config={ROOT / 'experiments' / 'adain.yaml'}"
    parser = fuzz.ParsedOnly([command, recipe])._parser(command)
    known = {option for action in parser._actions for option in action.option_strings}
    known |= {"--model.SETTING", "--data.content.root", "--trainer.logger.save_dir"}  # of the classes that are named
    for topic in help.TRAINER_HELP[command].topics.values():
        for option in topic:
            assert option.split()[0] in known, option
            for name in re.findall(r"--[\w.]+", topic[option]):
                assert name in known | {"--model.style_weight", "--data.content.help"}, name


def test_the_whole_help_is_lightnings(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(["validate", "--help_all"], capsys)
    assert "--trainer.gradient_clip_val" in text and "--trainer.gradient_clip_val" not in help.trainer_help("validate")


def test_help_of_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(["help", "stylize"], capsys)
    assert text == shown(["stylize", "--help"], capsys)
    assert text.startswith("usage: python -m stylezoo stylize --model MODEL --output OUTPUT [options]\n")
    assert text.index("--content") < text.index("\nstyle:") < text.index("--alpha") < text.index("\ncomputing:")
    assert "type:" not in text and "null" not in text and "(default: 1.0)" in text
    assert "{arbitrary,multi,single,optimization}" in shown(["list", "--help"], capsys)
    assert "did you mean 'stylize'" in fails(["help", "stylise"], capsys)


# Did you mean


def test_files_that_were_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paintings").mkdir()
    for name in ("paintings/waves.png", "photo.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / "adain.yaml").write_text("model: {}")
    (tmp_path / "mine.safetensors").touch()
    stylize = "stylize --model adain --output o.png --content"
    for line, meant in (
        (f"{stylize} photo.png --style paintings/wavse.png", "paintings/waves.png"),
        (f"{stylize} foto.png --style paintings/waves.png", "photo.png"),
        (f"{stylize} photo.png --style painting/waves.png", "paintings"),
        ("stylize --model mine.safetensor --content photo.png --output o.png", "mine.safetensors"),
        ("stylize --model mni.safetensors --content photo.png --output o.png", "mine.safetensors"),
        ("fit --config adian.yaml", "adain.yaml"),
        ("prepare --content paintngs", "paintings"),
        ("train-style paintings/wave.png --output x.safetensors", "paintings/waves.png"),
    ):
        assert f"id you mean {meant}?" in fails(line.split(), capsys), line
    assert "mean" not in fails(f"{stylize} photo.png --style something_else.png".split(), capsys)


def test_the_search_for_a_name_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "waves.png").touch()
    assert files.nearest(tmp_path / "wavse.png") == f" Did you mean {tmp_path / 'waves.png'}?"
    monkeypatch.setattr(files, "MANY", 1)
    assert files.nearest(tmp_path / "wavse.png") == ""


# Completion


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    program = """
source "$0"
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
_shtab_stylezoo
printf '%s\\n' "${COMPREPLY[@]}"
"""
    run = subprocess.run(
        ["bash", "-c", program, str(script), *words], capture_output=True, text=True, check=True, cwd=script.parent
    )
    return run.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    script = tmp_path / "script.bash"
    script.write_text(shown(["completion", "bash"], capsys))
    (tmp_path / "adrift.safetensors").touch()
    assert completed(script, "stylezoo", "train") == ["train-style"]
    assert {"fit", "list", "doctor"} < {*completed(script, "stylezoo", "")}
    assert completed(script, "stylezoo", "stylize", "--preserve") == ["--preserve_color"]
    assert completed(script, "stylezoo", "stylize", "--preserve_color", "l") == ["luminance"]
    assert {*completed(script, "stylezoo", "stylize", "--model", "ad")} >= {"adain", "adain.slim", "adrift.safetensors"}
    assert completed(script, "stylezoo", "stylize", "--content", "adr") == ["adrift.safetensors"]
    assert completed(script, "stylezoo", "import", "--system", "ms") == ["msgnet"]
    assert completed(script, "stylezoo", "reproduce", "alpha") == ["alpha_sweep"]
    assert completed(script, "stylezoo", "fit", "--ckpt") == ["--ckpt_path"]
    assert completed(script, "stylezoo", "fit", "--model", "SAN") == ["SANet"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    script = shown(["completion", shell], capsys)
    for function in COMMANDS.values():
        for parameter in inspect.signature(function).parameters:
            if parameter not in commands.POSITIONAL:
                option = commands.OPTION_NAMES.get(parameter, parameter)
                assert f"-l {option} " in script if shell == "fish" else f"--{option}" in script
    assert all(name in script for name in (*COMMANDS, *help.TRAINER_HELP, *catalog.model_tags()))
    checker = shutil.which(shell)
    if checker is not None:
        run = subprocess.run([checker, "-n"], input=script, text=True, capture_output=True, check=False)
        assert run.returncode == 0, run.stderr


def test_completion_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert 'pip install "stylezoo[completion]"' in fails(["completion", "zsh"], capsys)
    assert "SHELL must be bash, zsh or fish, not 'bsh': did you mean bash?" in fails(["completion", "bsh"], capsys)
    with pytest.raises(UsageError):
        cli.parse("completion", [])
    assert completion.PROGRAM == "stylezoo"


# Doctor


def test_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is there, and the block for a bug report has no path of this machine."""
    own = weights.folder() / "adain.mine.safetensors"
    stylezoo.save_model(thin_model("adain"), own)
    try:
        out = shown(["doctor"], capsys)
    finally:
        own.unlink()
    for words in (
        rf"torch +{re.escape(torch.__version__.split('+')[0])}",
        r"cpu +.+ processors",
        r"threads of torch +1\b",
        r"eager +available",
        r"cache of stylezoo +.* in \d+ files",
        r"vgg19_normalised +not here \(python -m stylezoo download vgg19_normalised\)",
        r"adain\.mine +yours, ",
        r"free memory +[\d.]+ (GB|MB)",
    ):
        assert re.search(words, out), words
    block = out.split("For a bug report:")[1]
    assert "<details>" in block and "**engines**" in block and "* torch: " in block
    assert not re.search(r"(?<![\w.~])/[\w.-]+/", block)


def test_paths_are_not_in_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/anna"))
    text = "in /home/anna/photos/a.png, /srv/data/anna/b.ckpt and https://example.com/c/d"
    assert doctor.without_paths(text) == "in ~/photos/a.png, .../b.ckpt and https://example.com/c/d"


def test_the_doctor_finds_problems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "torchmetrics" else "1.0")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5e8))
    monkeypatch.setattr(doctor.environment, "allowed_processors", lambda: 0.5)
    monkeypatch.setattr(doctor, "ENGINES", None)
    monkeypatch.setattr(plugins, "load", lambda: {"toy": "The system toy cannot be imported."})
    found = doctor.examine()
    for sentence in (
        "The package torchmetrics is missing",
        "Only 500.0 MB are free for temporary files",
        "set OMP_NUM_THREADS=0.5",
        "The engines cannot be examined",
        "The system toy cannot be imported.",
    ):
        assert any(sentence in problem for problem in found.problems), sentence
        assert sentence in found.markdown()
    monkeypatch.setattr(doctor, "examine", lambda: found)
    with pytest.raises(SystemExit, match="1"):
        main(["doctor"])
    monkeypatch.setitem(sys.modules, "stylezoo.doctor", None)
    assert "install all from one build" in fails(["doctor"], capsys)


# The gallery


def test_a_picture_is_two_pixels_in_each_character(tmp_path: Path) -> None:
    image = Image.new("RGB", (gallery.SIDE, gallery.SIDE), (255, 0, 0))
    image.paste((0, 0, 255), (0, 1, gallery.SIDE, 2))
    image.save(tmp_path / "a.png")
    text = gallery.drawn(tmp_path / "a.png")
    lines = text.plain.splitlines()
    assert lines == ["▀" * gallery.SIDE] * (gallery.SIDE // 2)
    assert str(text.spans[0].style) == "rgb(255,0,0) on rgb(0,0,255)"
    assert str(text.spans[-1].style) == "rgb(255,0,0) on rgb(255,0,0)"


def test_every_system_that_ships_has_a_picture() -> None:
    for name in ("photo", "painting", "gatys", *(name for name in catalog.systems() if weights.default_tag(name))):
        with Image.open(gallery.PICTURES / f"{name}.jpg") as image:
            assert image.size == (64, 64)
    assert sum(path.stat().st_size for path in gallery.PICTURES.iterdir()) < 60_000


def test_only_terminals_that_can_show_the_gallery(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def console(**options: Any) -> Console:
        file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        return Console(file=file, force_terminal=True, **options)

    assert gallery.can_show(console(color_system="truecolor"))
    assert not gallery.can_show(console(color_system="256"))
    assert not gallery.can_show(console(color_system="truecolor", no_color=True))
    assert not gallery.can_show(Console(file=io.StringIO()))
    assert "▀" not in shown(["list"], capsys)
    monkeypatch.setattr(gallery, "can_show", lambda console: True)
    text = shown(["list"], capsys)
    assert text.count("▀") == gallery.SIDE**2 // 2 * len([*gallery.PICTURES.glob("*.jpg")])
    assert text.index("▀") < text.index("arbitrary")
    for words in (["list", "--gallery", "false"], ["list", "--format", "json"], ["list", "--pretrained"]):
        assert "▀" not in shown(words, capsys)


# After a run


def test_a_run_ends_with_the_next_command(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is typed as it stands."""
    monkeypatch.chdir(tmp_path)
    folder = f"{{class_path: Folder, init_args: {{root: {pictures}}}}}"
    (tmp_path / "recipe.yaml").write_text(f"""
model: {{class_path: AdaIN, init_args: {{encoder: vgg19_random/8}}}}
data: {{content: {folder}, style: {folder}, batch_size: 2, size: 32, crop: 32, num_workers: 0}}
trainer:
  max_steps: 2
  limit_val_batches: 0
  accelerator: cpu
  log_every_n_steps: 1
  logger: {{class_path: CSVLogger, init_args: {{save_dir: my runs, name: adain}}}}
""")
    out = shown(["fit", "--config", "recipe.yaml"], capsys)
    table, _, command = out.rpartition("\nNext: ")
    assert re.search(r"steps +2\b", table) and re.search(r"train/style +[\d.e+-]+", table)
    words = shlex.split(command)
    assert (
        words[:4] == ["python", "-m", "stylezoo", "stylize"]
        and "my runs/adain/version_0/checkpoints/last.ckpt" in words
    )
    for name in ("photo.jpg", "painting.jpg"):
        with Image.open(pictures / "00.png") as image:
            image.save(tmp_path / name)
    main(words[3:])
    assert (tmp_path / "out.png").is_file()


def test_the_next_command_of_each_kind() -> None:
    for system, style in (("adain", " --style painting.jpg"), ("cin", " --style 0"), ("johnson", "")):
        command = ending.next_command(thin_model(system), Path("a b.ckpt"))
        assert command == f"python -m stylezoo stylize --model 'a b.ckpt' --content photo.jpg{style} --output out.png"


def test_nothing_is_next_without_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = SimpleNamespace(
        checkpoint_callbacks=[], global_step=3, callback_metrics={"train/style": torch.tensor(2.0)}
    )
    ending.print_summary(trainer, thin_model("adain"), 61.0)  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "none was written" in out and "0:01:01" in out and "Next" not in out
