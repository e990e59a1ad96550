"""Bases of several systems: `SingleStyleModel` and `FeatureTransferModel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, no_grad

from stylezoo.layers import MirroredDecoder, check_full_strength, measure_styles, read_style
from stylezoo.losses import Moments, total_variation
from stylezoo.module import Code, StyleModel
from stylezoo.training.initialization import FittedModel, mirrored
from stylezoo.training.least_squares import Goal
from stylezoo.vgg import Features


class SingleStyleModel(StyleModel):
    """Base of systems whose network paints the style of one image: the losses, and what a style is not.

    A system implements `paint`, sets ``perceptual`` and ``loss_weights`` (of ``content``, ``style`` and ``tv``) and has
    the settings ``style_image``, ``style_name`` and ``style_size``.
    """

    loss_weights: dict[str, float]
    local_settings = StyleModel.local_settings | {"style_image"}

    def __init__(self) -> None:
        super().__init__()
        self._measured: dict[str, Moments] = {}

    def name_style(self) -> None:
        """Calls a style without a name what its image is called; after `save_hyperparameters`."""
        if self.hparams["style_name"] is None and self.hparams["style_image"] is not None:
            self.hparams["style_name"] = Path(self.hparams["style_image"]).stem

    @property
    def styles(self) -> list[str]:
        """The name of the style; public files know none."""
        return [self.hparams["style_name"] or "unnamed"]

    def paint(self, content: Tensor) -> Tensor:
        """What the network makes of (B, 3, H, W): RGB, not clamped, of that size or larger to the right and bottom."""
        raise NotImplementedError(f"{type(self).__name__} does not define paint.")

    def encode_style(self, style: Any = None) -> Code:
        """Nothing: the style is in the network.

        Raises:
            ValueError: If a style is given.
        """
        if style is not None:
            raise ValueError(
                f"{self.system} paints with the one style it was trained on ({self.styles[0]}): leave style out (in a"
                " recipe: style: null under data)."
            )
        return {}

    def decode(
        self, content: Tensor, code: Code | list[Code], alpha: float = 1.0, weights: list[float] | None = None
    ) -> Tensor:
        """Paints the content.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            code: What `encode_style` returned: empty.
            alpha: 1; the network knows one strength.
            weights: Without effect on a single style.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ValueError: If alpha is not 1.
        """
        check_full_strength(self.system, alpha)
        return self.paint(content)[..., : content.shape[-2], : content.shape[-1]]

    def losses(self, content: Tensor, style: Any = None) -> dict[str, Tensor]:
        """Weighted loss terms ``content``, ``style`` and, if it has a weight, ``tv`` (Johnson et al. 2016, section 3.2).

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: Nothing: the style is that of ``style_image``.

        Raises:
            ValueError: If a style is given, or there is no ``style_image``.
            FileNotFoundError: If it is not there.
        """
        output = self(content, style)
        network, layers = self.loss_network, self.perceptual.layers
        with torch.no_grad():
            content_features = network(content, self.perceptual.content_layers)
        terms = self.perceptual(network(output, layers), content=content_features, style=self._targets(len(content)))
        if self.loss_weights["tv"]:
            terms["tv"] = total_variation(output)
        return {name: self.loss_weights[name] * term for name, term in terms.items()}

    def _targets(self, count: int) -> dict[str, Moments]:
        """The style's moments at every style layer, for a batch of images."""
        if not self._measured:
            path = self.hparams["style_image"]
            if path is None:
                raise ValueError(
                    f"{self.system} learns the style of one image: name it (style_image, --model.style_image PATH)."
                )
            picture = read_style(path, self.hparams["style_size"])
            self._measured = measure_styles(self.loss_network, [picture], self.perceptual.style_layers)
        same = torch.zeros(count, dtype=torch.long)
        return {name: moments.to(self.device)[same.to(self.device)] for name, moments in self._measured.items()}


class FeatureTransferModel(FittedModel):
    """Base of systems whose decoder is all that is trained.

    A system implements `transfer`, sets ``encoder`` (up to relu4_1), ``decoder``, ``perceptual`` and ``loss_weights`` (of
    ``content`` and ``style``), and has the settings of `stylezoo.training.initialization.FittedModel`.
    """

    decoder: MirroredDecoder
    loss_weights: dict[str, float]

    def transfer(self, content: Features, style: Features) -> Tensor:
        """What is decoded, (B, C, H/8, W/8), from the features of a content and a style at relu4_1."""
        raise NotImplementedError(f"{type(self).__name__} does not define transfer.")

    def losses(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms ``content`` and ``style``; the content's goal is what was decoded, not the content.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: (B, 3, H', W'), RGB in [0, 1].
        """
        layers = self.perceptual.layers
        with no_grad():
            own_content, content_features = self.see(self.encoder.pad(content, "relu4_1"), ["relu4_1"], ["relu4_1"])
            own_style, style_features = self.see(self.encoder.pad(style, "relu4_1"), ["relu4_1"], layers)
            painted = self.transfer(own_content, own_style)
            goal = painted if own_style is style_features else self.transfer(content_features, style_features)
        _, output_features = self.see(self.decoder(painted), [], layers)
        terms = self.perceptual(output_features, content={"relu4_1": goal}, style=style_features)
        return {name: self.loss_weights[name] * term for name, term in terms.items()}

    def _features(self, image: Tensor) -> Tensor:
        features: Tensor = self.encoder(self.encoder.pad(image, "relu4_1"), ["relu4_1"])["relu4_1"]
        return features

    def goals(self) -> list[Goal]:
        return mirrored(self.decoder)
