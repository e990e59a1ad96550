"""MSG-Net against the reference implementation (parity fixtures), its public file format, and what the paper claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Case, gradient_norms, gradient_norms_by_loss

import stylezoo
from stylezoo.images import to_tensor, write_image
from stylezoo.inference import stylize
from stylezoo.layers import ConvLayer
from stylezoo.models.msgnet import Bottleneck, CoMatch, MSGNet, normalized_gram
from stylezoo.training import LeastSquares
from stylezoo.training.plans import plan_of

Parity = Callable[[str], Case]


def small(**settings: object) -> MSGNet:
    torch.manual_seed(0)
    return MSGNet(**{"ngf": 16, "loss_encoder": "vgg16_random/8", **settings})


def test_parameter_counts() -> None:
    count = {ngf: sum(p.numel() for p in MSGNet(ngf=ngf).parameters()) for ngf in (64, 128, 256)}
    assert count == {64: 691_555, 128: 2_386_147, 256: 8_994_787}
    up_sampling = (512 * 128 + 128) + (9 * 32 * 32 + 32) + (128 * 64 + 64) + (9 * 16 * 16 + 16)
    subpixel = sum(p.numel() for p in MSGNet(upsample="subpixel").parameters())
    assert subpixel == 2_386_147 + 3 * up_sampling  # four times the parameters of all that enlarges


def test_comatch(parity: Parity) -> None:
    case = parity("msgnet/inspiration")
    layer = CoMatch(case.meta["options"]["C"])
    layer.load_state_dict(case.part("ins"))
    target = normalized_gram(case["target"])
    output = layer(case["content"], target)
    loss = output.square().mean()
    case.check(gram=target, output=output, loss=loss, **gradient_norms({"loss": loss}, ins=layer))


def test_stylize_odd_size_is_the_top_left_crop(parity: Parity) -> None:
    case = parity("msgnet/stylise_odd_ngf64")
    model = case.model("msgnet", "net")
    assert isinstance(model, MSGNet) and model.hparams["ngf"] == case.meta["options"]["ngf"]
    features, code = model.generator.encode(255 * case["content"].flip(1)), model.encode_style(case["style"])
    case.check(output=model.generator.decode(features, code["gram"]))
    expected = case["output"][..., :61, :83].flip(1) / 255
    output = model(case["content"], case["style"])
    torch.testing.assert_close(output, expected, rtol=0, atol=case.fixture.tolerance("output") / 255)


@pytest.mark.parametrize("one_style_per_batch", [False, True])
@pytest.mark.slow
def test_training_losses_and_gradients(one_style_per_batch: bool, parity: Parity) -> None:
    """The reference's batch has one style; the same style for every image, or the first of several, is the same."""
    case = parity("msgnet/train_b2_64x96_ngf128")
    model = case.model("msgnet", "net", "vgg16", one_style_per_batch=one_style_per_batch)
    assert isinstance(model, MSGNet)
    style = case["style"]
    if one_style_per_batch:
        style = torch.cat([style, 1 - style])
    case.check(output=255 * model(case["content"], style[:1]).flip(1))
    gram = model.encode_style(style[:1])["gram"]
    case.check(target_gram_mean=torch.stack([gram.mean(), gram.max()]))
    terms = model.losses(case["content"], style)
    case.check(loss_content=terms["content"], loss_style=terms["style"] / 5, total=sum(terms.values()))
    norms = gradient_norms_by_loss(terms, {"content": 1, "style": 5}, net=model.generator)
    case.check(**{key: norm for key, norm in norms.items() if not key.startswith("gradnorms_net_of")})
    features = [
        model.loss_encoder(x, model.perceptual.style_layers) for x in (model(case["content"], style[:1]), style)
    ]
    layers = [
        F.mse_loss(normalized_gram(a), normalized_gram(features[1][n])[:1].expand(2, -1, -1))
        for n, a in features[0].items()
    ]
    case.check(loss_style_layers=torch.stack(layers))


