"""The command `stylize-dataset`: a mirrored tree whose files depend on seed and path alone, and that is never half done."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import thin_model
from PIL import Image

import stylezoo
from stylezoo.checkpoints import model_digest
from stylezoo.cli import main
from stylezoo.errors import StylezooError
from stylezoo.images import read_image, to_tensor, write_image
from stylezoo.images.reading import read_size
from stylezoo.inference import Stylizer, datasets, files, load_styles, shards
from stylezoo.inference.datasets import SETTINGS
from stylezoo.inference.plan import MANIFEST

IMAGES = ("train/cat/0.png", "train/cat/1.jpg", "train/dog/2.JPEG", "train/dog/3.webp", "4.bmp")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, styles and a data set: images, a mask, labels, COCO annotations and a hidden file."""
    place = tmp_path_factory.mktemp("place")
    stylezoo.save_model(thin_model("adain"), place / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b", "c"):
        write_image(torch.rand(3, 32, 32, generator=generator), place / "styles" / f"{name}.png")
    for index, name in enumerate((*IMAGES, "masks/0.png")):
        write_image(torch.rand(3, 24, 28 + 4 * (index % 2), generator=generator), place / "set" / name)
    (place / "set" / "labels.csv").write_text("0.png,cat\n")
    (place / "set" / ".hidden").write_text("nothing")
    images = [{"id": 1 + index, "file_name": Path(name).name, "width": 28} for index, name in enumerate(IMAGES)]
    boxes = [{"id": 9, "image_id": 2, "bbox": [1, 2, 3, 4]}, {"id": 4, "image_id": 5, "bbox": [0, 0, 9, 9]}]
    (place / "set" / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "licenses": []})
    )
    return place


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(output: str | Path, *others: str, content: str = "set", style: tuple[str, ...] = ("styles",)) -> int:
    """The exit code of `stylize-dataset`."""
    options = ["--model", "model.safetensors", "--content", content, "--output", str(output), "--copy", "masks/*"]
    try:
        main(["stylize-dataset", *options, *(["--style", *style] if style else []), "--device", "cpu", *others])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def listed(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / MANIFEST).open(newline="", encoding="utf-8") as file:
        return {row["output"]: row for row in csv.DictReader(file)}


def test_the_tree_is_mirrored(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(place / "set")
    assert run(tmp_path / "out", "--alpha", "0.3,0.9", "--seed", "7") == 0
    assert capsys.readouterr().out == f"5 of 5 images stylized, 0 failed: {tmp_path / 'out'}\n"
    after = tree(tmp_path / "out")
    assert after.keys() - before.keys() == {MANIFEST, SETTINGS} and before.keys() - after.keys() == {".hidden"}
    assert tree(place / "set") == before  # nothing is changed there
    for name in ("labels.csv", "annotations.json", "masks/0.png"):
        assert after[name] == before[name]
    rows, network = listed(tmp_path / "out"), stylezoo.load_model("model.safetensors")
    assert rows.keys() == {*IMAGES} and len({row["alpha"] for row in rows.values()}) == 5
    for name, row in rows.items():
        assert list(row) == ["content", "style", "alpha", "seed", "output", "model_sha256"]
        assert row["content"] == f"set/{name}" and row["seed"] == "7" and row["model_sha256"] == model_digest(network)
        assert 0.3 <= float(row["alpha"]) <= 0.9
        with Image.open(place / "set" / name) as source, Image.open(tmp_path / "out" / name) as made:
            assert made.format == source.format and made.size == source.size
        if name.endswith(("png", "bmp")):
            stylizer = Stylizer(network, load_styles(network, [row["style"]]), alpha=float(row["alpha"]))
            expected = stylizer(to_tensor(read_image(place / "set" / name))[None])[0]
            found = to_tensor(read_image(tmp_path / "out" / name))
            assert float((found - expected).abs().max()) < 1.01 / 255
    with Image.open(tmp_path / "out" / "train" / "cat" / "0.png") as image:
        made_with = json.loads(image.info["stylezoo"])
    assert made_with["alpha"] == float(rows["train/cat/0.png"]["alpha"])


def test_what_a_file_gets_depends_on_its_path_and_the_seed(place: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "all", "--alpha", "0.3,0.9") == 0
    for name in IMAGES[1:4:2]:
        (tmp_path / "part" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "set" / name, tmp_path / "part" / name)
    shuffled = ("styles/c.png", "styles/a.png", "styles/b.png")
    assert run(tmp_path / "some", "--alpha", "0.3,0.9", content=str(tmp_path / "part"), style=shuffled) == 0
    both = listed(tmp_path / "all"), listed(tmp_path / "some")
    for name in IMAGES[1:4:2]:
        assert all(both[0][name][key] == both[1][name][key] for key in ("style", "alpha"))
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "some" / name).read_bytes()
    assert run(tmp_path / "other", "--alpha", "0.3,0.9", "--seed", "1") == 0
    assert all(listed(tmp_path / "other")[name]["alpha"] != both[0][name]["alpha"] for name in IMAGES)


