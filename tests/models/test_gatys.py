"""Gatys against four optimization codes (parity fixtures), its presets, and what it promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, THIN, Case
from torch import Tensor

import stylezoo
from stylezoo import weights
from stylezoo.cli import main
from stylezoo.images import read_image, to_tensor, write_image
from stylezoo.inference import Stylizer, files
from stylezoo.losses import (
    STYLE_STATISTICS,
    TOTAL_VARIATIONS,
    Moments,
    PerceptualLoss,
    even_gradient,
    gram,
    square_root,
)
from stylezoo.models.gatys import Average, Gatys, Targets, blended, fitted, scales
from stylezoo.module import Iteration, blending_shares
from stylezoo.registry import read_recipe
from stylezoo.streaming import StreamedMap
from stylezoo.vgg import CAFFE_MEAN_BGR, VGG

Parity = Callable[[str], Case]
STYLE_LAYERS = [f"relu{block}_1" for block in range(1, 6)]
CONTENT, STYLE = torch.rand(2, 2, 3, 48, 40, generator=torch.Generator().manual_seed(0)).unbind()


def thin(**settings: object) -> Gatys:
    return Gatys(**{"encoder": THIN, "iterations": 4, **settings})  # type: ignore[arg-type]


def preset(name: str, case: Case, **settings: object) -> Gatys:
    """A preset with the case's network."""
    (part,) = case.meta["state_dict"]
    model = stylezoo.load_model(name, encoder_weights=str(case.files(part)[0]), **settings)
    assert isinstance(model, Gatys)
    return model


def to_rgb(bgr255: Tensor) -> Tensor:
    return (bgr255 + torch.tensor(CAFFE_MEAN_BGR)[:, None, None]).flip(1) / 255


def weighted_terms(model: Gatys, image: Tensor, targets: Targets) -> dict[str, Tensor]:
    return {name: model.loss_weights[name] * term for name, term in model.terms(image, targets).items()}


def style_terms(model: Gatys, image: Tensor, style: dict[str, Moments]) -> Tensor:
    """The style losses of single layers, weighted."""
    features = model.encoder(image, STYLE_LAYERS)
    each = [
        PerceptualLoss({}, {layer: weight}, style_loss=model.hparams["style_loss"])(features, style=style)["style"]
        for layer, weight in model.perceptual.style_layers.items()
    ]
    return torch.stack(each) * model.loss_weights["style"]


def moments(model: Gatys, styles: Tensor, shares: list[float]) -> dict[str, Moments]:
    measured = [model.encoder(style, STYLE_LAYERS) for style in styles.split(1)]
    return {name: blended([Moments.of(m[name]) for m in measured], shares) for name in STYLE_LAYERS}


# Parity


@pytest.mark.parametrize("name", ["loss_64x96", "loss_avg_50x67"])
def test_author(name: str, parity: Parity) -> None:
    case = parity(f"gatys_leongatys/{name}")
    model = preset("gatys.author", case, pooling=case.meta["options"]["pool"])
    bgr = case["image_net"].requires_grad_()
    image = to_rgb(bgr)
    torch.testing.assert_close(image, case["image"], rtol=0, atol=1e-6)
    terms = model.losses(case["content"], case["style"], image=image)
    total = terms["content"] + terms["style"]
    (gradient,) = torch.autograd.grad(total, bgr)
    style = style_terms(model, image, moments(model, case["style"], [1.0]))
    losses = torch.cat([style, terms["content"][None]])
    case.check(losses=losses, total=total, grad_image=gradient, image_net=model.encoder.preprocess(case["image"]))


