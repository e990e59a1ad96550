"""Blocks that two or more systems use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.losses import at_least_float32, mean_std, normalise


def adain(content: Tensor, style_mean: Tensor, style_std: Tensor) -> Tensor:
    """Adaptive instance normalisation (Huang & Belongie 2017, equation 8).

    Args:
        content: Features (B, C, H, W).
        style_mean: Mean that the result gets, (B or 1, C, 1, 1).
        style_std: Standard deviation that the result gets, (B or 1, C, 1, 1).

    Returns:
        (B, C, H, W).
    """
    mean, std = mean_std(content)
    return (content - mean) / std * style_std + style_mean


def mirrored_decoder(channels: dict[str, int]) -> nn.Sequential:
    """The decoder that mirrors VGG-19 up to relu4_1: reflecting 3x3 convolutions, nearest up-sampling, no norm.

    Shared by AdaIN, SANet, StyTr2 and EFDM (Huang & Belongie 2017, section 6.1). The indices are those of the public
    files (naoto0804/pytorch-AdaIN@47950d0 net.py: 1, 5, 8, 11, 14, 18, 21, 25, 28), so that these load as they are.
    3,505,219 parameters at VGG's widths. Maps (B, C, H/8, W/8) to RGB (B, 3, H, W), not clamped.

    Args:
        channels: The encoder's channels per layer, see `VGG.channels`.
    """
    c1, c2, c3, c4 = (channels[f"relu{block}_1"] for block in (1, 2, 3, 4))
    return nn.Sequential(
        *_conv(c4, c3),
        nn.Upsample(scale_factor=2, mode="nearest"),
        *_conv(c3, c3),
        *_conv(c3, c3),
        *_conv(c3, c3),
        *_conv(c3, c2),
        nn.Upsample(scale_factor=2, mode="nearest"),
        *_conv(c2, c2),
        *_conv(c2, c1),
        nn.Upsample(scale_factor=2, mode="nearest"),
        *_conv(c1, c1),
        *_conv(c1, 3)[:2],
    )


def _conv(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.ReflectionPad2d(1), nn.Conv2d(in_channels, out_channels, 3), nn.ReLU(inplace=True)


class StyleAttention(nn.Module):
    """Content positions attend to style positions (SANet, Park & Lee 2019, section 3.2; arXiv:1812.02342).

    1,050,624 parameters at 512 channels. Queries and keys are normalised features, values raw ones, the content is
    added to what it attends to.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f = nn.Conv2d(channels, channels, 1)
        self.g = nn.Conv2d(channels, channels, 1)
        self.h = nn.Conv2d(channels, channels, 1)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a style's features (B, C, h, w), each (B, h*w, C)."""
        key = self.g(normalise(style)).flatten(2).transpose(1, 2)
        value = self.h(style).flatten(2).transpose(1, 2)
        return key, value

    def forward(self, content: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Content features (B, C, H, W) plus the style features that each position attends to, same shape."""
        query = self.f(normalise(content)).flatten(2).transpose(1, 2)  # (B, H*W, C)
        # Logits are not divided by sqrt(C) and reach thousands, which 16-bit types cannot resolve.
        with torch.autocast(content.device.type, enabled=False):
            query, key, value = (at_least_float32(x).unsqueeze(1) for x in (query, key, value))
            key, value = key.expand(query.shape[0], -1, -1, -1), value.expand(query.shape[0], -1, -1, -1)
            attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (B, 1, H*W, C)
        attended = attended.squeeze(1).transpose(1, 2).reshape(content.shape)
        result: Tensor = self.out_conv(attended) + content
        return result


def normalised_weights(weights: list[float] | None, count: int) -> list[float]:
    """Blending weights that sum to 1; equal ones for None.

    >>> normalised_weights([1, 3], 2), normalised_weights(None, 2)
    ([0.25, 0.75], [0.5, 0.5])

    Raises:
        ValueError: If there are not as many weights as styles, or they sum to 0.
    """
    weights = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(weights) != count:
        raise ValueError(f"There are {count} styles but {len(weights)} style weights: give one weight per style.")
    total = sum(weights)
    if abs(total) < 1e-12 or not torch.isfinite(torch.tensor(total)):
        raise ValueError(f"The style weights {weights} sum to {total}: give finite weights with a sum other than 0.")
    return [w / total for w in weights]
