"""VGG-16 and VGG-19 as named features: the perceptual component that all systems share.

    vgg = VGG("vgg19_normalised", "vgg_normalised.pth", last="relu4_1")
    features = vgg(image, ["relu1_1", "relu4_1"])      # {"relu1_1": (B, 64, H, W), "relu4_1": (B, 512, H/8, W/8)}

Images go in as RGB in [0, 1]; what each family of weights expects beyond that is its *flavor*. Flavors are not
interchangeable: loss weights are tuned to one of them, and a decoder trained on one is noise on another.

| flavor     | preprocessing                       | padding | pooling   | used by                                 |
|-------------|-------------------------------------|---------|-----------|-----------------------------------------|
| torchvision | ImageNet mean and std               | zeros   | max floor | pytorch/examples, multi-level AdaIN     |
| normalised | a 1x1 convolution in the file       | reflect | max ceil  | AdaIN, SANet, StyTr2, LinearTransfer    |
| caffe       | BGR, 0-255, minus the ImageNet mean | zeros   | max floor | Gatys, Johnson, texture nets, MSG-Net   |
| random      | opponent colors                    | reflect | max ceil  | tests and the quickstart: no file at all |
| slim        | ImageNet mean and std               | reflect | max ceil  | a quarter of the FLOPs, ships inside     |
| thin        | ImageNet mean and std               | reflect | max ceil  | thin decoders; the slim encoder's file   |

The slim flavor is the normalized VGG-19 distilled to half the channels (`stylezoo.training.slim_encoder`). Its convolutions run thin;
1x1 maps with a ReLU lead from relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 back to VGG's channels, which are the only
layers that it has. Loss weights and decoders of the normalized flavor keep their meaning on it. The thin flavor is the same
network without these maps: all its layers have half of VGG's channels, and so have the decoders that are built for it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo import weights as weight_files
from stylezoo.errors import StylezooError, unknown_name
from stylezoo.streaming import assembled

Features = dict[str, Tensor]
"""Named activations of one batch: {"relu4_1": (B, C, H, W), ...}."""

Pooling = Literal["max", "avg", "avg_doubled"]

SLIM_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""The layers of the slim encoder that ships with the package."""

WIDTHS = (64, 128, 256, 512, 512)
CONVS_PER_BLOCK = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Flavor:
    """What a family of VGG weights expects: an affine map of RGB in [0, 1], and how borders and pools behave."""

    matrix: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]
    padding: Literal["zeros", "reflect"]
    ceil_mode: bool


def _diagonal(values: Iterable[float]) -> tuple[tuple[float, float, float], ...]:
    a, b, c = values
    return ((a, 0.0, 0.0), (0.0, b, 0.0), (0.0, 0.0, c))


FLAVORS = {
    "torchvision": Flavor(
        matrix=_diagonal(1 / s for s in IMAGENET_STD),
        bias=(
            -IMAGENET_MEAN[0] / IMAGENET_STD[0],
            -IMAGENET_MEAN[1] / IMAGENET_STD[1],
            -IMAGENET_MEAN[2] / IMAGENET_STD[2],
        ),
        padding="zeros",
        ceil_mode=False,
    ),
    # The affine map of this flavor (x 255, RGB -> BGR, minus mean) is the 1x1 convolution that heads its file.
    "normalised": Flavor(_diagonal((1.0, 1.0, 1.0)), (0.0, 0.0, 0.0), padding="reflect", ceil_mode=True),
    "caffe": Flavor(
        matrix=((0.0, 0.0, 255.0), (0.0, 255.0, 0.0), (255.0, 0.0, 0.0)),
        bias=(-CAFFE_MEAN_BGR[0], -CAFFE_MEAN_BGR[1], -CAFFE_MEAN_BGR[2]),
        padding="zeros",
        ceil_mode=False,
    ),
    # Opponent colors (light, red-green, yellow-blue), stretched so that each varies about as much in images.
    "random": Flavor(
        ((1.3, 1.3, 1.3), (4.0, -4.0, 0.0), (1.5, 1.5, -3.0)), (-2.0, 0.0, 0.0), padding="reflect", ceil_mode=True
    ),
}
FLAVORS["slim"] = replace(FLAVORS["torchvision"], padding="reflect", ceil_mode=True)
FLAVORS["thin"] = FLAVORS["slim"]


