"""Pairs: batches, exact resume with a real Trainer, the command line."""

import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from torch import Tensor

from stylezoo.data import COCO, DataError, Folder, Pairs, WikiArt

CPU = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """13 content and 7 style images; the red (green) value is the number of the image."""
    for name, count in (("content", 13), ("style", 7)):
        for split in ("train", "val", "test"):
            (tmp_path / name / split).mkdir(parents=True)
            for i in range(count):
                image = Image.linear_gradient("L").resize((20, 24)).convert("RGB")
                image.paste((i, 100, 0), (0, 0, 20, 12))
                image.save(tmp_path / name / split / f"{i:02}.png")
    return str(tmp_path / "content"), str(tmp_path / "style")


def pairs(folders: tuple[str, str], num_workers: int = 0, **options: object) -> Pairs:
    settings = {"batch_size": 3, "size": 16, "crop": 8, "seed": 5, "flip": True, **options}
    return Pairs(Folder(folders[0]), Folder(folders[1]), num_workers=num_workers, **settings)  # type: ignore[arg-type]


class Recorder(L.LightningModule):
    """Keeps the batches it is trained on, and fails at one of them."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.seen: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.fail_at == len(self.seen):
            raise RuntimeError("power cut")
        self.seen.append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated.append(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated.append(batch)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return batch["content"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def equal(one: list[dict[str, Tensor]], two: list[dict[str, Tensor]]) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, two, strict=True)
    )


def fit(folders: tuple[str, str], num_workers: int = 0, ckpt: Path | None = None, **options: object) -> Recorder:
    model = Recorder(options.pop("fail_at", None))  # type: ignore[arg-type]
    settings = {"max_steps": 15, "max_epochs": -1, "num_sanity_val_steps": 0, "enable_checkpointing": False}
    trainer = L.Trainer(**{**CPU, **settings, **options})  # type: ignore[arg-type]
    try:
        trainer.fit(model, pairs(folders, num_workers), ckpt_path=ckpt, weights_only=True)
    except RuntimeError as error:
        assert str(error) == "power cut"
    return model


def saving(folder: Path, **options: object) -> dict[str, object]:
    return {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(folder, save_top_k=-1, **options)]}  # type: ignore[arg-type]


def test_batch(folders: tuple[str, str]) -> None:
    module = pairs(folders)
    module.setup("fit")
    loader = module.train_dataloader()
    assert len(loader) == 13 // 3
    batch = next(iter(loader))
    assert list(batch) == ["content", "style"]
    assert all(value.shape == (3, 3, 8, 8) and value.dtype == torch.float32 for value in batch.values())


def test_without_style(folders: tuple[str, str]) -> None:
    module = Pairs(Folder(folders[0]), size=16, crop=8, num_workers=0)
    module.setup("fit")
    assert list(next(iter(module.train_dataloader()))) == ["content"]
    assert list(next(iter(module.val_dataloader()))) == ["content"]


def test_parts_keep_their_own_framing_and_inherit_the_rest(folders: tuple[str, str]) -> None:
    module = Pairs(Folder(folders[0]), Folder(folders[1], crop=4, resize="squash"), size=16, crop=8, num_workers=0)
    streams = module.streams("train", "fit")
    assert streams["content"].framing.crop == 8 and streams["content"].framing.resize == "shorter"
    assert streams["style"].framing.crop == 4 and streams["style"].framing.resize == "squash"
    assert streams["style"].framing.size == 16
    with pytest.raises(ValueError, match="crop 8 is larger than size 4"):
        Pairs(Folder(folders[0], size=4), size=16, crop=8)


def test_validation_is_fixed_and_pairs_differ_from_content_order(folders: tuple[str, str]) -> None:
    module = pairs(folders, val_samples=9)
    first, again = list(module.val_dataloader()), list(pairs(folders, val_samples=9).val_dataloader())
    assert equal(first, again) and sum(len(batch["content"]) for batch in first) == 9
    test = [batch["content"][:, 0, 0, 0].mul(255).round().int().tolist() for batch in module.test_dataloader()]
    assert [i for batch in test for i in batch] == list(range(13))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.slow
def test_resume_continues_the_exact_sequence(folders: tuple[str, str], tmp_path: Path, num_workers: int) -> None:
    whole = fit(folders).seen  # 4 batches per epoch: 15 steps are nearly four epochs
    assert len(whole) == 15 and not equal(whole[:4], whole[4:8])
    steps = saving(tmp_path / "steps", every_n_train_steps=1)
    assert equal(fit(folders, num_workers, **steps).seen, whole)
    for step in (1, 3, 4, 5, 8, 10) if num_workers == 0 else (3, 4):  # amid, at the end of and after an epoch
        (checkpoint,) = (tmp_path / "steps").glob(f"*step={step}.ckpt")
        assert equal(fit(folders, num_workers, checkpoint).seen, whole[step:]), step


def newest(folder: Path) -> Path:
    return max(folder.glob("*.ckpt"), key=lambda path: int(path.stem.split("step=")[1]))


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4, 7])
def test_resume_after_a_crash_amid_a_batch(folders: tuple[str, str], tmp_path: Path, fail_at: int) -> None:
    whole = fit(folders).seen
    first = fit(folders, fail_at=fail_at, **saving(tmp_path / "1", save_on_exception=True))
    assert len(first.seen) == fail_at
    checkpoint = newest(tmp_path / "1")
    second = fit(folders, ckpt=checkpoint, fail_at=5, **saving(tmp_path / "2", save_on_exception=True))
    checkpoint = newest(tmp_path / "2")
    third = fit(folders, ckpt=checkpoint)  # and after a second crash
    assert equal(first.seen + second.seen + third.seen, whole)


def test_resume_at_an_epoch_end_with_validation(folders: tuple[str, str], tmp_path: Path) -> None:
    whole = fit(folders)
    fit(folders, max_steps=8, **saving(tmp_path, save_last=True))
    rest = fit(folders, ckpt=tmp_path / "last.ckpt")
    assert equal(rest.seen, whole.seen[8:])


@pytest.mark.parametrize("limit", [3, 0.5])
def test_resume_with_limited_epochs(folders: tuple[str, str], tmp_path: Path, limit: float) -> None:
    whole = fit(folders)
    limited = fit(folders, limit_train_batches=limit, **saving(tmp_path, every_n_train_steps=1))
    assert equal(limited.seen, whole.seen)
    for step in (2, 3, 4, 6, 7):
        (checkpoint,) = tmp_path.glob(f"*step={step}.ckpt")
        assert equal(fit(folders, ckpt=checkpoint, limit_train_batches=limit).seen, whole.seen[step:]), step


def test_all_stages_run(folders: tuple[str, str]) -> None:
    trainer = L.Trainer(**CPU, enable_checkpointing=False, max_epochs=1, overfit_batches=0.5)  # type: ignore[arg-type]
    model, module = Recorder(), pairs(folders)
    trainer.fit(model, module)
    assert len(model.seen) == 2
    model.validated.clear()
    trainer.test(model, module, verbose=False)
    assert sum(len(batch["content"]) for batch in model.validated) == 13
    outputs = trainer.predict(model, module)
    assert outputs is not None and torch.equal(
        torch.cat(outputs),
        torch.cat([batch["content"] for batch in model.validated]),  # type: ignore[arg-type]
    )


def cli(*args: str) -> LightningCLI:
    # as the program does it, but without running: parse, instantiate, link
    return LightningCLI(Recorder, Pairs, run=False, save_config_callback=None, trainer_defaults=CPU, args=list(args))


def test_command_line(folders: tuple[str, str]) -> None:
    parsed = cli(
        *("--data.content", "Folder", "--data.content.root", folders[0], "--data.content.crop", "12"),
        *("--data.style", "Folder", "--data.style.root", folders[1], "--data.batch_size", "4", "--data.size", "16"),
        *("--data.crop", "8"),
    )
    module = parsed.datamodule
    assert isinstance(module, Pairs) and module.batch_size == 4 and module.content.framing.crop == 12
    assert module.style is not None and str(module.style.root) == folders[1]


def test_yaml(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("""
data:
  content: {class_path: COCO, init_args: {root: data/coco, year: 2017}}
  style: {class_path: WikiArt, init_args: {root: data/wikiart, styles: [Cubism], resize: squash}}
  batch_size: 2
