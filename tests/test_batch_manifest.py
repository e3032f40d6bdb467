"""The manifest: whole lines only, one writer, and what it proves of a song."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from separator.batch.manifest import Manifest, about, latest, open_manifest, read
from separator.batch.plan import Task, settle
from separator.errors import AudioError, UsageError
from separator.jobs import Job, Song


def line(name: str = "a", status: str = "done", **more: Any) -> dict[str, Any]:
    return {"schema": 1, "status": status, "input": name, **more}


def test_lines_are_added_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new/manifest.jsonl"
    for name in ("a", "caf\udce9", "夜"):
        with open_manifest(path) as manifest:
            manifest.append(line(name))
    assert list(read(path)) == [line("a"), line("caf\udce9"), line("夜")]


def test_each_line_is_on_the_disk_before_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (real(file), synced.append((tmp_path / "m.jsonl").read_bytes())))
    with open_manifest(tmp_path / "m.jsonl") as manifest:
        for name in "ab":
            manifest.append(line(name))
            assert synced[-1].endswith(json.dumps(line(name)).encode() + b"\n")


@pytest.mark.parametrize("torn", [b"{", b'{"schema": 1, "status": "do', b"\0" * 9000, b"x" * 5000])
@pytest.mark.parametrize("whole", [0, 1, 3])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes, whole: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.jsonl"
    before = b"".join(json.dumps(line(str(number))).encode() + b"\n" for number in range(whole))
    path.write_bytes(before + torn)
    with caplog.at_level(logging.WARNING):
        assert [record["input"] for record in read(path)] == [str(number) for number in range(whole)]
        with open_manifest(path) as manifest:
            assert path.read_bytes() == before
            manifest.append(line("new"))
    assert "torn last line" in caplog.text
    assert path.read_bytes() == before + json.dumps(line("new")).encode() + b"\n"


def test_a_whole_manifest_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(json.dumps(line()).encode() + b"\n")
    before = path.read_bytes()
    with open_manifest(path):
        assert path.read_bytes() == before


def test_a_torn_line_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    a, b = (json.dumps(line(name)).encode() for name in "ab")
    path.write_bytes(b"\n".join([a, b"\0\0\0", b"[1]", b, b""]))
    assert [record["input"] for record in read(path)] == ["a", "b"]


def test_two_runs_do_not_write_one_manifest(tmp_path: Path) -> None:
    with open_manifest(tmp_path / "manifest.jsonl"), open_manifest(tmp_path / "manifest-1-of-2.jsonl"), \
            pytest.raises(UsageError, match="another run is writing .*manifest.jsonl"), \
            open_manifest(tmp_path / "manifest.jsonl"):
        pass
    with open_manifest(tmp_path / "manifest.jsonl") as manifest:
        assert isinstance(manifest, Manifest)


def test_a_later_version_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**line(), "schema": 2}) + "\n")
    with pytest.raises(UsageError, match="line 1 has schema 2, known is 1"):
        list(read(path))
    with pytest.raises(AudioError, match="cannot be read"):
        list(read(tmp_path / "none.jsonl"))
    (tmp_path / "file").touch()
    with pytest.raises(AudioError, match="a file is in the way"), open_manifest(tmp_path / "file/m.jsonl"):
        pass


def test_the_latest_word_counts_but_a_failure_undoes_nothing(tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    for path, records in ((one, [line("a", n=1), line("b", "failed"), line("c", "failed"), line("a", n=2)]),
                          (two, [line("a", "failed"), line("b", n=3), line("c", "failed", n=4)])):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert latest([one, two]) == {"a": line("a", n=2), "b": line("b", n=3), "c": line("c", "failed", n=4)}


# --- what it proves --------------------------------------------------------------------------------------------------

JOB = Job(stems=("vocals", "bass"), model="tiny", sha256="0" * 64, options={"wiener": 1})


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, dict[str, dict[str, Any]]]:
    """A song, its stems, and the record of it."""
    monkeypatch.chdir(tmp_path)
    Path("song.wav").write_bytes(b"samples")
    Path("stems").mkdir()
    outputs = {}
    for stem in JOB.stems:
        Path(f"stems/{stem}.wav").write_bytes(stem.encode())
        outputs[stem] = {"path": f"{stem}.wav", "size": len(stem), "sha256": hashlib.sha256(stem.encode()).hexdigest()}
    song = Song(Path("song.wav"))
    task = Task(1, song, {stem: Path(f"stems/{stem}.wav") for stem in JOB.stems})
    record = {**about(song, JOB, "done", 1), "sha256": hashlib.sha256(b"samples").hexdigest(), "outputs": outputs}
    return task, {os.path.abspath("song.wav"): json.loads(json.dumps(record))}


def verdict(task: Task, records: dict[str, Any], job: Job = JOB, *, resume: bool = True, verify: bool = False) -> str:
    fresh = Task(task.number, Song(task.song.path), task.paths)      # a song remembers its hash
    todo, done = settle([fresh], records, job, resume=resume, verify=verify)
    assert len(todo) + len(done) == 1
    return "finished" if done else "replace" if todo[0].replace else "redo" if todo[0].redo else "todo"


def test_a_finished_song_is_finished(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task, records = finished
    assert verdict(task, records, verify=True) == "finished"
    monkeypatch.setattr("separator.batch.plan.file_sha256", None)      # by size and time alone: nothing is read
    monkeypatch.setattr("separator.jobs.file_sha256", None)
    assert verdict(task, records) == "finished"
    assert verdict(task, {}) == "redo"
    assert verdict(task, {}, resume=False) == "todo"


def test_other_work_is_to_be_done(finished: Any) -> None:
    from dataclasses import replace

    task, records = finished
    for other in ({"sha256": "1" * 64}, {"options": {"wiener": 2}}, {"start_s": 1.0}, {"downmix": True}):
        assert verdict(task, records, replace(JOB, **other), resume=False) == "todo"
    moved = Task(1, task.song, {stem: Path(f"stems/x/{stem}.wav") for stem in JOB.stems})
    assert verdict(moved, records) == "redo"
    failed = {name: {**record, "status": "failed", "outputs": {}} for name, record in records.items()}
    assert verdict(task, failed) == "redo"


def test_a_touched_song_is_known_again_by_its_bytes(finished: Any) -> None:
    task, records = finished
    os.utime("song.wav", ns=(1, 1))
    assert verdict(task, records) == "finished"


@pytest.mark.parametrize("new", [b"samplez", b"more samples"])
def test_a_changed_song_is_split_again_by_resume(finished: Any, new: bytes) -> None:
    task, records = finished
    Path("song.wav").write_bytes(new)
    os.utime("song.wav", ns=(1, 1))
    assert verdict(task, records) == "replace"
    assert verdict(task, records, resume=False) == "todo"       # what exists is then refused, as ever
    Path("stems/bass.wav").write_bytes(b"BASS")                 # someone worked on it: it is no longer ours to replace
    assert verdict(task, records) == "todo"     # and so is refused


def test_a_stream_is_never_replaced_for_nobody_knows_whether_it_changed(finished: Any) -> None:
    task, records = finished
    os.unlink("song.wav")
    os.mkfifo("song.wav")
    assert verdict(task, records) == "todo"


def test_only_verify_sees_bytes_change_behind_size_and_time(finished: Any) -> None:
    task, records = finished
    Path("stems/bass.wav").write_bytes(b"BASS")
    assert verdict(task, records) == "finished"
    assert verdict(task, records, resume=False, verify=True) == "redo"
    Path("stems/bass.wav").write_bytes(b"bass")
    before = os.stat("song.wav")
    Path("song.wav").write_bytes(b"SAMPLES")
    os.utime("song.wav", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verdict(task, records) == "finished"
    assert verdict(task, records, verify=True) == "replace"


def test_a_stem_that_is_gone_or_short_is_made_again(finished: Any) -> None:
    task, records = finished
    Path("stems/bass.wav").write_bytes(b"bas")
    assert verdict(task, records) == verdict(task, records, resume=False) == "redo"
    Path("stems/bass.wav").unlink()
    assert verdict(task, records) == verdict(task, records, resume=False) == "redo"


def test_a_song_that_is_gone_is_not_finished(finished: Any) -> None:
    task, records = finished
    Path("song.wav").unlink()
    assert verdict(task, records) == "replace"      # its turn comes, and it fails for not being there
