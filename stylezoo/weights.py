"""Weight files: the table of them, where they lie, how they are had, and how they are read.

`table` is the one list of all files that the package knows, ``pretrained/table.yaml``: networks at public addresses and
what ships in the package. Nothing is downloaded unasked: a missing file is an error that says how to get it. Public
files are read with ``weights_only=True`` or as safetensors and npz; anything that would have to execute code is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from safetensors import safe_open
from torch import Tensor

from stylezoo.download import fetch

Tensors = dict[str, Tensor]


PRETRAINED = Path(__file__).with_name("pretrained")
"""What ships in the package: weight files, and the table of all files."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of the table: in the package (``file``), at a public address (``url``), or of torchvision.

    Attributes:
        sha256: Of the file; of a public one at least the part that its publisher put into the name.
        file: Its name in the package.
        url: Its address.
        torchvision: A member of torchvision's enums of weights, which download and check by themselves.
        bytes: Its size, where it is known.
        license: Of the weights, where their publisher names one.
        note: What else should be known, such as where the checksum comes from.
    """

    sha256: str
    file: str | None = None
    url: str | None = None
    torchvision: str | None = None
    bytes: int | None = None
    license: str | None = None
    note: str | None = None

    @property
    def path(self) -> Path:
        """Where the file lies, or is expected; torchvision keeps its files in the folder of torch.hub."""
        if self.file is not None:
            return PRETRAINED / self.file
        if self.torchvision is not None:
            return Path(torch.hub.get_dir(), "checkpoints", self.api.url.rsplit("/", 1)[1])
        assert self.url is not None
        return folder() / self.url.rsplit("/", 1)[1]

    @property
    def api(self) -> Any:
        """The member of torchvision's enum."""
        from torchvision.models import get_weight  # torchvision takes a second to import, other files do without it

        return get_weight(self.torchvision)


@dataclass(frozen=True, kw_only=True)
class ModelFile(WeightFile):
    """A trained model of the table, written by ``tools/publish.py``.

    Attributes:
        system: Its name in the zoo, the first part of the tag.
        data: What it was trained on.
        recipe: The recipe that it was trained with; the settings are in the file's metadata.
        steps: Optimizer steps of the training.
        commit: Of the repository when it was published.
        golden: What it paints, see `stylezoo.inference.fingerprint`.
        encoder: The encoder that it paints with, of the package; None if it needs none.
        styles: Names of the styles it was trained on, of systems that know some.
        default: Whether it is what the bare name of the system loads.
        metrics: Means over held-out pairs by name, taken over from an evaluation by ``tools/cards.py``.
    """

    system: str
    data: str
    recipe: str
    steps: int
    commit: str
    golden: list[float]
    encoder: str | None = None
    styles: list[str] = field(default_factory=list)
    default: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """All weight files by name.

    Attributes:
        encoders: What systems see with.
        metrics: Networks that only metrics use, see `stylezoo.metrics`.
        models: Trained models by tag, ``adain.slim``.
    """

    encoders: dict[str, WeightFile]
    metrics: dict[str, WeightFile]
    models: dict[str, ModelFile]

    @property
    def files(self) -> dict[str, WeightFile]:
        """All of them."""
        return {**self.encoders, **self.metrics, **self.models}


def table() -> Table:
    """The table ``pretrained/table.yaml``, read when first asked for."""
    return read_table(PRETRAINED / "table.yaml")


@cache
def read_table(path: Path) -> Table:
    """A table file; `read_table.cache_clear` forgets what was read."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    encoders, metrics = (
        {name: WeightFile(**entry) for name, entry in content[kind].items()} for kind in ("encoders", "metrics")
    )
    return Table(encoders, metrics, {tag: ModelFile(**entry) for tag, entry in content["models"].items()})


def folder() -> Path:
    """Where downloaded and imported weights lie: ``$STYLEZOO_HOME/weights``, else ``~/.cache/stylezoo/weights``."""
    return Path(os.environ.get("STYLEZOO_HOME", Path.home() / ".cache" / "stylezoo")) / "weights"


def default_tag(system: str) -> str | None:
    """What the bare name of a system loads: the tag that is marked as default, else the first one; None if it has none."""
    tags = [tag for tag, model in table().models.items() if model.system == system]
    return next((tag for tag in tags if table().models[tag].default), tags[0] if tags else None)


def model_path(name: str) -> Path | None:
    """Where the model of a tag or system lies, or is expected; the user's own `folder` comes first. None if there is none."""
    for tag in (name, default_tag(name)):
        own = folder() / f"{tag}.safetensors"
        if own.is_file():
            return own
        if tag in table().models:
            return table().models[tag].path
    return None


