"""`StyleModel`, the LightningModule that every system of the zoo is."""

from __future__ import annotations

import importlib
import inspect
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from numbers import Integral, Real
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from stylezoo import hub, legacy
from stylezoo.controls import SMALLEST_SIDE, Kind, TileStatistics, blending_shares
from stylezoo.determinism import deterministic_operations
from stylezoo.errors import MissingFileError, StylezooError, check_choice, check_number, unknown_name
from stylezoo.layers import mirrored
from stylezoo.losses import PerceptualLoss
from stylezoo.streaming import StreamedMap, streamed
from stylezoo.vgg import SLIM_LAYERS, VGG, Features, conv_names
from stylezoo.weights import Tensors

if TYPE_CHECKING:
    from typing_extensions import Self

StyleCode = dict[str, Tensor]
"""A style as a model encodes it: a few named tensors (B, ...) that can be cached, saved and blended."""

Objective = Callable[..., dict[str, Tensor]]
"""A function of (model, content, style) that returns weighted loss terms by name, in place of the model's `losses`."""


@dataclass(frozen=True)
class Stylization:
    """What an `AdditionalLoss` compares.

    Attributes:
        content: (B, 3, H, W), RGB in [0, 1].
        style: What `StyleModel.losses` was called with.
        output: The stylized content, (B, 3, H, W) or larger to the right and bottom, not clamped.
        features: Features of the output by layer of the loss encoder.
        features_of: Computes the features of images (B, 3, H', W') at the same layers.
    """

    content: Tensor
    style: Any
    output: Tensor
    features: Features
    features_of: Callable[[Tensor], Features]

    def content_features(self) -> Features:
        """Computes the features of the content, extended by its border to the output's size, without gradients."""
        rows, columns = (o - c for o, c in zip(self.output.shape[-2:], self.content.shape[-2:], strict=True))
        with torch.no_grad():
            return self.features_of(F.pad(self.content, (0, columns, 0, rows), mode="replicate"))


class AdditionalLoss(nn.Module):
    """Base of the losses that any system can be trained with besides its own, see `stylezoo.training.Training`.

    Its parameters are trained with those of the model, and are part of checkpoints but not of model files.

    Attributes:
        layers: Layers of the loss encoder whose features it needs.
        optimizer_options: Options of Adam for its parameters, such as ``betas``, in place of the model's.
        style_images: Whether it compares outputs with style images, which systems with trained styles do not have.
    """

    layers: tuple[str, ...] = ()
    style_images: ClassVar[bool] = False
    optimizer_options: ClassVar[dict[str, Any]] = {}

    def build(self, channels: Mapping[str, int]) -> None:
        """Builds what depends on the number of channels of each layer; called once, before the optimizer is built."""

    def batch(self, content: Tensor, style: Any) -> tuple[Tensor, Any]:
        """Returns the contents and styles that are stylized in place of those of a batch."""
        return content, style

    def forward(self, stylization: Stylization) -> dict[str, Tensor]:
        """Returns weighted loss terms by name."""
        raise NotImplementedError


COMMON_SETTINGS = {
    "content_weight": "Weight of the content loss.",
    "style_weight": "Weight of the style loss.",
    "content_layers": "Weight of each layer in the content loss.",
    "style_loss": "Style statistic, a name of `stylezoo.losses.STYLE_STATISTICS`.",
    "style_layers": "Weight of each layer in the style loss.",
    "lr": "Learning rate of Adam at the first step.",
    "lr_decay": "d in lr / (1 + d * step).",
    "encoder": "The frozen encoder, see `stylezoo.vgg.VGG`.",
    "encoder_weights": "A file for it; None takes its own.",
    "loss_encoder": "The network of the losses, see `stylezoo.vgg.VGG`. Only training needs it.",
    "loss_encoder_weights": "A file for it; None takes its own.",
}
"""Descriptions of settings that most systems have: `stylezoo.registry.register` adds them to the docstrings of systems."""


_POSITIVE = ("a finite number greater than 0", math.nextafter(0, 1))
_NOT_NEGATIVE = ("a finite number from 0 up", 0)
_SHARE = ("a number from 0 up to 1, without 1", 0, math.nextafter(1, 0))
RANGES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("channels", "heads", "layers", "lr_gamma", "lr_step_size", "ngf", "style_size", "width"), _POSITIVE
    ),
    **dict.fromkeys(("blocks", "lr", "lr_decay", "negative_slope", "noise", "seed", "warmup", "weight"), _NOT_NEGATIVE),
    **dict.fromkeys(("average", "betas", "dropout"), _SHARE),
}
"""Meaning and range of numeric settings by name, as `check_number` takes them; ``weight`` is that of losses and layers."""


