"""Songs and stems at URLs: the same bits as on a disk, and never half a song in the store."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import torch
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from separator.batch.inputs import expand, find, read_list
from separator.batch.plan import Task, make
from separator.batch.worker import Failure, Outcome, Splitter, attempt
from separator.cli import program
from separator.errors import UsageError
from separator.jobs import Job, outputs
from separator.modelfile import file_sha256, read_card
from separator.remote import Url, _time_s, path_of

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """That of memory://."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def song(tmp_path: Path, write_wav: Callable[..., Path]) -> Path:
    return write_wav(tmp_path / "near/album/song.wav", torch.randn(2, 8000) * 0.1)


def work_at(out: Path, model: Path, **options: Any) -> tuple[Splitter, Job]:
    card = read_card(model)
    job = Job(stems=card.stems, model=card.name, sha256=file_sha256(model), out=out, **options)
    loading = {"stems": card.stems, "rest": None, "wiener": None, "exact_sum": True, "device": "cpu",
               "precision": "fp32"}
    return Splitter(model, loading, job), job


def split(source: Path, out: Path, model: Path, **options: Any) -> Outcome | Failure:
    """As a worker does it, but in this process, where memory:// is."""
    splitter, job = work_at(out, model, **options)
    found, = find([source], recursive=False, out=out)
    ending = attempt(splitter(), Task(1, found, outputs(found, job)), lambda _: None)
    assert isinstance(ending, Outcome | Failure), ending
    return ending


def test_a_url_is_named_like_a_path() -> None:
    url = path_of("s3://bucket/album/1. song.flac")
    assert isinstance(url, Url)
    assert (str(url), os.fspath(url), url.name, url.suffix) == (*["s3://bucket/album/1. song.flac"] * 2,
                                                                "1. song.flac", ".flac")
    assert str(url.parent / "x") == "s3://bucket/album/x"
    assert str(url.with_name("y").relative_to(url.parent)) in ("y", "y://")
    again = pickle.loads(pickle.dumps(url))
    assert (type(again), again, str(again)) == (Url, url, str(url))


@pytest.mark.parametrize("text", ["file:///music/a.wav", "local:///music/a.wav", "/music/a.wav"])
def test_urls_of_this_machine_are_paths(text: str) -> None:
    assert path_of(text) == Path("/music/a.wav")
    assert not isinstance(path_of(text), Url)


@pytest.mark.parametrize("text", ["a:b.wav", "C:/music/a.wav", "AC/DC: //live.mp3", "1://x"])
def test_what_only_looks_like_a_url_is_a_path(text: str) -> None:
    assert path_of(text) == Path(text)


@pytest.mark.parametrize("text", ["s3://", "s3:///", "hdfs:///music"])
def test_a_url_without_a_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no bucket or host"):
        path_of(text)


def test_songs_are_listed(store: MemoryFileSystem, tmp_path: Path) -> None:
    for name in ("b/2.mp3", "b/1.WAV", "a.flac", ".hidden/3.mp3", "b/.4.mp3", "b/cover.jpg", "stems/a/bass.wav"):
        store.pipe(f"/music/{name}", b"x")
    music = path_of("memory://music")
    found = find([music], recursive=True, out=music / "stems")
    assert [(song.name, str(song.folder)) for song in found] == [
        ("memory://music/a.flac", "."), ("memory://music/b/1.WAV", "b"), ("memory://music/b/2.mp3", "b")]
    assert [str(path) for path in expand([music / "*/?.mp3"])] == ["memory://music/b/2.mp3"]
    assert [str(path) for path in read_list(b"memory://music/a.flac\nx.wav\n", null=False)] == [
        "memory://music/a.flac", "x.wav"]
    with pytest.raises(UsageError, match="matches no file"):
        [*expand([music / "*.ogg"])]


