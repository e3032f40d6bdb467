"""The song generator under scripts/synth: every test plants something and looks for it in what comes out."""

# ruff: noqa: E402
from __future__ import annotations

import hashlib
import itertools
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

for needed in ("pedalboard", "mido", "pyworld", "scipy"):
    pytest.importorskip(needed)
sys.path.insert(0, str(Path(__file__).parents[1]))

import mido

from scripts.synth import drums, mixing, oscillator, psola
from scripts.synth.compose import Chord, Section, Song, compose, melody
from scripts.synth.grooves import DrumHit, read_hits
from scripts.synth.kits import Hit, Kit, role_of
from scripts.synth.library import RATE, Library, decode
from scripts.synth.patterns import notes
from scripts.synth.sampler import Note, Sampler
from scripts.synth.sfz import Region, read_sfz
from scripts.synth.soundfont import SoundFont

SHARED = Path(__file__).parents[2] / "shared" / "data"


def save(path: Path, audio: np.ndarray) -> Path:
    """`[T]` as a mono 16-bit WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(audio * 32767).astype("<i2").tobytes())
    return path


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)


def loudest_hz(audio: np.ndarray) -> float:
    """Frequency of the highest bin of a long padded transform."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 18))
    return float(np.argmax(spectrum) * RATE / (1 << 18))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "data", tmp_path / "cache")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


SONG = Song("pop", 120.0, 0.0, 0, "major", 4.0, (Chord(0.0, 8.0, 0, (0, 4, 7)),), (Section("chorus", 0, 2, 1.0),))


def test_sfz_regions_inherit_from_global_and_group_and_follow_defines_and_includes(tmp_path: Path) -> None:
    (tmp_path / "inner.txt").write_text("<region> key=c4 sample=$NAME one.wav // a comment\n")
    (tmp_path / "map.sfz").write_text(
        "<control> default_path=wavs\\\n#define $NAME two\n"
        "<global> volume=-3 ampeg_release=0.2\n"
        "<group> lovel=10 hivel=60 seq_length=2\n"
        "<region> sample=a b.wav lokey=60 hikey=62 pitch_keycenter=61 seq_position=2\n"
        "<region>\nsample=c.wav\nkey=64\nvolume=1\n"
        '<group> tune=50\n#include "inner.txt"\n<region> tune=7\n'
    )
    a, c, one = read_sfz(tmp_path / "map.sfz")  # the last region names no sample
    assert (a.sample, a.lokey, a.hikey, a.keycenter) == (tmp_path / "wavs/a b.wav", 60, 62, 61)
    assert (a.lovel, a.hivel, a.position, a.length, a.volume_db, a.release_s) == (10, 60, 2, 2, -3.0, 0.2)
    assert (c.lokey, c.keycenter, c.position, c.volume_db, c.lovel) == (64, 64, 1, 1.0, 10)
    assert (one.sample, one.keycenter) == (tmp_path / "wavs/two one.wav", 60)
    assert (one.lovel, one.tune_cents, one.volume_db) == (0, 50.0, -3.0)


@pytest.mark.parametrize(("key", "hz"), [(57, 220.0), (69, 440.0), (81, 880.0), (76, 659.26)])
def test_sampler_plays_a_planted_sine_at_the_pitch_of_the_key(library, rng, tmp_path, key: int, hz: float) -> None:
    path = save(tmp_path / "data/a4.wav", tone(440, 3.0))
    sampler = Sampler([Region(path, keycenter=69)], library)
    assert loudest_hz(sampler.play(Note(0, 1.0, key), rng)[0]) == pytest.approx(hz, rel=1e-3)


def test_glide_starts_at_the_old_key_and_ends_at_the_new_one(library, rng, tmp_path) -> None:
    path = save(tmp_path / "data/a4.wav", tone(440, 4.0))
    sound = Sampler([Region(path, keycenter=69)], library).play(Note(0, 1.5, 69, 100, glide_from=57, glide_s=0.5), rng)
    assert loudest_hz(sound[0][:2000]) == pytest.approx(225, abs=25)
    assert loudest_hz(sound[0][30000:60000]) == pytest.approx(440, rel=2e-3)


