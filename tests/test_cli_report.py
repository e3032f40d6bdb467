"""`sepctl report`: what it says of manifests whose content is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from separator.cli import program


def line(name: str, status: str, at: str = "2026-01-01T00:00:00Z", **more: Any) -> dict[str, Any]:
    return {"schema": 1, "status": status, "input": f"/music/{name}", "at": at, **more}


def done(name: str, elapsed_s: float, duration_s: float, *warnings: str, **more: Any) -> dict[str, Any]:
    return line(name, "done", elapsed_s=elapsed_s, duration_s=duration_s, warnings=dict.fromkeys(warnings, "words"),
                peak_memory=1_000_000 * int(duration_s), **more)


def failed(name: str, kind: str, fact: str) -> dict[str, Any]:
    return line(name, "failed", error={"class": kind, "fact": fact, "hint": "", "exit_code": 5})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards: 4 done, one of them after a failure; 1 skipped; 4 failed of 2 causes."""
    shards = [
        [failed("a.mp3", "AudioError", "/music/a.mp3 is not audio"), done("b.mp3", 10, 100, "clipped"),
         failed("c 1.mp3", "AudioError", "music/c 1.mp3 is damaged at 12.5 s"),
         done("d.mp3", 40, 200, "clipped", "silent"), failed("e.mp3", "AudioError", "e.mp3 is damaged at 3 s")],
        [failed("x\n\udce9.mp3", "Crash", "the process died: SIGSEGV"), line("s.mp3", "skipped", duration_s=5.0),
         done("a.mp3", 30, 300), done("f.mp3", 20, 120, at="2026-01-01T00:01:30Z"),
         failed("g.mp3", "AudioError", "g.mp3 is damaged at 1,234.5 s")],
    ]
    for number, lines in enumerate(shards, start=1):
        text = "".join(json.dumps(each) + "\n" for each in lines)
        (tmp_path / f"manifest-{number}-of-2.jsonl").write_text(text)
    return tmp_path


def report(*arguments: object) -> Result:
    return CliRunner().invoke(program, ["report", *map(str, arguments)])


def test_figures(folder: Path) -> None:
    told = json.loads(report(folder, "--json").stdout)
    counts = {key: told[key] for key in ("songs", "done", "skipped", "failed", "audio_s", "work_s", "wall_s")}
    assert counts == {"songs": 9, "done": 4, "skipped": 1, "failed": 4, "audio_s": 720, "work_s": 100, "wall_s": 90}
    assert (told["x_real_time"], told["peak_memory"]) == (7.2, 300_000_000)
    assert list(told["causes"].items()) == [("AudioError: SONG is damaged at N s", 3),
                                            ("Crash: the process died: SIGSEGV", 1)]
    assert list(told["warnings"].items()) == [("clipped", 2), ("silent", 1)]
    assert [(each["input"], each["elapsed_s"]) for each in told["slowest"]] == [
        ("/music/d.mp3", 40), ("/music/a.mp3", 30), ("/music/f.mp3", 20), ("/music/b.mp3", 10)]
    assert told["failures"][0] == {"input": "/music/c 1.mp3", "class": "AudioError", "hint": "", "exit_code": 5,
                                   "fact": "music/c 1.mp3 is damaged at 12.5 s"}


def test_words(folder: Path) -> None:
    lines = report(folder).stdout.splitlines()
    assert lines[:6] == [
        "9 songs: 4 done, 1 skipped, 4 failed",
        "0.20 h of audio in 0.03 h of work: 7.2 x real time per worker, at most 300 MB of memory",
        "failed because",
        "         3  AudioError: SONG is damaged at N s", "         1  Crash: the process died: SIGSEGV", "warnings"]
    assert lines[9].split() == ["40.0", "s", "/music/d.mp3", "(200.0", "s", "of", "audio)"]


def test_failed_paths_are_a_list_to_run_again(folder: Path) -> None:
    names = ["/music/c 1.mp3", "/music/e.mp3", "/music/x\n\udce9.mp3", "/music/g.mp3"]
    for option, end in (([], b"\n"), (["-0"], b"\0")):
        told = report("--failed", *option, folder)
        assert told.stdout_bytes == b"".join(name.encode("utf-8", "surrogateescape") + end for name in names)


def test_files_count_once_and_in_their_order(folder: Path) -> None:
    one, two = (folder / f"manifest-{n}-of-2.jsonl" for n in (1, 2))
    assert json.loads(report(one, "--json").stdout)["failed"] == 3
    assert json.loads(report(one, two, one, "--json").stdout)["failed"] == 4
    told = json.loads(report(two, one, "--json").stdout)    # then a.mp3 failed last
    assert [Path(failure["input"]).stem for failure in told["failures"]] == ["x\n\udce9", "g", "a", "c 1", "e"]


def test_the_end_of_a_song_is_its_last_in_time_not_by_the_names_of_files(tmp_path: Path) -> None:
    for number, status, at in ((1, "skipped", "2026-01-01T00:00:02Z"), (2, "failed", "2026-01-01T00:00:01Z")):
        error = {"error": {"class": "Crash", "fact": "", "hint": "", "exit_code": 1}}
        text = json.dumps(line("a.mp3", status, at, **error))
        (tmp_path / f"manifest-{number}-of-2.jsonl").write_text(text + "\n")
    assert report(tmp_path).stdout == "1 songs: 0 done, 1 skipped, 0 failed\n"


def test_events_are_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"schema": 1, "event": "started", "song": "a.wav"}\n')
    done = report(tmp_path / "events.jsonl")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "events.jsonl: line 1 does not tell what became of a song" in done.stderr


def test_an_empty_manifest_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").touch()
    assert report(tmp_path).stdout == "0 songs: 0 done, 0 skipped, 0 failed\n"
    assert json.loads(report(tmp_path, "--json").stdout)["x_real_time"] is None


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["none.jsonl"], 5, "cannot be read"), (["."], 2, "holds no manifest"), (["-0", "."], 2, "add --failed"),
    (["--failed", "--json", "."], 2, "exclude each other"), ([], 2, "Missing argument 'MANIFESTS...'"),
])
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = report(*arguments)
    assert (told.exit_code, told.stdout) == (code, "")
    assert words in told.stderr
