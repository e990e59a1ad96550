"""What `fit --precision auto` and its like choose, and training with Winograd's convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import thin_model
from test_training_options import command, losses
from torch import nn

from stylezoo.cli import main
from stylezoo.cpu import has_nnpack
from stylezoo.training import speed
from stylezoo.training.speed import Way, fastest
from stylezoo.training.winograd import WinogradTraining

needs_nnpack = pytest.mark.skipif(not has_nnpack(), reason="this build of PyTorch, or this processor, has no NNPACK")


def gradients(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    network.zero_grad()
    output = network(x)
    output.square().sum().backward()
    assert x.grad is not None
    return [output, x.grad, *(p.grad for p in network.parameters() if p.grad is not None)]


@needs_nnpack
@pytest.mark.parametrize("frozen", [False, True])
def test_winograd_has_the_gradients_of_a_convolution(frozen: bool) -> None:
    """With and without padding, odd sizes, a frozen layer, few channels, a stride and groups."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.ReflectionPad2d(1),
        nn.Conv2d(24, 32, 3, bias=False),
        nn.Conv2d(32, 16, 3, padding=2),
        nn.Conv2d(16, 16, 3, groups=2),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.Conv2d(16, 16, 3),
    )
    network[4].requires_grad_(not frozen)
    x = torch.rand(3, 3, 31, 28)
    exact = gradients(network.double(), x.double())
    usual = gradients(network.float(), x)
    calls = []
    original = torch._nnpack_spatial_convolution

    def counted(*args: Any) -> torch.Tensor:
        calls.append(tuple(args[1].shape))
        return original(*args)

    torch._nnpack_spatial_convolution = counted
    try:
        with WinogradTraining():
            fast = gradients(network, x)
    finally:
        torch._nnpack_spatial_convolution = original
    assert len(calls) == 3 * 6 and (16, 24, 3, 3) in calls  # of each image: three layers, forward and backward
    for one, two, truth in zip(fast, usual, exact, strict=True):
        assert one.shape == two.shape
        assert (one - truth).norm() <= 1e-5 * truth.norm() and not one.isnan().any()


@needs_nnpack
def test_winograd_leaves_other_types_alone() -> None:
    network = nn.Conv2d(16, 16, 3).double()
    x = torch.rand(1, 16, 9, 9, dtype=torch.float64)
    usual = gradients(network, x)
    with WinogradTraining():
        again = gradients(network, x)
    assert all(torch.equal(a, b) for a, b in zip(usual, again, strict=True))


@needs_nnpack
def test_a_run_with_winograd_has_the_losses_of_one_without(pictures: Path, tmp_path: Path) -> None:
    arguments = [
        *command(pictures, tmp_path),
        "--model.encoder=vgg19_random/4",
        "--data.crop=40",
        "--trainer.max_steps=3",
    ]
    main(arguments)
    main([*arguments, "--winograd=true"])
    usual, fast = (losses(path.parent) for path in sorted(tmp_path.rglob("metrics.csv")))
    assert len(usual) == 3 and usual != fast  # rounding
    for step, loss in usual.items():
        assert float(fast[step]) == pytest.approx(float(loss), rel=1e-4)


PLAIN, LAST, SHORT, WINOGRAD = (
    str(way) for way in (Way(), Way(channels_last=True), Way("bf16-mixed"), Way(winograd=True))
)


@pytest.mark.parametrize(
    ("times", "fixed", "way"),
    [
        ({PLAIN: 1, LAST: 0.7, SHORT: 0.9, WINOGRAD: 0.5}, {}, Way(winograd=True)),
        ({PLAIN: 1, LAST: 0.7, SHORT: 0.9, WINOGRAD: 0.5}, {"winograd": False}, Way(channels_last=True)),
        ({PLAIN: 1, LAST: 0.7, SHORT: 0.4}, {}, Way("bf16-mixed")),
        ({PLAIN: 1, LAST: 0.7, SHORT: 0.4}, {"precision": "32-true"}, Way(channels_last=True)),
        ({PLAIN: 1, LAST: 0.97}, {}, Way()),  # nothing worthwhile
        ({PLAIN: 1}, {"precision": "bf16-mixed"}, Way("bf16-mixed")),  # not measured here
    ],
)
def test_the_fastest_way_is_chosen(times: dict[str, float], fixed: dict[str, Any], way: Way) -> None:
    assert fastest(times, lambda w: all(getattr(w, k) == v for k, v in fixed.items())) == way


