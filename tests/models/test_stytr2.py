"""StyTr2 against the reference implementation (parity fixtures), and what the paper claims of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Case, gradient_norms_by_loss, thin_model
from lightning.pytorch import Trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD

import stylezoo
from stylezoo.data import Folder, Pairs
from stylezoo.inference import Stylizer
from stylezoo.models.stytr2 import StyTr2, warm_up

Parity = Callable[[str], Case]
WEIGHTS = {"content": 7, "style": 10, "identity1": 70, "identity2": 1}
PARTS = ("transformer", "decoder", "embedding")


def small(**settings: float) -> StyTr2:
    model = thin_model("stytr2", **settings)
    assert isinstance(model, StyTr2)
    return model


def test_parameter_counts() -> None:
    model = StyTr2()
    counts = [sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS]
    assert counts == [31_790_080, 3_505_219, 98_816] and sum(counts) == 35_394_115
    transformer = model.transformer
    for part, count in ((transformer.encoder_c, 9_457_152), (transformer.decoder, 12_613_120)):
        assert sum(p.numel() for p in part.parameters()) == count
    assert len(transformer.state_dict()) == 130 and not list(model.encoders())


def test_stylize(parity: Parity) -> None:
    """The reference drops what lies beyond a multiple of 8, so that its 70 x 70 pixels are 64 x 64."""
    case = parity("stytr2/stylise_70x70")
    model = case.model("stytr2", *PARTS)
    assert isinstance(model, StyTr2)
    content, style = case["content"][..., :64, :64], case["style"]
    with torch.no_grad():
        code = model.encode_style(style)
        x, position = model.transformer.encode_content(model.embedding(case["content"]))
        tokens = model.transformer.decoder(x, position, code["tokens"])
        case.check(tokens=tokens.transpose(1, 2).unflatten(2, (8, 8)), output=model(content, style))
        assert model(case["content"], style).shape == case["content"].shape


def test_training_losses(parity: Parity) -> None:
    case = parity("stytr2/train_b2_64x64")
    model = case.model("stytr2", *PARTS, "vgg")
    with torch.no_grad():
        terms = model.losses(case["content"], case["style"])
        values = {f"loss_{name}": terms[name] / weight for name, weight in WEIGHTS.items()}
        case.check(**values, total=sum(terms.values()), output=model(case["content"], case["style"]))


@pytest.mark.slow
def test_training_gradients_in_float64(parity: Parity) -> None:
    """In double precision: gradients through normalized features of tiny maps are ill-conditioned in float32."""
    case = parity("stytr2/train_b2_64x64")
    model = case.model("stytr2", *PARTS, "vgg").double()
    terms = model.losses(case["content"].double(), case["style"].double())
    parts = {name: getattr(model, name) for name in PARTS}
    values = {f"loss_{name}": terms[name] / weight for name, weight in WEIGHTS.items()}
    values |= {"total": torch.stack(list(terms.values())).sum(), **gradient_norms_by_loss(terms, WEIGHTS, **parts)}
    expected = case.meta["float64_scalars"]
    assert expected.keys() <= values.keys()
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value, rel=1e-9), name


def test_learning_rate(parity: Parity) -> None:
    case = parity("stytr2/lr")
    factor = warm_up(SGD([torch.zeros(1, requires_grad=True)], lr=2e-4), 10_000, 1e-5).lr_lambdas[0]
    iterations = [int(i) for i in case["iterations"]]
    case.check(lr=torch.tensor([2e-4 * factor(i) for i in iterations], dtype=torch.float64))
    assert case.meta["options"]["iterations"] == iterations


def test_learning_rate_in_a_run(pictures: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    class Recorded(StyTr2):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: object, closure: object) -> None:
            seen.append(optimizer.param_groups[0]["lr"])  # type: ignore[attr-defined]
            super().optimizer_step(epoch, batch_idx, optimizer, closure)

    model = Recorded(width=0.125, layers=1, loss_encoder="vgg19_random/16", lr=4e-3, warmup=3, lr_decay=1.0)
    data = Pairs(Folder(str(pictures)), Folder(str(pictures)), batch_size=2, size=48, crop=32, num_workers=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = Trainer(accelerator="cpu", max_steps=5, default_root_dir=tmp_path, enable_checkpointing=False, **quiet)
    trainer.fit(model, data)
    assert seen == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 2e-3])


def test_initialization() -> None:
    """Matrices of Xavier's range, all different; what has one dimension is the same in all copies of a layer."""
    torch.manual_seed(0)
    transformer = small(width=0.25).transformer
    layers = [*transformer.encoder_c.layers, *transformer.encoder_s.layers]
    for key, first in layers[0].named_parameters():
        others = [layer.get_parameter(key) for layer in layers[1:]]
        if first.ndim > 1:
            assert first.abs().max() <= (6 / sum(first.shape)) ** 0.5
            assert first.std().item() == pytest.approx((2 / sum(first.shape)) ** 0.5, rel=0.02)
            assert not any(torch.equal(first, other) for other in others)
        else:
            assert all(torch.equal(first, other) for other in others)


