"""The remaining stem: keys, guitars, pads, leads, arpeggios, strings, organs, plucks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from scripts.synth import oscillator
from scripts.synth.comping import arpeggio, comp, power, tune
from scripts.synth.compose import Song
from scripts.synth.genres import GENRES
from scripts.synth.library import RATE, Audio, Library
from scripts.synth.orchestra import timbre
from scripts.synth.patches import VOICES, vary
from scripts.synth.sampler import Note, Sampler, add_at, repitch, shape, stereo
from scripts.synth.sfz import Region, key_number, read_sfz

PIANO = "others/splendid-grand-piano/Samples"
PIANO_LEVELS = {"pp": (0, 50), "mp": (51, 84), "mf": (85, 104), "ff": (105, 127)}
EPIANOS = ("CP80/CP80", "Pianet T/Pianet T", "Wurlitzer EP200/Wurlitzer EP200")
GUITAR = "others/emilyguitar/emily_clean.sfz"


def piano_regions(library: Library) -> list[Region]:
    """The grand's samples mapped by their names: dynamic, note, octaves counted two lower than MIDI's C4 = 60."""
    held: dict[str, list[tuple[int, Region]]] = {}
    for path in library.files(PIANO):
        level, note = path.stem.split()
        key, (low, high) = key_number(note) + 24 - 12, PIANO_LEVELS[level.lower()]
        held.setdefault(level.lower(), []).append((key, Region(path, keycenter=key, lovel=low, hivel=high)))
    regions = []
    for group in held.values():
        keys = sorted(key for key, _ in group)
        for key, region in group:
            below = [k for k in keys if k < key]
            above = [k for k in keys if k > key]
            low = (below[-1] + key) // 2 + 1 if below else 0
            regions.append(replace(region, lokey=low, hikey=(key + above[0]) // 2 if above else 127))
    return regions


def instrument(name: str, library: Library, rng: np.random.Generator) -> Sampler:
    """A sampled instrument by name."""
    if name == "piano":
        return Sampler(piano_regions(library), library, release_s=0.25)
    if name == "guitar":
        return Sampler(read_sfz(library.root / GUITAR), library, release_s=0.12)
    inside = EPIANOS[rng.integers(len(EPIANOS))]
    return Sampler(read_sfz(library.root / f"others/greg-sullivan-e-pianos/{inside}.sfz"), library, release_s=0.15)


GUITARS = ("strum", "clean", "skank", "offbeat", "power", "lead_guitar")
SAMPLED = ("piano", "epiano", *GUITARS)
TIMBRES = {
    "pad": ("pad", "pad2"),
    "strings": ("strings",),
    "organ": ("organ",),
    "supersaw": ("supersaw",),
    "stab": ("stab",),
    "brass": ("brass",),
    "arp": ("pluck", "pluck2", "bell"),
    "pluck": ("pluck", "pluck2", "bell"),
    "lead": ("lead", "lead2", "bell"),
    "solo": ("lead", "lead2"),
}
CHORDAL = {
    "strum": ("eighth", "quarter", "push", "whole"),
    "clean": ("whole", "half", "offbeat", "late"),
    "skank": ("skank", "offbeat", "sync", "clave"),
    "offbeat": ("offbeat", "late"),
    "pad": ("whole",),
    "strings": ("whole", "half"),
    "organ": ("whole", "offbeat", "half", "push"),
    "supersaw": ("whole", "push", "sync", "half"),
    "stab": ("offbeat", "sync", "clave", "late"),
    "brass": ("sync", "late", "clave", "charleston"),
    "piano": ("whole", "half", "quarter", "charleston", "push", "eighth", "sync"),
    "epiano": ("whole", "half", "charleston", "push", "offbeat", "late"),
}
ARPEGGIATED = {"piano": 0.3, "epiano": 0.2, "clean": 0.5, "arp": 1.0, "pluck": 0.9, "strum": 0.1}


def score(kind: str, song: Song, rng: np.random.Generator) -> list[Note]:
    """What a kind of layer plays."""
    low = int(rng.integers(41, 56) if kind in ("strum", "clean", "skank", "offbeat") else rng.integers(47, 62))
    if kind in ("pad", "strings", "supersaw", "arp", "pluck", "organ") and rng.random() < 0.35:
        low -= 12
    if kind == "power":
        return power(song, rng)
    if kind in ("lead_guitar", "lead", "solo"):
        low = int(rng.integers(52, 66))
        return tune(song, rng, low, low + 20, fast=rng.random() < 0.3)
    if rng.random() < ARPEGGIATED.get(kind, 0.0):
        return arpeggio(song, rng, low=low, hold=2.0 if kind in ("piano", "epiano", "clean") else 0.9)
    styles = (
        ("clave", "sync", "push") if kind == "piano" and song.genre == "latin" else CHORDAL.get(kind, ("whole", "half"))
    )
    strum_s = float(rng.uniform(0.008, 0.025)) if kind in ("strum", "clean", "skank", "offbeat") else 0.0
    return comp(song, rng, low=low, styles=styles, strum_s=strum_s, left_hand=kind == "piano" and rng.random() < 0.8)


def play(
    kind: str, song: Song, library: Library, rng: np.random.Generator, written: list[Note] | None = None
) -> tuple[str, Audio]:
    """Name and sound `[2, T]` of one layer of a kind (as genres name them); guitars often twice, left and right."""
    if kind == "orchestral":
        kind = str(rng.choice(["solo", "solo", "strings", "brass", "pluck"]))
    notes = score(kind, song, rng) if written is None else written
    name, render = player(kind, song, library, rng)
    audio = render(notes)
    if kind in ("power", "strum") and rng.random() < 0.6:
        again = [replace(n, start_s=max(0.0, n.start_s + float(rng.normal(0, 0.008)))) for n in notes]
        audio = np.stack([audio[0], render(again)[1]])
    return name, audio


def player(
    kind: str, song: Song, library: Library, rng: np.random.Generator
) -> tuple[str, Callable[[list[Note]], Audio]]:
    """Name of an instrument of a kind and what renders notes with it to `[2, T]`."""
    samples = int(song.seconds * RATE)
    chance = 0.4 if kind in SAMPLED else 0.9 if kind == "solo" else 0.5
    bank = timbre(kind, library, rng) if rng.random() < chance else None
    if bank is not None:
        return f"{kind}-gm", lambda notes: bank.render(notes, samples, rng)
    if kind in SAMPLED:
        sampler = instrument("guitar" if kind in GUITARS else kind, library, rng)
        return kind, lambda notes: sampler.render(notes, samples, rng)
    voices = TIMBRES.get(kind, ("pad",))
    patch = vary(VOICES[voices[rng.integers(len(voices))]], rng)
    return kind, lambda notes: oscillator.render(patch, notes, samples, rng)


def effect_hits(song: Song, library: Library, rng: np.random.Generator) -> Audio:
    """Risers of noise before sections, recorded swooshes, drones and impacts on their starts."""
    out = np.zeros((2, int(song.seconds * RATE)), np.float32)
    files = [
        p
        for p in (*library.files("mixed/sonic-pi"), *library.files("mixed/stargate/fugue-state-audio/found-sounds"))
        if p.stem.startswith(AMBIENT)
    ]
    for section in song.sections:
        at = section.beats[0] * 60 / song.bpm
        if files and rng.random() < 0.5:
            audio = library.load(files[rng.integers(len(files))])
            sound = repitch(audio, float(2 ** rng.uniform(-0.6, 0.4)), RATE * 8)
            add_at(
                out,
                stereo(
                    shape(sound, sound.shape[1]) * np.float32(0.2 / (np.abs(sound).max() + 1e-6)),
                    float(rng.uniform(-0.5, 0.5)),
                ),
                int(at * RATE),
            )
        if section.bar and rng.random() < 0.5:
            n = int(min(rng.choice([2, 4]) * 60 / song.bpm, at) * RATE)
            noise = rng.standard_normal((2, n)).astype(np.float32) * np.linspace(0, 0.15, n, dtype=np.float32) ** 2
            mixed = noise * 4 - np.concatenate([np.zeros((2, 1), np.float32), noise[:, :-1]], axis=1) * 3
            add_at(out, mixed, int(at * RATE) - n)
    return out


AMBIENT = (
    "ambi_",
    "perc_swoosh",
    "perc_impact",
    "misc_cineboom",
    "vinyl",
    "lid-swirl",
    "thunder",
    "loop_drone",
    "loop_garzul",
    "glitch_bass",
    "mehackit_robot",
)


def render(
    song: Song,
    library: Library,
    rng: np.random.Generator,
    counts: tuple[int, ...] = (2, 3, 3, 4),
    written: Mapping[str, list[Note]] | None = None,
) -> dict[str, Audio]:
    """Layers named after their kinds: as many as chance takes out of `counts`, or what is `written`."""
    options = GENRES[song.genre].others.split()
    kinds = list(dict.fromkeys(options))
    weights = np.array([options.count(kind) for kind in kinds], float) / len(options)
    count = min(int(rng.choice(counts)), len(kinds))
    drawn = [str(kind) for kind in rng.choice(kinds, size=count, replace=False, p=weights)]
    parts: Mapping[str, list[Note] | None] = dict.fromkeys(drawn) if written is None else written
    layers: dict[str, Audio] = {}
    for kind, notes in parts.items():
        name, audio = play(kind, song, library, rng, notes)
        if np.abs(audio).max() > 1e-4:
            layers[name if name not in layers else f"{name}-2"] = audio
    if count and rng.random() < (0.5 if song.genre in ("electronic", "hiphop", "pop") else 0.1):
        layers["effects"] = effect_hits(song, library, rng)
    return layers
