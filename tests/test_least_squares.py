"""First weights by least squares: decoders that invert an encoder, and the runs that start from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import THIN, thin_model
from test_training import command, pairs, trainer
from torch import Tensor

from stylezoo.cli import main
from stylezoo.data import Pairs, Synthetic
from stylezoo.layers import MirroredDecoder
from stylezoo.least_squares import fit_decoder, some_pictures
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


def test_a_decoder_of_other_widths_is_refused() -> None:
    decoder = MirroredDecoder(VGG(THIN).channels)
    with pytest.raises(ValueError, match="needs a VGG of the decoder's widths, vgg19_random/4 has others"):
        fit_decoder(decoder, VGG(THIN), VGG("vgg19_random/4"), torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("system", ["adain", "efdm"])
def test_a_run_starts_from_the_fit(system: str, pictures: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 the checkpoint holds the fit, whatever the decoder was before."""
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = thin_model(system, he_init=False, first_pictures=12, lr=0.0)
        trainer(tmp_path, max_steps=1).fit(model, pairs(system, pictures))
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1])
    assert not torch.allclose(states[0]["decoder.1.weight"], thin_model(system).state_dict()["decoder.1.weight"])


def test_a_resumed_run_keeps_its_whitenings(pictures: Path, tmp_path: Path) -> None:
    fit = [f"--model.{name}={value}" for name, value in (("first_pictures", 12), ("lr", 0.003))]
    whole, half, rest = (tmp_path / name for name in ("whole", "half", "rest"))
    main(command(pictures, whole, "--trainer.max_steps=4", *fit))
    main(command(pictures, half, "--trainer.max_steps=2", *fit))
    start = f"--ckpt_path={next(half.rglob('last.ckpt'))}"
    main(command(pictures, rest, "--trainer.max_steps=4", *fit, start))
    first, second = (torch.load(next(run.rglob("last.ckpt")), weights_only=True)["state_dict"] for run in (whole, rest))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
