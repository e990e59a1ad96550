r"""StyTr2 - Image Style Transfer with Transformers (Deng et al., CVPR 2022, arXiv:2105.14576).

Images are cut into patches of 8 x 8 pixels, one token each. Two transformer encoders, of content and of style, and a
transformer decoder, in which content tokens attend to style tokens, do what VGG features and a transform do elsewhere;
a convolutional decoder decodes the tokens. Content tokens get their place from the image itself (content-aware
positional encoding, CAPE), which 18 x 18 averages of its patches give whatever its size; style tokens have no place.

    python -m stylezoo fit --config experiments/stytr2.yaml
    python -m stylezoo import --system stytr2 --output stytr2.safetensors \
        --files transformer_iter_160000.pth embedding_iter_160000.pth decoder_iter_160000.pth

Equations, for a content $c$, a style $s$ and an output $o = I(c, s)$: $E$ makes tokens of patches, $T_c$, $T_s$ and
$T_d$ are the encoders and the decoder of the transformer, $g$ is the decoder of images, $x$ are content tokens and $y$
style tokens in a layer of $T_d$, $p$ is the positional encoding, $d$ the number of channels of a head, $\bar{x} = (x -
\mu(x)) / \sigma(x)$, $\phi_l$ are the features of the losses at layer $l$, and $\|x\|^2$ is the mean of squares.

    p = \mathrm{resize}(W \, \mathrm{average}_{18 \times 18}(E(c)))
    o = g(T_d(T_c(E(c), p), p, T_s(E(s))))
    A(x) = \mathrm{norm} \left( x + \mathrm{softmax} \left( \frac{(x + p) W_q (y W_k)^T}{\sqrt{d}} \right) y W_v W_o
        \right)
    T_d: \quad x \leftarrow A_1(x), \quad x \leftarrow A_2(x), \quad x \leftarrow \mathrm{norm}(x + \mathrm{FFN}(x))
    L = \lambda_c \sum_{l=4}^{5} \|\bar{\phi}_l(o) - \bar{\phi}_l(c)\|^2 + \lambda_s L_s + \lambda_{i1} L_{i1} +
        \lambda_{i2} L_{i2}
    L_s = \sum_l \left( \|\mu(\phi_l(o)) - \mu(\phi_l(s))\|^2 + \|\sigma(\phi_l(o)) - \sigma(\phi_l(s))\|^2 \right)
    L_{i1} = \|I(c, c) - c\|^2 + \|I(s, s) - s\|^2
    L_{i2} = \sum_l \left( \|\phi_l(I(c, c)) - \phi_l(c)\|^2 + \|\phi_l(I(s, s)) - \phi_l(s)\|^2 \right)

Deviations: the numbers are those of diyiiyiii/StyTR-2@c11ea32.
- Loss weights of content, style and the identities: 7, 10, 70 and 1 in train.py, 10, 7, 50 and 1 in the paper
  (experiments/stytr2_paper.yaml).
- The reference resizes the positional encoding to the tokens of the style and takes the result for square: content and
  style must be equally large squares. Here it is resized to those of the content, the same for such squares.
- The reference drops what is left of an image beyond a multiple of 8. Here the style is cut so, and the content is
  reflected to a multiple of 8 and the output cut to the content's size.
- The reference has neither alpha nor blends. Here both mix what the transformer decoder returns, and alpha 0 is the
  content as its own style, which the identity losses train.
- What is called ``self_attn`` in the decoder attends to the style, as ``multihead_attn`` does after it; the names are
  those of the released files.
- The reference adds up the batch means of two GPUs: twice the gradient, which Adam divides away again.
- Its training squashes images to 512 x 512, the paper keeps their aspect (``data.resize: shorter``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stylezoo.errors import StylezooError
from stylezoo.layers import MirroredDecoder, MultiheadAttention
from stylezoo.losses import PerceptualLoss, identity_losses, identity_terms
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import WIDTHS, Features

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0}
CONTENT_LAYERS = {"relu4_1": 1.0, "relu5_1": 1.0}
PATCH = 8  # pixels
CAPE = 18  # side of the map that positions are learned on


class PatchEmbedding(nn.Module):
    """A token for each patch. 98,816 parameters at 512 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, floor(H/8), floor(W/8))."""
        tokens: Tensor = self.proj(image)
        return tokens


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each normalized after its skip."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(channels, heads, dropout)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Tokens (B, N, C) to the same; queries and keys get positions, values do not."""
        placed = x + position
        x = self.norm1(x + self.dropout(self.self_attn(placed, placed, x)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        result: Tensor = self.norm2(x + self.dropout(self.linear2(hidden)))
        return result


class DecoderLayer(nn.Module):
    """Content tokens attend to style tokens, twice, and a feed-forward network; each normalized after its skip."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(channels, heads, dropout)
        self.multihead_attn = MultiheadAttention(channels, heads, dropout)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, style: Tensor) -> Tensor:
        """Content tokens (B, N, C) to the same, style tokens (B, M, C)."""
        x = self.norm1(x + self.dropout(self.self_attn(x + position, style, style)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + position, style, style)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        result: Tensor = self.norm3(x + self.dropout(self.linear2(hidden)))
        return result


class Stack(nn.Module):
    """Copies of a layer, one after another, and at the end a norm if there is one."""

    def __init__(self, layer: nn.Module, count: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(count))
        self.norm = norm

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Tokens (B, N, C) to the same."""
        for layer in self.layers:
            x = layer(x, *context)
        return x if self.norm is None else self.norm(x)


class Transformer(nn.Module):
    """Encoders, decoder and positional encoding. 31,790,080 parameters at 512 channels and three layers."""

    def __init__(self, channels: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        layer = EncoderLayer(channels, heads, dropout)
        self.encoder_c = Stack(layer, layers)
        self.encoder_s = Stack(layer, layers)
        self.decoder = Stack(DecoderLayer(channels, heads, dropout), layers, nn.LayerNorm(channels))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.new_ps = nn.Conv2d(channels, channels, 1)

    def encode_style(self, patches: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h*w, C)."""
        x = patches.flatten(2).transpose(1, 2)
        style: Tensor = self.encoder_s(x, x.new_zeros(1, 1, 1))
        return style

    def encode_content(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> tokens and their positions, each (B, h*w, C)."""
        places = self.new_ps(F.adaptive_avg_pool2d(patches, CAPE))
        places = F.interpolate(places, size=patches.shape[-2:], mode="bilinear")
        position = places.flatten(2).transpose(1, 2)
        return self.encoder_c(patches.flatten(2).transpose(1, 2), position), position


@register("stytr2", paper="arXiv:2105.14576", year=2022, kind="arbitrary", reference="diyiiyiii/StyTR-2@c11ea32")
class StyTr2(StyleModel):
    """StyTr2 (Deng et al. 2022). 35,394,115 parameters are trained.

    Args:
        content_weight: Weight of the content loss, normalized features of relu4_1 and relu5_1.
        identity1_weight: Weight of the pixel identity loss.
        identity2_weight: Weight of the feature identity loss.
        width: Multiplies the channels: 512 in the transformer, 512 to 64 in the decoder.
        heads: Of every attention.
        layers: Of each encoder and of the transformer decoder.
        dropout: In the transformer, while it is trained.
        lr: Learning rate of Adam at the end of the warm-up, which starts at a quarter of it.
        lr_decay: d in lr / (1 + d * step) after the warm-up.
        warmup: Steps in which the learning rate grows.

    Raises:
        StylezooError: If the heads do not divide the channels.
    """

    def __init__(
        self,
        content_weight: float = 7.0,
        style_weight: float = 10.0,
        identity1_weight: float = 70.0,
        identity2_weight: float = 1.0,
        width: float = 1.0,
        heads: int = 8,
        layers: int = 3,
        dropout: float = 0.1,
        warmup: int = 10000,
        content_layers: dict[str, float] = CONTENT_LAYERS,
        style_loss: str = "mean_std",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 2e-4,
        lr_decay: float = 0.00001,
        loss_encoder: str = "vgg19_normalised",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        channels = {f"relu{block}_1": round(width * full) for block, full in enumerate(WIDTHS, start=1)}
        tokens = channels["relu4_1"]
        if tokens % heads:
            raise StylezooError(
                f"stytr2 has {tokens} channels at width {width}, which {heads} heads cannot share equally."
            )
        self.warmup = warmup
        self.embedding = PatchEmbedding(tokens)
        self.transformer = Transformer(tokens, heads, layers, dropout)
        self.decoder = MirroredDecoder(channels)
        self.perceptual = PerceptualLoss(content_layers, style_layers, content_loss="normalized", style_loss=style_loss)

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns the style's tokens, (B, floor(H/8) * floor(W/8), 512)."""
        return {"tokens": self.transformer.encode_style(self.embedding(style))}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the outputs of the transformer decoder; below alpha 1 the content is its own style for the rest."""
        style = style.faded(alpha, lambda: self.encode(content, tile))
        height, width = content.shape[-2:]
        patches = self.embedding(F.pad(content, (0, -width % PATCH, 0, -height % PATCH), mode="reflect"))
        x, position = self.transformer.encode_content(patches)

        def attended(code: StyleCode) -> Tensor:
            tokens: Tensor = self.transformer.decoder(x, position, code["tokens"])
            return tokens

        tokens = style.sum(attended)
        output: Tensor = self.decoder(tokens.transpose(1, 2).reshape(patches.shape))
        return output

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content``, ``style``, ``identity1``, ``identity2``."""
        layers = self.perceptual.layers
        with torch.no_grad():
            content_feats, style_feats = self._features(content, layers), self._features(style, layers)
        output_feats = self.output_features(self.loss_encoder.pad(self(content, style), "relu5_1"))
        terms = self.perceptual(output_feats, content=content_feats, style=style_feats)
        return terms | identity_terms(self._identity(content, content_feats), self._identity(style, style_feats))

    def _identity(self, image: Tensor, features: Features) -> tuple[Tensor, Tensor]:
        restored = self(image, image)
        return identity_losses(restored, image, self._features(restored, features), features)

    def _features(self, image: Tensor, layers: Iterable[str]) -> Features:
        features: Features = self.loss_encoder(self.loss_encoder.pad(image, "relu5_1"), layers)
        return features

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        return warm_up(optimizer, self.warmup, self.lr_decay)


def warm_up(optimizer: Optimizer, steps: int, decay: float) -> LambdaLR:
    """A line from lr / 4 to lr, then lr / (1 + decay * i), i counted from there (diyiiyiii/StyTR-2@c11ea32 train.py)."""
    return LambdaLR(optimizer, lambda i: (1 + 3 * i / steps) / 4 if i < steps else 1 / (1 + decay * (i - steps)))
