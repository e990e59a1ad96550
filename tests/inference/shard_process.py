"""What two processes do that stylize and predict together, for test_shards.py."""

import os
import signal
from pathlib import Path
from typing import Any

from torch import distributed

from stylezoo.cli import main
from stylezoo.inference import files


def run(*arguments: str) -> int:
    """The exit code of a command."""
    try:
        main([*arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def stylize(output: str, *others: str) -> int:
    """Stylizes every content with one of the two styles."""
    images = ["--content", "contents", "--style", "styles", "--random_styles", "1", "--output", output]
    return run("stylize", "--model", "model.safetensors", *images, "--batch_size", "1", "--device", "cpu", *others)


def predict(output: str, *others: str) -> int:
    """Predicts the test images of a data set."""
    data = ["--data.content=Folder", "--data.content.root=contents", "--data.style=Folder", "--data.style.root=styles"]
    sizes = ["--data.size=32", "--data.crop=32", "--data.batch_size=1", "--data.num_workers=0"]
    sizes += ["--data.content.holdout=0", "--data.style.holdout=0"]  # test images are all images
    model = ["--config=model.yaml", "--ckpt_path=model.ckpt"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    code = run("predict", *model, *data, *sizes, *trainer, f"--predictions.folder={output}", *others)
    if distributed.is_initialized():
        distributed.destroy_process_group()  # gloo's threads may abort a process that leaves them running
    return code


def killed(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def second(run: str, port: int) -> None:
    """What the second process does in a folder of images and a model.

    Args:
        run: In the run ``first`` it is killed before its second image is written; ``again`` does the rest.
        port: Where the processes meet to predict.
    """
    if run == "first":
        write = files.write_image

        def once(*arguments: Any) -> None:
            write(*arguments)
            files.write_image = killed  # type: ignore[assignment]

        files.write_image = once  # type: ignore[assignment]
        stylize("two")
    code = stylize("two", "--skip_existing")
    os.environ["MASTER_PORT"] = str(port)  # the last meeting may not have left the other one yet
    again = ["--trainer.devices=2", "--predictions.skip_existing=true"]
    Path("codes").write_text(f"{code} {predict('predicted', *again)}")
