"""A setting that has choices names them, in every system of the registry."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
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
