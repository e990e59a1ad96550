"""First weights with which `stylezoo.layers.ConditionalTransformer` passes images on.

Down: each convolution takes the principal components of what it sees, and shifts lift them over the ReLU behind. The
residual blocks add little. Up: least squares restores what the way down had, and at last the image. What is left to the
scales and shifts of the last norm is brightness and contrast of its colors: those of a style can be set at once. Training
goes on from there to strokes, where random weights have to find the image first. Not from a paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import ConditionalTransformer
from stylezoo.training.least_squares import columns, patches, some_positions, watched

LIFT = 3.0
"""Standard deviations by which features are lifted over a ReLU."""

ADDED = 0.1
"""How much residual blocks add, in standard deviations."""


@torch.no_grad()
def pass_through(network: ConditionalTransformer, images: Tensor, positions: int = 64) -> tuple[Tensor, Tensor]:
    """Sets the convolutions and the norms of the way down.

    Args:
        network: Without separable convolutions, in eval mode; its norms on the way down are its own (``contract_norm``).
        images: (B, 3, H, W), RGB in [0, 1], H and W multiples of 4.
        positions: How many positions of each image a convolution is fitted to.

    Returns:
        Scales and shifts of the other norms, each (sum of ``channels``,).
    """
    generator = torch.Generator().manual_seed(0)
    levels = [images]
    for conv, norm in zip(network.contract, network.norms, strict=True):
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        where = some_positions(conv(levels[-1]), positions, generator)
        take_components(conv, centerd(patches(levels[-1], where, conv), len(images)))
        features = conv(levels[-1])
        norm.running_mean.copy_(features.mean((0, 2, 3)))
        norm.running_var.copy_(features.var((0, 2, 3)))
        norm.bias.fill_(LIFT)
        levels.append(F.relu(norm(features)))
    for conv in network.residual:
        assert isinstance(conv, nn.Conv2d)
        nn.init.kaiming_normal_(conv.weight)
    count = len(network.residual)
    scales, shifts = ([x.new_full((c,), v) for c in network.channels] for x, v in ((images, 1.0), (images, 0.0)))
    for second in scales[1:count:2]:
        second.fill_(ADDED)
    for up in shifts[count:-1]:
        up.fill_(LIFT)
    scale, shift = torch.cat(scales), torch.cat(shifts)
    for conv, goal in zip(network.expand, levels[-2::-1], strict=True):
        assert isinstance(conv, nn.Conv2d)
        x = conv_input(network, conv, images, scale, shift)
        where = some_positions(goal, positions, generator)
        inputs, wanted = (centerd(part, len(images)) for part in (patches(x, where, conv), columns(goal, where)))
        weight, _ = linear_fit(inputs, wanted, ridge=1e-3)
        conv.weight.copy_(weight.reshape(conv.weight.shape))
    return scale, shift


def centerd(x: Tensor, pictures: int) -> Tensor:
    """(N, D) without the mean of each image, of which norms keep nothing."""
    parts = x.reshape(pictures, -1, x.shape[1])
    return (parts - parts.mean(1, keepdim=True)).reshape(x.shape)


def colors(styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of the last norm that give an image means and deviations of (B, 3, H, W), each (B, 3).

    Behind the norm is a sigmoid, here taken for its tangent.
    """
    mean, deviation = styles.mean((2, 3)).clamp(0.02, 0.98), styles.std((2, 3))
    return deviation / (mean * (1 - mean)), mean.logit()


def linear_fit(inputs: Tensor, goal: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of the linear map from (N, D) to (N, K), damped by a share of the mean variance."""
    centerd, wanted = (inputs - inputs.mean(0)).double(), (goal - goal.mean(0)).double()
    normal = centerd.T @ centerd
    normal.diagonal().add_(ridge * normal.diagonal().mean())
    weight = torch.linalg.solve(normal, centerd.T @ wanted).T.to(inputs)
    return weight, goal.mean(0) - weight @ inputs.mean(0)


def take_components(conv: nn.Conv2d, seen: Tensor) -> None:
    """Lets a convolution take the principal components of the inner 3x3 of its windows (N, D), as many as there are."""
    height, width = conv.kernel_size
    inner = torch.zeros(height, width, dtype=torch.bool, device=seen.device)
    inner[height // 2 - 1 : height // 2 + 2, width // 2 - 1 : width // 2 + 2] = True
    inner = inner.flatten().repeat(conv.in_channels)
    variances, axes = torch.linalg.eigh(seen[:, inner].T.cov())  # ascending
    components = (axes / (variances + 1e-3 * variances.mean()).sqrt()).T[-conv.out_channels :]
    weight = conv.weight.flatten(1).clone()  # channels beyond the components stay random
    weight[: len(components)] = 0
    weight[: len(components), inner] = components
    conv.weight.copy_(weight.reshape(conv.weight.shape))


def conv_input(
    network: ConditionalTransformer, conv: nn.Conv2d, images: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """What a convolution sees."""
    seen: list[Tensor] = []
    with watched({"": conv}, lambda _, x, __: seen.append(x)):
        network(images, scale[None], shift[None])
    return seen[0]
