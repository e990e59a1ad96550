"""Perceptual losses of images that are too large for the graph of the whole: loss and exact gradient, tile by tile.

Style losses depend on an image by the mean and the covariance of its features alone. A first pass over the tiles adds these
up, without a graph; the loss of the sums, and its gradient with respect to them, are those of the whole image. In a second
pass each tile gets the gradient that its features have in these sums. Of the whole image only the content layers are kept,
which are deep and small, so memory hardly grows with it.

The gradient of a sum of products C = sum (f - m)(f - m)^T over positions, m their mean, with respect to the features f of a
position is (A + A^T)(f - m) for a gradient A of C; m itself has no part in it, because the f - m add up to zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from stylezoo.losses import Moments, PerceptualLoss, at_least_float32, evening, without_autocast
from stylezoo.streaming.memory import free_memory
from stylezoo.vgg import VGG, Features

SMALLEST_TILE = 512
"""Side in pixels of tiles that take little memory: halos are a third of what is computed."""

TILES = (4096, 2048, 1024, SMALLEST_TILE)
"""Sides from which the largest is chosen that fits into memory."""

BYTES_PER_PIXEL = 4000
"""What the features of VGG-19 up to relu5_1, and their gradients, take in float32 (``benchmarks/gatys_memory.py``)."""

SHARE = 0.7
"""Of the free memory that is used."""


class Piece(NamedTuple):
    """A tile with its halo.

    Attributes:
        top: First row with the halo, in pixels.
        bottom: Row after the last one.
        left: First column.
        right: Column after the last one.
        inside: (top, bottom, left, right) of the tile itself.
    """

    top: int
    bottom: int
    left: int
    right: int
    inside: tuple[int, int, int, int]

    def of(self, image: Tensor) -> Tensor:
        """The piece of an image, (B, 3, H, W) -> (B, 3, h, w)."""
        return image[..., self.top : self.bottom, self.left : self.right]

    def place(self, stride: int) -> tuple[slice, slice]:
        """Rows and columns of the tile in a map of the whole image whose positions are ``stride`` pixels apart."""
        top, bottom, left, right = (math.ceil(edge / stride) for edge in self.inside)
        return slice(top, bottom), slice(left, right)

    def of_map(self, features: Tensor, stride: int) -> Tensor:
        """The tile in a map of the whole image, (B, C, H, W) -> (B, C, h, w)."""
        rows, columns = self.place(stride)
        return features[..., rows, columns]

    def inner(self, features: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """The tile in a map of the piece, (B, C, h, w), of a map of ``size`` of the whole image."""
        rows, columns = self.place(stride)
        y, x = self.top // stride, self.left // stride
        bottom, right = min(rows.stop, size[0]), min(columns.stop, size[1])
        return features[..., rows.start - y : bottom - y, columns.start - x : right - x]


class Sums:
    """Mean and sum of centered products over positions, added up tile by tile in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.products = torch.empty(0)

    def add(self, features: Tensor) -> None:
        """Adds the features (B, C, h, w) of a tile."""
        count = features.shape[-2] * features.shape[-1]
        if not count:  # a rest that is smaller than a position
            return
        with without_autocast(features):
            flat = at_least_float32(features).flatten(2)
            mean = flat.mean(2, keepdim=True)
            centered = flat - mean
            products, mean = exact(centered @ centered.transpose(1, 2)), exact(mean)
        if not self.count:
            self.count, self.mean, self.products = count, mean, products
            return
        both = self.count + count
        difference = mean - self.mean
        between = difference @ difference.transpose(1, 2) * (self.count * count / both)
        self.products = self.products + products + between
        self.mean = self.mean + difference * (count / both)
        self.count = both

    def moments(self) -> Moments:
        """The moments, as `Moments.of` measures them of the whole; their gradient leads to ``mean`` and ``products``."""
        gram = self.products + self.count * self.mean @ self.mean.transpose(1, 2)
        variance = self.products.diagonal(dim1=1, dim2=2)[..., None, None] / max(self.count - 1, 1)
        positive = variance > 0  # at 0 the root has no gradient
        std = torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
        return Moments(gram, self.mean[..., None], std, torch.full_like(gram[:, :1, :1], self.count))


