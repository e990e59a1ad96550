"""What Lightning promises, held for every trainable system: processes, precision, resume, loggers, signals."""

from __future__ import annotations

import csv
import math
import os
import signal
import time
from pathlib import Path

import losses_process
import pytest
import torch
import train_process
from conftest import ROOT, thin_model
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from processes import command as by_command
from processes import ends, free_ports, launched, start

import stylezoo
from stylezoo import StyleModel
from stylezoo.cli import main
from stylezoo.data import Folder, Pairs
from stylezoo.losses import mean_variation
from stylezoo.registry import get

TRAINABLE = [name for name in stylezoo.list_models() if get(name).kind != "optimization"]


def pairs(system: str, pictures: Path, **settings: int) -> Pairs:
    style = Folder(str(pictures)) if get(system).kind == "arbitrary" else None
    return Pairs(
        Folder(str(pictures)), style, **{"batch_size": 2, "size": 48, "crop": 32, "num_workers": 0, **settings}
    )


def trainer(folder: Path, **settings: object) -> Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    settings.setdefault("callbacks", [])
    settings.setdefault("enable_checkpointing", bool(settings["callbacks"]))
    logger = CSVLogger(folder, name="", version="")
    return Trainer(accelerator="cpu", devices=1, logger=logger, **{**quiet, **settings})  # type: ignore[arg-type]


def losses(folder: Path) -> dict[int, str]:
    """Every digit of the logged loss, by step."""
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


@pytest.fixture(scope="module")
def gradients_by_processes(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[int, Path]:
    """Folders of the gradients of every system after two steps by the number of parts of a batch of 4.

    1 is one process; 2 are two processes with batch 2; -2 is one process that accumulates two batches of 2.
    """
    asking = [item for item in request.session.items if "gradients_by_processes" in getattr(item, "fixturenames", ())]
    asked = {item.callspec.params["name"] for item in asking if hasattr(item, "callspec")}
    systems = [name for name in TRAINABLE if name in asked or len(asked) < len(asking) and name == "sanet"]
    folders = {processes: tmp_path_factory.mktemp(f"processes{processes}") for processes in (1, 2, -2)}
    (port,) = free_ports(1)
    both = [
        start(
            *(train_process.train_all, [*systems, "losses"], str(pictures), 2, folders[2]),
            folder=folders[2],
            log=folders[2] / str(rank),
            environment={**launched(rank, port), "CUDA_VISIBLE_DEVICES": ""},
        )
        for rank in (0, 1)
    ]
    train_process.train_all(systems, str(pictures), 4, folders[1])
    train_process.train_all(systems, str(pictures), 2, folders[-2], batches=2)
    for rank, process in enumerate(both):
        assert ends(process, 600) == 0, (folders[2] / f"{rank}.err").read_text()[-3000:]
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        *((name, 2) for name in TRAINABLE),
        # CIN draws the styles of each batch anew; MicroAST compares the images of a batch, which processes exchange
        *((name, -2) for name in TRAINABLE if name not in {"cin", "microast"}),
    ],
)
@pytest.mark.slow
def test_parts_have_the_gradients_of_the_whole(name: str, parts: int, gradients_by_processes: dict[int, Path]) -> None:
    """DDP over two real processes (gloo), and accumulation: the mean gradients are those of the joined batch in one process."""
    both, one = (torch.load(gradients_by_processes[n] / f"{name}.pt", weights_only=True) for n in (parts, 1))
    assert both.keys() == one.keys() and one
    # Relative to the largest: a few gradients are 0 but for rounding (a bias that shifts all logits of a softmax).
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for key, gradient in one.items():
        torch.testing.assert_close(both[key], gradient, rtol=1e-6, atol=1e-10 * largest, msg=key)


