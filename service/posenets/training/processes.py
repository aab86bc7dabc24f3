"""Several training processes that share their gradients, as `torchrun` starts them.

    torchrun --nproc_per_node 2 -m posenets train RECIPE --cache cache/pose --out runs/pose.pt

Each process draws batches of its own; gloo carries the gradients between CPUs, nccl between GPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

_PATIENCE = timedelta(hours=1)
"""Process 0 evaluates and saves while the others wait for its gradients."""


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """This process's device; joined to the others for as long as the block lasts.

    Alone unless the environment has RANK and WORLD_SIZE.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield torch.device(device)
        return
    where = torch.device(device)
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    backend = "nccl" if where.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield where
    finally:
        distributed.destroy_process_group()
