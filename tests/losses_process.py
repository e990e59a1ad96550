"""Additional losses that are small enough for tests, and a run with them in two processes, which train_process.py starts."""

from pathlib import Path

import torch
from conftest import thin_model
from lightning.pytorch import Trainer
from torch import Tensor

from stylezoo.data import Folder, Pairs
from stylezoo.module import AdditionalLoss, Stylization
from stylezoo.training import CAST, Adversarial, IEContraAST, Training
from stylezoo.training.iecontraast import partner_loss, projected


def small_losses() -> list[AdditionalLoss]:
    """All three, for crops of 32 pixels."""
    return [IEContraAST(width=16), Adversarial(scales=1, width=4), CAST(bank=32, widths=(16, 24), crop=32)]


def pair_loss() -> IEContraAST:
    torch.manual_seed(0)
    loss = IEContraAST(width=16)
    loss.build({"relu3_1": 8, "relu4_1": 8})
    return loss


def features_of(rank: int) -> dict[str, Tensor]:
    """Features of the outputs of two contents and two styles."""
    values = torch.rand(4, 8, 5, 5, generator=torch.Generator().manual_seed(rank))
    return {"relu3_1": values, "relu4_1": values.sqrt()}


def joined_terms(processes: int) -> dict[str, Tensor]:
    """What several processes compute together, in one: images of different processes share neither style nor content."""
    loss = pair_loss()
    joined = [features_of(rank) for rank in range(processes)]
    styles = torch.cat([torch.tensor([0, 1, 0, 1]) + 2 * rank for rank in range(processes)])
    contents = torch.cat([torch.tensor([0, 1, 1, 0]) + 2 * rank for rank in range(processes)])
    style = projected(torch.cat([features["relu3_1"] for features in joined]), loss.style_projection)
    content = projected(torch.cat([features["relu4_1"] for features in joined]), loss.content_projection)
    return {
        "style_contrastive": 0.3 * partner_loss(style, styles, contents, 0.2),
        "content_contrastive": 0.3 * partner_loss(content, contents, styles, 0.2),
    }


def train(pictures: str, folder: Path) -> None:
    """Trains AdaIN for two steps and writes what the losses have learned, and the terms of IEContraAST for features that differ by
    process, to FOLDER/losses.RANK.pt."""
    data = Pairs(Folder(pictures), Folder(pictures), batch_size=2, size=48, crop=32, num_workers=0)
    training = Training(losses=small_losses())
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[training],
    )
    trainer.fit(thin_model("adain"), data)
    state = {f"{i}.{key}": value for i, loss in enumerate(training.losses) for key, value in loss.state_dict().items()}
    images = torch.zeros(4, 3, 8, 8)
    terms = pair_loss()(Stylization(images, images, images, features_of(trainer.global_rank), lambda image: {}))
    state |= {name: term.detach() for name, term in terms.items()}
    torch.save(state, folder / f"losses.{trainer.global_rank}.pt")
