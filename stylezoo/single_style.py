"""`SingleStyleModel`, the base of the systems that learn one style per network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylezoo.layers import check_full_strength, measure_styles, read_style
from stylezoo.losses import Moments, total_variation
from stylezoo.module import Code, StyleModel


class SingleStyleModel(StyleModel):
    """Base of systems whose network paints the style of one picture: the losses, and what a style is not.

    A system implements `paint`, sets ``perceptual`` and ``loss_weights`` (of ``content``, ``style`` and ``tv``) and has
    the settings ``style_image``, ``style_name`` and ``style_size``.
    """

    loss_weights: dict[str, float]
    local_settings = StyleModel.local_settings | {"style_image"}

    def __init__(self) -> None:
        super().__init__()
        self._measured: dict[str, Moments] = {}

    def name_style(self) -> None:
        """Calls a style without a name what its picture is called; after `save_hyperparameters`."""
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
        """The style's moments at every style layer, for a batch of pictures."""
        if not self._measured:
            path = self.hparams["style_image"]
            if path is None:
                raise ValueError(
                    f"{self.system} learns the style of one picture: name it (style_image, --model.style_image PATH)."
                )
            picture = read_style(path, self.hparams["style_size"])
            self._measured = measure_styles(self.loss_network, [picture], self.perceptual.style_layers)
        same = torch.zeros(count, dtype=torch.long)
        return {name: moments.to(self.device)[same.to(self.device)] for name, moments in self._measured.items()}
