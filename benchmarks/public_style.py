"""Networks written as public implementations usually are: the baseline of the speed measurements.

    baseline = public_style(stylezoo.load_model("adain.public"))
    output = baseline(content, style)

What public implementations have in common, and these networks have, too: float32 in NCHW order; a module for every step
(`nn.ReflectionPad2d`, `nn.Conv2d`, `nn.ReLU`, `nn.MaxPool2d` with ``ceil_mode``, `nn.Upsample`, `nn.InstanceNorm2d` with
``affine``) in an `nn.Sequential`; attention by `torch.bmm` and `torch.softmax` over all pairs of positions; statistics
of flattened copies; and the style encoded again for every image. Their weights are those of a model of this package, and
so are their outputs, up to rounding (tests/test_benchmarks.py). The structures are those of the implementations that
the models name as their ``reference``, the code is none of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylezoo import StyleModel
from stylezoo.errors import StylezooError, check_choice


def padded_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = False
) -> list[nn.Module]:
    """A reflection, a convolution and, where asked for, a ReLU, as separate modules."""
    padding = [nn.ReflectionPad2d(kernel // 2)] if kernel > 1 else []
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups)
    return [*padding, convolution, *([nn.ReLU()] if relu else [])]


def statistics(features: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per sample and channel, each (B, C, 1, 1), from two passes over a flattened view."""
    batch, channels = features.shape[:2]
    flat = features.reshape(batch, channels, -1)
    std = (flat.var(dim=2) + eps).sqrt()
    return flat.mean(dim=2).view(batch, channels, 1, 1), std.view(batch, channels, 1, 1)


def adaptive_instance_norm(content: Tensor, style: Tensor) -> Tensor:
    """The content's features with the style's mean and standard deviation, (B, C, H, W)."""
    content_mean, content_std = statistics(content)
    style_mean, style_std = statistics(style)
    normalized = (content - content_mean.expand_as(content)) / content_std.expand_as(content)
    return normalized * style_std.expand_as(content) + style_mean.expand_as(content)


def stage_widths(model: StyleModel) -> list[int]:
    """Channels of the model's encoder at relu1_1, relu2_1, ..., as far as it reaches."""
    return [channels for layer, channels in model.encoder.channels.items() if layer.endswith("_1")]


def vgg_stages(widths: Sequence[int]) -> nn.ModuleList:
    """The normalized VGG-19 in stages that end at relu1_1, relu2_1, ..., as many as there are widths."""
    stages: list[nn.Module] = []
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    for block, (width, convolutions) in enumerate(zip(widths, (2, 2, 4, 4, 4), strict=False)):
        before = widths[block - 1] if block else 3
        stages.append(nn.Sequential(*layers, *padded_conv(before, width, 3, relu=True)))
        layers = [m for _ in range(convolutions - 1) for m in padded_conv(width, width, 3, relu=True)]
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    return nn.ModuleList(stages)


def mirrored_decoder(widths: Sequence[int]) -> nn.Sequential:
    """The decoder from relu4_1 to pixels, of four widths."""
    c1, c2, c3, c4 = widths
    layers = padded_conv(c4, c3, 3, relu=True)
    for inner, outer, repeats in ((c3, c2, 3), (c2, c1, 1)):
        layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        layers += [m for _ in range(repeats) for m in padded_conv(inner, inner, 3, relu=True)]
        layers += padded_conv(inner, outer, 3, relu=True)
    layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers, *padded_conv(c1, c1, 3, relu=True), *padded_conv(c1, 3, 3))


class PublicAdaIN(nn.Module):
    """AdaIN: content and style through the encoder, statistics, decoder. (B, 3, H, W) twice -> (B, 3, 8h, 8w)."""

    def __init__(self, model: StyleModel) -> None:
        super().__init__()
        widths = stage_widths(model)
        self.encoder = vgg_stages(widths)
        self.decoder = mirrored_decoder(widths)

    def encode(self, image: Tensor) -> Tensor:
        for stage in self.encoder:
            image = stage(image)
        return image

    def forward(self, content: Tensor, style: Tensor, alpha: float = 1.0) -> Tensor:
        content_feats, style_feats = self.encode(content), self.encode(style)
        features = self.match(content_feats, style_feats)
        output: Tensor = self.decoder(features * alpha + content_feats * (1 - alpha))
        return output

    def match(self, content: Tensor, style: Tensor) -> Tensor:
        return adaptive_instance_norm(content, style)


