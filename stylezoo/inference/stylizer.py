"""`Stylizer` stylizes batches with styles that were encoded once, `stylize` one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from stylezoo.checkpoints import load_model
from stylezoo.controls import (
    CONTROLS,
    SMALLEST_SIDE,
    Controls,
    EngineName,
    PreserveColor,
    Tile,
    TileStatistics,
    blending_shares,
)
from stylezoo.docstrings import described
from stylezoo.errors import NotEnoughMemoryError, StylezooError, is_out_of_memory
from stylezoo.images import ImageLike, check_batch, keep_luminance, load_style, load_with_alpha, to_image
from stylezoo.images.color import recolored
from stylezoo.inference.banks import is_reference, split_reference
from stylezoo.inference.codes import load_codes
from stylezoo.inference.engines import Engine, create_engine
from stylezoo.inference.plan import report
from stylezoo.inference.regions import check_cover, check_masks, in_regions, load_masks
from stylezoo.inference.tiles import TILES, Fit, streams
from stylezoo.inference.tuning import Work, choose_engine
from stylezoo.module import StyleCode, StyleModel
from stylezoo.streaming import StreamedMap, lazily

Style = Tensor | StyleCode | int | str | None
"""A style image, a style that was encoded before, or the number or name of a trained style."""


class Stylizer:
    """A model together with one style, or with several to blend or to spread over regions.

    Args:
        model: Any system; switched to eval mode.
        styles: For arbitrary systems style images, each (3, H, W) or (1, 3, H, W), RGB in [0, 1]; for multi-style
            systems numbers or names of trained styles; nothing for single-style ones. Or what `StyleModel.encode_style`
            returned for them, such as codes from a file (`stylezoo.inference.load_codes`).
        alpha: See `stylize`, as for the other controls.
        style_weights: None blends equally.
        preserve_color: Both are from Gatys et al. 2017 (arXiv:1606.05897); where the model takes no style image, ``coral``
            recolors the output.
        masks: (K, H, W), one map in [0, 1] per style: each position takes the style whose map is largest there, and the
            content stays where all are black. The only map of a single style is the share of the stylized image.
        tile: ``auto`` works in tiles where an image would not fit into memory, None never does.
        engine: The name of an engine, or one that several stylizers share.

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
        tile: Tile = "auto",
        tile_statistics: TileStatistics = "exact",
        engine: EngineName | Engine = "auto",
    ) -> None:
        controls = Controls(
            alpha,
            style_weights,
            preserve_color,
            tile=tile,
            tile_statistics=tile_statistics,
            has_masks=masks is not None,
        )
        model.check_controls(controls.alpha, None if controls.tile == "auto" else controls.tile)
        styles = checked_styles(model, listed(styles), preserve_color)
        self.model = model.eval()
        self.engine = engine if isinstance(engine, Engine) else engine_of(engine, model)
        self.alpha, self.tile, self.preserve_color = controls.alpha, controls.tile, preserve_color
        self.tile_statistics = controls.tile_statistics
        self._fit, self._told = Fit(self._network), set[tuple[int, ...]]()
        self.masks = masks if masks is None else check_masks(masks, len(styles)).to(model.device)
        self.weights = blending_shares(controls.style_weights, len(styles))
        images = [self._on_device(s.reshape(-1, *s.shape[-3:]), "The style") if is_image(s) else s for s in styles]
        # Styles that are recolored depend on the content, all others are encoded once.
        self.recolored = [s for s in images if is_image(s)] if preserve_color == "coral" else []
        with torch.inference_mode(), self._enough_memory("the styles", "style_size", controls.tile):
            self.codes = [] if self.recolored else [self._encoded(style) for style in images]

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
        what, tile = f"{images} of {width} x {height} pixels", self.tile_for(contents)
        if tile is None and self.tile == "auto" and streams(self.model):
            try:
                return self._finished(contents, None)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                tile = TILES[1]  # outside of the handler, whose error holds tensors
            self._tell(contents, tile, "does not fit into memory")
        with self._enough_memory(what, "size", tile):
            return self._finished(contents, tile)

    def stream(self, contents: StreamedMap) -> StreamedMap:
        """Stylizes an image that is read tile by tile, into one that is computed so (`stylezoo.streaming`).

        Args:
            contents: (1, 3, H, W), RGB in [0, 1].

        Returns:
            (1, 3, H, W), clamped to [0, 1]. Statistics of the contents are computed now, tiles when they are asked for.

        Raises:
            StylezooError: If the image is smaller than 16 pixels, or the masks do not fit.
        """
        if self.masks is not None:
            check_cover(self.masks, contents)

        def run(source: Tensor) -> Tensor:
            output = self._stylized(source, None)
            assert isinstance(output, StreamedMap)
            return self._in_colors(output.local(self._finite).clamp(0, 1), source)

        output = lazily(run, contents, self.tile_statistics)
        assert isinstance(output, StreamedMap)
        return output

    def tile_for(self, contents: Tensor) -> int | None:
        """Returns the side of the tiles for contents (B, 3, H, W), and says so where it was left to the memory."""
        if self.tile != "auto":
            return self.tile
        if not streams(self.model):
            return None
        tile, needed, free = self._fit.tile(contents)
        if tile is not None:
            self._tell(contents, tile, f"needs about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free")
        return tile

    def _tell(self, contents: Tensor, tile: int, reason: str) -> None:
        """Says once per size on standard error why tiles are used."""
        height, width = contents.shape[-2:]
        if (height, width) not in self._told:
            self._told.add((height, width))
            report(f"{width} x {height} pixels at once {reason}: working in tiles of {tile} (--tile)", "stylezoo: ")

    def _finished(self, contents: Tensor, tile: int | None) -> Tensor:
        """Returns the output for contents as a user gets it."""
        return self._in_colors(self._finite(self._stylized(contents, tile)).clamp(0, 1), contents)

    def _finite(self, output: Tensor) -> Tensor:
        """Returns an output of the model, or raises a StylezooError if it has values that are no finite numbers."""
        if not bool(torch.isfinite(output).all()):
            raise StylezooError(
                f"The output of {self.model.tag or self.model.system} is not finite: its weights are damaged, or do not"
                f" work in {str(output.dtype).removeprefix('torch.')}."
            )
        return output

    def _encoded(self, style: Any, contents: Tensor | None = None) -> StyleCode:
        """Encodes a style unless it is encoded already, in tiles if it is asked for."""
        if isinstance(style, dict):
            return style
        tile = self.tile
        if tile == "auto":
            fits = not (streams(self.model) and isinstance(style, Tensor) and style.ndim == 4)
            tile = None if fits else Fit(self.model.encode_style).tile(style)[0]
        return self.engine.encode_style(style, tile=tile)

    def _network(self, source: Tensor) -> Tensor:
        """Stylizes on the way to an estimate; where styles depend on the content, with a style that is the content."""
        codes = self.codes or [self.model.encode_style(source[..., :256, :256])]
        return self.model.decode(source, codes, self.alpha, self.weights if self.codes else None)

    def _stylized(self, contents: Tensor, tile: int | None) -> Tensor:
        """Returns the output of the model, (B, 3, H, W), not clamped."""
        codes = self.codes
        if self.recolored:
            recolored_styles = (
                torch.cat([recolored(image, content).clamp(0, 1) for content in torch.split(contents, 1)])
                for image in self.recolored
            )
            codes = [self._encoded(style) for style in recolored_styles]
        options: dict[str, Any] = {} if tile is None else {"tile": tile, "tile_statistics": self.tile_statistics}
        runner = self.model if isinstance(contents, StreamedMap) else self.engine
        if self.masks is not None and len(codes) > 1:
            return runner.decode_regions(contents, codes, self.masks, self.alpha, **options)
        return runner.decode(contents, codes, self.alpha, self.weights, **options)

    def _in_colors(self, output: Tensor, contents: Tensor) -> Tensor:
        """Returns the output in the colors that were asked for, and within the regions."""
        if self.preserve_color == "luminance":
            output = keep_luminance(output, contents)
        elif self.preserve_color == "coral" and not self.recolored:
            pairs = zip(torch.split(output, 1), torch.split(contents, 1), strict=True)
            output = torch.cat([recolored(single, content) for single, content in pairs]).clamp(0, 1)
        return output if self.masks is None else in_regions(output, contents, self.masks)

    def _on_device(self, images: Tensor, name: str) -> Tensor:
        """Checks images, and returns them on the device of the model and in its precision."""
        return check_batch(images, name).to(self.model.some_weight())

    @contextmanager
    def _enough_memory(self, what: str, control: str, tile: Tile) -> Iterator[None]:
        """Says what to do where the memory does not suffice."""
        try:
            yield
        except Exception as error:
            if isinstance(error, NotEnoughMemoryError) or not is_out_of_memory(error):
                raise
            ways = [f"resize to fewer pixels ({control}, --{control})"]
            if self.model.supports_tiles and (not isinstance(tile, int) or tile > TILES[-1]):
                ways.insert(0, f"work in tiles (tile, --tile {TILES[-1] if isinstance(tile, int) else TILES[1]})")
            raise NotEnoughMemoryError(f"There is not enough memory for {what}: {', or '.join(ways)}.") from error


