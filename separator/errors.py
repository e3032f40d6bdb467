"""What can go wrong through no bug of ours: one class per thing a user would fix differently."""

from __future__ import annotations


class SepctlError(Exception):
    """An error the user can cause or cure: one sentence of fact, one of remedy, one exit code.

    Anything that is not a `SepctlError` is a bug and keeps its traceback.
    """

    exit_code = 1

    def __init__(self, fact: str, *, hint: str = "") -> None:
        super().__init__(fact if not hint else f"{fact}\n  hint: {hint}")
        self.fact = fact
        self.hint = hint


class UsageError(SepctlError):
    """The command line, or the arguments of a function, contradict themselves or the model."""

    exit_code = 2


class ConfigError(SepctlError):
    """A configuration file has an unknown key or a value out of range."""

    exit_code = 3


class ModelError(SepctlError):
    """A model is unknown, missing, damaged, or of another architecture."""

    exit_code = 4


class AudioError(SepctlError):
    """A song cannot be read, or a stem cannot be written."""

    exit_code = 5


class ResourceError(SepctlError):
    """Memory or disk space ran out."""

    exit_code = 6


class Interrupted(SepctlError):
    """Ctrl-C or SIGTERM asked the program to stop."""

    exit_code = 130
