"""Convolutions whose weights least squares finds: a first state from which training has less far to go.

`fit_decoder` inverts an encoder layer by layer (``fit --start least_squares``); `stylezoo.slim` prunes one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from stylezoo.layers import MirroredDecoder
from stylezoo.module import StyleModel
from stylezoo.vgg import VGG


def some_pictures(data: LightningDataModule, count: int) -> Tensor:
    """The first crops that training will see, (count, 3, H, W); the run's own order is not disturbed."""
    pictures = itertools.chain.from_iterable(picture for batch in data.train_dataloader() for picture in batch.values())
    return torch.stack(list(itertools.islice(pictures, count)))


def start_decoder(model: StyleModel, data: LightningDataModule, count: int = 256) -> None:
    """Gives the decoder of a system that paints what its frozen encoder sees its first weights, see `fit_decoder`.

    Args:
        model: With an ``encoder``, a `MirroredDecoder` and a loss network of the decoder's widths.
        data: Its first training crops are what the decoder learns to restore.
        count: How many of them.

    Raises:
        ValueError: If the system is another.
    """
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, MirroredDecoder) or "encoder" not in dict(model.named_children()):
        raise ValueError(
            f"least_squares finds the weights of decoders that mirror the encoder, as adain and efdm have: start"
            f" {model.system} from a model instead (--start adain)."
        )
    data.prepare_data()
    data.setup("fit")
    fit_decoder(decoder, model.encoder, model.loss_network, some_pictures(data, count))


@torch.no_grad()
def fit_decoder(decoder: MirroredDecoder, encoder: VGG, mirrored: VGG, images: Tensor, positions: int = 72) -> None:
    """Gives a decoder weights that restore pictures from an encoder's features, convolution by convolution.

    Each convolution is the least squares fit, through its ReLU, of what the convolution of VGG that it mirrors has as its
    input; the last one, of the picture. So it makes up for the errors of those before.

    Args:
        decoder: Changed in place.
        encoder: Where the features come from.
        mirrored: The VGG whose widths the decoder has; it may be the encoder.
        images: (B, 3, H, W), RGB in [0, 1], H and W multiples of 8.
        positions: How many positions of each picture enter the fit of a layer.

    Raises:
        ValueError: If the widths are not those of ``mirrored``.
    """
    convs = [module for module in decoder if isinstance(module, nn.Conv2d)]
    names = list(mirrored.convs)[: len(convs)]
    widths = [mirrored.convs[name].in_channels for name in reversed(names)]
    if [conv.out_channels for conv in convs] != widths:
        raise ValueError(
            f"least_squares needs a VGG of the decoder's widths, {mirrored.name} has others: name one for the losses"
            " (loss_encoder, such as vgg19_normalised)."
        )
    generator = torch.Generator().manual_seed(0)
    goals: list[tuple[Tensor, Tensor]] = []  # (positions, what should be there) of each convolution, in VGG's order
    for name, x in itertools.islice(conv_inputs(mirrored, images), len(names)):
        x = images if name == names[0] else x
        where = some_positions(x, positions, generator)
        goals.append((where, columns(x, where)))
    layer = names[-1].replace("conv", "relu")
    x = torch.cat([encoder(part, [layer])[layer] for part in torch.split(images, 16)])
    for module in decoder:
        if isinstance(module, nn.Conv2d):
            where, goal = goals.pop()
            fit(module, patches(x, where), goal, rounds=4 if goals else 1)  # no ReLU follows the last one
            padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
            x = torch.cat([module(part) for part in torch.split(padded, 16)])
        elif not isinstance(module, nn.ReflectionPad2d):
            x = module(x)


def some_positions(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random positions of each map, (B, count)."""
    return torch.stack([torch.randperm(x.shape[-2] * x.shape[-1], generator=generator)[:count] for _ in x])


def convolutions(modules: nn.ModuleDict) -> dict[str, nn.Conv2d]:
    return {name: conv for name, conv in modules.items() if isinstance(conv, nn.Conv2d)}


def fit(conv: nn.Conv2d, inputs: Tensor, goal: Tensor, rounds: int = 4) -> Tensor:
    """Sets a convolution to what `fit_relu` finds; its weight as (K, D)."""
    weight, bias = fit_relu(inputs, goal, rounds)
    conv.weight.copy_(weight.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return weight


def conv_inputs(network: VGG, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, input) of each convolution; the weights of one may change before the next is asked for."""
    x = network.preprocess(images)
    for name, conv in network.convs.items():
        if name.endswith("_1") and name != "conv1_1":
            x = network._pool(x)
        yield name, x
        x = torch.cat([F.relu(conv(part)) for part in torch.split(x, 16)])


def columns(x: Tensor, where: Tensor) -> Tensor:
    """Some positions of each map, (B, C, H, W) and (B, P) -> (B * P, C)."""
    return x.flatten(2).gather(2, where[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2).flatten(0, 1)


def patches(x: Tensor, where: Tensor) -> Tensor:
    """The same of the 3x3 windows around them, (B * P, 9 C)."""
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return torch.cat([columns(F.unfold(padded[i, None], 3)[..., None], where[i, None]) for i in range(len(x))])


def choose(features: Tensor, importance: Tensor, count: int) -> list[int]:
    """The channels from which a linear map predicts all channels best, found greedily.

    Args:
        features: (N, C).
        importance: (C, C), the metric of the prediction's error.
        count: How many, at most C.
    """
    rest = torch.cov(features.double().T)  # what the chosen ones leave unexplained
    importance = importance.to(rest)
    floor = 1e-6 * rest.diagonal().max()
    chosen: list[int] = []
    for _ in range(count):
        gain = ((rest @ importance) * rest).sum(1) / rest.diagonal().clamp_min(floor)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        rest = rest - torch.outer(rest[:, best], rest[best]) / rest[best, best].clamp_min(floor)
    return sorted(chosen)


def fit_relu(inputs: Tensor, goal: Tensor, rounds: int = 4, ridge: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) with relu(inputs weight^T + bias) ~ relu(goal), for inputs (N, D) and goal (N, K).

    Least squares, repeated: where both prediction and goal are negative there is no error.
    """
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    normal = (inputs.T @ inputs).double()
    normal += ridge * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    factor = torch.linalg.cholesky(normal)
    wanted = goal
    for _ in range(rounds):
        solution = torch.cholesky_solve((inputs.T @ wanted).double(), factor).float()
        wanted = torch.where(goal > 0, goal, (inputs @ solution).clamp_max(0))
    return solution[:-1].T.contiguous(), solution[-1]
