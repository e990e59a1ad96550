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
from stylezoo.models.adaattn import AdaAttN, AttentionNormalization, attended_statistics, drawn_positions

Parity = Callable[[str], Case]

PARTS = ("decoder", "vgg", "adaattn_3", "transformer")


def test_parameter_counts() -> None:
    model = AdaAttN(encoder="vgg19_random")
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {"encoder": 12_944_972, "adaattn_3": 468_096, "transformer": 9_066_752, "decoder": 4_095_043}
    plain = AdaAttN(encoder="vgg19_random", skip_connection=False, shallow_keys=False)
    assert sum(p.numel() for p in plain.decoder.parameters()) == 3_505_219
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
        assert float(values[name]) == pytest.approx(value, rel=1e-9), name
