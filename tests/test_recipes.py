"""What recipes promise of each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, THIN, load_module

import stylezoo
from stylezoo import registry
from stylezoo.cli import main

fuzz = load_module("fuzz_tool", ROOT / "tools" / "fuzz.py")

EXPERIMENTS = ROOT / "experiments"
BALANCED = sorted((EXPERIMENTS / "balanced").glob("*.yaml"))
OVERLAYS = [path for path in sorted(EXPERIMENTS.rglob("*.yaml")) if len(registry.recipe_files(path)) > 1]
OPTIMIZED = stylezoo.list_models("optimization")

# Kargi's re-training (CENG501-Projects/CENG501-Spring2022@1951006) changes more than the loss here: the plain recipe
# sums where the balanced loss averages, and decays the learning rate. Losses of pixels of 0 to 255 (MSG-Net, Magenta)
# are so large that the balanced loss, at most 4, would have no say with a weight made for them.
MORE = {
    "linear_transfer": {"model.init_args.style_weight", "model.init_args.lr_decay", "trainer.max_steps"},
    "msgnet": {"model.init_args.style_weight"},
    "magenta": {"model.init_args.style_weight"},
}


def recipe_id(path: Path) -> str:
    return path.relative_to(EXPERIMENTS).with_suffix("").as_posix()


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a recipe by dotted name, without the classes; a setting that is a mapping is one value."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any, section: bool) -> None:
        if section or (isinstance(value, Mapping) and value.keys() & {"class_path", "init_args"}):
            for key, inner in value.items():
                add(f"{prefix}.{key}", inner, key == "init_args")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                add(f"{prefix}.{index}", item, False)
        elif not prefix.endswith(".class_path"):
            flat[prefix.removeprefix(".")] = list(value) if isinstance(value, tuple) else value

    for name, value in values.items():
        add(f".{name}", value, isinstance(value, Mapping))
    return flat


@pytest.fixture(scope="module")
def effective() -> Callable[..., dict[str, Any]]:
    """All values that ``fit`` has with some configuration files, defaults included, by dotted name."""
    parser = fuzz.ParsedOnly(["fit", f"--config={EXPERIMENTS / 'adain.yaml'}"]).parser

    @cache
    def parse(*files: Path) -> dict[str, Any]:
        config = parser.parse_args(["fit", *(f"--config={file}" for file in files)]).fit.as_dict()
        del config["config"]
        return settings(config)

    return parse


@pytest.mark.parametrize("path", OVERLAYS, ids=recipe_id)
def test_an_overlay_holds_what_differs_and_nothing_else(path: Path, effective: Callable[..., dict[str, Any]]) -> None:
    """Every value that it holds changes the recipe below it, and its first line is the command that uses both."""
    files = registry.recipe_files(path)
    base, both, held = effective(files[0]), effective(*files), settings(yaml.safe_load(path.read_text()))
    assert {key for key in base | both if base.get(key) != both.get(key)} == held.keys()
    assert {key: both[key] for key in held} == held
    command = "predict" if files[0].stem in OPTIMIZED else "fit"
    options = " ".join(f"--config {file.relative_to(ROOT).as_posix()}" for file in files)
    assert path.read_text().splitlines()[0] == f"# python -m stylezoo {command} {options}"


@pytest.mark.parametrize(
    "path", [*OVERLAYS, *(EXPERIMENTS / f"{name}.yaml" for name in stylezoo.list_models())], ids=recipe_id
)
def test_recipes_are_read_as_the_command_line_reads_them(path: Path, effective: Callable[..., dict[str, Any]]) -> None:
    read, parsed = settings(registry.read_recipe(path)), effective(*registry.recipe_files(path))
    assert {key: parsed[key] for key in read} == read


@pytest.mark.parametrize("path", registry.optimization_recipes().values(), ids=recipe_id)
def test_a_variant_that_is_loaded_alone_is_the_one_over_its_recipe(
    path: Path, effective: Callable[..., dict[str, Any]]
) -> None:
    """`load_model` reads one file; what that leaves out are the defaults of the class, and the recipe's."""
    parsed = {key: value for key, value in effective(*registry.recipe_files(path)).items() if key.startswith("model.")}
    arguments = {key.removeprefix("model.init_args."): value for key, value in parsed.items()}
    assert dict(stylezoo.load_model(path, encoder=THIN).hparams) == {**arguments, "encoder": THIN}


def test_every_recipe_logs_under_a_name_of_its_own() -> None:
    bases = [EXPERIMENTS / f"{name}.yaml" for name in stylezoo.list_models()]
    names = [registry.read_recipe(path)["trainer"]["logger"]["init_args"]["name"] for path in [*bases, *OVERLAYS]]
    assert len(names) == len(set(names))


def test_files_of_ones_own_and_settings_for_any_recipe_stand_alone(tmp_path: Path) -> None:
    for path in (tmp_path / "gatys_mine.yaml", EXPERIMENTS / "ema.yaml", EXPERIMENTS / "slim_encoder.yaml"):
        assert registry.recipe_files(path) == [path]
    adain = EXPERIMENTS / "multi_level_adain.yaml"
    assert registry.recipe_files(adain) == [adain]
    assert registry.recipe_files(EXPERIMENTS / "balanced" / adain.name) == [
        adain,
        EXPERIMENTS / "balanced" / adain.name,
    ]
    assert registry.recipe_files(EXPERIMENTS / "multi_level_adain_mine.yaml")[0] == adain


def test_systems_for_any_style_have_balanced_recipes() -> None:
    """Those of the zoo; a new system needs none."""
    names = {"adain", "efdm", "linear_transfer", "magenta", "microast", "msgnet", "sanet", "stytr2"}
    assert {path.stem for path in BALANCED} >= names | {"multi_level_adain", "multi_level_attention"}


@pytest.mark.parametrize("path", BALANCED, ids=lambda path: path.stem)
def test_a_balanced_recipe_is_the_plain_one_with_another_style_loss(path: Path) -> None:
    held, run = settings(yaml.safe_load(path.read_text())), "trainer.logger.init_args.name"
    assert held.keys() - MORE.get(path.stem, set()) == {"model.init_args.style_loss", run}
    assert held["model.init_args.style_loss"] == "balanced_gram" and held[run] == f"{path.stem}_balanced"


def test_balanced_recipes_have_the_values_of_the_re_training() -> None:
    """Kargi's table: learning rate, decay, batch, style and content weight, 160,000 iterations each."""
    table = {"sanet": (1e-4, 5e-5, 5, 3, 1), "adain": (1e-4, 5e-5, 8, 10, 1), "linear_transfer": (1e-4, 0, 8, 5, 1)}
    for name, expected in table.items():
        recipe = settings(registry.read_recipe(EXPERIMENTS / "balanced" / f"{name}.yaml"))
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
    recipes = {
        path for pattern in setuptools["package-data"]["stylezoo.experiments"] for path in EXPERIMENTS.glob(pattern)
    }
    assert recipes == set(EXPERIMENTS.rglob("*.yaml"))