@dataclass(frozen=True)
class Blend:
    """Style codes with the share that each has in the output; the shares sum to 1.

    Attributes:
        codes: One or more style codes of one model.
        shares: One number per code.
    """

    codes: list[StyleCode]
    shares: list[float]

    def code(self) -> StyleCode:
        """Returns the weighted sum of the codes, tensor by tensor."""
        return {name: self.sum(itemgetter(name)) for name in self.codes[0]}

    def sum(self, function: Callable[[StyleCode], Tensor]) -> Tensor:
        """Returns the weighted sum of what a function makes of each code."""
        parts = (share * function(code) for share, code in zip(self.shares, self.codes, strict=True))
        return reduce(torch.add, parts)

    def faded(self, alpha: float, own: Callable[[], StyleCode]) -> Blend:
        """Returns a blend in which the styles have the share ``alpha`` and another code has the rest.

        Args:
            alpha: Strength of the styles, 0 to 1.
            own: Returns the code of the content itself; called only where ``alpha`` is not 1.
        """
        shares = [alpha * share for share in self.shares]
        return Blend(self.codes, shares) if alpha == 1 else Blend([*self.codes, own()], [*shares, 1 - alpha])


class FeaturePair(NamedTuple):
    """Features of one image from the two networks of a system; the same dict where they are one network."""

    encoder: Features
    loss_encoder: Features


@dataclass(frozen=True)
class Iteration:
    """The progress of a system that optimizes its images, see `StyleModel.on_iteration`.

    Attributes:
        index: Number of the image in its batch.
        step: Number of iterations done, from 1.
        steps: Number of iterations in all.
        loss: Sum of the weighted loss terms.
        image: The unfinished image, (3, H, W) in [0, 1]; smaller than the content at coarse scales.
    """

    index: int
    step: int
    steps: int
    loss: float
    image: Tensor


