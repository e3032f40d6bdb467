"""How good a model is: BSSEval v4 signal-to-distortion ratios over songs whose stems are known.

The SDR of museval's `bss_eval_images` needs none of its filters: per window of one second it is exactly
`10 log10(sum |s|^2 / sum |s - e|^2)` over both channels. So songs are scored as they stream by, in fixed memory.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from separator.audio import AudioReader
from separator.dsp.segments import cut, join
from separator.dsp.stft import Stft
from separator.errors import AudioError
from separator.separate import Separator

MUSDB_STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # order in a MUSDB18 .stem.mp4
AUDIO = {".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aiff", ".aif"}


class WindowScores:
    """Energies of stems and errors per window, gathered block by block.

    As museval counts: windows lie end to end, an incomplete last one is left out, a song shorter than a window is one
    window. A stem is silent in a window where its channels sum to zero at every sample; where any stem of the
    references or of the estimates is silent, the window is missing (NaN) for all.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._held: Tensor | None = None
        self._windows: list[tuple[Tensor, Tensor, bool]] = []

    def add(self, references: Tensor, estimates: Tensor) -> None:
        """Take the next block. Shapes: both `[S, C, n]`."""
        block = torch.stack([references, estimates]).double()  # [2, S, C, n]
        held = block if self._held is None else torch.cat([self._held, block], dim=-1)
        while held.shape[-1] >= self.window:
            self._take(held[..., : self.window])
            held = held[..., self.window :]
        self._held = held

    def _take(self, window: Tensor) -> None:
        reference, estimate = window
        signal = reference.square().sum(dim=(-2, -1))
        error = (reference - estimate).square().sum(dim=(-2, -1))
        silent = bool((window.sum(dim=-2) == 0).all(dim=-1).any())
        self._windows.append((signal, error, silent))

    def _energies(self) -> tuple[Tensor, Tensor, Tensor]:
        """Signal and error `[W, S]`, and which windows are silent `[W]`; the last one whole or not."""
        windows = self._windows
        if not windows and self._held is not None and self._held.shape[-1]:
            self._take(self._held)
            self._held = None
        signals, errors, silent = zip(*windows, strict=True) if windows else ((), (), ())
        if not windows:
            raise AudioError("no audio to score")
        return torch.stack(signals), torch.stack(errors), torch.tensor(silent)

    def sdr(self) -> Tensor:
        """SDR in dB. Shape: `[W, S]`; NaN where museval has none, infinite for an exact estimate."""
        signal, error, silent = self._energies()
        return torch.where(silent[:, None], torch.nan, 10 * torch.log10(signal / error))

    def global_sdr(self) -> Tensor:
        """SDR in dB over all windows together. Shape: `[S]`; NaN for a stem that is silent throughout."""
        tail_signal, tail_error = self._tail()
        signal, error, _ = self._energies()
        signal, error = signal.sum(0) + tail_signal, error.sum(0) + tail_error
        return torch.where(signal > 0, 10 * torch.log10(signal / error), torch.nan)

    def _tail(self) -> tuple[Tensor | float, Tensor | float]:
        if self._held is None or not self._windows or not self._held.shape[-1]:
            return 0.0, 0.0
        reference, estimate = self._held
        return reference.square().sum(dim=(-2, -1)), (reference - estimate).square().sum(dim=(-2, -1))


@dataclass(frozen=True)
class TrueSong:
    """A song with known stems: for each the (file, stream) pairs that sum to it. No `mixture`: the sum of the stems."""

    name: str
    stems: Mapping[str, tuple[tuple[Path, int], ...]]
    mixture: tuple[Path, int] | None


def true_songs(folder: Path, stems: Sequence[str]) -> list[TrueSong]:
    """Songs below `folder`: MUSDB18 `.stem.mp4`, or folders with `<stem>.<ext>` files or `<stem>/<layer>.<ext>` files.

    Raises AudioError where there is none. A stem that a song does not have is silence.
    """
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
        if path.name.endswith(".stem.mp4"):
            streams = {stem: ((path, MUSDB_STREAMS.index(stem)),) for stem in stems if stem in MUSDB_STREAMS}
            found.append(TrueSong(path.name.removesuffix(".stem.mp4"), streams, (path, 0)))
        elif path.is_dir():
            files = {stem: tuple((each, 0) for each in _files(path, stem)) for stem in stems}
            mixture = _files(path, "mixture")
            if any(files.values()):
                found.append(TrueSong(path.name, files, (mixture[0], 0) if mixture else None))
    if not found:
        raise AudioError(
            f"{folder}: no songs with known stems",
            hint="expected SONG/<stem>.wav, SONG/<stem>/<layer>.wav or SONG.stem.mp4",
        )
    return found


