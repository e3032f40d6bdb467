"""What is played: genre, tempo, key, form, chords, melody. Beats are quarter notes throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scripts.synth.genres import GENRES, SCALES, TURNS, Genre


@dataclass(frozen=True)
class Chord:
    """A chord from `beat` on for `beats`: pitch class of the root and intervals above it."""

    beat: float
    beats: float
    root: int
    intervals: tuple[int, ...]


@dataclass(frozen=True)
class Section:
    """Bars of one character; `energy` 0 (bare) to 1 (everything plays)."""

    name: str
    bar: int
    bars: int
    energy: float

    @property
    def beats(self) -> tuple[float, float]:
        return self.bar * 4.0, (self.bar + self.bars) * 4.0


@dataclass(frozen=True)
class Song:
    """Everything the players have to agree on."""

    genre: str
    bpm: float
    swing: float  # share of an eighth by which off-beat sixteenths come late
    tonic: int
    scale: str
    seconds: float
    chords: tuple[Chord, ...]
    sections: tuple[Section, ...]

    @property
    def beats(self) -> float:
        return self.seconds * self.bpm / 60

    def time(self, beat: float) -> float:
        """Seconds at a beat; every second sixteenth is delayed by the swing."""
        sixteenth = beat * 4
        late = self.swing * 0.25 * 0.66 if abs(sixteenth % 2 - 1) < 0.01 else 0.0
        return (beat + late) * 60 / self.bpm

    def chord(self, beat: float) -> Chord:
        return next((c for c in reversed(self.chords) if c.beat <= beat + 1e-6), self.chords[0])

    def section(self, beat: float) -> Section:
        return next((s for s in reversed(self.sections) if s.beats[0] <= beat + 1e-6), self.sections[0])

    def pitches(self) -> list[int]:
        """Pitch classes of the scale, upwards from the tonic."""
        return [(self.tonic + step) % 12 for step in SCALES[self.scale]]


FORMS = (
    (
        ("intro", 4, 0.4),
        ("verse", 8, 0.6),
        ("chorus", 8, 1.0),
        ("verse", 8, 0.7),
        ("chorus", 8, 1.0),
        ("bridge", 4, 0.4),
        ("chorus", 16, 1.0),
    ),
    (
        ("verse", 8, 0.6),
        ("build", 4, 0.8),
        ("chorus", 8, 1.0),
        ("break", 4, 0.3),
        ("verse", 8, 0.7),
        ("chorus", 16, 1.0),
    ),
    (
        ("chorus", 8, 1.0),
        ("verse", 8, 0.6),
        ("build", 4, 0.8),
        ("chorus", 8, 1.0),
        ("bridge", 8, 0.5),
        ("chorus", 16, 1.0),
    ),
    (
        ("intro", 2, 0.6),
        ("chorus", 4, 0.9),
        ("verse", 8, 0.7),
        ("chorus", 8, 1.0),
        ("break", 2, 0.2),
        ("chorus", 24, 1.0),
    ),
    (("verse", 4, 0.3), ("verse", 8, 0.6), ("chorus", 8, 0.9), ("break", 4, 0.3), ("chorus", 24, 1.0)),
)


def compose(
    rng: np.random.Generator,
    seconds: float,
    *,
    genre: str | None = None,
    bpm: float | None = None,
    tonic: int | None = None,
    scale: str | None = None,
) -> Song:
    """Draw a song of at least `seconds`; what is given is kept."""
    genre = genre or str(rng.choice(list(GENRES)))
    style = GENRES[genre]
    bpm = bpm or float(rng.uniform(*style.bpm))
    scale = scale or str(rng.choice(style.scales.split()))
    tonic = int(rng.integers(12)) if tonic is None else tonic
    total = int(np.ceil(seconds * bpm / 240)) + 1
    sections, bar = [], 0
    form = list(FORMS[rng.integers(len(FORMS))])
    skipped = int(rng.integers(len(form) - 2)) if rng.random() < 0.6 else 0  # excerpts start anywhere in a song
    for name, bars, energy in form[skipped:] * 4:
        if bar >= total:
            break
        sections.append(Section(name, bar, min(bars, total - bar), energy))
        bar += bars
    chords = _chords(rng, style, genre, tonic, scale, sections)
    swing = float(rng.uniform(0.2, 0.7)) if rng.random() < style.swing else 0.0
    return Song(genre, bpm, swing, tonic, scale, seconds, tuple(chords), tuple(sections))


def _chords(
    rng: np.random.Generator, style: Genre, genre: str, tonic: int, scale: str, sections: list[Section]
) -> list[Chord]:
    steps = SCALES[scale]
    pool = TURNS["metal" if genre == "metal" else "major" if scale in ("major", "mixolydian") else "minor"]
    turns = {name: pool[rng.integers(len(pool))] for name in ("verse", "chorus", "bridge")}
    per_chord = float(rng.choice([2, 4, 4, 4, 4, 8]))
    seventh = rng.random() < style.sevenths
    chords: list[Chord] = []
    for section in sections:
        turn = turns[
            "chorus"
            if section.name in ("chorus", "intro")
            else "bridge"
            if section.name in ("bridge", "break")
            else "verse"
        ]
        start, end = section.beats
        for i, beat in enumerate(np.arange(start, end, per_chord)):
            degree = int(turn[i % 4])
            tones = [steps[(degree + 2 * k) % 7] + 12 * ((degree + 2 * k) // 7) for k in range(4 if seventh else 3)]
            if rng.random() < 0.06:  # suspended or added ninth, for colour
                tones[1] = steps[(degree + (1 if rng.random() < 0.5 else 3)) % 7] + 12 * ((degree + 3) // 7)
            intervals = tuple(sorted((t - tones[0]) % 12 for t in tones))
            chords.append(Chord(float(beat), min(per_chord, end - float(beat)), (tonic + tones[0]) % 12, intervals))
    return chords


def voicing(chord: Chord, low: int, spread: bool = False) -> list[int]:
    """Keys of a chord from `low` upwards, closest inversion; `spread` lifts the second tone an octave."""
    keys = sorted(low + (chord.root + i - low) % 12 for i in chord.intervals)
    if spread and len(keys) > 2:
        keys[1] += 12
    return sorted(keys)


@dataclass(frozen=True)
class Tone:
    """A note of a melody, in beats."""

    beat: float
    beats: float
    key: int


RHYTHMS = (
    (1, 1, 1, 1),
    (0.5, 0.5, 1, 2),
    (1.5, 0.5, 2),
    (0.5, 0.5, 0.5, 0.5, 1, 1),
    (1.5, 1.5, 1),
    (0.75, 0.75, 0.5, 2),
    (2, 2),
    (3, 1),
    (4,),
    (0.5, 1, 0.5, 1, 1),
    (1, 0.5, 0.5, 1, 1),
    (0.25, 0.25, 0.5, 0.5, 0.5, 2),
    (0.5, 1.5, 2),
)
FAST_RHYTHMS = (
    (0.5,) * 8,
    (0.25, 0.25, 0.5) * 4,
    (0.5, 0.25, 0.25) * 4,
    (0.75, 0.25, 0.5, 0.5) * 2,
    (0.25,) * 8 + (0.5,) * 4,
)


def melody(
    song: Song, rng: np.random.Generator, low: int, high: int, *, fast: bool = False, rest: float = 0.35
) -> list[Tone]:
    """Phrases of one to four bars in the song's scale, chord tones on strong beats, rests between them."""
    keys = [k for k in range(low, high + 1) if k % 12 in song.pitches()]
    at, tones, bar = len(keys) // 2, [], int(rng.integers(0, 3))
    pool = FAST_RHYTHMS if fast else RHYTHMS
    motif = [pool[rng.integers(len(pool))] for _ in range(2)]
    while bar * 4 < song.beats:
        for _ in range(int(rng.integers(1, 5))):
            beat = bar * 4.0 + (float(rng.choice([0, 0, 0.5, 1])) if rng.random() < 0.5 else 0)
            rhythm = motif[rng.integers(2)] if rng.random() < 0.7 else pool[rng.integers(len(pool))]
            for length in rhythm:
                if beat >= (bar + 1) * 4:
                    break
                at = int(np.clip(at + rng.choice([-2, -1, -1, 0, 0, 1, 1, 2, 3, -3]), 0, len(keys) - 1))
                if beat % 2 == 0:
                    at = _nearest_chord_tone(song, keys, at, beat)
                tones.append(Tone(beat, float(length), keys[at]))
                beat += length
            bar += 1
        if rng.random() < rest or song.section(bar * 4).name == "break":
            bar += int(rng.choice([1, 1, 2, 2, 4]))
    return [t for t in tones if t.beat < song.beats - 0.5]


def _nearest_chord_tone(song: Song, keys: list[int], at: int, beat: float) -> int:
    chord = song.chord(beat)
    classes = {(chord.root + i) % 12 for i in chord.intervals}
    fitting = [i for i, key in enumerate(keys) if key % 12 in classes]
    return min(fitting, key=lambda i: abs(i - at)) if fitting else at
