"""Songs with known stems, as they lie on disk: MUSDB18 in both editions, and folders of anyone's own.

Names, validation songs and streams of MUSDB18 come from the `mus.yaml` of the musdb package. The package itself is not
imported: that needs the programs ffmpeg and ffprobe, and it decodes through two processes per read.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from separator.audio import AudioReader, EndedBefore
from separator.errors import AudioError

STEM_FILE = ".stem.mp4"
STREAMS = {"drums": 1, "bass": 2, "other": 3, "vocals": 4}  # of a .stem.mp4; stream 0 is the mixture
MIXTURE = "mixture"
SPLITS = ("train", "valid", "test")
AUDIO = frozenset((
    ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".ape", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".mkv", ".mov",
    ".mp2", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".rf64", ".snd", ".tta", ".w64", ".wav", ".wave", ".webm", ".wma",
    ".wv",
))  # fmt: skip

File = tuple[Path, int]  # and the number of the audio stream in it


@dataclass(frozen=True)
class TrueSong:
    """A song with known stems: for each the files that sum to it. No `mixture`: the sum of the stems.

    `split` is train, valid or test, or empty where the folder has no splits.
    """

    name: str
    stems: Mapping[str, tuple[File, ...]]
    mixture: File | None
    split: str = ""

    def files(self, stem: str) -> tuple[File, ...]:
        """The layers of a stem, none where the song lacks it.

        Raises AudioError where two files side by side claim to be the stem: their sum is not meant.
        """
        files = self.stems.get(stem, ())
        side_by_side = [path.name for path, _ in files if path.stem == stem and path.parent.name != stem]
        if len(side_by_side) > 1:
            raise AudioError(
                f"{files[0][0].parent}: the stem {stem} is there twice: {', '.join(side_by_side)}",
                hint=f"keep one, or put layers that sum to it into {stem}/",
            )
        return files

    @contextlib.contextmanager
    def open(
        self, stems: Sequence[str], start_s: float = 0.0, duration_s: float | None = None
    ) -> Iterator[OpenSong]:
        """Open the mix and these stems, all to be read together.

        Raises AudioError where a file cannot be read, rates differ, or the song has none of the stems.
        """
        with contextlib.ExitStack() as stack:

            def read(file: File) -> AudioReader:
                return stack.enter_context(AudioReader(file[0], stream=file[1], start_s=start_s, duration_s=duration_s))

            groups = [[read(file) for file in self.files(stem)] for stem in stems]
            mixture = [read(self.mixture)] if self.mixture else []
            if not any(groups):
                raise AudioError(f"{self.name} has none of the stems {', '.join(stems)}", hint="check the file names")
            rates = sorted({reader.sample_rate for group in (mixture, *groups) for reader in group})
            if len(rates) > 1:
                raise AudioError(
                    f"{self.name}: its files have different sample rates: {rates}", hint="convert them to one rate"
                )
            yield OpenSong(rates[0], mixture, groups)


@dataclass(frozen=True)
class OpenSong:
    """Readers of a song's mixture, if it has its own, and of the layers of its stems."""

    sample_rate: int
    mixture: Sequence[AudioReader]
    stems: Sequence[Sequence[AudioReader]]

    def __iter__(self) -> Iterator[Tensor]:
        """The mix and all stems `[1 + S, 2, n]`, block by block; a file that ends early goes on as silence.

        Without a mixture of its own, the mix is the sum of the stems. One pass, in constant memory.
        Raises AudioError where a file is damaged, or all end before the part that was asked for.
        """
        readers = [(row, reader) for row, group in enumerate((self.mixture, *self.stems)) for reader in group]
        ended: list[EndedBefore] = []

        def part(reader: AudioReader) -> Iterator[Tensor]:
            try:
                yield from reader
            except EndedBefore as error:
                ended.append(error)
                if len(ended) == len(readers):
                    raise

        for blocks in itertools.zip_longest(*(part(reader) for _, reader in readers)):
            length = max(block.shape[-1] for block in blocks if block is not None)
            total = torch.zeros(1 + len(self.stems), 2, length)
            for (row, _), block in zip(readers, blocks, strict=True):
                if block is not None:
                    total[row, :, : block.shape[-1]] += block
            if not self.mixture:
                total[0] = total[1:].sum(dim=0)
            yield total


def true_songs(folder: Path, stems: Sequence[str] | None = None) -> list[TrueSong]:
    """Songs below `folder`, by split and name, with these stems; None: with all that their files name.

    A song is SONG.stem.mp4, or a folder with `<stem>.<ext>` files or `<stem>/<layer>.<ext>` files; a stem it does not
    have is left out. `folder` holds songs, or `train`, `valid` and `test` folders of songs, or is itself a .stem.mp4.
    Raises AudioError where there is no song, or where splits and other folders lie side by side.
    """
    found = [song for split, path in _splits(folder) for song in _songs(path, split, stems)]
    if not found:
        wanted = f" {', '.join(stems)}" if stems else ""
        raise AudioError(
            f"{folder}: no songs with known stems{wanted}",
            hint="expected SONG/<stem>.wav, SONG/<stem>/<layer>.wav or SONG.stem.mp4",
        )
    return found