@pytest.mark.parametrize("name", ["loss_64x96", "loss_avg_blend_53x70", "loss_normalize_gradients_48x64"])
def test_neural_style_pt(name: str, parity: Parity) -> None:
    """The port's -normalize_gradients leaves the losses as they are and squares both weights in the gradient."""
    case = parity(f"gatys_neural_style_pt/{name}")
    options = case.meta["options"]
    model = preset("gatys.neural_style", case, pooling=options["pooling"])
    bgr = case["image_bgr"].requires_grad_()
    image = to_rgb(bgr)
    shares = blending_shares(options["blend"], len(case["styles"]))
    targets = model.targets(case["content"], list(case["styles"].split(1)), shares, 0.0)
    terms = weighted_terms(model, image, targets)
    case.check(
        loss_content=terms["content"],
        losses_style=style_terms(model, image, targets[1]),
        loss_tv=terms["tv"],
        total=sum(terms.values()),
        image_bgr=model.encoder.preprocess(case["image"]),
    )
    power = 2 if options["normalize_gradients"] else 1
    squared = preset(
        "gatys.neural_style", case, content_weight=5.0**power, style_weight=100.0**power, pooling=options["pooling"]
    )
    total = torch.stack(list(weighted_terms(squared, image, targets).values())).sum()
    case.check(grad_image=torch.autograd.grad(total, bgr)[0])
    if options["blend"] is None:  # what users call gives the same
        public = model.losses(case["content"], case["styles"], image=image)
        torch.testing.assert_close(public, terms)


def neural_style_features(case: Case) -> tuple[PerceptualLoss, Tensor, Tensor, Moments, Moments]:
    x, target, *styles = (case[n] for n in ("x", "content_target", "style_feature", "style_feature2"))
    x, target, *styles = (t if t.ndim == 4 else t[None] for t in (x, target, *styles))
    both = [Moments.of(s) for s in styles]
    blend = blended(both, case.meta["options"]["blend"])
    return PerceptualLoss({"x": 5.0}, {"x": 100.0}, style_loss="gram_johnson"), x, target, both[0], blend


def test_neural_style_pt_ops(parity: Parity) -> None:
    case = parity("gatys_neural_style_pt/ops")
    loss, x, target, style, blend = neural_style_features(case)
    image = case["image"].requires_grad_()
    tv = 1e-3 * TOTAL_VARIATIONS["absolute"](image)
    case.check(
        loss_content=loss({"x": x}, content={"x": target})["content"],
        gram=gram(x)[0] / x.numel(),
        loss_style=loss({"x": x}, style={"x": style})["style"],
        target_blend=(gram(blend) / blend.positions)[0] / x.shape[1],
        loss_style_blend=loss({"x": x}, style={"x": blend})["style"],
        loss_tv=tv,
        tv_grad=torch.autograd.grad(tv, image)[0],
    )


def test_neural_style_pt_preprocess(parity: Parity, tmp_path: Path) -> None:
    """Not ours: images are written rounded, where the port truncates; sizes are rounded, too."""
    case = parity("gatys_neural_style_pt/preprocess")
    encoder = VGG("vgg19_caffe", str(case_file(tmp_path)))
    tensor = encoder.preprocess(case["image"][None])
    case.check(tensor=tensor)
    brighter = to_rgb(1.1 * tensor)
    write_image(brighter, tmp_path / "out.png")
    written = to_tensor(read_image(tmp_path / "out.png")) * 255
    case.check(back=(brighter[0].clamp(0, 1) * 255).floor())
    assert float((written - case["back"]).abs().max()) <= 1
    height, width = fitted(*case["image"].shape[-2:], 20)
    truncated = torch.tensor([20 / 33 * 21, 20.0]).floor()
    case.check(longest_20=truncated)
    assert abs(height - int(truncated[0])) <= 1 and width == 20


def case_file(folder: Path) -> Path:
    """VGG weights of any kind, to look at what comes before them."""
    torch.save({"conv1_1.weight": torch.zeros(1, 3, 3, 3), "conv1_1.bias": torch.zeros(1)}, folder / "conv.pth")
    return folder / "conv.pth"


def test_neural_style_lua_ops(parity: Parity, tmp_path: Path) -> None:
    """Its network sees white as 256; its total variation is a gradient that the printed loss leaves out."""
    case = parity("gatys_neural_style_lua/ops")
    loss, x, target, style, blend = neural_style_features(case)
    x.requires_grad_()
    values = {"gram": gram(x)[0] / x.numel(), "gram_target": (gram(style) / style.positions)[0] / 8}
    values["gram_target_blend"] = (gram(blend) / blend.positions)[0] / 8
    for name, targets, weight in (("content", target, 5.0), ("style", style, 100.0)):
        term = loss({"x": x}, **{name: {"x": targets}})[name]  # type: ignore[arg-type]
        values[f"{name}_loss"] = term
        values[f"{name}_grad"] = torch.autograd.grad(term, x)[0][0]
        even = loss({"x": even_gradient(x, weight)}, **{name: {"x": targets}})[name]  # type: ignore[arg-type]
        torch.testing.assert_close(even, term)
        values[f"{name}_grad_normalized"] = torch.autograd.grad(even, x)[0][0]
    image = (256 / 255 * case["image"][None]).requires_grad_()
    pixels = VGG("vgg19_caffe", str(case_file(tmp_path))).preprocess(image)
    tv = 1e-3 * TOTAL_VARIATIONS["corners"](pixels)
    case.check(**values, preprocessed=pixels[0], tv_grad=torch.autograd.grad(tv, pixels)[0][0])


