"""Breaks files on purpose: whatever is in a file, the package answers with one sentence or reads it.

python tools/fuzz.py --seconds 60 --seed 0               # all fuzzers
python tools/fuzz.py --seconds 60 --seed 0 --only images

A fuzzer is an entry of `FUZZERS`: files that are right, and the function that reads one. The files are cut, flipped, spliced and
swapped; anything but a `StylezooError` of one line, 10 seconds or 1 GB more memory is a failure. The seed is printed
first; the smallest file that fails is left in the folder that is named last, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import os
import random
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from safetensors.torch import save

from stylezoo import cli, legacy, registry
from stylezoo.commands import COMMANDS
from stylezoo.data.prepared import Prepared, prepare
from stylezoo.download import extract
from stylezoo.errors import StylezooError
from stylezoo.images import formats, load_image, written_formats
from stylezoo.tensor_files import read_tensors
from stylezoo.trainer_cli import StyleCLI

SLOW = 10.0
"""Seconds that one file may take."""

LARGE = 1_000_000
"""KiB by which the memory of the process may grow while one file is read."""


@dataclass(frozen=True)
class Fuzzer:
    """What is broken, and what must survive it."""

    examples: Callable[[], dict[str, bytes]]
    """Returns {file name: content} of files that can be read."""
    use: Callable[[Path], object]
    """Reads a file; may raise a `StylezooError` and nothing else."""


@dataclass(frozen=True)
class Failure:
    """A file that breaks a fuzzer's function."""

    name: str
    content: bytes
    problem: str


def fuzz(fuzzer: Fuzzer, seconds: float, seed: int) -> tuple[int, Failure | None]:
    """Breaks files for some time.

    Returns:
        The number of files tried, and the first failure, as small as it could be made; None if there is none.
    """
    rng = random.Random(seed)
    examples = fuzzer.examples()
    names = sorted(examples)
    count = 0
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        for name in names:  # unbroken
            if problem := attempt(fuzzer, Path(folder, name), examples[name], sound=True):
                return count, Failure(name, examples[name], problem)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = rng.choice(names)
            content = mutate(examples[name], examples[rng.choice(names)], rng)
            count += 1
            if problem := attempt(fuzzer, Path(folder, name), content):
                return count, shrink(fuzzer, Path(folder), Failure(name, content, problem))
    return count, None


def fuzz_images(seconds: float, seed: int) -> tuple[int, Failure | None]:
    """Breaks image files of all formats; see `fuzz`."""
    return fuzz(FUZZERS["images"], seconds, seed)


