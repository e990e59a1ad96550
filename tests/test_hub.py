"""Models in folders, on a Hub that is a folder, and in `torch.hub`: loading as other libraries do it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, thin_model

import stylezoo
from stylezoo import StyleModel, StylezooError, catalog, hub
from stylezoo.cli import main
from stylezoo.errors import MissingFileError
from stylezoo.images import write_image
from stylezoo.models import AdaIN, SANet


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, 32, 40, generator=generator), torch.rand(1, 3, 32, 32, generator=generator)


def output_of(model: StyleModel) -> torch.Tensor:
    content, style = pair()
    given = {"multi": [1], "single": []}.get(model.kind, [style])
    with torch.no_grad():
        return model.decode(content, model.encode_style(*given))


@pytest.mark.parametrize("system", ["adain", "cin", "johnson", "gatys"])
def test_a_folder_holds_the_model(system: str, tmp_path: Path) -> None:
    """One system of each kind."""
    model = thin_model(system).eval()
    folder = model.save_pretrained(tmp_path / "models" / "mine.v1", license="MIT", data="procedural images")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = StyleModel.from_pretrained(folder)
    assert type(loaded) is type(model) and not loaded.training
    assert torch.equal(output_of(loaded), output_of(model))
    assert torch.equal(output_of(stylezoo.load_model(str(folder))), output_of(model))
    assert torch.equal(output_of(stylezoo.create_model(str(folder), pretrained=True)), output_of(model))
    config = json.loads((folder / "config.json").read_text())
    assert (config["system"], config["kind"], config["license"]) == (system, model.kind, "MIT")
    assert str(tmp_path) not in (folder / "config.json").read_text() + (folder / "README.md").read_text()
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert header["library_name"] == "stylezoo" and header["license"] == "mit" and system in header["tags"]


def test_a_card_is_kept_and_weights_are_replaced(tmp_path: Path) -> None:
    first, second = thin_model("adain"), thin_model("adain", he_init=False)
    first.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("My words.")
    second.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "My words."
    assert torch.equal(output_of(AdaIN.from_pretrained(tmp_path)), output_of(second.eval()))


def test_names_and_settings(tmp_path: Path) -> None:
    assert StyleModel.from_pretrained("microast").tag == "microast.wikiart"
    folder = thin_model("adain").save_pretrained(tmp_path / "a")
    assert AdaIN.from_pretrained(folder, style_weight=3.0).loss_weights["style"] == 3.0
    with pytest.raises(StylezooError, match=r"a model of adain, not of sanet: load it with AdaIN.from_pretrained"):
        SANet.from_pretrained(folder)
    with pytest.raises(StylezooError, match="did you mean 'adain'"):
        StyleModel.from_pretrained("adian")
    with pytest.raises(StylezooError, match="or a folder with model.safetensors"):
        StyleModel.from_pretrained(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StylezooError, match="is a file: name a folder"):
        thin_model("adain").save_pretrained(tmp_path / "file")
    with pytest.raises(StylezooError, match="system of a model file is not free"):
        thin_model("adain").save_pretrained(tmp_path / "b", system="mine")
    assert not (tmp_path / "b").exists()


def test_the_command_line_takes_folders(tmp_path: Path) -> None:
    thin_model("adain").save_pretrained(tmp_path / "model")
    for name, image in zip(("content", "style"), pair(), strict=True):
        write_image(image, tmp_path / f"{name}.png")
    words = f"stylize --model {tmp_path}/model --content {tmp_path}/content.png --style {tmp_path}/style.png"
    main([*words.split(), "--output", str(tmp_path / "out.png")])
    assert (tmp_path / "out.png").is_file()


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Hub that is a folder, in place of the functions of huggingface_hub that need the network."""
    library = pytest.importorskip("huggingface_hub")
    state = SimpleNamespace(folder=tmp_path / "remote", calls=[], error=None)

    def hf_hub_download(repo_id: str, filename: str, **options: Any) -> str:
        state.calls.append((repo_id, options))
        if state.error is not None:
            raise state.error
        return str(state.folder / repo_id / filename)

    class HfApi:
        def __init__(self, token: str | None = None) -> None:
            self.token = token

        def create_repo(self, repo_id: str, private: bool | None = None, exist_ok: bool = False) -> None:
            assert exist_ok
            (state.folder / repo_id).mkdir(parents=True, exist_ok=True)
            state.private = private

        def file_exists(self, repo_id: str, filename: str, revision: str | None = None) -> bool:
            return (state.folder / repo_id / filename).is_file()

        def upload_folder(
            self,
            repo_id: str,
            folder_path: Path,
            revision: str | None = None,
            ignore_patterns: list[str] | None = None,
            commit_message: str = "",
        ) -> Any:
            if state.error is not None:
                raise state.error
            ignored = shutil.ignore_patterns(*(ignore_patterns or []))
            shutil.copytree(folder_path, state.folder / repo_id, ignore=ignored, dirs_exist_ok=True)
            return SimpleNamespace(commit_url=f"https://hub.test/{repo_id}/commit/1")

    monkeypatch.setattr(library, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(library, "HfApi", HfApi)
    return state


def test_up_to_the_hub_and_down_again(remote: SimpleNamespace) -> None:
    model = thin_model("adain").eval()
    assert model.push_to_hub("someone/adain-thin", private=True) == "https://hub.test/someone/adain-thin/commit/1"
    assert remote.private is True
    loaded = AdaIN.from_pretrained("someone/adain-thin", revision="v1", token="t")
    assert torch.equal(output_of(loaded), output_of(model)) and loaded.tag == "hf-hub:someone/adain-thin"
    assert remote.calls == [("someone/adain-thin", {"revision": "v1", "local_files_only": False, "token": "t"})]
    for load in (stylezoo.load_model, StyleModel.from_pretrained):
        assert torch.equal(output_of(load("hf-hub:someone/adain-thin")), output_of(model))
    assert stylezoo.create_model("hf-hub:someone/adain-thin", pretrained=True).tag == "hf-hub:someone/adain-thin"


def test_the_card_of_a_repository_is_kept(remote: SimpleNamespace) -> None:
    model = thin_model("adain")
    model.push_to_hub("someone/adain")
    card = remote.folder / "someone" / "adain" / "README.md"
    assert "from_pretrained" in card.read_text()
    card.write_text("My words.")
    model.push_to_hub("someone/adain")
    assert card.read_text() == "My words."


def test_a_folder_comes_before_a_repository(
    remote: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    thin_model("adain").save_pretrained("someone/adain")
    assert StyleModel.from_pretrained("someone/adain").system == "adain"
    assert remote.calls == []


def http_error(name: str) -> Exception:
    """An error of huggingface_hub, with the answer of a server where it has one."""
    from huggingface_hub import errors

    cls = getattr(errors, name)
    if not issubclass(cls, errors.HfHubHTTPError):
        return cls("what the library says")
    httpx = pytest.importorskip("httpx")
    response = httpx.Response(403, request=httpx.Request("GET", "https://hub.test/x"))
    return cls("what the library says", response=response)


@pytest.mark.parametrize(
    ("name", "sentence", "kind"),
    [
        ("RepositoryNotFoundError", "is not on the Hub: check the spelling", MissingFileError),
        ("GatedRepoError", "who have accepted its terms", StylezooError),
        ("RevisionNotFoundError", "does not exist in that revision", MissingFileError),
        ("LocalEntryNotFoundError", "not in the cache of this machine", MissingFileError),
        ("RemoteEntryNotFoundError", "holds no model of stylezoo", MissingFileError),
        ("HfHubHTTPError", "cannot be used: what the library says", StylezooError),
    ],
)
def test_errors_of_the_hub(name: str, sentence: str, kind: type[Exception], remote: SimpleNamespace) -> None:
    remote.error = http_error(name)
    with pytest.raises(kind, match=f"model.safetensors of someone/adain .*{sentence}"):
        StyleModel.from_pretrained("someone/adain")


def test_other_mistakes_with_the_hub(remote: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.error = ConnectionError("no route to host")
    with pytest.raises(StylezooError, match="cannot be transferred: no route to host"):
        thin_model("adain").push_to_hub("someone/adain")
    remote.error = KeyError("a bug of ours")
    with pytest.raises(KeyError):
        StyleModel.from_pretrained("someone/adain")
    for name in ("adain", "a/b/c", "a b/c", ""):
        with pytest.raises(StylezooError, match="is called OWNER/NAME, not"):
            thin_model("adain").push_to_hub(name)
    with pytest.raises(StylezooError, match="is called OWNER/NAME, not 'adain'"):
        stylezoo.load_model("hf-hub:adain")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StylezooError, match=r'pip install "stylezoo\[hub\]"'):
        stylezoo.load_model(f"{hub.PREFIX}someone/adain")


def test_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that ships, one with random weights, and whatever load_model takes."""
    torch.hub.set_dir(str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))

    def load(*args: Any, **settings: Any) -> StyleModel:
        model: StyleModel = torch.hub.load(str(ROOT), *args, source="local", **settings)
        return model

    assert load("microast_wikiart").tag == "microast.wikiart"
    untrained = load("adain", pretrained=False, encoder="vgg19_random/8")
    assert untrained.system == "adain" and untrained.training and untrained.tag is None
    folder = thin_model("adain").save_pretrained(tmp_path / "model")
    assert torch.equal(output_of(load("model", str(folder))), output_of(thin_model("adain").eval()))
    with pytest.raises(RuntimeError, match="Cannot find callable adain_slmi"):
        load("adain_slmi")


def test_torch_hub_has_every_model() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        import hubconf
    finally:
        sys.path.remove(str(ROOT))
    entries = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    names = [*catalog.systems(), *catalog.model_tags()]
    assert entries == {"model", *(name.replace(".", "_") for name in names)}
    assert len(entries) == len(names) + 1  # no tag hides another
    assert all(getattr(hubconf, name).__doc__ for name in entries)


def test_a_folder_with_a_mistyped_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "my_model").mkdir()
    with pytest.raises(MissingFileError, match=r"There is no model .*my_modle.*my_model"):
        StyleModel.from_pretrained(tmp_path / "my_modle")
