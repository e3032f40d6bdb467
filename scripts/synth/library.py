"""Recorded samples, decoded once to 44.1 kHz and kept as 16-bit arrays in a cache folder."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

Audio = NDArray[np.float32]
RATE = 44100
BANKS = ("sf2/FluidR3_GM.sf2", "sf3/MuseScore_General_Full.sf3")  # MIT
SUFFIXES = (".opus", ".wav", ".flac", ".ogg", ".aif", ".mp3")


class Library:
    """Folder `root` of recordings; `load` returns float32 `[C, T]` at 44.1 kHz and keeps the last `keep` in memory.

    `system` is where Debian's packages may lie unpacked: SoundFonts, Hydrogen's drum kits and the Flite voices are used
    if they are there. `permissive` leaves out everything under share-alike and GPL licences.
    """

    def __init__(
        self, root: Path, cache: Path, *, system: Path | None = None, permissive: bool = False, keep: int = 1500
    ):
        self.root, self.cache, self.keep, self.permissive = root, cache, keep, permissive
        banks = [system / "usr/share/sounds" / name for name in BANKS] if system else []
        self.fonts = [bank for bank in banks if bank.is_file()]
        self.drumkits = system / "usr/share/hydrogen/data/drumkits" if system else None
        self.flite = system / "usr/bin/flite" if system and (system / "usr/bin/flite").is_file() else None
        self._found: dict[Path, Path | None] = {}
        self._listed: dict[tuple[str, str], list[Path]] = {}
        self._memory: OrderedDict[Path, Audio] = OrderedDict()

    def find(self, path: Path) -> Path | None:
        """The file itself, or its namesake in another encoding (maps ask for .wav where .opus is stored)."""
        if path not in self._found:
            others = (path.with_name(path.stem + suffix) for suffix in SUFFIXES)
            self._found[path] = next((p for p in itertools.chain([path], others) if p.is_file()), None)
        return self._found[path]

    def files(self, folder: str, pattern: str = "*.opus") -> list[Path]:
        """Files below `root/folder` in an order that does not depend on the file system."""
        if (folder, pattern) not in self._listed:
            self._listed[folder, pattern] = sorted((self.root / folder).rglob(pattern))
        return self._listed[folder, pattern]

    def load(self, path: Path) -> Audio:
        held = self._memory.pop(path, None)
        if held is None:
            held = self._read(path)
        self._memory[path] = held
        if len(self._memory) > self.keep:
            self._memory.popitem(last=False)
        return held

    def _read(self, path: Path) -> Audio:
        if path.suffix == ".npy":  # extracted from a bank
            return np.asarray(np.load(path).astype(np.float32) / 32768, np.float32)
        stored = self.stored(path, ".npy")
        if not stored.is_file():
            samples = np.clip(np.round(decode(path) * 32767), -32768, 32767).astype(np.int16)
            write_array(stored, samples)
        return np.asarray(np.load(stored).astype(np.float32) / 32768, np.float32)

    def stored(self, path: Path, suffix: str) -> Path:
        """Where something derived from the file at `path` is cached."""
        inside = path.relative_to(self.root) if path.is_relative_to(self.root) else Path(*path.parts[1:])
        return self.cache / inside.with_name(inside.name + suffix)


def write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write under a temporary name, then rename: parallel readers never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npy")
    np.save(temporary, array)
    temporary.replace(path)


def decode(path: Path) -> Audio:
    """All samples of an audio file as float32 `[C, T]` at 44.1 kHz."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout="stereo" if stream.channels > 1 else "mono")
        blocks = [f.to_ndarray() for frame in container.decode(stream) for f in resampler.resample(frame)]
        rate = stream.rate
    audio = np.concatenate(blocks, axis=1) if blocks else np.zeros((1, 0), np.float32)
    if rate == RATE:
        return audio.astype(np.float32)
    return np.ascontiguousarray(soxr.resample(audio.T, rate, RATE, quality="HQ").T, dtype=np.float32)
