"""Perceptual losses: functions of named features, composed by `PerceptualLoss`.

Every statistic compares the features of an output with those of a style image, (B, C, H, W) against
(B, C, H', W'); the two sizes may differ, each Gram matrix is divided by its own H*W. Means are over the batch, so
that the mean of per-process losses is the loss of the joined batch. Statistics are computed in float32 at least,
also under mixed precision: a Gram matrix summed in 16 bits loses about three digits.

S below is the sum over all C*C entries of the squared difference of two raw Gram matrices F F^T, M = H*W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from stylezoo.errors import unknown_name
from stylezoo.vgg import Features


def at_least_float32(x: Tensor) -> Tensor:
    """float32 instead of the 16-bit types, float64 as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor | Moments) -> AbstractContextManager[Any]:
    """A context in which operations on ``x`` keep its dtype."""
    available = torch.amp.is_autocast_available(x.device.type)  # not on the meta device
    return torch.autocast(x.device.type, enabled=False) if available else nullcontext()


def of_all_processes(x: Tensor, dim: int = 0) -> Tensor:
    """Joins the tensors of all processes, in the order of their ranks, for losses that compare the images of a batch.

    Gradients flow back to each process, summed over the losses of all: where every process computes the same loss, the mean that
    DDP takes is the gradient of that loss. A run of one process gets the tensor as it is.

    Args:
        x: Of the same shape in all processes.
        dim: Along which tensors are joined.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    from torch.distributed.nn.functional import all_gather  # builds without torch.distributed do not have it

    return torch.cat(all_gather(x.contiguous()), dim)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Moments:
    """The moments of a style's features, which are all that style losses need, whatever the size of its image.

    Every style statistic takes it in place of the features, so that systems with fixed styles measure these once.

    Attributes:
        gram: (B, C, C), raw.
        mean: (B, C, 1, 1).
        std: (B, C, 1, 1), unbiased, without any eps.
        positions: H * W of each style's features, (B, 1, 1).
    """

    gram: Tensor
    mean: Tensor
    std: Tensor
    positions: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Measures features (B, C, H, W)."""
        mean, std = mean_std(x, 0.0, outside=True)
        raw = gram(x)
        return cls(raw, mean, std, torch.full_like(raw[:, :1, :1], x.shape[-2] * x.shape[-1]))

    @classmethod
    def cat(cls, parts: Iterable[Moments]) -> Moments:
        """Joins styles, whose images may differ in size, to one batch."""
        gram, mean, std, positions = zip(*((m.gram, m.mean, m.std, m.positions) for m in parts), strict=True)
        return cls(torch.cat(gram), torch.cat(mean), torch.cat(std), torch.cat(positions))

    def to(self, kind: torch.device | torch.dtype) -> Moments:
        """The same on another device, or in another dtype."""
        return Moments(*(t.to(kind) for t in (self.gram, self.mean, self.std, self.positions)))

    @property
    def shape(self) -> torch.Size:
        """(B, C, 1, 1): losses ask for the number of channels as that of features."""
        return self.mean.shape

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.gram.device

    @cached_property
    def covariance(self) -> Tensor:
        """Of the channels over positions, biased, plus 1e-4 on the diagonal, (B, C, C)."""
        return _covariance(self.mean, self.gram / self.positions)

    @cached_property
    def covariance_root(self) -> Tensor:
        """Its matrix square root, which `wasserstein_loss` needs of a style again and again."""
        root = square_root(self.covariance)
        if (
            not root.isfinite().all()
        ):  # one color: rounding leaves negative eigenvalues, with which the iteration diverges
            values, vectors = torch.linalg.eigh(self.covariance.double())
            root = ((vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT).to(root)
        return root

    def __getitem__(self, index: Tensor | slice) -> Moments:
        """Some of the styles: numbers (B,), or a slice."""
        return Moments(self.gram[index], self.mean[index], self.std[index], self.positions[index])


def mean_std(x: Tensor | Moments, eps: float = 1e-5, outside: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over positions, per sample and channel.

    Unbiased variance, eps inside the root: naoto0804/pytorch-AdaIN@47950d0 function.py, and SANet and StyTr2 after it.
    A map of a single position has standard deviation sqrt(eps).

    ``mean_std(x, 1e-6, outside=True)`` is the definition of irasin/Pytorch_AdaIN@2882d72 and the multi-level systems
    after it: what is divided by it grows up to 3,000 times larger where a channel hardly varies.

    Args:
        x: (B, C, H, W).
        eps: Added to the variance.
        outside: Whether eps is added to the standard deviation instead, outside the root.

    Returns:
        Two tensors (B, C, 1, 1).
    """
    if isinstance(x, Moments):
        return x.mean, x.std + eps if outside else (x.std.square() + eps).sqrt()
    x = at_least_float32(x)
    correction = 1 if x.shape[-2] * x.shape[-1] > 1 else 0
    if outside:  # the gradient of std_mean is 0 at a channel without variation, that of a root of var_mean NaN
        std, mean = torch.std_mean(x, dim=(2, 3), keepdim=True, correction=correction)
        return mean, std + eps
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=correction)
    return mean, (variance + eps).sqrt()


def normalize(x: Tensor, eps: float = 1e-5, outside: bool = False) -> Tensor:
    """Features with mean 0 and standard deviation 1 per sample and channel ("mean-variance normalized").

    The arguments are those of `mean_std`.
    """
    mean, std = mean_std(x, eps, outside)
    return (x - mean) / std


def gram(x: Tensor | Moments) -> Tensor:
    """Raw Gram matrix F F^T, (B, C, H, W) -> (B, C, C), accumulated in float32 whatever the autocast type.

    >>> gram(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
    tensor([[[ 5., 11.],
             [11., 25.]]])
    """
    if isinstance(x, Moments):
        return x.gram
    with without_autocast(x):
        flat = at_least_float32(x).flatten(2)  # (B, C, H*W)
        return flat @ flat.transpose(1, 2)


def _positions(x: Tensor | Moments) -> int | Tensor:
    """H * W; of moments one number per style."""
    return x.positions if isinstance(x, Moments) else x.shape[-2] * x.shape[-1]


def mean_std_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """MSE of means plus MSE of standard deviations (naoto0804/pytorch-AdaIN@47950d0 net.py calc_style_loss)."""
    output_mean, output_std = mean_std(output)
    style_mean, style_std = mean_std(style)
    return F.mse_loss(output_mean, style_mean) + F.mse_loss(output_std, style_std)


def mean_std_outside_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """`mean_std_loss` with 1e-6 added outside the root (GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2)."""
    output_mean, output_std = mean_std(output, 1e-6, outside=True)
    style_mean, style_std = mean_std(style, 1e-6, outside=True)
    return F.mse_loss(output_mean, style_mean) + F.mse_loss(output_std, style_std)


def _gram_mse(
    output: Tensor | Moments, style: Tensor | Moments, output_scale: int | Tensor, style_scale: int | Tensor
) -> Tensor:
    return F.mse_loss(gram(output) / output_scale, gram(style) / style_scale)


def gram_gatys_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """S / (4 C^2 M^2): the paper's E_l (Gatys et al. 2016, equation 4)."""
    return _gram_mse(output, style, _positions(output), _positions(style)) / 4


def gram_author_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """S / (C^2 M^2) x 1000 / C^2 (leongatys/PytorchNeuralStyleTransfer@be6c8e2)."""
    return _gram_mse(output, style, _positions(output), _positions(style)) * (1e3 / output.shape[1] ** 2)


def gram_johnson_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """S / (C^4 M^2): neural-style, fast-neural-style, pytorch/examples, MSG-Net."""
    channels = output.shape[1]
    return _gram_mse(output, style, channels * _positions(output), channels * _positions(style))


def gram_magenta_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """S / (C^2 M^2): magenta/magenta@526d3eb image_stylization/learning.py."""
    return _gram_mse(output, style, _positions(output), _positions(style))


def gram_linear_transfer_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """S / (C^2 M^2) summed over the entries, plus the squared difference of the means, per sample
    (sunshineatnoon/LinearStyleTransfer@188e8e5 libs/Criterion.py)."""
    batch, channels = output.shape[:2]
    difference = gram(output) / (channels * _positions(output)) - gram(style) / (channels * _positions(style))
    means = mean_std(output)[0] - mean_std(style)[0]
    return (difference.square().sum() + means.square().sum()) / batch


def gram_raw_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """S / C^2, Gram matrices not normalized: the "classic" loss of Cheng et al. 2021 (arXiv:2104.10064, section 3)."""
    return _gram_mse(output, style, 1, 1)


def balanced_gram_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """The classic loss divided by its supremum, in [0, 1] (Cheng et al. 2021, equation 5, with N^l = C^2).

    |G_o - G_s|^2 / (|G_o|^2 + |G_s|^2) per sample: Gram normalization and feature scale drop out, and since ReLU
    features make every Gram entry non-negative, the quotient cannot pass 1. Holds for post-ReLU features only. The
    gradient flows through the output in the denominator too.

    Sizes may differ: each matrix is divided by its own number of positions first.
    """
    output_gram = gram(output) / _positions(output)  # (B, C, C)
    style_gram = gram(style) / _positions(style)
    difference = (output_gram - style_gram).square().sum((1, 2))
    supremum = output_gram.square().sum((1, 2)) + style_gram.square().sum((1, 2))
    return (difference / supremum.clamp_min(torch.finfo(supremum.dtype).tiny)).mean()


def balanced_gram_hw_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """`balanced_gram_loss` with the other reading of the paper's N^l, H*W instead of C^2: no bound, and layers weigh
    H*W / C^2 of what they weigh there (16 at relu1_2 and 1/256 at relu4_3 of a 256-pixel image)."""
    return balanced_gram_loss(output, style) * (_positions(output) / output.shape[1] ** 2)


def wasserstein_loss(output: Tensor | Moments, style: Tensor | Moments) -> Tensor:
    """Squared Wasserstein-2 distance between Gaussians with the features' means and covariances, divided by C.

    (|m_o - m_s|^2 + tr(S_o + S_s - 2 (S_s^(1/2) S_o S_s^(1/2))^(1/2))) / C with 1e-4 on the diagonals of both
    covariances: crowsonkb/style-transfer-pytorch@e7e2c71 StyleLossW2.
    """
    with without_autocast(output):
        mean, covariance = _mean_and_covariance(output)
        if isinstance(style, Moments):
            style_mean, style_covariance, root = style.mean, style.covariance, style.covariance_root
        else:
            style_mean, style_covariance = _mean_and_covariance(style)
            root = square_root(style_covariance)
        crossed = square_root(root @ covariance @ root)
        traces = (style_covariance + covariance - 2 * crossed).diagonal(dim1=-2, dim2=-1)
    return F.mse_loss(mean, style_mean) + traces.mean()


def _mean_and_covariance(x: Tensor | Moments) -> tuple[Tensor, Tensor]:
    """Mean (B, C, 1, 1) and covariance with 1e-4 on the diagonal, (B, C, C), of features.

    Means are subtracted first: of an image of one color the difference of two moments is rounding alone, and may be negative.
    """
    if isinstance(x, Moments):
        return x.mean, x.covariance
    x = at_least_float32(x)
    mean = x.mean((2, 3), keepdim=True)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return mean, gram(x - mean) / _positions(x) + 1e-4 * identity


def _covariance(mean: Tensor, second_moment: Tensor) -> Tensor:
    mean = mean.flatten(2)  # (B, C, 1)
    identity = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
    return second_moment - mean @ mean.transpose(1, 2) + 1e-4 * identity


def square_root(matrix: Tensor, iterations: int = 12) -> Tensor:
    """Square root of positive definite matrices (..., C, C), by matrix products alone.

    Newton-Schulz iteration; the gradient solves the Lyapunov equation of the root by another such iteration (Lin & Maji
    2017, arXiv:1707.06772, section 3) and stays finite where eigenvalues meet. Inexact where they differ by many orders.
    """
    root: Tensor = _SquareRoot.apply(matrix, iterations)
    return root


class _SquareRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        norm = matrix.square().sum((-2, -1), keepdim=True).sqrt()
        three = 3 * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        root, inverse = matrix / norm, (three / 3).expand_as(matrix)
        for _ in range(iterations):
            step = (three - inverse @ root) / 2
            root, inverse = root @ step, step @ inverse
        root = root * norm.sqrt()
        ctx.save_for_backward(root)
        ctx.iterations = iterations
        return root

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        norm = root.square().sum((-2, -1), keepdim=True).sqrt()
        three = 3 * torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        a, q = root / norm, gradient / norm  # a becomes the identity, q twice the solution X of aX + Xa = gradient
        for _ in range(ctx.iterations):
            step, mixed = three - a @ a, a.transpose(-2, -1) @ q - q @ a
            q = (q @ step - a.transpose(-2, -1) @ mixed) / 2
            a = a @ step / 2
        return q / 2, None


STYLE_STATISTICS: dict[str, Callable[[Tensor | Moments, Tensor | Moments], Tensor]] = {
    "mean_std": mean_std_loss,
    "mean_std_outside": mean_std_outside_loss,
    "gram_gatys": gram_gatys_loss,
    "gram_author": gram_author_loss,
    "gram_johnson": gram_johnson_loss,
    "gram_magenta": gram_magenta_loss,
    "gram_linear_transfer": gram_linear_transfer_loss,
    "gram_raw": gram_raw_loss,
    "balanced_gram": balanced_gram_loss,
    "balanced_gram_hw": balanced_gram_hw_loss,
    "wasserstein": wasserstein_loss,
}
"""Style losses of one layer by the name that recipes use (``style_loss: balanced_gram``)."""


def content_loss(output: Tensor, content: Tensor) -> Tensor:
    """MSE of features, mean over all elements."""
    return F.mse_loss(at_least_float32(output), at_least_float32(content))


def normalized_content_loss(output: Tensor, content: Tensor) -> Tensor:
    """MSE of mean-variance-normalized features (SANet, section 3.3; GlebSBrykin/SANET@2dfec14)."""
    return F.mse_loss(normalize(output), normalize(content))


def normalized_outside_content_loss(output: Tensor, content: Tensor) -> Tensor:
    """`normalized_content_loss` with 1e-6 added outside the root (GAOChengzhan/Revisiting_and_Refining_AdaIN@c01bed2)."""
    return F.mse_loss(normalize(output, 1e-6, outside=True), normalize(content, 1e-6, outside=True))


def gatys_content_loss(output: Tensor, content: Tensor) -> Tensor:
    """Half the sum of squared differences, mean over the batch (Gatys et al. 2016)."""
    return (at_least_float32(output) - at_least_float32(content)).square().sum() / (2 * len(output))


CONTENT_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": content_loss,
    "normalized": normalized_content_loss,
    "normalized_outside": normalized_outside_content_loss,
    "gatys": gatys_content_loss,
}


def identity_losses(
    restored: Tensor, image: Tensor, restored_features: Features, image_features: Features
) -> tuple[Tensor, Tensor]:
    """Identity losses 1 and 2 of SANet (section 3.3, equations 8 and 9): an image stylized with itself stays itself.

    Args:
        restored: The image stylized with itself, (B, 3, H, W).
        image: The image, (B, 3, H, W).
        restored_features: Features of ``restored``.
        image_features: Features of ``image``, at the same layers.

    Returns:
        MSE of pixels, and the sum over layers of the MSE of features.
    """
    pixels = F.mse_loss(at_least_float32(restored), image)
    features = torch.stack([content_loss(restored_features[name], f) for name, f in image_features.items()]).sum()
    return pixels, features


def identity_terms(content: tuple[Tensor, Tensor], style: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Sums the `identity_losses` of a content and of a style to the terms ``identity1`` and ``identity2``."""
    return {"identity1": content[0] + style[0], "identity2": content[1] + style[1]}


def total_variation(image: Tensor, power: Literal[1, 2] = 2) -> Tensor:
    """Mean over samples of the sum of |differences|^power between neighbors, (B, 3, H, W) -> scalar.

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]]))
    tensor(14.)
    """
    image = at_least_float32(image)
    rows = (image[..., 1:, :] - image[..., :-1, :]).abs().pow(power)
    columns = (image[..., :, 1:] - image[..., :, :-1]).abs().pow(power)
    return (rows.sum() + columns.sum()) / image.shape[0]


def mean_variation(image: Tensor) -> Tensor:
    """Half the mean squared difference of vertical neighbors plus half that of horizontal ones, over the batch.

    magenta/magenta@526d3eb image_stylization/learning.py: sums of each image are divided by their own number of differences.
    """
    image = at_least_float32(image)
    return (image.diff(dim=-2).square().mean() + image.diff(dim=-1).square().mean()) / 2


def corner_variation(image: Tensor) -> Tensor:
    """Half the squared differences to the right and the lower neighbor, summed over pixels that have both.

    jcjohnson/neural-style@07c4b82 neural_style.lua TVLoss, which adds only its gradient. Mean over the batch.
    """
    corner = image[..., :-1, :-1]
    right, below = image[..., :-1, 1:], image[..., 1:, :-1]
    return ((right - corner).square().sum() + (below - corner).square().sum()) / (2 * len(image))


def nine_point_variation(image: Tensor) -> Tensor:
    """Mean squared differences to the neighbors, a third for direct ones and a twelfth for diagonal ones, times 2.

    crowsonkb/style-transfer-pytorch@e7e2c71 TVLoss; borders are repeated.
    """
    image = F.pad(image, (1, 1, 1, 1), mode="replicate")
    right = (image[..., 1:-1, 2:] - image[..., 1:-1, 1:-1]).square().mean() / 3
    below = (image[..., 2:, 1:-1] - image[..., 1:-1, 1:-1]).square().mean() / 3
    falling = (image[..., 1:, 1:] - image[..., :-1, :-1]).square().mean() / 12
    rising = (image[..., 1:, :-1] - image[..., :-1, 1:]).square().mean() / 12
    return 2 * (right + below + falling + rising)


TOTAL_VARIATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": lambda image: total_variation(image, power=1),
    "corners": corner_variation,
    "nine_point": nine_point_variation,
}


def even_gradient(features: Tensor, strength: float) -> Tensor:
    """The features themselves; the gradient of a loss of this weight comes back with the L1 norm of the weight.

    jcjohnson/neural-style@07c4b82 neural_style.lua -normalize_gradients, per sample.
    """
    even: Tensor = _EvenGradient.apply(features, strength)
    return even


class _EvenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        norm = gradient.abs().sum((1, 2, 3), keepdim=True)
        return gradient * evening(norm, ctx.strength), None


def evening(norm: Tensor, strength: float) -> Tensor:
    """The factor with which a gradient of this L1 norm gets the norm ``strength``, see `even_gradient`."""
    return strength / (norm + strength * 1e-8)


@dataclass(frozen=True)
class PerceptualLoss:
    """Content and style losses over named layers, each layer with its own weight.

    Holds settings, no targets: it is called with the features of the output and of what they should resemble.

    Attributes:
        content_layers: {layer: weight} of the content loss.
        style_layers: {layer: weight} of the style loss.
        content_loss: A name of `CONTENT_LOSSES`.
        style_loss: A name of `STYLE_STATISTICS`, or a system's own function of the features of output and style.

    Raises:
        StylezooError: If a loss name is unknown.
    """

    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    content_loss: str = "plain"
    style_loss: str | Callable[..., Tensor] = "mean_std"

    def __post_init__(self) -> None:
        for name, table in ((self.content_loss, CONTENT_LOSSES), (self.style_loss, STYLE_STATISTICS)):
            if isinstance(name, str) and name not in table:
                raise unknown_name("There is no loss", name, table, "choose one of")

    @property
    def layers(self) -> list[str]:
        """All layers that the output's features must hold."""
        return list(dict.fromkeys([*self.style_layers, *self.content_layers]))

    def __call__(
        self,
        output: Mapping[str, Tensor] | Mapping[str, Moments],
        *,
        content: Features | None = None,
        style: Mapping[str, Tensor] | Mapping[str, Moments] | None = None,
    ) -> dict[str, Tensor]:
        """Compares the output's features with those of a content and of a style.

        Args:
            output: Features of the output at `layers`; their `Moments` serve for styles.
            content: Target features at ``content_layers``; None leaves the term out.
            style: Features at ``style_layers``, or their `Moments`; None leaves the term out.

        Returns:
            The unweighted terms, scalars: {"content": ..., "style": ...}.
        """
        terms: dict[str, Tensor] = {}
        if content is not None:
            compare: Callable[..., Tensor] = CONTENT_LOSSES[self.content_loss]
            terms["content"] = _sum(w * compare(output[n], content[n]) for n, w in self.content_layers.items())
        if style is not None:
            measure = STYLE_STATISTICS[self.style_loss] if isinstance(self.style_loss, str) else self.style_loss
            terms["style"] = _sum(w * measure(output[n], style[n]) for n, w in self.style_layers.items())
        return terms


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
