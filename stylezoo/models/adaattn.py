r"""AdaAttN - Revisit Attention Mechanism in Arbitrary Neural Style Transfer (Liu et al., ICCV 2021).

AdaIN gives all content positions the same mean and standard deviation, SANet mixes style features without regard to
their spread. Here every content position attends to the style and takes the attention-weighted mean and standard
deviation of its features, at relu3_1, relu4_1 and relu5_1. Queries and keys also hold the features of all shallower
layers, and a local loss asks for the same statistics in the output's features.

Equations, for a content $c$, a style $s$ and an output $o$ at the layers $l$ = relu3_1, relu4_1, relu5_1: $c_l$, $s_l$
and $o_l$ are features, $\bar{x} = (x - \mu(x)) / \sigma(x)$, $\mu$ and $\sigma$ are mean and standard deviation of a
channel over positions, $i$ and $j$ are positions, $c_{1:l}$ are the normalized features of relu1_1 to $l$ in the size of
$l$, $g$ is the decoder in two parts, and $\|x\|^2$ is the mean of squares.

    A_l(i, j) = \mathrm{softmax}_j \left( (W_f c_{1:l}(i))^T W_g s_{1:l}(j) \right)
    m_l(i) = \sum_j A_l(i, j) W_h s_l(j), \quad v_l(i) = \sum_j A_l(i, j) (W_h s_l(j))^2 - m_l(i)^2
    a_l = \sqrt{\max(v_l, 0)} \, \bar{c}_l + m_l
    o = g_2 \left( g_1(\mathrm{conv}_{3 \times 3}(a_4 + \mathrm{upsample}(a_5))), a_3 \right)
    L = \lambda_s L_s + \lambda_l L_l + \lambda_c L_c, \quad l = 2, 3, 4, 5
    L_s = \sum_l \left( \|\mu(o_l) - \mu(s_l)\|^2 + \|\sigma(o_l) - \sigma(s_l)\|^2 \right)
    L_l = \sum_l \|o_l - t_l\|^2, \text{ where } t_l \text{ is } a_l \text{ with identities for } W_f, W_g, W_h
    L_c = \sum_l \|\bar{o}_l - \bar{c}_l\|^2

Deviations: the numbers are those of Huage001/AdaAttN@524b2b1, which the first author published.
- The gradient of the root is infinite at 0, and the reference's becomes NaN as soon as a position attends to a single
  other one. Values are the reference's; here the gradient is 0 where the variance is not positive. It is finite elsewhere:
  the smallest positive difference of two numbers is a rounding error of them. The mean over positions is taken off the
  values first and added to the result, which changes neither and makes small variances more exact.
- Of more than 4,096 style positions at relu3_1 and in the local loss, and more than 65,536 at the other layers, the
  reference draws as many, always from the same seed when it stylizes and from a new one at each step of training. So does
  this file, without touching PyTorch's global generator. Exported and compiled models take evenly spaced ones.
- The reference fails unless ceil(n/8) = 2 ceil(n/16) for both sides of the content, and ceil(n/4) = 2 ceil(n/8) with the
  skip connection; here the larger map is cut to fit, which changes nothing elsewhere. The output has the content's size.
- Paper (section 4.1): a learning rate of 1e-4, and no decay; code: 2e-4, times 0.3 per epoch after the second of five.
- Terms of weight 0 are not computed, as in the reference: by default there is no content loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stylezoo.layers import MirroredDecoder, attend, is_traced, upsample_nearest, widened
from stylezoo.losses import PerceptualLoss, at_least_float32, content_loss, normalize
from stylezoo.module import Blend, FeaturePair, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import VGG, Features
from stylezoo.weights import Tensors

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
COMPARED = {"relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0}
"""Layers of the losses."""

FEW, MANY = 64 * 64, 256 * 256
"""Style positions that are attended to at most: at relu3_1 and in the local loss, and at relu4_1 and relu5_1."""


def normalized_key(features: Features, layer: str, shallow: bool) -> Tensor:
    """What queries and keys are made of: normalized features of a layer, after those of all shallower ones in its size.

    Args:
        features: Of the layers in `LAYERS` up to this one; of this one alone without shallower ones.
        layer: A name of `LAYERS`.
        shallow: Whether shallower layers are there, nearest neighbors of their positions, normalized after that.

    Returns:
        (B, C, H, W) in float32 at least, the layer's own features last.
    """
    own = features[layer]
    below = LAYERS[: LAYERS.index(layer)] if shallow else ()
    size = own.shape[-2:]
    resized = (F.interpolate(features[name], size=(size[0], size[1]), mode="nearest") for name in below)
    return torch.cat([normalize(x) for x in (*resized, own)], 1)


def drawn_positions(count: int, most: int, seed: int) -> Tensor:
    """Positions that stand for all ``count``, (most,): those that `torch.randperm` begins with on the CPU."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]


