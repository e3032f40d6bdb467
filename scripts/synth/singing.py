"""The vocal stem: melodies sung with the recorded voices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scripts.synth import psola
from scripts.synth.compose import Song, Tone, melody, voicing
from scripts.synth.library import RATE, Audio, Library
from scripts.synth.psola import FRAME_S, Analysis
from scripts.synth.quotes import places, recite
from scripts.synth.sampler import add_at, onset, repitch, shape, stereo
from scripts.synth.voices import BREATHS, Singer, Voice, airy, analysed, cast, draw_singer, recordings, textured


def phrases(tones: list[Tone], gap: float = 0.3) -> list[list[Tone]]:
    """Runs of tones without a rest between them."""
    out: list[list[Tone]] = []
    for tone in tones:
        if out and tone.beat - (out[-1][-1].beat + out[-1][-1].beats) < gap and len(out[-1]) < 24:
            out[-1].append(tone)
        else:
            out.append([tone])
    return out


def sing_phrase(
    song: Song, phrase: list[Tone], singer: Singer, source: Analysis, first: int, rng: np.random.Generator
) -> tuple[int, Audio]:
    """A phrase with consecutive syllables of one recording; returns the start sample and `[T]`."""
    begin = song.time(phrase[0].beat) - 0.15
    end = song.time(phrase[-1].beat + phrase[-1].beats) + 0.25
    frames = int((end - begin) / FRAME_S)
    time = np.asarray(begin + np.arange(frames) * FRAME_S, np.float64)
    at_out, at_source = [], []
    starts = [song.time(t.beat) + float(rng.normal(0, 0.008)) for t in phrase]
    count = len(source.bounds)
    for i, tone in enumerate(phrase):
        start, vowel, stop = source.bounds[(first + i) % count]
        until = starts[i + 1] if i + 1 < len(phrase) else song.time(tone.beat + tone.beats)
        following = source.bounds[(first + i + 1) % count]
        lead = min(following[1] - following[0], 0.12) if i + 1 < len(phrase) else 0.0
        fade = min(0.06, (stop - vowel) / 3)
        until = max(until - lead, starts[i] + 0.04)
        vowel_lead = min(vowel - start, 0.15)
        body = min(stop - fade, vowel + max(until - fade - starts[i], 0.02) * 1.0)
        at_out += [starts[i] - vowel_lead, starts[i], max(until - fade, starts[i] + 0.02), max(until, starts[i] + 0.03)]
        at_source += [vowel - vowel_lead, vowel, max(body, vowel + 0.02), stop]
    order = np.maximum.accumulate(np.array(at_out)) + np.arange(len(at_out)) * 1e-6
    mapped = np.interp(time, order, at_source, left=-1, right=-1)
    voice = psola.sing(source, mapped, contour(time, starts, phrase, singer, rng), singer.formant, rng)
    ends = [*starts[1:], song.time(phrase[-1].beat + phrase[-1].beats)]
    return int(begin * RATE), voice * loudness_curve(len(voice), begin, starts, ends, singer, rng)


def loudness_curve(
    samples: int, begin: float, starts: list[float], ends: list[float], singer: Singer, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gain `[T]`: accents, notes that swell and fall away, short breaks between some of them."""
    times, levels = [], []
    for start, end in zip(starts, ends, strict=True):
        accent = float(rng.normal(0, 2.5)) * singer.dynamics
        fall = float(rng.uniform(0, 9)) * singer.dynamics
        length = max(end - start, 0.06)
        broken = rng.random() < 0.3 * singer.dynamics and length > 0.2
        stop = end - (float(rng.uniform(0.06, 0.3)) * length + 0.04 if broken else 0.03)
        times += [start - 0.07, start + 0.3 * length * rng.random(), stop - 0.2 * length, stop, end]
        levels += [
            accent - 3,
            accent,
            accent - fall,
            accent - fall - (40 if broken else 4),
            accent - (50 if broken else 6),
        ]
    curve = np.interp(begin + np.arange(0, samples, 64) / RATE, np.maximum.accumulate(times), levels)
    fine = np.interp(np.arange(samples), np.arange(0, samples, 64), 10 ** (curve / 20))
    return np.asarray(fine, np.float32)


