"""What `sepctl data prepare` is to do, and every reason to refuse it before any work."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from separator.corpus import STREAMS, TrueSong, musdb_songs, oddities, true_songs
from separator.errors import AudioError, UsageError
from separator.train.prepared import MANIFEST

UNFINISHED = ".preparing"  # folder inside the destination


@dataclass(frozen=True)
class Task:
    """A song to prepare, and where."""

    song: TrueSong
    source: Path  # the folder of sources
    destination: Path
    sample_rate: int

    @property
    def folder(self) -> Path:
        """The song's folder when it is complete."""
        return self.destination / self.song.split / self.song.name

    @property
    def unfinished(self) -> Path:
        """The song's folder until then, this process's own."""
        tag = hashlib.sha256(os.fsencode(self.folder.relative_to(self.destination))).hexdigest()[:16]
        return self.destination / UNFINISHED / f"{tag}-{os.getpid()}"


def plan(
    source: Path, destination: Path, *, sample_rate: int, stems: Sequence[str] | None, musdb: bool, valid: int | None
) -> tuple[list[Task], list[str]]:
    """What is to be prepared, and notes for people. Raises a SepctlError for every reason to refuse the whole run.

    `stems`: only these; `musdb`: `source` is MUSDB18 or MUSDB18-HQ; `valid`: so many songs are set aside from train.
    """
    here, there = source.resolve(), destination.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(f"{destination} and {source} lie in each other", hint="choose another folder for the result")
    songs = musdb_songs(source) if musdb else true_songs(source)
    notes = oddities(songs, musdb)
    if valid is not None:
        songs = set_aside(songs, valid)
    if stems:
        songs = [_only(song, stems) for song in songs]
    for stem in stems or (STREAMS if musdb else ()):
        lacking = [song.name for song in songs if stem not in song.stems]
        if len(lacking) == len(songs):
            raise AudioError(f"{source}: no song has the stem {stem}", hint="stems are named by their files")
        notes += [f"without {stem}: {', '.join(lacking)}"] * bool(lacking)
    tasks = [Task(song, source, destination, sample_rate) for song in songs]
    return tasks, notes + _strangers(tasks, destination)


def _only(song: TrueSong, stems: Sequence[str]) -> TrueSong:
    return dataclasses.replace(song, stems={stem: song.stems[stem] for stem in stems if stem in song.stems})


def set_aside(songs: Sequence[TrueSong], count: int) -> list[TrueSong]:
    """Move `count` of the train songs to valid: those whose names have the smallest hashes, so the same every time.

    Songs without a split are train songs. Raises UsageError where there is a valid split, or none would be left.
    """
    if any(song.split == "valid" for song in songs):
        raise UsageError("--valid: there is a valid split already", hint="leave --valid out")
    train = [song.name for song in songs if song.split in ("", "train")]
    if not 0 < count < len(train):
        raise UsageError(f"--valid {count}: there are {len(train)} songs to train on and to set aside from")
    chosen = set(sorted(train, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())[:count])
    return [
        song if song.split == "test" else dataclasses.replace(song, split="valid" if song.name in chosen else "train")
        for song in songs
    ]


def _strangers(tasks: Sequence[Task], destination: Path) -> list[str]:
    """Refuse what must not be replaced or would be both trained on and validated; tell of other songs."""
    ours: dict[Path, Task] = {}
    for task in tasks:
        if task.folder in ours:
            raise AudioError(f"{task.source}: two songs are called {task.song.name}", hint="rename one")
        ours[task.folder] = task
        foreign = [path for path in task.folder.rglob("*") if path.is_file() and not _may_replace(path)]
        if foreign:
            raise UsageError(f"{foreign[0]} is in the way", hint="choose an empty folder for the result")
    names = {task.song.name for task in tasks}
    prepared = (path.parent for depth in ("[!.]*", "[!.]*/[!.]*") for path in destination.glob(f"{depth}/{MANIFEST}"))
    others = sorted(set(prepared) - ours.keys())
    for folder in others:
        if folder.name in names:
            raise UsageError(
                f"{folder} was prepared from the same song, which now goes elsewhere",
                hint="remove that folder, or choose another one for the result",
            )
    return [f"{destination} also holds songs of another run: {', '.join(path.name for path in others)}"] * bool(others)


def _may_replace(path: Path) -> bool:
    return path.name == MANIFEST or path.suffix == ".npy"
