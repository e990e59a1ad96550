"""`Stylizer` stylizes batches with styles that were encoded once, `stylize` one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.v2 import functional as transforms

from stylezoo.checkpoints import load_model
from stylezoo.controls import CONTROLS, PreserveColor
from stylezoo.docstrings import described
from stylezoo.errors import StylezooError, check_choice
from stylezoo.images import coral, keep_luminance, read_image, to_image, to_tensor
from stylezoo.module import StyleModel, blending_shares

ImageLike = str | Path | Image.Image | Tensor
"""A file, a PIL image, or a tensor (3, H, W) or (1, 3, H, W), RGB in [0, 1]."""

Style = Tensor | int | str | None
"""A style image, or the number or name of a trained style."""

SMALLEST_SIDE = 16


class Stylizer:
    """A model together with one style, or with several to blend or to spread over regions.

    Args:
        model: Any system; switched to eval mode.
        styles: For arbitrary systems style images, each (3, H, W) or (1, 3, H, W), RGB in [0, 1]; for multi-style
            systems numbers or names of trained styles; nothing for single-style ones.
        alpha: See `stylize`, as for the other controls.
        style_weights: None blends equally.
        preserve_color: Both are from Gatys et al. 2017 (arXiv:1606.05897); where the model takes no style image, ``coral``
            recolors the output.
        masks: (K, H, W): each position takes the style whose map is largest there.
        tile: None works on whole images.

    Raises:
        StylezooError: If the controls do not fit each other or the model.
    """

    def __init__(
        self,
        model: StyleModel,
        styles: Sequence[Style] = (),
        *,
        alpha: float = 1.0,
        style_weights: Sequence[float] | None = None,
        preserve_color: PreserveColor = "none",
        masks: Tensor | None = None,
        tile: int | None = None,
    ) -> None:
        check_choice("preserve_color", preserve_color, PreserveColor)
        if not (math.isfinite(alpha) and 0 <= alpha <= 1):
            raise StylezooError(f"alpha is the strength of the style between 0 and 1, not {alpha}.")
        if tile is not None and tile < 1:
            raise StylezooError(f"tile is the side of a tile in pixels, for example 512, not {tile}.")
        model.check_controls(alpha, tile)
        styles = model.check_styles(styles)
        self.model = model.eval()
        self.alpha, self.tile, self.preserve_color = alpha, tile, preserve_color
        self.masks = masks if masks is None else masks.to(model.device)
        self.weights = blending_shares(style_weights, len(styles))
        images = [s.reshape(1, *s.shape[-3:]).to(model.device) for s in styles if is_image(s)]
        # Styles that are recolored depend on the content, all others are encoded once.
        self.recolored = images if preserve_color == "coral" else []
        with torch.inference_mode():
            self.codes = [] if self.recolored else [model.encode_style(style, tile=tile) for style in images or styles]

    @torch.inference_mode()
    def __call__(self, contents: Tensor) -> Tensor:
        """Stylizes a batch of images of one size, (B, 3, H, W) -> (B, 3, H, W), RGB in [0, 1], on the model's device.

        Raises:
            StylezooError: If the images are smaller than 16 pixels.
        """
        contents = contents.to(self.model.device)
        if min(contents.shape[-2:]) < SMALLEST_SIDE:
            height, width = contents.shape[-2:]
            raise StylezooError(
                f"A content image of {width} x {height} pixels is too small: {SMALLEST_SIDE} are needed."
            )
        codes = self.codes
        if self.recolored:
            recolored = ([coral(image[0], content).clamp(0, 1) for content in contents] for image in self.recolored)
            codes = [self.model.encode_style(torch.stack(batch), tile=self.tile) for batch in recolored]
        if self.masks is not None:
            output = self.model.decode_regions(contents, codes, self.masks, self.alpha, tile=self.tile)
        else:
            output = self.model.decode(contents, codes, self.alpha, self.weights, tile=self.tile)
        output = output.clamp(0, 1)
        if self.preserve_color == "luminance":
            return keep_luminance(output, contents)
        if self.preserve_color == "coral" and not self.recolored:
            return torch.stack([coral(o, c) for o, c in zip(output, contents, strict=True)]).clamp(0, 1)
        return output


def is_image(style: Any) -> TypeGuard[Tensor]:
    """Whether a style is an image, not the number or name of a trained style, nor weights over these."""
    return isinstance(style, Tensor) and style.ndim >= 3


@described(CONTROLS)
def stylize(  # noqa: D417 - the decorator describes the controls
    content: ImageLike,
    style: ImageLike | int | Sequence[ImageLike | int] | None = None,
    model: str | Path | StyleModel = "adain",
    *,
    alpha: float = 1.0,
    style_weights: Sequence[float] | None = None,
    preserve_color: PreserveColor = "none",
    masks: ImageLike | Sequence[ImageLike] | None = None,
    size: int | None = None,
    style_size: int | None = None,
    tile: int | None = None,
    device: str | torch.device | None = None,
) -> Image.Image:
    """Stylizes one image with the style of another, or of several.

    Args:
        content: The image to stylize.
        style: A style image or several; several are blended, or spread over regions with ``masks``. For
            multi-style systems numbers or names of trained styles; nothing for single-style ones.
        model: A model, a file, or the name of weights (`stylezoo.load_model`).

    Returns:
        An image of the content's size.

    Raises:
        ImageError: If an image cannot be read.
        StylezooError: If the controls do not fit.
        MissingFileError: If the model is not there.
    """
    if not isinstance(model, StyleModel):
        model = load_model(model)
    if device is not None:
        model = model.to(find_device(device))
    styles, mask_list = _listed(style), _listed(masks)
    stylizer = Stylizer(
        model,
        load_styles(model, styles, style_size),
        alpha=alpha,
        style_weights=style_weights,
        preserve_color=preserve_color,
        masks=load_masks(mask_list, len(styles)),
        tile=tile,
    )
    return to_image(stylizer(load_image(content, size).unsqueeze(0)))


def find_device(name: str | torch.device) -> str | torch.device:
    """Returns the device of that name; ``auto`` is the accelerator if there is one, else the CPU."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def fingerprint(model: StyleModel) -> list[float]:
    """Summarizes a trained model's output for a fixed image in few numbers, to recognize its weights on any machine.

    Waves of 64 x 64 pixels are stylized, with the first of the trained styles where the model has such; the numbers are the
    means of 4 x 4 areas of red, then of green and of blue, rounded to four digits. In float32 on CPUs they agree to
    `FINGERPRINT_TOLERANCE`.

    Args:
        model: On the CPU.

    Returns:
        48 numbers in [0, 1].
    """
    y, x = torch.meshgrid(torch.arange(64) / 64, torch.arange(64) / 64, indexing="ij")
    content = torch.stack([0.5 + 0.45 * torch.sin(6.2832 * (x * (c + 1) + y * (3 - c)) + c) for c in range(3)])
    style = torch.stack([0.5 + 0.45 * torch.cos(6.2832 * (x * (7 - 2 * c) - y * (c + 5))) for c in range(3)])
    (output,) = Stylizer(model, model.example_styles(style)[:1])(content[None])
    return [round(float(mean), 4) for mean in adaptive_avg_pool2d(output, 4).flatten()]


