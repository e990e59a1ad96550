"""Golden numbers of the reference implementations, and the parameters and inputs that they were computed from.

`tests/goldens/README.md` documents the files and the formulas.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Array = NDArray[Any]
Rule = Mapping[str, Any]

FOLDER = Path(__file__).resolve().parent / "goldens"
WHOLE = 256
"""Arrays of at most so many numbers are stored whole."""
SAMPLES = 128
"""Numbers stored of a larger array."""


def stream(seed: int, name: str) -> np.random.RandomState:
    """The random numbers of the tensor ``name`` in a case."""
    return np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))


def draw_parameter(seed: int, name: str, shape: Sequence[int], rules: Sequence[Rule] = ()) -> Array:
    """Draws a parameter of a case.

    Args:
        seed: Seed of the case.
        name: ``part.key``, where the key is that of the reference's own state dict.
        shape: Shape of the parameter.
        rules: Exceptions; the first whose ``match`` fits the name replaces the default.

    Returns:
        float32, or int64 zeros for counters of batches.

    Raises:
        ValueError: If there is no such rule.
    """
    rule: Rule = next((rule for rule in rules if fnmatchcase(name, rule["match"])), {"op": "default"})
    operation, random = rule["op"], stream(seed, name)
    if operation == "uniform":
        return random.uniform(rule["low"], rule["high"], shape).astype(np.float32)
    if operation in ("default", "scale", "abs"):
        values = _default_parameter(random, name, shape)
        if operation == "scale":
            values = values * np.float32(rule["factor"])
        return np.abs(values) if operation == "abs" else values
    normal = random.standard_normal(shape)
    if operation == "around_one":
        return (1 + 0.1 * normal).astype(np.float32)
    if operation == "small":
        return (0.05 * normal).astype(np.float32)
    if operation == "hwio":
        return (normal * math.sqrt(2 / math.prod(shape[:-1]))).astype(np.float32)
    raise ValueError(f"There is no rule {operation!r} for parameters.")


def _default_parameter(random: np.random.RandomState, name: str, shape: Sequence[int]) -> Array:
    """A parameter without a rule: what it is follows from its name and its dimensions."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    normal = random.standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(normal)
    elif name.endswith("running_mean"):
        values = 0.1 * normal
    elif len(shape) >= 2:
        values = normal * math.sqrt(2 / math.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * normal
    else:
        values = 0.05 * normal
    return np.asarray(values, np.float32)


def draw_input(seed: int, name: str, spec: Mapping[str, Any]) -> Array:
    """Draws an input of a case, float32.

    Args:
        seed: Seed of the case.
        name: Name of the input.
        spec: ``kind``, ``shape`` and what else the kind has; see `tests/goldens/README.md`.

    Raises:
        ValueError: If there is no such kind.
    """
    random, kind, shape = stream(seed, name), spec["kind"], tuple(spec["shape"])
    values: Array
    if kind in ("image", "image8", "image_uint8"):
        values = _draw_image(random, shape).astype(np.float32)
        if kind != "image":
            values = np.round(values.astype(np.float64) * 255) / (255 if kind == "image8" else 1)
    elif kind in ("normal", "relu"):
        values = spec.get("mean", 0.0) + spec.get("std", 1.0) * random.standard_normal(shape)
        values = np.maximum(values, 0) if kind == "relu" else values
    else:
        raise ValueError(f"There is no kind {kind!r} of inputs.")
    values = values.astype(np.float32)
    for channel in spec.get("constant_channels", ()):
        values[:, channel] = 0.25
    return values


def _draw_image(random: np.random.RandomState, shape: tuple[int, ...]) -> Array:
    """A smooth image with noise in [0, 1], in double precision."""
    *batch, channels, height, width = shape
    coarse = [max(2, math.ceil(side / 8)) for side in (height, width)]
    low = torch.from_numpy(random.uniform(0, 1, (math.prod(batch), channels, *coarse)))
    smooth = F.interpolate(low, size=(height, width), mode="bilinear", align_corners=False).numpy().reshape(shape)
    return np.clip(smooth + 0.05 * random.standard_normal(shape), 0, 1)


def positions(seed: int, name: str, size: int) -> Array:
    """Where an array is sampled: indices into its flattened numbers."""
    return stream(seed, f"positions of {name}").randint(0, size, SAMPLES)


def moments(array: Array) -> dict[str, float]:
    """Mean, standard deviation and root of the mean square, in double precision.

    If no number of an array moves by more than a tolerance, none of the three does.
    """
    array = array.astype(np.float64)
    return {"mean": array.mean(), "std": array.std(), "rms": np.sqrt(np.square(array).mean())}


class Arrays(Mapping[str, Array]):
    """The inputs of a case, and those of its outputs that are stored whole."""

    def __init__(self, case: Golden) -> None:
        self.case = case

    def __getitem__(self, name: str) -> Array:
        if name in self.case.meta["inputs"]:
            values: Array = self.case.inputs[name].copy()
            return values
        entry = self.case.meta["arrays"][name]
        if "mean" in entry:
            pytest.skip(f"needs all of {name} of {self.case.name}: only the folder 'shared' has that")
        values = np.array(entry["values"], entry.get("dtype", "float32")).reshape(entry["shape"])
        return values

    def __iter__(self) -> Iterator[str]:
        return iter([*self.case.meta["inputs"], *self.case.meta["arrays"]])

    def __len__(self) -> int:
        return len(self.case.meta["inputs"]) + len(self.case.meta["arrays"])


class Golden:
    """A case: how a reference implementation was called, and numbers of what it returned.

    Args:
        name: ``file/case``, such as ``adain/op``.

    Raises:
        KeyError: If there is no such case.
    """

    def __init__(self, name: str) -> None:
        file, _, case = name.partition("/")
        content = read(file) if (FOLDER / f"{file}.json").is_file() else {"cases": {}}
        self.name, self.meta = name, dict(content["cases"][case])
        layouts = content["layouts"]
        self.meta["state_dict"] = {part: layouts[index] for part, index in self.meta["parts"].items()}
        self.arrays = Arrays(self)

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """{name: array} of what the reference was called with."""
        return {name: draw_input(self.meta["seed"], name, spec) for name, spec in self.meta["inputs"].items()}

    @cached_property
    def params(self) -> Mapping[str, dict[str, Array]]:
        """{part: {key: array}}, drawn when a part is asked for."""
        return Parts(self)

    def tolerance(self, name: str) -> float:
        """How far a number of an output may be from the reference's."""
        return float(self.meta["arrays"][name]["tolerance"])

    def check(self, **values: Any) -> dict[str, tuple[Any, float | None]]:
        """Compares values with the reference's.

        Returns:
            {name: (largest difference, tolerance)} of those that do not agree; empty if all do.
        """
        wrong: dict[str, tuple[Any, float | None]] = {}
        for name, value in values.items():
            ours = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
            entry = self.meta["arrays"][name]
            if list(ours.shape) != entry["shape"]:
                wrong[name] = f"shape {ours.shape} instead of {tuple(entry['shape'])}", None
                continue
            a, b = self._compared(name, entry, ours.astype(np.float64))
            difference = float(np.abs(a - b).max(initial=0.0))  # NaN if there is one
            if not difference <= entry["tolerance"]:
                wrong[name] = difference, entry["tolerance"]
        return wrong

    def _compared(self, name: str, entry: Mapping[str, Any], ours: Array) -> tuple[Array, Array]:
        """The numbers of ours and of the reference's that are compared."""
        theirs, flat = list(entry["values"]), ours.flatten()
        if "mean" in entry:
            sampled, three = flat[positions(self.meta["seed"], name, ours.size)], moments(ours)
            theirs += [entry[moment] for moment in three]
            flat = np.concatenate([sampled, list(three.values())])
        return flat, np.array(theirs, np.float64)


class Parts(Mapping[str, dict[str, Array]]):
    """The parameters of a case, each part drawn when it is asked for. Those that influence nothing are zeros."""

    def __init__(self, case: Golden) -> None:
        self.meta = case.meta
        self.drawn: dict[str, dict[str, Array]] = {}

    def __getitem__(self, part: str) -> dict[str, Array]:
        if part not in self.drawn:
            self.drawn[part] = self._draw(part)
        return self.drawn[part]

    def _draw(self, part: str) -> dict[str, Array]:
        unused, seed, rules = self.meta["unused_keys"].get(part, ()), self.meta["seed"], self.meta["param_rules"]
        return {
            key: np.zeros(shape, np.float32) if key in unused else draw_parameter(seed, f"{part}.{key}", shape, rules)
            for key, shape in self.meta["state_dict"][part].items()
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.meta["state_dict"])

    def __len__(self) -> int:
        return len(self.meta["state_dict"])


@cache
def read(file: str) -> dict[str, Any]:
    """A file of `tests/goldens`, by its name without .json."""
    content: dict[str, Any] = json.loads((FOLDER / f"{file}.json").read_text())
    return content


def files() -> list[str]:
    """The files of `tests/goldens`: one for each reference implementation."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def has(name: str) -> bool:
    """Whether there is a case of that name."""
    file, _, case = name.partition("/")
    return file in files() and case in read(file)["cases"]