def parse_name(name: str) -> tuple[int, str, int]:
    """Splits an encoder name into (depth, flavor, divisor of the channel widths).

    >>> parse_name("vgg19_normalised"), parse_name("vgg16_random/4")
    ((19, 'normalised', 1), (16, 'random', 4))

    Raises:
        StylezooError: If there is no such encoder.
    """
    match = re.fullmatch(rf"vgg(16|19)_({'|'.join(FLAVORS)})(?:/(\d+))?", name)
    wrong_divisor = match and match[3] and (match[2] != "random" or int(match[3]) not in (1, 2, 4, 8, 16))
    if match is None or wrong_divisor or match[0] in ("vgg16_slim", "vgg16_thin"):
        others = "choose one of these, the same with vgg16 (but for slim and thin), or a narrower random one such as"
        names = [*(f"vgg19_{flavor}" for flavor in FLAVORS), "vgg16_caffe", "vgg16_torchvision"]
        raise unknown_name("There is no encoder", name, names, f"{others} vgg19_random/4:")
    return int(match[1]), match[2], int(match[3] or 1)


def file_of(name: str) -> str:
    """Returns the entry of the table of weights that an encoder reads: thin encoders have the slim one's.

    >>> file_of("vgg19_thin"), file_of("vgg19_caffe")
    ('vgg19_slim', 'vgg19_caffe')
    """
    return name.replace("_thin", "_slim")


def conv_names(depth: int) -> list[str]:
    """The convolutions of VGG-16 or VGG-19 in order: conv1_1, conv1_2, conv2_1 ..."""
    return [f"conv{b}_{i}" for b, n in enumerate(CONVS_PER_BLOCK[depth], start=1) for i in range(1, n + 1)]


