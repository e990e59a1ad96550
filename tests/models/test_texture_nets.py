"""Texture nets against the pyramid written out from models/pyramid.lua, and what the two papers claim of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn

import stylezoo
from stylezoo.data import Folder, Pairs
from stylezoo.images import write_image
from stylezoo.layers import JohnsonTransformer, read_style
from stylezoo.models.texture_nets import Pyramid, TextureNets


@pytest.fixture
def style(tmp_path: Path) -> str:
    """A small image to learn the style of."""
    path = tmp_path / "waves.png"
    write_image(torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(3)), path)
    return str(path)


def small(**settings: object) -> TextureNets:
    torch.manual_seed(0)
    return TextureNets(**{"loss_encoder": "vgg19_random/8", **settings})


def lively(**settings: object) -> TextureNets:
    """Untrained, but its outputs depend visibly on the content."""
    model = small(**settings)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)
    last = model.transformer.last
    (last if isinstance(last, nn.Conv2d) else last.conv).weight.data *= 50
    return model


def test_parameter_counts() -> None:
    count = {g: sum(p.numel() for p in small(generator=g).parameters()) for g in ("pyramid", "johnson")}
    assert count == {"pyramid": 116_915, "johnson": 1_672_323}
    assert sum(p.numel() for p in small(norm="batch").parameters()) == 116_915
    noise = sum(p.numel() for p in small(noise=3).parameters())
    assert noise == 116_915 + 6 * 3 * 8 * 9  # three more input channels at six scales


def written_out(x: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """models/pyramid.lua, convolution by convolution, for sizes that are multiples of 32."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        scale, shift = (tensors[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def three(x: Tensor, name: str) -> Tensor:
        for index, pad in enumerate((1, 1, 0)):
            x = F.pad(x, (pad,) * 4, mode="replicate")
            x = F.conv2d(x, tensors[f"{name}.{index}.conv.weight"], tensors[f"{name}.{index}.conv.bias"])
            x = norm(x, f"{name}.{index}.norm").clamp_min(0)
        return x

    current = None
    for index, ratio in enumerate((32, 16, 8, 4, 2, 1)):
        height, width = x.shape[-2] // ratio, x.shape[-1] // ratio
        pooled = x.reshape(len(x), 3, height, ratio, width, ratio).mean((3, 5))
        branch = three(pooled, f"scales.{index}.layers")
        if current is not None:
            up = current.repeat_interleave(2, 2).repeat_interleave(2, 3)
            up, branch = norm(up, f"coarse_norms.{index - 1}"), norm(branch, f"fine_norms.{index - 1}")
            branch = three(torch.cat([up, branch], 1), f"joined.{index - 1}.layers")
        current = branch
    assert current is not None
    return F.conv2d(current, tensors["last.weight"], tensors["last.bias"])


def test_pyramid() -> None:
    model = small().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.5)
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    expected = written_out(x, model.transformer.state_dict())
    torch.testing.assert_close(model.transformer(x), expected)
    mean = torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(model(x), (expected + mean)[:, [2, 1, 0]] / 255)  # the network returns BGR less mean


@pytest.mark.parametrize("size", [(16, 16), (20, 32), (33, 16), (47, 90), (64, 95)])
def test_sizes_that_are_no_multiples_of_32(size: tuple[int, int]) -> None:
    """Coarse scales average what is there, and nothing is stylized beside the content."""
    # Instance norms would enlarge what rounding leaves of a flat image, layer by layer, on some processors to anything.
    model, content = lively(norm="batch").eval().double(), torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert model(content).shape == content.shape
        gray = model(torch.full_like(content, 0.5))
    # No border, no padding shows where there is nothing to see.
    torch.testing.assert_close(gray, gray[..., :1, :1].expand_as(gray), rtol=0, atol=1e-4)


