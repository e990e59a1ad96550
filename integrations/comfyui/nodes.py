"""Four nodes: load a model, encode a style, blend styles, stylize.

Images are ComfyUI's: (B, H, W, 3), RGB in [0, 1], float32, on the CPU. A style is encoded once and used for any number of
images of any size and aspect. ComfyUI shows the sentence of an error beside the node that raised it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

import stylezoo
from stylezoo import StyleModel, StylezooError
from stylezoo.controls import PreserveColor
from stylezoo.inference import Stylizer
from stylezoo.inference.stylizer import find_device
from stylezoo.module import Iteration, StyleCode

try:
    import comfy.model_management as management
    import comfy.utils as comfy_utils
except ImportError:  # outside of ComfyUI: a script that uses the nodes as functions
    management = comfy_utils = None

MODEL, STYLE, CATEGORY = "STYLEZOO_MODEL", "STYLEZOO_STYLE", "stylezoo"


@dataclass(frozen=True)
class Style:
    """One style, or a blend of several, of one model.

    Attributes:
        model: The model that has encoded them.
        sources: What was encoded: images (3, H, W), or names or numbers of trained styles.
        codes: What the model made of each.
        weights: Share of each; they sum to 1.
    """

    model: StyleModel
    sources: tuple[Tensor | str | int, ...]
    codes: tuple[StyleCode, ...]
    weights: tuple[float, ...]


class LoadModel:
    """Loads a model of stylezoo: one that ships, or a file, a folder or a repository."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = stylezoo.list_models(pretrained=True)
        other = {
            "default": "",
            "tooltip": "A .safetensors or .ckpt file, a folder, or hf-hub:OWNER/NAME, in place of the name",
        }
        return {
            "required": {"name": (names, {"default": "adain.slim" if "adain.slim" in names else names[0]})},
            "optional": {"file_or_repository": ("STRING", other)},
        }

    def load(self, name: str, file_or_repository: str = "") -> tuple[StyleModel]:
        model = stylezoo.load_model(file_or_repository.strip() or name)
        device = find_device("auto") if management is None else management.get_torch_device()
        return (model.to(device),)


