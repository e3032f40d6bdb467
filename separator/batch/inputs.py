"""Files, folders, lists and patterns to songs, in an order that depends on nothing but their names."""

from __future__ import annotations

import functools
import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePath

from separator.batch.manifest import is_manifest
from separator.errors import AudioError, UsageError
from separator.jobs import Song
from separator.remote import Url, path_of

# What FFmpeg reads and may hold music, by the names that such files go by: no pictures, subtitles or raw video.
EXTENSIONS = frozenset({
    "3g2", "3gp", "aa", "aac", "aax", "ac3", "adts", "aif", "aifc", "aiff", "alac", "amr", "ape", "apl", "asf",
    "ast", "au", "avi", "caf", "divx", "dsf", "dts", "dtshd", "dv", "eac3", "ec3", "f4v", "flac", "flv", "gsm",
    "iamf", "m2a", "m2t", "m2ts", "m4a", "m4b", "m4r", "m4v", "mac", "mka", "mkv", "mlp", "mov", "mp+", "mp2",
    "mp3", "mp4", "mpa", "mpc", "mpeg", "mpg", "mts", "mxf", "nut", "oga", "ogg", "ogm", "ogv", "oma", "opus",
    "qoa", "ra", "rf64", "rm", "rmvb", "shn", "snd", "spx", "tak", "thd", "ts", "tta", "vob", "voc", "w64", "wav",
    "wave", "webm", "wma", "wmv", "wtv", "wv",
})
log = logging.getLogger(__name__)
MANIFESTS = "manifest*.jsonl"       # in the output folder of a batch


@dataclass(frozen=True)
class Unreadable(Song):
    """A folder that cannot be listed, in the place of the songs in it: it fails in its turn, and the others go on."""

    def check(self) -> None:
        raise AudioError(f"{self.path} cannot be listed", hint="check its permissions")


def find(named: Sequence[Path], *, recursive: bool, out: Path) -> list[Song]:
    """The songs that paths stand for, each once, in the order of the paths; folders sorted by name.

    With `recursive` a folder stands for the songs below it, told by their extensions; left out are hidden files and
    folders, `out`, and folders that hold a manifest of ours. Raises UsageError for a folder without songs.
    """
    songs: dict[str, Song] = {}
    real = functools.cache(os.path.realpath)
    for path in named:
        found = _below(path, out) if recursive and _is_folder(path) else [Song(path)]
        if not found:
            raise UsageError(f"{path} holds no songs", hint="songs are told by their extensions: mp3, flac, ...")
        for song in found:      # by way of links to folders, and from here or from the root, it is the same file
            place = song.key if isinstance(song.path, Url) else os.path.join(real(song.path.parent), song.path.name)
            songs.setdefault(place, song)
    return list(songs.values())


def expand(arguments: Iterable[Path]) -> Iterator[Path]:
    """Each argument, or in the place of a pattern what it fits, sorted; shells of Windows leave that to the program.

    A pattern is a name with `*`, `?` or `[` that is no file. Raises UsageError where it fits nothing.
    """
    for name in arguments:
        if not glob.has_magic(str(name)) or os.path.lexists(name):
            yield name
            continue
        if isinstance(name, Url):
            found: Sequence[Path] = name.matches()
        else:       # `-` is a file here
            found = sorted(path_of(os.path.join(".", each)) for each in glob.glob(str(name), recursive=True))
        if not found:
            raise UsageError(f"{name} matches no file", hint="it is neither a file nor a pattern that fits one")
        yield from found


def read_list(data: bytes, *, null: bool) -> list[Path]:
    """The paths in a list: one on each line, or with a NUL behind each. Nothing else has a meaning in it.

    Raises UsageError for a NUL within a line: no path has one.
    """
    if null:
        parts = data.split(b"\0")
    elif b"\0" in data:
        raise UsageError("the list has NULs in its lines", hint="-0, if its paths end in NUL")
    else:
        parts = [line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    return [path_of(os.fsdecode(part)) for part in parts if part]


def _below(root: Path, out: Path) -> list[Song]:
    if isinstance(root, Url):
        inside = ((path, path.relative_to(root)) for path in root.below() if not path.is_relative_to(out))
        return [Song(path, PurePath(*below.parts[:-1])) for path, below in inside if _is_song(path)
                and not any(part.startswith(".") for part in below.parts)]
    return [*_walk(root, PurePath(), {os.path.realpath(out)})]


def _walk(folder: Path, below: PurePath, closed: Set[str]) -> Iterator[Song]:
    """Songs of `folder`, in the order of all its names. Never enters `closed`, nor a folder twice by way of a link."""
    closed = closed | {os.path.realpath(folder)}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        log.warning("%s cannot be listed: %s", folder, error.strerror)
        yield Unreadable(folder, below)
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if _is_folder(path):
            if os.path.realpath(path) not in closed and not _is_output(path):
                yield from _walk(path, below / entry.name, closed)
        elif _is_song(path) and os.path.isfile(path):
            yield Song(path, below)


def _is_folder(path: Path) -> bool:
    """Of a name that is too long, or a link to itself: False, where pathlib raises OSError."""
    return path.is_dir() if isinstance(path, Url) else os.path.isdir(path)


def _is_song(path: Path) -> bool:
    return path.suffix[1:].lower() in EXTENSIONS


def _is_output(folder: Path) -> bool:
    """Whether a batch of ours wrote there."""
    return any(map(is_manifest, folder.glob(MANIFESTS)))
