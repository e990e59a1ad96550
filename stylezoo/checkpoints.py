"""Models as files: self-contained safetensors that the zoo writes, training checkpoints, and public weight files."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError, ArgumentParser
from safetensors.torch import save
from torch import nn

from stylezoo import legacy, quantization, recipes, registry, weights
from stylezoo.errors import MissingFileError, StylezooError, did_you_mean
from stylezoo.module import StyleModel
from stylezoo.vgg import VGG, is_vgg

FORMAT = "stylezoo-1"


def save_model(
    model: StyleModel,
    path: str | Path,
    *,
    packed: bool = False,
    bits: Literal[8, 16] = 16,
    half: Collection[str] = (),
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes a self-contained safetensors file: the trained tensors, the encoder's, and the settings as metadata.

    Args:
        model: Any system.
        path: Ends in ``.safetensors``; written under a temporary name first.
        packed: Small enough to ship in the package: numbers of few ``bits``, and encoders that ship there themselves are
            named with their sha256 but not copied.
        bits: Bits per weight of packed files, see `stylezoo.quantization.quantize`.
        half: Names of tensors that have 16 bits all the same.
        about: Further metadata, under keys of its own, such as ``data`` and ``license``.

    Raises:
        StylezooError: If a packed model uses an encoder that does not ship.
    """
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    encoders = {}
    for name, vgg in model.encoders():
        if name == "loss_encoder":  # inference does without it
            continue
        encoders[name] = {"name": vgg.name, "sha256": vgg.sha256}
        if not packed:
            tensors |= {f"{name}.{key}": value.cpu().contiguous() for key, value in vgg.tensors.items()}
        elif not _ships(vgg):
            raise StylezooError(
                f"This {model.system} encodes with {vgg.name} (sha256 {vgg.sha256[:12]}...), which the package does not"
                " ship: train it with one that does, such as vgg19_slim."
            )
    if packed:
        tensors = quantization.quantize(tensors, bits, half)
    settings = {k: v for k, v in model.hparams.items() if not k.startswith("_") and k not in model.local_settings}
    card = {"format": FORMAT, "system": model.system, "settings": settings, "encoders": encoders, **(about or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(save(tensors, metadata={"stylezoo": json.dumps(card)}))
    temporary.replace(path)


def _ships(vgg: VGG) -> bool:
    """Whether the package has the file of these very weights."""
    file = weights.table().encoders.get(vgg.name)
    deepest = list(vgg.channels)[-1]
    return file is not None and file.file is not None and VGG(vgg.name, last=deepest).sha256 == vgg.sha256


def create_model(name: str, pretrained: bool = False, **init_args: Any) -> StyleModel:
    """Builds a model of a system, as `timm.create_model` does.

    Args:
        name: One of `list_models()`; with ``pretrained`` also a tag, such as ``adain.slim``.
        pretrained: Whether to load the weights of `load_model` instead of random ones.
        **init_args: Arguments of the system's class.

    Returns:
        The model; in eval mode if it is pretrained.

    Raises:
        StylezooError: If there is no such system.
        MissingFileError: If it has no weights on this machine.
    """
    if pretrained:
        return load_model(name, **init_args)
    cls = registry.get(name)
    return cls(**legacy.given_settings(name, init_args))


def load_model(name_or_path: str | Path, **settings: Any) -> StyleModel:
    """Loads a model, ready for inference (eval mode, float32, on the CPU).

    Args:
        name_or_path: A tag, such as ``adain.slim``, of `list_models(pretrained=True)`: weights in
            `stylezoo.weights.folder`, or else in the package. The bare name of a system is the name of a file in that
            folder, or else the system's default tag. Or a ``.safetensors`` file (`import_checkpoint`, ``python -m stylezoo
            import``), or a training checkpoint ``.ckpt``.
            Systems that optimize have settings instead of weights: a recipe ``.yaml``, or the name of one, such as
            ``gatys`` or ``gatys.modern`` (``experiments/gatys_modern.yaml``). Where the encoder of ``gatys`` is not on
            this machine, the bare name is, with a warning, the first one that has all it needs, ``gatys.slim``.
        **settings: Constructor arguments that replace the saved ones, such as ``encoder_weights`` for an encoder
            file that has moved.

    Raises:
        MissingFileError: If there is no such file, or no weights of that name; the message says how to get some.
        StylezooError: If the file is no model of the zoo, or its encoder is not the one it was trained with.
    """
    path = find_model(name_or_path, settings)
    if path.suffix in (".yaml", ".yml"):
        model = _load_recipe(path, settings)
    elif path.suffix == ".safetensors":
        model = _load_safetensors(path, settings)
    else:
        model = _load_checkpoint(path, settings)
    model.tag = str(path) if path.suffix == ".ckpt" else path.stem
    return model.eval()


def find_model(name_or_path: str | Path, settings: Mapping[str, Any] | None = None) -> Path:
    """Returns the file that `load_model` would read, without reading it.

    Args:
        name_or_path: See `load_model`.
        settings: Constructor arguments that `load_model` would be given.

    Raises:
        MissingFileError: If there is no such file, or no weights of that name.
        StylezooError: If there is no system of that name.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml", ".safetensors", ".ckpt"):
        return _find(str(name_or_path), settings or {})
    if path.suffix in (".safetensors", ".ckpt") and not path.is_file():
        raise MissingFileError(f"There is no model file {path}.")
    return path


def _find(name: str, settings: Mapping[str, Any]) -> Path:
    """Returns the file of the weights, or the recipe, that a name stands for."""
    path = weights.model_path(name)
    if path is not None:
        if not path.is_file():
            tag = name if name in weights.table().models else weights.default_tag(name)
            raise MissingFileError(
                f"The weights {tag} are not at {path}: fetch them with `python -m stylezoo download {tag}`."
            )
        return path
    if Path(name).is_file():
        raise StylezooError(f"{name} is no model of stylezoo: turn it into one with `python -m stylezoo import`.")
    system = name.partition(".")[0]
    kind, recipes = registry.get(system).kind, registry.optimization_recipes()
    if name in recipes:
        own_encoder = settings.keys() & {"encoder", "encoder_weights"}
        return recipes[name] if name != system or own_encoder else _recipe_at_hand(system)
    tags = [entry.tag for entry in registry.pretrained_models() if entry.system == system]
    close = did_you_mean(name, tags, cutoff=0.8)
    hint = f" (did you mean {close!r}?)" if close else f" ({system} has {', '.join(tags)})" if tags else ""
    if kind == "optimization":
        raise MissingFileError(f"There is no recipe {name!r}{hint}: name one of these, or a file (.yaml).")
    path = weights.folder() / f"{name}.safetensors"
    raise MissingFileError(
        f"There are no weights for {name!r} at {path}{hint}: train some (python -m stylezoo fit --config"
        f" experiments/{system}.yaml), or import public ones (python -m stylezoo import --system {system} --files ..."
        f" --output {path})."
    )


def _recipe_at_hand(system: str) -> Path:
    """The recipe of a bare name, or another one of the system if its encoder is not on this machine."""
    entries = {entry.tag: entry for entry in registry.pretrained_models() if entry.system == system}
    wanted = entries[system]
    found = next((entry for entry in [wanted, *entries.values()] if entry.missing is None), wanted)
    if found is not wanted:
        warnings.warn(
            f"{system} needs {wanted.missing}, which is not on this machine: {found.tag} is used instead. Fetch the"
            f" other with `python -m stylezoo download {wanted.missing}`.",
            stacklevel=5,  # the caller of load_model
        )
    return found.path


def _load_recipe(path: Path, settings: dict[str, Any]) -> StyleModel:
    """Builds a system that optimizes, with the settings of a recipe."""
    if not path.is_file():
        raise MissingFileError(f"There is no recipe {path}: name a file, or a tag such as gatys.modern.")
    recipe = recipes.read(path).get("model")
    classes = {cls.__name__: cls for cls in registry.systems().values()}
    if not isinstance(recipe, dict) or str(recipe.get("class_path")).split(".")[-1] not in classes:
        raise StylezooError(f"{path} is no recipe: it needs a model with the class_path of a system, such as Gatys.")
    cls = classes[recipe["class_path"].split(".")[-1]]
    if cls.kind != "optimization":
        raise StylezooError(
            f"{path} is a recipe to train {cls.system} with (python -m stylezoo fit --config {path}): stylize with the"
            " checkpoint that it leaves."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "model")
    saved = legacy.upgrade_settings(cls.system, recipe.get("init_args", {}))
    try:
        checked = parser.parse_object({"model": {**saved, **legacy.given_settings(cls.system, settings, 5)}})
    except ArgumentError as error:
        raise StylezooError(f"{path} does not fit {cls.system}: {' '.join(str(error).split())}") from error
    model: StyleModel = parser.instantiate(checked).model
    return model


def _load_safetensors(path: Path, settings: dict[str, Any]) -> StyleModel:
    tensors = weights.read_tensors(path)
    card = weights.read_metadata(path)
    if card.get("format") != FORMAT:
        raise StylezooError(
            f"{path} was not written by stylezoo: turn it into a model with `python -m stylezoo import`."
        )
    saved = legacy.upgrade_settings(card["system"], card["settings"])
    settings = {**saved, **legacy.given_settings(card["system"], settings, 5)}
    if any(key.startswith(f"{name}.") for name in card["encoders"] for key in tensors):  # else it is in the package
        settings.setdefault("encoder_weights", str(path))
    model = registry.get(card["system"])(**settings)
    model.on_load_checkpoint({"stylezoo": card})
    own, tensors = model.state_dict(), legacy.upgrade_tensors(card["system"], tensors)
    model.load_state_dict({key: tensors[key] for key in own if key in tensors})
    return model


def _load_checkpoint(path: Path, settings: dict[str, Any]) -> StyleModel:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises anything from KeyError to struct.error on other files
        raise StylezooError(f"{path} cannot be read as a checkpoint: it is damaged or another kind of file.") from error
    if not isinstance(checkpoint, dict) or "stylezoo" not in checkpoint:
        raise StylezooError(
            f"{path} is not a checkpoint of stylezoo: public weights are read by `python -m stylezoo import`."
        )
    saved = {k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if not k.startswith("_")}
    system = checkpoint["stylezoo"]["system"]
    saved, settings = legacy.upgrade_settings(system, saved), legacy.given_settings(system, settings, 5)
    model = registry.get(system)(**{**saved, **settings})
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    return model


def take_weights(model: StyleModel, start: str | Path, parts: Collection[str] | None = None) -> frozenset[str]:
    """Gives a new model the weights of a trained one, of its own or of another system, where names and shapes agree.

    Args:
        model: Changed in place.
        start: What `load_model` takes.
        parts: Only these submodules, such as ``decoder``; None takes all.

    Returns:
        The names of the tensors that were taken.

    Raises:
        StylezooError: If no tensor of the other model fits, or the new one has no such submodule.
        MissingFileError: If there is no such model.
    """
    own, other = model.state_dict(), load_model(start).state_dict()
    known = dict.fromkeys(name.partition(".")[0] for name in own)
    unknown = [part for part in parts or () if part not in known]
    if unknown:
        raise StylezooError(
            f"{model.system} has no submodule {unknown[0]} to start with: its submodules are {', '.join(known)}."
        )
    wanted = {name for name in own if parts is None or name.partition(".")[0] in parts}
    fitting = {name: tensor for name, tensor in other.items() if name in wanted and own[name].shape == tensor.shape}
    if not fitting:
        raise StylezooError(
            f"No weights of {start} fit this {model.system}: start from a model with submodules of the same names and"
            " shapes, such as one of the same system and settings."
        )
    model.load_state_dict(fitting, strict=False)
    return frozenset(fitting)


def import_checkpoint(
    system: str, files: Sequence[str | Path] | Mapping[str, str | Path], **settings: Any
) -> StyleModel:
    """Builds a model from public weight files.

    Files come in any order; which part of the model a file is shows in its keys and shapes. A file that fits two
    parts is named as ``part=path`` (or in a mapping).

    Args:
        system: Name of the system.
        files: Paths, ``"part=path"`` strings, or {part: path}.
        **settings: Constructor arguments.

    Returns:
        The model in eval mode.

    Raises:
        StylezooError: If a file fits no part, or a part is missing or given twice.
        MissingFileError: If a file is missing.
    """
    cls = registry.get(system)
    settings = legacy.given_settings(system, settings)
    named, unnamed = _split_parts(files)
    contents = {path: weights.read_tensors(path) for path in [*named.values(), *unnamed]}
    for path, tensors in contents.items():
        contents[path], needed = cls.read_public(tensors)
        settings = {**needed, **settings}
    encoder = named.pop("encoder", None) or _encoder_file([path for path in unnamed if is_vgg(contents[path])])
    if encoder is not None:
        unnamed = [path for path in unnamed if path != encoder]
        has_encoder = "encoder_weights" in inspect.signature(cls).parameters
        settings.setdefault("encoder_weights" if has_encoder else "loss_encoder_weights", str(encoder))
    model = cls(**settings)
    if len(unnamed) == 1 and not named and _fits(model, contents[unnamed[0]]):  # one file with all submodules
        model.load_state_dict(contents[unnamed[0]])
        return model.eval()
    _load_parts(model, named, unnamed, contents)
    return model.eval()


def _encoder_file(candidates: Sequence[Path]) -> Path | None:
    """The file of the encoder among those that hold VGG weights."""
    if len(candidates) > 1:
        raise StylezooError(f"Both {candidates[0]} and {candidates[1]} hold VGG weights: name it with encoder=PATH.")
    return candidates[0] if candidates else None


def _load_parts(
    model: StyleModel, named: dict[str, Path], unnamed: Sequence[Path], contents: Mapping[Path, weights.Tensors]
) -> None:
    """Finds out which submodule each unnamed file is, and loads all of them."""
    system, encoders = model.system, dict(model.encoders())
    parts = {name: child for name, child in model.named_children() if child.state_dict() and name not in encoders}
    for path in unnamed:
        fitting = [name for name, part in parts.items() if _fits(part, contents[path])]
        if len(fitting) != 1:
            raise StylezooError(
                f"{path} fits {'no part' if not fitting else ' and '.join(fitting)} of {system}: its parts are encoder,"
                f" {', '.join(parts)}; say which one it is with part={path}."
            )
        if fitting[0] in named:
            raise StylezooError(f"Both {named[fitting[0]]} and {path} fit {fitting[0]} of {system}: give one of them.")
        named[fitting[0]] = path
    missing = [name for name in parts if name not in named]
    unknown = [name for name in named if name not in parts]
    if missing or unknown:
        problem = f"no file for {', '.join(missing)}" if missing else f"no part called {', '.join(unknown)}"
        raise StylezooError(f"{system} has {problem}: its parts are encoder, {', '.join(parts)}.")
    for name, path in named.items():
        try:
            parts[name].load_state_dict(contents[path])
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise StylezooError(f"{path} does not fit {name} of {system}: {reason}") from error


def _split_parts(files: Sequence[str | Path] | Mapping[str, str | Path]) -> tuple[dict[str, Path], list[Path]]:
    """({part: path}, paths whose part must be found)."""
    if isinstance(files, Mapping):
        return {part: Path(path) for part, path in files.items()}, []
    named: dict[str, Path] = {}
    unnamed: list[Path] = []
    for file in files:
        part, equals, path = str(file).partition("=")
        if equals and not Path(file).exists():
            named[part] = Path(path)
        else:
            unnamed.append(Path(file))
    return named, unnamed


def _fits(part: nn.Module, tensors: weights.Tensors) -> bool:
    own = part.state_dict()
    return own.keys() == tensors.keys() and all(own[key].shape == tensors[key].shape for key in own)
