"""What the drummer plays: performances of the Groove MIDI Dataset or programmed patterns, as hits in beats."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mido
import numpy as np

from scripts.synth import patterns
from scripts.synth.compose import Song
from scripts.synth.kits import GM_ROLES


@dataclass(frozen=True)
class DrumHit:
    """One stroke; `beat` counts quarter notes from the start of the song."""

    beat: float
    role: str
    velocity: int


@dataclass(frozen=True)
class Performance:
    """A row of info.csv."""

    path: Path
    style: str
    bpm: float
    seconds: float


@lru_cache(maxsize=4)
def performances(folder: Path) -> tuple[Performance, ...]:
    """All four-four beats (no fills) of the data set."""
    with (folder / "info.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["beat_type"] == "beat" and r["time_signature"] == "4-4"]
    return tuple(
        Performance(folder / r["midi_filename"], r["style"], float(r["bpm"]), float(r["duration"])) for r in rows
    )


def draw_performance(
    folder: Path, style: str, bpm: tuple[float, float], rng: np.random.Generator
) -> Performance | None:
    """A performance in a style, at least 8 s long, whose tempo lies in the range if there is one."""
    fits = [p for p in performances(folder) if p.style.startswith(style) and p.seconds >= 8]
    near = [p for p in fits if bpm[0] * 0.9 <= p.bpm <= bpm[1] * 1.1]
    fits = near or fits
    return fits[rng.integers(len(fits))] if fits else None


@lru_cache(maxsize=64)
def read_hits(path: Path) -> tuple[DrumHit, ...]:
    """Strokes of a MIDI file in beats, in order."""
    midi, hits = mido.MidiFile(path), []
    for track in midi.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "note_on" and message.velocity > 0 and message.note in GM_ROLES:
                hits.append(DrumHit(tick / midi.ticks_per_beat, GM_ROLES[message.note], message.velocity))
    return tuple(sorted(hits, key=lambda h: h.beat))


def from_performance(song: Song, performance: Performance, rng: np.random.Generator) -> list[DrumHit]:
    """The performance under the song: each section starts at a bar of its own and wraps around."""
    hits = read_hits(performance.path)
    bars = max(1, int(hits[-1].beat // 4)) if hits else 1
    out: list[DrumHit] = []
    start_of: dict[str, int] = {}
    for section in song.sections:
        first = start_of.setdefault(section.name, int(rng.integers(max(1, bars - 8))))
        for bar in range(section.bars):
            source = ((first + bar) % bars) * 4.0
            shift = (section.bar + bar) * 4.0 - source
            out += [DrumHit(h.beat + shift, h.role, h.velocity) for h in hits if source <= h.beat < source + 4]
    return [h for h in out if h.beat >= 0]


LEVEL = {"X": 118, "x": 96, "o": 52}


def from_pattern(song: Song, name: str, rng: np.random.Generator) -> list[DrumHit]:
    """A programmed pattern with sections, fills and crashes; machine-tight or human."""
    human = float(rng.choice([0.0, 0.0, 0.004, 0.01]))  # beats
    hits: list[DrumHit] = []
    choice: dict[tuple[str, str], str] = {}
    for section in song.sections:
        for bar in range(section.bars):
            for role, options in patterns.DRUMS[name].items():
                pattern = choice.setdefault((section.name, role), options[rng.integers(len(options))])
                hits += _bar(song, pattern, role, section.bar + bar, human, rng)
            if name == "@trap" and rng.random() < 0.4:
                hits += _roll((section.bar + bar) * 4 + float(rng.choice([1, 2, 3])), rng)
        hits += _fill(section.beats[1], rng) if rng.random() < 0.6 else []
        if rng.random() < 0.7:
            hits.append(DrumHit(section.beats[0], "crash", int(rng.integers(80, 120))))
    return hits


def _bar(song: Song, pattern: str, role: str, bar: int, human: float, rng: np.random.Generator) -> list[DrumHit]:
    hits = []
    for step, mark in enumerate(pattern):
        if mark in LEVEL and not (role in ("perc", "hat_open") and rng.random() < 0.05):
            swung = song.swing * 0.165 if step % 2 else 0.0
            beat = bar * 4 + step / 4 + swung + rng.normal(0, human) if human else bar * 4 + step / 4 + swung
            hits.append(
                DrumHit(max(0.0, beat), role, int(np.clip(LEVEL[mark] + rng.normal(0, 4 if human else 1), 1, 127)))
            )
    return hits


def _roll(beat: float, rng: np.random.Generator) -> list[DrumHit]:
    count = int(rng.choice([6, 8, 12, 16]))
    slope = rng.choice([-1, 0, 1])
    return [DrumHit(beat + i / count, "hat_closed", int(85 + slope * 25 * (i / count - 0.5))) for i in range(count)]


def _fill(end: float, rng: np.random.Generator) -> list[DrumHit]:
    """A run over one beat or two before `end`."""
    length = float(rng.choice([1, 2]))
    division = float(rng.choice([4, 4, 6, 8]))
    drums = [("snare",), ("tom_hi", "tom_mid", "tom_lo"), ("snare", "tom_hi", "tom_lo")][rng.integers(3)]
    count = int(length * division)
    return [
        DrumHit(end - length + i / division, drums[i * len(drums) // count], int(75 + 40 * i / count))
        for i in range(count)
    ]


KEPT = {
    "none": (),
    "hats": ("hat_closed", "shaker", "perc"),
    "kick": ("kick",),
    "light": ("rim", "hat_closed", "kick", "perc"),
}


def thin(song: Song, hits: list[DrumHit], rng: np.random.Generator) -> list[DrumHit]:
    """Leave out what a section's energy does not carry, and now and then the bar before a section."""
    chosen: dict[str, str] = {}
    breaks = rng.random() < 0.3
    out: list[DrumHit] = []
    for section in song.sections:
        low, high = section.beats
        if section.energy < 0.5:
            keep = chosen.setdefault(section.name, str(rng.choice(["none", "none", "hats", "kick", "all", "light"])))
        else:
            bare = rng.random() < (0.3 if section.energy < 0.75 else 0.03)
            keep = chosen.setdefault(section.name, str(rng.choice(["none", "light", "kick"])) if bare else "all")
        stop = high - float(rng.choice([1, 2, 4])) if breaks and section.bars > 3 and rng.random() < 0.5 else high
        out += [h for h in hits if low <= h.beat < stop and (keep == "all" or h.role in KEPT[keep])]
    return sorted(out, key=lambda h: (h.beat, h.role))
