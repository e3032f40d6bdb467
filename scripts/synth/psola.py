"""Moves recorded singing to other pitches, lengths and vocal tracts: time-domain pitch-synchronous overlap-add.

After Moulines and Charpentier, "Pitch-synchronous waveform processing techniques", Speech Communication 1990.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyworld
import soxr
from numpy.typing import NDArray
from scipy.signal import find_peaks

from scripts.synth.library import RATE, Audio

FRAME_S = 0.005
UNVOICED_S = 0.006  # grain spacing where there is no pitch
OVER = 2  # the source is read from a copy at twice the rate, so that linear interpolation is good enough


@dataclass(frozen=True)
class Analysis:
    """A recording `[T]`, its pitch marks, period (samples) and voicing at each of them, and the bounds of syllables."""

    audio: NDArray[np.float32]
    marks: NDArray[np.int64]
    periods: NDArray[np.float32]
    voiced: NDArray[np.bool_]
    bounds: NDArray[np.float64]  # `[N, 3]` seconds: start, start of the vowel, end


def pitch(audio: NDArray[np.float32], low: float = 90.0, high: float = 900.0) -> NDArray[np.float64]:
    """f0 in Hz every 5 ms, 0 where unvoiced."""
    x = audio.astype(np.float64)
    f0, time = pyworld.dio(x, RATE, f0_floor=low, f0_ceil=high, frame_period=FRAME_S * 1000)
    return np.asarray(pyworld.stonemask(x, f0, time, RATE))


def analyse(audio: NDArray[np.float32], low: float = 90.0) -> Analysis:
    """Pitch marks on the waveform's peaks, grains every 6 ms where unvoiced, syllables between dips of loudness."""
    f0 = pitch(audio, low)
    marks: list[int] = []
    periods: list[float] = []
    voiced: list[bool] = []
    at, n = RATE // 200, len(audio)
    strength = audio if abs(audio.max()) > abs(audio.min()) else -audio
    previous = False
    while at < n - RATE // 200:
        here = f0[min(int(at / RATE / FRAME_S), len(f0) - 1)]
        period = RATE / here if here > 0 else UNVOICED_S * RATE
        if here > 0:
            reach = int(period * (0.2 if previous else 0.5))
            low = max(0, at - reach)
            at = max(
                low + int(np.argmax(strength[low : at + reach + 1])), (marks[-1] if marks else 0) + int(period * 0.5)
            )
        previous = here > 0
        marks.append(at)
        periods.append(period)
        voiced.append(previous)
        at += int(period)
    bounds = syllables(audio, f0)
    return Analysis(audio, np.array(marks, np.int64), np.array(periods, np.float32), np.array(voiced, bool), bounds)


def syllables(audio: NDArray[np.float32], f0: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[N, 3]`: start, vowel and end of each syllable in seconds, cut where loudness dips by 3 dB or more."""
    hop = int(FRAME_S * RATE)
    frames = len(audio) // hop
    if frames < 20:
        return np.zeros((0, 3))
    power = (audio[: frames * hop].reshape(frames, hop) ** 2).mean(axis=1)
    smooth = np.convolve(power, np.hanning(9) / np.hanning(9).sum(), mode="same")
    level = 10 * np.log10(smooth + 1e-9)
    floor = level.max() - 40
    dips, _ = find_peaks(-level, prominence=3.0, distance=18)
    edges = np.flatnonzero(np.diff((level > floor).astype(int)))
    cuts = np.unique(np.concatenate([[0], dips, edges, [frames - 1]]))
    out = []
    for start, end in itertools.pairwise(cuts):
        part, pitched = level[start:end], f0[start:end]
        if end - start < 16 or part.max() < floor + 15 or (pitched[: len(part)] > 0).mean() < 0.4:
            continue
        loud = (part > part.max() - 6)[: len(pitched)] & (pitched > 0)[: len(part)]
        vowel = start + int(np.argmax(loud))
        out.append((start * FRAME_S, min(vowel, start + 40) * FRAME_S, end * FRAME_S))
    return np.array(out).reshape(-1, 3)


def sing(
    source: Analysis,
    time_map: NDArray[np.float64],
    target: NDArray[np.float64],
    formant: float,
    rng: np.random.Generator,
) -> Audio:
    """`[T]` samples from `time_map` (seconds in the source) and `target` (Hz), both every 5 ms of the output.

    `formant` > 1 is a shorter vocal tract.
    """
    samples = int(len(target) * FRAME_S * RATE)
    outs, sources = _place(source, time_map, target, samples, rng)
    if not len(outs):
        return np.zeros(samples, np.float32)
    half = int(np.clip(np.percentile(source.periods[sources], 98) * 1.05 / formant, 32, 1200))
    fine = soxr.resample(source.audio, RATE, RATE * OVER, quality="HQ").astype(np.float32)
    offsets = np.arange(-half, half + 1, dtype=np.float32)
    out = np.zeros(samples + 2 * half + 2, np.float32)
    for block in range(0, len(outs), 2000):
        o, s = outs[block : block + 2000], sources[block : block + 2000]
        period = source.periods[s][:, None] / formant
        window = 0.5 + 0.5 * np.cos(np.pi * np.clip(offsets[None] / period, -1, 1))
        position = (source.marks[s][:, None] + offsets[None] * formant) * OVER
        position = np.clip(position, 0, len(fine) - 2)
        low = position.astype(np.int64)
        grains = fine[low] + (fine[low + 1] - fine[low]) * (position - low).astype(np.float32)
        index = (o[:, None] + np.arange(2 * half + 1)[None]).ravel()
        keep = index < len(out)
        out += np.bincount(index[keep], (grains * window).ravel()[keep], minlength=len(out)).astype(np.float32)
    return out[half : half + samples]


def _place(
    source: Analysis, time_map: NDArray[np.float64], target: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where grains go and which source mark each takes."""
    outs, sources = [], []
    at, last = 0.0, len(target) - 1
    nearest_of = np.clip(np.searchsorted(source.marks, time_map * RATE), 0, len(source.marks) - 1).tolist()
    silent, hz, voiced = (time_map < 0).tolist(), target.tolist(), source.voiced.tolist()
    while at < samples:
        frame = min(int(at / RATE / FRAME_S), last)
        if silent[frame]:
            at += FRAME_S * RATE
            continue
        nearest = nearest_of[frame]
        step = RATE / hz[frame]
        if not voiced[nearest]:
            step = UNVOICED_S * RATE
            nearest = min(max(nearest + int(rng.integers(-1, 2)), 0), len(voiced) - 1)
        outs.append(int(at))
        sources.append(nearest)
        at += step
    return np.array(outs, np.int64), np.array(sources, np.int64)
