r"""Linear transfer - Learning Linear Transformations for Fast Image and Video Style Transfer (Li et al., CVPR 2019).

Whitening and coloring the content's features (WCT) is a linear map; here a small network predicts that map. Features
are compressed to 32 channels, multiplied by a 32x32 matrix, half of it computed from the style and half from the content, and
unzipped again. Only this is trained: the encoder and a decoder that restores images are given. Content affinity
survives a linear map, which is why video hardly flickers; a style is one matrix and one mean.

    python -m stylezoo fit --config experiments/linear_transfer.yaml --model.decoder_weights dec_r41.pth
    python -m stylezoo import --system linear_transfer --files vgg_r41.pth dec_r41.pth r41.pth --output linear_transfer.safetensors

Features of relu4_1 or of relu3_1 (faster, closer to the content) are transferred, or both in a chain: the features that the
matrix made of relu3_1 continue through the encoder to relu4_1. `stylezoo import` finds out from the files which of them it is.

Equations, for a content $c$, a style $s$ and an output $o$: $f$ is the encoder up to relu4_1, $g$ the decoder, $\bar{x}
= x - \mu(x)$, $W_d$ compresses to 32 channels and $W_u$ unzips, $S$ and $C$ are small networks, $\phi_l$ are the
features of the losses at layer $l$, $X$ are features as a matrix of $N$ channels and $HW$ positions, and $\|x\|^2$ is
the mean of squares, but a sum in the style loss.

    M = S(\bar{f}(s)) \, C(\bar{f}(c)), \qquad S(x) = \mathrm{dense} \left( \mathrm{cov}(\mathrm{convs}(x)) \right) \in
        \mathbb{R}^{32 \times 32}
    t = W_u M W_d \bar{f}(c) + \mu(f(s))
    o = g(\alpha t + (1 - \alpha) f(c))
    L = \lambda_c \|f(o) - f(c)\|^2 + \lambda_s \sum_l \left( \|G(\phi_l(o)) - G(\phi_l(s))\|^2 + \|\mu(\phi_l(o)) -
        \mu(\phi_l(s))\|^2 \right)
    G(X) = \frac{X X^T}{N H W}

Deviations: the numbers are those of sunshineatnoon/LinearStyleTransfer@188e8e5, but for
- the output's size: the content's own, where the reference cuts to a multiple of 8 (4 from relu3_1); the content is
  extended by its border pixels instead;
- colors: the reference's images are stretched, each to the range from 0 to 1, when they are saved (save_image with
  normalize and scale_each); ``stretch`` does it, off by default;
- video: the reference keeps the style's features and makes its matrix again for every frame; here the code is the matrix;
- alpha and blends of styles, which it has not: alpha goes from the content's own features to the transferred ones,
  and codes are blended as they are, which blends the features that each of them yields.
Photorealistic transfer (masks, a spatial propagation network, a smoothing filter) is left out.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from torch import Tensor, nn

from stylezoo import weights as weight_files
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.layers import MirroredDecoder
from stylezoo.losses import PerceptualLoss, gram, mean_std
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.vgg import VGG, Features
from stylezoo.weights import Tensors

REFERENCE = "sunshineatnoon/LinearStyleTransfer@188e8e5"
LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
SIZE = 32
"""Side of the matrices."""
DECODED = ("vgg19_normalised", "vgg19_slim")
"""Encoders whose features the reference's decoders restore to images."""
DECODER_FILES = {"relu3_1": "dec_r31.pth", "relu4_1": "dec_r41.pth"}
DECODER_CONVS = {
    "relu3_1": {f"conv{7 + i}": index for i, index in enumerate((1, 5, 8, 12, 15))},
    "relu4_1": {f"conv{11 + i}": index for i, index in enumerate((1, 5, 8, 11, 14, 18, 21, 25, 28))},
}
"""Their convolutions by name, and where these are in `MirroredDecoder`."""


