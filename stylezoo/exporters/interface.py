"""What an exported model takes: its inputs with examples, which of their sizes vary, and the program that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo.controls import StyleInput
from stylezoo.errors import StylezooError
from stylezoo.exporters.program import CostlyAlpha, Program
from stylezoo.images import load_style
from stylezoo.module import StyleCode, StyleModel

SMALLEST = 64
"""Pixels of the shortest side of contents and styles that an exported model takes: branches for smaller ones are left out."""

CONTENT, STYLE = (2, 3, 85, 101), (1, 3, 93, 109)
"""Shapes of the examples that are traced: no side is a multiple of a stride, and no two are equal."""

CHECKED = (((1, 64, 96), (80, 64)), ((2, 71, 130), (97, 120)), ((1, 150, 67), (64, 131)))
"""Batch, height and width of contents, and height and width of styles, with which exported models are compared; none is traced."""


@dataclass
class Interface:
    """The inputs of a program and what varies in them.

    Attributes:
        model: The model.
        program: The model as a function of the inputs.
        inputs: {name: example}, in their order.
        axes: {name: {axis: name of its size}}, also of ``output``.
        kind: What the style input is: ``image``, ``code`` or ``weights`` (over the trained styles); None if there is none.
        alpha: Strength of the style where it is fixed; None if it is an input.
    """

    model: StyleModel
    program: Program
    inputs: dict[str, Tensor]
    axes: dict[str, dict[int, str]] = field(default_factory=dict)
    kind: Literal["image", "code", "weights"] | None = None
    alpha: float | None = 1.0

    def example(self, content: tuple[int, int, int], style: tuple[int, int]) -> dict[str, Tensor]:
        """Returns inputs of other sizes.

        Args:
            content: Batch, height and width of the contents.
            style: Height and width of the style images.
        """
        inputs = {"content": images(content[0], *content[1:], seed=1)}
        styles = images(1, *style, seed=2)
        if self.kind == "image":
            inputs["style"] = styles
        elif self.kind == "weights":
            inputs["style"] = torch.linspace(0.2, 1, len(self.model.styles))[None] / len(self.model.styles)
        elif self.kind == "code":
            inputs |= _code(self.model, styles)
        if self.alpha is None:
            inputs["alpha"] = torch.tensor(0.7)
        return inputs

    def expected(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns what PyTorch computes from inputs, (B, 3, H, W)."""
        model = self.model
        with torch.inference_mode():
            if self.kind == "code":
                code = {name: inputs[name] for name in inputs if name not in ("content", "alpha")}
            elif self.kind is None:
                code = dict(self.program.named_buffers(recurse=False))
            else:
                code = model.encode_style(inputs["style"])
            alpha = float(inputs["alpha"]) if self.alpha is None else self.alpha
            return model.decode(inputs["content"], code, alpha)


def make_interface(
    model: StyleModel, style_input: StyleInput | None = None, style: Any = None, alpha: float | None = None
) -> Interface:
    """Decides what an exported model takes; the arguments are those of `stylezoo.export`.

    Raises:
        StylezooError: If the system has no such input.
    """
    if model.kind == "optimization":
        raise StylezooError(
            f"{model.system} has no network to export: it optimizes every image by gradients; export a feed-forward system"
            " such as adain."
        )
    if alpha is not None:
        model.check_controls(alpha, None)
    example = images(CONTENT[0], *CONTENT[2:], seed=1)
    inputs = {"content": example}
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ("content", "output")}
    kind = _kind(model, style_input, style)
    code = _fixed(model, style) if kind is None else None
    if kind == "image":
        inputs["style"] = images(1, *STYLE[2:], seed=2)
        axes["style"] = {0: "style_batch", 2: "style_height", 3: "style_width"}
    elif kind == "weights":
        inputs["style"] = torch.full((1, len(model.styles)), 1 / len(model.styles))
        axes["style"] = {0: "style_batch"}
    elif kind == "code":
        own, other = (_code(model, images(1, *sides, seed=2)) for sides in (STYLE[2:], (120, 140)))
        inputs |= own
        for name, tensor in own.items():
            varying = [axis for axis in range(1, tensor.ndim) if tensor.shape[axis] != other[name].shape[axis]]
            axes[name] = {0: "style_batch", **{axis: f"{name}_{axis}" for axis in varying}}
    names = [[name for name in inputs if name != "content"]] if kind == "code" else None
    if alpha is None and not model.alpha_is_fixed:
        program = Program(model, names, code=code, alpha=None)
        try:
            with torch.no_grad():
                program(*inputs.values(), torch.tensor(0.5))
            return Interface(model, program, {**inputs, "alpha": torch.tensor(0.5)}, axes, kind, None)
        except CostlyAlpha:
            pass
    alpha = 1.0 if alpha is None else alpha
    program = Program(model, names, code=code, alpha=alpha)
    with torch.no_grad():
        program(*inputs.values())  # fills what systems compute once: exporters would record it
    return Interface(model, program, inputs, axes, kind, alpha)


def _kind(model: StyleModel, style_input: StyleInput | None, style: Any) -> Literal["image", "code", "weights"] | None:
    if style is not None and style_input is not None:
        raise StylezooError("A fixed style is no input: give either style (--style) or style_input (--style_input).")
    if model.kind == "single":
        if style_input is not None:
            raise StylezooError(
                f"{model.system} has one style, which is in its network ({model.styles[0]}): leave style_input out."
            )
        model.check_styles([style])
        return None
    if style is not None:
        return None
    if model.kind == "multi":
        if style_input == "image":
            raise StylezooError(
                f"{model.system} takes no image as style: leave style_input out for weights over its styles as input"
                f" ({', '.join(model.styles)}), or name one of them (style)."
            )
        return style_input or "weights"
    return style_input or "image"


def _fixed(model: StyleModel, style: Any) -> StyleCode:
    """Encodes the style that an exported model has, whatever a user gave for it."""
    with torch.no_grad():
        if model.kind == "single":
            return model.encode_style(None)
        if not isinstance(style, Tensor):
            style = model.read_style(style, load_style)
        (style,) = model.check_styles([style])
        if isinstance(style, Tensor) and style.ndim == 3:
            style = style[None].to(model.some_weight())
        return model.encode_style(style)


def _code(model: StyleModel, image: Tensor) -> StyleCode:
    with torch.no_grad():
        style: Any = image if model.kind == "arbitrary" else 0
        return {name: tensor.detach().clone() for name, tensor in model.encode_style(style).items()}


def images(count: int, height: int, width: int, seed: int) -> Tensor:
    """Returns smooth colors with some grain, (B, 3, H, W) in [0, 1]: a function of the arguments."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(count, 3, 7, 8, generator=generator), (height, width), mode="bicubic")
    return (smooth + 0.05 * torch.randn(count, 3, height, width, generator=generator)).clamp(0, 1)
