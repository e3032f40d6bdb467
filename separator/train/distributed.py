"""Training by several processes, launched by torchrun; without it, one process that is its own team."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process and its peers. The leader decides, writes and reports; the others compute."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def lanes(self, number: int) -> range:
        """Which of `number` lanes are this process's."""
        return range(self.rank, number, self.world)

    def share(self, value: T) -> T:
        """The leader's value, on every process; the others' is not looked at."""
        if self.world == 1:
            return value
        box = [value if self.leads else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        found: list[T | None] = [None] * self.world
        dist.all_gather_object(found, value)
        return found  # type: ignore[return-value]

    def wait(self) -> None:
        """Until every process is here."""
        self.gather(None)

    def together(self, objective: nn.Module, device: torch.device) -> nn.Module:
        """The objective whose backward pass averages gradients over the team; all start from the leader's.

        Batch normalisation sees the whole team's batch on CUDA. Gloo has no such layer: there every lane normalises
        by its own statistics, as it does in one process, and `agree` averages the running ones.
        """
        if self.world == 1:
            return objective
        if device.type == "cuda":
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        return DistributedDataParallel(objective, broadcast_buffers=False)

    def agree(self, module: nn.Module) -> None:
        """Average the module's running statistics over the processes; other buffers are constant, and stay so."""
        if self.world > 1:
            for name, buffer in module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    dist.all_reduce(buffer)
                    buffer /= self.world


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The team that torchrun's environment describes: over NCCL on CUDA, else over Gloo."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