def test_the_same_bits_as_on_a_disk(store: MemoryFileSystem, song: Path, tmp_path: Path, tiny_model: Path) -> None:
    store.put_file(str(song), "/music/album/song.wav")
    template = "{folder}/{track}/{stem}.{ext}"
    near = split(song, tmp_path / "stems", tiny_model, template=template)
    far = split(path_of("memory://music/album/song.wav"), path_of("memory://made"), tiny_model, template=template)
    assert isinstance(near, Outcome)
    assert isinstance(far, Outcome)
    for stem, path in near.result.stems.items():
        assert str(far.result.stems[stem]) == f"memory://made/album/song/{stem}.wav"
        assert store.cat(f"/made/album/song/{stem}.wav") == path.read_bytes()
    assert (far.hashes, far.sizes, far.sha256, far.size) == (near.hashes, near.sizes, near.sha256, near.size)
    assert far.result.song.name == "memory://music/album/song.wav"


def test_an_upload_that_fails_leaves_nothing(store: MemoryFileSystem, song: Path, tiny_model: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    real, uploaded = MemoryFileSystem.put_file, []

    def put_file(self: MemoryFileSystem, local: str, path: str, **_: Any) -> None:
        uploaded.append(path)
        if len(uploaded) == 3:
            raise RuntimeError("the bucket said no\nand more")
        real(self, local, path)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    failure = split(song, path_of("memory://made"), tiny_model)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.again, failure.exit_code) == ("StorageError", True, 5)
    assert failure.fact == "memory://made/song/bass.wav cannot be written: the bucket said no"
    assert len(uploaded) == 3
    assert not store.find("/made")
    assert isinstance(split(song, path_of("memory://made"), tiny_model), Outcome)
    assert len(store.find("/made")) == 4


def test_what_is_there_is_not_overwritten(store: MemoryFileSystem, song: Path, tiny_model: Path) -> None:
    store.pipe("/made/song/bass.wav", b"somebody's")
    failure = split(song, path_of("memory://made"), tiny_model)
    assert isinstance(failure, Failure)
    assert failure.fact == "memory://made/song/bass.wav exists"
    assert store.cat("/made/song/bass.wav") == b"somebody's"
    assert isinstance(split(song, path_of("memory://made"), tiny_model, overwrite=True), Outcome)
    assert store.cat("/made/song/bass.wav")[:4] == b"RIFF"


