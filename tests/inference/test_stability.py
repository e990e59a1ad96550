"""Temporal stability: what it smooths, where it begins anew, and that it flickers less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import thin_model
from PIL import Image
from torch import Tensor

from stylezoo.controls import ClipControls
from stylezoo.data.synthetic import draw
from stylezoo.errors import StylezooError
from stylezoo.images import to_tensor
from stylezoo.inference import Stylizer, stability
from stylezoo.inference.stability import (
    Flicker,
    Motion,
    MotionBlend,
    SceneCuts,
    SmoothedStatistics,
    find_flow,
    lucas_kanade,
)
from stylezoo.inference.video import stylize_clip
from stylezoo.metrics.temporal import homography, temporal_error, warp, warp_by_flow

PHOTO = to_tensor(draw("photos", 3, 160))
SMOOTHED = ["adain", "johnson", "magenta", "microast", "msgnet", "multi_level_adain"]


def pan(count: int = 6, noise: float = 0.0, step: tuple[int, int] = (3, 2), size: int = 96) -> Tensor:
    """Views of a photo that move by whole pixels."""
    generator = torch.Generator().manual_seed(0)
    views = [PHOTO[:, step[1] * i : step[1] * i + size, step[0] * i : step[0] * i + size] for i in range(count)]
    return torch.stack([(v + noise * torch.randn(v.shape, generator=generator)).clamp(0, 1) for v in views])


def visited(count: int = 6) -> Tensor:
    """A still photo, of which a third is covered by something white in every second frame."""
    frames = pan(1).expand(count, -1, -1, -1).clone()
    frames[1::2, :, :, 64:] = 1.0
    return frames


def smoothed(stylizer: Stylizer, frames: Tensor, sizes: list[int], keep: float = 0.9) -> Tensor:
    smoothing, outputs, begin = SmoothedStatistics(), [], 0
    for size in sizes:
        smoothing.begin([keep if begin + i else 0.0 for i in range(size)])
        with smoothing:
            outputs.append(stylizer(frames[begin : begin + size]))
        smoothing.commit()
        begin += size
    return torch.cat(outputs)


def stylizer_of(system: str) -> Stylizer:
    model = thin_model(system)
    return Stylizer(model, model.example_styles(to_tensor(draw("paintings", 1, 64))[None])[:1])


@pytest.mark.parametrize("system", SMOOTHED)
def test_what_enters_a_scene_changes_the_rest_of_it_less(system: str) -> None:
    stylizer, frames = stylizer_of(system), visited()
    plain, steady = stylizer(frames), smoothed(stylizer, frames, [2, 3, 1])
    far = (..., slice(0, 96), slice(0, 24))  # beyond the reach of the convolutions around the object
    before, after = (float((o[1:] - o[:-1])[far].abs().mean()) for o in (plain, steady))
    assert before > 1e-4 and after < 0.7 * before, (before, after)
    assert torch.equal(plain[0], stylizer(frames)[0])  # the model is as it was


@pytest.mark.parametrize("system", ["adain", "johnson"])
def test_batches_change_nothing(system: str) -> None:
    stylizer, frames = stylizer_of(system), visited()
    torch.testing.assert_close(
        smoothed(stylizer, frames, [6]), smoothed(stylizer, frames, [1, 2, 1, 2]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("system", ["adain", "johnson"])
def test_without_a_past_it_is_the_model_itself(system: str) -> None:
    stylizer, frames = stylizer_of(system), visited(3)
    torch.testing.assert_close(smoothed(stylizer, frames, [3], keep=0.0), stylizer(frames), atol=1e-4, rtol=1e-4)


def test_statistics_do_not_lag_far_behind() -> None:
    """After a flash of ten times the contrast, features would be far from what a decoder knows."""
    smoothing = SmoothedStatistics()
    for scale in (1.0, 10.0):
        features = scale * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) + 5 * scale
        smoothing.begin([0.99 if scale > 1 else 0.0])
        with smoothing:
            variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True)
        smoothing.commit()
    own_variance, own_mean = torch.var_mean(features, dim=(2, 3), keepdim=True)
    torch.testing.assert_close(variance.sqrt(), own_variance.sqrt() / 1.5)
    torch.testing.assert_close(mean, own_mean - 0.5 * own_variance.sqrt())


def test_cuts() -> None:
    other = to_tensor(draw("photos", 6, 96)).expand(3, -1, -1, -1)
    for noise in (0.0, 0.05):
        cuts = SceneCuts()
        found = [cuts(frame) for frame in torch.cat([pan(noise=noise), 1 - other, pan(4, noise)])]
        assert found == [True, *[False] * 5, True, False, False, True, *[False] * 3]
    cuts = SceneCuts()
    assert [cuts(frame) for frame in visited()] == [True, *[False] * 5]  # something that enters a scene is none


def test_flow_by_whole_pixels_is_the_shift_of_a_homography() -> None:
    flow = torch.tensor([-4.0, -2.0])[:, None, None].expand(2, 96, 96)
    for a, b in zip(warp_by_flow(pan(1), flow), warp(pan(1), homography("shift", 96, 96)), strict=True):
        torch.testing.assert_close(a.float(), b.float())
    frames = pan(2)
    exact = torch.tensor([3.0, 2.0])[:, None, None].expand(2, 96, 96)
    assert float(temporal_error(frames[:1], frames[1:], exact)) < 1e-5
    assert float(temporal_error(frames[:1], frames[1:], torch.zeros(2, 96, 96))) > 0.01
    assert torch.isnan(temporal_error(frames[:1], frames[1:], exact, torch.zeros(96, 96, dtype=torch.bool))).all()


def test_lucas_kanade_finds_the_motion() -> None:
    pytest.importorskip("skimage", reason="optical flow needs scikit-image (pip install stylezoo[video])")
    frames = pan(2, noise=0.01)
    flow = lucas_kanade()(frames[0], frames[1])
    error = (flow - torch.tensor([3.0, 2.0])[:, None, None]).norm(dim=0)[8:-8, 8:-8]
    assert float(error.median()) < 0.3
    motion = Motion(lucas_kanade())
    motion.update(frames[0], True)
    motion.update(frames[1], False)
    assert float(motion.share.mean()) > 0.7
    motion.update(1 - frames[1], True)
    assert motion.flow is None


def test_blending_along_the_motion_flickers_less() -> None:
    exact = torch.tensor([3.0, 2.0])[:, None, None].expand(2, 96, 96)
    contents, outputs = pan(), pan(noise=0.1)  # the noise stands for what a model makes anew in every frame
    motion, blend = Motion(lambda previous, current: exact), MotionBlend()
    plain, steady = Flicker(), Flicker()
    for index, content in enumerate(contents):
        motion.update(content, index == 0)
        plain.update(outputs[index], motion)
        steady.update(blend(outputs[index], motion, 0.04), motion)
    assert plain.mean is not None and steady.mean is not None and steady.mean < 0.75 * plain.mean


def test_blended_frames_stay_in_their_range() -> None:
    """Moving a frame by fractions of a pixel overshoots at edges."""
    motion, blend = Motion(lambda *_: torch.zeros(2)), MotionBlend()
    motion.flow, motion.share = torch.full((2, 32, 32), 0.5), torch.ones(32, 32)
    edges = torch.zeros(3, 32, 32)
    edges[:, 8:24, 8:24] = 1
    for frame in (edges, 1 - edges):
        blend(frame, motion, 0.0)
        moved = blend(frame, motion, 0.0)
        assert 0 <= float(moved.min()) < 0.1 and 0.9 < float(moved.max()) <= 1


def test_blending_leaves_what_the_motion_does_not_explain() -> None:
    still = torch.zeros(2, 96, 96)
    contents, outputs = visited(2), pan(2, noise=0.1)
    motion, blend = Motion(lambda previous, current: still), MotionBlend()
    for index in range(2):
        motion.update(contents[index], index == 0)
        blended = blend(outputs[index], motion, 0.04)
    new = (slice(None), slice(None), slice(72, 96))  # the white object covers it since this frame
    torch.testing.assert_close(blended[new], outputs[1][new], atol=0.02, rtol=0)
    assert float((blended - outputs[1])[:, :, :56].abs().mean()) > 0.01


def test_raft_is_used_where_its_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision.models.optical_flow import raft_small

    pytest.importorskip("skimage", reason="the other optical flow needs scikit-image (pip install stylezoo[video])")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "checkpoints" / stability.RAFT)
    flow = find_flow()(*pan(2))
    assert flow.shape == (2, 96, 96) and bool(flow.isfinite().all())
    assert not torch.allclose(flow, lucas_kanade()(*pan(2)))


def animation(path: Path, frames: Tensor, duration: int = 40) -> Path:
    images = [Image.fromarray(np.rint(255 * frame.permute(1, 2, 0).numpy()).astype(np.uint8)) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, lossless=True)
    return path


def test_a_clip_with_each_stability(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="optical flow needs scikit-image (pip install stylezoo[video])")
    source, stylizer = animation(tmp_path / "in.webp", pan(noise=0.03)), stylizer_of("johnson")
    plain = stylize_clip(stylizer, source, tmp_path / "none.webp", ClipControls(report=True))
    assert plain.flicker is not None and plain.flicker_before is None
    steady = stylize_clip(stylizer, source, tmp_path / "flow.webp", ClipControls(stability="flow", report=True))
    assert steady.flicker_before == pytest.approx(plain.flicker, rel=1e-3)
    assert steady.flicker is not None and steady.flicker < 0.8 * plain.flicker
    assert f"flicker {steady.flicker:.5f} (frame by frame {plain.flicker:.5f})" in str(steady)


def test_the_past_counts_half_after_a_quarter_of_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at all at the first frame of a scene."""
    begin, shares = SmoothedStatistics.begin, list[float]()

    def noted(smoothing: SmoothedStatistics, keep: list[float]) -> None:
        shares.extend(keep)
        begin(smoothing, keep)

    monkeypatch.setattr(SmoothedStatistics, "begin", noted)
    source = animation(tmp_path / "in.webp", torch.cat([pan(3), 1 - pan(2)]), duration=125)
    stylize_clip(stylizer_of("johnson"), source, tmp_path / "out.webp", ClipControls(stability="statistics"))
    assert shares == pytest.approx([0, 0.5**0.5, 0.5**0.5, 0, 0.5**0.5])


def test_what_cannot_be_smoothed_is_said(tmp_path: Path) -> None:
    source = animation(tmp_path / "in.webp", pan(2))
    result = stylize_clip(lambda x: x, source, tmp_path / "out.webp", ClipControls(stability="statistics"))
    assert result.notes == ["The model normalizes no statistics of whole frames: stability 'statistics' smooths none."]


@pytest.mark.parametrize("wrong", [{"stability": "much"}, {"codec": "divx"}, {"seconds": -1}, {"seconds": "long"}])
def test_wrong_controls(wrong: dict[str, object]) -> None:
    with pytest.raises(StylezooError, match=f"^{next(iter(wrong))} "):
        ClipControls(**wrong)  # type: ignore[arg-type]
