"""Runs in tiles: what is kept, where, how many passes there are, thumbnails, estimates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import thin_model
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.streaming import (
    Budget,
    Stream,
    StreamedMap,
    Window,
    assembled,
    estimated_memory,
    free_memory,
    memory,
    runs,
    whole,
)
from stylezoo.streaming.memory import InMemory, OnDisk
from stylezoo.vgg import VGG

CPU = torch.device("cpu")


def image(height: int = 96, width: int = 80) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def run(name: str, budget: float, **settings: Any) -> tuple[Tensor, Tensor, Stream, list[int]]:
    """A system's output at once and in tiles; the run; and the numbers of values that its convolutions computed."""
    model, content = thin_model(name, **settings).eval().double(), image()
    style = {"single": None, "multi": 0}.get(model.kind, image(40, 48))
    stream = Stream(32, (96, 80), CPU, Budget(budget))
    computed = []
    convolve = torch.nn.functional.conv2d

    def noted(x: Tensor, *args: Any, **options: Any) -> Tensor:
        result = convolve(x, *args, **options)
        if not isinstance(x, StreamedMap):
            computed.append(result.numel())
        return result

    with torch.inference_mode():
        code = model.encode_style(style)
        expected = model.decode(content, code)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "conv2d", noted)
            (output,) = whole(model.decode(StreamedMap.of(content, stream), code))
    return expected, output, stream, computed


@pytest.mark.parametrize(
    ("name", "passes"), [("adain", 2), ("johnson", 16), ("microast", 3), ("sanet", 3), ("efdm", 2)]
)
def test_what_is_kept_changes_nothing(name: str, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory, with temporary files, and (but for sorting, which needs room) with neither, where all is computed again."""
    work = []
    for budget, disk in ((math.inf, 0), (0, 2**40), (0, 0)):
        monkeypatch.setattr(memory, "free_disk", lambda disk=disk: disk)
        if name == "efdm" and not budget + disk:
            with pytest.raises(
                StylezooError, match=r"no room for a map of 0\.0 GiB, neither in memory nor for a temporary"
            ):
                run(name, budget)
            continue
        expected, output, stream, computed = run(name, budget)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
        assert stream.passes == passes
        work.append(sum(computed))
    assert work[0] == work[1] and all(more > 1.3 * work[0] for more in work[2:])


def test_kept_maps_are_given_up_when_nothing_needs_them() -> None:
    stream = Stream(32, (96, 80), CPU, Budget(2**30))
    model, content = thin_model("johnson").eval().double(), image()
    with torch.inference_mode():
        output = model.decode(StreamedMap.of(content, stream), {})
        held = 2**30 - stream.budget.left
        del output
    # what the last norm reads, and the features of the residual blocks; not those before
    assert 0 < held < 60 * 96 * 80 * 8 and stream.budget.left == 2**30


def test_maps_in_files(tmp_path: Path) -> None:
    values = torch.rand(2, 5, 30, 40)
    stored = OnDisk(values.shape, values.dtype, CPU)
    for top in range(0, 30, 7):
        for left in range(0, 40, 9):
            window = Window(top, min(30, top + 7), left, min(40, left + 9))
            stored.write(window, InMemory(values).read(window))
    assert torch.equal(stored.read(Window(0, 30, 0, 40)), values)
    assert torch.equal(stored.read(Window(3, 9, 5, 33)), values[..., 3:9, 5:33])


def test_free_memory_knows_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_memory(CPU)
    assert 2**26 < free < 2**50
    monkeypatch.setenv("STYLEZOO_MEMORY", "100")
    assert free_memory(CPU) == 100 * 2**20
    monkeypatch.delenv("STYLEZOO_MEMORY")
    real = memory._lines
    files = {
        "/proc/self/cgroup": ["0::/box/inner"],
        "/sys/fs/cgroup/box/inner/memory.max": ["max"],
        "/sys/fs/cgroup/box/memory.max": [str(3 * 2**20)],
        "/sys/fs/cgroup/box/memory.current": [str(2 * 2**20)],
        "/sys/fs/cgroup/box/memory.stat": ["anon 7", f"inactive_file {2**19}"],
    }
    monkeypatch.setattr(
        memory, "_lines", lambda path: files.get(str(path), [] if "cgroup" in str(path) else real(path))
    )
    assert free_memory(CPU) == 1.5 * 2**20


@pytest.mark.parametrize("name", ["johnson", "adain", "magenta"])
def test_statistics_of_a_thumbnail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take one pass, and are near the exact ones for an image that is smooth; those of the image itself are exact."""
    model = thin_model(name).eval().double()
    low = torch.rand(1, 3, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    content = torch.nn.functional.interpolate(low, (128, 160), mode="bicubic").clamp(0, 1)
    style = {"single": None}.get(model.kind, image(90, 90))
    with torch.no_grad():
        code = model.encode_style(style)
        expected = model.decode(content, code)
        same = model.decode(content, code, tile=64, tile_statistics="thumbnail")
        torch.testing.assert_close(same, expected, rtol=0, atol=1e-10)
        monkeypatch.setattr(runs, "THUMBNAIL", 80)
        near = model.decode(content, code, tile=64, tile_statistics="thumbnail")
    difference = float((near - expected).abs().mean() / expected.std())
    assert 1e-6 < difference < 0.5


@pytest.mark.parametrize("name", ["adain", "sanet", "stytr2", "efdm", "johnson", "cin", "texture_nets", "msgnet"])
def test_the_estimate_grows_with_the_image(name: str) -> None:
    model = thin_model(name).eval()
    with torch.inference_mode():
        code = model.encode_style({"single": None, "multi": 0}.get(model.kind, image(64, 64).float()))
        small, large = (
            estimated_memory(lambda x: model.decode(x, code), (1, 3, side, side), torch.zeros(1))
            for side in (256, 4096)
        )
    assert large == pytest.approx(256 * small, rel=0.1)
    assert small > 2 * 256 * 256 * 3 * 4  # more than the output


def test_features_in_tiles_have_their_gradient() -> None:
    vgg = VGG("vgg19_random/16").double()
    layers = ["relu1_1", "relu3_1", "relu4_1"]
    gradients = []
    for tile in (None, 32):
        x = image(75, 90).requires_grad_()
        features = vgg(x, layers, tile=tile)
        assert list(features) == layers
        sum((f.square() * 0.1).sum() for f in features.values()).backward()  # type: ignore[union-attr]
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-8)
    names = assembled(lambda x: {"half": x[..., ::1, 3:] / 2}, image(), 20)
    assert torch.equal(names["half"], image()[..., 3:] / 2)
