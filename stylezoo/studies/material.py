"""What studies share: images to train on and to measure with, models (given, or trained briefly), and loss values."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from stylezoo.checkpoints import create_model, load_model
from stylezoo.data import Folder, Pairs, Synthetic
from stylezoo.data.stream import Framing
from stylezoo.data.synthetic import Subject
from stylezoo.images import list_images, read_image, to_tensor
from stylezoo.losses import PerceptualLoss
from stylezoo.module import StyleModel
from stylezoo.training.callbacks import RunProgressBar
from stylezoo.vgg import VGG, Features

COUNT, HOLDOUT = (
    100,
    0.2,
)  # procedural images of either kind, and the share of any folder for validation and test each


@dataclass(frozen=True)
class Material:
    """The images of a study and how it trains on them.

    Attributes:
        content: A folder of photos; None draws procedural ones.
        style: A folder of paintings; None draws procedural ones.
        crop: Side of the square training crops, cut from images with a short side of 5/4 of it.
        batch_size: Training pairs per step.
        seed: Decides initial weights, order, pairing and crops.
    """

    content: str | None = None
    style: str | None = None
    crop: int = 64
    batch_size: int = 4
    seed: int = 0

    def photos(self, count: int, size: int, held_out: bool = True) -> Tensor:
        """Photos to measure with, central squares of a side of ``size`` pixels; see `paintings`."""
        return _squares(_folder(self.content, "photos"), count, size, held_out)

    def paintings(self, count: int, size: int, held_out: bool = True) -> Tensor:
        """Paintings to measure with, (N, 3, size, size) in [0, 1].

        Args:
            count: How many; fewer if there are not that many.
            size: The short side is resized to this many pixels.
            held_out: Only images that are not trained on (the test split).
        """
        return _squares(_folder(self.style, "paintings"), count, size, held_out)

    def files(self, kind: Subject, held_out: bool = True) -> list[Path]:
        """The files of the ``photos`` or the ``paintings``, in order; see `paintings` for ``held_out``."""
        return _files(_folder(self.content if kind == "photos" else self.style, kind), held_out)

    def style_file(self, index: int) -> Path:
        """One painting as a file, for systems that learn a single style."""
        files = _files(_folder(self.style, "paintings"), held_out=False)
        return files[index % len(files)]

    def train(
        self, system: str, steps: int, callbacks: Sequence[Callback] = (), *, with_styles: bool = True, **settings: Any
    ) -> StyleModel:
        """Trains a new model through Lightning; the same weights for the same arguments, on one machine.

        Args:
            system: Name of the system.
            steps: Optimizer steps.
            callbacks: Of the Trainer.
            with_styles: Whether batches hold style images (not for systems that learn given styles).
            **settings: Constructor arguments of the system.

        Returns:
            The model, in eval mode.
        """
        style = _folder(self.style, "paintings") if with_styles else None
        pairs = Pairs(
            _folder(self.content, "photos"),
            style,
            batch_size=self.batch_size,
            size=self.crop * 5 // 4,
            crop=self.crop,
            num_workers=0,
            seed=self.seed,
        )
        model = self.untrained(system, **settings)
        if steps == 0:
            return model.to(device()).eval()
        with _quiet(), self._seeded():  # a DataLoader draws from the global random state
            trainer = Trainer(
                accelerator="cuda" if torch.cuda.is_available() else "cpu",
                devices=1,
                max_steps=steps,
                max_epochs=-1,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                callbacks=[RunProgressBar(), *callbacks],
            )
            trainer.fit(model, datamodule=pairs)
        return model.to(device()).eval()

    def untrained(self, system: str, **settings: Any) -> StyleModel:
        """A new model whose weights the seed decides; the global random state stays as it is."""
        with self._seeded():
            return create_model(system, **settings)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield

    def arbitrary(
        self,
        models: Sequence[str],
        systems: Sequence[str],
        steps: int,
        encoder: str,
        encoder_weights: str | None,
        lr: float,
    ) -> dict[str, StyleModel]:
        """Models that take any style image: the given ones, or one of each system, trained briefly.

        Args:
            models: Files or names of weights, as `load_model` takes them.
            systems: What is trained if no models are given.
            steps: Optimizer steps.
            encoder: Of the trained models.
            encoder_weights: A file for it.
            lr: Constant learning rate.

        Returns:
            {label: model}, in eval mode.

        Raises:
            ValueError: If a model takes no style images.
        """
        found: dict[str, StyleModel] = {}
        for name in models:
            model = load_model(name)
            if model.kind != "arbitrary":
                raise ValueError(f"{name} is a {model.kind}-style model: this study needs models for any style image.")
            label = Path(name).name.removesuffix(".safetensors").removesuffix(".ckpt")
            found[label if label not in found else name] = model.to(device())
        if models:
            return found
        settings: dict[str, Any] = {"encoder": encoder, "encoder_weights": encoder_weights, "lr": lr, "lr_decay": 0.0}
        for system in systems:
            print(f"{system}: {steps} steps of {self.batch_size} pairs, {self.crop} x {self.crop} pixels")
            # One statistic for all: the systems' own differ, and the one with eps outside the root is not comparable.
            found[system] = self.train(system, steps, style_loss="mean_std", **settings)
        return found


def trained_briefly(models: Sequence[str], steps: int, encoder: str) -> str:
    """The sentence that says where the models of a study come from."""
    if models:
        return f"Models: {', '.join(Path(name).name for name in models)}, as given."
    return (
        f"**Trained briefly for this study** ({steps} steps, encoder {encoder}), from nothing: this shows how the systems"
        " behave, not how well they paint when trained in full. Give trained ones with `--models`."
    )


def device() -> torch.device:
    """Where studies compute."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Judge:
    """Content and style losses with one frozen network for all models that are compared.

    Style: mean and standard deviation at relu1_1 to relu4_1, as AdaIN is trained. Content: features of relu4_1, as they
    are or mean-variance normalized (then contrast and color, which a style may change, do not count).

    Args:
        network: A `VGG`, or a model whose own encoder is taken.
        normalized: Whether the features of the content loss are normalized.
    """

    def __init__(self, network: VGG | StyleModel, normalized: bool = False) -> None:
        if isinstance(network, StyleModel):
            network = next((vgg for _, vgg in network.encoders()), None) or VGG("vgg19_random/4")
        self.network = network.to(device())
        self.loss = PerceptualLoss(
            {"relu4_1": 1.0},
            dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 1.0),
            content_loss="normalized" if normalized else "plain",
        )

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Features:
        """What is compared, of images (B, 3, H, W)."""
        features: Features = self.network(pictures.to(device()), self.loss.layers)
        return features

    @torch.inference_mode()
    def __call__(self, output: Features, content: Features, style: Features) -> tuple[float, float]:
        """Content and style loss of outputs, means over the batch."""
        terms = self.loss(output, content=content, style=style)
        return float(terms["content"]), float(terms["style"])


