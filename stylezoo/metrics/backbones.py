"""Networks that only metrics use: AlexNet with named features, and the Inception v3 of ArtFID."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo import weights as weight_files
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.vgg import IMAGENET_MEAN, IMAGENET_STD, Features


def _own_file(name: str, path: str | None) -> weight_files.Tensors:
    """The tensors of a given file, or of the network's own after a check of its sha256; downloads nothing."""
    if path is not None:
        return weight_files.read_tensors(path)
    file = weight_files.table().metrics[name]
    if not file.path.is_file():
        raise MissingFileError(
            f"The weights of {name} are not at {file.path}: fetch them with `python -m stylezoo download {name}`,"
            f" without a network put the file from {file.url} there by hand, or give the path of a file (weights=PATH)."
        )
    return weight_files.read_tensors(weight_files.download(name))  # the file exists, so this only checks it


class AlexNet(nn.Module):
    """Frozen AlexNet of torchvision (Krizhevsky 2014) that returns the activations of its five ReLUs by name.

    It is called as `stylezoo.vgg.VGG` is: ``alexnet(image, ["relu1", "relu5"])``; images are RGB in [0, 1], the network
    normalizes them with the mean and std of ImageNet.

    Args:
        weights: Path of a state dict with torchvision's keys (``features.0.weight`` ...); None takes torchvision's own
            file.

    Raises:
        MissingFileError: If the weights are not on this machine; the message says how to get them.
        StylezooError: If they do not fit.
    """

    name = "alexnet"
    layers = ("relu1", "relu2", "relu3", "relu4", "relu5")

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.features = nn.ModuleDict(  # numbered as in torchvision, where ReLUs and pools lie between
            {
                "0": nn.Conv2d(3, 64, 11, stride=4, padding=2),
                "3": nn.Conv2d(64, 192, 5, padding=2),
                "6": nn.Conv2d(192, 384, 3, padding=1),
                "8": nn.Conv2d(384, 256, 3, padding=1),
                "10": nn.Conv2d(256, 256, 3, padding=1),
            }
        )
        _load(self, _own_file("alexnet_torchvision", weights), "classifier.")

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over names and values of the weights."""
        return weight_files.digest(self.state_dict())

    def forward(self, image: Tensor, layers: Iterable[str]) -> Features:
        """Computes named activations.

        Args:
            image: Images (B, 3, H, W), RGB in [0, 1].
            layers: Names among `layers`.

        Returns:
            {layer: (B, C, H', W')}, in network order.

        Raises:
            StylezooError: If a layer is unknown.
        """
        wanted = set(layers)
        if not wanted <= set(self.layers):
            unknown = ", ".join(sorted(wanted - set(self.layers)))
            raise StylezooError(f"AlexNet has no layer {unknown}: choose from {', '.join(self.layers)}.")
        mean, std = (image.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        x, features = (image - mean) / std, {}
        for name, conv in zip(self.layers, self.features.values(), strict=True):
            if name in ("relu2", "relu3"):
                x = F.max_pool2d(x, 3, stride=2)
            x = F.relu(conv(x))
            if name in wanted:
                features[name] = x
        return features


class ArtInception(nn.Module):
    """The Inception v3 of ArtFID, trained on art (Wright & Ommer 2022, arXiv:2207.12280).

    Images are RGB in [0, 1] and neither resized to 299 pixels nor normalized, as in matthias-wright/art-fid@37ce02e.
    Values of FID are about ten times smaller than with the usual Inception.

    Args:
        weights: Path of a state dict with torchvision's names of Inception v3; None takes ``art_inception.pth``, see
            `stylezoo.weights.table`, checked against its sha256. Classifiers in it are left out.

    Raises:
        MissingFileError: If the weights are not on this machine; the message says how to get them.
        StylezooError: If they do not fit (the reference ignores missing and unknown keys).
    """

    name = "art_inception"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        tensors = _own_file("art_inception", weights)
        from torchvision.models import Inception3  # torchvision takes a second to import

        self.network = Inception3(aux_logits=False, transform_input=False, init_weights=False)
        self.network.fc = nn.Identity()
        _load(self.network, tensors, "fc", "AuxLogits")
        self.requires_grad_(False)
        self.eval()

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over names and values of the weights."""
        return weight_files.digest(self.state_dict())

    def forward(self, image: Tensor) -> Tensor:
        """Computes the pooled features.

        Args:
            image: Images (B, 3, H, W), RGB in [0, 1], H and W from 75 up.

        Returns:
            (B, 2048).

        Raises:
            StylezooError: If the images are smaller.
        """
        if min(image.shape[-2:]) < 75:
            raise StylezooError(f"Inception needs 75 pixels or more, not {image.shape[-1]} x {image.shape[-2]}.")
        features: Tensor = self.network(image)
        return features


def _load(network: nn.Module, tensors: weight_files.Tensors, *left_out: str) -> None:
    """Loads all weights of a network, except keys that begin with one of ``left_out``, and freezes it."""
    try:
        network.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(left_out)})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StylezooError(f"These are no weights of {type(network).__name__}: {reason[:300]}") from error
    network.requires_grad_(False)
    network.eval()
