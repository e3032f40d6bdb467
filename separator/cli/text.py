"""Text that may go to a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from separator.errors import SepctlError
from separator.failures import as_sepctl

if TYPE_CHECKING:
    from separator.parallel import Failure


def shown(name: str) -> str:
    """A file name that may go to a terminal: undecodable bytes and control characters replaced."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def shown_lines(text: str) -> str:
    """The same for text of several lines: a message and its hint."""
    return "\n".join(map(shown, text.split("\n")))


def told(failure: Failure, echo: Callable[..., None]) -> SepctlError:
    """Why a task failed, for a user; of a bug the traceback goes to stderr. `echo` is click's, or a bar's `write`."""
    known = as_sepctl(failure.error)
    if known is None:
        echo(failure.trace, file=sys.stderr)
        known = SepctlError(repr(failure.error), hint="this is a bug in sepctl; its traceback is above")
    return known
