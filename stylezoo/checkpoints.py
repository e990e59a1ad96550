"""Models as files: self-contained safetensors that the zoo writes, training checkpoints, and public weight files."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentError, ArgumentParser
from safetensors.torch import save
from torch import nn

from stylezoo import catalog, encoder_check, hub, legacy, quantization, recipes, registry, weights
from stylezoo.controls import Kind
from stylezoo.errors import MissingFileError, StylezooError, did_you_mean
from stylezoo.files import nearest, replacing
from stylezoo.module import StyleModel
from stylezoo.tensor_files import check_file, check_numbers, load_pickle, misfit, unreadable
from stylezoo.vgg import VGG, file_of, is_vgg

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
        path: Ends in ``.safetensors``; an existing file is replaced when the new one is complete.
        packed: Small enough to ship in the package: numbers of few ``bits``, and encoders that ship there themselves are
            named with their sha256 but not copied.
        bits: Bits per weight of packed files, see `stylezoo.quantization.quantize`.
        half: Names of tensors that have 16 bits all the same.
        about: Further metadata, under keys of its own, such as ``data`` and ``license``.

    Raises:
        StylezooError: If a packed model uses an encoder that does not ship, or a tensor holds NaN or infinite numbers.
        OSError: If the file cannot be written; an existing one is unchanged.
    """
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
    check_numbers(tensors, f"This {model.system}")
    settings = {k: v for k, v in model.hparams.items() if not k.startswith("_") and k not in model.local_settings}
    card = {"format": FORMAT, "system": model.system, "settings": settings, "encoders": encoders, **(about or {})}
    content = save(tensors, metadata={"stylezoo": json.dumps(card)})
    with replacing(path) as file:
        file.write(content)


def save_folder(
    model: StyleModel, folder: str | Path, *, packed: bool = False, about: Mapping[str, Any] | None = None
) -> Path:
    """Writes a model folder, what `StyleModel.save_pretrained` is for; a README.md that exists stays as it is.

    Args:
        model: Any system.
        folder: Created if it does not exist.
        packed: See `save_model`.
        about: Further metadata, such as ``license`` and ``data``.

    Returns:
        The folder.

    Raises:
        StylezooError: See `save_model`; or the folder is a file.
        OSError: If a file cannot be written.
    """
    target = Path(folder).expanduser()
    taken = sorted({"format", "system", "settings", "encoders"} & {*(about or {})})
    if taken:
        raise StylezooError(f"{', '.join(taken)} of a model file is not free: give this fact another name.")
    if target.exists() and not target.is_dir():
        raise StylezooError(f"{folder} is a file: name a folder to save the model in.")
    save_model(model, target / hub.WEIGHTS, packed=packed, about=about)
    card = weights.read_metadata(target / hub.WEIGHTS)
    config = {"library": "stylezoo", "kind": model.kind, **card}
    with replacing(target / hub.SETTINGS) as file:
        file.write(f"{json.dumps(config, indent=2)}\n".encode())
    if not (target / hub.CARD).exists():
        with replacing(target / hub.CARD) as file:
            file.write(_model_card(model, about or {}).encode())
    return target


def _model_card(model: StyleModel, about: Mapping[str, Any]) -> str:
    """Returns the card of a model folder: metadata that the Hub reads, what the model is, and how it is loaded."""
    header = {"library_name": "stylezoo", "pipeline_tag": "image-to-image", "tags": ["style-transfer", model.system]}
    if "license" in about:
        header["license"] = str(about["license"]).lower()
    facts = [
        f"* System: `{model.system}` ([paper]({model.paper}))",
        f"* Takes as style: {STYLE_INPUT[model.kind]}",
        *([f"* Styles: {', '.join(model.styles)}"] if model.styles else []),
        *(f"* {name.replace('_', ' ').capitalize()}: {about[name]}" for name in about),
    ]
    options = "" if model.kind in ("single", "multi") else " --style painting.jpg"
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
            f"# {model.system}\n",
            "A model for neural style transfer, saved by stylezoo.\n",
            *facts,
            "\n```python\nimport stylezoo\n",
            'model = stylezoo.StyleModel.from_pretrained("OWNER/NAME")  # or the path of this folder',
            "```\n\n```bash",
            f"python -m stylezoo stylize --model hf-hub:OWNER/NAME --content photo.jpg{options} --output out.png",
            "```\n",
        ]
    )


