"""Magenta against the reference (parity fixtures), TensorFlow's variables by name, and the public mobile networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Case, shared
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

import stylezoo
from stylezoo.data import Folder, Pairs
from stylezoo.images import read_image, to_tensor
from stylezoo.losses import gram, mean_variation
from stylezoo.models.magenta import (
    InceptionV3,
    Magenta,
    PooledConv,
    StridedConv,
    augmented,
    mobilenet_v2,
)
from stylezoo.training import Distillation, LeastSquares, Training
from stylezoo.training.plans import plan_of

Parity = Callable[[str], Case]
TINY = {"predictor": "mobilenet_v2", "width": 0.25, "loss_encoder": "vgg16_random/8"}
PREDICT, TRANSFER = "weights/magenta_style_predict_quantized_256.npz", "weights/magenta_style_transfer_f16_384.npz"


def count(module: nn.Module, ending: str = "") -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name.endswith(ending))


def test_parameter_counts() -> None:
    model = Magenta()
    assert count(model.predictor.features, "conv.weight") == 8_947_040
    assert count(model.predictor.features, "bn.bias") == 9_408
    assert count(model.predictor.bottleneck) == 76_900
    heads = count(model.transformer.scale) + count(model.transformer.shift)
    assert heads == 278_558 and 2 * model.transformer.scale.out_features == 2_758
    assert count(model.transformer) - heads == 1_674_656
    assert count(model) == 10_986_562

    mobile = Magenta(predictor="mobilenet_v2", width=0.25)
    assert count(mobile.predictor.features) == 2_223_872
    assert count(mobile.predictor.bottleneck) == 128_100
    assert count(mobile.transformer.scale) + count(mobile.transformer.shift) == 70_094


@pytest.mark.parametrize("name", ["transform_b2_64x96", "transform_odd"])
def test_transform(name: str, parity: Parity) -> None:
    case = parity(f"magenta_arbitrary/{name}")
    tensors, settings = Magenta.read_public(case.part("ckpt"))
    assert settings == {"width": 1.0}
    model = Magenta(predictor="mobilenet_v2").eval()
    model.transformer.load_state_dict(tensors)
    case.check(output=model.transformer.generate(case["content"], case["embedding"]))
    height, width = case["content"].shape[-2:]
    output = model.decode(case["content"], {"bottleneck": case["embedding"]})
    expected, tolerance = case["output"][..., :height, :width], case.fixture.tolerance("output")
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["losses_b2_64x96", "losses_odd"])
def test_losses(name: str, parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = parity(f"magenta_losses/{name}")
    tensors = {}
    for key, tensor in case.part("ckpt").items():
        conv, kind = key.split("/")[-2:]
        if kind == "weights":
            tensors[f"{conv}.weight"] = tensor.permute(3, 2, 0, 1)
        else:
            tensors[f"{conv}.bias"] = tensor
    tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(1)  # slim takes RGB, caffe BGR
    torch.save(tensors, tmp_path / "vgg16.pth")

    model = Magenta(predictor="mobilenet_v2", width=0.25, loss_encoder_weights=str(tmp_path / "vgg16.pth"))
    stylized = case["stylized"].requires_grad_()
    monkeypatch.setattr(model, "decode", lambda content, code: stylized)
    terms = model.losses(case["content"], case["style"])
    total = terms["content"] + terms["style"] + terms["tv"]
    (gradient,) = torch.autograd.grad(total, stylized)
    case.check(
        content_loss=terms["content"],
        tv=terms["tv"] / 1e4,
        total_arbitrary=total,
        total_cin=terms["content"] + terms["style"] / 5,
        grad_output=gradient,
    )
    output, style = (model.loss_encoder(x, model.perceptual.style_layers) for x in (stylized, case["style"]))
    grams = [[gram(f) / (f.shape[-2] * f.shape[-1]) for f in features.values()] for features in (output, style)]
    case.check(
        style_losses=torch.stack([F.mse_loss(a, b) for a, b in zip(*grams, strict=True)]),
        gram_conv1_mean=grams[0][0].mean((1, 2)),
    )


# Import


def tf_variables(model: Magenta) -> dict[str, Tensor]:
    """What magenta's checkpoint of this model would hold, written down from the reference's variable scopes."""
    variables: dict[str, Tensor] = {}

    def conv(scope: str, module: nn.Module, norm: nn.Module | None = None, name: str = "weights") -> None:
        assert isinstance(module, nn.Conv2d)
        depthwise = module.groups > 1
        variables[f"{scope}/{name}"] = module.weight.permute(*((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)))
        if norm is not None:
            assert isinstance(norm, nn.BatchNorm2d)
            variables[f"{scope}/BatchNorm/beta"] = norm.bias
            variables[f"{scope}/BatchNorm/moving_mean"] = norm.running_mean
            variables[f"{scope}/BatchNorm/moving_variance"] = norm.running_var
            if norm.weight is not None:
                variables[f"{scope}/BatchNorm/gamma"] = norm.weight

    def linear(scope: str, weight: Tensor, bias: Tensor) -> None:
        variables[f"{scope}/weights"], variables[f"{scope}/biases"] = weight.T[None, None], bias

    features = model.predictor.features
    if isinstance(features, InceptionV3):
        for name, layer in features.named_children():
            kinds = [(name, layer)] if name.startswith("Conv2d") else list(layer.named_children())
            for branch, module in kinds:
                conv(
                    f"InceptionV3/{INCEPTION.get((name, branch)) or INCEPTION[branch]}".format(name),
                    module.conv,
                    module.bn,
                )
        linear("Conv", model.predictor.bottleneck.weight, model.predictor.bottleneck.bias)
    else:
        conv("MobilenetV2/Conv", features[0][0], features[0][1])
        for number, block in enumerate(features[1:18]):
            scope = f"MobilenetV2/expanded_conv_{number}" if number else "MobilenetV2/expanded_conv"
            *expand, depthwise, project, norm = block.conv
            if expand:
                conv(f"{scope}/expand", expand[0][0], expand[0][1])
            conv(f"{scope}/depthwise", depthwise[0], depthwise[1], "depthwise_weights")
            conv(f"{scope}/project", project, norm)
        conv("MobilenetV2/Conv_1", features[18][0], features[18][1])
        linear("mobilenet_conv/Conv", model.predictor.bottleneck.weight, model.predictor.bottleneck.bias)

    network = model.transformer
    for i in range(3):
        conv(f"transformer/contract/conv{i + 1}", network.contract[i], network.norms[i])
    scopes = [f"residual/residual{b}/conv{c}" for b in range(1, 6) for c in (1, 2)]
    scopes += [f"expand/conv{i}/conv" for i in (1, 2, 3)]
    start = 0
    for scope, module in zip(scopes, [*network.residual, *network.expand], strict=True):
        conv(f"transformer/{scope}", module)
        rows = slice(start, start + module.weight.shape[0])
        for name, head in (("Conv", network.shift), ("Conv_1", network.scale)):  # beta, gamma
            linear(f"style_params/transformer/{scope}/StyleNorm/{name}", head.weight[rows], head.bias[rows])
        start = rows.stop
    return variables


INCEPTION = {  # {} is the block; the second convolution of a name is looked up with its block first
    **{n: n for n in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")},
    "branch1x1": "{}/Branch_0/Conv2d_0a_1x1",
    "branch5x5_1": "{}/Branch_1/Conv2d_0a_1x1",
    "branch5x5_2": "{}/Branch_1/Conv2d_0b_5x5",
    ("Mixed_5c", "branch5x5_1"): "{}/Branch_1/Conv2d_0b_1x1",
    ("Mixed_5c", "branch5x5_2"): "{}/Branch_1/Conv_1_0c_5x5",
    "branch3x3dbl_1": "{}/Branch_2/Conv2d_0a_1x1",
    "branch3x3dbl_2": "{}/Branch_2/Conv2d_0b_3x3",
    "branch3x3dbl_3": "{}/Branch_2/Conv2d_0c_3x3",
    ("Mixed_6a", "branch3x3"): "{}/Branch_0/Conv2d_1a_1x1",
    ("Mixed_6a", "branch3x3dbl_1"): "{}/Branch_1/Conv2d_0a_1x1",
    ("Mixed_6a", "branch3x3dbl_2"): "{}/Branch_1/Conv2d_0b_3x3",
    ("Mixed_6a", "branch3x3dbl_3"): "{}/Branch_1/Conv2d_1a_1x1",
    "branch7x7_1": "{}/Branch_1/Conv2d_0a_1x1",
    "branch7x7_2": "{}/Branch_1/Conv2d_0b_1x7",
    "branch7x7_3": "{}/Branch_1/Conv2d_0c_7x1",
    "branch7x7dbl_1": "{}/Branch_2/Conv2d_0a_1x1",
    "branch7x7dbl_2": "{}/Branch_2/Conv2d_0b_7x1",
    "branch7x7dbl_3": "{}/Branch_2/Conv2d_0c_1x7",
    "branch7x7dbl_4": "{}/Branch_2/Conv2d_0d_7x1",
    "branch7x7dbl_5": "{}/Branch_2/Conv2d_0e_1x7",
    "branch_pool": "{}/Branch_3/Conv2d_0b_1x1",
}


def shaken(**settings: object) -> Magenta:
    """A model in which no two tensors are alike, norms included."""
    torch.manual_seed(0)
    model = Magenta(**{**TINY, **settings}).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.05)
    return model


def test_every_parameter_of_the_larger_predictor_learns() -> None:
    """test_zoo.py has the smaller one."""
    model = Magenta(**{**TINY, "predictor": "inception_v3"}).train()
    torch.stack(list(model.losses(*torch.rand(2, 2, 3, 48, 48)).values())).sum().backward()
    parameters = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    assert [key for key, p in parameters if p.grad is None or not (p.grad.isfinite().all() and p.grad.any())] == []


@pytest.mark.parametrize("predictor", ["inception_v3", "mobilenet_v2"])
def test_import_of_tensorflow_variables(predictor: str, tmp_path: Path) -> None:
    model = shaken(predictor=predictor)
    variables = {key: tensor.detach().contiguous().numpy() for key, tensor in tf_variables(model).items()}
    np.savez(tmp_path / "model.npz", **variables)
    again = stylezoo.import_checkpoint("magenta", [tmp_path / "model.npz"])
    assert again.hparams["predictor"] == predictor and again.hparams["width"] == 0.25
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)

    halves = {"a": {}, "b": {}}
    for key, array in variables.items():
        halves["b" if "transformer" in key else "a"][key] = array
    for name, half in halves.items():
        np.savez(tmp_path / f"{name}.npz", **half)
    again = stylezoo.import_checkpoint("magenta", [tmp_path / "b.npz", tmp_path / "a.npz"])
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)

    lost = next(key for key in variables if key.endswith("BatchNorm/moving_mean"))
    np.savez(tmp_path / "model.npz", **{key: array for key, array in variables.items() if key != lost})
    with pytest.raises(ValueError, match=f"lacks {lost}"):
        stylezoo.import_checkpoint("magenta", [tmp_path / "model.npz"])


@pytest.mark.parametrize("predictor", ["inception_v3", "mobilenet_v2"])
def test_a_predictor_starts_from_imagenet_weights(predictor: str, tmp_path: Path) -> None:
    """From TensorFlow's names and from torchvision's; the model then does without the file."""
    model = shaken(predictor=predictor)
    features = model.predictor.features.state_dict()
    names = {key: t for key, t in tf_variables(model).items() if key.startswith(("InceptionV3/", "MobilenetV2/"))}
    prefix = "features." if predictor == "mobilenet_v2" else ""
    torch.save({**names, "global_step": torch.tensor(1)}, tmp_path / "tensorflow.pth")
    torch.save({**{f"{prefix}{k}": t for k, t in features.items()}, "fc.bias": torch.ones(3)}, tmp_path / "vision.pth")
    for file in ("tensorflow.pth", "vision.pth"):
        started = Magenta(**{**TINY, "predictor": predictor}, predictor_weights=str(tmp_path / file))
        torch.testing.assert_close(started.predictor.features.state_dict(), features, rtol=0, atol=0)
        assert started.hparams["predictor_weights"] is None
    if predictor == "inception_v3":
        scaled = {**features, "Mixed_5b.branch1x1.bn.weight": torch.full((64,), 2.0)}
        torch.save(scaled, tmp_path / "scaled.pth")
        with pytest.raises(ValueError, match="scales behind its norms .Mixed_5b.branch1x1.bn.bias"):
            Magenta(**{**TINY, "predictor": predictor}, predictor_weights=str(tmp_path / "scaled.pth"))
    torch.save({"fc.bias": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"holds no {predictor} as TensorFlow or torchvision name it"):
        Magenta(**{**TINY, "predictor": predictor}, predictor_weights=str(tmp_path / "other.pth"))


def image_of(path: str, size: int) -> Tensor:
    return transforms.resize(to_tensor(read_image(shared(f"images/fullres/{path}"))), [size], antialias=True)[None]


def test_public_mobile_pair_stylizes() -> None:
    """Colors of the output come closer to those of its style than of any other, on every photo."""
    model = stylezoo.import_checkpoint("magenta", [shared(TRANSFER), shared(PREDICT)])
    assert model.hparams["predictor"] == "mobilenet_v2" and model.hparams["width"] == 0.25
    names = ("la_muse", "mondrian", "starry_night", "the_scream")
    styles = [image_of(f"paintings/{name}.jpg", 256) for name in names]
    with torch.no_grad():
        codes = [model.encode_style(style) for style in styles]
        for photo in ("chicago", "taj_mahal"):
            content = image_of(f"photos/{photo}.jpg", 160)
            outputs = torch.cat([model.decode(content, code) for code in codes])
            colors = torch.stack([color_statistics(output) for output in outputs])
            wanted = torch.stack([color_statistics(style[0]) for style in styles])
            assert torch.equal(torch.cdist(colors, wanted).argmin(1), torch.arange(len(names)))
            assert outputs.std((1, 2, 3)).min() > 0.1  # no haze
            own = model.decode(content, codes[0], alpha=0.0)
            assert (own - content).abs().mean() < (outputs[0] - content).abs().mean()


def color_statistics(image: Tensor) -> Tensor:
    """Mean and covariance of the colors, (12,)."""
    return torch.cat([image.mean((1, 2)), torch.cov(image.flatten(1)).sqrt().nan_to_num().flatten()])


def test_public_predictor_is_dequantized() -> None:
    """A network of integers, run with steps in place of units, gives the bottlenecks of the imported one."""
    tensors = {key: torch.from_numpy(array) for key, array in np.load(shared(PREDICT)).items()}
    renamed, settings = Magenta.read_public(tensors)
    assert settings == {"predictor": "mobilenet_v2"}
    assert not renamed["bottleneck.bias"].any()
    bias, kernel = tensors["MobilenetV2|Conv|Conv2D_bias"], tensors["MobilenetV2|Conv|weights"]
    steps = kernel.abs().amax((1, 2, 3)) / 127
    integers = kernel / steps[:, None, None, None]
    torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-3)
    image = torch.randint(256, (1, 3, 9, 9))  # 1/255 is the step of the image
    summed = F.conv2d(image.double(), integers.round().permute(0, 3, 1, 2).double(), bias.double())
    weight, shift = renamed["features.0.0.weight"], renamed["features.0.1.bias"]
    expected = summed.float() * steps[:, None, None] / 255
    torch.testing.assert_close(F.conv2d(image / 255, weight, shift), expected, rtol=1e-4, atol=1e-4)


def test_public_separable_transformer() -> None:
    """It loads; the predictor that it was trained with is not public."""
    file = shared("weights/magenta_transformer_separable.pth")
    tensors, settings = Magenta.read_public(torch.load(file, weights_only=True))
    assert settings == {"width": 1.0, "separable": True, "padding": "zeros"}
    model = Magenta(predictor="mobilenet_v2", **settings)
    model.transformer.load_state_dict(tensors)
    with pytest.raises(ValueError, match="magenta has no file for predictor"):
        stylezoo.import_checkpoint("magenta", [file])


# The network


def test_inception_averages_only_pixels_and_clips_at_six() -> None:
    conv = PooledConv(2, 3, 1).eval()
    x = torch.rand(1, 2, 5, 4) + 1
    nn.init.constant_(conv.conv.weight, 1.0)
    pooled = F.avg_pool2d(x, 3, 1, 1)  # what torchvision's block hands over
    expected = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False).sum(1, keepdim=True) / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(conv(pooled), expected.expand(-1, 3, -1, -1))
    assert conv(100 * pooled).max() == 6
    assert InceptionV3().eval()(torch.rand(1, 3, 75, 80)).shape == (1, 768, 3, 3)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 5)])
def test_strided_convolutions_pad_as_tensorflow(size: tuple[int, int]) -> None:
    """SAME: ceil(n/2) outputs; one more zero at the end than at the start where their number is odd."""
    conv = StridedConv(1, 1, 3, 2, bias=False)
    x = torch.rand(1, 1, *size)
    (top, bottom), (left, right) = (((n + n % 2) % 2 + n % 2, 1) for n in size)
    padded = np.pad(x[0, 0].numpy(), ((top, bottom), (left, right)))
    kernel = conv.weight[0, 0].detach().numpy()
    rows, columns = (-(-n // 2) for n in size)
    expected = [
        [(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel).sum() for j in range(columns)] for i in range(rows)
    ]
    torch.testing.assert_close(conv(x)[0, 0], torch.tensor(expected))
    assert mobilenet_v2()(torch.rand(2, 3, 65, 64)).shape == (2, 1280, 3, 2)


def test_norms_learn_and_average_as_in_slim() -> None:
    model = Magenta()
    decays = {"predictor.features.Mixed_5b.branch1x1.bn": 0.9997, "transformer.norms.0": 0.999}
    for name, decay in decays.items():
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d) and norm.eps == 1e-3 and norm.weight is None
        x = torch.randn(4, norm.num_features, 6, 6) * 3 + 1
        output = norm.train()(x)
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(norm.num_features), rtol=0, atol=1e-5)
        torch.testing.assert_close(norm.running_mean, (1 - decay) * x.mean((0, 2, 3)), rtol=1e-3, atol=1e-6)
    mobile = Magenta(**TINY).predictor.features[0][1]
    assert mobile.momentum == pytest.approx(0.003) and mobile.eps == 1e-3 and mobile.weight is not None


def test_total_variation_of_each_direction_by_its_own_count() -> None:
    image = torch.rand(2, 3, 5, 9)
    y, x = np.diff(image.numpy(), axis=2), np.diff(image.numpy(), axis=3)
    expected = ((y**2).sum() / 2 / (4 * 9 * 3) + (x**2).sum() / 2 / (5 * 8 * 3)) / 2
    assert float(mean_variation(image)) == pytest.approx(float(expected), rel=1e-5)


# Interpolation


def test_styles_are_blended_in_the_bottleneck() -> None:
    model = shaken()
    content, style, other = torch.rand(3, 1, 3, 64, 48).unbind()
    with torch.no_grad():
        a, b, own = (model.encode_style(image)["bottleneck"] for image in (style, other, content))
        assert a.shape == (1, 100)

        def stylized(bottleneck: Tensor) -> Tensor:
            return model.decode(content, {"bottleneck": bottleneck})

        blend = model.decode(content, [{"bottleneck": a}, {"bottleneck": b}], weights=[3, 1])
        torch.testing.assert_close(blend, stylized(0.75 * a + 0.25 * b))
        torch.testing.assert_close(model(content, style, alpha=0.3), stylized(0.3 * a + 0.7 * own))
        torch.testing.assert_close(model(content, style, alpha=0.0), model(content, content))


def test_styles_of_any_size_become_one_size() -> None:
    model = shaken()
    style = torch.rand(1, 3, 40, 60)
    with torch.no_grad():
        large = transforms.resize(style, [256], antialias=True)
        assert large.shape == (1, 3, 256, 384)
        code = model.encode_style(style)
        torch.testing.assert_close(code, model.encode_style(large))
        raw = shaken(style_size=None).encode_style(style)["bottleneck"]
        assert not torch.allclose(raw, code["bottleneck"], atol=1e-3)
        torch.testing.assert_close(raw, model.predictor(transforms.resize(style, [75])))  # the smallest


# Training


def test_augmentation_is_a_function_of_its_seed() -> None:
    styles = torch.rand(3, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    views = [augmented(styles, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1]) and views[0].shape != views[2].shape
    for seed in range(8):
        view = augmented(styles, np.random.default_rng(seed))
        assert 128 <= view.shape[-1] < 300 and view.shape == (3, 3, *view.shape[-2:])
        assert view.min() >= -1e-5 and view.max() <= 1 + 1e-5


class Faithful(np.random.Generator):
    """Leaves brightness, saturation and hue as they are."""

    def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
        return 1.0 if low > 0 else 0.0


def test_augmentation_crops_between_057_and_099_of_the_side() -> None:
    """Read off a ramp: the share of it that a window covers."""
    ramp = torch.linspace(0, 1, 200).expand(8, 3, 200, 200)
    shares = []
    for seed in range(6):
        view = augmented(ramp, Faithful(np.random.PCG64(seed)))
        shares += (view.amax((1, 2, 3)) - view.amin((1, 2, 3))).tolist()
    assert min(shares) > 256 / 456 - 0.02 and max(shares) < 256 / 258 + 0.02
    assert max(shares) - min(shares) > 0.3


def trainer(**settings: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    return Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet, **settings)  # type: ignore[arg-type]


def test_a_mobile_student_learns_the_bottlenecks_of_its_teacher(tmp_path: Path) -> None:
    teacher = shaken(predictor="inception_v3", width=0.25)
    file = str(tmp_path / "teacher.safetensors")
    stylezoo.save_model(teacher, file)
    student, distillation = shaken(), Distillation(file, weight=2.0)
    content, style = torch.rand(2, 2, 3, 80, 80).unbind()
    terms = distillation(student, content, style)
    assert list(terms) == ["content", "style", "tv", "distillation"]
    torch.testing.assert_close({name: terms[name] for name in student.loss_weights}, student.losses(content, style))
    with torch.no_grad():
        expected = 2 * (student.predictor(style) - teacher.predictor(style)).square().mean()
    torch.testing.assert_close(terms["distillation"], expected)
    terms["distillation"].backward()
    assert student.predictor.bottleneck.weight.grad is not None
    without = dict.fromkeys(("content_weight", "style_weight", "tv_weight"), 0.0)
    torch.testing.assert_close(distillation(shaken(**without), content, style), {"distillation": expected})
    imitating = shaken(**without)
    terms = Distillation(file, imitation_weight=3.0)(imitating, content, style)
    with torch.no_grad():
        code = {"bottleneck": teacher.predictor(style)}
        imitation = 3 * (imitating.decode(content, code) - teacher.decode(content, code)).square().mean()
    torch.testing.assert_close(terms["imitation"], imitation)
    terms["imitation"].backward()
    assert imitation > 0 and imitating.transformer.scale.weight.grad is not None
    assert imitating.predictor.bottleneck.weight.grad is None


def test_a_student_is_trained_and_saved_without_its_teacher(pictures: Path, tmp_path: Path) -> None:
    """The objective of the callback is what the run minimizes and logs; the teacher is no part of the model."""
    file = str(tmp_path / "teacher.safetensors")
    stylezoo.save_model(shaken(predictor="inception_v3", width=0.25), file)
    without = dict.fromkeys(("content_weight", "style_weight", "tv_weight"), 0.0)
    student = shaken(**without)
    keys, before = list(student.state_dict()), student.predictor.bottleneck.weight.detach().clone()
    callback = Training(objective=Distillation(file))
    run = trainer(max_steps=1, callbacks=[callback])
    run.fit(student, Pairs(Folder(str(pictures)), Folder(str(pictures)), batch_size=2, size=40, crop=32, num_workers=0))
    assert {"train/distillation", "train/loss"} == {key for key in run.callback_metrics if "/" in key}
    assert not torch.equal(student.predictor.bottleneck.weight, before)
    assert callback.objective is not None and not callback.objective.teacher.training
    assert list(student.state_dict()) == keys
    stylezoo.save_model(student, tmp_path / "student.safetensors")
    assert str(tmp_path).encode() not in (tmp_path / "student.safetensors").read_bytes()


def test_a_frozen_predictor_stays_as_it_is(pictures: Path) -> None:
    torch.manual_seed(0)
    model = Magenta(**TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = trainer(max_steps=1, callbacks=[Training(freeze=["predictor"], batch_norm_momentum=0.5)])
    run.fit(model, Pairs(Folder(str(pictures)), Folder(str(pictures)), batch_size=2, size=40, crop=32, num_workers=0))
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"transformer"} and not model.predictor.training and model.transformer.training
    optimized = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.transformer.parameters()}
    assert Magenta(**TINY).train().predictor.training
    with pytest.raises(ValueError, match="freeze must name submodules of the model .*predictor.*, got 'teacher'"):
        Training(freeze=["teacher"]).setup(run, Magenta(**TINY), "fit")


def test_batch_norms_can_follow_a_short_run() -> None:
    """All of the predictor's and the transformer's; without the option they are the reference's."""
    for momentum, expected in ((None, {0.003, 0.001}), (0.05, {0.05})):
        model = shaken()
        Training(batch_norm_momentum=momentum).setup(trainer(), model, "fit")
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert len(norms) == 52 + 3 and {round(norm.momentum or 0, 6) for norm in norms} == expected


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="predictor must be 'inception_v3' or 'mobilenet_v2', got 'resnet'"):
        Magenta(predictor="resnet")  # type: ignore[arg-type]
    adain = stylezoo.create_model("adain", encoder="vgg19_random/8")
    stylezoo.save_model(adain, tmp_path / "adain.safetensors")
    with pytest.raises(ValueError, match=r"teacher of a magenta must be a magenta, but .*adain.safetensors is a adain"):
        Distillation(str(tmp_path / "adain.safetensors"))
    stylezoo.save_model(shaken(), tmp_path / "teacher.safetensors")
    with pytest.raises(ValueError, match="teaches a magenta, not a adain"):
        Distillation(str(tmp_path / "teacher.safetensors"))(adain, *torch.rand(2, 1, 3, 80, 80))


