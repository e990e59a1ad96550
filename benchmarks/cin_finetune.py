"""Compares two ways to learn a new style: fine-tuning scales and shifts of a trained CIN in an eighth of the steps, and
training a new network.

    python benchmarks/cin_finetune.py --output runs/cin_finetune \\
        --encoder vgg16_caffe --encoder_weights vgg16_caffe.pth

docs/cin_finetune has results and the options that they were made with.

CIN is trained on some paintings for ``base_steps`` steps. Each new painting is then learned twice: by a fine-tuned copy of
that network, ``steps / 8`` steps of its scales and shifts, and by a network of its own, ``steps`` steps of all weights.
Paintings and photos are procedural unless folders are given. Both networks are measured during training on photos that no
training uses: the content and style losses that both minimize, summed as in training. The script writes OUTPUT.csv (every
measurement) and OUTPUT.png (the curves of the total).
"""

from __future__ import annotations

import inspect
import logging
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

import stylezoo
from stylezoo import StyleModel
from stylezoo.checkpoints import save_model
from stylezoo.data import Folder, Pairs, Synthetic
from stylezoo.images import list_images
from stylezoo.models.cin import CIN
from stylezoo.studies.base import as_csv

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Curve = dict[int, dict[str, float]]
"""{step: {"content": ..., "style": ..., "total": ...}}"""


class HeldOut(Callback):
    """Records the losses of the held-out photos, at the start and every few steps.

    Args:
        data: The data module, whose validation images are the held-out photos.
        every: Steps between two measurements.
    """

    def __init__(self, data: Pairs, every: int) -> None:
        self.data = data
        self.every = every
        self.curve: Curve = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0:
            self._measure(pl_module, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            self._measure(pl_module, trainer.global_step)

    @torch.no_grad()
    def _measure(self, model: LightningModule, step: int) -> None:
        assert isinstance(model, StyleModel)
        batches = [{k: v.to(model.device) for k, v in b.items()} for b in self.data.val_dataloader()]
        terms = [model.losses(**batch) for batch in batches]
        means = {name: float(torch.stack([t[name] for t in terms]).mean()) for name in terms[0]}
        self.curve[step] = {**means, "total": sum(means.values())}


def train(model: StyleModel, data: Pairs, steps: int, every: int, accelerator: str) -> Curve:
    """Trains a model; returns its losses every few steps."""
    data.setup("fit")
    held_out = HeldOut(data, every)
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[held_out],
    )
    trainer.fit(model, data)
    return held_out.curve


@dataclass
class Options:
    """Options of the comparison of fine-tuned and new networks.

    Attributes:
        output: Files to write, without suffix.
        encoder: The network of the losses; relu3_3 is the deepest layer that is used.
        encoder_weights: A file for it.
        base_steps: Optimizer steps of the network that is fine-tuned later.
        steps: Optimizer steps of a new painting's own network; fine-tuning has an eighth of them.
        styles: Number of styles of the network that is fine-tuned, if paintings are drawn.
        new_styles: Number of styles that are learned in addition, one after the other.
        crop: Side of the training images in pixels.
        batch_size: Images in a batch.
        width: Multiplies the channels of CIN.
        finetune_lr: Learning rate of fine-tuning; the other trainings have CIN's own, 1e-3.
        style_size: Longer side that paintings are resized to; null keeps their sizes.
        finetune_from: Initialization of fine-tuning, see `stylezoo.models.cin.CIN`.
        accelerator: ``cpu`` or ``gpu``.
        base: File of the network that is fine-tuned. An existing file is used instead of a training, such as public
            weights from ``stylezoo import``; new networks then have its shape.
        paintings: Folder of paintings, of which the last ``new_styles`` by name are learned in addition; null draws some.
        photos: Folder of photos; null draws some.
        root: Folder for drawn images; null for a temporary folder.
    """

    output: Path
    encoder: str = "vgg16_caffe"
    encoder_weights: str | None = None
    base_steps: int = 8000
    steps: int = 2000
    styles: int = 16
    new_styles: int = 2
    crop: int = 48
    batch_size: int = 4
    width: float = 0.5
    finetune_lr: float = 3e-2
    style_size: int | None = None
    finetune_from: str = "average"
    accelerator: str = "cpu"
    base: Path | None = None
    paintings: Path | None = None
    photos: Path | None = None
    root: str | None = None


