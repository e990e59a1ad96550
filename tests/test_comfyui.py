"""The node pack of ComfyUI, loaded as ComfyUI loads custom nodes, against a stub of its modules."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, thin_model

import stylezoo
from stylezoo import StylezooError, registry

PACK = ROOT / "integrations" / "comfyui"


class Interrupted(Exception):
    """What ComfyUI raises when its user stops the queue."""


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stub of the parts of ComfyUI that custom nodes use, and the pack's nodes by name."""
    state = SimpleNamespace(progress=[], interrupted=False, nodes={})
    root, management, utils = (ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils"))

    def throw() -> None:
        if state.interrupted:
            raise Interrupted

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int | None = None) -> None:
            state.progress.append(value / (total or self.total))

    management.get_torch_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
    management.throw_exception_if_processing_interrupted = throw  # type: ignore[attr-defined]
    utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    root.model_management, root.utils = management, utils  # type: ignore[attr-defined]
    for module in (root, management, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    # ComfyUI's nodes.py: the folder's __init__.py, under the path as the module's name
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, f"{name}.nodes", raising=False)
    spec.loader.exec_module(module)
    state.nodes, state.titles = module.NODE_CLASS_MAPPINGS, module.NODE_DISPLAY_NAME_MAPPINGS
    return state


def execute(comfy: SimpleNamespace, name: str, /, **inputs: Any) -> Any:
    """Runs a node as ComfyUI's executor does: a new object, and inputs by the names and types that the node declares."""
    cls = comfy.nodes[name]
    declared = cls.INPUT_TYPES()
    required, optional = declared["required"], declared.get("optional", {})
    assert inputs.keys() <= {*required, *optional}
    for key, (kind, *options) in required.items():
        if key not in inputs:  # a widget has its default, a list its first entry
            inputs[key] = options[0]["default"] if options else kind[0]
    outputs = getattr(cls(), cls.FUNCTION)(**inputs)
    assert isinstance(outputs, tuple) and len(outputs) == len(cls.RETURN_TYPES) == len(cls.RETURN_NAMES)
    return outputs[0]


