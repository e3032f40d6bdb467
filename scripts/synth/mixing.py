"""Levels between the stems, a limiter that acts on all layers alike, and writing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import av
import numpy as np
import pedalboard as pb
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from scripts.synth.library import RATE, Audio

Stems = dict[str, dict[str, Audio]]  # stem -> layer -> [2, T]
BALANCE_DB = {"vocals": 0.0, "drums": 0.5, "bass": -3.5, "other": -2.5}  # loudness while active, of a typical pop mix
SPREAD_DB = 2.5
CEILING = 0.97
BLOCK = 1 << 16  # frames encoded at once
LOOKAHEAD = 220  # samples, 5 ms


def apply(audio: Audio, plugins: list[pb.Plugin]) -> Audio:
    """`audio` `[2, T]` through plugins in turn."""
    return np.asarray(pb.Pedalboard(plugins)(audio, RATE), np.float32)  # type: ignore[attr-defined]


def loudness(audio: Audio) -> float:
    """dB of the blocks that are not silent, weighted like BS.1770 in outline (less below 60 Hz, more above 1.7 kHz)."""
    weighted = apply(audio, [pb.HighpassFilter(60), pb.HighShelfFilter(1700, 4.0)])
    size = RATE * 2 // 5
    power = (weighted[:, : weighted.shape[1] // size * size] ** 2).sum(axis=0).reshape(-1, size).mean(axis=1)
    loud = power[power > power.max(initial=0.0) * 10**-2.5]
    return 10 * float(np.log10(loud.mean())) if len(loud) and loud.mean() > 0 else -120.0


def balance(stems: Stems, rng: np.random.Generator, loud_db: float = 0.0) -> Stems:
    """Every stem at its place of a typical mix, give or take, `other` so much louder; layers keep their relations."""
    out: Stems = {}
    for stem, layers in stems.items():
        if not layers:
            continue
        target = -20 + BALANCE_DB[stem] + float(np.clip(rng.normal(0, SPREAD_DB), -6, 6))
        target += loud_db if stem == "other" else 0.0
        gain = np.float32(10 ** ((target - loudness(sum_of(layers))) / 20))
        out[stem] = {name: audio * gain for name, audio in layers.items()}
    return out


def sum_of(layers: dict[str, Audio]) -> Audio:
    return np.asarray(np.sum(list(layers.values()), axis=0), np.float32)


def limit(mix: Audio, drive_db: float) -> NDArray[np.float32]:
    """One gain per sample `[T]` that brings the mix, `drive_db` over the ceiling at its highest peaks, below it."""
    peak = float(np.abs(mix).max())
    if peak == 0:
        return np.ones(mix.shape[1], np.float32)
    gain = np.float32(CEILING / peak * 10 ** (drive_db / 20))
    level = np.abs(mix * gain).max(axis=0)
    wanted = np.minimum(1.0, CEILING / np.maximum(level, 1e-6))
    held = 1 - maximum_filter1d(1 - wanted, 2 * LOOKAHEAD + 1)  # the smallest gain near by
    smooth = uniform_filter1d(
        held, LOOKAHEAD + 1
    )  # still no larger than wanted: the window lies within the held stretch
    slow = _release(smooth)
    return np.asarray(slow * gain, np.float32)


def _release(gain: NDArray[np.float64], hop: int = 64, seconds: float = 0.12) -> NDArray[np.float64]:
    """Let the gain rise slowly after a peak: minimum of the gain and of its recovering past, at a coarse step."""
    frames = -(-len(gain) // hop)
    low = np.minimum.reduceat(gain, np.arange(0, len(gain), hop))
    rise = np.exp(-hop / RATE / seconds)
    out = np.empty(frames)
    state = 1.0
    for i, value in enumerate(low):
        state = min(value, 1 - (1 - state) * rise)
        out[i] = state
    nodes = np.minimum(out, np.minimum(np.r_[out[1:], out[-1]], np.r_[out[0], out[:-1]]))
    fine = np.interp(np.arange(len(gain)), np.arange(frames) * hop + hop / 2, nodes)
    return np.asarray(np.minimum(gain, fine))


def master(stems: Stems, rng: np.random.Generator) -> Stems:
    """Limiter of the whole mix as one gain curve for all layers, then a random overall level."""
    mix = sum_of({stem: sum_of(layers) for stem, layers in stems.items()})
    drive = float(rng.choice([0.0, rng.uniform(1, 4), rng.uniform(3, 9)]))
    level = float(rng.uniform(0.6, 1.0) if rng.random() < 0.5 else 1.0)
    curve = limit(mix, drive) * np.float32(level)
    return {stem: {name: audio * curve for name, audio in layers.items()} for stem, layers in stems.items()}


def bounced(stems: Stems, most: int) -> Stems:
    """At most so many layers per stem: the first ones as they are, the last one the sum of all others."""
    out: Stems = {}
    for stem, layers in stems.items():
        names = list(layers)
        out[stem] = {name: layers[name] for name in names[: most - 1]}
        if len(names) >= most:
            out[stem][names[most - 1]] = sum_of({name: layers[name] for name in names[most - 1 :]})
    return out


def write_flac(path: Path, audio: Audio) -> None:
    """`[2, T]` in [-1, 1] as 16-bit stereo."""
    pcm = np.round(np.clip(audio.T * 32767, -32768, 32767)).astype(np.int16)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE, layout="stereo", options={"compression_level": "3"})
        for start in range(0, len(pcm), BLOCK):
            block = np.ascontiguousarray(pcm[start : start + BLOCK]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_song(folder: Path, stems: Stems) -> None:
    """All layers below `folder`, which appears complete or not at all, also where another process writes it too."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        for stem, layers in stems.items():
            (temporary / stem).mkdir(parents=True)
            for name, audio in layers.items():
                write_flac(temporary / stem / f"{name}.flac", audio)
        if not folder.exists():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
