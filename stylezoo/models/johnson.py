r"""Johnson - Perceptual Losses for Real-Time Style Transfer (Johnson, Alahi & Fei-Fei, ECCV 2016, arXiv:1603.08155).

A residual network stylizes with one style in a single pass: down-sampling by 4, five residual blocks, up-sampling by 4. It is
trained on content features and style Gram matrices of a frozen VGG-16 that inference does without. Instance instead of
batch normalization (Ulyanov et al. 2016, arXiv:1607.08022) is what everybody uses since, the author too.

    python -m stylezoo fit --config experiments/johnson.yaml --model.style_image data/styles/mosaic.jpg
    python -m stylezoo import --system johnson --files mosaic.pth --output johnson.mosaic.safetensors
    python -m stylezoo stylize --model johnson.mosaic.safetensors --content photo.jpg --output output.png

Equations, for a content $c$, the style $s$ of the network $T$ and an output $o$: $\phi_l$ are the features of the
losses at layer $l$, $X$ are features as a matrix of $C$ channels and $HW$ positions, and $\|x\|^2$ is the mean of
squares.

    o = T(c)
    L = \lambda_c \|\phi_c(o) - \phi_c(c)\|^2 + \lambda_s \sum_l \|G(\phi_l(o)) - G(\phi_l(s))\|^2 + \lambda_{tv}
        \mathrm{TV}(o)
    G(X) = \frac{X X^T}{C H W}

Deviations: the defaults are pytorch/examples@77f55b9 fast_neural_style; paper and author's code
(jcjohnson/fast-neural-style@813c834) differ from it, and their recipes say how:
- norm: batch (paper), instance (both codes); upsample: transposed convolutions (paper and author) or nearest and
  convolution (pytorch/examples), which avoids checkerboards; ``subpixel`` is the third known way;
- padding: one reflection of 40 pixels at the input and residual blocks without any (paper's supplement, author), or a
  reflection before every convolution (pytorch/examples);
- tail: "a scaled tanh" to the range of pixels (paper, section 3.1), 150 tanh in the space of VGG (author), or linear;
- content layer: relu2_2 (paper, pytorch/examples) or relu3_3 (author's default);
- total variation (paper, author): the author adds its gradient summed over the batch, here it is averaged like all terms;
- the author's released instance-norm networks have half the width; his test script ends in a 3 x 3 median filter;
- the output has the content's size, where the references round up to multiples of 4 (ours is the top-left crop).
"""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor

from stylezoo import tensorflow
from stylezoo.bases import SingleStyleModel
from stylezoo.layers import JohnsonTransformer, Norm, Padding, Upsample, uniform_scales
from stylezoo.losses import PerceptualLoss
from stylezoo.registry import register
from stylezoo.vgg import CAFFE_MEAN_BGR
from stylezoo.weights import Tensors

Tail = Literal["none", "tanh150", "tanh150_gray", "scaled_tanh"]
Pixels = Literal["rgb", "rgb255", "bgr255"]

CONTENT_LAYERS = {"relu2_2": 1.0}
STYLE_LAYERS = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}


