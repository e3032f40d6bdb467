"""Validation: fixed excerpts of songs that are never trained on, as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from separator.models.trunk import Trunk
from separator.train.config import Config
from separator.train.losses import squared_error, thresholded_sdr
from separator.train.prepared import songs
from separator.train.remix import Batch, collect, measure, spectra


class Validation:
    """Evenly spaced excerpts of the validation songs; their sums are computed once and kept."""

    def __init__(self, config: Config, edges: list[int]) -> None:
        self.config = config
        self.batches = [collect(measure(row, edges) for row in rows) for rows in self._rows()]

    def _rows(self) -> list[Tensor]:
        card, data = self.config.model, self.config.data
        length = round(data.excerpt_s * card.sample_rate)
        found = songs(data.valid)
        each = max(data.valid_excerpts // len(found), 1)
        places = [(song, int((i + 0.5) / each * max(song.frames - length, 0))) for song in found for i in range(each)]
        audio = [torch.stack([song.excerpt(stem, at, length) for stem in card.stems]) for song, at in places]
        size = self.config.optim.batch_size
        return [spectra(torch.stack(audio[i : i + size]), card.n_fft, card.hop) for i in range(0, len(audio), size)]

    @torch.no_grad()
    def scores(self, network: Trunk) -> dict[str, float]:
        """The loss, and per stem the median over excerpts of the SDR in dB, where the stem is not silent."""
        losses, sdrs = [], []
        for batch in self.batches:
            masks = network.band_masks(network.features(batch.power), self.config.model.stems)
            losses.append(float(thresholded_sdr(masks, batch, self.config.loss)))
            sdrs.append(sdr(masks, batch))
        table = torch.cat(sdrs)  # [N, S]
        medians = {stem: round(float(table[:, s].nanmedian()), 3) for s, stem in enumerate(self.config.model.stems)}
        return {"loss": round(sum(losses) / len(losses), 4), **medians}


def sdr(masks: Tensor, batch: Batch) -> Tensor:
    """Signal-to-distortion ratio in dB per excerpt and stem, from band sums; NaN for a silent stem. Shape: `[B, S]`."""
    signal = batch.stems.sum(dim=(2, 3, 4))
    error = squared_error(masks, batch).sum(dim=(2, 3, 4))
    ratio = 10 * torch.log10(signal / error.clamp_min(1e-9))
    return torch.where(signal > 1e-6 * batch.mix.sum(dim=(2, 3, 4)), ratio, torch.nan)
