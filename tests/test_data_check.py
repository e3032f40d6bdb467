"""What a check says of songs whose faults are planted."""

import numpy as np
import pytest
import soundfile
import torch

from separator.errors import AudioError
from separator.train.check import Track, check_song, items, over_songs
from separator.train.prepare import filling, prepare_song
from separator.train.prepareplan import plan

RATE = 8000
FRAMES = 70_000     # more than one block


def noise(seed, channels=2, frames=FRAMES):
    return 0.05 * np.random.default_rng(seed).standard_normal((frames, channels))


def write(path, audio, rate=RATE, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)


def check(folder, **options):
    return [check_song(item) for item in items(folder, **options)]


@pytest.fixture
def song(tmp_path):
    """A clean song of two stems and their exact sum; returns its folder."""
    folder = tmp_path / "songs" / "a"
    write(folder / "low.wav", noise(1))
    write(folder / "high.wav", noise(2))
    write(folder / "mixture.wav", noise(1) + noise(2))
    return folder


def test_a_clean_song_has_nothing_said_of_it(song):
    (report,) = check(song.parent)
    assert (report.problems, report.notes, report.silent) == ((), (), ())
    assert (report.seconds, report.sample_rate, report.channels) == (FRAMES / RATE, RATE, 2)
    assert report.mix_db > 120 and report.clipped == 0 and report.dc_offset < 1e-3


@pytest.mark.parametrize("level_db", [3.0, 12.0, 40.0])
def test_the_sum_against_the_mixture_is_the_planted_one(song, level_db):
    mix = noise(1) + noise(2)
    strange = noise(3)
    strange *= np.sqrt((mix**2).sum() / (strange**2).sum()) * 10 ** (-level_db / 20)
    true_db = 10 * np.log10(((mix + strange) ** 2).sum() / (strange**2).sum())
    write(song / "mixture.wav", mix + strange)
    (report,) = check(song.parent)
    assert report.mix_db == pytest.approx(true_db, abs=1e-3)
    assert any("do not sum" in note for note in report.notes) == (true_db < 10) and not report.problems


def test_without_a_mixture_there_is_no_sum_to_compare(song):
    (song / "mixture.wav").unlink()
    assert check(song.parent)[0].mix_db is None


@pytest.mark.parametrize("cuts", [[], [3], [4], [5], [1, 2, 3, 4, 5, 6, 7], [6, 9]])
def test_clipped_runs_are_counted_across_blocks(cuts):
    full = [0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1]     # runs of 4, 2 and 3
    x = torch.tensor([full, [0] * 10 + [-1] * 3]) * (32767 / 32768)
    track = Track("x", "low", RATE, 2, iter(()))
    for block in torch.tensor_split(x, cuts, dim=-1):
        track.see(block)
    assert track.clipped == 3 and track.frames == 13 and track.peak == pytest.approx(32767 / 32768)


def test_silence_clipping_and_offset_are_noted_with_the_file(song):
    clipped = noise(1)
    clipped[100:103] = 1.0      # both channels
    clipped[65534:65540, 0] = -1.2
    write(song / "low.wav", clipped)
    write(song / "high.wav", np.zeros((FRAMES, 2)))
    write(song / "noise" / "x.wav", noise(4) + np.array([0.02, 0.0]))
    (report,) = check(song.parent)
    assert report.silent == ("high",) and report.clipped == 3 and not report.problems
    assert report.dc_offset == pytest.approx(0.02, abs=1e-3)
    assert report.notes[:2] == ("high is silent", "low.wav: clipped 3 times")
    assert report.notes[2].startswith("x.wav, noise: DC offset 0.0") and len(report.notes) == 4     # and the sum


def test_a_stem_that_only_ends_in_silence_is_not_silent(song):
    audio = noise(1)
    audio[60_000:] = 0
    write(song / "low.wav", audio)
    assert check(song.parent)[0].silent == ()


