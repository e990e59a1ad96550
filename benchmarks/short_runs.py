"""Trains every trainable system for a short time on real images, to check that its loss falls and what its outputs are.

    python benchmarks/short_runs.py --photos PHOTOS --paintings PAINTINGS --output docs/short_runs.csv

Each system's own recipe is trained through the command line, with its own loss weights and learning rate, but for small
crops and the encoder that is given. The table has the mean loss of the first and of the last tenth of the steps. With
``--checkpoints`` the trained models are kept, for `contact_sheet.py`.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from pathlib import Path
from statistics import fmean

from jsonargparse import auto_cli

import stylezoo
from stylezoo.cli import main as command_line
from stylezoo.images import list_images
from stylezoo.registry import RECIPES, get, read_recipe, recipe_files
from stylezoo.studies.base import as_csv

SMALLER = {"magenta": "magenta_mobile", "stytr2": "stytr2_small"}
"""Recipes that train a smaller network of the same system."""


def recipes() -> list[str]:
    """Returns a recipe of every trainable system, the smaller one if there are two."""
    trainable = [name for name in stylezoo.list_models() if get(name).kind != "optimization"]
    return [SMALLER.get(name, name) for name in trainable]


def copy_styles(paintings: Path, styles: Path) -> None:
    """Copies four of the paintings to a new folder, for systems that learn given styles."""
    styles.mkdir()
    files = list_images(paintings)
    for file in files[:: max(1, len(files) // 4)][:4]:
        shutil.copy(file, styles)


def arguments(
    name: str,
    photos: Path,
    paintings: Path,
    styles: Path,
    crop: int,
    batch_size: int,
    encoder: str,
    encoder_weights: str | None,
) -> list[str]:
    """Returns the options of ``fit`` for a recipe with these images, crops and encoder."""
    recipe = RECIPES / f"{name}.yaml"
    settings = read_recipe(recipe)
    model, style = settings["model"]["init_args"], settings["data"].get("style")
    options = [f"--config={file}" for file in recipe_files(recipe)]
    options += ["--data.content=Folder", f"--data.content.root={photos}"]
    network = "encoder" if "encoder" in model else "loss_encoder"  # only the losses of some systems need one
    if network in model:
        options.append(f"--model.{network}={encoder}")
        if encoder_weights is not None:
            options.append(f"--model.{network}_weights={encoder_weights}")
    if "style_image" in model:
        options.append(f"--model.style_image={next(iter(sorted(styles.iterdir())))}")
    if "styles" in model:
        options.append(f"--model.styles={styles}")
    framing = [f"size={crop + crop // 4}", f"crop={crop}"]
    if style is not None:
        options += ["--data.style=Folder", f"--data.style.root={paintings}"]
        if "size" in style["init_args"]:  # of its own; other recipes give styles the size of contents
            options += [f"--data.style.{value}" for value in framing]
    return [
        *options,
        *(f"--data.{value}" for value in framing),
        f"--data.batch_size={batch_size}",
        "--data.num_workers=0",
        "--trainer.max_epochs=-1",  # some recipes count in epochs
    ]


def read_rows(table: Path) -> dict[str, dict[str, str]]:
    """Returns the rows of a table, {recipe: row}, or none if there is no such file."""
    if not table.exists():
        return {}
    with table.open(newline="") as file:
        return {row["recipe"]: row for row in csv.DictReader(file)}


def write_rows(rows: dict[str, dict[str, str]], table: Path) -> None:
    """Writes a table, sorted by recipe."""
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(as_csv([rows[name] for name in sorted(rows)]), encoding="utf-8")


def main(
    photos: Path,
    paintings: Path,
    output: Path,
    systems: list[str] | None = None,
    steps: int = 200,
    crop: int = 96,
    batch_size: int = 4,
    encoder: str = "vgg19_random/4",
    encoder_weights: str | None = None,
    checkpoints: Path | None = None,
    options: dict[str, list[str]] | None = None,
) -> None:
    """Trains the systems and writes the table, a row when its system is done; rows of an earlier run are kept.

    Args:
        photos: A folder of contents.
        paintings: A folder of styles; systems that learn given styles get four of them.
        output: The table, a CSV file.
        systems: Systems, or recipes such as ``stytr2_small``; null for all trainable systems that the table lacks.
        steps: Optimizer steps.
        crop: Side of the training images.
        batch_size: Images in a batch.
        encoder: The encoder, and the network of the losses.
        encoder_weights: A file for it.
        checkpoints: Keeps the models here, SYSTEM.ckpt.
        options: Further options of the command line by system, such as ``{magenta: [--model.lr=1e-3]}``.
    """
    rows = read_rows(output)
    more = options or {}
    for name in systems or [name for name in recipes() if name not in rows]:
        with tempfile.TemporaryDirectory() as temporary:
            styles = Path(temporary) / "styles"
            copy_styles(paintings, styles)
            run_options = arguments(name, photos, paintings, styles, crop, batch_size, encoder, encoder_weights)
            run_options += [f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0"]
            run_options += ["--trainer.val_check_interval=null", "--trainer.log_every_n_steps=1"]
            run_options += [f"--trainer.logger.save_dir={temporary}", "--trainer.logger.name=run"]
            run_options += [f"--images.every_n_steps={10 * steps}", *more.get(name, [])]
            command_line(["fit", *run_options])
            run = Path(temporary) / "run" / "version_0"
            with (run / "metrics.csv").open(newline="") as file:
                losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
            if checkpoints is not None:
                checkpoints.mkdir(parents=True, exist_ok=True)
                shutil.copy(run / "checkpoints" / "last.ckpt", checkpoints / f"{name}.ckpt")
        tenth = max(1, steps // 10)
        first, last = fmean(losses[:tenth]), fmean(losses[-tenth:])
        rows[name] = {
            "recipe": name,
            "encoder": encoder,
            "options": " ".join(more.get(name, [])),
            "steps": str(len(losses)),
            "first": f"{first:.4g}",
            "last": f"{last:.4g}",
            "ratio": f"{last / first:.3f}",
        }
        print(*(f"{k}={v}" for k, v in rows[name].items()), flush=True)
        write_rows(rows, output)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