def test_measurements_are_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STYLEZOO_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "ROUNDS", 1)
    monkeypatch.setattr(speed, "SIDE", 16)
    said: list[str] = []
    cpu = torch.device("cpu")
    times = speed.remembered(cpu, said.append)
    assert PLAIN in times and LAST in times and (WINOGRAD in times) == has_nnpack() and min(times.values()) > 0
    monkeypatch.setattr(speed, "measure", lambda device: pytest.fail("measured twice"))
    assert speed.remembered(cpu, said.append) == times
    assert len(said) == 1 and "32-true 1.00x" in said[0]
    (tmp_path / "training_speed.json").write_text("damaged")
    monkeypatch.setattr(speed, "measure", lambda device: {PLAIN: 1.0})
    assert speed.remembered(cpu, said.append) == {PLAIN: 1.0}


def test_bf16_is_left_out_where_a_product_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROUNDS", 1)
    monkeypatch.setattr(speed, "SIDE", 16)
    monkeypatch.setattr(speed, "has_bf16_units", lambda device: False)
    assert not any("bf16" in way for way in speed.measure(torch.device("cpu")))


def test_auto_is_stored_as_what_it_was(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylezoo.trainer_cli.remembered", lambda device: {PLAIN: 1.0, LAST: 0.5, SHORT: 0.9})
    arguments = [*command(pictures, tmp_path), "--trainer.max_steps=1", "--trainer.num_sanity_val_steps=0"]
    main([*arguments, "--precision=auto", "--channels_last=auto", "--winograd=auto"])
    config = yaml.safe_load(next(tmp_path.rglob("config.yaml")).read_text())
    assert config["trainer"]["precision"] == "32-true" and config["precision"] is None
    assert config["channels_last"] is True and config["winograd"] is False
    monkeypatch.setattr("stylezoo.trainer_cli.remembered", lambda device: {PLAIN: 1.0, LAST: 0.9, SHORT: 0.5})
    main([*arguments, "--precision=auto"])
    config = yaml.safe_load(max(tmp_path.rglob("config.yaml")).read_text())
    assert config["trainer"]["precision"] == "bf16-mixed" and config["channels_last"] is False
    main([*arguments, "--precision=bf16-mixed"])
    config = yaml.safe_load(max(tmp_path.rglob("config.yaml")).read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--winograd=true", "--compile=true"], "--winograd true is for float32 in the usual layout"),
        (["--winograd=true", "--precision=bf16-mixed"], "--winograd true is for float32 in the usual layout"),
        (["--precision=auto", "--trainer.num_nodes=2"], "--precision auto would be measured by each of 2 machines"),
        (["--precision=fast"], "--precision must be"),
        (["--channels_last=maybe"], "--channels_last must be"),
    ],
)
def test_contradictions_are_one_sentence(
    options: list[str], sentence: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command(pictures, tmp_path), *options])
    assert sentence in capsys.readouterr().err


TOGETHER = ["adaattn", "adain", "efdm", "sanet", "linear_transfer", "multi_level_adain", "multi_level_attention"]


@pytest.mark.parametrize("name", TOGETHER)
def test_content_and_style_in_one_batch_have_the_losses_of_two(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with one network and with another one for the losses; styles of another size are a batch of their own."""
    content, style = torch.rand(2, 2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    passes: list[int] = []
    for loss_encoder in (None, "vgg19_random/4"):
        model = thin_model(name, he_init=False)
        if loss_encoder is not None:
            model.attach_loss_encoder(loss_encoder)
        model.encoder.register_forward_hook(lambda _, inputs, output: passes.append(len(inputs[0])))
        expected = model.losses(content, style)
        assert 4 not in passes
        monkeypatch.setattr(type(model), "encodes_together", lambda self, images: images[0].shape == images[1].shape)
        found = model.losses(content, style)
        assert passes.count(4) == 1
        for term, value in expected.items():
            torch.testing.assert_close(found[term], value, rtol=1e-5, atol=1e-7)
        assert all(v.isfinite() for v in model.losses(content, style[..., :32, :]).values()) and passes.count(4) == 1
        monkeypatch.undo()
        passes.clear()