def musdb_songs(root: Path, subset: str | None = None, split: str | None = None) -> list[TrueSong]:
    """The songs of MUSDB18 or MUSDB18-HQ, by name.

    `subset` is train, test or None (as far as they are there); `split` of train is train (without the validation
    songs), valid (those alone) or None (both). Raises AudioError where there is none, or where a validation song goes
    under a name that is only nearly right: it would be trained on.
    """
    if subset is None:
        there = [name for name in ("train", "test") if (root / name).is_dir()] or ["train"]
        return [song for name in there for song in musdb_songs(root, name)]
    folder = root / subset
    if subset not in ("train", "test") or split not in (None, "train", "valid") or (split and subset != "train"):
        raise ValueError(f"no such part of MUSDB18: {subset}, {split}")
    hint = "name the folder of MUSDB18 or MUSDB18-HQ that holds train/ and test/"
    if not folder.is_dir():
        raise AudioError(f"{root}: no folder {subset}/, so this is not MUSDB18", hint=hint)
    songs = list(_songs(folder, "test", list(STREAMS)))
    if subset == "train":
        valid = validation_names()
        _refuse_misspelt(folder, {song.name for song in songs}, valid)
        songs = [TrueSong(s.name, s.stems, s.mixture, "valid" if s.name in valid else "train") for s in songs]
        songs = [song for song in songs if split is None or song.split == split]
    if not songs:
        raise AudioError(f"{folder}: no {'validation ' * (split == 'valid')}songs of MUSDB18", hint=hint)
    return songs


def validation_names() -> tuple[str, ...]:
    """The 14 songs of MUSDB18's train folder that are kept for validation, as musdb lists them."""
    spec = importlib.util.find_spec("musdb")
    assert spec is not None and spec.submodule_search_locations, "musdb is a dependency"
    path = Path(next(iter(spec.submodule_search_locations))) / "configs" / "mus.yaml"
    setup: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(setup["validation_tracks"])


def oddities(songs: Sequence[TrueSong], musdb: bool) -> list[str]:
    """What people should know about the names of songs, that were found as MUSDB18 or as a folder of one's own."""
    names, valid = {song.name for song in songs}, validation_names()
    if not musdb:
        trained = sorted({song.name for song in songs if song.split in ("", "train")}.intersection(valid))
        return [f"validation songs of MUSDB18 among the others: {', '.join(trained)}"] * bool(trained)
    unknown = sorted(name for name in names if " - " not in name)
    missing = sorted(set(valid) - names) if any(song.split != "test" for song in songs) else []
    return [f"no names of MUSDB18 (ARTIST - TITLE): {', '.join(unknown)}"] * bool(unknown) + [
        f"validation songs of MUSDB18 that are not there: {', '.join(missing)}"
    ] * bool(missing)


def _refuse_misspelt(folder: Path, names: set[str], valid: Sequence[str]) -> None:
    """A validation song that is missing while another song has nearly its name."""
    loose = {name.casefold(): name for name in names - set(valid)}
    for name in valid:
        near = [] if name in names else difflib.get_close_matches(name.casefold(), loose, n=1, cutoff=0.85)
        if near:
            raise AudioError(
                f"{folder}: {loose[near[0]]!r} is no name of MUSDB18, and the validation song {name!r} is missing",
                hint="rename it: names tell which songs are kept for validation",
            )


def _splits(folder: Path) -> list[tuple[str, Path]]:
    """The parts of a folder with the names of their splits: its train, valid and test, or itself."""
    folders = [path for path in _listed(folder) if path.is_dir()] if folder.is_dir() else []
    others = sorted(path.name for path in folders if path.name not in SPLITS)
    splits = sorted((path for path in folders if path.name in SPLITS), key=lambda path: SPLITS.index(path.name))
    if splits and others:
        raise AudioError(
            f"{folder}: has {splits[0].name}/ beside other folders: {', '.join(others[:5])}",
            hint="songs lie either all in train/, valid/ and test/, or none of them",
        )
    return [(path.name, path) for path in splits] or [("", folder)]


def _songs(folder: Path, split: str, stems: Sequence[str] | None) -> Iterator[TrueSong]:
    for path in _listed(folder) if folder.is_dir() else [folder]:
        if path.name.endswith(STEM_FILE) and path.is_file():
            streams = {stem: ((path, number),) for stem, number in STREAMS.items() if stems is None or stem in stems}
            yield TrueSong(path.name.removesuffix(STEM_FILE), streams, (path, 0), split)
        elif path.is_dir():
            files = _stem_files(path)
            mixture = files.pop(MIXTURE, ())
            chosen = {stem: files[stem] for stem in (sorted(files) if stems is None else stems) if stem in files}
            if chosen:
                yield TrueSong(path.name, chosen, mixture[0] if mixture else None, split)


def _stem_files(song: Path) -> dict[str, tuple[File, ...]]:
    """Stem -> its files; where there are both `<stem>/` and `<stem>.<ext>`, the folder's."""
    found: dict[str, tuple[File, ...]] = {}
    for path in _listed(song):
        if path.is_dir():
            layers = tuple((each, 0) for each in _listed(path) if each.suffix.lower() in AUDIO and each.is_file())
            if layers:
                found[path.name] = layers
    for path in _listed(song):
        if path.suffix.lower() in AUDIO and path.is_file() and not (song / path.stem).is_dir():
            found[path.stem] = (*found.get(path.stem, ()), (path, 0))
    return found


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without hidden files (some systems put `._vocals.wav` beside vocals.wav)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
