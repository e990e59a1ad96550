"""Blocks that systems share, against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stylezoo.layers import ConditionalTransformer, ConvLayer, Norm


@pytest.mark.parametrize(("norm", "dims"), [("instance", (2, 3)), ("batch", (0, 2, 3))])
def test_the_norm_of_a_layer_has_its_eps(norm: Norm, dims: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = ConvLayer(2, 3, padding="zeros", norm=norm, eps=0.25), torch.rand(2, 2, 6, 7)
    features = layer.conv(x)
    variance, mean = torch.var_mean(features, dims, correction=0, keepdim=True)
    torch.testing.assert_close(layer(x), (features - mean) / (variance + 0.25).sqrt())


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_separable_convolutions_have_the_padding_of_the_network(padding: str) -> None:
    torch.manual_seed(0)
    network = ConditionalTransformer((2, 2, 3, 2, 2), 1, padding=padding, separable=True)  # type: ignore[arg-type]
    conv, x = network.residual[0], torch.rand(1, 3, 5, 6)
    assert isinstance(conv, nn.Sequential)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect" if padding == "reflect" else "constant")
    expected = F.conv2d(F.conv2d(padded, conv[0].weight, groups=3), conv[1].weight)
    torch.testing.assert_close(conv(x), expected)
