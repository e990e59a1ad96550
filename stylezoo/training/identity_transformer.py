"""An initialization with which `stylezoo.layers.ConditionalTransformer` is close to the identity. It is from no paper.

In the contracting half, each convolution computes the principal components of its inputs, and shifts lift them above the
following ReLU. Residual blocks add little. In the expanding half, least squares restores the inputs of the contracting
half level by level, and finally the image. The scales and shifts of the last norm then set brightness and contrast of its
colors, so that those of a style can be set at once; training starts from there instead of from noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import ConditionalTransformer
from stylezoo.training.regression import columns, forward_hooks, patches, some_positions

LIFT = 3.0
"""Standard deviations by which features are lifted above a ReLU."""

RESIDUAL_SCALE = 0.1
"""Standard deviation of what residual blocks add, in that of their inputs."""


@torch.no_grad()
def initialize_identity(network: ConditionalTransformer, images: Tensor, positions: int = 64) -> tuple[Tensor, Tensor]:
    """Sets the convolutions, and the norms of the contracting half.

    Args:
        network: Without separable convolutions, in eval mode; the norms of its contracting half are its own (``contract_norm``).
        images: (B, 3, H, W), RGB in [0, 1], H and W multiples of 4.
        positions: Number of positions of each image that a convolution is fitted to.

    Returns:
        Scales and shifts of the other norms, each (sum of ``channels``,).
    """
    generator = torch.Generator().manual_seed(0)
    levels = [images]
    for conv, norm in zip(network.contract, network.norms, strict=True):
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        where = some_positions(conv(levels[-1]), positions, generator)
        take_components(conv, centered(patches(levels[-1], where, conv), len(images)))
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
        second.fill_(RESIDUAL_SCALE)
    for up in shifts[count:-1]:
        up.fill_(LIFT)
    scale, shift = torch.cat(scales), torch.cat(shifts)
    for conv, target in zip(network.expand, levels[-2::-1], strict=True):
        assert isinstance(conv, nn.Conv2d)
        x = conv_input(network, conv, images, scale, shift)
        where = some_positions(target, positions, generator)
        inputs, wanted = (centered(part, len(images)) for part in (patches(x, where, conv), columns(target, where)))
        weight, _ = linear_fit(inputs, wanted, ridge=1e-3)
        conv.weight.copy_(weight.reshape(conv.weight.shape))
    return scale, shift


def centered(x: Tensor, images: int) -> Tensor:
    """Subtracts the mean of each image from (N, D); norms remove it anyway."""
    parts = x.reshape(images, -1, x.shape[1])
    return (parts - parts.mean(1, keepdim=True)).reshape(x.shape)


def color_parameters(styles: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scale and shift of the last norm that give an image the means and deviations of (B, 3, H, W), each (B, 3).

    The sigmoid that follows the norm is approximated by its tangent.
    """
    mean, deviation = styles.mean((2, 3)).clamp(0.02, 0.98), styles.std((2, 3))
    return deviation / (mean * (1 - mean)), mean.logit()


def linear_fit(inputs: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Fits weight (K, D) and bias (K,) of a linear map from (N, D) to (N, K), damped by a share of the mean variance."""
    x, y = (inputs - inputs.mean(0)).double(), (target - target.mean(0)).double()
    normal = x.T @ x
    normal.diagonal().add_(ridge * normal.diagonal().mean())
    weight = torch.linalg.solve(normal, x.T @ y).T.to(inputs)
    return weight, target.mean(0) - weight @ inputs.mean(0)


def take_components(conv: nn.Conv2d, windows: Tensor) -> None:
    """Makes a convolution compute the principal components of the inner 3x3 of its windows (N, D), as many as there are."""
    height, width = conv.kernel_size
    inner = torch.zeros(height, width, dtype=torch.bool, device=windows.device)
    inner[height // 2 - 1 : height // 2 + 2, width // 2 - 1 : width // 2 + 2] = True
    inner = inner.flatten().repeat(conv.in_channels)
    variances, axes = torch.linalg.eigh(windows[:, inner].T.cov())  # ascending
    components = (axes / (variances + 1e-3 * variances.mean()).sqrt()).T[-conv.out_channels :]
    weight = conv.weight.flatten(1).clone()  # channels beyond the components stay random
    weight[: len(components)] = 0
    weight[: len(components), inner] = components
    conv.weight.copy_(weight.reshape(conv.weight.shape))


def conv_input(
    network: ConditionalTransformer, conv: nn.Conv2d, images: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Returns the input of a convolution of the network."""
    inputs: list[Tensor] = []
    with forward_hooks({"": conv}, lambda _, x, __: inputs.append(x)):
        network(images, scale[None], shift[None])
    return inputs[0]
