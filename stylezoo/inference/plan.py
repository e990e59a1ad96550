"""What the command `stylize` has to do, known and checked before a model is loaded: contents, styles and outputs."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import os
import random
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stylezoo import catalog
from stylezoo.controls import ClipControls, blending_shares, check_mask_count
from stylezoo.errors import StylezooError, check_number, did_you_mean
from stylezoo.files import lock, open_regular, problem, replacing
from stylezoo.images import IMAGE_SUFFIXES, ImageError, check_target, list_images
from stylezoo.images.reading import read_properties
from stylezoo.images.writing import check_place
from stylezoo.inference.banks import expand_reference, is_reference, split_reference, style_name
from stylezoo.inference.shards import Meeting, Shard
from stylezoo.video.clips import WRITTEN_SUFFIXES, check_clip_target, clip_problem, clip_suffix, is_clip
from stylezoo.video.formats import CONTAINERS, VIDEO_SUFFIXES, is_camera, is_video

if TYPE_CHECKING:
    from stylezoo.module import StyleModel  # imports PyTorch

OTHER_SUFFIXES = frozenset(
    (
        *(".ai", ".apng", ".arw", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr"),
        *(".heic", ".heif", ".ico", ".jpe", ".jpx", ".jxl", ".nef", ".orf", ".pbm"),
        *(".pcx", ".pdf", ".pgm", ".pnm", ".ps", ".psd", ".qoi", ".raw", ".rw2"),
        *(".svg", ".svgz", ".tga", ".xcf", *(VIDEO_SUFFIXES - CONTAINERS.keys())),
    )
)
"""Suffixes of image and video files that are not written: an output of such a name is no folder."""

FILE_SUFFIXES = IMAGE_SUFFIXES | CONTAINERS.keys()
"""Suffixes of an output that is one file."""

CONTENT_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
"""Suffixes of the files in a folder of contents."""

MANIFEST = "stylized.csv"
"""The list, in an output folder, of what was made of what; for pairs and random styles."""

LOCK = f".{MANIFEST}.lock"
"""The file that a process locks while it adds to `MANIFEST`, where there are several."""

COLUMNS = ["content", "style", "alpha", "seed", "output"]
"""The columns of `MANIFEST`."""

SHA256 = "model_sha256"
"""A further column of it, for data sets."""

LONGEST_NAME, LONGEST_STEM = 255, 230
"""Bytes of a file's name, and of an output's name without its suffix: the name of its preview is longer."""

LONGEST_SUFFIX = 6
"""Characters up to which letters after a dot are taken for the suffix of a file."""

Choice = tuple[Path, Path, tuple[str, ...]]
"""A content, its path below the folder that was given, and the styles of one image."""


@dataclass(frozen=True)
class Job:
    """One image or clip to stylize: a content, the styles that go into it, and where it is written; perhaps its own strength."""

    content: Path
    styles: tuple[str, ...]
    target: Path
    is_clip: bool = False
    alpha: float | None = None

    @property
    def recipe(self) -> tuple[tuple[str, ...], float | None]:
        """What images have in common that one stylizer makes: the styles and their strength, None for that of the run."""
        return self.styles, self.alpha


@dataclass
class Plan:
    """What there is to do, and what is left out.

    Attributes:
        names: The trained styles that it is made for; None for style images.
        jobs: In the order of styles, then contents.
        refused: {file: why it cannot be read}.
        failed: Number of images that are not stylized because of these.
        existing: The images that exist already.
        shard: The process whose share this is.
    """

    names: list[str] | None = None
    jobs: list[Job] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    existing: list[Job] = field(default_factory=list)
    shard: Shard = Shard()

    @property
    def total(self) -> int:
        """Number of images that were asked for."""
        return len(self.jobs) + self.failed + len(self.existing)

    def check_counts(self, style_weights: Sequence[float] | None, masks: int) -> None:
        """Checks the number of blending weights and of masks, where that of the styles is known.

        Raises:
            StylezooError: If these do not fit.
        """
        for styles in {len(job.styles) for job in self.jobs if job.styles}:
            check_mask_count(masks, styles)
            if style_weights is not None:
                blending_shares(style_weights, styles)

    @property
    def things(self) -> str:
        """What the outputs are called."""
        return "files" if any(job.is_clip for job in (*self.jobs, *self.existing)) else "images"

    def check_clips(self, controls: ClipControls) -> None:
        """Checks that clips can be encoded as asked for.

        Raises:
            VideoError: If a container does not take the codec, or an encoder or PyAV is missing.
        """
        for job in self.jobs:
            if job.is_clip:
                check_clip_target(job.target, controls.codec)

    def finish(self, output: Path, done: int = 0, failed: int = 0, meeting: Meeting | None = None) -> int:
        """Says what has become of all images, and returns the exit code.

        Args:
            output: Where the images are.
            done: Number of images that were written.
            failed: Number of images that failed, besides those that were left out.
            meeting: The processes of the run; the first one speaks for all, and all return the same code.
        """
        numbers = [done, self.total, failed + self.failed, len(self.existing)]
        sums = meeting.sums(*numbers) if meeting is not None else numbers
        done, total, failed, existing = sums or numbers
        if sums is None or self.shard.rank == 0:
            who = "" if sums is not None else self.shard.speaker
            also = f", {existing} exist already" if existing else ""
            print(
                printable(f"{who}{done} of {total} {self.things} stylized, {failed} failed{also}: {output}"), flush=True
            )
        if sums is None:
            report("another process has ended before its share was done", f"stylezoo: {self.shard.speaker}")
        return 1 if failed or sums is None else 0

    def report(self) -> None:
        """Reports the files that cannot be read.

        Raises:
            StylezooError: If this concerns the only image.
        """
        if self.total == 1 and self.refused and self.shard.world == 1:
            raise StylezooError(next(iter(self.refused.values())))
        for reason in self.refused.values():
            report(reason, f"{self.shard.speaker}skipped: ")


@dataclass(frozen=True)
class Request:
    """What a command line asks for, besides the controls of the model.

    Attributes:
        content: Files, folders or globs of images and clips, or cameras.
        style: Files, folders or globs, or numbers and names of trained styles.
        output: An image file, a video file or a folder.
        masks: Image files.
        together: Whether all styles go into each image, instead of one image per style.
        format: Suffix of the files in an output folder.
        pairs: A CSV file with the columns content and style, instead of ``content`` and ``style``.
        random_styles: Number of styles that are drawn for each content; None takes all.
        seed: Of that draw.
        skip_existing: Whether outputs that exist are left as they are.
        shard: The process whose share of the images this is.

    Raises:
        StylezooError: If these exclude each other.
    """

    draw_option: ClassVar[str] = "--random_styles"

    content: Sequence[str]
    style: Sequence[str]
    output: Path
    masks: Sequence[str] = ()
    together: bool = False
    format: str = "png"
    pairs: str | None = None
    random_styles: int | None = None
    seed: int = 0
    skip_existing: bool = False
    shard: Shard = Shard()

    def __post_init__(self) -> None:
        check_number("seed", self.seed, "a whole number from 0 up", 0, whole=True)
        if self.random_styles is not None:
            meaning = "the number of styles drawn for each content, 1 or more"
            check_number("random_styles", self.random_styles, meaning, 1, whole=True)
        drawn = self.random_styles is not None
        if "" in (*self.content, *self.style, *self.masks, self.pairs):
            raise StylezooError("A file has an empty name: name a file or a folder.")
        if self.pairs is None and not self.content:
            raise StylezooError("There is nothing to stylize: name images (--content) or a list of pairs (--pairs).")
        if self.pairs is not None and (self.content or self.style or drawn):
            raise StylezooError("--pairs names contents and styles: leave out --content, --style and --random_styles.")
        if self.together and self.has_manifest:
            raise StylezooError(
                "--style_weights and --masks put all styles into each image: leave out --pairs and --random_styles."
            )
        if self.has_manifest and self.is_single_file:
            raise StylezooError(f"--pairs and --random_styles write into a folder: {self.output} is an image file.")

    @property
    def has_manifest(self) -> bool:
        """Whether the output folder gets a `MANIFEST`."""
        return self.pairs is not None or self.random_styles is not None

    @property
    def is_single_file(self) -> bool:
        """Whether the output is a file, not a folder."""
        return self.output.suffix.lower() in FILE_SUFFIXES and not os.path.isdir(self.output)

    def contents(self) -> list[tuple[Path, Path]]:
        """The contents, each with its path below the folder that was given."""
        return [item for word in self.content for item in expand(word, self.output, CONTENT_SUFFIXES)]

    def named_jobs(self, found: list[Choice]) -> list[Job]:
        """Gives each image a file."""
        return named_jobs(found, self)

    def begin(self, model: StyleModel) -> str | None:
        """Does what comes before the first image; returns the SHA-256 of the model where the list of images has it."""
        return None

    def end(self, reasons: Iterable[str]) -> None:
        """Does what comes after the last image of this process.

        Args:
            reasons: Why images are left out, one sentence for each file; they have been reported before.
        """

    def style_files(self) -> list[str]:
        """The image files and encoded styles that ``style`` stands for."""
        return [style for word in self.style for style in expand_style(word, self.output)]

    def style_names(self, model: str) -> list[str] | None:
        """The styles as names of trained ones; None if they are image files, as far as this shows without the model.

        Args:
            model: A name, whose system is known, or a file.
        """
        system = catalog.systems().get(model.partition(".")[0])
        words = list(self.style)
        if self.pairs is not None:
            words = [style for _, _, styles in read_pairs(self.pairs, are_files=False) for style in styles]
        if system is None or os.path.exists(model):
            return None if all(map(_looks_like_file, words)) else words
        return words if system.kind in ("multi", "single") else None


def expand_style(word: str, output: Path | None = None) -> list[str]:
    """Returns the styles that a word of ``--style`` names: image files, or encoded styles as FILE:NAME."""
    if is_reference(word):
        return expand_reference(word)
    return [str(path) for path, _ in expand(word, output)]


def _looks_like_file(word: str) -> bool:
    if is_reference(word):
        return True
    known = Path(word).suffix.lower() in FILE_SUFFIXES | OTHER_SUFFIXES
    return known or os.path.exists(word) or glob.has_magic(word) or os.path.basename(word) != word


def make_plan(request: Request, names: list[str] | None = None) -> Plan:
    """Finds the images to stylize, and checks what can be checked by names and headers of files.

    All images are named and checked by names; the plan is about those that are the share of this process.

    Args:
        request: What is asked for.
        names: Numbers and names of trained styles; None takes the image files that ``request.style`` stands for.

    Raises:
        StylezooError: If there is no image, an output would replace an input, or outputs cannot be written.
    """
    check_output(request.output)
    are_files = names is None
    if request.pairs is not None:
        found = read_pairs(request.pairs, are_files)
    else:
        found = combinations(request.contents(), request.style_files() if names is None else names, request)
    jobs = request.named_jobs(list(dict.fromkeys(found)))
    style_files = {style for job in jobs for style in job.styles} if are_files else set()
    styles = (split_reference(style)[0] if is_reference(style) else Path(style) for style in style_files)
    inputs = [*(job.content for job in jobs), *styles, *map(Path, request.masks)]
    targets = [job.target for job in jobs]
    if request.pairs is not None:
        inputs.append(Path(request.pairs))
    if request.has_manifest:
        targets.append(request.output / MANIFEST)
        read_manifest(targets[-1])
    check_targets(targets, inputs)
    for mask in request.masks:
        read_properties(mask)
    plan = _readable(request.shard.share(jobs, key=lambda job: job.content), style_files, request)
    plan.names = names
    return plan


def _readable(jobs: list[Job], style_files: set[str], request: Request) -> Plan:
    """Leaves out the images that exist already, and those whose content or style cannot be read."""
    plan, why = Plan(shard=request.shard), cache(unreadable)
    for job in jobs:
        if request.skip_existing and unreadable(str(job.target), job.is_clip) is None:
            plan.existing.append(job)
            continue
        reasons = {str(job.content): why(str(job.content), job.is_clip)}
        for style in style_files.intersection(job.styles):
            reason = why(style)
            reasons.setdefault(style, reason and f"style {reason}")
        broken = {path: reason for path, reason in reasons.items() if reason}
        plan.refused.update(broken)
        plan.failed += bool(broken)
        if not broken:
            plan.jobs.append(job)
    return plan


def unreadable(path: str, is_clip: bool = False) -> str | None:
    """Says in a sentence why an image, a clip or an encoded style cannot be read, as far as its header tells; None if it can."""
    if is_clip:
        return clip_problem(path)
    try:
        if is_reference(path):
            expand_reference(path)
        else:
            read_properties(path)
    except StylezooError as error:
        return str(error)
    return None


# Which images


def expand(
    pattern: str, output: Path | None = None, suffixes: AbstractSet[str] = IMAGE_SUFFIXES
) -> list[tuple[Path, Path]]:
    """The images that a file name, folder or glob stands for, as (path, path below the folder).

    Args:
        pattern: What was given.
        output: The output folder: if it lies in the folder of ``pattern``, its images are left out.
        suffixes: Those of the files that count, in lower case.

    Raises:
        StylezooError: If there are none, or the output folder is this folder. A single file is not checked here.
    """
    path = Path(pattern)
    if os.path.isdir(path):
        if output is not None and os.path.realpath(path) == os.path.realpath(output):
            raise StylezooError(
                f"{output} is both a folder of images and the output folder, whose images would be stylized again by the"
                f" next run: give another one, such as --output {path / 'stylized'}."
            )
        top, found = path, [(file, file.relative_to(path)) for file in list_images(path, suffixes=suffixes)]
    elif glob.has_magic(pattern) and not os.path.exists(path):
        matches = (Path(match) for match in sorted(glob.glob(pattern, recursive=True)))
        top = Path(*(part for part in _before_magic(path)))
        found = [(file, Path(file.name)) for file in matches if file.suffix.lower() in suffixes]
    else:
        return [(path, Path(path.name.replace(":", "_") if is_camera(path) else path.name))]
    if output is not None:
        found = _outside(found, top, output)
    if not found:
        raise ImageError(f"There is no image in {pattern}: expected files such as .jpg, .png or .webp.")
    return found


def _before_magic(path: Path) -> Iterable[str]:
    for part in path.parts:
        if glob.has_magic(part):
            return
        yield part


def _outside(found: list[tuple[Path, Path]], top: Path, output: Path) -> list[tuple[Path, Path]]:
    """Leaves out what lies in the output folder, if that is a folder inside of ``top``."""
    folder, inside = cache(os.path.realpath), os.path.join(os.path.realpath(output), "")
    if inside == os.path.join(folder(top), "") or not inside.startswith(os.path.join(folder(top), "")):
        return found
    return [item for item in found if not os.path.join(folder(item[0].parent), "").startswith(inside)]


def combinations(contents: list[tuple[Path, Path]], styles: Sequence[str], request: Request) -> list[Choice]:
    """Returns every content with every style, with all styles, or with some that are drawn.

    Raises:
        StylezooError: If more styles are to be drawn than there are.
    """
    if request.random_styles is None or not styles:
        choices = [tuple(styles)] if request.together or not styles else [(style,) for style in styles]
        return [(path, relative, chosen) for chosen in choices for path, relative in contents]
    styles = list(dict.fromkeys(styles))
    if len(styles) < request.random_styles:
        raise StylezooError(
            f"{request.draw_option} {request.random_styles} needs as many styles, but --style names {len(styles)}."
        )
    found: list[Choice] = []
    for path, relative in contents:  # what a content gets does not depend on the others
        draw = random.Random(f"{request.seed} {relative.as_posix()}")
        found += [(path, relative, (style,)) for style in draw.sample(styles, request.random_styles)]
    return found


def read_pairs(file: str, are_files: bool) -> list[Choice]:
    """Reads a list of pairs: a CSV file with the columns content and style.

    Args:
        file: Path of the list. Image files are named as seen from the current folder, or from the folder of the list.
        are_files: Whether styles are image files.

    Raises:
        StylezooError: If the list is missing, has no such columns, or a line lacks a value.
    """
    rows = read_table(Path(file), ["content", "style"], "a list of pairs")
    if not rows:
        raise StylezooError(f"{file} lists no pairs: each line names a content and a style.")
    found: list[Choice] = []
    for line, row in enumerate(rows, 2):
        content, style = (row["content"] or "").strip(), (row["style"] or "").strip()
        if not content:
            raise StylezooError(f"Line {line} of {file} names no content.")
        path = _from_here_or(content, file)
        style = _from_here_or(style, file) if style and are_files else style
        found.append((Path(path), Path(Path(path).name), (style,) if style else ()))
    return found


def _from_here_or(path: str, file: str) -> str:
    """Returns a path, or where that does not exist, the path as seen from the folder of a file, if that does."""
    if is_reference(path):
        bank, name = split_reference(path)
        return ":".join([_from_here_or_beside(str(bank), file), *([] if name is None else [name])])
    return _from_here_or_beside(path, file)


def _from_here_or_beside(path: str, file: str) -> str:
    beside = os.path.join(os.path.dirname(file), path)
    return beside if not os.path.exists(path) and os.path.exists(beside) else path


def read_table(file: Path, columns: Sequence[str], what: str) -> list[dict[str, str]]:
    """Reads a CSV file that must have certain columns.

    Raises:
        StylezooError: If it cannot be read or has not these columns.
    """
    try:
        with open_regular(file) as opened:
            text = opened.read().decode("utf-8-sig", errors="surrogateescape")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows, names = list(reader), reader.fieldnames or ()
    except OSError as error:
        raise StylezooError(f"{file} {problem(error)}.") from error
    except csv.Error as error:
        raise StylezooError(f"{file} is not a CSV file: {error}.") from error
    missing = [column for column in columns if column not in names]
    if missing:
        raise StylezooError(f"{file} is not {what}: its first line has to name the columns {', '.join(columns)}.")
    return rows


# Where to


def named_jobs(found: list[Choice], request: Request) -> list[Job]:
    """Gives each image a file, CONTENT_stylized_STYLE in the folders of its content.

    Raises:
        StylezooError: If many images were to go into one file.
    """
    output = request.output
    if request.is_single_file:
        if len(found) != 1:
            raise ImageError(f"{len(found)} images cannot go into one file {output}: give --output a folder.")
        check_kind(found[0][0], output)
        return [Job(found[0][0], found[0][2], output, is_clip(found[0][0], output))]
    names = [_name(relative, styles) for _, relative, styles in found]
    for distinguished in (_with_suffixes, _with_digest):  # a.jpg beside a.png, then a.jpg of two folders
        counts = Counter(map(_folded, names))
        names = [
            distinguished(name, choice) if counts[_folded(name)] > 1 else name
            for name, choice in zip(names, found, strict=True)
        ]
    clips = {path: is_clip(path) for path, _, _ in found}
    jobs = []
    for (path, _, styles), name in zip(found, names, strict=True):
        suffix = clip_suffix(path) if clips[path] else f".{request.format}"
        jobs.append(Job(path, styles, output / name.with_name(_shortened(name.name) + suffix), clips[path]))
    return jobs


def check_kind(content: Path, output: Path) -> None:
    """Checks that a clip is not to become an image, nor an image a clip.

    Raises:
        StylezooError: If it is.
    """
    suffix = output.suffix.lower()
    if is_video(content) and suffix not in WRITTEN_SUFFIXES:
        known = ", ".join(sorted(WRITTEN_SUFFIXES))
        raise StylezooError(
            f"{content} is a clip and {output} an image: give --output a file that ends in one of {known}."
        )
    if suffix in CONTAINERS and os.path.exists(content) and not is_clip(content):
        raise StylezooError(f"{content} is an image and {output} a video: give --output an image file.")


def _name(relative: Path, styles: tuple[str, ...]) -> Path:
    return relative.with_name("_".join([relative.stem, "stylized", *map(style_name, styles)]))


def _with_suffixes(name: Path, choice: Choice) -> Path:
    styles = (split_reference(style)[0] if is_reference(style) else Path(style) for style in choice[2])
    suffixes = "_".join(path.suffix.removeprefix(".") for path in (choice[0], *styles))
    return name.with_name(f"{name.name}_{suffixes}")


def _with_digest(name: Path, choice: Choice) -> Path:
    return name.with_name(f"{name.name}_{_digest('|'.join([str(choice[0]), *choice[2]]))}")


def _folded(name: Path) -> str:
    """Returns a name as file systems see it that do not distinguish cases."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def _shortened(stem: str) -> str:
    """Cuts a name that no file system would take, and tells those apart that begin alike."""
    name = os.fsencode(stem)
    if len(name) <= LONGEST_STEM:
        return stem
    return f"{name[: LONGEST_STEM - 9].decode(errors='ignore')}_{_digest(stem)}"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def check_output(output: Path) -> None:
    """Checks that an output is an image file or a folder that can be written.

    Raises:
        StylezooError: If it has the suffix of an image format that is not written, or cannot be written.
    """
    suffix = output.suffix.lower()
    close = did_you_mean(suffix, FILE_SUFFIXES, cutoff=0.7) if suffix and suffix not in FILE_SUFFIXES else None
    looks_like_file = suffix not in FILE_SUFFIXES and suffix[1:].isalpha() and len(suffix) <= LONGEST_SUFFIX
    if (suffix in OTHER_SUFFIXES or close or looks_like_file) and not os.path.isdir(output):
        raise StylezooError(
            f"Cannot write {output}: an image file ends in one of {', '.join(sorted(IMAGE_SUFFIXES))}, a video in one of"
            f" {', '.join(sorted(CONTAINERS))}, and a folder has no such suffix, unless it exists."
        )
    for part in output.parts:
        if len(os.fsencode(part)) > LONGEST_NAME:
            raise StylezooError(
                f"The name {part[:40]}... of the output has more than {LONGEST_NAME} bytes: shorten it."
            )
    if suffix in FILE_SUFFIXES and not os.path.isdir(output):
        check_folder(output.parent)
    else:
        check_folder(output)