def checked_styles(model: StyleModel, styles: list[Any], preserve_color: PreserveColor) -> list[Any]:
    """Checks that a model takes these styles; those that are encoded already are returned as they are.

    Raises:
        StylezooError: If it does not, or an encoded style is to be recolored.
    """
    images = [style for style in styles if not isinstance(style, dict)]
    if len(images) == len(styles):
        return model.check_styles(styles)
    if preserve_color == "coral" and model.kind not in ("multi", "single"):
        raise StylezooError(
            "preserve_color='coral' recolors a style before it is encoded, and this one is encoded already: give its image,"
            " or choose 'luminance'."
        )
    checked = iter(model.check_styles(images) if images else [])
    return [style if isinstance(style, dict) else next(checked) for style in styles]


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
    tile: Tile = "auto",
    tile_statistics: TileStatistics = "exact",
    engine: EngineName | Engine = "auto",
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
    controls = Controls(
        alpha, style_weights, preserve_color, size, style_size, tile, tile_statistics, masks is not None
    )
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
        tile_statistics=controls.tile_statistics,
        engine=engine,
    )
    return to_image(stylizer(image.unsqueeze(0)), opacity)


def engine_of(name: EngineName, model: StyleModel, work: Work | None = None) -> Engine:
    """Returns the engine of a name; ``auto`` is the fastest that is known.

    Args:
        name: The name.
        model: In eval mode, on its device.
        work: What there is to do, if that is known: long jobs measure engines first, see `stylezoo.inference.tuning`.

    Raises:
        StylezooError: If there is no such engine, or it cannot run the model here.
    """
    return (
        choose_engine(model, work, partial(report, label="stylezoo: "))
        if name == "auto"
        else create_engine(name, model)
    )


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
    (output,) = Stylizer(model, model.example_styles(style)[:1], engine="eager")(content[None])
    return [round(float(mean), 4) for mean in adaptive_avg_pool2d(output, 4).flatten()]