@register("johnson", paper="arXiv:1603.08155", year=2016, kind="single", reference="pytorch/examples@77f55b9")
class Johnson(SingleStyleModel):
    """Johnson et al. 2016: one network per style.

    Args:
        style_image: The image whose style is learned. Only training reads it.
        style_name: What the style is called; None takes the name of its image.
        style_size: Pixels that the style image's longer side is resized to; None keeps its size.
        norm: ``instance`` or ``batch`` normalization.
        upsample: ``nearest`` and a convolution, ``transposed`` convolutions, or ``subpixel``: convolutions to four
            times the channels, which are shuffled into place.
        padding: ``reflect``, ``replicate`` or ``zeros`` before every convolution; ``reflect_start`` reflects 40 pixels
            at the input, does without padding in the residual blocks and pads zeros elsewhere; ``same`` pads zeros
            where TensorFlow does.
        tail: What follows the last convolution: ``none``; ``tanh150``, 150 tanh; ``tanh150_gray``, 150 tanh around
            mid-gray, 127.5; ``scaled_tanh``, a tanh from black to white.
        pixels: Colors inside the network: ``rgb`` in [0, 1], ``rgb255``, or ``bgr255`` less the mean of ImageNet.
        width: Multiplies the channels; the author's released instance-norm networks have 0.5.
        norm_last: Whether the last convolution is normalized too.
        norm_eps: Added to variances.
        norm_init: Scales of the normalization start at ``ones``, or ``uniform`` in [0, 1) as in torch7.
        tv_weight: Weight of the total variation of the output, mean over images of the sum of squared differences.
    """

    def __init__(
        self,
        style_image: str | None = None,
        style_name: str | None = None,
        style_size: int | None = None,
        norm: Norm = "instance",
        upsample: Upsample = "nearest",
        padding: Padding = "reflect",
        tail: Tail = "none",
        pixels: Pixels = "rgb255",
        width: float = 1.0,
        norm_last: bool = False,
        norm_eps: float = 1e-5,
        norm_init: Literal["ones", "uniform"] = "ones",
        content_weight: float = 1e5,
        style_weight: float = 1e10,
        tv_weight: float = 0.0,
        content_layers: dict[str, float] = CONTENT_LAYERS,
        style_loss: str = "gram_johnson",
        style_layers: dict[str, float] = STYLE_LAYERS,
        lr: float = 1e-3,
        lr_decay: float = 0.0,
        loss_encoder: str = "vgg16_torchvision",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.set_style(style_image, style_name, style_size)
        self.tail, self.pixels = tail, pixels
        self.transformer = JohnsonTransformer(norm, upsample, padding, width, norm_last, norm_eps)
        if norm_init == "uniform":
            uniform_scales(self.transformer)
        self.perceptual = PerceptualLoss(content_layers, style_layers, style_loss=style_loss)

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """Reads pytorch/examples' files, old ones with running statistics too, and those of lengstrom/fast-style-transfer.

        The running statistics were never used: they are dropped.
        """
        if "Variable_47" in tensors or "Variable" in tensors:
            return tensorflow.read_fast_style_transfer(tensors)
        if "deconv3.conv2d.weight" in tensors:
            renamed = {
                _public_name(key): t for key, t in tensors.items() if not re.search(r"in\d\.(running_|num_)", key)
            }
            return renamed, {"width": len(tensors["conv1.conv2d.weight"]) / 32}
        return tensors, {}

    def generate(self, content: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, 4 ceil(H/4), 4 ceil(W/4)), RGB, not clamped."""
        return self._to_rgb(self.transformer(self._to_pixels(content)))

    def _to_pixels(self, image: Tensor) -> Tensor:
        """RGB in [0, 1] in the colors of the network."""
        if self.pixels == "bgr255":
            return 255 * image.flip(1) - image.new_tensor(CAFFE_MEAN_BGR)[:, None, None]
        return 255 * image if self.pixels == "rgb255" else image

    def _to_rgb(self, output: Tensor) -> Tensor:
        """What the last convolution returned as RGB in [0, 1]."""
        tail, pixels = self.tail, self.pixels
        if tail == "scaled_tanh":
            output = (torch.tanh(output) + 1) / 2
            return output.flip(1) if pixels == "bgr255" else output
        if tail in ("tanh150", "tanh150_gray"):
            output = 150 * torch.tanh(output)
        if tail == "tanh150_gray":
            output = output + 127.5
        if pixels == "bgr255":
            return (output + output.new_tensor(CAFFE_MEAN_BGR)[:, None, None]).flip(1) / 255
        return output / 255 if pixels == "rgb255" else output


def _public_name(key: str) -> str:
    """pytorch/examples' names as ours: res2.conv1.conv2d.weight is residual.1.0.conv.weight."""
    key = key.replace("conv2d.", "")
    number = {"conv1": "contract.0.conv", "conv2": "contract.1.conv", "conv3": "contract.2.conv"}
    number |= {"in1": "contract.0.norm", "in2": "contract.1.norm", "in3": "contract.2.norm"}
    number |= {"deconv1": "expand.0.conv", "deconv2": "expand.1.conv", "deconv3": "last.conv"}
    number |= {"in4": "expand.0.norm", "in5": "expand.1.norm"}
    if match := re.fullmatch(r"res(\d)\.(conv|in)(\d)\.(\w+)", key):
        part = {"conv": "conv", "in": "norm"}[match[2]]
        return f"residual.{int(match[1]) - 1}.{int(match[3]) - 1}.{part}.{match[4]}"
    head, _, tail = key.partition(".")
    return f"{number.get(head, head)}.{tail}"
