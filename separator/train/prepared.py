"""Prepared songs: decoded once, read by offset.

A prepared song is `<folder>/<song>/<stem>/<layer>.npy`, each an int16 array `[frames, 2]` at the model's rate, so that
an excerpt costs one short read per layer whatever the song's length. Read, not memory-mapped: where the songs do not
fit into the page cache, faults fetch a few pages at a time and were ten times slower than one read.

`song.json` beside the stems is the song's manifest: where each layer came from, what it must hold, and where it sounds:
most layers of a song are silent most of the time, and silence is not read. A song without one is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt, ValidationError
from torch import Tensor

from separator.card import Frozen
from separator.errors import AudioError

MANIFEST = "song.json"
AGAIN = "remove the song's folder and run `sepctl data prepare` again"
QUIET = 1 << 15  # frames: silences are whole blocks of so many, from the beginning of the layer on
Runs = tuple[tuple[int, int], ...]  # first frame, and the one after the last
PROBES, PROBE_BYTES = 8, 4096  # places of a file, evenly spread, that enter a fingerprint


class PreparedLayer(Frozen):
    """What a layer was made from, and what its file holds."""

    source: str  # file below the folder of sources
    stream: int
    size: int  # of the source, bytes
    mtime_ns: int
    frames: PositiveInt
    sha256: str  # of the samples
    clipped: int  # samples beyond full scale
    sounding: Runs  # frames between which, and nowhere else, samples differ from zero


class Manifest(Frozen):
    """The content of `song.json`."""

    version: Literal[2] = 2
    sample_rate: PositiveInt
    layers: Mapping[str, PreparedLayer]  # by `<stem>/<layer>.npy`

    @classmethod
    def read(cls, song: Path) -> Manifest | None:
        """The manifest of a song's folder, None where it has none. Raises AudioError where it is damaged."""
        path = song / MANIFEST
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise AudioError(f"{path}: damaged", hint=AGAIN) from error

    def text(self) -> str:
        """As it is written: the same for the same song, whenever it was prepared."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Layer:
    """One prepared file, by its header."""

    path: Path
    offset: int  # bytes before the samples
    frames: int
    sounding: Runs  # as the manifest tells; all of it where there is none

    @classmethod
    def open(cls, path: Path) -> Layer:
        """Read the header. Raises AudioError where the file is not what `sepctl data prepare` writes."""
        try:
            array = np.load(path, mmap_mode="r")
        except (ValueError, OSError, EOFError) as error:
            raise AudioError(f"{path}: damaged ({error})", hint=AGAIN) from error
        if array.dtype != np.int16 or array.ndim != 2 or array.shape[1] != 2 or not array.flags.c_contiguous:
            raise AudioError(f"{path}: expected int16 [frames, 2], got {array.dtype} {array.shape}", hint=AGAIN)
        return cls(path, array.offset, len(array), ((0, len(array)),))

    def read(self, start: int, length: int) -> NDArray[np.int16]:
        """Up to `length` frames from `start` on: `[<= length, 2]`. Raises AudioError where the file has changed."""
        count = max(min(length, self.frames - start), 0)
        try:
            found = np.fromfile(self.path, np.int16, 2 * count, offset=self.offset + 4 * start)
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be read ({error.strerror or error})", hint=AGAIN) from error
        if found.size != 2 * count:
            raise AudioError(f"{self.path}: became shorter while it was in use", hint=AGAIN)
        return found.reshape(-1, 2)

    def heard(self, start: int, length: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """Where the layer sounds within `length` frames from `start` on: frames after `start`, and samples `[n, 2]`."""
        for first, end in self.sounding:
            first, end = max(first, start), min(end, start + length)
            if first < end:
                yield first - start, self.read(first, end - first)


def sounding(blocks: Iterable[NDArray[np.int16]]) -> Runs:
    """Where a layer sounds, from its samples `[n, 2]` in turn; all but the last are multiples of `QUIET` long.

    >>> sounding([np.repeat(np.int16([0, 1, 1, 0]), QUIET)[:, None], np.ones((5, 1), np.int16)])
    ((32768, 98304), (131072, 131077))
    """
    runs: list[tuple[int, int]] = []
    at = 0
    for block in blocks:
        loud = np.logical_or.reduceat(block.any(axis=1), np.arange(0, len(block), QUIET))
        for first in at + QUIET * np.flatnonzero(loud):
            end = min(int(first) + QUIET, at + len(block))
            joins = runs and runs[-1][1] == first
            runs.append((runs.pop()[0], end) if joins else (int(first), end))
        at += len(block)
    return tuple(runs)


def joined(runs: Iterable[tuple[int, int]]) -> Runs:
    """The same frames as runs that are apart and in order.

    >>> joined([(5, 9), (0, 3), (2, 4), (9, 10)])
    ((0, 4), (5, 10))
    """
    out: list[tuple[int, int]] = []
    for first, end in sorted(runs):
        if out and first <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((first, end))
    return tuple(out)


@dataclass(frozen=True)
class Song:
    """One prepared song."""

    folder: Path

    @cached_property
    def manifest(self) -> Manifest | None:
        """What `song.json` says, if there is one."""
        return Manifest.read(self.folder)

    @cached_property
    def layers(self) -> dict[str, list[Layer]]:
        """Stem -> its layers. Raises AudioError where a file is damaged, or other than the manifest says."""
        found: dict[str, list[Layer]] = {}
        for path in _layer_files(self.folder):
            found.setdefault(path.parent.name, []).append(Layer.open(path))
        if self.manifest is None:
            return found
        self._compare(self.manifest, {layer.path: layer for layers in found.values() for layer in layers})
        told = {self.folder / name: layer.sounding for name, layer in self.manifest.layers.items()}
        return {
            stem: [replace(layer, sounding=told[layer.path]) for layer in layers] for stem, layers in found.items()
        }

    def _compare(self, manifest: Manifest, found: Mapping[Path, Layer]) -> None:
        told = {self.folder / name: layer for name, layer in manifest.layers.items()}
        for path in sorted(told.keys() ^ found.keys()):
            what = "is missing" if path in told else f"is not in {MANIFEST}"
            raise AudioError(f"{path}: {what}", hint=AGAIN)
        for path, layer in told.items():
            if found[path].frames != layer.frames:
                raise AudioError(
                    f"{path}: has {found[path].frames} frames, {MANIFEST} says {layer.frames}", hint=AGAIN
                )

    @cached_property
    def frames(self) -> int:
        """Length of the longest layer."""
        return max(layer.frames for layers in self.layers.values() for layer in layers)

    @cached_property
    def sounding(self) -> dict[str, Runs]:
        """Stem -> the frames between which any of its layers sounds; without stems that never do."""
        runs = {stem: joined(run for layer in layers for run in layer.sounding) for stem, layers in self.layers.items()}
        return {stem: each for stem, each in runs.items() if each}

    def excerpt(self, stem: str, start: int, length: int, gains: Sequence[float] | None = None) -> Tensor:
        """Sum of a stem's layers, each with its gain: `[2, length]`; zeros past the end and where there is no stem."""
        layers = self.layers.get(stem, [])
        total = np.zeros((length, 2), dtype=np.float32)
        for layer, gain in zip(layers, gains if gains is not None else [1.0] * len(layers), strict=True):
            for at, part in layer.heard(start, length) if gain else ():
                total[at : at + len(part)] += np.float32(gain / 32768) * part
        return torch.from_numpy(total.T.copy())


