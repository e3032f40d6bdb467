"""`sepctl split` with many songs, from the command line to the files: inputs, plan, exit codes, signals, shards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from separator.batch.manifest import latest, open_manifest
from separator.cli import program
from separator.errors import Interrupted, UsageError
from tests.audiofiles import endless

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENT = (DOCS / "batch.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.usefixtures("one_core")
RATE = 8000
STEMS = ["vocals", "drums", "bass", "other"]
Run = Callable[..., Result]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`sepctl split ARGUMENTS` with the tiny model, inside tmp_path."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object, model: object = tiny_model, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(program, ["split", "--model", str(model), *map(str, arguments)], input=stdin)

    return invoke


def noise(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(len(path.name)).standard_normal((round(seconds * RATE), 2)) * 0.1, RATE)
    return path


def records(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def stems(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}


def test_a_tree_is_mirrored_and_recorded(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    import hashlib

    songs = [noise(tmp_path / f"music/{name}") for name in ("b/x.wav", "a/x.wav", "x.flac")]
    done = run("-r", "music", "--stems", "vocals,bass")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [f"stems/{folder}/{stem}.wav" for folder in ("a/x", "b/x", "x")
                                        for stem in ("vocals", "bass")]
    lines = records(tmp_path / "stems/manifest.jsonl")
    assert [line["input"] for line in lines] == [str(songs[n]) for n in (1, 0, 2)]
    for line, song in zip(lines, (songs[1], songs[0], songs[2]), strict=True):
        status = song.stat()
        assert (line["schema"], line["status"], line["attempt"]) == (1, "done", 1)
        assert (line["size"], line["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
        assert line["sha256"] == hashlib.sha256(song.read_bytes()).hexdigest()
        assert line["model_sha256"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
        assert (line["duration_s"], line["frames"], line["sample_rate"], line["channels"]) == (0.5, 4000, RATE, 2)
        assert line["elapsed_s"] > 0 and line["peak_memory"] > 1e7
        for output in line["outputs"].values():
            stem = tmp_path / "stems" / output["path"]
            samples = soundfile.read(stem)[0]
            assert (output["size"], output["sha256"]) == (
                stem.stat().st_size, hashlib.sha256(stem.read_bytes()).hexdigest())
            assert output["peak"] == pytest.approx(np.abs(samples).max(), abs=1e-4)
            assert output["rms"] == pytest.approx(np.sqrt(np.mean(samples ** 2)), abs=1e-4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stems").rglob("*.wav")}
    again = run("-r", "music", "--stems", "vocals,bass", "--skip-existing", "-q")       # by the manifest
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "stems").rglob("*.wav")} == before
    assert len(records(tmp_path / "stems/manifest.jsonl")) == 3
    stem = tmp_path / "stems/b/x/bass.wav"
    good = stem.read_bytes()
    stem.write_bytes(good[:-2] + bytes(byte ^ 1 for byte in good[-2:]))     # it still says that it is this work
    assert "x.wav" not in run("-r", "music", "--stems", "vocals,bass", "--skip-existing").stdout
    verified = run("-r", "music", "--stems", "vocals,bass", "--skip-existing", "--verify")
    assert verified.exit_code == 1 and "bass.wav is no longer as sepctl wrote it" in verified.stderr
    assert verified.stdout == "" and stem.read_bytes() != good
    restored = run("-r", "music", "--stems", "vocals,bass", "--overwrite", "--resume", "--verify")
    assert restored.stdout.splitlines() == ["stems/b/x/vocals.wav", "stems/b/x/bass.wav"]
    assert stem.read_bytes() == good


def test_measured_warnings_are_recorded(run: Run, tmp_path: Path) -> None:
    """Random masks divide noise badly; silence has four silent stems; loud stems are clipped."""
    noise(tmp_path / "noise.wav")
    soundfile.write(tmp_path / "silence.wav", np.zeros((4000, 2)), RATE)
    samples = np.random.default_rng(0).standard_normal((4000, 2)) * 5
    soundfile.write(tmp_path / "loud.wav", samples, RATE, subtype="FLOAT")
    assert run("noise.wav", "silence.wav", "loud.wav").exit_code == 0
    noisy, silent, loud = records(tmp_path / "stems/manifest.jsonl")
    heard = [soundfile.read(tmp_path / f"stems/noise/{stem}.wav")[0] for stem in STEMS]
    share = sum(np.sum(stem ** 2) for stem in heard) / np.sum(sum(heard) ** 2)
    assert noisy["division"] == pytest.approx(share, rel=0.02)
    assert ("low_confidence" in noisy["warnings"]) == (share < 0.5)
    assert set(silent["warnings"]) == {"silent"} and silent["division"] is None
    assert silent["warnings"]["silent"].endswith(", ".join(STEMS))
    assert "clipped" in loud["warnings"] and sum(output["clipped"] for output in loud["outputs"].values()) > 0


def test_jobs_do_not_change_a_bit(run: Run, tmp_path: Path) -> None:
    """With as many threads for each worker."""
    names = [noise(tmp_path / f"{number}.wav", 0.3 + number / 10).name for number in range(4)]
    assert run(*names, "-o", "one").exit_code == 0
    listed = "\n".join(names).encode()
    assert run("--from-file", "-", "--jobs", "2", "-o", "two", stdin=listed).exit_code == 0
    assert stems(tmp_path / "one") == stems(tmp_path / "two")
    assert len(stems(tmp_path / "one")) == 16


def test_a_list_with_nuls_and_a_template_for_one_song(run: Run, tmp_path: Path) -> None:
    """One song of a list is a batch too: scripts find the manifest whatever the list holds."""
    noise(tmp_path / "a b.wav")
    (tmp_path / "list").write_bytes(b"a b.wav\0")
    done = run("--from-file", "list", "-0", "--stems", "bass", "--template", "{track}.{ext}")
    assert (done.exit_code, done.stdout) == (0, "stems/a b.wav\n")
    assert len(records(tmp_path / "stems/manifest.jsonl")) == 1


def test_the_plan_is_shown_and_nothing_is_done(run: Run, tmp_path: Path) -> None:
    noise(tmp_path / "music/a.wav", 2.0)
    noise(tmp_path / "music/b/c.wav", 1.0)
    (tmp_path / "music/bad.mp3").write_bytes(b"x")
    done = run("-r", "music", "--dry-run", "--stems", "vocals,bass")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["0:00:02", "music/a.wav", "->", "stems/a/{bass,vocals}"]
    assert [line.split()[0] for line in lines[1:3]] == ["0:00:01", "?"]
    assert lines[3] == "3 songs to split, 0 finished already: 0:00:03 of audio, 1 of unknown length"
    assert "x real time, estimated from 10 s of noise" in lines[5]
    assert not (tmp_path / "stems").exists()
    done = run("-r", "music", "--dry-run", "--json", "--jobs", "2")
    *planned, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["event"], event["song"], event["duration_s"]) for event in planned] == [
        ("planned", "music/a.wav", 2.0), ("planned", "music/b/c.wav", 1.0), ("planned", "music/bad.mp3", None)]
    assert summary["need_bytes"] == 3 * RATE * 2 * 2 * 4 == sum(event["need_bytes"] or 0 for event in planned)
    assert (summary["songs"], summary["dry_run"], summary["unknown_durations"]) == (3, True, 1)
    assert summary["estimate_s"] == pytest.approx(3 / summary["x_real_time"], abs=0.06)


def test_a_disk_that_cannot_hold_the_batch_is_seen_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [noise(tmp_path / f"{name}.wav", 1.0) for name in "ab"]     # 128 kB of stems each
    monkeypatch.setattr("separator.batch.plan.free_bytes", lambda _: 200_000)
    done = run(*names)
    assert done.exit_code == 6
    assert done.stderr.startswith("Error: the stems of 2 songs need 0.0 GB, but stems has 0.0 GB\n  hint: free some")
    assert not (tmp_path / "stems").exists()
    assert run(*names, "--dry-run").exit_code == 6
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(*names).exit_code == 0
    monkeypatch.setattr("separator.batch.plan.free_bytes", lambda _: 0)
    for options in (["--overwrite"], ["--overwrite", "--resume", "--no-exact-sum"]):    # stems give way to new ones
        assert run(*names, "--dry-run", *options).exit_code == 0
    assert run(*names, "--dry-run", "--overwrite", "--bit-depth", "24").exit_code == 6


def test_a_song_that_would_fill_the_disk_alone_stops_no_other(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [noise(tmp_path / "a.wav", 1.0), noise(tmp_path / "b.wav", 10.0)]       # 0.1 and 1.3 MB of stems
    monkeypatch.setattr("separator.batch.plan.free_bytes", lambda _: 200_000)
    assert run(*names).exit_code == 0       # its header might be wrong; here the disk has room after all


def test_stems_of_other_work_are_not_taken_for_finished_ones_of_the_same_size(run: Run, tmp_path: Path) -> None:
    names = [noise(tmp_path / f"{name}.wav", 3.0) for name in "ab"]
    assert run(*names, "--start", 1, "--duration", 1).exit_code == 0
    assert run("a.wav", "--start", 2, "--duration", 1, "--overwrite").exit_code == 0    # alone: leaves no record
    assert run("b.wav", "--start", 2, "--duration", 1, "--overwrite", "--retries", 0).exit_code == 0
    before = stems(tmp_path)
    for option in ("--skip-existing", "--resume"):
        done = run(*names, "--start", 1, "--duration", 1, option)
        assert done.exit_code == 1 and "already split" not in done.stderr, done.output
        assert "it has start_s 2" in done.stderr and stems(tmp_path) == before
    assert run(*names, "--start", 1, "--duration", 1, "--overwrite", "--resume").exit_code == 0
    assert stems(tmp_path) != before


@pytest.mark.parametrize("option", ["--skip-existing", "--resume"])
def test_stems_of_a_songs_newer_state_that_no_record_tells_of_are_finished(
    run: Run, tmp_path: Path, option: str
) -> None:
    names = [noise(tmp_path / f"{name}.wav") for name in "ab"]
    assert run(*names).exit_code == 0
    shutil.copy(noise(tmp_path / "other.wav"), tmp_path / "a.wav")
    assert run("a.wav", "--overwrite").exit_code == 0
    before = stems(tmp_path)
    done = run(*names, option)
    assert done.exit_code == 0 and done.stderr.count("already split, skipped") == 2, done.output
    assert stems(tmp_path) == before


def test_manifests_of_other_programs_are_left_alone(run: Run, tmp_path: Path) -> None:
    names = [noise(tmp_path / f"{name}.wav") for name in "ab"]
    assert run(*names).exit_code == 0
    (tmp_path / "stems/manifest_train.jsonl").write_text('{"audio_filepath": "x.wav", "duration": 1}\n')
    assert run(*names, "--resume").exit_code == 0
    done = CliRunner().invoke(program, ["report", "stems"])
    assert done.exit_code == 0 and done.stdout.startswith("2 songs"), done.output
    (tmp_path / "song.bin").write_bytes(bytes(range(256)) * 9)
    done = CliRunner().invoke(program, ["report", "song.bin"])
    assert done.exit_code == 2 and "song.bin is not a manifest of sepctl" in done.stderr


def test_a_parent_folder_behind_a_link_is_that_of_the_folder_it_leads_to(run: Run, tmp_path: Path) -> None:
    noise(tmp_path / "a.wav")
    (tmp_path / "disk/music").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "disk/music")
    done = run("a.wav", "--stems", "bass", "-o", "here/link/../out")
    assert done.exit_code == 0 and (tmp_path / "disk/out/a/bass.wav").exists(), done.output
    assert not (tmp_path / "here/out").exists()


def test_two_runs_in_one_folder_are_refused(run: Run, tmp_path: Path) -> None:
    names = [noise(tmp_path / f"{name}.wav") for name in "ab"]
    with open_manifest(tmp_path / "stems/manifest.jsonl"):
        done = run(*names)
    assert done.exit_code == 2
    assert "another run is writing stems/manifest.jsonl\n  hint: wait for it, or use another --out" in done.stderr
    assert not list((tmp_path / "stems").glob("*.wav"))


def test_what_is_finished_is_asked_only_while_no_other_run_adds_to_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from separator.cli import batch

    held: list[bool] = []

    def asked(*arguments: Any) -> dict[str, Any]:
        try:
            with open_manifest(tmp_path / "stems/manifest.jsonl"):
                held.append(False)
        except UsageError:
            held.append(True)
        return latest(*arguments)

    monkeypatch.setattr(batch, "latest", asked)
    assert run(noise(tmp_path / "a.wav"), "--resume").exit_code == 0
    assert held == [True]


@pytest.mark.parametrize("name", ["notes.txt", "", ".", "folder"])
def test_what_is_no_manifest_is_refused_as_one_and_left_alone(run: Run, tmp_path: Path, name: str) -> None:
    noise(tmp_path / "a.wav")
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("my notes\nprecious last line")
    for resume in ([], ["--resume"], ["--resume", "--dry-run"]):
        done = run("a.wav", "--manifest", name, *resume)
        if name != "notes.txt" or "--dry-run" not in resume:
            assert (done.exit_code, done.stdout) == (2, "")
            assert (name or ".") in done.stderr
    assert (tmp_path / "notes.txt").read_text() == "my notes\nprecious last line"
    assert not (tmp_path / "stems").exists()


def test_lines_of_a_list_are_no_patterns_and_fail_alone(run: Run, tmp_path: Path) -> None:
    noise(tmp_path / "zza.wav")
    noise(tmp_path / "dash.wav").rename(tmp_path / "-")
    (tmp_path / "list").write_text(f"zz[a].wav\ngone [live].wav\n{'x' * 300}.wav\n./-\n")
    done = run("--from-file", "list", "--stems", "bass")
    assert done.exit_code == 1, done.output
    ends = {Path(line["input"]).name: line["status"] for line in records(tmp_path / "stems/manifest.jsonl")}
    assert ends == {"zz[a].wav": "failed", "gone [live].wav": "failed", f"{'x' * 300}.wav": "failed", "-": "done"}
    done = run("./-", "-o", "alone")        # not stdin
    assert done.exit_code == 0 and "alone/-/bass.wav" in done.stdout


def test_other_work_in_the_same_folder_is_not_in_the_way_of_resume(run: Run, tmp_path: Path) -> None:
    names = [noise(tmp_path / f"{name}.wav") for name in "ab"]
    for extension in ("wav", "flac"):
        assert run(*names, "-f", extension, "--resume").exit_code == 0
    for extension in ("wav", "flac"):
        done = run(*names, "-f", extension, "--resume", "--json")
        assert json.loads(done.stdout.splitlines()[-1])["skipped"] == 2


def test_a_batch_that_overwrites_goes_on(run: Run, tmp_path: Path) -> None:
    """What it has replaced is not done again; all else is replaced, whoever made it."""
    names = [noise(tmp_path / f"{name}.wav").name for name in "abc"]
    assert run(*names, "--stems", "bass").exit_code == 0
    (tmp_path / "stems/c/bass.wav").write_bytes(b"other")
    assert run("a.wav", "--jobs", "1", "--stems", "bass", "--wiener", "2", "--overwrite").exit_code == 0    # and there
    done = run(*names, "--stems", "bass", "--wiener", "2", "--overwrite", "--resume")
    assert (done.exit_code, done.stdout.splitlines()) == (0, ["stems/b/bass.wav", "stems/c/bass.wav"]), done.output


@pytest.mark.parametrize(("skip_existing", "words"), [
    (False, "the same command with --resume goes on"), (True, "the same command goes on")])
def test_an_interrupted_batch_says_how_it_goes_on(tmp_path: Path, skip_existing: bool, words: str) -> None:
    from separator.batch.plan import Task
    from separator.cli.batch import Batch, _run
    from separator.cli.events import HumanBatch
    from separator.jobs import Job, Song

    class Drained:
        def run(self, tasks: object) -> Iterator[Any]:
            yield from ()

        def drain(self) -> None: ...

    batch = Batch([Task(1, Song(tmp_path / "a.wav"), {})], [], Job(stems=(), skip_existing=skip_existing))
    with open_manifest(tmp_path / "m.jsonl") as manifest, pytest.raises(Interrupted) as told:
        _run(batch, Drained(), manifest, HumanBatch(quiet=True))        # type: ignore[arg-type]
    assert told.value.hint == words


def test_our_stems_are_songs_where_they_are_named_if_by_a_pattern(run: Run, tmp_path: Path) -> None:
    assert run(noise(tmp_path / "a.wav")).exit_code == 0
    done = run("stems/*/bass.wav", "-o", "again", "--stems", "drums", "--jobs", "1")
    assert (done.exit_code, done.stdout) == (0, "again/bass/drums.wav\n"), done.output
    done = run("-r", "stems", "-o", "third")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nothing to split: left out, for they are stems that sepctl made, 4 files" in done.stderr


def test_a_single_song_is_a_batch_if_options_of_batches_say_so(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise(tmp_path / "a.wav")
    assert run("a.wav").exit_code == 0 and not (tmp_path / "stems/manifest.jsonl").exists()
    done = run("a.wav", "--skip-existing", "--verify")
    assert done.exit_code == 0, done.output
    assert "cannot be verified" in caplog.text          # made alone: no record has its hashes
    assert "already split, skipped" in run("a.wav", "--resume", "--verify").stderr
    assert run("a.wav", "--retries", "0", "-o", "other").exit_code == 0
    assert [line["status"] for line in records(tmp_path / "other/manifest.jsonl")] == ["done"]
    (tmp_path / "other/a/bass.wav").write_bytes((tmp_path / "other/a/bass.wav").read_bytes()[:-1] + b"?")
    assert "bass.wav is no longer as" in run("a.wav", "--skip-existing", "--verify", "-o", "other").stderr


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["a.wav", "b.wav", "--resume", "--skip-existing"], 2, "--skip-existing and --resume exclude each other"),
    (["a.wav", "b.wav", "--verify"], 2, "add --skip-existing or --resume"), (["a.wav", "-0"], 2, "add --from-file"),
    (["a.wav", "--shard", "3/2"], 2, "'3/2' is not a part of a whole"), (["a.wav", "--timeout", "0"], 2, "--timeout"),
    (["-", "--jobs", "2"], 2, "a song from stdin (-) is split alone"), (["-", "a.wav"], 2, "is split alone"),
    (["a.wav", "-r", "-o", "-", "--stems", "bass"], 2, "--out - writes the stem of one song"),
    (["--from-file", "none"], 2, "--from-file none: cannot be read"), (["*.ogg"], 2, "*.ogg matches no file"),
    (["--from-file", "empty"], 2, "the list is empty"), (["--from-file", "dash"], 2, "- stands for stdin only as"),
    (["-r", "void"], 2, "void holds no songs"), ([], 2, "Missing argument 'SONGS...'"),
    (["a.wav", "b.wav", "-m", "none.safetensors"], 4, "none.safetensors"), (["void"], 5, "hint: -r splits the songs"),
    (["/dev/fd/63", "a.wav"], 2, "/dev/fd/63 is open in this process only"),
    (["/proc/self/fd/63", "--resume"], 2, "is open in this process only"),
    (["/dev/stdin", "--retries", "0"], 2, "is open in this process only"),
    (["--from-file", "descriptors"], 2, "/dev/fd/63 is open in this process only"),
    (["-", "--retries", "0"], 2, "is split alone"), (["--from-file", "nuls"], 2, "--from-file nuls: the list has NULs"),
    (["a.wav", "a.flac"], 2, "a.wav and a.flac would both write stems/a/vocals.wav"),
])
def test_what_is_refused_before_any_work(
    run: Run, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    noise(tmp_path / "a.wav")
    noise(tmp_path / "a.flac")
    (tmp_path / "void").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "dash").write_text("-\n")
    (tmp_path / "descriptors").write_text("/dev/fd/63\n")
    (tmp_path / "nuls").write_bytes(b"a.wav\0")
    command = ["split", *arguments, *([] if "-m" in arguments else ["-m", "mini"])]
    done = CliRunner().invoke(program, command, input=b"")
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert not (tmp_path / "stems").exists()


def test_a_model_that_does_not_load_ends_the_batch_with_4(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    """Its header is whole, so that only the worker sees it."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(tiny_model, "pt") as file:
        metadata = file.metadata()
    weights = load_file(tiny_model)
    weights.popitem()
    save_file(weights, tmp_path / "lacking.safetensors", metadata)
    done = run(noise(tmp_path / "a.wav"), noise(tmp_path / "b.wav"), model="lacking.safetensors")
    assert done.exit_code == 4
    assert "lacking.safetensors" in done.stderr and "Traceback" not in done.stderr
    assert records(tmp_path / "stems/manifest.jsonl") == []