FINGERPRINT_TOLERANCE = 2e-3


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def load_styles(model: StyleModel, styles: Sequence[ImageLike | int], size: int | None = None) -> list[Style]:
    """Reads styles as `Stylizer` takes them: images as tensors; numbers and names of trained styles as they are.

    Raises:
        ImageError: If an image cannot be read.
    """
    return [model.read_style(style, lambda image: load_image(image, size)) for style in styles]


def load_image(source: ImageLike, size: int | None = None) -> Tensor:
    """Reads an image as (3, H, W), its short side resized to ``size`` (bilinear, antialiased) unless that is None.

    Raises:
        ImageError: If a file cannot be read.
        StylezooError: If a tensor has another shape.
    """
    if isinstance(source, Tensor):
        if source.shape[-3:-2] != (3,) or source.ndim not in (3, 4) or (source.ndim == 4 and len(source) != 1):
            raise StylezooError(f"An image is a tensor (3, H, W) or (1, 3, H, W), not {tuple(source.shape)}.")
        tensor = source.reshape(source.shape[-3:]).float()
    else:
        image = source.convert("RGB") if isinstance(source, Image.Image) else read_image(source, min_side=size)
        tensor = to_tensor(image)
    if size is not None and min(tensor.shape[-2:]) != size:
        tensor = transforms.resize(tensor, [size], antialias=True).clamp(0, 1)
    return tensor


def load_masks(masks: Sequence[ImageLike], count: int) -> Tensor | None:
    """Reads region masks of ``count`` styles as (count, H, W); None if there are none.

    Raises:
        StylezooError: If the number or the sizes of the masks do not fit.
    """
    if not masks:
        return None
    maps = [load_image(mask).mean(0) for mask in masks]
    if len(maps) == 1 and count == 2:
        maps.append(1 - maps[0])
    if len(maps) != count:
        raise StylezooError(
            f"There are {count} styles but {len(maps)} masks: give one mask per style (or one for two)."
        )
    if len({m.shape for m in maps}) > 1:
        raise StylezooError("The masks differ in size: they all cover the content, so make them equally large.")
    return torch.stack(maps)
