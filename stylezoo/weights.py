"""Weight files: the table of all files that the package knows, and downloads.

`table` returns the content of ``pretrained/table.yaml``, the one list of networks at public addresses and of the files
that ship with the package. Nothing is downloaded without being asked for: a missing file is an error that says how to
get it. `stylezoo.tensor_files` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from stylezoo.download import cache_folder, fetch
from stylezoo.errors import MissingFileError, StylezooError, did_you_mean
from stylezoo.files import replacing
from stylezoo.tensor_files import Tensors, read_metadata, read_tensors

__all__ = ["Tensors", "read_metadata", "read_tensors"]  # besides what is defined here

PRETRAINED = Path(__file__).with_name("pretrained")
"""Folder of the weight files that ship with the package and of the table of all files."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """An entry of the table: a file of the package (``file``), at a public address (``url``), or of torchvision.

    Attributes:
        sha256: SHA-256 of the file, hexadecimal; of a public file at least the part that its publisher put into the name.
        file: File name in the package.
        url: Public address.
        torchvision: A member of torchvision's weight enums, which download and verify files themselves.
        bytes: Size of the file in bytes, if known.
        license: License of the weights, if their publisher names one.
        note: Further information, such as the origin of the checksum.
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
        """The path of the file, whether it exists or not; torchvision's files are in the folder of torch.hub."""
        if self.file is not None:
            return PRETRAINED / self.file
        if self.torchvision is not None:
            return Path(torch.hub.get_dir(), "checkpoints", self.api.url.rsplit("/", 1)[1])
        assert self.url is not None
        return folder() / self.url.rsplit("/", 1)[1]

    @property
    def api(self) -> Any:
        """The member of torchvision's weight enum."""
        from torchvision.models import get_weight  # imported late: it takes a second, and most files do not need it

        return get_weight(self.torchvision)


@dataclass(frozen=True, kw_only=True)
class ModelFile(WeightFile):
    """A trained model of the table. ``tools/publish.py`` writes these entries.

    Attributes:
        system: Name of the system, the first part of the tag.
        data: Description of the training data.
        recipe: Path of the recipe that the model was trained with; the settings are in the file's metadata.
        steps: Number of optimizer steps.
        commit: Commit of the repository at the time of publication.
        golden: Fingerprint of the model's output, see `stylezoo.inference.fingerprint`.
        encoder: Name of the encoder of the package that inference needs; None if it needs none.
        styles: Names of the styles that a single- or multi-style model was trained on.
        default: Whether the bare name of the system loads this model.
        metrics: Means over held-out pairs by metric, copied from an evaluation by ``tools/cards.py``.
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
        encoders: Encoders of the systems.
        metrics: Networks that only metrics use, see `stylezoo.metrics`.
        models: Trained models by tag, such as ``adain.slim``.
    """

    encoders: dict[str, WeightFile]
    metrics: dict[str, WeightFile]
    models: dict[str, ModelFile]

    @property
    def files(self) -> dict[str, WeightFile]:
        """All entries by name or tag."""
        return {**self.encoders, **self.metrics, **self.models}


def table() -> Table:
    """Returns the table ``pretrained/table.yaml``, which is read at the first call."""
    return read_table(PRETRAINED / "table.yaml")


