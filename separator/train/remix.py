"""Mixing in the transform domain.

Cutting, decoding and transforming excerpts costs more than training on them. So a block of rows is transformed
once and remixed several times: permuting stems among rows, gains, panning, polarity, channel swap and smooth
equalisation are all linear, so they are exact on spectra. And because a mask is constant within a mask band,
the squared error of `mask * mix` against a stem needs only three sums per band,

    sum |s - m x|^2  =  sum |s|^2  -  2 m sum Re(s conj x)  +  m^2 sum |x|^2,

so that no full-resolution spectrum passes through the network's graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from separator.models.trunk import pool
from separator.train.augment import Augment, response


@dataclass(frozen=True)
class Batch:
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


def spectra(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Frames of each excerpt, unpadded, as real and imaginary planes: `[N, S, C, T]` -> `[N, S, C, 2, frames, F]`."""
    window = torch.hann_window(n_fft)
    out = None
    for n, row in enumerate(audio):
        flat = torch.stft(row.flatten(0, -2), n_fft, hop, window=window, center=False, return_complex=True)
        planes = torch.view_as_real(flat).permute(0, 3, 2, 1).unflatten(0, row.shape[:-1])  # [S, C, 2, frames, F]
        if out is None:
            out = torch.empty(len(audio), *planes.shape)
        out[n] = planes
    assert out is not None
    return out


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re(a conj b) of planes. Shape: `[..., 2, T, F]` -> `[..., T, F]`."""
    return torch.addcmul(a[..., 0, :, :] * b[..., 0, :, :], a[..., 1, :, :], b[..., 1, :, :])


def measure(stems: Tensor, edges: list[int], first: int = 0, stride: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`power`, and the band sums `mix`, `cross`, `stems` of one item. Shape of stems: `[S, C, 2, T, F]`."""
    mix = stems.sum(dim=0)  # [C, 2, T, F]
    some, some_mix = stems[..., first::stride, :], mix[..., first::stride, :]
    power = _inner(mix, mix)  # [C, T, F]
    return (
        power.transpose(1, 2),
        pool(power[:, first::stride], edges)[None],
        pool(_inner(some, some_mix), edges),
        pool(_inner(some, some), edges),
    )


def collect(items: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]], first: int = 0, stride: int = 1) -> Batch:
    """Stack measured items."""
    power, mix, cross, stems = (torch.stack(parts) for parts in zip(*items, strict=True))
    return Batch(power, mix, cross, stems, first, stride)


def balancing(rows: Tensor) -> Tensor:
    """Gains that give all audible excerpts their median power: `[N, S, C, 2, T, F]` -> `[N, S]`; 1 for silent ones."""
    power = torch.stack([row.square().mean(dim=(1, 2, 3, 4)) for row in rows])
    audible = power > power.max() * 1e-6
    return torch.where(audible, (power[audible].median() / power).sqrt(), 1.0)


class Remixer:
    """Makes batches from a block of rows."""

    def __init__(self, augment: Augment, edges: list[int], bins: int, stride: int) -> None:
        self.augment = augment
        self.edges = edges
        self.bins = bins
        self.stride = stride
        self._stems = torch.empty(0)  # one item's stems, kept between items: fresh pages cost more than the sums

    def batches(self, rows: Tensor, remixes: int, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Batches of remixed rows. Shape of rows: `[N, S, C, 2, T, F]`; each row is used `remixes` times per stem."""
        level = balancing(rows)  # [N, S]
        for _ in range(remixes):
            take, coherent = self._shuffle(rows.shape[0], rows.shape[1], generator)  # [N, S], [N, 1]
            gains = level.gather(0, take)
            if not self.augment.balance:
                gains = torch.ones_like(gains)
            gains = torch.where(coherent, 1.0, gains)
            for chosen, gain in zip(take.split(batch_size), gains.split(batch_size), strict=True):
                yield self._mix(rows, chosen, gain, generator)

    def _shuffle(self, rows: int, stems: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        together = torch.randperm(rows, generator=generator)
        apart = torch.stack([torch.randperm(rows, generator=generator) for _ in range(stems)], dim=1)
        coherent = torch.rand(rows, 1, generator=generator) < self.augment.coherent
        return torch.where(coherent, together[:, None], apart), coherent

    def _mix(self, rows: Tensor, chosen: Tensor, gain: Tensor, generator: torch.Generator) -> Batch:
        factor = gain[..., None, None] * response(self.augment, chosen.shape[0], chosen.shape[1], self.bins, generator)  # [B, S, C, F]
        swap = (torch.rand(chosen.shape, generator=generator) < self.augment.swap).tolist()
        first = int(torch.randint(self.stride, (), generator=generator))
        if self._stems.shape != rows.shape[1:]:
            self._stems = torch.empty(rows.shape[1:])
        items = []
        for b, row in enumerate(chosen.tolist()):
            for s, n in enumerate(row):
                for c in range(rows.shape[2]):
                    source = rows[n, s, c ^ 1 if swap[b][s] else c]
                    torch.mul(source, factor[b, s, c], out=self._stems[s, c])
            items.append(measure(self._stems, self.edges, first, self.stride))
        return collect(items, first, self.stride)