def attempt(fuzzer: Fuzzer, path: Path, content: bytes, sound: bool = False) -> str:
    """Tries one file; returns what is wrong with the answer, nothing if all is well."""
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    faulthandler.dump_traceback_later(6 * SLOW, exit=True)  # a decoder that hangs does not even notice signals
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fuzzer.use(path)
    except StylezooError as error:
        if sound:
            return f"a sound file is refused: {error}"
        if "\n" in str(error) or len(str(error)) > 2000:
            return f"the message is no sentence: {error!r}"
    except Exception as error:  # noqa: BLE001  # which ones there are is the question
        return f"{type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    if (taken := time.monotonic() - started) > SLOW:
        return f"it takes {taken:.0f} s"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"it takes {grown / 1e6:.1f} GB of memory" if grown > LARGE else ""


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Returns a broken copy of a file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind, at = rng.randrange(8), rng.randrange(len(data) + 1)
        near = min(rng.randrange(1, 200), len(data) - 1) if len(data) > 1 else 0  # headers are read first
        if kind == 0:
            del data[at:]
        elif kind == 1 and data:
            data[near] ^= 1 << rng.randrange(8)
        elif kind == 2 and data:
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 3 and data:
            data[near] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 4:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 5:
            data[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 6:
            length = rng.randrange(1, 64)
            data[:length] = other[:length]
        else:
            data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def shrink(fuzzer: Fuzzer, folder: Path, failure: Failure, seconds: float = 20.0) -> Failure:
    """Removes parts of a file as long as it fails in the same way."""
    if "memory" in failure.problem or " s" in failure.problem[-2:]:  # what a process has taken cannot be measured twice
        return failure
    end, content = time.monotonic() + seconds, failure.content
    step = len(content) // 2
    while step and time.monotonic() < end:
        at = 0
        while at < len(content) and time.monotonic() < end:
            smaller = content[:at] + content[at + step :]
            problem = attempt(fuzzer, folder / failure.name, smaller)
            if problem.split(":")[0] == failure.problem.split(":")[0]:
                content = smaller
            else:
                at += step
        step //= 2
    return Failure(failure.name, content, failure.problem)


def image_files() -> dict[str, bytes]:
    """Small images of all formats and many modes."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[274], exif[306] = 6, "2026:01:02 03:04:05"
    files: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, format: str, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, format=format, **options)  # type: ignore[arg-type]
        files[name] = buffer.getvalue()

    for suffix, format in written_formats().items():
        add(f"rgb{suffix}", rgb, format)
    for name, format in {"a.tga": "TGA", "a.mpo": "MPO"}.items():
        add(name, rgb, format)
    add("rle.tga", rgba, "TGA", compression="tga_rle")
    add("rotated.jpg", rgb, "JPEG", exif=exif, icc_profile=profile)
    add("progressive.jpg", rgb, "JPEG", progressive=True)
    add("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    for suffix in (".png", ".webp", ".tif"):
        add(f"alpha{suffix}", rgba, written_formats()[suffix], exif=exif, icc_profile=profile)
    add("palette.png", rgb.quantize(9), "PNG", transparency=3)
    add("wide.png", Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG", transparency=257)
    add("wide.tif", Image.fromarray(noise[..., 0].astype(np.int32)), "TIFF")
    add("float.tif", Image.fromarray(noise[..., 0].astype(np.float32) / 255), "TIFF")
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4"):
        source = rgb.convert("1") if compression == "group4" else rgb
        add(f"{compression}.tif", source, "TIFF", compression=compression)
    for suffix in (".gif", ".png", ".webp", ".tif"):
        frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
        add(f"frames{suffix}", rgb, written_formats()[suffix], **frames)
    add("ascii.ppm", rgb.convert("L"), "PPM")
    files["plain.ppm"] = b"P3 2 2 255\n" + b" 1 2 3" * 4
    return files


def read_small_image(path: Path) -> None:
    """Reads an image."""
    with few_pixels():
        image = load_image(path, 16)
        assert image.shape[0] == 3 and bool(((image >= 0) & (image <= 1)).all())
        load_image(path.read_bytes())


@contextlib.contextmanager
def few_pixels() -> Iterator[None]:
    """Lowers the limit on pixels, so that a header that claims many does not take its time to fill them."""
    limit, formats.MAX_PIXELS = formats.MAX_PIXELS, 4_000_000
    try:
        yield
    finally:
        formats.MAX_PIXELS = limit


class ParsedOnly(StyleCLI):
    """A command of the Trainer up to its settings: nothing is built or run."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def read_command_line(words: list[str]) -> None:
    """Reads a command line as `stylezoo.cli.main` does, up to the point where the command would run."""
    command, *rest = words or [""]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):  # --help, --print_config
        if command in COMMANDS:
            cli.parse(command, legacy.upgrade_arguments(words)[1:])
        elif command in cli.TRAINER_COMMANDS:
            ParsedOnly(legacy.upgrade_arguments([command, *cli.checked_options(command, rest)]))
        elif not command.startswith(("-c", "--config")):  # these run what the recipe says
            cli.run(words)


def recipe_files() -> dict[str, bytes]:
    """The complete recipes of the zoo."""
    return {f"{name}.yaml": (registry.RECIPES / f"{name}.yaml").read_bytes() for name in registry.list_models()}


def read_recipe(path: Path) -> None:
    """Reads a recipe on the command line and in Python, which reads no more than its YAML."""
    read_command_line(["fit", f"--config={path}"])
    registry.read_recipe(path)


def command_lines() -> dict[str, bytes]:
    """Command lines with most kinds of options, one word per line."""
    recipe, data = f"--config={registry.RECIPES / 'adain.yaml'}", "--data.content=Synthetic"
    lines = {
        "list": "list --kind arbitrary --pretrained --format json",
        "stylize": "stylize --model adain --content a.png b --style c.png --alpha 0.5 --style_weights 1,2 --size 64 --output d",
        "import": "import --system adain --files a.pth decoder=b.pth --output c.safetensors",
        "evaluate": "evaluate --models a b=c --content d --style e --pairs 9 --metrics ssim --save_images true --output f",
        "reproduce": "reproduce alpha_sweep --output a --steps 3 --set iterations=1 systems=adain --charts_only",
        "fit": f"fit {recipe} --model.style_loss mean_std --model.lr=1e-3 --trainer.max_steps 3 {data} --data.content.count=9",
        "fit class": f"fit {recipe} --model sanet --trainer.callbacks+=EMA --trainer.callbacks.decay 0.9 --start_parts [decoder]",
        "predict": f"predict {recipe} --trainer.limit_predict_batches 1 --predictions.folder a --data.style.root b",
    }
    return {name: line.replace(" ", "\n").encode() for name, line in lines.items()}


def read_command_file(path: Path) -> None:
    """Reads a command line that is a file, one word per line."""
    read_command_line([os.fsdecode(word) for word in path.read_bytes().replace(b"\0", b"").split(b"\n") if word])


