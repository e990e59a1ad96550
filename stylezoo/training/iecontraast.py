"""`IEContraAST` and `Adversarial`, the losses of internal-external and contrastive learning (Chen et al., NeurIPS 2021).

The paper trains SANet's networks with them (experiments/sanet_iecontraast.yaml); any system whose styles are images can be.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from stylezoo.errors import StylezooError, check_number
from stylezoo.layers import instance_norm
from stylezoo.losses import at_least_float32, of_all_processes, without_autocast
from stylezoo.module import AdditionalLoss, Stylization

WEIGHT = ("a finite number from 0 up", 0)


class IEContraAST(AdditionalLoss):
    """Contrastive losses of outputs that share a style or a content (HalbertCH/IEContraAST@50ee949 net.py).

    A batch of N contents and N styles is stylized twice: content i and content i + 1 (the first one after the last) with style i. Two
    outputs of one style should resemble each other in relu3_1, and two outputs of one content in relu4_1, more than outputs that share
    neither style nor content. Features are summed over positions, projected by two linear layers, which are trained with the
    model, and scaled to length 1.

    The terms are called ``style_contrastive`` and ``content_contrastive``: for each of the 2 N outputs, the cross entropy of its
    partner among the partner and the 2 N - 3 outputs that share neither with it, summed over outputs. The system's own terms are
    computed for all 2 N outputs, which takes twice the memory and time of a batch of N.

    Deviations: the reference writes out the cases of the first and last rows, which all come to the above from N = 2 on, and fails
    for N = 1. It trains in one process; here the outputs of all processes are compared with each other.

    Args:
        style_weight: Of the term ``style_contrastive``.
        content_weight: Of the term ``content_contrastive``.
        temperature: Divides the similarities.
        width: Number of channels of the projections.
        style_layer: Of the loss encoder, whose features tell styles apart.
        content_layer: Of the loss encoder, whose features tell contents apart.

    Raises:
        StylezooError: If a number is out of range.
    """

    style_images = True

    def __init__(
        self,
        style_weight: float = 0.3,
        content_weight: float = 0.3,
        temperature: float = 0.2,
        width: int = 128,
        style_layer: str = "relu3_1",
        content_layer: str = "relu4_1",
    ) -> None:
        super().__init__()
        self.style_weight = check_number("style_weight", style_weight, *WEIGHT)
        self.content_weight = check_number("content_weight", content_weight, *WEIGHT)
        self.temperature = check_number("temperature", temperature, "a finite number, at least 0.001", 1e-3)
        self.width = check_number("width", width, "a number of channels, at least 1", 1, whole=True)
        self.layers = (style_layer, content_layer)

    def build(self, channels: Mapping[str, int]) -> None:
        """Builds the projections C -> C / 2 -> ``width`` of both layers."""
        self.style_projection, self.content_projection = (
            nn.Sequential(
                nn.Linear(channels[layer], channels[layer] // 2),
                nn.ReLU(),
                nn.Linear(channels[layer] // 2, self.width),
            )
            for layer in self.layers
        )

    def batch(self, content: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs each style with two contents, and each content with two styles: (N, 3, H, W) -> (2 N, 3, H, W).

        Raises:
            StylezooError: In training, if there are fewer than two contents or not as many styles.
        """
        if self.training and (len(content) < 2 or len(style) != len(content)):
            raise StylezooError(
                "IEContraAST compares outputs of different contents and styles and needs at least two of each, as many styles as"
                f" contents, not {len(content)} and {len(style)}: raise data.batch_size."
            )
        return torch.cat([content, content.roll(-1, 0)]), torch.cat([style, style])

    def forward(self, stylization: Stylization) -> dict[str, Tensor]:
        count = len(stylization.output) // 2
        number = torch.arange(count, device=stylization.output.device)
        contents, styles = torch.cat([number, number.roll(-1)]), torch.cat([number, number])
        terms = {}
        for name, layer, projection, weight in (
            ("style", self.layers[0], self.style_projection, self.style_weight),
            ("content", self.layers[1], self.content_projection, self.content_weight),
        ):
            codes = projected(stylization.features[layer], projection)
            if self.training:
                codes = of_all_processes(codes)
            repeats = len(codes) // (2 * count)  # the processes, whose images all differ
            shift = torch.arange(repeats, device=number.device).repeat_interleave(2 * count) * count
            same, other = (styles, contents) if name == "style" else (contents, styles)
            loss = partner_loss(codes, same.repeat(repeats) + shift, other.repeat(repeats) + shift, self.temperature)
            terms[f"{name}_contrastive"] = weight * loss
        return terms


def projected(features: Tensor, projection: nn.Module) -> Tensor:
    """Sums features over positions and projects them, (B, C, H, W) -> (B, C'), each of length 1."""
    with without_autocast(features):  # sums over thousands of positions
        sums = at_least_float32(features).sum((2, 3)).to(next(projection.parameters()).dtype)
        return F.normalize(at_least_float32(projection(sums)))


