"""Excerpts of prepared songs, each block of them drawn from (seed, block) alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from separator.card import Frozen
from separator.errors import AudioError
from separator.train.prepared import Song, songs

SILENCE = 1e-3  # root mean square of an excerpt below which it counts as silent: -60 dB
TRIES = 6  # draws for an excerpt that is not silent


class Source(Frozen):
    """A folder of prepared songs (`scripts/prepare.py`) and how often to draw from it."""

    folder: Path  # holds <song>/<stem>/<layer>.npy
    weight: PositiveFloat = 1.0  # relative to the other sources


class Data(Frozen):
    """Where excerpts come from, and how they are drawn."""

    train: tuple[Source, ...] = Field(min_length=1)
    valid: Path  # a folder of prepared songs, never trained on
    excerpt_s: PositiveFloat = 6.0  # Open-Unmix's length: a few bars
    valid_excerpts: PositiveInt = 48  # evenly spaced over the validation songs
    silent: float = Field(default=0.1, ge=0, le=1)  # share of silent excerpts accepted: absence must be learnt too
    drop_layer: float = Field(default=0.15, ge=0, le=1)  # probability that a layer of a stem is left out
    rows: PositiveInt = 32  # excerpts transformed together and remixed among themselves
    stride: PositiveInt = 2  # the loss reads every second frame: neighbours share 3/4 of their samples
    remixes: PositiveInt = 4  # times a row is used before it is drawn anew: saves decoding and transforms


class Excerpts:
    """Draws rows: one excerpt of every stem, from one place of one song as far as the song has the stem."""

    def __init__(self, data: Data, stems: Sequence[str], sample_rate: int, seed: int) -> None:
        self.stems = tuple(stems)
        self.length = round(data.excerpt_s * sample_rate)
        self.data = data
        self.seed = seed
        sources = [(source.weight, songs(source.folder)) for source in data.train]
        self.songs = [song for _, found in sources for song in found]
        self.weights = np.array([weight / len(found) for weight, found in sources for _ in found])
        for stem in self.stems:
            if not any(stem in song.layers for song in self.songs):
                raise AudioError(f"no training song has the stem {stem}", hint="check data.train and model.stems")

    def rows(self, block: int) -> Tensor:
        """The rows of one block. Shape: `[rows, S, C, T]`; depends on (seed, block) alone."""
        rng = np.random.default_rng((self.seed, block))
        return torch.stack([self._row(rng) for _ in range(self.data.rows)])

    def _row(self, rng: np.random.Generator) -> Tensor:
        song = self._song(rng, None)
        start = self._start(rng, song)
        return torch.stack([self._excerpt(rng, song, start, stem) for stem in self.stems])

    def _excerpt(self, rng: np.random.Generator, song: Song, start: int, stem: str) -> Tensor:
        """The stem at the row's own place, or, where that is silent, mostly from elsewhere."""
        accept_silence = rng.random() < self.data.silent
        for _ in range(TRIES):
            gains = self._layer_gains(rng, song, stem)
            audio = song.excerpt(stem, start, self.length, gains)
            if accept_silence or float(audio.square().mean()) > SILENCE**2:
                break
            song = self._song(rng, stem)
            start = self._start(rng, song)
        return audio

    def _layer_gains(self, rng: np.random.Generator, song: Song, stem: str) -> list[float]:
        return [float(rng.random() >= self.data.drop_layer) for _ in song.layers.get(stem, [])]

    def _song(self, rng: np.random.Generator, stem: str | None) -> Song:
        weights = self.weights * [stem is None or stem in song.layers for song in self.songs]
        return self.songs[rng.choice(len(self.songs), p=weights / weights.sum())]

    def _start(self, rng: np.random.Generator, song: Song) -> int:
        return int(rng.integers(0, max(song.frames - self.length, 0) + 1))