@pytest.mark.slow
def test_two_processes_see_what_one_would_see(gradients_by_processes: dict[int, Path]) -> None:
    """The batches of both ranks, interleaved, are the batch of one process: same images, crops and pairs."""
    first, second = (torch.load(gradients_by_processes[2] / f"sanet.{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = torch.load(gradients_by_processes[1] / "sanet.0.pt", weights_only=True)
    for key in ("content", "style"):
        assert torch.equal(whole[key], torch.stack([first[key], second[key]], 1).flatten(0, 1))
        assert not torch.equal(first[key], second[key])


@pytest.mark.slow
def test_two_processes_compare_the_images_of_both(gradients_by_processes: dict[int, Path]) -> None:
    """Of additional losses: each parameter has a gradient in every step, banks hold the codes of both, and so do batches."""
    first, second = (torch.load(gradients_by_processes[2] / f"losses.{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys() and any(key.endswith("bank") for key in first)
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key
    assert int(first["2.position"]) == 2 * 2 * 4  # two steps, two processes, two styles that are stylized twice
    for name, term in losses_process.joined_terms(2).items():
        torch.testing.assert_close(first[name], term)


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.slow
def test_resumed_run_is_bit_exact(name: str, pictures: Path, tmp_path: Path) -> None:
    """Interrupted mid-epoch and resumed, every later loss has every digit of the uninterrupted run."""
    trainer(tmp_path / "whole", max_steps=7).fit(thin_model(name), pairs(name, pictures))
    checkpoint = ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=3, save_top_k=-1)
    trainer(tmp_path / "first", max_steps=3, callbacks=[checkpoint]).fit(thin_model(name), pairs(name, pictures))
    model = thin_model(name)
    resumed = trainer(tmp_path / "rest", max_steps=7)
    resumed.fit(model, pairs(name, pictures), ckpt_path=str(tmp_path / "at.ckpt"), weights_only=True)
    whole, first, rest = (losses(tmp_path / run) for run in ("whole", "first", "rest"))
    assert first | rest == whole and len(whole) == 7 and min(rest) == 3
    assert len(set(whole.values())) == 7


@pytest.mark.numerical
@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.slow
def test_bf16_mixed(name: str, pictures: Path, tmp_path: Path) -> None:
    """A run that stays finite and learns, and each loss of one model on one batch within 2 % of fp32.

    bf16 has 8 bits, 0.4 %. Measured on AVX2 and without AVX (where random numbers, and so the trained models, are others),
    terms compared here differ by at most 1.4 % (the style of texture_nets), those of two photographs by 0.4 %.
    """
    run = trainer(tmp_path, max_steps=8, precision="bf16-mixed")
    model = thin_model(name, he_init=False, lr=1e-3)
    run.fit(model, pairs(name, pictures))
    logged = [float(loss) for loss in losses(tmp_path).values()]
    assert len(logged) == 8 and all(math.isfinite(loss) for loss in logged)
    assert min(logged[-3:]) < max(logged[:3])
    batch = next(iter(pairs(name, pictures).train_dataloader()))
    model.eval()  # dropout would differ
    with torch.no_grad():
        full = model.losses(**batch)
        seen: list[torch.Tensor] = []
        model.loss_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.losses(**batch)
    assert all(term.dtype == torch.float32 for term in half.values())
    if model.perceptual.content_loss != "plain":
        # It divides features by how much they vary. Those of this model's flat picture vary about as much as they are
        # rounded, which moves the term by 18 to 51 %; those of photographs vary more.
        del half["content"], full["content"]
        same_images_in_bf16(model, batch)
    if "tv" in half:
        # The rounding of a flat picture is variation of its own: 5 % more on AVX2, 30 % without AVX. Of the picture that the
        # losses saw last, the term is computed in float32.
        assert seen[-1].dtype == torch.bfloat16
        torch.testing.assert_close(half["tv"], model.loss_weights["tv"] * mean_variation(seen[-1].float()))
        del half["tv"], full["tv"]
    for key, term in full.items():
        assert float(half[key]) == pytest.approx(float(term), rel=0.02) and half[key] != term, key


def same_images_in_bf16(model: StyleModel, batch: dict[str, torch.Tensor]) -> None:
    """The perceptual terms of the batch's own pictures, each within 2 % of fp32."""
    terms = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            content, style = (model.loss_encoder(batch[key], model.perceptual.layers) for key in ("content", "style"))
            terms.append(model.perceptual(style, content=content) | model.perceptual(content, style=style))
    full, half = terms
    for key, term in full.items():
        assert float(half[key]) == pytest.approx(float(term), rel=0.02) and half[key] != term, key


def test_accumulation_and_clipping(pictures: Path, tmp_path: Path) -> None:
    """Two accumulated batches of 2 make the step of one batch of 4; the schedule counts optimizer steps."""
    weights = []
    for accumulate, batch_size in ((2, 2), (1, 4)):
        model = thin_model("adain")
        run = trainer(
            tmp_path / str(accumulate), max_steps=2, accumulate_grad_batches=accumulate, gradient_clip_val=1.0
        )
        run.fit(model, pairs("adain", pictures, batch_size=batch_size))
        weights.append(model.decoder[1].weight)
        schedule = run.lr_scheduler_configs[0].scheduler
        assert schedule.last_epoch == 2
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_learning_rate_schedule_in_a_run(pictures: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    class Recorded(type(thin_model("adain"))):  # type: ignore[misc]
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: object, optimizer_closure: object) -> None:
            seen.append(optimizer.param_groups[0]["lr"])  # type: ignore[attr-defined]
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    model = Recorded(encoder="vgg19_random/8", lr_decay=0.5)
    trainer(tmp_path, max_steps=4).fit(model, pairs("adain", pictures))
    assert seen == pytest.approx([1e-4 / (1 + 0.5 * i) for i in range(4)])


def command(pictures: Path, folder: Path, *more: str) -> list[str]:
    return [
        "fit",
        f"--config={ROOT / 'experiments' / 'adain.yaml'}",
        "--model.encoder=vgg19_random/8",
        *(f"--data.{part}=Folder" for part in ("content", "style")),
        *(f"--data.{part}.root={pictures}" for part in ("content", "style")),
        *("--data.size=40", "--data.crop=32", "--data.batch_size=2", "--data.num_workers=0"),
        *("--trainer.accelerator=cpu", f"--trainer.logger.save_dir={folder}", "--trainer.log_every_n_steps=1"),
        *more,
    ]


@pytest.mark.slow
def test_wandb_offline_run_holds_the_images(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    arguments = command(pictures, tmp_path)
    overlay = arguments.index(f"--config={ROOT / 'experiments' / 'adain.yaml'}") + 1
    arguments.insert(overlay, f"--config={ROOT / 'experiments' / 'wandb.yaml'}")
    main([*arguments, "--trainer.max_steps=2", "--images.every_n_steps=1", "--trainer.logger.offline=true"])
    import wandb

    wandb.finish()
    run = next(tmp_path.glob("wandb/offline-run-*"))
    images = sorted(run.glob("files/media/images/*.png"))
    assert len(images) == 2 and all(path.stat().st_size > 1000 for path in images)
    log, deadline = b"", time.monotonic() + 60
    while b"train/content" not in log and time.monotonic() < deadline:  # W&B's own process writes the file
        log = next(run.glob("run-*.wandb")).read_bytes()
        time.sleep(0.1)
    for name in (b"train/content", b"train/style", b"lr-Adam", b"vgg19_random/8"):
        assert name in log


def test_tensorboard(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="an optional extra")
    overlay = f"--config={ROOT / 'experiments' / 'tensorboard.yaml'}"
    arguments = command(pictures, tmp_path)
    main([*arguments[:2], overlay, *arguments[2:], "--trainer.max_steps=2", "--images.every_n_steps=1"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.rglob("events.*")).parent)).Reload()
    assert {"train/content", "train/style"} <= set(events.Tags()["scalars"]) and events.Tags()["images"] == ["images"]


@pytest.mark.slow
def test_sigterm_leaves_a_loadable_checkpoint(pictures: Path, tmp_path: Path) -> None:
    """Sent to the whole group, workers included, as schedulers and `timeout` do."""
    arguments = command(pictures, tmp_path, "--trainer.max_steps=100000", "--trainer.val_check_interval=100000")
    workers = [argument.replace("num_workers=0", "num_workers=2") for argument in arguments]
    process = start(by_command, *workers, folder=tmp_path)
    metrics = tmp_path / "adain" / "version_0" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline and process.exitcode is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    assert ends(process) == 143
    checkpoint = tmp_path / "adain" / "version_0" / "checkpoints" / "last.ckpt"
    model = stylezoo.load_model(checkpoint)
    assert isinstance(model, StyleModel)
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert step > 0
    more = [a for a in arguments if "max_steps" not in a]
    main([*more, f"--trainer.max_steps={step + 2}", f"--ckpt_path={checkpoint}"])
    rest = losses(tmp_path / "adain" / "version_1")
    assert sorted(rest) == [step, step + 1]


def test_settings_of_the_command_win_over_the_checkpoint(pictures: Path, tmp_path: Path) -> None:
    """LightningCLI would let the checkpoint's hyper-parameters replace the recipe's silently."""
    arguments = command(pictures, tmp_path)
    main([*arguments, "--trainer.max_steps=1"])
    checkpoint = tmp_path / "adain" / "version_0" / "checkpoints" / "last.ckpt"
    main([*arguments, "--model.style_weight=3", "--trainer.max_steps=2", f"--ckpt_path={checkpoint}"])
    again = tmp_path / "adain" / "version_1" / "checkpoints" / "last.ckpt"
    assert torch.load(again, weights_only=True)["hyper_parameters"]["style_weight"] == 3