def partner_loss(codes: Tensor, same: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each output's partner among it and the outputs that share nothing with it, summed over outputs.

    Args:
        codes: (B, C), each of length 1.
        same: Number of what partners share, (B,); each number occurs twice.
        other: Number of what they do not share, (B,).
        temperature: Divides the similarities.
    """
    with without_autocast(codes):
        similarities = codes @ codes.T / temperature
    shares_same, shares_other = same[:, None] == same, other[:, None] == other
    partner = shares_same & ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    compared = similarities.masked_fill(~(partner | ~(shares_same | shares_other)), -torch.inf)
    return (compared.logsumexp(1) - similarities[partner]).sum()


class Adversarial(AdditionalLoss):
    """A discriminator of images at several scales (external learning; HalbertCH/IEContraAST@50ee949 net.py, train.py).

    It tells style images (1) from outputs (0) patch by patch, with squared differences (LSGAN), while the model is trained so
    that its outputs count as style images.

    The terms are called ``discriminator``, which has weight 1 and trains nothing but the discriminator, and ``adversarial``, which
    trains nothing but the model. Each is a sum over scales of means over patches.

    Deviations: the reference steps the discriminator first, with an optimizer of its own, and the model's term is that of the new
    discriminator. Here one backward pass and one step train both. The discriminator has the betas of its own optimizer (0.5, 0.999)
    under the paper's Adam; an optimizer that a recipe chooses (``training.optimizer``) treats it as it does the model.

    Args:
        weight: Of the term ``adversarial``.
        scales: Number of discriminators, each of which gets half of the resolution of the one before it.
        width: Number of channels of their first convolution; the deepest of four has eight times as many.

    Raises:
        StylezooError: If a number is out of range.
    """

    style_images = True
    optimizer_options: ClassVar[dict[str, Any]] = {"betas": (0.5, 0.999)}

    def __init__(self, weight: float = 5.0, scales: int = 3, width: int = 64) -> None:
        super().__init__()
        self.weight = check_number("weight", weight, *WEIGHT)
        self.scales = check_number("scales", scales, "a number of discriminators, at least 1", 1, whole=True)
        self.width = check_number("width", width, "a number of channels, at least 1", 1, whole=True)

    def build(self, channels: Mapping[str, int]) -> None:
        """Builds the discriminator, which compares images and no features."""
        self.discriminator = MultiScaleDiscriminator(self.scales, self.width)

    def forward(self, stylization: Stylization) -> dict[str, Tensor]:
        height, width = stylization.content.shape[-2:]
        output = stylization.output[..., :height, :width]
        real, fake = self.discriminator(stylization.style), self.discriminator(output.detach())
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, frozen, (output,))
        return {
            "discriminator": squared_error(real, 1) + squared_error(fake, 0),
            "adversarial": self.weight * squared_error(judged, 1),
        }


def squared_error(maps: list[Tensor], target: float) -> Tensor:
    """Returns the mean squared difference of each map to a number, summed over maps."""
    return torch.stack([(at_least_float32(scores) - target).square().mean() for scores in maps]).sum()


class MultiScaleDiscriminator(nn.Module):
    """Patch discriminators of an image and its smaller copies. 8,283,459 parameters with the numbers of the reference.

    Args:
        scales: Number of copies, the image included.
        width: Number of channels of the first convolution.
    """

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(PatchDiscriminator(width) for _ in range(scales))
        self.smallest_side = 32 * 2 ** (scales - 1)  # instance norms need more than one position

    def forward(self, image: Tensor) -> list[Tensor]:
        """Scores of patches at each scale, (B, 3, H, W) -> (B, 1, H / 16, W / 16), (B, 1, H / 32, W / 32) ...

        Raises:
            StylezooError: If the image is too small for the coarsest scale.
        """
        if min(image.shape[-2:]) < self.smallest_side:
            raise StylezooError(
                f"A discriminator of {len(self.discriminators)} scales needs images of at least {self.smallest_side} pixels, not"
                f" {image.shape[-1]}x{image.shape[-2]}: raise data.crop, or give Adversarial fewer scales (training.losses)."
            )
        scores = []
        for discriminator in self.discriminators:
            scores.append(discriminator(image))
            image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
        return scores


class PatchDiscriminator(nn.Module):
    """Four convolutions that halve the resolution, with instance norms, and one that scores patches.

    Args:
        width: Number of channels of the first convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 8 * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.score = nn.Conv2d(8 * width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H / 16, W / 16)."""
        x = image
        for index, conv in enumerate(self.convs):
            x = conv(x)
            x = F.leaky_relu(instance_norm(x) if index else x, 0.2)
        scores: Tensor = self.score(x)
        return scores
