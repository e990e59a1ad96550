"""Pins what the package computes, bit for bit on one machine, so that a refactoring can prove that it changed nothing.

    python tools/pin.py BEFORE.json --keep CHECKPOINTS                 # with the old code
    python tools/pin.py AFTER.json                                     # with the new code
    python tools/pin.py --compare BEFORE.json AFTER.json
    python tools/pin.py RESUMED.json --resume-from CHECKPOINTS         # with the new code, from the old code's checkpoints
    python tools/pin.py --compare BEFORE.json RESUMED.json

The code that is pinned is what `import stylezoo` finds: set PYTHONPATH to the root of another checkout to pin that one.
Everything runs on one thread of the CPU, on small images and with thin networks that this script makes, and needs
neither data nor downloads. What is recorded:

* ``images``, ``models``: what the script makes for the runs, as hashes: the images, and untrained models as files.
* ``runs``: every recipe that trains, and every variant of `VARIANTS`, through the command line. ``whole`` is a run of
  3 optimizer steps, ``resumed`` the third step of a run that was stopped after the second. Of each there are the logged
  values, the gradients of every step, the state dict in the last checkpoint, and the output of the loaded checkpoint.
* ``losses``: the loss terms of every system with every style statistic.
* ``optimized``: the outputs of the recipes that optimize each image by itself.
* ``shipped``: the outputs of the models that ship in the package, and their fingerprints.

Hashes of several tensors come twice: with the names of the tensors (``named``), and without names and order
(``unnamed``), which a mere renaming leaves as it is. A partial record (--only, --resume-from) is compared in what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fnmatch
import hashlib
import io
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import stylezoo
from stylezoo import cli, inference, weights
from stylezoo.images import read_image

# --- Names: all that has to follow when the package renames something, up to the next such line. Names of runs stay. ---

EXPERIMENTS = Path(stylezoo.__file__).parents[1] / "experiments"
PRETRAINED = Path(stylezoo.__file__).parent / "pretrained"

VERSIONS: dict[str, tuple[str, ...]] = {
    "adain": ("balanced",),
    "cin": (),
    "efdm": ("balanced",),
    "gatys": ("author", "modern", "neural_style", "paper", "slim"),
    "johnson": ("author", "paper"),
    "linear_transfer": ("balanced", "r31"),
    "magenta": ("balanced", "mobile"),
    "microast": ("balanced",),
    "msgnet": ("balanced",),
    "multi_level_adain": ("balanced",),
    "multi_level_attention": ("balanced",),
    "sanet": ("balanced",),
    "slim_encoder": (),
    "stytr2": ("balanced", "paper", "small"),
    "texture_nets": ("batch_norm", "johnson", "v1"),
}
"""The recipes by system: adain.yaml, adain_balanced.yaml ..."""
STEMS = [f"{name}_{version}".strip("_") for name, versions in VERSIONS.items() for version in ("", *versions)]
OPTIMIZING = [stem for stem in STEMS if stem.startswith("gatys")]
RECIPES = [stem for stem in STEMS if stem not in OPTIMIZING]
SYSTEMS = [name for name in VERSIONS if name != "slim_encoder"]
MOVED: dict[str, list[str]] = {}
"""Files under experiments/ of a recipe that `configs` does not find by itself, the base first: {"x_y": ["x.yaml", "z.yaml"]}."""
RENAMED: dict[str, str] = {}
"""New names of options that runs use: {"--model.first_pictures": "--training.initialization.crops"}."""

GRAMS = ("gatys", "author", "johnson", "magenta", "linear_transfer", "raw")
STATISTICS = [*(f"gram_{name}" for name in GRAMS), "mean_std", "mean_std_outside"]
STATISTICS += ["balanced_gram", "balanced_gram_hw", "wasserstein"]

Settings = dict[str, Any]
"""Of a model, by name."""

THIN = "vgg19_random/8"
SMALL: dict[str, Settings] = {
    "adain": {},
    "cin": {"styles": "{styles}", "width": 0.25},
    "efdm": {},
    "gatys": {},
    "johnson": {"style_image": "{styles}/gogh.png", "width": 0.25},
    "linear_transfer": {},
    "magenta": {"width": 0.25},
    "microast": {},
    "msgnet": {"ngf": 32},
    "multi_level_adain": {},
    "multi_level_attention": {},
    "sanet": {},
    "slim_encoder": {"widths": [4, 8, 16, 32, 16], "first_pictures": 8},
    "stytr2": {"width": 0.25, "layers": 1},
    "texture_nets": {"style_image": "{styles}/gogh.png"},
}
"""Settings that make a system small, or tell it its styles."""
MORE: dict[str, Settings] = {
    "linear_transfer": {"decoder_weights": "{models}/adain.safetensors"},
    "linear_transfer_balanced": {"decoder_weights": "{models}/adain.safetensors"},
    "linear_transfer_r31": {"decoder_weights": "{models}/linear_transfer_r31.safetensors"},
    "magenta_balanced": {"augment": False},  # saves time; the other recipes vary their styles
}
"""What single recipes need besides."""
TRAINED_STYLES = ("cin", "johnson", "texture_nets")  # systems without style images in their data


@dataclass(frozen=True)
class Run:
    """A training run: a recipe, overlays (stems of files) laid over it, settings of the model, and other options.

    A recipe as it is uses a thin file of its own encoder, a variant with `THIN` unless it says otherwise. ``data``
    takes the place of the options that name the images and their sizes.
    """

    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    data: tuple[str, ...] | None = None


FIT: Settings = {"first_pictures": 12, "lr": 0.003}
MOBILE: Settings = {"predictor": "mobilenet_v2", "norm_momentum": 0.1}
TEACHER: Settings = {"teacher": "{models}/magenta.safetensors"}
WITHOUT_LOSSES: Settings = {"content_weight": 0, "style_weight": 0, "tv_weight": 0}
JUDGE: Settings = {"loss_encoder": THIN, "loss_encoder_weights": "{models}/vgg_to_relu4_1.safetensors"}
ENCODERS = ("adain", "efdm", "sanet", "multi_level_adain", "multi_level_attention", "linear_transfer")
DRAWN = tuple(
    f"--data.{side}.init_args.{option}" for side in ("content", "style") for option in ("count=4", "root={drawn}")
)

VARIANTS: dict[str, Run] = {
    # First weights from a least squares fit, and whitened steps.
    **{f"{system}+fit": Run(system, FIT) for system in (*ENCODERS, "linear_transfer_r31", "microast", "cin")},
    "msgnet+fit": Run("msgnet", FIT | {"ngf": 8}),
    "stytr2+fit": Run("stytr2", FIT | {"encoder": "vgg19_random/4"}),
    "magenta+fit": Run("magenta", FIT | MOBILE),
    "magenta+separable+fit": Run("magenta_mobile", FIT | {"separable": True, "padding": "zeros", "augment": False}),
    "multi_level_adain+full+fit": Run("multi_level_adain", FIT | {"concatenate": "full"}),
    "linear_transfer+both+fit": Run("linear_transfer", FIT | {"relu3_1": True}),
    "linear_transfer+decoder+fit": Run("linear_transfer", FIT | MORE["linear_transfer"]),
    "msgnet+subpixel+fit": Run("msgnet", FIT | {"upsample": "subpixel", "ngf": 8}),
    # Losses of another network.
    **{f"{system}+loss_encoder": Run(system, {"loss_encoder": "vgg19_random/4"}) for system in ENCODERS},
    "sanet+loss_encoder_file": Run("sanet", JUDGE),
    # Overlays.
    **{
        f"{system}+slim": Run(system, {"first_pictures": 12, "encoder": THIN} | JUDGE, overlays=("slim",))
        for system in (*ENCODERS[:-1], "linear_transfer_r31")
    },
    "adain+ema": Run("adain", overlays=("ema",)),
    "adain+ema+fit": Run("adain", FIT, overlays=("ema",)),
    "sanet+quickstart": Run(
        "sanet",
        {"first_pictures": 0, "encoder": "vgg19_slim"},
        ("--data.size=32", "--data.crop=32", "--data.num_workers=0"),
        ("quickstart",),
        DRAWN,
    ),
    # Teachers and frozen parts.
    "magenta+teacher": Run("magenta_mobile", TEACHER | {"distillation_weight": 2}),
    "magenta+distillation": Run(
        "magenta_mobile", TEACHER | WITHOUT_LOSSES | {"distillation_weight": 2, "augment": False}
    ),
    "magenta+imitation": Run(
        "magenta_mobile",
        TEACHER | WITHOUT_LOSSES | {"distillation_weight": 0, "imitation_weight": 3, "freeze_predictor": True},
    ),
    "magenta+imitation+fit": Run(
        "magenta_mobile",
        FIT | TEACHER | {"imitation_weight": 3, "freeze_predictor": True, "norm_momentum": 0.05, "augment": False},
    ),
    "magenta+frozen": Run("magenta_mobile", {"freeze_predictor": True, "norm_momentum": 0.1}),
    "magenta+predictor": Run("magenta_mobile", {"predictor_weights": "{models}/predictor.safetensors"}),
    "cin+finetune": Run("cin", {"styles": "{new}", "finetune": "{models}/cin.safetensors"}),
    "cin+finetune_average": Run(
        "cin", {"styles": "{new}", "finetune": "{models}/cin.safetensors", "finetune_from": "average"}
    ),
    "cin+finetune+fit": Run("cin", FIT | {"styles": "{new}", "finetune": "{models}/cin.safetensors"}),
    "cin+coefficients": Run("cin", {"style_coefficients": {"gogh": 2.0}, "style_size": 32}),
    # Weights of another model to start from.
    "efdm+start": Run("efdm", options=("--start={models}/adain.safetensors",)),
    "efdm+start_parts": Run("efdm", options=("--start={models}/adain.safetensors", "--start_parts=[decoder]")),
    "sanet+start_parts": Run("sanet", options=("--start={models}/sanet.safetensors", "--start_parts=[decoder]")),
    "sanet+start+fit": Run("sanet", FIT, ("--start={models}/adain.safetensors",)),
    "linear_transfer+start+fit": Run("linear_transfer", FIT, ("--start={models}/adain.safetensors",)),
    # Options of the trainer and of the data.
    "sanet+channels_last": Run("sanet", options=("--channels_last=true",)),
    "sanet+channels_last+fit": Run("sanet", FIT, ("--channels_last=true",)),
    "adain+bf16": Run("adain", options=("--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1")),
    "adain+accumulated": Run("adain", options=("--trainer.accumulate_grad_batches=2", "--data.flip=true")),
    # Settings of single systems that no recipe has.
    "linear_transfer+stretch": Run("linear_transfer", {"stretch": True}),
    "microast+features": Run("microast", {"fade": "features"}),
    "slim_encoder+random": Run("slim_encoder", {"first_pictures": 0}),
    "slim_encoder+deep": Run(
        "slim_encoder",
        {
            "teacher_weights": "{models}/vgg_to_relu4_1.safetensors",
            "deep_teacher_weights": "{pretrained}/vgg19_slim.safetensors",
        },
    ),
    "slim_encoder+first_weights": Run("slim_encoder", {"first_weights": "{checkpoints}/slim_encoder/last.ckpt"}),
}

RUNS = {stem: Run(stem) for stem in RECIPES} | VARIANTS


def system_of(stem: str) -> str:
    """The system of a recipe."""
    return max((name for name in SMALL if stem == name or stem.startswith(f"{name}_")), key=len)


def is_complete(path: Path) -> bool:
    """Whether a file names the class of its model; others are laid over one that does."""
    return "class_path" in (yaml.safe_load(path.read_text()).get("model") or {})


def configs(stem: str) -> list[Path]:
    """The files of a recipe, the base first: ``experiments/x_y.yaml``, or ``x.yaml`` and an overlay such as ``y/x.yaml``;
    or the file of an overlay.

    Raises:
        FileNotFoundError: If there are none; `MOVED` can name them.
    """
    names = MOVED.get(stem, [f"{stem}.yaml"])
    paths = [EXPERIMENTS / name for name in names]
    if stem not in MOVED and not paths[0].is_file():
        places = [match.start() for match in re.finditer("_", stem)]
        parts = [(stem[:place], stem[place + 1 :]) for place in reversed(places)]
        candidates: list[tuple[list[Path], Path]] = [([], path) for path in sorted(EXPERIMENTS.glob(f"*/{stem}.yaml"))]
        for base, rest in parts if stem in STEMS else ():
            overlays = (f"{rest}/{base}.yaml", f"{base}/{rest}.yaml", f"{rest}.yaml")
            candidates += [([EXPERIMENTS / f"{base}.yaml"], EXPERIMENTS / overlay) for overlay in overlays]
        found = [[*base, path] for base, path in candidates if all(part.is_file() for part in (*base, path))]
        paths = found[0] if found else []
        if len(paths) == 1 and stem in STEMS and not is_complete(paths[0]):
            paths = [EXPERIMENTS / f"{system_of(stem)}.yaml", *paths]
    if len(paths) == 1 and stem in STEMS and paths[0].is_file() and not is_complete(paths[0]):
        paths = [EXPERIMENTS / f"{system_of(stem)}.yaml", *paths]  # a variant is an overlay on the recipe of its system
    if not paths or not all(path.is_file() for path in paths):
        raise FileNotFoundError(f"There is no recipe {stem} in {EXPERIMENTS}: name its files in MOVED.")
    return paths


def unknown_recipes() -> list[str]:
    """Stems of complete recipes in the folder that this script does not run."""
    known = {path for stem in STEMS for path in configs(stem)}
    return [path.stem for path in sorted(EXPERIMENTS.rglob("*.yaml")) if path not in known and is_complete(path)]


def arguments(name: str) -> list[str]:
    """The command line of a run but for its steps and folders, with {placeholders} for what lies elsewhere each time."""
    run = RUNS[name]
    system = system_of(run.recipe)
    settings = dict(SMALL[system])
    if system == "slim_encoder":
        settings["teacher"] = THIN
    elif name in RECIPES:
        settings |= {"encoder_weights": "{models}/vgg.safetensors"} | MORE.get(name, {})
    else:
        settings["encoder"] = THIN
    settings |= run.settings
    paths = [path for stem in (run.recipe, *run.overlays) for path in configs(stem)]
    data: Iterable[str] = run.data or ()
    if run.data is None:
        sides = ("content",) if system in TRAINED_STYLES else ("content", "style")
        data = [f"--data.{side}{rest}" for side in sides for rest in ("=Folder", ".root={images}")]
        data += ["--data.style.size=40", "--data.style.crop=32"] if "style" in sides else []
        data += ["--data.size=40", "--data.crop=32", "--data.batch_size=2", "--data.num_workers=0"]
    options = [
        *data,
        *(f"--model.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()),
        *("--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--images.every_n_steps=0"),
        *("--trainer.val_check_interval=1", "--trainer.limit_val_batches=1"),
        *run.options,
    ]
    renamed = [re.sub(r"^[^=]+", lambda match: RENAMED.get(match[0], match[0]), option) for option in options]
    return [*(f"--config={{experiments}}/{path.relative_to(EXPERIMENTS)}" for path in paths), *renamed]


def steps_and_folder(steps: int, folder: Path, resume: Path | None) -> list[str]:
    """The rest of the command line."""
    options = [f"--trainer.max_steps={steps}", f"--trainer.logger.init_args.save_dir={folder}"]
    return options if resume is None else [*options, f"--ckpt_path={resume}"]


def thin_model(system: str, places: Mapping[str, str], **settings: Any) -> Any:
    """A new small model, always the same one."""
    torch.manual_seed(0)
    small = {k: fill(v, places) if isinstance(v, str) else v for k, v in SMALL[system].items()}
    more = {"gatys": Settings(iterations=2), "magenta": Settings(predictor="mobilenet_v2")}.get(system, {})
    return stylezoo.create_model(system, **{"encoder": THIN, **small, **more, **settings})


def make_models(folder: Path, places: Mapping[str, str]) -> None:
    """The files that runs start from or learn from."""
    folder.mkdir(parents=True)
    for name, settings in {
        "adain": {},
        "cin": {},
        "linear_transfer_r31": {"relu4_1": False, "relu3_1": True},
        "magenta": {},
        "sanet": {},
    }.items():
        model = thin_model(system_of(name), places, **settings)
        with torch.no_grad():
            for key, tensor in model.state_dict().items():
                if tensor.is_floating_point():  # variances stay positive; names and order of tensors play no part
                    generator = torch.Generator().manual_seed(int(tensor_hash(tensor)[:8], 16))
                    noise = torch.randn(tensor.shape, generator=generator)
                    tensor.add_(noise.abs() if key.endswith("running_var") else 0.05 * noise)
        stylezoo.save_model(model, folder / f"{name}.safetensors")
    features = {key.partition("predictor.")[2]: t for key, t in load_file(folder / "magenta.safetensors").items()}
    features = {key: tensor for key, tensor in features.items() if key.startswith("features.")}
    save_file(features, folder / "predictor.safetensors")
    vgg = thin_vgg()
    save_file(vgg, folder / "vgg.safetensors")
    shallow = {key: tensor for key, tensor in vgg.items() if key < "conv4_2"}
    save_file(shallow, folder / "vgg_to_relu4_1.safetensors")


def thin_vgg() -> dict[str, Tensor]:
    """Weights up to conv5_1 of a VGG with an eighth of the channels, which serve VGG-16 as well as VGG-19."""
    generator, tensors, channels = torch.Generator().manual_seed(2), {}, 3
    for block, (width, count) in enumerate(zip((8, 16, 32, 64, 64), (2, 2, 4, 4, 1), strict=True), start=1):
        for index in range(1, count + 1):
            weight = torch.randn(width, channels, 3, 3, generator=generator)
            tensors[f"conv{block}_{index}.weight"] = weight * (2 / (9 * channels)) ** 0.5
            tensors[f"conv{block}_{index}.bias"] = 0.1 * torch.rand(width, generator=generator)
            channels = width
    return tensors


def style_for(model: Any, images: Tensor | None = None) -> Any:
    """Returns what the model takes as style: style images, trained styles (one, or one for each image), or nothing."""
    style = image(3, 40, 56) if images is None else images
    number = 0 if images is None else torch.arange(len(images))
    return {"single": None, "multi": number}.get(model.kind, style)


def of_checkpoint(path: Path, run: Run) -> Tensor:
    """Returns the output of a trained model; of an encoder that was trained, that of an AdaIN with it."""
    if system_of(run.recipe) == "slim_encoder":
        torch.manual_seed(0)
        model = stylezoo.create_model("adain", encoder="vgg19_slim", encoder_weights=str(path)).eval()
    else:
        model = stylezoo.load_model(path)
    with torch.inference_mode():
        output: Tensor = model(image(2, 48, 64), style_for(model))
    return output


def loss_terms(system: str, places: Mapping[str, str], **settings: Any) -> dict[str, str]:
    """The loss terms of a new model, with all digits."""
    model = thin_model(system, places, **settings).train()
    content, style = (torch.cat([image(seed, 32, 32), image(seed + 10, 32, 32)]) for seed in (4, 5))
    torch.manual_seed(0)
    return {key: repr(float(term)) for key, term in model.losses(content, style_for(model, style)).items()}


def stylizer(model: Any, styles: Sequence[Any], **controls: Any) -> Callable[[Tensor], Tensor]:
    """Returns the object that stylizes batches."""
    stylize: Callable[[Tensor], Tensor] = inference.Stylizer(model, styles, engine="eager", **controls)
    return stylize


def optimizing_models(stem: str, places: Mapping[str, str]) -> dict[str, Any]:
    """Models of a recipe that optimizes, by what is special about them."""
    paths = configs(stem)
    recipe = paths[0] if len(paths) == 1 else stem.replace("_", ".", 1)
    short = {"iterations": 3, "first_iterations": 2}
    own = {} if stem == "gatys_slim" else {"encoder_weights": places["models"] + "/vgg.safetensors"}
    return {
        "random encoder": stylezoo.load_model(recipe, encoder=THIN, **short),
        "scales": stylezoo.load_model(recipe, encoder=THIN, min_scale=32, **short),
        "own encoder": stylezoo.load_model(recipe, **own, **short),
    }


def shipped_models() -> list[str]:
    """The tags of the models that lie in the package."""
    return [tag for tag, file in weights.table().models.items() if file.path.is_file()]


CONTROLS: dict[str, dict[str, Any]] = {
    "half": {"alpha": 0.5},
    "coral": {"preserve_color": "coral"},
    "luminance": {"preserve_color": "luminance"},
}
ADAIN_CONTROLS: dict[str, dict[str, Any]] = {"tiles": {"tile": 24}}
LAST = "last.ckpt"
STATES = {"state": "state_dict", "weights beside the average": "current_model_state"}
"""Parts of a checkpoint that are hashed, by the names that records have for them."""

# --- End of the names. ---

STEPS = 3
HALF = 2


def image(seed: int, height: int, width: int) -> Tensor:
    """A fixed image, (1, 3, H, W) in [0, 1]."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def make_images(folder: Path) -> None:
    """Small images: a dozen to train on, two styles, and a new style."""
    random = np.random.default_rng(0)
    sizes = {f"images/{number:02d}": (64, 48 + 4 * (number % 4)) for number in range(12)}
    sizes |= {"styles/gogh": (32, 40), "styles/klee": (40, 40), "new/miro": (36, 36)}
    for number, (name, size) in enumerate(sizes.items()):
        coarse = random.integers(0, 256, (3 + number % 3, 4, 3), dtype=np.uint8)
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def fill(text: str, places: Mapping[str, str]) -> str:
    """The text with paths in place of its {placeholders}; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda match: places.get(match[1], match[0]), text)


def sha256(*parts: bytes) -> str:
    """Of several byte strings, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """Of a tensor's type, shape and values, wherever and in whatever layout these lie in memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    values = flat.numpy() if flat.dtype != torch.bfloat16 else flat.view(torch.uint8).numpy()
    return sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode(), values.tobytes())


def hashes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of a state dict, with names and without."""
    each = {name: tensor_hash(tensor) for name, tensor in tensors.items()}
    return {
        "named": sha256(*(f"{name} {value} ".encode() for name, value in sorted(each.items()))),
        "unnamed": sha256(*(value.encode() for value in sorted(each.values()))),
        "tensors": len(each),
    }


