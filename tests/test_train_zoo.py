"""The queue of `make train-zoo`: which run is next, what a turn does, and what is kept of it."""

import itertools
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml

from stylezoo.errors import StylezooError
from stylezoo.evaluation.store import FORMAT, key_to_json, scores, write_pairs, write_settings
from stylezoo.evaluation.tables import write_values
from stylezoo.metrics import MetricKey
from tests.conftest import load_module

ROOT = Path(__file__).parents[1]
zoo = load_module("train_zoo", ROOT / "tools" / "train_zoo.py")


def turn(run, distance, seconds=3600):
    return {"run": run, "distance": str(distance), "seconds": str(seconds), "last_step": "5"}


def run_of(name="a", **entry):
    return zoo.Run(name, ["recipe.yaml"], 60, **entry)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([], "urgent"),
        ([turn("urgent", 1.5)], "other"),  # a run without a measure counts as twice its target
        ([turn("urgent", 1.1), turn("other", 4.0)], "other"),
        ([turn("urgent", 3.0), turn("other", 1.0)], "urgent"),
        ([turn("urgent", 1.5, 36000), turn("other", 1.5, 60)], "other"),  # the hours that it has had count
    ],
)
def test_the_next_turn_goes_to_what_is_furthest_from_its_target(log, expected):
    assert zoo.next_run([run_of("other"), run_of("urgent", priority=2)], log).name == expected


@pytest.mark.parametrize("role", ["start", "teacher"])
def test_a_run_waits_for_the_one_that_it_starts_from(role):
    first = run_of("first", pretraining={"steps": 10, "options": {}})
    runs = [first, run_of("second", priority=9, **{role: "first"}), run_of("third", start="third")]
    names = [zoo.next_run(runs, [{**turn("first", 9.0, 60), "last_step": str(step)}]).name for step in (9, 10)]
    assert names == ["first", "second"]


def test_a_run_is_fitted_to_the_newest_checkpoint_of_its_teacher(tmp_path):
    run = run_of(teacher="first")
    words = zoo.command_of(run, tmp_path, [], None)
    assert words[words.index("--training.initialization.teacher") + 1] == "first"
    checkpoint = tmp_path / "first" / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    words = zoo.command_of(run, tmp_path, [], None)
    assert words[words.index("--training.initialization.teacher") + 1] == str(checkpoint)


def test_a_turn_resumes_the_newest_checkpoint(tmp_path):
    run = run_of(options={"data.flip": True, "model.lr": 0.1}, start="adain")
    first = zoo.command_of(run, tmp_path, ["data.yaml"], None)
    assert first[first.index("--start") + 1] == "adain"
    assert first[first.index("--data.flip") + 1] == "true"
    for number in (0, 1):
        folder = tmp_path / "a" / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        torch.save({"global_step": number}, folder / "last.ckpt")
    newest = zoo.newest_checkpoint(tmp_path / "a")
    assert zoo.steps_of(newest) == 1
    again = zoo.command_of(run, tmp_path, [], newest)
    assert again[again.index("--ckpt_path") + 1] == str(newest)
    assert "--start" not in again
    zoo.keep_newest(tmp_path / "a", newest)
    assert list(tmp_path.glob("a/*/checkpoints/*")) == [newest]


def test_a_turn_is_stopped_by_a_signal_when_there_is_a_checkpoint(tmp_path):
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('stopped', flush=True)))\n"
        "time.sleep(2); pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    )
    saved, output = tmp_path / "saved", tmp_path / "output.txt"
    seconds = zoo.take_turn([sys.executable, "-c", code, str(saved)], 1, output, saved.exists)
    assert 2 <= seconds < 120
    assert output.read_text() == "stopped\n"


def test_a_turn_that_ends_by_itself_is_over(tmp_path):
    assert zoo.take_turn([sys.executable, "-c", "print('done')"], 600, tmp_path / "output.txt") < 120


def test_the_log_is_what_was_appended(tmp_path):
    row = dict.fromkeys(zoo.COLUMNS, "x")
    for _ in range(2):
        zoo.append(tmp_path / "log.csv", row)
    assert zoo.read_log(tmp_path / "log.csv") == [row, row]
    assert zoo.read_log(tmp_path / "none.csv") == []


