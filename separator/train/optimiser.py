"""The optimiser and the averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from separator.card import Frozen
from separator.train.schedule import Cosine, Schedule


class Optim(Frozen):
    """How weights change."""

    name: Literal["adamw", "adam"] = "adamw"  # adam adds weight decay to the gradient, as Open-Unmix does
    lr: PositiveFloat = 1e-3  # before the schedule's factor
    batch_size: PositiveInt = 8  # items per step, over all lanes and processes
    micro_batches: PositiveInt = 1  # lanes: a step's gradient is the mean over so many parts of the batch
    weight_decay: NonNegativeFloat = 1e-2
    clip_norm: PositiveFloat | None = 5.0  # of the gradient; recurrent layers spike
    schedule: Schedule = Cosine()
    ema: float = Field(default=0.999, ge=0, lt=1)  # decay per step of the averaged weights that are kept; 0: the newest
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the networks; bf16 halves the time, if built in

    @property
    def lane_items(self) -> int:
        """Items of one micro-batch."""
        return self.batch_size // self.micro_batches

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay)


def averaging(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Moving average whose memory is at first as short as the run: else early averages are the random start."""

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        torch._foreach_lerp_(list(averages), list(values), max(1 - decay, 9 / (10 + int(count))))

    return update