def sampled(features: Tensor, most: int, seed: int) -> Tensor:
    """The features at all positions, or at ``most`` that are drawn where there are more.

    Args:
        features: (B, C, H, W).
        most: Number of positions.
        seed: Decides which.

    Returns:
        ``features``, or (B, C, most, 1).
    """
    count = features.shape[-2] * features.shape[-1]
    if is_traced():  # for all sizes at once
        compiled = torch.compiler.is_compiling()
        taken: Any = torch.sym_min(count, most) if compiled else torch.minimum(count, torch.tensor(most))  # type: ignore[arg-type]
        index = torch.arange(taken, device=features.device) * count // taken
    elif count <= most:
        return features
    else:
        index = drawn_positions(count, most, seed).to(features.device)
    return features.flatten(2).index_select(2, index).unsqueeze(-1)


def tokens(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C)."""
    return features.flatten(2).transpose(1, 2)


def attended_statistics(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention-weighted mean and standard deviation of values.

    Args:
        query: (B, N, K).
        key: (B or 1, M, K).
        value: (B or 1, M, C).

    Returns:
        Two tensors (B, N, C), in float32 at least.
    """
    value = at_least_float32(value)
    center = value.mean(1, keepdim=True)  # variances are differences of squares: small ones are more exact
    value = value - center
    moments = attend(query, key, torch.cat([value, value.square()], 2), scale=1.0)  # (B, N, 2C); not divided by sqrt(K)
    mean, square = moments.chunk(2, 2)
    variance = square - mean.square()
    positive = variance > 0
    root = torch.where(positive, variance, torch.ones_like(variance)).sqrt()
    return mean + center, torch.where(positive, root, torch.zeros_like(root))