def contour(
    time: NDArray[np.float64], starts: list[float], phrase: list[Tone], singer: Singer, rng: np.random.Generator
) -> NDArray[np.float64]:
    """f0 in Hz: steps smoothed to portamento, scoops from below, vibrato on long notes, slow drift."""
    index = np.clip(np.searchsorted(np.array(starts), time, side="right") - 1, 0, len(phrase) - 1)
    keys = np.array([t.key for t in phrase], float)[index]
    width = max(3, int(singer.portamento_s / FRAME_S) | 1)
    kernel = np.hanning(width + 2)
    curve = np.convolve(np.pad(keys, width + 1, mode="edge"), kernel / kernel.sum(), mode="same")[
        width + 1 : -width - 1
    ]
    since = time - np.array(starts)[index]
    scoop = np.where(rng.random(len(phrase)) < 0.25, rng.uniform(0.3, 2.0, len(phrase)), 0.0)[index]
    curve -= scoop * np.exp(-np.maximum(since, 0) / 0.05)
    depth = singer.vibrato * np.clip((since - 0.3) / 0.25, 0, 1)
    curve += depth * np.sin(2 * np.pi * singer.vibrato_hz * time + rng.uniform(0, 6.28))
    knots = np.arange(time[0], time[-1] + 0.4, 0.2)
    curve += np.interp(time, knots, rng.normal(0, singer.loose, len(knots)))
    return np.asarray(440 * 2 ** ((curve - 69) / 12))


def sing(
    song: Song,
    tones: list[Tone],
    singer: Singer,
    library: Library,
    rng: np.random.Generator,
    *,
    words: int = 0,
    vowels: bool = False,
) -> Audio:
    """A whole part, `[2, T]`; parts of equal `words` sing the same syllables at the same place, as doubles do."""
    files = recordings(library, singer.bank)
    files = [p for p in files if set(p.stem) <= set("aiueo_-")] or files if vowels else files
    out = np.zeros((2, int(song.seconds * RATE)), np.float32)
    sighs = [p for folder in BREATHS for p in library.files(folder, "br*.opus")] if rng.random() < 0.6 else []
    sighs = [p for p in sighs if not (library.permissive and "alys" in p.parts)]
    for phrase in phrases(tones):
        text = np.random.default_rng([words, int(phrase[0].beat * 4)])
        source = analysed(library, files[text.integers(len(files))])
        if len(source.bounds) < 2:
            continue
        start, voice = sing_phrase(song, phrase, singer, source, int(text.integers(len(source.bounds))), rng)
        voice = textured(voice, singer, rng)
        level = np.sqrt((voice**2).mean()) + 1e-6
        add_at(out, stereo(voice[None] * np.float32(0.1 / level * rng.uniform(0.7, 1.2))), start)
        if sighs and rng.random() < 0.7:
            breathe(out, start, library.load(sighs[rng.integers(len(sighs))]), rng)
    return out


