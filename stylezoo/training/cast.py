"""`CAST`, a contrastive loss of styles against a memory bank of other styles (Zhang et al., SIGGRAPH 2022).

The paper trains AdaIN's networks with it (experiments/adain_cast.yaml); any system whose styles are images can be.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.transforms.v2 import RandomResizedCrop

from stylezoo.errors import StylezooError, check_number
from stylezoo.losses import at_least_float32, of_all_processes, without_autocast
from stylezoo.module import AdditionalLoss, Stylization

HALF = 0.5
"""The reference halves the sum of its two domains, of which only that of the style images has these losses."""


class CAST(AdditionalLoss):
    """Contrastive learning of style (arXiv:2205.09542; zyxElsa/CAST_pytorch@67a7d9c cast_model.py, MSP.py).

    A multi-layer style projector describes an image by one code of length 1 per layer. It learns to describe two random crops of
    a style image alike, and unlike the images of a memory bank, which holds the codes of the latest styles. The model learns that a
    crop of its output gets the code of a crop of its style, and none of those in the bank.

    The terms are called ``cast_projector``, which trains nothing but the projector, and ``cast``, which trains nothing but the model:
    the cross entropy of the right code among it and the bank, mean over the batch, half of the sum over layers.

    The bank and the projector are part of checkpoints. As in the reference, the codes of a batch enter the bank before it is
    compared with them: the loss of a style that fits perfectly is log 2. The bank holds 134 MB with the settings of the reference.

    Deviations: the paper's domain enhancement (two adversarial losses and a second decoder with cycle consistency) is no part
    of this loss and is left out; the losses of the system take its place. The reference computes features with a VGG-19 of its own,
    with batch norms, which is trained with the projector from random weights (it overwrites the file that it loads); here they are those of
    the loss encoder, which is frozen. The reference steps the projector first and draws another crop of each style for the model's term;
    here one step trains both, and the second of the projector's crops serves the model's term, too. Crops are those of torchvision,
    not of kornia. The codes of a batch wrap around the end of the bank where the reference demands that they fill it evenly.

    Args:
        weight: Of the term ``cast``.
        projector_weight: Of the term ``cast_projector``.
        layers: Of the loss encoder.
        bank: Number of codes per layer in the memory bank.
        temperature: Divides the similarities.
        widths: Numbers of channels of the three linear layers of the projector; the last is that of the codes.
        crop: Side in pixels to which crops are resized.

    Raises:
        StylezooError: If a number is out of range, or there is no layer.
    """

    style_images = True
    optimizer_options: ClassVar[dict[str, Any]] = {"betas": (0.5, 0.999)}
    bank: Tensor
    position: Tensor

    def __init__(
        self,
        weight: float = 0.05,
        projector_weight: float = 1.0,
        layers: Sequence[str] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1"),
        bank: int = 4096,
        temperature: float = 0.07,
        widths: Sequence[int] = (1024, 2048, 2048),
        crop: int = 256,
    ) -> None:
        super().__init__()
        self.weight = check_number("weight", weight, "a finite number from 0 up", 0)
        self.projector_weight = check_number("projector_weight", projector_weight, "a finite number from 0 up", 0)
        self.size = check_number("bank", bank, "a number of codes, at least 1", 1, whole=True)
        self.temperature = check_number("temperature", temperature, "a finite number, at least 0.001", 1e-3)
        crop = check_number("crop", crop, "a number of pixels, at least 16", 16, whole=True)
        if not layers or not widths:
            raise StylezooError(
                "CAST needs at least one layer and one width: leave layers and widths out, or name some."
            )
        self.layers = tuple(layers)
        meaning = "numbers of channels, each at least 1"
        self.widths = [check_number("widths", width, meaning, 1, whole=True) for width in widths]
        self.random_crop = RandomResizedCrop((crop, crop), scale=(0.8, 1.0), ratio=(0.75, 1.33))

    def build(self, channels: Mapping[str, int]) -> None:
        """Builds the projector, and the bank of random codes."""
        self.projector = StyleProjector([channels[layer] for layer in self.layers], self.widths)
        codes = torch.randn(len(self.layers), self.size, self.widths[-1])
        self.register_buffer("bank", F.normalize(codes, dim=2))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(self, stylization: Stylization) -> dict[str, Tensor]:
        height, width = stylization.content.shape[-2:]
        style, output = stylization.style, stylization.output[..., :height, :width]
        with torch.no_grad():
            pooled = self._pooled(stylization, torch.cat([self._crops(style), self._crops(style)]))
        first, second = self.projector(pooled).chunk(2, dim=1)
        if self.training:
            self._store(first.detach())
        bank = self.bank.clone()  # the next step changes it in place
        frozen = {name: parameter.detach() for name, parameter in self.projector.named_parameters()}
        query = functional_call(self.projector, frozen, (self._pooled(stylization, self._crops(output)),))
        return {
            "cast": HALF * self.weight * bank_loss(query, second.detach(), bank, self.temperature),
            "cast_projector": HALF * self.projector_weight * bank_loss(first, second, bank, self.temperature),
        }

    def _crops(self, images: Tensor) -> Tensor:
        """Returns a random crop of each image, (B, 3, crop, crop)."""
        return torch.stack([self.random_crop(image) for image in at_least_float32(images)])

    def _pooled(self, stylization: Stylization, images: Tensor) -> list[Tensor]:
        """Returns mean and maximum of the features of images over positions, (B, 2 C) for each layer."""
        features = stylization.features_of(images.to(stylization.content.dtype))
        maps = [at_least_float32(features[layer]) for layer in self.layers]
        return [torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1) for x in maps]

    @torch.no_grad()
    def _store(self, codes: Tensor) -> None:
        """Replaces the oldest codes of the bank by those (L, B, C) of all processes.

        Raises:
            StylezooError: If the bank is smaller than the batch.
        """
        codes = of_all_processes(codes, dim=1).to(self.bank)
        if codes.shape[1] > self.size:
            raise StylezooError(
                f"The bank of CAST holds {self.size} codes and a batch of all processes has {codes.shape[1]}: raise bank"
                " (training.losses), or lower data.batch_size."
            )
        places = (self.position + torch.arange(codes.shape[1], device=codes.device)) % self.size
        self.bank[:, places] = codes
        self.position.add_(codes.shape[1]).remainder_(self.size)


class StyleProjector(nn.Module):
    """Turns pooled features of several layers into codes of length 1, layer by layer.

    Args:
        channels: C of each layer.
        widths: Numbers of channels of the linear layers.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_linear_layers([2 * count, count, *widths]) for count in channels)

    def forward(self, pooled: Sequence[Tensor]) -> Tensor:
        """(B, 2 C) for each layer -> (L, B, C')."""
        dtype = next(self.parameters()).dtype
        with without_autocast(pooled[0]):
            codes = [layer(x.to(dtype)) for layer, x in zip(self.layers, pooled, strict=True)]
            return F.normalize(at_least_float32(torch.stack(codes)), dim=2)


def _linear_layers(widths: Sequence[int]) -> nn.Sequential:
    """Returns linear layers with ReLUs between them, initialized as in the reference (init_net)."""
    linears = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
    for linear in linears:
        nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
    modules = [module for linear in linears for module in (linear, nn.ReLU())]
    return nn.Sequential(*modules[:-1])


def bank_loss(query: Tensor, key: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """Cross entropy of the key of each query among it and the bank, mean over queries, summed over layers.

    Args:
        query: (L, B, C), each of length 1.
        key: (L, B, C).
        bank: (L, K, C).
        temperature: Divides the similarities.
    """
    with without_autocast(query):
        own = (query * key).sum(2, keepdim=True)
        others = query @ bank.to(query.dtype).mT  # (L, B, K)
        similarities = torch.cat([own, others], 2) / temperature
    return (similarities.logsumexp(2) - similarities[..., 0]).mean(1).sum()
