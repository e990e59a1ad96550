"""What holds for every system and every recipe: registry x YAML. A new system is covered without an edit here."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from conftest import FEW, NARROW, ROOT, THIN, thin_model, trained_styles
from safetensors.torch import save_file
from torch import Tensor

import stylezoo
from stylezoo import StyleModel, checkpoints, registry
from stylezoo.cli import main
from stylezoo.losses import STYLE_STATISTICS
from stylezoo.module import Kind
from stylezoo.streaming.maps import RULES
from stylezoo.trainer_cli import StyleCLI
from stylezoo.vgg import random_weights

SYSTEMS = stylezoo.list_models()
FILES = sorted((ROOT / "experiments").rglob("*.yaml"))
OVERLAYS = [
    path for path in FILES if len(registry.recipe_files(path)) > 1
]  # variants, with another system's recipe below
COMPLETE = [  # the other files are settings for any recipe
    path for path in FILES if path not in OVERLAYS and "class_path" in yaml.safe_load(path.read_text()).get("model", {})
]
ENCODERS = [path for path in COMPLETE if path.stem.endswith("_encoder")]  # they train what systems are built on
RECIPES = [path for path in COMPLETE if path not in ENCODERS] + OVERLAYS

OPTIMIZED = [  # recipes of systems that have nothing to train
    path for path in RECIPES if registry.recipe_files(path)[0].stem in stylezoo.list_models("optimization")
]

BY_COMMAND = ("adain", "cin", "johnson", "toy")
"""Recipes that are validated, tested and predicted by their commands: of one system per kind, and of a new one."""


def recipe_id(path: Path) -> str:
    """The name of a recipe, with the folder of an overlay that lies in one."""
    return path.relative_to(ROOT / "experiments").with_suffix("").as_posix()


def pair(name: str, batch: int = 2, height: int = 64, width: int = 48) -> tuple[Tensor, Any]:
    """A content batch, and a style for each of its images as the system's kind takes them."""
    generator = torch.Generator().manual_seed(1)
    content, picture = torch.rand(2, batch, 3, height, width, generator=generator).unbind()
    kind = registry.get(name).kind
    return content, {"single": None, "multi": torch.arange(batch)}.get(kind, picture)


def of(style: Any, index: slice) -> Any:
    """The styles of some images."""
    return None if style is None else style[index]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


def exact(a: Tensor, b: Tensor) -> None:
    """Equal in float64 but for the order of sums."""
    close(a, b, tolerance=1e-9)


def test_every_system_has_a_recipe_and_every_recipe_a_system() -> None:
    assert set(SYSTEMS) <= {recipe_id(path) for path in RECIPES}
    classes = {registry.get(name).__name__: name for name in SYSTEMS}
    for path in COMPLETE + OVERLAYS:
        name = classes.get(registry.read_recipe(path)["model"]["class_path"].split(".")[-1])
        assert (path in ENCODERS) == (name is None), path
        assert name is None or registry.recipe_files(path)[0] == ROOT / "experiments" / f"{name}.yaml", path
    assert not [path for path in FILES if path.parent.name != "experiments" and path not in OVERLAYS]


@pytest.mark.parametrize("name", SYSTEMS)
def test_names_and_sources(name: str) -> None:
    cls = registry.get(name)
    assert cls.system == name and cls.kind in get_args(Kind) and cls.paper.startswith("https://")
    assert 2015 <= cls.year <= 2030 and "Deviations:" in (inspect.getmodule(cls).__doc__ or "")
    assert name in stylezoo.list_models(cls.kind)


@pytest.mark.numerical
@pytest.mark.parametrize("name", SYSTEMS)
def test_losses_are_finite_and_every_parameter_learns(name: str) -> None:
    model = thin_model(name).train()
    terms = model.losses(*pair(name))
    assert all(term.ndim == 0 and torch.isfinite(term) and term >= 0 for term in terms.values())
    if model.kind == "optimization":
        assert not [key for key, parameter in model.named_parameters() if parameter.requires_grad]
        return
    torch.stack(list(terms.values())).sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.abs().sum() > 0, f"{key} never learns"
        else:
            assert parameter.grad is None, key


