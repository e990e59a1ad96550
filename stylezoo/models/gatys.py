r"""Gatys - Image Style Transfer Using Convolutional Neural Networks (Gatys, Ecker & Bethge, CVPR 2016).

Nothing is trained: the pixels of the output are what is optimized, until its deep features are those of the content
and the correlations between its features (Gram matrices) those of the style. Slow, any style, and still the yardstick.

    python -m stylezoo stylize --model gatys --content photo.jpg --style painting.jpg --size 256 --output out.png
    python -m stylezoo stylize --model gatys.modern --content photo.jpg --style a.jpg b.jpg --style_weights 2,1 \
                               --output out.png
    python -m stylezoo stylize --model my_recipe.yaml --content photo.jpg --style painting.jpg --output out.png
    python -m stylezoo predict --config experiments/gatys.yaml

Recipes are the models: ``gatys`` (the author's loss from coarse to fine, also the defaults of `Gatys`),
``gatys.author`` (his notebook), ``gatys.paper`` (the printed formulas), ``gatys.neural_style`` and ``gatys.modern``
(crowsonkb's) are ``experiments/gatys*.yaml``.

Equations, for a content $c$, a style $s$ and an output $o$: $\phi_l$ are the features of the encoder at layer $l$, $X$
are features as a matrix of channels and positions, $w_l$ weighs a layer, and $\|x\|^2$ is the mean of squares.

    o = \mathrm{arg\,min}_x \; \lambda_c \|\phi_c(x) - \phi_c(c)\|^2 + \lambda_s \sum_l w_l \|G(\phi_l(x)) -
        G(\phi_l(s))\|^2 + \lambda_{tv} \mathrm{TV}(x)
    G(X) = \frac{X X^T}{HW}

Deviations: content and style are as large as the caller makes them (``--size``); a style image larger than the
content is shrunk to its long side and a smaller one stays, where the references resize both to 512 pixels.
- Paper and codes differ: convolutions before the ReLU, average pooling, noise as start, and sums with factors 1/2 and
  1/4 are the paper's; ReLUs, maxima, the content as start, and means are the codes'. The paper says that its network
  was the normalized one; with its loss weights only the original shows any style (``experiments/gatys_paper.yaml``).
- jcjohnson/neural-style@07c4b82 (Lua) shows its network 0 to 256 instead of 255, and leaves total variation (``tv:
  corners``) out of the loss that it prints; ``gatys.neural_style`` has the numbers of its port to PyTorch,
  ProGamerGov/neural-style-pt@7251405. ``normalize_gradients`` is the Lua option; the port's squares both weights.
- crowsonkb/style-transfer-pytorch@e7e2c71 blends styles with |w|, ours with w; it resizes with Pillow, ours in torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NoReturn

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import LBFGS, Adam, Optimizer

from stylezoo.controls import SMALLEST_SIDE
from stylezoo.determinism import deterministic_operations
from stylezoo.errors import StylezooError
from stylezoo.images import read_image, to_tensor
from stylezoo.losses import TOTAL_VARIATIONS, Moments, PerceptualLoss, even_gradient
from stylezoo.module import Blend, Iteration, StyleCode, StyleModel
from stylezoo.registry import register
from stylezoo.tiled_loss import SMALLEST_TILE, TiledLoss, fitting_tile
from stylezoo.vgg import CAFFE_MEAN_BGR, VGG, Features, Pooling, conv_names

REFERENCE = "leongatys/PytorchNeuralStyleTransfer@be6c8e2"
CONTENT_LAYERS = {"relu4_2": 1.0}
STYLE_LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0}

Targets = tuple[Features, dict[str, Moments]]
"""What the features of the image should be at the content layers, and their moments at the style layers."""

TV = Literal["absolute", "corners", "nine_point"]
Init = Literal["content", "noise"]
Memory = Literal["auto", "fast", "low"]


@dataclass(frozen=True)
class Settings:
    """How an image is optimized, see `Gatys`."""

    tv: TV
    normalize_gradients: bool
    init: Init
    init_image: str | None
    noise: float
    seed: int
    optimizer: Literal["lbfgs", "adam"]
    lr: float
    betas: tuple[float, float]
    history: int
    iterations: int
    first_iterations: int | None
    min_scale: int | None
    average: float
    clamp: bool
    style_scale: float
    pixel_range: float
    memory: Memory

    def __post_init__(self) -> None:
        for name in ("iterations", "history", "pixel_range", "style_scale"):
            if getattr(self, name) <= 0:
                raise StylezooError(f"{name} must be greater than 0, got {getattr(self, name)}.")


@register("gatys", paper="arXiv:1508.06576", year=2016, kind="optimization", reference=REFERENCE)
class Gatys(StyleModel):
    """Gatys et al. 2016: the image itself is optimized. The defaults are those of ``experiments/gatys.yaml``.

    Args:
        tv_weight: Weight of the total variation of the image.
        tv: ``absolute`` sums absolute differences of neighbors (neural-style-pt), ``corners`` half the squared ones
            (neural-style), ``nine_point`` averages squared ones, diagonals too (crowsonkb).
        content_loss: A name of `stylezoo.losses.CONTENT_LOSSES`.
        normalize_gradients: Whether the gradient that each loss layer sends back is divided by its L1 norm
            (neural-style).
        init: Start from the ``content`` or from ``noise`` around the mean color of ImageNet.
        init_image: Start from this image instead, resized to the content.
        noise: Standard deviation of that noise, in units of ``pixel_range``.
        seed: Of the noise; every image of a batch starts from the same.
        optimizer: ``lbfgs`` without line search, or ``adam``.
        lr: Its learning rate, in units of ``pixel_range``.
        betas: Of Adam.
        history: How many steps L-BFGS remembers.
        iterations: Evaluations of the loss and its gradient, at each scale.
        first_iterations: At the first scale; None for as many as at the others.
        min_scale: Long side at which to begin, then larger by sqrt(2) each time up to the content's own; None works at
            the content's size from the start. Adam's moments grow with the image.
        average: Decay of a moving average of the iterates, which is the output; 0 for the last iterate.
        clamp: Whether each step of Adam ends in [0, 1].
        style_scale: Long side that larger style images are shrunk to, relative to the content's: strokes grow with
            it.
        pixel_range: White in the space of the optimizer, where steps, noise and total variation are measured.
        memory: ``fast`` keeps the features of the whole image, ``low`` works in tiles of 512 pixels (`TiledLoss`), with the
            same gradients but for rounding, in about twice the time; ``auto`` does so where the whole would not fit into
            free memory, in tiles as large as possible. ``tile`` of `decode` sets their size.
        pooling: ``max``, ``avg`` or ``avg_doubled``, see `stylezoo.vgg.VGG`.
        first_padding: Padding of the encoder's first convolution, see `stylezoo.vgg.VGG`; None for the encoder's own.
        encoder: The network of the losses, see `stylezoo.vgg.VGG`.
        encoder_weights: A file for it; None takes the encoder's own.

    Raises:
        StylezooError: If a setting is none of these.
    """

    local_settings = StyleModel.local_settings | {"init_image"}
    supports_tiles = True

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 1.0,
        tv_weight: float = 0.0,
        tv: TV = "absolute",
        content_layers: dict[str, float] = CONTENT_LAYERS,
        style_layers: dict[str, float] = STYLE_LAYERS,
        content_loss: str = "plain",
        style_loss: str = "gram_author",
        normalize_gradients: bool = False,
        init: Init = "content",
        init_image: str | None = None,
        noise: float = 1.0,
        seed: int = 0,
        optimizer: Literal["lbfgs", "adam"] = "lbfgs",
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        history: int = 100,
        iterations: int = 60,
        first_iterations: int | None = None,
        min_scale: int | None = 128,
        average: float = 0.0,
        clamp: bool = False,
        style_scale: float = 1.0,
        pixel_range: float = 255.0,
        memory: Memory = "auto",
        pooling: Pooling = "max",
        first_padding: Literal["zeros", "reflect", "replicate"] | None = "replicate",
        encoder: str = "vgg19_caffe",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.hparams["betas"] = list(betas)
        self.settings = Settings(**{field.name: self.hparams[field.name] for field in fields(Settings)})
        self.perceptual = PerceptualLoss(content_layers, style_layers, content_loss, style_loss)
        order = conv_names(19)  # VGG-16 lacks some
        deepest = max(self.perceptual.layers, key=lambda layer: order.index(layer.replace("relu", "conv")))
        self.encoder = VGG(encoder, encoder_weights, last=deepest, pooling=pooling, first_padding=first_padding)
        self._deepest = deepest

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        """Returns the style image itself, (B, 3, H, W): its moments depend on the content's size and on the scale."""
        return {"image": style}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        """Optimizes an image for each content, one after the other; works in inference mode too.

        Gram matrices (means, covariances) of styles are blended; below alpha 1 the rest is the content's own.

        Returns:
            (B, 3, H, W), without a gradient; not clamped, unless each step is.

        Raises:
            StylezooError: If the optimization diverges.
        """
        outputs, run = [], ImageOptimization(self, tile).run
        with torch.inference_mode(False), torch.enable_grad():
            # Clones: tensors that were made in inference mode take no part in graphs.
            # L-BFGS takes pixels as one row, which other layouts than the usual one have not.
            contents = content.detach().clone(memory_format=torch.contiguous_format)
            images = [c["image"].detach().clone() for c in style.codes]
            for index in range(len(contents)):
                one = slice(index, index + 1)
                styles = [image[one] if len(image) > 1 else image for image in images]
                shares = [alpha * share for share in style.shares]
                outputs.append(run(index, contents[one], styles, shares, 1 - alpha))
        return torch.cat(outputs)

    def loss_terms(self, content: Tensor, style: Tensor, image: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms ``content``, ``style`` and, if it has a weight, ``tv`` of an image.

        Args:
            content: (B, 3, H, W), RGB in [0, 1].
            style: (B or 1, 3, H', W'), RGB in [0, 1].
            image: What is compared, (B, 3, H, W), with its gradient; None stylizes the content first.
        """
        image = self(content, style) if image is None else image
        targets = self.targets(content, [style], [1.0], 0.0)
        if len(style) < len(content):
            targets = (targets[0], {name: Moments.cat([m] * len(content)) for name, m in targets[1].items()})
        return self.terms(image, targets)

    @torch.no_grad()
    def targets(
        self, content: Tensor, styles: list[Tensor], shares: list[float], own: float, tile: int | None = None
    ) -> Targets:
        """Returns what the features of the image should be, and what moments they should have.

        Args:
            content: (B, 3, H, W).
            styles: Style images, each (B or 1, 3, H', W').
            shares: One per style.
            own: The share of the content's own moments.
            tile: Side of the tiles in pixels; None works on whole images.
        """
        side = round(max(content.shape[-2:]) * self.settings.style_scale)
        features, of_content = self._measured(content, bool(own), tile)
        measured = [self._measured(shrunk(style, side), True, tile)[1] for style in styles]
        if own:
            measured, shares = [*measured, of_content], [*shares, own]
        moments = {n: blended([m[n] for m in measured], shares) for n in self.perceptual.style_layers}
        # once, and in the precision of the loss: what they cache serves every iteration
        precise = tile is not None and max(content.shape[-2:]) > tile and content.device.type != "mps"
        return features, {n: m.to(torch.float64 if precise else content.dtype) for n, m in moments.items()}

    def _measured(self, image: Tensor, moments: bool, tile: int | None) -> Targets:
        """Returns features of an image at the content layers, and its moments at the style layers where they are wanted."""
        content_layers, style_layers = [*self.perceptual.content_layers], [*self.perceptual.style_layers]
        if tile is not None and max(image.shape[-2:]) > tile:
            return self.tiled_loss(tile).targets(self.padded(image), content_layers, style_layers if moments else [])
        features = self._features(image, [*content_layers, *(style_layers if moments else [])])
        found = {name: Moments.of(features[name]) for name in style_layers} if moments else {}
        return {name: features[name] for name in content_layers}, found

    def tiled_loss(self, tile: int) -> TiledLoss:
        """Returns the loss of content and style in tiles."""
        return TiledLoss(self.encoder, self.perceptual, self.loss_weights, tile, self.settings.normalize_gradients)

    def terms(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Returns the loss terms of an image (B, 3, H, W) against `targets`, without their weights."""
        loss, weights = self.perceptual, self.loss_weights
        features = self._features(image, loss.layers)
        for_content = for_style = features
        if self.settings.normalize_gradients:
            for_content = {
                n: even_gradient(features[n], weights["content"] * w) for n, w in loss.content_layers.items()
            }
            for_style = {n: even_gradient(features[n], weights["style"] * w) for n, w in loss.style_layers.items()}
        terms = loss(for_content, content=targets[0]) | loss(for_style, style=targets[1])
        return {**terms, "tv": self.variation(image)} if weights["tv"] else terms

    def variation(self, image: Tensor) -> Tensor:
        """Returns the total variation of an image."""
        return TOTAL_VARIATIONS[self.settings.tv](image * self.settings.pixel_range)

    def padded(self, image: Tensor) -> Tensor:
        """Returns an image as the encoder needs it: a reflecting convolution needs two pixels to reflect."""
        return self.encoder.pad(image, self._deepest) if self.encoder.ceil_mode else image

    def _features(self, image: Tensor, layers: list[str]) -> Features:
        features: Features = self.encoder(self.padded(image), layers)
        return features


class ImageOptimization:
    """One run: an image whose features approach those of a content and the moments of styles.

    Args:
        model: Its settings, loss and encoder.
        tile: Side of the tiles in pixels.
    """

    def __init__(self, model: Gatys, tile: int | None) -> None:
        self.model, self.settings, self.tile = model, model.settings, tile
        self._told = False

    def run(self, index: int, content: Tensor, styles: list[Tensor], shares: list[float], own: float) -> Tensor:
        """Optimizes the image of one content, (1, 3, H, W) -> (1, 3, H, W).

        Args:
            index: Number of the content in its batch, for `StyleModel.on_iteration`.
            content: RGB in [0, 1].
            styles: Style images.
            shares: One per style.
            own: The share of the content's own style.
        """
        settings = self.settings
        sides = scales(settings.min_scale, max(content.shape[-2:]))
        counts = [settings.iterations] * len(sides)
        counts[0] = settings.first_iterations or counts[0]
        image: Tensor | None = None
        optimizer: Optimizer | None = None
        done = 0
        for side, count in zip(sides, counts, strict=True):
            small = shrunk(content, side)
            tile = self._tile_for(small)
            targets = self.model.targets(small, styles, shares, own, tile)
            image = self._start(small) if image is None else F.interpolate(image, small.shape[-2:], mode="bicubic")
            image = image.clamp(0, 1) if settings.clamp else image
            pixels = self._to_pixels(image).requires_grad_()
            optimizer = self._optimizer(pixels, optimizer)
            scale = self._gradient_scale(pixels, targets, tile)
            mean = Average(settings.average, pixels)
            for _ in range(count):
                loss = self._iterate(pixels, optimizer, targets, tile, scale)
                mean.update(pixels)
                image = self._to_image(mean.value)
                done += 1
                if not loss < float("inf"):
                    _diverged(done, sum(counts), loss)
                if self.model.on_iteration is not None:
                    self.model.on_iteration(Iteration(index, done, sum(counts), loss, image[0].clamp(0, 1)))
        assert image is not None
        if not image.isfinite().all():
            _diverged(done, sum(counts), float("nan"))
        return image

    def _tile_for(self, image: Tensor) -> int | None:
        """Returns the side of the tiles for an image, or None for the whole; says so where memory is the reason."""
        if self.tile is not None or self.settings.memory == "fast":
            return self.tile
        if self.settings.memory == "low":
            return SMALLEST_TILE
        tile, needed, free = fitting_tile(image)
        if tile is not None and not self._told:
            self._told = True
            height, width = image.shape[-2:]
            rank_zero_info(
                f"gatys works in tiles of {tile} pixels: {width} x {height} pixels at once would take about"
                f" {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free (memory: fast would try it)."
            )
        return tile

    def _iterate(self, pixels: Tensor, optimizer: Optimizer, targets: Targets, tile: int | None, scale: float) -> float:
        """Takes one step of the optimizer and returns the loss before it."""

        def closure() -> Tensor:
            loss, gradient = self._gradient(pixels, targets, tile)
            pixels.grad = scale * gradient
            return loss

        loss = float(optimizer.step(closure))  # type: ignore[arg-type]
        if self.settings.clamp and isinstance(optimizer, Adam):  # L-BFGS would take it for a change of the function
            with torch.no_grad():
                pixels.copy_(self._to_pixels(self._to_image(pixels).clamp(0, 1)))
        return loss

    @deterministic_operations()
    def _gradient(self, pixels: Tensor, targets: Targets, tile: int | None) -> tuple[Tensor, Tensor]:
        """Returns the loss and its gradient."""
        image, weights = self._to_image(pixels), self.model.loss_weights
        if tile is not None and max(image.shape[-2:]) > tile:
            padded = self.model.padded(image)
            loss, gradient = self.model.tiled_loss(tile)(padded.detach(), *targets)
            outputs, gradients = [padded], [gradient]
            if weights["tv"]:
                outputs.append(weights["tv"] * self.model.variation(image))
                gradients.append(torch.ones_like(outputs[1]))
                loss = loss + outputs[1].detach()
            return loss, torch.autograd.grad(outputs, [pixels], gradients)[0]
        terms = self.model.terms(image, targets)
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return loss.detach(), torch.autograd.grad(loss, [pixels])[0]

    def _gradient_scale(self, pixels: Tensor, targets: Targets, tile: int | None) -> float:
        """Returns what gradients are multiplied by: for L-BFGS so that the first is one gray level on average.

        Its steps do not depend on it but for torch's absolute limits: where curvatures are small it would never start, and
        where they are negative it steps by the gradient itself.
        """
        if self.settings.optimizer == "adam":
            return 1.0
        level = float(self._gradient(pixels, targets, tile)[1].abs().mean())
        return self.settings.pixel_range / 255 / max(level, 1e-10)

    def _to_pixels(self, image: Tensor) -> Tensor:
        """The image in the space of the optimizer: minus the mean color of ImageNet, times ``pixel_range``."""
        return (image - mean_color(image)) * self.settings.pixel_range

    def _to_image(self, pixels: Tensor) -> Tensor:
        return pixels / self.settings.pixel_range + mean_color(pixels)

    def _optimizer(self, pixels: Tensor, previous: Optimizer | None) -> Optimizer:
        """An optimizer of the pixels; Adam continues with the moments that it had at the previous scale."""
        settings = self.settings
        if settings.optimizer == "lbfgs":
            # One evaluation a step, so that each is reported, and no tolerance that would end the run early.
            once: dict[str, Any] = {"max_iter": 1, "tolerance_grad": 0, "tolerance_change": 0}
            return LBFGS([pixels], settings.lr, history_size=settings.history, **once)
        adam = Adam([pixels], settings.lr, betas=settings.betas)
        if previous is not None:
            (old,) = previous.state.values()
            size = pixels.shape[-2:]
            adam.state[pixels] = {
                "step": old["step"],
                "exp_avg": F.interpolate(old["exp_avg"], size, mode="bicubic"),
                "exp_avg_sq": F.interpolate(old["exp_avg_sq"], size, mode="bilinear").clamp_min(0),
            }
        return adam

    def _start(self, content: Tensor) -> Tensor:
        """The first image, as large as the content."""
        settings = self.settings
        if settings.init_image is not None:
            image = to_tensor(read_image(settings.init_image)).unsqueeze(0).to(content)
            return resized(image, (content.shape[-2], content.shape[-1]))
        if settings.init == "content":
            return content.clone()
        generator = torch.Generator().manual_seed(settings.seed)
        noise = torch.randn(content.shape, generator=generator).to(content) * settings.noise
        return self._to_image(noise)


def mean_color(image: Tensor) -> Tensor:
    """ImageNet's, (3, 1, 1) in [0, 1]."""
    return image.new_tensor(CAFFE_MEAN_BGR[::-1])[:, None, None] / 255


class Average:
    """Exponential moving average, bias-corrected as in Adam: value = sum of decay^age x_age over sum of decay^age."""

    def __init__(self, decay: float, first: Tensor) -> None:
        self.decay = decay
        self._sum, self._missing = torch.zeros_like(first), 1.0
        self.update(first)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Takes the next x in."""
        self._sum.mul_(self.decay).add_(x, alpha=1 - self.decay)
        self._missing *= self.decay

    @property
    def value(self) -> Tensor:
        """The average; with decay 0 the last x."""
        return self._sum / (1 - self._missing)


def scales(smallest: int | None, side: int) -> list[int]:
    """Long sides from coarse to fine, each sqrt(2) of the one before.

    >>> scales(128, 512), scales(None, 300)
    ([128, 181, 256, 362, 512], [300])
    """
    sides = [side]
    while smallest is not None and (larger := round(side / 2 ** (len(sides) / 2))) >= max(smallest, SMALLEST_SIDE):
        sides.insert(0, larger)
    return sides


def fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image whose long side becomes ``side``, the other in proportion.

    >>> fitted(200, 300, 128)
    (85, 128)
    """
    if height > width:
        return side, round(side * width / height)
    return round(side * height / width), side


def shrunk(image: Tensor, side: int) -> Tensor:
    """An image, (1, 3, H, W), with a long side of at most ``side``, and short ones of at least 16."""
    height, width = image.shape[-2:]
    size = fitted(height, width, min(side, max(height, width)))
    return resized(image, (max(size[0], SMALLEST_SIDE), max(size[1], SMALLEST_SIDE)))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image at another size, bicubic with antialiasing, in [0, 1]."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def blended(moments: list[Moments], shares: list[float]) -> Moments:
    """The moments of a style that is as much of each as its share says; exactly its own where there is only one."""
    if len(moments) == 1:
        return moments[0]

    def mix(parts: list[Tensor]) -> Tensor:
        return torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)

    positions = mix([m.positions for m in moments])
    gram = mix([m.gram / m.positions for m in moments]) * positions
    return Moments(gram, mix([m.mean for m in moments]), mix([m.std for m in moments]), positions)


def _diverged(step: int, steps: int, loss: float) -> NoReturn:
    raise StylezooError(
        f"gatys diverged at iteration {step} of {steps} (loss {loss}): check that content and style hold numbers, then"
        " try optimizer: adam, a smaller lr, smaller weights, or stronger noise to start from."
    )
