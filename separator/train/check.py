"""What is wrong, or worth knowing, with songs that are to be trained on: sources and prepared songs alike."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from separator.audio import AudioReader
from separator.corpus import MIXTURE, SPLITS, STREAMS, File, TrueSong, musdb_songs, oddities, true_songs
from separator.errors import AudioError, SepctlError
from separator.train.prepared import AGAIN, Layer, Song, song_folders

SILENT = 1e-4  # peak below which a stem is silent: -80 dB, above the noise of lossy codecs
FULL_SCALE = 32767 / 32768
RUN = 3  # samples at full scale in a row that count as clipped: one or two may be peaks
DC_OFFSET = 3e-3  # -50 dB
APART_S = 0.1  # stems that end further apart do not belong together; encoders pad less
NOTED_S = 0.01
POOR_SUM_DB = 10.0  # MUSDB18's AAC edition reaches 15 dB, exact sums of 16 bits over 60 dB
EXACT_DB = 150.0  # more is not told
ASSUMED_RATE = 44100  # of a prepared song without a manifest
BLOCK = 65536


@dataclass(frozen=True)
class Item:
    """A song to check, and the stems it should have."""

    song: TrueSong | Song
    split: str
    wanted: tuple[str, ...]
    musdb: bool

    @property
    def name(self) -> str:
        return self.song.name if isinstance(self.song, TrueSong) else self.song.folder.name


@dataclass(frozen=True)
class Report:
    """What a check found in one song. `problems` would break training or spoil it, `notes` need not."""

    song: str
    split: str
    seconds: float
    sample_rate: int | None  # of its files; None where they differ, or a prepared song does not tell
    channels: int
    silent: tuple[str, ...]  # stems
    clipped: int  # runs of full-scale samples in all files
    dc_offset: float  # the largest of all files
    mix_db: float | None  # level of the mixture over mixture minus sum of the stems; None without a mixture
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class Track:
    """One file while it is read: its blocks `[C, n]` and what was seen so far."""

    label: str
    stem: str
    sample_rate: int | None
    channels: int
    blocks: Iterator[Tensor]
    whole: bool = False  # read to its end
    frames: int = 0
    peak: float = 0.0
    clipped: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    _edge: Tensor | None = None  # which of the last samples were at full scale, `[C, RUN]`

    def see(self, block: Tensor) -> None:
        """Count a block in."""
        self.frames += block.shape[-1]
        level = block.abs()
        self.peak = max(self.peak, float(level.max()))
        self.sums = self.sums + block.double().sum(dim=-1)
        full = level >= FULL_SCALE
        edge = full.new_zeros(len(full), RUN) if self._edge is None else self._edge
        full = torch.cat([edge, full], dim=-1)
        runs = full.unfold(-1, RUN, 1).all(dim=-1)
        self.clipped += int((runs[:, 1:] & ~runs[:, :-1]).sum())  # where a run begins; the edge's own was counted
        self._edge = full[:, -RUN:]

    @property
    def dc_offset(self) -> float:
        return float((self.sums / max(self.frames, 1)).abs().max())

    @property
    def seconds(self) -> float:
        return self.frames / (self.sample_rate or ASSUMED_RATE)


def items(folder: Path, *, stems: Sequence[str] | None = None, musdb: bool = False) -> list[Item]:
    """The songs below a folder of sources, of prepared songs, or of MUSDB18. Raises AudioError where there is none."""
    songs: list[tuple[str, TrueSong | Song]] = [
        (split, Song(path)) for split in ("", *SPLITS) for path in song_folders(folder / split)
    ]
    if musdb:
        songs = [(song.split, song) for song in musdb_songs(folder)]
    elif not songs:
        songs = [(song.split, song) for song in true_songs(folder)]
    wanted = tuple(stems or (STREAMS if musdb else sorted({stem for _, song in songs for stem in stems_of(song)})))
    return [Item(song, split, wanted, musdb) for split, song in songs]


def stems_of(song: TrueSong | Song) -> list[str]:
    """The stems that a song's files name, damaged or not."""
    if isinstance(song, TrueSong):
        return list(song.stems)
    return sorted({path.parent.name for path in song.folder.glob("[!.]*/[!.]*.npy")})


def over_songs(checked: Sequence[Item], reports: Sequence[Report]) -> tuple[list[str], list[str]]:
    """Problems and notes about all songs together."""
    there = {stem for item in checked for stem in stems_of(item.song)}
    problems = [f"no song has the stem {stem}" for stem in checked[0].wanted if stem not in there]
    rates = sorted({report.sample_rate for report in reports if report.sample_rate})
    told = [f"songs of different sample rates: {', '.join(map(str, rates))} Hz"] if len(rates) > 1 else []
    sources = [item.song for item in checked if isinstance(item.song, TrueSong)]
    if not sources:
        return problems + told, []
    return problems, told + oddities(sources, checked[0].musdb)


