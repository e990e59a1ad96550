"""Whole data sets, for the command `stylize-dataset`: a folder tree is mirrored, every image in a style that is drawn for it.

What a file gets depends on the seed and its path below the folder of the data set alone, so that a run can be interrupted, continued and
shared out among processes. Files that are no images, such as annotations, are copied; in a COCO file the further versions of
an image get entries of their own. The images are planned, shared out, stylized and listed as those of `stylize`
(`stylezoo.inference.plan`, `files`, `shards`).
"""

from __future__ import annotations

import filecmp
import json
import os
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stylezoo.controls import Controls
from stylezoo.errors import MissingFileError, StylezooError
from stylezoo.files import open_regular, problem, replacing
from stylezoo.images import IMAGE_SUFFIXES, in_order
from stylezoo.inference.plan import (
    LOCK,
    MANIFEST,
    Choice,
    Job,
    Plan,
    Request,
    expand,
    make_plan,
    read_manifest,
    report,
)
from stylezoo.inference.shards import find_shard, launch
from stylezoo.video.clips import is_clip

if TYPE_CHECKING:
    from stylezoo.module import StyleModel  # imports PyTorch

SETTINGS = "stylized.json"
"""The file in the output folder that says what its images are made with; another run must agree with it to go on."""

OWN = (MANIFEST, LOCK, SETTINGS)
"""Files that the command writes itself; those of a data set that is an output of the command are not copied."""

JOINTS = ("_", "_style", "_stylized_")
"""What joins a name and the number of a further version: the first one that no file of the data set has."""