def test_versions_and_their_annotations(place: Path, tmp_path: Path) -> None:
    """Each version has another style, and in the COCO file an entry with the annotations of its image."""
    assert run(tmp_path / "out", "--per_image", "3") == 0
    rows = listed(tmp_path / "out")
    assert len(rows) == 15 and {"train/cat/1.jpg", "train/cat/1_2.jpg", "train/dog/2_3.JPEG"} <= rows.keys()
    for name in IMAGES:
        path = Path(name)
        names = [name, *(path.with_name(f"{path.stem}_{number}{path.suffix}").as_posix() for number in (2, 3))]
        assert (
            len({rows[each]["style"] for each in names}) == 3
            and len({read_size(tmp_path / "out" / n) for n in names}) == 1
        )
    found = json.loads((tmp_path / "out" / "annotations.json").read_text())
    original = json.loads((place / "set" / "annotations.json").read_text())
    assert found["images"][:5] == original["images"] and found["annotations"][:2] == original["annotations"]
    ids = {image["id"]: image["file_name"] for image in found["images"]}
    assert len(ids) == 15 and len({box["id"] for box in found["annotations"]}) == 6
    boxes = [(ids[box["image_id"]], box["bbox"]) for box in found["annotations"]]
    assert sorted(name for name, box in boxes if box == [1, 2, 3, 4]) == ["1.jpg", "1_2.jpg", "1_3.jpg"]
    assert run(tmp_path / "one") == 0  # the first version is the same however many there are
    assert all(listed(tmp_path / "one")[name]["style"] == rows[name]["style"] for name in IMAGES)


def test_only_coco_files_get_further_entries(place: Path, tmp_path: Path) -> None:
    """Any other JSON file is copied as it is."""
    request = datasets.DatasetRequest([str(place)], [], tmp_path, random_styles=2)
    image, box = {"id": 1, "file_name": "a.png"}, {"id": 7, "image_id": 1}
    file = tmp_path / "a.json"

    def entries(found: object) -> dict[str, Any] | None:
        file.write_text(json.dumps(found))
        return datasets.further_entries(file, request)

    assert entries({"images": [image], "annotations": [box]}) == {
        "images": [image, {"id": 3, "file_name": "a_2.png"}],
        "annotations": [box, {"id": 15, "image_id": 3}],
    }
    for images, boxes in (
        ([{**image, "id": "1"}], [box]),
        ([{"id": 1}], [box]),
        ([1], [box]),
        ({"a": image}, [box]),
        ([image], [{**box, "image_id": "1"}]),
        ([image], [{**box, "id": "7"}]),
        ([image], ["box"]),
    ):
        assert entries({"images": images, "annotations": boxes}) is None
    assert entries([image]) is None


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is damaged"), ("[]", "is damaged"), (None, "is a folder, not a file")]
)
def test_damaged_settings_of_a_run_are_told(content: str | None, said: str, place: Path, tmp_path: Path) -> None:
    request = datasets.DatasetRequest([str(place)], [], tmp_path)
    path = tmp_path / SETTINGS
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(StylezooError, match=f"{SETTINGS} {said}: give another --output, or delete it"):
        request.check()


def test_the_share_of_a_process_ends_with_a_code_or_a_sentence(place: Path, tmp_path: Path) -> None:
    request = datasets.DatasetRequest(["set"], ["styles"], tmp_path / "out", model="model.safetensors", random_styles=1)
    assert datasets._share(request, datasets.Options(device="cpu")) == (0, "")
    assert listed(tmp_path / "out").keys() >= set(IMAGES)
    code, said = datasets._share(request, datasets.Options(device="nonsense"))
    assert code == 1 and said.startswith("There is no device 'nonsense'")


def test_names_of_versions_give_way(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "set" / "train" / "cat", tmp_path / "in")
    (tmp_path / "in" / "0_2.png").write_bytes((tmp_path / "in" / "0.png").read_bytes())
    assert run(tmp_path / "out", "--per_image", "2", content=str(tmp_path / "in")) == 0
    assert {"0.png", "0_style2.png", "0_2.png", "0_2_style2.png"} <= listed(tmp_path / "out").keys()


