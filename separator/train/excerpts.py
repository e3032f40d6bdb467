"""Excerpts of prepared songs, each row of them drawn from (seed, block, lane, row) alone."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
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
from separator.train.prepared import Song, joined, songs
from separator.train.waveforms import Waveforms

SILENCE = 1e-3  # root mean square of an excerpt below which it counts as silent: -60 dB
TRIES = 12  # draws of a place in a song, and of songs, for an excerpt that is not silent


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
    drop_layer: float = Field(default=0.15, ge=0, le=1)  # probability that a layer is left out; one that sounds stays
    rows: PositiveInt = 32  # excerpts transformed together and remixed among themselves
    stride: PositiveInt = 2  # the loss reads every second frame: neighbours share 3/4 of their samples
    remixes: PositiveInt = 4  # times a row is used before it is drawn anew: saves decoding and transforms
    threads: PositiveInt = 1  # that draw rows; one keeps ahead of training, more pay with costly augmentation

    @field_validator("valid", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        return {"folder": value} if isinstance(value, str | Path) else value

    @field_validator("valid")
    @classmethod
    def _unweighted(cls, value: Source) -> Source:
        if value.weight != 1:
            raise ValueError("weight is of sources of data.train: all validation songs count alike")
        return value


class Excerpts:
    """Draws rows: one excerpt of every stem, from one place of one song as far as the stem sounds there.

    With `augment`, every row passes its waveform changes, and the first rows of a block are `whole`: the song as it is
    at that place, with its silences.
    """

    def __init__(
        self, data: Data, stems: Sequence[str], sample_rate: int, seed: int, augment: Augment | None = None
    ) -> None:
        self.stems = tuple(data.stems or stems)
        self.length = round(data.excerpt_s * sample_rate)
        self.data = data
        self.seed = seed
        self.waveforms = Waveforms(augment, sample_rate) if augment is not None else None
        self.whole = augment.whole(data.rows) if augment is not None else 0
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
        # Running sum of the weights of those songs in which a stem sounds; None: of all songs.
        self._cumulative: dict[str | None, NDArray[np.float64]] = {None: weights.cumsum()}
        for stem in self.stems:
            present = np.array([stem in song.sounding for song in self.songs])
            if not present.any():
                raise AudioError(f"no training song has the stem {stem}, but for silence",
                                 hint="check data.train and model.stems")
            self._cumulative[stem] = (weights * present).cumsum()

    def plain(self) -> Excerpts:
        """The same songs without any augmentation: what statistics are measured on."""
        plain = copy.copy(self)
        plain.waveforms = None
        plain.whole = 0
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
        whole = index < self.whole
        if self.waveforms is None:
            return self._draw(rng, self.length, whole)
        changes = np.random.default_rng((self.seed, block, lane, index, 1))
        speed = self.waveforms.speed(changes)
        row = self._draw(rng, self.waveforms.frames(self.length, speed), whole)
        return self.waveforms.apply(row, speed, self.length, changes)

    def _draw(self, rng: np.random.Generator, length: int, whole: bool) -> Tensor:
        song = self._song(rng, None)
        start = self._start(rng, [(0, max(song.frames - length, 0) + 1)])
        if whole:
            return torch.stack([self._layers(rng, song, stem, start, length) for stem in self.stems])
        return torch.stack([self._excerpt(rng, song, start, stem, length) for stem in self.stems])

    def _excerpt(self, rng: np.random.Generator, song: Song, start: int, stem: str, length: int) -> Tensor:
        """The stem at the row's own place, or, where that is silent, mostly from another.

        The song stays if the stem sounds in it: else songs would be drawn by weight times how much they sound.
        """
        audio = self._layers(rng, song, stem, start, length)
        if rng.random() < self.data.silent or sounds(audio):
            return audio
        for elsewhere, place in self._places(rng, song, stem, length):
            audio = self._layers(rng, elsewhere, stem, place, length)
            if sounds(audio):
                break
        return audio

    def _places(self, rng: np.random.Generator, song: Song, stem: str, length: int) -> Iterator[tuple[Song, int]]:
        """Where else to look for a stem: where the song's manifest says that it sounds, then in other songs."""
        for _ in range(TRIES):
            runs = song.sounding.get(stem, ())
            last = max(song.frames - length, 0)  # start: all of those from which on an excerpt meets a run
            starts = joined((max(first - length + 1, 0), min(end, last + 1)) for first, end in runs)
            for _ in range(TRIES if starts else 0):
                yield song, self._start(rng, starts)
            song = self._song(rng, stem)

    def _layers(self, rng: np.random.Generator, song: Song, stem: str, start: int, length: int) -> Tensor:
        """The stem without the layers that are left out; one that sounds here stays, if there is one."""
        count = len(song.layers.get(stem, []))
        kept = rng.random(count) >= self.data.drop_layer
        audio = song.excerpt(stem, start, length, kept.astype(float).tolist())
        for layer in rng.permutation(np.flatnonzero(~kept)):
            if sounds(audio):
                break
            audio += song.excerpt(stem, start, length, np.eye(count)[layer].tolist())
        return audio

    def _song(self, rng: np.random.Generator, stem: str | None) -> Song:
        cumulative = self._cumulative[stem]
        return self.songs[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]

    @staticmethod
    def _start(rng: np.random.Generator, runs: Sequence[tuple[int, int]]) -> int:
        """One of the frames of runs that are apart, each as likely."""
        frames = np.cumsum([end - first for first, end in runs])
        number = int(rng.integers(frames[-1]))
        run = int(np.searchsorted(frames, number, side="right"))
        return int(runs[run][1] - frames[run] + number)


def sounds(audio: Tensor) -> bool:
    """Whether an excerpt counts as more than silence."""
    return float(audio.square().mean()) > SILENCE**2
