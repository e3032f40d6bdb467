"""Reader of SoundFont 2 (and 3, with Vorbis samples) banks: a preset becomes regions that the sampler plays.

SoundFont Technical Specification 2.04, sections 6 to 8. Modulators and modulation envelopes are left out.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from scripts.synth.library import RATE, Library, write_array
from scripts.synth.sfz import Region

INSTRUMENT, KEYS, VELOCITIES, SAMPLE, MODES, ROOT, COARSE, FINE = 41, 43, 44, 53, 54, 58, 51, 52
ATTENUATION, PAN, ATTACK, DECAY, SUSTAIN, RELEASE = 48, 17, 34, 36, 37, 38
RANGES = (KEYS, VELOCITIES)
VORBIS = 0x10
Generators = dict[int, int]


@dataclass(frozen=True)
class Header:
    """One sample of the bank; loop in samples from its start."""

    start: int
    end: int
    loop: tuple[int, int]
    rate: int
    key: int
    cents: int
    link: int
    kind: int


class SoundFont:
    """An open bank; `preset` extracts what one instrument needs into the library's cache."""

    def __init__(self, path: Path):
        self.path = path
        data = np.memmap(path, np.uint8, "r")
        chunks = _chunks(data)
        self._pcm, self._parts = chunks["smpl"], {k: bytes(v) for k, v in chunks.items() if k != "smpl"}
        self.headers = [self._header(i) for i in range(len(self._parts["shdr"]) // 46 - 1)]
        names = struct.iter_unpack("<20sHHHIII", self._parts["phdr"])
        rows = [(bank, program, bag) for _, program, bank, bag, *_ in names]
        self.presets = {(b, p): (bag, rows[i + 1][2]) for i, (b, p, bag) in enumerate(rows[:-1])}

    def _header(self, index: int) -> Header:
        _, start, end, first, last, rate, key, cents, link, kind = struct.unpack_from(
            "<20sIIIIIBbHH", self._parts["shdr"], index * 46
        )
        loop = (first, last) if kind & VORBIS else (first - start, last - start)
        return Header(start, end, loop, rate, key, cents, link, kind)

    def _zones(self, prefix: str, bags: range) -> list[Generators]:
        """Generators of each zone; a first zone without instrument or sample is the default of the others."""
        places = [v[0] for v in struct.iter_unpack("<HH", self._parts[f"{prefix}bag"])]
        values = list(struct.iter_unpack("<Hh", self._parts[f"{prefix}gen"]))
        zones = [dict(values[places[i] : places[i + 1]]) for i in bags]
        last = INSTRUMENT if prefix == "p" else SAMPLE
        common = zones.pop(0) if zones and last not in zones[0] else {}
        return [{**common, **zone} for zone in zones if last in zone]

    def preset(self, bank: int, program: int, library: Library) -> list[Region]:
        """Regions of a preset; empty when the bank lacks it."""
        if (bank, program) not in self.presets:
            return []
        instruments = [v[1] for v in struct.iter_unpack("<20sH", self._parts["inst"])]
        regions: list[Region] = []
        for outer in self._zones("p", range(*self.presets[bank, program])):
            at = outer[INSTRUMENT]
            for inner in self._zones("i", range(instruments[at], instruments[at + 1])):
                region = self._region(outer, inner, library)
                if region.lokey <= region.hikey and region.lovel <= region.hivel:
                    regions.append(region)
        return paired(regions)

    def _region(self, outer: Generators, inner: Generators, library: Library) -> Region:
        header = self.headers[inner[SAMPLE]]
        total = {g: inner.get(g, 0) + outer.get(g, 0) for g in (COARSE, FINE, ATTENUATION, PAN, SUSTAIN)}
        low, high = _range(outer, inner, KEYS)
        soft, loud = _range(outer, inner, VELOCITIES)
        root = inner.get(ROOT, -1)
        scale = RATE / header.rate
        loop = (int(header.loop[0] * scale), int(header.loop[1] * scale))
        return Region(
            sample=self._extract(inner[SAMPLE], library),
            lokey=low,
            hikey=high,
            lovel=soft,
            hivel=loud,
            keycenter=root if root >= 0 else header.key,
            tune_cents=header.cents + total[COARSE] * 100 + total[FINE],
            volume_db=-0.04 * total[ATTENUATION],
            pan=total[PAN] / 5,
            loop=loop if inner.get(MODES, 0) & 1 and loop[1] - loop[0] > 8 else None,
            attack_s=_seconds(inner, outer, ATTACK),
            decay_s=_seconds(inner, outer, DECAY),
            sustain=float(10 ** (-np.clip(total[SUSTAIN], 0, 1000) / 200)),
            release_s=_seconds(inner, outer, RELEASE),
        )

    def _extract(self, index: int, library: Library) -> Path:
        """Sample `index` at 44.1 kHz in the cache."""
        stored = library.cache / self.path.name / f"{index}.npy"
        if not stored.is_file():
            header = self.headers[index]
            audio = self._samples(header)
            if header.rate != RATE:
                audio = soxr.resample(audio.astype(np.float32), header.rate, RATE)
            write_array(stored, np.clip(np.round(audio[None]), -32768, 32767).astype(np.int16))
        return stored

    def _samples(self, header: Header) -> NDArray[np.int16]:
        if header.kind & VORBIS:
            with av.open(io.BytesIO(bytes(self._pcm[header.start : header.end]))) as container:
                frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
            return np.round(np.concatenate(frames) * 32767).astype(np.int16)
        return np.asarray(self._pcm[header.start * 2 : header.end * 2]).view("<i2")


def paired(regions: list[Region]) -> list[Region]:
    """Left and right recordings of the same keys and velocities become one stereo region."""
    sides: dict[tuple[int, ...], list[Region]] = {}
    for region in regions:
        sides.setdefault((region.lokey, region.hikey, region.lovel, region.hivel), []).append(region)
    out: list[Region] = []
    for group in sides.values():
        left = [r for r in group if r.pan < -90]
        right = [r for r in group if r.pan > 90]
        pairs = list(zip(left, right, strict=False))
        out += [_joined(a, b) for a, b in pairs]
        out += [r for r in group if r not in [one for pair in pairs for one in pair]]
    return out


def _joined(left: Region, right: Region) -> Region:
    stored = left.sample.with_name(f"{left.sample.stem}-{right.sample.stem}.npy")
    if not stored.is_file():
        a, b = np.load(left.sample), np.load(right.sample)
        n = max(a.shape[1], b.shape[1])
        write_array(stored, np.concatenate([np.pad(side, ((0, 0), (0, n - side.shape[1]))) for side in (a, b)]))
    return replace(left, sample=stored, pan=0.0)


def _chunks(data: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Leaf chunks of the RIFF file by name."""
    found: dict[str, NDArray[np.uint8]] = {}
    at, end = 12, len(data)
    while at + 8 <= end:
        name, size = bytes(data[at : at + 4]).decode("latin1"), int(data[at + 4 : at + 8].view("<u4")[0])
        if name == "LIST":
            at += 12
            continue
        found[name] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return found


def _range(outer: Generators, inner: Generators, which: int) -> tuple[int, int]:
    low, high = 0, 127
    for zone in (outer, inner):
        if which in zone:
            packed = zone[which] & 0xFFFF
            low, high = max(low, packed & 0xFF), min(high, packed >> 8)
    return low, high


def _seconds(inner: Generators, outer: Generators, which: int) -> float:
    return float(min(2 ** ((inner.get(which, -12000) + outer.get(which, 0)) / 1200), 20.0))


@lru_cache(maxsize=4)
def open_font(path: Path) -> SoundFont:
    return SoundFont(path)