class Slope(NamedTuple):
    """The gradient that the features of a layer have in the loss, through their mean and products.

    Attributes:
        products: Gradient of the sum of products, (B, C, C).
        shift: Gradient of the mean, divided by the number of positions, (B, C, 1).
        mean: The mean, (B, C, 1).
    """

    products: Tensor
    shift: Tensor
    mean: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """The gradient of the features (B, C, h, w) of a tile."""
        with without_autocast(features):
            flat = at_least_float32(features).flatten(2)
            symmetric = (self.products + self.products.transpose(1, 2)).to(flat)
            gradient = symmetric @ (flat - self.mean.to(flat)) + self.shift.to(flat)
        return gradient.reshape(features.shape).to(features.dtype)

    def scaled(self, factor: Tensor) -> Slope:
        """The gradient times a factor per sample, (B, 1, 1)."""
        return Slope(self.products * factor, self.shift * factor, self.mean)


def one_norm(gradient: Tensor) -> Tensor:
    """Sum of absolute values per sample, (B, C, H, W) -> (B, 1, 1, 1)."""
    return gradient.abs().sum((1, 2, 3), keepdim=True)


def radius(convs: list[str], layer: str) -> int:
    """Radius of the receptive field of a layer of VGG in pixels; its convolutions in order."""
    result = 0
    for name in convs[: convs.index(layer.replace("relu", "conv")) + 1]:
        step = 2 ** (int(name[4]) - 1)
        result += step + (step // 2 if name.endswith("_1") else 0)  # a pool precedes the first one of a block
    return result


def fitting_tile(image: Tensor) -> tuple[int | None, float, float]:
    """Returns the side of the tiles in which the loss of an image fits into free memory; None if the whole does.

    Args:
        image: (B, 3, H, W).

    Returns:
        The side, and the bytes that the whole would take, and those that are free.
    """
    size = BYTES_PER_PIXEL * image.element_size() / 4 * len(image)
    needed, free = size * image.shape[-2] * image.shape[-1], free_memory(image.device)
    if needed <= SHARE * free:
        return None, needed, free
    halo = 96
    fitting = (tile for tile in TILES if size * (tile + 2 * halo) ** 2 <= SHARE * free)
    return next(fitting, SMALLEST_TILE), needed, free


def exact(x: Tensor) -> Tensor:
    """The same in float64, where the device has it."""
    return x if x.device.type == "mps" else x.double()


class TiledLoss:
    """A perceptual loss and its gradient, tile by tile.

    Args:
        encoder: The network of the losses.
        loss: Layers and statistics; the style loss has a name of `stylezoo.losses.STYLE_STATISTICS`.
        weights: Of the terms ``content`` and ``style``.
        tile: Side of the tiles in pixels; the larger, the less is computed twice, and the more memory it takes.
        even: Whether the gradient of each layer is divided by its L1 norm, see `stylezoo.losses.even_gradient`.
    """

    def __init__(
        self, encoder: VGG, loss: PerceptualLoss, weights: Mapping[str, float], tile: int, even: bool = False
    ) -> None:
        self.encoder, self.loss, self.weights, self.even = encoder, loss, weights, even
        order = list(encoder.convs)
        self.strides = {name: 2 ** (int(name[4]) - 1) for name in loss.layers}
        deepest = max(loss.layers, key=lambda name: order.index(name.replace("relu", "conv")))
        stride = max(self.strides.values())
        self.tile = -(-tile // stride) * stride
        self.halo = -(-radius(order, deepest) // stride) * stride

    def pieces(self, image: Tensor) -> Iterator[Piece]:
        """Yields the tiles of an image (B, 3, H, W)."""
        height, width = image.shape[-2:]
        for top, left in itertools.product(range(0, height, self.tile), range(0, width, self.tile)):
            bottom, right = min(top + self.tile, height), min(left + self.tile, width)
            outer = max(0, top - self.halo), min(bottom + self.halo, height)
            yield Piece(*outer, max(0, left - self.halo), min(right + self.halo, width), (top, bottom, left, right))

    def features(self, cut: Tensor, piece: Piece, size: torch.Size, layers: list[str]) -> Features:
        """The features of a tile, (B, C, h, w) each.

        Args:
            cut: The piece of the image.
            piece: Where it was cut.
            size: Of the whole image, (..., H, W).
            layers: Their names.
        """
        features: Features = self.encoder(cut, layers)
        return {name: piece.inner(f, self.strides[name], self._size(name, size)) for name, f in features.items()}

    def _size(self, layer: str, size: torch.Size) -> tuple[int, int]:
        """Height and width of a layer's map of the whole image."""
        rounded = math.ceil if self.encoder.ceil_mode else math.floor
        height, width = (rounded(side / self.strides[layer]) for side in size[-2:])
        return height, width

    @torch.no_grad()
    def measure(self, image: Tensor, layers: list[str], kept: list[str]) -> tuple[dict[str, Sums], Features]:
        """Adds the features of an image up.

        Args:
            image: (B, 3, H, W).
            layers: Layers whose statistics are wanted.
            kept: Layers whose features are wanted as they are.

        Returns:
            The sums of ``layers``, and the features of ``kept``.
        """
        sums = {name: Sums() for name in layers}
        whole: Features = {}
        for piece in self.pieces(image):
            for name, f in self.features(piece.of(image), piece, image.shape, [*layers, *kept]).items():
                if name in sums:
                    sums[name].add(f)
                if name in kept:
                    if name not in whole:
                        whole[name] = f.new_empty(*f.shape[:2], *self._size(name, image.shape))
                    piece.of_map(whole[name], self.strides[name]).copy_(f)
        return sums, whole

    def targets(
        self, image: Tensor, content_layers: list[str], style_layers: list[str]
    ) -> tuple[Features, dict[str, Moments]]:
        """Measures what another image is to resemble, moments in float64.

        Args:
            image: (B, 3, H, W).
            content_layers: Layers whose features are returned.
            style_layers: Layers whose moments are returned.
        """
        sums, features = self.measure(image, style_layers, content_layers)
        return features, {name: s.moments() for name, s in sums.items()}

    def __call__(self, image: Tensor, content: Features, style: Mapping[str, Moments]) -> tuple[Tensor, Tensor]:
        """Returns the weighted sum of the loss terms, and its gradient with respect to the image.

        Args:
            image: (B, 3, H, W).
            content: Target features of the content layers.
            style: Target moments of the style layers.

        Returns:
            A scalar, and (B, 3, H, W).
        """
        sums, whole = self.measure(image, [*self.loss.style_layers], [*self.loss.content_layers])
        loss, slopes, for_content = self._of_sums(sums, whole, content, style)
        if self.even:
            strengths = {n: self.weights["content"] * weight for n, weight in self.loss.content_layers.items()}
            for_content = {n: g * evening(one_norm(g), strengths[n]) for n, g in for_content.items()}
            slopes = self._even_slopes(image, slopes)
        gradient = torch.zeros_like(image)
        for piece in self.pieces(image):
            with torch.enable_grad():
                cut = piece.of(image).detach().requires_grad_()
                features = self.features(cut, piece, image.shape, self.loss.layers)
            backs = [torch.zeros_like(f) for f in features.values()]
            for back, (name, f) in zip(backs, features.items(), strict=True):
                if name in slopes:
                    back += slopes[name](f.detach())
                if name in for_content:
                    back += piece.of_map(for_content[name], self.strides[name])
            piece.of(gradient).add_(torch.autograd.grad([*features.values()], [cut], backs)[0])
        return loss.to(image.dtype), gradient

    def _of_sums(
        self, sums: dict[str, Sums], whole: Features, content: Features, style: Mapping[str, Moments]
    ) -> tuple[Tensor, dict[str, Slope], Features]:
        """Returns the loss, and its gradient with respect to the features: of style, and of content layers."""
        with torch.enable_grad():
            leaves = [x.requires_grad_() for s in sums.values() for x in (s.products, s.mean)]
            leaves += [f.requires_grad_() for f in whole.values()]
            alike = {name: m if m.gram.dtype == leaves[0].dtype else m.to(leaves[0].dtype) for name, m in style.items()}
            terms = self.loss(whole, content=content)
            terms |= self.loss({name: s.moments() for name, s in sums.items()}, style=alike)
            loss = torch.stack([exact(self.weights[name] * term) for name, term in terms.items()]).sum()
            found = iter(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
        slopes = {name: Slope(next(found), next(found) / s.count, s.mean.detach()) for name, s in sums.items()}
        return loss.detach(), slopes, {name: next(found) for name in whole}

    @torch.no_grad()
    def _even_slopes(self, image: Tensor, slopes: dict[str, Slope]) -> dict[str, Slope]:
        """Divides the gradients of style layers by their L1 norms, which takes a pass over the tiles."""
        norms: dict[str, Tensor] = {}
        for piece in self.pieces(image):
            for name, f in self.features(piece.of(image), piece, image.shape, [*slopes]).items():
                norms[name] = norms.get(name, 0) + one_norm(slopes[name](f))
        strengths = {name: self.weights["style"] * weight for name, weight in self.loss.style_layers.items()}
        return {name: slope.scaled(evening(norms[name], strengths[name])[..., 0]) for name, slope in slopes.items()}
