"""Prepared songs hold what other programs decode, survive a kill, and are trusted only when nothing has changed."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import audiofiles as af
import numpy as np
import pytest
import soundfile
import soxr
from test_audio_write import mounted

from separator.corpus import true_songs
from separator.errors import AudioError, ResourceError, UsageError
from separator.train import prepare
from separator.train.prepare import filling, prepare_song
from separator.train.prepared import QUIET, Layer, Song, fingerprint, songs
from separator.train.prepareplan import plan, set_aside

RATE = 8000


def tasks(source, destination, *, sample_rate=RATE, stems=None, musdb=False, valid=None):
    return plan(source, destination, sample_rate=sample_rate, stems=stems, musdb=musdb, valid=valid)[0]


def run(source, destination, **options):
    with filling(destination):
        return [prepare_song(task) for task in tasks(source, destination, **options)]


def tree(folder):
    """Every file that is not hidden, with its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    inside = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in inside.items() if not name.startswith(".")}


@pytest.fixture
def source(tmp_path):
    """Two songs: a stem in layers of mono and stereo, and files of several types."""
    folder = tmp_path / "source"
    for path, channels in {"a/low/one.wav": 1, "a/low/two.flac": 2, "a/high/x.wav": 2, "b/low.flac": 2}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, af.noise(channels, 9001, len(path)).T, RATE, subtype="PCM_16")
    return folder


def test_samples_are_those_that_libsndfile_decodes(source, tmp_path):
    run(source, tmp_path / "out")
    made = {path.relative_to(tmp_path / "out").as_posix(): np.load(path) for path in (tmp_path / "out").rglob("*.npy")}
    assert sorted(made) == ["a/high/x.npy", "a/low/one.npy", "a/low/two.npy", "b/low/low.npy"]
    for name, path in {"a/high/x.npy": "a/high/x.wav", "a/low/one.npy": "a/low/one.wav", "b/low/low.npy": "b/low.flac"
                       }.items():
        audio, _ = soundfile.read(source / path, dtype="int16", always_2d=True)
        np.testing.assert_array_equal(made[name], np.broadcast_to(audio, (9001, 2)))
    whole = io.BytesIO()
    np.save(whole, made["a/high/x.npy"])
    assert (tmp_path / "out/a/high/x.npy").read_bytes() == whole.getvalue()


def test_floats_are_rounded_clipped_and_counted(tmp_path):
    audio = np.array([[0.5 / 32768, 1.5 / 32768, 1.0, 1.5], [-2.0, -1.0, 0.25, -1.00001]], np.float32)
    (tmp_path / "source" / "a").mkdir(parents=True)
    (tmp_path / "source" / "a" / "low.wav").write_bytes(af.riff(audio, RATE))
    (report,) = run(tmp_path / "source", tmp_path / "out")
    expected = [[0, -32768], [2, -32768], [32767, 8192], [32767, -32768]]  # halves to even
    assert np.load(tmp_path / "out/a/low/low.npy").tolist() == expected
    assert report.clipped == 3 and report.notes == ("low/low.npy: 3 samples beyond full scale, clipped",)


def test_another_rate_is_resampled_like_soxr_does_at_once(source, tmp_path):
    (report, _) = run(source, tmp_path / "out", sample_rate=11025)
    audio, _ = soundfile.read(source / "a/high/x.wav", dtype="float32")
    expected = np.clip(np.rint(soxr.resample(audio, RATE, 11025, quality="VHQ") * 32768), -32768, 32767)
    made = np.load(tmp_path / "out/a/high/x.npy").astype(int)
    assert len(made) == round(9001 * 11025 / RATE)
    length = min(len(made), len(expected))
    assert abs(made[:length] - expected[:length]).max() <= 1
    assert report.clipped > 0   # noise of full scale overshoots between its samples
    assert songs(tmp_path / "out", 11025)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is looked up in /proc")
