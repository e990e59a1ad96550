"""Blocks that two or more systems use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from stylezoo.images import read_image, to_tensor
from stylezoo.losses import Moments, at_least_float32, mean_std, normalise
from stylezoo.tiling import tiled
from stylezoo.vgg import VGG


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


class MirroredDecoder(nn.Sequential):
    """The decoder that mirrors VGG-19 up to relu4_1: reflecting 3x3 convolutions, nearest up-sampling, no norm.

    Shared by AdaIN, SANet, StyTr2 and EFDM (Huang & Belongie 2017, section 6.1). The indices are those of the public
    files (naoto0804/pytorch-AdaIN@47950d0 net.py: 1, 5, 8, 11, 14, 18, 21, 25, 28), so that these load as they are.
    3,505,219 parameters at VGG's widths. Maps (B, C, H/8, W/8) to RGB (B, 3, H, W), not clamped.

    Args:
        channels: The encoder's channels per layer, see `VGG.channels`.
    """

    def __init__(self, channels: dict[str, int]) -> None:
        c1, c2, c3, c4 = (channels[f"relu{block}_1"] for block in (1, 2, 3, 4))
        super().__init__(
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
        self.tile: int | None = None  # side of the tiles in pixels, see `stylezoo.tiling`

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H/8, W/8) -> (B, 3, H, W)."""
        if self.tile is None or 8 * max(x.shape[-2:]) <= self.tile:
            return self._decode(x)["image"]
        # A pixel looks less than four cells far: 1 + 4/2 + 2/4 + 2/8.
        return tiled(self._decode, x, -(-self.tile // 8), halo=4, stride=1, scales={"image": Fraction(8)})["image"]

    def _decode(self, x: Tensor) -> dict[str, Tensor]:
        for layer in self:
            x = layer(x)
        return {"image": x}


def _conv(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.ReflectionPad2d(1), nn.Conv2d(in_channels, out_channels, 3), nn.ReLU(inplace=True)


class StyleAttention(nn.Module):
    """Content positions attend to style positions (SANet, Park & Lee 2019, section 3.2; arXiv:1812.02342).

    1,050,624 parameters at 512 channels. Queries and keys are normalised features, values raw ones, the content is
    added to what it attends to.

    Args:
        channels: Of content, style and result.
        norm: Normalises content and style before queries and keys are made of them.
    """

    def __init__(self, channels: int, norm: Callable[[Tensor], Tensor] = normalise) -> None:
        super().__init__()
        self.norm = norm
        self.f = nn.Conv2d(channels, channels, 1)
        self.g = nn.Conv2d(channels, channels, 1)
        self.h = nn.Conv2d(channels, channels, 1)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a style's features (B, C, h, w), each (B, h*w, C)."""
        key = self.g(self.norm(style)).flatten(2).transpose(1, 2)
        value = self.h(style).flatten(2).transpose(1, 2)
        return key, value

    def forward(self, content: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Content features (B, C, H, W) plus the style features that each position attends to, same shape."""
        query = self.f(self.norm(content)).flatten(2).transpose(1, 2)  # (B, H*W, C)
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


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation with a trained scale and shift (Ulyanov et al. 2016, arXiv:1607.08022), biased variance.

    nn.InstanceNorm2d(affine=True) computes the same but gives up the channels_last layout.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, channels, eps)


def oihw(kernel: Tensor) -> Tensor:
    """A TensorFlow kernel (height, width, in, out) as a PyTorch one; of transposed convolutions (out, in) swap too."""
    return kernel.permute(3, 2, 0, 1).contiguous()


def read_style(path: str | Path, long_side: int | None = None) -> Tensor:
    """A picture that a system is to learn as its style, (1, 3, H, W), RGB in [0, 1].

    Args:
        path: The picture.
        long_side: Pixels that the longer side is resized to (antialiased); None keeps the size.

    Raises:
        FileNotFoundError: If it is not there.
        ImageError: If it cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There is no style picture {path}: training needs the picture whose style it is to learn, so put one"
            " there or name another in the recipe."
        )
    picture = to_tensor(read_image(path)).unsqueeze(0)
    if long_side is not None:
        scale = long_side / max(picture.shape[-2:])
        size = [max(1, round(n * scale)) for n in picture.shape[-2:]]
        picture = transforms.resize(picture, size, antialias=True).clamp(0, 1)
    return picture


def measure_styles(network: VGG, pictures: Iterable[Tensor], layers: Iterable[str]) -> dict[str, Moments]:
    """What the style losses need of fixed styles, layer by layer, measured once instead of at every step.

    Args:
        network: The loss network.
        pictures: One (1, 3, H, W) per style, of any sizes.
        layers: The layers of the style loss.

    Returns:
        {layer: moments of as many styles as there are pictures}.
    """
    layers, device = list(layers), next(network.parameters())
    measured = []
    # Lightning validates in inference mode, whose tensors training could not use afterwards.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.device.type, enabled=False):
        for picture in pictures:
            measured.append({name: Moments.of(f) for name, f in network(picture.to(device), layers).items()})
    return {name: Moments.cat(style[name] for style in measured) for name in layers}


def check_full_strength(system: str, alpha: float) -> None:
    """Raises a ValueError unless alpha is 1, for systems whose network paints with one strength only."""
    if alpha != 1:
        raise ValueError(
            f"{system} paints with the strength it was trained for: leave alpha at 1, it cannot be {alpha}."
        )
