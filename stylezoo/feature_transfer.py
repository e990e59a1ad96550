"""`FeatureTransferModel`, the base of the systems that change features of relu4_1 by a formula and decode them."""

from __future__ import annotations

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn, no_grad

from stylezoo.layers import MirroredDecoder
from stylezoo.least_squares import WhitenedAdam, fit_decoder, some_pictures
from stylezoo.module import StyleModel, inverse_time_decay
from stylezoo.vgg import Features


class FeatureTransferModel(StyleModel):
    """Base of systems whose decoder is all that is trained: the losses, and the decoder's first weights.

    A system implements `transfer`, sets ``encoder`` (up to relu4_1), ``decoder``, ``perceptual`` and ``loss_weights`` (of
    ``content`` and ``style``), and has the settings ``first_pictures``, ``lr`` and ``lr_decay``. With ``first_pictures``
    the decoder starts as the least squares inverse of the encoder on that many training crops, and is trained by
    `WhitenedAdam`; neither is from a paper (`stylezoo.least_squares`).
    """

    decoder: MirroredDecoder
    loss_weights: dict[str, float]

    def __init__(self) -> None:
        super().__init__()
        self._whitenings: list[Tensor] = []

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

    def setup(self, stage: str) -> None:
        """Fits the decoder of a new run, if the settings ask for it.

        Raises:
            ValueError: If the run has no datamodule, or no network has the decoder's widths.
        """
        count = self.hparams["first_pictures"]
        if stage != "fit" or count == 0 or self.trainer.ckpt_path is not None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ValueError("first_pictures are pictures of a datamodule: train with one (Pairs).")
        images = self.trainer.strategy.broadcast(some_pictures(data, count))
        self._whitenings = fit_decoder(self.decoder, self.encoder, self.loss_network, images)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam; with ``first_pictures`` `WhitenedAdam`, whose whitenings a resumed run finds in its checkpoint."""
        if self.hparams["first_pictures"] == 0:
            return super().configure_optimizers()
        convs = [module for module in self.decoder if isinstance(module, nn.Conv2d)]
        optimizer = WhitenedAdam(convs, self._whitenings or [None] * len(convs), self.hparams["lr"])
        schedule = inverse_time_decay(optimizer, self.hparams["lr_decay"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
