"""`Stylizer` stylizes batches with styles that were encoded once, `stylize` one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from stylezoo.checkpoints import load_model
from stylezoo.controls import CONTROLS, SMALLEST_SIDE, Controls, PreserveColor, blending_shares
from stylezoo.docstrings import described
from stylezoo.errors import NotEnoughMemoryError, StylezooError, is_out_of_memory
from stylezoo.images import ImageLike, check_batch, coral, keep_luminance, load_style, load_with_alpha, to_image
from stylezoo.inference.regions import check_cover, check_masks, in_regions, load_masks
from stylezoo.module import StyleModel

Style = Tensor | int | str | None
"""A style image, or the number or name of a trained style."""


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
        masks: (K, H, W), one map in [0, 1] per style: each position takes the style whose map is largest there, and the
            content stays where all are black. The only map of a single style is the share of the stylized image.
        tile: None works on whole images.

    Raises:
        StylezooError: If the controls do not fit each other or the model, or a style does not fit into the memory.
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
        controls = Controls(alpha, style_weights, preserve_color, tile=tile, has_masks=masks is not None)
        model.check_controls(controls.alpha, controls.tile)
        styles = model.check_styles(listed(styles))
        self.model = model.eval()
        self.alpha, self.tile, self.preserve_color = controls.alpha, controls.tile, preserve_color
        self.masks = masks if masks is None else check_masks(masks, len(styles)).to(model.device)
        self.weights = blending_shares(controls.style_weights, len(styles))
        images = [self._on_device(s.reshape(-1, *s.shape[-3:]), "The style") for s in styles if is_image(s)]
        # Styles that are recolored depend on the content, all others are encoded once.
        self.recolored = images if preserve_color == "coral" else []
        with torch.inference_mode(), self._enough_memory("the styles", "style_size"):
            self.codes = [] if self.recolored else [model.encode_style(style, tile=tile) for style in images or styles]

    @torch.inference_mode()
    def __call__(self, contents: Tensor) -> Tensor:
        """Stylizes a batch of images of one size.

        Args:
            contents: (B, 3, H, W), RGB: uint8, or floats in [0, 1].

        Returns:
            (B, 3, H, W), clamped to [0, 1], on the model's device.

        Raises:
            StylezooError: If the images are smaller than 16 pixels, no images in [0, 1], do not fit the masks or the
                memory, or the model's output is not finite.
        """
        contents = self._on_device(contents, "The batch of contents")
        height, width = contents.shape[-2:]
        if min(height, width) < SMALLEST_SIDE:
            raise StylezooError(
                f"A content image of {width} x {height} pixels is too small: {SMALLEST_SIDE} are needed."
            )
        if self.masks is not None:
            check_cover(self.masks, contents)
        images = "an image" if len(contents) == 1 else f"{len(contents)} images"
        with self._enough_memory(f"{images} of {width} x {height} pixels", "size"):
            output = self._stylized(contents)
            if not bool(torch.isfinite(output).all()):
                raise StylezooError(
                    f"The output of {self.model.tag or self.model.system} is not finite: its weights are damaged, or do not"
                    f" work in {str(output.dtype).removeprefix('torch.')}."
                )
            output = self._colored(output.clamp(0, 1), contents)
            return output if self.masks is None else in_regions(output, contents, self.masks)

    def _stylized(self, contents: Tensor) -> Tensor:
        """Returns the output of the model, (B, 3, H, W), not clamped."""
        codes = self.codes
        if self.recolored:
            recolored = ([coral(image[0], content).clamp(0, 1) for content in contents] for image in self.recolored)
            codes = [self.model.encode_style(torch.stack(batch), tile=self.tile) for batch in recolored]
        if self.masks is not None and len(codes) > 1:
            return self.model.decode_regions(contents, codes, self.masks, self.alpha, tile=self.tile)
        return self.model.decode(contents, codes, self.alpha, self.weights, tile=self.tile)

    def _colored(self, output: Tensor, contents: Tensor) -> Tensor:
        """Returns the output in the colors that were asked for."""
        if self.preserve_color == "luminance":
            return keep_luminance(output, contents)
        if self.preserve_color == "coral" and not self.recolored:
            return torch.stack([coral(o, c) for o, c in zip(output, contents, strict=True)]).clamp(0, 1)
        return output

    def _on_device(self, images: Tensor, name: str) -> Tensor:
        """Checks images, and returns them on the device of the model and in its precision."""
        return check_batch(images, name).to(next(self.model.parameters()))

    @contextmanager
    def _enough_memory(self, what: str, control: str) -> Iterator[None]:
        """Says what to do where the memory does not suffice."""
        try:
            yield
        except Exception as error:
            if isinstance(error, NotEnoughMemoryError) or not is_out_of_memory(error):
                raise
            ways = [f"resize to fewer pixels ({control}, --{control})"]
            if self.model.supports_tiles and (self.tile is None or self.tile > 256):
                ways.insert(0, f"work in tiles (tile, --tile {512 if self.tile is None else 256})")
            raise NotEnoughMemoryError(f"There is not enough memory for {what}: {', or '.join(ways)}.") from error


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
        An image of the content's size, clamped to [0, 1] and rounded to 8 bits; of mode "RGBA" if the content has
        transparent pixels, else "RGB".

    Raises:
        ImageError: If an image cannot be read.
        StylezooError: If the controls do not fit, or the memory does not suffice.
        MissingFileError: If the model is not there.
    """
    styles = listed(style)
    controls = Controls(alpha, style_weights, preserve_color, size, style_size, tile, masks is not None)
    target = None if device is None else find_device(device)
    image, opacity = load_with_alpha(content, controls.size)
    maps = load_masks(listed(masks), max(1, len(styles)))
    if not isinstance(model, StyleModel):
        model = load_model(model)
    if target is not None:
        model = model.to(target)
    stylizer = Stylizer(
        model,
        load_styles(model, styles, controls.style_size),
        alpha=controls.alpha,
        style_weights=controls.style_weights,
        preserve_color=preserve_color,
        masks=maps,
        tile=controls.tile,
    )
    return to_image(stylizer(image.unsqueeze(0)), opacity)


def find_device(name: str | torch.device) -> torch.device:
    """Returns the device of that name; ``auto`` is the accelerator if there is one, else the CPU.

    Raises:
        StylezooError: If there is no such device, or it does not compute.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add(1).item()
    except Exception as error:  # RuntimeError, AssertionError and others, depending on the device
        there = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise StylezooError(f"There is no device {str(name)!r} on this machine: it has {', '.join(there)}.") from error
    return device


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


def listed(value: Any) -> list[Any]:
    """Returns one thing, or several, or none (None), as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def load_styles(model: StyleModel, styles: Sequence[ImageLike | int], size: int | None = None) -> list[Style]:
    """Reads styles as `Stylizer` takes them: images as tensors; numbers and names of trained styles as they are.

    Raises:
        ImageError: If an image cannot be read.
        StylezooError: If there is a size, but the model takes no image.
    """
    check_style_size(model, size)
    return [model.read_style(style, lambda image: load_style(image, size)) for style in styles]


def check_style_size(model: StyleModel, size: int | None) -> None:
    """Raises a StylezooError if there is a size, but the model takes no style image."""
    if size is not None and model.kind in ("multi", "single"):
        raise StylezooError(
            f"{model.system} takes no style image that could be resized: leave style_size (--style_size) out. Its strokes"
            " are larger, relative to the image, where the content is smaller (size, --size)."
        )
