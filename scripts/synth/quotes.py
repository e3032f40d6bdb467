"""Phrases of real lead singers, cut out of songs' stems, sung again in another key, speed and body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from scripts.synth import psola
from scripts.synth.compose import Song
from scripts.synth.library import RATE, Audio, Library, write_array
from scripts.synth.psola import FRAME_S, Analysis
from scripts.synth.sampler import add_at, stereo

LEADS = "vox-lead*.opus"  # of the songs that may be trained on
BELOW_DB, GAP_S, SHORTEST_S, LONGEST_S = 38.0, 0.22, 0.7, 7.0
Place = tuple[float, Path]  # beat of the first sound, and the phrase


def quotes(library: Library) -> list[Path]:
    """Phrases of all lead singers, in the cache; made on first use."""
    folder = library.cache / "quotes"
    done = folder / "done"
    if not done.is_file():
        for path in library.files("stems/train", LEADS):
            audio = library.load(path).mean(axis=0)
            for n, (start, end) in enumerate(phrases(audio)):
                pcm = np.round(audio[start:end] / np.abs(audio[start:end]).max() * 32000).astype(np.int16)
                write_array(folder / f"{path.parts[-3]}-{n:03d}.npy", pcm[None])
        folder.mkdir(parents=True, exist_ok=True)
        done.touch()
    return sorted(folder.glob("*.npy"))


def phrases(audio: NDArray[np.float32]) -> list[tuple[int, int]]:
    """First and last sample of every stretch of a voice `[T]` between two rests."""
    hop = int(FRAME_S * RATE)
    power = (audio[: len(audio) // hop * hop].reshape(-1, hop) ** 2).mean(axis=1)
    loud = uniform_filter1d(power, 5) > power.max(initial=0.0) * 10 ** (-BELOW_DB / 10)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    runs: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if runs and (start - runs[-1][1]) * FRAME_S < GAP_S and (end - runs[-1][0]) * FRAME_S < LONGEST_S:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return [(a * hop, b * hop) for a, b in runs if SHORTEST_S < (b - a) * FRAME_S < LONGEST_S * 1.5]


def places(song: Song, library: Library, sections: list[str], rng: np.random.Generator) -> list[Place]:
    """Phrases in a row with rests between them, in sections of these names."""
    paths, beat, out = quotes(library), float(rng.choice([0.0, 4.0, 8.0])), []
    at = int(rng.integers(len(paths))) if paths else 0
    while paths and beat < song.beats - 2:
        if song.section(beat).name not in sections:
            beat += 4
            continue
        path = paths[at % len(paths)]
        out.append((beat + float(rng.choice([0, 0, 0.5, -0.5]) if beat else 0), path))
        seconds = np.load(path, mmap_mode="r").shape[1] / RATE
        beat = float(np.ceil(beat + seconds * song.bpm / 60 + rng.choice([0, 0.5, 1, 2])))
        beat += float(rng.choice([0, 0, 4, 8])) if rng.random() < 0.3 else 0.0
        at = at + 1 if rng.random() < 0.7 else int(rng.integers(len(paths)))
    return out


def tune(source: Analysis, song: Song, shift: float, strength: float, length: int) -> NDArray[np.float64]:
    """The phrase's own melody in Hz at `length` even steps, `shift` semitones higher, drawn towards the scale."""
    keys = 69 + 12 * np.log2(RATE / source.periods / 440)
    at = np.linspace(0, len(source.audio), length)
    melody = np.interp(at, source.marks[source.voiced], keys[source.voiced]) + shift
    scale = np.array([k for k in range(24, 110) if k % 12 in song.pitches()])
    steady = uniform_filter1d(melody, int(0.12 / FRAME_S))
    nearest = scale[np.abs(steady[:, None] - scale[None]).argmin(axis=1)]
    pull = uniform_filter1d((nearest - steady) * strength, int(0.04 / FRAME_S))
    return np.asarray(440 * 2 ** ((melody + pull - 69) / 12))


def recite(
    song: Song,
    taken: list[tuple[float, Analysis]],
    centre: float,
    formant: float,
    rng: np.random.Generator,
) -> Audio:
    """The phrases `[2, T]` around the key `centre`, each with a little freedom of time and level."""
    out = np.zeros((2, int(song.seconds * RATE)), np.float32)
    strength = float(rng.choice([0.0, rng.uniform(0.5, 0.9), 1.0]))
    speed = float(np.clip(rng.normal(1.0, 0.08), 0.85, 1.2))
    for beat, source in taken:
        if source.voiced.sum() < 20:
            continue
        seconds = len(source.audio) / RATE
        frames = int(seconds / speed / FRAME_S)
        home = 69 + 12 * float(np.log2(RATE / np.median(source.periods[source.voiced]) / 440))
        target = tune(source, song, round(centre - home), strength, frames)
        voice = psola.sing(source, np.linspace(0, seconds, frames), target, formant, rng)
        level = 0.1 / (np.sqrt((voice**2).mean()) + 1e-6) * rng.uniform(0.75, 1.2)
        start = song.time(max(beat, 0.0)) + float(rng.normal(0, 0.012))
        add_at(out, stereo(voice[None] * np.float32(level)), int(start * RATE))
    return out

