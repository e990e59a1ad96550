"""A mixture draws from each of its parts in the stated share, keeps their splits, and continues exactly."""

import numpy as np
import pytest
from PIL import Image

from stylezoo.data import Folder, Mixture, Pairs
from stylezoo.errors import StylezooError

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def parts(tmp_path):
    for count, (name, color) in zip((4, 40, 8), COLORS.items(), strict=True):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (20, 20), color).save(tmp_path / name / f"{index}.png")
    return [Folder(str(tmp_path / name), holdout=0.1) for name in COLORS]


def drawn(stream, count):
    """Number of samples of each color."""
    values = np.stack([stream[i].mean((1, 2)).numpy() for i in range(count)])
    return values.sum(0).round().astype(int).tolist()


def test_parts_are_drawn_in_their_shares_whatever_their_sizes(parts):
    pairs = Pairs(Mixture(parts, shares=[2, 1, 1]), Mixture(parts), size=16, crop=16)
    pairs.setup("fit")
    streams = pairs.streams("train", "fit")
    red, green, blue = drawn(streams["content"], 400)
    assert (red, green, blue) == (pytest.approx(200, abs=40), pytest.approx(100, abs=30), pytest.approx(100, abs=30))
    assert all(count == pytest.approx(400 / 3, abs=40) for count in drawn(streams["style"], 400))


def test_sample_numbers_determine_the_samples(parts):
    stream = [
        Mixture(parts).stream(
            "train", Folder("x").framing.inherit(Pairs(parts[0], size=16, crop=8).framing), 3, "style", True
        )
        for _ in range(2)
    ]
    assert all((stream[0][i] == stream[1][i]).all() for i in (5, 0, 17))


def test_what_is_held_out_of_a_part_is_held_out_of_the_mixture(parts):
    mixture = Mixture(parts)
    held = {path for part in parts for split in ("val", "test") for path in part.files(split)}
    assert held
    assert not held & set(mixture.files("train"))
    assert set(mixture.files("val")) | set(mixture.files("test")) == held


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0, 1.0], [1.0, float("nan"), 1.0]])
def test_shares_must_fit(parts, shares):
    with pytest.raises(StylezooError, match="as many positive shares"):
        Mixture(parts, shares)


def test_a_mixture_needs_parts():
    with pytest.raises(StylezooError, match="at least one part"):
        Mixture([])
