"""Drawings: a pure function of their seed, with the statistics of images; the cache draws each one once."""

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylezoo.data import synthetic
from stylezoo.data.drawing import draw_painting, draw_photo, paintings, photos
from stylezoo.data.folder import Folder
from stylezoo.data.synthetic import Synthetic, draw
from stylezoo.download import DataError

DRAW = {"photos": draw_photo, "paintings": draw_painting}
FAMILIES = [
    *(("photos", family) for family in photos.FAMILIES),
    *(("paintings", family) for family in paintings.FAMILIES),
]


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def gray(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), np.float64) / 255


def make(tmp_path: Path, **options: object) -> Synthetic:
    return Synthetic(**{"kind": "photos", "count": 4, "resolution": 24, "root": str(tmp_path), **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_same_seed_same_pixels(kind: str, family: str) -> None:
    first = DRAW[kind](5, 64, family)
    np.random.seed(1)
    np.random.random(3)  # the global generator has no say
    assert digest(DRAW[kind](5, 64, family)) == digest(first)
    assert digest(DRAW[kind](6, 64, family)) != digest(first)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("size", [16, 100])
def test_any_size(kind: str, family: str, size: int) -> None:
    image = DRAW[kind](3, size, family)
    assert (image.mode, image.size) == ("RGB", (size, size))


@pytest.mark.parametrize("kind", ["photos", "paintings"])
def test_another_size_is_the_same_scene(kind: str) -> None:
    large = draw(kind, 0, 128).resize((32, 32), Image.Resampling.BOX)  # type: ignore[arg-type]
    small = draw(kind, 0, 64).resize((32, 32), Image.Resampling.BOX)  # type: ignore[arg-type]
    assert np.corrcoef(gray(large).ravel(), gray(small).ravel())[0, 1] > 0.8


@pytest.mark.parametrize("family", photos.FAMILIES)
def test_photos_have_the_statistics_of_photos(family: str) -> None:
    for seed in range(3):
        image = gray(draw_photo(seed, 128, family))
        dark, bright = np.percentile(image, [1, 99])
        assert dark < 0.2 and bright > 0.7, f"seed {seed}: tones from {dark:.2f} to {bright:.2f}"
        assert len(np.unique(image)) > 150
        # Natural images have an amplitude of about 1 / f: -1 in log-log, white noise would be 0, a blur below -2.
        window = np.hanning(128)[:, None] * np.hanning(128)
        amplitude = np.abs(np.fft.fft2((image - image.mean()) * window))
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
        bins = np.geomspace(2 / 128, 0.4, 10)
        where = np.digitize(frequency, bins)
        slope, _ = np.polyfit(np.log(bins[:-1]), [np.log(amplitude[where == i].mean()) for i in range(1, len(bins))], 1)
        assert -2.2 < slope < -0.5, f"seed {seed}: spectral slope {slope:.2f}"


@pytest.mark.parametrize("family", paintings.FAMILIES)
def test_paintings_have_contrast_and_color(family: str) -> None:
    for seed in range(3):
        image = np.asarray(draw_painting(seed, 128, family), np.float64) / 255
        assert image.std() > 0.08
        assert np.isfinite(image).all()


def test_every_family_is_reachable_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[str] = set()

    def note(family: str, rng: np.random.Generator, n: int) -> np.ndarray:
        drawn.add(family)
        return rng.random((n, n, 3), "f4")

    for module, function in ((photos, draw_photo), (paintings, draw_painting)):
        drawn.clear()
        for family in module.FAMILIES:
            monkeypatch.setitem(module.FAMILIES, family, partial(note, family))
        for seed in range(250):
            function(seed, 16)
        assert drawn == set(module.FAMILIES)


def test_a_small_set_has_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = []
    monkeypatch.setattr(synthetic, "draw_photo", lambda seed, size, family: names.append(family))
    for index in range(len(photos.FAMILIES)):
        draw("photos", index)
    assert names == list(photos.FAMILIES)


def test_is_a_folder_of_drawings(tmp_path: Path) -> None:
    data = make(tmp_path, count=20, size=24, crop=16, batch_size=2, num_workers=0)
    assert isinstance(data, Folder)
    data.check()  # not there yet, but it will be
    data.prepare_data()
    data.setup("fit")
    assert len(data.files("train")) + len(data.files("val")) + len(data.files("test")) == 20
    assert next(iter(data.train_dataloader()))["content"].shape == (2, 3, 16, 16)
    with Image.open(data.root / "00007.png") as image:
        assert digest(image) == digest(draw("photos", 7, 24))


def test_second_preparation_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path).prepare_data()
    monkeypatch.setattr(synthetic, "draw", lambda *_: pytest.fail("drawn twice"))
    make(tmp_path).prepare_data()
    make(tmp_path, count=2).prepare_data()
    assert len(make(tmp_path, count=2).find()["train"]) == 2


def test_interrupted_cache_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = make(tmp_path), synthetic.draw

    def stops(kind: synthetic.Subject, index: int, *rest: int) -> Image.Image:
        if index == 2:
            raise KeyboardInterrupt
        return real(kind, index, *rest)

    monkeypatch.setattr(synthetic, "draw", stops)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_data()
    assert sorted(os.listdir(data.root)) == ["00000.png", "00001.png"]  # no half images
    drawn: list[int] = []

    def counts(kind: synthetic.Subject, index: int, *rest: int) -> Image.Image:
        drawn.append(index)
        return real(kind, index, *rest)

    monkeypatch.setattr(synthetic, "draw", counts)
    data.prepare_data()
    assert drawn == [2, 3]
    assert len(data.find()["train"]) == 4


def test_sets_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [
        make(tmp_path),
        make(tmp_path, kind="paintings"),
        make(tmp_path, resolution=32),
        make(tmp_path, drawing_seed=1),
    ]
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    sets.append(make(tmp_path))
    assert len({data.root for data in sets}) == 5


def test_default_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path))
    assert Synthetic().root.is_relative_to(tmp_path / "synthetic")


def test_bad_input_is_named(tmp_path: Path) -> None:
    for options, word in (
        ({"kind": "poems"}, "kind"),
        ({"count": 0}, "count"),
        ({"resolution": 8}, "resolution"),
        ({"drawing_seed": -1}, "drawing_seed"),
    ):
        with pytest.raises(ValueError, match=word):
            make(tmp_path, **options)
    with pytest.raises(DataError, match="prepare_data"):
        make(tmp_path).setup("fit")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="STYLEZOO_HOME"):
        make(tmp_path / "file").prepare_data()
