"""Systems of other packages: installed beside the zoo, known everywhere in it, without an edit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_adding_a_system import MODEL

import stylezoo
from stylezoo import StylezooError, catalog, plugins, registry
from stylezoo.cli import main
from stylezoo.images import load_image, to_tensor, write_image

Install = Callable[..., Path]


def install(folder: Path, package: str, entry: str, **files: str) -> Path:
    """Writes a package with an entry point, as pip would install it.

    Args:
        folder: A folder of sys.path.
        package: Name of the package.
        entry: The entry point, ``name = module``.
        files: {module: source}.
    """
    (folder / package).mkdir(parents=True)
    for module, source in {"__init__": "", **files}.items():
        (folder / package / f"{module}.py").write_text(source)
    announce(folder, package, entry)
    return folder


def announce(folder: Path, package: str, entry: str) -> None:
    """Writes the metadata of a package."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[stylezoo.systems]\n{entry}\n")


def forget() -> None:
    """What a new process would not know."""
    for function in (plugins.entries, plugins.load, catalog.systems):
        function.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages for one test."""
    modules, systems = {*sys.modules}, {*registry.systems()}
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(package: str, entry: str, **files: str) -> Path:
        folder = install(tmp_path, package, entry, **files)
        forget()
        return folder

    yield add
    for name in {*registry._SYSTEMS} - systems:
        del registry._SYSTEMS[name]
    for name in {*sys.modules} - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    monkeypatch.undo()
    forget()


def test_a_system_of_another_package(installed: Install, tmp_path: Path) -> None:
    """It is listed, built, saved, loaded and found by its class, like those of the zoo."""
    installed("zoo_toy", "toy = zoo_toy.toy", toy=MODEL)
    assert catalog.systems()["toy"].class_name == "Toy"
    assert "zoo_toy.toy" not in sys.modules  # read, not imported
    assert "toy" in stylezoo.list_models("arbitrary") and "zoo_toy.toy" in sys.modules
    assert catalog.systems()["toy"] == registry.about(registry.get("toy"))
    model = stylezoo.create_model("Toy", loss_encoder="vgg19_random/8").eval()
    folder = model.save_pretrained(tmp_path / "model")
    loaded = stylezoo.StyleModel.from_pretrained(folder)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images, images), model(images, images))
    with pytest.raises(StylezooError, match="did you mean 'toy'"):
        registry.get("toyy")


def test_training_with_a_recipe_of_ones_own(installed: Install, pictures: Path, tmp_path: Path) -> None:
    """The class is found by its name, although nothing has imported its module."""
    installed("zoo_toy", "toy = zoo_toy.toy", toy=MODEL)
    folder = f"{{class_path: Folder, init_args: {{root: {pictures}}}}}"
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(f"""
model: {{class_path: Toy, init_args: {{loss_encoder: vgg19_random/8}}}}
data: {{content: {folder}, style: {folder}, batch_size: 2, size: 32, crop: 32, num_workers: 0}}
trainer:
  max_steps: 1
  limit_val_batches: 0
  accelerator: cpu
  logger: {{class_path: CSVLogger, init_args: {{save_dir: {tmp_path}/runs, name: toy}}}}
""")
    main(["fit", "--config", str(recipe)])
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    assert stylezoo.load_model(checkpoint).system == "toy"


def test_the_command_line_reads_it_without_pytorch(tmp_path: Path) -> None:
    """In a fresh process: `list` and did-you-mean know a system that nobody has imported."""
    install(tmp_path, "zoo_toy", "toy = zoo_toy.toy", toy=MODEL)
    program = """
import sys
from stylezoo.cli import main
main(["list", "--kind", "arbitrary"])
try:
    main(["stylize", "--model", "toyy", "--content", "a", "--style", "b", "--output", "c"])
except SystemExit:
    pass