def test_a_style_for_each_image(parity: Parity) -> None:
    """Losses of a batch whose images have their own styles are the mean of those of its pairs."""
    model = small()
    content, style = torch.rand(2, 2, 3, 48, 40).unbind()
    both = model.losses(content, style)
    singles = [model.losses(content[i : i + 1], style[i : i + 1]) for i in range(2)]
    for name, term in both.items():
        torch.testing.assert_close(term, (singles[0][name] + singles[1][name]) / 2, rtol=1e-4, atol=0)


def test_files_of_old_pytorch(parity: Parity, tmp_path: Path) -> None:
    """21styles.model: 92 tensors, 19 of them under two names, and running statistics that nothing ever used."""
    case = parity("msgnet/stylise_odd_ngf64")
    tensors = case.part("net")
    for alias, key in case.meta["aliases"]["net"].items():
        tensors[alias] = tensors[key]
    assert len(tensors) == 92
    for name in (
        "model1.1",
        "model1.3.conv_block.0",
        "model.0.1",
        "model.2.conv_block.3",
        "model.9.conv_block.6",
        "model.10",
    ):
        tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"] = torch.randn(64), torch.rand(64)
    torch.save(tensors, tmp_path / "21styles.model")
    old = stylezoo.import_checkpoint("msgnet", [tmp_path / "21styles.model"])
    new = case.model("msgnet", "net")
    assert sum(p.numel() for p in old.parameters()) == 691_555
    torch.testing.assert_close(old(case["content"], case["style"]), new(case["content"], case["style"]), rtol=0, atol=0)
    del tensors["model.12.conv2d.bias"]
    torch.save(tensors, tmp_path / "21styles.model")
    with pytest.raises(ValueError, match="fits no part of msgnet"):
        stylezoo.import_checkpoint("msgnet", [tmp_path / "21styles.model"])


def test_comatch_position_by_position() -> None:
    """y_i = sum_jk G_ij W_kj x_k, written out."""
    layer, x = CoMatch(3), torch.rand(2, 3, 2, 2)
    target = normalized_gram(torch.rand(2, 3, 4, 5))
    expected = torch.zeros_like(x)
    for sample in range(2):
        for row in range(2):
            for column in range(2):
                vector = x[sample, :, row, column]
                expected[sample, :, row, column] = target[sample] @ (layer.weight[0].T @ vector)
    torch.testing.assert_close(layer(x, target), expected)


def test_comatch_gives_features_the_targets_second_order_statistics() -> None:
    """With whitened features and W = G^(-1/2), the result has the Gram matrix of the target: what W can learn."""
    generator = torch.Generator().manual_seed(0)
    x, style = (torch.randn(1, 4, 40, 50, generator=generator, dtype=torch.float64) for _ in range(2))
    style = F.relu(style) + style.flip(1).cos()
    whitening = torch.linalg.inv(torch.linalg.cholesky(normalized_gram(x)[0]))
    white = (whitening @ x.flatten(2)).reshape(x.shape)
    target = normalized_gram(style)
    values, vectors = torch.linalg.eigh(target[0])
    layer = CoMatch(4).double()
    layer.weight.data[0] = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    torch.testing.assert_close(normalized_gram(layer(white, target)), target)


def test_brush_size_is_the_size_of_the_style(tmp_path: Path) -> None:
    """The same style at two sizes is two codes and two images; --style_size is the control."""
    model = small()
    image = F.interpolate(torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1)), size=96)
    write_image(image, tmp_path / "style.png")
    codes = [model.encode_style(F.interpolate(image, size=side, mode="area"))["gram"] for side in (32, 96)]
    assert codes[0].shape == codes[1].shape == (1, 64, 64)
    assert (codes[0] - codes[1]).norm() > 0.05 * codes[1].norm()
    content = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(2))
    fine, coarse, whole = (
        to_tensor(stylize(content, str(tmp_path / "style.png"), model, style_size=size)) for size in (32, 96, None)
    )
    assert torch.equal(coarse, whole) and (fine - coarse).abs().max() > 0