def test_medians_of_ratios_are_taken_per_pair_of_held_out_images(tmp_path, monkeypatch):
    """By `evaluate`, and on images that are in no training of the folder."""
    pairs = [("a", "b"), ("c", "d"), ("e", "f")]
    torch.save({"global_step": 7}, tmp_path / "last.ckpt")
    key = key_to_json(MetricKey("style_loss"))
    run, asked = run_of(target={"style_loss": 1.2}), {}

    def measured(models, content, style, output, **options):
        asked.update(options)
        if output.exists():
            raise StylezooError("The folder holds an evaluation with other settings.")
        output.mkdir()
        protocol = {"seed": 0, "pictures": ""}
        settings = {"format": FORMAT, "protocol": protocol, "models": models, "reference": options["reference"]}
        write_settings(output, {**settings, "metrics": {"style_loss": {"better": "lower", "key": key}}})
        write_pairs(output, pairs)
        for name, values in {"reference": (1.0, 2.0, 0.0), f"{run.name}_7": (3.0, 2.0, 7.0)}.items():
            rows = [[*pair, value] for pair, value in zip(pairs, values, strict=True)]
            write_values(output / f"{name}.csv", ["style_loss"], rows)
        return scores(output)

    monkeypatch.setattr(zoo, "evaluate", measured)
    judge = zoo.Judge("photos", "paintings", "reference", None, 3, ("content_loss", "style_loss"))
    for _ in range(2):  # the second time the folder is another plan's
        assert zoo.measure(run, tmp_path / "last.ckpt", tmp_path / "measured", judge) == {"style_loss": 2.0}
    assert (asked["split"], asked["metrics"]) == (["val", "test"], ("content_loss", "style_loss"))
    assert zoo.measure(run_of(), tmp_path / "last.ckpt", tmp_path / "measured", judge) == {}


def test_the_first_steps_have_further_options(tmp_path):
    run = run_of(options={"model.lr": 0.1}, pretraining={"steps": 30, "options": {"training.objective": "Imitation"}})
    checkpoint = tmp_path / "last.ckpt"
    for step, objective, last in ((0, "Imitation", "30"), (29, "Imitation", "30"), (30, None, "-1")):
        torch.save({"global_step": step}, checkpoint)
        words = zoo.command_of(run, tmp_path, [], checkpoint if step else None)
        options = dict(itertools.pairwise(words))
        assert (options.get("--training.objective"), options["--trainer.max_steps"]) == (objective, last)
        assert options["--model.lr"] == "0.1" and words.count("--trainer.max_steps") == 1


def test_the_plan_names_recipes_that_exist():
    plan = yaml.safe_load((ROOT / "tools" / "train_zoo.yaml").read_text())
    for name, entry in plan["runs"].items():
        run = zoo.Run(name, **{"seconds": plan["seconds"], **entry})
        assert all((ROOT / recipe).is_file() for recipe in run.recipes)
        assert run.name.partition(".")[0] in run.recipes[0]


def test_turns_go_on_from_each_other(tmp_path, monkeypatch):
    """A second turn begins where the first one ended, whose checkpoint is removed."""

    def turn(command, seconds, output, is_saved):
        number = len(list(output.parent.glob("version_*")))
        checkpoint = output.parent / f"version_{number}" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        torch.save({"global_step": 10 * (number + 1)}, checkpoint)
        os.utime(checkpoint, (number, number))
        assert is_saved()
        return 1.0

    monkeypatch.setattr(zoo, "take_turn", turn)
    monkeypatch.setattr(zoo, "measure", lambda *_: {"style_loss": 3.0})
    run = zoo.Run("a", recipes=["a.yaml"], seconds=1, target={"style_loss": 1.5})
    zoo.train([run], tmp_path, [], zoo.Judge("c", "s", "r", None, 2, ("style_loss",)), turns=3)
    rows = zoo.read_log(tmp_path / "log.csv")
    assert [(row["first_step"], row["last_step"], row["distance"]) for row in rows] == [
        ("0", "10", "2.0"),
        ("10", "20", "2.0"),
        ("20", "30", "2.0"),
    ]
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


def test_queues_of_one_folder_train_different_runs(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(zoo, "turn_of", lambda run, *_: taken.append(run.name) or dict.fromkeys(zoo.COLUMNS, "1"))
    runs = [run_of("first", priority=2), run_of("second"), run_of("third", start="first")]
    judge = zoo.Judge("c", "s", "r", None, 2, ("style_loss",))
    with zoo.reserved(runs[0], tmp_path) as mine:
        assert mine
        zoo.train(runs, tmp_path, [], judge, turns=1)
        with zoo.reserved(runs[1], tmp_path), pytest.raises(SystemExit, match="every run"):
            zoo.train(runs, tmp_path, [], judge, turns=1)
    (tmp_path / "log.csv").unlink()
    zoo.train(runs, tmp_path, [], judge, turns=1)
    assert taken == ["second", "first"]