def breathe(out: Audio, before: int, sigh: Audio, rng: np.random.Generator) -> None:
    """Add half a second of a recorded breath that ends at sample `before`."""
    sigh = sigh[:, : RATE // 2]
    gain = 0.1 * rng.uniform(0.1, 0.5) / (np.abs(sigh).max() + 1e-6)
    add_at(out, stereo(shape(sigh * np.float32(gain), sigh.shape[1] // 2)), before - sigh.shape[1] + RATE // 10)


def harmony(song: Song, tones: list[Tone], steps: int) -> list[Tone]:
    """The melody moved by steps of the scale."""
    pitches = song.pitches()
    keys = [k for k in range(24, 110) if k % 12 in pitches]
    moved = []
    for tone in tones:
        nearest = min(range(len(keys)), key=lambda i: abs(keys[i] - tone.key))
        moved.append(Tone(tone.beat, tone.beats, keys[nearest + steps]))
    return moved


def ready_made(song: Song, library: Library, rng: np.random.Generator) -> Audio:
    """A recorded song of the Sinsy voice from a random place, at its own tempo."""
    files = recordings(library, "sinsy")
    audio = library.load(files[rng.integers(len(files))])
    samples = int(song.seconds * RATE)
    out = np.zeros((2, samples), np.float32)
    audio = airy(audio.mean(axis=0), float(rng.uniform(0.3, 1.2)))[None]
    ratio = 2 ** (float(rng.integers(-3, 3)) / 12)
    start = int(rng.integers(max(1, audio.shape[1] - samples // 2)))
    add_at(out, stereo(repitch(audio[:, start:], ratio, samples)), int(rng.integers(0, RATE * 4)))
    return out


def shouts(song: Song, library: Library, rng: np.random.Generator) -> Audio:
    """Growls and shouts on a fast rhythm, in phrases."""
    files = library.files("singing/merry-orks/samples")
    out = np.zeros((2, int(song.seconds * RATE)), np.float32)
    tune = float(rng.uniform(-4, 2))
    for tone in melody(song, rng, 50, 62, fast=rng.random() < 0.5, rest=0.6):
        if tone.beats < 0.3 and rng.random() < 0.5:
            continue
        audio = library.load(files[rng.integers(len(files))])
        length = int(max(tone.beats * 60 / song.bpm, 0.15) * RATE)
        sound = repitch(audio[:, onset(audio) :], 2 ** ((tune + rng.normal(0, 0.7)) / 12), length + RATE // 10)
        peak = np.abs(sound).max() + 1e-6
        add_at(out, stereo(shape(sound * np.float32(0.4 / peak), length)), int(song.time(tone.beat) * RATE))
    return out


def choir(song: Song, singer: Singer, library: Library, rng: np.random.Generator) -> Audio:
    """Aahs: the tones of the chords held by three voices, in the sections with most energy."""
    out = np.zeros((2, int(song.seconds * RATE)), np.float32)
    top = max(s.energy for s in song.sections)
    chords = [c for c in song.chords if song.section(c.beat).energy >= top - 0.2 and c.beat < song.beats - 1]
    for i in range(3):
        tones = []
        for chord in chords:
            keys = voicing(chord, singer.low + 2)
            tones.append(Tone(chord.beat, chord.beats * 0.96, keys[i % len(keys)]))
        out += sing(song, tones, singer, library, rng, vowels=True)
    return out


def render(song: Song, library: Library, style: str, voice: Voice, rng: np.random.Generator) -> dict[str, Audio]:
    """Lead, and often doubles, harmonies or backing."""
    if style == "shout":
        return {"vox-shout": shouts(song, library, rng)}
    if voice.bank == "sinsy":
        return {"vox-lead": ready_made(song, library, rng)}
    singer = draw_singer(voice, rng)
    if voice.quoted:
        return quoted(song, singer, library, rng)
    if style == "rap":  # speech: a narrow range, slides, no vibrato
        singer = replace(singer, high=singer.low + 6, vibrato=0.0, loose=0.7, portamento_s=0.14)
    tones = melody(song, rng, singer.low, singer.high, fast=style == "rap", rest=0.65)
    silent = {name: rng.random() < chance for name, chance in (("intro", 0.8), ("break", 0.6), ("bridge", 0.4))}
    tones = [t for t in tones if not silent.get(song.section(t.beat).name)] or tones
    words = int(rng.integers(1 << 30))
    layers = {"vox-lead": sing(song, tones, singer, library, rng, words=words)}
    chorus = [t for t in tones if song.section(t.beat).name == "chorus"]
    backing = backing_singer(singer, library, rng)
    if chorus and rng.random() < 0.45:
        double = sing(song, chorus, singer, library, rng, words=words)
        layers["vox-double"] = double * np.float32(rng.uniform(0.3, 0.8))
    if chorus and rng.random() < 0.35:
        moved = harmony(song, chorus, int(rng.choice([2, -2, 4, -3])))
        layers["bgvox-harmony"] = sing(song, moved, backing, library, rng, words=words)
    if rng.random() < 0.15:
        layers["bgvox-aah"] = choir(song, backing, library, rng)
    if rng.random() < 0.12:  # answers in the rests of the lead
        taken = {int(t.beat // 4) for t in tones}
        calls = [t for t in melody(song, rng, singer.low, singer.high, rest=0.6) if int(t.beat // 4) not in taken]
        layers["bgvox-adlib"] = sing(song, calls, singer, library, rng, words=words)
    return layers


def backing_singer(lead: Singer, library: Library, rng: np.random.Generator) -> Singer:
    """The lead singer again, or somebody else."""
    others = [voice for voice in cast(library) if not voice.quoted]
    return draw_singer(others[rng.integers(len(others))], rng) if others and rng.random() < 0.5 else lead


def quoted(song: Song, singer: Singer, library: Library, rng: np.random.Generator) -> dict[str, Audio]:
    """Phrases of a real singer as the lead, often doubled in the chorus, now and then with a second voice."""
    names = sorted({s.name for s in song.sections if s.energy >= 0.5 or rng.random() < 0.5})
    found = places(song, library, names, rng)
    taken = [(beat, analysed(library, path)) for beat, path in found]
    chorus = [(beat, source) for beat, source in taken if song.section(beat).name == "chorus"]
    centre = (singer.low + singer.high) / 2

    def part(chosen: list[tuple[float, Analysis]], up: int, formant: float) -> Audio:
        return recite(song, chosen, centre + up, formant, rng)

    layers = {"vox-lead": part(taken, 0, singer.formant)}
    if chorus and rng.random() < 0.5:
        layers["vox-double"] = part(chorus, 0, singer.formant * float(rng.uniform(0.97, 1.03)))
    if chorus and rng.random() < 0.35:
        up, tract = int(rng.choice([-5, 3, 4, 7])), float(rng.uniform(0.9, 1.1))
        layers["bgvox-harmony"] = part(chorus, up, singer.formant * tract)
    return {name: stereo(textured(audio[0], singer, rng)[None]) for name, audio in layers.items()}