class EncodeStyle:
    """Encodes a style: an image, or for models with trained styles the name or number of one.

    A batch of images is a blend with equal shares.
    """

    CATEGORY, FUNCTION = CATEGORY, "encode"
    RETURN_TYPES, RETURN_NAMES = (STYLE,), ("style",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        trained = {"default": "", "tooltip": "Name or number of a trained style, for models that take no image"}
        return {
            "required": {"model": (MODEL,)},
            "optional": {"image": ("IMAGE",), "trained_style": ("STRING", trained)},
        }

    def encode(self, model: StyleModel, image: Tensor | None = None, trained_style: str = "") -> tuple[Style]:
        name = trained_style.strip()
        if model.kind == "single":
            raise StylezooError(f"{model.system} has one style: connect the model to Stylize without a style.")
        if model.kind == "multi":
            if not name:
                raise StylezooError(f"{model.system} has trained styles: name one of {', '.join(model.styles)}.")
            sources: list[Any] = model.check_styles([int(name) if name.isdecimal() else name])
        elif image is None:
            raise StylezooError(f"{model.system} takes any image as style: connect one.")
        else:
            sources = list(to_batch(image))
        codes = Stylizer(model, sources).codes
        return (Style(model, tuple(sources), tuple(codes), (1 / len(codes),) * len(codes)),)


class BlendStyles:
    """Blends two styles of one model; a blend can be blended again."""

    CATEGORY, FUNCTION = CATEGORY, "blend"
    RETURN_TYPES, RETURN_NAMES = (STYLE,), ("style",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "0 is the first style, 1 the second"}
        return {"required": {"first": (STYLE,), "second": (STYLE,), "share_of_second": ("FLOAT", share)}}

    def blend(self, first: Style, second: Style, share_of_second: float) -> tuple[Style]:
        if first.model is not second.model:
            raise StylezooError("Styles that are blended must be encoded by the same model: connect one to both nodes.")
        if not 0 <= share_of_second <= 1:
            raise StylezooError(f"The share of the second style is a number from 0 to 1, not {share_of_second}.")
        parts = [
            (source, code, share * weight)
            for style, share in ((first, 1 - share_of_second), (second, share_of_second))
            for source, code, weight in zip(style.sources, style.codes, style.weights, strict=True)
            if share * weight > 0
        ]
        sources, codes, weights = zip(*parts, strict=True)
        return (Style(first.model, sources, codes, weights),)


class Stylize:
    """Stylizes images of any size and aspect; a batch, such as the frames of a clip, in parts of a few images."""

    CATEGORY, FUNCTION = CATEGORY, "stylize"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("image",)
    BATCH: ClassVar[int] = 4
    """Images that are stylized together."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        alpha = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "Strength of the style"}
        tile = {
            "default": 0,
            "min": 0,
            "max": 8192,
            "step": 64,
            "tooltip": "Side of tiles in pixels; 0 leaves it to the memory",
        }
        return {
            "required": {
                "model": (MODEL,),
                "image": ("IMAGE",),
                "alpha": ("FLOAT", alpha),
                "preserve_color": (list(get_args(PreserveColor)),),
                "tile": ("INT", tile),
            },
            "optional": {"style": (STYLE,)},
        }

    def stylize(
        self,
        model: StyleModel,
        image: Tensor,
        alpha: float = 1.0,
        preserve_color: PreserveColor = "none",
        tile: int = 0,
        style: Style | None = None,
    ) -> tuple[Tensor]:
        if style is not None and style.model is not model:
            raise StylezooError("The style was encoded by another model: connect the same model to both nodes.")
        if style is None and model.kind != "single":
            raise StylezooError(f"{model.system} needs a style: connect the node Encode Style.")
        # coral recolors styles before they are encoded, which needs the images
        recolors = preserve_color == "coral" and model.kind not in ("multi", "single")
        styles = () if style is None else style.sources if recolors else style.codes
        stylizer = Stylizer(
            model,
            styles,
            alpha=alpha,
            style_weights=None if style is None else style.weights,
            preserve_color=preserve_color,
            tile=tile or "auto",
        )
        contents = to_batch(image)
        return (to_image(torch.cat(self._outputs(stylizer, contents))),)

    def _outputs(self, stylizer: Stylizer, contents: Tensor) -> list[Tensor]:
        """Stylizes a batch part by part, with progress, until ComfyUI's user stops it."""
        model, outputs = stylizer.model, []
        optimizes = model.kind == "optimization"
        progress = Progress(len(contents))
        for part in contents.split(1 if optimizes else self.BATCH):
            if management is not None:
                management.throw_exception_if_processing_interrupted()
            model.on_iteration = progress.show if optimizes else None
            try:
                outputs.append(stylizer(part).cpu())
            finally:
                model.on_iteration = None
            progress.advance(len(part))
        return outputs


class Progress:
    """ComfyUI's progress bar over a batch, in shares of an image where a system optimizes."""

    def __init__(self, images: int) -> None:
        self.images, self.done = images, 0
        self.bar = None if comfy_utils is None else comfy_utils.ProgressBar(images)

    def advance(self, images: int) -> None:
        self.done += images
        if self.bar is not None:
            self.bar.update_absolute(self.done, self.images)

    def show(self, now: Iteration) -> None:
        if management is not None:
            management.throw_exception_if_processing_interrupted()
        if self.bar is not None:
            self.bar.update_absolute(self.done * now.steps + now.step, self.images * now.steps)


def to_batch(image: Tensor) -> Tensor:
    """Returns an image of ComfyUI, (B, H, W, 3 or 4), as (B, 3, H, W), clamped to [0, 1]; opacity is left out."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise StylezooError(f"An image of ComfyUI has the shape (B, H, W, 3), not {tuple(image.shape)}.")
    return image[..., :3].movedim(-1, 1).float().clamp(0, 1)


def to_image(batch: Tensor) -> Tensor:
    """Returns (B, 3, H, W) as an image of ComfyUI, (B, H, W, 3), float32, on the CPU."""
    return batch.movedim(1, -1).float().cpu().contiguous()


NODE_CLASS_MAPPINGS = {
    "StylezooLoadModel": LoadModel,
    "StylezooEncodeStyle": EncodeStyle,
    "StylezooBlendStyles": BlendStyles,
    "StylezooStylize": Stylize,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "StylezooLoadModel": "Load Style Model (stylezoo)",
    "StylezooEncodeStyle": "Encode Style (stylezoo)",
    "StylezooBlendStyles": "Blend Styles (stylezoo)",
    "StylezooStylize": "Stylize (stylezoo)",
}