""")
    module = cli("--config", str(config), "--data.content.download", "true").datamodule
    assert isinstance(module, Pairs) and isinstance(module.content, COCO) and isinstance(module.style, WikiArt)
    assert module.content.download and module.content.year == 2017 and module.style.framing.resize == "squash"
    config.write_text("data: {content: {class_path: COCO}, style: null}")
    assert cli("--config", str(config)).datamodule.style is None


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("--data.content", "COCO", "--data.content.yaer", "2014")
    assert "yaer" in capsys.readouterr().err
    with pytest.raises(TypeError, match="yaer"):
        COCO(yaer=2014)


def test_missing_data_says_which_side_before_a_model_is_built(folders: tuple[str, str], tmp_path: Path) -> None:
    module = Pairs(COCO(str(tmp_path / "coco")), Folder(folders[1]))
    with pytest.raises(DataError) as caught:
        module.check()
    assert str(caught.value) == (
        f"No COCO 2014 training images at {tmp_path}/coco/train2014: add --data.content.download true to fetch them "
        "(13 GB), or start with the quickstart, which needs no data: "
        "python -m stylezoo fit --config experiments/sanet.yaml --config experiments/quickstart.yaml"
    )
    Pairs(COCO(str(tmp_path / "coco"), download=True), Folder(folders[1])).check()
    with pytest.raises(DataError, match="--data.style.root"):
        Pairs(Folder(folders[0]), Folder(str(tmp_path / "none"))).check()


def test_check_lists_the_images_once(folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `check` finds before a model is built is what `setup` reads; the splits are those of the stage."""
    data = pairs(folders)
    data.check("test")
    with monkeypatch.context() as patch:
        patch.setattr("stylezoo.data.folder.list_images", lambda *_: pytest.fail("listed twice"))
        data.setup("test")
    assert len(next(iter(data.test_dataloader()))["content"]) == 3
    shutil.rmtree(Path(folders[1], "test"))
    with pytest.raises(DataError, match=r"No images at .*: point --data.style.root at a folder"):
        Pairs(Folder(folders[0]), Folder(str(Path(folders[1], "test")))).check("test")
