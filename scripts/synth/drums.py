"""The drum stem: strokes rendered with a kit into layers, and recorded loops."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from scripts.synth.compose import Song
from scripts.synth.genres import GENRES
from scripts.synth.grooves import DrumHit, draw_performance, from_pattern, from_performance, thin
from scripts.synth.kits import LAYER_OF, Hit, Kit
from scripts.synth.library import RATE, Audio, Library
from scripts.synth.sampler import add_at, onset, repitch, shape, stereo

CHOKED_BY = ("hat_closed", "hat_pedal")
LOOPS = (
    "Drums_1",
    "Drums_6",
    "Drums_7",
    "Drums_8",
    "Drums_9",
    "discobeat",
    "funkybeat",
    "resobeat",
    "filterhats",
    "arovane_beat",
    "loop_industrial",
    "loop_compus",
    "loop_mika",
    "loop_perc",
    "loop_safari",
    "loop_tabla",
    "loop_electric",
    "loop_mehackit",
)
ODD = ("15-16", "19-16", "5-8", "7-8")
LONGEST_S = 4.0


def draw_hits(song: Song, library: Library, style: str, rng: np.random.Generator) -> list[DrumHit]:
    """Strokes of the whole song in a groove style or a programmed pattern (`@name`)."""
    if not style.startswith("@"):
        performance = draw_performance(library.root / "midi/groove", style, GENRES[song.genre].bpm, rng)
        if performance is not None:
            return thin(song, from_performance(song, performance, rng), rng)
        style = "@pop"
    return thin(song, from_pattern(song, style, rng), rng)


def tempo_of(library: Library, genre: str, style: str, rng: np.random.Generator) -> float | None:
    """Tempo of the performance that `draw_hits` will choose from the same state of `rng`."""
    if style.startswith("@"):
        return None
    performance = draw_performance(library.root / "midi/groove", style, GENRES[genre].bpm, rng)
    return float(np.clip(performance.bpm, 60, 190)) if performance else None


def render(song: Song, hits: list[DrumHit], kit: Kit, library: Library, rng: np.random.Generator) -> dict[str, Audio]:
    """Layers (kick, snare, hats, ...) as `[2, T]`."""
    samples = int(song.seconds * RATE)
    layers: dict[str, Audio] = {}
    chokes = np.array([h.beat for h in hits if h.role in CHOKED_BY])
    curve = float(rng.uniform(0.9, 1.8))  # how strongly velocity acts
    ready: dict[tuple[Hit, float], Audio] = {}
    for hit in hits:
        chosen = kit.choose(hit.role, hit.velocity, rng)
        start = int(hit.beat * 60 / song.bpm * RATE)
        if chosen is None or start >= samples:
            continue
        tune = kit.tune.get(hit.role, 0.0)
        if (chosen, tune) not in ready:
            ready[chosen, tune] = _one_shot(library.load(chosen.path), tune)
        sound = ready[chosen, tune]
        if hit.role == "hat_open":
            later = chokes[chokes > hit.beat + 0.05]
            sound = _choke(sound, int((later[0] - hit.beat) * 60 / song.bpm * RATE)) if len(later) else sound
        pan = chosen.pan if chosen.pan else kit.pan.get(hit.role, 0.0)
        gain = np.float32((hit.velocity / 127) ** (curve if chosen.hivel == 127 and chosen.lovel < 2 else curve * 0.6))
        layer = layers.setdefault(LAYER_OF[hit.role], np.zeros((2, samples), np.float32))
        add_at(layer, stereo(sound, pan) * gain, start)
    return layers


def _one_shot(audio: Audio, tune: float) -> Audio:
    sound = repitch(audio[:, onset(audio) :], 2 ** (tune / 12), int(LONGEST_S * RATE))
    peak = float(np.abs(sound).max()) if sound.size else 0.0
    return shape(sound * np.float32(0.5 / peak), sound.shape[1]) if peak > 0 else sound


def _choke(sound: Audio, after: int) -> Audio:
    """Cut off within 25 ms."""
    fade = np.linspace(1, 0, RATE // 40, dtype=np.float32)
    part: Audio = sound[:, : after + len(fade)].copy()
    part[:, after:] *= fade[: max(part.shape[1] - after, 0)]
    return part


def loops(library: Library) -> list[tuple[Path, float | None]]:
    """Recorded drum loops in four-four and their tempo where the name tells it."""
    found = []
    for path in (*library.files("mixed/stargate"), *library.files("mixed/sonic-pi")):
        known = path.stem.startswith(LOOPS) or any(mark in path.stem for mark in LOOPS)
        if known and not any(odd in path.stem for odd in ODD) and path.stem != "loop_breakbeat":
            match = re.search(r"_(\d+)BPM|^(\d{3})[-_]", path.stem)
            found.append((path, float(match[1] or match[2]) if match else None))
    return found


def render_loop(song: Song, library: Library, rng: np.random.Generator) -> Audio | None:
    """A loop played faster or slower to the song's tempo, in the sections with energy; None if none fits."""
    fitting = []
    for path, bpm in loops(library):
        audio = library.load(path)
        seconds = audio.shape[1] / RATE
        for beats in (2, 4, 8, 16, 32) if bpm is None else (round(seconds * bpm / 60 / 4) * 4 or 4,):
            ratio = seconds / (beats * 60 / song.bpm) if bpm is None else song.bpm / bpm
            for factor in (0.5, 1.0, 2.0) if bpm else (1.0,):
                if 0.75 < ratio * factor < 1.33:
                    fitting.append((audio, ratio * factor, beats / factor))
    if not fitting:
        return None
    audio, ratio, beats = fitting[rng.integers(len(fitting))]
    length = int(beats * 60 / song.bpm * RATE)
    played = stereo(repitch(audio, ratio, length))
    played = shape(played, played.shape[1])
    out = np.zeros((2, int(song.seconds * RATE)), np.float32)
    for section in song.sections:
        if rng.random() < 0.35 + 0.6 * section.energy:
            for beat in np.arange(*section.beats, beats):
                part = played[:, : int((section.beats[1] - beat) * 60 / song.bpm * RATE)]
                add_at(out, part, int(beat * 60 / song.bpm * RATE))
    return out if np.abs(out).max() > 0 else None
