"""The second of two processes that stylize and predict together, for test_shards.py.

    python shard_process.py FOLDER first|again PORT

FOLDER holds the images and the model. In the first run this process is killed before its second image is written.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch import distributed

from stylezoo.cli import main
from stylezoo.inference import files


def environment(rank: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives to one of two processes."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    names = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in {**place, **names}.items()}


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


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    if sys.argv[2] == "first":
        write = files.write_image

        def once(*arguments: Any) -> None:
            write(*arguments)
            files.write_image = killed  # type: ignore[assignment]

        files.write_image = once  # type: ignore[assignment]
        stylize("two")
    code = stylize("two", "--skip_existing")
    os.environ["MASTER_PORT"] = sys.argv[3]  # the last meeting may not have left the other one yet
    again = ["--trainer.devices=2", "--predictions.skip_existing=true"]
    Path("codes").write_text(f"{code} {predict('predicted', *again)}")
