r"""CIN - A Learned Representation for Artistic Style (Dumoulin, Shlens & Kudlur, ICLR 2017, arXiv:1610.07629).

One network for N styles: all convolutions are shared, and a style is only the scales and shifts of the instance norms
behind them (conditional instance normalization), 3,206 numbers against 1.67 million. Styles can be blended, and a new
one can be learned by training its numbers alone.

    python -m stylezoo fit --config experiments/cin.yaml --model.styles data/styles
    python -m stylezoo fit --config experiments/cin.yaml --model.styles data/new --model.finetune cin.safetensors
    python -m stylezoo import --system cin --files cin26_google_android.pth --output cin.android.safetensors
    python -m stylezoo stylize --model cin.android.safetensors --style 3 7 --style_weights 1,2 --content a.jpg --output b.png

Equations, for a content $c$, an image $s_k$ of the style number $k$ and an output $o$: $x$ are the features behind a
convolution, $\mu$ and $\sigma$ are mean and standard deviation of a channel over positions, $w_k$ is the weight of a
style in a blend, $\phi_l$ are the features of the losses at layer $l$, $X$ are features as a matrix of channels and
positions, and $\|x\|^2$ is the mean of squares.

    z = \gamma \, \frac{x - \mu(x)}{\sigma(x)} + \beta, \qquad \gamma = \sum_k w_k \gamma_k, \quad \beta = \sum_k w_k
        \beta_k
    L = \lambda_c \|\phi_c(o) - \phi_c(c)\|^2 + \lambda_s \sum_l \|G(\phi_l(o)) - G(\phi_l(s_k))\|^2
    G(X) = \frac{X X^T}{HW}

Deviations: none from magenta/magenta@526d3eb image_stylization (re-implemented by reading it), but for the output's
size: the content's own, where the reference rounds up to a multiple of 4 (ours is its top-left crop).
Paper and code differ: the paper divides content and style loss by the number of units and leaves the style weight free;
the code divides Gram matrices by H*W only, hence its weight of 1e-4. Training images are ImageNet's in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stylezoo import tensorflow
from stylezoo.bases import TrainedStyles
from stylezoo.checkpoints import load_model
from stylezoo.errors import MissingFileError, StylezooError, did_you_mean
from stylezoo.images import list_images
from stylezoo.layers import ConditionalTransformer, read_style
from stylezoo.losses import PerceptualLoss
from stylezoo.module import Blend, StyleCode
from stylezoo.registry import register
from stylezoo.weights import Tensors

CHANNELS = (32, 64, 128, 64, 32)
CONTENT_LAYERS = {"relu3_3": 1.0}
STYLE_LAYERS = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}


class Transformer(ConditionalTransformer):
    """The shared convolutions: 1,674,432 parameters; and 3,206 scales and shifts for each style.

    Rows of ``scale`` and ``shift`` are styles; a row holds all layers one after the other, in network order.
    """

    def __init__(self, channels: tuple[int, ...], blocks: int, styles: int) -> None:
        super().__init__(channels, blocks)
        self.scale = nn.Parameter(torch.ones(styles, sum(self.channels)))
        self.shift = nn.Parameter(torch.zeros(styles, sum(self.channels)))

    def convs(self) -> Iterator[nn.Conv2d]:
        """The convolutions in network order."""
        for part in (self.contract, self.residual, self.expand):
            for conv in part:
                assert isinstance(conv, nn.Conv2d)
                yield conv


@register(
    "cin", paper="arXiv:1610.07629", year=2017, kind="multi", reference="magenta/magenta@526d3eb image_stylization"
)
class CIN(TrainedStyles):
    """Conditional instance normalization (Dumoulin et al. 2017): one network for many styles.

    A style is the number or the name of a trained one, a list or a tensor (B,) of such, or weights over all styles, (N,) or
    (B, N), which may be negative and need not sum to 1: sum_k w_k style_k. Without a style, the images of a batch take
    the styles in turn.

    Args:
        styles: Folder of the images whose styles are learned, one each. Only training reads it.
        style_names: What the styles are called; None takes the names of the images, sorted.
        style_size: Pixels that the longer side of style images is resized to; None keeps their sizes.
        style_coefficients: {name: factor} of the style loss, for styles that come out too weak or too strong.
        finetune: A model of this system whose convolutions are taken over and stay as they are: only the scales and
            shifts of the new styles are trained.
        finetune_from: What these start from: ``ones`` (scales of 1, shifts of 0, as in the reference) or ``average``,
            the mean of the model's own styles.
        width: Multiplies the channels.
        channels: Of the three convolutions down and the two up.
        blocks: Number of residual blocks.
        seed: Decides which style each training image gets.
        loss_encoder: The network of the losses, see `stylezoo.vgg.VGG`; its pooling is average. Only training needs it.

    Raises:
        ValueError: If there are no styles, or ``finetune`` is a model of another shape, or ``finetune_from`` something
            else.
    """

    # Average pooling: vgg.py. The weights are caffe's, which slim's checkpoint holds in RGB order.
    loss_encoder_options: ClassVar[dict[str, Any]] = {"pooling": "avg"}
    local_settings = TrainedStyles.local_settings | {"styles", "finetune"}

    def __init__(
        self,
        styles: str | None = None,
        style_names: list[str] | None = None,
        style_size: int | None = None,
        style_coefficients: dict[str, float] | None = None,
        finetune: str | None = None,
        finetune_from: Literal["ones", "average"] = "ones",
        width: float = 1.0,
        channels: tuple[int, int, int, int, int] = CHANNELS,
        blocks: int = 5,
        seed: int = 0,
        content_weight: float = 1.0,
        style_weight: float = 1e-4,
        content_layers: dict[str, float] = CONTENT_LAYERS,
        style_loss: str = "gram_magenta",
        style_layers: dict[str, float] = STYLE_LAYERS,
        lr: float = 1e-3,
        lr_decay: float = 0.0,
        loss_encoder: str = "vgg16_caffe",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.style_folder, self.style_size, self.seed = styles, style_size, seed
        self.style_coefficients = style_coefficients or {}
        names = list(style_names) if style_names is not None else list(style_files(styles))
        self.hparams["style_names"] = names
        self.hparams["channels"] = list(channels)
        for name in self.style_coefficients:
            if name not in names:
                raise StylezooError(f"style_coefficients name {name!r}, but the styles are {', '.join(names)}.")
        self.transformer = Transformer(tuple(int(width * c) for c in channels), blocks, len(names))
        if finetune is not None:
            self._take_convs(finetune, finetune_from)
            self.hparams["finetune"] = None  # done: the model loads without the other one
        self.perceptual = PerceptualLoss(content_layers, style_layers, style_loss=style_loss)

    def _take_convs(self, path: str, start: str) -> None:
        """Takes over the convolutions of another model and freezes them."""
        other = load_model(path)
        convs = list(self.transformer.convs())
        theirs = list(other.transformer.convs()) if isinstance(other, CIN) else []
        if [c.weight.shape for c in theirs] != [c.weight.shape for c in convs]:
            shape = ", ".join(f"{key} {other.hparams.get(key)}" for key in ("width", "channels", "blocks"))
            raise StylezooError(
                f"finetune takes over a cin of the same shape, but {path} is a {other.system} with {shape}."
            )
        for conv, their in zip(convs, theirs, strict=True):
            conv.load_state_dict(their.state_dict())
            conv.requires_grad_(False)
        if start == "average":
            known, own = other.state_dict(), self.transformer
            with torch.no_grad():
                own.scale.copy_(known["transformer.scale"].mean(0).expand_as(own.scale))
                own.shift.copy_(known["transformer.shift"].mean(0).expand_as(own.shift))

    @property
    def styles(self) -> list[str]:
        """The names of the styles, in the order of their numbers."""
        return list(self.hparams["style_names"])

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        return tensorflow.read_image_stylization(tensors)

    def check_styles(self, styles: Sequence[Any]) -> list[Any]:
        if not styles or any(isinstance(style, Tensor) and style.ndim > 2 for style in styles):
            raise StylezooError(
                f"{self.system} stylizes with the styles that it was trained on, by number or name: {', '.join(self.styles)}."
            )
        return list(styles)

    def expand_styles(self, words: list[str], expand: Callable[[str], list[str]]) -> list[str]:
        return words or self.styles

    def example_styles(self, image: Tensor) -> list[Any]:
        return list(self.styles)

    def encode_style(self, style: Any, *, tile: int | None = None) -> StyleCode:
        """Returns the scales and shifts of styles, each (B, 1603).

        Args:
            style: See the class.
            tile: Without effect.

        Raises:
            StylezooError: If there is no such style.
        """
        scale, shift = self.transformer.scale, self.transformer.shift
        if isinstance(style, (list, tuple)):
            weights = any(isinstance(entry, float) for entry in style)
            style = torch.tensor(style) if weights else torch.cat([self._numbers(entry) for entry in style])
        if isinstance(style, Tensor) and style.is_floating_point():
            mix = style.reshape(-1, style.shape[-1]) if style.ndim in (1, 2) else None
            if mix is None or mix.shape[1] != len(scale):
                raise StylezooError(
                    f"Weights over the {len(scale)} styles of cin have the shape ({len(scale)},) or (B, {len(scale)}), not"
                    f" {tuple(style.shape)}; it stylizes with the styles that it was trained on: {', '.join(self.styles)}."
                )
            mix = mix.to(scale)
            return {"scale": mix @ scale, "shift": mix @ shift}
        ids = self._numbers(style)
        return {"scale": scale[ids], "shift": shift[ids]}

    def _numbers(self, style: Any) -> Tensor:
        """Numbers of styles as (B,) on the model's device, from a number, a name or such a tensor."""
        count, names, asked = len(self.styles), self.styles, style
        if isinstance(style, str):
            if style in names:
                style = names.index(style)
            elif style.isdecimal():
                style = int(style)
        if isinstance(style, int) and not isinstance(style, bool):
            style = torch.tensor([style])
        if not isinstance(style, Tensor) or style.ndim > 1 or not ((style >= 0) & (style < count)).all():
            if isinstance(asked, Tensor):
                asked = asked.tolist() if asked.ndim < 2 else f"of shape {tuple(asked.shape)}"
            close = did_you_mean(asked, names, cutoff=0.5) if isinstance(style, str) else None
            hint = (
                f"did you mean {close!r}?"
                if close
                else f"it has {count}, by number from 0 or by name: {', '.join(names)}."
            )
            raise StylezooError(f"cin has no style {asked}: {hint}")
        return style.reshape(-1).to(self.device)

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Blends the scales and shifts of styles (section 3.3); the output is in [0, 1]."""
        code = style.code()
        output: Tensor = self.transformer(content, code["scale"], code["shift"])
        return output

    def forward(self, content: Tensor, style: Any = None, alpha: float = 1.0) -> Tensor:
        """Stylizes the content, (B, 3, H, W) -> (B, 3, H, W) in [0, 1]; see the class for ``style``."""
        return super().forward(content, self._in_turn(len(content)) if style is None else style, alpha)

    def loss_terms(self, content: Tensor, style: Any = None) -> dict[str, Tensor]:
        """Loss terms ``content`` and ``style`` (section 2, equation 4, and learning.py).

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: A number, a name, or a tensor (B,) of numbers; without one, styles in turn.

        Raises:
            StylezooError: If there is no such style, or no folder of ``styles``.
            MissingFileError: If a style's image does not exist.
        """
        numbers = self._in_turn(len(content)) if style is None else self._numbers(style).expand(len(content))
        output = self(content, numbers)
        with torch.no_grad():
            content_feats = self.loss_encoder(content, self.perceptual.content_layers)
        features = self.output_features(output)
        terms = self.perceptual(features, content=content_feats)
        targets = self.style_targets(numbers)
        if not self.style_coefficients:
            return terms | self.perceptual(features, style=targets)
        each = []  # a style's coefficient is on the losses of its own images
        for index, number in enumerate(numbers):
            one = slice(index, index + 1)
            own = self.perceptual(
                {n: f[one] for n, f in features.items()}, style={n: m[one] for n, m in targets.items()}
            )
            each.append(self.style_coefficients.get(self.styles[int(number)], 1.0) * own["style"])
        return {**terms, "style": torch.stack(each).mean()}

    def style_images(self) -> list[Tensor]:
        paths = style_files(self.style_folder)
        for name in self.styles:
            if name not in paths:
                raise MissingFileError(
                    f"There is no image of the style {name!r} in {self.style_folder}: training needs the images of all its"
                    f" styles ({', '.join(self.styles)})."
                )
        return [read_style(paths[name], self.style_size) for name in self.styles]

    # Which image gets which style

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """A style drawn for every image, a function of (seed, batches trained so far, rank): a resumed run goes on."""
        numbers = self.draw(len(batch["content"]), self.trained_batches, self.global_rank)
        return super().training_step({**batch, "style": numbers}, batch_idx)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return super().validation_step(self._with_styles(batch, batch_idx), batch_idx)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return super().test_step(self._with_styles(batch, batch_idx), batch_idx)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The images of a batch, clamped to [0, 1], in the styles in turn."""
        return super().predict_step(self._with_styles(batch, batch_idx), batch_idx)

    def draw(self, count: int, batch: int, rank: int) -> Tensor:
        """Independent styles for the images of a training batch, (count,)."""
        generator = np.random.default_rng((self.seed, batch, rank))
        return torch.from_numpy(generator.integers(len(self.styles), size=count)).to(self.device)

    def _with_styles(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        count = len(batch["content"])
        return {**batch, "style": self._in_turn(count, batch_idx * count)}

    def _in_turn(self, count: int, first: int = 0) -> Tensor:
        return (first + torch.arange(count, device=self.device)) % len(self.styles)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of other styles: rows of scales and shifts would be taken for other images'.

        Raises:
            ValueError: If the styles differ; the message names both.
        """
        super().on_load_checkpoint(checkpoint)
        trained = checkpoint.get("hyper_parameters", {}).get("style_names", self.styles)
        if trained != self.styles:
            raise StylezooError(
                f"This checkpoint was trained on the styles {', '.join(trained)}, but there are"
                f" {', '.join(self.styles)} here: give the folder that it was trained with (styles)."
            )


def style_files(folder: str | None) -> dict[str, Path]:
    """The images of a folder by the names of the styles: those of the files, without suffix where that is enough.

    Raises:
        ValueError: If no folder was named.
        FileNotFoundError: If there are no images in it.
    """
    if folder is None:
        raise StylezooError("cin learns the styles of a folder of images: name it (styles, --model.styles FOLDER).")
    paths = list_images(folder, recursive=False)
    if not paths:
        raise MissingFileError(
            f"There are no style images in {folder}: training needs one per style it is to learn, so put some there or"
            " name another folder in the recipe."
        )
    unique = len({path.stem for path in paths}) == len(paths)
    return {path.stem if unique else path.name: path for path in paths}
