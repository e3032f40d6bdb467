"""Generated multitrack songs in the layout of prepared ones: enough to try a training run on, never to learn music.

Each song has a tempo, a key and a chord progression of its own, which all stems share, so that they mask one another as
in music: a gliding voice with vibrato and rests, kick, snare and hi-hat, a bass on the roots, a pad and an arpeggio.
A stem of any other name plays notes in a frequency band of its own.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from separator.atomic import write_error
from separator.train.prepared import MANIFEST, Manifest, PreparedLayer, sounding

Signal = NDArray[np.float64]  # mono [T], or stereo [T, 2]
Rng = np.random.Generator

PROGRESSIONS = ((0, 5, 7, 0), (0, -3, 5, 7), (0, 7, -3, 5), (-3, 5, 0, 7))  # roots in semitones over the key, per bar
TRIAD = (0, 4, 7)
PEAK = 0.3  # of a layer, at most: the sum of a few stems stays below full scale


def generate(folder: Path, songs: int, stems: Sequence[str], sample_rate: int, seed: int, seconds: float = 8.0) -> None:
    """Fill `folder` with `songs` songs, `<folder>/toy<number>/<stem>/<layer>.npy`, int16 `[frames, 2]`.

    The same arguments give the same samples, and a stem sounds the same whatever the others are. Written elsewhere
    and renamed, so that the folder appears complete or not at all; where another process was quicker, its songs stay.
    Raises `ResourceError` where the disk is full.
    """
    part = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}.part")
    try:
        for number in range(songs):
            layers = {f"{stem}/{layer}.npy": np.round(audio.clip(-1, 1) * 32767).astype("<i2") for stem in stems
                      for layer, audio in _layers(stem, stems, sample_rate, (seed, number), seconds).items()}
            _write(part / f"toy{number:03d}", layers, sample_rate)
        part.rename(folder)
    except OSError as error:
        if not folder.exists():  # else another process made it meanwhile
            raise write_error(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(song: Path, layers: Mapping[str, NDArray[np.int16]], sample_rate: int) -> None:
    """One song's files, and the manifest that tells its rate."""
    told = {}
    for name, samples in layers.items():
        (song / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(song / name, samples)
        sha256 = hashlib.sha256(samples.tobytes()).hexdigest()
        told[name] = PreparedLayer(source="generated", stream=0, size=0, mtime_ns=0, frames=len(samples),
                                   sha256=sha256, clipped=0, sounding=sounding([samples]))
    (song / MANIFEST).write_text(Manifest(sample_rate=sample_rate, layers=told).text(), encoding="utf-8")


@dataclass(frozen=True)
class _Score:
    """What the stems of a song share."""

    rate: int
    length: int  # samples
    beat: int  # samples
    key: int  # MIDI note
    roots: tuple[int, ...]  # per bar, over the key

    @classmethod
    def draw(cls, rng: Rng, rate: int, seconds: float) -> _Score:
        roots = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
        beat, key = round(rate * 60 / rng.uniform(90, 140)), int(rng.integers(45, 57))
        return cls(rate, round(seconds * rate), beat, key, roots)

    def root(self, beat: int) -> int:
        return self.key + self.roots[beat // 4 % len(self.roots)]

    @property
    def beats(self) -> int:
        return -(-self.length // self.beat)


def _layers(stem: str, stems: Sequence[str], rate: int, seed: tuple[int, int], seconds: float) -> dict[str, Signal]:
    """Layer -> stereo samples `[T, 2]` of one stem of one song."""
    score = _Score.draw(np.random.default_rng(seed), rate, seconds)
    rng = np.random.default_rng((*seed, zlib.crc32(stem.encode())))
    if stem in PLAYERS:
        layers = PLAYERS[stem](score, rng)
    else:
        strangers = sorted(set(stems) - PLAYERS.keys())
        layers = {"notes": _band(score, rng, strangers.index(stem), len(strangers))}
    return {name: _placed(signal, rng) for name, signal in layers.items()}


def _placed(mono: Signal, rng: Rng) -> Signal:
    """Panned somewhere near the middle, at a level of its own."""
    angle = np.pi / 4 * (1 + rng.uniform(-0.4, 0.4))
    gain = PEAK * 10 ** (rng.uniform(-8, 0) / 20) / max(np.abs(mono).max(), 1e-9)
    stereo: Signal = gain * mono[:, None] * np.array([np.cos(angle), np.sin(angle)])
    return stereo


def _hertz(note: float | Signal) -> float | Signal:
    return 440.0 * 2.0 ** ((note - 69) / 12)


def _tone(pitch_hz: float | Signal, length: int, rate: int, harmonics: int, slope: float) -> Signal:
    """Harmonics below half the sample rate, the n-th at n ** -slope."""
    pitch = np.broadcast_to(np.asarray(pitch_hz, dtype=np.float64), length)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    total = np.zeros(length)
    for n in range(1, harmonics + 1):
        total += np.sin(n * phase) * (n * pitch < 0.45 * rate) / n**slope
    return total


def _plucked(score: _Score, starts: Sequence[int], notes: Sequence[float], decay_s: float, harmonics: int) -> Signal:
    """One decaying note from each start on; each ends where it has lost 60 dB."""
    track = np.zeros(score.length)
    size = round(7 * decay_s * score.rate)
    time = np.arange(size) / score.rate
    shape = np.minimum(time / 0.004, 1) * np.exp(-time / decay_s)
    for start, note in zip(starts, notes, strict=True):
        count = min(size, score.length - start)
        if count > 0:
            track[start : start + count] += shape[:count] * _tone(_hertz(note), count, score.rate, harmonics, 1.0)
    return track


def _vocals(score: _Score, rng: Rng) -> dict[str, Signal]:
    """A line that glides from chord note to chord note, with vibrato, and rests for a third of the time."""
    note, sung = np.empty(score.length), np.zeros(score.length)
    for beat in range(score.beats):
        here = slice(beat * score.beat, (beat + 1) * score.beat)
        note[here] = score.root(beat) + 12 + TRIAD[rng.integers(3)]
        sung[here] = rng.random() < 0.65 or beat == 0
    time = np.arange(score.length) / score.rate
    note = _smoothed(note, round(0.06 * score.rate)) + 0.4 * np.sin(2 * np.pi * rng.uniform(5, 6.5) * time)
    voice = _smoothed(sung, round(0.03 * score.rate)) * _tone(_hertz(note), score.length, score.rate, 20, 0.8)
    return {"lead": voice}


def _smoothed(signal: Signal, size: int) -> Signal:
    """Moving average: turns steps into glides."""
    total = np.cumsum(np.concatenate([np.full(size, signal[0]), signal]))
    out: Signal = (total[size:] - total[:-size]) / size
    return out


def _drums(score: _Score, rng: Rng) -> dict[str, Signal]:
    time = np.arange(round(0.3 * score.rate)) / score.rate
    noise = rng.standard_normal((2, len(time)))
    kick = np.sin(2 * np.pi * (50 * time + 4 * (1 - np.exp(-time / 0.03)))) * np.exp(-time / 0.08)
    snare = noise[0] * np.exp(-time / 0.06) + 0.7 * np.sin(2 * np.pi * 190 * time) * np.exp(-time / 0.05)
    hat = np.diff(noise[1], prepend=0.0) * np.exp(-time / 0.02)
    half = score.beat // 2
    hits = {"kick": (kick, range(0, 2 * score.beats, 4)), "snare": (snare, range(2, 2 * score.beats, 4)),
            "hat": (hat, range(0, 2 * score.beats, int(rng.integers(1, 3))))}
    layers = {name: np.zeros(score.length) for name in hits}
    for name, (sound, eighths) in hits.items():
        for eighth in eighths:
            piece = layers[name][eighth * half : eighth * half + len(sound)]
            piece += sound[: len(piece)] * rng.uniform(0.7, 1.0)
    return layers


def _bass(score: _Score, rng: Rng) -> dict[str, Signal]:
    half = score.beat // 2
    played = [eighth for eighth in range(2 * score.beats) if eighth % 4 == 0 or rng.random() < 0.6]
    notes = [score.root(eighth // 2) - 12 - 12 * (score.root(eighth // 2) > 52) for eighth in played]
    return {"plucked": _plucked(score, [eighth * half for eighth in played], notes, 0.25, 6)}


def _other(score: _Score, rng: Rng) -> dict[str, Signal]:
    pad = np.zeros(score.length)
    for bar in range(-(-score.beats // 4)):
        here = slice(bar * 4 * score.beat, min((bar + 1) * 4 * score.beat, score.length))
        size = here.stop - here.start
        swell = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 0.5
        for step in TRIAD:
            note = score.root(4 * bar) + step + rng.uniform(-0.05, 0.05)
            pad[here] += swell * _tone(_hertz(note), size, score.rate, 6, 1.5)
    quarter = score.beat // 4
    starts = [n * quarter for n in range(4 * score.beats) if rng.random() < 0.8]
    notes = [score.root(start // score.beat) + 12 + TRIAD[rng.integers(3)] for start in starts]
    return {"pad": pad, "arpeggio": _plucked(score, starts, notes, 0.1, 8)}


def _band(score: _Score, rng: Rng, index: int, count: int) -> Signal:
    """Short pure tones inside band `index` of `count`, which share 80 Hz to 0.4 of the sample rate on a log axis."""
    edges = np.geomspace(80, 0.4 * score.rate, count + 1)[index : index + 2]
    low, high = 69 + 12 * np.log2(edges / 440)
    half = score.beat // 2
    starts = [eighth * half for eighth in range(2 * score.beats) if eighth == 0 or rng.random() < 0.7]
    notes = rng.uniform(0.9 * low + 0.1 * high, 0.1 * low + 0.9 * high, len(starts))
    return _plucked(score, starts, list(notes), 0.15, 1)


PLAYERS: dict[str, Callable[[_Score, Rng], dict[str, Signal]]] = {
    "vocals": _vocals, "drums": _drums, "bass": _bass, "other": _other,
}