def check_song(item: Item) -> Report:
    """Read a song to its end, in constant memory, and tell what is in it."""
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        tracks = (
            _raw(item.song, stack, problems) if isinstance(item.song, TrueSong) else _prepared(item.song, problems)
        )
        mix_db = _read_through(tracks, problems)
    rates = {track.sample_rate for track in tracks}
    if len(rates) > 1:
        problems.append("different sample rates: " + ", ".join(f"{t.label} {t.sample_rate} Hz" for t in tracks))
    lengths, apart = _lengths([track for track in tracks if track.whole])
    problems += lengths if apart else []
    there = stems_of(item.song)
    peaks = {stem: [track.peak for track in tracks if track.stem == stem] for stem in there}
    broken = {track.stem for track in tracks if not track.whole}
    silent = tuple(sorted(stem for stem in peaks.keys() - broken if peaks[stem] and max(peaks[stem]) < SILENT))
    notes = [] if apart else lengths
    notes += [f"no {stem}" for stem in item.wanted if stem not in there]
    notes += [f"extra stem {stem}" for stem in there if stem not in item.wanted]
    notes += [f"{stem} is silent" for stem in silent]
    notes += [f"{t.label}: clipped {t.clipped} times" for t in tracks if t.clipped]
    notes += [f"{t.label}: DC offset {t.dc_offset:.4f}" for t in tracks if t.dc_offset > DC_OFFSET]
    if mix_db is not None and mix_db < POOR_SUM_DB:
        notes.append(f"the stems do not sum to the mixture: {mix_db:.1f} dB")
    return Report(
        song=item.name, split=item.split, seconds=max((t.seconds for t in tracks), default=0.0),
        sample_rate=next(iter(rates)) if len(rates) == 1 else None,
        channels=max((t.channels for t in tracks), default=0), silent=silent,
        clipped=sum(t.clipped for t in tracks), dc_offset=max((t.dc_offset for t in tracks), default=0.0),
        mix_db=mix_db, problems=tuple(problems), notes=tuple(notes),
    )  # fmt: skip


def unchecked(item: Item, error: SepctlError) -> Report:
    """Of a song whose check did not come to its end, such as one whose files crash the decoder."""
    return Report(
        song=item.name, split=item.split, seconds=0.0, sample_rate=None, channels=0, silent=(), clipped=0,
        dc_offset=0.0, mix_db=None, problems=(error.fact,), notes=(),
    )  # fmt: skip


def _raw(song: TrueSong, stack: contextlib.ExitStack, problems: list[str]) -> list[Track]:
    """The files of a song with known stems, opened; what cannot be opened is a problem."""
    tracks = []

    def add(stem: str, file: File) -> None:
        try:
            reader = stack.enter_context(AudioReader(file[0], stream=file[1], block=BLOCK))
        except AudioError as error:
            problems.append(error.fact)
            return
        label = f"{file[0].name}, {stem}" if file[1] or file[0].stem != stem else file[0].name
        tracks.append(Track(label, stem, reader.sample_rate, reader.channels, iter(reader)))

    for stem in song.stems:
        try:
            files = song.files(stem)
        except AudioError as error:
            problems.append(error.fact)
            continue
        for file in files:
            add(stem, file)
    if song.mixture:
        add(MIXTURE, song.mixture)
    return tracks


def _prepared(song: Song, problems: list[str]) -> list[Track]:
    """The layers of a prepared song; where one is damaged, none."""
    try:
        manifest, layers = song.manifest, song.layers
    except AudioError as error:
        problems.append(error.fact)
        return []
    told = manifest.layers if manifest else {}
    return [
        Track(
            name := layer.path.relative_to(song.folder).as_posix(),
            stem,
            manifest.sample_rate if manifest else None,
            2,
            _blocks(layer, told[name].sha256 if name in told else None),
        )
        for stem, found in layers.items()
        for layer in found
    ]


def _blocks(layer: Layer, sha256: str | None) -> Iterator[Tensor]:
    """A prepared layer in blocks `[2, n]`. Raises AudioError at the end where its samples are not those told."""
    digest = hashlib.sha256()
    for start in range(0, layer.frames, BLOCK):
        pcm = layer.read(start, BLOCK)
        digest.update(pcm.tobytes())
        yield torch.from_numpy(pcm).T / 32768
    if sha256 and digest.hexdigest() != sha256:
        raise AudioError(f"{layer.path}: its samples have changed since it was prepared", hint=AGAIN)


def _read_through(tracks: Sequence[Track], problems: list[str]) -> float | None:
    """Read all tracks side by side; returns how well the stems sum to the mixture, in dB, if there is one."""
    unopened = bool(problems)

    def blocks(track: Track) -> Iterator[Tensor]:
        try:
            for block in track.blocks:
                track.see(block)
                yield block
            track.whole = True
        except AudioError as error:
            problems.append(error.fact)

    mix = error = torch.zeros((), dtype=torch.float64)
    for together in itertools.zip_longest(*map(blocks, tracks)):
        length = max(block.shape[-1] for block in together if block is not None)
        sums = torch.zeros(2, 2, length, dtype=torch.float64)  # the mixture, and the sum of the stems
        for track, block in zip(tracks, together, strict=True):
            if block is not None:
                sums[int(track.stem != MIXTURE), :, : block.shape[-1]] += block
        mix = mix + sums[0].square().sum()
        error = error + (sums[0] - sums[1]).square().sum()
    one_rate = len({track.sample_rate for track in tracks}) == 1
    if unopened or not mix or not one_rate or not all(track.whole for track in tracks):
        return None
    return min(10 * math.log10(float(mix / error)), EXACT_DB) if error else EXACT_DB


def _lengths(tracks: Sequence[Track]) -> tuple[list[str], bool]:
    """How the stems differ in length, if they do, and whether that is a problem: layers may well end early."""
    ends: dict[str, float] = {}
    for track in tracks:
        ends[track.stem] = max(ends.get(track.stem, 0.0), track.seconds)
    spread = max(ends.values()) - min(ends.values()) if ends else 0.0
    if spread <= NOTED_S:
        return [], False
    single = len(ends) == len(tracks)
    files = {track.stem: track.label if single else track.stem for track in tracks}
    told = ", ".join(f"{files[stem]} {end:.2f} s" for stem, end in ends.items())
    return [f"different lengths: {told}"], single and spread > APART_S
