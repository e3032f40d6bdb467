"""What became of each song: one line of JSON each, on the disk before anyone is told."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from separator import __version__
from separator.errors import AudioError, SepctlError, UsageError
from separator.jobs import Job, Song

log = logging.getLogger(__name__)

SCHEMA = 1
_BEGINNING = b'{"schema": %d, "status": "' % SCHEMA      # of every line that `about` begins
Record = Mapping[str, Any]


class Manifest:
    """The manifest that this run writes to: lines are only ever added. Made by `open_manifest`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def append(self, record: Record) -> None:
        """Write a line and bring it to the disk. Raises OSError."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def open_manifest(path: Path) -> Iterator[Manifest]:
    """Open `path` for adding, alone; the folder is made if it is missing, and a torn last line is cut off.

    Raises UsageError where another run holds it or it is no manifest, AudioError where it cannot be written.
    """
    if not path.name or path.is_dir():
        raise UsageError(f"{path} is a folder, not a manifest", hint="--manifest FILE")
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_name(f".{path.name}.lock"), timeout=0))
            file = stack.enter_context(path.open("a+b"))
        except Timeout as error:
            raise UsageError(f"another run is writing {path}", hint="wait for it, or use another --out") from error
        except (FileExistsError, NotADirectoryError) as error:
            raise AudioError(f"cannot create {path.parent}/: a file is in the way", hint="use another --out") from error
        except OSError as error:
            raise AudioError(f"{path} cannot be written: {error.strerror or error}",
                             hint="use another --out") from error
        _check_ours(file, path)
        _cut_torn_line(file, path)
        yield Manifest(path, file)


def _check_ours(file: BinaryIO, path: Path) -> None:
    """Raise UsageError unless the file is empty or begins as a manifest does: of any other, no byte is touched."""
    file.seek(0)
    line = file.readline(1 << 20)       # a whole film may have no newline
    record = _parse(line)
    if record is not None and is_record(record):
        _check_schema(record, path, 1)
    elif line.endswith(b"\n") or not _is_torn(line):
        raise UsageError(f"{path} is not a manifest of sepctl, and is left as it is",
                         hint="--manifest FILE names a new file, or the manifest of an earlier batch")


def _is_torn(line: bytes) -> bool:
    """Whether it is the beginning of a first record, or what a power cut leaves in its place: nothing, or NULs."""
    return line.startswith(_BEGINNING) or _BEGINNING.startswith(line) or not line.strip(b"\0")


def _cut_torn_line(file: BinaryIO, path: Path) -> None:
    """A line whose end never reached the disk tells of nothing."""
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
        start = max(0, whole - 4096)
        file.seek(start)
        at = file.read(whole - start).rfind(b"\n")
        if at >= 0:
            whole = start + at + 1
            break
        whole = start
    if whole < end:
        log.warning("%s: cut off its torn last line (%d bytes)", path, end - whole)
        file.truncate(whole)
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Record]:
    """The records of a manifest, in order; torn lines are passed over with a warning.

    Raises AudioError where there is no such file, UsageError for a manifest of a later version and other JSON.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                record = _parse(line)
                if record is None and number == 1 and not _is_torn(line):
                    raise UsageError(f"{path} is not a manifest of sepctl", hint="a batch of sepctl split writes one")
                if record is None:
                    log.warning("%s: line %d is torn, passed over", path, number)
                    continue
                _check_schema(record, path, number)
                if not is_record(record):
                    raise UsageError(f"{path}: line {number} does not tell what became of a song",
                                     hint="is it a manifest of sepctl, and not the output of --json?")
                yield record
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}") from error


def is_manifest(path: Path) -> bool:
    """Whether the first line of a file is a record of ours, of whatever version."""
    try:
        with path.open("rb") as file:
            record = _parse(file.readline())
    except OSError:
        return False
    return record is not None and is_record(record)


def is_record(line: Record) -> bool:
    return "schema" in line and isinstance(line.get("input"), str) and isinstance(line.get("status"), str)


def _check_schema(record: Record, path: Path, number: int) -> None:
    if record.get("schema") != SCHEMA:
        raise UsageError(f"{path}: line {number} has schema {record.get('schema')!r}, known is {SCHEMA}",
                         hint="is it a manifest of sepctl, and not of a later version?")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def time_of(record: Record) -> str:
    """When the song ended; sorts as time does. Records of several manifests are in order by nothing else."""
    return str(record.get("at", ""))


def latest(manifests: Iterable[Path], wanted: Callable[[Record], bool]) -> dict[str, Record]:
    """The last record of each input in any of the manifests, of those that are `wanted`."""
    found: dict[str, Record] = {}
    for record in (record for path in manifests for record in read(path) if wanted(record)):
        before = found.get(record["input"])
        if before is None or time_of(record) >= time_of(before):
            found[record["input"]] = record
    return found


def outputs_of(record: Record, key: str) -> dict[str, Any]:
    """One figure of each output by stem; none of a record that has no outputs."""
    return {stem: output.get(key) for stem, output in record.get("outputs", {}).items()}


def about(song: Song, job: Job, status: str, attempt: int) -> dict[str, Any]:
    """What every record says of its song, as the song is now."""
    size, mtime_ns = state(song)
    return {"schema": SCHEMA, "status": status, "input": song.key, "size": size,
            "mtime_ns": mtime_ns, "model": job.model, "model_sha256": job.sha256, "options": job.shaping,
            "sepctl": __version__, "attempt": attempt, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def state(song: Song) -> tuple[int | None, int | None]:
    """Size in bytes and time of the last change in ns, by which a song is known again; None where nobody tells."""
    try:
        status = None if song.is_stream else song.path.stat()
    except (OSError, SepctlError):
        status = None
    return (None, None) if status is None else (status.st_size, status.st_mtime_ns)
