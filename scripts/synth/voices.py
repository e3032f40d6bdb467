"""Who sings: banks of recordings, what makes singers of them, and how their recordings are analysed once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, sosfilt

from scripts.synth import psola
from scripts.synth.library import RATE, Library
from scripts.synth.psola import Analysis
from scripts.synth.speech import VOICES, spoken

BANKS = {"alys-high": ("singing/alys/A4", 69), "alys-low": ("singing/alys/C4", 60), "yuki": ("singing/yuki", 64)}
CHANCE = {"alys-high": 0.28, "alys-low": 0.28, "yuki": 0.14, "rms": 0.12, "awb": 0.1, "slt": 0.08}
BREATHS = ("singing/alys/breaths", "singing/yuki")
HISS = butter(1, 2500, "high", fs=RATE, output="sos")
OCTAVE = butter(2, (3000, 8000), "band", fs=RATE, output="sos")
AIR = butter(4, 7500, "high", fs=RATE, output="sos")


@dataclass(frozen=True)
class Singer:
    """A bank of recordings and what is done to it: formant factor, comfortable range, vibrato, looseness."""

    bank: str
    formant: float
    low: int
    high: int
    vibrato: float  # semitones
    vibrato_hz: float
    portamento_s: float
    loose: float  # semitones of slow drift
    breath: float  # noise that follows the voice
    air: float  # harmonics above 8 kHz made from those below
    dynamics: float  # how far the loudness moves within and between notes, 1 is usual


def draw_singer(library: Library, rng: np.random.Generator) -> Singer:
    """A voice of a random sort: women, children, men made by a longer tract, and readers turned singers."""
    names = [b for b in CHANCE if (b in BANKS or library.flite) and not (library.permissive and b.startswith("alys"))]
    chance = np.array([CHANCE[b] for b in names])
    bank = str(rng.choice(names, p=chance / chance.sum()))
    male = bank in ("alys-low", "yuki") and rng.random() < 0.5
    home = BANKS[bank][1] if bank in BANKS else VOICES[bank]
    centre = home + float(rng.normal(0, 2)) - (8 if male else 0)
    formant = float(rng.uniform(0.76, 0.88) if male else rng.uniform(0.9, 1.18))
    air = float(rng.uniform(0.3, 1.0)) if bank in VOICES else 0.0
    return Singer(
        bank=bank,
        formant=formant,
        low=int(centre - 7),
        high=int(centre + 6),
        vibrato=float(rng.uniform(0.05, 0.6)),
        vibrato_hz=float(rng.uniform(4.8, 6.6)),
        portamento_s=float(rng.uniform(0.03, 0.12)),
        loose=float(rng.uniform(0.05, 0.25)),
        breath=float(rng.choice([0.0, rng.uniform(0.004, 0.04)])),
        air=air,
        dynamics=float(rng.uniform(0.5, 1.6)),
    )


def recordings(library: Library, bank: str) -> list[Path]:
    """Files of a bank, without breaths."""
    if bank in VOICES:
        return spoken(library, bank)
    return [p for p in library.files(BANKS[bank][0]) if not p.stem.startswith("br")]


@lru_cache(maxsize=96)
def analysed(library: Library, path: Path) -> Analysis:
    """The analysis of a recording, kept in the cache folder."""
    stored = library.stored(path, ".psola.npz")
    if stored.is_file():
        with np.load(stored) as held:
            return Analysis(
                held["audio"].astype(np.float32) / 32768, held["marks"], held["periods"], held["voiced"], held["bounds"]
            )
    found = psola.analyse(library.load(path).mean(axis=0), 60.0 if path.parent.name in VOICES else 90.0)
    stored.parent.mkdir(parents=True, exist_ok=True)
    temporary = stored.with_name(f".{stored.name}.{os.getpid()}.npz")
    np.savez(
        temporary,
        audio=np.round(found.audio * 32767).astype(np.int16),
        marks=found.marks,
        periods=found.periods,
        voiced=found.voiced,
        bounds=found.bounds,
    )
    temporary.replace(stored)
    return found


def textured(voice: NDArray[np.float32], singer: Singer, rng: np.random.Generator) -> NDArray[np.float32]:
    """Breath noise that follows the voice's level, and air for voices recorded in half the bandwidth."""
    if singer.breath:
        level = np.sqrt(np.maximum(uniform_filter1d(voice**2, RATE // 100), 0))
        noise = rng.standard_normal(len(voice)).astype(np.float32)
        voice = voice + np.float32(singer.breath) * level * sosfilt(HISS, noise).astype(np.float32)
    if singer.air:
        voice = airy(voice, singer.air)
    return voice


def airy(voice: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
    """Harmonics above 7.5 kHz from rectifying the octave below, as an exciter does."""
    rectified = np.abs(sosfilt(OCTAVE, voice))
    return np.asarray(voice + np.float32(amount) * sosfilt(AIR, rectified), np.float32)
