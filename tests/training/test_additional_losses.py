"""Losses that any system can be trained with besides its own, `stylezoo.module.AdditionalLoss`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import thin_model
from lightning.pytorch.callbacks import ModelCheckpoint
from test_training import TRAINABLE, losses, pairs, trainer

import stylezoo
from stylezoo import StyleModel, weights
from stylezoo.errors import StylezooError
from stylezoo.losses import normalize
from stylezoo.module import AdditionalLoss, Stylization
from stylezoo.registry import get
from stylezoo.training import CCPL, Imitation, Training
from stylezoo.training.ccpl import sampled_pairs


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    content, style = torch.rand(2, 2, 3, 48, 40, generator=torch.Generator().manual_seed(1)).unbind()
    return content, style if get(name).kind == "arbitrary" else None


class Recorded(AdditionalLoss):
    """Keeps what it is called with."""

    layers = ("relu2_1",)

    def forward(self, stylization: Stylization) -> dict[str, torch.Tensor]:
        self.called = stylization
        return {"recorded": stylization.features["relu2_1"].mean()}


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_system_hands_its_output_over(name: str) -> None:
    model, loss = thin_model(name).eval(), Recorded()
    content, style = batch(name)
    own = model.losses(content, style)
    model.attach_losses([loss])
    terms = model.losses(content, style)
    assert terms.keys() == own.keys() | {"recorded"}
    for term in own:  # the same numbers in the same pass; trained styles take turns
        torch.testing.assert_close(terms[term], own[term], rtol=1e-5, atol=1e-6)
    output = loss.called.output[..., :48, :40]
    if name != "magenta":  # in training its predictor gets the styles as they are, not resized
        torch.testing.assert_close(output, model(content, model_style(model, style)), rtol=1e-4, atol=1e-4)
    features = model.loss_encoder(loss.called.output, ["relu2_1"])["relu2_1"]
    torch.testing.assert_close(loss.called.features["relu2_1"], features)
    assert loss.called.content_features()["relu2_1"].shape == features.shape
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(terms["recorded"], parameters, allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)


def model_style(model: StyleModel, style: torch.Tensor | None) -> torch.Tensor | None:
    """The style of a batch of losses: that of a system with several trained styles are all in turn."""
    return torch.arange(2) % len(model.styles) if model.kind == "multi" else style


def test_ccpl_tells_a_content_from_others() -> None:
    """It is small for the content itself, and about log(64) per layer for another image."""
    model = thin_model("adain")
    model.attach_losses([CCPL(1.0)])
    (loss,) = model.additional_losses
    content, other = batch("adain")

    def term(output: torch.Tensor) -> float:
        torch.manual_seed(0)
        return float(loss(Stylization(content, other, output, model.output_features(output), model._compared))["ccpl"])

    assert other is not None
    assert term(content) < 0.7 * term(other)


@pytest.mark.parametrize("shape", [(3, 3), (3, 7), (9, 5)])
def test_sampled_neighbors_are_inside(shape: tuple[int, int]) -> None:
    height, width = shape
    centers, neighbors = sampled_pairs(height, width, samples=8)
    assert len(centers) == 8 * min(8, (height - 2) * (width - 2)) == len(neighbors)
    for center, neighbor in zip(centers.tolist(), neighbors.tolist(), strict=True):
        (row, column), (below, right) = divmod(center, width), divmod(neighbor, width)
        assert max(abs(row - below), abs(column - right)) == 1 and 0 <= below < height
    assert len(set(zip(centers.tolist(), neighbors.tolist(), strict=True))) == len(centers)


def test_small_maps_are_refused() -> None:
    with pytest.raises(StylezooError, match="train on larger crops"):
        sampled_pairs(2, 9, samples=8)


@pytest.mark.parametrize("name", ["sct", "johnson"])
def test_a_resumed_run_is_bit_exact(name: str, pictures: Path, tmp_path: Path) -> None:
    """The projections of CCPL, which learn, too, are in the checkpoint; the model files do without them."""

    def training() -> Training:
        return Training(ccpl_weight=5.0)

    torch.manual_seed(3)
    whole = trainer(tmp_path / "whole", max_steps=5, callbacks=[training()], enable_checkpointing=False)
    whole.fit(thin_model(name), pairs(name, pictures))
    checkpoint = ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=2, save_top_k=-1)
    first = trainer(tmp_path / "first", max_steps=2, callbacks=[training(), checkpoint])
    first.fit(thin_model(name), pairs(name, pictures))
    model = thin_model(name)
    rest = trainer(tmp_path / "rest", max_steps=5, callbacks=[training()], enable_checkpointing=False)
    rest.fit(model, pairs(name, pictures), ckpt_path=str(tmp_path / "at.ckpt"), weights_only=True)
    logged = [losses(tmp_path / run) for run in ("whole", "first", "rest")]
    assert logged[1] | logged[2] == logged[0] and len(logged[0]) == 5
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.additional_losses[0].parameters())
    loaded = stylezoo.load_model(tmp_path / "at.ckpt")
    assert loaded.additional_losses == () and "additional" not in str(loaded)
    stylezoo.save_model(model, tmp_path / "model.safetensors")
    tensors = weights.read_tensors(tmp_path / "model.safetensors")
    assert not any("additional" in key or "projections" in key for key in tensors)


def test_a_run_with_other_losses_is_not_resumed(pictures: Path, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=1, save_top_k=-1)
    run = trainer(tmp_path / "first", max_steps=1, callbacks=[Training(ccpl_weight=1.0), checkpoint])
    run.fit(thin_model("adain"), pairs("adain", pictures))
    other = trainer(tmp_path / "rest", max_steps=2, callbacks=[Training()], enable_checkpointing=False)
    with pytest.raises(StylezooError, match="other additional losses"):
        other.fit(thin_model("adain"), pairs("adain", pictures), ckpt_path=str(tmp_path / "at.ckpt"), weights_only=True)


def test_an_optimizer_has_the_parameters_of_losses_once() -> None:
    model = thin_model("adain")
    loss = CCPL()
    loss.optimizer_options = {"betas": (0.5, 0.9)}
    model.attach_losses([loss])
    groups = model.optimizer().param_groups
    assert [group["betas"] for group in groups] == [(0.9, 0.999), (0.5, 0.9)]
    assert groups[1]["params"] == [*loss.parameters()]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == sum(len(group["params"]) for group in groups)


@pytest.mark.parametrize("own", [False, True])
def test_an_objective_replaces_them_unless_it_has_the_own_losses(own: bool, pictures: Path, tmp_path: Path) -> None:
    stylezoo.save_model(thin_model("adain"), tmp_path / "teacher.safetensors")
    imitation = Imitation(str(tmp_path / "teacher.safetensors"), own_losses=own)
    training = Training(objective=imitation, ccpl_weight=1.0)
    model = thin_model("adain")
    trainer(tmp_path, max_steps=1, callbacks=[training], enable_checkpointing=False).fit(
        model, pairs("adain", pictures)
    )
    assert len(model.additional_losses) == own
    assert ("train/ccpl" in (tmp_path / "metrics.csv").read_text()) == own


def test_a_model_can_be_without_them_again() -> None:
    model = thin_model("adain")
    content, style = batch("adain")
    before = repr(model)
    model.attach_losses([CCPL()])
    assert repr(model) == before and not any("additional" in key for key in model.state_dict())
    model.attach_losses([])
    assert "ccpl" not in model.losses(content, style)


def test_features_are_of_the_padded_output() -> None:
    """Where the output is larger than the content, the content's border goes on."""
    content = torch.rand(1, 3, 5, 6)
    seen = []
    stylization = Stylization(content, None, torch.rand(1, 3, 8, 8), {}, lambda image: seen.append(image) or {})
    stylization.content_features()
    assert seen[0].shape == (1, 3, 8, 8) and torch.equal(seen[0][..., :5, :6], content)
    assert torch.equal(seen[0][..., 7, 7], content[..., 4, 5])
    assert normalize(seen[0]).isfinite().all()
