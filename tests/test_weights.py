"""The house for trained weights: the table, the files that ship, loading by tag, and publishing a model end to end."""

from __future__ import annotations

import json
import re
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
import yaml
from conftest import ROOT, THIN, thin_model
from safetensors.torch import load_file, save_file

import stylezoo
from stylezoo import catalog, quantization, registry, weights
from stylezoo.cli import main
from stylezoo.download import checksum
from stylezoo.errors import MissingFileError
from stylezoo.evaluation import evaluate
from stylezoo.evaluation.store import scores, shown_spread
from stylezoo.images import to_tensor
from stylezoo.inference import FINGERPRINT_TOLERANCE, fingerprint, load_image
from stylezoo.vgg import VGG

TABLE = weights.table()
SHIPPED = {name: file for name, file in TABLE.files.items() if file.file is not None}
NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z0-9_]+")


@pytest.mark.parametrize("name", TABLE.files)
def test_entries_are_sound(name: str) -> None:
    file = TABLE.files[name]
    assert sum(place is not None for place in (file.file, file.url, file.torchvision)) == 1
    assert re.fullmatch(r"[0-9a-f]{8,64}", file.sha256)
    assert file.url is None or file.url.startswith("https://")
    assert len(file.sha256) >= (64 if name in (*SHIPPED, *TABLE.models) else 8)


def test_what_ships_is_what_the_table_says() -> None:
    """No file without an entry, and 60 MB at most."""
    assert {path.name for path in weights.PRETRAINED.iterdir()} == {file.file for file in SHIPPED.values()} | {
        "table.yaml"
    }
    assert sum(file.path.stat().st_size for file in SHIPPED.values()) <= 60_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_files_that_ship(name: str) -> None:
    file = SHIPPED[name]
    assert file.path.name == f"{name}.safetensors" and file.path.stat().st_size == file.bytes
    assert checksum(file.path) == file.sha256 and file.license
    counters = ".num_batches_tracked"  # of batch norms
    dtypes = {t.dtype for name, t in weights.read_tensors(file.path).items() if not name.endswith(counters)}
    assert dtypes <= {torch.float16, torch.float32}
    tensors = load_file(file.path)
    wide = {key for key, tensor in tensors.items() if tensor.ndim > 1 and tensor.element_size() > 2}
    assert all(key.endswith(".unit") for key in wide)


@pytest.mark.parametrize("tag", TABLE.models)
def test_models_that_ship(tag: str) -> None:
    """They load by tag in float32, paint what they painted when they were published, and say what they are."""
    entry, model = TABLE.models[tag], stylezoo.load_model(tag)
    assert NAME.fullmatch(tag) and tag.split(".")[0] == entry.system == model.system and not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert fingerprint(model) == pytest.approx(entry.golden, abs=FINGERPRINT_TOLERANCE)
    assert len(set(entry.golden)) > 12  # an image, not a flat plane
    assert entry.styles == model.styles and bool(model.styles) == (model.kind in ("single", "multi"))
    assert [encoder.name for _, encoder in model.encoders()] == ([] if entry.encoder is None else [entry.encoder])
    assert entry.data and entry.steps > 0 and re.fullmatch(r"[0-9a-f]{12}", entry.commit)
    assert (ROOT / entry.recipe).is_file()
    told = weights.read_metadata(entry.path)
    assert all(
        told[name] == getattr(entry, name) for name in ("system", "data", "recipe", "steps", "commit", "license")
    )
    assert not told["settings"].keys() & model.local_settings
    documented = (ROOT / "docs" / "models" / f"{entry.system}.md").read_text()
    assert f"## {tag}" in documented and entry.sha256[:12] in documented, "run tools/cards.py"