def test_going_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption the rest is done, in the same way; a run that is asked for otherwise is refused."""
    assert run(tmp_path / "whole", "--alpha", "0.3,0.9") == 0
    write, out = files.write_image, tmp_path / "out"

    def stopped(pixels: object, target: Path, *others: object) -> None:
        if (out / "4.bmp").exists():
            raise KeyboardInterrupt
        write(pixels, target, *others)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_image", stopped)
        assert run(out, "--alpha", "0.3,0.9") == 130
    assert len(listed(out)) == 1
    (out / MANIFEST).unlink()  # as after a kill
    kept = (out / "4.bmp").stat().st_mtime_ns
    capsys.readouterr()
    for options, what in (
        (["--seed", "1"], "seed 0, not 1"),
        (["--alpha", "0.3,1"], "alpha [0.3, 0.9], not [0.3, 1.0]"),
        (["--preserve_color", "luminance"], 'preserve_color "none", not "luminance"'),
    ):
        assert run(out, "--alpha", "0.3,0.9", *options) == 1
        message = (
            f"stylezoo: {out} was begun with {what}: repeat that command to continue it, or give another --output.\n"
        )
        assert capsys.readouterr().err == message
    assert run(out, "--alpha", "0.3,0.9", style=("styles/a.png",)) == 1
    assert "was begun with styles" in capsys.readouterr().err
    assert run(out, "--alpha", "0.3,0.9") == 0
    assert "4 of 5 images stylized, 0 failed, 1 exist already" in capsys.readouterr().out
    assert (out / "4.bmp").stat().st_mtime_ns == kept
    assert listed(out) == listed(tmp_path / "whole")
    assert {k: v for k, v in tree(out).items() if k != MANIFEST} == {
        k: v for k, v in tree(tmp_path / "whole").items() if k != MANIFEST
    }

    def fails(*_: object) -> None:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(files, "load_model", fails)
    assert run(out, "--alpha", "0.3,0.9") == 0


def test_other_weights_of_the_same_name_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "set", "set")
    shutil.copytree(place / "styles", "styles")
    shutil.copy(place / "model.safetensors", ".")
    assert run("out") == 0
    Path("out/4.bmp").unlink()
    network = thin_model("adain")
    with torch.no_grad():
        next(network.decoder.parameters()).mul_(1.1)
    stylezoo.save_model(network, "model.safetensors")
    assert run("out") == 1
    assert "out was begun with model_sha256" in capsys.readouterr().err and not Path("out/4.bmp").exists()


def test_broken_files_are_listed_at_the_end(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "set", tmp_path / "in")
    (tmp_path / "in" / "train" / "broken.png").write_bytes(b"nothing")
    cut = (tmp_path / "in" / "4.bmp").read_bytes()
    (tmp_path / "in" / "cut.bmp").write_bytes(cut[: len(cut) // 2])
    for again in range(2):
        assert run(tmp_path / "out", content=str(tmp_path / "in")) == 1
        said = capsys.readouterr()
        count = ("5 of 7 images stylized, 2 failed", "0 of 7 images stylized, 2 failed, 5 exist already")[again]
        assert said.out == f"{count}: {tmp_path / 'out'}\n"
        *_, first, second = said.err.splitlines()
        assert first.startswith("left out: ") and second.startswith("left out: ")
        assert {"broken.png" in line for line in (first, second)} == {True, False}
        assert "cut.bmp" in first + second
    assert not (tmp_path / "out" / "cut.bmp").exists() and len(listed(tmp_path / "out")) == 5


def test_the_data_set_is_never_written_to(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(place / "set")
    (tmp_path / "link").symlink_to(place / "set" / "train")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").symlink_to(place / "set" / "masks")
    for output in ("set", "set/out", tmp_path / "link" / "new", tmp_path / "out"):
        assert run(output) == 1
        assert "lies in the data set, which is never changed: give another folder." in capsys.readouterr().err
    assert tree(place / "set") == before


def test_files_of_another_origin_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("4.bmp", "labels.csv"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("mine")
        assert run(out) == 1
        assert f"{name} exists, and {out} has no {SETTINGS} that says how it was made" in capsys.readouterr().err
        assert tree(out) == {name: b"mine"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--content", "nowhere"], "--content is the folder of a data set: there is no folder nowhere."),
        (["--content", "set/4.bmp"], "there is no folder set/4.bmp."),
        (["--per_image", "0"], "per_image is a whole number from 1 up, not 0."),
        (["--per_image", "4"], "--per_image 4 needs as many styles, but --style names 3."),
        (["--processes", "0"], "processes is a whole number from 1 up, not 0."),
        (["--alpha", "2"], "alpha is the strength of the style between 0 and 1"),
        (["--alpha", "0.9,0.1"], "not 0.9 down to 0.1."),
        (["--seed", "-1"], "seed is a whole number from 0 up, not -1."),
        (["--quality", "0"], "quality is the quality of JPEG and WebP files, 1 to 100, not 0."),
        (["--model", "adian"], "did you mean 'adain'?"),
        (["--style", "nowhere.png"], "nowhere.png does not exist"),
        (["--output", ""], "--output has no name: give a folder."),
        (["--output", "out.png"], "out.png is an image file."),
    ],
)
def test_wrong_options_get_one_sentence(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *options) == 1
    said = capsys.readouterr().err
    assert message in said and len(set(said.splitlines())) <= 7


def test_models_with_their_own_styles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All styles of a multi-style system are drawn from; one of a single style makes one version."""
    network = thin_model("cin")
    for name, model in (("cin", network), ("johnson", thin_model("johnson"))):
        stylezoo.save_model(model, tmp_path / f"{name}.safetensors")
    cin = ("--model", str(tmp_path / "cin.safetensors"))
    assert run(tmp_path / "cin", *cin, "--per_image", "2", style=()) == 0
    assert {row["style"] for row in listed(tmp_path / "cin").values()} == {*network.styles}
    assert run(tmp_path / "cin", *cin, "--per_image", "2", style=()) == 0
    assert "0 of 10 images stylized, 0 failed, 10 exist already" in capsys.readouterr().out
    johnson = ("--model", str(tmp_path / "johnson.safetensors"))
    assert run(tmp_path / "johnson", *johnson, style=()) == 0
    assert {row["style"] for row in listed(tmp_path / "johnson").values()} == {""}
    capsys.readouterr()
    assert run(tmp_path / "two", *johnson, "--per_image", "2", style=()) == 1
    assert "has one style: leave --per_image out." in capsys.readouterr().err
    assert run(tmp_path / "weak", *johnson, "--alpha", "0.5,1", style=()) == 1
    assert "leave alpha at 1" in capsys.readouterr().err