def check_folder(folder: Path) -> None:
    """Checks that files can be written to a folder, or that it can be created.

    Raises:
        StylezooError: If not; the message says why.
    """
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        if not os.path.isdir(existing):
            raise NotADirectoryError(20, "it is a file")
        with tempfile.TemporaryFile(dir=existing):  # permissions alone do not tell: root, read-only disks, quotas
            pass
    except OSError as error:
        raise StylezooError(f"Cannot write to the folder {folder}: {existing}: {error.strerror or error}.") from error


def check_targets(targets: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Checks that no output takes the place of an input, whatever its path is called, and that folders can be written.

    Raises:
        StylezooError: If an output is an input, by path, link or other spelling, or a folder.
    """
    known = {key: path for path in inputs for key in _keys(path)}
    for target in targets:
        for key in _keys(target):
            if key in known:
                raise StylezooError(
                    f"The output {target} would replace the input {known[key]}: give --output another name or folder."
                )
        if target.suffix.lower() in IMAGE_SUFFIXES:
            check_target(target)
        elif target.suffix.lower() in CONTAINERS:
            check_place(target)
    for folder in {target.parent for target in targets}:
        check_folder(folder)


def _keys(path: Path) -> list[object]:
    """Returns what makes a file the same: its real path and, where it exists, its number on its disk."""
    keys: list[object] = [os.path.realpath(path)]
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return keys
    return [*keys, (status.st_dev, status.st_ino)]


def free_name(target: Path, ending: str, taken: Iterable[Path] = ()) -> Path:
    """Returns a name beside a target that no file has.

    Args:
        target: The target.
        ending: What follows its stem, such as ``_preview``; ``_preview2`` and so on where there is such a file already.
        taken: Further names that are not free, such as those of outputs.
    """
    number, others = 1, set(taken)
    while True:
        path = target.with_name(f"{target.stem}{ending}{number if number > 1 else ''}{target.suffix}")
        if path not in others and not os.path.lexists(path):
            return path
        number += 1


# What was made


def read_manifest(file: Path) -> list[dict[str, str]]:
    """Reads the list that an earlier run left; no rows if there is none.

    Raises:
        StylezooError: If the file is something else, which must not be replaced.
    """
    return read_table(file, COLUMNS, "a list that this command wrote") if os.path.lexists(file) else []


def write_manifest(
    request: Request, jobs: Iterable[Job], alpha: float, existing: Iterable[Job] = (), sha256: str | None = None
) -> None:
    """Adds the images of a run to the list in the output folder, to which other processes may add theirs.

    Args:
        request: What was asked for.
        jobs: The images that were written.
        alpha: Strength of those that have none of their own.
        existing: Images that were there already; what the list says of them stays.
        sha256: That of the model, for lists with this column.

    Raises:
        StylezooError: If it cannot be written.
    """
    file = request.output / MANIFEST
    seed = "" if request.random_styles is None else str(request.seed)

    def rows(jobs: Iterable[Job]) -> dict[str, dict[str, str]]:
        found = {}
        for job in jobs:
            output = job.target.relative_to(request.output).as_posix()
            strength = alpha if job.alpha is None else job.alpha
            values = [str(job.content), " ".join(job.styles), f"{strength:g}", seed, output]
            found[output] = dict(zip(COLUMNS, values, strict=True))
            if sha256 is not None:
                found[output][SHA256] = sha256
        return found

    try:
        if request.shard.world == 1:
            _add_rows(file, rows(existing), rows(jobs))
            return
        request.output.mkdir(parents=True, exist_ok=True)
        with open(request.output / LOCK, "ab") as opened:
            lock(opened)
            _add_rows(file, rows(existing), rows(jobs))
    except OSError as error:
        raise StylezooError(f"{file} {problem(error)}.") from error


def _add_rows(file: Path, existing: dict[str, dict[str, str]], added: dict[str, dict[str, str]]) -> None:
    """Adds rows, by their output, to a list; those of images that existed already only where it has none."""
    rows = existing | {row["output"]: row for row in read_manifest(file)} | added
    columns = [*COLUMNS, SHA256] if any(SHA256 in row for row in rows.values()) else COLUMNS
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    with replacing(file) as opened:
        opened.write(text.getvalue().encode(errors="surrogateescape"))


# What is said


def report(text: str, label: str = "skipped: ") -> None:
    """Says on standard error, in one line, what is skipped and why."""
    print(printable(f"{label}{' '.join(text.split())}"), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Returns a text that can be printed, also with names of files that are no text."""
    return text.encode(errors="backslashreplace").decode()