assert not {"torch", "zoo_toy"} & sys.modules.keys()
"""
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "\ntoy " in run.stdout and "did you mean 'toy'" in run.stderr


def test_a_source_that_only_importing_it_explains(installed: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """The name is computed, and the entry point is a package: `list` imports it."""
    source = MODEL.replace('@register("toy"', 'NAME = "t" + "oy"\n@register(NAME')
    installed("zoo_toys", "toy = zoo_toys", toy=source, __init__="from zoo_toys import toy\n")
    assert "toy" not in catalog.systems() and catalog.is_system("toy")
    main(["list"])
    assert "\ntoy " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        (MODEL.replace('"toy"', '"adain"'), "StylezooError: The name 'adain' is taken by AdaIN: choose another"),
        ("def broken(:", "SyntaxError: invalid syntax"),
    ],
)
def test_a_package_that_fails_is_one_sentence(source: str, reason: str, installed: Install) -> None:
    """The zoo goes on without it, and says why where it is asked for."""
    installed("zoo_broken", "toy = zoo_broken.toy", toy=source)
    with pytest.warns(UserWarning, match="The system toy of the package zoo_broken cannot be imported") as told:
        assert "adain" in stylezoo.list_models()
    assert reason in str(told[0].message) and str(told[0].message).endswith("uninstall that package.")
    stylezoo.list_models()
    assert len(told) == 1  # once
    assert stylezoo.create_model("adain", encoder="vgg19_random/8").__class__.__module__ == "stylezoo.models.adain"
    with pytest.raises(StylezooError, match="The system toy of the package zoo_broken cannot be imported"):
        stylezoo.create_model("toy")


@pytest.mark.slow
def test_the_page_about_a_system_of_your_own(
    installed: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its class, its program, its entry point, its recipe and its commands work as they stand, in their order."""
    page = (ROOT / "docs" / "how_to" / "own_system.md").read_text()
    module, program, project, _, recipe, commands = (
        block for _, block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    )
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "painting.jpg"):
        write_image(torch.rand(3, 64, 80), tmp_path / name)
    Path("mean_shift.py").write_text(module)
    Path("mean_shift.yaml").write_text(recipe)
    exec(program, {})  # noqa: S102 - the page is ours
    assert load_image("out.png").shape == (3, 64, 80)
    Path("out.png").unlink()
    model = stylezoo.create_model("mean_shift", encoder="vgg19_random/8").eval()
    image = torch.rand(3, 64, 64)
    assert stylezoo.stylize(image, image.flip(0), model=model).size == (64, 64)
    entry = re.search(r'^\[project.entry-points."stylezoo.systems"\]\n(\w+) = "(\w+)"', project, re.MULTILINE)
    assert entry is not None
    announce(tmp_path, entry[2], f"{entry[1]} = {entry[2]}")
    forget()
    assert catalog.systems()["mean_shift"].class_name == "MeanShift"
    fit, stylize = (line.split()[3:] for line in commands.splitlines())
    short = {"trainer.max_steps": 1, "trainer.val_check_interval": 1, "data.size": 64, "data.crop": 48}
    short |= {"data.content.count": 8, "data.style.count": 8, "data.val_samples": 1}
    main([*fit, *(f"--{name}={value}" for name, value in short.items())])
    main(stylize)
    assert load_image("out.png").shape == (3, 64, 80) and "18 of 18 tensors from adain.slim" in capsys.readouterr().out


PLAIN = '''\
from stylezoo.module import StyleModel
from stylezoo.registry import register


@register("zoo_plain", paper="https://example.com/plain", year=2026, kind="arbitrary")
class Plain(StyleModel):
    """Moves the mean color."""

    def encode(self, style, tile):
        return {"mean": style.mean((2, 3), keepdim=True)}

    def transfer(self, content, style, alpha, tile):
        return content + alpha * (style.code()["mean"] - content.mean((2, 3), keepdim=True))
'''


def test_a_system_without_parameters_stylizes(installed: Install) -> None:
    installed("zoo_extra", "zoo_plain = zoo_extra.plain", plain=PLAIN)
    model = stylezoo.create_model("zoo_plain").eval()
    content, style = 0.3 + 0.4 * torch.rand(3, 64, 64), torch.full((3, 64, 64), 0.5)
    output = to_tensor(stylezoo.stylize(content, style, model=model))
    assert output.shape == (3, 64, 64) and float((output.mean((1, 2)) - 0.5).abs().max()) < 0.01
    assert model.double().some_weight().dtype == torch.float64
