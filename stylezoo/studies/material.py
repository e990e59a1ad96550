"""Components of several studies: images to train on and to measure with, brief trainings, and loss values."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from stylezoo import registry
from stylezoo.checkpoints import create_model
from stylezoo.data import Folder, Pairs, Synthetic
from stylezoo.data.stream import Framing
from stylezoo.data.synthetic import Subject
from stylezoo.errors import StylezooError
from stylezoo.evaluation.pairs import unusable
from stylezoo.images import grid, read_image, to_tensor
from stylezoo.inference.plan import report
from stylezoo.losses import PerceptualLoss
from stylezoo.module import StyleModel
from stylezoo.training.callbacks import RunProgressBar
from stylezoo.vgg import VGG, Features

COUNT = 100
"""Procedural images of each kind."""

HOLDOUT = 0.2
"""Share of the images of a folder that validation and test have each."""


@dataclass(frozen=True)
class Material:
    """The images of a study, and trainings on them.

    Attributes:
        content: A folder of photos; None draws procedural ones.
        style: A folder of paintings; None draws procedural ones.
        crop: Side of the square training crops in pixels, cut from images whose short side is 5/4 of it.
        batch_size: Training pairs per step.
        seed: Decides initial weights, order, pairing and crops.
    """

    content: str | None = None
    style: str | None = None
    crop: int = 64
    batch_size: int = 4
    seed: int = 0

    def photos(self, count: int, size: int, held_out: bool = True) -> Tensor:
        """Returns photos to measure with, (N, 3, size, size) in [0, 1]; see `paintings`."""
        return _squares(_folder(self.content, "photos"), count, size, held_out)

    def paintings(self, count: int, size: int, held_out: bool = True) -> Tensor:
        """Returns paintings to measure with, (N, 3, size, size) in [0, 1].

        Args:
            count: The number of images; fewer are returned if there are not that many.
            size: The short side is resized to this many pixels.
            held_out: Whether only images of the test split are returned, which no training uses.
        """
        return _squares(_folder(self.style, "paintings"), count, size, held_out)

    def files(self, kind: Subject, held_out: bool = True) -> list[Path]:
        """Returns the files of the ``photos`` or the ``paintings``, in order; see `paintings` for ``held_out``."""
        return _files(_folder(self.content if kind == "photos" else self.style, kind), held_out)

    def probe(self, size: int) -> None:
        """Checks that there is an image of either kind to measure with, which a long training should not wait for.

        Args:
            size: The short side of the images in pixels.

        Raises:
            StylezooError: If no image of one kind can be used.
        """
        kinds: tuple[Subject, Subject] = ("photos", "paintings")
        for kind in kinds:
            usable(self.files(kind), 1, size, tell=False)

    def style_files(self, first: int, count: int, size: int) -> list[Path]:
        """Returns the files of paintings for systems that learn given styles; those that cannot be used are left out.

        Args:
            first: Index of the first one, which is counted around the end.
            count: The number of paintings; fewer are returned if there are not that many.
            size: Their short side in pixels.
        """
        files = _files(_folder(self.style, "paintings"), held_out=False)
        first %= len(files)
        return usable([*files[first:], *files[:first]], count, size)

    def train(
        self, system: str, steps: int, callbacks: Sequence[Callback] = (), *, with_styles: bool = True, **settings: Any
    ) -> StyleModel:
        """Trains a new model; on one machine the same arguments give the same weights.

        Args:
            system: Name of the system.
            steps: Optimizer steps.
            callbacks: Callbacks of the Trainer.
            with_styles: Whether batches hold style images, which systems that learn given styles do not need.
            **settings: Constructor arguments of the system, see `untrained`.

        Returns:
            The model, in eval mode.
        """
        model = self.untrained(system, **settings)
        return self.fit(model, steps, callbacks, with_styles=with_styles) if steps else model.to(device()).eval()

    def fit(
        self, model: StyleModel, steps: int, callbacks: Sequence[Callback] = (), *, with_styles: bool = True
    ) -> StyleModel:
        """Trains a model further; on one machine the same arguments give the same weights.

        Args:
            model: Changed in place.
            steps: Optimizer steps.
            callbacks: Callbacks of the Trainer.
            with_styles: See `train`.

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
        """Creates a model whose weights the seed decides; the global random state does not change.

        Args:
            system: Name of the system.
            **settings: Its constructor arguments; ``encoder`` stands for ``loss_encoder`` if the system has no encoder.
        """
        with self._seeded():
            return create_model(system, **encoder_by_its_name(system, settings))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield


