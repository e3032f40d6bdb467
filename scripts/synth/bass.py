"""The bass stem: lines that follow chords and kick, on sampled and synthesised instruments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

from scripts.synth import oscillator, patterns
from scripts.synth.compose import Chord, Song
from scripts.synth.genres import GENRES
from scripts.synth.grooves import DrumHit
from scripts.synth.library import RATE, Audio, Library
from scripts.synth.orchestra import timbre
from scripts.synth.patches import BASSES, vary
from scripts.synth.sampler import Note, Sampler
from scripts.synth.sfz import read_sfz

MAPS = {  # map, transposition, lowest key, highest key
    "swag": ("basses/swagbass/swagbass_clean.sfz", 0, 28, 55),
    "growl": ("basses/growlybass/growlybass_clean.sfz", 12, 26, 55),
    "fashion": ("basses/fashionbass/fashionbass_clean.sfz", 0, 26, 55),
    "upright": ("basses/double-bass/d_smolken_rubner_bass_pizz.sfz", 0, 28, 55),
    "arco": ("basses/double-bass/d_smolken_rubner_bass_arco.sfz", 0, 28, 55),
}
KINDS = {
    "electric": ("swag", "growl", "fashion"),
    "slap": ("swag", "fashion"),
    "pick": ("swag", "growl", "fashion"),
    "growl": ("growl",),
    "upright": ("upright", "upright", "arco"),
    "synth": ("saw", "square", "reese", "acid", "pulse", "wobble", "rubber"),
    "snap": ("stab", "rubber", "donk"),
    "808": ("808",),
    "sub": ("sub", "808", "sub"),
    "fm": ("fm", "square", "donk"),
}
HARD = {"slap": 1.0, "pick": 1.0, "snap": 0.4, "synth": 0.25, "electric": 0.25}  # chance of a hard attack, else 0.1


def line(song: Song, kind: str, low: int, high: int, hits: list[DrumHit], rng: np.random.Generator) -> list[Note]:
    """The bass part in seconds: a figure per kind of section, or the kick's rhythm."""
    families = ["808"] if kind in ("808", "sub") and song.genre != "latin" else GENRES[song.genre].figures.split()
    locked = rng.random() < 0.35
    figures: dict[str, str] = {}
    kicks = sorted({round(h.beat * 4) / 4 for h in hits if h.role == "kick"})
    notes: list[Note] = []
    silent = {name: rng.random() < chance for name, chance in (("intro", 0.5), ("break", 0.7), ("bridge", 0.4))}
    for section in song.sections:
        if silent.get(section.name):
            continue
        family = patterns.BASS[families[rng.integers(len(families))]]
        figure = figures.setdefault(section.name, family[rng.integers(len(family))])
        for bar in range(section.bar, section.bar + section.bars):
            inside = [k - bar * 4 for k in kicks if bar * 4 <= k < bar * 4 + 4]
            steps = _from_kicks(inside) if locked and len(inside) > 1 else patterns.notes(figure)
            notes += [n for n in (_note(song, bar * 4 + b, d, degree, low, high, rng) for b, d, degree in steps) if n]
    return _slides(notes, kind, rng)


def _from_kicks(kicks: list[float]) -> tuple[tuple[float, float, str], ...]:
    ends = [*kicks[1:], 4.0]
    return tuple((k, min(e - k, 2.0), "r") for k, e in zip(kicks, ends, strict=True))


def _note(
    song: Song, beat: float, beats: float, degree: str, low: int, high: int, rng: np.random.Generator
) -> Note | None:
    if beat >= song.beats or rng.random() < 0.03:
        return None
    chord = song.chord(beat)
    root = low + (chord.root - low) % 12
    key = root + _interval(song, chord, beat, degree, root)
    while key > high:
        key -= 12
    velocity = int(np.clip(rng.normal(100, 8) + (8 if beat % 4 == 0 else 0), 30, 127))
    late = float(rng.normal(0, 0.004))
    return Note(max(0.0, song.time(beat) + late), beats * 0.95 * 60 / song.bpm, key, velocity)


def _interval(song: Song, chord: Chord, beat: float, degree: str, root: int) -> int:
    if degree == "a":
        target = song.chord(beat + 1).root
        above = (target - root) % 12
        return (above - 1 if above else 0) if above <= 7 else above - 12 + 1
    tones = chord.intervals
    return {"r": 0, "o": 12, "5": 7, "3": tones[1] if len(tones) > 1 else 4, "7": tones[-1] if len(tones) > 3 else 10}[
        degree
    ]