@pytest.mark.parametrize("name", ["loss_max_64x96", "loss_average_2styles_48x57"])
def test_modern(name: str, parity: Parity) -> None:
    case = parity(f"gatys_crowsonkb/{name}")
    options = case.meta["options"]
    model = preset("gatys.modern", case, pooling={"max": "max", "average": "avg_doubled"}[options["pooling"]])
    image = case["image"].requires_grad_()
    shares = blending_shares(options["style_weights"], len(case["styles"]))
    targets = model.targets(case["content"], list(case["styles"].split(1)), shares, 0.0)
    terms = weighted_terms(model, image, targets)
    total = torch.stack(list(terms.values())).sum()
    losses = torch.cat([terms["content"][None], style_terms(model, image, targets[1]), terms["tv"][None]])
    layer_weights = [w * model.loss_weights["style"] for w in model.perceptual.style_layers.values()]
    scale = torch.tensor([model.loss_weights["content"], *layer_weights, model.loss_weights["tv"]])
    (gradient,) = torch.autograd.grad(total, image)
    case.check(losses=losses, losses_raw=losses / scale, weights=scale, total=total, grad_image=gradient)


def test_modern_ops(parity: Parity) -> None:
    """Not ours: ScaledMSELoss (style_scaled, content_scaled), which the reference defines and does not use."""
    case = parity("gatys_crowsonkb/ops")
    image, x, matrix = (case[n].requires_grad_() for n in ("image", "x", "matrix"))
    tv = TOTAL_VARIATIONS["nine_point"](image)
    style = STYLE_STATISTICS["wasserstein"](x, case["target"])
    root = square_root(matrix)
    weighted = (root * torch.arange(144.0).reshape(1, 12, 12) / 144).sum()
    average = Average(0.99, torch.zeros_like(image))
    average.update(image)
    average.update(2 * image)
    sizes = [fitted(200, 300, 128), fitted(60, 100, 128), fitted(100, 60, 128)]
    case.check(
        tv=tv,
        tv_grad=torch.autograd.grad(tv, image)[0],
        style_w2=style,
        style_w2_grad=torch.autograd.grad(style, x)[0],
        content_mse=F.mse_loss(case["x"], case["x"].flip(-1)),
        matrix=case["psd"] @ case["psd"].transpose(1, 2) / 20 + 0.01 * torch.eye(12),
        sqrtm_ns_12=root,
        sqrtm_eig=root,  # the exact root
        sqrtm_ns_grad=torch.autograd.grad(weighted, matrix)[0],
        ema=average.value,
        gen_scales=torch.tensor(scales(128, 512), dtype=torch.float32),
        size_to_fit=torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32),
    )


# Presets


def test_presets_are_recipes() -> None:
    """By name and by path, SPECS of each reference; the default is what the class's defaults are."""
    default = stylezoo.load_model("gatys", encoder=THIN)
    assert dict(default.hparams) == dict(Gatys(encoder=THIN).hparams)
    assert default.hparams["init"] == "content" and default.hparams["min_scale"] == 128
    author, paper, neural_style, modern = (
        stylezoo.load_model(f"gatys.{name}", encoder=THIN).hparams
        for name in ("author", "paper", "neural_style", "modern")
    )
    assert (author["optimizer"], author["iterations"], author["style_loss"]) == ("lbfgs", 500, "gram_author")
    assert list(paper["style_layers"]) == [layer.replace("relu", "conv") for layer in STYLE_LAYERS]
    assert paper["style_weight"] / paper["content_weight"] == 1e3 and paper["pooling"] == "avg"
    assert (neural_style["content_weight"], neural_style["style_weight"], neural_style["tv_weight"]) == (5, 100, 1e-3)
    assert sum(modern["style_layers"].values()) * modern["style_weight"] == pytest.approx(1, rel=1e-12)
    assert (modern["lr"], modern["betas"], modern["average"]) == (0.02, [0.9, 0.99], 0.99)
    for name in ("gatys", "gatys_author", "gatys_paper", "gatys_neural_style", "gatys_modern"):
        recipe = read_recipe(ROOT / "experiments" / f"{name}.yaml")["model"]["init_args"]
        loaded = stylezoo.load_model(name.replace("_", ".", 1), encoder=THIN).hparams
        assert {key: loaded[key] for key in recipe} == {**recipe, "encoder": THIN}


