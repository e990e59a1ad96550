"""Tables of quality: what they measure, what they quote, and what they say when a file is missing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, thin_model
from torch import Tensor, nn

from stylezoo import StyleModel, studies
from stylezoo.checkpoints import save_model
from stylezoo.cli import main
from stylezoo.losses import normalized_content_loss
from stylezoo.metrics import (
    FID,
    LPIPS,
    SSIM,
    ArtFID,
    BalancedStyleLoss,
    ClassicStyleLoss,
    ContentLoss,
    HistoGANDistance,
    StyleLoss,
)
from stylezoo.metrics.temporal import warp_error
from stylezoo.studies import balanced_loss as balanced
from stylezoo.studies import styleid, stytr2_losses
from stylezoo.studies.base import StudyResult
from stylezoo.studies.loss_exemplars import exemplars
from stylezoo.studies.material import Material
from stylezoo.studies.pairs import IDENTITY, STYLE_COPY, ImagePairs, measuring_network, product_pairs, random_pairs
from stylezoo.vgg import VGG

pytest.importorskip("matplotlib", reason="studies draw figures (pip install stylezoo[docs])")

SCIPY = "the expected values are SciPy's, which comes with scikit-image"

BASELINES = {IDENTITY, STYLE_COPY}


@pytest.fixture(scope="module")
def model() -> StyleModel:
    return thin_model("adain").eval()


@pytest.fixture(scope="module")
def model_file(model: StyleModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "thin.safetensors"
    save_model(model, path)
    return str(path)


@pytest.fixture
def study(model_file: str, pictures: Path) -> Any:
    """study(name, ...) runs a study with the thin model."""
    settings = {"models": (model_file,), "content": str(pictures), "style": str(pictures), "size": 48}
    return lambda name, **others: studies.get(name)(**{**settings, **others})


@pytest.fixture
def pairs(pictures: Path) -> ImagePairs:
    return random_pairs(Material(str(pictures), str(pictures)), 5, 48, held_out=False)


def batches(pairs: ImagePairs, model: StyleModel) -> tuple[Tensor, Tensor, Tensor]:
    """All contents, styles and outputs."""
    contents, styles = (torch.cat(side) for side in zip(*pairs, strict=True))
    with torch.inference_mode():
        return (
            contents,
            styles,
            torch.cat([model(c[None], s[None]).clamp(0, 1) for c, s in zip(contents, styles, strict=True)]),
        )


# The pairs


def test_every_image_is_drawn_once_before_any_is_drawn_again(pictures: Path) -> None:
    def drawn(seed: int, count: int) -> list[tuple[Path, Path]]:
        material = Material(str(pictures), str(pictures), seed=seed)
        return list(random_pairs(material, count, 32, held_out=False).files)

    for side in zip(*drawn(0, 24), strict=True):
        assert len(set(side[:12])) == len(set(side[12:])) == 12
    photos, paintings = zip(*drawn(0, 12), strict=True)
    assert photos != paintings and photos != tuple(sorted(photos))
    assert drawn(0, 12) == drawn(0, 12) == drawn(0, 30)[:12] != drawn(1, 12)


def test_product_of_photos_and_paintings(pictures: Path) -> None:
    material = Material(str(pictures), str(pictures))
    whole, part = (product_pairs(material, count, 32, held_out=False) for count in (800, 30))
    names = sorted(path.name for path in pictures.iterdir())
    assert [(a.name, b.name) for a, b in whole.files] == [(a, b) for a in names for b in names]
    assert len(part) == 30 and set(part.files) < set(whole.files)
    assert len({painting for _, painting in part.files}) > 6  # not the first few alone
    assert [image.shape for image in part[29]] == [(1, 3, 32, 32)] * 2


@pytest.mark.parametrize("name", ["balanced_loss", "loss_distributions", "stytr2_losses", "styleid"])
def test_no_pairs(name: str, study: Any) -> None:
    with pytest.raises(ValueError, match="images is a number of images or pairs, at least 1, not 0"):
        study(name, images=0, models=(), steps=10**9)  # known before anything is trained


def test_the_network_that_measures(model: StyleModel) -> None:
    microast = thin_model("microast")
    assert not list(microast.encoders())
    own = measuring_network({"microast": microast, "adain": model}, None, None)
    assert own is next(vgg for _, vgg in model.encoders())
    assert measuring_network({"microast": microast}, None, None).name == "vgg19_slim"
    assert measuring_network({"adain": model}, "vgg16_random/8", None).name == "vgg16_random/8"


# Balanced and classic losses


def test_losses_are_those_of_the_metrics(model: StyleModel, pairs: ImagePairs) -> None:
    network = VGG("vgg16_random/8", last="relu4_3")
    losses = balanced.ast_losses({"thin": model}, pairs, network)
    contents, styles, outputs = batches(pairs, model)
    assert losses.layers == ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    for label, shown in (("thin", outputs), (IDENTITY, contents)):
        totals = losses.totals(label)
        for quantity, metric in (("classic", ClassicStyleLoss(network)), ("balanced", BalancedStyleLoss(network))):
            torch.testing.assert_close(totals[quantity].float(), metric.values(shown, styles), rtol=1e-4, atol=0)
        torch.testing.assert_close(
            losses.similarity[label].float(), SSIM().values(shown, contents), rtol=1e-4, atol=1e-5
        )
        assert losses.balanced(label).min() > 0 and losses.balanced(label).max() < 1
    assert losses.similarity[IDENTITY].min() == pytest.approx(1)
    assert losses.classic[STYLE_COPY].max() == losses.balanced(STYLE_COPY).max() == 0


def test_tables_of_the_same_pairs_stylize_them_once(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other pairs are stylized again."""
    measured = []
    losses = balanced.ast_losses
    monkeypatch.setattr(balanced, "ast_losses", lambda *args: measured.append(len(args[1])) or losses(*args))
    rows = [study(name, images=4).rows for name in ("balanced_loss", "loss_distributions", "supremum_correlation")]
    assert measured == [4] and all(rows)
    study("loss_distributions", images=4, seed=1)
    assert measured == [4, 4]


