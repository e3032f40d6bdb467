"""The manifest: whole lines only, one writer, and what it proves of a song."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from separator.batch.manifest import Manifest, about, latest, open_manifest, read, state
from separator.batch.plan import Task, finished_by, settle, unhashed
from separator.errors import AudioError, UsageError
from separator.jobs import Job, Song
from separator.remote import path_of


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


@pytest.mark.parametrize(("torn", "whole"), [
    (torn, whole) for torn in (b"{", b'{"schema": 1, "status": "do', b"\0" * 9000, b"x" * 5000) for whole in (0, 1, 3)
    if whole or not torn.startswith(b"x")])
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


@pytest.mark.parametrize("content", [
    b"my notes\nprecious last line", b"one line", b"one line\n", b'{"my": "json"}\n{"no end', b"[1]\n", b"\n",
    b'{"schema": 1, "event": "done", "song": "a.wav"}\n', json.dumps({**line(), "schema": 2}).encode() + b"\n",
    b"x" * (1 << 21)])
def test_no_byte_of_another_file_is_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"notes\.txt"), open_manifest(tmp_path / "notes.txt"):
        pass
    assert (tmp_path / "notes.txt").read_bytes() == content


def test_a_folder_is_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, Path("."), Path("")):
        with pytest.raises(UsageError, match="is a folder"), open_manifest(path):
            pass


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
    path.write_text(json.dumps(line()) + '\n{"schema": 1, "event": "done", "song": "a.wav"}\n')
    with pytest.raises(UsageError, match=r"m\.jsonl: line 2 does not tell what became of a song"):
        list(read(path))
    with pytest.raises(AudioError, match="cannot be read"):
        list(read(tmp_path / "none.jsonl"))
    (tmp_path / "file").touch()
    with pytest.raises(AudioError, match="a file is in the way"), open_manifest(tmp_path / "file/m.jsonl"):
        pass


def test_the_latest_of_what_is_wanted_counts_whatever_the_files_are_called(tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    for path, records in ((one, [line("a", at="3"), line("b", n=1), line("b", n=2), line("c", at="1")]),
                          (two, [line("a", at="2"), line("b", "failed"), line("c", at="1", n=3)])):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert latest([one, two], lambda record: record["status"] == "done") == {
        "a": line("a", at="3"), "b": line("b", n=2), "c": line("c", at="1", n=3)}


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
    if done or todo[0].changed is not None:
        return "finished" if done else f"{todo[0].changed} was changed"
    return "replace" if todo[0].replace else "redo" if todo[0].redo else "todo"


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


def test_work_in_the_same_folder_does_not_hide_other_work(finished: Any, tmp_path: Path) -> None:
    """Of another format, model, option or template, later in the manifest; nor does a failure."""
    task, records = finished
    (name, mine), = records.items()
    others = [{**mine, **other, "at": "9999"} for other in (
        {"model_sha256": "1" * 64}, {"options": {**mine["options"], "format": ["flac", "16", None]}},
        {"outputs": {stem: {"path": f"x/{stem}.wav", "size": 1} for stem in JOB.stems}},
        {"status": "failed", "outputs": {}}, {"input": "/elsewhere/song.wav"})]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (mine, *others)))
    assert latest([tmp_path / "m.jsonl"], finished_by(JOB, [task])) == {name: mine}


def test_songs_known_by_their_stamps_only_are_not_split_again_to_verify_them(
    finished: Any, caplog: pytest.LogCaptureFixture
) -> None:
    task, records = finished
    (name, done), = records.items()
    bare = {stem: {key: output[key] for key in ("path", "size")} for stem, output in done["outputs"].items()}
    skipped = {name: {**{key: value for key, value in done.items() if key != "sha256"}, "status": "skipped",
                      "outputs": bare}}

    def redone(records: dict[str, Any], *, resume: bool) -> bool:
        todo, finished = settle([task], records, JOB, resume=resume, verify=True)
        assert not finished
        each, = unhashed(todo, records, JOB)
        assert each.changed == changed
        return each.redo

    changed = None
    assert not redone(skipped, resume=True) and "cannot be verified" in caplog.text
    caplog.clear()
    assert not redone({}, resume=False) and "cannot be verified" in caplog.text
    caplog.clear()
    assert redone({}, resume=True)
    changed = Path("stems/bass.wav")
    changed.write_bytes(b"bas")
    assert not redone(skipped, resume=True) and not caplog.text


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
    assert verdict(task, records, resume=False, verify=True) == "stems/bass.wav was changed"
    skipped = {name: {**record, "outputs": {stem: {**output, "sha256": None} for stem, output in
                                            record["outputs"].items()}} for name, record in records.items()}
    assert verdict(task, skipped, resume=False, verify=True) == "redo"      # whose bytes were never known
    Path("stems/bass.wav").write_bytes(b"bass")
    before = os.stat("song.wav")
    Path("song.wav").write_bytes(b"SAMPLES")
    os.utime("song.wav", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verdict(task, records) == "finished"
    assert verdict(task, records, verify=True) == "replace"


def test_a_stem_that_is_gone_is_made_again_and_one_that_was_changed_is_not(finished: Any) -> None:
    task, records = finished
    Path("stems/bass.wav").unlink()
    assert verdict(task, records) == verdict(task, records, resume=False) == "redo"
    Path("stems/vocals.wav").write_bytes(b"edited!")
    assert verdict(task, records) == verdict(task, records, resume=False) == "stems/vocals.wav was changed"
    Path("song.wav").write_bytes(b"new state")      # perhaps the stem is its, and only the line was lost
    assert verdict(task, records) == "redo"


def test_a_song_that_cannot_be_reached_has_no_state() -> None:
    assert state(Song(path_of("ftp://127.0.0.1:1/x.wav"))) == (None, None)


def test_a_song_that_is_gone_is_not_finished(finished: Any) -> None:
    task, records = finished
    Path("song.wav").unlink()
    assert verdict(task, records) == "replace"      # its turn comes, and it fails for not being there