def main(options: Options) -> None:
    """Trains, measures and draws."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        curves = compare(options, Path(temporary))
    rows = [
        {"painting": painting, "run": run, "step": step}
        | {name: float(f"{value:.5g}") for name, value in losses.items()}
        for painting, runs in curves.items()
        for run, curve in runs.items()
        for step, losses in curve.items()
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".csv").write_text(as_csv(rows), encoding="utf-8")
    draw(curves, options.output.with_suffix(".png"))


def compare(options: Options, temporary: Path) -> dict[str, dict[str, Curve]]:
    """Trains all networks; returns {painting: {run: curve}}."""
    files, data = images(options, options.root or str(temporary))
    network = f"{'loss_' if 'encoder' not in inspect.signature(CIN).parameters else ''}encoder"
    settings: dict[str, Any] = {
        network: options.encoder,
        f"{network}_weights": options.encoder_weights,
        "width": options.width,
        "style_size": options.style_size,
        "style_layers": {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0},
    }

    def create(chosen: list[Path], **more: Any) -> StyleModel:
        folder = Path(tempfile.mkdtemp(dir=temporary))
        for file in chosen:
            shutil.copy(file, folder)
        seed_everything(0, verbose=False)
        return stylezoo.create_model("cin", styles=str(folder), **settings, **more)

    base = options.base or temporary / "base.safetensors"
    if base.exists():
        trained = stylezoo.load_model(base).hparams
        settings |= {name: trained[name] for name in ("width", "channels", "blocks")}
    else:
        shared = create(files[: -options.new_styles])
        train(shared, data, options.base_steps, options.base_steps, options.accelerator)
        save_model(shared, base)
    tuning = {"finetune": str(base), "finetune_from": options.finetune_from, "lr": options.finetune_lr}
    every = max(1, options.steps // 16)
    curves: dict[str, dict[str, Curve]] = {}
    for file in files[-options.new_styles :]:
        tuned, fresh = create([file], **tuning), create([file])
        curves[file.stem] = {
            "fine-tuned": train(tuned, data, options.steps // 8, every, options.accelerator),
            "new network": train(fresh, data, options.steps, every, options.accelerator),
        }
        print(summary(file.stem, curves[file.stem], options.steps), flush=True)
    return curves


def images(options: Options, cache: str) -> tuple[list[Path], Pairs]:
    """Returns the files of the paintings in order, and the photos; those that are not given are drawn in a folder."""
    crop, paintings = options.crop, options.paintings
    if paintings is None:
        count = options.styles + options.new_styles
        drawn = Synthetic("paintings", count=count, resolution=crop, root=cache, drawing_seed=2)
        drawn.prepare_data()
        paintings = drawn.root
    files = sorted(list_images(paintings, recursive=False))
    photos = str(options.photos) if options.photos else None
    content = Folder(photos) if photos else Synthetic("photos", 128, 2 * crop, root=cache, holdout=0.25)
    framing = {"size": crop + crop // 4, "crop": crop}
    data = Pairs(content, batch_size=options.batch_size, num_workers=0, val_samples=16, **framing)
    data.prepare_data()
    return files, data


def summary(name: str, curves: dict[str, Curve], steps: int) -> str:
    """Returns the sentence on one painting in docs/cin_finetune."""
    tuned, fresh = curves["fine-tuned"], curves["new network"]
    last = max(tuned)
    target = tuned[last]["total"]
    reached = next((step for step, losses in fresh.items() if losses["total"] <= target), None)
    return (
        f"{name}: fine-tuned after {last} steps {target:.4g} (at the start {tuned[0]['total']:.4g}); a new network has"
        f" {fresh[last]['total']:.4g} after {last} steps and {fresh[steps]['total']:.4g} after {steps}; it reaches the"
        f" fine-tuned one's loss {f'at step {reached}' if reached else 'never'}"
    )


def draw(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    """Writes the figure of all curves."""
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3), squeeze=False, layout="constrained")
    for axis, (name, runs) in zip(axes[0], curves.items(), strict=True):
        for run, curve in runs.items():
            axis.plot(list(curve), [losses["total"] for losses in curve.values()], label=run)
        axis.set(title=f"painting {name}", xlabel="step", ylabel="content + style loss", yscale="log")
        axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