def test_a_recipe_of_the_user(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"model:\n  class_path: Gatys\n  init_args: {{encoder: {THIN}, iterations: 3, style_weight: 1e2}}\n"
    )
    model = stylezoo.load_model(recipe, iterations=2)
    assert (model.hparams["iterations"], model.hparams["style_weight"]) == (2, 100.0)
    for text, message in (
        ("model: {class_path: Gatys, init_args: {speed: 3}}", "does not fit gatys: .*speed"),
        ("model: {class_path: Gatys, init_args: {iterations: many}}", "does not fit gatys: .*iterations.*int"),
        ("model: {class_path: SANet}", "recipe to train sanet"),
        ("model: {class_path: Nobody}", "is no recipe"),
        ("- 1", "must be a mapping of sections"),
    ):
        recipe.write_text(text)
        with pytest.raises(ValueError, match=message):
            stylezoo.load_model(recipe)
    with pytest.raises(FileNotFoundError, match=r"no recipe 'gatys.fast' \((did you mean|gatys has) .*or a file"):
        stylezoo.load_model("gatys.fast")


def test_a_missing_encoder_names_the_download() -> None:
    with pytest.raises(FileNotFoundError, match="stylezoo download vgg19_caffe"):
        stylezoo.load_model("gatys.paper")


def test_the_bare_name_is_the_first_recipe_at_hand() -> None:
    with pytest.warns(
        UserWarning, match=r"vgg19_caffe, which is not .* gatys.slim is used instead.*download vgg19_caffe"
    ):
        model = stylezoo.load_model("gatys")
    assert dict(model.hparams) == dict(stylezoo.load_model("gatys.slim").hparams)


def test_settings_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="tv must be 'absolute', 'corners' or 'nine_point', got 'l1'"):
        thin(tv="l1")
    with pytest.raises(ValueError, match="iterations must be greater than 0, got 0"):
        thin(iterations=0)
    with pytest.raises(ValueError, match="stop at relu3_1, relu5_1 is needed"):
        folder = VGG("vgg19_random/8", last="relu3_1")
        path = weights.folder() / "short.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(folder.tensors, path)
        Gatys(encoder="vgg19_caffe", encoder_weights=str(path))


# The optimization


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "lbfgs"},
        {"optimizer": "adam", "lr": 5.0},
        {"optimizer": "adam", "lr": 5.0, "normalize_gradients": True, "content_weight": 1e-3},
        {
            "optimizer": "adam",
            "lr": 0.02,
            "pixel_range": 1.0,
            "style_loss": "wasserstein",
            "clamp": True,
            "average": 0.9,
        },
    ],
)
def test_the_loss_falls(settings: dict[str, object]) -> None:
    """The style loss to less than half of the content's, and the content loss below the style image's."""
    model = thin(**{"iterations": 25, "content_weight": 0.1, **settings})
    output = model(CONTENT[:1], STYLE[:1])
    before, after = (model.losses(CONTENT[:1], STYLE[:1], image=image) for image in (CONTENT[:1], output))
    assert float(before["content"]) == 0
    assert float(after["style"]) < 0.5 * float(before["style"])
    assert float(after["content"]) < float(model.losses(CONTENT[:1], STYLE[:1], image=STYLE[:1])["content"])
    if settings.get("clamp"):
        assert float(output.min()) >= 0 and float(output.max()) <= 1