def test_codes_blend_as_features_do() -> None:
    """CoMatch is linear in the Gram matrix: a blend of codes is the blend of what they make of the features."""
    model = small()
    content, first, second = torch.rand(3, 1, 3, 32, 32).unbind()
    features = model.generator.encode(255 * content.flip(1))
    grams = [model.encode_style(style)["gram"] for style in (first, second)]
    blended = model.generator.comatch(features, 0.25 * grams[0] + 0.75 * grams[1])
    each = [model.generator.comatch(features, gram) for gram in grams]
    torch.testing.assert_close(blended, 0.25 * each[0] + 0.75 * each[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(content, first, alpha=0.0), model(content, content))


def test_encoder_learns_through_the_style_too() -> None:
    model = small()
    gram = model.encode_style(torch.rand(1, 3, 32, 32))["gram"]
    gram.sum().backward()
    for block in (model.generator.stem, *model.generator.down):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@pytest.mark.parametrize("upsample", ["nearest", "subpixel"])
def test_upsampling_residual_block(upsample: str) -> None:
    """Identity passes through an enlarging shortcut: without its convolutions, the block enlarges its input."""
    block = Bottleneck(8, 2, upsample=upsample)
    assert isinstance(block.shortcut, ConvLayer)
    torch.nn.init.zeros_(block.convs[-1].conv.weight), torch.nn.init.zeros_(block.convs[-1].conv.bias)
    torch.nn.init.zeros_(block.shortcut.conv.bias)
    identity = torch.eye(8)[:, :, None, None]
    block.shortcut.conv.weight.data = identity if upsample == "nearest" else identity.repeat_interleave(4, 0)
    x = torch.rand(2, 8, 5, 7)
    torch.testing.assert_close(block(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_upsampled_convolution_is_one_kernel_for_each_of_four_outputs() -> None:
    """The paper's definition: stride 1/2, a window yields 2 x 2 outputs, each with a kernel of its own."""
    layer = ConvLayer(3, 2, 3, padding="reflect", norm=None, upsample="subpixel")
    x = torch.rand(1, 3, 6, 5)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    output = layer(x)
    assert output.shape == (1, 2, 12, 10)
    for channel in range(2):
        for row in range(2):
            for column in range(2):
                index = 4 * channel + 2 * row + column
                kernel, bias = layer.conv.weight[index : index + 1], layer.conv.bias[index : index + 1]
                torch.testing.assert_close(output[:, channel, row::2, column::2], F.conv2d(padded, kernel, bias)[:, 0])


def test_unknown_upsampling() -> None:
    with pytest.raises(ValueError, match="upsample must be 'nearest' or 'subpixel', got 'transposed'"):
        MSGNet(upsample="transposed")


def test_initialization_restores_images_and_tells_styles_apart() -> None:
    """CoMatch keeps features of the mean Gram matrix; the last convolution makes of what comes out more than one color."""
    model = small()
    smooth = F.interpolate(torch.rand(12, 3, 6, 6), size=(48, 48), mode="bicubic").clamp(0, 1)
    images = (smooth + 0.05 * torch.randn(12, 3, 48, 48)).clamp(0, 1)
    with torch.no_grad():
        before = (model(images, images) - images).square().mean()
        LeastSquares(crops=12)(plan_of(model), images)
        features = model.generator.encode(255 * images.flip(1))
        mean = normalized_gram(features).mean(0, keepdim=True)
        kept = model.generator.comatch(features, mean) - features
        assert kept.square().mean() < 0.02 * features.square().mean()
        restored, swapped = model(images, images), model(images, images.roll(1, 0))
    assert (restored - images).square().mean() < 0.95 * images.var() < before
    assert (swapped - restored).square().mean() > 0.01 * images.var()