def weight_files() -> dict[str, bytes]:
    """Small files of weights of every format that is read."""
    tensors = {
        "1.weight": torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2),
        "1.bias": torch.zeros(2, dtype=torch.float16),
        "count": torch.tensor(3),
    }
    files = {"x.safetensors": save(tensors, metadata={"stylezoo": '{"format": "stylezoo-1", "system": "adain"}'})}
    scripts = {"state_dict": tensors, "args": argparse.Namespace(lr=1.0), "best": np.float64(2.0)}
    for name, content, zipped in (("x.pth", scripts, True), ("old.pth", scripts, False), ("x.ckpt", tensors, True)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        files[name] = buffer.getvalue()
    for name, write in (("x.npz", np.savez), ("small.npz", np.savez_compressed)):
        buffer = io.BytesIO()
        write(buffer, **{key: tensor.numpy() for key, tensor in tensors.items()})
        files[name] = buffer.getvalue()
    return files


def archives() -> dict[str, bytes]:
    """Small zip files with every method of compression."""
    files = {}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("a/1.txt", b"one two three " * 30)
            archive.writestr("a/b/2.bin", random.Random(0).randbytes(200))
            archive.writestr("c/", b"")
        files[f"{method}.zip"] = buffer.getvalue()
    return files


def unpack(path: Path) -> None:
    """Unpacks an archive; where that fails, nothing may be left in the folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:
            extract(path, Path(folder, "in"))
        except StylezooError:
            left = [file for file in Path(folder).rglob("*") if file.is_file()]
            assert not left, f"{left} is left"
            raise
        assert all(file.name == "in" for file in Path(folder).iterdir()), "files outside of the folder"


def prepared_files() -> dict[str, bytes]:
    """The files of prepared folders."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Path(folder, "set").mkdir()
        for name in ("a.png", "b.png"):
            Image.fromarray(noise).save(Path(folder, "set", name))
        for pixels in ("raw", "jpeg"):
            output = Path(folder, pixels)
            prepare(Path(folder, "set"), output, 16, pixels)  # type: ignore[arg-type]
            files |= {f"{pixels} {path.name}": path.read_bytes() for path in output.iterdir() if path.suffix}
    return files


PREPARED: dict[str, bytes] = {}


def read_prepared(path: Path) -> None:
    """Reads the images of a prepared folder of which one file is another one."""
    if not PREPARED:
        PREPARED.update(prepared_files())
    pixels, _, broken = path.name.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in PREPARED.items():
            if name.startswith(pixels):
                Path(folder, name.partition(" ")[2]).write_bytes(path.read_bytes() if name == path.name else content)
        assert Path(folder, broken).exists()
        store = Prepared(Path(folder))
        store.changes()
        for image in store.list(Path(folder)):
            assert store.image(str(image)).mode == "RGB"


def clip_files() -> dict[str, bytes]:
    """Short videos of several containers, and animations."""
    from stylezoo.inference.video import stylize_clip

    images = [Image.fromarray(np.full((24, 32, 3), 40 * index, np.uint8)) for index in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"a.{suffix}") for suffix in ("gif", "webp", "mkv", "mov", "mp4", "webm")]
        for path in paths[:2]:
            images[0].save(path, save_all=True, append_images=images[1:], duration=40)
        for path in paths[2:]:
            stylize_clip(lambda contents: contents, paths[0], path)
        return {path.name: path.read_bytes() for path in paths}


def read_clip(path: Path) -> None:
    """Reads the frames of a clip."""
    from stylezoo.video import open_clip

    with few_pixels(), contextlib.closing(open_clip(path)) as clip:
        for _, frame in zip(range(50), clip.frames(), strict=False):
            assert frame.pixels.shape[1::-1] == clip.properties.size


FUZZERS = {
    "archives": Fuzzer(archives, unpack),
    "clips": Fuzzer(clip_files, read_clip),
    "commands": Fuzzer(command_lines, read_command_file),
    "images": Fuzzer(image_files, read_small_image),
    "prepared": Fuzzer(prepared_files, read_prepared),
    "recipes": Fuzzer(recipe_files, read_recipe),
    "weights": Fuzzer(weight_files, read_tensors),
}


def quiet_libraries() -> None:
    """Silences libraries in C that tell standard error about every broken file; Python still writes there."""
    terminal = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = open(terminal, "w", buffering=1)  # noqa: SIM115


def main() -> int:
    """Runs the fuzzers and returns the exit code."""
    parser = argparse.ArgumentParser(description="Breaks files on purpose.")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all fuzzers together")
    parser.add_argument("--seed", type=int, default=None, help="a failure comes again with the seed that was printed")
    parser.add_argument("--only", choices=sorted(FUZZERS), nargs="+", default=sorted(FUZZERS))
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    quiet_libraries()
    for name in arguments.only:
        count, failure = fuzz(FUZZERS[name], arguments.seconds / len(arguments.only), seed)
        print(f"{name}: {count} files", flush=True)
        if failure is not None:
            file = Path(tempfile.mkdtemp(prefix=f"fuzz_{name}_"), failure.name)
            file.write_bytes(failure.content)
            print(f"{name}: {failure.problem}\n{len(failure.content)} bytes: {file}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
