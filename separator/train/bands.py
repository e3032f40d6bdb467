"""Sums of energies per mask band: all that the squared error of a mask which is constant in each band needs.

    sum |s - m x|^2  =  sum |s|^2  -  2 m sum Re(s conj x)  +  m^2 sum |x|^2,

so that no full-resolution spectrum passes through the network's graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from separator.models.trunk import pool

Sums = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class BandSums:
    """What one training step needs.

    Shapes: `power` of the mix `[B, C, F, T]`; sums per mask band, at every `stride`-th frame from `first`:
    `mix` `[B, 1, C, t, M]`, `cross` and `stems` `[B, S, C, t, M]`.
    """

    power: Tensor
    mix: Tensor
    cross: Tensor
    stems: Tensor
    first: int
    stride: int


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re(a conj b) of planes. Shape: `[..., 2, T, F]` -> `[..., T, F]`."""
    return torch.addcmul(a[..., 0, :, :] * b[..., 0, :, :], a[..., 1, :, :], b[..., 1, :, :])


def measure(stems: Tensor, targets: Sequence[int], edges: Sequence[int], first: int = 0, stride: int = 1) -> Sums:
    """`power`, and the band sums `mix`, `cross`, `stems` of one item, whose mix is the sum of all `stems`.

    Shape of stems: `[S, C, 2, T, F]`; `targets` are those of them that the network estimates.
    """
    mix = stems.sum(dim=0)  # [C, 2, T, F]
    some, some_mix = stems[..., first::stride, :], mix[..., first::stride, :]
    some = some if list(targets) == list(range(len(stems))) else some[list(targets)]
    power = inner(mix, mix)  # [C, T, F]
    return (
        power.transpose(1, 2),
        pool(power[:, first::stride], edges)[None],
        pool(inner(some, some_mix), edges),
        pool(inner(some, some), edges),
    )


def collect(items: Iterable[Sums], first: int = 0, stride: int = 1) -> BandSums:
    """Stack measured items."""
    power, mix, cross, stems = (torch.stack(parts) for parts in zip(*items, strict=True))
    return BandSums(power, mix, cross, stems, first, stride)


def squared_error(masks: Tensor, batch: BandSums) -> Tensor:
    """Squared error of `masks * mix` against the stems, per band. Shape: `[B, S, C, T, M]`, like `masks`."""
    return (batch.stems - 2 * masks * batch.cross + masks.square() * batch.mix).clamp_min(0)
