"""`StyleModel`, the LightningModule that every system of the zoo is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from stylezoo.losses import PerceptualLoss
from stylezoo.registry import Kind
from stylezoo.vgg import VGG, Features
from stylezoo.weights import Tensors

Code = dict[str, Tensor]
"""What a style is to a model: a few tensors that can be cached, saved and blended."""


@dataclass(frozen=True)
class Iteration:
    """How far a system that optimizes its images has come, see `StyleModel.on_iteration`.

    Attributes:
        image: Number of the image in its batch.
        step: Iterations done, from 1.
        steps: Iterations in all.
        loss: Sum of the weighted loss terms.
        image: The unfinished image, (3, H, W) in [0, 1]; smaller than the content at coarse scales.
    """

    picture: int
    step: int
    steps: int
    loss: float
    image: Tensor


class StyleModel(LightningModule):
    """Base of all systems: sums and logs ``losses()``, steps Adam, keeps frozen encoders out of checkpoints.

    A system registers itself (`stylezoo.registry.register`) and implements ``encode_style``, ``decode`` and
    ``losses``. Images are RGB in [0, 1], (B, 3, H, W) with H and W from 16 up; outputs have the content's size.

    What a style is depends on the system's kind: an image (B, 3, H, W) for ``arbitrary`` and ``optimization``; for
    ``multi`` the number or name of one of `styles`, a tensor (B,) of numbers, or a weight vector over them; nothing
    (None) for ``single``.
    """

    system: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    kind: ClassVar[Kind]
    code: ClassVar[str | None]

    encoder: VGG
    """The frozen encoder that a system paints with, of those that do."""
    perceptual: PerceptualLoss

    taken: frozenset[str] = frozenset()
    """Names of the tensors that came from another model, see `stylezoo.checkpoints.take_weights`."""

    resumed = False
    """Whether a checkpoint was loaded: its weights are not to be replaced by first ones."""

    on_iteration: Callable[[Iteration], None] | None = None
    """Called after every iteration by systems of kind ``optimization``, to show progress; None keeps quiet."""

    def __init__(self, **_: Any) -> None:  # Lightning's load_from_checkpoint of a base class asks for the ** form
        super().__init__()
        self._trained_encoders: dict[str, dict[str, str]] = {}
        self._seed: int | None = None

    @property
    def styles(self) -> list[str]:
        """The names of the styles that a ``multi`` or ``single`` system was trained on."""
        return []

    @classmethod
    def read_public(cls, tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
        """Gives the tensors of one public file this system's names, for `stylezoo.import_checkpoint`.

        Args:
            tensors: As the file has them.

        Returns:
            The tensors named as in the state dict of the part (the child module) that they belong to, and the
            constructor arguments that they need.
        """
        return tensors, {}

    def encode_style(self, style: Any) -> Code:
        """Turns a style into the code that `decode` paints with."""
        raise NotImplementedError(f"{type(self).__name__} does not define encode_style.")

    def decode(
        self, content: Tensor, code: Code | list[Code], alpha: float = 1.0, weights: list[float] | None = None
    ) -> Tensor:
        """Paints the content with a code, or with a blend of several; (B, 3, H, W), not clamped."""
        raise NotImplementedError(f"{type(self).__name__} does not define decode.")

    def decode_regions(self, content: Tensor, codes: list[Code], masks: Tensor, alpha: float = 1.0) -> Tensor:
        """Paints each region (masks (K, H, W) or (B, K, H, W), one per code) with a style of its own, not clamped."""
        raise ValueError(f"{self.system} cannot paint regions with different styles: masks work with adain.")

    def losses(self, content: Tensor, style: Any) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is what training minimizes."""
        raise NotImplementedError(f"{type(self).__name__} does not define losses.")

    def forward(self, content: Tensor, style: Any = None, alpha: float = 1.0) -> Tensor:
        """Styles the content, (B, 3, H, W) in [0, 1] -> (B, 3, H, W), not clamped: losses need the gradient.

        Args:
            content: (B, 3, H, W).
            style: For arbitrary systems (B or 1, 3, H', W'); see the class for the others.
            alpha: Strength, 0 to 1.
        """
        return self.decode(content, self.encode_style(style), alpha)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes what a step draws (dropout) a function of (seed, batches trained so far, rank): a resumed run goes on."""
        self._seed = torch.initial_seed() if self._seed is None else self._seed
        trained = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        key = np.random.SeedSequence((self._seed, trained, self.global_rank))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The styled images of a batch, clamped to [0, 1]."""
        return self(**batch).clamp(0, 1)  # type: ignore[no-any-return]

    def _step(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        terms = self.losses(**batch)
        loss = torch.stack(list(terms.values())).sum()
        logged = {f"{stage}/{name}": term for name, term in {**terms, "loss": loss}.items()}
        size = len(batch["content"])
        self.log_dict(logged, batch_size=size, sync_dist=stage != "train")
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=size, sync_dist=stage != "train")
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with the system's `schedule`, step by step."""
        self.check_trainable()
        return self.scheduled(Adam([p for p in self.parameters() if p.requires_grad], lr=self.hparams["lr"]))

    def scheduled(self, optimizer: Optimizer) -> OptimizerLRSchedulerConfig:
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The learning rate lr / (1 + lr_decay * i) at optimizer step i = 0, 1, 2 ..."""
        return inverse_time_decay(optimizer, self.hparams["lr_decay"])

    @classmethod
    def check_trainable(cls) -> None:
        """Raises a ValueError that says what to do instead, if the system has nothing to train."""
        if cls.kind == "optimization":
            raise ValueError(
                f"{cls.system} optimizes each image by itself and has nothing to train: paint with it (python -m"
                f" stylezoo stylize --model {cls.system} --content ... --style ... --output ..., or predict --config"
                f" experiments/{cls.system}.yaml)."
            )

    @property
    def loss_network(self) -> VGG:
        """The frozen network of the losses; built when first asked for, because painting does without it.

        It is the encoder that the system paints with, where that has all layers and the settings do not name another
        (``loss_encoder``, ``loss_encoder_weights``); else the ``encoder`` of the settings, or the other one, with the
        options of `loss_network_options`.
        """
        other, file = self.hparams.get("loss_encoder"), self.hparams.get("loss_encoder_weights")
        own = self.encoder if "encoder" in self._modules else None
        if own is not None and other is None and file is None and own.channels.keys() >= set(self.perceptual.layers):
            return own
        if "_loss_network" not in self._modules:
            # Lightning's first validation asks for it, and training needs its gradients; a resumed run builds it amid a
            # step, whose dropout must not notice.
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                if other is None and file is None:
                    file = self.hparams["encoder_weights"]
                sizes = {} if own is None else {"ceil_mode": own.ceil_mode}  # so that painted and content features fit
                options = {**sizes, **self.loss_network_options}
                network = VGG(other or self.hparams["encoder"], file, **options)
                self._check_encoder("_loss_network", network)
                self._loss_network = network.to(next(self.parameters()))
        return self._loss_network

    loss_network_options: ClassVar[dict[str, Any]] = {}
    """How `loss_network` is built: keyword arguments of `stylezoo.vgg.VGG`, such as ``last`` and ``pooling``."""

    def see(self, image: Tensor, own: Iterable[str], layers: Iterable[str]) -> tuple[Features, Features]:
        """What the encoder sees in an image at the layers ``own``, and the losses at ``layers``.

        One pass where the loss network is the encoder. Of a loss network whose file ends before the deepest of
        ``layers``, the encoder sees what lies beyond.
        """
        if self.loss_network is self.encoder:
            features = self.encoder(image, {*own, *layers})
            return features, features
        beyond = [layer for layer in layers if layer not in self.loss_network.channels]
        features = self.encoder(image, {*own, *beyond})
        seen = self.loss_network(image, [layer for layer in layers if layer not in beyond])
        return features, {**seen, **{layer: features[layer] for layer in beyond}}

    local_settings: ClassVar[frozenset[str]] = frozenset({"encoder_weights", "loss_encoder_weights"})
    """Settings that name files of this machine: they stay out of published files, and painting does without them."""

    # Frozen encoders: named in a checkpoint with the sha256 of their weights, never copied into it.

    def encoders(self) -> Iterator[tuple[str, VGG]]:
        """The frozen encoders by attribute name."""
        for name, module in self.named_modules():
            if isinstance(module, VGG):
                yield name, module

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What training changes: everything but the frozen encoders."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name, _ in self.encoders():
            for key in [k for k in state if k.startswith(f"{prefix}{name}.")]:
                del state[key]
        return state  # type: ignore[no-any-return]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Lets the encoders keep the weights they have, also where the model is a part of another module."""
        for name, vgg in self.encoders():
            for key, value in vgg.state_dict(prefix=f"{prefix}{name}.").items():
                state_dict.setdefault(key, value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        encoders = {name: {"name": vgg.name, "sha256": vgg.sha256} for name, vgg in self.encoders()}
        checkpoint["stylezoo"] = {"system": self.system, "encoders": encoders}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint that was trained on other encoder weights.

        Raises:
            ValueError: If an encoder's weights differ; the message names both.
        """
        self.resumed = True
        self._trained_encoders = checkpoint.get("stylezoo", {}).get("encoders", {})
        for name, encoder in self.encoders():
            self._check_encoder(name, encoder)

    def _check_encoder(self, name: str, encoder: VGG) -> None:
        trained = self._trained_encoders.get(name)
        if trained is not None and trained["sha256"] != encoder.sha256:
            raise ValueError(
                f"This checkpoint was trained on {trained['name']} with sha256 {trained['sha256'][:12]}..., but the"
                f" encoder here is {encoder.name} with sha256 {encoder.sha256[:12]}...: give the file it was trained"
                " with (encoder_weights)."
            )


def inverse_time_decay(optimizer: Optimizer, decay: float) -> LambdaLR:
    """lr / (1 + decay * i), torch7's learningRateDecay, set before step i (naoto0804/pytorch-AdaIN@47950d0 train.py)."""
    return LambdaLR(optimizer, lambda i: 1 / (1 + decay * i))