STYLE_INPUT: dict[Kind, str] = {
    "arbitrary": "any image",
    "multi": "the number or name of a style that it was trained on",
    "single": "nothing, it has one style",
    "optimization": "any image; each output is optimized",
}
"""What a system takes as style, in words, by its kind."""


def model_digest(model: StyleModel) -> str:
    """Returns a SHA-256 of what a model computes with: its system, settings, weights and encoders.

    Args:
        model: On any device; weights count as float32.

    Returns:
        64 hexadecimal digits.
    """
    settings = {name: value for name, value in model.hparams.items() if name not in model.local_settings}
    encoders = {name: vgg.sha256 for name, vgg in model.encoders() if name != "loss_encoder"}
    about = json.dumps([model.system, settings, encoders], sort_keys=True, default=str)
    return hashlib.sha256(f"{about}{weights.digest(model.state_dict())}".encode()).hexdigest()


def _ships(vgg: VGG) -> bool:
    """Whether the package has the file of these very weights."""
    file = weights.table().encoders.get(file_of(vgg.name))
    deepest = list(vgg.channels)[-1]
    return file is not None and file.file is not None and VGG(vgg.name, last=deepest).sha256 == vgg.sha256


def create_model(name: str, pretrained: bool = False, **init_args: Any) -> StyleModel:
    """Builds a model of a system, as `timm.create_model` does.

    Args:
        name: One of `list_models()`; with ``pretrained`` also a tag, such as ``adain.slim``, or whatever else `load_model`
            takes, such as ``hf-hub:OWNER/NAME``.
        pretrained: Whether to load the weights of `load_model` instead of random ones.
        **init_args: Arguments of the system's class.

    Returns:
        The model; in eval mode if it is pretrained.

    Raises:
        StylezooError: If there is no such system, or it has no such setting.
        MissingFileError: If it has no weights on this machine.
    """
    if pretrained:
        return load_model(name, **init_args)
    cls = registry.get(name)
    return build(cls, legacy.given_settings(cls.system, init_args), "create_model")


