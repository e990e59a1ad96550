"""Style images to style codes, for the command `encode-style`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from stylezoo.checkpoints import load_model
from stylezoo.controls import Controls
from stylezoo.errors import StylezooError
from stylezoo.images import load_style
from stylezoo.inference.banks import named
from stylezoo.inference.codes import save_codes
from stylezoo.inference.plan import expand, report
from stylezoo.inference.stylizer import engine_of, find_device
from stylezoo.module import StyleCode, StyleModel


def encode_files(model: str, style: Sequence[str], output: str, controls: Controls, device: str = "auto") -> int:
    """Encodes style images, and writes their codes to one file; images that cannot be encoded are reported.

    Args:
        model: What `load_model` takes.
        style: Files, folders or globs.
        output: The file to write.
        controls: Of which ``style_size``, ``tile`` and ``engine`` count.
        device: Where to compute, see `stylezoo.inference.stylizer.find_device`.

    Returns:
        The number of images that are left out.

    Raises:
        StylezooError: If the model takes no style images, or none of these can be encoded.
    """
    paths = named(dict.fromkeys(path for word in style for path, _ in expand(word)))
    network = load_model(model).to(find_device(device))
    check_takes_images(network)
    tile = None if controls.tile == "auto" else controls.tile
    network.check_controls(1.0, tile)
    engine = engine_of(controls.engine, network)
    codes: dict[str, StyleCode] = {}
    failed: list[StylezooError] = []
    for name, path in track(paths.items(), "encoding", disable=not sys.stdout.isatty() or len(paths) < 3):
        try:
            image = load_style(path, controls.style_size)
            codes[name] = engine.encode_style(_batch(image, network), tile=tile)
        except StylezooError as error:
            failed.append(error)
            if len(paths) > 1:
                report(str(error))
    if not codes:
        raise failed[0] if len(paths) == 1 else StylezooError("None of these styles can be encoded.")
    save_codes(output, codes, network)
    size = Path(output).stat().st_size
    print(
        f"{len(codes)} styles of {network.tag or network.system}, {len(failed)} failed: {output} ({size / 1e6:.2f} MB)"
    )
    return len(failed)


def check_takes_images(model: StyleModel) -> None:
    """Raises a StylezooError if the styles of a model are in its network, or it optimizes towards their images."""
    if model.kind != "arbitrary":
        have = f"its own styles ({', '.join(model.styles[:3])})" if model.styles else "no codes for styles"
        raise StylezooError(f"{model.system} has {have}: only systems that take any image as style encode one.")


def _batch(image: Tensor, model: StyleModel) -> Tensor:
    with torch.inference_mode():
        return image[None].to(model.some_weight())