class Covariance(nn.Module):
    """A 32x32 matrix from features (B, C, H, W) of any size: convolutions, covariance, one dense layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels // 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, SIZE, 3, padding=1),
        )
        self.fc = nn.Linear(SIZE * SIZE, SIZE * SIZE)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x.to(self.fc.weight.dtype))
        covariance = gram(x) / (x.shape[-2] * x.shape[-1])  # (B, 32, 32)
        matrix: Tensor = self.fc(covariance.flatten(1).to(self.fc.weight.dtype))
        return matrix.reshape(-1, SIZE, SIZE)


class Transformation(nn.Module):
    """The learned linear map at one layer: 5,156,192 parameters at relu4_1, 2,890,464 at relu3_1.

    Args:
        channels: Of the layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.snet = Covariance(channels)
        self.cnet = Covariance(channels)
        self.compress = nn.Conv2d(channels, SIZE, 1)
        self.unzip = nn.Conv2d(SIZE, channels, 1)

    def encode(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """The style's half of the matrix (B, 32, 32), and its mean (B, C, 1, 1), from its features (B, C, h, w)."""
        mean, _ = mean_std(style)
        return self.snet(style - mean), mean

    def forward(self, content: Tensor, style_matrix: Tensor, style_mean: Tensor) -> Tensor:
        """Content features (B, C, H, W) with the style that `encode` saw, same shape."""
        mean, _ = mean_std(content)
        content = content - mean
        return self.transfer(content, style_matrix @ self.cnet(content)) + style_mean

    def transfer(self, centered: Tensor, matrix: Tensor) -> Tensor:
        """Compressed to 32 channels, multiplied by a matrix (B or 1, 32, 32), and unzipped; (B, C, H, W)."""
        compressed = self.compress(centered.to(self.compress.weight.dtype))
        unzipped: Tensor = self.unzip((matrix.to(compressed.dtype) @ compressed.flatten(2)).reshape(compressed.shape))
        return unzipped


@register("linear_transfer", paper="arXiv:1808.04537", year=2019, kind="arbitrary", reference=REFERENCE)
class LinearTransfer(StyleModel):
    """Linear transfer (Li et al. 2019).

    Args:
        relu4_1: Whether features of relu4_1 are transferred and decoded.
        relu3_1: Whether those of relu3_1 are; with ``relu4_1`` too, on the way there.
        content_weight: Weight of the content loss at relu4_1.
        stretch: Whether outputs are those that the reference saves: clamped, and each stretched to the range
            from 0 to 1.
        decoder_weights: A file for the frozen decoder: the reference's ``dec_r41.pth`` or ``dec_r31.pth``, or any model
            of the zoo whose decoder starts at the same layer of the same encoder (``adain.safetensors``, a
            checkpoint). None takes the reference's from `stylezoo.weights.folder` if the encoder is the one that it
            restores images of, ``vgg19_normalised`` (or ``vgg19_slim``, its stand-in); without that,
            a decoder has to be trained first (README.md, slim.yaml). Only training needs it.

    Raises:
        StylezooError: If neither layer is transferred, or the decoder's file does not fit.
        MissingFileError: If a file is not there.
    """

    local_settings = StyleModel.local_settings | {"decoder_weights"}
    loss_encoder_options: ClassVar[dict[str, Any]] = {"last": "relu4_1", "ceil_mode": False}

    def __init__(
        self,
        relu4_1: bool = True,
        relu3_1: bool = False,
        content_weight: float = 1.0,
        style_weight: float = 0.02,
        stretch: bool = False,
        decoder_weights: str | None = None,
        style_loss: str = "gram_linear_transfer",
        style_layers: dict[str, float] = LAYERS,
        lr: float = 1e-4,
        lr_decay: float = 0.00001,
        encoder: str = "vgg19_normalised",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.stretch = stretch
        self.levels = [name for name, on in (("relu3_1", relu3_1), ("relu4_1", relu4_1)) if on]
        if not self.levels:
            raise StylezooError("linear_transfer transfers features of relu4_1, of relu3_1 or of both: switch one on.")
        deepest = self.levels[-1]
        self.encoder = VGG(encoder, encoder_weights, last=deepest, ceil_mode=False)
        channels = self.encoder.channels
        if relu3_1:
            self.matrix3_1 = Transformation(channels["relu3_1"])
        if relu4_1:
            self.matrix4_1 = Transformation(channels["relu4_1"])
        self.decoder = MirroredDecoder(channels, "relu4_1" if relu4_1 else "relu3_1").requires_grad_(False)
        self._load_decoder(deepest, encoder, decoder_weights)
        self.perceptual = PerceptualLoss({"relu4_1": 1.0}, style_layers, style_loss=style_loss)

    def _load_decoder(self, layer: str, encoder: str, file: str | None) -> None:
        self.decoder_is_trained = False
        self.decoder.register_load_state_dict_post_hook(self._decoder_was_loaded)  # type: ignore[no-untyped-call]
        own = weight_files.folder() / DECODER_FILES[layer]
        if file is None and encoder in DECODED and own.is_file():
            file = str(own)
        if file is None:  # an import or a checkpoint brings one; until then nine layers must neither fade nor explode
            for parameter in self.decoder.parameters():
                if parameter.ndim == 4:
                    nn.init.xavier_normal_(parameter)
            return
        tensors, _ = self.read_public(weight_files.read_tensors(file))
        within = {k.removeprefix("decoder."): v for k, v in tensors.items() if k.startswith("decoder.")}
        try:
            self.decoder.load_state_dict(within or tensors)
        except RuntimeError as error:
            raise StylezooError(
                f"{file} holds no decoder from {layer} of {encoder}: give {DECODER_FILES[layer]}, or a model of the zoo"
                " whose decoder starts there (decoder_weights)."
            ) from error

    def _decoder_was_loaded(self, _: nn.Module, keys: Any) -> None:
        missing = {key.removeprefix("decoder.") for key in keys.missing_keys}
        if missing.isdisjoint(self.decoder.state_dict()):
            self.decoder_is_trained = True

    def on_fit_start(self) -> None:
        """Refuses to train on a decoder that cannot restore images; with random encoders it warns.

        Raises:
            MissingFileError: If the decoder has no weights; the message says where they are looked for.
        """
        super().on_fit_start()
        if self.decoder_is_trained:
            return
        name = DECODER_FILES[self.levels[-1]]
        if self.encoder.flavor == "random":
            warnings.warn(
                "linear_transfer is trained on a finished decoder, but here it is random and its outputs will be noise: name"
                " a trained adain model of the same encoder (decoder_weights).",
                stacklevel=2,
            )
        else:
            raise MissingFileError(
                f"linear_transfer is trained on a finished decoder, which is not there: put the reference's {name} at"
                f" {weight_files.folder() / name}, or name a file that you have (--model.decoder_weights PATH,"
                " decoder_weights=...)."
            )

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """Reads the reference's files: renames its decoders, and derives the transferred layers from them and from its matrices."""
        for layer, convs in DECODER_CONVS.items():
            if {key.partition(".")[0] for key in tensors} == convs.keys():
                renamed = {
                    f"{conv}.{kind}": f"{index}.{kind}" for conv, index in convs.items() for kind in ("weight", "bias")
                }
                return {renamed[key]: tensor for key, tensor in tensors.items()}, {"relu4_1": layer == "relu4_1"}
        if "unzip.weight" in tensors:
            return tensors, {"relu4_1" if len(tensors["unzip.weight"]) == 512 else "relu3_1": True}
        return tensors, {}

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns the style's half of the matrix and its mean at each layer: ``matrix4_1`` (B, 32, 32), ``mean4_1``
        (B, 512, 1, 1) ..."""
        return self._encode(self.encoder(self.encoder.pad_small(style, "relu4_1"), self.levels))

    def pad(self, image: Tensor) -> Tensor:
        return self.encoder.pad(image, self.levels[-1])

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the matrices and means of styles; alpha 0 decodes the content's own features, at each layer."""
        features: Features = self.encoder(content, self.levels[:1])
        return self._decoded(features, style.code(), alpha)

    def postprocess(self, output: Tensor) -> Tensor:
        """Stretches the output if the settings ask for it."""
        return stretch(output) if self.stretch else output

    def matrix(self, layer: str) -> Transformation:
        """Returns the learned linear map at a layer."""
        matrix: Transformation = getattr(self, layer.replace("relu", "matrix"))
        return matrix

    def _encode(self, style: Features) -> StyleCode:
        code = {}
        for layer in self.levels:
            level = layer.removeprefix("relu")
            code[f"matrix{level}"], code[f"mean{level}"] = self.matrix(layer).encode(style[layer])
        return code

    def _decoded(self, content: Features, code: StyleCode, alpha: float = 1.0) -> Tensor:
        """Returns an image of the padded content's size, from the content's features at the first transferred layer."""
        x = features = content[self.levels[0]]
        for layer in self.levels:
            if layer != self.levels[0]:
                features = self.encoder.continued(x, self.levels[0], [layer])[layer]
            level = layer.removeprefix("relu")
            transferred = self.matrix(layer)(features, code[f"matrix{level}"], code[f"mean{level}"])
            x = alpha * transferred + (1 - alpha) * features
        output: Tensor = self.decoder(x)
        return output

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        """Loss terms ``content`` and ``style``."""
        layers = self.perceptual.layers
        content_feats, style_feats = self.feature_pairs(
            (self.encoder.pad(content, "relu4_1"), self.levels, ["relu4_1"]),
            (self.encoder.pad_small(style, "relu4_1"), self.levels, layers),
        )
        output = self._decoded(content_feats.encoder, self._encode(style_feats.encoder))
        output_feats = self.output_features(output)
        return self.perceptual(output_feats, content=content_feats.loss_encoder, style=style_feats.loss_encoder)


def stretch(image: Tensor) -> Tensor:
    """Images clamped and stretched, each from its darkest to its lightest value in any channel, to [0, 1]: what
    torchvision's save_image does with normalize and scale_each."""
    image = image.clamp(0, 1)
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    return (image - low) / (high - low).clamp_min(1e-5)
