"""What several tests need: the fixtures beside the repository, and models built from them."""

from __future__ import annotations

import importlib.util
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import golden
import pytest

# What numbers may depend on: STYLEZOO_TEST_CPU=baseline stands for a processor without AVX, which sums in another order
# (make test-portable), STYLEZOO_TEST_CPU=plain for one without oneDNN, on two threads. Torch reads this when it starts.
CPU = os.environ.get("STYLEZOO_TEST_CPU", "native")
if CPU == "baseline":
    os.environ["ATEN_CPU_CAPABILITY"] = "default"
    os.environ["ONEDNN_MAX_CPU_ISA"] = "SSE41"
    os.environ["MKL_ENABLE_INSTRUCTIONS"] = "SSE4_2"

import torch

# A program that a shell starts in the background ignores Ctrl-C, one under nohup SIGHUP, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import stylezoo
import stylezoo.vgg
from stylezoo import StyleModel
from stylezoo.images import write_image
from stylezoo.registry import get

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

# Tiny tensors gain nothing from threads, and the workers of pytest-xdist would fight over the cores.
THREADS = 2 if CPU == "plain" else 1
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of the processes that tests start
torch.set_num_threads(THREADS)
torch.backends.mkldnn.enabled = CPU != "plain"

# The same few networks of random filters are drawn for thousands of models; they are copied wherever they go.
stylezoo.vgg.random_weights = cache(stylezoo.vgg.random_weights)

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("STYLEZOO_SHARED", ROOT.parent / "shared"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "numerical: what another processor rounds differently; make test-portable")


def pytest_report_header() -> str:
    one_dnn = "oneDNN" if torch.backends.mkldnn.enabled else "no oneDNN"
    return f"numbers: {CPU} ({torch.backends.cpu.get_cpu_capability()}, {one_dnn}, {THREADS} thread(s))"


LONGEST = (
    *("test_zoo.py", "training/test_training.py", "exporters/test_export.py", "evaluation/test_evaluate.py"),
    *("test_goldens.py", "test_adding_a_system.py", "training/test_training_options.py", "studies/test_studies.py"),
    *("test_first_hour.py", "models/test_stytr2.py", "inference/test_datasets.py", "demo/test_page.py"),
)
"""Files that take longest. Workers begin with them, so that none is left with a long one while the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Comparisons with stored numbers are numerical; other tests say so themselves. Long files come first."""
    for item in items:
        if "parity" in getattr(item, "fixturenames", ()):
            item.add_marker("numerical")
    first = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


def shared(path: str) -> Path:
    """A file of the folder that lies beside the repository; skips the test where there is none."""
    if not (SHARED / path).exists():
        pytest.skip(f"needs {path} in the folder 'shared' beside the repository (or $STYLEZOO_SHARED)")
    return SHARED / path


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, and none reaches torch.hub's."""
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path_factory.getbasetemp() / "hub"))


class Case:
    """A case with its arrays as tensors: a fixture (`shared/parity/README.md`) or a golden (`tests/goldens/README.md`)."""

    def __init__(self, fixture: Any, folder: Path) -> None:
        self.fixture = fixture
        self.meta = self.fixture.meta
        self.folder = folder

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.fixture.arrays[name])

    def check(self, **values: Any) -> None:
        assert self.fixture.check(**values) == {}

    def part(self, name: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in self.fixture.params[name].items()}

    def files(self, *parts: str) -> list[Path]:
        """The parts as the files that the reference implementation would have saved."""
        paths = []
        for part in parts:
            paths.append(self.folder / f"{part}.pth")
            torch.save(self.part(part), paths[-1])
        return paths

    def model(self, system: str, *parts: str, **settings: Any) -> StyleModel:
        """The system with the case's parameters, imported from files."""
        return stylezoo.import_checkpoint(system, self.files(*parts), **settings)


@pytest.fixture
def parity(tmp_path: Path) -> Callable[[str], Case]:
    """parity("adain/op") loads a case: the whole fixture, or else what `tests/goldens` has of it; skips without both."""

    def load(name: str) -> Case:
        if (SHARED / "parity" / "recipe.py").exists():
            return Case(load_module("recipe", SHARED / "parity" / "recipe.py").load(name), tmp_path)
        if not golden.has(name):
            shared(f"parity/{name}")
        return Case(golden.Golden(name), tmp_path)

    return load


