"""The scripts of benchmarks/: their arithmetic, what they leave out, and that they resume; no time is asserted."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest
import torch
from conftest import ROOT, thin_model

import stylezoo
from stylezoo.errors import StylezooError


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def public() -> ModuleType:
    return import_module("public_style")


@pytest.mark.parametrize("system", ["adain", "efdm", "sanet", "johnson", "microast"])
@pytest.mark.parametrize("size", [(96, 64), (90, 77)])
def test_public_networks_compute_the_same(public: ModuleType, system: str, size: tuple[int, int]) -> None:
    model = thin_model(system).eval()
    content, style = torch.rand(1, 3, *size), torch.rand(1, 3, 80, 96)
    if system == "efdm":
        style = torch.rand(1, 3, *size)  # the public code exchanges values one by one
    if system == "sanet":
        content, style = content[..., :64, :48], style[..., :64, :64]  # where the levels agree in size
    with torch.inference_mode():
        output = model(content, style if model.kind == "arbitrary" else None)
        baseline = public.public_style(model)(content, style)[..., : content.shape[-2], : content.shape[-1]]
    assert float(output.std()) > 1e-3  # the comparison is of something
    torch.testing.assert_close(baseline, output, rtol=1e-4, atol=1e-4 * float(output.abs().max()))


def test_public_networks_of_other_structures(public: ModuleType) -> None:
    for system, settings, message in [
        ("gatys", {}, "system"),
        ("adain", {"encoder": "vgg19_slim"}, "other layers"),
        ("johnson", {"upsample": "transposed"}, "pytorch/examples"),
    ]:
        model = stylezoo.create_model(system, **settings) if "encoder" in settings else thin_model(system, **settings)
        with pytest.raises(StylezooError, match=message):
            public.public_style(model)
