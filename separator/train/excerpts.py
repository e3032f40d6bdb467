"""Excerpts of prepared songs, each row of them drawn from (seed, block, lane, row) alone."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from separator.card import Frozen
from separator.errors import AudioError, ConfigError
from separator.train import toysongs
from separator.train.augment import Augment
from separator.train.loudness import MEASURED_S
from separator.train.prepared import Song, songs
from separator.train.waveforms import Waveforms

SILENCE = 1e-3  # root mean square of an excerpt below which it counts as silent: -60 dB
TRIES = 6  # draws for an excerpt that is not silent


class Source(Frozen):
    """A folder of prepared songs, and how often to draw from it."""

    folder: Path  # holds <song>/<stem>/<layer>.npy
    weight: PositiveFloat = 1.0  # relative to the other sources
    generate: PositiveInt | None = None  # fill the folder with so many generated songs where it does not exist

    def songs(self, stems: Sequence[str], sample_rate: int) -> list[Song]:
        """The songs of the folder, generated first if that is asked for and they are not there yet.

        What is generated depends on the folder's own name and its parent's, so `toy/train` and `toy/valid` differ.
        Raises `AudioError` where there are none, or none at `sample_rate`.
        """
        if self.generate and not self.folder.exists():
            seed = zlib.crc32("/".join(self.folder.parts[-2:]).encode())
            toysongs.generate(self.folder, self.generate, stems, sample_rate, seed)
        return songs(self.folder, sample_rate)


def named(key: str, source: Source, stems: Sequence[str], sample_rate: int) -> list[Song]:
    """The songs of a source; an `AudioError` tells its key in the configuration too."""
    try:
        return source.songs(stems, sample_rate)
    except AudioError as error:
        raise AudioError(f"{key}: {error.fact}", hint=error.hint) from error


class Data(Frozen):
    """Where excerpts come from, and how they are drawn."""

    train: tuple[Source, ...] = Field(min_length=1)
    valid: Source  # never trained on; the name of the folder alone will do
    stems: tuple[str, ...] | None = Field(default=None, min_length=1)  # what the mix is made of; None: model.stems
    excerpt_s: PositiveFloat = 6.0  # Open-Unmix's length: a few bars
    valid_excerpts: PositiveInt = 48  # evenly spaced over the validation songs
    silent: float = Field(default=0.1, ge=0, le=1)  # share of silent excerpts accepted: absence must be learnt too
    drop_layer: float = Field(default=0.15, ge=0, le=1)  # probability that a layer of a stem is left out
    rows: PositiveInt = 32  # excerpts transformed together and remixed among themselves
    stride: PositiveInt = 2  # the loss reads every second frame: neighbours share 3/4 of their samples
    remixes: PositiveInt = 4  # times a row is used before it is drawn anew: saves decoding and transforms
    threads: PositiveInt = 1  # that draw rows; one keeps ahead of training, more pay with costly augmentation

    @field_validator("valid", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        return {"folder": value} if isinstance(value, str | Path) else value


class Excerpts:
    """Draws rows: one excerpt of every stem, from one place of one song as far as the song has the stem.

    With `augment`, every row passes its waveform changes.
    """

    def __init__(
        self, data: Data, stems: Sequence[str], sample_rate: int, seed: int, augment: Augment | None = None
    ) -> None:
        self.stems = tuple(data.stems or stems)
        self.length = round(data.excerpt_s * sample_rate)
        self.data = data
        self.seed = seed
        self.waveforms = Waveforms(augment, sample_rate) if augment is not None else None
        if augment is not None and augment.loudness.p and data.excerpt_s < MEASURED_S:
            raise ConfigError(f"data.excerpt_s {data.excerpt_s}: loudness is measured over {MEASURED_S} s at least",
                              hint="set augment.loudness.p to 0, or take longer excerpts")
        self.sources = [
            named(f"data.train.{n}", source, self.stems, sample_rate) for n, source in enumerate(data.train)
        ]
        self.songs = [song for found in self.sources for song in found]
        weights = np.array([
            source.weight / len(found) for source, found in zip(data.train, self.sources, strict=True) for _ in found
        ])
        # Running sum of the weights of those songs that have a stem; None: of all songs.
        self._cumulative: dict[str | None, NDArray[np.float64]] = {None: weights.cumsum()}
        for stem in self.stems:
            present = np.array([stem in song.layers for song in self.songs])
            if not present.any():
                raise AudioError(f"no training song has the stem {stem}", hint="check data.train and model.stems")
            self._cumulative[stem] = (weights * present).cumsum()

    def plain(self) -> Excerpts:
        """The same songs without any augmentation: what statistics are measured on."""
        plain = copy.copy(self)
        plain.waveforms = None
        plain.data = self.data.model_copy(update={"drop_layer": 0.0})
        return plain

    def rows(self, block: int, lane: int = 0) -> Tensor:
        """The rows of one block and lane. Shape: `[rows, S, C, T]`; depends on (seed, block, lane) alone."""
        out = torch.empty(self.data.rows, len(self.stems), 2, self.length)

        def fill(index: int) -> None:
            out[index] = self.row(block, lane, index)

        if self.data.threads == 1:
            for index in range(self.data.rows):
                fill(index)
        else:
            with ThreadPoolExecutor(self.data.threads) as pool:
                list(pool.map(fill, range(self.data.rows)))
        return out

    def row(self, block: int, lane: int, index: int) -> Tensor:
        """One row. Shape: `[S, C, T]`; depends on (seed, block, lane, index) alone, so any worker may make it.

        Drawing and augmenting have a random state each: what is drawn does not change with what is done to it.
        """
        rng = np.random.default_rng((self.seed, block, lane, index))
        if self.waveforms is None:
            return self._draw(rng, self.length)
        changes = np.random.default_rng((self.seed, block, lane, index, 1))
        speed = self.waveforms.speed(changes)
        row = self._draw(rng, self.waveforms.frames(self.length, speed))
        return self.waveforms.apply(row, speed, self.length, changes)

    def _draw(self, rng: np.random.Generator, length: int) -> Tensor:
        song = self._song(rng, None)
        start = self._start(rng, song, length)
        return torch.stack([self._excerpt(rng, song, start, stem, length) for stem in self.stems])

    def _excerpt(self, rng: np.random.Generator, song: Song, start: int, stem: str, length: int) -> Tensor:
        """The stem at the row's own place, or, where that is silent, mostly from elsewhere."""
        accept_silence = rng.random() < self.data.silent
        for _ in range(TRIES):
            gains = self._layer_gains(rng, song, stem)
            audio = song.excerpt(stem, start, length, gains)
            if accept_silence or float(audio.square().mean()) > SILENCE**2:
                break
            song = self._song(rng, stem)
            start = self._start(rng, song, length)
        return audio

    def _layer_gains(self, rng: np.random.Generator, song: Song, stem: str) -> list[float]:
        return [float(rng.random() >= self.data.drop_layer) for _ in song.layers.get(stem, [])]

    def _song(self, rng: np.random.Generator, stem: str | None) -> Song:
        cumulative = self._cumulative[stem]
        return self.songs[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]

    def _start(self, rng: np.random.Generator, song: Song, length: int) -> int:
        return int(rng.integers(0, max(song.frames - length, 0) + 1))
