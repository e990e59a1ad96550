"""What holds for every metric: batches and processes change nothing, sums are exact, values carry their key."""

from __future__ import annotations

from pathlib import Path

import pytest
import sync_process
import torch
from every_metric import METRICS, OF_CONTENT, OF_STYLE, THIN, alexnet, some_images, update
from processes import ends, start
from torchmetrics import MetricCollection

import stylezoo.metrics
from stylezoo.metrics import (
    LPIPS,
    SSIM,
    AlexNet,
    ClassicStyleLoss,
    ContentLoss,
    MetricKey,
    MetricValue,
    PairMetric,
    StyleLoss,
    WarpError,
    content_loss,
    style_loss,
)
from stylezoo.vgg import VGG


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> AlexNet:
    return alexnet(tmp_path_factory.mktemp("alexnet"))


@pytest.fixture(scope="module")
def at_once(network: AlexNet) -> dict[str, MetricValue]:
    """Every metric of all images in one batch."""
    results = {}
    for name, build in METRICS.items():
        metric = build(network)
        update(metric, some_images())
        results[name] = metric.result()
    return results


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_processes_do_not_matter(name: str, network: AlexNet, at_once: dict[str, MetricValue]) -> None:
    """One batch, a stream of batches, and sums that two processes added to each other give one value."""
    stream, first, second = (METRICS[name](network) for _ in range(3))
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        update(stream, some_images(), part)
    update(first, some_images(), slice(0, 2))
    update(second, some_images(), slice(2, 5))
    first.merge_state(second)
    for result in (stream.result(), first.result()):
        assert result.n == 5 and result.key == at_once[name].key
        assert result.value == pytest.approx(at_once[name].value, rel=1e-5)
    stream.reset()
    assert stream.n == 0
    with pytest.raises(ValueError, match="has no images yet: call update first"):
        stream.result()


def test_two_processes(at_once: dict[str, MetricValue], tmp_path: Path) -> None:
    """Over a real process group, with parts of different sizes; each process keeps its own part afterwards."""
    other = start(sync_process.measure, tmp_path, 1, folder=tmp_path, environment={"CUDA_VISIBLE_DEVICES": ""})
    try:
        values = sync_process.measure(tmp_path, rank=0)
        assert ends(other) == 0
    finally:
        other.kill()
    assert values.keys() == METRICS.keys()
    for name, (value, n, own) in values.items():
        assert (n, own) == (5, 2), name
        assert value == pytest.approx(at_once[name].value, rel=1e-5), name


@pytest.mark.parametrize("name", [*OF_CONTENT, *OF_STYLE, "supremum"])
def test_mean_of_the_values_per_pair(name: str, network: AlexNet, at_once: dict[str, MetricValue]) -> None:
    metric, batch = METRICS[name](network), some_images()
    assert isinstance(metric, PairMetric)
    reference = batch["content" if name in OF_CONTENT else "style"]
    values = metric.values(batch["output"], reference)
    assert values.shape == (5,)
    assert values.unique().numel() == 5
    singles = [metric.values(a[None], b[None]) for a, b in zip(batch["output"], reference, strict=True)]
    torch.testing.assert_close(torch.cat(singles), values, rtol=1e-4, atol=1e-6)
    assert float(values.double().mean()) == pytest.approx(at_once[name].value, rel=1e-6)
    assert metric.n == 0  # values are not added to the sums


@pytest.mark.parametrize("name", METRICS)
def test_sums_are_float64(name: str, network: AlexNet) -> None:
    metric = METRICS[name](network)
    update(metric, some_images())
    states = {key: state for key, state in metric.metric_state.items() if isinstance(state, torch.Tensor)}
    assert states
    assert all(state.dtype == torch.float64 for state in states.values())
    assert metric.compute().dtype == torch.float64


def test_sums_keep_what_float32_loses() -> None:
    metric = SSIM()
    for value in (1e9, *[0.25] * 1000):
        metric._add(torch.tensor([value]))
    assert float(metric.total) == 1e9 + 250
    assert float(torch.tensor([1e9, *[0.25] * 1000]).cumsum(0)[-1]) != 1e9 + 250


