"""The command `sepctl`: parses, calls, reports. The only room with prints, progress, device choice and exit codes.

Nothing heavy is imported before a command needs it: `sepctl --help` must answer at once.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from separator import __version__
from separator.cli.text import shown_lines
from separator.errors import Interrupted, SepctlError
from separator.failures import as_sepctl

# command -> where it lives, and its one line in `sepctl --help` (the command itself need not be imported for that).
COMMANDS = {
    "split": ("separator.cli.split:split", "Split songs into one file per stem."),
    "report": ("separator.cli.report:report", "Sum up the manifests of batches."),
    "models": ("separator.cli.models:models", "List, show, fetch, verify and import models."),
    "data": ("separator.cli.data:data", "Prepare and check songs to train on."),
    "train": ("separator.cli.train:train", "Train a model from a configuration file."),
    "evaluate": ("separator.cli.evaluate:evaluate", "Score a model against true stems."),
    "doctor": ("separator.cli.doctor:doctor", "Check this installation and say what it can do."),
}
VERBOSE = "separator.verbose"  # key in click's Context.meta: show the traceback of every error


def remember_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    """Callback of `-v`, which the group and `split` both take."""
    ctx.meta[VERBOSE] = value or ctx.meta.get(VERBOSE, False)
    return value


class Program(click.Group):
    """Imports a command when it is called, and shows a `SepctlError` as one message with its exit code.

    Any other exception is a bug and keeps its traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            error: SepctlError = Interrupted("interrupted")
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click has the right words and codes for these
        except Exception as caught:
            known = as_sepctl(caught)
            if known is None:
                raise
            error = known
            if ctx.meta.get(VERBOSE):
                traceback.print_exception(caught)
        click.echo(f"Error: {shown_lines(str(error))}", err=True)
        ctx.exit(error.exit_code)


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False,
              help="Show the traceback of errors.")
@click.version_option(__version__, "-V", "--version", prog_name="sepctl", help="Show the version and exit.")
def program() -> None:
    """Split music into its stems: vocals, drums, bass, and everything else."""


def run() -> NoReturn:
    """Entry point of `sepctl`: stops cleanly for Ctrl-C, SIGTERM and a closed terminal, and ends at once."""
    _stop_cleanly_on_signals()
    status: list[object] = [1]  # of an error that is ours
    atexit.register(_leave, status)
    try:
        program.main(prog_name="sepctl")
    except SystemExit as end:
        status[0] = end.code
        raise
    raise AssertionError("click ends the process")


def _leave(status: Sequence[object]) -> None:
    """End the process here: registered first, this is the last that Python calls before it takes itself apart.

    With torch loaded that takes half a second, and 130 MB more than the process ever had.
    """
    code = status[0] if isinstance(status[0], int) else int(status[0] is not None)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe: 120 is what Python says then
            code = code or 120
    os._exit(code)


def _stop_cleanly_on_signals() -> None:
    """Turn the first signal into a KeyboardInterrupt in the main thread, so that `with` blocks clean up.

    It is answered on stderr at once, for the cleaning up takes as long as the batch in work. The second is ignored
    (`timeout` and shells often send two), the third kills. Signals that the parent ignores (nohup, background jobs)
    stay ignored.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    received = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 1:
            tell_stopping()
            raise KeyboardInterrupt
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def tell_stopping() -> None:
    """Past Python's buffers, whose lock the interrupted code may hold; on a terminal below its progress bar."""
    if sys.__stderr__ is None:
        return  # closed at the start: the descriptor may be another file by now
    with contextlib.suppress(OSError):
        os.write(2, b"\nstopping ...\n" if os.isatty(2) else b"stopping ...\n")
