r"""Texture nets - Texture Networks: Feed-forward Synthesis of Textures and Stylized Images (Ulyanov et al., ICML 2016,
arXiv:1603.03417), and the paper that replaced its normalization: Instance Normalization (arXiv:1607.08022).

A pyramid of tiny networks stylizes with one style in a single pass: it processes the image at six scales, from 1/32 up to its
own size, and the results are joined from coarse to fine, 8 channels more at each step: 116,915 parameters. Instance
normalization, which removes the contrast of each image, also at test time, is what made its results good;
the authors then took Johnson's residual network for it.

    python -m stylezoo fit --config experiments/texture_nets.yaml --model.style_image data/styles/mosaic.jpg
    python -m stylezoo fit --config experiments/texture_nets.yaml --config experiments/texture_nets_johnson.yaml \
                           --model.style_image data/styles/mosaic.jpg

Equations, for a content $c$, the style $s$ of the network and an output $o$: $B_k$ and $J_k$ are small stacks of
convolutions, $c_k$ is the content averaged over $2^k$ x $2^k$ pixels, $\mu$ and $\sigma$ are mean and standard
deviation of a channel over positions, $\phi_l$ are the features of the losses at layer $l$, $X$ are features as a
matrix of $C$ channels and $HW$ positions, and $\|x\|^2$ is the mean of squares.

    y_5 = B_5(c_5), \qquad y_k = J_k \left( \left[ N(\mathrm{upsample}(y_{k+1})), N(B_k(c_k)) \right] \right), \quad k =
        4, \dots, 0
    o = \mathrm{conv}_{1 \times 1}(y_0), \qquad N(x) = \gamma \, \frac{x - \mu(x)}{\sigma(x)} + \beta
    L = \lambda_c \|\phi_c(o) - \phi_c(c)\|^2 + \lambda_s \sum_l \|G(\phi_l(o)) - G(\phi_l(s))\|^2 + \lambda_{tv}
        \mathrm{TV}(o)
    G(X) = \frac{X X^T}{C H W}

Deviations: the defaults are DmitryUlyanov/texture_nets@aad2cc6 train.lua (Torch7, re-implemented by reading it). Its
branch texture_nets_v1 (@b2097ec), the code of the first paper, differs: batch normalization, leaky ReLUs, circular
padding and noise beside the image at every scale (texture_nets_v1.yaml). What differs here:
- sizes: the pyramid of the reference takes multiples of 32 only; here the coarse scales average what is left at the
  right and bottom, and are cut to fit when they are joined, which changes nothing for multiples of 32. The output has
  the content's size, where the reference's residual network rounds up to a multiple of 4 (ours is the top-left crop);
- noise is new at every training step, as in the reference, but always the same at inference, decided by ``seed``;
- the style image is resized bilinearly with antialiasing, the reference's master bicubically without;
- total variation is averaged over the batch, where the reference adds its gradient summed over the batch.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from stylezoo.bases import SingleStyleModel
from stylezoo.errors import StylezooError
from stylezoo.layers import BatchNorm, ConvLayer, InstanceNorm, JohnsonTransformer, Norm, uniform_scales
from stylezoo.losses import PerceptualLoss
from stylezoo.registry import register
from stylezoo.vgg import CAFFE_MEAN_BGR

Generator = Literal["pyramid", "johnson"]
Padding = Literal["replicate", "circular"]

CONTENT_LAYERS = {"relu4_2": 1.0}
STYLE_LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
RATIOS = (32, 16, 8, 4, 2, 1)
CHANNELS = 8  # that every scale adds


class Stack(nn.Module):
    """Convolutions 3x3, 3x3 and 1x1, each with normalization and ReLU."""

    def __init__(self, in_channels: int, channels: int, norm: Norm, padding: Padding, negative_slope: float) -> None:
        super().__init__()
        sizes = ((in_channels, 3), (channels, 3), (channels, 1))
        self.layers = nn.ModuleList(ConvLayer(n, channels, side, padding=padding, norm=norm) for n, side in sizes)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu(layer(x), self.negative_slope)
        return x


class Pyramid(nn.Module):
    """The pyramid generator (models/pyramid.lua): 116,915 parameters without noise."""

    def __init__(self, norm: Norm, padding: Padding, negative_slope: float, noise: int) -> None:
        super().__init__()
        normalize = InstanceNorm if norm == "instance" else BatchNorm
        widths = [CHANNELS * n for n in range(1, len(RATIOS))]  # of what comes from the coarser scales
        self.noise = noise
        self.scales = nn.ModuleList(Stack(3 + noise, CHANNELS, norm, padding, negative_slope) for _ in RATIOS)
        # Both sides are normalized before they are joined, so that they weigh the same.
        self.coarse_norms = nn.ModuleList(normalize(width) for width in widths)
        self.fine_norms = nn.ModuleList(normalize(CHANNELS) for _ in widths)
        self.joined = nn.ModuleList(
            Stack(width + CHANNELS, width + CHANNELS, norm, padding, negative_slope) for width in widths
        )
        self.last = nn.Conv2d(CHANNELS * len(RATIOS), 3, 1)

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W); (B, 3, 33, 33) where neither side is longer than 32.

        Args:
            x: The images.
            random: Where the noise comes from, if there is some.
        """
        if max(x.shape[-2:]) <= RATIOS[0]:  # a coarsest map of one position has nothing to normalize
            x = F.pad(x, (0, RATIOS[0] + 1 - x.shape[-1], 0, RATIOS[0] + 1 - x.shape[-2]), mode="replicate")
        coarse = self._scale(0, x, random)
        for index, (coarse_norm, fine_norm, joined) in enumerate(
            zip(self.coarse_norms, self.fine_norms, self.joined, strict=True), start=1
        ):
            fine = self._scale(index, x, random)
            coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")[..., : fine.shape[-2], : fine.shape[-1]]
            coarse = joined(torch.cat([coarse_norm(coarse), fine_norm(fine)], 1))
        output: Tensor = self.last(coarse)
        return output

    def _scale(self, index: int, x: Tensor, random: torch.Generator | None) -> Tensor:
        """One branch: (B, 3, H, W) -> (B, 8, ceil(H / ratio), ceil(W / ratio))."""
        x = F.avg_pool2d(x, RATIOS[index], ceil_mode=True)
        if self.noise:
            copies = len(x) if self.training else 1  # outputs do not depend on what else is in the batch
            noise = torch.rand(copies, self.noise, *x.shape[-2:], generator=random).to(x)
            x = torch.cat([x, noise.expand(len(x), -1, -1, -1)], 1)
        output: Tensor = self.scales[index](x)
        return output