def build(cls: type[StyleModel], settings: Mapping[str, Any], source: str | Path) -> StyleModel:
    """Builds a system.

    Args:
        cls: The system.
        settings: Arguments of its constructor.
        source: Where they come from, for messages.

    Raises:
        StylezooError: If there is no such setting, or the constructor cannot use its value.
    """
    known = list(inspect.signature(cls).parameters)
    for name in settings:
        if name not in known:
            close = did_you_mean(str(name), known)
            hint = f"did you mean {close!r}?" if close else f"its settings are {', '.join(known)}."
            raise StylezooError(f"{cls.system} has no setting {name!r} ({source}): {hint}")
    try:
        return cls(**settings)
    except MissingFileError:
        raise
    except StylezooError as error:
        if not isinstance(source, Path):
            raise
        raise StylezooError(f"{cls.system} cannot be built with the settings of {source}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StylezooError(f"{cls.system} cannot be built with the settings of {source}: {reason}.") from error


def load_model(name_or_path: str | Path, **settings: Any) -> StyleModel:
    """Loads a model, ready for inference (eval mode, float32, on the CPU).

    Args:
        name_or_path: A tag, such as ``adain.slim``, of `list_models(pretrained=True)`: weights in
            `stylezoo.weights.folder`, or else in the package. The bare name of a system is the name of a file in that
            folder, or else the system's default tag. Or a ``.safetensors`` file (`import_checkpoint`, ``python -m stylezoo
            import``), a training checkpoint ``.ckpt``, a folder of `StyleModel.save_pretrained`, or a repository of the
            Hugging Face Hub, ``hf-hub:OWNER/NAME``, which is downloaded once.
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
    in_folder = path.name == hub.WEIGHTS and Path(name_or_path) != path
    if path.suffix == ".ckpt" or in_folder:  # called by where they lie
        model.tag = str(name_or_path)
    else:
        model.tag = path.stem
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
    path, name = Path(name_or_path), str(name_or_path)
    repo_id = hub.repository(name)
    if repo_id is not None:
        return hub.download(repo_id)
    if (path / hub.WEIGHTS).is_file() and weights.model_path(name) is None:
        return path / hub.WEIGHTS
    if path.suffix not in (".yaml", ".yml", ".safetensors", ".ckpt"):
        return _find(name, settings or {})
    if path.suffix in (".safetensors", ".ckpt") and not os.path.lexists(path):
        raise MissingFileError(f"There is no model file {path}.")
    return path


def _find(name: str, settings: Mapping[str, Any]) -> Path:
    """Returns the file of the weights, or the recipe, that a name stands for."""
    given = Path(name)
    if weights.model_path(name) is None and not given.exists():
        name = catalog.spelled(name, registry.systems())
    path = weights.model_path(name)
    if path is not None:
        if not path.is_file():
            tag = name if name in weights.table().models else weights.default_tag(name)
            raise MissingFileError(
                f"The weights {tag} are not at {path}: fetch them with `python -m stylezoo download {tag}`."
            )
        return path
    if given.is_dir():
        raise StylezooError(
            f"{name} is a folder: name a model file in it (.safetensors or .ckpt), or a folder with {hub.WEIGHTS}."
        )
    if os.path.lexists(given):
        raise StylezooError(f"{name} is no model of stylezoo: turn it into one with `python -m stylezoo import`.")
    system = name.partition(".")[0]
    if not catalog.is_system(system) and (hint := nearest(given)):
        raise MissingFileError(f"There is no model {name}.{hint}")
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
    system, saved = _checked_card(card, card.get("settings"), path)
    settings = {**saved, **legacy.given_settings(system, settings, 5)}
    encoders = tuple(f"{name}." for name in card["encoders"])
    if any(key.startswith(encoders) for key in tensors):  # else it is in the package
        settings.setdefault("encoder_weights", str(path))
    model = build(_class_of(system, path), settings, path)
    model.on_load_checkpoint({"stylezoo": card})
    own = {key: t for key, t in tensors.items() if not key.startswith(encoders) or key in model.state_dict()}
    _load_state(model, legacy.upgrade_tensors(system, own), path, system)
    return model


def _checked_card(card: Any, settings: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """Returns system and settings of what a model file says about itself, under today's names."""
    whole = isinstance(card, dict) and isinstance(card.get("system"), str) and isinstance(settings, dict)
    encoders = card.setdefault("encoders", {}) if whole else None
    if not isinstance(encoders, dict) or not all(
        isinstance(entry, dict) and {"name", "sha256"} <= entry.keys() for entry in encoders.values()
    ):
        raise StylezooError(f"{path} does not say which system it holds, with which settings: it is damaged.")
    return card["system"], legacy.upgrade_settings(card["system"], settings)


def _class_of(system: str, path: Path) -> type[StyleModel]:
    """Returns the class of the system that a model file holds."""
    if system not in registry.systems():
        raise StylezooError(
            f"{path} holds a model of the system {system!r}, which this zoo does not have: install its package, import the"
            " module that registers it first, or update stylezoo."
        )
    return registry.get(system)


def _load_state(module: nn.Module, tensors: Mapping[str, Any], source: str | Path, name: str) -> None:
    """Loads a state dict; a StylezooError names the first tensors that are missing, unknown or of another kind."""
    problem = misfit(module.state_dict(), tensors)
    if problem is not None:
        raise StylezooError(f"{source} does not fit {name}: {problem}.")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise StylezooError(f"{source} does not fit {name}: {' '.join(str(error).split())}") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a training checkpoint, and checks that it is one of stylezoo.

    Args:
        path: A file that `fit` has written.

    Returns:
        What Lightning stores, with ``stylezoo`` and ``state_dict`` checked.

    Raises:
        MissingFileError: If the file does not exist.
        StylezooError: If the file is no checkpoint of stylezoo, or holds NaN or infinite weights.
    """
    path = check_file(path)
    try:
        checkpoint = load_pickle(path)
    except StylezooError:
        raise
    except Exception as error:  # torch.load raises anything from KeyError to struct.error on other files
        if path.suffix == ".safetensors":
            raise StylezooError(f"{path} is a model file (.safetensors), not a training checkpoint (.ckpt).") from error
        raise unreadable(path, "a checkpoint") from error
    if not isinstance(checkpoint, dict) or "stylezoo" not in checkpoint:
        raise StylezooError(
            f"{path} is not a checkpoint of stylezoo: public weights are read by `python -m stylezoo import`."
        )
    tensors = checkpoint.get("state_dict")
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise StylezooError(f"{path} holds no weights (state_dict): it is damaged.")
    check_numbers(tensors, path)
    return checkpoint


def _load_checkpoint(path: Path, settings: dict[str, Any]) -> StyleModel:
    checkpoint = read_checkpoint(path)
    saved = checkpoint.get("hyper_parameters", {})
    saved = {k: v for k, v in saved.items() if not k.startswith("_")} if isinstance(saved, dict) else saved
    system, saved = _checked_card(checkpoint["stylezoo"], saved, path)
    settings = legacy.given_settings(system, settings, 5)
    model = build(_class_of(system, path), {**saved, **settings}, path)
    model.on_load_checkpoint(checkpoint)
    _load_state(model, checkpoint["state_dict"], path, system)
    return model


RESUMED = ("epoch", "global_step", "optimizer_states", "lr_schedulers", "loops")
"""What a checkpoint must have besides weights for a run to go on from it."""


def check_resumable(path: str | Path, model: StyleModel, training: bool = True) -> None:
    """Raises an error unless a run of a model can continue from a checkpoint (``--ckpt_path``).

    Args:
        path: The checkpoint. Words that Lightning knows (last, best, hpc, registry) and addresses are not checked.
        model: The model of the run.
        training: Whether the optimizer goes on, too; else only weights are needed.

    Raises:
        MissingFileError: If the file does not exist.
        StylezooError: If the file is no checkpoint of this system, settings and encoders; the message says what it is.
    """
    if str(path).partition(":")[0] in ("last", "best", "hpc", "registry") or "://" in str(path):
        return
    try:
        checkpoint = read_checkpoint(path)
    except StylezooError as error:
        if Path(path).is_file() and Path(path).suffix != ".ckpt":
            raise StylezooError(
                f"{path} is no training checkpoint, from which a run can continue (.ckpt): to begin with the weights of a"
                " model, give it to --start."
            ) from error
        raise
    _checked_card(checkpoint["stylezoo"], checkpoint.get("hyper_parameters", {}), Path(path))
    model.on_load_checkpoint(checkpoint)
    problem = misfit(model.state_dict(), checkpoint["state_dict"])
    if problem is not None:
        raise StylezooError(
            f"{path} was trained with other settings of {model.system} than those of this run: {problem}."
        )
    missing = [key for key in RESUMED if key not in checkpoint] if training else []
    if missing:
        raise StylezooError(f"{path} holds weights alone ({missing[0]} is missing): give it to --start instead.")


def take_weights(
    model: StyleModel, start: str | Path, parts: Collection[str] | None = None, any_encoder: bool = False
) -> frozenset[str]:
    """Gives a new model the weights of a trained one, of its own or of another system, where names and shapes agree.

    Args:
        model: Changed in place.
        start: What `load_model` takes.
        parts: Only these submodules, such as ``decoder``; None takes all.
        any_encoder: Whether the other model may have been trained on another encoder.

    Returns:
        The names of the tensors that were taken.

    Raises:
        StylezooError: If no tensor of the other model fits, the new one has no such submodule, or the encoders differ.
        MissingFileError: If there is no such model.
    """
    source = load_model(start)
    own, other = model.state_dict(), source.state_dict()
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
    if not any_encoder:
        _check_same_encoder(model, source, start)
    model.load_state_dict(fitting, strict=False)
    return frozenset(fitting)


def _check_same_encoder(model: StyleModel, source: StyleModel, start: str | Path) -> None:
    """Raises a StylezooError if weights were trained on another encoder, whose features they would not understand."""
    theirs = dict(source.encoders()).get("encoder")
    ours = dict(model.encoders()).get("encoder")
    alike = {"normalised", "slim"}  # loss weights and decoders of one keep their meaning on the other
    if theirs is None or ours is None or (theirs.flavor != ours.flavor and {theirs.flavor, ours.flavor} <= alike):
        return
    shared = theirs.tensors.keys() & ours.tensors.keys()
    same = [torch.equal(theirs.tensors[key].float().cpu(), ours.tensors[key].float().cpu()) for key in shared]
    if theirs.flavor != ours.flavor or not all(same):
        raise StylezooError(
            f"The weights of {start} were trained on {theirs.name} with sha256 {theirs.sha256[:12]}..., but the encoder here"
            f" is {ours.name} with sha256 {ours.sha256[:12]}...: set the encoder that they were trained on (encoder,"
            " encoder_weights), or insist (--start_any_encoder true)."
        )


def import_checkpoint(
    system: str,
    files: Sequence[str | Path] | Mapping[str, str | Path],
    *,
    any_encoder: bool = False,
    **settings: Any,
) -> StyleModel:
    """Builds a model from public weight files.

    Files come in any order; which part of the model a file is shows in its keys and shapes, and where these fit two parts
    in its name. A file that could still be either is named as ``part=path`` (or in a mapping).

    Args:
        system: Name of the system.
        files: Paths, ``"part=path"`` strings, or {part: path}.
        any_encoder: Whether the file of an encoder is taken even if it seems to be of another kind than the system
            expects, see `stylezoo.encoder_check`.
        **settings: Constructor arguments.

    Returns:
        The model in eval mode.

    Raises:
        StylezooError: If a file fits no part, a part is missing or given twice, or an encoder is of another kind.
        MissingFileError: If a file is missing.
    """
    cls = registry.get(system)
    settings = legacy.given_settings(cls.system, settings)
    named, unnamed = _split_parts(files)
    contents = {path: weights.read_tensors(path) for path in [*named.values(), *unnamed]}
    for path, tensors in contents.items():
        contents[path], needed = _public(cls, tensors, path)
        settings = {**needed, **settings}
    encoder = named.pop("encoder", None) or _encoder_file([path for path in unnamed if is_vgg(contents[path])])
    if encoder is not None:
        unnamed = [path for path in unnamed if path != encoder]
        has_encoder = "encoder_weights" in inspect.signature(cls).parameters
        settings.setdefault("encoder_weights" if has_encoder else "loss_encoder_weights", str(encoder))
    try:
        model = build(cls, settings, f"the import of {cls.system}")
    except MissingFileError as error:
        _check_without_encoder(cls, settings, named, unnamed, contents)
        raise MissingFileError(f"No file is an encoder, which {cls.system} needs. {error}") from error
    if not any_encoder:
        _check_encoders(model)
    if len(unnamed) == 1 and not named and misfit(model.state_dict(), contents[unnamed[0]]) is None:
        model.load_state_dict(contents[unnamed[0]])  # one file with all submodules
        return model.eval()
    _load_parts(model, named, unnamed, contents)
    return model.eval()


def _public(cls: type[StyleModel], tensors: weights.Tensors, path: Path) -> tuple[weights.Tensors, dict[str, Any]]:
    """Returns `StyleModel.read_public` of a file; what it cannot rename is an error that names the file."""
    try:
        return cls.read_public(tensors)
    except StylezooError as error:
        raise StylezooError(f"{path} does not fit {cls.system}: {error}") from error
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise StylezooError(
            f"{path} does not fit {cls.system}: its tensors have the names of a public file, but not its shapes."
        ) from error


def _check_encoders(model: StyleModel) -> None:
    """Raises a StylezooError if an encoder that is named by a file is of another kind than its name says."""
    for problem in _doubtful_encoders(model):
        raise StylezooError(f"{problem}, or insist (any_encoder=True, --any_encoder).")


def warn_of_encoders(model: StyleModel) -> None:
    """Warns of an encoder that is named by a file and seems to be of another kind than its name says."""
    for problem in _doubtful_encoders(model):
        warnings.warn(f"{problem}.", stacklevel=2)


def _doubtful_encoders(model: StyleModel) -> Iterator[str]:
    """Yields what is odd about encoders that are named by files."""
    for name in ("encoder", "loss_encoder"):
        file, encoder = model.hparams.get(f"{name}_weights"), model.hparams.get(name)
        if file is None or encoder is None or card_of(file):
            continue
        vgg = dict(model.encoders()).get(name) or VGG(encoder, str(file), option=f"{name}_weights")
        problem = encoder_check.doubt(vgg, file)
        if problem is not None:
            yield (
                f"{file} {problem}, so it is not the {vgg.name} that {model.system} expects: give that, or name another"
                f" encoder ({name}=...)"
            )


def card_of(file: str | Path) -> dict[str, Any]:
    """Returns what a file says about itself if stylezoo wrote it, else nothing."""
    return weights.read_metadata(file) if Path(file).suffix == ".safetensors" else {}


def _check_without_encoder(
    cls: type[StyleModel],
    settings: Mapping[str, Any],
    named: dict[str, Path],
    unnamed: Sequence[Path],
    contents: Mapping[Path, weights.Tensors],
) -> None:
    """Raises the error of a file that fits no part, which matters more than that an encoder is missing."""
    encoder = {"encoder": "vgg16_random"} if "vgg16" in str(settings.get("encoder")) else {"encoder": "vgg19_random"}
    model = build(cls, {**settings, **encoder, "encoder_weights": None}, f"the import of {cls.system}")
    _load_parts(model, dict(named), unnamed, contents)


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
        part = _part_of(path, contents[path], parts, system)
        if part in named:
            raise StylezooError(f"Both {named[part]} and {path} fit {part} of {system}: give one of them.")
        named[part] = path
    missing = [name for name in parts if name not in named]
    unknown = [name for name in named if name not in parts]
    if missing or unknown:
        close = did_you_mean(unknown[0], ["encoder", *parts]) if unknown else None
        problem = f"no part called {', '.join(unknown)}" if unknown else f"no file for {', '.join(missing)}"
        hint = f" (did you mean {close!r}?)" if close else ""
        raise StylezooError(f"{system} has {problem}{hint}: its parts are encoder, {', '.join(parts)}.")
    for name, path in named.items():
        _load_state(parts[name], contents[path], path, f"{name} of {system}")


def _part_of(path: Path, tensors: weights.Tensors, parts: Mapping[str, nn.Module], system: str) -> str:
    """Returns the name of the submodule that a file holds."""
    fitting = [name for name, part in parts.items() if misfit(part.state_dict(), tensors) is None]
    if len(fitting) > 1:  # the two encoders of microast
        words = path.name.lower().replace("-", "_")
        fitting = [name for name in fitting if name in words] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise StylezooError(
            f"{path} fits {' and '.join(fitting)} of {system}: say which one it is with"
            f" {' or '.join(f'{name}={path.name}' for name in fitting)}."
        )
    raise StylezooError(
        f"{path} fits no part of {system}{_nearest(tensors, parts)}: its parts are encoder, {', '.join(parts)}; say which"
        f" one it is with part={path}."
    )


def _nearest(tensors: weights.Tensors, parts: Mapping[str, nn.Module]) -> str:
    """Says which tensors keep a file from being a part that it nearly fits."""
    alike = {name: len(part.state_dict().keys() & tensors.keys()) for name, part in parts.items()}
    nearest = max(alike, key=lambda name: alike[name], default="")
    if not nearest or 2 * alike[nearest] < len(parts[nearest].state_dict()):
        return ""
    return f" (it is nearly {nearest}, but {misfit(parts[nearest].state_dict(), tensors)})"


def _split_parts(files: Sequence[str | Path] | Mapping[str, str | Path]) -> tuple[dict[str, Path], list[Path]]:
    """({part: path}, paths whose part must be found)."""
    if isinstance(files, Mapping):
        return {part: Path(path) for part, path in files.items()}, []
    named: dict[str, Path] = {}
    unnamed: list[Path] = []
    for file in [files] if isinstance(files, (str, Path)) else files:
        part, equals, path = str(file).partition("=")
        if equals and not Path(file).exists():
            if part in named:
                raise StylezooError(f"{part} is given twice: {named[part]} and {path}.")
            named[part] = Path(path)
        else:
            unnamed.append(Path(file))
    return named, unnamed