def test_a_long_song_takes_no_more_memory_than_a_short_one(tmp_path):
    peaks = []
    for minutes in (1, 30):
        source = tmp_path / str(minutes)
        (source / "a").mkdir(parents=True)
        soundfile.write(source / "a" / "low.flac", np.tile(af.noise(1, RATE * 6).T, (10 * minutes, 1)), RATE)
        code = (
            "import test_prepare as t; from pathlib import Path as P;"
            f"t.run(P({str(source)!r}), P({str(tmp_path / 'out')!r}) / '{minutes}', sample_rate=12000);"
            "print(P('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    shutil.rmtree(tmp_path / "out")
    assert peaks[1] - peaks[0] < 15     # MiB; the floats of the long one are 165


def test_what_is_complete_is_kept_and_what_changed_is_made_again(source, tmp_path):
    out = tmp_path / "out"
    assert [report.kept for report in run(source, out)] == [False, False]
    before = tree(out)
    assert [report.kept for report in run(source, out)] == [True, True]
    layer = out / "a/low/two.npy"
    data = bytearray(layer.read_bytes())
    data[5000] ^= 1     # one bit
    layer.write_bytes(data)
    assert [report.kept for report in run(source, out)] == [False, True]
    assert tree(out) == before
    (out / "b" / "song.json").write_text("{}")
    assert [report.kept for report in run(source, out)] == [True, False]
    os.utime(source / "b/low.flac", ns=(1, 1))
    assert [report.kept for report in run(source, out)] == [True, False]
    assert [report.kept for report in run(source, out, sample_rate=4000)] == [False, False]
    assert [report.kept for report in run(source, out, stems=["low"], sample_rate=4000)] == [False, True]
    assert not (out / "a/high").exists()


def test_a_killed_run_is_resumed_to_the_same_bytes(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for n in range(6):
        for stem in ("low", "high"):
            (source / f"song{n}").mkdir(parents=True, exist_ok=True)
            soundfile.write(source / f"song{n}" / f"{stem}.wav", af.noise(2, 400_000, n).T, 44100)
    command = [sys.executable, "-m", "separator", "data", "prepare", str(source), str(out), "--jobs", "1"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    while not (any(out.glob("*/song.json")) and any(out.glob(".preparing/*/*/*.npy"))):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {path.parent.name for path in out.glob("*/song.json")}
    assert 0 < len(left) < 6 and any((out / ".preparing").iterdir())
    assert {song.folder.name for song in songs(out)} == left   # training never sees a half-written song
    kept = {task.song.name for task in tasks(source, out, sample_rate=44100) if prepare_song(task).kept}
    assert kept == left
    run(source, out, sample_rate=44100)
    assert not (out / ".preparing").exists()
    run(source, tmp_path / "clean", sample_rate=44100)
    assert tree(out) == tree(tmp_path / "clean")


def test_a_broken_file_is_named_and_leaves_nothing(source, tmp_path):
    data = (source / "a/low/two.flac").read_bytes()
    (source / "a/low/two.flac").write_bytes(data[: len(data) // 2])
    first, second = tasks(source, tmp_path / "out")
    with filling(tmp_path / "out"):
        with pytest.raises(AudioError, match=r"two\.flac.*\n.*replace the file, or take the song out"):
            prepare_song(first)
        assert not any((tmp_path / "out").rglob("*.npy"))
        assert not prepare_song(second).kept
    assert [song.folder.name for song in songs(tmp_path / "out")] == ["b"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_leaves_nothing_half_written_and_keeps_what_was_complete(source, tmp_path, monkeypatch, number):
    out = tmp_path / "out"
    run(source, out)
    before = tree(out)
    os.utime(source / "a/high/x.wav", ns=(1, 1))

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(prepare.os, "fsync", fail)
    kind, message = (ResourceError, "the disk is full") if number == errno.ENOSPC else (AudioError, "Permission denied")
    with pytest.raises(kind, match=message):
        run(source, out)
    assert tree(out) == before and not (out / ".preparing").exists()


def test_a_disk_that_is_really_full_keeps_the_song_before(source, tmp_path):
    with mounted(tmp_path / "full", "size=200k") as folder:     # a takes 72 kB, b then finds no room for 36
        (folder / "other").write_bytes(bytes(100_000))
        a, b = tasks(source, folder / "out", stems=["low"])
        with filling(folder / "out"):
            assert not prepare_song(a).kept
            with pytest.raises(ResourceError, match="the disk is full"):
                prepare_song(b)
        assert {path.parts[-3] for path in (folder / "out").rglob("*.npy")} == {"a"}
        assert not (folder / "out" / ".preparing").exists()


def test_a_disk_that_reads_back_something_else_is_noticed(source, tmp_path, monkeypatch):
    real = prepare._read_back
    monkeypatch.setattr(prepare, "_read_back", lambda path: (real(path)[0], "0" * 64))
    with pytest.raises(ResourceError, match="reads back other than it was written"):
        run(source, tmp_path / "out")
    assert not tree(tmp_path / "out")


def test_two_runs_do_not_fill_one_folder_at_once(tmp_path):
    with filling(tmp_path / "out"), pytest.raises(UsageError, match="being filled by another run"), \
            filling(tmp_path / "out"):
        pass


def test_songs_set_aside_are_always_the_same_and_never_all(tmp_path):
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / "low.wav").touch()
    found = true_songs(tmp_path)
    chosen = {song.name for song in set_aside(found, 3) if song.split == "valid"}
    assert len(chosen) == 3 and chosen == {song.name for song in set_aside(found[::-1], 3) if song.split == "valid"}
    assert chosen < {song.name for song in set_aside(found, 5) if song.split == "valid"}
    assert {song.split for song in set_aside(found, 3)} == {"train", "valid"}
    for count in (0, 8, 9):
        with pytest.raises(UsageError, match="there are 8 songs to train on"):
            set_aside(found, count)
    with pytest.raises(UsageError, match="valid split already"):
        set_aside(set_aside(found, 3), 1)


def test_plans_that_would_do_harm_are_refused_before_any_work(source, tmp_path):
    for destination in (source, source / "x", tmp_path):
        with pytest.raises(UsageError, match="lie in each other"):
            tasks(source, destination)
    with pytest.raises(AudioError, match="no song has the stem flute"):
        tasks(source, tmp_path / "out", stems=["low", "flute"])
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "novel.txt").write_text("mine")
    with pytest.raises(UsageError, match="novel.txt is in the way"):
        tasks(source, tmp_path / "out")
    run(source, tmp_path / "p")
    with pytest.raises(UsageError, match="a was prepared from the same song, which now goes elsewhere"):
        tasks(source, tmp_path / "p", valid=1)
    shutil.move(source / "a", source / "c")
    _, notes = plan(source, tmp_path / "p", sample_rate=RATE, stems=["low", "high"], musdb=False, valid=None)
    assert notes == ["without high: b", f"{tmp_path / 'p'} also holds songs of another run: a"]


def test_a_song_without_any_wanted_stem_fails_alone(source, tmp_path):
    _, b = tasks(source, tmp_path / "out", stems=["high"])
    with pytest.raises(AudioError, match="b has none of the stems"):
        prepare_song(b)


def test_a_name_that_no_manifest_can_hold_fails_with_a_word(source, tmp_path):
    os.rename(source / "b/low.flac", os.fsencode(source / "b") + b"/l\xf8w.flac")
    _, b = tasks(source, tmp_path / "out")
    with pytest.raises(AudioError, match="not a name in UTF-8"):
        prepare_song(b)


# What training reads.


def test_excerpts_are_slices_of_the_sources(source, tmp_path):
    run(source, tmp_path / "out")
    a, b = songs(tmp_path / "out")
    one, _ = soundfile.read(source / "a/low/one.wav", always_2d=True)
    two, _ = soundfile.read(source / "a/low/two.flac")
    expected = (0.5 * one + two)[1000:1700].T
    np.testing.assert_allclose(a.excerpt("low", 1000, 700, [0.5, 1.0]), expected, atol=1e-6)
    assert a.frames == 9001 and not b.excerpt("high", 0, 10).any()
    end = a.excerpt("low", 9000, 5)
    np.testing.assert_allclose(end[:, 0], (one + two)[9000], atol=1e-6)
    assert not end[:, 1:].any()


def test_silence_is_not_read_and_nothing_else_is_left_out(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, (300_000, 2))
    samples[1:QUIET - 1], samples[2 * QUIET : 6 * QUIET], samples[-QUIET:] = 0, 0, 0
    (tmp_path / "in/a/low").mkdir(parents=True)
    (tmp_path / "in/a/high").mkdir()
    soundfile.write(tmp_path / "in/a/low/one.wav", samples, 8000, "PCM_16")
    soundfile.write(tmp_path / "in/a/high/two.wav", 0 * samples, 8000, "PCM_16")
    run(tmp_path / "in", tmp_path / "out")
    (song,) = songs(tmp_path / "out")
    reads = []
    monkeypatch.setattr(Layer, "read", lambda *what, read=Layer.read: reads.append(what[2]) or read(*what))
    places = (0, 300_000), (QUIET - 3, 5 * QUIET), (2 * QUIET - 1, 2), (3 * QUIET, QUIET), (250_000, 99_999)
    for start, length in places:
        truth = np.pad(samples, ((0, QUIET * 4), (0, 0)))[start : start + length].T
        np.testing.assert_allclose(song.excerpt("low", start, length), truth, atol=4e-5)  # PCM of 16 bits
        assert not song.excerpt("high", start, length).any()
    assert reads == [2 * QUIET, 3 * QUIET, QUIET + 3, 1, 9 * QUIET - 250_000]
    assert song.manifest.layers["high/two.npy"].sounding == ()


def test_songs_without_a_manifest_are_still_read(source, tmp_path):
    run(source, tmp_path / "out")
    with_it = fingerprint(songs(tmp_path / "out"))
    for path in (tmp_path / "out").glob("*/song.json"):
        path.unlink()
    assert fingerprint(songs(tmp_path / "out", 44100)) == with_it


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda song: (song / "low/one.npy").unlink(), "one.npy: is missing"),
        (lambda song: shutil.copy(song / "low/one.npy", song / "low/new.npy"), "new.npy: is not in song.json"),
        (lambda song: os.truncate(song / "low/one.npy", 20_000), "one.npy: damaged"),
        (lambda song: (song / "low/one.npy").write_bytes(b""), "one.npy: damaged"),
        (lambda song: (song / "song.json").write_text("{"), "song.json: damaged"),
        (lambda song: np.save(song / "low/one.npy", np.zeros((9001, 2))), r"expected int16 \[frames, 2\], got float64"),
        (lambda song: np.save(song / "low/one.npy", np.zeros((5, 2), np.int16)), "has 5 frames, song.json says 9001"),
    ],
)
def test_damage_names_the_file_and_the_cure(source, tmp_path, damage, message):
    run(source, tmp_path / "out")
    damage(tmp_path / "out" / "a")
    with pytest.raises(AudioError, match=rf"{message}[\s\S]*sepctl data prepare"):
        _ = [song.layers for song in songs(tmp_path / "out")]


def test_a_file_that_shrinks_or_goes_while_in_use_is_an_error(source, tmp_path):
    run(source, tmp_path / "out")
    layer = Layer.open(tmp_path / "out/b/low/low.npy")
    os.truncate(layer.path, 20_000)
    assert len(layer.read(0, 100)) == 100
    with pytest.raises(AudioError, match="became shorter"):
        layer.read(8000, 100)
    layer.path.unlink()
    with pytest.raises(AudioError, match="cannot be read"):
        layer.read(0, 1)


def test_rates_must_agree(source, tmp_path):
    run(source, tmp_path / "out")
    with pytest.raises(AudioError, match=r"prepared at 8000 Hz, 44100 Hz are needed[\s\S]*--sample-rate 44100"):
        songs(tmp_path / "out", 44100)
    path = tmp_path / "out/b/song.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_rate": 9000}))
    with pytest.raises(AudioError, match="a 8000 Hz, b 9000 Hz"):
        songs(tmp_path / "out")