@pytest.mark.parametrize("statistic", STYLE_STATISTICS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_style_statistic_is_one_setting(name: str, statistic: str) -> None:
    terms = thin_model(name, style_loss=statistic).losses(*pair(name))
    assert torch.isfinite(terms["style"]) and terms["style"] > 0


@pytest.mark.parametrize("name", [n for n in SYSTEMS if "encoder" in inspect.signature(registry.get(n)).parameters])
def test_losses_can_be_those_of_another_network(name: str, tmp_path: Path) -> None:
    """It changes the features that losses compare and never the output; layers beyond its file are the encoder's."""
    if registry.get(name).kind == "optimization":
        pytest.skip("the encoder is the network of the losses")
    weights = {key: value for key, value in random_weights(19, 8).items() if key < "conv5"}
    save_file(weights, tmp_path / "to_relu4_4.safetensors")
    content, style = pair(name)
    own, other, twin = (thin_model(name) for _ in range(3))
    other.attach_loss_encoder("vgg19_random/4")
    twin.attach_loss_encoder(THIN, str(tmp_path / "to_relu4_4.safetensors"))
    with torch.no_grad():
        assert torch.equal(other(content, style), own(content, style))
        terms, same, changed = (model.losses(content, style) for model in (own, twin, other))
    for key, term in terms.items():
        torch.testing.assert_close(same[key], term)
        assert key == "identity1" or abs(changed[key] / term - 1) > 1e-3, key  # identity1 compares pixels
    assert dict(other.encoders())["loss_encoder"].name == "vgg19_random/4"


@pytest.mark.numerical
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_batch_is_its_singles(name: str) -> None:
    model, (content, style) = thin_model(name).eval(), pair(name)
    with torch.no_grad():
        both = model(content, style)
        singles = [slice(i, i + 1) for i in range(len(content))]
        close(both, torch.cat([model(content[i], of(style, i)) for i in singles]))
        first = of(style, singles[0])  # one style for all
        close(model(content, first), torch.cat([model(content[i], first) for i in singles]))


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (37, 50), (64, 41), (100, 128)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_output_has_the_size_of_the_content(name: str, size: tuple[int, int]) -> None:
    model = thin_model(name).eval()
    with torch.no_grad():
        for content_size, style_size in ((size, (33, 70)), ((40, 40), size)):
            content, style = torch.rand(1, 3, *content_size), pair(name, 1, *style_size)[1]
            output = model(content, style)
            assert output.shape == content.shape and torch.isfinite(output).all()


@pytest.mark.numerical
@pytest.mark.parametrize("name", stylezoo.list_models("arbitrary") + stylezoo.list_models("optimization"))
@pytest.mark.slow
def test_the_two_halves(name: str) -> None:
    """encode_style and decode are forward; alpha and blends behave.

    In float64: the twelve steps of L-BFGS turn a rounding of 1e-7 into 4e-3, and one of 1e-16 into 4e-15 to 4e-13.
    """
    model = thin_model(name).eval().double()
    content, style = (picture.double() for picture in pair(name, 1))
    other = 1 - style
    with torch.no_grad():
        code, second = model.encode_style(style), model.encode_style(other)
        assert all(isinstance(tensor, Tensor) for tensor in code.values())
        exact(model.decode(content, code), model(content, style))
        exact(model.decode(content, [code, second], weights=[1, 0]), model(content, style))
        exact(model.decode(content, [code, code], weights=[1, 5]), model(content, style))
        blend = model.decode(content, [code, second])
        assert not torch.allclose(blend, model(content, style), atol=1e-2)
        exact(blend, model.decode(content, [second, code], weights=[2, 2]))
        exact(
            model.decode(content, [code, second], weights=[3, 1]), model.decode(content, [second, code], weights=[1, 3])
        )
        half, none = model.decode(content, code, alpha=0.5), model.decode(content, code, alpha=0.0)
        assert not torch.allclose(half, none, atol=1e-2) and not torch.allclose(half, model(content, style), atol=1e-2)
        exact(none, model.decode(content, second, alpha=0.0))  # no style left
    with pytest.raises(ValueError, match="2 styles but 1 style weights"):
        model.decode(content, [code, second], weights=[1])
    with pytest.raises(ValueError, match="sum to 0"):
        model.decode(content, [code, second], weights=[1, -1])


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.slow
def test_tiles_are_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any system's code runs in tiles: whole maps are never computed, and the image is the same, the style's code too.

    In double precision: convolutions of another size may round differently.
    """
    model = thin_model(name).eval().double()
    if model.kind == "optimization":
        pytest.skip("works in tiles of its own, see its test")
    content, style = (x.double() if isinstance(x, Tensor) and x.ndim == 4 else x for x in pair(name, 2, 90, 107))
    alpha = 1.0 if model.alpha_is_fixed else 0.6
    whole_maps, real = [], RULES["whole"]
    monkeypatch.setitem(RULES, "whole", lambda func, *args, **kw: whole_maps.append(func) or real(func, *args, **kw))
    with torch.no_grad():
        code, tiled_code = model.encode_style(style), model.encode_style(style, tile=32)
        for key, tensor in code.items():
            exact(tiled_code[key], tensor)
        expected = model.decode(content, code, alpha)
        assert not whole_maps or name == "magenta"  # whose predictor resizes the style
        whole_maps.clear()
        tiled = model.decode(content, code, alpha, tile=32)
    exact(tiled, expected)
    assert not tiled.is_inference() and not [func for func in whole_maps if name != "magenta"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_self_contained_file(name: str, tmp_path: Path) -> None:
    model, (content, style) = thin_model(name).eval(), pair(name, 1)
    file = tmp_path / "model.safetensors"
    stylezoo.save_model(model, file)
    loaded = stylezoo.load_model(file)
    assert type(loaded) is type(model) and not loaded.training
    torch.testing.assert_close(loaded(content, style), model(content, style), rtol=0, atol=0)
    again = tmp_path / "again.safetensors"
    stylezoo.save_model(loaded, again)
    assert again.read_bytes() == file.read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["again.safetensors", "model.safetensors"]


def tiny(recipe: Path, pictures: Path, folder: Path) -> list[str]:
    """The options that run a recipe on tiny images with the thinnest encoder."""
    settings = registry.read_recipe(recipe)
    common = [f"--config={path}" for path in registry.recipe_files(recipe)]
    common += ["--data.content=Folder", f"--data.content.root={pictures}"]
    if settings["data"].get("style") is not None:
        common += ["--data.style=Folder", f"--data.style.root={pictures}"]
    model = settings["model"].get("init_args", {})
    small = NARROW | {"iterations": 2, "first_iterations": 2} | trained_styles(model)
    small |= {"predictor": FEW["predictor"]} if recipe in OVERLAYS else {}
    common += [f"--model.{name}={value}" for name, value in small.items() if name in model]
    side = 128 if "Adversarial" in recipe.read_text() else 32  # three scales of patches
    crops = [f"--data.size={side + 8}", f"--data.crop={side}"]
    common += [*crops, *(crop.replace("data", "data.style") for crop in crops if settings["data"].get("style"))]
    common += ["--data.batch_size=2", "--data.num_workers=0"]
    return [*common, "--trainer.accelerator=cpu", f"--trainer.logger.save_dir={folder}", "--trainer.logger.name=run"]


@pytest.mark.parametrize("recipe", OPTIMIZED, ids=recipe_id)
@pytest.mark.slow
def test_recipe_without_training_paints(
    recipe: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """validate, test, predict and loading by path and by name; fit says what to do instead."""
    common = tiny(recipe, pictures, tmp_path)
    for command in ("validate", "test", "predict") if recipe not in OVERLAYS else ("test", "predict"):
        main([command, *common])
    rows = "".join(path.read_text() for path in tmp_path.glob("run/version_*/metrics.csv"))
    assert ("val/style" in rows or recipe in OVERLAYS) and "test/loss" in rows
    assert len(list(tmp_path.glob("run/version_*/predictions/*.png"))) >= 1
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main(["fit", *common])
    assert "nothing to train: stylize with it (python -m stylezoo stylize --model" in capsys.readouterr().err
    by_path, by_name = (stylezoo.load_model(n, encoder=THIN) for n in (recipe, recipe.stem.replace("_", ".", 1)))
    assert by_path.hparams == by_name.hparams and not by_path.training


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path not in OPTIMIZED], ids=recipe_id)
@pytest.mark.slow
def test_recipe_trains_and_its_checkpoint_loads(
    recipe: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fit by the command line, on tiny images with thin networks; validate, test and predict with its checkpoint.

    Overlays are other settings of a system whose recipe is validated, tested and predicted.
    """
    common = tiny(recipe, pictures, tmp_path)
    fit = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.log_every_n_steps=1"]
    monkeypatch.setattr(sys, "argv", ["stylezoo"])  # Lightning warns of options of both
    cli = StyleCLI(["fit", *common, *fit, "--images.every_n_steps=1"])
    run = tmp_path / "run" / "version_0"
    rows = (run / "metrics.csv").read_text()
    assert "train/loss" in rows and "val/loss" in rows and "lr-Adam" in rows
    assert sorted(p.name for p in (run / "images").iterdir()) == ["step_0000001.png", "step_0000002.png"]

    checkpoint = run / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    model = stylezoo.load_model(checkpoint)
    for attribute, encoder in model.encoders():
        assert saved["stylezoo"]["encoders"][attribute] == {"name": encoder.name, "sha256": encoder.sha256}
        assert not [key for key in saved["state_dict"] if key.startswith(f"{attribute}.")]
    polymorphic = StyleModel.load_from_checkpoint(checkpoint)
    assert type(polymorphic) is type(model)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(polymorphic.state_dict()[key], value, rtol=0, atol=0)

    if recipe.stem in BY_COMMAND:
        for command in ("validate", "test", "predict"):
            main([command, *common, f"--ckpt_path={checkpoint}"])
    elif recipe in COMPLETE:  # what the commands call, without reading the options of one recipe four times
        for work in (cli.trainer.validate, cli.trainer.test):
            (logged,) = work(model, cli.datamodule, str(checkpoint), verbose=False, weights_only=True)
            assert {f"{'val' if work == cli.trainer.validate else 'test'}/loss"} <= logged.keys()
        cli.trainer.predict(model, cli.datamodule, ckpt_path=str(checkpoint), weights_only=True)
    predicted = list((tmp_path / "run").glob("version_*/predictions/*.png"))
    assert bool(predicted) == (recipe.stem in BY_COMMAND or recipe in COMPLETE)


@pytest.mark.parametrize("name", SYSTEMS)
def test_other_encoder_weights_are_refused(name: str, tmp_path: Path) -> None:
    model = thin_model(name)
    if not list(model.encoders()):
        pytest.skip(f"{name} has no frozen encoder at inference")
    checkpoint: dict[str, object] = {}
    model.on_save_checkpoint(checkpoint)
    thin_model(name).on_load_checkpoint(checkpoint)
    with pytest.raises(
        ValueError, match=r"trained on vgg19_random/8 with sha256 .* but the encoder here is vgg19_random/16"
    ):
        thin_model(name, encoder="vgg19_random/16").on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", SYSTEMS)
def test_settings_are_primitives(name: str) -> None:
    """Anything else could not be loaded with weights_only=True."""

    def primitive(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and primitive(v) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return all(primitive(v) for v in value)
        return value is None or isinstance(value, (int, float, str, bool))

    assert all(primitive(value) for value in thin_model(name).hparams.values())


def test_did_you_mean() -> None:
    with pytest.raises(ValueError, match="no system 'adian': did you mean 'adain'"):
        stylezoo.create_model("adian")
    with pytest.raises(ValueError, match="the zoo has ada"):
        registry.get("zzz")
    with pytest.raises(ValueError, match="kind must be 'arbitrary', .* or 'optimization', got 'any'"):
        stylezoo.list_models("any")  # type: ignore[arg-type]
    assert checkpoints.FORMAT == "stylezoo-1"
