"""Plays notes with recorded samples: choice of region, re-pitching, velocity, release, choking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from scripts.synth.library import RATE, Audio, Library
from scripts.synth.sfz import Region

ATTACK = 64  # samples: hides the click of a sample that starts off zero
ONSET_DB = -36.0  # below the peak: where a recorded note is taken to begin
MAX_RATIO = 4.0


@dataclass(frozen=True)
class Note:
    """A note in seconds; `key` may lie between the semitones, `glide_from` is a key from which the pitch slides in."""

    start_s: float
    length_s: float
    key: float
    velocity: int = 100
    glide_from: float | None = None
    glide_s: float = 0.08


def onset(audio: Audio) -> int:
    """First sample within 36 dB of the peak, less 1 ms: recorded notes often start after some silence."""
    loud = np.abs(audio).max(axis=0)
    if not loud.size or loud.max() == 0:
        return 0
    first = int(np.argmax(loud > loud.max() * 10 ** (ONSET_DB / 20)))
    return max(0, first - RATE // 1000)


def repitch(audio: Audio, ratio: float, samples: int) -> Audio:
    """At most `samples` of `audio` `[C, T]` played `ratio` times as fast (band-limited)."""
    needed = int(samples * ratio) + 64
    part = audio[:, :needed]
    if abs(ratio - 1) > 1e-4 and part.shape[1] > 1:
        part = soxr.resample(part.T, RATE * ratio, RATE, quality="HQ").T
    return np.asarray(part[:, :samples], np.float32)


def glide(audio: Audio, ratio: float, note: Note, samples: int) -> Audio:
    """As `repitch`, with the pitch sliding in from `note.glide_from` (linear interpolation of the sample)."""
    time = np.arange(samples) / RATE
    away = (note.glide_from or note.key) - note.key
    speed = ratio * 2 ** (away * np.clip(1 - time / note.glide_s, 0, 1) / 12)
    at = np.cumsum(speed) - speed[0]
    at = at[at < audio.shape[1] - 1]
    grid = np.arange(audio.shape[1])
    return np.stack([np.interp(at, grid, channel) for channel in audio]).astype(np.float32)


def stereo(audio: Audio, pan: float = 0.0) -> Audio:
    """`[1 or 2, T]` -> `[2, T]`; pan -1 left to 1 right, constant power."""
    angle = (np.clip(pan, -1, 1) + 1) * np.pi / 4
    gains = np.array([[np.cos(angle)], [np.sin(angle)]], np.float32) * np.float32(2**0.5)
    both = audio[:2] if audio.shape[0] > 1 else np.repeat(audio, 2, axis=0)
    return np.asarray(both * gains, np.float32)


def add_at(target: Audio, part: Audio, start: int) -> None:
    """Add `part` `[2, n]` into `target` `[2, T]` at `start`, cut at both ends."""
    if start < 0:
        part, start = part[:, -start:], 0
    room = target.shape[1] - start
    if room > 0 and part.shape[1]:
        target[:, start : start + part.shape[1]] += part[:, :room]


class Sampler:
    """An instrument made of SFZ regions; `transpose` is added to the keys asked for (maps with other octave names)."""

    def __init__(self, regions: Sequence[Region], library: Library, *, transpose: int = 0, release_s: float = 0.15):
        playable = [r for r in regions if r.trigger == "attack" and library.find(r.sample)]
        switches = sorted({r.keyswitch for r in playable if r.keyswitch is not None})
        kept = [r for r in playable if r.keyswitch in (None, switches[0] if switches else None)]
        self.regions, self.library = kept, library
        self.transpose, self.release_s = transpose, release_s
        self._turn: dict[tuple[int, int, int], int] = {}
        self._onsets: dict[Region, int] = {}

    def choose(self, key: float, velocity: int, rng: np.random.Generator) -> Region | None:
        """The region for a note: key and velocity range first, then round robin or chance."""
        nearest = round(key) + self.transpose
        fits = [r for r in self.regions if r.lovel <= velocity <= r.hivel]
        inside = [r for r in fits if r.lokey <= nearest <= r.hikey]
        if not inside and fits:
            away = min(abs(r.keycenter - nearest) for r in fits)
            inside = [r for r in fits if abs(r.keycenter - nearest) == away]
        if not inside:
            return None
        chance = rng.random()
        inside = [r for r in inside if r.lorand <= chance < r.hirand] or inside
        slot = (inside[0].lokey, inside[0].lovel, len(inside))
        turn = self._turn.get(slot, int(rng.integers(8)))
        self._turn[slot] = turn + 1
        return inside[turn % len(inside)]

    def play(self, note: Note, rng: np.random.Generator) -> Audio:
        """One note as `[2, n]`, from its onset through its release."""
        region = self.choose(note.key, note.velocity, rng)
        if region is None:
            return np.zeros((2, 0), np.float32)
        source = self.library.find(region.sample)
        assert source is not None
        audio = self.library.load(source)
        if region not in self._onsets:
            self._onsets[region] = 0 if region.loop else onset(audio)
        audio = audio[:, max(self._onsets[region], region.offset) :]
        semitones = note.key + self.transpose - region.keycenter + region.tune_cents / 100
        ratio = min(2 ** (semitones / 12), MAX_RATIO)
        release = max(self.release_s, min(region.release_s, 0.5))
        samples = max(int((note.length_s + release) * RATE), 2 * ATTACK)
        if region.loop:
            audio = looped(audio, region.loop, int(samples * ratio * (1.2 if note.glide_from else 1)) + 64)
        sliding = note.glide_from is not None
        sound = glide(audio, ratio, note, samples) if sliding else repitch(audio, ratio, samples)
        top = region.hivel if region.hivel < 127 or region.lovel > 1 else 127
        gain = 10 ** (region.volume_db / 20) * (note.velocity / top) ** 1.3
        sound = shape(sound, int(note.length_s * RATE)) * np.float32(gain)
        return stereo(
            contoured(sound, region) if region.sustain < 1 or region.attack_s > 0.01 else sound, region.pan / 100
        )

    def render(self, notes: Iterable[Note], samples: int, rng: np.random.Generator) -> Audio:
        """All notes summed, `[2, samples]`."""
        out = np.zeros((2, samples), np.float32)
        for note in notes:
            add_at(out, self.play(note, rng), int(note.start_s * RATE))
        return out


def looped(audio: Audio, loop: tuple[int, int], samples: int) -> Audio:
    """`audio` extended to at least `samples` by repeating the stretch `loop`."""
    first, last = loop[0], min(loop[1], audio.shape[1])
    missing = samples - last
    if missing <= 0 or last - first < 8:
        return audio
    return np.concatenate([audio[:, :last], np.tile(audio[:, first:last], (1, -(-missing // (last - first))))], axis=1)


def contoured(sound: Audio, region: Region) -> Audio:
    """Attack, then exponential decay to the sustain level of the region."""
    time = np.arange(sound.shape[1], dtype=np.float32) / RATE
    after = np.maximum(time - region.attack_s, 0)
    level = region.sustain + (1 - region.sustain) * np.exp(-after * 4 / max(region.decay_s, 0.01))
    return np.asarray(sound * level * np.minimum(time / max(region.attack_s, 1e-4), 1), np.float32)


def shape(sound: Audio, held: int) -> Audio:
    """A short fade in, and a fade out over everything after `held` samples."""
    n = sound.shape[1]
    envelope = np.ones(n, np.float32)
    ramp = min(ATTACK, n)
    envelope[:ramp] *= np.linspace(0, 1, ramp, dtype=np.float32)
    if held < n:
        envelope[held:] *= np.linspace(1, 0, n - held, dtype=np.float32) ** 2
    elif n > ATTACK:
        envelope[-ATTACK:] *= np.linspace(1, 0, ATTACK, dtype=np.float32)
    return sound * envelope
