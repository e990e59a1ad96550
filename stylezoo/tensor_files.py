"""Files of tensors: safetensors, npz and PyTorch's own, told apart by their content and read without running any of it.

Whatever is wrong with a file is a `StylezooError` that says what the file is, or which tensor does not fit.
"""

from __future__ import annotations

import builtins
import json
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from stylezoo import legacy
from stylezoo.download import HARMLESS, RATIO
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.files import kind, open_regular, problem
from stylezoo.quantization import dequantize

Tensors = dict[str, Tensor]
"""Tensors by name."""

WRAPPERS = (
    *("params_ema", "state_dict_ema", "model_ema"),  # averages of weights, which are better, come first
    *("state_dict", "model_state_dict", "model", "params", "net", "generator"),
)
"""Keys under which training scripts store the state dict among other things."""

PREFIXES = ("module.", "_orig_mod.", "net.", "model.", "generator.")
"""What wrappers (DataParallel, torch.compile, LightningModules) put before the name of every tensor."""


def read_tensors(path: str | Path) -> Tensors:
    """Reads all tensors of a weight file.

    Args:
        path: A safetensors file (quantized tensors are dequantized), an ``.npz`` file, or a PyTorch state dict, bare or
            under one of `WRAPPERS`, with or without `PREFIXES`. What is no tensor is skipped, and never executed.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        MissingFileError: If the file does not exist.
        StylezooError: If the file is none of these, would have to execute code, or holds NaN or infinite numbers.
    """
    path = check_file(path)
    form = _form(path)
    try:
        if form == "safetensors":
            tensors = _read_safetensors(path)
        elif form == "npz":
            tensors = _without_prefixes(_read_npz(path))
        else:
            tensors = _without_prefixes(_state_dict(load_pickle(path), path))
    except StylezooError:
        raise
    except MemoryError as error:
        raise StylezooError(f"{path} does not fit into memory.") from error
    except Exception as error:  # on damaged files, the readers raise anything from KeyError to struct.error
        raise unreadable(path) from error
    check_numbers(tensors, path)
    return tensors


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Reads the metadata that the package writes into its safetensors files.

    Args:
        path: A safetensors file.

    Returns:
        The metadata (system, settings, encoders, data, license ...) under today's keys; empty if another program wrote
        the file.

    Raises:
        MissingFileError: If the file does not exist.
        StylezooError: If the file or its metadata is damaged.
    """
    path = check_file(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("stylezoo", "{}")
    except Exception as error:  # SafetensorError is no public class of every version
        raise unreadable(path) from error
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StylezooError(f"The metadata of {path} is damaged: get the file again.") from error
    if not isinstance(metadata, dict):
        raise StylezooError(f"The metadata of {path} is damaged: get the file again.")
    return {legacy.RENAMED_METADATA.get(str(key), str(key)): value for key, value in metadata.items()}


def check_file(path: str | Path) -> Path:
    """Returns the path of a regular file that can be read, or raises the error that says why not."""
    path = Path(path)
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise MissingFileError(f"There is no file {path}.") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise StylezooError(f"{path} {problem(error) if isinstance(error, OSError) else 'is no file name'}.") from error
    return path


def unreadable(path: Path, expected: str = "weights (safetensors, npz or a PyTorch state_dict)") -> StylezooError:
    """Builds the error of a file that is no file of tensors."""
    found = kind(path)
    if found is None and (path.suffix in (".pb", ".index", ".meta") or ".data-0" in path.name):
        found = "a TensorFlow file"
    if found is None or found == "a zip file":
        found = "damaged, cut off, or another kind of file"
    hint = {"an HTML page": ": download it again", "a Git LFS pointer": ": fetch the file itself (git lfs pull)"}
    return StylezooError(f"{path} cannot be read as {expected}: it is {found}{hint.get(found, '')}.")


def _form(path: Path) -> str:
    """Returns what reads a file: safetensors, npz or torch."""
    with path.open("rb") as file:
        head = file.read(9)
        zipped = head[:4] == b"PK\x03\x04"
        if zipped:
            names, size = _zip_members(file, path)
    if zipped:
        if size > max(RATIO * path.stat().st_size, HARMLESS):
            raise StylezooError(f"{path} would unpack to {size / 1e9:,.1f} GB, which no weights do: do not trust it.")
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
        if any(name.endswith(".npy") for name in names):
            return "npz"
        raise unreadable(path)
    if head[8:] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    if kind(path) is not None:
        raise unreadable(path)
    return "torch"


def _zip_members(file: BinaryIO, path: Path) -> tuple[list[str], int]:
    """Returns the names of the members of a zip file, and the sum of their sizes."""
    try:
        members = zipfile.ZipFile(file).infolist()
    except Exception as error:  # on damaged directories, anything from struct.error to UnicodeDecodeError
        raise unreadable(path) from error
    return [info.filename for info in members], sum(info.file_size for info in members)


def _read_safetensors(path: Path) -> Tensors:
    with safe_open(path, "pt") as file:
        tensors = dequantize({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a dict
        ours = "stylezoo" in (file.metadata() or {})
    return tensors if ours else _without_prefixes(tensors)


def _read_npz(path: Path) -> Tensors:
    with np.load(path, allow_pickle=False) as arrays:
        loaded = {str(key): arrays[key] for key in arrays.files}
    return {key: torch.from_numpy(array) for key, array in loaded.items() if array.dtype.kind in "biufc"}


def _state_dict(state: Any, path: Path) -> Tensors:
    """Returns the named tensors of what a PyTorch file holds."""
    for _ in range(5):
        if not isinstance(state, Mapping):
            raise StylezooError(
                f"{path} holds {_called(state)}, not a state_dict of named tensors: save the state_dict() of the model."
            )
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:  # a state dict per submodule
        for part, inner in state.items():
            if isinstance(inner, Mapping):
                tensors |= {f"{part}.{key}": value for key, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise StylezooError(f"{path} holds no tensors.")
    return tensors


def _called(state: Any) -> str:
    if isinstance(state, _Inert):
        return "a Python object, such as a whole model"
    return f"one object of the type {type(state).__name__}"


def _without_prefixes(tensors: Tensors) -> Tensors:
    """Removes what wrappers have put before the names."""
    bare = {re.sub(r"^(module\.)+|\b_orig_mod\.", "", key): tensor for key, tensor in tensors.items()}
    while bare and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in bare)), None)):
        bare = {key.removeprefix(prefix): tensor for key, tensor in bare.items()}
    return bare if len(bare) == len(tensors) else tensors


# Pickles


class _Inert:
    """Stands for any object beside the tensors: takes all arguments and does nothing with them."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stands for collections.defaultdict."""
    return {}