def test_shards_are_the_batch_and_their_manifests_merge(run: Run, tmp_path: Path) -> None:
    for number in range(5):
        noise(tmp_path / f"music/{number % 2}/{number}.wav", 0.2 + number / 10)
    for shard in ("1/2", "2/2"):
        done = run("-r", "music", "--shard", shard, "--stems", "bass")
        assert done.exit_code == 0, done.output
    lines = [records(tmp_path / f"stems/manifest-{n}-of-2.jsonl") for n in (1, 2)]
    inputs = [os.path.relpath(line["input"], tmp_path / "music") for each in lines for line in each]
    assert sorted(inputs) == ["0/0.wav", "0/2.wav", "0/4.wav", "1/1.wav", "1/3.wav"]
    loads = [sum(line["duration_s"] for line in each) for each in lines]
    assert abs(loads[0] - loads[1]) <= 0.6
    told = CliRunner().invoke(program, ["report", "stems", "--json"])
    assert json.loads(told.stdout)["done"] == 5
    again = run("-r", "music", "--resume", "--stems", "bass", "--json")      # without shards: all manifests count
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] == 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")
def test_gnu_parallel(tmp_path: Path, tiny_model: Path) -> None:
    """The line of docs/batch.md itself."""
    for number in range(3):
        noise(tmp_path / f"music/{number}.wav")
    line = re.search(r"^parallel .*", DOCUMENT, re.MULTILINE)
    assert line
    command = line[0].replace("sepctl split", f"'{sys.executable}' -m separator split -m '{tiny_model}'")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {f"stems/{number}/{stem}.wav" for number in range(3) for stem in STEMS}
    assert len(list((tmp_path / "stems").glob("manifest-*-of-2.jsonl"))) == 2


