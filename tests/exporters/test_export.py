"""Exported models compute what the models compute, at sizes that were not traced, and say what they are."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, thin_model
from torch import Tensor

import stylezoo
from stylezoo import StylezooError, cli
from stylezoo.exporters import files, rules
from stylezoo.exporters.interface import images, make_interface
from stylezoo.exporters.precision import converted
from stylezoo.exporters.program import to_onnx
from stylezoo.images import load_image, write_image
from stylezoo.layers import is_traced, resized
from stylezoo.module import StyleModel

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SYSTEMS = [name for name in stylezoo.list_models() if name != "gatys"]

SIZES = (((1, 64, 64), (1, 64, 64)), ((3, 67, 97), (3, 65, 90)), ((2, 129, 78), (1, 110, 73)))
"""Batch, height and width of contents and of styles: multiples of all strides, and none; none is the example of the exporter."""

ALPHA = {"adain", "efdm", "linear_transfer", "msgnet", "multi_level_adain", "sct"}
"""Systems that fade features, in which alpha is an input."""

EXACT = {name: {"he_init": False} for name in ("adaattn", "efdm", "sanet", "sct")}
"""Networks of random weights whose ranks, logits of thousands or outputs of tens float32 cannot resolve to 1e-4."""


def style_of(model: StyleModel, size: tuple[int, int, int]) -> Any:
    """A style image, weights over the trained styles, or nothing."""
    if model.kind == "single":
        return None
    return images(*size, seed=5) if model.kind == "arbitrary" else torch.rand(size[0], len(model.styles))


def check(model: StyleModel, run: files.Run, code: bool = False, styles: int | None = None) -> None:
    """Compares an exported model with the model."""
    model = model.eval()
    for size, style_size in SIZES:
        style = style_of(model, (styles or style_size[0], *style_size[1:]))
        content, alpha = images(*size, seed=4), 0.6 if model.system in ALPHA else 1.0
        with torch.inference_mode():
            encoded = model.encode_style(style)
            expected = model.decode(content, encoded, alpha)
        inputs: dict[str, Tensor] = {"content": content}
        inputs |= encoded if code else {} if style is None else {"style": style}
        if model.system in ALPHA:
            inputs["alpha"] = torch.tensor(alpha)
        torch.testing.assert_close(run(inputs).clone(), expected.clone(), rtol=0, atol=1e-4)
        assert 0.003 < float(expected.std()) < 3  # an output whose errors 1e-4 says something about


def onnx_run(path: Path) -> files.Run:
    return files.session(path.read_bytes())


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.slow
def test_onnx_equals_pytorch_at_sizes_that_were_not_traced(name: str, tmp_path: Path) -> None:
    model = thin_model(name, **EXACT.get(name, {}))
    written = stylezoo.export(model, tmp_path / "model.onnx")
    assert written.bytes == written.path.stat().st_size and written.largest_error <= 1e-4
    assert ("alpha" in written.inputs) == (name in ALPHA)
    assert written.inputs["content"] == ["batch", 3, "height", "width"]
    assert model.training
    check(model, onnx_run(written.path))


@pytest.mark.parametrize("name", ["adain", "cin", "multi_level_attention"])
def test_style_codes_as_inputs(name: str, tmp_path: Path) -> None:
    model = thin_model(name)
    written = stylezoo.export(model, tmp_path / "model.onnx", style_input="code")
    assert "style" not in written.inputs and len(written.inputs) > 2
    check(model, onnx_run(written.path), code=True)


@pytest.mark.parametrize("name", ["johnson", pytest.param("efdm", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_programs_of_torch_export(name: str, tmp_path: Path) -> None:
    model = thin_model(name, **EXACT.get(name, {}))
    written = stylezoo.export(model, tmp_path / "model.pt2", format="torch")
    about = {"stylezoo.json": ""}
    program = torch.export.load(written.path, extra_files=about).module()
    assert json.loads(about["stylezoo.json"])["system"] == name
    check(model, lambda inputs: program(*inputs.values()), styles=1)


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["johnson.minotaur", "adain.slim"])
def test_models_that_ship(tag: str, tmp_path: Path) -> None:
    model = stylezoo.load_model(tag)
    written = stylezoo.export(tag, tmp_path / "model.onnx")
    check(model, onnx_run(written.path))
    about = {entry.key: entry.value for entry in onnx.load(written.path).metadata_props}
    assert about["tag"] == tag and about["license"] == "MIT" and len(about["sha256"]) == 64
    assert json.loads(about["inputs"]) == written.inputs and "RGB in [0, 1]" in about["images"]


def test_fewer_bits_are_smaller_and_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        written = stylezoo.export("cin.sixteen", tmp_path / f"{precision}.onnx", precision=precision)
        sizes[precision] = written.bytes
        assert (precision == "float32") == (written.mean_error < 1e-6) and written.mean_error <= 2 / 255
        output = onnx_run(written.path)({"content": images(1, 70, 80, 0), "style": torch.eye(16)[:1]})
        assert output.dtype == torch.float32 and output.shape == (1, 3, 70, 80)
    assert sizes["int8"] < 0.4 * sizes["float32"] and sizes["float16"] < 0.6 * sizes["float32"]
    before = (tmp_path / "int8.onnx").read_bytes()
    monkeypatch.setitem(files.TOLERANCE, "int8", 1e-6)
    with pytest.raises(StylezooError, match=r"cin.sixteen in int8 differs from PyTorch by .* export it in float32"):
        stylezoo.export("cin.sixteen", tmp_path / "int8.onnx", precision="int8")
    assert (tmp_path / "int8.onnx").read_bytes() == before


def test_int8_restores_what_the_package_stores() -> None:
    interface = make_interface(thin_model("johnson").eval())
    exported = onnx.load_from_string(to_onnx(interface.program, interface.inputs, interface.axes))
    names = {tensor.name for tensor in exported.graph.initializer if len(tensor.dims) == 4}
    smaller = converted(exported, "int8")
    assert not names & {
        tensor.name for tensor in smaller.graph.initializer if len(tensor.dims) == 4 and tensor.data_type == 1
    }
    onnx.checker.check_model(smaller)


def test_a_fixed_style_and_a_fixed_alpha(tmp_path: Path) -> None:
    model = thin_model("adain").eval()
    style = images(1, 70, 90, 1)[0]
    written = stylezoo.export(model, tmp_path / "model.onnx", style=style, alpha=0.4)
    assert list(written.inputs) == ["content"]
    content = images(2, 75, 66, 2)
    with torch.inference_mode():
        expected = model.decode(content, model.encode_style(style[None]), 0.4)
    torch.testing.assert_close(onnx_run(written.path)({"content": content}), expected.clone(), rtol=0, atol=1e-4)
    trained = thin_model("cin").eval()
    written = stylezoo.export(trained, tmp_path / "cin.onnx", style=1)
    with torch.inference_mode():
        expected = trained(content, 1)
    torch.testing.assert_close(onnx_run(written.path)({"content": content}), expected.clone(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gatys", {}, "optimizes every image by gradients"),
        ("johnson", {"style_input": "image"}, "leave style_input out"),
        ("johnson", {"alpha": 0.5}, "leave alpha at 1"),
        ("cin", {"style_input": "image"}, "takes no image as style"),
        ("adain", {"style": images(1, 64, 64, 0)[0], "style_input": "code"}, "A fixed style is no input"),
        ("adain", {"precision": "int4"}, "precision"),
        ("adain", {"format": "torch"}, r"end in \.pt2"),
    ],
)
def test_what_cannot_be_exported_says_why(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StylezooError, match=message):
        stylezoo.export(thin_model(name), tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_the_noise_of_texture_nets_is_no_part_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(StylezooError, match="texture_nets cannot be exported|texture_nets in float32 differs"):
        stylezoo.export(thin_model("texture_nets", noise=3), tmp_path / "model.onnx")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StylezooError, match=r"needs onnx and onnxruntime: pip install stylezoo\[onnxruntime\]"):
        stylezoo.export(thin_model("johnson"), tmp_path / "model.onnx")


def test_the_command_and_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photo, output = str(tmp_path / "minotaur.onnx"), str(tmp_path / "photo.png"), str(tmp_path / "output.png")
    cli.main(["export", "--model", "johnson.minotaur", "--output", model])
    assert "MB, inputs content (batch, 3, height, width)" in capsys.readouterr().out
    write_image(images(1, 75, 90, 3), photo)
    monkeypatch.setattr(sys, "argv", ["stylize.py", model, photo, output])
    runpy.run_path(str(ROOT / "docs/onnx_python/stylize.py"))
    with torch.inference_mode():
        expected = stylezoo.load_model("johnson.minotaur")(load_image(photo)[None]).clamp(0, 1)
    assert float((load_image(output)[None] - expected).abs().max()) <= 0.51 / 255


def test_the_example_takes_a_style_and_its_strength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, files = (
        thin_model("adain"),
        [str(tmp_path / name) for name in ("adain.onnx", "a.png", "b.png", "output.png")],
    )
    stylezoo.export(model, files[0])
    for seed, file in enumerate(files[1:3]):
        write_image(images(1, 75, 90, seed), file)

    def example(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["stylize.py", *words])
        runpy.run_path(str(ROOT / "docs/onnx_python/stylize.py"))

    example(*files, "--alpha", "0.6")
    content, style = (load_image(file)[None] for file in files[1:3])
    with torch.inference_mode():
        expected = model.eval().decode(content, model.encode_style(style), 0.6).clamp(0, 1)
    assert float((load_image(files[3])[None] - expected).abs().max()) <= 0.51 / 255
    with pytest.raises(SystemExit):
        example(files[0], files[1], files[3])


# Forms of operations


def test_resizing_by_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    image = images(2, 50, 81, 0)
    for side in (20, 50, 73):
        expected = resized(image, side)
        with monkeypatch.context() as patch:
            patch.setattr("stylezoo.layers.is_traced", lambda: True)
            patch.setattr(torch, "minimum", min)  # sizes are tensors only while they are traced
            torch.testing.assert_close(resized(image, side), expected, rtol=0, atol=2e-6)
    assert not is_traced()


@pytest.mark.parametrize("size", [18, (3, 5), 1])
def test_adaptive_pooling_by_matrix_products(size: Any) -> None:
    x = torch.rand(2, 3, 13, 29)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, size)
    torch.testing.assert_close(rules.adaptive_avg_pool2d(x, size), expected, rtol=1e-5, atol=1e-6)
    with rules.Exportable():
        torch.testing.assert_close(torch.nn.functional.adaptive_avg_pool2d(x, size), expected, rtol=1e-5, atol=1e-6)


def test_integers_differences_and_sorting_are_pytorchs() -> None:
    x = torch.randint(-(2**62), 2**62, (2, 5, 7))
    with rules.Exportable():
        found = x.sum(1), x.diff(), x.sum(), (x > 0).cumsum(-1), x.sort(stable=True).values
    expected = x.sum(1), x.diff(), x.sum(), (x > 0).cumsum(-1), x.sort().values
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
