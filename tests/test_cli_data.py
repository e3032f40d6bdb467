"""`sepctl data` as people call it: what goes where, and the exit codes."""

import functools
import importlib.util
import json
import os
import signal
from pathlib import Path

import audiofiles as af
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from separator.cli import program
from separator.errors import ResourceError
from separator.train import check, prepare

RATE = 8000
STEMPEG = importlib.util.find_spec("stempeg")  # not imported: that needs the ffmpeg program
NAME = "The Easton Ellises - Falcon 69"
EXCERPT = STEMPEG and Path(STEMPEG.origin).parent / "data" / f"{NAME}.stem.mp4"


def data(*arguments):
    return CliRunner().invoke(program, ["data", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n, song in enumerate(("a", "b", "c")):
        for stem in ("low", "high"):
            path = tmp_path / "songs" / song / f"{stem}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            audio = np.random.default_rng(n).standard_normal((20_000, 2)) * 0.1
            soundfile.write(path, audio, RATE)
    return tmp_path / "songs"


def test_prepare_prints_the_folder_and_a_summary(source):
    done = data("prepare", "songs", "out", "--sample-rate", RATE, "--jobs", 1, "--valid", 1)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out\n"
    size = 3 * 2 * 20_000 * 4 / 2**20
    assert done.stderr == f"3 songs (0 were there already), 0.00 h, {size:.1f} MiB\n"
    assert len(list(Path("out").glob("train/*/song.json"))) == 2 and len(list(Path("out").glob("valid/*/*/*.npy"))) == 2
    again = data("prepare", "songs", "out", "--sample-rate", RATE, "--jobs", 1, "--valid", 1)
    assert again.exit_code == 0 and "3 songs (3 were there already)" in again.stderr


def test_a_corrupt_song_in_the_middle_is_named_and_the_others_are_done(source):
    path = source / "b" / "low.flac"
    path.write_bytes(path.read_bytes()[:30_000])
    done = data("prepare", source, "out", "--sample-rate", RATE, "--jobs", 2)
    assert done.exit_code == 1 and done.stdout == "out\n"
    assert "Error: b: " in done.stderr and "low.flac" in done.stderr
    assert "Error: 1 of 3 songs could not be prepared" in done.stderr and "2 songs (0" in done.stderr
    assert sorted(path.parent.name for path in Path("out").glob("*/song.json")) == ["a", "c"]


def test_check_names_the_corrupt_file_and_goes_on(source):
    path = source / "b" / "low.flac"
    path.write_bytes(path.read_bytes()[:30_000])
    checked = data("check", source, "--jobs", 1)
    assert checked.exit_code == 1 and "Error: 1 of 3 songs have problems" in checked.stderr
    assert [line.split()[0] for line in checked.stdout.splitlines()] == ["song", "a", "b", "problem:", "c"]
    assert "low.flac" in checked.stdout


def test_check_as_table_and_as_json(source):
    done = data("check", "songs", "--jobs", 1)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split() == ["a", "-", "0:02.5", "8000", "2", "0", "0.0006", "-"]
    reports = [json.loads(line) for line in data("check", "songs", "--jobs", 1, "--json").stdout.splitlines()]
    assert [report["song"] for report in reports] == ["a", "b", "c"]
    assert all(report["seconds"] == 2.5 and report["problems"] == [] for report in reports)
    wanted = data("check", "songs", "--stems", "low,high,flute", "--jobs", 1)
    assert wanted.exit_code == 1 and "problem: no song has the stem flute" in wanted.stdout


def test_an_empty_folder_and_a_full_valid_split_are_errors(source, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (("check", "empty"), ("prepare", "empty", "out")):
        done = data(*command)
        assert done.exit_code == 5 and "empty: no songs with known stems" in done.stderr
    done = data("prepare", "songs", "out", "--valid", 3)
    assert done.exit_code == 2 and "there are 3 songs to train on" in done.stderr and not Path("out").exists()
    done = data("check", "songs", "--musdb")
    assert done.exit_code == 5 and "this is not MUSDB18" in done.stderr


@pytest.mark.real
@af.needs_ffmpeg
def test_both_editions_of_musdb18_are_prepared_alike(tmp_path, monkeypatch):
    if not EXCERPT:
        pytest.skip("stempeg is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aac" / "test").mkdir(parents=True)
    (tmp_path / "aac" / "test" / EXCERPT.name).symlink_to(EXCERPT)
    hq = tmp_path / "hq" / "test" / NAME
    hq.mkdir(parents=True)
    for number, stem in enumerate(("mixture", "drums", "bass", "other", "vocals")):
        af.ffmpeg("-i", EXCERPT, "-map", f"0:a:{number}", "-c:a", "pcm_f32le", hq / f"{stem}.wav")
    made = []
    for edition in ("aac", "hq"):
        checked = data("check", edition, "--musdb", "--jobs", 1)
        assert checked.exit_code == 0 and checked.stdout.split()[-1] == "15.4", checked.stdout
        done = data("prepare", edition, f"out/{edition}", "--musdb", "--jobs", 1)
        assert done.exit_code == 0, done.stderr
        found = sorted(Path("out", edition, "test", NAME).glob("*/*.npy"))
        assert [path.parent.name for path in found] == ["bass", "drums", "other", "vocals"]
        made.append(np.stack([np.load(path).astype(int) for path in found]))
    assert made[0].shape == (4, 268288, 2)
    assert abs(made[0] - made[1]).max() <= 1 + 2e-4 * 32768
    assert (made[0] != made[1]).mean() < 0.01


WORK = {"prepare_song": prepare.prepare_song, "check_song": check.check_song}


def otherwise(fault, name, item):
    """Does the work of `prepare` or `check`, but for the song called b."""
    if item.song.name != "b":
        return WORK[name](item)
    if isinstance(fault, Exception):
        raise fault
    os.kill(os.getpid(), fault)


@pytest.fixture
def fault_in_b(monkeypatch):
    def plant(fault):
        for module, name in ((prepare, "prepare_song"), (check, "check_song")):
            monkeypatch.setattr(module, name, functools.partial(otherwise, fault, name))

    return plant


@pytest.mark.parametrize(("fault", "jobs", "words"), [
    (ZeroDivisionError("a bug"), 1, ["Traceback", "ZeroDivisionError('a bug')", "bug in sepctl"]),
    (signal.SIGKILL, 2, ["died: SIGKILL", "fewer --jobs"]),
])  # fmt: skip
def test_a_song_that_a_process_dies_of_is_named_and_the_others_are_done(source, fault_in_b, fault, jobs, words):
    fault_in_b(fault)
    done = data("prepare", source, "out", "--sample-rate", RATE, "--jobs", jobs)
    assert done.exit_code == 1 and "Error: b: " in done.stderr and all(word in done.stderr for word in words)
    assert sorted(path.parent.name for path in Path("out").glob("*/song.json")) == ["a", "c"]
    checked = data("check", source, "--jobs", jobs, "--json")
    reports = {report["song"]: report for report in map(json.loads, checked.stdout.splitlines())}
    assert checked.exit_code == 1 and not reports["a"]["problems"] and not reports["c"]["problems"]
    assert [any(word in problem for word in words) for problem in reports["b"]["problems"]] == [True]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_ends_the_run(source, fault_in_b, jobs):
    fault_in_b(ResourceError("the disk is full", hint="free some space"))
    done = data("prepare", source, "out", "--sample-rate", RATE, "--jobs", jobs)
    assert done.exit_code == 6 and "Error: the disk is full\n  hint: free some space" in done.stderr
    assert not done.stdout and "songs could not" not in done.stderr and not Path("out", ".preparing").exists()
    assert data("check", source, "--jobs", jobs).exit_code == 6
