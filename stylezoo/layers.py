"""Blocks that two or more systems use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from stylezoo.controls import SMALLEST_SIDE
from stylezoo.errors import MissingFileError
from stylezoo.images import load_style
from stylezoo.losses import Moments, at_least_float32, mean_std, normalize, without_autocast
from stylezoo.streaming import StreamedMap, whole
from stylezoo.vgg import IMAGENET_MEAN, IMAGENET_STD, VGG

Norm = Literal["instance", "batch"]
Upsample = Literal["nearest", "transposed", "subpixel"]
Padding = Literal["reflect", "reflect_start", "replicate", "zeros", "same"]

RESIDUAL_BLOCKS = 5
REFLECTED_START = 40  # pixels: what five residual blocks without padding take away, at a quarter of the size


def adain(content: Tensor, style_mean: Tensor, style_std: Tensor) -> Tensor:
    """Adaptive instance normalization (Huang & Belongie 2017, equation 8).

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

    Shared by AdaIN, SANet, StyTr2, EFDM and linear transfer (Huang & Belongie 2017, section 6.1). The indices are those
    of the public files (naoto0804/pytorch-AdaIN@47950d0 net.py: 1, 5, 8, 11, 14, 18, 21, 25, 28), so that these load as
    they are. 3,505,219 parameters at VGG's widths. Maps (B, C, H/8, W/8) to RGB (B, 3, H, W), not clamped.

    Args:
        channels: The encoder's channels per layer, see `VGG.channels`.
        layer: What is decoded. From relu3_1, (B, C, H/4, W/4), it is only the rest of the way: 555,075 parameters. From
            relu3_2, which has the shape of relu3_1, it is one convolution more: 1,145,155 parameters.
    """

    def __init__(self, channels: dict[str, int], layer: Literal["relu3_1", "relu3_2", "relu4_1"] = "relu4_1") -> None:
        c1, c2, c3 = (channels[f"relu{block}_1"] for block in (1, 2, 3))
        deep: list[nn.Module] = []
        if layer == "relu4_1":
            deep = [*_conv(channels["relu4_1"], c3), nn.Upsample(scale_factor=2, mode="nearest")]
            deep += [*_conv(c3, c3), *_conv(c3, c3), *_conv(c3, c3)]
        elif layer == "relu3_2":
            deep = [*_conv(c3, c3)]
        super().__init__(
            *deep,
            *_conv(c3, c2),
            nn.Upsample(scale_factor=2, mode="nearest"),
            *_conv(c2, c2),
            *_conv(c2, c1),
            nn.Upsample(scale_factor=2, mode="nearest"),
            *_conv(c1, c1),
            *_conv(c1, 3)[:2],
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H/8, W/8), or H/4 and W/4 from relu3_1 -> (B, 3, H, W)."""
        x = x.to(next(self.parameters()).dtype)  # statistics are in float32 at least
        for layer in self:
            x = layer(x)
        return x


