"""Manifests to what one wants to know of a batch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from separator.batch.manifest import Record, time_of

SLOWEST = 5


@dataclass(frozen=True)
class Summary:
    """Songs by what became of them last; audio and work in seconds; causes of failures and kinds of warnings by count.

    `x_real_time` is audio over work of those that were split: what one worker makes. `wall_s` is the time from the end
    of the first song to that of the last.
    """

    done: int = 0
    skipped: int = 0
    failed: int = 0
    audio_s: float = 0.0
    work_s: float = 0.0
    wall_s: float = 0.0
    peak_memory: int | None = None
    causes: Mapping[str, int] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)
    slowest: Sequence[tuple[str, float, float]] = ()       # input, seconds of work, seconds of audio
    failures: Sequence[Record] = ()

    @property
    def songs(self) -> int:
        return self.done + self.skipped + self.failed

    @property
    def x_real_time(self) -> float | None:
        return self.audio_s / self.work_s if self.work_s else None


def summarise(records: Iterable[Record]) -> Summary:
    """Of the records of any manifests; a song counts once, as it ended last."""
    last: dict[str, Record] = {}
    for record in sorted(records, key=time_of):
        last.pop(record["input"], None)         # to the end: the order is that of the ends
        last[record["input"]] = record
    by_status = {status: [each for each in last.values() if each["status"] == status]
                 for status in ("done", "skipped", "failed")}
    done = by_status["done"]
    slow = sorted(done, key=lambda each: (-each["elapsed_s"], each["input"]))[:SLOWEST]
    return Summary(
        **{status: len(each) for status, each in by_status.items()},
        audio_s=sum(each["duration_s"] for each in done), work_s=sum(each["elapsed_s"] for each in done),
        wall_s=_wall_s(last.values()),
        peak_memory=max((each["peak_memory"] for each in done if each["peak_memory"] is not None), default=None),
        causes=_counted(cause(each) for each in by_status["failed"]),
        warnings=_counted(kind for each in done for kind in each["warnings"]),
        slowest=[(each["input"], each["elapsed_s"], each["duration_s"]) for each in slow],
        failures=by_status["failed"],
    )


def cause(record: Record) -> str:
    """What failed songs have in common: the error without the song's name and without figures."""
    error: Mapping[str, Any] = record["error"]
    fact = str(error["fact"])
    for name in (record["input"], Path(record["input"]).name):
        fact = re.sub(rf"\S*{re.escape(name)}", "SONG", fact)
    return f"{error['class']}: {re.sub(r'[0-9]+([.,][0-9]+)*', 'N', fact)}"


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _wall_s(records: Iterable[Record]) -> float:
    times = sorted(datetime.strptime(each["at"], "%Y-%m-%dT%H:%M:%SZ") for each in records)
    return (times[-1] - times[0]).total_seconds() if times else 0.0