class StyleModel(LightningModule):
    """Base class of all systems.

    A system registers itself (`stylezoo.registry.register`) and implements `encode`, `transfer` and `loss_terms`; this
    class checks images, checks and blends style codes, crops outputs, weighs, sums and logs loss terms, steps Adam, and
    keeps frozen encoders out of checkpoints. Images are RGB in [0, 1], (B, 3, H, W); outputs have the content's size.

    Images and codes are cast to the dtype of the weights, in which outputs are returned. Outputs of `forward` and `decode`
    are not clamped to [0, 1], because losses need the gradient; those of `predict_step`, `stylezoo.stylize` and
    `stylezoo.inference.Stylizer` are.

    What a style is depends on the system's kind: an image (B, 3, H, W) for ``arbitrary`` and ``optimization``; for
    ``multi`` the number or name of one of `styles`, a tensor (B,) of numbers, or a weight vector over them; nothing
    (None) for ``single``.

    Two networks have two names: ``encoder`` computes the features that a system transfers, ``loss_encoder`` the features
    that its losses compare. They are one network where the paper has one.
    """

    system: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    kind: ClassVar[Kind]
    reference: ClassVar[str | None]
    """The reference implementation, ``owner/repository@commit``."""

    encoder: VGG
    loss_encoder: VGG
    perceptual: PerceptualLoss
    loss_weights: dict[str, float]
    lr: float
    lr_decay: float

    supports_tiles: bool = True
    """Whether `decode` accepts ``tile``. What `transfer` computes is streamed in tiles (`stylezoo.streaming`) without its help;
    systems of kind ``optimization`` get ``tile`` and do it themselves."""

    alpha_is_fixed: bool = False
    """Whether the network has one strength only, that of its training."""

    loss_encoder_options: ClassVar[dict[str, Any]] = {}
    """Keyword arguments of `stylezoo.vgg.VGG` for the network of the losses, such as ``last`` and ``pooling``."""

    local_settings: ClassVar[frozenset[str]] = frozenset({"encoder_weights", "loss_encoder_weights"})
    """Settings that name files of this machine; published files leave them out, and inference does without them."""

    tag: str | None = None
    """What `stylezoo.load_model` loaded the model from: a tag such as ``adain.slim``, or a file."""

    on_iteration: Callable[[Iteration], None] | None = None
    """Called after every iteration by systems of kind ``optimization``, to show progress."""

    objective: Objective | None = None
    """What training minimizes in place of `losses`, see `stylezoo.training.Training`."""

    optimizer_factory: Callable[[], Optimizer] | None = None
    """Builds the optimizer in place of the paper's Adam, see `stylezoo.training.Training`."""

    def __init__(self, **_: Any) -> None:  # Lightning's load_from_checkpoint of a base class asks for the ** form
        """Stores the arguments of a system's constructor, which calls this first.

        They become hyper-parameters; ``lr`` and ``lr_decay`` become attributes, and each ``X_weight`` the weight of the loss
        term X.

        Raises:
            StylezooError: If a setting with a ``Literal`` type is none of its choices, a number is out of the range of
                `RANGES`, or a layer is unknown.
        """
        super().__init__()
        frame = inspect.currentframe()
        assert frame is not None
        self.save_hyperparameters(frame=frame.f_back)
        check_settings(type(self), self.hparams)
        self.lr, self.lr_decay = self.hparams.get("lr", 0.0), self.hparams.get("lr_decay", 0.0)
        self.loss_weights = {k.removesuffix("_weight"): v for k, v in self.hparams.items() if k.endswith("_weight")}
        self._seed: int | None = None
        self._stylized: tuple[Tensor, Features] | None = None

    def __repr__(self) -> str:
        """One line: class, tag, encoder and number of trained parameters; ``print(model.transformer)`` shows modules."""
        facts = [repr(self.tag)] if self.tag is not None else []
        facts += [f"{name}={vgg.name}" for name, vgg in self.encoders()]
        outside = (*(vgg for _, vgg in self.encoders()), *self.additional_losses)
        frozen = {id(p) for module in outside for p in module.parameters()}
        count = sum(p.numel() for p in self.parameters() if id(p) not in frozen)
        return f"{type(self).__name__}({', '.join([*facts, f'parameters={count:,}'])})"

    @property
    def trainer(self) -> Trainer:
        """The trainer that the model is attached to.

        Raises:
            AttributeError: If there is none. Lightning's RuntimeError would stop `torch.jit.trace` and `inspect.getmembers`.
        """
        if self._trainer is None and self._fabric is None:
            raise AttributeError(f"{type(self).__name__} is not attached to a Trainer.")
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    # Styles

    @property
    def styles(self) -> list[str]:
        """The names of the styles that a ``multi`` or ``single`` system was trained on."""
        return []

    def check_styles(self, styles: Sequence[Any]) -> list[Any]:
        """Checks that these are styles for the system and returns what `encode_style` takes, one entry per style.

        Args:
            styles: Image tensors, or numbers and names of trained styles.

        Raises:
            StylezooError: If they are not; the message says what the system takes.
        """
        if not styles or not all(isinstance(style, Tensor) for style in styles):
            raise StylezooError(f"{self.system} takes any image as style: give at least one (style, --style).")
        return list(styles)

    def read_style(self, style: Any, read: Callable[[Any], Tensor]) -> Any:
        """Turns what a user gives as style into what `encode_style` takes.

        Args:
            style: A file, an image, or the number or name of a trained style.
            read: Reads an image as (3, H, W).
        """
        return read(style)

    def expand_styles(self, words: list[str], expand: Callable[[str], list[str]]) -> list[str]:
        """Returns the styles that a command line names.

        Args:
            words: Files, folders and globs, or numbers and names of trained styles.
            expand: Returns the image files that a file, folder or glob stands for.
        """
        return [path for word in words for path in expand(word)]

    def example_styles(self, image: Tensor) -> list[Any]:
        """Returns a style for every style that can be shown: the image itself, or the trained ones by name."""
        return [image]

    def encode_style(self, style: Any, *, tile: int | None = None) -> StyleCode:
        """Encodes a style for `decode`.

        Sides of an image that are shorter than 16 pixels are continued to that by mirroring.

        Args:
            style: See the class.
            tile: See `decode`.

        Raises:
            StylezooError: If the style is none that the system takes.
        """
        images = mirrored(self.check_images(style, "style"), SMALLEST_SIDE)
        if not self._streams(images, tile):
            return self.encode(images, tile)
        return streamed(lambda source: self.encode(source, None), images, tile)  # type: ignore[arg-type]

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Encodes images, (B, 3, H, W) with H and W from 16 up. Systems with other styles override `encode_style` instead."""
        raise NotImplementedError

    # Inference

    def decode(
        self,
        content: Tensor,
        code: StyleCode | list[StyleCode],
        alpha: float = 1.0,
        weights: list[float] | None = None,
        *,
        tile: int | None = None,
        tile_statistics: TileStatistics = "exact",
        **controls: Any,
    ) -> Tensor:
        """Stylizes the content with a style code, or with a blend of several.

        What is blended, and what alpha fades to, is documented at each system's `transfer`.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            code: What `encode_style` returned, or a list of such codes to blend.
            alpha: Strength of the style, 0 to 1.
            weights: One per code, normalized to sum 1; None weighs the codes equally.
            tile: Side in pixels of the tiles in which the model works, for images that would not fit into memory; the result
                is the same, but has no gradient. None works on whole images.
            tile_statistics: ``exact``, or ``thumbnail``: the statistics over positions (of normalizations, of AdaIN) are
                those of a small copy of the content. The model then runs once over all tiles, and not once for each
                statistic, but the result is another one (docs/huge_images.md).
            **controls: Further arguments of the system's `transfer`, such as ``level_alphas`` of multi_level_adain.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            StylezooError: If contents and codes do not fit each other, there are not as many weights as codes, or the
                system has no such control.
        """
        self.check_controls(alpha, tile)
        codes = code if isinstance(code, list) else [code]
        shares = blending_shares(weights, len(codes))
        content, codes = self.check_inputs(content, codes)
        blend = Blend(codes, shares)

        def run(images: Tensor, tile: int | None) -> Tensor:
            return self.decode_blend(images, blend, alpha, tile, **controls)

        return self._run(run, content, tile, tile_statistics) if len(content) else content

    def decode_blend(
        self, content: Tensor, style: Blend, alpha: float = 1.0, tile: int | None = None, **controls: Any
    ) -> Tensor:
        """Pads a content, transfers a style to it and crops the output: `decode` without its checks, as exporters need it.

        Args:
            content: (B, 3, H, W), RGB in [0, 1], in the dtype of the weights.
            style: The codes and their shares.
            alpha: Strength of the style, 0 to 1.
            tile: Of systems of kind ``optimization``, see `decode`.
            **controls: Further arguments of the system's `transfer`.

        Returns:
            (B, 3, H, W), not clamped.
        """
        output = self.transfer(self.pad(mirrored(content, SMALLEST_SIDE)), style, alpha, tile, **controls)
        return self.postprocess(output[..., : content.shape[-2], : content.shape[-1]])

    def decode_regions(
        self,
        content: Tensor,
        codes: list[StyleCode],
        masks: Tensor,
        alpha: float = 1.0,
        *,
        tile: int | None = None,
        tile_statistics: TileStatistics = "exact",
    ) -> Tensor:
        """Stylizes each region of the content with a style of its own, see `transfer_regions`.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            codes: One per region.
            masks: (K, H, W) or (B, K, H, W) of any size, one map per code; each position takes the code whose map is
                largest there (nearest).
            alpha: Strength, 0 to 1.
            tile: See `decode`.
            tile_statistics: See `decode`.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            StylezooError: If masks and codes do not fit.
        """
        self.check_controls(alpha, tile)
        content, codes = self.check_inputs(content, codes)

        def run(images: Tensor, tile: int | None) -> Tensor:
            return self.transfer_regions(images, codes, masks, alpha, tile)

        return self._run(run, content, tile, tile_statistics)

    def transfer_regions(
        self, content: Tensor, codes: list[StyleCode], masks: Tensor, alpha: float, tile: int | None
    ) -> Tensor:
        """Stylizes the regions of a content; the arguments are those of `decode_regions`.

        A system that cannot mix styles inside the network, as here, stylizes the content once per style and puts the
        regions together.
        """
        region = largest_map(masks, len(codes), content)
        output = self.decode(content, codes[0], alpha, tile=tile)
        for index in range(1, len(codes)):
            if bool((region == index).any()):
                output = torch.where(region == index, self.decode(content, codes[index], alpha, tile=tile), output)
        return output

    def _streams(self, images: Tensor, tile: int | None) -> bool:
        """Whether images are to be streamed; those that are streamed already go through the model's code."""
        streams = self.kind != "optimization" and not isinstance(images, StreamedMap)
        return streams and tile is not None and max(images.shape[-2:]) > tile

    def _run(
        self,
        run: Callable[[Tensor, int | None], Tensor],
        content: Tensor,
        tile: int | None,
        statistics: TileStatistics,
    ) -> Tensor:
        """Runs a function of contents and tile, in tiles if it is asked for."""
        if not self._streams(content, tile):
            return run(content, tile if self.kind == "optimization" else None)
        content = mirrored(content, SMALLEST_SIDE)
        return streamed(lambda source: run(source, None), content, tile, statistics)  # type: ignore[arg-type]

    def some_weight(self) -> Tensor:
        """Returns a tensor with the device and dtype of the weights, for `torch.Tensor.to`; a system may have no parameters."""
        weights = (tensor for tensor in chain(self.parameters(), self.buffers()) if tensor.is_floating_point())
        found = next(weights, None)
        return torch.empty(0, dtype=self.dtype, device=self.device) if found is None else found  # type: ignore[arg-type]

    def check_images(self, images: Any, role: str) -> Tensor:
        """Returns a batch of images in the dtype of the weights.

        Args:
            images: What a caller gave.
            role: What it is for, ``content`` or ``style``.

        Raises:
            StylezooError: If it is no tensor (B, 3, H, W) of floating-point numbers.
        """
        if not isinstance(images, Tensor):
            found = type(images).__name__
        elif images.ndim == 4 and images.shape[1] == 3 and 0 not in images.shape[2:] and images.is_floating_point():
            return images.to(next((p.dtype for p in self.parameters() if p.is_floating_point()), images.dtype))
        else:
            found = f"one of shape {tuple(images.shape)} and {images.dtype}"
        raise StylezooError(
            f"{self.system} takes a batch of images as {role}, a tensor (B, 3, H, W) of floating-point numbers, RGB in"
            f" [0, 1], not {found}: read files with stylezoo.stylize, which also converts other images."
        )

    def check_inputs(self, content: Tensor, codes: list[StyleCode]) -> tuple[Tensor, list[StyleCode]]:
        """Returns contents and codes in the dtype of the weights; one content is repeated for the styles of a batch.

        Raises:
            StylezooError: If these are no contents, or there are neither one style nor as many as contents.
        """
        content = self.check_images(content, "content")
        codes = [{name: tensor.to(content.dtype) for name, tensor in code.items()} for code in codes]
        batches = {len(tensor) for code in codes for tensor in code.values()} - {1}
        if len(content) == 1 and len(batches) == 1:
            content = content.expand(*batches, -1, -1, -1)
        if batches - {len(content)}:
            raise StylezooError(
                f"There are {len(content)} contents for {min(batches)} styles: give one style, or one for each content."
            )
        return content, codes

    def check_controls(self, alpha: float, tile: int | None) -> None:
        """Raises a StylezooError if a control has no meaning, or the system does not have it."""
        if not np.isfinite(alpha):
            raise StylezooError(f"alpha is the strength of the style between 0 and 1, not {alpha}.")
        if tile is not None and tile < 1:
            raise StylezooError(f"tile is the side of a tile in pixels, for example 512, not {tile}.")
        if alpha != 1 and self.alpha_is_fixed:
            raise StylezooError(
                f"{self.system} stylizes with the strength that it was trained for: leave alpha at 1, got {alpha}."
            )
        if tile is not None and not self.supports_tiles:
            raise StylezooError(f"{self.system} cannot work in tiles: leave tile out or make the image smaller (size).")

    def pad(self, image: Tensor) -> Tensor:
        """Extends an image to the right and bottom where the network needs it; `decode` crops the output again."""
        return image

    def postprocess(self, output: Tensor) -> Tensor:
        """Changes the cropped output of `decode`, where a system has something to change."""
        return output

    @abstractmethod
    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Stylizes a padded content, (B, 3, H, W) -> (B, 3, H, W) or larger to the right and bottom."""

    def forward(self, content: Tensor, style: Any = None, alpha: float = 1.0) -> Tensor:
        """Stylizes the content, (B, 3, H, W) in [0, 1] -> (B, 3, H, W), not clamped: losses need the gradient.

        Args:
            content: (B, 3, H, W).
            style: For arbitrary systems (B or 1, 3, H', W'); see the class for the others.
            alpha: Strength, 0 to 1.

        Raises:
            StylezooError: If content and style are not such tensors, or do not fit each other.
        """
        return self.decode(content, self.encode_style(style), alpha)

    # Losses

    def losses(self, content: Tensor, style: Any = None, **known: Any) -> dict[str, Tensor]:
        """Returns weighted loss terms by name; their sum is what training minimizes.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: See the class.
            **known: Further arguments of the system's `loss_terms`.

        Raises:
            MissingFileError: If the network of the losses is not on this machine.
            StylezooError: If the content, or a style image, is no tensor (B, 3, H, W).
        """
        self.prepare_losses()
        content = self.check_images(content, "content")
        if isinstance(style, Tensor) and style.ndim > 2:
            style = self.check_images(style, "style")
        for loss in self.additional_losses:
            content, style = loss.batch(content, style)
        terms = self.loss_terms(content, style, **known)
        weighted = {name: self.loss_weights[name] * term for name, term in terms.items()}
        return weighted | self._additional_terms(content, style) if self.additional_losses else weighted

    @abstractmethod
    def loss_terms(self, content: Tensor, style: Any) -> dict[str, Tensor]:
        """Returns the loss terms by name, without their weights.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: For arbitrary systems (B, 3, H', W'), RGB in [0, 1]; see the class for the others.
        """

    def output_features(self, output: Tensor, layers: Iterable[str] = ()) -> Features:
        """Computes the features of an output that the losses compare: those of the system and the additional ones.

        Args:
            output: (B, 3, H, W), RGB, not clamped; padded as the loss encoder needs it.
            layers: Those that the system compares besides those of ``perceptual``.
        """
        features = self._compared(output, [*self.perceptual.layers, *layers])
        if self.additional_losses:
            self._stylized = (output, features)
        return features

    def _compared(self, image: Tensor, layers: Iterable[str] = ()) -> Features:
        additional = (layer for loss in self.additional_losses for layer in loss.layers)
        return self.feature_pair(image, [], list(dict.fromkeys([*layers, *additional]))).loss_encoder

    def _additional_terms(self, content: Tensor, style: Any) -> dict[str, Tensor]:
        if self._stylized is None:  # a system of another package that does not call output_features
            self.output_features(self(content, style))
        assert self._stylized is not None
        (output, features), self._stylized = self._stylized, None
        stylization = Stylization(content, style, output, features, self._compared)
        return {name: term for loss in self.additional_losses for name, term in loss(stylization).items()}

    def attach_losses(self, losses: Sequence[AdditionalLoss]) -> None:
        """Adds losses to those of the system, in place of other additional ones.

        Args:
            losses: Their terms must have names that the system's terms do not have.

        Raises:
            StylezooError: If one compares style images, and the system has none.
        """
        for loss in losses:
            if loss.style_images and self.kind != "arbitrary":
                raise StylezooError(
                    f"{type(loss).__name__} compares outputs with style images, but {self.system} is not trained with any: leave"
                    " it out (training.losses), or train a system for any style (python -m stylezoo list)."
                )
        self._modules.pop("additional", None)
        if not losses:
            return
        added = self._modules["additional"] = nn.ModuleList(losses)
        self.build_loss_encoder()
        channels = {**self.encoder.channels} if "encoder" in self._modules else {}
        for loss in losses:
            loss.build({**channels, **self.loss_encoder.channels})
        added.to(self.some_weight()).train(self.training)

    @property
    def additional_losses(self) -> Sequence[AdditionalLoss]:
        """The losses besides those of the system, see `attach_losses`."""
        return self._modules.get("additional", ())  # type: ignore[return-value]

    def prepare_losses(self) -> None:
        """Builds what the losses need and inference does without, once; training does so before its first step."""
        self.build_loss_encoder()

    def build_loss_encoder(self) -> None:
        """Builds the network of the losses unless it is there."""
        if "loss_encoder" not in self._modules and "loss_encoder" not in vars(self):
            self.attach_loss_encoder()

    def attach_loss_encoder(self, name: str | None = None, weights: str | None = None) -> None:
        """Builds the network of the losses.

        It is the encoder where a system has one with all layers of the losses, else the ``loss_encoder`` of the settings,
        or another one that is named here, with the options of `loss_encoder_options`.

        Args:
            name: An encoder's name, see `stylezoo.vgg.VGG`; None takes the system's own.
            weights: A file for it; None takes the encoder's own.
        """
        own = self._modules.get("encoder")
        assert own is None or isinstance(own, VGG)
        needed = {*self.perceptual.layers, *(layer for loss in self.additional_losses for layer in loss.layers)}
        if own is not None and name is None and weights is None and own.channels.keys() >= needed:
            vars(self)["loss_encoder"] = own  # not registered twice
            return
        option = "loss_encoder_weights" if own is None else "training.loss_encoder_weights"
        if name is None and weights is None:
            option = "loss_encoder_weights" if own is None else "encoder_weights"
            weights = self.hparams[option]
        sizes = {} if own is None else {"ceil_mode": own.ceil_mode}  # so that output and content features fit
        # Lightning's first validation may ask for it, and training needs its gradients; no random numbers are used up.
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            try:
                network = VGG(
                    name or self.hparams["loss_encoder" if own is None else "encoder"],
                    weights,
                    option=option,
                    **{**sizes, **self.loss_encoder_options},
                )
            except MissingFileError as error:
                if not needed <= {*SLIM_LAYERS}:
                    raise
                raise MissingFileError(
                    f"{error}; the losses of {self.system} can be computed without a download, too"
                    f" ({option.removesuffix('_weights').rpartition('.')[2]}='vgg19_slim')."
                ) from error
        vars(self).pop("loss_encoder", None)
        self.loss_encoder = network.to(self.some_weight())

    def feature_pair(self, image: Tensor, layers: Iterable[str], loss_layers: Iterable[str]) -> FeaturePair:
        """Computes the features of an image that the system transfers and those that its losses compare.

        One pass where both networks are one. Where the file of the loss encoder ends before the deepest of
        ``loss_layers``, the encoder computes the layers beyond.

        Args:
            image: (B, 3, H, W), padded as the encoder needs it.
            layers: Of the encoder.
            loss_layers: Of the loss encoder.
        """
        if "encoder" not in self._modules:
            features = self.loss_encoder(image, loss_layers)
            return FeaturePair(features, features)
        if self.loss_encoder is self.encoder:
            features = self.encoder(image, {*layers, *loss_layers})
            return FeaturePair(features, features)
        beyond = [layer for layer in loss_layers if layer not in self.loss_encoder.channels]
        features = self.encoder(image, {*layers, *beyond})
        compared = self.loss_encoder(image, [layer for layer in loss_layers if layer not in beyond])
        return FeaturePair(features, {**compared, **{layer: features[layer] for layer in beyond}})

    @torch.no_grad()
    def feature_pairs(self, *requests: tuple[Tensor, Iterable[str], Iterable[str]]) -> list[FeaturePair]:
        """Computes `feature_pair` of several images, such as a content and a style, without gradients.

        On a GPU all of them are one batch if their sizes agree. A CPU gains nothing by that, and a batch of another size may
        round differently: there the numbers are those of `feature_pair`.

        Args:
            *requests: The arguments of `feature_pair` for each image.

        Returns:
            The features of each image, at the layers that were asked for.
        """
        images = [image for image, _, _ in requests]
        if not self.encodes_together(images):
            return [self.feature_pair(*request) for request in requests]
        every, every_loss = ({name for request in requests for name in request[place]} for place in (1, 2))
        joined = self.feature_pair(torch.cat(images), every, every_loss)
        parts = []
        start = 0
        for image, layers, loss_layers in requests:
            rows = slice(start, start + len(image))
            start += len(image)
            one = {name: joined.encoder[name][rows] for name in joined.encoder if name in {*layers, *loss_layers}}
            other = {name: joined.loss_encoder[name][rows] for name in joined.loss_encoder if name in {*loss_layers}}
            parts.append(FeaturePair(one, one if joined.loss_encoder is joined.encoder else other))
        return parts

    def encodes_together(self, images: Sequence[Tensor]) -> bool:
        """Whether `feature_pairs` computes images as one batch: on a GPU, if their sizes agree."""
        return images[0].is_cuda and len({image.shape[1:] for image in images}) == 1

    # Training

    def setup(self, stage: str) -> None:
        """Builds the network of the losses before anything that needs it starts."""
        if stage != "predict" and self.kind != "optimization":
            self.build_loss_encoder()

    def on_fit_start(self) -> None:
        """Prepares the losses on the device and in the precision of the run."""
        self.prepare_losses()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds what a step draws (dropout) by (seed, batches trained so far, rank): a resumed run continues exactly."""
        self._seed = torch.initial_seed() if self._seed is None else self._seed
        key = np.random.SeedSequence((self._seed, self.trained_batches, self.global_rank))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    @property
    def trained_batches(self) -> int:
        """Number of batches that this run and those that it resumed have trained; 0 outside of a run."""
        if self._trainer is None:
            return 0
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Returns the stylized images of a batch, clamped to [0, 1]."""
        return self(**batch).clamp(0, 1)  # type: ignore[no-any-return]

    def _step(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        with deterministic_operations():
            terms = self.losses(**batch) if self.objective is None else self.objective(self, **batch)
        loss = torch.stack(list(terms.values())).sum()
        logged = {f"{stage}/{name}": term for name, term in {**terms, "loss": loss}.items()}
        size = len(batch["content"])
        self.log_dict(logged, batch_size=size, sync_dist=stage != "train")
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=size, sync_dist=stage != "train")
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with the system's `schedule`, step by step."""
        self.check_trainable()
        optimizer = self.optimizer() if self.optimizer_factory is None else self.optimizer_factory()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    def optimizer(self) -> Optimizer:
        """The paper's optimizer: Adam on everything that is trained."""
        groups = [{"params": [*loss.parameters()], **loss.optimizer_options} for loss in self.additional_losses]
        added = {id(p) for group in groups for p in group["params"]}
        own = [p for p in self.parameters() if p.requires_grad and id(p) not in added]
        return Adam([{"params": own}, *(group for group in groups if group["params"])] if added else own, lr=self.lr)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The learning rate lr / (1 + lr_decay * i) at optimizer step i = 0, 1, 2 ..."""
        return inverse_time_decay(optimizer, self.lr_decay)

    @classmethod
    def check_trainable(cls) -> None:
        """Raises a StylezooError that says what to do instead, if the system has nothing to train."""
        if cls.kind == "optimization":
            raise StylezooError(
                f"{cls.system} optimizes each image by itself and has nothing to train: stylize with it (python -m"
                f" stylezoo stylize --model {cls.system} --content ... --style ... --output ..., or predict --config"
                f" experiments/{cls.system}.yaml)."
            )

    # Files

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        **settings: Any,
    ) -> Self:
        """Loads a model, ready for inference (eval mode, float32, on the CPU), as ``transformers`` and ``diffusers`` do.

        Args:
            name_or_path: What `stylezoo.load_model` takes: a tag such as ``adain.slim``, a file, a folder of
                `save_pretrained`; or a repository of the Hugging Face Hub, ``OWNER/NAME`` (extra ``hub``), which is downloaded
                once. A folder of that path comes first.
            revision: Branch, tag or commit of the repository.
            local_files_only: Whether only what was downloaded before may be used.
            token: Access token of the Hub; None takes the one that ``hf auth login`` has stored.
            **settings: See `stylezoo.load_model`.

        Returns:
            A model of this class: called on `StyleModel`, of any system.

        Raises:
            MissingFileError: If there is no such model.
            StylezooError: If it cannot be read, or is of another class.
        """
        source, checkpoints = os.fspath(name_or_path), _checkpoints()
        repo_id = hub.repository(source)
        if repo_id is None and not os.path.lexists(source) and hub.looks_like_repository(source):
            repo_id = source
        if repo_id is not None:
            path: Any = hub.download(repo_id, revision=revision, local_files_only=local_files_only, token=token)
        else:
            path = source
        model = checkpoints.load_model(path, **settings)
        if repo_id is not None:
            model.tag = f"{hub.PREFIX}{repo_id}"
        if not isinstance(model, cls):
            raise StylezooError(
                f"{source} holds a model of {model.system}, not of {cls.system}: load it with"
                f" {type(model).__name__}.from_pretrained or StyleModel.from_pretrained."
            )
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], *, packed: bool = False, **about: Any) -> Path:
        """Writes a folder that `from_pretrained` and ``--model`` take: weights, settings, and a card.

        The files are model.safetensors, which holds everything that inference needs, config.json, which tells others what it
        is, and README.md, which stays as it is where it exists.

        Args:
            folder: Created if it does not exist.
            packed: Small files, see `stylezoo.save_model`.
            **about: Facts for the metadata and the card, such as ``license="mit"`` and ``data="my own photos"``.

        Returns:
            The folder.

        Raises:
            StylezooError: If a weight is not finite, or the folder is a file.
            OSError: If a file cannot be written.
        """
        saved: Path = _checkpoints().save_folder(self, folder, packed=packed, about=about)
        return saved

    def push_to_hub(
        self,
        repo_id: str,
        *,
        packed: bool = False,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
        **about: Any,
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face Hub (extra ``hub``); a new repository is created.

        A README.md that the repository has stays as it is.

        Args:
            repo_id: ``OWNER/NAME``.
            packed: See `save_pretrained`.
            private: Whether a new repository is private; None takes the default of its owner.
            revision: Branch to upload to.
            commit_message: Of the upload.
            token: See `from_pretrained`.
            **about: See `save_pretrained`.

        Returns:
            Address of the commit.

        Raises:
            StylezooError: If the Hub refuses or cannot be reached.
        """
        hub.checked(repo_id)
        with TemporaryDirectory() as folder:
            path = self.save_pretrained(folder, packed=packed, **about)
            return hub.upload(path, repo_id, private=private, revision=revision, message=commit_message, token=token)

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """Renames the tensors of one public file, for `stylezoo.import_checkpoint`.

        Args:
            tensors: As the file has them.

        Returns:
            The tensors named as in the state dict of the submodule that they belong to, and the constructor arguments
            that they need.
        """
        return tensors, {}

    def encoders(self) -> Iterator[tuple[str, VGG]]:
        """Yields the frozen encoders with their attribute names. Checkpoints name them with the sha256 of their weights."""
        for name, module in self.named_modules():
            if isinstance(module, VGG):
                yield name, module

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Returns what training changes: everything but the frozen encoders and the additional losses."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in self._kept_out():
            for key in [k for k in state if k.startswith(f"{prefix}{name}.")]:
                del state[key]
        return state  # type: ignore[no-any-return]

    def _kept_out(self) -> Iterator[str]:
        """Yields the names of the submodules that are no part of the state."""
        yield from (name for name, _ in self.encoders())
        if "additional" in self._modules:
            yield "additional"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Lets what is no part of the state keep its weights, also where the model is a submodule of another one."""
        for name in self._kept_out():
            for key, value in self.get_submodule(name).state_dict(prefix=f"{prefix}{name}.").items():
                state_dict.setdefault(key, value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        encoders = {name: {"name": vgg.name, "sha256": vgg.sha256} for name, vgg in self.encoders()}
        checkpoint["stylezoo"] = {"system": self.system, "encoders": encoders}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another system, or one that was trained on other encoder weights.

        Raises:
            StylezooError: If system or an encoder's weights differ; the message names both.
        """
        system = checkpoint.get("stylezoo", {}).get("system", self.system)
        if system != self.system:
            raise StylezooError(
                f"This is a checkpoint of {system}, but the model is {self.system}: resume a {system} with it, or begin a"
                f" {self.system} with those of its weights that fit (--start)."
            )
        legacy.upgrade_checkpoint(self.system, checkpoint)
        trained = checkpoint.get("stylezoo", {}).get("encoders", {})
        for name, encoder in self.encoders():
            if name in trained and trained[name]["sha256"] != encoder.sha256:
                raise StylezooError(
                    f"This checkpoint was trained on {trained[name]['name']} with sha256 {trained[name]['sha256'][:12]}...,"
                    f" but the encoder here is {encoder.name} with sha256 {encoder.sha256[:12]}...: give the file it was"
                    f" trained with ({name}_weights)."
                )


