"""Mistakes on the command line and in recipes: one sentence, exit code 2 or 1, whatever they are."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, THIN
from lightning.pytorch import Trainer
from test_recipes import fuzz

import stylezoo
from stylezoo import cli, recipes, registry
from stylezoo.cli import OPTIONS, main, told_in_one_sentence
from stylezoo.commands import COMMANDS
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.trainer_cli import int_before_float, with_own_folders
from stylezoo.usage import UsageError

ADAIN = f"--config={ROOT / 'experiments' / 'adain.yaml'}"


def mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the sentence of a command line that is wrong."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set to")]
    assert len(shown) == 1 and shown[0].startswith("stylezoo: "), shown
    return stop.value.code, shown[0].removeprefix("stylezoo: ")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--trianer.max_steps 1", "There is no option --trianer: did you mean --trainer?"),
        ("--trainer.maxsteps 1", "There is no option --trainer.maxsteps: did you mean --trainer.max_steps?"),
        ("--model.style_los mean_std", "AdaIN has no setting style_los: did you mean style_loss?"),
        ("--data.content.rot x", "COCO has no setting rot: did you mean root?"),
        ("--data.content wikiart", "--data.content: there is no class wikiart: did you mean WikiArt?"),
        ("--model SANnet", "--model: there is no class SANnet: did you mean SANet?"),
        ("--model AdaIn", "--model: there is no class AdaIn: did you mean AdaIN?"),
        ("--trainer.callbacks EMAA", "--trainer.callbacks: there is no class EMAA: did you mean EMA?"),
        ("--trainer.logger CSVLoger", "--trainer.logger: there is no class CSVLoger: did you mean CSVLogger?"),
        ("--model nothing.Model", "There is no class nothing.Model (No module named 'nothing')."),
        ("--model.lr fast", "AdaIN's lr must be a number, not 'fast'."),
        ("--data.content.year 2015", "COCO's year must be 2014 or 2017, not '2015'."),
        ("--data.resize short", "--data.resize must be shorter or squash, not 'short': did you mean shorter?"),
        ("--trainer.max_steps abc", "--trainer.max_steps must be a whole number, not 'abc'."),
        ("--seed_everything -1", "--seed_everything must be a whole number from 0 to 4294967295, not -1."),
        ("--data.content Folder", "Folder needs a folder of images: --data.content.root FOLDER."),
        ("--start_parts [decoder]", "--start_parts says which submodules --start brings: give --start, too."),
        ("extra", "No option takes 'extra'."),
    ],
)
def test_wrong_options_of_fit(options: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = mistake(["fit", ADAIN, *options.split()], capsys)
    assert code == 2 and said.startswith(sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--model.style_loss mean_sd", "There is no loss 'mean_sd': did you mean 'mean_std'?"),
        (
            "--model.encoder vgg19_normalized",
            "There is no encoder 'vgg19_normalized': did you mean 'vgg19_normalised'?",
        ),
        ("--model.encoder vgg19_normalised", "The weights of vgg19_normalised are not at"),
        (
            "--trainer.accelerator tpuu",
            "The trainer cannot be built with these settings: You selected an invalid accel",
        ),
        ("--trainer.callbacks+=EMA --trainer.callbacks.decay 2", "The data and the options of the run do not fit: "),
        ("--ckpt_path gone.ckpt", "--ckpt_path: there is no checkpoint gone.ckpt."),
        ("--ckpt_path gone", "--ckpt_path: there is no checkpoint gone."),
    ],
)
def test_values_that_the_parts_of_a_run_refuse(
    options: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.content=Synthetic", f"--data.content.root={tmp_path}", "--data.style=null"]
    encoder = [] if "encoder" in options else [f"--model.encoder={THIN}"]
    code, said = mistake(["fit", ADAIN, *data, *encoder, *options.split()], capsys)
    assert code == 1 and said.startswith(sentence)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"model:\n  class_path: [AdaIN\n", "is damaged at line 3: "),
        (b"model: {class_path: AdaIN, class_path: SANet}", "is damaged at line 1: class_path is given twice"),
        (b"model: *other", "is damaged at line 1: found undefined alias"),
        (b"model: !!python/object:os.system x", "is damaged at line 1: could not determine a constructor"),
        (b"\x80\x81\x00", "is no text in YAML"),
        (b"", "must be a mapping of sections, such as model, data and trainer, not null"),
        (b"- 1", "must be a mapping of sections, such as model, data and trainer, not a list"),
        (b"1: 2", "must be a mapping of sections"),
        (b"model:\n  class_path: AdaIN\n  init_args:\n", "model.init_args must be a mapping of settings, not null"),
        (b"model:\n  class_path: 3\n", "model.class_path must be the name of a class, not 3"),
        (b"trainer: {max_time: 2024-99-99}", "has a value that cannot be read: month must be in 1..12"),
        (b"x: " + b"[" * 1500, "is no recipe: it is nested too deeply"),
        (b"model: &x [*x]", "is no recipe: it is nested too deeply"),
        (BOMB.encode(), "is no recipe: its aliases stand for more than 100,000 values"),
        (b"#" * 100_001, "is no recipe: it has more than 100,000 bytes"),
    ],
)
def test_damaged_recipes(content: bytes, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, and wherever else a recipe is read."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    code, said = mistake(["fit", f"--config={path}"], capsys)
    assert code == 1 and problem in said and str(path) in said
    for read in (registry.read_recipe, stylezoo.load_model):
        with pytest.raises(StylezooError, match=re.escape(problem)):
            read(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("modle: {class_path: AdaIN}", "there is no section modle: did you mean model?"),
        ("trainer: 3", "trainer must be a mapping of settings, not 3."),
        ("model: null", "model must be a mapping of settings, not null."),
        ("model: {class_path: sanet}", "there is no class sanet: did you mean SANet?"),
        (
            "model: {class_path: AdaIN, init_args: {style_los: x}}",
            "AdaIN has no setting style_los: did you mean style_loss?",
        ),
        ("model: {class_path: AdaIN, init_args: {lr: abc}}", "AdaIN's lr must be a number, not 'abc'."),
        ("trainer: {max_stepss: 3}", "There is no option --trainer.max_stepss: did you mean --trainer.max_steps?"),
        (
            "training: {optimizer: {class_path: PrecondAdam}}",
            "there is no class PrecondAdam: did you mean PreconditionedAdam?",
        ),
        ("compile: false", "--data.content and --model must be given."),
    ],
)
def test_recipes_with_wrong_settings(
    content: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    code, said = mistake(["fit", f"--config={path}"], capsys)
    assert code == 2 and sentence in said


def test_files_that_are_no_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "closed.yaml").write_text("a: 1")
    (tmp_path / "closed.yaml").chmod(0)
    assert mistake(["fit", "--config", str(tmp_path)], capsys)[1].endswith("is a folder, not a file.")
    assert mistake(["fit", "-c", str(tmp_path / "pipe.yaml")], capsys)[1].endswith("is not a regular file.")
    assert mistake(["fit", "--config", "gone.yaml"], capsys) == (1, "The recipe gone.yaml does not exist.")
    with pytest.raises(MissingFileError):
        registry.read_recipe(tmp_path / "gone.yaml")


def test_recipes_are_read_as_yaml_reads_them() -> None:
    for path in (ROOT / "experiments").rglob("*.yaml"):
        assert recipes.read(path) == yaml.safe_load(path.read_text()), path
    assert recipes.parse("a: 1e-4\nb: [1.5e3, 1e, 12:30]", "text") == {"a": 1e-4, "b": [1500.0, "1e", 750]}


@pytest.fixture(scope="module")
def parsed() -> Any:
    return fuzz.ParsedOnly(["fit", ADAIN])


def test_the_front_knows_all_options(parsed: Any) -> None:
    """`stylezoo.cli` names them without Lightning."""
    roots = {
        option.removeprefix("--").partition(".")[0].removesuffix("+")
        for command in ("fit", "validate", "test", "predict")
        for action in fuzz.ParsedOnly([command, ADAIN])._parser(command)._actions
        for option in action.option_strings
    }
    assert roots - {"-h", "-c"} == {*OPTIONS}


def test_what_a_run_saves_is_a_recipe(parsed: Any, tmp_path: Path) -> None:
    """Its dump, all defaults included, is read again as the same."""
    path = tmp_path / "config.yaml"
    for names in (
        ["adain"],
        ["sanet", "quickstart"],
        ["cin", "ema"],
        ["gatys"],
        ["slim_encoder"],
        ["magenta", "wandb"],
    ):
        files = [f"--config={ROOT / 'experiments' / name}.yaml" for name in names]
        cli.checked_options("fit", files)
        first = parsed.parser.parse_args(["fit", *files])
        text = parsed._parser("fit").dump(first.fit, skip_none=False)
        path.write_text(text)
        cli.check_recipe("fit", str(path))
        again = parsed.parser.parse_args(["fit", f"--config={path}"])
        assert parsed._parser("fit").dump(again.fit, skip_none=False) == text


def int_or_float(parser: Any) -> Iterator[str]:
    for action in parser._parser("fit")._actions:
        if {int, float} <= {*getattr(getattr(action, "_typehint", None), "__args__", ())}:
            yield action.dest


def test_whole_numbers_stay_whole(parsed: Any) -> None:
    """1 is one batch and 1.0 all of them, in every option that takes both, on the command line and in YAML."""
    options = list(int_or_float(parsed))
    limits = [f"trainer.limit_{stage}_batches" for stage in ("train", "val", "test", "predict")]
    assert {*limits, "trainer.overfit_batches", "trainer.val_check_interval", "trainer.gradient_clip_val"} <= {*options}
    for value, kind in (("1", int), ("1.0", float), ("0.5", float), ("250", int)):
        recipe: dict[str, dict[str, float]] = {}
        for section, name in (option.split(".") for option in options):
            recipe.setdefault(section, {})[name] = kind(float(value))
        for words in ([f"--{option}={value}" for option in options], [f"--config={yaml.safe_dump(recipe)}"]):
            read = parsed.parser.parse_args(["fit", ADAIN, *words]).fit
            for option in options:
                assert type(read[option]) is kind and read[option] == float(value), (option, words)


def test_the_order_of_a_union_does_not_depend_on_imports() -> None:
    assert int_before_float(float | int | None).__args__.index(int) == 0
    assert int_before_float(float | str | int | None).__args__ == (int, float, str, type(None))
    for hint in (int | float | str, float | None, int | None, float, list[float], Trainer):
        assert int_before_float(hint) is hint


def test_a_data_set_keeps_to_its_own_folder(parsed: Any, tmp_path: Path) -> None:
    """Whether an option or another recipe names it; what is given with it counts."""

    def content(*words: str) -> tuple[str, str | None]:
        data = parsed.parser.parse_args(["fit", *with_own_folders([ADAIN, *words])]).fit.data.content
        return data.class_path.rpartition(".")[2], data.init_args.root

    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data: {content: {class_path: Synthetic, init_args: {count: 3}}}")
    assert content() == ("COCO", "data/coco") == content("--data.content", "COCO")
    assert content("--data.content", "Synthetic") == ("Synthetic", None) == content(f"--config={overlay}")
    assert content("--data.content=WikiArt") == ("WikiArt", "data/wikiart")
    assert content("--data.content.root=mine", "--data.content=Synthetic") == ("Synthetic", "mine")
    assert content("--data.content=Folder", "--data.content.init_args.root=mine") == ("Folder", "mine")
    overlay.write_text("data: {content: {class_path: Synthetic, init_args: {root: demo}}}")
    assert content("--config", str(overlay)) == ("Synthetic", "demo")
    with pytest.raises(UsageError, match="Folder needs a folder of images: --data.content.root FOLDER"):
        content("--data.content=Folder")


def test_a_system_is_named_by_its_class_too(capsys: pytest.CaptureFixture[str]) -> None:
    from stylezoo.models import AdaIN, SANet

    assert registry.get("adain") is AdaIN and "SANet" in dir(stylezoo.models) and SANet.system == "sanet"
    with pytest.raises(ImportError):
        from stylezoo.models import AdaIn  # noqa: F401
    assert cli.checked_options("fit", ["--model", "sanet"]) == ["--model=SANet"]
    assert cli.checked_options("fit", ["--model=multi_level_adain"]) == ["--model=MultiLevelAdaIN"]
    with pytest.raises(SystemExit, match="^0?$"):
        main(["fit", "--model", "adain", "--data.content", "COCO", "--print_config"])
    assert "class_path: stylezoo.models.AdaIN" in capsys.readouterr().out


# How a command ends


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (StylezooError("Wrong."), 1, "Wrong."),
        (UsageError("Wrong."), 2, "Wrong."),
        (PermissionError(13, "Permission denied", "x.png"), 1, "x.png cannot be accessed (permission denied)."),
        (OSError(28, "No space left on device"), 1, "A file cannot be accessed (No space left on device)."),
    ],
)
def test_how_errors_end(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends() -> int:
        raise error

    def exits() -> int:  # as Lightning does after Ctrl-C
        try:
            raise error
        except BaseException:  # noqa: BLE001
            sys.exit(1)

    monkeypatch.setitem(COMMANDS, "list", ends)
    assert mistake(["list"], capsys) == (code, said)
    if code == 130:
        monkeypatch.setitem(COMMANDS, "list", exits)
        assert mistake(["list"], capsys) == (code, said)
    monkeypatch.setenv("STYLEZOO_TRACEBACK", "1")
    monkeypatch.setitem(COMMANDS, "list", ends)
    with pytest.raises(type(error)):
        main(["list"])


def test_names_of_any_bytes_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True))
        with told_in_one_sentence():
            print("caf\u00e9\udcff.png")
        assert b"\\udcff.png" in sys.stdout.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_closed_pipe_and_an_unknown_language_leave_no_traceback() -> None:
    """Real processes: the output goes to a pipe that nobody reads, under the C locale."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    for arguments in (["reproduce", "--list"], ["--help"]):
        command = [sys.executable, "-m", "stylezoo", *arguments]
        closed = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
        assert closed.stderr == b"" and closed.returncode in (0, 1)
    os.close(writer)
    shown = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert shown.returncode == 0 and shown.stderr == b""


def test_files_of_the_working_directory_hide_no_library(tmp_path: Path) -> None:
    for name in ("yaml", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stylezoo", "list"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_warning_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # back to what it was afterwards
    main(["list"])
    warning = UserWarning("x.gif has 3 frames; the first is used.")
    said = warnings.formatwarning(warning, UserWarning, str(ROOT / "stylezoo" / "images" / "reading.py"), 99)
    assert said == "stylezoo: x.gif has 3 frames; the first is used.\n"
    assert "other.py:7" in warnings.formatwarning(warning, UserWarning, "/somewhere/other.py", 7)
