"""Killed at any moment, again and again, and resumed: the same bits as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

KILLS = 8
VARYING = {"at", "elapsed_s", "peak_memory", "attempt"}     # between two runs of the same batch


def command(model: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "separator", "split", "-r", "music", "-m", str(model), *more]


def records(manifest: Path) -> list[dict[str, Any]]:
    """Strictly: no line may be torn."""
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def stems(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def make_music(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        path = folder / f"music/album {number % 2}/{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.standard_normal((8000 * 30, 2)) * 0.1, 8000)
    (folder / "music/album 1/bad.mp3").write_bytes(b"no audio" * 99)


def kill_at_random(folder: Path, model: Path, rng: random.Random) -> bool:
    """Start, and kill the processes at once and without warning, within half a second from the first new part file.

    False if the run was quicker.
    """
    before = set(parts(folder))
    process = subprocess.Popen(command(model, "--resume"), cwd=folder, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not set(parts(folder)) - before:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.5))
    workers = {int(path.name.removesuffix(".part").rpartition("-")[2]) for path in set(parts(folder)) - before}
    killed = process.poll() is None
    for pid in workers if rng.random() < 0.5 else ():       # else they find their parent gone
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return killed


@pytest.mark.slow
def test_killed_many_times_and_resumed(tmp_path: Path, tiny_model: Path) -> None:
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    for folder in (calm, wild):
        make_music(folder)
    assert subprocess.run(command(tiny_model), cwd=calm, capture_output=True, check=False).returncode == 1
    rng = random.Random(0)
    killed = sum(kill_at_random(wild, tiny_model, rng) for _ in range(KILLS))
    assert killed >= KILLS // 2
    with (wild / "stems/manifest.jsonl").open("a") as file:
        file.write('{"schema": 1, "status": "do')       # as a power cut leaves it
    done = subprocess.run(command(tiny_model, "--resume"), cwd=wild, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert stems(wild / "stems") == stems(calm / "stems")
    assert len(stems(wild / "stems")) == 24
    assert parts(wild) == []
    found, wanted = records(wild / "stems/manifest.jsonl"), records(calm / "stems/manifest.jsonl")
    finished = [record["input"] for record in found if record["status"] == "done"]
    assert len(finished) == len(set(finished)) == 6         # none twice

    def lasting(lines: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
        return {os.path.relpath(line["input"], folder):
                {key: value for key, value in line.items() if key not in VARYING | {"input", "mtime_ns"}}
                for line in lines}

    assert lasting(found, wild) == lasting(wanted, calm)
    again = subprocess.run(command(tiny_model, "--resume", "--json", "--verify"), cwd=wild, capture_output=True,
                           text=True, check=False)
    events = [json.loads(line) for line in again.stdout.splitlines()]
    ends = [event["event"] for event in events if event["event"] not in ("planned", "started")]
    assert ends == [*["skipped"] * 6, "failed", "summary"]


@pytest.mark.slow
def test_a_changed_song_and_a_new_one_are_all_that_resume_does(tmp_path: Path, tiny_model: Path) -> None:
    """Also stems whose line never reached the manifest are made again; what is not ours is never touched."""
    make_music(tmp_path)
    run = subprocess.run(command(tiny_model), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    before = stems(tmp_path / "stems")
    manifest = tmp_path / "stems/manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    unrecorded = next(line for line in lines if '0.wav"' in line)
    manifest.write_text("".join(line for line in lines if line != unrecorded))
    (tmp_path / "music/album 1/bad.mp3").unlink()
    changed = tmp_path / "music/album 0/2.wav"
    soundfile.write(changed, np.random.default_rng(9).standard_normal((8000, 2)) * 0.1, 8000)
    (tmp_path / "music/new.wav").write_bytes((tmp_path / "music/album 1/1.wav").read_bytes())
    changed_and_edited = tmp_path / "music/album 1/3.wav"
    soundfile.write(changed_and_edited, np.zeros((8000, 2)), 8000)
    (tmp_path / "stems/album 1/3/bass.wav").write_bytes(b"my own work")
    (tmp_path / "stems/album 0/4/.vocals.wav.elsewhere-1.part").write_bytes(b"of another machine: left alone")

    done = subprocess.run(command(tiny_model, "--resume", "--json"), cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    by_event = {kind: {event["song"] for event in events if event["event"] == kind} for kind in ("done", "failed")}
    assert by_event == {"done": {"music/album 0/0.wav", "music/album 0/2.wav", "music/new.wav"},
                        "failed": {"music/album 1/3.wav"}}
    after = stems(tmp_path / "stems")
    assert after["album 1/3/bass.wav"] == b"my own work"
    same = {name for name in before if after[name] == before[name]}
    assert set(before) - same == {f"album 0/2/{stem}.wav" for stem in ("vocals", "drums", "bass", "other")} | {
        "album 1/3/bass.wav"}
    assert {name for name in after if name not in before} == {
        f"new/{stem}.wav" for stem in ("vocals", "drums", "bass", "other")}
    assert soundfile.info(tmp_path / "stems/album 0/2/bass.wav").frames == 8000
    assert len(parts(tmp_path)) == 1