@dataclass(frozen=True)
class DatasetRequest(Request):
    """What a command line of `stylize-dataset` asks for. ``content`` is one folder, ``random_styles`` the versions of an image.

    Attributes:
        model: What `load_model` takes.
        alphas: The smallest and the largest strength.
        copy: Patterns of paths below the folder; images that match one are copied as they are, such as masks.
        controls: How images are made.
    """

    draw_option: ClassVar[str] = "--per_image"

    model: str = ""
    alphas: tuple[float, float] = (1.0, 1.0)
    copy: Sequence[str] = ()
    controls: Controls = field(default_factory=Controls)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.top.is_dir():
            raise MissingFileError(f"--content is the folder of a data set: there is no folder {self.top}.")
        self._check_outside([self.output])

    def _check_outside(self, folders: Iterable[Path]) -> None:
        """Raises a StylezooError if a folder, or where a link leads, lies in the data set."""
        top = os.path.join(os.path.realpath(self.top), "")
        for folder in folders:
            if os.path.join(os.path.realpath(folder), "").startswith(top):
                raise StylezooError(
                    f"The output {folder} lies in the data set, which is never changed: give another folder."
                )

    @property
    def top(self) -> Path:
        """The folder of the data set."""
        return Path(self.content[0])

    @property
    def versions(self) -> int:
        """Number of versions of each image."""
        return self.random_styles or 1

    @cached_property
    def files(self) -> list[Path]:
        """All files below the folder as paths below it, in the order of their names, without hidden ones."""
        found: list[str] = []
        for parent, folders, names in os.walk(self.top, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = os.path.relpath(parent, self.top)
            found += [os.path.normpath(os.path.join(below, name)) for name in names if not name.startswith(".")]
        return [Path(name) for name in in_order(found)]

    @cached_property
    def joint(self) -> str:
        """What joins names and numbers of further versions.

        Raises:
            StylezooError: If there are files of all such names.
        """
        taken = {str(path).casefold() for path in self.files}
        images = [path for path in self.files if self._is_content(path)]
        for joint in JOINTS:
            names = (_version(path, joint, number) for path in images for number in range(2, self.versions + 1))
            if not any(str(name).casefold() in taken for name in names):
                return joint
        raise StylezooError(
            f"{self.top} has files whose names end in {', '.join(f'{joint}2' for joint in JOINTS)}, like the further versions of"
            " its images: rename them, or leave --per_image out."
        )

    def contents(self) -> list[tuple[Path, Path]]:
        found = expand(os.fspath(self.top), self.output, IMAGE_SUFFIXES)
        return [(path, relative) for path, relative in found if self._is_content(relative)]

    def named_jobs(self, found: list[Choice]) -> list[Job]:
        """Gives each image its path in the data set; further versions of it are numbered."""
        counts: dict[Path, int] = {}
        jobs = []
        for path, relative, styles in found:
            number = counts[relative] = counts.get(relative, 0) + 1
            target = self.output / (relative if number == 1 else _version(relative, self.joint, number))
            jobs.append(Job(path, styles, target, is_clip(path), self._alpha(relative, number)))
        return jobs

    def copies(self) -> list[Path]:
        """The files that are copied, as paths below the folder."""
        return [path for path in self.files if str(path) not in OWN and not self._is_content(path)]

    def style_files(self) -> list[str]:
        """The image files and encoded styles that ``style`` stands for, in the order of their names."""
        return sorted(super().style_files(), key=lambda style: (Path(style).name, style))

    def begin(self, model: StyleModel) -> str:
        """Checks and writes what the images are made with; see `SETTINGS`."""
        from stylezoo.checkpoints import model_digest

        if self.versions > 1 and model.kind == "single":
            raise StylezooError(f"{model.tag or model.system} has one style: leave --per_image out.")
        sha256 = model_digest(model)
        self.check(sha256)
        self.write_settings(sha256)
        return sha256

    def write_settings(self, sha256: str | None = None) -> None:
        """Writes what the images are made with, as far as it is known; see `SETTINGS`."""
        with replacing(self.output / SETTINGS) as file:
            file.write(json.dumps({**self._settings(), "model_sha256": sha256}, indent=2).encode())

    def end(self, reasons: Iterable[str]) -> None:
        for reason in dict.fromkeys(reasons):
            report(reason, f"{self.shard.speaker}left out: ")

    def check(self, sha256: str | None = None) -> str | None:
        """Checks that the output folder holds nothing that was made in another way.

        Args:
            sha256: That of the model, if it is known.

        Returns:
            The SHA-256 of the model that has made the images there; None if there is none yet.

        Raises:
            StylezooError: If it was begun with other settings.
        """
        path = self.output / SETTINGS
        try:
            with open_regular(path) as file:
                found = json.loads(file.read())
            assert isinstance(found, dict)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AssertionError) as error:
            what = problem(error) if isinstance(error, OSError) else "is damaged"
            raise StylezooError(
                f"{path} {what}: give another --output, or delete it with the images beside it."
            ) from error
        wanted = json.loads(json.dumps({**self._settings(), **({} if sha256 is None else {"model_sha256": sha256})}))
        for name, value in wanted.items():
            if found.get(name) != value and not (name == "model_sha256" and found.get(name) is None):
                raise StylezooError(
                    f"{self.output} was begun with {name} {_shown(found.get(name))}, not {_shown(value)}: repeat that command to"
                    " continue it, or give another --output."
                )
        return found.get("model_sha256")

    def check_plan(self, plan: Plan) -> None:
        """Checks that no file is written into the data set, and that files which exist already are those of an earlier run.

        Raises:
            StylezooError: If one would be, or the output folder does not say so.
        """
        targets = [
            *(job.target for job in (*plan.jobs, *plan.existing)),
            *(self.output / path for path in self.copies()),
        ]
        self._check_outside({target.parent for target in targets})
        existing = (
            [] if (self.output / SETTINGS).exists() else [target for target in targets if os.path.lexists(target)]
        )
        if existing:
            raise StylezooError(
                f"{existing[0]} exists, and {self.output} has no {SETTINGS} that says how it was made: give an empty folder as"
                " --output."
            )

    def _settings(self) -> dict[str, Any]:
        """Returns what the images are made with, besides their number."""
        controls = self.controls
        return {
            "model": self.model,
            "styles": sorted(Path(style).name for style in self.style_files())
            if self.style_are_files
            else [*self.style],
            "alpha": list(self.alphas),
            "seed": self.seed,
            "preserve_color": controls.preserve_color,
            "style_size": controls.style_size,
        }

    @cached_property
    def style_are_files(self) -> bool:
        """Whether styles are image files, as far as this shows without the model."""
        return self.style_names(self.model) is None

    def _is_content(self, relative: Path) -> bool:
        """Whether a file of the data set is stylized, not copied."""
        name = relative.as_posix()
        return relative.suffix.lower() in IMAGE_SUFFIXES and not any(fnmatchcase(name, each) for each in self.copy)

    def _alpha(self, relative: Path, number: int) -> float:
        """Returns the strength that a version of an image gets, with as many digits as the list of images has."""
        low, high = self.alphas
        drawn = random.Random(f"alpha {self.seed} {number} {relative.as_posix()}").uniform(low, high)
        return float(f"{drawn:.4g}") if low < high else low


@dataclass(frozen=True)
class Options:
    """How the images of a data set are worked through, see `stylezoo.inference.files.stylize_files`."""

    batch_size: int = 4
    quality: int = 95
    device: str = "auto"


