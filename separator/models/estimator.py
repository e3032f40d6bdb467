"""What the separator asks of a mask estimator: hear a batch of segments at once, answer for one of them at a time.

The recurrent layers are fastest on a batch of segments, and their output is small. The masks are large and are wanted
for one segment, and of it only for the frames that are used: so they are made in a second step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

EVERY = slice(None)


class Estimator(Protocol):
    """A network prepared for inference, by `separator.models.prepare`."""

    @property
    def bands(self) -> Tensor | None:
        """The band of each bin `[F]`, where one mask value serves a band of bins (K of them); None: K is F."""

    def hear(self, mixes: Iterable[Tensor], stems: Sequence[str]) -> Tensor:
        """Mixes `[C, F, T]`, complex, all of one length -> what `masks` needs of each, `[B, ...]`.

        One mix after the other is asked for and forgotten. Raises UsageError for an unknown stem.
        """

    def masks(self, heard: Tensor, stems: Sequence[str], frames: slice, bins: slice = EVERY) -> Tensor:
        """One item of what `hear` gave -> masks `[S, C, K, t]`, real, float32 or wider, at these frames.

        Where K is F, those of some bins alone can be had: all are the largest tensor there is.
        """


class Plain:
    """Any module that maps a complex mix `[B, C, F, T]` and stems to masks `[B, S, C, F, T]`, as an estimator."""

    bands = None

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def hear(self, mixes: Iterable[Tensor], stems: Sequence[str]) -> Tensor:
        heard: Tensor = self.network(torch.stack(list(mixes)), stems)
        return heard

    def masks(self, heard: Tensor, stems: Sequence[str], frames: slice, bins: slice = EVERY) -> Tensor:
        return heard[..., bins, frames]
