"""Options of training: averaged weights, and a compiled training step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, thin_model
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from test_initialization import FIT
from test_training import TRAINABLE, command, losses, pairs, trainer
from torch import Tensor

import stylezoo
from stylezoo.checkpoints import save_model, take_weights
from stylezoo.cli import main
from stylezoo.training.callbacks import EMA, Compile


class Weights(Callback):
    """A copy of the trained weights after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.steps.append({key: value.clone() for key, value in pl_module.state_dict().items()})


def saved_every(steps: int, folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=steps, save_top_k=-1, save_last=True)


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """But for the counters of batch norms, which are whole numbers."""
    a, b = ({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")} for state in (a, b))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", TRAINABLE)
def test_checkpoints_hold_the_average(name: str, pictures: Path, tmp_path: Path) -> None:
    """w_1, then 0.5 ema + 0.5 w_i; under the model's own keys, as load_model reads them, without frozen encoders."""
    weights = Weights()
    model = thin_model(name)
    before = {n: vgg.sha256 for n, vgg in model.encoders()}
    trainer(tmp_path, max_steps=3, callbacks=[weights, EMA(decay=0.5), saved_every(3, tmp_path)]).fit(
        model, pairs(name, pictures)
    )
    first, second, third = weights.steps
    average = {key: 0.25 * first[key] + 0.25 * second[key] + 0.5 * third[key] for key in first}
    checkpoint = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    close(checkpoint["state_dict"], average)
    close(checkpoint["current_model_state"], third)
    close(stylezoo.load_model(tmp_path / "step=3.ckpt").state_dict(), average)
    close(model.state_dict(), average)  # also the model in memory, once training is over
    for n, vgg in model.encoders():
        vars(vgg).pop("sha256", None)
        assert vgg.sha256 == before.get(n, vgg.sha256)


@pytest.mark.parametrize("name", ["adain", "johnson"])
def test_average_goes_on_after_resume(name: str, pictures: Path, tmp_path: Path) -> None:
    """Also from a checkpoint of a finished run: bit for bit the weights and the average of the whole run."""

    def fit(steps: int, folder: Path, resume: Path | None = None) -> dict[str, dict[str, Tensor]]:
        run = trainer(folder, max_steps=steps, callbacks=[EMA(decay=0.5), saved_every(100, folder)])
        run.fit(thin_model(name), pairs(name, pictures), ckpt_path=resume and str(resume), weights_only=True)
        checkpoint: dict[str, dict[str, Tensor]] = torch.load(folder / "last.ckpt", weights_only=True)
        return checkpoint

    whole = fit(5, tmp_path / "whole")
    fit(2, tmp_path / "first")
    rest = fit(5, tmp_path / "rest", tmp_path / "first" / "last.ckpt")
    for state in ("state_dict", "current_model_state", "averaging_state"):
        torch.testing.assert_close(dict(rest[state]), dict(whole[state]), rtol=0, atol=0)
    whole_losses = losses(tmp_path / "whole")
    assert losses(tmp_path / "rest") == {step: whole_losses[step] for step in (2, 3, 4)}


def test_validation_sees_the_average(pictures: Path, tmp_path: Path) -> None:
    """And training none of it: weights are the same as without; an interrupted validation puts them back, too."""
    seen: list[dict[str, Tensor]] = []

    class Interrupted(Weights):
        def on_validation_batch_start(self, *args: object) -> None:
            seen.append({key: value.clone() for key, value in args[1].state_dict().items()})  # type: ignore[attr-defined]
            if len(seen) == 2:
                raise RuntimeError("stop")

    plain, weights = Weights(), Interrupted()
    trainer(tmp_path, max_steps=4, callbacks=[plain], enable_checkpointing=False).fit(
        thin_model("adain"), pairs("adain", pictures)
    )
    checkpoint = ModelCheckpoint(tmp_path, "stopped", save_on_exception=True)
    run = trainer(
        tmp_path,
        max_steps=4,
        callbacks=[weights, EMA(decay=0.5), checkpoint],
        limit_val_batches=1,
        num_sanity_val_steps=0,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    with pytest.raises(RuntimeError, match="stop"):
        run.fit(thin_model("adain"), pairs("adain", pictures))
    for mine, theirs in zip(weights.steps, plain.steps, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    one, two, _, four = weights.steps
    close(seen[0], {key: 0.5 * one[key] + 0.5 * two[key] for key in one})
    stopped = torch.load(tmp_path / "stopped.ckpt", weights_only=True)
    close(stopped["current_model_state"], four)
    close(stopped["state_dict"], seen[1])


def test_lightnings_own_class_resumes(pictures: Path, tmp_path: Path) -> None:
    """A model within another module (the averaged one) loads without the weights of its frozen encoder."""
    for steps, resume in ((2, None), (3, tmp_path / "step=2.ckpt")):
        run = trainer(tmp_path, max_steps=steps, callbacks=[EMAWeightAveraging(), saved_every(2, tmp_path)])
        run.fit(thin_model("adain"), pairs("adain", pictures), ckpt_path=resume and str(resume), weights_only=True)
    assert run.global_step == 3


def test_average_on_the_command_line(pictures: Path, tmp_path: Path) -> None:
    """With the overlay ema.yaml; the checkpoint of the run becomes a file that carries the average."""
    arguments = command(pictures, tmp_path)
    overlay = f"--config={ROOT / 'experiments' / 'ema.yaml'}"
    main([*arguments[:2], overlay, *arguments[2:], "--trainer.max_steps=2"])
    path = tmp_path / "adain" / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["averaging_state"]["n_averaged"] == 2
    assert not any("encoder" in key for part in ("state_dict", "current_model_state") for key in checkpoint[part])
    save_model(stylezoo.load_model(path), tmp_path / "x.safetensors")
    published = stylezoo.load_model(tmp_path / "x.safetensors").state_dict()
    close(published, checkpoint["state_dict"])
    assert any(not torch.equal(published[k], v) for k, v in checkpoint["current_model_state"].items())


def test_only_training_steps_are_compiled(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them; every other call of the model is the model's own."""
    calls: list[bool] = []

    def compiled(function: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            calls.append(torch.is_grad_enabled())
            return function(*args, **kwargs)  # type: ignore[operator]

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    model = thin_model("cin")
    run = trainer(
        tmp_path,
        max_steps=4,
        callbacks=[Compile()],
        enable_checkpointing=False,
        limit_val_batches=1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    run.fit(model, pairs("cin", pictures))
    assert calls == [True] * 4 and "losses" not in vars(model)


@pytest.mark.slow
def test_compiled_run_has_the_losses_of_an_eager_one(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--compile true`` with the real compiler: losses within 1e-4, checkpoints that load either way."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler, and there is none on this machine")
    monkeypatch.setattr(torch._inductor.config.cpp, "simdlen", 1)  # code that is compiled sooner, and runs slower
    style = next(pictures.glob("*.png"))
    layer = "{relu1_1: 1.0}"
    arguments = command(pictures, tmp_path)
    arguments[1] = f"--config={ROOT / 'experiments' / 'johnson.yaml'}"
    arguments = [a for a in arguments if not a.startswith("--data.style") and "encoder" not in a]
    arguments += ["--model.encoder=vgg16_random/16", f"--model.style_image={style}", "--model.width=0.25"]
    arguments += ["--model.padding=zeros", f"--model.content_layers={layer}", f"--model.style_layers={layer}"]
    main([*arguments, "--trainer.max_steps=5"])
    main([*arguments, "--trainer.max_steps=5", "--compile=true"])
    eager, compiled = (losses(tmp_path / "johnson" / f"version_{i}") for i in range(2))
    assert len(eager) == 5
    for step, loss in eager.items():
        assert float(compiled[step]) == pytest.approx(float(loss), rel=1e-4)
    paths = [tmp_path / "johnson" / f"version_{i}" / "checkpoints" / "last.ckpt" for i in range(2)]
    models = [stylezoo.load_model(path) for path in paths]
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    # Outputs, not weights: biases before a normalization have no gradient but rounding, of which Adam makes steps.
    content = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(models[1](content), models[0](content), rtol=1e-3, atol=1e-3)
    main([*arguments, "--trainer.max_steps=6", f"--ckpt_path={paths[1]}"])
    assert list(losses(tmp_path / "johnson" / "version_2")) == [5]


def test_training_starts_from_a_model(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """EFDM's decoder has AdaIN's shape: all of it is taken."""
    trained = thin_model("efdm")
    save_model(trained, tmp_path / "efdm.safetensors")
    start = f"--start={tmp_path / 'efdm.safetensors'}"
    main(command(pictures, tmp_path, "--trainer.max_steps=1", "--model.lr=0", start))
    assert "start: 18 of 18 tensors" in capsys.readouterr().out
    checkpoint = next(tmp_path.rglob("last.ckpt"))
    close(stylezoo.load_model(checkpoint).state_dict(), trained.state_dict())


def test_training_starts_from_parts_of_a_model(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SANet takes the decoder alone of another one; so does a run of AdaIN."""
    start = tmp_path / "start.safetensors"
    trained, model = (thin_model("sanet") for _ in range(2))
    trained.load_state_dict({name: tensor + 0.01 for name, tensor in trained.state_dict().items()})
    save_model(trained, start)
    taken = take_weights(model, start, ["decoder"])
    state, other = model.state_dict(), trained.state_dict()
    same = {name for name, tensor in other.items() if torch.equal(state[name], tensor)}
    assert {name.partition(".")[0] for name in same} == {"decoder"} == {n.partition(".")[0] for n in taken}
    with pytest.raises(ValueError, match="sanet has no submodule encoder to start with: its submodules are .*decoder"):
        take_weights(model, start, ["encoder"])
    main(
        command(
            pictures, tmp_path, "--trainer.max_steps=1", "--model.lr=0", f"--start={start}", "--start_parts=[decoder]"
        )
    )
    assert "start: 18 of 18 tensors" in capsys.readouterr().out


def test_start_needs_something_that_fits(tmp_path: Path) -> None:
    save_model(thin_model("adain"), tmp_path / "adain.safetensors")
    with pytest.raises(ValueError, match="No weights of .* fit this johnson"):
        take_weights(thin_model("johnson"), tmp_path / "adain.safetensors")


@pytest.mark.parametrize("more", [[], FIT], ids=["adam", "preconditioned"])
def test_channels_last_has_the_losses_of_the_usual_layout(more: list[str], pictures: Path, tmp_path: Path) -> None:
    """``--channels_last true``: images, network and loss network change their layout, and nothing else."""
    arguments = [*command(pictures, tmp_path), "--trainer.max_steps=3", "--trainer.num_sanity_val_steps=0"]
    arguments += more
    layouts = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if isinstance(module, torch.nn.Conv2d) and inputs[0].requires_grad:  # in training steps alone
            layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    main(arguments)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)  # type: ignore[arg-type]
    main([*arguments, "--channels_last=true"])
    hook.remove()
    assert layouts and all(layouts)
    usual, last = (losses(path.parent) for path in sorted(tmp_path.rglob("metrics.csv")))
    assert len(usual) == 3
    for step, loss in usual.items():
        assert float(last[step]) == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("stop", ["--trainer.max_steps=5", "--trainer.max_time=00:00:00:01"])
def test_the_last_step_is_kept(stop: str, pictures: Path, tmp_path: Path) -> None:
    """Also one between two checkpoints, with the average over all steps."""
    overlay = f"--config={ROOT / 'experiments' / 'ema.yaml'}"
    arguments = [a for a in command(pictures, tmp_path) if "max_steps" not in a and "every_n_train_steps" not in a]
    main([*arguments, overlay, "--trainer.max_steps=100000", stop, "--checkpoint.every_n_train_steps=3000"])
    last = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert last["global_step"] == 5 if "steps" in stop else 0 < last["global_step"] < 3000
    assert "current_model_state" in last