def _slides(notes: list[Note], kind: str, rng: np.random.Generator) -> list[Note]:
    chance = 0.18 if kind in ("808", "upright") else 0.06
    out: list[Note] = []
    for i, note in enumerate(notes):
        close = i > 0 and note.start_s - notes[i - 1].start_s < 1.5 and abs(notes[i - 1].key - note.key) in range(1, 8)
        if close and rng.random() < chance:
            note = replace(note, glide_from=notes[i - 1].key, glide_s=float(rng.uniform(0.04, 0.2)))
        out.append(note)
    return out


@dataclass(frozen=True)
class Player:
    """An instrument and its range; `play` renders notes to `[2, T]`."""

    name: str
    low: int
    high: int
    play: Callable[[list[Note]], Audio]


def player(kind: str, song: Song, library: Library, rng: np.random.Generator) -> Player:
    """An instrument of a kind: of a SoundFont, sampled, or a synthesiser."""
    samples = int(song.seconds * RATE)
    name = KINDS[kind][rng.integers(len(KINDS[kind]))]
    bank = timbre(kind, library, rng) if rng.random() < 0.35 else None
    if bank is not None:
        return Player(f"bass-gm-{kind}", 28, 52, lambda notes: bank.render(notes, samples, rng))
    if name in MAPS:
        path, transpose, low, high = MAPS[name]
        release_s = float(rng.uniform(0.05, 0.15))
        sampler = Sampler(read_sfz(library.root / path), library, transpose=transpose, release_s=release_s)
        return Player(f"bass-{name}", low, high, lambda notes: sampler.render(notes, samples, rng))
    low = int(rng.integers(24, 31)) if kind in ("808", "sub") else int(rng.integers(26, 34))
    patch = vary(BASSES[name], rng)
    if patch.wobble:  # in time: two to six swings a beat
        patch = replace(patch, wobble_hz=song.bpm / 60 * float(rng.choice([1, 2, 3, 4])))
    return Player(f"bass-{name}", low, low + 19, lambda notes: oscillator.render(patch, notes, samples, rng))


def render(
    song: Song, library: Library, hits: list[DrumHit], rng: np.random.Generator, written: list[Note] | None = None
) -> dict[str, Audio]:
    """One bass layer, sometimes a second (sub below, or a doubling synth); `written` is played where it is given."""
    kind = str(rng.choice(GENRES[song.genre].basses.split()))
    found = player(kind, song, library, rng)
    notes = line(song, kind, found.low, found.high, hits, rng) if written is None else written
    audio = found.play(notes)
    if rng.random() < HARD.get(kind, 0.1):
        audio = attacked(audio, notes, rng)
    layers = {found.name: audio}
    if rng.random() < 0.15:
        other = vary(BASSES[str(rng.choice(["sub", "saw", "square"]))], rng)
        below = oscillator.render(other, notes, audio.shape[1], rng)
        layers["bass-layer"] = below * np.float32(rng.uniform(0.3, 0.8))
    return layers


def attacked(audio: Audio, notes: list[Note], rng: np.random.Generator) -> Audio:
    """Harder strokes, as of a thumb, a plectrum or a snappy envelope: a swell of level at each start, and a click."""
    samples = audio.shape[1]
    struck = np.zeros(samples)
    for note in notes:
        if note.start_s * RATE < samples:
            struck[int(note.start_s * RATE)] = (note.velocity / 127) ** 2
    swell, tick = (lfilter([1], [1, -np.exp(-1 / (RATE * s))], struck) for s in (rng.uniform(0.01, 0.04), 0.004))
    low = float(rng.uniform(700, 2000))
    band = butter(1, (low, low * float(rng.uniform(2, 4))), "band", fs=RATE, output="sos")
    click = sosfilt(band, tick * rng.standard_normal(samples)) * np.abs(audio).max() * rng.uniform(0.1, 0.8)
    bright = sosfilt(butter(1, 1200, "high", fs=RATE, output="sos"), audio, axis=1) * rng.uniform(0.2, 1.5)
    return np.asarray((audio + bright) * (1 + rng.uniform(0.5, 2.5) * swell) + click, np.float32)