def load_module(name: str, path: Path) -> Any:
    """A Python file that lies in no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where data classes look their module up
    spec.loader.exec_module(module)
    return module


def gradient_norms(terms: dict[str, torch.Tensor], **parts: torch.nn.Module) -> dict[str, torch.Tensor]:
    """{gradnorm_<part>, gradnorms_<part>} of the sum of loss terms, their squares summed in float64.

    torch sums float32 squares lane by lane: in eight lanes (AVX2) the norm of 2.4 million numbers comes out 4e-5 too small,
    twice what the fixtures allow for everything.
    """
    total = torch.stack(list(terms.values())).sum()
    return _norms(torch.autograd.grad(total, _parameters(parts), retain_graph=True), parts)


def gradient_norms_by_loss(
    terms: dict[str, torch.Tensor], weights: Mapping[str, float], **parts: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """`gradient_norms` of the sum of loss terms, and of each without its weight, {..., gradnorm_<part>_of_loss_<term>}.

    One backward pass per term: the gradient of the sum is the sum of theirs.
    """
    each = {n: torch.autograd.grad(term, _parameters(parts), retain_graph=True) for n, term in terms.items()}
    norms = _norms([torch.stack(gradients).sum(0) for gradients in zip(*each.values(), strict=True)], parts)
    for term, gradients in each.items():
        own = _norms([gradient / weights[term] for gradient in gradients], parts)
        norms |= {f"{key}_of_loss_{term}": norm for key, norm in own.items()}
    return norms


def _parameters(parts: Mapping[str, torch.nn.Module]) -> list[torch.nn.Parameter]:
    return [parameter for part in parts.values() for parameter in part.parameters()]


def _norms(gradients: Iterable[torch.Tensor], parts: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The norms of the gradients of all parameters, by part."""
    remaining, norms = iter(gradients), {}
    for name, part in parts.items():
        each = torch.stack([next(remaining).double().norm() for _ in part.parameters()])
        norms[f"gradnorm_{name}"], norms[f"gradnorms_{name}"] = each.norm(), each
    return norms


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dozen small images of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for index in range(12):
        low = torch.rand(1, 3, 3 + index % 3, 4, generator=generator)
        size = (48 + 4 * (index % 4), 64)
        picture = torch.nn.functional.interpolate(low, size=size, mode="bilinear")
        write_image(picture, folder / f"{index:02d}.png")
    return folder


THIN = "vgg19_random/8"
NARROW = {"encoder": THIN, "loss_encoder": THIN, "width": 0.25, "ngf": 32, "layers": 1}
"""Settings that make small networks of those systems that have them."""
FEW = {"predictor": "mobilenet_v2", "iterations": 12}
"""The same of tests without a recipe. Iterations: enough to leave the content; rounding grows 1e5-fold over them."""


def thin_model(name: str, he_init: bool = True, **settings: Any) -> StyleModel:
    """The system with the thinnest encoder and a part of its width and depth, so that a zoo is tested in seconds.

    PyTorch's own initialization lets signals fade over the layers; He's keeps the outputs' differences visible.
    """
    arguments = inspect.signature(get(name)).parameters
    small = {key: value for key, value in (NARROW | FEW).items() if key in arguments}
    settings = {**small, **trained_styles(arguments), **settings}
    torch.manual_seed(0)
    model = stylezoo.create_model(name, **settings)
    for parameter in model.parameters():
        if he_init and parameter.requires_grad and parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return model


@cache
def style_folder() -> TemporaryDirectory[str]:
    """A folder of two small images of different sizes, gone when the tests are."""
    folder = TemporaryDirectory()
    for index in range(2):
        picture = torch.rand(3, 40, 32 + 8 * index, generator=torch.Generator().manual_seed(index))
        write_image(picture, Path(folder.name) / f"{index}.png")
    return folder


def trained_styles(arguments: Any) -> dict[str, object]:
    """What systems that learn given styles are created with: one image (style_image), or a folder of them (styles)."""
    folder = style_folder().name
    paths = {"style_image": f"{folder}/0.png", "styles": folder}
    return {name: path for name, path in paths.items() if name in arguments}