def test_lbfgs_takes_the_author_s_steps() -> None:
    """Against torch's L-BFGS on the author's loop: steps of 20 evaluations, in the network's space.

    In float64 (they differ by 7e-15), since its steps multiply rounding: see test_zoo.py's test_the_two_halves.
    """
    model = thin(iterations=20, content_weight=1e6, style_weight=1e6)  # or torch's limits would keep it where it is
    model, content, style = model.double(), CONTENT[:1].double(), STYLE[:1].double()
    mean = torch.tensor(CAFFE_MEAN_BGR[::-1], dtype=torch.float64)[:, None, None] / 255
    targets = model.targets(content, [style], [1.0], 0.0)
    pixels = (255 * (content - mean)).requires_grad_()
    optimizer = torch.optim.LBFGS([pixels])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(weighted_terms(model, pixels / 255 + mean, targets).values())
        loss.backward()  # type: ignore[union-attr]
        return loss  # type: ignore[return-value]

    optimizer.step(closure)
    expected = (pixels / 255 + mean).detach()
    assert float((expected - content).abs().mean()) > 0.01
    torch.testing.assert_close(model(content, style), expected, rtol=0, atol=1e-9)


def test_a_batch_optimizes_each_image_alone() -> None:
    model = thin(optimizer="lbfgs")
    batch = model(CONTENT, STYLE)
    singles = torch.cat([model(c[None], s[None]) for c, s in zip(CONTENT, STYLE, strict=True)])
    assert torch.equal(batch, singles)
    with torch.inference_mode():
        assert torch.equal(model(CONTENT.clone(), STYLE.clone()), batch)


def test_losses_are_means_over_the_batch() -> None:
    model = thin(tv_weight=1e-3)
    image = (CONTENT + STYLE) / 2
    both = model.losses(CONTENT, STYLE, image=image)
    singles = [model.losses(CONTENT[i : i + 1], STYLE[i : i + 1], image=image[i : i + 1]) for i in range(2)]
    for name, term in both.items():
        torch.testing.assert_close(term, (singles[0][name] + singles[1][name]) / 2)
    without = model.losses(CONTENT[:1], STYLE[:1])  # stylizes the content first
    torch.testing.assert_close(without, model.losses(CONTENT[:1], STYLE[:1], image=model(CONTENT[:1], STYLE[:1])))