class PublicEFDM(PublicAdaIN):
    """EFDM: AdaIN whose content takes the style's sorted values by rank, with two sorts and a permutation back."""

    def match(self, content: Tensor, style: Tensor) -> Tensor:
        shape = content.shape
        flat = content.reshape(*shape[:2], -1)
        _, order = torch.sort(flat, stable=True)  # ties in one order on every machine, as ours
        values, _ = torch.sort(style.reshape(*shape[:2], -1))
        rank = order.argsort(-1)
        return values.gather(-1, rank).view(shape)


class PublicAttention(nn.Module):
    """One level of style attention: a matrix of all content and style positions, twice as large while it is normalized."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        batch, channels, height, width = content.shape
        query = self.query(self.normalized(content)).view(batch, channels, -1).permute(0, 2, 1)
        key = self.key(self.normalized(style)).view(batch, channels, -1)
        value = self.value(style).view(batch, channels, -1)
        weights = self.softmax(torch.bmm(query, key))  # (B, content positions, style positions)
        attended = torch.bmm(value, weights.permute(0, 2, 1)).view(batch, channels, height, width)
        output: Tensor = self.out(attended) + content
        return output

    @staticmethod
    def normalized(features: Tensor) -> Tensor:
        mean, std = statistics(features)
        return (features - mean.expand_as(features)) / std.expand_as(features)


class PublicSANet(nn.Module):
    """SANet: two levels of attention, merged and decoded. (B, 3, H, W) twice -> (B, 3, 8h, 8w); ceil(H/8) must be even."""

    def __init__(self, model: StyleModel) -> None:
        super().__init__()
        widths = stage_widths(model)
        self.encoder = vgg_stages(widths)
        self.shallow, self.deep = PublicAttention(widths[3]), PublicAttention(widths[4])
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = nn.Sequential(*padded_conv(widths[3], widths[3], 3))
        self.decoder = mirrored_decoder(widths[:4])

    def encode(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self.encoder:
            image = stage(image)
            features.append(image)
        return features

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        content_feats, style_feats = self.encode(content), self.encode(style)
        shallow = self.shallow(content_feats[3], style_feats[3])
        deep = self.deep(content_feats[4], style_feats[4])
        output: Tensor = self.decoder(self.merge(shallow + self.upsample(deep)))
        return output


class PublicResidual(nn.Module):
    """Two normalized convolutions and a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        norm_relu: tuple[nn.Module, ...] = (nn.InstanceNorm2d(channels, affine=True), nn.ReLU())
        self.layers = nn.Sequential(
            *padded_conv(channels, channels, 3), *norm_relu, *padded_conv(channels, channels, 3)
        )
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(self.layers(x)) + x
        return output


class PublicJohnson(nn.Module):
    """Johnson's network with instance norms; pixels of 0 to 255 inside. (B, 3, H, W) -> (B, 3, 4h, 4w)."""

    def __init__(self, model: StyleModel) -> None:
        super().__init__()
        settings = {"norm": "instance", "upsample": "nearest", "padding": "reflect", "tail": "none", "pixels": "rgb255"}
        other = [name for name, value in settings.items() if model.hparams[name] != value]
        if other or model.hparams["norm_last"]:
            raise StylezooError(f"The baseline is pytorch/examples' network: give a Johnson model with {settings}.")
        c1, c2, c3 = (int(model.hparams["width"] * channels) for channels in (32, 64, 128))

        def normalized(convolution: list[nn.Module], channels: int) -> list[nn.Module]:
            return [*convolution, nn.InstanceNorm2d(channels, affine=True), nn.ReLU()]

        self.network = nn.Sequential(
            *normalized(padded_conv(3, c1, 9), c1),
            *normalized(padded_conv(c1, c2, 3, 2), c2),
            *normalized(padded_conv(c2, c3, 3, 2), c3),
            *(PublicResidual(c3) for _ in range(5)),
            nn.Upsample(scale_factor=2, mode="nearest"),
            *normalized(padded_conv(c3, c2, 3), c2),
            nn.Upsample(scale_factor=2, mode="nearest"),
            *normalized(padded_conv(c2, c1, 3), c1),
            *padded_conv(c1, 3, 9),
        )

    def forward(self, content: Tensor, style: Tensor | None = None) -> Tensor:
        output: Tensor = self.network(content * 255) / 255
        return output


