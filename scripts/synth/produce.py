"""One song from seed and index: composed, played, produced, mixed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from scripts.synth import bass, chains, drums, effects, other, singing
from scripts.synth.arrangement import DECK, Arrangement, deal
from scripts.synth.compose import Song, compose
from scripts.synth.drumkits import draw_whole
from scripts.synth.genres import GENRES
from scripts.synth.grooves import DrumHit
from scripts.synth.kits import draw_kit
from scripts.synth.library import RATE, Audio, Library
from scripts.synth.mixing import Stems, balance, master
from scripts.synth.voices import cast
from scripts.synth.written import Written, draw_written


def stream(seed: int, index: int, part: str) -> np.random.Generator:
    """Random numbers of one part of one song: changing one part leaves the others as they were."""
    return np.random.default_rng([seed, index, zlib.crc32(part.encode())])


def song_name(seed: int, index: int, genre: str) -> str:
    return f"synth-{seed}-{index:05d}-{genre}"


@dataclass(frozen=True)
class Plan:
    """What is decided before anybody plays."""

    song: Song
    hits: list[DrumHit]
    arrangement: Arrangement
    written: Written | None


def plan(library: Library, seed: int, index: int, seconds: float) -> Plan:
    """The song, what the drummer plays, and who plays at all."""
    rng = stream(seed, index, "plan")
    arrangement = deal(DECK, seed, index, "arrangement")
    written = draw_written(library, seconds, rng) if arrangement.written else None
    if written:
        return Plan(written.song, written.hits, arrangement, written)
    genre = deal(tuple(GENRES), seed, index, "genre")
    style = str(rng.choice(GENRES[genre].drums.split()))
    bpm = drums.tempo_of(library, genre, style, stream(seed, index, "hits"))
    song = compose(rng, seconds, genre=genre, bpm=bpm)
    return Plan(song, drums.draw_hits(song, library, style, stream(seed, index, "hits")), arrangement, None)


def produce(library: Library, seed: int, index: int, seconds: float, vocals: bool = True) -> tuple[str, Stems]:
    """Name and layers of song `index`; the same numbers give the same samples."""
    made = plan(library, seed, index, seconds)
    song, hits, playing = made.song, made.hits, made.arrangement
    stems: Stems = {}
    if playing.drums:
        stems["drums"] = _drums(song, library, hits, stream(seed, index, "drums"))
    if playing.bass:
        rng = stream(seed, index, "bass")
        played = bass.render(song, library, hits, rng, made.written.bass if made.written else None)
        stems["bass"] = tilted({name: chains.bass_chain(audio, rng) for name, audio in played.items()})
    stems["other"] = _other(made, library, stream(seed, index, "other"))
    _duck(song, stems, hits, stream(seed, index, "duck"))
    if vocals and playing.vocals:
        stems["vocals"] = _vocals(song, library, seed, index)
    stems = {stem: {n: a for n, a in layers.items() if np.abs(a).max() > 1e-5} for stem, layers in stems.items()}
    stems = {stem: layers for stem, layers in stems.items() if layers}
    rng = stream(seed, index, "mix")
    return song_name(seed, index, song.genre), master(balance(stems, rng, GENRES[song.genre].loud), rng)


def _other(made: Plan, library: Library, rng: np.random.Generator) -> dict[str, Audio]:
    parts = made.written.other if made.written else None
    played = other.render(made.song, library, rng, made.arrangement.layers, parts)
    return {
        name: chains.other_chain(name, audio, rng, 60 / made.song.bpm) * np.float32(10 ** (rng.normal(0, 3) / 20))
        for name, audio in played.items()
    }


def _vocals(song: Song, library: Library, seed: int, index: int) -> dict[str, Audio]:
    rng = stream(seed, index, "vocals")
    style, voices = str(rng.choice(GENRES[song.genre].vocals.split())), cast(library)
    if not voices:
        return {}
    sung = singing.render(song, library, style, deal(voices, seed, index, "voice"), rng)
    return tilted({name: chains.vocal_chain(name, audio, rng, 60 / song.bpm) for name, audio in sung.items()})


def tilted(layers: dict[str, Audio]) -> dict[str, Audio]:
    """Layers at their levels against the first of their stem."""
    return {name: audio * np.float32(TILT.get(name, 1)) for name, audio in layers.items()}


def _duck(song: Song, stems: Stems, hits: list[DrumHit], rng: np.random.Generator) -> None:
    """Side-chain: bass and the rest give way to the kick, in electronic styles."""
    if rng.random() > {"electronic": 0.6, "pop": 0.2, "hiphop": 0.15}.get(song.genre, 0.0):
        return
    depth, recover = float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.1, 0.35))
    samples = int(song.seconds * RATE)
    since = np.full(samples, 10.0, np.float32)
    for hit in hits:
        start = int(hit.beat * 60 / song.bpm * RATE)
        if hit.role == "kick" and start < samples:
            since[start:] = np.arange(samples - start, dtype=np.float32) / RATE
    curve = 1 - np.float32(depth) * np.clip(1 - since / recover, 0, 1) ** 1.5
    curve = uniform_filter1d(curve, 200)
    for stem in [stem for stem in ("bass", "other") if stem in stems]:
        stems[stem] = {name: audio * curve if rng.random() < 0.8 else audio for name, audio in stems[stem].items()}


TILT = {  # of a layer against the first of its stem
    "bass-layer": 0.5,
    "vox-double": 0.5,
    "bgvox-harmony": 0.4,
    "bgvox-aah": 0.35,
    "bgvox-adlib": 0.5,
    "effects": 0.6,
}
DRUM_DB = {"kick": 0.0, "snare": -1.0, "hats": -12.0, "cymbals": -11.0, "toms": -3.0, "percussion": -7.0, "loop": -5.0}


def _drums(song: Song, library: Library, hits: list[DrumHit], rng: np.random.Generator) -> dict[str, Audio]:
    kit = draw_kit(library, song.genre, rng, lambda draw: draw_whole(library, draw))
    raw = drums.render(song, hits, kit, library, rng)
    if rng.random() < (0.45 if song.genre in ("electronic", "hiphop", "pop") else 0.1):
        loop = drums.render_loop(song, library, rng)
        if loop is not None:
            raw["loop"] = loop
    layers = {}
    for name, audio in raw.items():
        level = DRUM_DB[name] + float(rng.normal(0, 2))
        layers[name] = chains.drum_chain(name, audio, rng) * np.float32(10 ** (level / 20))
    acoustic = GENRES[song.genre].acoustic
    if layers and rng.random() < 0.3 + 0.65 * acoustic:
        share, crush = float(rng.uniform(0.1, 0.3 + 0.5 * acoustic)), rng.random() < 0.5 * acoustic
        layers["room"] = effects.drum_room(layers, float(rng.uniform(0.2, 1.4)), share, crush, rng)
    return effects.glue(layers, rng) if layers and rng.random() < 0.5 else layers