@pytest.mark.parametrize("bits", [8, 16])
def test_packed_files(bits: Literal[8, 16], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They have the size that was asked for, and weights within a unit; the sums of kernels are nearer."""
    monkeypatch.setattr("stylezoo.checkpoints._ships", lambda vgg: True)
    monkeypatch.setattr(quantization, "MIN_ELEMENTS", 100)
    model = thin_model("sanet")
    path = tmp_path / "packed.safetensors"
    stylezoo.save_model(model, path, packed=True, bits=bits)
    before, after = model.state_dict(), stylezoo.load_model(path).state_dict()
    numbers = sum(tensor.numel() for tensor in before.values())
    assert path.stat().st_size < (2 if bits == 16 else 1.5) * numbers + 8000
    for name, tensor in before.items():
        kernel = tensor[0, 0].numel() if tensor.ndim > 2 else 1
        coarse = bits == 8 and tensor.ndim > 1 and tensor.numel() >= 100
        flat = tensor.reshape(-1, kernel if kernel > 1 else 16) if coarse else tensor.flatten()[:, None]
        error, largest = (after[name] - tensor).reshape(flat.shape), flat.abs().amax(-1, keepdim=True)
        if tensor.ndim <= 1:
            assert not error.any()
        assert (error.abs() <= largest * (1.05 / 126 if coarse else 2**-11) + 1e-6).all()
        if kernel > 1 or not coarse:
            assert (error.sum(-1).abs() <= largest[..., 0] * (0.55 / 126 if coarse else 2**-11) + 1e-6).all()


def test_names_that_load(tmp_path: Path) -> None:
    """Every system whose weights ship has a default; all tags are listed; images are painted by name."""
    systems = {entry.system for entry in TABLE.models.values()}
    assert set(TABLE.models) <= set(stylezoo.list_models(pretrained=True))
    for system in systems:
        tag = weights.default_tag(system)
        assert tag in TABLE.models and weights.model_path(system) == TABLE.models[tag].path
        assert sum(entry.default for entry in TABLE.models.values() if entry.system == system) <= 1
    if "adain" in systems:
        content, style = torch.rand(3, 40, 48), torch.rand(3, 32, 32)
        assert stylezoo.stylize(content, style).size == (48, 40)


@pytest.mark.filterwarnings("ignore:gatys sees with")
@pytest.mark.parametrize("system", stylezoo.list_models())
def test_every_system_loads_by_its_name(system: str) -> None:
    """Right after the installation, when nothing is in the user's folder; or the message says how to get weights."""
    if system != "gatys" and weights.default_tag(system) is None:
        with pytest.raises(MissingFileError, match=f"train some.*{system}.yaml.*or import public ones"):
            stylezoo.load_model(system)
        return
    model = stylezoo.load_model(system)
    assert model.system == system and not model.training


def test_metadata(tmp_path: Path) -> None:
    """Files with keys of before read as those of today; files of other programs have none."""
    path = tmp_path / "file.safetensors"
    save_file({"weight": torch.ones(1)}, path, {"stylezoo": json.dumps({"licence": "MIT", "data": "12 images"})})
    assert weights.read_metadata(path) == {"license": "MIT", "data": "12 images"}
    save_file({"weight": torch.ones(1)}, path)
    assert weights.read_metadata(path) == {}


# Publishing, into a package folder of the test's own


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/publish.py, and a package that ships the slim encoder alone; nothing in the user's folder."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    shutil.copy(weights.PRETRAINED / "vgg19_slim.safetensors", folder)
    table = yaml.safe_load((weights.PRETRAINED / "table.yaml").read_text())
    (folder / "table.yaml").write_text("# A comment.\n" + yaml.safe_dump({**table, "models": {}}, sort_keys=False))
    monkeypatch.setattr(weights, "PRETRAINED", folder)
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(ROOT / "tools")
    return import_module("publish")


def trained(name: str, pictures: Path, folder: Path, *more: str) -> Path:
    """The checkpoint of two steps."""
    sides = (
        ["content"] if name in stylezoo.list_models("single") + stylezoo.list_models("multi") else ["content", "style"]
    )
    data = [f"--data.{side}{rest}" for side in sides for rest in ("=Folder", f".root={pictures}")]
    data += [
        "--data.size=40",
        "--data.crop=32",
        "--data.batch_size=2",
        "--data.num_workers=0",
        "--images.every_n_steps=0",
    ]
    trainer = ["--trainer.accelerator=cpu", "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    trainer += ["--trainer.val_check_interval=1", f"--trainer.logger.save_dir={folder}"]
    main(["fit", f"--config={ROOT / 'experiments' / name}.yaml", *data, *trainer, *more])
    return folder / name / "version_0" / "checkpoints" / "last.ckpt"


def test_publish_a_model_with_an_encoder(
    publish: ModuleType, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained("adain", pictures, tmp_path / "runs", "--model.encoder=vgg19_slim")
    publish.main(checkpoint, "adain.slim", Path("experiments/adain.yaml"), "12 images", note="A test.")
    assert sorted(path.name for path in weights.PRETRAINED.iterdir()) == [
        "adain.slim.safetensors",
        "table.yaml",
        "vgg19_slim.safetensors",
    ]
    entry = weights.table().models["adain.slim"]
    assert entry.sha256 == checksum(entry.path) and entry.bytes == entry.path.stat().st_size < 8e6
    assert (entry.data, entry.steps, entry.encoder, entry.styles) == ("12 images", 2, "vgg19_slim", [])
    assert not any(key.startswith("encoder.") for key in weights.read_tensors(entry.path))
    told = weights.read_metadata(entry.path)
    assert told["recipe"] == "experiments/adain.yaml" and told["note"] == "A test."
    assert told["run"] == {"batch_size": 2, "size": 40, "crop": 32, "max_steps": 2, "seed": 0}
    text = (weights.PRETRAINED / "table.yaml").read_text()
    assert text.startswith("# A comment.\n") and str(pictures) not in text + json.dumps(told)

    model, before = stylezoo.load_model("adain"), stylezoo.load_model(checkpoint)
    for key, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor.half().float() if tensor.ndim > 1 else tensor), key
    assert model.encoder.sha256 == before.encoder.sha256
    assert fingerprint(model) == pytest.approx(entry.golden, abs=1e-3)
    assert stylezoo.list_models("arbitrary", pretrained=True) == ["adain.slim"]
    content, style = (load_image(pictures / f"0{i}.png") for i in range(2))
    assert torch.equal(to_tensor(stylezoo.stylize(content, style)), to_tensor(stylezoo.stylize(content, style, model)))

    stylezoo.save_model(model, tmp_path / "whole.safetensors")  # what users save still has its encoder
    assert any(key.startswith("encoder.") for key in weights.read_tensors(tmp_path / "whole.safetensors"))
    publish.main(checkpoint, "adain.slim", Path("adain.yaml"), "12 images", note="A test.")
    again = weights.table().models["adain.slim"]
    assert again.sha256 == entry.sha256 and again.golden == entry.golden  # the same again


def test_tensors_whose_rounding_shows_keep_16_bits(
    publish: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "MIN_ELEMENTS", 100)
    torch.manual_seed(0)
    model = thin_model("stytr2").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not publish.sensitive(model)
    monkeypatch.setattr(publish, "ALLOWED", 0.0)
    found = publish.sensitive(model)
    assert "decoder.1.weight" in found and "decoder.1.bias" not in found
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    stylezoo.save_model(model, tmp_path / "packed.safetensors", packed=True, bits=8, half=["decoder.1.weight"])
    types = {name: tensor.dtype for name, tensor in load_file(tmp_path / "packed.safetensors").items()}
    assert types["decoder.1.weight"] == torch.float16 and types["decoder.5.weight"] == torch.int8
    assert types["decoder.1.bias"] == torch.float32


def test_publish_trained_styles(
    publish: ModuleType, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run with averaged weights the average; the second tag becomes the default when it is told to."""
    options = ["--model.width=0.25", f"--model.encoder={THIN}", f"--model.style_image={pictures / '00.png'}"]
    options += [f"--config={ROOT / 'experiments' / 'ema.yaml'}", "--model.style_name=waves"]
    checkpoint = trained("johnson", pictures, tmp_path / "runs", *options)
    recipe = Path("experiments/johnson.yaml")
    publish.main(checkpoint, "johnson.waves", recipe, "12 images")
    publish.main(checkpoint, "johnson.other", recipe, "12 images", default=True)
    publish.main(checkpoint, "johnson.waves", recipe, "13 images")
    entries = weights.table().models
    assert weights.default_tag("johnson") == "johnson.other" and not entries["johnson.waves"].default
    assert entries["johnson.waves"].data == "13 images" and entries["johnson.waves"].styles == ["waves"]
    saved = torch.load(checkpoint, weights_only=True)
    average, last = saved["state_dict"], saved["current_model_state"]
    key = "transformer.contract.0.conv.weight"
    published = stylezoo.load_model("johnson").state_dict()[key]
    assert torch.equal(published, average[key].half().float()) and not torch.equal(average[key], last[key])

    # A file that ships is written again: it becomes smaller and stays the same model.
    monkeypatch.setattr(quantization, "MIN_ELEMENTS", 1000)
    before = entries["johnson.waves"]
    publish.main(before.path, "johnson.waves", bits=8)
    after = weights.table().models["johnson.waves"]
    assert after.bytes < 0.8 * before.bytes and after.golden == pytest.approx(before.golden, abs=0.02)
    for name in ("data", "recipe", "steps", "commit", "license", "note", "styles"):
        assert getattr(after, name) == getattr(before, name)
    metadata = weights.read_metadata(after.path)
    assert metadata["run"] and metadata.keys() >= {"settings", "encoders"}
    assert after.data == "13 images"


def test_what_cannot_be_published(
    publish: ModuleType, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = trained("adain", pictures, tmp_path / "runs", f"--model.encoder={THIN}")
    with pytest.raises(ValueError, match="encodes with vgg19_random/8 .*does not ship: train it with .*vgg19_slim"):
        publish.main(checkpoint, "adain.thin", Path("adain.yaml"), "12 images")
    with pytest.raises(ValueError, match="is a adain: its tag is adain.NAME, not sanet.thin"):
        publish.main(checkpoint, "sanet.thin", Path("adain.yaml"), "12 images")
    with pytest.raises(ValueError, match="A tag is SYSTEM.NAME in lower case"):
        publish.main(checkpoint, "adain", Path("adain.yaml"), "12 images")
    with pytest.raises(ValueError, match=r"none.yaml is no recipe"):
        publish.main(checkpoint, "adain.thin", Path("none.yaml"), "12 images")
    with pytest.raises(ValueError, match=r"last.ckpt is to be published: name the recipe and the data"):
        publish.main(checkpoint, "adain.thin")
    options = ["--model.width=0.25", f"--model.encoder={THIN}", f"--model.style_image={pictures / '00.png'}"]
    checkpoint = trained("johnson", pictures, tmp_path / "runs", *options)
    for limit in ("LARGEST", "TOTAL"):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match="are the most that ship"):
            patch.setattr(publish, limit, 1000)
            publish.main(checkpoint, "johnson.waves", Path("johnson.yaml"), "12 images")
    assert weights.table().models == {}
    assert {path.name for path in weights.PRETRAINED.iterdir()} == {"table.yaml", "vgg19_slim.safetensors"}


def test_the_slim_encoder_is_published_too(publish: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    encoder = VGG("vgg19_slim")
    with torch.no_grad():
        encoder.convs["conv1_1"].weight *= 2
    import_module("publish_encoder").install(encoder, {"name": "vgg19_slim"})
    file = weights.table().encoders["vgg19_slim"]
    assert file.sha256 == checksum(file.path) != TABLE.encoders["vgg19_slim"].sha256
    assert file.bytes == file.path.stat().st_size and file.license == TABLE.encoders["vgg19_slim"].license
    assert torch.equal(VGG("vgg19_slim").tensors["conv1_1.weight"], encoder.tensors["conv1_1.weight"])


@pytest.mark.slow
def test_cards(publish: ModuleType, pictures: Path, tmp_path: Path) -> None:
    """From a published model and an evaluation: its numbers between the baselines, beside weights that do not ship."""
    checkpoint = trained("adain", pictures, tmp_path / "runs", "--model.encoder=vgg19_slim")
    publish.main(checkpoint, "adain.slim", Path("adain.yaml"), "12 images, CC0")
    folder = tmp_path / "results" / "evaluation"
    models = {"adain.slim": "adain.slim", "adain.public": thin_model("adain").eval()}
    options = {"pairs": 3, "size": 48, "metrics": ["style_loss", "ssim"], "encoder": THIN, "reference": "adain.public"}
    evaluate(models, pictures, pictures, folder, **options)  # type: ignore[arg-type]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "gone.md").touch()
    cards = import_module("cards")
    cards.main(tmp_path / "docs", tmp_path / "results")

    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["README.md", "adain.jpg", "adain.md"]
    assert (tmp_path / "docs" / "adain.jpg").stat().st_size <= 150_000
    text, entry = (tmp_path / "docs" / "adain.md").read_text(), weights.table().models["adain.slim"]
    assert entry.sha256[:12] in text and "12 images, CC0" in text and "| `batch_size` | 8 | 2 |" in text
    assert "Trained for 2 steps, 0.0013 % of the recipe's 160,000." in text and "Not measured" not in text
    rows = [line for line in text.splitlines() if re.match(r"\| (content|\*\*adain|adain|style)", line)]
    names = [row.split("|")[1].strip() for row in rows]
    every = ["content (unchanged)", "**adain.slim**", "adain.public", "style (copied)"]
    assert names == [*every, *every, "**adain.slim**"]  # means, medians, ratios
    found = next(s for s in scores(folder) if (s.model, s.value.key.metric) == ("adain.slim", "style_loss"))
    assert f"| {shown_spread(found.spread)} |" in rows[5] and found.ratio is not None
    assert f"| {shown_spread(found.ratio.spread)} ({found.ratio.of_means:.4g}) |" in rows[8]
    assert "divided by those of adain.public, pair by pair" in text
    means = {(score.model, score.value.key.metric): score.value.value for score in scores(folder)}
    assert f"| {means['adain.slim', 'style_loss']:.4g} [" in rows[1]
    assert entry.metrics == pytest.approx({m: means["adain.slim", m] for m in ("style_loss", "ssim")}, rel=1e-4)
    assert "[adain.slim](adain.md)" in (tmp_path / "docs" / "README.md").read_text()

    publish.main(
        trained("adain", pictures, tmp_path, "--model.encoder=vgg19_slim", "--model.lr=0.01"),
        "adain.slim",
        Path("adain.yaml"),
        "others",
    )
    with pytest.raises(ValueError, match="measured other weights of adain.slim than those that ship"):
        cards.main(tmp_path / "docs", tmp_path / "results")


def entry_of(model: stylezoo.StyleModel, name: str, **place: str) -> weights.ModelFile:
    """An entry for a model that lies in the package or elsewhere."""
    path = weights.PRETRAINED / f"{name}.safetensors"
    stylezoo.save_model(model, path)
    about = {"data": "none", "recipe": "experiments/johnson.yaml", "steps": 1, "commit": "0" * 12}
    place = place or {"file": path.name}
    return weights.ModelFile(sha256=checksum(path), system=model.system, golden=[], **about, **place)  # type: ignore[arg-type]


def test_the_users_folder_comes_first(publish: ModuleType) -> None:
    models = weights.table().models
    for tag in ("johnson.a", "johnson.b"):
        models[tag] = entry_of(thin_model("johnson", style_name=tag), tag)
    assert stylezoo.load_model("johnson").styles == ["johnson.a"]
    assert stylezoo.load_model("johnson.b").styles == ["johnson.b"]
    for tag, found in (("johnson.a", ["johnson", "johnson.a"]), ("johnson", ["johnson"])):
        stylezoo.save_model(thin_model("johnson", style_name=f"own {tag}"), weights.folder() / f"{tag}.safetensors")
        for name in found:
            assert stylezoo.load_model(name).styles == [f"own {tag}"]
    assert stylezoo.load_model("johnson.a").styles == ["own johnson.a"]
    assert stylezoo.list_models("single", pretrained=True) == ["johnson", "johnson.a", "johnson.b"]
    assert stylezoo.list_models("multi", pretrained=True) == []


def test_public_models_are_downloaded_first(publish: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    models = weights.table().models
    models["johnson.far"] = entry_of(thin_model("johnson"), "far", url="https://example.org/johnson.far.safetensors")
    assert stylezoo.list_models("single", pretrained=True) == []
    assert [entry.missing for entry in registry.pretrained_models() if entry.tag == "johnson.far"] == ["johnson.far"]
    for name in ("johnson", "johnson.far"):
        with pytest.raises(FileNotFoundError, match="fetch them with `python -m stylezoo download johnson.far`"):
            stylezoo.load_model(name)

    def fetched(url: str, path: Path, sha256: str) -> Path:
        assert url == models["johnson.far"].url and sha256 == models["johnson.far"].sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(weights.PRETRAINED / "far.safetensors", path))

    monkeypatch.setattr(weights, "fetch", fetched)
    monkeypatch.setattr(catalog, "weight_files", lambda: list(weights.table().files))
    main(["download", "johnson.far"])
    assert stylezoo.load_model("johnson").system == "johnson"
    assert stylezoo.list_models("single", pretrained=True) == ["johnson.far"]


def test_errors_name_what_there_is(publish: ModuleType, pictures: Path) -> None:
    weights.table().models["johnson.waves"] = entry_of(thin_model("johnson"), "johnson.waves")
    for name, hint in (("johnson.wave", "did you mean 'johnson.waves'"), ("johnson.xyz", "johnson has johnson.waves")):
        with pytest.raises(FileNotFoundError, match=rf"no weights for '{name}' at .* \({hint}.*\): train some"):
            stylezoo.load_model(name)
    with pytest.raises(ValueError, match="did you mean 'johnson'"):
        stylezoo.load_model("jonson.waves")
    with pytest.raises(ValueError, match="00.png is no model of stylezoo: .*stylezoo import"):
        stylezoo.load_model(pictures / "00.png")
    with pytest.raises(ValueError, match="vgg16_normalised has no file of its own"):
        weights.encoder_tensors("vgg16_normalised")


def test_recipes_are_listed_where_their_encoder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {entry.tag: entry for entry in registry.pretrained_models()}
    assert (entries["gatys"].missing, entries["gatys.modern"].missing) == ("vgg19_caffe", "vgg19_torchvision")
    listed = [tag for tag in stylezoo.list_models(pretrained=True) if tag.startswith("gatys")]
    assert listed == ["gatys.slim"] and stylezoo.load_model("gatys.slim").encoder.name == "vgg19_slim"
    path = weights.table().encoders["vgg19_caffe"].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        assert {"gatys", "gatys.paper"} <= set(stylezoo.list_models("optimization", pretrained=True))
    finally:
        path.unlink()


@pytest.mark.parametrize(("name", "settings"), [("adain", {}), ("johnson", {"pixels": "rgb"}), ("cin", {})])
def test_fingerprints_tell_weights_apart(name: str, settings: dict[str, str]) -> None:
    """A change of the weights by a twentieth shows; another run of the same ones does not."""
    model = thin_model(name, **settings).eval()
    first = fingerprint(model)
    assert len(first) == 48 and all(0 <= number <= 1 for number in first) and fingerprint(model) == first
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.std(correction=0) * torch.randn_like(parameter)
    assert max(abs(a - b) for a, b in zip(first, fingerprint(model), strict=True)) > FINGERPRINT_TOLERANCE


def test_a_wheel_contains_what_ships() -> None:
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "stylezoo"
    packed = {path for pattern in setuptools["package-data"]["stylezoo"] for path in package.glob(pattern)}
    assert set(weights.PRETRAINED.iterdir()) <= packed


def test_cards_name_the_options_of_training(publish: ModuleType) -> None:
    """Files of earlier versions store them as settings of the model, those of this one as settings of the run."""
    pytest.importorskip("skimage", reason="the gallery of a card shows its photos")
    cards = import_module("cards")
    former = {
        "freeze_predictor": True,
        "distillation_weight": 0.0,
        "imitation_weight": 0.0,
        "first_pictures": 192,
        "lr": 0.1,
    }
    assert cards.training_options("magenta", {"settings": former}) == {
        "training.initialization.crops": 192,
        "training.freeze": ["predictor"],
        "training.objective.weight": 0.0,
        "training.optimizer": "PreconditionedAdam",
    }
    vgg = {"training.loss_encoder": "vgg19_normalised"}
    assert cards.training_options("adain", {"settings": {"loss_encoder": "vgg19_normalised"}}) == vgg
    assert cards.training_options("adain", {"settings": {}, "run": {"loss_encoder": "vgg19_normalised"}}) == vgg
    assert cards.training_options("johnson", {"settings": {"loss_encoder": "vgg16_caffe"}}) == {}