def test_the_bound_is_checked(model: StyleModel, pairs: ImagePairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balanced, "style_supremum", lambda *pair: balanced.classic_style_loss(*pair) / 1.01)
    with pytest.raises(ValueError, match=r"balanced loss of .* lies between 1.01 and 1.01, not in \[0, 1\]"):
        balanced.ast_losses({"thin": model}, pairs, VGG("vgg19_random/8"))
    monkeypatch.undo()
    broken = thin_model("adain")
    with torch.no_grad():
        next(p for p in broken.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(ValueError, match="balanced loss of broken lies between nan and nan"):
        balanced.ast_losses({"broken": broken.eval()}, pairs, VGG("vgg19_random/8"))


def test_rows_have_their_published_numbers(model_file: str, study: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_model(thin_model("sanet", style_loss="balanced_gram"), other)
    result: StudyResult = study("balanced_loss", models=(model_file, str(other)), images=3)
    rows = {(row["system"], row["trained with"]): row for row in result.rows if row["system"]}
    assert rows.keys() == balanced.PAPER.keys() == balanced.RERUN.keys() and len(rows) == 9
    for place, row in rows.items():
        assert [row[f"paper: {q} (found)"] for q in ("balanced", "classic")] == list(balanced.PAPER[place].values())
        assert [row[f"re-run: {q} (found)"] for q in ("balanced", "classic")] == list(balanced.RERUN[place].values())
        assert (row["balanced"] is not None) == (row["model"] in ("thin", "other"))
    assert rows["adain", "own loss"]["model"] == "thin" and rows["sanet", "balanced loss"]["model"] == "other"
    assert [row["model"] for row in result.rows if not row["system"]] == [IDENTITY, STYLE_COPY]

    ratios = {(row["system"], row["trained with"]): row for row in result.details["ratios"]}
    assert ratios["adain", "own loss"]["balanced"] == ratios["adain", "own loss"]["re-run: classic (found)"] == 1
    assert ratios["sanet", "balanced loss"]["paper: balanced (found)"] == pytest.approx(0.21 / 0.33)
    own, others = (rows[place]["classic"] for place in (("adain", "own loss"), ("sanet", "balanced loss")))
    assert ratios["sanet", "balanced loss"]["classic"] == pytest.approx(others / own)
    assert "balanced with paper: balanced (found): too few models have both numbers" in " ".join(result.notes)
    assert (
        "re-run: balanced (found) with paper: balanced (found): Kendall's tau +0.25 over 9 models (p = 0.17)"
        in " ".join(result.notes)
    )
    layers = [row for row in result.details["layers"] if row["model"] == "thin"]
    assert sum(float(row["balanced"]) for row in layers) == pytest.approx(rows["adain", "own loss"]["balanced"])


def test_the_identity_baseline_puts_the_re_run_into_place(study: Any) -> None:
    sentence = balanced._beyond_identity(1.85)
    assert "have 1.85" in sentence and sentence.endswith(
        "sanet, classic loss: 2.8; linear_transfer, classic loss: 2.0."
    )
    assert balanced._beyond_identity(3.0).endswith("none.")
    assert "unchanged photos have" not in " ".join(study("balanced_loss", images=1).notes)  # another network's numbers


@pytest.mark.parametrize(
    ("system", "loss", "expected"),
    [
        ("adain", None, "own loss"),
        ("adain", "gram_raw", "classic loss"),
        ("adain", "balanced_gram", "balanced loss"),
        ("adain", "wasserstein", "wasserstein"),
        ("linear_transfer", None, "own loss"),
        ("linear_transfer", "gram_raw", "classic loss"),
        ("efdm", None, "own loss"),
    ],
)
def test_which_training_a_model_had(system: str, loss: str | None, expected: str) -> None:
    assert balanced.trained_with(thin_model(system, **({"style_loss": loss} if loss else {}))) == expected


def test_files_that_stop_early_serve_the_layers_they_have(study: Any, tmp_path: Path) -> None:
    whole = VGG("vgg16_random/8", last="relu3_3")
    torch.save(whole.tensors, tmp_path / "short.pth")
    encoder = {"encoder": "vgg16_random/8", "encoder_weights": str(tmp_path / "short.pth")}
    result: StudyResult = study("balanced_loss", images=2, **encoder)
    assert {row["layer"] for row in result.details["layers"]} == {"relu1_2", "relu2_2", "relu3_3"}
    assert "at relu1_2, relu2_2, relu3_3. Its file does not reach relu4_3: left out." in result.notes[-1]
    assert f"sha256 {whole.sha256[:12]}" in result.notes[-1] and "compare with the paper's at best" in result.notes[-1]
    with pytest.raises(ValueError, match="has none of the layers relu4_1"):
        study("content_leak", images=1, **encoder)


def test_distributions_and_correlations_come_from_the_same_pairs(study: Any) -> None:
    spread: StudyResult = study("loss_distributions", images=8)
    correlation: StudyResult = study("supremum_correlation", images=8)
    pairs = [row for row in spread.details["pairs"] if row["model"] == "thin"]
    assert len(pairs) == 8

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in pairs])

    classic = next(row for row in spread.rows if (row["model"], row["loss"]) == ("thin", "classic"))
    low, high = np.percentile(column("classic"), [5, 95])
    assert (classic["5 %"], classic["95 %"]) == (pytest.approx(low), pytest.approx(high))
    assert classic["95 % / 5 %"] == pytest.approx(high / low)
    assert classic["largest / smallest"] == pytest.approx(column("classic").max() / column("classic").min())
    scipy = pytest.importorskip("scipy.stats", reason=SCIPY)
    assert classic["skewness"] == pytest.approx(scipy.skew(column("classic")))
    assert classic["paper: largest / smallest, more than (found)"] == 1000

    for row in (row for row in correlation.rows if row["model"] == "thin"):
        both = column(f"classic {row['layer']}"), column(f"supremum {row['layer']}")
        assert row["Pearson"] == pytest.approx(np.corrcoef(*both)[0, 1], rel=1e-5)
        assert row["Pearson of logarithms"] == pytest.approx(np.corrcoef(*np.log(both))[0, 1], rel=1e-5)
        assert row["paper: Pearson, about (found)"] == 1
        quotient = both[0] / both[1]
        assert row["variation of the balanced loss"] == pytest.approx(quotient.std(ddof=1) / quotient.mean(), rel=1e-5)
    assert {row["model"] for row in correlation.rows} == {"thin", IDENTITY}
    with pytest.raises(ValueError, match="at least three pairs"):
        study("supremum_correlation", images=2)


