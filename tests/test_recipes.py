"""What recipes promise of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

import stylezoo
from stylezoo.cli import main

BALANCED = sorted((ROOT / "experiments").glob("*_balanced.yaml"))

# Kargi's re-training (CENG501-Projects/CENG501-Spring2022@1951006) changes more than the loss here: the plain recipe
# sums where the balanced loss averages, and decays the learning rate. Losses of pixels of 0 to 255 (MSG-Net, Magenta)
# are so large that the balanced loss, at most 4, would have no say with a weight made for them.
MORE = {
    "linear_transfer": {"model.init_args.style_weight", "model.init_args.lr_decay", "trainer.max_steps"},
    "msgnet": {"model.init_args.style_weight"},
    "magenta": {"model.init_args.style_weight"},
}


def settings(path: Path) -> dict[str, Any]:
    """All values of a recipe by dotted name."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    add("", yaml.safe_load(path.read_text()))
    return flat


def test_every_arbitrary_system_has_a_balanced_recipe() -> None:
    assert {path.stem.removesuffix("_balanced") for path in BALANCED} >= set(stylezoo.list_models("arbitrary"))


@pytest.mark.parametrize("path", BALANCED, ids=lambda path: path.stem)
def test_a_balanced_recipe_is_the_plain_one_with_another_style_loss(path: Path) -> None:
    name = path.stem.removesuffix("_balanced")
    plain, balanced = settings(path.with_name(f"{name}.yaml")), settings(path)
    different = {key for key in plain | balanced if plain.get(key) != balanced.get(key)}
    run = "trainer.logger.init_args.name"
    assert different - MORE.get(name, set()) == {"model.init_args.style_loss", run}
    assert balanced["model.init_args.style_loss"] == "balanced_gram" and balanced[run] == path.stem


def test_balanced_recipes_have_the_values_of_the_re_training() -> None:
    """Kargi's table: learning rate, decay, batch, style and content weight, 160,000 iterations each."""
    table = {"sanet": (1e-4, 5e-5, 5, 3, 1), "adain": (1e-4, 5e-5, 8, 10, 1), "linear_transfer": (1e-4, 0, 8, 5, 1)}
    for name, expected in table.items():
        recipe = settings(ROOT / "experiments" / f"{name}_balanced.yaml")
        keys = ("lr", "lr_decay", None, "style_weight", "content_weight")
        values = (recipe["data.batch_size" if key is None else f"model.init_args.{key}"] for key in keys)
        assert tuple(values) == expected and recipe["trainer.max_steps"] == 160_000, name


@pytest.mark.parametrize(
    ("overlay", "system"),
    [
        *(("quickstart", name) for name in ("adain", "efdm", "sanet")),
        *(("slim", name) for name in ("adain", "efdm", "linear_transfer", "multi_level_adain", "sanet")),
        ("slim", "multi_level_attention"),
    ],
)
def test_overlays_have_the_settings_of_the_systems_that_they_are_for(
    overlay: str, system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = [f"--config={ROOT / 'experiments' / name}.yaml" for name in (system, overlay)]
    with pytest.raises(SystemExit, match="^0?$"):
        main(["fit", *recipes, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["encoder"] == "vgg19_slim" and printed["channels_last"]
    assert printed["start"] == ("adain.slim" if overlay == "quickstart" else None)


def test_the_quickstart_trains_from_what_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a few small images and without the fit, which takes a minute at this width."""
    recipes = [f"--config={ROOT / 'experiments' / name}.yaml" for name in ("sanet", "quickstart")]
    pictures = [f"--data.{k}.init_args.{o}" for k in ("content", "style") for o in ("count=4", f"root={tmp_path}")]
    small = ["--data.size=32", "--data.crop=32", "--data.num_workers=0", "--trainer.max_steps=1"]
    folder = f"--trainer.logger.init_args.save_dir={tmp_path}"
    main(["fit", *recipes, *pictures, *small, folder, "--model.init_args.first_pictures=0"])
    assert "start: 18 of 36 tensors from adain.slim" in capsys.readouterr().out
    model = stylezoo.load_model(tmp_path / "quickstart" / "checkpoints" / "last.ckpt")
    assert model.system == "sanet" and model.encoder.name == "vgg19_slim"


def test_the_package_holds_all_its_folders() -> None:
    """They are listed by hand, since the recipes come from a folder beside the package."""
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "stylezoo").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(setuptools["packages"]) == names | set(setuptools["package-dir"])