def stylize_dataset(request: DatasetRequest, options: Options, processes: int = 1) -> int:
    """Stylizes a data set, or the share of it that is this process's.

    Args:
        request: What is asked for.
        options: How.
        processes: Number of processes of this machine that are started for it.

    Returns:
        The exit code: 0, 1 if a file is left out, 130 after Ctrl-C.

    Raises:
        StylezooError: If nothing can be done.
    """
    if processes > 1 and request.shard.world > 1:
        raise StylezooError("torchrun or srun has started several processes already: leave --processes out.")
    request.check()
    plan = make_plan(request, request.style_names(request.model))
    request.check_plan(plan)
    if not (request.output / SETTINGS).exists():
        request.write_settings()
    failed = copy_files(request)
    if request.shard.world == 1 and not plan.jobs and is_complete(request, plan):
        plan.report()
        request.end(plan.refused.values())
        return max(plan.finish(request.output), min(failed, 1))
    if processes == 1:
        return max(_stylize(request, plan, options), min(failed, 1))
    results = launch(_share, (request, options), processes)
    for message in filter(None, (message for _, message in results)):
        raise StylezooError(message)
    return max(min(failed, 1), *(code for code, _ in results))


def _share(request: DatasetRequest, options: Options) -> tuple[int, str]:
    """Does the share of a process that was started for it; returns its exit code, and the sentence of an error."""
    try:
        request = replace(request, shard=find_shard())
        return _stylize(request, make_plan(request, request.style_names(request.model)), options), ""
    except StylezooError as error:
        return 1, str(error)


def _stylize(request: DatasetRequest, plan: Plan, options: Options) -> int:
    from stylezoo.inference.files import stylize_files  # imports PyTorch

    return stylize_files(
        request.model,
        request,
        plan,
        replace(request.controls, alpha=request.alphas[0]),  # which a model either has or has not
        batch_size=options.batch_size,
        preview=0,
        quality=options.quality,
        device=options.device,
    )


def is_complete(request: DatasetRequest, plan: Plan) -> bool:
    """Whether a plan without jobs leaves nothing to do, as far as this shows without the model.

    The styles of a multi-style model may not be known yet, and the list lacks images after a run that was killed.
    """
    if request.versions > 1 and not request.style:
        return False
    listed = {row["output"] for row in read_manifest(request.output / MANIFEST)}
    return all(job.target.relative_to(request.output).as_posix() in listed for job in plan.existing)


# Files that are no images


def copy_files(request: DatasetRequest) -> int:
    """Copies the files that are not stylized, as far as they are this process's and have not been copied before.

    Returns:
        The number of files that cannot be copied, each of which is reported.
    """
    failed = 0
    for path in request.shard.share(request.copies(), key=str):
        source, target = request.top / path, request.output / path
        try:
            entries = further_entries(source, request) if request.versions > 1 and path.suffix == ".json" else None
            if entries is not None:
                with replacing(target) as file:
                    file.write(json.dumps(entries).encode())
            elif not (target.exists() and filecmp.cmp(source, target)):
                with open_regular(source) as original, replacing(target) as file:
                    shutil.copyfileobj(original, file)
                shutil.copystat(source, target)  # by which the next run knows it
        except OSError as error:
            failed += 1
            report(f"{source} {problem(error)}.", f"{request.shard.speaker}not copied: ")
    return failed


def further_entries(source: Path, request: DatasetRequest) -> dict[str, Any] | None:
    """Returns the contents of a COCO file with entries for further versions of its images; None if the file is no such file.

    A version has the annotations of its image. Their numbers are those of the originals, plus a multiple of one more than the
    largest number.

    Raises:
        OSError: If the file cannot be read.
    """
    with open_regular(source) as file:
        try:
            found = json.loads(file.read())
        except ValueError:
            return None
    if not isinstance(found, dict):
        return None
    images: Any = found.get("images")
    annotations: Any = found.get("annotations", [])
    if not (_numbered(images, "id", "file_name") and _numbered(annotations, "image_id")):
        return None
    step = 1 + max((image["id"] for image in images), default=0)
    stride = 1 + max((annotation.get("id", 0) for annotation in annotations), default=0)
    more_images, more_annotations = list(images), list(annotations)
    for number in range(2, request.versions + 1):
        for image in images:
            name = _version(Path(image["file_name"]), request.joint, number).as_posix()
            more_images.append({**image, "id": image["id"] + step * (number - 1), "file_name": name})
        for annotation in annotations:
            entry = {**annotation, "image_id": annotation["image_id"] + step * (number - 1)}
            if "id" in annotation:
                entry["id"] = annotation["id"] + stride * (number - 1)
            more_annotations.append(entry)
    return {**found, "images": more_images, "annotations": more_annotations}


def _numbered(entries: Any, number: str, *texts: str) -> bool:
    """Whether these are entries of a COCO file, with a number and texts."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get(number), int)
        and isinstance(entry.get("id", 0), int)
        and all(isinstance(entry.get(text), str) for text in texts)
        for entry in entries
    )


def _version(path: Path, joint: str, number: int) -> Path:
    return path.with_name(f"{path.stem}{joint}{number}{path.suffix}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