def test_sampler_releases_after_the_note_and_obeys_velocity(library, rng, tmp_path) -> None:
    path = save(tmp_path / "data/a4.wav", tone(440, 3.0))
    sampler = Sampler([Region(path, keycenter=69)], library, release_s=0.1)
    out = sampler.render([Note(0.5, 0.5, 69, 127)], 2 * RATE, rng)
    assert np.abs(out[:, : RATE // 2]).max() == 0
    assert np.abs(out[:, int(1.11 * RATE) :]).max() == 0
    assert np.abs(out[:, RATE // 2 : RATE]).max() == pytest.approx(0.5, rel=0.02)
    soft = sampler.render([Note(0.5, 0.5, 69, 30)], 2 * RATE, rng)
    assert np.abs(soft).max() < 0.2 * np.abs(out).max()


def test_looped_region_sounds_longer_than_its_recording(library, rng, tmp_path) -> None:
    path = save(tmp_path / "data/a4.wav", tone(441, 0.1))  # 100 samples a turn: the loop is seamless
    sound = Sampler([Region(path, keycenter=69, loop=(1000, 4000))], library).play(Note(0, 2.0, 69), rng)
    assert sound.shape[1] > 2 * RATE
    assert loudest_hz(sound[0][RATE : 2 * RATE]) == pytest.approx(441, rel=1e-3)


def soundfont_bytes(pcm: np.ndarray) -> bytes:
    """The smallest legal bank: one preset, one instrument, one looped sample at key 69."""

    def chunk(name: str, data: bytes) -> bytes:
        return name.encode() + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    last = len(pcm)
    samples = np.concatenate([pcm, np.zeros(46, np.int16)]).astype("<i2").tobytes()
    zones = [(43, 60 | 80 << 8), (58, 69), (54, 1), (48, 100), (53, 0)]  # keys, root, loops, attenuation, sample
    parts = {
        "phdr": struct.pack("<20sHHHIII", b"p", 3, 0, 0, 0, 0, 0) + struct.pack("<20sHHHIII", b"EOP", 0, 0, 1, 0, 0, 0),
        "pbag": struct.pack("<4H", 0, 0, 1, 0),
        "pmod": bytes(10),
        "pgen": struct.pack("<HH", 41, 0) + bytes(4),
        "inst": struct.pack("<20sH", b"i", 0) + struct.pack("<20sH", b"EOI", 1),
        "ibag": struct.pack("<4H", 0, 0, len(zones), 0),
        "imod": bytes(10),
        "igen": b"".join(struct.pack("<HH", *zone) for zone in zones) + bytes(4),
        "shdr": struct.pack("<20sIIIIIBbHH", b"s", 0, last, 1000, 4000, RATE, 60, 0, 0, 1) + bytes(46),
    }
    body = chunk("LIST", b"sdta" + chunk("smpl", samples))
    body += chunk("LIST", b"pdta" + b"".join(chunk(k, v) for k, v in parts.items()))
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"sfbk" + body


def test_soundfont_preset_becomes_a_region_that_plays_in_tune(library, rng, tmp_path) -> None:
    (tmp_path / "bank.sf2").write_bytes(soundfont_bytes((tone(441, 0.1) * 32767).astype(np.int16)))
    font = SoundFont(tmp_path / "bank.sf2")
    (region,) = font.preset(0, 3, library)
    assert (region.lokey, region.hikey, region.keycenter, region.loop) == (60, 80, 69, (1000, 4000))
    assert region.volume_db == pytest.approx(-4.0)
    assert font.preset(0, 4, library) == []
    sound = Sampler([region], library).play(Note(0, 1.5, 81), rng)
    assert loudest_hz(sound[0][: RATE // 2]) == pytest.approx(882, rel=1e-3)


@pytest.mark.parametrize("key", [28, 69, 100])
def test_synthesiser_is_in_tune_and_does_not_alias(key: int, rng) -> None:
    patch = oscillator.Patch("saw", cutoff=10, sweep=0, attack=0.01, sustain=1.0)
    sound = oscillator.play(patch, Note(0, 2.0, key), rng)[0][2000 : 2000 + RATE]
    hz = 440 * 2 ** ((key - 69) / 12)
    assert loudest_hz(sound) == pytest.approx(hz, rel=2e-3)
    spectrum = np.abs(np.fft.rfft(sound * np.blackman(len(sound)))) ** 2
    bins = np.arange(len(spectrum))
    off = np.abs(bins / hz - np.round(bins / hz)) * hz > 8
    assert spectrum[off].sum() < 1e-3 * spectrum.sum()


def test_voice_is_moved_to_the_wanted_pitch_and_twice_its_length(rng) -> None:
    pulses = np.zeros(RATE, np.float32)
    pulses[::220] = 1  # 200.45 Hz
    ring = np.exp(-np.arange(200) / 20) * np.sin(2 * np.pi * 800 * np.arange(200) / RATE)  # a formant at 800 Hz
    source = psola.analyse((0.3 * np.convolve(pulses, ring)[:RATE]).astype(np.float32))
    frames = int(1.6 / psola.FRAME_S)
    voice = psola.sing(source, np.linspace(0.1, 0.9, frames), np.full(frames, 300.0), 1.0, rng)
    middle = voice[RATE // 2 : RATE // 2 + 8192].astype(float)
    correlation = np.correlate(middle, middle, "full")[8191:]
    assert RATE / (100 + np.argmax(correlation[100:400])) == pytest.approx(300, rel=0.02)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(8192)))
    assert np.argmax(spectrum) * RATE / 8192 in (pytest.approx(900, abs=20), pytest.approx(600, abs=20))


def test_midi_strokes_sound_where_they_were_planted(library, rng, tmp_path) -> None:
    planted = [0, 480, 720, 1200, 1680]  # ticks of 1/480 beat; half a second a beat
    track, before = mido.MidiTrack(), 0
    for tick in planted:
        track.append(mido.Message("note_on", note=36, velocity=100, time=tick - before))
        before = tick
    midi = mido.MidiFile(ticks_per_beat=480)
    midi.tracks.append(track)
    midi.save(tmp_path / "groove.mid")
    click = np.zeros(3000)
    click[1500] = 0.9  # the recording starts with 34 ms of silence
    kit = Kit("click", {"kick": [Hit(save(tmp_path / "data/kick.wav", click))]})
    hits = list(read_hits(tmp_path / "groove.mid"))
    out = drums.render(SONG, hits, kit, library, rng)["kick"][0]
    heard = np.flatnonzero(np.abs(out) > 0.5 * np.abs(out).max())
    assert heard / RATE == pytest.approx([tick / 480 * 0.5 for tick in planted], abs=0.002)


def test_closed_hat_chokes_the_open_one(library, tmp_path) -> None:
    ringing = save(tmp_path / "data/open.wav", tone(6000, 2.0))
    kit = Kit("hats", {"hat_open": [Hit(ringing)]})
    strokes = [DrumHit(0, "hat_open", 100), DrumHit(1, "hat_closed", 100)]
    free, choked = (
        drums.render(SONG, strokes[:count], kit, library, np.random.default_rng(1))["hats"] for count in (1, 2)
    )
    assert np.abs(free[:, RATE:]).max() > 0.1
    assert np.abs(choked[:, int(0.53 * RATE) :]).max() == 0
    np.testing.assert_array_equal(choked[:, : RATE // 2], free[:, : RATE // 2])


@pytest.mark.parametrize("name", ["kick", "snare"])
def test_names_tell_roles(name: str) -> None:
    assert role_of(Path(f"a/b/{name}_01.opus")) == name
    assert role_of(Path("cymbal/open/x.opus")) == "hat_open"
    assert role_of(Path("sonic-pi/drum_roll.opus")) == ""


def test_pattern_signs_become_notes() -> None:
    assert notes("x-..5---........") == ((0.0, 0.5, "x"), (1.0, 1.0, "5"))


@pytest.mark.parametrize("seed", range(4))
def test_chords_cover_the_song_and_melodies_keep_to_scale_and_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    song = compose(rng, 30.0)
    assert song.chords[0].beat == 0
    ends = [c.beat + c.beats for c in song.chords]
    assert ends[:-1] == [c.beat for c in song.chords[1:]]
    assert ends[-1] >= song.beats
    tones = melody(song, rng, 55, 72)
    assert {t.key % 12 for t in tones} <= set(song.pitches())
    assert all(55 <= t.key <= 72 and t.beat < song.beats for t in tones)
    assert all(a.beat <= b.beat for a, b in itertools.pairwise(tones))


def loud_stems(rng: np.random.Generator) -> mixing.Stems:
    noise = {s: rng.normal(0, 0.5, (2, RATE)).astype(np.float32) for s in ("drums", "bass")}
    return {s: {"one": x, "two": x[::-1] * np.float32(0.3)} for s, x in noise.items()}


@pytest.mark.parametrize("seed", range(6))
def test_layers_sum_to_a_mix_below_full_scale_under_one_gain_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stems = loud_stems(rng)
    mastered = mixing.master(stems, rng)
    mix = sum(layer for layers in mastered.values() for layer in layers.values())
    assert np.abs(mix).max() < 0.98
    assert np.abs(mix).max() > 0.3
    curve = mastered["drums"]["one"] / stems["drums"]["one"]
    np.testing.assert_allclose(mastered["bass"]["two"], stems["bass"]["two"] * curve, rtol=1e-4, atol=1e-6)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_interrupted_song_is_not_there_and_the_next_try_is_complete(tmp_path, rng, monkeypatch) -> None:
    stems = mixing.master(loud_stems(rng), rng)
    write, written = mixing.write_flac, []

    def stop_at_third(path: Path, audio: np.ndarray) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, audio)

    with monkeypatch.context() as patched:
        patched.setattr(mixing, "write_flac", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            mixing.write_song(tmp_path / "out/song", stems)
    assert list((tmp_path / "out").iterdir()) == []
    mixing.write_song(tmp_path / "out/song", stems)
    assert set(digest(tmp_path / "out")) == {f"song/{s}/{n}.flac" for s in ("drums", "bass") for n in ("one", "two")}


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="the licensed recordings are not here")
def test_same_seed_gives_the_same_bytes_and_a_mix_below_full_scale(tmp_path: Path) -> None:
    from scripts.synth.produce import produce

    for run in ("one", "two"):
        name, stems = produce(Library(SHARED, tmp_path / "cache"), 3, 1, 6.0)
        mixing.write_song(tmp_path / run / name, stems)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    paths = sorted((tmp_path / "one").rglob("*.flac"))
    assert {"drums", "bass", "other", "vocals"} >= {p.parent.name for p in paths}
    layers = [decode(path) for path in paths]
    assert {layer.shape for layer in layers} == {(2, 6 * RATE)}
    assert 0.1 < np.abs(np.sum(layers, axis=0)).max() < 1
