"""Where a run stands, told by its folder alone: nothing heavy is imported, and the run is not disturbed.

The training process writes `status.json` after every block and holds the lock `.lock` while it lives; the lock goes
with the process, however it ends, so a run that was killed is never taken for one that works.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from separator.atomic import replacing
from separator.errors import ConfigError
from separator.train.history import COLUMNS, FILE, read

STATUS, LOCK = "status.json", ".lock"
PATIENCE_S = 2.0  # a glance of `status` at the lock takes less


@dataclass(frozen=True)
class Progress:
    """What the training process tells of itself. None: not known yet."""

    step: int
    share: float  # of the budget, 0 to 1
    elapsed_s: float  # of training, over all resumptions
    loss: float | None  # of the training batches since the last time
    lr: float | None
    epoch: float | None = None
    best: float | None = None  # lowest validation loss
    best_step: int | None = None
    finished: bool = False  # before the budget was used, where validation has stopped getting better

    def write(self, folder: Path) -> None:
        """Replace `status.json` atomically. Numbers that are not finite are written as null."""
        text = json.dumps({key: _finite(value) for key, value in asdict(self).items()}, indent=1)
        with replacing(folder / STATUS) as file:
            file.write(f"{text}\n".encode())


@dataclass(frozen=True)
class Status:
    """A run as seen from outside."""

    folder: Path
    progress: Progress
    validation: Mapping[str, float]  # newest row of history.csv; empty before the first
    scores: Mapping[str, float]  # of it, per stem: the SDR in dB
    updated_s: float  # seconds since the last sign of life
    running: bool | None  # whether a process holds the run; None where the folder cannot be locked

    @property
    def finished(self) -> bool:
        return self.progress.finished or self.progress.share >= 1

    @property
    def left_s(self) -> float | None:
        """Training time left at the pace so far; None before the first step."""
        done = self.progress.share
        return self.progress.elapsed_s * (1 - min(done, 1)) / done if done > 0 else None

    def text(self) -> str:
        """In words: one fact per line."""
        p, lines = self.progress, [("run", f"{self.folder}, {self._state()}")]
        epoch = "" if p.epoch is None else f", epoch {p.epoch:.4g}"
        lines.append(("step", f"{p.step}{epoch}, {100 * min(p.share, 1):.1f} % of the budget"))
        left = "" if self.left_s is None or self.finished else f", about {_duration(self.left_s)} left"
        lines.append(("time", f"{_duration(p.elapsed_s)} of training{left}"))
        if p.loss is not None:
            lines.append(("training", f"loss {p.loss:.4f}" + ("" if p.lr is None else f", learning rate {p.lr:.2e}")))
        if self.validation:
            lines.append(("validation", f"loss {self.validation['loss']:.4f} at step {self.validation['step']:.0f}"))
        if p.best is not None:
            lines.append(("best", f"loss {p.best:.4f}" + ("" if p.best_step is None else f" at step {p.best_step}")))
        if self.scores:
            lines.append(("SDR", ", ".join(f"{stem} {value:.2f} dB" for stem, value in self.scores.items())))
        return "\n".join(f"{name:<12}{told}" for name, told in lines)

    def _state(self) -> str:
        ago = f"last sign of life {_duration(self.updated_s)} ago"
        if self.running:
            return f"running, {ago}"
        if self.finished:
            return "finished"
        return f"stopped, {ago}: --resume continues it" if self.running is False else ago


def status(folder: Path) -> Status:
    """Where the run in `folder` stands.

    Raises ConfigError where the folder holds no run, or one that has not written anything yet, or a damaged file.
    """
    if not any(folder.glob("config.*")) and not (folder / STATUS).exists():
        raise ConfigError(f"{folder}: no training run", hint="name the run folder, runs/<name> unless --out said else")
    try:
        written = (folder / STATUS).stat().st_mtime
        progress = Progress(**json.loads((folder / STATUS).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: the run has not finished its first block",
                          hint="look again later, or see what the training process says") from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder / STATUS}: damaged ({error})", hint="it is written anew with --resume") from error
    rows = [row for row in read(folder / FILE) if row["step"] <= progress.step]
    newest = rows[-1] if rows else {}
    scores = {key: value for key, value in newest.items() if key not in COLUMNS and math.isfinite(value)}
    return Status(folder, progress, newest, scores, max(time.time() - written, 0.0), _held(folder))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the run while training: no second process may write into its folder. Raises ConfigError where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout as error:
        raise ConfigError(f"{folder}: another process trains in this folder",
                          hint="wait for it, stop it, or name another --out") from error
    try:
        yield
    finally:
        lock.release()


def _held(folder: Path) -> bool | None:
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder of someone else's, or a file system without locks
        return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _duration(seconds: float) -> str:
    """
    >>> [_duration(s) for s in (8.2, 75, 3600, 100_000)]
    ['8 s', '1 min 15 s', '1 h 0 min', '27 h 46 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
