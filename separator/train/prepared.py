"""Prepared songs: decoded once, read by offset.

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
