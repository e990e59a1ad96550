"""Every system against its reference implementation, through public functions alone, on any machine.

The numbers come from `tests/goldens`: a case's ``runs`` say how it is computed (see the README there), so that a new
system adds a file, and no line here. What the reference computes inside a system is checked in `tests/models`, and
metrics in `tests/metrics`, with the same cases.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from conftest import ROOT, load_module, shared
from golden import Golden
from torch import Tensor

import stylezoo
from stylezoo import StyleModel, registry

RUNS: list[tuple[str, dict[str, Any]]] = [
    (f"{file}/{case}", run)
    for file in golden.files()
    for case, content in golden.read(file)["cases"].items()
    for run in content["runs"]
]
"""What is computed of which case. The reference of texture_nets (Torch7) could not be run: `tests/models` has it written out."""

IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
CAFFE_MEAN = torch.tensor([103.939, 116.779, 123.68])[:, None, None]
TO_REFERENCE: dict[str, Callable[[Tensor], Tensor]] = {
    "rgb": lambda image: image,
    "rgb255": lambda image: 255 * image,
    "bgr255": lambda image: 255 * image.flip(1),
    "imagenet": lambda image: (image - IMAGENET[0].to(image)) / IMAGENET[1].to(image),
    "caffe": lambda image: 255 * image.flip(1) - CAFFE_MEAN.to(image),
}
TO_RGB: dict[str, Callable[[Tensor], Tensor]] = {
    "rgb": lambda image: image,
    "caffe": lambda image: (image + CAFFE_MEAN.to(image)).flip(1) / 255,
}
"""The colors in which a reference has images, and back."""


COMPARED = (
    *("adain", "cin", "efdm", "gatys", "johnson", "linear_transfer", "magenta", "microast", "msgnet"),
    *("multi_level_adain", "multi_level_attention", "sanet", "stytr2"),
)
"""Systems whose reference implementation recorded numbers. A new system may bring its numbers in a golden of its own."""


def test_every_reference_has_goldens() -> None:
    """The systems that can be compared with their reference implementation are."""
    assert set(COMPARED) <= {called(run).partition(".")[0] for _, run in RUNS}
    assert all(registry.get(name).reference is not None for name in COMPARED)


def called(run: Mapping[str, Any]) -> str:
    """The system, or the preset of one."""
    return str(run.get("system") or run["preset"])


@pytest.mark.parametrize(("name", "run"), [pytest.param(*entry, id=f"{called(entry[1])}-{entry[0]}") for entry in RUNS])
def test_parity(name: str, run: dict[str, Any], tmp_path: Path) -> None:
    """Outputs, loss terms and gradients are those of the reference, as far apart as floating point numbers may be."""
    case = Golden(name)
    model = build(case, run, tmp_path)
    inputs = {key: torch.from_numpy(array) for key, array in case.inputs.items()}
    if "content_size" in run:
        inputs["content"] = inputs["content"][..., : run["content_size"][0], : run["content_size"][1]]
    to_reference = TO_REFERENCE[run.get("colors", "rgb")]
    with torch.no_grad():
        values = {key: to_reference(output(model, inputs, how)) for key, how in run.get("outputs", {}).items()}
    if "losses" in run:
        precision = torch.float64 if "float64" in run else torch.float32
        model.to(precision)
        values |= losses(case, model, {key: tensor.to(precision) for key, tensor in inputs.items()}, run)
    assert case.check(**values) == {}
    for key in case.meta["float64_scalars"].keys() & values.keys() if "float64" in run else ():
        assert values[key].item() == pytest.approx(case.meta["float64_scalars"][key], rel=run["float64"]), key


def build(case: Golden, run: Mapping[str, Any], folder: Path) -> StyleModel:
    """The model with the parameters of a case, read from files as the reference would have written them."""
    settings, files = dict(run.get("settings", {})), run.get("files", [])
    loss_encoder = str(write(case, run["loss_encoder"], folder)) if "loss_encoder" in run else None
    if "preset" in run:
        return stylezoo.load_model(run["preset"], encoder_weights=str(write(case, files[0], folder)), **settings)
    if loss_encoder and "loss_encoder_weights" in inspect.signature(registry.get(run["system"])).parameters:
        settings["loss_encoder_weights"], loss_encoder = loss_encoder, None
    model = imported(case, run["system"], files, folder, settings)
    if loss_encoder:  # in place of the encoder that the system stylizes with
        model.attach_loss_encoder(weights=loss_encoder)
    return model


def imported(case: Golden, system: str, files: Any, folder: Path, settings: dict[str, Any]) -> StyleModel:
    """A system with parts from files, or without any as it is created."""
    if not files:
        return stylezoo.create_model(system, **settings)
    if not isinstance(files, Mapping):
        return stylezoo.import_checkpoint(system, [write(case, part, folder) for part in files], **settings)
    named = {name: write(case, part, folder) for name, part in files.items() if part is not None}
    if len(named) < len(files):  # the case has nothing of a submodule: any will do
        created = dict(stylezoo.create_model(system, **settings).named_children())
        for name in files.keys() - named.keys():
            named[name] = folder / f"created_{name}.pth"
            torch.save(created[name].state_dict(), named[name])
    return stylezoo.import_checkpoint(system, named, **settings)


def write(case: Golden, part: str, folder: Path) -> Path:
    """A file of a part; ``part as format`` converts it."""
    part, _, form = part.partition(" as ")
    tensors = {key: torch.from_numpy(value) for key, value in case.params[part].items()}
    if form == "torchvision":  # slices of a VGG under the names that torchvision has for its layers
        pattern = r"vgg_encoder\.slice\d"
        tensors = {re.sub(pattern, "features", key): t for key, t in tensors.items() if re.match(pattern, key)}
    elif form == "caffe":  # TensorFlow's kernels, of a network of RGB
        names = {"weights": "weight", "biases": "bias"}
        kernels = {key: t.permute(3, 2, 0, 1) if t.ndim == 4 else t for key, t in tensors.items()}
        tensors = {f"{k.split('/')[-2]}.{names[k.split('/')[-1]]}": tensor for k, tensor in kernels.items()}
        tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(1)
    path = folder / f"{part}_{form}.pth"
    torch.save(tensors, path)
    return path


def output(model: StyleModel, inputs: Mapping[str, Tensor], how: Mapping[str, Any]) -> Tensor:
    """Stylizes the content; ``how`` are arguments, where words are names of inputs and lists are tensors."""
    content, arguments = inputs["content"], dict(how)
    if "code" in arguments:
        return model.decode(content, {key: inputs[name] for key, name in arguments["code"].items()})
    if "styles" in arguments:
        codes = [model.encode_style(style) for style in inputs[arguments["styles"]][:, None]]
        return model.decode(content, codes, weights=arguments["weights"])
    style = style_of(inputs, arguments)
    arguments.pop("style", None)
    stylized: Tensor = model(content, style, **arguments)
    return stylized


def style_of(inputs: Mapping[str, Tensor], how: Mapping[str, Any]) -> Tensor | None:
    """The style that is asked for: an input by name, numbers or weights of learned styles, or none."""
    style = how.get("style", "style" if "style" in inputs and "style_images" not in how else None)
    return inputs[style] if isinstance(style, str) else None if style is None else torch.tensor(style)


def losses(case: Golden, model: StyleModel, inputs: dict[str, Tensor], run: Mapping[str, Any]) -> dict[str, Tensor]:
    """Loss terms, their sum, and norms of its gradients, under the names of the case."""
    parts = {part: parameters_of(case, model, part) for part in run.get("gradients", ())}
    arguments: dict[str, Any] = {}
    if "style_images" in run:  # as files they would be rounded to 8 bits
        vars(model)["style_images"] = lambda: list(inputs[run["style_images"]][:, None])
    values: dict[str, Tensor] = {}
    leaves: list[Tensor] = [parameter for part in parts.values() for parameter in part]
    if "image" in run:  # a system that optimizes: the gradient is that of the image in the reference's colors
        colors = run.get("colors", "rgb")
        leaves = [TO_REFERENCE[colors](inputs["image"]).requires_grad_()]
        if run["image"] in case.meta["arrays"]:
            values[run["image"]] = leaves[0]
        arguments["image"] = TO_RGB[colors](leaves[0])
    if "stylized" in run:
        leaves = [inputs[run["stylized"]].requires_grad_()]
    with replaced(model, leaves[0] if "stylized" in run else None):
        terms = model.losses(inputs["content"], style_of(inputs, run), **arguments)
    total = torch.stack(list(terms.values())).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    values[run.get("total", "total")] = total
    for key, of in run["losses"].items():
        if "entries" in of:
            expected = float(case.arrays[of["array"]][of["entries"]].sum(dtype=np.float64))
            assert float(terms[key].detach()) == pytest.approx(expected, rel=0, abs=case.tolerance(of["array"])), key
        else:
            values[of["array"]] = terms[key] / of.get("weight", 1)
    if "gradient" in run:
        values[run["gradient"]] = gradients[0]
    norms = iter([torch.zeros(()).to(total) if g is None else g.norm() for g in gradients])
    for part, parameters in parts.items():
        each = torch.stack([next(norms) for _ in parameters])
        values[f"gradnorm_{part}"], values[f"gradnorms_{part}"] = each.norm(), each
    return values


def parameters_of(case: Golden, model: StyleModel, part: str) -> list[torch.nn.Parameter]:
    """The parameters of a part in the order of the reference, recognized by their numbers, wherever the model has them."""
    found = {fingerprint(parameter): parameter for parameter in model.parameters()}
    (owner,) = [part] if part in case.params else case.params  # a submodule of the only part
    prefix = "" if owner == part else f"{part}."
    parameters = []
    for key in case.meta["gradnorm_keys"][part]:
        tensor = torch.from_numpy(case.params[owner][prefix + key])
        assert fingerprint(tensor) in found, f"no parameter of {model.system} has the numbers of {part}.{key}"
        parameters.append(found[fingerprint(tensor)])
    return parameters


def fingerprint(tensor: Tensor) -> tuple[int, int]:
    """Tells a tensor from others, in whatever order its numbers are."""
    bits = tensor.detach().float().contiguous().view(torch.int32)
    return tensor.numel(), int(bits.sum(dtype=torch.int64))


@contextmanager
def replaced(model: StyleModel, stylized: Tensor | None) -> Iterator[None]:
    """Losses of an image that is given, in place of what the model makes."""
    hooks = []
    if stylized is not None:
        transformer = dict(model.named_children())["transformer"]
        hooks = [transformer.register_forward_hook(lambda *_: stylized)]
    yield
    for hook in hooks:
        hook.remove()


def test_goldens_are_of_the_fixtures() -> None:
    """Where the fixtures are, the goldens are what tools/make_goldens.py makes of them, to the last digit."""
    fixtures = shared("parity")
    make_goldens = load_module("make_goldens", ROOT / "tools" / "make_goldens.py")
    for file in golden.files():
        text = make_goldens.render(make_goldens.make(fixtures, file))
        assert text == (golden.FOLDER / f"{file}.json").read_text(), file
