"""`RandomStylize` is a transform of torchvision like others, and stylizes what a model stylizes."""

from __future__ import annotations

import copy
import pickle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import thin_model
from PIL import Image
from processes import server
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import stylezoo
from stylezoo import StyleModel, StylezooError
from stylezoo.images import to_image, write_image
from stylezoo.inference import Stylizer, save_codes
from stylezoo.registry import systems
from stylezoo.transforms import PIXELS_AT_ONCE, RandomStylize, transforms

FEED_FORWARD = [name for name, cls in systems().items() if cls.kind != "optimization"]


def waves(count: int, height: int = 32, width: int = 40) -> Tensor:
    """Smooth images in [0, 1], which a thin network changes visibly."""
    low = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(count))
    return nn.functional.interpolate(low, size=(height, width), mode="bilinear")


@pytest.fixture(scope="module")
def model() -> StyleModel:
    return thin_model("adain").eval()


@pytest.fixture(scope="module")
def stylize(model: StyleModel) -> RandomStylize:
    return RandomStylize(1.0, styles=list(waves(3)), model=model, style_size=None)


def seeded(transform: Any, *sample: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transform(*sample)


def test_an_image_is_what_the_model_makes_of_it(model: StyleModel, stylize: RandomStylize) -> None:
    content = waves(5)[1]
    params = seeded(stylize.make_params, [content])
    expected = Stylizer(model, [waves(3)[int(params["styles"][0])]])(content[None])[0]
    assert torch.equal(seeded(stylize, content), expected) and float((expected - content).abs().mean()) > 0.02


def test_every_image_of_a_batch_has_a_style_of_its_own(stylize: RandomStylize) -> None:
    contents = waves(6)
    params = seeded(stylize.make_params, [contents])
    assert len(set(params["styles"].tolist())) > 1
    output = stylize.transform(contents, params)
    for index, content in enumerate(contents):
        own = {name: value[index:][:1] if isinstance(value, Tensor) else value for name, value in params.items()}
        assert float((stylize.transform(content, own) - output[index]).abs().max()) < 1e-4
    assert not torch.allclose(output[0], output[1])


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_every_system(name: str) -> None:
    """A batch in styles whose codes may differ in size equals its images one by one."""
    network = thin_model(name).eval()
    styles = [waves(1)[0], waves(1, 48, 32)[0], waves(2)[1]] if network.kind == "arbitrary" else None
    transform = RandomStylize(1.0, styles=styles, model=network, style_size=None)
    assert len(transform.bank) == (3 if styles else len(network.styles))
    contents = waves(4, 32, 32)
    params = seeded(transform.make_params, [contents])
    output = transform.transform(contents, params)
    assert output.shape == contents.shape and float((output - contents).abs().mean()) > 1e-3
    for index in (0, 3):
        own = {name: value[index:][:1] if isinstance(value, Tensor) else value for name, value in params.items()}
        error = (transform.transform(contents[index], own) - output[index]).abs()
        assert float(error.mean()) < 1e-3  # EFDM exchanges values of equal rank, which rounding may swap


def test_what_is_no_image_stays(stylize: RandomStylize) -> None:
    image = tv_tensors.Image(waves(1)[0])
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 3, 4]]), format="XYXY", canvas_size=(32, 40))  # type: ignore[call-overload]
    mask = tv_tensors.Mask(torch.ones(1, 32, 40, dtype=torch.uint8))
    target = {"boxes": boxes, "masks": mask, "label": torch.tensor(3), "more": torch.rand(3, 32, 40), "name": "cat"}
    output, found = seeded(stylize, image, target)
    assert type(output) is tv_tensors.Image and not torch.equal(output, image)
    assert all(found[key] is target[key] for key in target)
    assert type(v2.Compose([stylize, v2.Resize(16)])(image, target)[1]["boxes"]) is tv_tensors.BoundingBoxes


