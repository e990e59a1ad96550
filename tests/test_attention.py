"""Attention in linear memory: which kernel PyTorch takes, what it holds, and what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import thin_model
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from stylezoo import layers
from stylezoo.layers import MultiheadAttention, attend

LINEAR = {SDPBackend.FLASH_ATTENTION.value, SDPBackend.EFFICIENT_ATTENTION.value}


@contextmanager
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The kernels that PyTorch chooses for the attentions in the block."""
    chosen: list[int] = []
    real = F.scaled_dot_product_attention

    def noted(*tensors: Tensor, **options: Any) -> Tensor:
        chosen.append(torch._fused_sdp_choice(*tensors, **options))
        return real(*tensors, **options)

    with monkeypatch.context() as patch:
        patch.setattr(layers.F, "scaled_dot_product_attention", noted)
        yield chosen


@pytest.mark.parametrize("name", ["adaattn", "sanet", "multi_level_attention", "stytr2"])
def test_systems_take_a_kernel_of_linear_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (content, style) = thin_model(name).eval(), torch.rand(2, 1, 3, 64, 64)
    with kernels(monkeypatch) as chosen, torch.inference_mode():
        model(content, style, alpha=0.5)
    assert len(chosen) >= 2 and set(chosen) <= LINEAR


@pytest.mark.parametrize(("width", "out", "heads"), [(16, 16, 1), (16, 24, 1), (24, 16, 1), (16, 24, 2), (16, 16, 4)])
def test_attention_is_the_formula(width: int, out: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where queries and values differ in width, and where all are transposed views, as of features (B, C, N)."""
    query, key = torch.rand(2, width, 30).transpose(1, 2), torch.rand(1, width, 20).transpose(1, 2)
    value = torch.rand(1, out, 20).transpose(1, 2)
    with kernels(monkeypatch) as chosen:
        result = attend(query, key, value, heads=heads, scale=0.7)
    assert set(chosen) <= LINEAR and result.shape == (2, 30, out)
    parts = []
    for q, k, v in zip(*(x.chunk(heads, 2) for x in (query, key, value)), strict=True):
        parts.append((0.7 * q @ k.transpose(1, 2)).softmax(-1) @ v)
    torch.testing.assert_close(result, torch.cat(parts, 2))
    whole = attend(query, key, value, heads=heads)
    torch.testing.assert_close(whole, attend(query, key, value, heads=heads, scale=(width / heads) ** -0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_are_float32_at_least(dtype: torch.dtype) -> None:
    query, key, value = (
        (30 * torch.rand(1, 8, 16)).to(dtype),
        torch.rand(1, 6, 16).to(dtype),
        torch.rand(1, 6, 16).to(dtype),
    )
    result = attend(query, key, value)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = attend(query.double(), key.double(), value.double())
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-5)


def test_memory_is_linear_in_positions() -> None:
    """The logits of 4096 x 4096 positions alone would take 64 MiB."""
    query, key, value = torch.rand(3, 1, 64, 4096).transpose(2, 3).unbind()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled, torch.inference_mode():
        attend(query, key, value)
    allocated = [event.cpu_memory_usage for event in profiled.events() if event.name == "[memory]"]
    assert allocated and sum(size for size in allocated if size > 0) < 16 * 2**20


def test_it_is_the_multi_head_attention_of_pytorch() -> None:
    torch.manual_seed(0)
    ours, theirs = (
        MultiheadAttention(32, 4, 0.1).eval(),
        torch.nn.MultiheadAttention(32, 4, 0.1, batch_first=True).eval(),
    )
    theirs.load_state_dict(ours.state_dict())
    torch.nn.init.normal_(ours.in_proj_bias)
    theirs.in_proj_bias.data.copy_(ours.in_proj_bias)
    query, key, value = torch.rand(2, 10, 32), torch.rand(2, 7, 32), torch.rand(2, 7, 32)
    torch.testing.assert_close(ours(query, key, value), theirs(query, key, value, need_weights=False)[0])
    torch.manual_seed(1)
    dropped = ours.train()(query, key, value)
    assert not torch.allclose(dropped, ours.eval()(query, key, value))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_takes_the_memory_efficient_kernel() -> None:
    """512 channels per head rule flash attention out."""
    query, key, value = torch.rand(3, 1, 512, 4096, device="cuda").transpose(2, 3).unbind()
    expected = attend(*(x.cpu() for x in (query, key, value)), scale=1.0)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]), torch.inference_mode():
        result = attend(query, key, value, scale=1.0)
    assert torch.cuda.max_memory_allocated() - before < 48 * 2**20
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-3, atol=1e-3)