@register(
    "texture_nets", paper="arXiv:1603.03417", year=2016, kind="single", reference="DmitryUlyanov/texture_nets@aad2cc6"
)
class TextureNets(SingleStyleModel):
    """Texture nets (Ulyanov et al. 2016): one network per style, with instance normalization (Ulyanov et al. 2016).

    Args:
        style_image: The image whose style is learned. Only training reads it.
        style_name: What the style is called; None takes the name of its image.
        style_size: Pixels that the style image's longer side is resized to; None keeps its size.
        generator: ``pyramid``, or ``johnson``: the residual network that the authors recommend.
        norm: ``instance`` or ``batch`` normalization.
        padding: ``replicate`` or ``circular`` before every convolution of the pyramid.
        negative_slope: Of the pyramid's leaky ReLUs; 0 for ReLUs.
        noise: Channels of noise, uniform in [0, 1), beside the image at every scale of the pyramid.
        seed: Decides the noise.
        tv_weight: Weight of the total variation of the output, mean over images of the sum of squared differences.
        lr_gamma: What the learning rate is multiplied by every ``lr_step_size`` steps.
        lr_step_size: See ``lr_gamma``.
        loss_encoder: The network of the losses, see `stylezoo.vgg.VGG`; its pools round up. Only training needs it.

    Raises:
        StylezooError: If a setting is not one of the generator.
    """

    # szagoruyko/loadcaffe@23e2e38 loadcaffe.cpp: caffe's pools round up
    loss_encoder_options: ClassVar[dict[str, Any]] = {"ceil_mode": True}

    def __init__(
        self,
        style_image: str | None = None,
        style_name: str | None = None,
        style_size: int | None = 256,
        generator: Generator = "pyramid",
        norm: Norm = "instance",
        padding: Padding = "replicate",
        negative_slope: float = 0.0,
        noise: int = 0,
        seed: int = 0,
        content_weight: float = 1.0,
        style_weight: float = 1.0,
        tv_weight: float = 0.0,
        lr_gamma: float = 0.8,
        lr_step_size: int = 2000,
        content_layers: dict[str, float] = CONTENT_LAYERS,
        style_loss: str = "gram_johnson",
        style_layers: dict[str, float] = STYLE_LAYERS,
        lr: float = 1e-3,
        loss_encoder: str = "vgg19_caffe",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        if generator == "johnson" and (padding, negative_slope, noise) != ("replicate", 0.0, 0):
            raise StylezooError(
                "padding, negative_slope and noise are settings of the pyramid: leave them out with johnson."
            )
        self.lr_gamma, self.lr_step_size = lr_gamma, lr_step_size
        self.set_style(style_image, style_name, style_size)
        self.noise, self.seed = noise, seed
        self.transformer: Pyramid | JohnsonTransformer
        if generator == "pyramid":
            self.transformer = Pyramid(norm, padding, negative_slope, noise)
        else:
            self.transformer = JohnsonTransformer(norm, "transposed", "replicate", last_kernel=3)
        uniform_scales(self.transformer)  # InstanceNormalization.lua, and torch7's batch normalization
        self.perceptual = PerceptualLoss(content_layers, style_layers, style_loss=style_loss)

    def generate(self, content: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W) or larger, RGB, not clamped: the network takes RGB in [0, 1], returns BGR less mean."""
        if self.noise:
            output = self.transformer(content, self._random())
        else:
            output = self.transformer(content)
        rgb: Tensor = (output + output.new_tensor(CAFFE_MEAN_BGR)[:, None, None]).flip(1) / 255
        return rgb

    def _random(self) -> torch.Generator:
        """Random numbers of the noise: a function of seed, step and rank, so that a resumed run continues; one sequence for inference."""
        place = (self.trained_batches, self.global_rank) if self.training else ()
        seed = np.random.default_rng((self.seed, *place)).integers(2**63)
        return torch.Generator().manual_seed(int(seed))

    def schedule(self, optimizer: Optimizer) -> StepLR:
        """A learning rate that falls in steps: lr * lr_gamma^(i // lr_step_size) at step i = 0, 1, 2 ..."""
        return StepLR(optimizer, self.lr_step_size, self.lr_gamma)
