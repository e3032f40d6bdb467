"""Mixing in the transform domain.

Cutting, decoding and transforming excerpts costs more than training on them. So a block of rows is transformed
once and remixed several times: permuting stems among rows, gains, panning, polarity, channel swap and smooth
equalisation are all linear, so they are exact on spectra.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separator.train.augment import Augment, noise_floor, response
from separator.train.excerpts import SILENCE
from separator.train.objective import Objective

MOST = 10.0  # gain by which a quiet excerpt is brought up: 20 dB


def spectra(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Frames of each excerpt, unpadded, as real and imaginary planes: `[N, S, C, T]` -> `[N, S, C, 2, frames, F]`."""
    window = torch.hann_window(n_fft, device=audio.device)
    out = None
    for n, row in enumerate(audio):
        flat = torch.stft(row.flatten(0, -2), n_fft, hop, window=window, center=False, return_complex=True)
        planes = torch.view_as_real(flat).permute(0, 3, 2, 1).unflatten(0, row.shape[:-1])  # [S, C, 2, frames, F]
        if out is None:
            out = torch.empty(len(audio), *planes.shape, device=audio.device)
        out[n] = planes
    assert out is not None
    return out


def balancing(rows: Tensor) -> Tensor:
    """Gains that give all audible excerpts their median power: `[N, S, C, 2, T, F]` -> `[N, S]`; 1 for silent ones.

    At most `MOST`: what is much quieter is mostly noise, or the end of a note.
    """
    power = torch.stack([row.square().mean(dim=(1, 2, 3, 4)) for row in rows])
    n_fft = 2 * (rows.shape[-1] - 1)
    audible = power > 3 / 16 * n_fft * SILENCE**2  # a Hann window's mean square is 3/8; half of it is in either plane
    return torch.where(audible, (power[audible].median() / power).sqrt().clamp(max=MOST), 1.0)


def seeded(*numbers: int) -> torch.Generator:
    """Random numbers that depend on `numbers` alone; drawn on the CPU, so that they are the same on every device."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class Remixer:
    """Makes batches from a block of rows, on the rows' device."""

    def __init__(self, augment: Augment, objective: Objective, stride: int, rest: int | None = None) -> None:
        """`rest` is the stem that noise belongs to."""
        self.augment = augment
        self.objective = objective
        self.bins = objective.card.bins
        self.nyquist_hz = objective.card.sample_rate / 2
        self.stride = stride
        self.rest = rest
        self._stems = torch.empty(0)  # one item's stems, kept between items: fresh pages cost more than the sums

    def batches(
        self, rows: Tensor, remixes: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Any, Tensor]]:
        """Batches of remixed rows, and which row each stem of each item is, `[B, S]`.

        Shape of rows: `[N, S, C, 2, T, F]`; each row is used `remixes` times per stem.
        """
        level = balancing(rows).cpu()  # [N, S]
        for _ in range(remixes):
            take, coherent = self._shuffle(rows.shape[0], rows.shape[1], generator)  # [N, S], [N, 1]
            gains = level.gather(0, take)
            if not self.augment.balance:
                gains = torch.ones_like(gains)
            gains = torch.where(coherent, 1.0, gains)
            for chosen, gain in zip(take.split(batch_size), gains.split(batch_size), strict=True):
                yield self._mix(rows, chosen, gain, generator), chosen

    def _shuffle(self, rows: int, stems: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which row each stem of each mix comes from, `[N, S]`, and which mixes are whole rows, `[N, 1]`."""
        whole = self.augment.whole(rows)
        together = torch.arange(whole)[:, None].expand(-1, stems)
        apart = [whole + torch.randperm(rows - whole, generator=generator) for _ in range(stems)]
        order = torch.randperm(rows, generator=generator)
        return torch.cat([together, torch.stack(apart, dim=1)])[order], (order < whole)[:, None]

    def _mix(self, rows: Tensor, chosen: Tensor, gain: Tensor, generator: torch.Generator) -> Any:
        shape = (chosen.shape[0], chosen.shape[1])
        factor = response(self.augment, *shape, self.bins, self.nyquist_hz, generator)  # [B, S, C, F]
        factor = (gain[..., None, None] * factor).to(rows.device)
        swap = (torch.rand(chosen.shape, generator=generator) < self.augment.swap).tolist()
        first = int(torch.randint(self.stride, (), generator=generator))
        if self._stems.shape != rows.shape[1:]:
            self._stems = torch.empty(rows.shape[1:], device=rows.device)
        items = []
        for b, row in enumerate(chosen.tolist()):
            for s, n in enumerate(row):
                for c in range(rows.shape[2]):
                    source = rows[n, s, c ^ 1 if swap[b][s] else c]
                    torch.mul(source, factor[b, s, c], out=self._stems[s, c])
            if self.rest is not None:
                power = self._stems.square().mean(dim=(1, 2, 3, 4)).sum()  # stems are hardly correlated
                noise = noise_floor(self.augment.noise, power, self._stems.shape[1:], generator)
                if noise is not None:
                    self._stems[self.rest] += noise
            items.append(self.objective.measure(self._stems, first, self.stride))
        return self.objective.collect(items, first, self.stride)
