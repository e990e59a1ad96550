"""Fréchet distance between two sets of images, and ArtFID, which multiplies it with a content distance.

The trace of (S1 S2)^(1/2) is computed as a nuclear norm, the sum of singular values of X1 X2^T for S = X^T X: exact where
there are fewer images than features and the product of covariances, whose root others take, is singular.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from stylezoo.metrics.base import ContentMetric, ImageMetric, Setting

SMALLEST_SUBSET = 5000
"""Where the line of FID infinity begins (matthias-wright/art-fid@37ce02e compute_fid_infinity)."""


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two normal distributions, a scalar.

    Args:
        mean1: (D,).
        covariance1: (D, D), of any rank.
        mean2: (D,).
        covariance2: (D, D).

    >>> zero, one = torch.zeros(2), torch.eye(2)
    >>> frechet_distance(zero, one, zero + 3, 4 * one)  # 9 + 9 + 2 + 8 - 2 * 4
    tensor(20.)
    """
    return _distance(mean1, _root(covariance1), mean2, _root(covariance2))


def activation_statistics(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of activations (N, D), in float64."""
    activations = activations.double()
    return activations.mean(0), activations.T.cov().reshape(activations.shape[1], -1)


def fid(output: Tensor, style: Tensor) -> Tensor:
    """Fréchet distance between activations, (N, D) and (M, D), in float64: a scalar.

    800 against 800 activations of 2048 dimensions take a fraction of a second: no D x D matrix is built.

    Raises:
        ValueError: If one of the sets has fewer than two rows.
    """
    _check_counts(len(output), len(style))
    means, factors = [], []
    for activations in (output.double(), style.double()):
        means.append(activations.mean(0))
        factor = (activations - means[-1]) / (len(activations) - 1) ** 0.5
        # Q of a decomposition changes no singular value, so R alone will do.
        factors.append(torch.linalg.qr(factor, mode="r")[1] if len(factor) > factor.shape[1] else factor)
    return _distance(means[0], factors[0], means[1], factors[1])


def _distance(mean1: Tensor, factor1: Tensor, mean2: Tensor, factor2: Tensor) -> Tensor:
    """The same from factors (R, D) whose products X^T X are the covariances."""
    root_trace = torch.linalg.svdvals(factor1 @ factor2.T).sum()
    distance: Tensor = (mean1 - mean2).square().sum() + factor1.square().sum() + factor2.square().sum() - 2 * root_trace
    return distance


def _root(covariance: Tensor) -> Tensor:
    """(R, D) with X^T X = covariance, R its rank: rounding errors of zero eigenvalues would add up in the trace."""
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = (vectors[:, keep] * values[keep].sqrt()).T
    return root


def _check_counts(outputs: int, styles: int) -> None:
    if min(outputs, styles) < 2:
        raise ValueError(
            f"FID compares two sets of images, two or more each, not {outputs} outputs and {styles} styles."
        )


def infinity_sizes(n: int, points: int = 15) -> np.ndarray:
    """The sub-set sizes of `fid_infinity`: from 5000 to n (downwards if n is smaller)."""
    return np.linspace(SMALLEST_SUBSET, n, points).astype(np.int32)


def fid_infinity(output: Tensor, style: Tensor, points: int = 15, seed: int = 0) -> Tensor:
    """FID for infinitely many images: the intercept of a line through FID against 1 / N (Chong & Forsyth 2020).

    As matthias-wright/art-fid@37ce02e: sub-sets of 5000 to N images, the same rows of both. With 5000 images or
    fewer every sub-set is the whole set, and the result is the plain `fid`.

    Args:
        output: (N, D).
        style: (N, D).
        points: On the line.
        seed: Of the sub-sets (NumPy's legacy generator, as there).

    Raises:
        ValueError: If the two sets differ in size.
    """
    n = len(output)
    if len(style) != n:
        raise ValueError(
            f"FID infinity draws the same rows of both sets: {n} outputs need as many styles, not {len(style)}."
        )
    if n <= SMALLEST_SUBSET:
        return fid(output, style)
    rng, order = np.random.RandomState(seed), np.arange(n)
    sizes = infinity_sizes(n, points)
    distances = []
    for size in sizes:
        rng.shuffle(order)
        rows = torch.from_numpy(order[:size]).to(output.device)
        distances.append(fid(output[rows], style[rows]))
    x, y = 1 / torch.from_numpy(sizes).double(), torch.stack(distances).cpu()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return y.mean() - slope * x.mean()


def art_fid(content: Tensor | float, fid: Tensor | float) -> Tensor:
    """(1 + content distance) (1 + FID) (Wright & Ommer 2022, arXiv:2207.12280).

    >>> art_fid(0.5, 19.0)
    tensor(30., dtype=torch.float64)
    """
    content, fid = (torch.as_tensor(x, dtype=torch.float64) for x in (content, fid))
    return (1 + content) * (1 + fid)


class FID(ImageMetric):
    """Fréchet distance between the features of all outputs and of all styles.

    It is biased upwards, the more the fewer images there are, so that its key holds their numbers. Fewer images than
    features are fine for the computation, but each new image still changes the value much; a set of 40 styles that is
    repeated for 800 outputs (StyleID) has a covariance of rank 39.

    Plain FID is kept as float64 sums, (D, D) per set. With ``points`` it is `fid_infinity`, which needs the activations.

    Args:
        backbone: Any network that turns (B, 3, H, W) into (B, D): `stylezoo.metrics.ArtInception`, or
            torchmetrics' NoTrainInceptionV3 behind a rounding to 8 bits ...
        dimensions: D.
        points: On the line of `fid_infinity`; None for plain FID.
        seed: Of its sub-sets; they also depend on the order of images, and so on the number of processes.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See there.
    """

    name = "fid"
    output_count: Tensor
    output_sum: Tensor
    output_products: Tensor
    style_count: Tensor
    style_sum: Tensor
    style_products: Tensor
    output_activations: list[Tensor]
    style_activations: list[Tensor]

    def __init__(
        self,
        backbone: nn.Module,
        dimensions: int = 2048,
        points: int | None = None,
        seed: int = 0,
        resize: str = "native",
        pictures: str = "float",
    ) -> None:
        super().__init__(backbone, resize, pictures)
        self.points = points
        self.seed = seed
        for kind in ("output", "style"):
            self.add_state(f"{kind}_count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
            if points is not None:
                self.add_state(f"{kind}_activations", [], dist_reduce_fx="cat")
                continue
            self.add_state(f"{kind}_sum", torch.zeros(dimensions, dtype=torch.float64), dist_reduce_fx="sum")
            products = torch.zeros(dimensions, dimensions, dtype=torch.float64)
            self.add_state(f"{kind}_products", products, dist_reduce_fx="sum")

    def settings(self) -> dict[str, Setting]:
        settings: dict[str, Setting] = {"outputs": self.n, "styles": int(self.style_count), "mode": "plain"}
        if self.points is not None:
            settings |= {"mode": "infinity", "points": self.points, "seed": self.seed}
            settings["degenerate"] = self.n <= SMALLEST_SUBSET  # then it is the plain FID
        return settings

    @property
    def n(self) -> int:
        return int(self.output_count)

    def update(self, output: Tensor, style: Tensor) -> None:
        """Adds outputs and styles, (B, 3, H, W) and (B', 3, H', W'), RGB in [0, 1]; they need not be pairs."""
        self.output_count += len(output)
        self.style_count += len(style)
        activations = [self._activations(images) for images in (output, style)]
        if self.points is not None:
            self.output_activations.append(activations[0])
            self.style_activations.append(activations[1])
            return
        outputs, styles = (a.double() for a in activations)
        self.output_sum += outputs.sum(0)
        self.output_products += outputs.T @ outputs
        self.style_sum += styles.sum(0)
        self.style_products += styles.T @ styles

    def _activations(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            activations: Tensor = self.backbone(self._prepare(images)).flatten(1)
        return activations

    def compute(self) -> Tensor:
        _check_counts(self.n, int(self.style_count))
        if self.points is not None:
            outputs, styles = dim_zero_cat(self.output_activations), dim_zero_cat(self.style_activations)
            return fid_infinity(outputs, styles, self.points, self.seed)
        return frechet_distance(
            *_statistics(self.output_count, self.output_sum, self.output_products),
            *_statistics(self.style_count, self.style_sum, self.style_products),
        )


def _statistics(count: Tensor, sums: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    mean = sums / count
    return mean, (products - count * mean.outer(mean)) / (count - 1)


ArtFIDMode = Literal["art_fid", "art_fid_inf", "art_fid_inf_15"]
ART_FID_POINTS: dict[str, int | None] = {"art_fid": None, "art_fid_inf": 8, "art_fid_inf_15": 15}
"""Points on the line of FID infinity by mode. ``art_fid_inf`` is what matthias-wright/art-fid@37ce02e runs by default: its
function means to take 15, but is called with the number of loader workers, 8 by default, in their place."""


class ArtFID(FID):
    """(1 + content distance) (1 + FID on art), lower is better.

    ``ArtFID(ArtInception(), LPIPS(AlexNet()))`` is the benchmark; StyleID's table has ``resize="short512"``, also for
    LPIPS. The default mode is plain FID, the only one that means anything with fewer than 5000 images (where
    ``art_fid_inf``, the reference's default, degenerates to it).

    Args:
        backbone: See `FID`.
        content: The content distance: `stylezoo.metrics.LPIPS`, or `stylezoo.metrics.ContentLoss` for the reference's
            choices ``vgg`` and ``alexnet``.
        mode: ``art_fid`` (plain FID), ``art_fid_inf`` (as the reference runs) or ``art_fid_inf_15`` (as it means to).
        dimensions: See `FID`.
        seed: See `FID`.
        resize: Of the images that the backbone sees; that of ``content`` is its own.
        images: See `stylezoo.metrics.ImageMetric`.

    Raises:
        ValueError: If there is no such mode.
    """

    name = "art_fid"
    content_total: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        content: ContentMetric,
        mode: ArtFIDMode = "art_fid",
        dimensions: int = 2048,
        seed: int = 0,
        resize: str = "native",
        pictures: str = "float",
    ) -> None:
        if mode not in ART_FID_POINTS:
            raise ValueError(f"ArtFID has no mode {mode!r}: choose one of {', '.join(ART_FID_POINTS)}.")
        super().__init__(backbone, dimensions, ART_FID_POINTS[mode], seed, resize, pictures)
        self.mode = mode
        self.content = content
        self.add_state("content_total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def settings(self) -> dict[str, Setting]:
        key = self.content.key
        content = {"metric": key.metric, "backbone": key.backbone, "sha256": key.sha256, "resize": key.resize}
        return {
            **super().settings(),
            "mode": self.mode,
            **{f"content_{name}": value for name, value in {**content, **dict(key.settings)}.items()},
        }

    def update(self, output: Tensor, content: Tensor, style: Tensor) -> None:  # type: ignore[override]
        """Adds outputs with their contents and styles, each (B, 3, H, W), RGB in [0, 1]."""
        super().update(output, style)
        self.content_total += self.content.values(output, content).double().sum()

    def compute(self) -> Tensor:
        return art_fid(self.content_total / self.output_count, super().compute())
