"""Validation: fixed excerpts of songs that are never trained on, as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from separator.errors import AudioError
from separator.train.config import Config
from separator.train.objective import Objective
from separator.train.prepared import Song
from separator.train.remix import spectra


class Validation:
    """Evenly spaced excerpts of the validation songs."""

    def __init__(self, config: Config, found: Sequence[Song], device: torch.device) -> None:
        """Raises `AudioError` where no validation song has a stem that the model is to estimate."""
        self.config = config
        self.device = device
        for stem in config.model.stems:
            if not any(stem in song.layers for song in found):
                raise AudioError(
                    f"{config.data.valid.folder}: no validation song has the stem {stem}",
                    hint="move a song that has it from data.train to data.valid",
                )
        self._kept: list[Any] | None = None
        length = self._length
        each = max(config.data.valid_excerpts // len(found), 1)
        self.places = [
            (song, int((i + 0.5) / each * max(song.frames - length, 0))) for song in found for i in range(each)
        ]

    @property
    def _length(self) -> int:
        return round(self.config.data.excerpt_s * self.config.model.sample_rate)

    @torch.no_grad()
    def scores(self, objective: Objective) -> dict[str, float]:
        """The loss, and per stem the median over excerpts of the SDR in dB, where the stem is not silent."""
        judged = [objective.judge(batch) for batch in self._batches(objective)]
        table = torch.cat([sdr for _, sdr in judged])  # [N, S]
        medians = torch.nanquantile(table, 0.5, dim=0).tolist()  # `nanmedian` takes the lower of the middle two
        sdr = {stem: round(value, 3) for stem, value in zip(self.config.model.stems, medians, strict=True)}
        mean = sum(float(loss) * len(sdr) for loss, sdr in judged) / len(table)  # the last batch may be smaller
        return {"loss": float(f"{mean:.6g}"), **sdr}

    def _batches(self, objective: Objective) -> Iterable[Any]:
        """Kept where they are small, else made anew: whole spectra of the usual 48 excerpts would take 1.6 GB."""
        if self._kept is not None:
            return self._kept
        batches = (objective.collect(objective.measure(row) for row in rows) for rows in self._rows())
        if objective.compact:
            self._kept = list(batches)
            return self._kept
        return batches

    def _rows(self) -> Iterator[Tensor]:
        """Spectra of the excerpts, a batch at a time. Shape: `[B, S, C, 2, T, F]`."""
        card, size = self.config.model, self.config.optim.lane_items
        for i in range(0, len(self.places), size):
            audio = [
                torch.stack([song.excerpt(stem, at, self._length) for stem in self.config.sources])
                for song, at in self.places[i : i + size]
            ]
            yield spectra(torch.stack(audio).to(self.device), card.n_fft, card.hop)