def test_exemplars_are_the_extremes(model: StyleModel, pairs: ImagePairs, study: Any) -> None:
    losses = balanced.ast_losses({"thin": model}, pairs, VGG("vgg19_random/8"))
    chosen = exemplars(losses, "thin", 2)
    assert list(chosen) == ["lowest classic", "highest classic", "lowest balanced", "highest balanced"]
    for quantity, values in losses.totals("thin").items():
        order = np.argsort(values.numpy())
        assert chosen[f"lowest {quantity}"] == order[:2].tolist()
        assert chosen[f"highest {quantity}"] == order[:-3:-1].tolist()
    with pytest.raises(ValueError, match=r"from 1 to images \(3\), not 4"):
        study("loss_exemplars", images=3, examples=4)


def test_both_sides_of_the_rank_correlation_with_ssim(model: StyleModel, pairs: ImagePairs, study: Any) -> None:
    losses = balanced.ast_losses({"thin": model}, pairs, next(vgg for _, vgg in model.encoders()))
    totals, similarity = losses.totals("thin"), losses.similarity["thin"]
    scipy = pytest.importorskip("scipy.stats", reason=SCIPY)
    expected = [scipy.spearmanr(totals[q], similarity).statistic for q in ("classic", "balanced")]
    notes = " ".join(study("loss_exemplars", images=5, examples=1).notes)
    assert f"{expected[0]:+.2f} (classic loss), {expected[1]:+.2f} (balanced loss)" in notes


