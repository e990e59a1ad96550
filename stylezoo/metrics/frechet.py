"""The Fréchet distance between two sets of images, and ArtFID, its product with a content distance.

The trace of (S1 S2)^(1/2) is computed as a nuclear norm, the sum of singular values of X1 X2^T for S = X^T X. This is
exact also for fewer images than features, where the product of covariances is singular, whose root other
implementations take.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from stylezoo.errors import StylezooError
from stylezoo.metrics.base import ContentMetric, ImageMetric, Setting

SMALLEST_SUBSET = 5000
"""Smallest subset of FID infinity (matthias-wright/art-fid@37ce02e compute_fid_infinity)."""


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """Computes |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two normal distributions, a scalar.

    Args:
        mean1: Mean of the first distribution, (D,).
        covariance1: Its covariance (D, D), of any rank.
        mean2: Mean of the second distribution, (D,).
        covariance2: Its covariance, (D, D).

    >>> zero, one = torch.zeros(2), torch.eye(2)
    >>> frechet_distance(zero, one, zero + 3, 4 * one)  # 9 + 9 + 2 + 8 - 2 * 4
    tensor(20.)
    """
    return _distance(mean1, _root(covariance1), mean2, _root(covariance2))


def activation_statistics(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean (D,) and the unbiased covariance (D, D) of activations (N, D), in float64."""
    activations = activations.double()
    return activations.mean(0), activations.T.cov().reshape(activations.shape[1], -1)


def fid(output: Tensor, style: Tensor) -> Tensor:
    """Computes the Fréchet distance between two sets of activations.

    800 against 800 activations of 2048 dimensions take a fraction of a second, because no D x D matrix is built.

    Args:
        output: Activations of the outputs, (N, D).
        style: Activations of the styles, (M, D).

    Returns:
        A float64 scalar, 0 or more up to rounding.

    Raises:
        StylezooError: If one of the sets has fewer than two rows.
    """
    _check_counts(len(output), len(style))
    means, factors = [], []
    for activations in (output.double(), style.double()):
        means.append(activations.mean(0))
        factor = (activations - means[-1]) / (len(activations) - 1) ** 0.5
        # Q of a decomposition changes no singular value, so R alone suffices.
        factors.append(torch.linalg.qr(factor, mode="r")[1] if len(factor) > factor.shape[1] else factor)
    return _distance(means[0], factors[0], means[1], factors[1])


def _distance(mean1: Tensor, factor1: Tensor, mean2: Tensor, factor2: Tensor) -> Tensor:
    """The Fréchet distance from factors (R, D) whose products X^T X are the covariances."""
    root_trace = torch.linalg.svdvals(factor1 @ factor2.T).sum()
    distance: Tensor = (mean1 - mean2).square().sum() + factor1.square().sum() + factor2.square().sum() - 2 * root_trace
    return distance


def _root(covariance: Tensor) -> Tensor:
    """A factor (R, D) of a covariance of rank R: rounding errors of zero eigenvalues would add up in the trace."""
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = (vectors[:, keep] * values[keep].sqrt()).T
    return root


def _check_counts(outputs: int, styles: int) -> None:
    """Raises a StylezooError if a set has fewer than two images."""
    if min(outputs, styles) < 2:
        raise StylezooError(
            f"FID compares two sets of two or more images each, not {outputs} outputs and {styles} styles."
        )


def infinity_sizes(n: int, points: int = 15) -> np.ndarray:
    """Returns the subset sizes of `fid_infinity`, (points,), from 5000 to n (downwards if n is smaller)."""
    return np.linspace(SMALLEST_SUBSET, n, points).astype(np.int32)


