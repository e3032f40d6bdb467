"""What scripts/synth decides about a song: who plays, what was written, who sings what, and how it is produced."""

# ruff: noqa: E402
from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

for needed in ("pedalboard", "mido", "pyworld", "scipy"):
    pytest.importorskip(needed)
sys.path.insert(0, str(Path(__file__).parents[1]))

import mido
from scipy.signal import butter, sosfilt

from scripts.synth import bass, effects, mixing, oscillator, other, patches, patterns, quotes, report, singing, written
from scripts.synth.arrangement import DECK, deal
from scripts.synth.compose import Chord, Section, Song, Tone
from scripts.synth.genres import GENRES, SCALES
from scripts.synth.library import RATE, Library, decode
from scripts.synth.psola import Analysis, analyse
from scripts.synth.sampler import Note
from scripts.synth.voices import MEN, Singer, Voice, analysed, cast, draw_singer

SONG = Song("pop", 120.0, 0.0, 0, "major", 4.0, (Chord(0.0, 8.0, 0, (0, 4, 7)),), (Section("chorus", 0, 2, 1.0),))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def power_db(audio: np.ndarray) -> float:
    return float(10 * np.log10((audio.astype(float) ** 2).mean()))


def test_every_deck_of_songs_has_each_card_once_in_an_order_of_its_own() -> None:
    size = len(DECK)
    orders = [tuple(deal(range(size), 3, i, "x") for i in range(n * size, (n + 1) * size)) for n in range(3)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(set(orders)) == 3
    assert [deal(range(size), 3, i, "y") for i in range(size)] != list(orders[0])  # another part, another deck


def test_a_fifth_of_the_songs_are_without_a_voice_and_some_without_drums() -> None:
    dealt = [deal(DECK, 1, i, "arrangement") for i in range(10 * len(DECK))]
    assert 0.1 <= sum(not a.vocals for a in dealt) / len(dealt) <= 0.3
    assert any(not a.drums and a.layers != (0,) for a in dealt)


def test_genres_name_only_what_there_is() -> None:
    kinds = {*other.CHORDAL, *other.ARPEGGIATED, *other.TIMBRES, *other.GUITARS, "orchestral"}
    for genre in GENRES.values():
        assert 60 <= genre.bpm[0] < genre.bpm[1] <= 190
        assert {d for d in genre.drums.split() if d.startswith("@")} <= patterns.DRUMS.keys()
        assert set(genre.basses.split()) <= bass.KINDS.keys()
        assert set(genre.figures.split()) <= patterns.BASS.keys()
        assert set(genre.others.split()) <= kinds
    assert {name for names in bass.KINDS.values() for name in names} <= bass.MAPS.keys() | patches.BASSES.keys()
    assert {name for names in other.TIMBRES.values() for name in names} <= patches.VOICES.keys()


def midi_song(path: Path) -> Path:
    """Two seconds at 120 a minute of what is planted: (channel, program, key) at beats, each half a beat long."""
    planted = [(0, 33, 36, (0, 1, 2)), (1, 30, 60, (0, 2)), (2, 120, 70, (1,)), (9, 0, 38, (1, 3)), (9, 0, 36, (0, 2))]
    events = [(0.0, mido.MetaMessage("set_tempo", tempo=500000))]
    for channel, program, key, beats in planted:
        events.append((0.0, mido.Message("program_change", channel=channel, program=program)))
        for beat in beats:
            events.append((beat, mido.Message("note_on", channel=channel, note=key, velocity=90)))
            events.append((beat + 0.5, mido.Message("note_off", channel=channel, note=key)))
    midi, track, now = mido.MidiFile(ticks_per_beat=480), mido.MidiTrack(), 0.0
    for beat, message in sorted(events, key=lambda pair: pair[0]):
        track.append(message.copy(time=round((beat - now) * 480)))
        now = beat
    midi.tracks.append(track)
    midi.save(path)
    return path


def test_written_notes_reach_their_players(tmp_path) -> None:
    parts, strokes, bpm = written.read_parts(midi_song(tmp_path / "song.mid"))
    assert bpm == 120
    assert {name: [(n.start_s, n.length_s, n.key) for n in notes] for name, notes in parts.items()} == {
        "bass": [(0.0, 0.25, 36), (0.5, 0.25, 36), (1.0, 0.25, 36)],
        "power": [(0.0, 0.25, 60), (1.0, 0.25, 60)],
    }  # program 120 is a sound effect
    assert sorted((n.start_s, n.key) for n in strokes) == [(0.0, 36), (0.5, 38), (1.0, 36), (1.5, 38)]


@pytest.mark.parametrize("seed", range(4))
def test_written_excerpt_keeps_drums_and_bass_together_at_any_tempo(tmp_path, seed: int) -> None:
    parts, strokes, bpm = written.read_parts(midi_song(tmp_path / "song.mid"))
    made = written._excerpt(parts, strokes, bpm, 0.0, 4.0, np.random.default_rng(seed))
    kicks = [h.beat for h in made.hits if h.role == "kick"]
    assert kicks == pytest.approx([0, 2], abs=0.05)
    assert [n.start_s * made.song.bpm / 60 for n in made.bass] == pytest.approx([0, 1, 2], abs=0.05)
    assert [n.length_s * made.song.bpm / 60 for n in made.bass] == pytest.approx([0.5] * 3)
    assert 60 <= made.song.bpm <= 190
    assert len({(int(n.key) - 36 - (int(made.other["power"][0].key) - 60)) % 12 for n in made.bass}) == 1  # moved alike


@pytest.mark.parametrize(("tonic", "scale"), [(7, "major"), (2, "dorian"), (11, "phrygian")])
def test_scale_is_found(tonic: int, scale: str) -> None:
    notes = [Note(i, 1.0 + (step == 0), 60 + tonic + step) for i, step in enumerate(SCALES[scale])]
    assert written.scale_of({"lead": notes}) == (tonic, scale)


def test_phrases_lie_between_rests() -> None:
    audio = np.zeros(6 * RATE, np.float32)
    for start, end in ((0.5, 1.7), (1.8, 2.5), (3.5, 3.7), (4.0, 5.5)):  # a short breath, a long rest, a word too short
        audio[int(start * RATE) : int(end * RATE)] = 0.3
    found = [(a / RATE, b / RATE) for a, b in quotes.phrases(audio)]
    assert found == [pytest.approx((0.5, 2.5), abs=0.03), pytest.approx((4.0, 5.5), abs=0.03)]


def sung(hz: float) -> Analysis:
    """A second of pulses through a formant."""
    pulses = np.zeros(RATE, np.float32)
    pulses[:: int(RATE / hz)] = 1
    ring = np.exp(-np.arange(200) / 20) * np.sin(2 * np.pi * 800 * np.arange(200) / RATE)
    return analyse((0.3 * np.convolve(pulses, ring)[:RATE]).astype(np.float32))


@pytest.mark.parametrize(("strength", "key"), [(1.0, 60.0), (0.0, 59.6)])
def test_quoted_melody_is_drawn_to_the_scale_as_strongly_as_asked(strength: float, key: float) -> None:
    hz = 440 * 2 ** ((55.6 - 69) / 12)  # 55.6 + 4 is 40 cents below the c of C major
    target = quotes.tune(sung(hz), SONG, 4, strength, 200)
    assert 69 + 12 * np.log2(np.median(target) / 440) == pytest.approx(key, abs=0.08)


def test_quoted_phrase_sounds_at_its_beat_around_the_singers_key(rng) -> None:
    out = quotes.recite(SONG, [(4.0, sung(200.0))], 62.0, 1.0, rng)[0]
    sounding = np.flatnonzero(np.abs(out) > 0.1 * np.abs(out).max())
    assert sounding[0] / RATE == pytest.approx(2.0, abs=0.08)
    part = out[int(2.3 * RATE) : int(2.3 * RATE) + 8192].astype(float)
    correlation = np.correlate(part, part, "full")[8191:]
    period = 60 + int(np.argmax(correlation[60:400]))
    assert 69 + 12 * np.log2(RATE / period / 440) == pytest.approx(62, abs=1.3)


def test_doubles_sing_the_words_of_the_lead(monkeypatch, rng, tmp_path) -> None:
    said: list[tuple[Path, int]] = []
    sources = {Path(f"{n}.wav"): Analysis(*(np.zeros(1),) * 4, np.full((40, 3), n, float)) for n in range(20)}

    def sing_phrase(song, phrase, singer, source, first, rng):
        said.append((int(source.bounds[0, 0]), first))
        return 0, np.ones(100, np.float32)

    monkeypatch.setattr(singing, "recordings", lambda library, bank: list(sources))
    monkeypatch.setattr(singing, "analysed", lambda library, path: sources[path])
    monkeypatch.setattr(singing, "sing_phrase", sing_phrase)
    singer = draw_singer(Voice("yuki", "woman"), rng)
    tones = [Tone(beat, 0.5, 60) for beat in (0, 2, 4, 6)]
    for words in (1, 1, 2):
        singing.sing(SONG, tones, singer, Library(tmp_path, tmp_path), rng, words=words)
    lead, double, others = said[:4], said[4:8], said[8:]
    assert lead == double
    assert len(set(lead)) == 4
    assert set(others).isdisjoint(lead)


@pytest.mark.parametrize("body", ["man", "woman"])
def test_bodies_move_range_and_formants_together(body: str) -> None:
    def drawn(bank: str) -> list[Singer]:
        return [draw_singer(Voice(bank, body), np.random.default_rng(seed)) for seed in range(40)]

    factor = np.mean([s.formant for s in drawn("alys-low")])
    assert (factor < 0.9) == (body == "man")
    centres = {bank: np.mean([(s.low + s.high) / 2 for s in drawn(bank)]) for bank in ("alys-low", *MEN)}
    assert all((centre < 55) == (body == "man") for centre in centres.values())


def test_cast_has_only_voices_at_hand_and_allowed(tmp_path) -> None:
    for path in ("alys/A4/a.opus", "alys/C4/a.opus", "yuki/a.opus", "yuki/br1.opus"):
        (tmp_path / "singing" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "singing" / path).touch()
    free, all_rights = (Library(tmp_path, tmp_path / "cache", permissive=p) for p in (False, True))
    assert Counter(v.bank for v in cast(free)) == {"alys-high": 2, "alys-low": 2, "yuki": 3}
    assert {v.bank for v in cast(all_rights)} == {"yuki"}


def test_hard_attack_lifts_the_start_of_each_note(rng) -> None:
    tone = np.tile(0.2 * np.sin(2 * np.pi * 55 * np.arange(2 * RATE) / RATE), (2, 1)).astype(np.float32)
    struck = bass.attacked(tone, [Note(0.5, 0.4, 33), Note(1.2, 0.4, 33)], rng)
    for start in (0.5, 1.2):
        at = int(start * RATE)
        lift = power_db(struck[:, at : at + 400]) - power_db(tone[:, at : at + 400])
        later = power_db(struck[:, at + 15000 : at + 20000]) - power_db(tone[:, at + 15000 : at + 20000])
        assert lift > later + 2
    np.testing.assert_allclose(struck[0, : RATE // 2 - 1], struck[1, : RATE // 2 - 1])
    assert np.abs(struck).max() < 1


def test_wobbling_bass_brightens_as_often_as_asked(rng) -> None:
    patch = oscillator.Patch("saw", cutoff=3, sweep=0, attack=0.01, sustain=1.0, wobble=2.0, wobble_hz=4.0)
    sound = oscillator.play(patch, Note(0, 2.0, 33), rng)[0][: 2 * RATE]
    bright = sosfilt(butter(4, 600, "high", fs=RATE, output="sos"), sound)
    level = np.abs(bright)[: RATE * 2 // 441 * 441].reshape(-1, 441).mean(axis=1)
    spectrum = np.abs(np.fft.rfft(level - level.mean()))
    assert np.argmax(spectrum) / 2 == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("crush", [False, True])
def test_room_answers_after_the_stroke_at_the_level_asked_for(crush: bool, rng) -> None:
    layers = {"snare": np.zeros((2, RATE), np.float32)}
    layers["snare"][:, RATE // 4 : RATE // 4 + 2000] = rng.normal(0, 0.3, 2000)
    heard = effects.drum_room(layers, 0.4, 0.5, crush, rng)
    assert np.abs(heard[:, : RATE // 4]).max() < 1e-4 * np.abs(heard).max()
    assert power_db(heard) - power_db(layers["snare"]) == pytest.approx(20 * np.log10(0.5), abs=0.1)
    assert np.abs(heard[0] - heard[1]).max() > 0.01 * np.abs(heard).max()


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_bounced_layers_sum_to_what_they_summed_to(most: int, rng) -> None:
    layers = {name: rng.normal(0, 0.1, (2, 50)).astype(np.float32) for name in "abc"}
    (out,) = mixing.bounced({"other": layers}, most).values()
    assert list(out) == list("abc")[:most]
    np.testing.assert_allclose(sum(out.values()), sum(layers.values()), atol=1e-6)
    assert all(out[name] is layers[name] for name in "abc"[: min(most - 1, 3)])


@pytest.mark.parametrize("frames", [1, mixing.BLOCK - 1, mixing.BLOCK, mixing.BLOCK + 1])
def test_flac_holds_the_samples_to_half_a_step(tmp_path, frames: int, rng) -> None:
    audio = rng.uniform(-0.99, 0.99, (2, frames)).astype(np.float32)
    mixing.write_flac(tmp_path / "x.flac", audio)
    np.testing.assert_allclose(decode(tmp_path / "x.flac"), audio * 32767 / 32768, atol=0.51 / 32768)


def test_report_tells_the_share_of_a_stem_in_its_mix(rng) -> None:
    stem, rest = (rng.normal(0, level, (2, RATE)).astype(np.float32) for level in (0.1, 0.2))
    numbers = report.measure(stem, stem + rest)
    assert numbers is not None
    assert numbers.values["share_db"] == pytest.approx(-6.02, abs=0.1)
    assert numbers.values["active"] == 1.0


def test_analysis_is_the_same_whoever_made_it(tmp_path, rng) -> None:
    path = tmp_path / "data/a.npy"
    path.parent.mkdir()
    np.save(path, np.round(rng.normal(0, 3000, (1, RATE))).astype(np.int16))
    one, two = (analysed(Library(tmp_path / "data", tmp_path / "cache"), path) for _ in range(2))
    assert one is not two
    np.testing.assert_array_equal(one.audio, two.audio)
    np.testing.assert_array_equal(one.marks, two.marks)
