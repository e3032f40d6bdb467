"""Processes that fail in every way: each takes its own task with it and nothing else, and none outlives its parent."""

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from separator import parallel
from separator.errors import AudioError, ModelError, ResourceError
from separator.parallel import Failure, run

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Odd(Exception):
    """Cannot be pickled."""

    def __init__(self, one, two):
        super().__init__(one)


def starter(folder, fault=None):
    """What a process starts with: notes its life in `folder`."""
    if fault:
        raise fault
    (Path(folder) / str(os.getpid())).touch()
    return work


def work(task):
    match task:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "audio":
            raise AudioError("no song", hint="sing")
        case "full":
            raise ResourceError("the disk is full")
        case "odd":
            raise Odd(1, 2)
        case "sleep":
            time.sleep(60)
        case "signals":
            for number in SIGNALS:
                os.kill(os.getpid(), number)
            return os.getpid()
        case "threads":
            import torch

            return torch.get_num_threads()
    return task * 2


def outcomes(folder, tasks, jobs=2, fault=None, threads=1):
    return dict(run(functools.partial(starter, str(folder), fault), tasks, jobs, threads))


def lives(folder):
    return [int(path.name) for path in folder.iterdir()]


def alive(pid):
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


def test_a_task_that_fails_or_kills_its_process_is_alone_in_that(tmp_path):
    tasks = ["a", "exit", "b", "audio", "kill", "odd", "full", "c"]
    found = outcomes(tmp_path, tasks)
    assert sorted(found) == list(range(8))
    assert (found[0], found[2], found[7]) == ("aa", "bb", "cc")
    assert all(isinstance(found[n], Failure) for n in (1, 3, 4, 5, 6))
    assert "exit code 3" in str(found[1].error) and "SIGKILL" in str(found[4].error)
    assert isinstance(found[3].error, AudioError) and found[3].error.hint == "sing" and "work" in found[3].trace
    assert "Odd" in str(found[5].error) and "raise Odd" in found[5].trace
    assert isinstance(found[6].error, ResourceError)
    assert os.getpid() not in lives(tmp_path)


def test_exit_codes_and_signals_have_names():
    assert parallel.cause(-signal.SIGKILL) == "SIGKILL"
    assert parallel.cause(-99) == "exit code -99"
    assert parallel.cause(1) == "exit code 1"


def test_each_process_that_dies_is_replaced(tmp_path):
    found = outcomes(tmp_path, ["kill", "kill", "kill", "a"])
    assert found.pop(3) == "aa" and all(isinstance(failure, Failure) for failure in found.values())
    assert len(lives(tmp_path)) == 4


def test_one_job_or_one_task_is_done_here(tmp_path):
    assert outcomes(tmp_path, ["a", "b"], jobs=1) == {0: "aa", 1: "bb"}
    assert outcomes(tmp_path, ["a"], jobs=8) == {0: "aa"}
    failure = outcomes(tmp_path, ["audio"], jobs=1)[0]
    assert isinstance(failure.error, AudioError) and "work" in failure.trace
    assert lives(tmp_path) == [os.getpid()]


def test_no_tasks_need_no_start(tmp_path):
    assert outcomes(tmp_path, []) == {} and not lives(tmp_path)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_process_has_as_many_threads_as_told(tmp_path, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    assert outcomes(tmp_path, ["threads"] * 2, threads=threads) == {0: threads, 1: threads}
    assert dict(os.environ) == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_does_not_start_ends_the_run(tmp_path, jobs):
    with pytest.raises(ModelError, match="no such model") as caught:
        outcomes(tmp_path, ["a", "b", "c"], jobs, fault=ModelError("no such model", hint="another one"))
    assert caught.value.hint == "another one"
    assert jobs == 1 or "in starter" in str(caught.value.__cause__)     # where it went wrong over there
    assert not multiprocessing.active_children()


@needs_proc
def test_closing_ends_the_processes_at_once(tmp_path):
    with contextlib.closing(run(functools.partial(starter, str(tmp_path)), ["a", "sleep", "sleep"], 2)) as results:
        assert next(results) == (0, "aa")
        started = time.monotonic()
    assert time.monotonic() - started < 20
    assert not any(map(alive, lives(tmp_path)))


def test_a_system_without_room_for_processes_is_told_and_leaves_none(tmp_path, monkeypatch):
    launched = []

    def serve_one(process):
        if launched:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        launched.append(process)
        real(process)

    real = parallel.SpawnProcess.start
    monkeypatch.setattr(parallel.SpawnProcess, "start", serve_one)
    with pytest.raises(ResourceError, match="temporarily unavailable\n.*fewer --jobs"):
        outcomes(tmp_path, ["sleep", "sleep"])
    assert launched and not multiprocessing.active_children()


class Signalled:
    """Sent to a process, which unpickles it before it runs any code of ours: it gets all signals then."""

    def __init__(self, here=None):
        self.here = here

    def __reduce__(self):
        if self.here:
            os.kill(os.getpid(), self.here)
        return signalled, ()

    def __call__(self):
        return work


def signalled():
    work("signals")
    return Signalled()


def test_signals_are_not_for_the_workers_at_work_or_before():
    """In a fresh interpreter, since only the first process of all may differ."""
    code = "import test_parallel as t; print(*dict(t.run(t.Signalled(), ['signals'] * 4, 2)).values())"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert not done.stderr
    assert len(done.stdout.split()) == 4 and len(set(done.stdout.split())) <= 2     # processes, none replaced


def test_a_signal_that_comes_while_a_process_is_launched_is_not_lost():
    with pytest.raises(KeyboardInterrupt):
        dict(run(Signalled(here=signal.SIGINT), ["sleep"] * 2, 2))
    assert not multiprocessing.active_children()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_at_once_with_their_parent(tmp_path, number):
    code = f"import test_parallel as t; t.outcomes({str(tmp_path)!r}, ['sleep'] * 2)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(workers := lives(tmp_path)) < 2:
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    assert all(map(alive, workers))
    parent.send_signal(number)
    assert parent.wait(20) != 0
    deadline = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
