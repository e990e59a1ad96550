"""Prepared data sets: the same samples as without preparation, interruptions, changed originals, damaged files."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylezoo.cli import main
from stylezoo.data import (
    COCO,
    DataError,
    Flickr,
    Folder,
    Mixture,
    PainterByNumbers,
    Pairs,
    Synthetic,
    WikiArt,
    prepared,
)
from stylezoo.data.prepared import Index, prepare
from stylezoo.errors import StylezooError


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (60, 48)) -> Path:
    """Smooth color images, each of another size."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        low = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(low).resize((size[0] + index, size[1] + 2 * (index % 3)), Image.Resampling.BICUBIC)
        image.save(folder / name)
    return folder


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    return write_images(tmp_path / "set", [*(f"{i:02}.png" for i in range(9)), "sub/tall.png", "sub/ä.png"])


def beside(folder: Path, **options: Any) -> Index:
    return prepare(folder, folder.with_name(folder.name + ".prepared"), **{"size": 32, **options})


def crops(root: Path, split: str = "train", **options: Any) -> list[Any]:
    """The file name and the crop, in gray levels, of two epochs of samples."""
    folder = Folder(str(root), **{"size": 32, "crop": 24, "flip": True, "holdout": 0.1, **options})
    (stream,) = folder.streams(split, "fit" if split == "train" else "validate").values()  # type: ignore[arg-type]
    return [(Path(stream.source(i)).name, stream[i].mul(255).numpy()) for i in range(2 * len(stream))]


@pytest.mark.parametrize(
    ("options", "reading", "mean", "largest"),
    [
        ({}, {}, 0.3, 1.01),  # rounded to 8 bits once more on the way
        ({}, {"resize": "squash"}, 1, 6),
        ({}, {"size": 28}, 6, 40),  # the long sides are rounded twice, which may shift a crop by a pixel
        ({"pixels": "jpeg"}, {}, 1.5, 12),
        ({"size": 100}, {}, 0, 0),  # smaller images keep their size
    ],
)
def test_prepared_images_give_the_same_samples(
    options: dict[str, Any], reading: dict[str, Any], mean: float, largest: float, originals: Path
) -> None:
    beside(originals, **options)
    for split in ("train", "val"):
        for (name, before), (same, after) in zip(
            crops(originals, split, **reading), crops(originals, split, prepared=True, **reading), strict=True
        ):
            assert name == same and before.shape == after.shape
            assert np.abs(before - after).max() <= largest and np.abs(before - after).mean() <= mean