class ColorStatistics(nn.Module):
    """A predictor whose bottleneck begins with mean and standard deviation of each color."""

    def forward(self, style: Tensor) -> Tensor:
        return F.pad(torch.cat([style.mean((2, 3)), style.std((2, 3))], 1), (0, 94))


def test_initialization_passes_images_on_in_the_colors_of_the_style() -> None:
    """Shapes are those of the content, mean and contrast of each color those of the style."""
    torch.manual_seed(0)
    model = Magenta(predictor="mobilenet_v2", width=0.25).eval()
    model.predictor = ColorStatistics()
    colors, contrasts = 0.3 + 0.4 * torch.rand(24, 3, 1, 1), 0.02 + 0.08 * torch.rand(24, 1, 1, 1)
    shapes = F.interpolate(torch.randn(24, 3, 6, 6), size=96, mode="bicubic")
    content = colors + contrasts * shapes
    style = content.roll(1, 0)
    with torch.no_grad():
        LeastSquares(crops=24)(plan_of(model), content)
        output = model(content, style)
    for moment in (torch.mean, torch.std):
        asked, found, before = (moment(x, (2, 3)) for x in (style, output, content))
        assert (found - asked).abs().mean() < 0.5 * (before - asked).abs().mean()
    for a, b in zip(output.flatten(0, 1), content.flatten(0, 1), strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.8