def with_nan():
    audio = noise(1)
    audio[66_000, 1] = np.nan
    return audio


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda song: (song / "low.wav").write_bytes(b"not audio"), "low.wav is not audio"),
        (lambda song: (song / "low.wav").write_bytes((song / "low.wav").read_bytes()[:300_000]), "low.wav is damaged"),
        (lambda song: write(song / "low.wav", with_nan()), r"low.wav: sample 66000 of channel 2 .* is NaN"),
        (lambda song: write(song / "low.wav", noise(1, 6)), "low.wav has 6 channels"),
        (lambda song: write(song / "low.wav", noise(1, frames=2 * FRAMES), 2 * RATE), "rates: .*low.wav 16000 Hz"),
        (lambda song: write(song / "low.wav", noise(1, frames=FRAMES - 900)), r"different lengths: .*low.wav 8.64 s"),
        (lambda song: write(song / "low.flac", noise(1), subtype="PCM_16"), "low is there twice: low.flac, low.wav"),
    ],
)
def test_what_would_break_training_is_a_problem_that_names_the_file(song, damage, message):
    damage(song)
    (report,) = check(song.parent)
    assert len(report.problems) == 1
    with pytest.raises(AudioError, match=message):
        raise AudioError(report.problems[0])
    assert any(part in message for part in ("lengths", "twice")) or report.mix_db is None


def test_layers_may_end_early_and_small_differences_are_notes(song):
    write(song / "high.wav", noise(2, frames=FRAMES - 400))
    (report,) = check(song.parent)
    assert not report.problems and report.notes[0].startswith("different lengths: high.wav 8.70 s, low.wav 8.75 s")
    write(song / "low" / "b.wav", noise(5, frames=1000))
    write(song / "low" / "c.wav", noise(6))
    (song / "low.wav").unlink()
    assert not check(song.parent)[0].problems
    write(song / "high.wav", noise(2, frames=FRAMES - 4000))
    (report,) = check(song.parent)  # stems in layers end where they end
    assert not report.problems and report.notes[0] == "different lengths: high 8.25 s, low 8.75 s, mixture 8.75 s"


def test_missing_and_extra_stems(song):
    write(song.parent / "b" / "low.wav", noise(1), 16000)
    found = items(song.parent)
    assert [check_song(item).notes for item in found] == [(), ("no high",)]
    assert over_songs(found, check(song.parent)) == ([], ["songs of different sample rates: 8000, 16000 Hz"])
    found = items(song.parent, stems=["high", "flute"])
    reports = [check_song(item) for item in found]
    assert reports[1].notes == ("no high", "no flute", "extra stem low")
    assert over_songs(found, reports)[0] == ["no song has the stem flute"]


@pytest.fixture
def prepared(song, tmp_path):
    write(song.parent / "b" / "low.wav", noise(3))
    write(song.parent / "b" / "high.wav", noise(4))
    with filling(tmp_path / "out"):
        for task in plan(song.parent, tmp_path / "out", sample_rate=RATE, stems=None, musdb=False, valid=1)[0]:
            prepare_song(task)
    return tmp_path / "out"


def test_prepared_songs_are_checked_by_the_same_rules(prepared):
    reports = check(prepared)
    assert {(report.split, report.sample_rate) for report in reports} == {("train", RATE), ("valid", RATE)}
    assert all(not report.problems and not report.notes and report.seconds == FRAMES / RATE for report in reports)


@pytest.mark.parametrize("manifest", [True, False])
def test_one_changed_sample_of_a_prepared_song_is_found_by_its_checksum(prepared, manifest):
    (path,) = prepared.glob("train/*/low/low.npy")
    np.load(path, mmap_mode="r+")[-1, 0] ^= 1
    if not manifest:
        (path.parents[1] / "song.json").unlink()
    problems = [problem for report in check(prepared) for problem in report.problems]
    assert problems == [f"{path}: its samples have changed since it was prepared"] * manifest


def test_damaged_and_missing_prepared_files_are_problems(prepared):
    (low,) = prepared.glob("train/*/low/low.npy")
    low.unlink()
    (high,) = prepared.glob("valid/*/high/high.npy")
    high.write_bytes(high.read_bytes()[:1000])
    problems = {report.split: report.problems for report in check(prepared)}
    assert problems["train"] == (f"{low}: is missing",)
    assert len(problems["valid"]) == 1 and problems["valid"][0].startswith(f"{high}: damaged")


def test_prepared_songs_of_different_rates_are_a_problem(prepared):
    (manifest,) = prepared.glob("train/*/song.json")
    manifest.write_text(manifest.read_text().replace('"sample_rate": 8000', '"sample_rate": 9000'))
    found = items(prepared)
    problems, _ = over_songs(found, [check_song(item) for item in found])
    assert problems == ["songs of different sample rates: 8000, 9000 Hz"]
