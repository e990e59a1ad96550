"""AdaAttN against the reference implementation (parity fixtures), and what the paper claims of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Case, gradient_norms, thin_model
from torch import Tensor

import stylezoo
from stylezoo import StyleModel
from stylezoo.errors import StylezooError
from stylezoo.losses import normalize
from stylezoo.models import adaattn
from stylezoo.models.adaattn import AttentionNormalization, Decoder, Transformer, attended_statistics, drawn_positions
from stylezoo.streaming.maps import RULES

Parity = Callable[[str], Case]

PARTS = ("decoder", "vgg", "adaattn_3", "transformer")


def test_parameter_counts() -> None:
    """26.575 million with the encoder, of which VGG-19 has 12,944,972 up to relu5_1."""
    widths = dict(zip(adaattn.LAYERS, (64, 128, 256, 512, 512), strict=True))
    skipped = AttentionNormalization(256, 64 + 128 + 256, adaattn.FEW)
    networks = [skipped, Transformer(512, 512, (960, 1472)), Decoder(widths, True), Decoder(widths, False)]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [468_096, 9_066_752, 4_095_043, 3_505_219]
    assert sum(counts[:3]) + 12_944_972 == 26_574_863
    plain = thin_model("adaattn", skip_connection=False, shallow_keys=False)
    assert "adaattn_3" not in dict(plain.named_children())


@pytest.mark.parametrize("name", ["attention", "attention_sampled"])
def test_attention(name: str, parity: Parity) -> None:
    case = parity(f"adaattn/{name}")
    options = case.meta["options"]
    attention = AttentionNormalization(options["in_planes"], options["key_planes"], options["max_sample"])
    attention.load_state_dict(case.part("adaattn"))
    code = attention.encode(case["style"], case["style_key"], options["sample_seed"])
    output = attention(normalize(case["content"]), case["content_key"], *code)
    loss = output.square().mean()
    case.check(output=output, loss=loss, **gradient_norms({"loss": loss}, adaattn=attention))


def test_drawn_positions(parity: Parity) -> None:
    """They are the reference's, and PyTorch's global generator stays as it is."""
    case, state = parity("adaattn/attention_sampled"), torch.get_rng_state()
    count = case.meta["inputs"]["style"]["shape"][2] * case.meta["inputs"]["style"]["shape"][3]
    index = drawn_positions(count, case.meta["options"]["max_sample"], case.meta["options"]["sample_seed"])
    assert torch.equal(index, case["index"].long())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["stylise_odd", "stylise_odd_plain"])
def test_stylize(name: str, parity: Parity) -> None:
    """Files in any order, also those of nn.DataParallel; which of its variants the model is shows in them."""
    case = parity(f"adaattn/{name}")
    files = case.files(*(part for part in PARTS if part in case.meta["state_dict"]))
    wrapped = {f"module.{key}": tensor for key, tensor in case.part("transformer").items()}
    torch.save(wrapped, files[-1])
    model = stylezoo.import_checkpoint("adaattn", files)
    assert model.hparams["skip_connection"] == case.meta["options"]["skip_connection_3"]
    assert model.hparams["shallow_keys"] == case.meta["options"]["shallow_layer"]
    height, width = case["content"].shape[-2:]
    expected = case["output"][..., :height, :width]
    output = model(case["content"], case["style"])
    torch.testing.assert_close(output, expected, rtol=0, atol=case.fixture.tolerance("output"))


def terms_of(model: StyleModel, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """The loss terms under the reference's names, without their weights; the content loss has the weight 1."""
    weights = {"global": 10, "local": 3, "content": 1}
    terms = model.to(dtype).losses(case["content"].to(dtype), case["style"].to(dtype))
    return {name: terms["style" if name == "global" else name] / weight for name, weight in weights.items()}


def test_training_losses(parity: Parity) -> None:
    case = parity("adaattn/train_b2_64x96")
    model = case.model("adaattn", *PARTS, content_weight=1.0)
    terms = terms_of(model, case, torch.float32)
    case.check(
        **{f"loss_{name}": term for name, term in terms.items()},
        total=10 * terms["global"] + 3 * terms["local"] + case.meta["options"]["lambda_content"] * terms["content"],
        output=model(case["content"], case["style"]),
    )


@pytest.mark.slow
def test_training_gradients_in_float64(parity: Parity) -> None:
    """In double precision: gradients through normalized features of tiny maps are ill-conditioned in float32."""
    case = parity("adaattn/train_b2_64x96")
    model = case.model("adaattn", *PARTS, content_weight=1.0)
    terms = terms_of(model, case, torch.float64)
    parts: dict[str, Any] = {name: getattr(model, name) for name in PARTS if name != "vgg"}
    weights = {"global": 10, "local": 3, "content": case.meta["options"]["lambda_content"]}
    values = {f"loss_{name}": term for name, term in terms.items()}
    values["total"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    values |= gradient_norms({"total": values["total"]}, **parts)
    for name, term in terms.items():
        values |= {f"{key}_of_loss_{name}": norm for key, norm in gradient_norms({name: term}, **parts).items()}
    expected = case.meta["float64_scalars"]
    assert expected.keys() <= values.keys()
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value, rel=1e-9), name


