"""What a run trains on: every batch a function of (seed, block, lane, index) alone."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separator.dsp.ahead import ahead
from separator.train.config import Config
from separator.train.excerpts import Excerpts
from separator.train.objective import Objective
from separator.train.remix import Remixer, seeded, spectra


@dataclass(frozen=True)
class Planned:
    """One step of one process: a batch of each of its lanes, and which rows of the block each is made of."""

    block: int
    index: int  # in the block
    ends_block: bool
    batches: Sequence[Any]
    rows: Sequence[Tensor]  # [B, S] each


class Feed:
    """Blocks of rows, and the batches that are remixed from them, on one device.

    A step takes one micro-batch from each lane, and each lane has blocks of its own: who computes which lane, or
    in what order, changes nothing.
    """

    def __init__(self, config: Config, excerpts: Excerpts, objective: Objective, device: torch.device) -> None:
        self.config = config
        self.excerpts = excerpts
        self.device = device
        self.remixer = Remixer(config.augment, objective, config.data.stride, config.noisy)

    @property
    def steps_per_block(self) -> int:
        return self.config.data.rows * self.config.data.remixes // self.config.optim.lane_items

    def steps(self, first: int, lanes: Sequence[int]) -> Iterator[Planned]:
        """What the steps are made of, from block `first` on, endlessly; the next block is made in a thread beside."""
        with contextlib.closing(ahead(self._blocks(first, lanes), depth=1)) as blocks:
            for block, spectra_of_lanes in blocks:
                streams = [self.batches(rows, block, lane) for lane, rows in zip(lanes, spectra_of_lanes, strict=True)]
                for index, parts in enumerate(zip(*streams, strict=True)):
                    batches, rows = zip(*parts, strict=True)
                    yield Planned(block, index, index + 1 == self.steps_per_block, batches, rows)

    def _blocks(self, first: int, lanes: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        for block in itertools.count(first):
            yield block, [self.spectra(block, lane) for lane in lanes]

    def spectra(self, block: int, lane: int, excerpts: Excerpts | None = None) -> Tensor:
        """Rows of one block and lane, moved to the device once, transformed there. Shape: `[N, S, C, 2, T, F]`."""
        rows = (excerpts or self.excerpts).rows(block, lane)
        if self.device.type == "cuda":
            rows = rows.pin_memory().to(self.device, non_blocking=True)
        return spectra(rows, self.config.model.n_fft, self.config.model.hop)

    def batches(self, rows: Tensor, block: int, lane: int) -> Iterator[tuple[Any, Tensor]]:
        """The lane's batches of one block, with the row of each stem of each item."""
        generator = seeded(self.config.seed, block, lane)
        return self.remixer.batches(rows, self.config.data.remixes, self.config.optim.lane_items, generator)

    def batch(self, block: int, lane: int, index: int) -> Any:
        """One batch, made anew: what `nan-batch.json` points to."""
        batches = self.batches(self.spectra(block, lane), block, lane)
        return next(itertools.islice(batches, index, None))[0]

    def identity(self, block: int, lane: int, index: int, chosen: Tensor) -> dict[str, Any]:
        """All that `batch` needs, and which rows of the block its items are made of."""
        per_remix = self.config.data.rows // self.config.optim.lane_items
        return {
            "seed": self.config.seed,
            "block": block,
            "lane": lane,
            "index": index,
            "remix": index // per_remix,
            "items": [dict(zip(self.excerpts.stems, row, strict=True)) for row in chosen.tolist()],
        }
