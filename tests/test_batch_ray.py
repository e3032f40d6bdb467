"""The same plan on a Ray cluster: whatever dies there, nothing is lost, and the bits are those of the local engine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from batchworks import Acting, tasks
from click.testing import CliRunner

from separator.batch.cluster import Share, share
from separator.cli import program
from separator.errors import UsageError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: sepctl[ray]")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
SONGS = 6


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Songs, the second of them long enough to be at it for some seconds."""
    rng = np.random.default_rng(0)
    for number in range(SONGS):
        path = tmp_path / f"music/album {number % 2}/{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.standard_normal((8000 * (300 if number == 2 else 5), 2)) * 0.1, 8000)
    (tmp_path / "music/album 1/bad.mp3").write_bytes(b"no audio" * 99)
    return tmp_path


def command(model: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "separator", "split", "-r", "music", "-m", str(model), "--jobs", "2", *more]


def records(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def stems(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}


def at_work_on(name: str, process: subprocess.Popen[str], folder: Path) -> int:
    """The process that writes the stems of that song, once it does."""
    while process.poll() is None:
        for path in (folder / name).glob(".*.part"):
            return int(path.name.removesuffix(".part").rpartition("-")[2])
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


@needs_ray
@posix
@pytest.mark.slow
def test_a_worker_is_killed_and_nothing_is_lost(music: Path, tiny_model: Path) -> None:
    local = subprocess.run(command(tiny_model, "-o", "local"), cwd=music, capture_output=True, check=False)
    assert local.returncode == 1
    process = subprocess.Popen(command(tiny_model, "--engine", "ray", "--json"), cwd=music, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.kill(at_work_on("album 0/2", process, music / "stems"), signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1, err
    assert stems(music / "stems") == stems(music / "local")
    assert len(stems(music / "stems")) == 4 * SONGS
    assert not list(music.rglob(".*.part"))
    events = [json.loads(line) for line in out.splitlines()]        # Ray wrote nothing there
    again = [event for event in events if event["event"] == "failed" and event["again"]]
    assert [event["song"] for event in again] == ["music/album 0/2.wav"]
    assert "died: The actor is dead because its worker process has died" in again[0]["error"]
    lines = records(music / "stems/manifest.jsonl")
    ends = sorted((os.path.relpath(line["input"], music), line["status"], line["attempt"]) for line in lines)
    assert ends == sorted([("music/album 1/bad.mp3", "failed", 1),
                           *((f"music/album {n % 2}/{n}.wav", "done", 1 + (n == 2)) for n in range(SONGS))])


@needs_ray
@posix
@pytest.mark.slow
def test_the_second_interrupt_stops_now_and_leaves_nothing(music: Path, tiny_model: Path) -> None:
    process = subprocess.Popen(command(tiny_model, "--engine", "ray"), cwd=music, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    worker = at_work_on("album 0/2", process, music / "stems")
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    _, err = process.communicate()
    assert process.returncode == 130 and "Error: interrupted" in err.splitlines()
    assert not list(music.rglob(".*.part"))
    assert not (music / "stems/album 0/2").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head without processors, and two machines with one each, all of them here."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster, [cluster.add_node(num_cpus=1) for _ in range(2)]
    finally:
        cluster.shutdown()


@needs_ray
@posix
@pytest.mark.slow
def test_a_machine_is_lost_and_the_other_does_its_songs(two_machines: Any, tmp_path: Path) -> None:
    from separator.batch.cluster import Cluster, connect
    from separator.batch.engine import Begun, Ended
    from separator.batch.worker import Skip

    cluster, machines = two_machines
    acting, songs, begun = Acting(tmp_path), tasks(*(f"slow-{number}" for number in range(6))), 0
    done: list[int] = []
    with connect(cluster.address):
        crew = Cluster(acting, retries=1)
        assert (crew.jobs, crew.threads) == (2, 1)
        for event in crew.run(songs):
            begun += isinstance(event, Begun)
            if begun == 2 and len(machines) == 2:       # both are at work
                cluster.remove_node(machines.pop(), allow_graceful=False)
            if isinstance(event, Ended) and isinstance(event.ending, Skip):
                done.append(event.task.number)
    assert sorted(done) == [1, 2, 3, 4, 5, 6]
    assert [word for _, word in acting.notes()].count("opened") == 2        # no third found room


@needs_ray
def test_clients_of_ray_are_refused(tmp_path: Path) -> None:
    from separator.batch.cluster import connect

    with pytest.raises(UsageError, match="Ray clients are not served"), connect("ray://head:10001"):
        pass


def test_without_ray_it_says_how_to_get_it(music: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(program, ["split", str(music / "music/album 0/0.wav"), "-m", str(tiny_model), "-o",
                                        str(music / "stems"), "--engine", "ray"])
    assert done.exit_code == 2
    assert "hint: pip install 'sepctl[ray]'" in done.stderr


@pytest.mark.parametrize(("options", "told"), [
    (["--address", "auto"], "--address is of a Ray cluster"),
    (["--engine", "ray", "--device", "cuda:1"], "is a device of one machine"),
])
def test_options_that_contradict_are_refused(options: list[str], told: str, tiny_model: Path) -> None:
    done = CliRunner().invoke(program, ["split", __file__, "-m", str(tiny_model), *options])
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr


CPUS = [{"CPU": 16.0}, {"CPU": 8.0}, {"memory": 1e9}]       # the last is a head that does no work


@pytest.mark.parametrize(("nodes", "jobs", "limit", "cuda", "wanted"), [
    (CPUS, None, None, False, Share(3, 8)),         # as large as the smallest machine
    (CPUS, None, 4, False, Share(6, 4)),
    (CPUS, 2, None, False, Share(2, 8)),
    (CPUS, 4, None, False, Share(4, 5)),            # 3 + 1; of 6 threads each only 2 + 1 have room
    (CPUS, 24, None, False, Share(24, 1)),
    ([{"CPU": 64.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 99.0}], None, None, True, Share(6, 8, 1.0)),
    ([{"CPU": 64.0, "GPU": 4.0}], 8, None, True, Share(8, 8, 0.5)),
    ([{"CPU": 64.0, "GPU": 4.0}], 3, 2, True, Share(3, 2, 1.0)),
])
def test_machines_are_divided(nodes: list[dict[str, float]], jobs: int | None, limit: int | None, cuda: bool,
                              wanted: Share) -> None:
    assert share(nodes, jobs, limit, cuda=cuda) == wanted


@pytest.mark.parametrize(("nodes", "jobs", "cuda", "told"), [
    (CPUS, 25, False, "has only 24 processors"), ([], None, False, "has only 0"), (CPUS, None, True, "no GPU")])
def test_more_than_the_machines_have_is_refused(nodes: list[dict[str, float]], jobs: int | None, cuda: bool,
                                                told: str) -> None:
    with pytest.raises(UsageError, match=told):
        share(nodes, jobs, None, cuda=cuda)
