"""What accompanying instruments play: chords in rhythm, arpeggios, tunes, riffs."""

from __future__ import annotations

import numpy as np

from scripts.synth import patterns
from scripts.synth.compose import Chord, Section, Song, melody, voicing
from scripts.synth.sampler import Note


def playing(song: Song, rng: np.random.Generator, keen: float = 0.65) -> list[Section]:
    """Sections in which a layer plays; sections of the same name are alike."""
    chosen = {s.name: rng.random() < keen * (0.5 + 0.5 * s.energy) + 0.1 for s in song.sections}
    if not any(chosen.values()):
        chosen[max(song.sections, key=lambda s: s.energy).name] = True
    return [s for s in song.sections if chosen[s.name]]


def velocity(rng: np.random.Generator, mean: float, spread: float) -> int:
    return int(np.clip(rng.normal(mean, spread), 25, 127))


def human(song: Song, beat: float, rng: np.random.Generator, spread: float = 0.006) -> float:
    return max(0.0, song.time(beat) + float(rng.normal(0, spread)))


def chords_in(song: Song, sections: list[Section]) -> list[Chord]:
    return [c for c in song.chords if any(s.beats[0] <= c.beat < s.beats[1] for s in sections) and c.beat < song.beats]


def comp(
    song: Song,
    rng: np.random.Generator,
    *,
    low: int,
    styles: tuple[str, ...],
    strum_s: float = 0.0,
    left_hand: bool = False,
) -> list[Note]:
    """Chords in a rhythm per kind of section, strummed if asked, with a root in the left hand if asked."""
    notes: list[Note] = []
    style_of: dict[str, str] = {}
    spread, gate = rng.random() < 0.3, float(rng.choice([1.0, 1.0, 0.95, 0.7, 0.4]))
    resting = set(rng.choice(4, size=int(rng.choice([0, 0, 0, 1, 2])), replace=False).tolist())
    for section in playing(song, rng):
        style = style_of.setdefault(section.name, styles[rng.integers(len(styles))])
        for bar in range(section.bar, section.bar + section.bars):
            for at, beats, _ in patterns.notes(patterns.CHORDS[style]):
                beat = bar * 4 + at
                if beat >= song.beats or rng.random() < 0.03 or bar % 4 in resting:
                    continue
                chord, start = song.chord(beat), human(song, beat, rng)
                length = beats * gate * 60 / song.bpm
                velocity = int(np.clip(rng.normal(70 + 35 * section.energy, 8), 25, 127))
                keys = voicing(chord, low, spread)
                if strum_s and int(at * 2) % 2:
                    keys = keys[::-1]
                notes += [Note(start + i * strum_s, length, key, velocity) for i, key in enumerate(keys)]
                if left_hand and at in (0.0, 2.0):
                    notes.append(Note(start, length * 1.2, chord.root + 36, velocity))
    return notes


def arpeggio(
    song: Song, rng: np.random.Generator, *, low: int, division: int | None = None, hold: float = 0.9
) -> list[Note]:
    """Chord tones one after the other, up, down, up and down or in a fixed random order."""
    division = division or int(rng.choice([2, 4, 4, 3]))
    order = str(rng.choice(["up", "down", "updown", "random"]))
    octaves = int(rng.integers(1, 3))
    mask = rng.random(16) < rng.uniform(0.6, 1.0)
    notes: list[Note] = []
    for chord in chords_in(song, playing(song, rng)):
        keys = [k + 12 * o for o in range(octaves) for k in voicing(chord, low)]
        keys = {"up": keys, "down": keys[::-1], "updown": keys + keys[-2:0:-1], "random": list(rng.permutation(keys))}[
            order
        ]
        for i in range(int(chord.beats * division)):
            if mask[i % 16] and chord.beat + i / division < song.beats:
                start = human(song, chord.beat + i / division, rng, 0.003)
                notes.append(
                    Note(start, hold * 60 / song.bpm / division, float(keys[i % len(keys)]), velocity(rng, 90, 10))
                )
    return notes


def tune(song: Song, rng: np.random.Generator, low: int, high: int, fast: bool = False) -> list[Note]:
    """A melody line; some notes slide in."""
    sections = playing(song, rng, 0.6)
    notes: list[Note] = []
    for tone in melody(song, rng, low, high, fast=fast, rest=0.5):
        if any(s.beats[0] <= tone.beat < s.beats[1] for s in sections):
            slide = tone.key - int(rng.choice([1, 2, 2, 12])) if rng.random() < 0.08 else None
            notes.append(
                Note(
                    human(song, tone.beat, rng),
                    tone.beats * 0.95 * 60 / song.bpm,
                    tone.key,
                    velocity(rng, 95, 10),
                    slide,
                )
            )
    return notes


def power(song: Song, rng: np.random.Generator) -> list[Note]:
    """Root, fifth, octave: held, chugged in eighths or galloping; short notes are damped."""
    chosen: dict[str, str] = {}
    notes: list[Note] = []
    low = int(rng.integers(38, 43))
    for section in playing(song, rng, 0.95):
        riff = chosen.setdefault(section.name, patterns.RIFFS[rng.integers(len(patterns.RIFFS))])
        for bar in range(section.bar, section.bar + section.bars):
            for beat, beats, _ in patterns.notes(riff):
                if bar * 4 + beat < song.beats:
                    root = low + (song.chord(bar * 4 + beat).root - low) % 12
                    start = human(song, bar * 4 + beat, rng, 0.005)
                    loud = velocity(rng, 105, 8)
                    notes += [
                        Note(
                            start + 0.004 * i, beats * (0.95 if beats > 0.25 else 0.6) * 60 / song.bpm, root + up, loud
                        )
                        for i, up in enumerate((0, 7, 12))
                    ]
    return notes