@cache
def read_table(path: Path) -> Table:
    """Reads a table file and caches the result; `read_table.cache_clear` empties the cache.

    Args:
        path: A YAML file with the sections ``encoders``, ``metrics`` and ``models``.

    Returns:
        The table.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    encoders, metrics = (
        {name: WeightFile(**entry) for name, entry in content[kind].items()} for kind in ("encoders", "metrics")
    )
    return Table(encoders, metrics, {tag: ModelFile(**entry) for tag, entry in content["models"].items()})


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes lists on one line, everything else in block style, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


def write_table(table: Table) -> None:
    """Replaces the table of the package atomically; comments at the top of the file are kept, default values left out.

    Args:
        table: The new content.
    """
    path = PRETRAINED / "table.yaml"
    comment = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[0] == "#")
    parts = []
    for kind in ("encoders", "metrics", "models"):
        entries = {
            name: {key: value for key, value in asdict(file).items() if value not in (None, [], {}, False)}
            for name, file in getattr(table, kind).items()
        }
        parts.append(yaml.dump({kind: entries}, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))
    with replacing(path) as file:
        file.write("\n".join([comment, *parts]).encode())
    read_table.cache_clear()


def folder() -> Path:
    """Returns the folder of downloaded and imported weights, ``weights`` in `stylezoo.download.cache_folder`."""
    return cache_folder() / "weights"


def default_tag(system: str) -> str | None:
    """Returns the tag that the bare name of a system loads.

    Args:
        system: Name of the system.

    Returns:
        The tag that is marked as default, else the first tag of the system, or None if the system has no trained model.
    """
    tags = [tag for tag, model in table().models.items() if model.system == system]
    return next((tag for tag in tags if table().models[tag].default), tags[0] if tags else None)


def model_path(name: str) -> Path | None:
    """Returns the path of the model of a tag or system.

    Args:
        name: A tag, such as ``adain.slim``, or the name of a system.

    Returns:
        The file in the user's `folder` if it exists, else the path of the table's entry, whether that file exists or not;
        None if there is neither.
    """
    for tag in (name, default_tag(name)):
        own = folder() / f"{tag}.safetensors"
        if own.is_file():
            return own
        if tag in table().models:
            return table().models[tag].path
    return None


def encoder_tensors(name: str, path: str | None = None, option: str = "encoder_weights") -> Tensors:
    """Reads the weights of an encoder under the names that its file gives them.

    Args:
        name: Name of an encoder of the table, such as ``vgg19_normalised``.
        path: Another file to read instead of the encoder's own.
        option: The setting that names another file, for messages, such as ``loss_encoder_weights``.

    Returns:
        Tensors by name.

    Raises:
        MissingFileError: If the file does not exist; the message says how to get it.
        StylezooError: If the file cannot be read, or the encoder has no file of its own.
    """
    if path is not None:
        return read_tensors(path)
    if name not in table().encoders:
        raise StylezooError(f"{name} has no file of its own: name one ({option}), or choose another encoder.")
    file = table().encoders[name]
    if not file.path.is_file():
        setting = option.rpartition(".")[2]
        options = f"{setting}=...; --{option if '.' in option else f'model.{option}'} PATH in fit"
        if option == "encoder_weights":
            options += ", --encoder_weights PATH in evaluate and reproduce"
        raise MissingFileError(
            f"The weights of {name} are not at {file.path}: fetch them with `python -m stylezoo download {name}`, or"
            f" name a file that you have ({options}). The quickstart needs none: python -m stylezoo fit --config"
            " experiments/sanet.yaml --config experiments/quickstart.yaml"
        )
    return read_tensors(file.path)


def download(name: str) -> Path:
    """Downloads a file of the table, continues an earlier attempt, and verifies the SHA-256.

    Args:
        name: Name of an entry of the table that does not ship with the package.

    Returns:
        Path of the file.

    Raises:
        StylezooError: If the table has no such file at a public address.
        DataError: If the address cannot be reached; the message says where to put the file by hand.
    """
    files = table().files
    if name not in files:
        public = [key for key, file in files.items() if file.file is None]
        close = did_you_mean(name.lower().replace("-", "_"), files)
        hint = f"did you mean {close!r}?" if close else f"choose one of {', '.join(public)}."
        raise StylezooError(f"There is no file to download for {name!r}: {hint}")
    file = files[name]
    if file.file is not None:
        raise StylezooError(f"{name} is part of the package: there is nothing to download.")
    return fetch(file.url or file.api.url, file.path, sha256=file.sha256)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns a SHA-256 over names and float32 values, which does not depend on the file format.

    Args:
        tensors: Tensors by name, on any device.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(name.encode())
        sha256.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