def _checkpoints() -> Any:
    """Returns `stylezoo.checkpoints`, which is built on this module, and is therefore imported when it is used."""
    return importlib.import_module("stylezoo.checkpoints")


def check_settings(model: type[StyleModel], settings: Mapping[str, Any]) -> None:
    """Raises a StylezooError that names a setting with a value of another type, or with one that is no choice."""
    for name, hint in get_type_hints(model.__init__).items():
        if name not in settings or name == "return":
            continue
        optional = [h for h in get_args(hint) if get_origin(h) is Literal]  # Literal["a", "b"] | None
        choices = hint if get_origin(hint) is Literal else optional[0] if optional else None
        if choices is not None and not (optional and settings[name] is None):
            check_choice(name, settings[name], choices)
        elif choices is None and not has_type(settings[name], hint):
            expected = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
            raise StylezooError(f"{name} of {model.system} must be {expected}, got {settings[name]!r}.")
        check_range(name, settings[name])


def check_range(name: str, value: Any) -> None:
    """Raises a StylezooError if a number of a setting is out of the range of settings of that name, or a layer unknown."""
    if name.endswith("_layers") and isinstance(value, Mapping):
        known = [conv.replace("conv", kind) for conv in conv_names(19) for kind in ("relu", "conv")]
        if not value:
            raise StylezooError(f"{name} names no layer: give at least one with its weight, such as relu4_1: 1.0.")
        for layer in value:
            if layer not in known:
                raise unknown_name(f"{name}: there is no VGG layer", layer, known, "the layers are")
    if isinstance(value, Mapping):
        value = list(value.values())
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            ending = "weight" if name.endswith(("_weight", "_layers")) else name
            check_number(name, number, *RANGES.get(ending, ("a finite number",)))


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as settings have them: numbers, strings, and lists and dicts of these.

    >>> has_type(1, float), has_type("1", float), has_type([1, 2.5], tuple[float, ...]), has_type(None, int | None)
    (True, False, True, True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (list, tuple, Sequence):
        kinds = [argument for argument in arguments if argument is not Ellipsis]
        return isinstance(value, (list, tuple)) and all(any(has_type(v, kind) for kind in kinds) for v in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            has_type(k, arguments[0]) and has_type(v, arguments[1]) for k, v in value.items()
        )
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, (str, os.PathLike))
    return not isinstance(hint, type) or isinstance(value, hint)


