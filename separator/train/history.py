"""A run's history: one row per validation, as a table, as a picture, and for TensorBoard.

`history.csv` is the record; `history.png` is drawn from it where matplotlib is installed (extra [report]), and the same
numbers go to TensorBoard where that is (extra [tensorboard]).
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from separator.atomic import replacing
from separator.errors import ConfigError
from separator.train import curves

FILE, PICTURE, EVENTS = "history.csv", "history.png", "tensorboard"

# Every other column is a stem's: its SDR on the validation excerpts, in dB.
COLUMNS = ("step", "epoch", "elapsed_s", "lr", "train_loss", "loss")


class History:
    """The history in a run's folder, new or continued.

    Rows have the same keys every time: `step`, any of `COLUMNS`, and one per stem.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.rows = read(self.path)
        self._events: Any = None  # SummaryWriter
        self._draws = importlib.util.find_spec("matplotlib") is not None

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`, that of the checkpoint: the run goes through it again."""
        self.close()
        self._replace([row for row in self.rows if row["step"] <= step])

    def append(self, row: Mapping[str, float]) -> None:
        """Record one validation, durably, and draw it. A step recorded before is replaced."""
        values = {key: float(value) for key, value in row.items()}
        if self.rows and values.keys() != self.rows[-1].keys():
            had, has = ", ".join(self.rows[-1]), ", ".join(values)
            raise ConfigError(f"{self.path}: has the columns {had}; the run has {has}",
                              hint="continue it with the stems it was begun with, or name another --out")
        if self.rows and values["step"] <= self.rows[-1]["step"]:
            self._replace([old for old in self.rows if old["step"] < values["step"]])
        begin = not self.rows
        self.rows.append(values)
        with self.path.open("w" if begin else "a", newline="", encoding="utf-8") as file:
            file.write(_csv([values], header=begin))
            file.flush()
            os.fsync(file.fileno())
        if self._draws:
            with replacing(self.path.with_name(PICTURE)) as picture:
                stems = [key for key in values if key not in COLUMNS]
                curves.draw(self.rows, stems, self.path.parent.name, picture)
        self._tell(values)

    def _replace(self, rows: list[dict[str, float]]) -> None:
        self.rows = rows
        if self.path.exists():
            with replacing(self.path) as file:
                file.write(_csv(rows, header=bool(rows)).encode())

    def _tell(self, row: Mapping[str, float]) -> None:
        """The row as scalars for TensorBoard; after a resumption, events from here on replace those of before."""
        if importlib.util.find_spec("tensorboard") is None:
            return
        step = int(row["step"])
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path.with_name(EVENTS)), purge_step=step)
        for key, value in row.items():
            if key != "step":
                self._events.add_scalar(key if key in COLUMNS else f"sdr_db/{key}", value, step)
        self._events.flush()

    def close(self) -> None:
        """End what is written for TensorBoard; the next row begins anew."""
        if self._events is not None:
            self._events.close()
            self._events = None


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a history, none where there is no file. A last line that was cut short is left out.

    Raises ConfigError where the file is not a history.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    try:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(whole))]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: damaged ({error})", hint="move it away to begin a new one") from error


def _csv(rows: list[dict[str, float]], header: bool) -> str:
    """Rows as text: whole numbers without a point, the others with as many digits as they have."""
    out = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        if header:
            writer.writeheader()
        for row in rows:
            writer.writerow({key: int(value) if value.is_integer() else value for key, value in row.items()})
    return out.getvalue()
