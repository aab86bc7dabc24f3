"""Several training processes that share their gradients, as `torchrun` starts them.

    torchrun --nproc_per_node 2 -m -- posenets train RECIPE --cache cache/pose --out runs/pose.pt

Each process draws batches of its own; gloo carries the gradients between CPUs, nccl between GPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

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


def place() -> tuple[int, int]:
    """Rank of this process and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@torch.no_grad()
def start_alike(network: nn.Module) -> None:
    """Give every process the weights of process 0."""
    if place()[1] > 1:
        for value in network.state_dict().values():
            distributed.broadcast(value, 0)


def share(network: nn.Module, loss: Tensor, *, late: bool) -> tuple[Tensor, bool]:
    """Mean of all processes' gradients and losses, in one message that also says who is late.

    The gradients become the means in place. All stop at the same step, or those that go on would
    wait for the others for ever.
    """
    _, processes = place()
    if processes == 1:
        return loss, late
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    said = torch.stack([loss.float(), loss.new_tensor(float(late))])
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), said])
    distributed.all_reduce(flat)
    flat /= processes
    sizes = [gradient.numel() for gradient in gradients]
    *means, mean_loss, mean_late = flat.split([*sizes, 1, 1])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.reshape(gradient.shape))
    return mean_loss[0].clone(), bool(mean_late > 0)  # a view would keep all gradients