class VGG(nn.Module):
    """Frozen VGG-16 or VGG-19 that returns the named activations of one pass.

    Always in eval mode and without gradients of its own; gradients flow through it to the image.

    Args:
        name: ``vgg{16,19}_{torchvision,normalised,caffe,random}``; see the table at the top of this file.
        weights: Any file of such weights (naoto0804's ``vgg_normalised.pth``, ``vgg19-d01eb7cb.pth``, LinearTransfer's
            ``vgg_r41.pth``, a stylezoo safetensors file ...). Files that stop early serve the layers they have.
            None takes the flavor's own file: torchvision's through its API, slim's and thin's from the package, the others from
            `stylezoo.weights.folder`. Or the tensors themselves, named as in `tensors`.
        last: The deepest layer that is built and loaded. None builds as many as the file has.
        padding: ``zeros`` or ``reflect`` instead of the flavor's own.
        first_padding: Another padding for the first convolution alone: ``replicate`` leaves less of a frame at the borders
            of optimized images (crowsonkb/style-transfer-pytorch@e7e2c71).
        pooling: ``max`` as trained, or ``avg`` (Gatys et al. 2016, section 2; Dumoulin et al. 2017), or ``avg_doubled``:
            averages times 2, about as large as maxima are (crowsonkb/style-transfer-pytorch@e7e2c71).
        ceil_mode: Whether pools round odd sizes up, instead of the flavor's own.
        option: The setting that names ``weights``, for messages.

    Raises:
        StylezooError: If the name is unknown, or the weights do not reach ``last`` or do not fit.
        MissingFileError: If the weights are not on this machine; the message says how to get them.
    """

    def __init__(
        self,
        name: str = "vgg19_normalised",
        weights: str | Mapping[str, Tensor] | None = None,
        *,
        last: str | None = None,
        padding: Literal["zeros", "reflect"] | None = None,
        first_padding: Literal["zeros", "reflect", "replicate"] | None = None,
        pooling: Pooling = "max",
        ceil_mode: bool | None = None,
        option: str = "encoder_weights",
    ) -> None:
        super().__init__()
        self.name = name
        self.depth, self.flavor, divisor = parse_name(name)
        flavor = FLAVORS[self.flavor]
        self.padding = padding or flavor.padding
        self.pooling = pooling
        self.ceil_mode = flavor.ceil_mode if ceil_mode is None else ceil_mode

        source = weights if isinstance(weights, str) else "its own"
        tensors = self._read(name, weights, divisor, option)
        names = self._built(tensors, last, source)
        self.preprocess = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.preprocess.weight.copy_(torch.tensor(flavor.matrix)[:, :, None, None])
            self.preprocess.bias.copy_(torch.tensor(flavor.bias))  # type: ignore[union-attr]
        self.convs = nn.ModuleDict()
        channels = 3
        for conv in names:
            shape = tuple(tensors[f"{conv}.weight"].shape)
            if shape[1:] != (channels, 3, 3):
                raise StylezooError(
                    f"{conv} of {source} has weights of shape {shape} where (..., {channels}, 3, 3) was expected:"
                    f" these are not VGG-{self.depth} weights."
                )
            mode = first_padding if first_padding and conv == "conv1_1" else self.padding
            self.convs[conv] = nn.Conv2d(channels, shape[0], 3, padding=1, padding_mode=mode)
            channels = shape[0]
            check_convolution(tensors, conv, source)
        self.maps = nn.ModuleDict()  # from thin channels to VGG's, in the slim flavor alone
        if self.flavor == "slim":
            self._build_maps(tensors, names, last or "relu1_1", source)
        with torch.no_grad():
            for key, own in self.tensors.items():
                own.copy_(tensors.get(key, own))
        self.requires_grad_(False)
        self.eval()

    def _read(
        self, name: str, weights: str | Mapping[str, Tensor] | None, divisor: int, option: str
    ) -> Mapping[str, Tensor]:
        """The weights by canonical name."""
        if isinstance(weights, Mapping):
            return weights
        if self.flavor == "random" and weights is None:
            return random_weights(self.depth, divisor)
        tensors = canonical(weight_files.encoder_tensors(file_of(name), weights, option), self.depth)
        if not tensors:
            raise StylezooError(
                f"{weights} holds no VGG weights: expected keys such as features.0.weight, 2.weight or conv1_1.weight."
            )
        return tensors

    def _built(self, tensors: Mapping[str, Tensor], last: str | None, source: str) -> list[str]:
        """The convolutions to build: as many as the file has, or those up to the layer ``last``."""
        names = list(itertools.takewhile(lambda conv: f"{conv}.weight" in tensors, conv_names(self.depth)))
        if last is None:
            return names
        stop = _conv_of(last)
        if stop not in names:
            deepest = names[-1].replace("conv", "relu")
            raise StylezooError(
                f"The weights of {self.name} ({source}) stop at {deepest}, {last} is needed: give a file that reaches"
                " deeper (encoder_weights)."
            )
        return names[: names.index(stop) + 1]

    def _build_maps(self, tensors: Mapping[str, Tensor], names: list[str], last: str, source: str) -> None:
        """Builds the 1x1 maps of a slim encoder."""
        for conv in names:
            if f"maps.{conv}.weight" in tensors:
                out_channels, in_channels = tensors[f"maps.{conv}.weight"].shape[:2]
                self.maps[conv] = nn.Conv2d(in_channels, out_channels, 1)
        if _conv_of(last) not in self.maps:
            raise StylezooError(
                f"The weights of {self.name} ({source}) have maps for {', '.join(self.channels) or 'no layer'}, none for"
                f" {last}: give a slim encoder's file, or choose another encoder."
            )

    def train(self, mode: bool = True) -> VGG:
        """Stays in eval mode, whatever the model around it does."""
        return super().train(False)

    @property
    def channels(self) -> dict[str, int]:
        """Channels per layer: {"relu1_1": 64, ...}, for the layers that are there."""
        wide = self.maps if self.flavor == "slim" else self.convs
        return {c.replace("conv", "relu"): int(m.weight.shape[0]) for c, m in wide.items()}  # type: ignore

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by canonical name (``preprocess.weight``, ``conv1_1.weight`` ...), as `canonical` names them."""
        return {name.removeprefix("convs."): p.detach() for name, p in self.named_parameters()}

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over names and float32 values of the weights; the same for every file layout they came from."""
        return weight_files.digest(self.tensors)

    def pad(self, image: Tensor, layer: str, multiple: bool = False) -> Tensor:
        """Extends an image to the right and bottom where ``layer`` needs it: images that would vanish, and, where
        pools round down, sizes that are no multiple of the layer's stride. Other images are returned as they are.

        Args:
            image: (B, 3, H, W).
            layer: The deepest layer that will be asked for.
            multiple: Whether sizes become multiples of the stride also where pools round up, so that the layers differ
                in size by exactly 2.

        Returns:
            (B, 3, H', W') with H' >= H and W' >= W, continued by repeating the border.
        """
        stride = 2 ** (_block(layer) - 1)
        height, width = image.shape[-2:]
        if self.ceil_mode and not multiple:  # a reflecting convolution needs two pixels to reflect
            new_height, new_width = max(height, stride + 1), max(width, stride + 1)
        else:
            new_height, new_width = (max(2, (n + stride - 1) // stride) * stride for n in (height, width))
        if not torch.compiler.is_compiling() and (new_height, new_width) == (height, width):
            return image
        return F.pad(image, (0, new_width - width, 0, new_height - height), mode="replicate")

    def pad_small(self, image: Tensor, layer: str) -> Tensor:
        """Extends an image as `pad` does, but only where a side is shorter than two positions of ``layer``.

        This is for styles: their statistics need no multiple of the stride, and no border that is counted twice.
        """
        return image if min(image.shape[-2:]) >= 2 ** _block(layer) else self.pad(image, layer)

    def forward(self, image: Tensor, layers: Iterable[str], tile: int | None = None) -> Features:
        """Computes the named activations in one pass that stops at the deepest of them.

        Args:
            image: (B, 3, H, W), RGB in [0, 1] (values outside are allowed: nothing is clamped).
            layers: Names such as ``relu4_1`` (after the ReLU) or ``conv4_2`` (before it).
            tile: Side of the tiles in pixels, see `stylezoo.streaming`; None computes the image at once.

        Returns:
            {name: (B, C, H', W')} in network order.

        Raises:
            StylezooError: If a layer is unknown or deeper than the weights reach.
        """
        wanted = set(layers)
        if not wanted:
            return {}
        missing = sorted(
            layer for layer in wanted if _conv_of(layer) not in self.convs or (self.maps and layer not in self.channels)
        )
        if missing:
            raise StylezooError(
                f"{self.name} has no {', '.join(missing)} here: its weights hold {', '.join(self.channels)};"
                " give a file that reaches deeper (encoder_weights)."
            )
        if tile is not None and max(image.shape[-2:]) > tile:
            return assembled(partial(self._forward, wanted=wanted), image, tile)
        return self._forward(image, wanted)

    def continued(self, features: Tensor, after: str, layers: Iterable[str]) -> Features:
        """Computes the named activations from changed ones of an earlier layer, as `forward` does from an image.

        Args:
            features: What takes the place of ``after``, (B, C, H, W).
            after: A layer such as ``relu3_1``.
            layers: Names of deeper layers.

        Returns:
            {name: (B, C, H', W')} in network order.

        Raises:
            StylezooError: If this is a slim encoder, whose deeper layers do not start from VGG's channels.
        """
        if self.maps:
            raise StylezooError(f"{self.name} cannot go on from changed features of {after}: choose another encoder.")
        names = list(self.convs)
        return self._run(features, names[names.index(_conv_of(after)) + 1 :], set(layers))

    def _forward(self, image: Tensor, wanted: set[str]) -> Features:
        return self._run(self.preprocess(image), list(self.convs), wanted)

    def _run(self, x: Tensor, convs: list[str], wanted: set[str]) -> Features:
        features: Features = {}
        for name in convs:
            if name.endswith("_1") and name != "conv1_1":
                x = self._pool(x)
            x = self.convs[name](x)
            if name in wanted:
                features[name] = x
                x = F.relu(x)
            else:
                x = F.relu_(x)  # nothing else needs the convolution's output: its gradient needs none
            if name.replace("conv", "relu") in wanted:
                features[name.replace("conv", "relu")] = F.relu(self.maps[name](x)) if name in self.maps else x
            if len(features) == len(wanted):
                break
        return features

    def _pool(self, x: Tensor) -> Tensor:
        pool = F.max_pool2d if self.pooling == "max" else F.avg_pool2d
        pooled = pool(x, 2, ceil_mode=self.ceil_mode)
        return 2 * pooled if self.pooling == "avg_doubled" else pooled


def check_convolution(tensors: Mapping[str, Tensor], conv: str, source: str) -> None:
    """Raises a StylezooError if a file has no bias for a convolution, or weights that are no floating-point numbers."""
    weight, bias = tensors[f"{conv}.weight"], tensors.get(f"{conv}.bias")
    if bias is None or bias.shape != weight.shape[:1]:
        raise StylezooError(f"{conv} of {source} has no bias of {len(weight)} numbers: these are not VGG weights.")
    if not (weight.is_floating_point() and bias.is_floating_point()):
        raise StylezooError(f"{conv} of {source} does not hold floating-point numbers: these are not VGG weights.")


def _block(layer: str) -> int:
    return int(_conv_of(layer)[len("conv")])


def _conv_of(layer: str) -> str:
    if not re.fullmatch(r"(conv|relu)[1-5]_[1-4]", layer):
        raise StylezooError(f"There is no VGG layer {layer!r}: expected a name such as relu4_1 or conv4_2.")
    return layer.replace("relu", "conv")


def canonical(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Renames VGG weights of any public layout to conv1_1.weight, conv1_1.bias ...; {} if these are none.

    Layouts: torchvision and jcjohnson's caffe conversions (``features.N``), the normalized network as an indexed
    nn.Sequential (``0`` to ``51``, 1x1 convolution first), LinearTransfer's ``conv1 ... conv14``, leongatys's
    ``conv1_1``, the slim encoders of Collaborative Distillation (``conv11``, ``conv11_aux``), and stylezoo's own
    files (``encoder.conv1_1``) and training checkpoints of slim encoders (``encoder.convs.conv1_1``).
    """
    tensors = {key.replace("encoder.convs.", "encoder."): tensor for key, tensor in tensors.items()}
    names = conv_names(depth)
    block_sizes = CONVS_PER_BLOCK[depth]
    features, indexed, numbered = {}, {"0": "preprocess"}, {"conv1": "preprocess"}
    position, sequential = 0, 2
    for number, name in enumerate(names):
        features[f"features.{position}"], indexed[str(sequential)] = name, name
        numbered[f"conv{number + 2}"] = name
        block, index = int(name[4]), int(name[6])
        last_of_block = index == block_sizes[block - 1]
        position += 3 if last_of_block else 2  # conv, ReLU (, pool)
        sequential += 4 if last_of_block else 3  # conv, ReLU (, pool), padding of the next
    maps = [f"maps.{name}" for name in names if name.endswith("_1")]
    own = {name: name for name in ("preprocess", *names, *maps)}
    encoder = {f"encoder.{name}": name for name in own}
    thin = {name.replace("_", ""): name for name in names} | {"conv0": "preprocess"}
    thin |= {f"{name.removeprefix('maps.').replace('_', '')}_aux": name for name in maps}

    for layout in (encoder, own, features, indexed, numbered, thin):
        if any(f"{key}.weight" in tensors for key in layout):
            renamed = {
                f"{name}.{kind}": tensors[f"{key}.{kind}"]
                for key, name in layout.items()
                for kind in ("weight", "bias")
                if f"{key}.{kind}" in tensors
            }
            first = renamed.get("conv1_1.weight")
            if first is not None and first.ndim == 4 and first.shape[1:] == (3, 3, 3):
                return renamed
    return {}


def is_vgg(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors of a public file are VGG weights in any of the layouts of `canonical`."""
    return bool(canonical(tensors, depth=19))


def random_weights(depth: int, divisor: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Weights without any training: random filters whose activations have mean 1 and standard deviation 1/2.

    Most activations then stay clear of the ReLU's edge, so that even deep features keep colors, edges and the layout
    of an image, where ordinary random initializations scramble them: a decoder learns to invert them in minutes, and
    their statistics differ between styles. They carry no knowledge of objects. Drawn in float64 and rounded to 13 bits, so that
    every machine gets the same numbers and their sha256 can stand in a checkpoint.

    Args:
        depth: 16 or 19.
        divisor: Divides the channel widths.
        seed: Of the filters.
    """
    rng = np.random.default_rng(seed)
    # Noise with as much energy in every octave, as images have, sets the scales.
    octaves = [torch.from_numpy(rng.standard_normal((2, 3, side, side))) for side in (4, 8, 16, 32, 64)]
    x = torch.stack([F.interpolate(octave, size=64, mode="bilinear") for octave in octaves]).sum(0) / 3
    window = torch.full((3, 3), 0.6, dtype=torch.float64)
    window[1, 1] = 1
    tensors: dict[str, Tensor] = {}
    for name in conv_names(depth):
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2, ceil_mode=True)
        width = WIDTHS[int(name[4]) - 1] // divisor
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        weight = torch.from_numpy(rng.standard_normal((width, x.shape[1], 3, 3))) * window
        std, mean = torch.std_mean(F.conv2d(padded, weight), dim=(0, 2, 3))
        weight = weight * (0.5 / std)[:, None, None, None]
        bias = 1 - mean * (0.5 / std)
        x = F.relu(F.conv2d(padded, weight, bias))
        tensors[f"{name}.weight"] = ((weight * 8192).round() / 8192).float()
        tensors[f"{name}.bias"] = ((bias * 8192).round() / 8192).float()
    return tensors
