"""Songs through methods to scores: separated and scored in one stream, nothing is written."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from separator import memory
from separator.corpus import TrueSong
from separator.errors import AudioError
from separator.evaluation.methods import ORACLES, Method, model
from separator.evaluation.scores import FullScores, WindowScores, medians
from separator.models.precision import Precision
from separator.separate import Separator

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SongScores:
    """What one method reached on one song, in dB; NaN is missing.

    `windows` holds, by museval's names, `[W, S]`: windows of a second, stems; `global_sdr` is `[S]`. `elapsed_s` is
    the time it took to decode, separate and score; `peak_bytes` the largest memory of the process meanwhile.
    """

    song: str
    split: str
    method: str
    stems: tuple[str, ...]
    windows: Mapping[str, Scores]
    global_sdr: Scores
    duration_s: float
    elapsed_s: float
    peak_bytes: int | None

    def median(self, metric: str) -> Scores:
        """Over the windows of the song, `[S]`."""
        return np.asarray(medians(torch.from_numpy(self.windows[metric])).numpy())


@dataclass(frozen=True)
class Setup:
    """All that a process needs to score songs; called, it loads the model and returns what scores one song."""

    model: Path
    wiener: int | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    oracles: tuple[str, ...] = ()
    full: bool = False
    start_s: float = 0.0
    duration_s: float | None = None

    def __call__(self) -> Callable[[TrueSong], list[SongScores]]:
        separator = Separator.load(self.model, wiener=self.wiener, device=self.device, precision=self.precision)
        return lambda song: self._song(separator, song)

    def _song(self, separator: Separator, song: TrueSong) -> list[SongScores]:
        stems = scored_stems(song, separator.stems)
        if not stems:
            raise AudioError(
                f"{song.name} has none of the stems {', '.join(separator.stems)}: it has {', '.join(song.stems)}",
                hint="the names of its files must be those of the model's stems",
            )
        methods = {model_label(separator.card.name): model(separator, stems)}
        methods |= {name: ORACLES[name] for name in self.oracles}
        return [self._timed(song, stems, name, method) for name, method in methods.items()]

    def _timed(self, song: TrueSong, stems: Sequence[str], name: str, method: Method) -> SongScores:
        memory.forget_peak()
        started = time.perf_counter()
        scores, rate = _streamed(
            song, stems, method, self.start_s, self.duration_s, FullScores if self.full else WindowScores
        )
        elapsed_s = time.perf_counter() - started
        return SongScores(
            song=song.name,
            split=song.split,
            method=name,
            stems=tuple(stems),
            windows={metric: values.numpy() for metric, values in scores.metrics().items()},
            global_sdr=scores.global_sdr().numpy(),
            duration_s=scores.samples / rate,
            elapsed_s=elapsed_s,
            peak_bytes=memory.peak_bytes(),
        )


def scored_stems(song: TrueSong, stems: Sequence[str]) -> list[str]:
    """Those stems of a model that the song has. Only they are judged, also on whether a window is silent."""
    return [stem for stem in stems if stem in song.stems]


def model_label(name: str) -> str:
    """What a model's row is called: its name, unless an oracle is called so."""
    return f"model-{name}" if name in ORACLES else name


def score(
    song: TrueSong, stems: Sequence[str], method: Method, start_s: float = 0.0, duration_s: float | None = None
) -> WindowScores:
    """Score one method on one song, in one pass and in fixed memory, at the song's own rate.

    A stem that the song does not have counts as silence. Without a mixture of its own, the mix is the sum of all the
    song's stems, scored or not. Raises AudioError where a file cannot be read or their rates differ.
    """
    return _streamed(song, stems, method, start_s, duration_s, WindowScores)[0]


def _streamed(
    song: TrueSong,
    stems: Sequence[str],
    method: Method,
    start_s: float,
    duration_s: float | None,
    kind: type[WindowScores],
) -> tuple[WindowScores, int]:
    """The scores, and the song's sample rate."""
    others = [stem for stem in song.stems if stem not in stems]
    with song.open([*stems, *others], start_s, duration_s) as opened:
        scores = kind(opened.sample_rate)
        truth, heard = itertools.tee(opened)
        for reference, estimate in aligned((block[1:] for block in truth), method(heard, opened.sample_rate)):
            scores.add(reference[: len(stems)], estimate[: len(stems)])
        return scores, opened.sample_rate


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
