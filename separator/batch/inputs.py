"""Files, folders, lists and patterns to songs, in an order that depends on nothing but their names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path, PurePath

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
MANIFESTS = "manifest*.jsonl"       # in the output folder of a batch


def find(named: Sequence[Path], *, recursive: bool, out: Path) -> list[Song]:
    """The songs that arguments stand for, each once, in the order of the arguments; folders sorted by name.

    A name with `*`, `?` or `[` that is no file is a pattern (shells of Windows leave that to the program). With
    `recursive` a folder stands for the songs below it, told by their extensions; left out are hidden files and
    folders, `out`, and folders that hold a manifest of ours. Raises UsageError for a folder or pattern without songs.
    """
    songs: dict[Path, Song] = {}
    for name in named:
        for path in _expand(name):
            found = _below(path, out) if recursive and path.is_dir() else [Song(path)]
            if not found:
                raise UsageError(f"{path} holds no songs", hint="songs are told by their extensions: mp3, flac, ...")
            for song in found:
                songs.setdefault(song.path, song)
    return list(songs.values())


def read_list(data: bytes, *, null: bool) -> list[Path]:
    """The paths in a list: one on each line, or with a NUL behind each. Nothing else has a meaning in it."""
    if null:
        parts = data.split(b"\0")
    else:
        parts = [line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    return [path_of(os.fsdecode(part)) for part in parts if part]


def _expand(name: Path) -> list[Path]:
    if not glob.has_magic(str(name)) or os.path.lexists(name):
        return [name]
    found: list[Path] = sorted(map(Path, glob.glob(str(name), recursive=True)))
    if isinstance(name, Url):
        found = [*name.matches()]
    if not found:
        raise UsageError(f"{name} matches no file", hint="it is neither a file nor a pattern that fits one")
    return found


def _below(root: Path, out: Path) -> list[Song]:
    if isinstance(root, Url):
        inside = ((path, path.relative_to(root)) for path in root.below() if not path.is_relative_to(out))
        return [Song(path, PurePath(*below.parts[:-1])) for path, below in inside if _is_song(path)
                and not any(part.startswith(".") for part in below.parts)]
    return [Song(path, PurePath(path.parent.relative_to(root))) for path in _walk(root, {os.path.realpath(out)})]


def _walk(folder: Path, closed: Set[str]) -> Iterator[Path]:
    """Songs of `folder`, in the order of all its names. Never enters `closed`, nor a folder twice by way of a link."""
    closed = closed | {os.path.realpath(folder)}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise AudioError(f"{folder} cannot be read: {error.strerror}", hint="check its permissions") from error
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if os.path.realpath(path) not in closed and not _is_output(path):
                yield from _walk(path, closed)
        elif _is_song(path) and entry.is_file():
            yield path


def _is_song(path: Path) -> bool:
    return path.suffix[1:].lower() in EXTENSIONS


def _is_output(folder: Path) -> bool:
    """Whether a batch of ours wrote there."""
    return any(folder.glob(MANIFESTS))