def _conv(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.ReflectionPad2d(1), nn.Conv2d(in_channels, out_channels, 3), nn.ReLU(inplace=True)


class StyleAttention(nn.Module):
    """Content positions attend to style positions (SANet, Park & Lee 2019, section 3.2; arXiv:1812.02342).

    1,050,624 parameters at 512 channels. Queries and keys are normalized features, values raw ones, the content is
    added to what it attends to.

    Args:
        channels: Of content, style and result.
        norm: Normalizes content and style before queries and keys are made of them.
    """

    def __init__(self, channels: int, norm: Callable[[Tensor], Tensor] = normalize) -> None:
        super().__init__()
        self.norm = norm
        self.f = nn.Conv2d(channels, channels, 1)
        self.g = nn.Conv2d(channels, channels, 1)
        self.h = nn.Conv2d(channels, channels, 1)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a style's features (B, C, h, w), each (B, h*w, C)."""
        key = self.g(self.norm(style).to(self.g.weight.dtype)).flatten(2).transpose(1, 2).contiguous()
        value = self.h(style).flatten(2).transpose(1, 2).contiguous()
        return key, value

    def forward(self, content: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Content features (B, C, H, W) plus the style features that each position attends to, same shape."""
        query = self.f(self.norm(content).to(self.f.weight.dtype)).flatten(2).transpose(1, 2)  # (B, H*W, C)
        attended = attend(query, key, value, scale=1.0).transpose(1, 2).reshape(content.shape)  # not divided by sqrt(C)
        result: Tensor = self.out_conv(attended.to(self.out_conv.weight.dtype)) + content
        return result


def widened(channels: int, wanted: int) -> nn.Module:
    """Returns what gives features the number of channels of others they are added to.

    In papers both have 512, and nothing is done. At relu5_1 the thin encoder has half the channels of its relu4_1: there a 1x1
    convolution adds channels, which are empty at first.

    Args:
        channels: Number of channels.
        wanted: Number of channels of the result.
    """
    if channels == wanted:
        return nn.Identity()
    conv = nn.Conv2d(channels, wanted, 1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, heads: int = 1, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention, softmax(scale * query key^T) value, in memory that is linear in the number of positions.

    `torch.nn.functional.scaled_dot_product_attention` has kernels that never hold the matrix of all logits, but takes them
    only where the last dimension is contiguous and, on the CPU, where queries and values have as many channels. Otherwise it
    falls back to the matrix without a word: 607 instead of 18 MiB for 8,192 positions. What it needs is done here.
    Logits are computed in float32 at least: those of SANet reach thousands, which 16-bit types cannot resolve.

    Args:
        query: (B, N, C), C a multiple of ``heads``.
        key: (B or 1, M, C).
        value: (B or 1, M, D), D a multiple of ``heads``.
        heads: Number of heads that the channels are shared among.
        scale: Factor of the logits; None takes 1 / sqrt(C / heads).
        dropout: Share of the attention weights that are dropped, in training. The kernels of the CPU have none: with it,
            all logits are held there.

    Returns:
        (B, N, D), float32 at least.
    """
    if isinstance(query, StreamedMap):  # keys and values are needed as a whole, queries tile by tile
        key, value = whole(key, value, keep=True)
        run = partial(attend, key=key, value=value, heads=heads, scale=scale, dropout=dropout)
        return query.local(run, costs=True)
    width, out = query.shape[2] // heads, value.shape[2] // heads
    scale = width**-0.5 if scale is None else scale
    with without_autocast(query):
        # Zeros change neither logits nor the other channels of the result.
        q, k = (_by_heads(x, heads, max(0, out - width)) for x in (query, key))
        v = _by_heads(value, heads, max(0, width - out))
        k, v = (x.expand(q.shape[0], -1, -1, -1) for x in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)  # (B, heads, N, D / heads)
    return attended[..., :out].transpose(1, 2).flatten(2)


def _by_heads(x: Tensor, heads: int, padding: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads + padding), the last dimension contiguous."""
    x = at_least_float32(x).reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)
    x = F.pad(x, (0, padding)) if padding else x
    return x if x.stride(-1) == 1 else x.contiguous()


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` of (B, N, C), which attends by `attend` and returns no weights."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__(channels, heads, dropout, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        """(B, N, C), (B or 1, M, C) and (B or 1, M, C) -> (B, N, C)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        attended = attend(q, k, v, heads=self.num_heads, dropout=self.dropout if self.training else 0.0)
        result: Tensor = self.out_proj(attended.to(self.out_proj.weight.dtype))
        return result


class PaddedConv(nn.Module):
    """A 3x3 convolution with reflecting borders, under the name that it has in the files of the multi-level systems."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


def upsample_nearest(x: Tensor) -> Tensor:
    """Nearest up-sampling, (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def imagenet_normalized(image: Tensor) -> Tensor:
    """RGB in [0, 1] minus ImageNet's mean, divided by its standard deviation."""
    mean, std = _imagenet(image)
    return (image - mean) / std


def imagenet_restored(pixels: Tensor) -> Tensor:
    """The inverse of `imagenet_normalized`: RGB in [0, 1]."""
    mean, std = _imagenet(pixels)
    return pixels * std + mean


def _imagenet(like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (like.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def is_traced() -> bool:
    """Whether the code runs in order to be recorded for all sizes of images: no branch may depend on a size then."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def resized(image: Tensor, side: int) -> Tensor:
    """Resizes the shorter side of images to a number of pixels, bilinearly and antialiased.

    Exporters have no operation for it: there, each axis is a matrix product with the weights of the triangle filter.

    Args:
        image: (B, 3, H, W).
        side: Number of pixels.

    Returns:
        (B, 3, side, floor(side * W / H)), or the other way round.
    """
    if not is_traced():
        same: Tensor = transforms.resize(image, [side], antialias=True)
        return same
    height, width = image.shape[-2:]
    shorter = (torch.sym_min if torch.compiler.is_compiling() else torch.minimum)(height, width)  # type: ignore[arg-type]
    rows, columns = (_triangles(length, side * length // shorter, image) for length in (height, width))  # type: ignore[arg-type]
    small: Tensor = rows @ image @ columns.T
    return small


def _triangles(length: int, count: int, like: Tensor) -> Tensor:
    """The weights of ``length`` pixels in each of ``count`` pixels, (count, length)."""
    scale = like.new_ones(()) * length / count
    centers = (torch.arange(count, device=like.device).to(like)[:, None] + 0.5) * scale
    distances = (torch.arange(length, device=like.device).to(like) + 0.5 - centers).abs()
    weights = (1 - distances / scale.clamp_min(1)).clamp_min(0)
    shares: Tensor = weights / weights.sum(1, keepdim=True)
    return shares


def varying(x: Tensor, eps: float, dims: tuple[int, ...] = (2, 3)) -> Tensor:
    """The same features (B, C, H, W), which get no gradient from a normalization where they are constant.

    A normalization divides the gradient by sqrt(variance + eps). Of an image of one color it has nothing but rounding to
    normalize, each norm multiplies the gradient by 316, and after fifteen of them it is beyond float32: one white image
    makes all weights NaN. In channels whose standard deviation is a rounding error of their mean, or less than a
    thousandth of sqrt(eps), the gradient is 0 instead; values, and the gradients of all other channels, stay as they are.

    Args:
        x: What is normalized.
        eps: That of the normalization.
        dims: Over which it measures the variance.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x
    variance, mean = torch.var_mean(at_least_float32(x.detach()), dims, correction=0, keepdim=True)
    return torch.where(variance <= 1e-6 * eps + (1e-5 * mean).square(), x.detach(), x)


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Instance normalization without parameters, (B, C, H, W) to the same, biased variance; see `varying`."""
    groups = int(x.shape[1])  # exporters need a number, and get something else while they trace
    return F.group_norm(varying(x, eps), groups, eps=eps)


class InstanceNorm(nn.GroupNorm):
    """Instance normalization with a trained scale and shift (Ulyanov et al. 2016, arXiv:1607.08022), biased variance.

    nn.InstanceNorm2d(affine=True) computes the same but gives up the channels_last layout. For gradients see `varying`.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(varying(x, self.eps))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization; for its gradients in training see `varying`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(varying(x, self.eps, (0, 2, 3)) if self.training else x)


class ConvLayer(nn.Module):
    """Padding, convolution (or up-sampling by 2 with one), normalization; see `stylezoo.models.johnson` for the choices.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Side of the convolution.
        stride: Of the convolution; a side n becomes ceil(n / stride).
        padding: What continues the input at its borders; ``same`` pads zeros where TensorFlow does.
        norm: What follows the convolution; None leaves it out.
        upsample: ``nearest`` and a convolution, a ``transposed`` convolution, or ``subpixel``: a convolution to four
            times the channels, which are shuffled into place (Zhang & Dana's upsampled convolution).
        eps: Added to variances.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        padding: Padding | Literal["none", "circular"],
        norm: Norm | None,
        upsample: Upsample | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.padding = padding
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if upsample == "transposed":
            # TensorFlow's "same" cuts the doubled map at its end, PyTorch's padding 1 at its start: one pixel apart.
            inside = 0 if padding == "same" else 1
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, 2, inside, output_padding=inside)
        else:
            around = 0 if padding == "none" or (padding == "same" and stride == 2) else kernel // 2
            mode = padding if padding in ("reflect", "replicate", "circular") else "zeros"
            channels = 4 * out_channels if upsample == "subpixel" else out_channels
            self.conv = nn.Conv2d(in_channels, channels, kernel, stride, around, padding_mode=mode)
        self.norm: nn.Module | None = None
        if norm is not None:
            self.norm = InstanceNorm(out_channels, eps) if norm == "instance" else BatchNorm(out_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.upsample == "nearest":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        elif self.padding == "same" and self.conv.stride == (2, 2) and self.upsample is None:
            x = F.pad(x, (width % 2, 1, height % 2, 1))  # TensorFlow pads the end, and the start too where needed
        x = self.conv(x)
        if self.upsample == "subpixel":
            x = F.pixel_shuffle(x, 2)
        elif self.upsample == "transposed":
            x = x[..., : 2 * height, : 2 * width]
        return x if self.norm is None else self.norm(x)


class JohnsonTransformer(nn.Module):
    """The residual network of Johnson et al. 2016 (arXiv:1603.08155), from pixels to pixels.

    Down-sampling by 4, five residual blocks, up-sampling by 4: 1,679,235 parameters, 424,899 at half width.

    Args:
        norm: ``instance`` or ``batch`` normalization.
        upsample: See `ConvLayer`.
        padding: See `ConvLayer`; ``reflect_start`` reflects 40 pixels at the input, does without padding in the residual
            blocks and pads zeros elsewhere.
        width: Multiplies the channels.
        norm_last: Whether the last convolution is normalized too.
        eps: Added to variances.
        last_kernel: Side of the last convolution; 3 in texture nets: 1,672,323 parameters.
    """

    def __init__(
        self,
        norm: Norm,
        upsample: Upsample,
        padding: Padding,
        width: float = 1.0,
        norm_last: bool = False,
        eps: float = 1e-5,
        last_kernel: int = 9,
    ) -> None:
        super().__init__()
        c1, c2, c3 = (int(width * channels) for channels in (32, 64, 128))
        start = padding == "reflect_start"
        outer: dict[str, Any] = {"padding": "zeros" if start else padding, "norm": norm, "eps": eps}
        inner: dict[str, Any] = {**outer, "padding": "none" if start else padding}
        self.start = REFLECTED_START if start else 0
        self.contract = nn.ModuleList(
            [ConvLayer(3, c1, 9, **outer), ConvLayer(c1, c2, 3, 2, **outer), ConvLayer(c2, c3, 3, 2, **outer)]
        )
        self.residual = nn.ModuleList(
            nn.ModuleList([ConvLayer(c3, c3, **inner), ConvLayer(c3, c3, **inner)]) for _ in range(RESIDUAL_BLOCKS)
        )
        self.expand = nn.ModuleList(
            [ConvLayer(c3, c2, **outer, upsample=upsample), ConvLayer(c2, c1, **outer, upsample=upsample)]
        )
        self.last = ConvLayer(c1, 3, last_kernel, **{**outer, "norm": norm if norm_last else None})

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, 4 ceil(H/4), 4 ceil(W/4))."""
        x = reflect(x, self.start)
        for layer in self.contract:
            x = F.relu(layer(x))
        for block in self.residual:
            assert isinstance(block, nn.ModuleList)
            residual = block[1](F.relu(block[0](x)))
            cut = (x.shape[-1] - residual.shape[-1]) // 2  # 2 where convolutions are not padded
            x = F.pad(x, (-cut, -cut, -cut, -cut)) + residual
        for layer in self.expand:
            x = F.relu(layer(x))
        output: Tensor = self.last(x)
        return output


def uniform_scales(network: nn.Module) -> None:
    """Draws the scales of normalizations from [0, 1), as torch7 starts them."""
    for module in network.modules():
        if isinstance(module, (InstanceNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight)


def reflect(x: Tensor, pixels: int) -> Tensor:
    """Extends all four sides by mirror images, of mirror images where the image is smaller than that."""
    while pixels > 0:
        step = min(pixels, min(x.shape[-2:]) - 1)
        x = F.pad(x, (step, step, step, step), mode="reflect")
        pixels -= step
    return x


def mirrored(image: Tensor, side: int) -> Tensor:
    """Continues sides of an image (..., H, W) that are shorter than ``side`` to that, by mirror images to the right and bottom.

    Other images are returned as they are. Border pixels are repeated, and an image of one pixel is mirrored, too.

    >>> mirrored(torch.tensor([[1, 2, 3]]), 5)[0].tolist()
    [1, 2, 3, 3, 2]
    """
    for dim in (-2, -1):
        count = image.shape[dim]
        if count < side:
            position = torch.arange(side, device=image.device) % (2 * count)
            image = image.index_select(dim, torch.minimum(position, 2 * count - 1 - position))
    return image


class ConditionalTransformer(nn.Module):
    """The network of magenta's image_stylization, whose instance norms are given their scales and shifts.

    Shared by CIN and magenta (magenta/magenta@526d3eb image_stylization/model.py and arbitrary_image_stylization/nza_model.py): three
    convolutions down to a quarter, residual blocks, nearest up-sampling and convolutions back, a sigmoid. No biases.

    Args:
        channels: Of the three convolutions down and the two up.
        blocks: Number of residual blocks.
        contract_norm: Builds the norms of the three convolutions down from their channels; None makes these conditional as well.
        padding: ``reflect`` or ``zeros``.
        separable: Whether all convolutions but those down are depthwise and pointwise ones.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        blocks: int,
        contract_norm: Callable[[int], nn.Module] | None = None,
        padding: Literal["reflect", "zeros"] = "reflect",
        separable: bool = False,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        self.contract = nn.ModuleList(
            [
                _transformer_conv(3, c1, 9, padding),
                _transformer_conv(c1, c2, 3, padding, 2),
                _transformer_conv(c2, c3, 3, padding, 2),
            ]
        )
        self.norms = nn.ModuleList([contract_norm(c) for c in (c1, c2, c3)] if contract_norm is not None else [])
        conv = _separable_conv if separable else _transformer_conv
        self.residual = nn.ModuleList([conv(c3, c3, 3, padding) for _ in range(2 * blocks)])
        self.expand = nn.ModuleList([conv(c3, c4, 3, padding), conv(c4, c5, 3, padding), conv(c5, 3, 9, padding)])
        self.channels = [*(() if self.norms else (c1, c2, c3)), *[c3] * (2 * blocks), c4, c5, 3]  # of conditional norms

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Stylizes with scales and shifts (B or 1, sum of ``channels``), concatenated over the layers in network order.

        (B, 3, H, W) -> (B, 3, 4 ceil(H/4), 4 ceil(W/4)) in [0, 1].
        """
        scales = iter(torch.split(scale[:, :, None, None], self.channels, dim=1))
        shifts = iter(torch.split(shift[:, :, None, None], self.channels, dim=1))

        def conditional(conv: nn.Module, x: Tensor) -> Tensor:
            x = conv(x)
            return torch.addcmul(next(shifts), instance_norm(x), next(scales))

        for index, conv in enumerate(self.contract):
            x = F.relu(self.norms[index](conv(x)) if self.norms else conditional(conv, x))
        convs = iter(self.residual)
        for first, second in zip(convs, convs, strict=True):
            x = x + conditional(second, F.relu(conditional(first, x)))
        *convs_up, last = self.expand
        for conv in convs_up:
            x = F.relu(conditional(conv, F.interpolate(x, scale_factor=2, mode="nearest")))
        return torch.sigmoid(conditional(last, x))


def _transformer_conv(
    in_channels: int, out_channels: int, kernel: int, padding: Literal["reflect", "zeros"], stride: int = 1
) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, padding_mode=padding, bias=False)
    nn.init.normal_(conv.weight, std=0.01)  # model.py
    return conv


def _separable_conv(
    in_channels: int, out_channels: int, kernel: int, padding: Literal["reflect", "zeros"]
) -> nn.Module:
    around, groups = kernel // 2, in_channels
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel, 1, around, groups=groups, bias=False, padding_mode=padding),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
    )


def oihw(kernel: Tensor) -> Tensor:
    """A TensorFlow kernel (height, width, in, out) as a PyTorch one; of transposed convolutions (out, in) swap too."""
    return kernel.permute(3, 2, 0, 1).contiguous()


def read_style(path: str | Path, long_side: int | None = None) -> Tensor:
    """Reads an image that a system learns as its style, (1, 3, H, W), RGB in [0, 1].

    Args:
        path: The image.
        long_side: Pixels that the longer side is resized to (antialiased); None keeps the size.

    Raises:
        MissingFileError: If it is not there.
        ImageError: If it cannot be read.
    """
    if not Path(path).is_file():
        raise MissingFileError(
            f"There is no style image {path}: training needs the image whose style it is to learn, so put one"
            " there or name another in the recipe."
        )
    image = load_style(path).unsqueeze(0)
    if long_side is not None:
        scale = long_side / max(image.shape[-2:])
        size = [max(1, round(n * scale)) for n in image.shape[-2:]]
        image = transforms.resize(image, size, antialias=True).clamp(0, 1)
    return image


def measure_styles(network: VGG, images: Iterable[Tensor], layers: Iterable[str]) -> dict[str, Moments]:
    """Measures fixed styles for the style losses, layer by layer, once instead of at every step.

    Args:
        network: The loss network.
        images: One (1, 3, H, W) per style, of any sizes.
        layers: The layers of the style loss.

    Returns:
        {layer: moments of as many styles as there are images}.
    """
    layers, device = list(layers), next(network.parameters())
    measured = []
    # Lightning validates in inference mode, whose tensors training could not use afterwards.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.device.type, enabled=False):
        for image in images:  # those of a few pixels would leave nothing at deep layers
            features = network(mirrored(image, SMALLEST_SIDE).to(device), layers)
            measured.append({name: Moments.of(f) for name, f in features.items()})
    return {name: Moments.cat(style[name] for style in measured) for name in layers}