def fid_infinity(output: Tensor, style: Tensor, points: int = 15, seed: int = 0) -> Tensor:
    """Extrapolates FID to infinitely many images: the intercept of a line through FID against 1 / N.

    Chong & Forsyth 2020, as in matthias-wright/art-fid@37ce02e: subsets of 5000 to N images, the same rows of both
    sets. With 5000 images or fewer every subset is the whole set, and the result is the plain `fid`.

    Args:
        output: Activations of the outputs, (N, D).
        style: Activations of the styles, (N, D).
        points: Number of points on the line.
        seed: Seed of the subsets (NumPy's legacy generator, as in the reference).

    Returns:
        A float64 scalar.

    Raises:
        StylezooError: If the two sets differ in size.
    """
    n = len(output)
    if len(style) != n:
        raise StylezooError(
            f"FID infinity draws the same rows of both sets, so {n} outputs need as many styles, not {len(style)}."
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
    """Computes (1 + content distance) (1 + FID), a float64 scalar (Wright & Ommer 2022, arXiv:2207.12280).

    Args:
        content: Content distance.
        fid: Fréchet distance between outputs and styles.

    >>> art_fid(0.5, 19.0)
    tensor(30., dtype=torch.float64)
    """
    content, fid = (torch.as_tensor(x, dtype=torch.float64) for x in (content, fid))
    return (1 + content) * (1 + fid)


class FID(ImageMetric):
    """The Fréchet distance between the features of all outputs and of all styles.

    FID has an upward bias that grows as the number of images falls, so its key holds the numbers of images. The
    computation allows fewer images than features, but then each new image changes the value much; a set of 40 styles
    that is repeated for 800 outputs (StyleID) has a covariance of rank 39.

    Plain FID keeps float64 sums, (D, D) per set. With ``points`` it is `fid_infinity`, which keeps the activations.

    Args:
        backbone: Network that maps (B, 3, H, W) to (B, D), such as `stylezoo.metrics.ArtInception`, or torchmetrics'
            NoTrainInceptionV3 after a rounding to 8 bits.
        dimensions: Number of features D.
        points: Number of points on the line of `fid_infinity`; None for plain FID.
        seed: Seed of its subsets, which also depend on the order of images, and so on the number of processes.
        resize: See `stylezoo.metrics.ImageMetric`.
        images: See `stylezoo.metrics.ImageMetric`.
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
        images: str = "float",
    ) -> None:
        super().__init__(backbone, resize, images)
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
            settings["degenerate"] = self.n <= SMALLEST_SUBSET  # then the value is the plain FID
        return settings

    @property
    def n(self) -> int:
        return int(self.output_count)

    def update(self, output: Tensor, style: Tensor) -> None:
        """Adds outputs (B, 3, H, W) and styles (B', 3, H', W'), RGB in [0, 1], which need not be pairs."""
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
        """The features of images, (B, D)."""
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
    """The mean (D,) and the unbiased covariance (D, D) from sums."""
    mean = sums / count
    return mean, (products - count * mean.outer(mean)) / (count - 1)


ArtFIDMode = Literal["art_fid", "art_fid_inf", "art_fid_inf_15"]
ART_FID_POINTS: dict[str, int | None] = {"art_fid": None, "art_fid_inf": 8, "art_fid_inf_15": 15}
"""Points on the line of FID infinity by mode. ``art_fid_inf`` is the default of matthias-wright/art-fid@37ce02e, whose
function is written for 15 points, but is called with the number of loader workers, 8 by default, in their place."""


class ArtFID(FID):
    """(1 + content distance) (1 + FID on art), 1 or more, lower is better (Wright & Ommer 2022, arXiv:2207.12280).

    ``ArtFID(ArtInception(), LPIPS(AlexNet()))`` is the benchmark; StyleID's table has ``resize="short512"``, also for
    LPIPS. The default mode is plain FID: with 5000 images or fewer ``art_fid_inf``, the reference's default, is the
    same.

    Args:
        backbone: See `FID`.
        content: Content distance: `stylezoo.metrics.LPIPS`, or `stylezoo.metrics.ContentLoss` for the reference's
            choices ``vgg`` and ``alexnet``.
        mode: ``art_fid`` (plain FID), ``art_fid_inf`` (8 points, as the reference is called) or ``art_fid_inf_15`` (15
            points, as its function is written).
        dimensions: See `FID`.
        seed: See `FID`.
        resize: Resize rule of the backbone's images; ``content`` has a rule of its own.
        images: See `stylezoo.metrics.ImageMetric`.

    Raises:
        StylezooError: If there is no such mode.
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
        images: str = "float",
    ) -> None:
        if mode not in ART_FID_POINTS:
            raise StylezooError(f"ArtFID has no mode {mode!r}: choose one of {', '.join(ART_FID_POINTS)}.")
        super().__init__(backbone, dimensions, ART_FID_POINTS[mode], seed, resize, images)
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
