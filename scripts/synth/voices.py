"""Who sings: banks of recordings, what makes singers of them, and how their recordings are analysed once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, sosfilt

from scripts.synth import psola
from scripts.synth.library import RATE, Library
from scripts.synth.psola import Analysis
from scripts.synth.quotes import quotes
from scripts.synth.speech import VOICES as SPOKEN
from scripts.synth.speech import spoken

BANKS = {"alys-high": ("singing/alys/A4", 69), "alys-low": ("singing/alys/C4", 60), "yuki": ("singing/yuki", 64)}
QUOTED = {"evr": 54}  # leads of songs, cut into phrases, and the key around which they sing
BREATHS = ("singing/alys/breaths", "singing/yuki")
MEN = ("rms", "awb", "evr")  # their own bodies; the other banks are women's
BODIES = {  # from whose recordings to what singer: semitones, and range of the formants' factor
    ("woman", "woman"): (0, 0.92, 1.12),
    ("woman", "child"): (3, 1.12, 1.22),
    ("woman", "man"): (-9, 0.76, 0.88),
    ("man", "man"): (-1, 0.88, 1.08),
    ("man", "woman"): (8, 1.1, 1.24),
}


class Voice(NamedTuple):
    """A bank of recordings, the body that sings, and whether whole phrases are kept as they were sung."""

    bank: str
    body: str
    quoted: bool = False


CAST = (
    Voice("alys-high", "woman"),
    Voice("alys-low", "woman"),
    Voice("alys-low", "man"),
    Voice("alys-high", "man"),
    Voice("yuki", "woman"),
    Voice("yuki", "man"),
    Voice("yuki", "child"),
    Voice("rms", "man"),
    Voice("awb", "man"),
    Voice("slt", "woman"),
    Voice("rms", "woman"),
    Voice("evr", "man"),
    Voice("evr", "woman"),
    Voice("evr", "man", quoted=True),
    Voice("evr", "woman", quoted=True),
    Voice("sinsy", "woman", quoted=True),
)
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


def cast(library: Library) -> tuple[Voice, ...]:
    """The voices whose recordings are at hand (and may be used)."""
    without = {"alys-high", "alys-low"} if library.permissive else set()
    return tuple(voice for voice in CAST if voice.bank not in without and recordings(library, voice.bank))


def draw_singer(voice: Voice, rng: np.random.Generator) -> Singer:
    """A singer with this voice: range, vocal tract and habits by chance."""
    home = {**{bank: key for bank, (_, key) in BANKS.items()}, **QUOTED, **SPOKEN}[voice.bank]
    moved, shortest, longest = BODIES["man" if voice.bank in MEN else "woman", voice.body]
    centre = home + moved + float(rng.normal(0, 2))
    return Singer(
        bank=voice.bank,
        formant=float(rng.uniform(shortest, longest)),
        low=int(centre - 7),
        high=int(centre + 6),
        vibrato=float(rng.uniform(0.05, 0.6)),
        vibrato_hz=float(rng.uniform(4.8, 6.6)),
        portamento_s=float(rng.uniform(0.03, 0.12)),
        loose=float(rng.uniform(0.05, 0.25)),
        breath=float(rng.choice([0.0, rng.uniform(0.004, 0.04)])),
        air=float(rng.uniform(0.3, 1.0)) if voice.bank in SPOKEN else 0.0,
        dynamics=float(rng.uniform(0.5, 1.6)),
    )


def recordings(library: Library, bank: str) -> list[Path]:
    """Files of a bank, without breaths."""
    if bank in SPOKEN:
        return spoken(library, bank)
    if bank in QUOTED:
        return quotes(library)
    if bank == "sinsy":
        return library.files("singing/sinsy-nit-song070/songs")
    return [p for p in library.files(BANKS[bank][0]) if not p.stem.startswith("br")]


@lru_cache(maxsize=96)
def analysed(library: Library, path: Path) -> Analysis:
    """The analysis of a recording, always as it reads from the cache folder: who made it makes no difference."""
    stored = library.stored(path, ".psola.npz")
    if not stored.is_file():
        lowest_hz = 60.0 if path.parent.name in SPOKEN else 90.0
        _store(stored, psola.analyse(library.load(path).mean(axis=0), lowest_hz))
    with np.load(stored) as held:
        audio = held["audio"].astype(np.float32) / 32768
        return Analysis(audio, held["marks"], held["periods"], held["voiced"], held["bounds"])


def _store(path: Path, found: Analysis) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    pcm = np.round(found.audio * 32767).astype(np.int16)
    np.savez(temporary, **{**vars(found), "audio": pcm})
    temporary.replace(path)


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
