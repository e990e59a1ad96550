"""A new style for a trained cin: its scales and shifts alone, in an eighth of the steps, against a new network.

    python benchmarks/cin_finetune.py --output runs/cin_finetune \\
        --encoder vgg16_caffe --encoder_weights vgg16_caffe.pth

docs/cin_finetune has results and the options that they were made with.

Trains cin on some paintings for ``base_steps`` steps. Each new painting is then learned twice: by a fine-tuned copy of
that network, ``steps / 8`` steps of its scales and shifts, and by a network of its own, ``steps`` steps of all weights.
Paintings and photos are procedural unless folders are named. Both are measured along the way on photos that no training sees: the content and style losses that both
minimize, summed as in training. Writes OUTPUT.csv (every measurement) and OUTPUT.png (the curves of the total).
"""

from __future__ import annotations

import csv
import logging
import shutil
import tempfile
import warnings
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

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Curve = dict[int, dict[str, float]]
"""{step: {"content": ..., "style": ..., "total": ...}}"""


class HeldOut(Callback):
    """The losses on the held-out photos, at the start and every few steps."""

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


def main(
    output: Path,
    encoder: str = "vgg16_caffe",
    encoder_weights: str | None = None,
    base_steps: int = 8000,
    steps: int = 2000,
    styles: int = 16,
    new_styles: int = 2,
    crop: int = 48,
    batch_size: int = 4,
    width: float = 0.5,
    finetune_lr: float = 3e-2,
    style_size: int | None = None,
    finetune_from: str = "average",
    accelerator: str = "cpu",
    base: Path | None = None,
    paintings: Path | None = None,
    photos: Path | None = None,
    root: str | None = None,
) -> None:
    """Trains, measures and draws.

    Args:
        output: Files to write, without suffix.
        encoder: The network of the losses; relu3_3 is the deepest layer that is used.
        encoder_weights: A file for it.
        base_steps: Optimizer steps of the network that is fine-tuned later.
        steps: Optimizer steps of a new painting's own network; fine-tuning has an eighth of them.
        styles: Number of styles of the network that is fine-tuned, where paintings are drawn.
        new_styles: Number of styles that are learned in addition, one after the other.
        crop: Side of the training images.
        batch_size: Images in a batch.
        width: Multiplies the channels of cin.
        finetune_lr: Learning rate of fine-tuning; the others have cin's own, 1e-3.
        style_size: Longer side that paintings are resized to; null keeps their sizes.
        finetune_from: What it starts from, see `stylezoo.models.cin.CIN`.
        accelerator: ``cpu`` or ``gpu``.
        base: Keeps the network that is fine-tuned. Where the file exists, it is taken instead of training one, such as
            public weights from ``stylezoo import``; new networks then have its shape.
        paintings: Folder of paintings, of which the last ``new_styles`` by name are learned in addition; null draws some.
        photos: Folder of photos; null draws some.
        root: Where images are drawn; null for a temporary folder.
    """
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    settings: dict[str, Any] = {
        "encoder": encoder,
        "encoder_weights": encoder_weights,
        "width": width,
        "style_size": style_size,
        "style_layers": {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0},
    }
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, Curve]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        cache = root or temporary
        if paintings is None:
            drawn = Synthetic("paintings", count=styles + new_styles, resolution=crop, root=cache, drawing_seed=2)
            drawn.prepare_data()
            paintings = drawn.root
        files = sorted(list_images(paintings, recursive=False))
        content = Folder(str(photos)) if photos else Synthetic("photos", 128, 2 * crop, root=cache, holdout=0.25)
        data = Pairs(content, batch_size=batch_size, size=crop + crop // 4, crop=crop, num_workers=0, val_samples=16)
        data.prepare_data()

        def folder(name: str, chosen: list[Path]) -> str:
            target = Path(temporary) / name
            target.mkdir()
            for file in chosen:
                shutil.copy(file, target)
            return str(target)

        def create(**more: Any) -> StyleModel:
            seed_everything(0, verbose=False)
            return stylezoo.create_model("cin", **settings, **more)

        base = base or Path(temporary) / "base.safetensors"
        if base.exists():
            trained = stylezoo.load_model(base).hparams
            settings |= {name: trained[name] for name in ("width", "channels", "blocks")}
        else:
            network = create(styles=folder("base", files[:-new_styles]))
            train(network, data, base_steps, base_steps, accelerator)
            save_model(network, base)
        for file in files[-new_styles:]:
            alone = folder(file.stem, [file])
            tuned = create(styles=alone, finetune=str(base), finetune_from=finetune_from, lr=finetune_lr)
            fresh = create(styles=alone)
            every = max(1, steps // 16)
            curves[file.stem] = {
                "fine-tuned": train(tuned, data, steps // 8, every, accelerator),
                "new network": train(fresh, data, steps, every, accelerator),
            }
            for run, curve in curves[file.stem].items():
                for step, losses in curve.items():
                    rows.append(
                        {"painting": file.stem, "run": run, "step": step}
                        | {name: float(f"{value:.5g}") for name, value in losses.items()}
                    )
            print(summary(file.stem, curves[file.stem], steps), flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_suffix(".csv").open("w", newline="") as file_:
        writer = csv.DictWriter(file_, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(curves, output.with_suffix(".png"))


def summary(name: str, curves: dict[str, Curve], steps: int) -> str:
    """What the page says about one painting."""
    tuned, fresh = curves["fine-tuned"], curves["new network"]
    last = max(tuned)
    goal = tuned[last]["total"]
    reached = next((step for step, losses in fresh.items() if losses["total"] <= goal), None)
    return (
        f"{name}: fine-tuned after {last} steps {goal:.4g} (at the start {tuned[0]['total']:.4g}); a new network has"
        f" {fresh[last]['total']:.4g} after {last} steps and {fresh[steps]['total']:.4g} after {steps}; it reaches the"
        f" fine-tuned one's loss {f'at step {reached}' if reached else 'never'}"
    )


def draw(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3), squeeze=False, layout="constrained")
    for axis, (name, runs) in zip(axes[0], curves.items(), strict=True):
        for run, curve in runs.items():
            axis.plot(list(curve), [losses["total"] for losses in curve.values()], label=run)
        axis.set(title=f"painting {name}", xlabel="step", ylabel="content + style loss", yscale="log")
        axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
