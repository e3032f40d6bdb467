"""Songs to tasks: where the stems go, how long it is and what it takes, and what is finished already."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from separator import provenance
from separator.audio.place import sweep
from separator.batch.facts import Facts, facts
from separator.batch.manifest import Record, outputs_of, state
from separator.batch.shard import Shard, assign, keys, weights
from separator.errors import AudioError, ModelError, ResourceError, UsageError
from separator.jobs import Job, Song, plan
from separator.modelfile import file_sha256
from separator.remote import Url
from separator.split import bytes_per_second, free_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One song of a batch, number `number` of the plan.

    `duration_s` is what will be split, `need_bytes` a lower bound on what its stems take; None where nobody knows.
    `redo`: stems that are there and say that they are this work do not count. `replace`: those that are there are ours,
    of an older state of the song. `changed`: one of them is no longer as we left it, and so none is touched.
    """

    number: int
    song: Song
    paths: Mapping[str, Path]
    duration_s: float | None = None
    need_bytes: int | None = None
    redo: bool = False
    replace: bool = False
    changed: Path | None = None


def make(songs: Sequence[Song], job: Job, *, named: Collection[Path] = (), shard: Shard | None = None) -> list[Task]:
    """The tasks of `shard` (None: all), in the order of `songs`; no song is opened for longer than its header takes.

    Songs that are stems of ours are left out, unless they are among those `named` one by one.
    Raises UsageError where that leaves none, and as `jobs.plan` does: collisions between all songs count, files that
    exist only in this shard.
    """
    shard = shard or Shard()
    known = {song: facts(song.path) for song in songs}
    taken = [song for song in songs if not known[song].ours or song.path in named]
    if left_out := len(songs) - len(taken):
        if not taken:
            raise UsageError(f"nothing to split: left out, for they are stems that sepctl made, {left_out} files",
                             hint="name one to have it split")
        log.warning("left out, for they are stems that sepctl made: %d files; name one to have it split", left_out)
    mine = _of_shard(taken, known, shard)
    files = plan(taken, job, only=mine)
    return [_task(number, song, files[song], known[song], job) for number, song in enumerate(mine, start=1)]


def _of_shard(songs: Sequence[Song], known: Mapping[Song, Facts], shard: Shard) -> list[Song]:
    if shard.count == 1:
        return list(songs)
    names = keys([song.path for song in songs])
    heavy = weights([known[song].duration_s for song in songs], [state(song)[0] or 0 for song in songs])
    mine = set(assign(dict(zip(names, heavy, strict=True)), shard.count)[shard.index - 1])
    return [song for song, name in zip(songs, names, strict=True) if name in mine]


def _task(number: int, song: Song, paths: Mapping[str, Path], known: Facts, job: Job) -> Task:
    if known.duration_s is None or known.sample_rate is None or known.channels is None:
        return Task(number, song, paths)
    seconds = job.part_s(known.duration_s)
    channels = min(known.channels, 2)
    need = len(job.stems) * seconds * bytes_per_second(job.fmt, known.sample_rate, channels)
    return Task(number, song, paths, seconds, int(need))


def settle(tasks: Sequence[Task], records: Mapping[str, Record], job: Job, *, resume: bool, verify: bool,
           ) -> tuple[list[Task], list[Task]]:
    """Tasks that are to be done, and those that the manifests' `records` (by input) show finished.

    With `resume`, songs without a record are to be split again even if their stems seem complete, and so are songs
    that changed since: their old stems are replaced if they are as we left them. Stems that are gone are made again.
    """
    todo, finished = [], []
    there: dict[Path, Path] = {url: url for url in job.out.below()} if isinstance(job.out, Url) and records else {}
    for task in tasks:
        task = replace(task, paths={stem: there.get(path, path) for stem, path in task.paths.items()})
        record = records.get(task.song.key)
        if record is None or not _same_work(record, task, job):
            todo.append(replace(task, redo=resume))
        elif not all((stems := _as_left(record, task, hashed=verify)).values()):
            changed = next((path for path, left in stems.items() if left is False), None)
            if changed is not None and not _same_song(record, task.song, hashed=False):
                changed = None      # it may be of the song's newer state, and its line lost: its stamp will tell
            todo.append(replace(task, redo=changed is None, changed=changed))
        elif any(_of_other_work(path, record, job) for path in task.paths.values()):
            todo.append(task)           # may be of the song's newer state: when it is its turn, the stems are asked
        elif _same_song(record, task.song, hashed=verify):
            finished.append(task)
        else:
            ours = resume and not task.song.is_stream and all(_as_left(record, task, hashed=True).values())
            todo.append(replace(task, replace=ours))
    return todo, finished