def _files(song: Path, stem: str) -> list[Path]:
    inside = song / stem
    candidates = inside.iterdir() if inside.is_dir() else song.glob(f"{stem}.*")
    return sorted(path for path in candidates if path.suffix.lower() in AUDIO)


Method = Callable[[Iterable[Tensor], int], Iterator[Tensor]]
"""From blocks `[1 + S, 2, n]`, the mix and its true stems, and their rate, to estimates `[S, 2, n]` in blocks."""


def model(separator: Separator) -> Method:
    """A model: it hears the mix alone."""
    return lambda blocks, rate: separator.stream((block[0] for block in blocks), rate)


def mix_itself(blocks: Iterable[Tensor], rate: int) -> Iterator[Tensor]:
    """The floor: the untouched mix as estimate of every stem."""
    return (block[:1].expand_as(block[1:]) for block in blocks)


def ratio_mask(blocks: Iterable[Tensor], rate: int) -> Iterator[Tensor]:
    """An oracle: the ideal ratio mask of magnitudes (n_fft 4096, hop 1024), made from the true stems."""
    stft = Stft(4096, 1024)
    length, overlap = 20 * rate, rate // 2 * 2

    def masked(segment: Tensor) -> Tensor:
        mix, *_ = spectra = stft(segment.unflatten(0, (-1, 2)))  # [1 + S, 2, F, T]
        magnitude = spectra[1:].abs()
        return stft.inverse(mix * magnitude / magnitude.sum(dim=0).clamp_min(1e-12), segment.shape[-1])

    return join(map(masked, cut((block.flatten(0, 1) for block in blocks), length, overlap)), overlap, overlap // 4 * 2)


def score(
    song: TrueSong, stems: Sequence[str], method: Method, start_s: float = 0.0, duration_s: float | None = None
) -> WindowScores:
    """Score one method on one song, in one pass and in fixed memory, at the song's own rate."""
    with contextlib.ExitStack() as stack:

        def read(file: tuple[Path, int]) -> AudioReader:
            return stack.enter_context(AudioReader(file[0], stream=file[1], start_s=start_s, duration_s=duration_s))

        groups = [[read(file) for file in song.stems.get(stem, ())] for stem in stems]
        mixture = [read(song.mixture)] if song.mixture else []
        rate = _one_rate(song, [reader for group in (mixture, *groups) for reader in group])
        scores = WindowScores(rate)
        truth, heard = itertools.tee(_blocks(mixture, groups))
        for reference, estimate in aligned((block[1:] for block in truth), method(heard, rate)):
            scores.add(reference, estimate)
        return scores


def _one_rate(song: TrueSong, readers: Sequence[AudioReader]) -> int:
    rates = {reader.sample_rate for reader in readers}
    if len(rates) != 1:
        raise AudioError(
            f"{song.name}: its files have different sample rates: {sorted(rates)}", hint="convert them to one rate"
        )
    return rates.pop()


def _blocks(mixture: Sequence[AudioReader], groups: Sequence[Sequence[AudioReader]]) -> Iterator[Tensor]:
    """The mix and all stems `[1 + S, 2, n]`, block by block; a file that ends early goes on as silence.

    Without a mixture of its own, the mix is the sum of the stems.
    """
    readers = [(row, reader) for row, group in enumerate((mixture, *groups)) for reader in group]
    for blocks in itertools.zip_longest(*(reader for _, reader in readers)):
        length = max(block.shape[-1] for block in blocks if block is not None)
        total = torch.zeros(1 + len(groups), 2, length)
        for (row, _), block in zip(readers, blocks, strict=True):
            if block is not None:
                total[row, :, : block.shape[-1]] += block
        if not mixture:
            total[0] = total[1:].sum(dim=0)
        yield total


def aligned(a: Iterable[Tensor], b: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Two streams of blocks `[..., n]` re-cut to common lengths; ends with the shorter one."""
    left, right = iter(a), iter(b)
    x = y = None
    with contextlib.suppress(StopIteration):
        while True:
            x = next(left) if x is None or not x.shape[-1] else x
            y = next(right) if y is None or not y.shape[-1] else y
            n = min(x.shape[-1], y.shape[-1])
            yield x[..., :n], y[..., :n]
            x, y = x[..., n:], y[..., n:]