def output_hash(output: Tensor) -> dict[str, Any]:
    """Returns the hash of an output, with its mean to read."""
    return {"bytes": tensor_hash(output), "mean": repr(float(output.double().mean()))}


@contextlib.contextmanager
def recorded_gradients() -> Iterator[list[dict[str, Any]]]:
    """The gradients of every optimizer step within the block, whatever class the optimizers have.

    They are taken between the closure, which computes and clips them, and the step.
    """
    steps: list[dict[str, Any]] = []
    depth = 0  # a step may call that of a base class

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal depth
        depth += 1
        if depth > 1:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            steps.append(gradients_of(optimizer))
            return None

        def recorded() -> Any:
            loss = closure()
            steps.append(gradients_of(optimizer))
            return loss

        return (args[0], recorded, *args[2:]), {key: value for key, value in kwargs.items() if key != "closure"}

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal depth
        depth -= 1

    hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()


def gradients_of(optimizer: Optimizer) -> dict[str, Any]:
    """Hash and norms; names and order of parameters play no part: norms are sorted within each shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms: dict[str, list[float]] = {}
    for gradient in gradients:
        norms.setdefault("x".join(map(str, gradient.shape)), []).append(float(gradient.double().norm()))
    return {
        "bytes": sha256(*(value.encode() for value in sorted(map(tensor_hash, gradients)))),
        "norms": {shape: [repr(norm) for norm in sorted(values)] for shape, values in sorted(norms.items())},
        "parameters": len(parameters),
        "without a gradient": len(parameters) - len(gradients),
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed; on an error the last lines are."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), warnings.catch_warnings():
            yield
    except BaseException:
        print("\n".join(output.getvalue().splitlines()[-15:]), file=sys.stderr)
        raise


def logged(folder: Path) -> dict[str, dict[str, str]]:
    """What a run logged, {name: {step: value}}, every digit; learning rates under one name, whatever the optimizer's."""
    values: dict[str, dict[str, list[str]]] = {}
    for path in sorted(folder.rglob("metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        name = "lr" if name.startswith("lr-") else name
                        values.setdefault(name, {}).setdefault(row["step"], []).append(value)
    return {
        name: {step: " ".join(sorted(set(found))) for step, found in steps.items()}
        for name, steps in sorted(values.items())
    }


def fit(command: Sequence[str], steps: int, folder: Path, resume: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Trains through the command line; the last checkpoint, and what is recorded of the run but for its output."""
    with quiet(), recorded_gradients() as gradients:
        cli.main(["fit", *command, *steps_and_folder(steps, folder, resume)])
    (last,) = folder.rglob(LAST)
    checkpoint = torch.load(last, map_location="cpu", weights_only=True)
    states = {name: hashes(checkpoint[key]) for name, key in STATES.items() if key in checkpoint}
    return last, {"logged": logged(folder), "gradients": gradients, **states}


def trained(command: Sequence[str], folder: Path, run: Run, resume: Path | None = None) -> dict[str, Any]:
    """The record of a run to the last step, output included."""
    last, record = fit(command, STEPS, folder, resume)
    with quiet():
        return record | {"output": output_hash(of_checkpoint(last, run))}


def image_hash(path: Path) -> str:
    """Of an image's pixels."""
    return sha256(np.asarray(read_image(path)).tobytes())


def file_hash(path: Path) -> dict[str, Any]:
    """Of a file's tensors."""
    return hashes(load_file(path))


class Record:
    """What is pinned, section by section; errors are pinned too, as sentences."""

    def __init__(self, only: Sequence[str]) -> None:
        self.only = only
        self.sections: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []

    def add(self, section: str, name: str, measure: Callable[[], Any]) -> None:
        """Records ``measure()`` unless its name is not asked for."""
        if not any(fnmatch.fnmatch(f"{section}/{name}", pattern) for pattern in self.only):
            return
        start = time.process_time()
        try:
            value = measure()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the other entries are recorded
            traceback.print_exc()
            value = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            self.failed.append(f"{section}/{name}")
        self.sections.setdefault(section, {})[name] = value
        print(f"{time.process_time() - start:6.1f} s  {section}/{name}", flush=True)


def record_run(name: str, work: Path, places: Mapping[str, str]) -> dict[str, Any]:
    """Pins a whole run and a resumed one, and keeps the checkpoint between them with its command line."""
    template = arguments(name)
    command = [fill(part, places) for part in template]
    whole = trained(command, work / "whole", RUNS[name])
    last, _ = fit(command, HALF, work / "half")
    kept = Path(places["checkpoints"], name)
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(last, kept / LAST)
    about = {"run": name, "steps": HALF, "arguments": ["fit", *template]}
    (kept / "args.json").write_text(json.dumps(about, indent=1) + "\n")
    resumed = trained(command, work / "rest", RUNS[name], kept / LAST)
    shutil.rmtree(work)
    return {"whole": whole, "resumed": resumed}


def record_resumed(name: str, work: Path, places: Mapping[str, str]) -> dict[str, Any]:
    """Pins the rest of a run whose checkpoint is given."""
    folder, template = Path(places["checkpoints"], name), arguments(name)
    if json.loads((folder / "args.json").read_text())["arguments"] != ["fit", *template]:
        print(f"          The arguments of {name} are no longer those that its checkpoint was made with.")
    command = [fill(part, places) for part in template]
    resumed = trained(command, work, RUNS[name], folder / LAST)
    shutil.rmtree(work)
    return {"resumed": resumed}


def record_losses(system: str, places: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Pins the loss terms of a new model, by style statistic."""
    return {statistic: loss_terms(system, places, style_loss=statistic) for statistic in STATISTICS}


def record_optimized(stem: str, places: Mapping[str, str]) -> dict[str, Any]:
    """Pins the output of a recipe: as numbers, as the image that users get, and with two styles at less than full strength."""
    content, styles, found = image(2, 48, 64), [image(3, 40, 56), image(6, 48, 48)], {}
    for kind, model in optimizing_models(stem, places).items():
        output = stylezoo.stylize(content, styles[0], model)
        found[kind] = {
            "output": output_hash(stylizer(model, styles[:1])(content)),
            "stylize": sha256(output.mode.encode(), output.tobytes()),
            "blend": output_hash(stylizer(model, styles, style_weights=[3, 1], alpha=0.5)(content)),
        }
    return found


def record_shipped(tag: str) -> dict[str, Any]:
    """Pins the output of a model: on its own, with blended styles, and with the controls that it has."""
    with quiet():
        model, content = stylezoo.load_model(tag), image(2, 48, 64)
        styles = {"single": [], "multi": [0, 1]}.get(model.kind, [image(3, 40, 56), image(6, 48, 48)])
        found: dict[str, Any] = {
            "fingerprint": inference.fingerprint(model),
            "state": hashes(model.state_dict()),
            "output": output_hash(stylizer(model, styles[:1])(content)),
        }
        if len(styles) > 1:
            found["blend"] = output_hash(stylizer(model, styles, style_weights=[3, 1])(content))
        for name, controls in (CONTROLS | ADAIN_CONTROLS if model.system == "adain" else CONTROLS).items():
            if model.kind == "arbitrary" or name != "half":
                found[name] = output_hash(stylizer(model, styles[:1], **controls)(content))
        if model.system == "adain":
            masks = torch.stack([torch.ones(48, 64).triu(), torch.ones(48, 64).tril(-1)])
            found["regions"] = output_hash(stylizer(model, styles, masks=masks)(content))
    return found


def about(mode: str, only: Sequence[str], seconds: float) -> dict[str, Any]:
    """Where and of what a record was made; it is not compared."""
    root = Path(stylezoo.__file__).parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    run = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "mode": mode,
        "only": only,
        "package": str(root),
        "commit": run.stdout.strip(),
        "seconds": round(seconds, 1),
        "seconds of the CPU": round(time.process_time(), 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "machine": platform.machine(),
            "vector instructions": torch.backends.cpu.get_cpu_capability(),
        },
    }


def record(output: Path, only: Sequence[str], keep: Path | None, resume_from: Path | None) -> int:
    """Writes a record; the exit code."""
    start, kept = time.perf_counter(), Record(only)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        checkpoints = (resume_from or keep or work / "checkpoints").resolve()
        if keep is not None and keep.exists() and any(keep.iterdir()):
            raise SystemExit(f"{keep} is not empty: name a new folder for the checkpoints.")
        places = {name: str(work / name) for name in ("images", "styles", "new", "drawn")}
        places |= {"experiments": str(EXPERIMENTS), "pretrained": str(PRETRAINED), "checkpoints": str(checkpoints)}
        places["models"] = str(checkpoints / "models")
        # No test of what is on this machine: neither the user's own weights nor those that torch.hub keeps.
        os.environ |= {"STYLEZOO_HOME": str(work / "home"), "TORCH_HOME": str(work / "hub"), "STYLEZOO_TRACEBACK": "1"}
        make_images(work)
        if resume_from is None:
            with quiet():
                make_models(Path(places["models"]), places)
            for path in sorted(work.glob("*/*.png")):
                kept.add("images", str(path.relative_to(work)), partial(image_hash, path))
            for path in sorted(Path(places["models"]).iterdir()):
                kept.add("models", path.stem, partial(file_hash, path))
        for name in RUNS:
            if resume_from is None:
                kept.add("runs", name, partial(record_run, name, work / "runs" / name, places))
            elif (checkpoints / name / LAST).is_file():
                kept.add("runs", name, partial(record_resumed, name, work / "runs" / name, places))
            else:
                print(f"          There is no checkpoint of {name}.")
        if resume_from is None:
            for system in SYSTEMS:
                kept.add("losses", system, partial(record_losses, system, places))
            for stem in OPTIMIZING:
                kept.add("optimized", stem, partial(record_optimized, stem, places))
            for tag in shipped_models():
                kept.add("shipped", tag, partial(record_shipped, tag))
    seconds = time.perf_counter() - start
    mode = "whole" if resume_from is None else "resumed"
    content = {"about": about(mode, only, seconds), **kept.sections}
    output.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    counts = ", ".join(f"{len(entries)} {section}" for section, entries in kept.sections.items())
    print(
        f"{output}: {counts}; {leaves(kept.sections)} values in {seconds:.0f} s ({time.process_time():.0f} s of the CPU)."
    )
    for name, found in kept.sections.get("runs", {}).items():
        if "whole" in found and any(found["whole"].get(part) != found["resumed"].get(part) for part in STATES):
            print(f"Note: {name} does not end where its resumed run ends.")
    for stem in unknown_recipes():
        print(f"Note: the recipe {stem} is none that this script runs.")
    for name in kept.failed:
        print(f"Failed: {name}")
    return int(bool(kept.failed))


def leaves(value: Any) -> int:
    """How many values a record holds."""
    if isinstance(value, dict):
        return sum(map(leaves, value.values()))
    return sum(map(leaves, value)) if isinstance(value, list) else 1


def shared(before: Any, after: Any) -> int:
    """How many values of a record another one holds, too."""
    if isinstance(before, dict) and isinstance(after, dict):
        return sum(shared(value, after[key]) for key, value in before.items() if key in after)
    return leaves(before)


def differences(before: Any, after: Any, incomplete: int, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """(where, ..., what) of everything that differs.

    Args:
        before: A record, or a part of one.
        after: The same of the other one.
        incomplete: How many levels of names may be incomplete on one side.
        where: Names so far.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key in before and key in after:
                yield from differences(before[key], after[key], incomplete - 1, (*where, key))
            elif incomplete <= 0 or key == "error":
                yield (*where, key, "only before" if key in before else "only after")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True), start=1):
            yield from differences(one, other, 0, (*where, str(index)))
    elif before != after:
        yield (*where, change(before, after))


def change(before: Any, after: Any) -> str:
    """In words: hashes cut short, numbers with their relative difference."""
    texts = [value[:12] if isinstance(value, str) and len(value) == 64 else str(value) for value in (before, after)]
    text = f"{texts[0]} -> {texts[1]}"
    try:
        one, other = float(before), float(after)
    except (TypeError, ValueError):
        return text
    return text if one == 0 else f"{text} (by {abs(other / one - 1):.1e} of it)"


def compare(before: Path, after: Path, names_may_differ: bool) -> int:
    """Prints each difference of two records; the exit code."""
    records = [json.loads(path.read_text()) for path in (before, after)]
    abouts = [record.pop("about") for record in records]
    if abouts[0]["versions"] != abouts[1]["versions"]:
        print(
            f"Note: the records are of different machines or libraries: {abouts[0]['versions']}, {abouts[1]['versions']}"
        )
    incomplete = any(entry["mode"] != "whole" or entry["only"] != ["*"] for entry in abouts)
    found = [
        difference
        for difference in differences(records[0], records[1], 3 if incomplete else 0)
        if not (names_may_differ and "named" in difference[-2:])
    ]
    for difference in found:
        print(" > ".join(difference))
    entries = sorted({"/".join(difference[:2]) for difference in found})
    numbers = [shared(*records), *map(leaves, records)]
    print("{} values are in both records, of {} and {}.".format(*numbers))
    print(f"{len(found)} differences in {len(entries)} entries: {', '.join(entries)}" if found else "No difference.")
    return int(bool(found))


def main() -> int:
    """The command line, see the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path, nargs="?", help="the record to write, a JSON file")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="two records to compare")
    parser.add_argument(
        "--names-may-differ", action="store_true", help="compare tensors without their names, after a renaming"
    )
    parser.add_argument("--keep", type=Path, help="a new folder for checkpoints that other code can resume")
    parser.add_argument(
        "--resume-from", type=Path, help="such a folder: resume its checkpoints instead of starting anew"
    )
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of what is recorded, such as 'runs/sanet*'")
    given = parser.parse_args()
    if given.compare:
        return compare(given.compare[0], given.compare[1], given.names_may_differ)
    if given.output is None or (given.keep and given.resume_from):
        parser.error("name a record to write, or two to --compare; --keep and --resume-from exclude each other")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(f"Pinning {stylezoo.__file__}", flush=True)
    return record(given.output, given.only, given.keep, given.resume_from)


if __name__ == "__main__":
    sys.exit(main())
