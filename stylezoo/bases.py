"""Base classes that several systems share: one style per network, several styles per network, a transform of relu4_1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, no_grad

from stylezoo.errors import StylezooError
from stylezoo.layers import MirroredDecoder, measure_styles, read_style
from stylezoo.losses import Moments, total_variation
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.vgg import Features


class TrainedStyles(StyleModel):
    """Base of systems whose styles are in the network: a style is no image, and alpha is fixed."""

    alpha_is_fixed = True

    def __init__(self) -> None:
        super().__init__()
        self._measured: dict[str, Moments] = {}

    def read_style(self, style: Any, read: Callable[[Any], Tensor]) -> Any:
        return int(style) if isinstance(style, str) and style.isdecimal() else style

    def expand_styles(self, words: list[str], expand: Callable[[str], list[str]]) -> list[str]:
        return words

    def prepare_losses(self) -> None:
        """Builds the network of the losses and measures the trained styles with it, once."""
        super().prepare_losses()
        if not self._measured:
            images = self.style_images()
            self._measured = measure_styles(self.loss_encoder, images, self.perceptual.style_layers)

    @abstractmethod
    def style_images(self) -> list[Tensor]:
        """Reads the images whose styles are trained, each (1, 3, H, W) in [0, 1]."""

    def style_targets(self, numbers: Tensor) -> dict[str, Moments]:
        """Returns the moments of trained styles, given by number as (B,), at every style layer."""
        return {name: moments.to(self.device)[numbers.to(self.device)] for name, moments in self._measured.items()}


class SingleStyleModel(TrainedStyles):
    """Base of systems whose network stylizes with the style of one image.

    A system implements `generate` and has the settings ``style_image``, ``style_name`` and ``style_size``.
    """

    local_settings = StyleModel.local_settings | {"style_image"}
    style_image: str | None
    style_size: int | None

    def set_style(self, image: str | None, name: str | None, size: int | None) -> None:
        """Takes the settings of the style over; a style without a name is called what its image file is called."""
        self.style_image, self.style_size = image, size
        if name is None and image is not None:
            self.hparams["style_name"] = Path(image).stem

    @property
    def styles(self) -> list[str]:
        """The name of the style; public files have none."""
        return [self.hparams["style_name"] or "unnamed"]

    def check_styles(self, styles: Sequence[Any]) -> list[Any]:
        if any(style is not None for style in styles):
            raise StylezooError(
                f"{self.system} stylizes with the one style that it was trained on ({self.styles[0]}): leave style out"
                " (--style)."
            )
        return [None]

    def example_styles(self, image: Tensor) -> list[Any]:
        return [None]

    def encode_style(self, style: Any = None, *, tile: int | None = None) -> StyleCode:
        """Returns an empty code: the style is in the network.

        Raises:
            StylezooError: If a style is given.
        """
        self.check_styles([style])
        return {}

    @abstractmethod
    def generate(self, content: Tensor) -> Tensor:
        """Returns the network's output for (B, 3, H, W): RGB, not clamped, of that size or larger to the right and bottom."""

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        return self.generate(content)

    def loss_terms(self, content: Tensor, style: Any = None) -> dict[str, Tensor]:
        """Loss terms ``content``, ``style`` and, if it has a weight, ``tv`` (Johnson et al. 2016, section 3.2).

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: None: the style is that of ``style_image``.

        Raises:
            StylezooError: If a style is given, or there is no ``style_image``.
            MissingFileError: If that file does not exist.
        """
        output = self(content, style)
        with torch.no_grad():
            content_feats = self.loss_encoder(content, self.perceptual.content_layers)
        targets = self.style_targets(torch.zeros(len(content), dtype=torch.long))
        terms = self.perceptual(self.output_features(output), content=content_feats, style=targets)
        return {**terms, "tv": total_variation(output)} if self.loss_weights["tv"] else terms

    def style_images(self) -> list[Tensor]:
        if self.style_image is None:
            raise StylezooError(
                f"{self.system} learns the style of one image: name it (style_image, --model.style_image PATH)."
            )
        return [read_style(self.style_image, self.style_size)]


class FeatureTransferModel(StyleModel):
    """Base of systems that transform the features of relu4_1 by a formula and train the decoder alone.

    A system implements `match`, sets ``encoder`` (up to relu4_1) and ``decoder``, and has loss weights of ``content`` and
    ``style``.
    """

    decoder: MirroredDecoder

    @abstractmethod
    def match(self, content: Tensor, style: Tensor) -> Tensor:
        """Returns the features to decode, (B, C, H/8, W/8), from those of a content and a style at relu4_1."""

    def pad(self, image: Tensor) -> Tensor:
        return self.encoder.pad(image, "relu4_1")

    def features(self, image: Tensor) -> Tensor:
        """Returns the features of a padded image at relu4_1, (B, C, H/8, W/8)."""
        features: Tensor = self.encoder(image, ["relu4_1"])["relu4_1"]
        return features

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content`` and ``style``; the target of the content loss is what was decoded, not the content."""
        with no_grad():
            content_feats, style_feats = self.feature_pairs(
                (self.pad(content), ["relu4_1"], ["relu4_1"]),
                (self.pad(style), ["relu4_1"], self.perceptual.layers),
            )
            matched = self._matched(content_feats.encoder, style_feats.encoder)
            target = matched
            if self.loss_encoder is not self.encoder:
                target = self._matched(content_feats.loss_encoder, style_feats.loss_encoder)
        output_feats = self.output_features(self.decoder(matched))
        return self.perceptual(output_feats, content={"relu4_1": target}, style=style_feats.loss_encoder)

    def _matched(self, content: Features, style: Features) -> Tensor:
        return self.match(content["relu4_1"], style["relu4_1"])