def encoder_tensors(name: str, path: str | None = None) -> Tensors:
    """The weights of an encoder as its file has them.

    Args:
        name: An encoder's name, ``vgg19_normalised`` ...
        path: Any file instead of the encoder's own.

    Raises:
        FileNotFoundError: If the file is not there; the message names the ways to get it.
        ValueError: If it cannot be read, or the encoder has no file.
    """
    if path is not None:
        return read_tensors(path)
    if name not in table().encoders:
        raise ValueError(f"{name} has no file of its own: name one (encoder_weights), or choose another encoder.")
    file = table().encoders[name]
    if not file.path.is_file():
        raise FileNotFoundError(
            f"The weights of {name} are not at {file.path}: fetch them with `python -m stylezoo download {name}`, or"
            " name a file that you have (encoder_weights=...; --model.encoder_weights PATH in fit, --encoder_weights PATH in"
            " evaluate and reproduce). The quickstart needs none: python -m stylezoo fit --config experiments/sanet.yaml"
            " --config experiments/quickstart.yaml"
        )
    if file.torchvision is not None:
        state: Tensors = file.api.get_state_dict(map_location="cpu", check_hash=True)
        return state
    return read_tensors(file.path)


def download(name: str) -> Path:
    """Downloads a file of the table, resumable and checked against its sha256; returns where it lies.

    Raises:
        ValueError: If there is no such file at a public address.
        OSError: If the address cannot be reached; the message says where to put the file by hand.
    """
    files = {key: file for key, file in table().files.items() if file.file is None}
    if name not in files:
        raise ValueError(f"There is no file to download for {name!r}: choose one of {', '.join(files)}.")
    file = files[name]
    if file.url is None:
        file.api.get_state_dict(map_location="cpu", check_hash=True)
    else:
        fetch(file.url, file.path, sha256=file.sha256)
    return file.path


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
                return unpacked({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a dict
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


LARGE = 30_000
"""Numbers of a tensor from which on `packed` may use 8 bits."""

BLOCK = 16
"""Neighboring weights of a matrix that share a unit."""


def packed(tensors: Mapping[str, Tensor], bits: Literal[8, 16], half: Collection[str] = ()) -> Tensors:
    """Floating-point tensors in fewer bits, for files, but for vectors, which are small and count for all pixels.

    16: half precision. 8: in large matrices and convolutions, weights are whole numbers from -127 to 127, of which each
    kernel of several pixels, or each `BLOCK` of a row, has its own unit, in ``NAME.unit``. Of kernels not the weights are
    rounded but their running sums, so that errors cancel each other where neighboring pixels are alike. The rest has 16,
    and so have those whose names are in ``half``.
    """
    result = {}
    for name, tensor in tensors.items():
        kernel = tensor[0, 0].numel() if tensor.ndim > 2 else 1
        length = kernel if kernel > 1 else BLOCK
        large = tensor.ndim > 1 and tensor.numel() >= LARGE
        if bits == 8 and large and tensor[0].numel() % length == 0 and name not in half:
            blocks = tensor.double().reshape(-1, length)
            unit = (blocks.abs().amax(1, keepdim=True) / 126).clamp_min(1e-7).half()
            counts = blocks / unit
            if kernel > 1:
                sums = counts.cumsum(1).round()
                counts = sums.diff(dim=1, prepend=torch.zeros_like(sums[:, :1]))
            result[name] = counts.round().to(torch.int8).reshape(tensor.shape)
            result[f"{name}.unit"] = unit
        else:
            result[name] = tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
    return result


def unpacked(tensors: Mapping[str, Tensor]) -> Tensors:
    """What `packed` made of 8 bits, in 32."""
    units = {name: tensors[f"{name}.unit"].float() for name in tensors if f"{name}.unit" in tensors}
    rest = {name: tensor for name, tensor in tensors.items() if name.removesuffix(".unit") not in units}
    whole = {
        n: (tensors[n].reshape(u.numel(), -1) * u.reshape(-1, 1)).reshape(tensors[n].shape) for n, u in units.items()
    }
    return rest | whole


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and float32 values, the same for every file that they came from."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(name.encode())
        sha256.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