def test_where_it_starts(tmp_path: Path) -> None:
    def first(**settings: object) -> Tensor:
        return thin(iterations=1, optimizer="adam", lr=1e-6, **settings)(CONTENT[:1], STYLE[:1])

    write_image(STYLE[1], tmp_path / "start.png")
    torch.testing.assert_close(first(), CONTENT[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(first(init_image=str(tmp_path / "start.png")), STYLE[1:], rtol=0, atol=3e-3)
    noise = first(init="noise", noise=25.5)
    mean = torch.tensor(CAFFE_MEAN_BGR[::-1]) / 255
    torch.testing.assert_close(noise.mean((0, 2, 3)), mean, rtol=0, atol=0.02)
    assert float(noise.std((2, 3)).mean()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noise, first(init="noise", noise=25.5)) and not torch.equal(
        noise, first(init="noise", noise=25.5, seed=1)
    )
    with pytest.raises(ValueError, match="nowhere.png does not exist"):
        first(init_image=str(tmp_path / "nowhere.png"))
    stylezoo.save_model(thin(init_image=str(tmp_path / "start.png")), tmp_path / "model.safetensors")
    assert stylezoo.load_model(tmp_path / "model.safetensors").hparams["init_image"] is None


def test_scales_go_from_coarse_to_fine() -> None:
    seen: list[Iteration] = []
    model = thin(min_scale=24, first_iterations=3, iterations=2, optimizer="adam", lr=5.0, style_scale=0.5)
    model.on_iteration = seen.append
    output = model(CONTENT[:1], STYLE[:1])
    assert [tuple(now.image.shape[1:]) for now in seen] == [(24, 20)] * 3 + [(34, 28)] * 2 + [(48, 40)] * 2
    assert [now.step for now in seen] == list(range(1, 8)) and {now.steps for now in seen} == {7}
    assert output.shape == CONTENT[:1].shape
    assert [scales(128, side) for side in (100, 128, 182)] == [[100], [128], [129, 182]]
    assert thin(min_scale=1)(CONTENT[:1, :, :17, :16], STYLE[:1]).shape[-2:] == (17, 16)


def test_several_styles_blend_their_moments() -> None:
    features = torch.rand(2, 6, 5, 4)
    a, b = (Moments.of(f[None]) for f in features)
    blend = blended([a, b], [0.25, 0.75])
    torch.testing.assert_close(gram(blend) / blend.positions, (gram(a) + 3 * gram(b)) / 4 / 20)
    torch.testing.assert_close(blend.mean, (a.mean + 3 * b.mean) / 4)
    model = thin(iterations=10)
    one, two = (Stylizer(model, [s])(CONTENT[:1]) for s in STYLE)
    both = Stylizer(model, list(STYLE), style_weights=[1, 1])(CONTENT[:1])
    to_one, to_two = (
        [float(model.losses(CONTENT[:1], s[None], image=image)["style"]) for image in (one, both, two)] for s in STYLE
    )
    assert to_one[0] < to_one[1] < to_one[2] and to_two[2] < to_two[1] < to_two[0]


def test_alpha_mixes_in_the_content_s_own_style() -> None:
    model = thin(iterations=10)
    code = model.encode_style(STYLE[:1])
    torch.testing.assert_close(model.decode(CONTENT[:1], code, alpha=0.0), CONTENT[:1], rtol=0, atol=1e-4)
    distances = [float((model.decode(CONTENT[:1], code, alpha=a) - CONTENT[:1]).abs().mean()) for a in (0.25, 0.5, 1.0)]
    assert distances == sorted(distances)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    content, style = torch.rand(2, 1, 3, 96, 80, generator=torch.Generator().manual_seed(1)).unbind()
    model = thin(
        iterations=3,
        optimizer="adam",
        lr=5.0,
        style_layers={"relu1_1": 1.0, "relu2_1": 1.0},
        content_layers={"relu2_1": 1.0},
    )
    whole = Stylizer(model, [style])(content)
    pieces: list[tuple[int, ...]] = []
    convolve = F.conv2d

    def noted(x: Tensor, *args: Any, **options: Any) -> Tensor:
        if not isinstance(x, StreamedMap) and x.shape[1] == 3:
            pieces.append(tuple(x.shape[-2:]))
        return convolve(x, *args, **options)

    monkeypatch.setattr(F, "conv2d", noted)
    tiled = Stylizer(model, [style], tile=32)(content)
    assert set(pieces) and (96, 80) not in pieces  # targets, every step, and the backward pass
    pieces.clear()
    again = Stylizer(model, [style])(content)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-3)
    assert (96, 80) in pieces and torch.equal(again, whole)  # no tile is left in the model


def test_flat_images_and_missing_numbers() -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    for style_loss in ("gram_author", "wasserstein"):
        assert thin(style_loss=style_loss)(flat, flat).isfinite().all()
    with pytest.raises(ValueError, match="gatys diverged at iteration 1 of 4 .loss nan.: check that content and style"):
        thin()(flat * float("nan"), flat)


# The command line


def test_stylize_shows_previews(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stylezoo.save_model(thin(iterations=5), tmp_path / "gatys.safetensors")
    written: list[str] = []
    monkeypatch.setattr(
        files, "write_image", lambda image, path, *quality: (written.append(path.name), write_image(image, path))
    )
    options = [
        "--model",
        str(tmp_path / "gatys.safetensors"),
        "--content",
        *(str(pictures / f"0{i}.png") for i in (0, 4)),
    ]
    options += ["--style", str(pictures / "01.png"), "--output", str(tmp_path / "out"), "--size", "32"]
    main(["stylize", *options, "--preview", "2"])
    names = [f"0{i}_stylized_01" for i in (0, 4)]
    assert written == [f"{n}{end}.png" for n in names for end in ("_preview", "_preview", "")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{n}.png" for n in names]
    alone = stylezoo.stylize(pictures / "00.png", pictures / "01.png", tmp_path / "gatys.safetensors", size=32)
    difference = to_tensor(read_image(tmp_path / "out" / f"{names[0]}.png")) - to_tensor(alone)
    assert float(difference.abs().max()) < 1e-6
    written.clear()
    main(["stylize", *options, "--preview", "0"])
    assert written == [f"{n}.png" for n in names]
