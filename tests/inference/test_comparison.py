"""Sheets of images with their names below."""

from __future__ import annotations

import torch

from stylezoo.inference.comparison import labeled

IMAGE = torch.randint(0, 256, (3, 40, 120), generator=torch.Generator().manual_seed(0)) / 255


def test_a_name_stands_below_its_image() -> None:
    sheet = labeled(IMAGE, "Ajg")
    height = sheet.shape[1]
    assert sheet.shape == (3, height, 120) and torch.equal(sheet[:, :40], IMAGE)
    line = sheet[:, 40:]
    assert float(line.min()) < 0.2  # black on white, with a margin around it
    assert bool((line[:, :2] == 1).all()) and bool((line[:, -2:] == 1).all()) and bool((line[:, :, 60:] == 1).all())


def test_a_name_that_is_too_long_is_cut() -> None:
    name = "a_painting_with_a_long_name.png"
    cut = labeled(IMAGE, name)
    assert cut.shape == labeled(IMAGE, "a").shape
    beginnings = [labeled(IMAGE, f"{name[:length]}…") for length in range(len(name))]
    assert any(torch.equal(cut, beginning) for beginning in beginnings)  # and three dots
    assert not torch.equal(cut, beginnings[0])
    assert bool((cut[:, 40:, -1] == 1).all())
    assert labeled(IMAGE[..., :4], name).shape[-1] == 4