def test_johnson_variant() -> None:
    """models/johnson.lua written out: replicated borders, transposed convolutions, a last convolution of 3x3."""
    model = small(generator="johnson")
    network = model.transformer
    assert isinstance(network, JohnsonTransformer)
    content = torch.rand(1, 3, 24, 20)
    tensors = network.state_dict()

    def layer(x: Tensor, name: str, pad: int, stride: int = 1) -> Tensor:
        x = F.pad(x, (pad,) * 4, mode="replicate")
        x = F.conv2d(x, tensors[f"{name}.conv.weight"], tensors[f"{name}.conv.bias"], stride)
        return x if name == "last" else norm(x, name)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.instance_norm(x, weight=tensors[f"{name}.norm.weight"], bias=tensors[f"{name}.norm.bias"])

    x = layer(content, "contract.0", 4).relu()
    x = layer(layer(x, "contract.1", 1, 2).relu(), "contract.2", 1, 2).relu()
    for block in range(5):
        x = x + layer(layer(x, f"residual.{block}.0", 1).relu(), f"residual.{block}.1", 1)
    for name in ("expand.0", "expand.1"):
        weight, bias = tensors[f"{name}.conv.weight"], tensors[f"{name}.conv.bias"]
        x = norm(F.conv_transpose2d(x, weight, bias, 2, 1, output_padding=1), name).relu()
    torch.testing.assert_close(network(content), layer(x, "last", 1), rtol=1e-4, atol=1e-4)


def test_scales_start_as_in_torch7() -> None:
    for norm in ("instance", "batch"):
        for generator in ("pyramid", "johnson"):
            tensors = small(norm=norm, generator=generator).state_dict()
            scales = torch.cat([t for key, t in tensors.items() if t.ndim == 1 and key.endswith("weight")])
            assert 0 <= scales.min() < 0.05 and 0.95 < scales.max() <= 1 and 0.4 < scales.mean() < 0.6


def test_losses_are_those_of_texture_loss_lua(style: str) -> None:
    """Gram matrices over C*H*W, mean squared differences of them and of relu4_2, all with weight 1."""
    model = small(style_image=style, style_size=30)
    content = torch.rand(2, 3, 64, 64)
    terms = model.losses(content)
    network = model.loss_encoder
    assert network.ceil_mode and model._measured["relu1_1"].positions.flatten().tolist() == [30 * 20]
    image = read_style(style, 30)
    layers = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]

    def gram(f: Tensor) -> Tensor:
        return torch.einsum("bchw,bdhw->bcd", f, f) / f[0].numel()

    output = model(content)
    ours, theirs = network(output, [*layers, "relu4_2"]), network(image, layers)
    expected = torch.stack([(gram(ours[name]) - gram(theirs[name])).square().mean() for name in layers]).sum()
    assert float(terms["style"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    content_loss = (ours["relu4_2"] - network(content, ["relu4_2"])["relu4_2"]).square().mean()
    assert float(terms["content"].detach()) == pytest.approx(float(content_loss.detach()), rel=1e-4)
    assert set(terms) == {"content", "style"}
    assert set(small(style_image=style, tv_weight=1.0).losses(content)) == {"content", "style", "tv"}


@pytest.mark.parametrize("generator", ["pyramid", "johnson"])
def test_instance_norm_is_kept_at_test_time_and_forgets_contrast(generator: str) -> None:
    """arXiv:1607.08022: the result depends neither on the contrast of an image nor on the rest of its batch."""
    low = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    content = F.interpolate(low, size=64, mode="bilinear")
    for norm, kept in (("instance", True), ("batch", False)):
        model = lively(norm=norm, generator=generator).double()
        for module in model.modules():
            if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)):
                module.eps = 1e-12
        with torch.no_grad():
            model.train()
            trained, alone = model(content), model(content[:1])
            assert torch.allclose(trained[:1], alone, atol=1e-4) == kept
            model.eval()
            assert torch.allclose(model(content), trained, atol=1e-4) == kept  # batch norm: running statistics now
            faint = model(0.5 + 0.1 * (content - 0.5))
            change = (faint - model(content)).abs().max() / model(content).std()
            assert change < 1e-3 if kept else change > 0.03


def test_noise(style: str) -> None:
    """The branch texture_nets_v1: noise at every scale, new at every step, the same at inference."""
    model = lively(style_image=style, noise=3, negative_slope=0.01, padding="circular", norm="batch")
    content = torch.rand(2, 3, 64, 64)
    same = content[:1].expand(2, -1, -1, -1)
    model.eval()
    with torch.no_grad():
        stylized = model(same)
        torch.testing.assert_close(stylized[0], stylized[1])
        torch.testing.assert_close(stylized, model(same), rtol=0, atol=0)
        model.seed = 1
        assert (model(same) - stylized).abs().max() > 1e-4
        model.train()
        drawn = model(same)
        assert (drawn[0] - drawn[1]).abs().max() > 1e-4
    assert isinstance(model.transformer, Pyramid)
    seen: list[Tensor] = []
    hooks = [s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for s in model.transformer.scales]
    model(content)
    for hook in hooks:
        hook.remove()
    assert [tuple(x.shape) for x in seen] == [(2, 6, n, n) for n in (2, 4, 8, 16, 32, 64)]
    noise = torch.cat([x[:, 3:].flatten() for x in seen])
    assert noise.min() >= 0 and noise.max() < 1 and noise.mean() == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(seen[-1][:, :3], content)


