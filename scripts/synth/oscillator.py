"""Synthesiser voices: wavetables whose second axis is the cutoff of a filter, so filter envelopes cost two look-ups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scripts.synth.library import RATE, Audio
from scripts.synth.sampler import Note, add_at

TABLE = 2048  # samples of one cycle
CUTOFFS = np.geomspace(60.0, 18000.0, 20)  # Hz, levels of every table


@dataclass(frozen=True)
class Patch:
    """A subtractive voice: wave, unison, filter, envelopes (seconds); `cutoff` in octaves above the note."""

    wave: str = "saw"  # saw, square, pulse, triangle, sine, organ, fm
    voices: int = 1
    detune: float = 0.1  # semitones between the outermost voices
    width: float = 0.8
    cutoff: float = 4.0
    sweep: float = 2.0  # octaves added by the filter envelope at its peak
    sweep_s: float = 0.3
    resonance: float = 1.0
    attack: float = 0.005
    decay: float = 0.5
    sustain: float = 0.7
    release: float = 0.15
    vibrato: float = 0.0  # semitones
    brightness: float = 1.0  # FM index, drawbars
    drop: float = 0.0  # semitones that the pitch falls at the start (808)
    sub: float = 0.0  # level of a sine one octave below
    wobble: float = 0.0  # octaves by which the cutoff swings
    wobble_hz: float = 4.0


def amplitudes(wave: str, count: int, brightness: float) -> NDArray[np.float64]:
    """Amplitude of the first `count` harmonics."""
    h: NDArray[np.float64] = np.arange(1, count + 1, dtype=float)
    if wave == "saw":
        return np.asarray(1 / h)
    if wave == "square":
        return np.where(h % 2 == 1, 1 / h, 0)
    if wave == "pulse":
        return np.abs(np.sin(np.pi * h * 0.22)) / h
    if wave == "triangle":
        return np.where(h % 2 == 1, 1 / h**2, 0)
    if wave == "organ":
        bars = {1: 1.0, 2: 0.8, 3: 0.6 * brightness, 4: 0.5, 6: 0.3 * brightness, 8: 0.25 * brightness}
        return np.array([bars.get(int(k), 0.0) for k in h])
    if wave == "fm":  # a bell-like comb: sparse, slowly falling
        return np.where(np.isin(h % 7, (1, 3)), np.exp(-h / (3 + 6 * brightness)), 0)
    return np.where(h == 1, 1.0, 0.0)


@lru_cache(maxsize=400)
def tables(wave: str, key: float, resonance: float, brightness: float) -> NDArray[np.float32]:
    """`[levels, TABLE]` cycles at pitch `key`, harmonics below 18 kHz, one per cutoff of a resonant low-pass."""
    pitch = 440 * 2 ** ((key - 69) / 12)
    count = int(np.clip(18000 / pitch, 1, TABLE // 2 - 1))
    h = np.arange(1, count + 1)
    base = amplitudes(wave, count, brightness)
    x = h[None] * pitch / CUTOFFS[:, None]
    response = 1 / np.sqrt((1 - x**2) ** 2 + (x / resonance) ** 2)  # two-pole low-pass of quality `resonance`
    spectrum = np.zeros((len(CUTOFFS), TABLE // 2 + 1), complex)
    spectrum[:, 1 : count + 1] = base * np.minimum(response, 4) * np.exp(-1j * np.pi / 2)
    cycles = np.fft.irfft(spectrum, TABLE, axis=1)
    scale = np.sqrt((np.fft.irfft(np.r_[0, base * -1j, np.zeros(TABLE // 2 - count)], TABLE) ** 2).mean())
    return np.asarray(cycles / max(scale, 1e-9), np.float32)


def look_up(table: NDArray[np.float32], phase: NDArray[np.float64], level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Read cycles at `phase` (in cycles) and fractional `level`."""
    at = (phase * TABLE).astype(np.int64) & (TABLE - 1)
    low = np.minimum(level.astype(np.int64), len(CUTOFFS) - 2)
    flat, base = table.reshape(-1), low * TABLE + at
    first = flat[base]
    return np.asarray(first + (flat[base + TABLE] - first) * (level - low).astype(np.float32), np.float32)


