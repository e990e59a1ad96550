"""Weight files: where they lie, how they are had, and how they are read.

Nothing is downloaded unasked: a missing file is an error that says how to get it. Public files are read with
``weights_only=True`` or as safetensors and npz; anything that would have to execute code is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from stylezoo.download import fetch

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class EncoderFile:
    """A public file of encoder weights. ``sha256`` may be a prefix: the part its publisher put into the file's name."""

    url: str
    sha256: str

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[1]


ENCODER_FILES = {
    "vgg19_normalised": EncoderFile(
        "https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0/vgg_normalised.pth",
        "804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a",
    ),
    "vgg19_caffe": EncoderFile("https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth", "d01eb7cb"),
    "vgg16_caffe": EncoderFile("https://web.eecs.umich.edu/~justincj/models/vgg16-00b39a1b.pth", "00b39a1b"),
}
METRIC_FILES = {
    # The publisher names no checksum; this one is the record of an independent evaluation,
    # qykdnmd/ST-arbitrary-style-transfer-with-spatial-control-for-cultural-and-creative-visual-media@5984592
    # results/artfid5000/historical_infinity/provenance.json.
    "art_inception": EncoderFile(
        "https://huggingface.co/matthias-wright/art_inception/resolve/main/art_inception.pth",
        "5bc1c20380401911d99d528b7b6e4430044b56edd5f7f26467222f3fb7c54e7e",
    ),
    "alexnet_torchvision": EncoderFile("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
}
"""Networks that only metrics use, see `stylezoo.metrics`."""

SHIPPED = {"vgg19_slim": "0527410f6a4a99efd4ee2d0a4f5ab2bcb567a491f1b9a8abb572b68797388963"}
"""Encoders whose file lies in the package, and its sha256; `benchmarks/slim_encoder.py` writes both."""

TORCHVISION_WEIGHTS = {
    "vgg19_torchvision": "VGG19_Weights.IMAGENET1K_V1",
    "vgg16_torchvision": "VGG16_Weights.IMAGENET1K_V1",
}


def folder() -> Path:
    """Where downloaded and imported weights lie: ``$STYLEZOO_HOME/weights``, else ``~/.cache/stylezoo/weights``."""
    return Path(os.environ.get("STYLEZOO_HOME", Path.home() / ".cache" / "stylezoo")) / "weights"


def encoder_path(name: str) -> Path:
    """Where an encoder's own file is expected; torchvision keeps its files in the folder of torch.hub."""
    if name in TORCHVISION_WEIGHTS:
        url: str = _torchvision_weights(name).url
        return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if name in SHIPPED:
        return Path(__file__).parent / "pretrained" / f"{name}.safetensors"
    return folder() / {**ENCODER_FILES, **METRIC_FILES}[name].filename


def encoder_tensors(name: str, path: str | None = None) -> Tensors:
    """The weights of an encoder as its file has them.

    Args:
        name: An encoder's name, ``vgg19_normalised`` ...
        path: Any file instead of the encoder's own.

    Raises:
        FileNotFoundError: If the file is not there; the message names the ways to get it.
        ValueError: If it cannot be read.
    """
    if path is not None:
        return read_tensors(path)
    expected = encoder_path(name)
    if not expected.is_file():
        raise FileNotFoundError(
            f"The weights of {name} are not at {expected}: fetch them with `python -m stylezoo download {name}`, or"
            " name a file that you have (--model.encoder_weights PATH, encoder_weights=...), or start with the"
            " quickstart, which needs none: python -m stylezoo fit --config experiments/sanet.yaml --config"
            " experiments/quickstart.yaml"
        )
    if name in TORCHVISION_WEIGHTS:
        state: Tensors = _torchvision_weights(name).get_state_dict(map_location="cpu", check_hash=True)
        return state
    return read_tensors(expected)


def download_encoder(name: str) -> Path:
    """Downloads the file of an encoder or of a metric's network, resumable and checked against its sha256; returns
    where it lies.

    Raises:
        ValueError: If the encoder has no public file.
        OSError: If the address cannot be reached; the message says where to put the file by hand.
    """
    files = {**ENCODER_FILES, **METRIC_FILES}
    if name not in {**files, **TORCHVISION_WEIGHTS}:
        known = ", ".join([*files, *TORCHVISION_WEIGHTS])
        raise ValueError(f"There is no file to download for {name!r}: choose one of {known}.")
    path = encoder_path(name)
    if name in TORCHVISION_WEIGHTS:
        _torchvision_weights(name).get_state_dict(map_location="cpu", check_hash=True)
    else:
        fetch(files[name].url, path, sha256=files[name].sha256)
    return path


def _torchvision_weights(name: str) -> Any:
    from torchvision.models import get_weight  # torchvision takes a second to import, other encoders do without it

    return get_weight(TORCHVISION_WEIGHTS[name])


def read_tensors(path: str | Path) -> Tensors:
    """All tensors of a weight file: safetensors, ``.npz``, or a PyTorch state dict, bare or under ``state_dict``,
    ``model`` or ``params``, with or without DataParallel's ``module.`` prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these, or a pickle that would have to execute code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on files of another kind, the readers raise anything from KeyError to struct.error
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as weights ({reason}): expected safetensors, npz or a PyTorch state_dict that"
            " loads with weights_only=True."
        ) from error
    for key in ("state_dict", "model", "params"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise ValueError(f"{path} holds a {kind}, not a state_dict of named tensors.")  # noqa: TRY004 - bad input
    return {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and float32 values, the same for every file that they came from."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(name.encode())
        sha256.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
