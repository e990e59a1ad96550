"""Writes the folder `results`: every study, and an evaluation of all models on this machine.

    make results CONTENT=photos STYLE=paintings [WEIGHTS=public] [BENCHMARK=styleid] [TRAINED=styles] [PAIRS=50] [SIZE=256]
                 [SPLIT="val test"] [REFERENCE=adain.public]

With SPLIT, models are evaluated on images that training on these folders leaves out. Models are those that `python -m stylezoo list --pretrained` lists; public weight files in the folder WEIGHTS are imported
first. Results of the same command with the same weights are kept. Sheets of images are left out, because only numbers and
charts can be published whatever the images are.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import stylezoo
from stylezoo import studies, weights
from stylezoo.evaluation.evaluate import evaluate, model_key
from stylezoo.evaluation.measurement import ARTIFACT_METRICS, DEFAULT_METRICS
from stylezoo.evaluation.pairs import image_names
from stylezoo.evaluation.store import read_settings
from stylezoo.files import replacing
from stylezoo.images import list_images
from stylezoo.studies.base import RENAMED_SETTINGS, command
from stylezoo.studies.timing import machine

PUBLIC = {  # tag: patterns of its files, whose names contain those that their publishers gave them
    "adain.public": ("*vgg_normalised*.pth", "*decoder*.pth"),
    "cin.android": ("cin26_google_android.pth",),
    "johnson.la_muse": ("johnson_lengstrom_la_muse.pth",),
    "magenta.mobile": ("magenta_style_predict_quantized_256.npz", "magenta_style_transfer_f16_384.npz"),
    "microast.public": (
        "content_encoder=microast/content_encoder_iter_160000.pth.tar",
        "style_encoder=microast/style_encoder_iter_160000.pth.tar",
        "microast/modulator_iter_160000.pth.tar",
        "microast/decoder_iter_160000.pth.tar",
    ),
}
ENCODER = "vgg_normalised.pth"
EVALUATED = [*DEFAULT_METRICS, "target_content_loss", *ARTIFACT_METRICS]
SPEED = [name for name in studies.studies() if name.endswith("_speed")]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--content", type=Path, required=True, help="folder of photos")
    parser.add_argument("--style", type=Path, required=True, help="folder of paintings")
    parser.add_argument("--weights", type=Path, help="folder of public weight files")
    parser.add_argument("--benchmark", type=Path, help="folder of StyleID's images, cnt and sty")
    parser.add_argument("--trained", type=Path, help="images of styles that models were trained on, with their names")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--split", nargs="+", help="evaluate only images of these splits, such as val test")
    parser.add_argument(
        "--reference", default="adain.public", help="the model to which evaluations give ratios, if it is there"
    )
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--only", nargs="+", help="only these studies")
    parser.add_argument("--force", action="store_true", help="replace all results")
    options = parser.parse_args()
    for folder in (options.content, options.style):
        if not list_images(folder):
            sys.exit(f"There is no image in {folder}: make results CONTENT=photos STYLE=paintings, two folders.")
    os.environ["STYLEZOO_HOME"] = str(weights.folder().parent.resolve())
    encoder = import_public(options.weights)
    with working_folder(options, encoder):
        measuring = (
            {"encoder": "vgg19_normalised", "encoder_weights": ENCODER} if encoder else {"encoder": "vgg19_slim"}
        )
        skipped = make(options, measuring)
    for line in skipped:
        print(line)


def import_public(folder: Path | None) -> Path | None:
    """Imports those models of `PUBLIC` whose files are in a folder.

    Args:
        folder: Folder of public weight files; None imports nothing.

    Returns:
        The file of the normalized VGG-19, or None if there is none.
    """
    if folder is None:
        print("No public weights are imported: name their folder with WEIGHTS=...")
        own = weights.table().encoders["vgg19_normalised"].path
        return own if own.is_file() else None
    for tag, patterns in PUBLIC.items():
        target = weights.folder() / f"{tag}.safetensors"
        files = [found(folder, pattern) for pattern in patterns]
        if target.is_file() or None in files:
            print(f"{tag}: {'is there' if target.is_file() else f'its files are not in {folder}'}")
            continue
        system, name = tag.split(".")
        settings = {"style_name": name} if system in stylezoo.list_models("single") else {}
        stylezoo.save_model(stylezoo.import_checkpoint(system, [str(file) for file in files], **settings), target)
        print(f"{tag}: imported")
    return next(iter(sorted(folder.glob("*vgg_normalised*.pth"))), None)


def found(folder: Path, pattern: str) -> str | None:
    """Returns a file of a folder, as ``submodule=file`` if the pattern names the submodule, or None if there is none."""
    submodule, equals, pattern = pattern.rpartition("=")
    files = sorted(folder.glob(pattern))
    return f"{submodule}{equals}{files[0].resolve()}" if files else None


@contextmanager
def working_folder(options: argparse.Namespace, encoder: Path | None) -> Iterator[None]:
    """Changes to a folder of links with plain names, so that results contain no paths of this machine."""
    links = {"photos": options.content, "paintings": options.style, "results": options.output, ENCODER: encoder}
    if options.benchmark is not None:
        links |= {"cnt": options.benchmark / "cnt", "sty": options.benchmark / "sty"}
    if options.trained is not None:
        links["trained"] = options.trained
    options.output.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name, target in links.items():
            if target is not None:
                Path(folder, name).symlink_to(target.resolve())
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def make(options: argparse.Namespace, encoder: dict[str, str]) -> list[str]:
    """Makes the results that are missing.

    Args:
        options: The options of the command line.
        encoder: Settings of the network that measures.

    Returns:
        Sentences on the results that could not be made.
    """
    results = Path("results")
    models = stylezoo.list_models("arbitrary", pretrained=True)
    if not models:
        sys.exit("There is no model on this machine: import public weights (WEIGHTS=...) or train some.")
    trained = [*stylezoo.list_models("multi", pretrained=True), *stylezoo.list_models("single", pretrained=True)]
    planned = plan(options, models, encoder)
    forget_old(results, {tag: describe(tag) for tag in [*models, *trained]}, planned, options.force)
    wanted = {"size": options.size, "pairs": options.pairs, "split": options.split, "metrics": EVALUATED, **encoder}
    skipped = []
    if options.only is None:
        reference = options.reference if options.reference in models else None
        measure(results / "evaluation", models, "paintings", {**wanted, "reference": reference})
    for name, settings in planned.items():
        if options.only is not None and name not in options.only:
            continue
        words = command(name, results, settings, charts_only=True)
        if is_current(results / f"{name}.md", words):
            print(f"{name}: is there")
        elif name == "styleid" and options.benchmark is None:
            skipped.append(f"Left out: {name}, because its images are missing (BENCHMARK=folder of cnt and sty).")
        else:
            print(words, flush=True)
            studies.run(name, results, charts_only=True, **settings)
    for tag in trained if options.only is None else []:
        styles = own_styles(tag)
        if styles is None:
            skipped.append(
                f"Left out: the evaluation of {tag}, because images of its styles are missing (TRAINED=folder)."
            )
        else:
            measure(results / f"evaluation_{tag}", [tag], styles, wanted)
    index(results, skipped)
    return skipped


def is_current(summary: Path, words: str) -> bool:
    """Returns whether a summary was made by a command line, if former names of settings count as the current ones."""
    lines = summary.read_text().splitlines() if summary.is_file() else []
    return any(settings_of(line) == settings_of(words) for line in lines if line.startswith("    python -m stylezoo"))


def settings_of(words: str) -> dict[str, list[str]]:
    """Returns the settings of a command line ``reproduce``, in any order, under their current names.

    >>> settings_of("python -m stylezoo reproduce alpha_sweep --pictures 3 --set system=adain alphas=4 --charts_only")
    {'': ['alpha_sweep'], 'images': ['3'], 'charts_only': [], 'systems': ['adain'], 'alphas': ['4']}
    """
    option, found = "", dict[str, list[str]]()
    for word in shlex.split(words)[4:]:
        if word.startswith("--"):
            option = word.removeprefix("--")
            found[option] = []
        else:
            found.setdefault(option, []).append(word)
    for setting in found.pop("set", []):
        name, _, value = setting.partition("=")
        found[name] = value.split(",")
    return {RENAMED_SETTINGS.get(name, name): values for name, values in found.items()}


def forget_old(results: Path, models: dict[str, dict[str, str]], planned: dict[str, Any], everything: bool) -> None:
    """Removes results of weights that have changed since, and writes models.csv.

    Args:
        results: The folder of the results.
        models: {tag: row of models.csv} of the weights on this machine.
        planned: {study: settings}.
        everything: Whether all results are removed.
    """
    path = results / "models.csv"
    before = {}
    if path.is_file():
        with path.open(newline="") as file:
            before = {row["model"]: row for row in csv.DictReader(file)}
    changed = {tag for tag, row in before.items() if tag in models and models[tag]["sha256"] != row["sha256"]}
    if changed or everything:
        print("Made anew:", "everything" if everything else f"all results of {', '.join(sorted(changed))}")
    for name, settings in planned.items():
        if everything or changed & {*settings.get("models", ())}:
            (results / f"{name}.md").unlink(missing_ok=True)
    for folder in results.glob("evaluation*"):
        stored = read_settings(folder)
        kept = {} if stored is None else {tag: m for tag, m in stored["models"].items() if tag not in changed}
        if everything or stored is None or not kept:
            shutil.rmtree(folder)
            continue
        for tag in stored["models"].keys() - kept:
            (folder / f"{tag}.csv").unlink(missing_ok=True)
        with replacing(folder / "settings.json") as file:
            file.write((json.dumps({**stored, "models": kept}, indent=2) + "\n").encode())
    table = io.StringIO()
    writer = csv.DictWriter(table, next(iter(models.values())), lineterminator="\n")
    writer.writeheader()
    writer.writerows(models.values())
    with replacing(path) as file:
        file.write(table.getvalue().encode())


def measure(folder: Path, models: list[str], style: str, wanted: dict[str, Any]) -> None:
    """Runs an evaluation; an existing one is completed, or replaced if it was made with other settings."""
    print(f"{folder.name}: {len(models)} models, at most {wanted['pairs']} pairs", flush=True)
    stored, split = read_settings(folder), wanted["split"]
    pairs = min(wanted["pairs"], possible_pairs("photos", style, split, every_style=style != "paintings"))
    if stored is not None:
        before = [*(stored["protocol"].get(key) for key in ("pairs", "size", "split")), [*stored["metrics"]]]
        if before != [pairs, wanted["size"], split, wanted["metrics"]]:
            shutil.rmtree(folder)
    evaluate(models, "photos", style, folder, **{**wanted, "pairs": pairs})


def possible_pairs(content: str, style: str, split: list[str] | None, every_style: bool) -> int:
    """Returns the number of all pairs of two folders; see `stylezoo.evaluation.pairs.draw_pairs`."""
    names = [image_names(Path(content), split), image_names(Path(style), None if every_style else split)]
    return len(names[0]) * len(names[1])


def plan(options: argparse.Namespace, models: list[str], encoder: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Returns {study: settings} in the order of their runs, in which studies of the same pairs follow each other."""
    given = {"content": "photos", "style": "paintings", "models": models, "size": options.size, **encoder}
    pairs = {**given, "images": options.pairs}
    own = {
        key: value for key, value in given.items() if key not in encoder
    }  # these are measured with the models' own encoders
    return {
        "balanced_loss": pairs,
        "loss_distributions": pairs,
        "loss_exemplars": pairs,
        "supremum_correlation": pairs,
        "identity": own,
        "alpha_sweep": own,
        "style_interpolation": {**own, "models": models[:1]},
        "levels": given,
        "content_leak": given,
        "temporal": {**given, "images": 20, "steps": 100, "crop": 96, "lr": 1e-4},
        "stytr2_losses": pairs,
        "styleid": {**pairs, "content": "cnt", "style": "sty"},
        **{name: {"size": options.size, "images": 3} for name in SPEED},
        "adain_loss_vs_iterations": {**given, "models": models[:1], "size": options.size // 2, "images": 3},
        "norm_convergence": {},  # these three train on procedural images
        "upsampling_checkerboard": {},
        "cin_styles": {"steps": 100},
    }


def own_styles(tag: str) -> str | None:
    """Returns a folder with the images of a model's styles, or None if one is missing."""
    images = {path.stem: path for path in list_images("trained")} if Path("trained").is_dir() else {}
    styles = stylezoo.load_model(tag).styles
    if not set(styles) <= images.keys():
        return None
    folder = Path(f"styles of {tag}")
    folder.mkdir()
    for style in styles:
        (folder / images[style].name).symlink_to(images[style].resolve())
    return str(folder)


def describe(tag: str) -> dict[str, str]:
    """Returns the row of models.csv of a model."""
    model = stylezoo.load_model(tag)
    parameters = str(sum(p.numel() for p in model.parameters()))
    return {"model": tag, "kind": model.kind, "parameters": parameters, **model_key(model)}


def index(results: Path, skipped: list[str]) -> None:
    """Writes README.md of the folder."""
    described = [study for name, study in studies.studies().items() if (results / f"{name}.md").is_file()]
    evaluations = sorted(path.parent.name for path in results.glob("evaluation*/summary.md"))
    lines = [
        "# Results",
        (
            "Written by `make results` (`tools/update_results.py`), whole; nothing in here is edited by hand. Every summary ends"
            " with the command that made it and all settings. `photos`, `paintings`, `cnt`, `sty` and `trained` stand for folders"
            " of images that are not part of this repository. [models.csv](models.csv) has the models and the sha256 of their"
            " weights; `vgg_normalised.pth` is the encoder that measures, its sha256 is in the summaries."
        ),
        f"Machine of the last run, which keeps what had not changed: {machine()}. Tables of times name theirs.",
        "\n".join(
            [f"* [{name}]({name}/summary.md): values per pair, means with intervals" for name in evaluations]
            + [f"* [{study.name}]({study.name}.md): {study.title}" for study in described]
        ),
        *skipped,
    ]
    with replacing(results / "README.md") as file:
        file.write(("\n\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