def envelope(patch: Patch, held_s: float, samples: int) -> NDArray[np.float32]:
    """Attack, exponential decay to the sustain level, release after `held_s`."""
    time = np.arange(samples, dtype=np.float32) / RATE
    level = patch.sustain + (1 - patch.sustain) * np.exp(-np.maximum(time - patch.attack, 0) / max(patch.decay, 1e-3))
    level *= np.minimum(time / max(patch.attack, 1e-3), 1)
    level *= np.exp(-np.maximum(time - held_s, 0) / max(patch.release / 4, 1e-3))
    tail = min(256, samples)
    level[-tail:] *= np.linspace(1, 0, tail)
    return np.asarray(level, np.float32)


def pitch_curve(patch: Patch, note: Note, samples: int) -> NDArray[np.float64]:
    """Semitones around the note's key: glide, drop at the start, vibrato."""
    time = np.arange(samples) / RATE
    bend = np.zeros(samples)
    if note.glide_from is not None:
        bend += (note.glide_from - note.key) * np.clip(1 - time / note.glide_s, 0, 1)
    if patch.drop:
        bend += patch.drop * np.exp(-time / 0.03)
    if patch.vibrato:
        bend += patch.vibrato * np.sin(2 * np.pi * 5.3 * time) * np.clip((time - 0.3) / 0.3, 0, 1)
    return bend


def play(patch: Patch, note: Note, rng: np.random.Generator) -> Audio:
    """One note as `[2, n]`."""
    samples = int((note.length_s + patch.release) * RATE) + 256
    time = np.arange(samples, dtype=np.float32) / RATE
    cutoff = patch.cutoff + patch.sweep * np.exp(-time / patch.sweep_s) * (0.6 + 0.4 * note.velocity / 127)
    if patch.wobble:
        cutoff += patch.wobble * np.sin(2 * np.pi * patch.wobble_hz * (time + note.start_s))
    pitch = 440 * 2 ** ((note.key - 69) / 12)
    step = np.log2(CUTOFFS[1] / CUTOFFS[0])
    level = np.clip((np.log2(pitch / CUTOFFS[0]) + cutoff) / step, 0, len(CUTOFFS) - 1.001).astype(np.float32)
    table = tables(patch.wave, round(note.key), patch.resonance, patch.brightness)
    moving = note.glide_from is not None or patch.drop or patch.vibrato
    speed = 2 ** (pitch_curve(patch, note, samples) / 12) if moving else np.ones(samples)
    turns = np.asarray(np.cumsum(speed * (pitch / RATE)), np.float64)
    out = np.zeros((2, samples), np.float32)
    for voice in range(patch.voices):
        place = 2 * voice / (patch.voices - 1) - 1 if patch.voices > 1 else 0.0
        factor = 2 ** (patch.detune * place / 24)
        sound = look_up(table, turns * factor + rng.random(), level)
        angle = (place * patch.width + 1) * np.pi / 4
        out[0] += sound * np.float32(np.cos(angle))
        out[1] += sound * np.float32(np.sin(angle))
    if patch.sub:
        out += (patch.sub * np.sin(np.pi * turns)).astype(np.float32)
    gain = (note.velocity / 127) ** 1.2 * 0.3 / patch.voices**0.5
    return np.asarray(out * envelope(patch, note.length_s, samples) * np.float32(gain), np.float32)


def render(patch: Patch, notes: list[Note], samples: int, rng: np.random.Generator) -> Audio:
    """All notes summed, `[2, samples]`."""
    out = np.zeros((2, samples), np.float32)
    for note in notes:
        room = (samples - note.start_s * RATE) / RATE
        if room > 0:
            add_at(out, play(patch, replace(note, length_s=min(note.length_s, room)), rng), int(note.start_s * RATE))
    return out