@pytest.mark.parametrize("shape", [(3, 32, 40), (1, 32, 40), (2, 3, 32, 40), (2, 2, 1, 32, 40), (0, 3, 32, 40)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_type_range_and_shape_stay(stylize: RandomStylize, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    image = waves(4)[:, : shape[-3]].flatten()[: torch.Size(shape).numel()].reshape(shape)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    output = seeded(stylize, image)
    assert output.shape == image.shape and output.dtype == dtype and type(output) is Tensor
    assert not output.is_inference() and not output.requires_grad
    if image.numel():
        assert not torch.equal(output, image)
        assert output.float().max() > (60 if dtype == torch.uint8 else 0.2)
        assert output.float().min() >= 0 and output.float().max() <= (255 if dtype == torch.uint8 else 1)


def test_outputs_take_part_in_training(stylize: RandomStylize) -> None:
    layer = nn.Conv2d(3, 2, 3)
    layer(stylize(waves(2))).mean().backward()
    assert layer.weight.grad is not None and not any(True for _ in stylize.parameters())


def test_uint8_is_rounded(stylize: RandomStylize) -> None:
    image = (waves(1)[0] * 255).round().to(torch.uint8)
    exact = 255 * seeded(stylize, image / 255)
    assert float((exact - seeded(stylize, image).float()).abs().max()) <= 0.51


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_images(stylize: RandomStylize, mode: str) -> None:
    image = to_image(waves(1)[0]).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    output = seeded(stylize, image)
    assert output.mode == mode and output.size == image.size and output.tobytes() != image.tobytes()
    if mode.endswith("A"):
        assert output.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    if mode == "RGB":
        tensor = seeded(stylize, v2.functional.to_image(image))
        assert torch.equal(v2.functional.to_image(output), tensor)


def test_frames_of_a_video_share_a_style(stylize: RandomStylize) -> None:
    frame = waves(1)[0]
    video = tv_tensors.Video(frame.expand(2, 3, 3, 32, 40).clone())
    for seed in range(9):  # until the two videos differ
        output = seeded(stylize, video, seed=seed)
        assert type(output) is tv_tensors.Video
        torch.testing.assert_close(output[:, 0], output[:, 2], rtol=0, atol=1e-4)
        if not torch.allclose(output[0, 0], output[1, 0], atol=1e-2):
            return
    pytest.fail("both videos always have one style")


def test_images_of_a_sample_share_their_styles(stylize: RandomStylize) -> None:
    image = waves(1)[0]
    left, right = seeded(stylize, tv_tensors.Image(image), tv_tensors.Image(image.clone()))
    assert torch.equal(left, right)


def test_probability_strength_and_seed(model: StyleModel) -> None:
    contents = waves(64, 16, 16)
    transform = RandomStylize(0.25, (0.2, 0.6), list(waves(3)), model)
    first, again, other = (seeded(transform, contents, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    changed = (first != contents).flatten(1).any(1)
    assert 6 <= int(changed.sum()) <= 28
    drawn = [transform.make_params([contents])["alpha"] for _ in range(50)]
    assert 0.2 <= min(drawn) < 0.3 and 0.5 < max(drawn) <= 0.6
    weak, strong = (
        float((RandomStylize(1.0, alpha, list(waves(1)), model)(contents) - contents).abs().mean())
        for alpha in (0.5, 1.0)
    )
    assert weak != strong
    never = RandomStylize(0.0, 1.0, list(waves(1)), model)
    assert never(contents) is contents


def test_a_large_batch_goes_through_the_network_in_parts(
    stylize: RandomStylize, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = waves(5)
    whole = seeded(stylize, contents)
    seen: list[int] = []
    call = Stylizer.__call__
    monkeypatch.setattr(Stylizer, "__call__", lambda self, images: (seen.append(len(images)), call(self, images))[1])
    monkeypatch.setattr("stylezoo.transforms.PIXELS_AT_ONCE", 2 * 32 * 40)
    torch.testing.assert_close(seeded(stylize, contents), whole, rtol=0, atol=1e-4)
    assert seen == [2, 2, 1] and PIXELS_AT_ONCE > 2 * 32 * 40


def test_size_is_that_of_the_stylization_alone(model: StyleModel) -> None:
    content = waves(1)
    transform = RandomStylize(1.0, 1.0, list(waves(1)), model, size=64, style_size=None)
    output = seeded(transform, content)
    larger = transforms.resize(content, [64], antialias=True).clamp(0, 1)
    expected = transforms.resize(Stylizer(model, list(waves(1)))(larger), [32, 40], antialias=True).clamp(0, 1)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    assert seeded(transform, torch.rand(3, 8, 8)).shape == (3, 8, 8)


def test_files_folders_and_banks(model: StyleModel, tmp_path: Path) -> None:
    for name, style in zip(("a", "b"), waves(2), strict=True):
        write_image(style, tmp_path / "styles" / f"{name}.png")
    stylezoo.save_model(model, tmp_path / "model.safetensors")
    folder = RandomStylize(1.0, 1.0, str(tmp_path / "styles"), tmp_path / "model.safetensors")
    assert list(folder.bank) == ["a", "b"]
    save_codes(tmp_path / "bank.safetensors", folder.bank, folder.runner.model)
    content = waves(1)
    for styles, names in (
        ([tmp_path / "styles" / "b.png", tmp_path / "styles" / "a.png"], ["b", "a"]),
        (tmp_path / "bank.safetensors", ["a", "b"]),
        (f"{tmp_path / 'bank.safetensors'}:b", ["b"]),
        ([f"{tmp_path}/styles/*.png", waves(2)[0], f"{tmp_path}/styles/a.png"], ["a", "b", "style2", "a_3"]),
    ):
        transform = RandomStylize(1.0, 1.0, styles, tmp_path / "model.safetensors")  # type: ignore[arg-type]
        assert list(transform.bank) == names
        for name in {"a", "b"} & set(names):
            for key, tensor in folder.bank[name].items():
                torch.testing.assert_close(transform.bank[name][key], tensor, rtol=0, atol=1e-6)
        assert transform(content).shape == content.shape


def test_trained_styles() -> None:
    network = thin_model("cin").eval()
    every = RandomStylize(1.0, 1.0, None, network)
    assert list(every.bank) == network.styles
    named = RandomStylize(1.0, 1.0, [network.styles[1], 0], network)
    assert len(named.bank) == 2
    expected = Stylizer(network, [network.styles[1]])(waves(1))
    params = {"chosen": torch.tensor([True]), "styles": torch.tensor([0]), "alpha": 1.0}
    assert torch.equal(named.transform(waves(1), params), expected)


class Samples(Dataset[Tensor]):
    """A data set whose images are transformed, as in torchvision."""

    def __init__(self, transform: RandomStylize) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        output: Tensor = self.transform(waves(4)[index])
        return output


@pytest.mark.slow
def test_workers_of_a_data_loader(tmp_path: Path) -> None:
    """They get the codes and the name of the model; with one seed forked ones and those that read a pickle draw the same."""
    stylezoo.save_model(thin_model("adain"), tmp_path / "model.safetensors")
    transform = RandomStylize(0.7, (0.5, 1.0), list(waves(3)), str(tmp_path / "model.safetensors"))
    batches = {}
    for way in (get_context("fork"), server()):
        torch.manual_seed(5)
        workers = {"num_workers": 1, "multiprocessing_context": way}
        batches[way.get_start_method()] = next(iter(DataLoader(Samples(transform), batch_size=4, **workers)))  # type: ignore[arg-type]
    torch.testing.assert_close(batches["fork"], batches["forkserver"], rtol=0, atol=1e-5)
    assert not torch.allclose(batches["fork"], waves(4))


def test_copies(stylize: RandomStylize, model: StyleModel, tmp_path: Path) -> None:
    stylezoo.save_model(model, tmp_path / "model.safetensors")
    named = RandomStylize(1.0, 1.0, list(waves(3)), str(tmp_path / "model.safetensors"))
    content = waves(2)
    assert len(pickle.dumps(named)) < 50_000 < (tmp_path / "model.safetensors").stat().st_size
    for transform in (named, stylize):
        for twin in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
            torch.manual_seed(3)
            twin.runner  # noqa: B018 - loads the model, which takes no random numbers
            assert torch.equal(twin(content), seeded(transform, content, seed=3))
    assert repr(named).startswith("RandomStylize(p=1.0, alpha=(1.0, 1.0)") and "model.safetensors" in repr(named)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": 1.5}, "p is the probability with which an image is stylized, between 0 and 1, not 1.5."),
        (
            {"alpha": 2},
            "alpha is the strength of the style between 0 and 1, or the smallest and the largest strength, such",
        ),
        ({"alpha": (0.8, 0.2)}, "not 0.8 down to 0.2."),
        ({"alpha": (0.1, 0.2, 0.3)}, "alpha is the strength"),
        ({"alpha": "strong"}, "alpha is the strength"),
        ({"styles": None}, "adain takes any image as style: give at least one"),
        ({"styles": []}, "adain takes any image as style: give at least one"),
        ({"styles": "nowhere.png"}, "nowhere.png does not exist."),
        ({"styles": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"styles": [3]}, "a file"),
        ({"size": 3}, "size is the short side in pixels that contents are resized to"),
        ({"engine": "fast"}, "engine must be"),
        ({"engine": "compiled"}, "The engine compiled prepares for each number and size of images"),
        ({"device": "abacus"}, "There is no device 'abacus' on this machine"),
        ({"model": "adian"}, "did you mean 'adain'?"),
    ],
)
def test_wrong_arguments_get_one_sentence(model: StyleModel, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StylezooError) as caught:
        RandomStylize(**{"styles": list(waves(1)), "model": model, **changes})
    assert message in str(caught.value) or (message == "a file" and "int" in str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


def test_models_that_do_not_fit() -> None:
    with pytest.raises(StylezooError, match="gatys optimizes each image for minutes"):
        RandomStylize(styles=list(waves(1)), model=thin_model("gatys"))
    with pytest.raises(StylezooError, match="leave alpha at 1"):
        RandomStylize(alpha=(0.5, 1.0), model=thin_model("johnson"))
    with pytest.raises(StylezooError, match="leave style out"):
        RandomStylize(styles=list(waves(1)), model=thin_model("johnson"))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(32, 40), r"takes images \(\.\.\., C, H, W\) with 1 or 3 channels, uint8 or floats in \[0, 1\]"),
        (torch.rand(4, 32, 40), "with 1 or 3 channels"),
        (torch.randint(9, (3, 32, 40)), "uint8 or floats"),
        (torch.rand(3, 32, 40) * 200, r"not in \[0, 1\]: divide them by 255."),
        (torch.randn(3, 32, 40) * 9, r"not in \[0, 1\]: scale or clamp them first."),
        (torch.full((3, 32, 40), torch.nan), "no finite numbers"),
        (torch.rand(3, 8, 8), "A content image of 8 x 8 pixels is too small: 16 are needed."),
        (Image.new("P", (32, 32)), r"not P: convert\('RGB'\) first."),
    ],
)
def test_wrong_images_get_one_sentence(stylize: RandomStylize, image: Any, message: str) -> None:
    with pytest.raises(StylezooError, match=message):
        stylize(image)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(model: StyleModel, stylize: RandomStylize) -> None:
    """The output is on the device of the image, wherever the model is."""
    contents = waves(4)
    expected = seeded(stylize, contents)
    on_gpu = RandomStylize(1.0, styles=list(waves(3)), model=copy.deepcopy(model), device="cuda", engine="eager")
    for images in (contents, contents.cuda()):
        output = seeded(on_gpu, images)
        assert output.device == images.device
        torch.testing.assert_close(output.cpu(), expected, rtol=0, atol=1e-3)
    assert seeded(stylize, contents.cuda()).device.type == "cuda"
