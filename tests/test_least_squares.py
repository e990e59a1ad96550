"""First weights by least squares: decoders that invert an encoder, and the runs that start from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import THIN, thin_model
from test_training import command
from torch import Tensor

import stylezoo
from stylezoo.cli import main
from stylezoo.data import Pairs, Synthetic
from stylezoo.layers import MirroredDecoder
from stylezoo.least_squares import fit_decoder, some_pictures, start_decoder
from stylezoo.vgg import VGG


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    root = str(tmp_path_factory.mktemp("drawn"))
    photos = Synthetic("photos", count=96, resolution=72, root=root, holdout=0.25)
    return Pairs(photos, batch_size=8, size=72, crop=64, num_workers=0, val_samples=8)


def held_out(data: Pairs) -> Tensor:
    data.prepare_data()
    data.setup("validate")
    return torch.cat([batch["content"] for batch in data.val_dataloader()])


@pytest.mark.parametrize("layer", ["relu3_1", "relu4_1"])
def test_a_fitted_decoder_restores_pictures(layer: str, data: Pairs) -> None:
    """Against pictures that it has not seen: most of their variance is there, where an untrained decoder has none."""
    encoder = VGG(THIN, last=layer)
    torch.manual_seed(0)
    decoder = MirroredDecoder(encoder.channels, layer)  # type: ignore[arg-type]
    pictures = held_out(data)
    variance = pictures.var((2, 3), keepdim=True).mean()

    def unexplained() -> float:
        with torch.no_grad():
            return float((decoder(encoder(pictures, [layer])[layer]) - pictures).square().mean() / variance)

    before = unexplained()
    data.setup("fit")
    fit_decoder(decoder, encoder, encoder, some_pictures(data, 96))
    assert before > 1 and unexplained() < (0.6 if layer == "relu4_1" else 0.3)


def test_decoders_of_other_systems_need_a_model(data: Pairs) -> None:
    with pytest.raises(ValueError, match=r"adain and efdm have: start johnson from a model instead \(--start adain\)"):
        start_decoder(thin_model("johnson"), data)
    with pytest.raises(ValueError, match="needs a VGG of the decoder's widths, vgg19_random/4 has others"):
        start_decoder(thin_model("adain", loss_encoder="vgg19_random/4"), data)


def test_a_run_starts_from_least_squares(pictures: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 the checkpoint holds the fit, whatever the decoder was before."""
    states = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        steps = ["--trainer.max_steps=1", "--model.lr=0", "--start=least_squares", f"--seed_everything={seed}"]
        main(command(pictures, folder, *steps, "--data.seed=0", "--data.content.flip=false"))
        states.append(stylezoo.load_model(next(folder.rglob("last.ckpt"))).state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-4)