@pytest.mark.parametrize("name", ["content", "style", "classic", "lpips", "cfsd", "fid", "art_fid", "histogan"])
def test_mixed_precision_changes_nothing(name: str, network: AlexNet, at_once: dict[str, MetricValue]) -> None:
    metric = METRICS[name](network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        update(metric, some_images())
    assert metric.result().value == pytest.approx(at_once[name].value, rel=1e-6)


def test_functions_on_features_are_the_classes_on_images() -> None:
    batch = some_images()
    features = {name: THIN(images, ["relu2_1", "relu4_1"]) for name, images in batch.items()}
    layers = {"relu2_1": 0.5, "relu4_1": 2.0}
    torch.testing.assert_close(
        content_loss(features["output"], features["content"], layers, "normalized"),
        ContentLoss(THIN, layers, "normalized").values(batch["output"], batch["content"]),
    )
    torch.testing.assert_close(
        style_loss(features["output"], features["style"], layers, "gram_johnson"),
        StyleLoss(THIN, layers, "gram_johnson").values(batch["output"], batch["style"]),
    )


def test_collections_pass_each_metric_what_it_asks_for(network: AlexNet) -> None:
    metrics = {"lpips": LPIPS(network), "style": StyleLoss(THIN), "ssim": SSIM()}
    collection = MetricCollection(metrics, compute_groups=False)
    collection.update(**some_images())
    assert {name: float(value) for name, value in collection.compute().items()} == {
        name: metric.result().value for name, metric in metrics.items()
    }


def test_keys_hold_everything(network: AlexNet, at_once: dict[str, MetricValue]) -> None:
    keys = {name: result.key for name, result in at_once.items()}
    assert len(set(keys.values())) == len(keys)
    assert (keys["content"].backbone, keys["content"].sha256) == ("vgg19_random/8", THIN.sha256)
    assert keys["lpips"].sha256 == network.sha256 and len(keys["lpips"].sha256) == 64
    assert keys["content_normalized"].resize == "square32"
    assert dict(keys["content_normalized"].settings) == {
        "loss": "normalized",
        "layers": "2 relu3_1",
        "channels": "rgb",
    }
    assert dict(keys["art_fid"].settings)["content_sha256"] == network.sha256
    assert dict(keys["art_fid"].settings)["outputs"] == 5
    assert WarpError().key == MetricKey("warp_error", settings=(("motions", "shift rotate zoom tilt"),))


def test_other_weights_and_options_are_other_keys() -> None:
    keys = [
        ContentLoss(VGG("vgg19_random/8")).key,
        ContentLoss(VGG("vgg19_random/16")).key,
        ContentLoss(VGG("vgg19_random/8", pooling="avg")).key,
        ContentLoss(VGG("vgg19_random/8", padding="zeros")).key,
        ContentLoss(VGG("vgg19_random/8", ceil_mode=False)).key,
        ContentLoss(VGG("vgg19_random/8", first_padding="replicate")).key,
        ContentLoss(VGG("vgg19_random/8"), {"relu4_1": 1.0}).key,
        ContentLoss(VGG("vgg19_random/8"), resize="short48").key,
        ContentLoss(VGG("vgg19_random/8"), images="png").key,
    ]
    assert len(set(keys)) == len(keys)
    assert ContentLoss(VGG("vgg19_random/8")).key == keys[0]
    moved = VGG("vgg19_random/8")
    with torch.no_grad():
        moved.convs["conv1_1"].bias[0] += 1e-3
    assert ContentLoss(moved).key.differences(keys[0]) == [f"sha256 ({moved.sha256}, {keys[0].sha256})"]


def test_comparisons_within_a_key() -> None:
    key = MetricKey("lpips", "alexnet", "5e", "short512", "png", (("a", 1),))
    first, second = MetricValue(0.5, 800, key), MetricValue(0.4, 400, key)
    assert first.difference(second) == pytest.approx(0.1)
    assert first.ratio(second) == pytest.approx(1.25)
    assert sorted([first, second]) == [second, first] and min(first, second) is second


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "cfsd"}, "metric \\(lpips, cfsd\\)"),
        ({"backbone": "vgg16"}, "backbone \\(alexnet, vgg16\\)"),
        ({"sha256": "7f"}, "sha256 \\(5e, 7f\\)"),
        ({"resize": "native"}, "resize \\(short512, native\\)"),
        ({"images": "jpeg95"}, "images \\(png, jpeg95\\)"),
        ({"settings": (("a", 2),)}, "a \\(1, 2\\)"),
        ({"settings": ()}, "a \\(1, None\\)"),
    ],
)
def test_comparisons_across_keys_are_refused(change: dict[str, object], words: str) -> None:
    same = {"metric": "lpips", "backbone": "alexnet", "sha256": "5e", "resize": "short512", "images": "png"}
    first = MetricValue(0.5, 800, MetricKey(**same, settings=(("a", 1),)))  # type: ignore[arg-type]
    second = MetricValue(0.4, 800, MetricKey(**{**same, "settings": (("a", 1),), **change}))  # type: ignore[arg-type]
    for compare in (first.difference, first.ratio, first.__lt__):
        with pytest.raises(ValueError, match=f"^These values differ in {words} and cannot be compared: measure"):
            compare(second)
    with pytest.raises(ValueError, match="cannot be compared"):
        sorted([first, second])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ContentLoss(THIN, loss="l1"), "There is no loss 'l1': choose one of plain"),
        (lambda: StyleLoss(THIN, statistic="grams"), "There is no loss 'grams': choose one of mean_std"),
        (lambda: SSIM(resize="512"), "There is no resize rule '512': give native, short512 or square256"),
        (lambda: LPIPS(THIN), "LPIPS needs AlexNet"),
        (lambda: WarpError(["spin"]), "There is no motion 'spin': choose from shift"),
        (
            lambda: SSIM().values(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 40)),
            "ssim compares images of one size, not 32 x 32 and 40 x 32",
        ),
        (
            lambda: StyleLoss(THIN).values(torch.rand(2, 3, 32, 32), torch.rand(1, 3, 32, 32)),
            "style_loss compares pairs, but there are 2 outputs and 1 references",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]


def test_sizes_may_differ_where_they_mean_nothing() -> None:
    style = torch.rand(1, 3, 40, 56)
    for metric in (StyleLoss(THIN), ClassicStyleLoss(THIN), stylezoo.metrics.HistoGANDistance(bins=8)):
        assert torch.isfinite(metric.values(torch.rand(1, 3, 32, 32), style)).all()
    assert SSIM(resize="square32").values(torch.rand(1, 3, 40, 40), style).shape == (1,)