def test_no_songs_and_splits_are_told_apart(source, tmp_path):
    with pytest.raises(AudioError, match=r"no prepared songs[\s\S]*sepctl data prepare"):
        songs(source)
    run(source, tmp_path / "out", valid=1)
    with pytest.raises(AudioError, match=rf"name one of its splits: {tmp_path}/out/train, {tmp_path}/out/valid"):
        songs(tmp_path / "out")
    assert len(songs(tmp_path / "out" / "valid")) == 1


def test_the_fingerprint_knows_names_and_content_but_not_places_times_or_order(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    found = songs(out)
    before = fingerprint(found)
    shutil.copytree(out, tmp_path / "moved")
    assert fingerprint([Song(song.folder) for song in songs(tmp_path / "moved")[::-1]]) == before
    assert fingerprint(found[:1]) != before
    seen = {before}
    for change in (0, 9000, 9001 * 4 // 7 - 200):   # first, last, and a sample in between that is probed
        shutil.rmtree(tmp_path / "moved")
        shutil.copytree(out, tmp_path / "moved")
        array = np.load(tmp_path / "moved/a/high/x.npy", mmap_mode="r+")
        array[change] ^= 1
        array.flush()
        seen.add(fingerprint(songs(tmp_path / "moved")))
    (tmp_path / "moved/a").rename(tmp_path / "moved/renamed")
    seen.add(fingerprint(songs(tmp_path / "moved")))
    assert len(seen) == 5
