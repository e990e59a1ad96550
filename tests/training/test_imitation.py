"""Students that imitate the outputs of a teacher, `stylezoo.training.Imitation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import thin_model
from test_training import pairs, trainer
from torch import Tensor

import stylezoo
from stylezoo import StyleModel
from stylezoo.errors import StylezooError
from stylezoo.training import Imitation, Training


@pytest.fixture
def teacher(tmp_path: Path) -> StyleModel:
    model = thin_model("adain")
    stylezoo.save_model(model, tmp_path / "teacher.safetensors")
    return model.eval()


@pytest.fixture
def images() -> Any:
    return torch.rand(2, 2, 3, 48, 48, generator=torch.Generator().manual_seed(1)).unbind()


def student(name: str = "adain") -> StyleModel:
    model = thin_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    return model


def test_the_terms_are_distances_to_the_outputs_of_the_teacher(
    teacher: StyleModel, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    content, style = images
    model = student()
    imitation = Imitation(str(tmp_path / "teacher.safetensors"), 3.0, 0.5, layers=["relu1_1", "relu2_1"])
    terms = imitation(model, content, style)
    with torch.no_grad():
        output, wanted = model(content, style), teacher(content, style)
        expected = 3 * (output - wanted).square().mean()
        model.prepare_losses()
        both = (model.loss_encoder(image, ["relu1_1", "relu2_1"]) for image in (output, wanted))
        distances = [(a - b).square().mean() for a, b in zip(*(features.values() for features in both), strict=True)]
    assert expected > 1e-4
    torch.testing.assert_close(terms, {"imitation": expected, "imitation_features": 0.5 * sum(distances)})
    sum(terms.values(), torch.zeros(())).backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in imitation.teacher.parameters())


def test_a_copy_of_the_teacher_has_nothing_to_learn(
    images: tuple[Tensor, Tensor], teacher: StyleModel, tmp_path: Path
) -> None:
    terms = Imitation(str(tmp_path / "teacher.safetensors"))(thin_model("adain"), *images)
    assert all(float(term) < 1e-10 for term in terms.values())


def test_the_losses_of_the_system_are_added(teacher: StyleModel, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = student()
    imitation = Imitation(str(tmp_path / "teacher.safetensors"), feature_weight=0, own_losses=True)
    terms = imitation(model, *images)
    assert list(terms) == ["content", "style", "imitation"]
    torch.testing.assert_close({name: terms[name] for name in model.loss_weights}, model.losses(*images))


@pytest.mark.parametrize("name", ["adain", "microast", "sanet"])
def test_a_run_minimizes_these_terms(name: str, teacher: StyleModel, pictures: Path, tmp_path: Path) -> None:
    """Another system, too; what is saved is a model without its teacher."""
    model = student(name)
    keys = list(model.state_dict())
    callback = Training(objective=Imitation(str(tmp_path / "teacher.safetensors")))
    run = trainer(tmp_path, max_steps=2, callbacks=[callback])
    run.fit(model, pairs(name, pictures))
    logged = {key for key in run.callback_metrics if key.startswith("train/")}
    assert logged == {"train/imitation", "train/imitation_features", "train/loss"}
    assert list(model.state_dict()) == keys


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(StylezooError, match="needs a weight or a feature_weight above 0"):
        Imitation("adain.slim", 0, 0)
    with pytest.raises(StylezooError, match="feature_weight is a finite number from 0 up, not -1"):
        Imitation("adain.slim", feature_weight=-1)