def inverse_time_decay(optimizer: Optimizer, decay: float) -> LambdaLR:
    """lr / (1 + decay * i), torch7's learningRateDecay, set before step i (naoto0804/pytorch-AdaIN@47950d0 train.py)."""
    return LambdaLR(optimizer, lambda i: 1 / (1 + decay * i))


def largest_map(masks: Tensor, count: int, like: Tensor) -> Tensor:
    """Returns for each position the number of the map that is largest there.

    Args:
        masks: (K, H, W) or (B, K, H, W), resized (nearest) to the size of ``like``.
        count: The number of maps that there must be.
        like: (B, C, h, w).

    Returns:
        (B, 1, h, w), integers.

    Raises:
        StylezooError: If the shape of the masks does not fit.
    """
    maps = masks if masks.ndim == 4 else masks.unsqueeze(0)
    if maps.ndim != 4 or maps.shape[1] != count or maps.shape[0] not in (1, like.shape[0]):
        raise StylezooError(
            f"{count} styles need masks of shape ({count}, H, W) or (B, {count}, H, W), not {tuple(maps.shape)}."
        )
    maps = maps.to(like)
    if isinstance(like, StreamedMap):
        maps = StreamedMap.of(maps, like.stream)
    maps = F.interpolate(maps, size=like.shape[-2:], mode="nearest")
    return maps.argmax(1, keepdim=True).expand(like.shape[0], 1, -1, -1)