def picture(height: int, width: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    low = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(low, size=(height, width), mode="bilinear").movedim(1, -1)


def is_image(image: torch.Tensor, like: torch.Tensor) -> bool:
    return image.shape == like.shape and image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1


def test_the_pack_is_complete(comfy: SimpleNamespace) -> None:
    assert comfy.nodes.keys() == comfy.titles.keys() and len(comfy.nodes) == 4
    for cls in comfy.nodes.values():
        assert cls.CATEGORY == "stylezoo" and callable(getattr(cls, cls.FUNCTION))
    readme = (PACK / "README.md").read_text()
    assert all(title.removesuffix(" (stylezoo)") in readme for title in comfy.titles.values())


def test_a_graph_of_a_model_that_ships(comfy: SimpleNamespace) -> None:
    """Load, encode, stylize a batch with another aspect: what `stylezoo.inference.Stylizer` makes of the same tensors."""
    names = comfy.nodes["StylezooLoadModel"].INPUT_TYPES()["required"]["name"][0]
    assert names == stylezoo.list_models(pretrained=True)
    model = execute(comfy, "StylezooLoadModel", name="microast")
    content, painting = picture(40, 96, count=5), picture(64, 48, seed=1)
    style = execute(comfy, "StylezooEncodeStyle", model=model, image=painting)
    output = execute(comfy, "StylezooStylize", model=model, image=content, style=style)
    assert is_image(output, content) and comfy.progress == [4 / 5, 1]
    from stylezoo.inference import Stylizer

    expected = Stylizer(model, [painting.movedim(-1, 1)[0]])(content.movedim(-1, 1))
    assert (output - expected.movedim(1, -1)).abs().max() < 1e-5
    weaker = execute(comfy, "StylezooStylize", model=model, image=content, style=style, alpha=0.2)
    assert (weaker - content).abs().mean() < (output - content).abs().mean()


@pytest.mark.parametrize("system", registry.systems())
def test_every_system(system: str, comfy: SimpleNamespace) -> None:
    model = thin_model(system, **({"iterations": 3} if system == "gatys" else {})).eval()
    content = picture(40, 64)
    style = None
    if model.kind == "multi":
        style = execute(comfy, "StylezooEncodeStyle", model=model, trained_style="1")
        named = model.styles[1]
        same = execute(comfy, "StylezooEncodeStyle", model=model, trained_style=named)
        assert all(torch.equal(value, same.codes[0][key]) for key, value in style.codes[0].items())
    elif model.kind != "single":
        style = execute(comfy, "StylezooEncodeStyle", model=model, image=picture(48, 48, seed=1))
    output = execute(comfy, "StylezooStylize", model=model, image=content, **({"style": style} if style else {}))
    assert is_image(output, content) and (output - content).abs().mean() > 1e-3
    assert comfy.progress[-1] == 1 and model.on_iteration is None


def test_blends(comfy: SimpleNamespace) -> None:
    """A blend with a share of 0 or 1 is one of the styles, and shares of blends multiply."""
    model = thin_model("adain").eval()
    content = picture(48, 64)
    first, second, third = (
        execute(comfy, "StylezooEncodeStyle", model=model, image=picture(48, 48, seed=seed)) for seed in (1, 2, 3)
    )

    def blended(a: Any, b: Any, share: float) -> Any:
        return execute(comfy, "StylezooBlendStyles", first=a, second=b, share_of_second=share)

    def output(style: Any, **controls: Any) -> torch.Tensor:
        return execute(comfy, "StylezooStylize", model=model, image=content, style=style, **controls)

    assert torch.equal(output(blended(first, second, 0.0)), output(first))
    assert torch.equal(output(blended(first, second, 1.0)), output(second))
    half = output(blended(first, second, 0.5))
    assert not torch.allclose(half, output(first), atol=1e-3) and not torch.allclose(half, output(second), atol=1e-3)
    assert blended(blended(first, second, 0.5), third, 0.2).weights == pytest.approx((0.4, 0.4, 0.2))
    batch = execute(
        comfy, "StylezooEncodeStyle", model=model, image=torch.cat([picture(48, 48, seed=seed) for seed in (1, 2)])
    )
    assert torch.allclose(output(batch), half, atol=1e-5)
    recolored = output(blended(first, second, 0.5), preserve_color="coral")
    assert is_image(recolored, content) and not torch.allclose(recolored, half, atol=1e-3)


def test_mistakes_are_sentences(comfy: SimpleNamespace) -> None:
    adain, johnson, other = thin_model("adain").eval(), thin_model("johnson").eval(), thin_model("adain").eval()
    image = picture(32, 32)
    style = execute(comfy, "StylezooEncodeStyle", model=adain, image=image)
    for message, node, inputs in (
        ("connect one", "EncodeStyle", {"model": adain}),
        ("has one style", "EncodeStyle", {"model": johnson, "image": image}),
        ("has trained styles: name one", "EncodeStyle", {"model": thin_model("cin")}),
        ("needs a style", "Stylize", {"model": adain, "image": image}),
        ("another model", "Stylize", {"model": other, "image": image, "style": style}),
        (r"\(B, H, W, 3\)", "Stylize", {"model": adain, "image": image[0], "style": style}),
        ("did you mean 'adain'", "LoadModel", {"file_or_repository": " adian "}),
    ):
        with pytest.raises(StylezooError, match=message):
            execute(comfy, f"Stylezoo{node}", **inputs)


def test_interrupting_stops_between_parts(comfy: SimpleNamespace) -> None:
    model = thin_model("gatys", iterations=5).eval()
    style = execute(comfy, "StylezooEncodeStyle", model=model, image=picture(32, 32, seed=1))
    comfy.interrupted = True
    with pytest.raises(Interrupted):
        execute(comfy, "StylezooStylize", model=model, image=picture(32, 32), style=style)
    assert model.on_iteration is None


def test_opacity_and_overshoot(comfy: SimpleNamespace) -> None:
    model = thin_model("adain").eval()
    image = picture(32, 32)
    style = execute(comfy, "StylezooEncodeStyle", model=model, image=image)
    with_alpha = torch.cat([image + (image > 0.5) * 0.7, torch.zeros(1, 32, 32, 1)], dim=-1)
    expected = execute(comfy, "StylezooStylize", model=model, image=with_alpha[..., :3].clamp(0, 1), style=style)
    assert torch.equal(execute(comfy, "StylezooStylize", model=model, image=with_alpha, style=style), expected)