def test_a_step_draws_its_own_noise(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of seed and step: a resumed run sees what the whole run would have seen."""
    content, outputs = torch.rand(1, 3, 64, 64), {}
    for step in (0, 1, 1):
        monkeypatch.setattr(TextureNets, "trained_batches", step)
        with torch.no_grad():
            output = lively(noise=1).train()(content)
        assert step not in outputs or torch.equal(outputs[step], output)
        outputs[step] = output
    assert not torch.equal(outputs[0], outputs[1])


def test_noise_does_not_repeat_within_an_accumulated_step(style: str, pictures: Path, tmp_path: Path) -> None:
    """Every batch of a step has its own noise, and a resumed run continues with the noise of the whole run."""

    def noises(steps: int, resume: Path | None = None) -> list[Tensor]:
        model = small(style_image=style, noise=1)
        assert isinstance(model.transformer, Pyramid)
        seen: list[Tensor] = []
        model.transformer.scales[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 3:].clone()))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        quiet["enable_checkpointing"] = False
        trainer = Trainer(accelerator="cpu", max_steps=steps, accumulate_grad_batches=2, **quiet)  # type: ignore[arg-type]
        data = Pairs(Folder(str(pictures)), batch_size=2, size=40, crop=32, num_workers=0)
        trainer.fit(model, data, ckpt_path=resume and str(resume), weights_only=True)
        assert trainer.global_step == steps
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return seen

    whole = noises(2)
    assert len(whole) == 4  # two batches a step
    for index, noise in enumerate(whole):
        assert noise.shape[:2] == (2, 1) and not torch.equal(noise[0], noise[1])
        assert not any(torch.equal(noise, other) for other in whole[:index])
    assert noises(1)[1].equal(whole[1])
    assert torch.equal(torch.stack(noises(2, tmp_path / "1.ckpt")), torch.stack(whole[2:]))


def test_circular_padding_makes_a_generator_that_tiles() -> None:
    """An image that is shifted around its borders is stylized shifted, by multiples of the coarsest scale."""
    content = torch.rand(1, 3, 96, 64)
    for padding, tiles in (("circular", True), ("replicate", False)):
        model = lively(padding=padding).eval()
        with torch.no_grad():
            moved = model(content.roll((32, 32), (2, 3))).roll((-32, -32), (2, 3))
            assert torch.allclose(moved, model(content), atol=1e-4) == tiles


def test_learning_rate_falls_in_steps() -> None:
    """train.lua: times 0.8 after every 2000 iterations."""
    model = small(lr=1.0, lr_step_size=2)
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    seen = []
    for _ in range(5):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([1, 1, 0.8, 0.8, 0.64])
    assert configured["lr_scheduler"]["interval"] == "step"
    assert (small().hparams["lr_gamma"], small().hparams["lr_step_size"]) == (0.8, 2000)


def test_inference_needs_neither_style_image_nor_loss_encoder(style: str, tmp_path: Path) -> None:
    model = lively(style_image=style, noise=2)
    stylezoo.save_model(model.eval(), tmp_path / "net.safetensors")
    Path(style).unlink()
    loaded = stylezoo.load_model(tmp_path / "net.safetensors")
    content = torch.rand(1, 3, 40, 33)
    torch.testing.assert_close(loaded(content), model(content), rtol=0, atol=0)
    assert loaded.styles == ["waves"] and "loss_encoder" not in loaded._modules
    assert style.encode() not in (tmp_path / "net.safetensors").read_bytes()
    with pytest.raises(ValueError, match="texture_nets learns the style of one image"):
        loaded.losses(content)


def test_what_it_cannot_do_is_said(style: str) -> None:
    model, content = small(style_image=style), torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"texture_nets stylizes with the one style that it was trained on \(waves\)"):
        model(content, content)
    with pytest.raises(ValueError, match="leave alpha at 1"):
        model(content, alpha=0.5)
    with pytest.raises(ValueError, match="generator must be 'pyramid' or 'johnson', got 'unet'"):
        small(generator="unet")
    with pytest.raises(ValueError, match="settings of the pyramid"):
        small(generator="johnson", noise=3)
