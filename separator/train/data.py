"""Prepared songs, and excerpts of them: each drawn from (seed, block) alone.

A prepared song is `<folder>/<song>/<stem>/<layer>.npy`, each an int16 array `[frames, 2]` at the model's rate, so that
an excerpt costs one short read per layer whatever the song's length. Read, not memory-mapped: where the songs do not
fit into the page cache, faults fetch a few pages at a time and were ten times slower than one read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from separator.errors import AudioError
from separator.train.config import Data

SILENCE = 1e-3  # root mean square of an excerpt below which it counts as silent: -60 dB
TRIES = 6  # draws for an excerpt that is not silent


@dataclass(frozen=True)
class Layer:
    """One prepared file, by its header."""

    path: Path
    offset: int  # bytes before the samples
    frames: int

    @classmethod
    def open(cls, path: Path) -> Layer:
        """Read the header. Raises AudioError where the file is not what `scripts/prepare.py` writes."""
        try:
            array = np.load(path, mmap_mode="r")
        except (ValueError, OSError) as error:
            raise AudioError(f"{path}: damaged ({error})", hint="prepare the song again") from error
        if array.dtype != np.int16 or array.ndim != 2 or array.shape[1] != 2:
            raise AudioError(f"{path}: expected int16 [frames, 2], got {array.dtype} {array.shape}")
        return cls(path, array.offset, len(array))

    def read(self, start: int, length: int) -> NDArray[np.int16]:
        """Up to `length` frames from `start` on: `[<= length, 2]`."""
        count = max(min(length, self.frames - start), 0)
        return np.fromfile(self.path, np.int16, 2 * count, offset=self.offset + 4 * start).reshape(-1, 2)


@dataclass(frozen=True)
class Song:
    """One prepared song."""

    folder: Path

    @cached_property
    def layers(self) -> dict[str, list[Layer]]:
        """Stem -> its layers."""
        found: dict[str, list[Layer]] = {}
        for path in sorted(self.folder.glob("*/*.npy")):
            found.setdefault(path.parent.name, []).append(Layer.open(path))
        return found

    @cached_property
    def frames(self) -> int:
        """Length of the longest layer."""
        return max(layer.frames for layers in self.layers.values() for layer in layers)

    def excerpt(self, stem: str, start: int, length: int, gains: Sequence[float] | None = None) -> Tensor:
        """Sum of a stem's layers, each with its gain: `[2, length]`; zeros past the end and where there is no stem."""
        layers = self.layers.get(stem, [])
        total = np.zeros((length, 2), dtype=np.float32)
        for layer, gain in zip(layers, gains if gains is not None else [1.0] * len(layers), strict=True):
            if gain:
                part = layer.read(start, length)
                total[: len(part)] += np.float32(gain / 32768) * part
        return torch.from_numpy(total.T.copy())


def songs(folder: Path) -> list[Song]:
    """The prepared songs of a folder, by name. Raises `AudioError` where there are none."""
    found = [Song(path) for path in sorted(folder.glob("*")) if path.is_dir() and any(path.glob("*/*.npy"))]
    if not found:
        raise AudioError(f"{folder}: no prepared songs", hint="run scripts/prepare.py SOURCE DESTINATION first")
    return found


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