def test_every_data_set_finds_the_same_images(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(6)]
    write_images(tmp_path / "coco" / "images", [f"{split}2017/{n}" for split in ("train", "val") for n in names])
    art = write_images(tmp_path / "art", [f"wikiart/{style}/{n}" for style in ("Cubism", "Ukiyo_e") for n in names])
    for split, number in (("train", 0), ("val", 1)):
        (art / f"style_{split}.csv").write_text(f"Cubism/{number}.jpg,0\nUkiyo_e/{number}.jpg,1\n")
    flickr = write_images(tmp_path / "flickr", [f"Images/{n}" for n in names])
    (flickr / "Flickr8k_text").mkdir()
    (flickr / "Flickr8k_text" / "Flickr_8k.trainImages.txt").write_text("0.jpg\n3.jpg\n")
    painters = write_images(tmp_path / "painters", [f"train_{i}/{i}.jpg" for i in range(1, 5)])
    (painters / "all_data_info.csv").write_text("new_filename,in_train,style,genre\n1.jpg,True,a,b\n2.jpg,False,a,b\n")
    sets: dict[str, tuple[Any, dict[str, Any]]] = {
        "coco": (COCO, {"year": 2017}),
        "art": (WikiArt, {"styles": ["Cubism"]}),
        "flickr": (Flickr, {"name": "8k"}),
        "painters": (PainterByNumbers, {"styles": ["a"]}),
    }
    for name, (kind, options) in sets.items():
        beside(tmp_path / name)
        usual, stored = (kind(str(tmp_path / name), prepared=value, **options) for value in (False, True))
        moved = kind(str(tmp_path / f"{name}.prepared"), prepared=True, **options)
        for split in ("train", "val", "test"):
            expected = [path.relative_to(usual.root) for path in usual.files(split)]
            for other in (stored, moved):
                assert [path.relative_to(other.root) for path in other.files(split)] == expected, (name, split)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_run_goes_on(stop: BaseException, originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, read = prepared._encoded, []

    def interrupted(path: Path, index: Index) -> Any:
        read.append(path.name)
        if len(read) == 7 and isinstance(stop, KeyboardInterrupt):
            raise stop
        return encoded(path, index)

    def full(shard: Any, data: bytes) -> int:
        if len(read) >= 7:
            shard.file.write(data[:100])  # half an image
            raise stop
        return add(shard, data)

    add = prepared._Shard.add
    monkeypatch.setattr(prepared, "SHARD_BYTES", 10_000)  # two or three images
    monkeypatch.setattr(prepared, "_encoded", interrupted)
    if isinstance(stop, OSError):
        monkeypatch.setattr(prepared._Shard, "add", full)
    with pytest.raises(type(stop)):
        beside(originals, workers=1)
    monkeypatch.setattr(prepared, "_encoded", encoded)
    monkeypatch.setattr(prepared._Shard, "add", add)
    folder = originals.with_name("set.prepared")
    done = Index.read(folder)
    assert 1 <= len(done.rows) <= 7 and not done.complete
    with pytest.raises(DataError, match="were not all prepared: finish it, python -m stylezoo prepare --content"):
        crops(originals, prepared=True)

    index = beside(originals)
    assert done.rows.items() <= index.rows.items() and len(index.rows) == 11 and index.complete
    whole = prepare(originals, originals.with_name("other"), 32)
    one, other = prepared.Prepared(folder), prepared.Prepared(originals.with_name("other"))
    for name in whole.rows:
        assert one.image(str(folder / name)).tobytes() == other.image(str(other.folder / name)).tobytes()


def test_changed_originals_are_noticed_and_updated(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = beside(originals)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Folder(str(originals), prepared=True, size=32, crop=8).setup("fit")
    Image.new("RGB", (50, 50), "red").save(originals / "00.png")
    (originals / "01.png").unlink()
    Image.new("RGB", (50, 50), "blue").save(originals / "new.png")
    with pytest.warns(UserWarning, match="1 changed, 1 new and 1 removed images since it was prepared"):
        Folder(str(originals), prepared=True, size=32, crop=8).setup("fit")
    read: list[str] = []
    encoded = prepared._encoded
    monkeypatch.setattr(prepared, "_encoded", lambda path, index: read.append(path.name) or encoded(path, index))
    after = beside(originals)
    assert sorted(read) == ["00.png", "new.png"] and after.rows.keys() ^ before.rows.keys() == {"01.png", "new.png"}
    store = prepared.Prepared(originals.with_name("set.prepared"))
    assert store.image(str(store.folder / "00.png")).getpixel((0, 0)) == (255, 0, 0) and store.changes() is None


def test_broken_images_are_named_and_left_out(originals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (originals / "03.png").write_bytes((originals / "03.png").read_bytes()[:200])
    (originals / "04.png").write_text("no image")
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--content", str(originals), "--size", "32"])
    output = capsys.readouterr()
    assert stopped.value.code == 1 and "9 images of size 32" in output.out and "2 left out" in output.out
    assert (
        "left out: " in output.err and "03.png cannot be read" in output.err and "04.png is not an image" in output.err
    )
    names = {path.name for path in Folder(str(originals), prepared=True, holdout=0).files("train")}
    assert len(names) == 9 and not names & {"03.png", "04.png"}


def test_wrong_sizes_and_folders_are_one_sentence(originals: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"There are no prepared images at .*set.prepared: run python -m stylezoo prepare"
    ):
        Folder(str(originals), prepared=True).check()
    beside(originals)
    too_large = Pairs(Folder(str(originals), prepared=True), size=40, crop=16)
    with pytest.raises(
        DataError, match=r"prepared with size 32, and --data.content reads them with size 40: lower size"
    ):
        too_large.check()
    mixed = Pairs(Mixture([Folder(str(originals), prepared=True)]), size=40, crop=16)
    with pytest.raises(DataError, match="prepared with size 32"):
        mixed.check()
    with pytest.raises(StylezooError, match="holds images of size 32 as raw, not of size 48 as raw"):
        beside(originals, size=48)
    with pytest.raises(StylezooError, match="lies in the folder of the originals"):
        prepare(originals, originals / "out", 32)
    with pytest.raises(StylezooError, match="leave prepared out"):
        Synthetic(root=str(tmp_path), prepared=True)


def test_lost_shards_are_noticed_and_written_again(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "SHARD_BYTES", 10_000)
    index = beside(originals)
    folder = originals.with_name("set.prepared")
    first, second, *_ = sorted({row.shard for row in index.rows.values()})
    (folder / first).unlink()
    os.truncate(folder / second, 2000)
    with pytest.raises(DataError, match=f"{first} is missing or too short"):
        Folder(str(originals), prepared=True).check()
    beside(originals)
    assert len(crops(originals, prepared=True)) == len(crops(originals))
    (folder / "index.json").write_text("{}")
    with pytest.raises(DataError, match="index.json is damaged"):
        Folder(str(originals), prepared=True).check()


@pytest.mark.parametrize("name", ["", ".", "..", "../a.png", "/a.png", "b/../a.png", "b//a.png", None])
def test_names_that_are_no_files_of_the_folder_are_damage(originals: Path, name: str | None) -> None:
    beside(originals)
    path = originals.with_name("set.prepared") / "index.json"
    index = json.loads(path.read_text())
    index["rows"][0][0] = name
    path.write_text(json.dumps(index))
    with pytest.raises(DataError, match="index.json is damaged"):
        Folder(str(originals), prepared=True).check()


def test_workers_get_no_copy_of_the_pixels(originals: Path) -> None:
    beside(originals)
    folder = Folder(str(originals), prepared=True, size=32, crop=24)
    stream = folder.streams("train", "fit")["content"]
    first = stream[0]
    copy = pickle.loads(pickle.dumps(stream))
    assert not copy.files.prepared._shards and stream.files.prepared._shards  # type: ignore[attr-defined]
    assert copy[0].equal(first)


def test_training_reads_prepared_images(originals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside(originals)
    main(
        [
            *("fit", "--model", "adain", "--model.encoder", "vgg19_random/8", "--trainer.max_steps", "1"),
            *("--data.content", "Folder", "--data.content.root", str(originals), "--data.content.prepared", "true"),
            *("--data.style", "Folder", "--data.style.root", str(originals), "--data.style.prepared", "true"),
            *("--data.size", "32", "--data.crop", "16", "--data.batch_size", "2", "--data.num_workers", "0"),
            *("--trainer.logger", "false", "--images.every_n_steps", "0"),
            *("--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(originals.parent / "run")),
        ]
    )


def test_workers_are_as_many_as_help(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylezoo.data.folder.cpus", lambda: 8)
    beside(originals)
    usual, stored = (Folder(str(originals), prepared=prepared) for prepared in (False, True))
    assert (usual.workers(), stored.workers(), Mixture([stored]).workers()) == (4, 0, 0)
    assert (Pairs(stored, usual).workers(), Pairs(stored, stored).workers()) == (4, 0)
    monkeypatch.setattr(Folder, "_on_gpu", lambda self: True)
    assert (usual.workers(), stored.workers()) == (7, 7)
    usual.trainer = SimpleNamespace(num_devices=4)  # type: ignore[assignment]
    assert usual.workers() == 1
    assert Folder(str(originals), num_workers=0, size=32, crop=8).train_dataloader().num_workers == 0