def encoder_by_its_name(system: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings in which the VGG has the name that the system gives it.

    Systems that stylize without a VGG need one for their losses only and call it ``loss_encoder``. Studies pass all
    systems an ``encoder``.
    """
    if "encoder" in inspect.signature(registry.get(system)).parameters:
        return dict(settings)
    names = {"encoder": "loss_encoder", "encoder_weights": "loss_encoder_weights"}
    return {names.get(name, name): value for name, value in settings.items()}


def device() -> torch.device:
    """Returns the device that studies compute on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class ContentStyleLosses:
    """Content and style losses, measured with one frozen network for all models that are compared.

    Style: means and standard deviations at relu1_1 to relu4_1, as in the training of AdaIN. Content: features of relu4_1,
    either as they are or with mean and variance normalized, so that contrast and color, which a style may change, do not
    count.

    Args:
        network: The network that extracts the features.
        normalized: Whether the features of the content loss are normalized.
    """

    def __init__(self, network: VGG, normalized: bool = False) -> None:
        self.network = network.to(device())
        self.loss = PerceptualLoss(
            {"relu4_1": 1.0},
            dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 1.0),
            content_loss="normalized" if normalized else "plain",
        )

    @torch.inference_mode()
    def features(self, images: Tensor) -> Features:
        """Extracts the features that the losses compare from images (B, 3, H, W) in [0, 1]."""
        features: Features = self.network(images.to(device()), self.loss.layers)
        return features

    @torch.inference_mode()
    def __call__(self, output: Features, content: Features, style: Features) -> tuple[float, float]:
        """Computes content and style loss of outputs, means over the batch."""
        terms = self.loss(output, content=content, style=style)
        return float(terms["content"]), float(terms["style"])


@torch.inference_mode()
def stylized(model: StyleModel, content: Tensor, style: Tensor, alpha: float = 1.0) -> Tensor:
    """Stylizes each content with the style at the same place, one pair after the other.

    Args:
        model: A model for any style image.
        content: (N, 3, H, W) in [0, 1].
        style: (N, 3, H, W) in [0, 1].
        alpha: Strength of the style, in [0, 1].

    Returns:
        (N, 3, H, W), clamped to [0, 1], on the CPU.
    """
    pairs = zip(content.to(device()), style.to(device()), strict=True)
    return torch.cat([model(c.unsqueeze(0), s.unsqueeze(0), alpha).clamp(0, 1).cpu() for c, s in pairs])


def image_columns(*columns: Sequence[Tensor] | Tensor) -> Tensor:
    """Returns a contact sheet, (3, height, width) in [0, 1].

    Args:
        *columns: Images of one size, (3, H, W) in [0, 1], from top to bottom.
    """
    return grid([list(row) for row in zip(*columns, strict=True)])


def _folder(path: str | None, kind: Subject) -> Folder:
    if path is None:
        return Synthetic(kind, COUNT, holdout=HOLDOUT)
    return Folder(path, holdout=HOLDOUT)


def _files(folder: Folder, held_out: bool) -> list[Path]:
    folder.prepare_data()
    if held_out:
        return folder.files("test")
    return sorted({path for split in ("train", "val", "test") for path in folder.files(split)})


def _squares(folder: Folder, count: int, size: int, held_out: bool) -> Tensor:
    return torch.stack([square(path, size) for path in usable(_files(folder, held_out), count, size)])


def usable(files: Sequence[Path], count: int, size: int, tell: bool = True) -> list[Path]:
    """Returns the first files that can be used, without the others before them.

    Args:
        files: Paths of images.
        count: The number of files; fewer are returned if there are not that many.
        size: The short side that the images are resized to, in pixels.
        tell: Whether the images that are left out are named on the error stream.

    Raises:
        StylezooError: If none can be used.
    """
    found: list[Path] = []
    reasons: dict[Path, str] = {}
    for path in files:
        if len(found) == count:
            break
        reason = unusable(path, size)
        if reason is None:
            found.append(path)
        else:
            reasons[path] = reason
    if tell:
        tell_skipped(reasons.values())
    check_left(found, reasons)
    return found


def tell_skipped(reasons: Iterable[str]) -> None:
    """Names images that are left out on the error stream."""
    for reason in reasons:
        report(f"{reason}.")


def check_left(files: Sequence[Path], reasons: Mapping[Path, str]) -> None:
    """Raises an error if no image is left because none can be used."""
    if not files:
        raise StylezooError(f"None of the {len(reasons)} images can be used: {next(iter(reasons.values()))}.")


def square(path: Path, size: int) -> Tensor:
    """Returns the central square of an image whose short side is resized to ``size`` pixels, (3, size, size) in [0, 1]."""
    image: Image.Image = Framing(size, size, "shorter", "center", flip=False)(read_image(path, min_side=size), None)
    return to_tensor(image)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses Lightning's lines on accelerators and the end of training; a study trains several times."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
