"""Temporal stability of stylized clips: statistics smoothed over frames, blending along the motion, and scene cuts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stylezoo.errors import StylezooError
from stylezoo.metrics.temporal import temporal_error, warp_by_flow

HALF_LIFE = 0.25
"""Seconds after which a frame counts half in smoothed statistics."""

LARGEST_RATIO, LARGEST_SHIFT = 1.5, 0.5
"""How far smoothed statistics may differ from a frame's own: the deviation as a ratio, the mean in deviations. A fade changes
features faster than the average follows; beyond this they would leave the range that a decoder knows."""


class SmoothedStatistics(TorchFunctionMode):
    """Smooths the statistics of whole frames over time, for any system, where PyTorch computes them.

    Within its block, mean and variance over all positions of a feature map, by which AdaIN and its family, attention and
    instance normalization normalize the content, are replaced by an exponential moving average over frames: the n-th
    statistic of a frame is averaged with the n-th of the frames before. Nothing else of a model changes. As all other
    operations treat each sample of a batch by itself, the size of the batches has no influence.

    `keep` holds the share of the past for each frame of the next batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keep: list[float] = []
        self.state: list[tuple[Tensor, Tensor]] = []  # mean and variance (C, 1, 1) after the last frame
        self._next: list[tuple[Tensor, Tensor]] = []

    def begin(self, keep: Sequence[float]) -> None:
        """Begins a batch of consecutive frames.

        Args:
            keep: For each frame, between 0 (its own statistics alone) and 1.
        """
        self.keep, self._next = list(keep), []

    def commit(self) -> None:
        """Keeps the statistics of the batch for the next one; a batch that failed is not committed, and can be repeated."""
        self.state = self._next

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or x.ndim != 4 or len(x) != len(self.keep):
            return func(*args, **kwargs)
        if func in (torch.var_mean, torch.std_mean) and _over_positions(args[1:], kwargs):
            spread, mean = func(*args, **kwargs)
            squared = func is torch.std_mean
            variance, mean = self._smoothed(spread.square() if squared else spread, mean)
            return (variance.sqrt() if squared else variance), mean
        if func is F.group_norm and _group_norm_arguments(*args, **kwargs)["num_groups"] == x.shape[1]:
            return self._instance_norm(**_group_norm_arguments(*args, **kwargs))
        return func(*args, **kwargs)

    def _instance_norm(
        self, input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        variance, mean = torch.var_mean(input.float(), (2, 3), keepdim=True, correction=0)
        variance, mean = self._smoothed(variance, mean)
        scale = (variance + eps).rsqrt()
        if weight is not None:
            scale = scale * weight[:, None, None]
        shift = -mean * scale if bias is None else bias[:, None, None] - mean * scale
        return torch.addcmul(shift, input.float(), scale).to(input.dtype)

    def _smoothed(self, variance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the averages of statistics (B, C, 1, 1) frame by frame, and stores those of the last one."""
        number = len(self._next)
        past = self.state[number] if number < len(self.state) else None
        variances, means = [], []
        for index, keep in enumerate(self.keep):
            own = variance[index], mean[index]
            if past is not None and keep > 0 and past[0].shape == own[0].shape:
                past = own[0].lerp(past[0].to(own[0]), keep), own[1].lerp(past[1].to(own[1]), keep)
            else:
                past = own
            variances.append(past[0].clamp(own[0] / LARGEST_RATIO**2, own[0] * LARGEST_RATIO**2))
            reach = LARGEST_SHIFT * own[0].sqrt()
            means.append(past[1].clamp(own[1] - reach, own[1] + reach))
        assert past is not None
        self._next.append(past)
        return torch.stack(variances), torch.stack(means)


def _over_positions(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether ``torch.var_mean`` is asked for statistics over all positions of (B, C, H, W)."""
    dim = kwargs.get("dim", args[0] if args else None)
    return isinstance(dim, (tuple, list)) and sorted(d % 4 for d in dim) == [2, 3] and bool(kwargs.get("keepdim"))


def _group_norm_arguments(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> dict[str, Any]:
    return {"input": input, "num_groups": num_groups, "weight": weight, "bias": bias, "eps": eps}


# Scene cuts

THUMBNAIL = 32
"""Side in pixels of the images in which cuts are found."""

CUT = 0.08
"""Change of a scene, see `SceneCuts`."""


class SceneCuts:
    """Finds the frames that begin a new scene.

    The difference to the previous frame is large at a cut, but also in fast motion; at a cut it is also much larger than the
    difference before. The smaller of both, the difference and its change, is compared with `CUT` (the measure of FFmpeg's
    filter scdet). The difference is the median over positions: something that enters a scene begins no other one.
    """

    def __init__(self) -> None:
        self._previous: Tensor | None = None
        self._difference = 0.0

    def __call__(self, content: Tensor) -> bool:
        """Whether a frame (3, H, W) in [0, 1] begins a scene; the first one does."""
        small = F.adaptive_avg_pool2d(content, THUMBNAIL)
        previous, self._previous = self._previous, small
        if previous is None:
            return True
        difference = float((small - previous).abs().mean(0).median())
        change, self._difference = abs(difference - self._difference), difference
        if min(difference, change) <= CUT:
            return False
        self._difference = 0.0  # of the next frame to this one
        return True


# Optical flow

FLOW_SIDE = 160
"""Short side in pixels to which frames are shrunk for their optical flow."""

BLEND_HALF_LIFE = 0.05
"""Seconds after which a frame counts half in the frames that are blended with it along the motion."""

MISMATCH = 0.08
"""Mean difference of moved contents at which they count as little as exp(-1): there the flow does not hold."""

RAFT = "raft_small_C_T_V2-01064c6d.pth"
"""The file of torchvision's RAFT, which is used where torchvision has downloaded it already."""

Flow = Callable[[Tensor, Tensor], Tensor]
"""Maps a previous and a next frame (3, H, W) to a flow (2, H, W) as `stylezoo.metrics.temporal.warp_by_flow` takes it."""


def find_flow(device: torch.device | str = "cpu") -> Flow:
    """Returns an estimator of optical flow: RAFT if its weights are on this machine, else iterative Lucas-Kanade.

    Raises:
        StylezooError: If there is neither.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", RAFT)
    if file.is_file():
        return raft(file, torch.device(device))
    return lucas_kanade()


def lucas_kanade() -> Flow:
    """Returns the iterative Lucas-Kanade method (Le Besnerais & Champagnat 2005), at a short side of `FLOW_SIDE` pixels.

    Raises:
        StylezooError: If scikit-image is missing.
    """
    try:
        from skimage import registration
    except ImportError as error:
        raise StylezooError(
            f"Optical flow needs scikit-image, which cannot be imported ({error}): pip install stylezoo[video]."
        ) from error

    def flow(previous: Tensor, current: Tensor) -> Tensor:
        before, after = (_gray(image, FLOW_SIDE) for image in (previous, current))
        estimate: Any = registration.optical_flow_ilk
        down, right = estimate(after.numpy(), before.numpy(), radius=7, num_warp=3)
        return _enlarged(torch.stack([torch.from_numpy(right), torch.from_numpy(down)]), current)

    return flow


def raft(file: str | os.PathLike[str], device: torch.device) -> Flow:
    """Returns RAFT (Teed & Deng 2020), torchvision's small one.

    Args:
        file: Its weights.
        device: Where to compute.
    """
    network = _raft(os.fspath(file), str(device))

    @torch.inference_mode()
    def flow(previous: Tensor, current: Tensor) -> Tensor:
        images = [
            F.interpolate(image[None], _multiple_of_8(image), mode="bilinear", antialias=True)
            for image in (current, previous)
        ]
        result = network(*(image.to(device) * 2 - 1 for image in images))[-1][0].float().cpu()
        return _enlarged(result, current)

    return flow


@cache
def _raft(file: str, device: str) -> nn.Module:
    from torchvision.models.optical_flow import raft_small

    network = raft_small(weights=None)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    result: nn.Module = network.eval().to(device)
    return result


def _multiple_of_8(image: Tensor) -> tuple[int, int]:
    """Returns the size nearest to an image's, of multiples of 8 pixels, from 128 up, which RAFT needs."""
    height, width = (max(128, 8 * round(side / 8)) for side in image.shape[-2:])
    return height, width


def _gray(image: Tensor, side: int) -> Tensor:
    scale = min(1.0, side / min(image.shape[-2:]))
    size = [max(1, round(n * scale)) for n in image.shape[-2:]]
    small = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return (small * small.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)


def _enlarged(flow: Tensor, like: Tensor) -> Tensor:
    """Returns a flow (2, h, w) for an image (3, H, W), in its pixels."""
    (h, w), (height, width) = flow.shape[-2:], like.shape[-2:]
    large = F.interpolate(flow[None].float(), (height, width), mode="bilinear")[0]
    return large * large.new_tensor([width / w, height / h])[:, None, None]


class Motion:
    """The motion from each frame to the next, estimated once for all that need it.

    Args:
        flow: The estimator.

    Attributes:
        flow: (2, H, W) from the frame before; None at the beginning of a scene.
        share: (H, W) in [0, 1], where the motion explains the frame: its content, moved, is the same.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._previous: Tensor | None = None
        self.flow: Tensor | None = None
        self.share = torch.zeros(0)

    def update(self, content: Tensor, is_cut: bool) -> None:
        """Takes the next frame (3, H, W) in [0, 1]."""
        previous, self._previous = self._previous, content
        self.flow = None
        if previous is None or is_cut:
            return
        self.flow = self._flow(previous, content)
        moved, inside = warp_by_flow(previous[None], self.flow)
        difference = (moved[0] - content).abs().mean(0)
        difference = F.avg_pool2d(difference[None, None], 5, 1, 2, count_include_pad=False)[0, 0]  # of noise, the mean
        self.share = torch.exp(-(difference / MISMATCH).square()) * inside


class MotionBlend:
    """Blends each output with the one before, moved along the motion of the contents."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None

    def __call__(self, output: Tensor, motion: Motion, seconds: float) -> Tensor:
        """Returns the blended output.

        Args:
            output: (3, H, W) in [0, 1].
            motion: That of the contents.
            seconds: Since the frame before.
        """
        if motion.flow is not None and self._previous is not None:
            moved, _ = warp_by_flow(self._previous[None], motion.flow, "bicubic")
            output = output.lerp(moved[0].clamp(0, 1), 0.5 ** (seconds / BLEND_HALF_LIFE) * motion.share.to(output))
        self._previous = output
        return output


class Flicker:
    """The mean `stylezoo.metrics.temporal.temporal_error` of the frames of a clip, where their motion is known."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None
        self._errors: list[float] = []

    def update(self, output: Tensor, motion: Motion) -> None:
        """Adds the next output (3, H, W) in [0, 1]."""
        previous, self._previous = self._previous, output
        if motion.flow is not None and previous is not None:
            error = float(temporal_error(previous[None], output[None], motion.flow, motion.share > 0.5))
            if not math.isnan(error):  # no number where the motion is known nowhere
                self._errors.append(error)

    @property
    def mean(self) -> float | None:
        """The mean; None where there is nothing to compare."""
        return sum(self._errors) / len(self._errors) if self._errors else None
