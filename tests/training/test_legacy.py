"""What earlier versions wrote and understood keeps working for one release: settings, checkpoints, recipes, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import thin_model
from test_initialization import FIT, OLD_FIT, last_state
from test_training import command

import stylezoo
from stylezoo import legacy, registry
from stylezoo.checkpoints import save_model
from stylezoo.cli import main


def as_before(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as the earlier version wrote it."""
    optimizer = checkpoint["optimizer_states"][0]
    for state in optimizer["state"].values():
        state["whitening"] = state.pop("preconditioner")
    encoders = checkpoint["stylezoo"]["encoders"]
    encoders["_loss_network"] = encoders["encoder"]
    checkpoint["hyper_parameters"] |= {"first_pictures": 12, "loss_encoder": None, "loss_encoder_weights": None}
    return checkpoint


def test_a_checkpoint_of_the_earlier_version_resumes(pictures: Path, tmp_path: Path) -> None:
    """With the options of that version, bit for bit as one of this version."""
    whole, half, rest = (tmp_path / name for name in ("whole", "half", "rest"))
    main(command(pictures, whole, "--trainer.max_steps=4", *FIT))
    main(command(pictures, half, "--trainer.max_steps=2", *FIT))
    path = next(half.rglob("last.ckpt"))
    torch.save(as_before(torch.load(path, weights_only=True)), path)
    assert stylezoo.load_model(path).system == "adain"
    with pytest.warns(DeprecationWarning, match="first_pictures"):
        main(command(pictures, rest, "--trainer.max_steps=4", *OLD_FIT, f"--ckpt_path={path}"))
    torch.testing.assert_close(last_state(whole), last_state(rest), rtol=0, atol=0)


def test_tensors_of_the_earlier_version(tmp_path: Path) -> None:
    model = thin_model("multi_level_attention")
    checkpoint: dict[str, Any] = {
        "state_dict": {k.replace("network.", "painter."): v for k, v in model.state_dict().items()}
    }
    model.on_save_checkpoint(checkpoint)
    checkpoint["hyper_parameters"] = {**model.hparams, "first_pictures": 0}
    torch.save(checkpoint, tmp_path / "old.ckpt")
    loaded = stylezoo.load_model(tmp_path / "old.ckpt").state_dict()
    torch.testing.assert_close(loaded, dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("system", sorted(legacy.TRAINING_SETTINGS))
def test_settings_of_the_earlier_version(system: str) -> None:
    """Files with them load; none of them is a setting that the system still has."""
    old = dict.fromkeys(legacy.TRAINING_SETTINGS[system], 0)
    assert legacy.upgrade_settings(system, {**old, "lr": 1.0}) == {"lr": 1.0}
    arguments = registry.get(system).__init__.__annotations__
    assert not old.keys() & arguments.keys()
    renamed = legacy.RENAMED_SETTINGS.get(system, {})
    assert set(renamed.values()) <= arguments.keys() and not renamed.keys() & arguments.keys()


def test_a_recipe_of_the_earlier_version(tmp_path: Path) -> None:
    """Its training settings become options, with the last learning rate; the rest stays."""
    recipe = {
        "model": {
            "class_path": "Magenta",
            "init_args": {"first_pictures": 64, "lr": 0.006, "teacher": "t.safetensors", "encoder": "vgg16_caffe"},
        },
        "trainer": {"max_steps": 3},
    }
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.warns(DeprecationWarning):
        command_name, config, *options = legacy.upgrade_arguments(["fit", "--config", str(tmp_path / "old.yaml")])
    assert command_name == "fit"
    assert yaml.safe_load(config.removeprefix("--config=")) == {
        "model": {"class_path": "Magenta", "init_args": {"lr": 0.006, "loss_encoder": "vgg16_caffe"}},
        "trainer": {"max_steps": 3},
    }
    assert options == [
        "--training.initialization=LeastSquares",
        "--training.initialization.crops=64",
        "--training.optimizer=PreconditionedAdam",
        "--training.optimizer.lr=0.006",
        "--training.objective=Distillation",
        "--training.objective.teacher=t.safetensors",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["stylize", "--mask", "a.png"], ["stylize", "--masks", "a.png"]),
        (["evaluate", "--save_pictures"], ["evaluate", "--save_images"]),
        (["reproduce", "levels", "--pictures=3"], ["reproduce", "levels", "--images=3"]),
        (["list", "--kind", "optimisation"], ["list", "--kind", "optimization"]),
        (["fit", "--model=StyTr2", "--model.encoder=x"], ["fit", "--model=StyTr2", "--model.loss_encoder=x"]),
        (["fit", "--model=AdaIN", "--model.loss_encoder=x"], ["fit", "--model=AdaIN", "--training.loss_encoder=x"]),
    ],
)
def test_options_of_the_earlier_version(old: list[str], new: list[str]) -> None:
    with pytest.warns(DeprecationWarning, match="is now called"):
        assert legacy.upgrade_arguments(old) == new


def test_what_is_current_is_left_alone(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    for path in sorted(registry.RECIPES.rglob("*.yaml")):
        arguments = ["fit", f"--config={path}", "--model.lr=0.1"]
        assert legacy.upgrade_arguments(arguments) == arguments, path
    save_model(thin_model("stytr2"), tmp_path / "x.safetensors")
    stylezoo.load_model(tmp_path / "x.safetensors")
    assert not [w for w in recwarn if "is now called" in str(w.message)]
