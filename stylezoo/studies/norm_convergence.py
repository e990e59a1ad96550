"""Instance against batch normalization in the network of Johnson et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from stylezoo.module import StyleModel
from stylezoo.studies.base import StudyResult, new_figure, study
from stylezoo.studies.setups import TrainingSetup
from stylezoo.studies.verdicts import Row, Verdict, numbers, verdict

NORMS = ("instance", "batch")


class Curve(Callback):
    """Records the losses of training batches, and of fixed held-out images in both modes of batch normalization.

    Args:
        images: Held-out contents, (N, 3, H, W) in [0, 1].
        every: Steps between two evaluations; step 0 is one of them.
    """

    def __init__(self, images: Tensor, every: int) -> None:
        self.images = images
        self.every = every
        self.points: list[Row] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(pl_module, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        step = trainer.global_step
        terms = {name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("content", "style", "loss")}
        self.points.append({"step": step, "data": "train", **terms})
        if step % self.every == 0 or step == trainer.max_steps:
            self._evaluate(pl_module, step)

    def _evaluate(self, model: LightningModule, step: int) -> None:
        """Measures ``val``, eval mode with running statistics, and ``val (batch statistics)``, all images as one batch."""
        assert isinstance(model, StyleModel)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for data, training in (("val", False), ("val (batch statistics)", True)):
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train(training)
            with torch.no_grad():
                terms = {name: float(term) for name, term in model.losses(self.images.to(model.device), None).items()}
            self.points.append({"step": step, "data": data, **terms, "loss": sum(terms.values())})
        for name, buffer in model.named_buffers():  # the second evaluation moved the running statistics
            buffer.copy_(buffers[name])
        model.train()


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether the held-out loss with batch normalization is the larger one in each run."""
    ratios = [
        value
        for (value,) in numbers([r for r in rows if (r["norm"], r["data"]) == ("batch", "val")], "loss / instance")
    ]
    reason = f"its held-out loss is {min(ratios):.2f} to {max(ratios):.2f} times that with instance normalization"
    return verdict(min(ratios) > 1, reason)


@study(
    "norm_convergence",
    source='Ulyanov et al. 2016, "Instance Normalization", sections 2 and 3',
    paper="https://arxiv.org/abs/1607.08022",
    claim="With instance normalization training converges faster and to lower losses than with batch normalization.",
    judge=judge,
)
def norm_convergence(*, setup: TrainingSetup = TrainingSetup(), runs: int = 2) -> StudyResult:
    """Instance against batch normalization: the speed of convergence, and the losses at its end.

    The network of Johnson et al. is trained twice, with instance and with batch normalization, on the same batches,
    with the same seeds, loss and learning rate; each run has another seed and another style. Losses are those of
    training batches and of held-out photos. Batch normalization is evaluated in eval mode with running statistics, as
    at inference, and with the statistics of the batch, so that a gap between both is not mistaken for one between the
    networks. Instance normalization is the same function in both modes. With ImageNet weights of the encoder, a style
    weight of 1e5 times the content weight is usual.

    Args:
        setup: The training, see `stylezoo.studies.setups.TrainingSetup`.
        runs: Repetitions.
    """
    steps, every = setup.steps, max(1, setup.steps // 20)
    curves: list[Row] = []
    for run in range(runs):
        material = setup.material(run)
        held_out = material.photos(setup.images, setup.size)
        style = str(*material.style_files(material.seed, 1, setup.size))
        for norm in NORMS:
            print(f"run {run + 1} of {runs}, {norm} normalization: {steps} steps")
            curve = Curve(held_out, every)
            network = {"style_image": style, "norm": norm, **setup.network}
            material.train("johnson", steps, [curve], with_styles=False, **network)
            curves += [{"run": run, "norm": norm, **point} for point in curve.points]
    rows = [_row(curves, run, norm, data, steps) for run in range(runs) for norm, data in SERIES]
    notes = [_note(curves, run, steps) for run in range(runs)]
    return StudyResult(rows, notes, {"": _figure(curves, runs, every)}, {"curves": curves})


SERIES = (
    ("instance", "train"),
    ("batch", "train"),
    ("instance", "val"),
    ("batch", "val"),
    ("batch", "val (batch statistics)"),
)


def _series(curves: list[Row], run: int, norm: str, data: str, term: str = "loss") -> dict[int, float]:
    """Returns a curve, {step: loss}."""
    chosen = [p for p in curves if (p["run"], p["norm"], p["data"]) == (run, norm, data)]
    return {int(p["step"] or 0): float(p[term] or 0.0) for p in chosen}


def _end(points: dict[int, float], steps: int) -> float:
    """Computes the mean over the last tenth of the steps."""
    last = [loss for step, loss in points.items() if step > 0.9 * steps]
    return sum(last) / len(last)


def _ratio(curves: list[Row], run: int, term: str, steps: int) -> float:
    instance, batch = (_end(_series(curves, run, norm, "val", term), steps) for norm in NORMS)
    return batch / instance


def _row(curves: list[Row], run: int, norm: str, data: str, steps: int) -> Row:
    ends = {term: _end(_series(curves, run, norm, data, term), steps) for term in ("content", "style", "loss")}
    reference = _end(_series(curves, run, "instance", data if data == "train" else "val"), steps)
    return {"run": run, "norm": norm, "data": data, **ends, "loss / instance": ends["loss"] / reference}


def _note(curves: list[Row], run: int, steps: int) -> str:
    instance, batch = (_series(curves, run, norm, "val") for norm in NORMS)
    own = _series(curves, run, "batch", "val (batch statistics)")
    target = min(batch.values())
    first = next((step for step, loss in instance.items() if loss <= target), None)
    reached = (
        f"reaches the lowest of them at step {first}" if first is not None else "does not reach the lowest of them"
    )
    return (
        f"Run {run}: over the last tenth of {steps} steps the held-out loss with batch normalization is"
        f" {_end(batch, steps) / _end(instance, steps):.2f} times that with instance normalization in eval mode, and"
        f" {_end(own, steps) / _end(instance, steps):.2f} times with the statistics of the batch. Of all eval-mode losses"
        f" with batch normalization, instance normalization {reached}. Batch over instance in eval mode: content"
        f" {_ratio(curves, run, 'content', steps):.2f}, style {_ratio(curves, run, 'style', steps):.2f}."
    )


def _figure(curves: list[Row], runs: int, every: int) -> Any:
    figure = new_figure(4.2 * 3, 3.4 * runs)
    axes = figure.subplots(runs, 3, squeeze=False)
    for run in range(runs):
        for column, term in enumerate(("loss", "content", "style")):
            axis = axes[run][column]
            for norm, data in SERIES:
                points = _series(curves, run, norm, data, term)
                values = list(points.values())
                if data == "train":  # single batches are noisy: means over what lies between two evaluations
                    values = [
                        sum(values[max(0, i + 1 - every) : i + 1]) / min(i + 1, every) for i in range(len(values))
                    ]
                axis.plot(
                    list(points),
                    values,
                    label=f"{norm}, {data}",
                    color={"instance": "tab:blue", "batch": "tab:orange"}[norm],
                    linestyle={"train": ":", "val": "-"}.get(data, "--"),
                )
            axis.set_yscale("log")
            axis.set_xlabel("step")
            axis.set_title(f"{'sum of both losses' if term == 'loss' else f'{term} loss'}, run {run}")
    axes[0][0].legend(fontsize=8)
    return figure
