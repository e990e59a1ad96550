"""Sizes and errors of exported models: a model of each system, as ONNX in three precisions and as a program of torch.export.

    python benchmarks/export.py --output docs/export.csv

Errors are against PyTorch in float32, at three sizes that were not traced (`stylezoo.exporters.interface.CHECKED`), of outputs in
[0, 1]: the largest of all numbers, and the largest mean of an image in gray levels of 255. Where a file is refused, the column
``refused`` says why.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import stylezoo
from stylezoo.errors import StylezooError
from stylezoo.files import replacing
from stylezoo.studies.base import as_csv
from stylezoo.weights import table

KINDS = (("onnx", "float32"), ("onnx", "float16"), ("onnx", "int8"), ("torch", "float32"))
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    first = {file.system: tag for tag, file in reversed(table().models.items())}  # of each system
    parser.add_argument("--models", nargs="+", default=sorted(first.values()))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(tag, *kind) for tag in arguments.models for kind in KINDS]
    with replacing(arguments.output) as file:
        file.write(as_csv(rows).encode())


def row(tag: str, format: Any, precision: Any) -> dict[str, Any]:
    """Exports a model and returns what is measured of the file."""
    found: dict[str, Any] = {"model": tag, "format": format, "precision": precision}
    refused = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(folder, f"model{SUFFIXES[format]}")
            written = stylezoo.export(tag, path, format=format, precision=precision)
            found |= {
                "inputs": " ".join(written.inputs),
                "MB": round(written.bytes / 1e6, 2),
                "largest_error": f"{written.largest_error:.1e}",
                "mean_error_of_255": round(255 * written.mean_error, 3),
            }
        except StylezooError as error:
            found |= dict.fromkeys(("inputs", "MB", "largest_error", "mean_error_of_255"), "")
            refused = str(error)
    print(found | {"refused": refused}, flush=True)
    return found | {"refused": refused}


if __name__ == "__main__":
    main()
