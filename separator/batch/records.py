"""What the manifest keeps of a song's end."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

from separator.batch.engine import Ended, Event
from separator.batch.manifest import Manifest, Record, about
from separator.batch.worker import Failure, Outcome
from separator.jobs import Job

SILENT_DBFS = -70.0     # a stem whose RMS is below holds nothing that one would hear
DIVIDED = 0.5           # below this share of the song's energy, the stems rather share the sounds than divide them


def recorded(events: Generator[Event, None, None], job: Job, manifest: Manifest,
             ) -> Generator[Event, None, None]:
    """`events`, each end of a song only after its line is on the disk."""
    try:
        for event in events:
            if isinstance(event, Ended) and not event.again:
                manifest.append(record(event, job))
            yield event
    finally:
        events.close()


def record(ended: Ended, job: Job) -> Record:
    """The line of a song: schema in docs/batch.md."""
    ending, song = ended.ending, ended.task.song
    if isinstance(ending, Failure):
        error = {"class": ending.kind, "fact": ending.fact, "hint": ending.hint, "exit_code": ending.exit_code}
        return {**about(song, job, "failed", ended.attempt), "duration_s": ended.task.duration_s, "error": error}
    if isinstance(ending, Outcome):
        return {**about(song, job, "done", ended.attempt), **_done(ending, job)}
    outputs = {stem: {"path": os.path.relpath(path, job.out), "size": path.stat().st_size}
               for stem, path in ended.task.paths.items()}
    return {**about(song, job, "skipped", ended.attempt), "duration_s": ended.task.duration_s, "outputs": outputs}


def _done(outcome: Outcome, job: Job) -> dict[str, Any]:
    result = outcome.result
    outputs = {stem: {"path": os.path.relpath(path, job.out), "size": outcome.sizes[stem],
                      "sha256": outcome.hashes[stem], "peak": round(result.levels[stem].peak, 6),
                      "rms": round(result.levels[stem].rms, 6), "clipped": result.clipped[stem]}
               for stem, path in result.stems.items()}
    return {"size": outcome.size, "mtime_ns": outcome.mtime_ns, "sha256": outcome.sha256,
            "duration_s": result.duration_s, "sample_rate": result.sample_rate, "channels": result.channels,
            "frames": result.frames, "outputs": outputs, "elapsed_s": round(result.elapsed_s, 3),
            "peak_memory": outcome.peak_memory,
            "division": None if result.division is None else round(result.division, 4),
            "warnings": {**result.warnings, **_warnings(outcome)}}


def _warnings(outcome: Outcome) -> dict[str, str]:
    """What was measured and is no error, but worth a look."""
    found, result = {}, outcome.result
    silent = [stem for stem, level in result.levels.items() if level.rms < 10 ** (SILENT_DBFS / 20)]
    if silent:
        found["silent"] = f"below {SILENT_DBFS:g} dBFS: {', '.join(silent)}"
    if result.division is not None and result.division < DIVIDED:
        found["low_confidence"] = (f"the stems hold {result.division:.0%} of the song's energy: they share its sounds "
                                   f"rather than divide them")
    return found
