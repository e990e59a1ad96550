"""Encoded styles as files: a bank of style codes, which are small, in one safetensors file.

    python -m stylezoo encode-style --model adain --style paintings/ --output styles.safetensors
    python -m stylezoo stylize --model adain --content photo.jpg --style styles.safetensors:waves --output output.png

    save_codes("styles.safetensors", {"waves": model.encode_style(waves)}, model)
    Stylizer(model, [load_codes("styles.safetensors", model)["waves"]])

A file says which model it belongs to: codes of other weights are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from stylezoo.checkpoints import model_digest
from stylezoo.errors import StylezooError, unknown_name
from stylezoo.files import replacing
from stylezoo.inference.banks import FORMAT, SUFFIX, is_name, read_card
from stylezoo.module import StyleCode, StyleModel
from stylezoo.tensor_files import Tensors, check_numbers, unreadable


def save_codes(path: str | Path, codes: Mapping[str, StyleCode], model: StyleModel) -> None:
    """Writes style codes with their names.

    Args:
        path: Ends in ``.safetensors``; an existing file is replaced when the new one is complete.
        codes: {name: what `StyleModel.encode_style` returned}. Names are not empty, and have no slash.
        model: The model that encoded them.

    Raises:
        StylezooError: If there is no code, a name cannot be used, or a code holds NaN or infinite numbers.
        OSError: If the file cannot be written; an existing one is unchanged.
    """
    check_target(path)
    if not codes:
        raise StylezooError("There is no style code to save: encode at least one style.")
    tensors: Tensors = {}
    for number, (name, code) in enumerate(codes.items()):
        if not is_name(name):
            raise StylezooError(f"A style cannot be called {name!r}: give a name without slashes, such as waves.")
        tensors |= {f"{number}.{key}": tensor.detach().cpu().contiguous() for key, tensor in code.items()}
    check_numbers(tensors, "These style codes")
    card = {
        "format": FORMAT,
        "system": model.system,
        "model": model.tag or model.system,
        "sha256": model_digest(model),
        "styles": list(codes),
    }
    content = save(tensors, metadata={"stylezoo": json.dumps(card)})
    with replacing(path) as file:
        file.write(content)


def check_target(path: str | Path) -> None:
    """Raises a StylezooError unless a file for style codes has the right suffix."""
    if Path(path).suffix != SUFFIX:
        raise StylezooError(f"Style codes are written to a file that ends in {SUFFIX}, not to {path}.")


def load_codes(path: str | Path, model: StyleModel, names: Sequence[str] | None = None) -> dict[str, StyleCode]:
    """Reads style codes, on the device of a model.

    Args:
        path: A file of `save_codes`.
        model: The model that encoded them, or one with the same weights.
        names: The styles to read; None reads all.

    Returns:
        {name: a code for `StyleModel.decode` or `stylezoo.inference.Stylizer`}.

    Raises:
        MissingFileError: If the file does not exist.
        StylezooError: If the file is damaged or of another kind, belongs to another model, or has no such style.
    """
    card = read_card(path)
    if card["system"] != model.system or card["sha256"] != model_digest(model):
        raise StylezooError(
            f"{path} holds styles that {card['model']} has encoded, with other weights than those of"
            f" {model.tag or model.system}: encode them with this model (python -m stylezoo encode-style), or stylize with"
            " that one."
        )
    known: list[str] = card["styles"]
    for name in names or []:
        if name not in known:
            raise unknown_name(f"{path} has no style", name, known, "it has")
    numbers = {known.index(name): name for name in (known if names is None else names)}
    codes: dict[str, StyleCode] = {name: {} for name in numbers.values()}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                number, _, tensor = key.partition(".")
                if number.isdecimal() and int(number) in numbers:
                    codes[numbers[int(number)]][tensor] = file.get_tensor(key)
    except Exception as error:  # SafetensorError is no public class of every version
        raise unreadable(Path(path), "style codes") from error
    for name, code in codes.items():
        if not code:
            raise StylezooError(f"{path} has no numbers for the style {name}: it is damaged, encode the style again.")
        check_numbers(code, path)
    return {name: {key: tensor.to(model.device) for key, tensor in code.items()} for name, code in codes.items()}