def test_statistics_are_the_formula_and_their_gradient_is_finite() -> None:
    """Also where a position attends to a single other one, and where all values are the same: the variance is 0 there."""
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 7, 6), torch.randn(1, 5, 6), torch.randn(1, 5, 4)
    value[..., 0] = 3.0
    query[0, 0] = 1000 * key[0, 2]
    query[:, 1] = 0
    for tensor in (query, key, value):
        tensor.requires_grad_()
    mean, std = attended_statistics(query, key, value)
    shares = (query @ key.transpose(1, 2)).softmax(-1)  # (2, 7, 5)
    expected = (shares[..., None] * value[:, None]).sum(2)
    spread = (shares[..., None] * (value[:, None] - expected[:, :, None]).square()).sum(2).sqrt()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(std, spread, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(std[:, 1, 1:], value[0, :, 1:].std(0, correction=0).expand(2, -1))
    assert float(shares[0, 0].max()) == 1.0 and not std[0, 0].any() and float(std[..., 0].max()) < 1e-3
    (mean + std).sum().backward()
    assert all(tensor.grad is not None and torch.isfinite(tensor.grad).all() for tensor in (query, key, value))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (72, 41), (68, 84), (40, 104)])
def test_sizes_at_which_the_reference_fails(size: tuple[int, int], skip: bool) -> None:
    """Losses, too: they compare the output with the content position by position."""
    model = thin_model("adaattn", skip_connection=skip, shallow_keys=skip, content_weight=1.0)
    content, style = torch.rand(1, 3, *size), torch.rand(1, 3, 50, 23)
    assert model(content, style).shape == content.shape
    assert all(torch.isfinite(term) for term in model.losses(content, style).values())


def small(most: int, **settings: Any) -> StyleModel:
    """A thin model that attends to few positions."""
    model = thin_model("adaattn", **settings)
    for attention in model.attentions.values():
        attention.most = most
    return model


def test_large_styles_are_sampled_by_the_seed_and_anew_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaattn, "FEW", 20)
    model, (content, style) = small(20), torch.rand(2, 1, 3, 64, 64)
    code, other = model.eval().encode_style(style), small(20, seed=1).eval().encode_style(style)
    assert {name: tensor.shape[1] for name, tensor in code.items()} == {
        **dict.fromkeys(("key3", "value3", "key4", "value4"), 20),
        **dict.fromkeys(("key5", "value5"), 16),
    }
    everything = small(10_000).encode_style(style)
    assert torch.equal(code["key3"], everything["key3"][:, drawn_positions(256, 20, 6666)])
    assert torch.equal(model.encode_style(style)["key3"], code["key3"]) and not torch.equal(code["key3"], other["key3"])

    def local() -> float:
        with torch.no_grad():
            return float(model.losses(content, style)["local"])

    assert local() == local()  # validation
    model.train()
    torch.manual_seed(0)
    first, second = local(), local()
    torch.manual_seed(0)
    assert first == local() and first != second  # StyleModel seeds each step


def test_tiles_of_sampled_styles_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No map is computed as a whole, those of the content that attends to itself neither."""
    monkeypatch.delitem(RULES, "whole")
    model, (content, style) = small(40).eval().double(), torch.rand(2, 1, 3, 90, 107, dtype=torch.float64)
    code, tiled = model.encode_style(style), model.encode_style(style, tile=32)
    for name, tensor in code.items():
        torch.testing.assert_close(tiled[name], tensor, rtol=1e-9, atol=1e-9)
    expected = model.decode(content, code, 0.6)
    torch.testing.assert_close(model.decode(content, code, 0.6, tile=32), expected, rtol=1e-8, atol=1e-8)


def test_exported_models_take_evenly_spaced_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    model = small(50, he_init=False).eval()
    monkeypatch.setattr(adaattn, "drawn_positions", lambda count, most, seed: torch.arange(most) * count // most)
    written = stylezoo.export(model, tmp_path / "model.onnx")
    assert written.largest_error < 1e-5 and float(model(*torch.rand(2, 1, 3, 80, 64)).std()) > 1e-3


def test_alpha_zero_lets_the_content_attend_to_itself() -> None:
    model = thin_model("adaattn").eval()
    content, style = torch.rand(2, 1, 3, 48, 48).unbind()
    torch.testing.assert_close(model(content, style, alpha=0.0), model(content, content), rtol=1e-3, atol=1e-3)


def test_learning_rate_falls_after_two_epochs() -> None:
    """networks.py get_scheduler with --n_epochs 2, an epoch of 10 steps."""
    model = thin_model("adaattn", lr_step_size=10)
    optimizer = model.optimizer()
    schedule = model.schedule(optimizer)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [2e-4 * 0.3 ** max(0, epoch + 1 - 2) for epoch in range(5) for _ in range(10)]
    assert rates == pytest.approx(expected)


def test_a_file_of_another_variant_is_named(parity: Parity) -> None:
    case = parity("adaattn/stylise_odd")
    with pytest.raises(StylezooError, match="adaattn has no file for adaattn_3"):
        stylezoo.import_checkpoint("adaattn", case.files("decoder", "vgg", "transformer"))