def test_a_song_that_cannot_be_fetched(store: MemoryFileSystem, tmp_path: Path, song: Path, tiny_model: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    url, out = path_of("memory://music/song.wav"), tmp_path / "stems"
    missing = split(url, out, tiny_model)
    assert isinstance(missing, Failure)
    assert (missing.kind, missing.fact) == ("AudioError", "memory://music/song.wav does not exist")
    store.pipe("/music/song.wav", b"no audio" * 99)
    damaged = split(url, out, tiny_model)
    assert isinstance(damaged, Failure)
    assert damaged.fact == "memory://music/song.wav is not audio that FFmpeg can read"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
        full = split(url, out, tiny_model)
    assert isinstance(full, Failure)
    assert (full.kind, "memory://music/song.wav has 0 MB" in full.fact) == ("ResourceError", True)

    def get_file(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    broken = split(url, out, tiny_model)
    assert isinstance(broken, Failure)
    assert (broken.fact, broken.again) == ("memory://music/song.wav cannot be read: gone", True)
    assert not out.exists()
    assert not list(Path(tempfile.gettempdir()).glob("sepctl-*/*/song.wav"))


def test_plans_ask_no_store_about_each_stem(store: MemoryFileSystem, tiny_model: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        store.pipe(f"/music/{number}.wav", b"x")
    out = path_of("memory://made")
    songs = find([*expand([path_of("memory://music/*.wav")])], recursive=False, out=out)
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_: pytest.fail("asked"))
    assert [task.paths["bass"].parent.name for task in make(songs, work_at(out, tiny_model)[1])] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_batch_from_store_to_store(tmp_path: Path, tiny_model: Path, write_wav: Callable[..., Path]) -> None:
    """In worker processes: `dir://` is a folder that all of them call a store."""
    for number in range(3):
        write_wav(tmp_path / f"disk/music/album/{number}.wav", torch.randn(2, 8000) * 0.1)
    (tmp_path / "disk/music/bad.mp3").write_bytes(b"no audio" * 99)
    environment = {**os.environ, "FSSPEC_DIR": json.dumps({"path": str(tmp_path / "disk"), "target_protocol": "file"})}

    def run(*words: str) -> tuple[int, list[tuple[str, str]], str]:
        command = [sys.executable, "-m", "separator", "split", "-m", str(tiny_model), "-r", *words, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, [(event["event"], event["song"].rpartition("/")[2]) for event in told
                                 if event["event"] in ("done", "skipped", "failed")], done.stderr

    far = ("dir://music", "-o", "dir://made/stems", "--manifest", "here.jsonl")
    code, events, err = run("disk/music", "-o", "stems")
    assert code == 1, err
    code, far_events, err = run(*far)
    assert (code, far_events) == (1, events), err
    songs = [f"{number}.wav" for number in range(3)]
    assert events == [*(("done", name) for name in songs), ("failed", "bad.mp3")]

    def stems(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}

    assert stems(tmp_path / "disk/made/stems") == stems(tmp_path / "stems")
    assert not (tmp_path / "disk/made/stems/manifest.jsonl").exists()
    records = [json.loads(line) for line in (tmp_path / "here.jsonl").read_text().splitlines()]
    assert [record["input"] for record in records[:1]] == ["dir://music/album/0.wav"]
    assert records[0]["outputs"]["bass"]["path"] == "album/0/bass.wav"
    (tmp_path / "disk/made/stems/album/1/bass.wav").unlink()
    (tmp_path / "disk/music/bad.mp3").unlink()
    code, events, err = run(*far, "--resume")
    assert (code, sorted(events)) == (0, [("done", "1.wav"), ("skipped", "0.wav"), ("skipped", "2.wav")]), err
    assert stems(tmp_path / "disk/made/stems") == stems(tmp_path / "stems")


def test_a_store_that_does_not_answer_costs_its_song_only(
    tmp_path: Path, tiny_model: Path, write_wav: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav", torch.randn(2, 4000) * 0.1)
    done = CliRunner().invoke(program, ["split", "ftp://127.0.0.1:1/x.wav", "a.wav", "-m", str(tiny_model), "--jobs",
                                        "1", "--retries", "0"])
    assert done.exit_code == 1, done.output
    records = [json.loads(line) for line in (tmp_path / "stems/manifest.jsonl").read_text().splitlines()]
    assert [(record["status"], record["size"] is None) for record in records] == [("failed", True), ("done", False)]


@pytest.mark.parametrize(("missing", "url", "extra"), [
    ("fsspec.core", "s3://b/a.wav", "remote"), ("s3fs", "s3://b/a.wav", "s3"), ("gcsfs", "gs://b/a.wav", "gcs")])
def test_a_missing_package_is_named(missing: str, url: str, extra: str, tiny_model: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = CliRunner().invoke(program, ["split", "-r", url, "-m", str(tiny_model), "-o", str(tmp_path / "stems")])
    assert (done.exit_code, f"hint: pip install 'sepctl[{extra}]'" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("arguments", "told"), [
    (["song.wav", "-o", "s3://bucket/stems"], "hint: --manifest FILE"),
    (["what://bucket/song.wav"], "Protocol not known: what"), (["s3:///song.wav"], "names no bucket")])
def test_what_cannot_be_is_refused(arguments: list[str], told: str, tiny_model: Path) -> None:
    done = CliRunner().invoke(program, ["split", "-r", "-m", str(tiny_model), *arguments])
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("info", [
    {"LastModified": datetime(2026, 1, 2, tzinfo=timezone.utc)}, {"mtime": 1767312000.5},
    {"updated": "2026-01-02T00:00:00Z"}, {"created": datetime(2026, 1, 2, tzinfo=timezone.utc)}])
def test_stores_tell_the_time_in_many_ways(info: dict[str, Any]) -> None:
    assert _time_s(info) == 1767312000
    assert _time_s({}) == _time_s({"mtime": "yesterday"}) == 0