# StyTr2


def test_stytr2_losses(model: StyleModel, pairs: ImagePairs, study: Any) -> None:
    result: StudyResult = study("stytr2_losses", images=5, encoder="vgg19_random/8")
    rows = {str(row["model"] or row["system"]): row for row in result.rows}
    contents, styles, outputs = batches(pairs, model)
    network = VGG("vgg19_random/8", last="relu5_1")
    one = dict.fromkeys(("relu4_1", "relu5_1"), 1.0)
    features, targets = network(outputs, one), network(contents, one)
    expected = sum(normalized_content_loss(features[layer], targets[layer]) for layer in one)
    assert rows["thin"]["content"] == pytest.approx(float(expected), rel=1e-4)
    plain = ContentLoss(network, one).values(outputs, contents).mean().item()
    assert rows["thin"]["content, not normalized"] == pytest.approx(plain, rel=1e-4)
    layers = dict.fromkeys(stytr2_losses.LAYERS, 1.0)
    assert rows["thin"]["style"] == pytest.approx(
        StyleLoss(network, layers).values(outputs, styles).mean().item(), rel=1e-4
    )
    assert rows[IDENTITY]["content"] == rows[STYLE_COPY]["style"] == 0

    columns = [f"paper: {kind} loss, unsure (from memory)" for kind in ("content", "style")]
    assert [rows["thin"][c] for c in columns] == [2.34, 1.91] and [rows["stytr2"][c] for c in columns] == [1.91, 1.47]
    assert all(rows[baseline][c] is None for baseline in BASELINES for c in columns)
    assert "never released" in studies.get("stytr2_losses").description


def test_content_leak(model: StyleModel, pictures: Path, study: Any) -> None:
    result: StudyResult = study("content_leak", images=2, rounds=(3,))
    first, third = result.rows
    assert (first["round"], third["round"]) == (1, 3)
    assert first["content to round 1"] == 0 and first["SSIM to round 1"] == pytest.approx(1)
    material = Material(str(pictures), str(pictures))
    photos, styles = (side(2, 48, held_out=False) for side in (material.photos, material.paintings))
    rounds, output = [], photos
    with torch.inference_mode():
        for _ in range(3):
            output = torch.cat([model(o[None], s[None]).clamp(0, 1) for o, s in zip(output, styles, strict=True)])
            rounds.append(output)
    assert third["SSIM to round 1"] == pytest.approx(SSIM().values(rounds[2], rounds[0]).mean().item(), abs=1e-5)
    assert third["SSIM to the photo"] == pytest.approx(SSIM().values(rounds[2], photos).mean().item(), abs=1e-5)
    with pytest.raises(ValueError, match="from 1 up, not 0"):
        study("content_leak", rounds=(0, 2))


def test_temporal(model: StyleModel, pictures: Path, study: Any) -> None:
    """The model as it is given, and trained further from the same weights with and without CCPL."""
    result: StudyResult = study("temporal", images=2, steps=3, crop=32, lr=1e-3)
    rows = {(row["model"], row["training"]): row for row in result.rows}
    assert rows.keys() == {
        (IDENTITY, ""),
        *(("thin", training) for training in ("as given", "own losses", "with CCPL")),
    }
    material = Material(str(pictures), str(pictures))
    photos, styles = (side(2, 48, held_out=False) for side in (material.photos, material.paintings))
    errors = []
    for photo, style in zip(photos, styles, strict=True):
        code = model.encode_style(style[None])
        stylize = lambda image, code=code: model.decode(image, code).clamp(0, 1)
        errors.append(warp_error(stylize, photo[None]).item())
    assert rows["thin", "as given"]["warp error"] == pytest.approx(sum(errors) / 2, rel=1e-4)
    assert len({row["warp error"] for row in result.rows}) == 4  # no two are the same network
    assert rows[IDENTITY, ""]["warp error"] == rows[IDENTITY, ""]["content"] == 0
    ratio = rows["thin", "with CCPL"]["warp error"] / rows["thin", "own losses"]["warp error"]
    assert any(f"{ratio:.3f} times" in note for note in result.notes)