CODE = {"os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib", "ctypes", "webbrowser"}
"""Modules that have no business in a file of weights."""


def load_pickle(path: Path) -> Any:
    """Reads a file that `torch.save` wrote, as ``torch.load(weights_only=True)`` does.

    Objects of classes that torch does not allow, such as numpy scalars and argparse.Namespace, are replaced by inert
    ones: neither their classes nor any function that the file names is called.

    Args:
        path: An existing file.

    Raises:
        StylezooError: If the file names functions that only attackers have a use for.
        Exception: Anything from KeyError to struct.error, if the file is damaged or of another kind.
    """
    named = {f"{IMPORT_MAPPING.get(module, module)}.{name}" for module, name in _globals(path)}
    for name in sorted(named):
        module, _, attribute = name.rpartition(".")
        called = module == "builtins" and not isinstance(getattr(builtins, attribute, None), type)
        if called or module.partition(".")[0] in CODE:
            raise StylezooError(f"{path} would run code if it were loaded ({name}): do not trust it.")
    stand_ins: list[Any] = [(_plain_dict if name == "collections.defaultdict" else _Inert, name) for name in named]
    with torch.serialization.safe_globals(stand_ins):  # torch asks its own list first
        return torch.load(path, map_location="cpu", weights_only=True)


def _globals(path: Path) -> set[tuple[str, str]]:
    """Returns (module, name) of all classes and functions that a PyTorch file names."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(file) as zipped:
                member = next(name for name in zipped.namelist() if name.endswith("data.pkl"))
                return set(_globals_of(zipped.open(member)))
        found: set[tuple[str, str]] = set()
        for _ in range(4):  # before 2020: a magic number, a version, sizes of numbers, the objects
            found.update(_globals_of(file))
        return found


def _globals_of(pickle: Any) -> Iterator[tuple[str, str]]:
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield module, name


# Checks


def check_numbers(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises a StylezooError that names the first tensor with NaN or infinite numbers, or of a kind no network has."""
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            raise StylezooError(f"{source} holds {key} in a form that no network here has: store it as a dense tensor.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise StylezooError(f"{source} holds fewer numbers for {key} than its shape {tuple(tensor.shape)} has.")
        if (
            tensor.is_floating_point()
            and not torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all()
        ):
            raise StylezooError(
                f"{source} holds NaN or infinite numbers in {key}: its training failed, or the file is damaged; take an"
                " earlier file."
            )


def misfit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Says in a few words why tensors do not fit a state dict, or returns None if they do.

    Args:
        own: The state dict of a module.
        tensors: What a file has for it.
    """
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    extra = [key for key in tensors if key not in own]
    if missing or extra:
        words = [f"{few(missing)} missing"] if missing else []
        return " and ".join(words + ([f"{few(extra)} not expected"] if extra else []))
    for key in own.keys() & tensors.keys():
        if own[key].shape != tensors[key].shape:
            return f"{key} has the shape {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
        if own[key].is_floating_point() != tensors[key].is_floating_point():
            return f"{key} holds numbers of the type {_dtype(tensors[key])} instead of {_dtype(own[key])}"
    return None


def few(names: Iterable[str]) -> str:
    """Lists up to three names, with the number of the others and the verb.

    >>> few(["a"]), few(["a", "b", "c", "d", "e"])
    ('a is', 'a, b, c and 2 others are')
    """
    names = list(names)
    if len(names) == 1:
        return f"{names[0]} is"
    more = f" and {len(names) - 3} others" if len(names) > 4 else ""
    return f"{', '.join(names[: 3 if more else 4])}{more} are"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