class PublicFilterResidual(nn.Module):
    """MicroAST's residual block, whose filters a style can modulate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(*padded_conv(64, 64, 3)) for _ in range(2))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        if weight is None or bias is None:
            output: Tensor = self.second(self.relu(self.first(x))) + x
            return output
        hidden = self.relu(weight * self.first(x) + bias * x)
        output = weight * self.second(hidden) + bias * hidden
        return output + x


class PublicMicroEncoder(nn.Module):
    """MicroAST's encoder: features at two depths, each (B, 64, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            *padded_conv(3, 16, 9, relu=True),
            *padded_conv(16, 32, 3, 2, groups=16, relu=True),
            *padded_conv(32, 32, 1, relu=True),
            *padded_conv(32, 64, 3, 2, groups=32, relu=True),
            *padded_conv(64, 64, 1, relu=True),
            PublicFilterResidual(),
        )
        self.second = PublicFilterResidual()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(image)
        return first, self.second(first)


class PublicMicroAST(nn.Module):
    """MicroAST: both encoders, the modulator and the decoder. (B, 3, H, W) twice -> (B, 3, 4h, 4w)."""

    def __init__(self, model: StyleModel) -> None:
        super().__init__()
        self.content_encoder, self.style_encoder = PublicMicroEncoder(), PublicMicroEncoder()
        # Weight and bias of the first level, then of the second, which is the first that is decoded.
        self.modulator = nn.ModuleList(
            nn.Sequential(*padded_conv(64, 64, 3, groups=64), nn.AdaptiveAvgPool2d(1)) for _ in range(4)
        )
        self.deep, self.shallow = PublicFilterResidual(), PublicFilterResidual()
        self.upsample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *padded_conv(64, 32, 3, groups=32, relu=True),
            *padded_conv(32, 32, 1, relu=True),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *padded_conv(32, 16, 3, groups=16, relu=True),
            *padded_conv(16, 16, 1, relu=True),
            *padded_conv(16, 3, 9),
        )

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        style_first, style_second = self.style_encoder(style)
        weight1, bias1 = (predict(style_first) for predict in self.modulator[:2])
        weight2, bias2 = (predict(style_second) for predict in self.modulator[2:])
        _, content_second = self.content_encoder(content)
        x = self.deep(adaptive_instance_norm(content_second, style_second), weight2, bias2)
        x = self.shallow(adaptive_instance_norm(x, style_first), weight1, bias1)
        output: Tensor = self.upsample(x)
        return output


NETWORKS: dict[str, type[nn.Module]] = {
    "adain": PublicAdaIN,
    "efdm": PublicEFDM,
    "sanet": PublicSANet,
    "johnson": PublicJohnson,
    "microast": PublicMicroAST,
}
"""The networks by the system whose weights they take."""


def public_style(model: StyleModel) -> nn.Module:
    """Builds the network of a model's system as public code does, with the model's weights.

    Args:
        model: One of the systems of `NETWORKS`, with an encoder without maps (the slim one is none that public code has).

    Returns:
        The network, in eval mode: ``network(content, style)`` for images (B, 3, H, W), RGB in [0, 1], returns
        (B, 3, H', W') with H' and W' rounded up as the public code does, not clamped.

    Raises:
        StylezooError: If there is no such network, or the model's structure is another one.
    """
    check_choice("system", model.system, list(NETWORKS))
    network = NETWORKS[model.system](model).to(model.device)
    theirs = [p for name, p in model.named_parameters() if not name.startswith("loss_encoder.")]
    ours = list(network.parameters())
    if [p.shape for p in ours] != [p.shape for p in theirs]:
        raise StylezooError(
            f"{model.tag or model.system} has other layers than the public network of {model.system}: give a model of its"
            " default structure, with an encoder such as vgg19_normalised."
        )
    with torch.no_grad():
        for own, other in zip(ours, theirs, strict=True):
            own.copy_(other)
    return network.eval()
