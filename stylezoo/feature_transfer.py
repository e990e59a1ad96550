"""`FeatureTransferModel`, the base of the systems that change features of relu4_1 by a formula and decode them."""

from __future__ import annotations

from torch import Tensor, no_grad

from stylezoo.fitted import FittedModel, mirrored
from stylezoo.layers import MirroredDecoder
from stylezoo.least_squares import Goal
from stylezoo.vgg import Features


class FeatureTransferModel(FittedModel):
    """Base of systems whose decoder is all that is trained.

    A system implements `transfer`, sets ``encoder`` (up to relu4_1), ``decoder``, ``perceptual`` and ``loss_weights`` (of
    ``content`` and ``style``), and has the settings of `stylezoo.fitted.FittedModel`.
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
