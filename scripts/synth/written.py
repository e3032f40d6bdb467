"""Songs that people wrote: MIDI files of rock, metal and ambient bands, as parts for our own players."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import mido
import numpy as np

from scripts.synth.compose import Chord, Section, Song
from scripts.synth.genres import SCALES
from scripts.synth.grooves import DrumHit
from scripts.synth.kits import GM_ROLES
from scripts.synth.library import Library
from scripts.synth.sampler import Note

PARTS = {  # last General MIDI program of each group of neighbours; those without a name are left out
    3: "piano", 7: "epiano", 15: "pluck", 23: "organ", 25: "strum", 28: "clean", 31: "power", 39: "bass",
    47: "solo", 51: "strings", 54: "pad", 55: "stab", 63: "brass", 79: "solo", 87: "lead", 103: "pad", 111: "pluck",
    127: "",
}
DRUM_CHANNEL = 9
MOST_PARTS = 5
Parts = dict[str, list[Note]]


@dataclass(frozen=True)
class Written:
    """An excerpt: the frame of the song, and what each kind of player has to play."""

    song: Song
    hits: list[DrumHit]
    bass: list[Note]
    other: Parts


def part_of(program: int) -> str:
    """The player of a General MIDI program (0 to 127)."""
    return next(name for last, name in PARTS.items() if program <= last)


@lru_cache(maxsize=8)
def read_parts(path: Path) -> tuple[Parts, list[Note], float]:
    """Notes by player, strokes (key: MIDI note) in seconds, and the first tempo."""
    midi = mido.MidiFile(path)
    parts: Parts = defaultdict(list)
    strokes: list[Note] = []
    program = [0] * 16
    sounding: dict[tuple[int, int], tuple[float, int]] = {}  # channel and key -> since when, and how loud
    now, bpm = 0.0, 0.0
    for message in midi:
        now += message.time
        if message.type == "set_tempo":
            bpm = bpm or float(mido.tempo2bpm(message.tempo))
        elif message.type == "program_change":
            program[message.channel] = message.program
        elif message.type in ("note_on", "note_off"):
            pressed = message.type == "note_on" and message.velocity > 0
            key = (message.channel, message.note)
            if message.channel == DRUM_CHANNEL:
                strokes += [Note(now, 0.1, message.note, message.velocity)] if pressed else []
                continue
            if key in sounding:
                begun, velocity = sounding.pop(key)
                if part_of(program[message.channel]):
                    note = Note(begun, max(now - begun, 0.04), message.note, velocity)
                    parts[part_of(program[message.channel])].append(note)
            if pressed:
                sounding[key] = now, message.velocity
    return parts, strokes, bpm or 120.0


def scale_of(parts: Parts) -> tuple[int, str]:
    """Tonic and name of the scale that holds most of the sounding time."""
    held = np.zeros(12)
    for note in (n for notes in parts.values() for n in notes):
        held[int(note.key) % 12] += note.length_s
    fits = {
        (tonic, name): held[[(tonic + step) % 12 for step in steps]].sum() + 0.3 * held[tonic]
        for tonic in range(12)
        for name, steps in SCALES.items()
    }
    return max(fits, key=lambda pair: fits[pair])


def draw_written(library: Library, seconds: float, rng: np.random.Generator) -> Written | None:
    """An excerpt with drums and bass of a random file, moved in tempo and key; None where there are no files."""
    paths = library.files("midi/freedoom/musics", "*.mid")
    for path in (paths[i] for i in rng.permutation(len(paths))[:20]):
        parts, strokes, bpm = read_parts(path)
        last = max((n.start_s for n in strokes), default=0.0)
        if "bass" in parts and len(strokes) > 40 and len(parts) > 1 and last > seconds / 2:
            return _excerpt(parts, strokes, bpm, float(rng.uniform(0, max(last - seconds, 0))), seconds, rng)
    return None


def _excerpt(
    parts: Parts, strokes: list[Note], bpm: float, start: float, seconds: float, rng: np.random.Generator
) -> Written:
    speed, moved = float(rng.uniform(0.88, 1.12)), int(rng.integers(-3, 4))
    while bpm * speed > 190:
        bpm /= 2
    while bpm * speed < 60:
        bpm *= 2

    def cut(notes: list[Note], up: int) -> list[Note]:
        moment = [(n, (n.start_s - start) / speed) for n in notes]
        return [
            replace(n, start_s=at + abs(float(rng.normal(0, 0.005))), length_s=n.length_s / speed, key=n.key + up)
            for n, at in moment
            if 0 <= at < seconds
        ]

    played = {name: cut(notes, moved) for name, notes in parts.items()}
    sounding_s = {p: sum(n.length_s for n in notes) for p, notes in played.items() if p != "bass" and notes}
    longest = sorted(sounding_s, key=lambda p: -sounding_s[p])
    bass = [replace(n, key=n.key + 12 * (n.key < 26) - 12 * (n.key > 55)) for n in played["bass"]]
    song = _frame(played, bass, bpm * speed, seconds, rng)
    hits = [
        DrumHit(n.start_s * song.bpm / 60, GM_ROLES[int(n.key)], n.velocity)
        for n in cut(strokes, 0)
        if n.key in GM_ROLES
    ]
    return Written(song, sorted(hits, key=lambda h: h.beat), bass, {p: played[p] for p in longest[:MOST_PARTS]})


def _frame(played: Parts, bass: list[Note], bpm: float, seconds: float, rng: np.random.Generator) -> Song:
    """Tempo, scale and one chord per bar (over the bar's first bass note), for a singer to follow."""
    tonic, scale = scale_of(played)
    bars = int(np.ceil(seconds * bpm / 240)) + 1
    chords = []
    for bar in range(bars):
        inside = [n for n in bass if bar <= n.start_s * bpm / 240 < bar + 1]
        chords.append(Chord(bar * 4.0, 4.0, int(inside[0].key) % 12 if inside else tonic, (0, 7)))
    names = ("verse", "chorus")
    sections = [Section(names[i % 2], bar, min(8, bars - bar), 0.9) for i, bar in enumerate(range(0, bars, 8))]
    heavy = len(played.get("power", [])) > 0.15 * sum(map(len, played.values()))
    genre = str(rng.choice(["metal", "rock"] if heavy else ["rock", "electronic"]))
    return Song(genre, bpm, 0.0, tonic, scale, seconds, tuple(chords), tuple(sections))