# StyleID and ArtFID


def test_published_art_fid_is_the_product_of_its_factors() -> None:
    assert len(styleid.PUBLISHED) == 10
    for name, (art_fid, fid, lpips) in styleid.PUBLISHED.items():
        assert (1 + lpips) * (1 + fid) == pytest.approx(art_fid, abs=0.002), name


def test_styleid_without_the_files(model: StyleModel, pictures: Path, study: Any) -> None:
    result: StudyResult = study("styleid", images=4, cfsd_pairs=2, encoder="vgg19_random/8")
    rows = {str(row["model"] or row["system"]): row for row in result.rows}
    assert all(row[name] is None for row in result.rows for name in ("ArtFID", "FID", "LPIPS"))
    notes = " ".join(result.notes)
    assert "Without LPIPS and ArtFID: the weights of alexnet_torchvision are not on this machine" in notes
    assert "download art_inception" in notes and "not StyleID's protocol" in notes
    pairs = product_pairs(Material(str(pictures), str(pictures)), 4, 48, held_out=False)
    contents, styles, outputs = batches(pairs, model)
    network = VGG("vgg19_random/8")
    expected = {
        "content": ContentLoss(network).values(outputs, contents),
        "style": StyleLoss(network).values(outputs, styles),
        "balanced": BalancedStyleLoss(network).values(outputs, styles),
        "SSIM": SSIM().values(outputs, contents),
        "HistoGAN": HistoGANDistance().values(outputs, styles),
    }
    for name, values in expected.items():
        assert rows["thin"][name] == pytest.approx(values.mean().item(), rel=1e-3), name
    for baseline, perfect in ((IDENTITY, ("content", "CFSD")), (STYLE_COPY, ("style", "balanced", "HistoGAN"))):
        assert [rows[baseline][name] for name in perfect] == pytest.approx([0] * len(perfect), abs=1e-9)
    assert rows["thin"]["paper: LPIPS (from memory)"] == 0.6076 and rows["cast"]["paper: FID (from memory)"] == 20.395


def test_styleid_with_the_files(
    model: StyleModel, pictures: Path, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of the right kind whose weights were never trained stand in for the two files."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "metrics")
    from every_metric import alexnet

    network, pool = alexnet(tmp_path), nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    for name, stand_in in (("AlexNet", lambda: network), ("ArtInception", lambda: pool)):
        monkeypatch.setattr(styleid, name, stand_in)
    monkeypatch.setattr(styleid, "FID", partial(FID, dimensions=48))
    result: StudyResult = study("styleid", images=6, size=64)
    rows = {str(row["model"] or row["system"]): row for row in result.rows}
    contents, styles, outputs = batches(product_pairs(Material(str(pictures), str(pictures)), 6, 64, False), model)
    whole = ArtFID(pool, LPIPS(network), dimensions=48)
    whole.update(outputs, contents, styles)
    assert rows["thin"]["ArtFID"] == pytest.approx(whole.result().value, rel=1e-3)
    assert rows["thin"]["LPIPS"] == pytest.approx(LPIPS(network).values(outputs, contents).mean().item(), rel=1e-3)
    assert rows[IDENTITY]["LPIPS"] == pytest.approx(0, abs=1e-6) and rows[STYLE_COPY]["FID"] == pytest.approx(
        0, abs=1e-3
    )
    assert rows["thin"]["ArtFID"] == pytest.approx((1 + rows["thin"]["LPIPS"]) * (1 + rows["thin"]["FID"]))
    assert "which are from memory: ArtFID: too few models have both numbers" in " ".join(result.notes)
    assert f"LPIPS uses alexnet (sha256 {network.sha256[:12]}). FID uses Sequential" in " ".join(result.notes)


def test_what_counts_as_the_protocol() -> None:
    def sentence(contents: int, styles: int, size: int) -> str:
        files = [(Path(f"c{i}.png"), Path(f"s{j}.png")) for i in range(contents) for j in range(styles)]
        return styleid._protocol(ImagePairs(files, size))

    assert "as in StyleID's protocol" in sentence(20, 40, 512)
    for other in ((20, 40, 256), (40, 20, 512), (10, 40, 512)):
        assert "not StyleID's protocol" in sentence(*other)


def test_the_list_says_where_art_fid_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["reproduce", "--list"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("styleid"))
    assert "ArtFID" in line and "800 pairs" in line
