"""What each of two processes does that update the metrics with a part of the images, for test_contract.py."""

from datetime import timedelta
from pathlib import Path

import torch
from every_metric import METRICS, alexnet, some_images, update


def measure(folder: Path, rank: int) -> dict[str, tuple[float, int, int]]:
    """{metric: (value, n, n of this process's own part afterwards)}, together with the process of the other rank."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", store, timedelta(minutes=3), world_size=2, rank=rank)
    try:
        (folder / str(rank)).mkdir()
        network = alexnet(folder / str(rank))
        values = {}
        for name, build in METRICS.items():
            metric = build(network)
            update(metric, some_images(), slice(0, 2) if rank == 0 else slice(2, None))
            result = metric.result()
            values[name] = (result.value, result.n, metric.n)
        torch.distributed.barrier()  # a process that ends first would break the connection of the other
        return values
    finally:
        torch.distributed.destroy_process_group()