def test_a_bank_of_codes(tmp_path: Path) -> None:
    """Makes the same as its images; each style is encoded once for the whole run."""
    bank = str(tmp_path / "bank.safetensors")
    main(["encode-style", "--model", "model.safetensors", "--style", "styles", "--output", bank])
    assert run(tmp_path / "images") == 0 and run(tmp_path / "codes", style=(bank,)) == 0
    found, expected = tree(tmp_path / "codes"), tree(tmp_path / "images")
    rows = [
        [
            row["style"].rpartition(":")[2].rpartition("/")[2].removesuffix(".png")
            for row in listed(tmp_path / out).values()
        ]
        for out in ("images", "codes")
    ]
    assert rows[0] == rows[1]
    assert found["4.bmp"] == expected["4.bmp"]


def test_styles_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although contents are held one at a time here, so that a style comes again and again."""
    monkeypatch.setattr(files, "CACHED_BYTES", 1)
    load = files.load_styles
    for limit, counts in ((files.CODE_BYTES, {2}), (0, {3, 4, 5})):
        loaded: list[str] = []

        def counted(*arguments: Any, loaded: list[str] = loaded) -> Any:
            loaded.extend(arguments[1])
            return load(*arguments)

        monkeypatch.setattr(files, "load_styles", counted)
        monkeypatch.setattr(files, "CODE_BYTES", limit)
        assert run(tmp_path / str(limit), "--alpha", "0.3,0.9", style=("styles/a.png", "styles/b.png")) == 0
        assert {*loaded} == {"styles/a.png", "styles/b.png"} and len(loaded) in counts
    assert listed(tmp_path / "0") == listed(tmp_path / str(2**27))


@pytest.mark.slow
def test_two_processes_make_what_one_makes(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "set", tmp_path / "in")
    (tmp_path / "in" / "broken.png").write_bytes(b"nothing")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run(tmp_path / "one", "--alpha", "0.3,0.9", content=str(tmp_path / "in")) == 1
    capfd.readouterr()
    handlers = [signal.getsignal(number) for number in shards.SIGNALS]
    assert run(tmp_path / "two", "--alpha", "0.3,0.9", "--processes", "2", content=str(tmp_path / "in")) == 1
    assert [signal.getsignal(number) for number in shards.SIGNALS] == handlers  # the program's own Ctrl-C works
    said = capfd.readouterr()
    assert said.out == f"5 of 6 images stylized, 1 failed: {tmp_path / 'two'}\n"
    assert len(said.err.splitlines()) == 2 and re.search(
        "process [01] of 2: left out: .*broken.png is not an image", said.err
    )
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert listed(tmp_path / "one") == listed(tmp_path / "two")
    one.pop(MANIFEST), two.pop(MANIFEST), two.pop(datasets.LOCK)
    assert one == two
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "GROUP_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert run(tmp_path / "three", "--processes", "2") == 1
    assert "has started several processes already: leave --processes out." in capfd.readouterr().err
    assert os.environ.get("OMP_NUM_THREADS") == "1"