def with_statistics(normalized: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Gives normalized features (B, C, H, W) the `attended_statistics` of each position, same shape."""
    mean, std = (x.transpose(1, 2).reshape(normalized.shape) for x in attended_statistics(query, key, value))
    return std * normalized + mean


class AttentionNormalization(nn.Module):
    """Gives each position of normalized content features the statistics of the style that it attends to (section 3.2).

    Args:
        channels: Of content, style and result.
        key_channels: Of what queries and keys are made of.
        most: Style positions that are attended to at most.
    """

    def __init__(self, channels: int, key_channels: int, most: int) -> None:
        super().__init__()
        self.most = most
        self.f = nn.Conv2d(key_channels, key_channels, 1)
        self.g = nn.Conv2d(key_channels, key_channels, 1)
        self.h = nn.Conv2d(channels, channels, 1)

    def encode(self, style: Tensor, style_key: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a style.

        Args:
            style: Features (B, C, h, w).
            style_key: Their `normalized_key`, (B, K, h, w).
            seed: Decides which positions are attended to, see `sampled`.

        Returns:
            (B, M, K) and (B, M, C).
        """
        values, keys = (sampled(x, self.most, seed) for x in (style, style_key))
        return tokens(self.g(keys.to(self.g.weight.dtype))).contiguous(), tokens(self.h(values)).contiguous()

    def forward(self, normalized: Tensor, content_key: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Normalized content features (B, C, H, W) with local statistics of the style, same shape; float32 at least.

        Args:
            normalized: Content features.
            content_key: Their `normalized_key`, (B, K, H, W).
            key: Of the style, see `encode`.
            value: Of the style.
        """
        query = tokens(self.f(content_key.to(self.f.weight.dtype)))
        return with_statistics(normalized, query, key, value)


class Transformer(nn.Module):
    """The attention at relu4_1 and relu5_1, and the convolution that merges them. 9,066,752 parameters at VGG's widths.

    Args:
        channels: Of relu4_1.
        deep_channels: Of relu5_1.
        key_channels: Of what queries and keys are made of, at each of the two.
    """

    def __init__(self, channels: int, deep_channels: int, key_channels: tuple[int, int]) -> None:
        super().__init__()
        self.attn_adain_4_1 = AttentionNormalization(channels, key_channels[0], MANY)
        self.attn_adain_5_1 = AttentionNormalization(deep_channels, key_channels[1], MANY)
        self.widen = widened(deep_channels, channels)
        self.merge_conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Merges what the attentions return, (B, C, H, W) and (B, C', ceil(H/2), ceil(W/2)) -> (B, C, H, W)."""
        deep = upsample_nearest(self.widen(deep.to(self.merge_conv.weight.dtype)))
        deep = deep[..., : shallow.shape[-2], : shallow.shape[-1]]
        merged: Tensor = self.merge_conv((shallow + deep).to(self.merge_conv.weight.dtype))
        return merged


class Decoder(nn.Module):
    """`stylezoo.layers.MirroredDecoder` in two parts, between which the features of relu3_1 may join.

    Args:
        channels: The encoder's channels per layer, see `stylezoo.vgg.VGG.channels`.
        skip_connection: Whether they do: 4,095,043 parameters at VGG's widths, 3,505,219 without.
    """

    def __init__(self, channels: dict[str, int], skip_connection: bool) -> None:
        super().__init__()
        layers = list(MirroredDecoder(channels))
        width = channels["relu3_1"]
        if skip_connection:
            layers[5] = nn.Conv2d(2 * width, width, 3)
        self.decoder_layer_1 = nn.Sequential(*layers[:4])
        self.decoder_layer_2 = nn.Sequential(*layers[4:])

    def forward(self, merged: Tensor, skipped: Tensor | None) -> Tensor:
        """(B, C, H/8, W/8), and (B, C', H/4, W/4) -> RGB (B, 3, H, W), not clamped."""
        x: Tensor = self.decoder_layer_1(merged)
        if skipped is not None:
            x = torch.cat([x[..., : skipped.shape[-2], : skipped.shape[-1]], skipped.to(x.dtype)], 1)
        for layer in self.decoder_layer_2:  # one by one, so that no input outlives its layer
            x = layer(x)
        return x


def initialize(network: nn.Module, std: float) -> None:
    """Draws the weights of convolutions from a normal distribution, as networks.py init_weights does; biases are 0."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name != "widen":
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


@register("adaattn", paper="arXiv:2108.03647", year=2021, kind="arbitrary", reference="Huage001/AdaAttN@524b2b1")
class AdaAttN(StyleModel):
    """AdaAttN (Liu et al. 2021).

    Args:
        skip_connection: Whether the attention at relu3_1 joins the decoder (--skip_connection_3).
        shallow_keys: Whether queries and keys hold the features of shallower layers, too (--shallow_layer).
        seed: Decides which positions of a large style are attended to.
        content_weight: Weight of the content loss, normalized features of relu2_1 to relu5_1; the paper has none.
        style_weight: Weight of the global style loss.
        local_weight: Weight of the local feature loss.
        lr_gamma: What the learning rate is multiplied by every ``lr_step_size`` steps after the first two times as many.
        lr_step_size: See ``lr_gamma``.
    """

    def __init__(
        self,
        skip_connection: bool = True,
        shallow_keys: bool = True,
        seed: int = 6666,
        content_weight: float = 0.0,
        style_weight: float = 10.0,
        local_weight: float = 3.0,
        style_loss: str = "mean_std",
        style_layers: dict[str, float] = COMPARED,
        lr: float = 2e-4,
        lr_decay: float = 0.0,
        lr_gamma: float = 0.3,
        lr_step_size: int = 10348,
        encoder: str = "vgg19_normalised",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.shallow_keys, self.seed = shallow_keys, seed
        self.lr_gamma, self.lr_step_size = lr_gamma, lr_step_size
        self.encoder = VGG(encoder, encoder_weights, last="relu5_1")
        channels = self.encoder.channels
        widths = {layer: sum(channels[name] for name in self._key_layers(layer)) for layer in LAYERS}
        self.adaattn_3: AttentionNormalization | None = None
        if skip_connection:
            self.adaattn_3 = AttentionNormalization(channels["relu3_1"], widths["relu3_1"], FEW)
        key_channels = (widths["relu4_1"], widths["relu5_1"])
        self.transformer = Transformer(channels["relu4_1"], channels["relu5_1"], key_channels)
        self.decoder = Decoder(channels, skip_connection)
        std = 0.02 * (512 / channels["relu4_1"]) ** 0.5  # init_gain; signals are as large with a thin encoder
        for name, network in self.named_children():
            if name != "encoder":
                initialize(network, std)
        self.perceptual = PerceptualLoss({}, style_layers, style_loss=style_loss)
        if content_weight:
            self.perceptual = replace(self.perceptual, content_layers=COMPARED, content_loss="normalized")

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """Reads latest_net_adaattn_3.pth, latest_net_transformer.pth and latest_net_decoder.pth, and derives from their shapes
        whether there are a skip connection and shallow keys."""
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
        settings = {}
        for prefix in ("", "attn_adain_4_1."):
            if {f"{prefix}f.weight", f"{prefix}h.weight"} <= tensors.keys():
                settings["shallow_keys"] = len(tensors[f"{prefix}f.weight"]) > len(tensors[f"{prefix}h.weight"])
        if "decoder_layer_2.1.weight" in tensors:
            width, inputs = tensors["decoder_layer_2.1.weight"].shape[:2]
            settings["skip_connection"] = inputs > width
        return tensors, settings

    @property
    def attentions(self) -> dict[str, AttentionNormalization]:
        """The attention of each layer that has one."""
        skipped = {} if self.adaattn_3 is None else {"relu3_1": self.adaattn_3}
        return {**skipped, "relu4_1": self.transformer.attn_adain_4_1, "relu5_1": self.transformer.attn_adain_5_1}

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns keys and values of each attention: ``key3`` (B, positions, 448), ``value3`` (B, positions, 256) ..."""
        features = self.encoder(self.encoder.pad_small(style, "relu5_1"), self._needed)
        return self._encode(features, self._keys(features), self.seed)

    def pad(self, image: Tensor) -> Tensor:
        return self.encoder.pad(image, "relu5_1")

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the features with the statistics of styles; below alpha 1 the content attends to itself for the rest, as in
        SANet. The reference has no alpha."""
        return self._decoded(self._attended(*self._queries(content, style, alpha)))

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``style``, ``local`` and ``content`` (section 3.4); the last two unless their weights are 0."""
        # As in the reference, one seed serves all attentions of a step.
        seed = int(torch.randint(10_000_000, ())) if self.training else self.seed
        content, style = self.pad(content), self.encoder.pad_small(style, "relu5_1")
        layers = list(dict.fromkeys([*self.perceptual.layers, *LAYERS]))
        content_feats, style_feats = self.feature_pairs((content, self._needed, layers), (style, self._needed, layers))
        code = self._encode(style_feats.encoder, self._keys(style_feats.encoder), seed)
        output = self._decoded(self._attended(self._keys(content_feats.encoder), Blend([code], [1.0])))
        output = output[..., : content.shape[-2], : content.shape[-1]]
        output_feats = self.output_features(output, COMPARED)
        target = content_feats.loss_encoder if self.perceptual.content_layers else None
        terms = self.perceptual(output_feats, content=target, style=style_feats.loss_encoder)
        if self.loss_weights["local"]:
            terms["local"] = self._local_loss(output_feats, content_feats, style_feats, seed)
        return terms

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """The learning rate lr * lr_gamma^max(0, i // lr_step_size - 1) / (1 + lr_decay * i) at step i = 0, 1, 2 ..."""
        gamma, size = self.lr_gamma, self.lr_step_size
        return LambdaLR(optimizer, lambda i: gamma ** max(0, i // size - 1) / (1 + self.lr_decay * i))

    def _key_layers(self, layer: str) -> tuple[str, ...]:
        return LAYERS[: LAYERS.index(layer) + 1] if self.shallow_keys else (layer,)

    @property
    def _needed(self) -> tuple[str, ...]:
        """The layers of the encoder that are transferred, or are in keys."""
        return LAYERS if self.shallow_keys else tuple(self.attentions)

    def _keys(self, features: Features) -> Features:
        return {layer: normalized_key(features, layer, self.shallow_keys) for layer in self.attentions}

    def _encode(self, features: Features, keys: Features, seed: int) -> StyleCode:
        code = {}
        for layer, attention in self.attentions.items():
            number = layer[len("relu")]
            code[f"key{number}"], code[f"value{number}"] = attention.encode(features[layer], keys[layer], seed)
        return code

    def _queries(self, content: Tensor, style: Blend, alpha: float) -> tuple[Features, Blend]:
        """The keys of a content, and the blend with its own code. Its features, which are much larger, end here."""
        features: Features = self.encoder(content, self._needed)
        keys = self._keys(features)
        return keys, style.faded(alpha, lambda: self._encode(features, keys, self.seed))

    def _attended(self, keys: Features, style: Blend) -> Features:
        """The features that the styles of a blend give a content, by layer. Takes the keys out of their dict."""
        return {layer: self._attend(layer, keys.pop(layer), style) for layer in self.attentions}

    def _attend(self, layer: str, key: Tensor, style: Blend) -> Tensor:
        attention, number = self.attentions[layer], layer[len("relu")]
        normalized = key[:, -self.encoder.channels[layer] :]
        return style.sum(lambda code: attention(normalized, key, code[f"key{number}"], code[f"value{number}"]))

    def _decoded(self, attended: Features) -> Tensor:
        """The image of what `_attended` returns, which is taken out of its dict."""
        merged = self.transformer(attended.pop("relu4_1"), attended.pop("relu5_1"))
        image: Tensor = self.decoder(merged, attended.pop("relu3_1", None))
        return image

    def _local_loss(self, output: Features, content: FeaturePair, style: FeaturePair, seed: int) -> Tensor:
        """MSE of the output's features and of the content's with local statistics of the style, without learned weights."""
        terms = []
        for layer in COMPARED:
            with torch.no_grad():
                content_key, style_key = (
                    normalized_key(feats.loss_encoder, layer, self.shallow_keys) for feats in (content, style)
                )
                values = style.loss_encoder[layer]
                key, value = (tokens(sampled(x, FEW, seed)) for x in (style_key, values))
                target = with_statistics(content_key[:, -values.shape[1] :], tokens(content_key), key, value)
            terms.append(content_loss(output[layer], target))
        return torch.stack(terms).sum()