def test_positions_come_from_the_content() -> None:
    """CAPE: averages of 18 x 18 regions whatever the size, resized to the tokens; a flat image has one position."""
    model = small().eval().double()
    low = torch.rand(1, 3, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        pooled = [
            F.adaptive_avg_pool2d(model.embedding(F.interpolate(low, size=size, mode="bilinear")), 18)
            for size in ((288, 288), (1152, 1152))
        ]
        assert (pooled[0] - pooled[1]).abs().max() < 0.15 * (pooled[0].amax() - pooled[0].amin())
        flat = model.embedding(torch.full((1, 3, 48, 64), 0.4, dtype=torch.float64))
        _, position = model.transformer.encode_content(flat)
        torch.testing.assert_close(position, position[:, :1].expand_as(position))
        patches = model.embedding(torch.rand(1, 3, 64, 40, dtype=torch.float64))
        _, position = model.transformer.encode_content(patches)
        map_18 = model.transformer.new_ps(F.adaptive_avg_pool2d(patches, 18))
        expected = F.interpolate(map_18, size=(8, 5), mode="bilinear", align_corners=False)
        torch.testing.assert_close(position, expected.flatten(2).transpose(1, 2))


def test_a_style_has_no_place() -> None:
    """Its patches may lie in any order: only what they show counts."""
    model = small().eval()
    content, style = torch.rand(1, 3, 40, 48), torch.rand(1, 3, 32, 56)
    cells = style.unflatten(3, (7, 8)).unflatten(2, (4, 8))  # (1, 3, 4, 8, 7, 8)
    shuffled = cells[:, :, [2, 0, 3, 1]][..., [5, 1, 0, 6, 3, 2, 4], :].flatten(4, 5).flatten(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(content, shuffled), model(content, style), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model(shuffled, content), model(style, content), atol=1e-2)


def test_alpha_zero_is_the_content_as_its_own_style() -> None:
    model = small().eval()
    content, style = torch.rand(2, 1, 3, 48, 43).unbind()
    with torch.no_grad():
        torch.testing.assert_close(model(content, style, alpha=0.0), model(content, content), rtol=1e-4, atol=1e-4)


def test_dropout_only_while_training() -> None:
    content, style = torch.rand(2, 2, 3, 32, 32).unbind()
    for dropout, same in ((0.1, False), (0.0, True)):
        model = small(dropout=dropout).train()
        assert torch.allclose(model(content, style), model(content, style), atol=1e-6) is same
        model.eval()
        assert torch.equal(model(content, style), model(content, style))


def test_attention_needs_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference runs on a fused kernel: no other is allowed here, nor PyTorch's "fast path", which has such a matrix."""
    model = small().eval()
    monkeypatch.delattr(torch, "_native_multi_head_attention")
    with torch.no_grad(), sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        assert torch.isfinite(model(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))).all()


def test_tiles_change_nothing() -> None:
    model = small().double()
    content, style = torch.rand(1, 3, 200, 131, dtype=torch.float64), torch.rand(1, 3, 48, 64, dtype=torch.float64)
    whole = Stylizer(model, [style])(content)
    torch.testing.assert_close(Stylizer(model, [style], tile=64)(content), whole, rtol=0, atol=1e-10)


def test_heads_must_share_the_channels() -> None:
    with pytest.raises(ValueError, match="stytr2 has 128 channels at width 0.25, which 7 heads cannot share equally"):
        stylezoo.create_model("stytr2", width=0.25, heads=7)
