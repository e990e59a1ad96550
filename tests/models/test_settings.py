"""Settings of every system of the registry: a wrong choice names the right ones, and old names still work."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from conftest import THIN, thin_model

import stylezoo
from stylezoo.errors import StylezooError
from stylezoo.registry import systems


def choices(hint: Any) -> tuple[str, ...]:
    """The values of a ``Literal`` type, or of one that may also be None; nothing for other types."""
    return next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())


CHOICES = [
    (name, setting, choices(hint))
    for name, cls in systems().items()
    for setting, hint in get_type_hints(cls.__init__).items()
    if choices(hint)
]


def test_settings_with_choices_are_found() -> None:
    found = {(name, setting) for name, setting, _ in CHOICES}
    assert found >= {
        ("cin", "finetune_from"),
        ("gatys", "first_padding"),
        ("gatys", "optimizer"),
        ("johnson", "norm"),
        ("johnson", "norm_init"),
        ("magenta", "padding"),
        ("microast", "fade"),
        ("msgnet", "upsample"),
        ("multi_level_adain", "concatenate"),
        ("texture_nets", "generator"),
    }


@pytest.mark.parametrize(("name", "setting", "allowed"), CHOICES, ids=[f"{name}-{key}" for name, key, _ in CHOICES])
def test_a_wrong_choice_names_the_setting(name: str, setting: str, allowed: tuple[str, ...]) -> None:
    *rest, last = map(repr, allowed)
    for wrong in ("x", allowed[0].upper(), ""):
        with pytest.raises(StylezooError) as error:
            thin_model(name, **{setting: wrong})
        assert str(error.value) == f"{setting} must be {', '.join(rest)} or {last}, got {wrong!r}."


def test_the_message_in_full() -> None:
    with pytest.raises(ValueError, match=r"^norm must be 'instance' or 'batch', got 'x'\.$"):
        stylezoo.create_model("johnson", norm="x")


def test_none_is_a_choice_where_the_type_says_so() -> None:
    assert stylezoo.create_model("gatys", encoder=THIN, first_padding=None).hparams["first_padding"] is None
    with pytest.raises(StylezooError, match=r"^norm must be 'instance' or 'batch', got None\.$"):
        stylezoo.create_model("johnson", norm=None)


def test_old_names_of_settings_work_with_a_warning(tmp_path: Path) -> None:
    """Also over the new name in a file, and in every function that takes settings; files themselves do not warn."""
    old = r"johnson's setting encoder is now called loss_encoder"
    with pytest.warns(DeprecationWarning, match=old) as caught:
        model = stylezoo.create_model("johnson", encoder="vgg16_random/16", width=0.25)
    assert model.hparams["loss_encoder"] == "vgg16_random/16" and "encoder" not in model.hparams
    stylezoo.save_model(model, tmp_path / "johnson.safetensors")
    torch.save(model.transformer.state_dict(), tmp_path / "johnson.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stylezoo.load_model(tmp_path / "johnson.safetensors").hparams["loss_encoder"] == "vgg16_random/16"
    with pytest.warns(DeprecationWarning, match=old) as loaded:
        model = stylezoo.load_model(tmp_path / "johnson.safetensors", encoder="vgg16_random/8")
    assert model.hparams["loss_encoder"] == "vgg16_random/8"
    with pytest.warns(DeprecationWarning, match=old) as imported:
        model = stylezoo.import_checkpoint("johnson", [tmp_path / "johnson.pth"], encoder="vgg16_random/8", width=0.25)
    assert model.hparams["loss_encoder"] == "vgg16_random/8"
    assert {Path(warning.filename).name for w in (caught, loaded, imported) for warning in w} == {Path(__file__).name}


@pytest.mark.parametrize("name", systems())
def test_numbers_out_of_range_are_one_sentence(name: str) -> None:
    hints = get_type_hints(systems()[name].__init__)
    layers = {"relu4_1": 1.0}
    wrong: dict[str, list[Any]] = {
        "content_weight": [float("nan"), float("inf"), -1.0],
        "lr": [float("nan"), float("inf"), -1e-3],
        "lr_decay": [float("nan"), -1.0],
        "width": [0.0, -1.0],
        "ngf": [0],
        "heads": [0],
        "blocks": [-1],
        "dropout": [1.0, -0.1, float("nan")],
        "betas": [(0.9, 1.0)],
        "style_layers": [{}, {"relu4_1": float("nan")}, {"relu4_1": -1.0}, layers | {"relu4_9": 1.0}, {"": 1.0}],
        "content_layers": [{}, {"relu9_1": 1.0}],
    }
    for setting, values in wrong.items():
        for value in values if setting in hints else []:
            with pytest.raises(StylezooError, match=rf"^{setting}(:| is| names) ") as error:
                thin_model(name, **{setting: value})
            assert "\n" not in str(error.value) and len(str(error.value)) < 400
    with pytest.raises(StylezooError, match=r"^style_layers: there is no VGG layer 'relu4_9': did you mean 'relu4_\d'"):
        thin_model("adain", style_layers={"relu4_9": 1.0})