@torch.inference_mode()
def painted(model: StyleModel, content: Tensor, style: Tensor, alpha: float = 1.0) -> Tensor:
    """Contents (N, 3, H, W), each with its style of (N, 3, H, W), one after the other; clamped, on the CPU."""
    pairs = zip(content.to(device()), style.to(device()), strict=True)
    return torch.cat([model(c.unsqueeze(0), s.unsqueeze(0), alpha).clamp(0, 1).cpu() for c, s in pairs])


def _folder(path: str | None, kind: Subject) -> Folder:
    if path is None:
        return Synthetic(kind, COUNT, holdout=HOLDOUT)
    if not list_images(path):
        option = {"photos": "--content", "paintings": "--style"}[kind]
        raise ValueError(f"There is no image in {path}: give {option} a folder of {kind}, or leave it out.")
    return Folder(path, holdout=HOLDOUT)


def _files(folder: Folder, held_out: bool) -> list[Path]:
    folder.prepare_data()
    if held_out:
        return folder.files("test")
    return sorted({path for split in ("train", "val", "test") for path in folder.files(split)})


def _squares(folder: Folder, count: int, size: int, held_out: bool) -> Tensor:
    return torch.stack([square(path, size) for path in _files(folder, held_out)[:count]])


def square(path: Path, size: int) -> Tensor:
    """The central square of an image whose short side is resized to ``size`` pixels, (3, size, size) in [0, 1]."""
    picture: Image.Image = Framing(size, size, "shorter", "center", flip=False)(read_image(path, min_side=size), None)
    return to_tensor(picture)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's lines on accelerators and the end of training; a study trains several times."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