def test_the_manifest_is_as_documented(run: Run, tmp_path: Path) -> None:
    """Every key is told of, with the songs that have it, and no other; events are as their schema says."""
    noise(tmp_path / "old.wav")
    assert run("old.wav").exit_code == 0                        # alone: known by its stamps only
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    done = run("old.wav", noise(tmp_path / "new.wav"), "bad.wav", "--skip-existing", "--json")
    assert done.exit_code == 1
    table = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([a-z, ]+) \|", DOCUMENT.split("## The manifest")[1], re.MULTILINE)
    told = {status: {key for keys, of in table if of == "all" or status in of for key in re.findall(r"\w+", keys)}
            for status in ("done", "skipped", "failed")}
    lines = {line["status"]: line for line in records(tmp_path / "stems/manifest.jsonl")}
    assert {status: set(line) for status, line in lines.items()} == told
    kinds = json.loads((DOCS / "events.schema.json").read_text())["oneOf"]
    plan = run("new.wav", "--dry-run", "--json", "--overwrite")
    for event in map(json.loads, [*done.stdout.splitlines(), *plan.stdout.splitlines()]):
        kind, = (kind for kind in kinds if kind["properties"]["event"]["const"] == event["event"]
                 and ("dry_run" in kind["properties"]) == ("dry_run" in event))
        assert set(kind["required"]) <= set(event) <= set(kind["properties"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
def test_the_session_in_the_document_is_what_one_sees(tmp_path: Path, tiny_model: Path) -> None:
    """Command by command; figures may differ, and with more workers the order in which songs end."""
    noise(tmp_path / "music/LP/1.flac", 6.0)
    noise(tmp_path / "music/LP/2.flac", 6.0).rename(tmp_path / "music/LP/2.mp3")
    (tmp_path / "music/broken.mp3").write_bytes(b"no audio" * 99)
    command = f"'{sys.executable}' -m separator"
    session = re.search(r"^```console\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert session
    for shown in session[1].removeprefix("$ ").split("\n$ "):
        line, _, wanted = shown.partition("\n")
        line = re.sub("sepctl split", f"{command} split -m '{tiny_model}'", line)
        line = re.sub("sepctl report", f"{command} report", line)
        done = subprocess.run(["bash", "-c", f"exec 2>&1; {line}"], cwd=tmp_path, capture_output=True, text=True,
                              check=False)
        told = done.stdout.replace(str(tmp_path), "/home/me")
        assert sorted(_masked(told)) == sorted(_masked(wanted)), told


def _masked(text: str) -> list[str]:
    return re.sub(r"[ \d]*\d+[\d.,:]*", " N", text).rstrip("\n").splitlines()


def test_a_terminal_sees_songs_and_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three songs of an hour each: one done, one half done, one to come, after 100 s."""
    from separator.batch.plan import Task
    from separator.cli import events
    from separator.errors import AudioError
    from separator.jobs import Song
    from separator.split import SongResult

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, clock = Terminal(), iter([0.0, 1e-9, 50.0, *[100.0] * 9])
    monkeypatch.setattr(events, "sys", type("sys", (), {"stderr": screen}))
    monkeypatch.setattr(events, "time", type("time", (), {"monotonic": lambda: next(clock)}))
    songs = [Song(Path(f"{name}.wav")) for name in "abcd"]
    human = events.HumanBatch(quiet=False)
    human.planned([Task(number, song, {}, None if number == 4 else 3600.0) for number, song in enumerate(songs, 1)])
    human.progress(songs[1], 1800.0, 3600.0)
    human.done(SongResult(songs[0], {}, 8000, 1, 8000 * 3600, 90.0))
    assert human.bar is not None
    assert human.bar.desc == "1/4 songs"
    assert human.bar.postfix == "1.50/3.00 h of audio, 54.0 x real time, 01:40 left"
    human.failed(songs[3], AudioError("no"))
    human.failed(songs[1], AudioError("no"))
    assert human.bar.desc == "3/4 songs"
    assert human.bar.postfix.startswith("1.00/2.00 h of audio, 36.0 x")     # what failed is no longer to come
    human.stopped()
    assert screen.getvalue().endswith("\r")


# --- signals ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def working(tmp_path: Path, model: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A `sepctl split` that is at the second of its songs."""
    process = subprocess.Popen([sys.executable, "-m", "separator", "split", "-m", str(model), *arguments], cwd=tmp_path,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("stems/second/.*.part")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_one_interrupt_finishes_the_song_in_work(tmp_path: Path, tiny_model: Path) -> None:
    noise(tmp_path / "first.wav")
    endless(tmp_path / "second.wav", RATE)
    noise(tmp_path / "third.wav")
    with working(tmp_path, tiny_model, "first.wav", "second.wav", "third.wav", "--duration", "600") as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout.splitlines() == [f"stems/{name}/{stem}.wav" for name in ("first", "second") for stem in STEMS]
    assert "finishing the songs in work; once more to stop now ...\n" in stderr
    assert "3 songs: 2 done, 1 not begun, in" in stderr
    assert stderr.endswith("Error: interrupted before 1 of 3 songs\n  hint: the same command with --resume goes on\n")
    assert soundfile.info(tmp_path / "stems/second/bass.wav").frames == 600 * RATE
    assert [line["status"] for line in records(tmp_path / "stems/manifest.jsonl")] == ["done", "done"]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc for the children of a process")
def test_an_interrupt_while_workers_start_is_not_theirs(tmp_path: Path, tiny_model: Path) -> None:
    """A terminal's Ctrl-C goes to all processes of its group, also to those that still import."""
    names = [noise(tmp_path / f"{number}.wav").name for number in range(3)]
    command = [sys.executable, "-m", "separator", "split", "-m", str(tiny_model), "--jobs", "2", *names]
    with subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and len(children.read_text().split()) < 3:     # the resource tracker is one
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr and "died" not in stderr
    assert "3 songs: 2 done, 1 not begun, in" in stderr
    assert len(stdout.splitlines()) == 2 * len(STEMS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_song_that_takes_too_long_is_given_up_and_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    noise(tmp_path / "first.wav")
    endless(tmp_path / "second.wav", RATE)
    noise(tmp_path / "third.wav")
    done = subprocess.run([sys.executable, "-m", "separator", "split", "-m", str(tiny_model), "first.wav", "second.wav",
                           "third.wav", "--timeout", "8", "--retries", "0", "--json"], cwd=tmp_path, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 1
    ends = {event["song"]: event for event in map(json.loads, done.stdout.splitlines())
            if event["event"] in ("done", "failed")}
    assert {name: event["event"] for name, event in ends.items()} == {
        "first.wav": "done", "second.wav": "failed", "third.wav": "done"}
    assert ends["second.wav"]["error"] == "second.wav took longer than 8 s"
    assert {line["attempt"] for line in records(tmp_path / "stems/manifest.jsonl")} == {1}
    assert not (tmp_path / "stems/second").exists() and not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_worker_that_is_killed_costs_its_song_one_attempt(tmp_path: Path, tiny_model: Path) -> None:
    """As by the system when memory runs out; the song is split on the second attempt."""
    noise(tmp_path / "first.wav")
    endless(tmp_path / "second.wav", RATE)
    with working(tmp_path, tiny_model, "first.wav", "second.wav", "--duration", "300", "--json") as process:
        part = next(tmp_path.glob("stems/second/.*.part"))
        os.kill(int(part.name.removesuffix(".part").rpartition("-")[2]), signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    events = [event for event in map(json.loads, stdout.splitlines()) if event["event"] in ("done", "failed")]
    assert [(event["event"], event["song"]) for event in events] == [
        ("done", "first.wav"), ("failed", "second.wav"), ("done", "second.wav")]
    assert events[1]["error"] == "the process that split second.wav died: SIGKILL"
    assert events[1]["again"] is True
    assert [(line["status"], line["attempt"]) for line in records(tmp_path / "stems/manifest.jsonl")] == [
        ("done", 1), ("done", 2)]
    assert not list(tmp_path.rglob("*.part"))