FINGERPRINT_TOLERANCE = 2e-3


def listed(value: Any) -> list[Any]:
    """Returns one thing, or several, or none (None), as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def load_styles(model: StyleModel, styles: Sequence[ImageLike | int], size: int | None = None) -> list[Style]:
    """Reads styles as `Stylizer` takes them: images as tensors, files of codes as codes, names of trained styles as they are.

    Raises:
        ImageError: If an image cannot be read.
        StylezooError: If there is a size, but the model takes no image.
    """
    check_style_size(model, size)
    return [_loaded(model, style, size) for style in styles]


def _loaded(model: StyleModel, style: ImageLike | int, size: int | None) -> Style:
    """Reads one style; a file of codes is named with the style, as in styles.safetensors:waves."""
    if isinstance(style, (str, Path)) and is_reference(str(style)):
        path, name = split_reference(str(style))
        codes = load_codes(path, model, None if name is None else [name])
        if len(codes) > 1:
            raise StylezooError(
                f"{path} holds {len(codes)} styles: name one of them, such as {path}:{next(iter(codes))}."
            )
        return next(iter(codes.values()))
    loaded: Style = model.read_style(style, lambda image: load_style(image, size))
    return loaded


def check_style_size(model: StyleModel, size: int | None) -> None:
    """Raises a StylezooError if there is a size, but the model takes no style image."""
    if size is not None and model.kind in ("multi", "single"):
        raise StylezooError(
            f"{model.system} takes no style image that could be resized: leave style_size (--style_size) out. Its strokes"
            " are larger, relative to the image, where the content is smaller (size, --size)."
        )