def finished_by(job: Job, tasks: Sequence[Task]) -> Callable[[Record], bool]:
    """Which records tell that one of `tasks` was finished: by this model and options, into the same files.

    Those of other work in the same folder tell nothing, nor do failures.
    """
    of = {task.song.key: task for task in tasks}

    def told(record: Record) -> bool:
        return record["input"] in of and _same_work(record, of[record["input"]], job)

    return told


def unhashed(todo: Sequence[Task], records: Mapping[str, Record], job: Job) -> list[Task]:
    """`todo` of a batch that is verified, where no song is split again just because no record hashes its stems.

    What its stems say of themselves is compared with the song, as ever; that this is less is told.
    """
    def is_unhashed(task: Task, record: Record | None) -> bool:
        if record is None:
            return not task.redo and not isinstance(job.out, Url) and _there(task) > 0
        return record["status"] == "skipped" and all(_as_left(record, task, hashed=False).values())

    found = {task.number for task in todo if is_unhashed(task, records.get(task.song.key))}
    if found and not job.overwrite:
        log.warning("no record hashes the stems of %d songs: they are known by what they say of themselves, and "
                    "cannot be verified; --overwrite makes them again", len(found))
    return [replace(task, redo=False) if task.number in found else task for task in todo]


def _same_work(record: Record, task: Task, job: Job) -> bool:
    made = {stem: job.out / path for stem, path in outputs_of(record, "path").items()}
    return (record.get("model_sha256"), record.get("options"), made) == (job.sha256, job.shaping, dict(task.paths))


def _of_other_work(path: Path, record: Record, job: Job) -> bool:
    """Whether a stem, of the size that the record tells, says that it was made of another song or in another way.

    Work that replaced it may have left no record that counts here, or none at all, and yet a stem of the same size.
    """
    made = None if isinstance(path, Url) else provenance.read_stamp(path)
    return made is not None and ((made.get("sha256"), made.get("options")) != (job.sha256, job.shaping)
                                 or record.get("sha256") not in (None, made.get("song_sha256")))


def _as_left(record: Record, task: Task, *, hashed: bool) -> dict[Path, bool | None]:
    """Whether each stem has the size, and with `hashed` the bytes, of the record; None: it is gone, or nobody knows."""
    sizes, hashes = outputs_of(record, "size"), outputs_of(record, "sha256")

    def as_left(stem: str, path: Path) -> bool | None:
        try:
            if path.stat().st_size != sizes[stem]:
                return False
            return not hashed or (None if hashes[stem] is None else file_sha256(path) == hashes[stem])
        except (OSError, ModelError):
            return None

    return {path: as_left(stem, path) for stem, path in task.paths.items()}


def _same_song(record: Record, song: Song, *, hashed: bool) -> bool:
    """By size and time, or, where these leave it open, by its bytes. A song that is not there is not the same."""
    size, mtime_ns = state(song)
    if size is None or size != record.get("size"):
        return False
    if mtime_ns == record.get("mtime_ns") and not hashed:
        return True
    try:
        return song.sha256 == record.get("sha256")
    except AudioError:
        return False


def check_space(tasks: Sequence[Task], job: Job) -> None:
    """Refuse a batch whose stems surely do not fit, before any work. Raises ResourceError."""
    if isinstance(job.out, Url):
        return
    free = free_bytes(job.out)
    needs = [task.need_bytes - _there(task) for task in tasks if task.need_bytes is not None]
    # A song that would not fit if it were alone fails in its turn: its header may be wrong.
    needs = [each for each in needs if each <= free] or needs
    if (need := sum(needs)) > free:
        raise ResourceError(
            f"the stems of {len(needs)} songs need {need / 1e9:.1f} GB, but {job.out} has {free / 1e9:.1f} GB",
            hint="free some space, use another --out, or a smaller --format such as flac")


def _there(task: Task) -> int:
    """Bytes of the stems that are there already, and give way to the new ones."""
    sizes = 0
    for path in task.paths.values():
        with contextlib.suppress(OSError):
            sizes += path.stat().st_size
    return sizes


def sweep_leftovers(tasks: Sequence[Task]) -> None:
    """Remove what killed processes of this machine left half-written in the folders of the stems."""
    for folder in {path.parent for task in tasks for path in task.paths.values()}:
        if folder.is_dir():
            sweep(folder)
