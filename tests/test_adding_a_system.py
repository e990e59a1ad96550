"""A new system is three new files: its model, its recipe and its test. Everything zoo-wide covers it without an edit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

MODEL = '''\
"""Toy - A blurred thumbnail of the style is added to the content, and a linear map of colors is learned.

Deviations: none, there is no paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.losses import PerceptualLoss
from stylezoo.module import Blend, StyleCode, StyleModel
from stylezoo.registry import register

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0}


@register("toy", paper="https://example.com/toy", year=2024, kind="arbitrary", reference="nobody/toy@0000000")
class Toy(StyleModel):
    """Adds a thumbnail of the style.

    Args:
        loss_encoder: The network of the losses, see `stylezoo.vgg.VGG`.
    """

    def __init__(
        self,
        content_weight: float = 1.0,
        style_weight: float = 1.0,
        style_loss: str = "mean_std",
        lr: float = 1e-3,
        lr_decay: float = 0.0,
        loss_encoder: str = "vgg19_normalised",
        loss_encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.colors = nn.Conv2d(3, 3, 1)
        self.perceptual = PerceptualLoss({"relu2_1": 1.0}, LAYERS, style_loss=style_loss)

    def encode(self, style: Tensor, tile: int | None) -> StyleCode:
        return {"thumbnail": 4 * F.adaptive_avg_pool2d(style, 4) - 2}

    def transfer(self, content: Tensor, style: Blend, alpha: float, tile: int | None) -> Tensor:
        added = F.interpolate(style.code()["thumbnail"], size=content.shape[-2:], mode="bilinear")
        output: Tensor = self.colors(content + alpha * added)
        return output

    def loss_terms(self, content: Tensor, style: Tensor) -> dict[str, Tensor]:
        output, layers = self(content, style), self.perceptual.layers
        with torch.no_grad():
            content_feats, style_feats = (self.loss_encoder(image, layers) for image in (content, style))
        return self.perceptual(self.loss_encoder(output, layers), content=content_feats, style=style_feats)
'''

RECIPE = """\
# Toy: python -m stylezoo fit --config experiments/toy.yaml
model:
  class_path: Toy
  init_args:
    loss_encoder: vgg19_normalised
data:
  content: {class_path: COCO, init_args: {root: data/coco, year: 2014}}
  style: {class_path: WikiArt, init_args: {root: data/wikiart}}
  batch_size: 8
  size: 512
  crop: 256
trainer:
  max_steps: 100
  check_val_every_n_epoch: null
  val_check_interval: 50
  logger: {class_path: CSVLogger, init_args: {save_dir: runs, name: toy}}
"""

TEST = """\
import stylezoo


def test_toy() -> None:
    assert "toy" in stylezoo.list_models("arbitrary")
"""


@pytest.mark.slow
def test_a_toy_system_is_three_files(tmp_path: Path) -> None:
    without_weights = shutil.ignore_patterns("*.safetensors", "__pycache__")
    for folder in ("stylezoo", "experiments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=without_weights)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "stylezoo" / "models" / "toy.py").write_text(MODEL)
    (tmp_path / "experiments" / "toy.yaml").write_text(RECIPE)
    (tmp_path / "tests" / "models" / "test_toy.py").write_text(TEST)
    zoo_wide = ["tests/test_zoo.py", "tests/training/test_training.py", "tests/training/test_training_options.py"]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not long",
            "-k",
            "toy",
            *zoo_wide,
            "tests/models/test_toy.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", run.stdout)[1])  # type: ignore[index]
    assert passed >= 28
