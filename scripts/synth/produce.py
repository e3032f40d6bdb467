"""One song from seed and index: composed, played, produced, mixed."""

from __future__ import annotations

import zlib

import numpy as np
from scipy.ndimage import uniform_filter1d

from scripts.synth import bass, drums, effects, other, singing
from scripts.synth.compose import Song, compose
from scripts.synth.drumkits import draw_whole
from scripts.synth.genres import GENRES
from scripts.synth.grooves import DrumHit
from scripts.synth.kits import draw_kit
from scripts.synth.library import RATE, Audio, Library
from scripts.synth.mixing import Stems, balance, master


def stream(seed: int, index: int, part: str) -> np.random.Generator:
    """Random numbers of one part of one song: changing one part leaves the others as they were."""
    return np.random.default_rng([seed, index, zlib.crc32(part.encode())])


def song_name(seed: int, index: int, genre: str) -> str:
    return f"synth-{seed}-{index:05d}-{genre}"


def plan(library: Library, seed: int, index: int, seconds: float) -> tuple[Song, str]:
    """The song and the drum style it is built on."""
    rng = stream(seed, index, "plan")
    weights = np.array([g.weight for g in GENRES.values()])
    genre = str(rng.choice(list(GENRES), p=weights / weights.sum()))
    style = str(rng.choice(GENRES[genre].drums.split()))
    bpm = drums.tempo_of(library, genre, style, stream(seed, index, "hits"))
    return compose(rng, seconds, genre=genre, bpm=bpm), style


def produce(library: Library, seed: int, index: int, seconds: float, vocals: bool = True) -> tuple[str, Stems]:
    """Name and layers of song `index`; the same numbers give the same samples."""
    song, style = plan(library, seed, index, seconds)
    hits = drums.draw_hits(song, library, style, stream(seed, index, "hits"))
    beat_s = 60 / song.bpm
    stems: Stems = {"drums": _drums(song, library, hits, stream(seed, index, "drums"))}
    rng = stream(seed, index, "bass")
    played = bass.render(song, library, hits, rng)
    stems["bass"] = {n: effects.bass_chain(a, rng) * np.float32(TILT.get(n, 1)) for n, a in played.items()}
    rng = stream(seed, index, "other")
    stems["other"] = {
        name: effects.other_chain(name, audio, rng, beat_s) * np.float32(10 ** (rng.normal(0, 3) / 20))
        for name, audio in other.render(song, library, rng).items()
    }
    _duck(song, stems, hits, stream(seed, index, "duck"))
    if vocals:
        rng = stream(seed, index, "vocals")
        sung = singing.render(song, library, str(rng.choice(GENRES[song.genre].vocals.split())), rng)
        stems["vocals"] = {
            n: effects.vocal_chain(n, a, rng, beat_s) * np.float32(TILT.get(n, 1)) for n, a in sung.items()
        }
    stems = {stem: {n: a for n, a in layers.items() if np.abs(a).max() > 1e-5} for stem, layers in stems.items()}
    stems = {stem: layers for stem, layers in stems.items() if layers}
    rng = stream(seed, index, "mix")
    return song_name(seed, index, song.genre), master(balance(stems, rng), rng)


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
    for stem in ("bass", "other"):
        stems[stem] = {name: audio * curve if rng.random() < 0.8 else audio for name, audio in stems[stem].items()}


TILT = {  # of a layer against the first of its stem
    "bass-layer": 0.5,
    "vox-double": 0.5,
    "bgvox-harmony": 0.4,
    "bgvox-aah": 0.35,
    "bgvox-adlib": 0.5,
    "effects": 0.6,
}
DRUM_DB = {"kick": 0.0, "snare": -1.0, "hats": -10.0, "cymbals": -9.0, "toms": -3.0, "percussion": -7.0, "loop": -5.0}


def _drums(song: Song, library: Library, hits: list[DrumHit], rng: np.random.Generator) -> dict[str, Audio]:
    kit = draw_kit(library, song.genre, rng, lambda draw: draw_whole(library, draw))
    ambience, room_s = float(rng.choice([0.0, 0.1, 0.25, 0.5])), float(rng.uniform(0.2, 1.4))
    raw = drums.render(song, hits, kit, library, rng)
    if rng.random() < (0.45 if song.genre in ("electronic", "hiphop", "pop") else 0.1):
        loop = drums.render_loop(song, library, rng)
        if loop is not None:
            raw["loop"] = loop
    layers = {}
    for name, audio in raw.items():
        level = DRUM_DB[name] + float(rng.normal(0, 2))
        layers[name] = effects.drum_chain(name, audio, rng, ambience, room_s) * np.float32(10 ** (level / 20))
    return effects.glue(layers, rng) if rng.random() < 0.5 else layers