def songs(folder: Path, sample_rate: int | None = None) -> list[Song]:
    """The prepared songs of a folder, by name.

    Raises AudioError where there are none, or where songs tell of different rates, or of another than `sample_rate`.
    """
    found = [Song(path) for path in song_folders(folder)]
    if not found:
        splits = [name for name in ("train", "valid", "test") if any(folder.glob(f"{name}/*/*/*.npy"))]
        hint = f"name one of its splits: {', '.join(str(folder / name) for name in splits)}"
        raise AudioError(
            f"{folder}: no prepared songs", hint=hint if splits else f"run `sepctl data prepare SOURCE {folder}` first"
        )
    rates = {song.manifest.sample_rate: song.folder.name for song in found if song.manifest}
    if len(rates) > 1:
        told = ", ".join(f"{name} {rate} Hz" for rate, name in sorted(rates.items()))
        raise AudioError(f"{folder}: its songs have different sample rates: {told}", hint="prepare all at one rate")
    if sample_rate and rates and sample_rate not in rates:
        raise AudioError(
            f"{folder}: prepared at {next(iter(rates))} Hz, {sample_rate} Hz are needed",
            hint=f"run `sepctl data prepare` with --sample-rate {sample_rate}",
        )
    return found


def song_folders(folder: Path) -> list[Path]:
    """The folders of prepared songs below `folder`, by name."""
    return [path for path in sorted(folder.glob("[!.]*")) if (path / MANIFEST).is_file() or _layer_files(path)]


def fingerprint(chosen: Sequence[Song]) -> str:
    """SHA-256 that tells one set of songs from another: over names, sizes, and samples of the content.

    Cheap: a few short reads per layer. Independent of the songs' order, of where they lie and when they were made.
    """
    entries = []
    for song in chosen:
        for layer in (layer for layers in song.layers.values() for layer in layers):
            name = layer.path.relative_to(song.folder.parent).as_posix()
            entries.append(f"{name}\0{layer.frames}\0{_probe(layer)}\n")
    return hashlib.sha256("".join(sorted(entries)).encode("utf-8", "surrogateescape")).hexdigest()


def _probe(layer: Layer) -> str:
    """SHA-256 over short pieces of a layer, the first and the last included."""
    length = PROBE_BYTES // 4
    starts = np.linspace(0, max(layer.frames - length, 0), PROBES).astype(np.int64)
    return hashlib.sha256(b"".join(layer.read(int(start), length).tobytes() for start in starts)).hexdigest()


def _layer_files(song: Path) -> list[Path]:
    return sorted(song.glob("[!.]*/[!.]*.npy"))
