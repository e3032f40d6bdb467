"""The command itself: quick to start, errors in the right words and codes, tracebacks only for bugs."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from separator import __version__, cli
from separator.errors import AudioError, ConfigError, Interrupted, ModelError, ResourceError, SepctlError, UsageError


def run(*arguments: str):
    return CliRunner().invoke(cli.program, arguments)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Make `sepctl doctor` raise what the test wants."""

    def install(error: BaseException) -> None:
        @click.command()
        def doctor() -> None:
            raise error

        monkeypatch.setattr("separator.cli.doctor.doctor", doctor)

    return install


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["split", "--help"], []])
def test_help_imports_neither_torch_nor_anything_else_heavy(arguments: list[str]) -> None:
    code = ("import sys; from separator.cli import program\n"
            f"try: program.main({arguments!r}, prog_name='sepctl')\n"
            "except SystemExit: pass\n"
            "print(*sys.modules, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "click" in loaded
    assert not loaded & {"torch", "numpy", "av", "soxr", "pydantic", "yaml", "tqdm"}


def test_help_answers_at_once() -> None:
    """The best of five, so that a busy machine does not fail it; an import of torch alone takes longer."""
    took = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "separator", "--help"], capture_output=True, check=True)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.3


def test_version_goes_to_stdout() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"sepctl, version {__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_tells_what_each_command_tells(name: str) -> None:
    module, _, attribute = cli.COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert command.name == name
    assert command.short_help in (None, cli.COMMANDS[name][1])
    assert f"{name:<10}{cli.COMMANDS[name][1]}" in run("--help").stdout


@pytest.mark.parametrize(("arguments", "words"), [
    (["sing"], "No such command 'sing'"), (["split"], "Missing argument 'SONGS...'"),
    (["split", "a.wav", "--sterns", "x"], "--sterns"), (["split", "a.wav", "-f", "wma"], "'wma' is not one of"),
])
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(("kind", "code"), [
    (SepctlError, 1), (UsageError, 2), (ConfigError, 3), (ModelError, 4), (AudioError, 5), (ResourceError, 6),
    (Interrupted, 130),
])
def test_an_error_is_a_fact_a_hint_and_an_exit_code(failing, kind: type[SepctlError], code: int) -> None:
    failing(kind("the fact", hint="the remedy"))
    done = run("doctor")
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", "Error: the fact\n  hint: the remedy\n")


def test_verbose_adds_the_traceback(failing) -> None:
    failing(AudioError("the fact"))
    done = run("-v", "doctor")
    assert done.exit_code == 5
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("\nError: the fact\n")


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    OSError(errno.ENOSPC, "No space left on device", "x.wav"),
])
def test_running_out_of_memory_or_disk_is_exit_code_6(failing, error: Exception) -> None:
    failing(error)
    done = run("doctor")
    assert done.exit_code == 6
    words = ("Error: out of memory\n  hint: ", "Error: no space left on the disk: x.wav\n  hint: ")
    assert done.stderr.startswith(words)


def test_cuda_out_of_memory_is_exit_code_6(failing) -> None:
    torch = pytest.importorskip("torch")
    failing(torch.OutOfMemoryError("CUDA out of memory."))
    assert run("doctor").exit_code == 6


def test_a_bug_keeps_its_traceback(failing) -> None:
    failing(ZeroDivisionError("division by zero"))
    done = run("doctor")
    assert isinstance(done.exception, ZeroDivisionError)
    assert done.exit_code == 1
    assert "Error:" not in done.stderr


def test_an_interrupt_is_exit_code_130(failing) -> None:
    failing(KeyboardInterrupt())
    done = run("doctor")
    assert (done.exit_code, done.stdout) == (130, "")
    assert "Error: interrupted\n" in done.stderr


def test_a_closed_pipe_is_nobodys_error(failing) -> None:
    failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    done = run("doctor")
    assert (done.exit_code, done.stderr) == (1, "")


def signalled(name: str, times: int, before: str) -> subprocess.CompletedProcess[str]:
    """`sepctl doctor` that sends itself a signal, and again while it cleans up; `before` is how it was set up."""
    code = f"""
import os, signal, sys, time, click
import separator.cli.doctor as module
from separator.cli import run

signal.signal(signal.{name}, signal.{before})

@click.command()
def doctor():
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.2)
        print("went on")
    finally:
        for _ in range({times} - 1):
            os.kill(os.getpid(), signal.{name})
        time.sleep(0.05)
        print("cleaned up", flush=True)

module.doctor = doctor
sys.argv = ["sepctl", "doctor"]
run()
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
SIGNALS = pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])


@POSIX
@SIGNALS
@pytest.mark.parametrize("times", [1, 2])
def test_the_first_signal_cleans_up_and_the_second_does_not_hinder_that(name: str, times: int) -> None:
    done = signalled(name, times, "SIG_DFL")
    assert (done.returncode, done.stdout) == (130, "cleaned up\n")
    assert done.stderr.split("\n") == ["stopping ...", "Error: interrupted", ""]


@POSIX
@SIGNALS
def test_the_third_signal_kills(name: str) -> None:
    assert signalled(name, 3, "SIG_DFL").returncode < 0


@POSIX
@SIGNALS
def test_ignored_signals_stay_ignored(name: str) -> None:
    """As under nohup, and in the background of a shell script."""
    done = signalled(name, 2, "SIG_IGN")
    assert (done.returncode, done.stdout) == (0, "went on\ncleaned up\n")


def ending(program: str) -> subprocess.CompletedProcess[str]:
    """`run()` in a process of its own, on `sys.argv` and modules that the program has prepared."""
    code = f"import atexit, sys\nfrom separator import cli\nsys.argv = ['sepctl', '--version']\n{program}\ncli.run()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_command_ends_before_python_takes_itself_apart() -> None:
    """What is registered before comes after, and is not reached; what comes later, as of a library, is."""
    before = "atexit.register(print, 'apart')\n"
    done = ending(before + "cli.Program.main = lambda *_, **__: (atexit.register(print, 'library'), sys.exit(3))")
    assert (done.stdout, done.stderr, done.returncode) == ("library\n", "", 3)
    assert ending(before).stdout == f"sepctl, version {__version__}\n"


@pytest.mark.parametrize(
    ("end", "status"),
    [("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(130)", 130), ("sys.exit('why')", 1), ("1 / 0", 1)],
)
def test_it_ends_with_the_status_that_python_would_give(end: str, status: int) -> None:
    done = ending(f"def main(self, **_):\n    {end}\ncli.Program.main = main")
    assert done.returncode == status
    assert ("ZeroDivisionError" in done.stderr) == (end == "1 / 0")
    assert ("why" in done.stderr) == ("why" in end)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_words_that_could_not_be_written_are_no_success() -> None:
    code = "import sys; from separator import cli\ncli.Program.main = lambda *_, **__: (print('lost'), sys.exit(0))"
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code + "\ncli.run()"], stdout=full, env=buffered, check=False)
    assert done.returncode == 120
