"""What happens to a run when something goes wrong: signals, numbers that are none, full disks, folders, loggers."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import THIN, thin_model
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from test_training import command, pairs
from torch import Tensor, nn

from stylezoo.cli import main
from stylezoo.module import StyleModel
from stylezoo.registry import get
from stylezoo.training import NonFiniteError, RunCheckpoint, SavingError, Training, finite, guarded, loggers, run_folder
from stylezoo.training.optimizers import PreconditionedAdamOptimizer, pack, unpack


@pytest.fixture(autouse=True)
def _default_signals() -> Iterator[None]:
    """Background jobs of a shell ignore SIGINT, and so would the runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class At(Callback):
    """Calls a function after a number of steps, once."""

    def __init__(self, step: int, action: Callable[[Trainer], None]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            self.action(trainer)


def trainer(folder: Path, *callbacks: Callback, steps: int = 8, **settings: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=CSVLogger(folder, name="", version="run"),
        callbacks=list(callbacks),
        **{**quiet, **settings},
    )


def every(steps: int, **settings: Any) -> RunCheckpoint:
    defaults = {"filename": "step_{step}", "auto_insert_metric_name": False, "save_last": True}
    return RunCheckpoint(every_n_train_steps=steps, save_on_exception=True, **{**defaults, **settings})


def fit(run: Trainer, model: LightningModule, pictures: Path, **settings: Any) -> None:
    with guarded(run):
        run.fit(model, pairs("adain", pictures, **settings))


def step_of(checkpoint: Path) -> int:
    step: int = torch.load(checkpoint, weights_only=True)["global_step"]
    return step


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """The sentence of a command that fails."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


# Numbers that are none


class Spoiled(get("adain")):  # type: ignore[misc]
    """An AdaIN whose losses are multiplied in some batches."""

    def __init__(self, **factors: float) -> None:
        super().__init__(encoder=THIN)
        self.factors = {int(name[1:]): factor for name, factor in factors.items()}

    def losses(self, content: Tensor, style: Any = None, **known: Any) -> dict[str, Tensor]:
        factor = self.factors.get(self.trained_batches, 1.0) if self.training else 1.0
        return {name: factor * term for name, term in super().losses(content, style, **known).items()}


def test_the_first_infinite_loss_stops_a_run(pictures: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, Training(), every(2))
    with pytest.raises(
        NonFiniteError, match=r"loss of batch 4 \(step 4\) is not finite \(content nan, .*0\d.png"
    ) as error:
        fit(run, Spoiled(b3=float("nan")), pictures)
    assert "model.lr" in str(error.value) and "training.skip_nonfinite" in str(error.value)
    assert step_of(tmp_path / "run" / "checkpoints" / "last.ckpt") == 2
    assert all(torch.isfinite(value).all() for value in run.lightning_module.state_dict().values())


def test_steps_that_are_skipped_change_nothing(pictures: Path, tmp_path: Path) -> None:
    """Neither weights nor statistics of batch norms nor the optimizer; gradients whose squares are infinite count."""
    model = Spoiled(b1=float("inf"), b2=1e30)
    model.decoder.append(nn.BatchNorm2d(3))
    seen: list[dict[str, Tensor]] = []

    def note(run: Trainer) -> None:
        seen.append({name: value.clone() for name, value in run.lightning_module.state_dict().items()})

    run = trainer(tmp_path, Training(skip_nonfinite=2), *(At(step, note) for step in (1, 2, 3, 4)), steps=4)
    with pytest.warns(UserWarning) as caught:
        fit(run, model, pictures)
    messages = [str(warning.message) for warning in caught]
    assert any("The loss of batch 2 (step 2) is not finite" in message for message in messages)
    assert any("gradient of batch 3 (step 3) is not finite or too large" in message for message in messages)
    assert any("2 steps of this run were skipped" in message for message in messages)
    for name in seen[0]:
        if "num_batches" not in name:
            assert torch.equal(seen[0][name], seen[2][name]), name
    assert not torch.equal(seen[2]["decoder.1.weight"], seen[3]["decoder.1.weight"])
    assert {int(state["step"]) for state in run.optimizers[0].state.values()} == {2}
    with pytest.raises(NonFiniteError, match="1 steps were skipped before"):
        fit(trainer(tmp_path / "b", Training(skip_nonfinite=1)), Spoiled(b1=float("nan"), b2=float("nan")), pictures)


def test_half_precision_may_overflow() -> None:
    """16-mixed multiplies the loss, skips infinite gradients by itself and lowers its factor, down to 1."""
    for scale, expected in ((65536.0, True), (1.0, False)):
        scaler = SimpleNamespace(get_scale=lambda scale=scale: scale)
        assert finite.is_rescaled(SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))) is expected  # type: ignore[arg-type]
    assert not finite.is_rescaled(SimpleNamespace(precision_plugin=SimpleNamespace()))  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_not_saved(pictures: Path, tmp_path: Path) -> None:
    def spoil(run: Trainer) -> None:
        with torch.no_grad():
            next(p for p in run.lightning_module.parameters() if p.requires_grad).view(-1)[0] = float("inf")

    checkpoint = every(2, save_top_k=1)
    with pytest.raises(NonFiniteError, match="after step 4 and were not saved"):
        fit(trainer(tmp_path, At(4, spoil), checkpoint), thin_model("adain"), pictures)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step_2.ckpt"]
    assert step_of(folder / "last.ckpt") == 2


@pytest.mark.slow
def test_a_rate_that_is_far_too_high_ends_the_command(
    pictures: Path, tmp_path: Path, capsys: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder keeps its good checkpoint; the rate of the command replaces that of the checkpoint, and it says so."""
    arguments = command(pictures, tmp_path, "--trainer.logger.version=x", "--images.every_n_steps=0")
    last = tmp_path / "adain" / "x" / "checkpoints" / "last.ckpt"
    main([*arguments, "--trainer.max_steps=2"])
    good = last.read_bytes()
    resume = [*arguments, "--trainer.max_steps=20", f"--ckpt_path={last}"]
    assert "is not finite" in fails([*resume, "--model.lr=1e30"], capsys)
    assert last.read_bytes() == good
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    main([*arguments, "--trainer.max_steps=3", f"--ckpt_path={last}", "--model.lr=5e-4"])
    assert "other settings than its checkpoint: learning rate 0.0005 instead of 0.0001" in caplog.text
    state = torch.load(last, weights_only=True)
    rates = [group["lr"] for group in state["optimizer_states"][0]["param_groups"]]
    assert rates == [pytest.approx(5e-4 / (1 + 5e-5 * 3))]
    assert state["lr_schedulers"][0]["base_lrs"] == [5e-4]
    config = last.parents[1] / "config.yaml"  # the settings that a run has recorded begin another one
    capsys.readouterr()
    main(["fit", f"--config={config}", "--trainer.max_steps=4", f"--ckpt_path={last}"])
    assert step_of(last) == 4
    kept = {path.name for path in last.parents[1].iterdir()}
    assert {"metrics.csv", "metrics.1.csv", "metrics.2.csv", "config.1.yaml"} <= kept and "checkpoints.1" not in kept
    main([*arguments, "--trainer.max_steps=1"])  # a new run puts aside what is there
    (aside,) = last.parents[1].glob("checkpoints.*")
    assert (step_of(last), step_of(aside / "last.ckpt")) == (1, 4)
    assert "is called" in capsys.readouterr().out


# Disks


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Limits the size of files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size < 0 else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_for_a_while(pictures: Path, tmp_path: Path, file_limit: Callable[[int], None]) -> None:
    """Training goes on, older checkpoints stay, and the next interval saves again."""
    folder = tmp_path / "run" / "checkpoints"
    there: list[list[str]] = []
    events = [At(3, lambda _: file_limit(100_000)), At(7, lambda _: file_limit(-1))]
    events.append(At(6, lambda _: there.append(sorted(path.name for path in folder.iterdir()))))
    with pytest.warns(UserWarning) as caught:
        fit(trainer(tmp_path, *events, every(2, save_top_k=1)), thin_model("adain"), pictures)
    assert sum("Cannot write the checkpoint" in str(warning.message) for warning in caught) == 1
    assert there == [["last.ckpt", "step_2.ckpt"]]
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step_8.ckpt"]
    assert step_of(folder / "last.ckpt") == 8


def test_a_disk_that_is_full_to_the_end(pictures: Path, tmp_path: Path, file_limit: Callable[[int], None]) -> None:
    run = trainer(tmp_path, At(3, lambda _: file_limit(100_000)), every(2, save_top_k=1))
    with pytest.warns(UserWarning), pytest.raises(SavingError, match="Cannot write the checkpoint .*last.ckpt"):
        fit(run, thin_model("adain"), pictures)
    file_limit(-1)
    folder = tmp_path / "run" / "checkpoints"
    assert {path.name: step_of(path) for path in folder.iterdir()} == {"last.ckpt": 2, "step_2.ckpt": 2}


def test_preconditioners_take_half_of_their_place() -> None:
    conv = nn.Conv2d(2, 3, 3)
    matrix = torch.randn(19, 19, generator=torch.Generator().manual_seed(0)).tril()
    assert torch.equal(unpack(pack(matrix)), matrix) and torch.equal(unpack(matrix), matrix)
    optimizer = PreconditionedAdamOptimizer([conv], [matrix], lr=0.1)
    state = optimizer.state_dict()
    assert state["state"][0]["preconditioner"].shape == (19 * 20 // 2,)
    for stored in (state["state"][0]["preconditioner"], matrix):  # earlier versions stored the matrix
        other = PreconditionedAdamOptimizer([conv], [None], lr=0.1)
        other.load_state_dict({**state, "state": {0: {"preconditioner": stored}}})
        assert torch.equal(other.state[conv.weight]["preconditioner"], matrix)


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_run_after_its_step(
    number: signal.Signals, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(number)
    run = trainer(tmp_path, At(3, lambda _: os.kill(os.getpid(), number)), every(100))
    with pytest.raises(SystemExit) as exit_:
        fit(run, thin_model("adain"), pictures)
    assert exit_.value.code == 128 + number
    assert step_of(tmp_path / "run" / "checkpoints" / "last.ckpt") == 3
    assert f"Stopped by {number.name} after step 3; --ckpt_path" in capfd.readouterr().err
    assert signal.getsignal(number) is handler


def test_a_signal_before_the_first_step_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    class Early(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as exit_:
        fit(trainer(tmp_path / "runs", Early(), every(2)), thin_model("adain"), pictures)
    assert exit_.value.code == 143 and list(tmp_path.iterdir()) == []


# Folders


def test_a_folder_belongs_to_one_run_at_a_time(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    (tmp_path / "run").mkdir()
    descriptor = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="Another run is writing to .*run: wait"):
        fit(trainer(tmp_path), thin_model("adain"), pictures)
    os.close(descriptor)
    fast, slow = (CSVLogger(tmp_path, name="versions") for _ in range(2))
    looks = iter([0])
    monkeypatch.setattr(slow, "_get_next_version", lambda: next(looks, 1))  # it looked before the other one was there
    for logger, name in ((fast, "version_0"), (slow, "version_1")):
        folder = run_folder.RunFolder(Trainer(logger=logger, accelerator="cpu"), None, True)
        folder.claim()
        assert folder.folder == tmp_path / "versions" / name
        run_folder.release()


def test_a_run_that_fails_before_its_first_step_leaves_the_folder_as_it_was(pictures: Path, tmp_path: Path) -> None:
    class Broken(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise KeyError

    fit(trainer(tmp_path, every(1), steps=1), thin_model("adain"), pictures)
    before = {path.name for path in (tmp_path / "run").iterdir()}
    with pytest.raises(KeyError):
        fit(trainer(tmp_path, Broken(), every(1)), thin_model("adain"), pictures)
    assert {path.name for path in (tmp_path / "run").iterdir()} == before


def test_checkpoints_of_another_run_are_not_replaced(pictures: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = trainer(tmp_path / name, every(1, dirpath=tmp_path / "checkpoints"), steps=1)
        if name == "a":
            fit(run, thin_model("adain"), pictures)
        else:
            with pytest.raises(ValueError, match="has the checkpoints of another run"):
                fit(run, thin_model("adain"), pictures)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--data.num_workers=-1", "num_workers must be at least 0, not -1"),
        ("--data.val_samples=-2", "val_samples must be at least 1, not -2"),
        ("--data.seed=-3", "seed must be at least 0, not -3"),
        ("--data.timeout=0", "timeout must be more than 0 seconds"),
        ("--data.batch_size=1000000000", "lower batch_size or crop"),
        ("--training.skip_nonfinite=-1", "skip_nonfinite is a number of steps from 0 up, not -1"),
        ("--training.optimizer=PreconditionedAdam --training.optimizer.lr=-1", "lr is the learning rate, a finite"),
        ("--training.initialization=LeastSquares --training.initialization.crops=0", "crops is a number of training"),
        (
            "--training.initialization=Pruning --training.initialization.teacher=adain.nobody",
            "no weights for 'adain.nobody'",
        ),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches is a number of batches, at least 1"),
        ("--trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch is a number of epochs, at least 1"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val is a finite number from 0 up"),
        ("--trainer.log_every_n_steps=-1", "trainer.log_every_n_steps is a number of steps from 0 up"),
        ("--trainer.val_check_interval=0", "trainer.val_check_interval is a number of batches or a share of an epoch"),
        ("--images.every_n_steps=-1", "every_n_steps is a number of steps; 0 writes none, not -1"),
        ("--trainer.precision=bf16-true", "use bf16-mixed or 16-mixed"),
        ("--trainer.max_steps=-5", "The trainer cannot be built with these settings"),
        ("--trainer.logger.save_dir=/dev/null", "cannot be written to (/dev/null"),
        ("--ckpt_path=nowhere.ckpt", "nowhere.ckpt"),
    ],
)
def test_values_out_of_range_are_one_sentence(
    option: str, sentence: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in fails(command(pictures, tmp_path / "runs", *option.split()), capsys)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_64_bits_are_initialized(pictures: Path, tmp_path: Path) -> None:
    options = ["--training.initialization=LeastSquares", "--training.initialization.crops=4"]
    options += ["--training.optimizer=PreconditionedAdam", "--trainer.precision=64-true", "--trainer.max_steps=1"]
    main([*command(pictures, tmp_path), *options])
    (last,) = tmp_path.rglob("last.ckpt")
    weights = torch.load(last, weights_only=True)["state_dict"]
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float64}


# Loggers


class Failing(CSVLogger):
    def log_metrics(self, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")


def test_a_logger_that_fails_does_not_end_a_run(pictures: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, every(100), log_every_n_steps=1)
    run.loggers = [Failing(tmp_path, name="", version="run")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(run, thin_model("adain"), pictures)
    assert sum("Failing cannot log" in str(warning.message) for warning in caught) == 1
    assert step_of(tmp_path / "run" / "checkpoints" / "last.ckpt") == 8


@pytest.mark.parametrize("answers", [False, True])
def test_wandb_that_cannot_be_reached_is_logged_offline(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses, or one that takes the connection and says nothing, costs seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if answers else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setattr(loggers, "SECONDS", 0.3)
        modes: list[str | None] = []

        class Stub:
            _offline, _wandb_init = False, {}  # type: ignore[var-annotated]

            @property
            def experiment(self) -> None:
                modes.append(self._wandb_init.get("mode"))

        with pytest.warns(UserWarning, match=r"127.0.0.1:\d+ does not answer.*logged offline"):
            assert loggers.start_wandb(Stub())  # type: ignore[arg-type]
    assert modes == ["offline"]


def test_what_a_run_shows_has_few_digits(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stylezoo.training import RunProgressBar

    run = trainer(tmp_path, RunProgressBar(), steps=1, enable_progress_bar=True, enable_model_summary=True)
    with guarded(run):
        run.fit(Spoiled(b0=1e9), pairs("adain", pictures))
    shown = capsys.readouterr().out
    assert "FLOPs" not in shown and "parameters are trained" in shown
    assert run.progress_bar_callback.theme.metrics_format == ".4g"  # type: ignore[union-attr]
    assert isinstance(run.lightning_module, StyleModel)
