"""The scores of one song: SDR as it streams by, in fixed memory; SIR, SAR and ISR through museval, with the song whole.

The SDR of museval's `bss_eval_images` needs none of its filters: per window of one second it is exactly
`10 log10(sum |s|^2 / sum |s - e|^2)` over both channels.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separator.errors import AudioError

METRICS = ("SDR", "SIR", "SAR", "ISR")  # in the order of museval's files


class WindowScores:
    """Energies of stems and errors per window, gathered block by block.

    As museval counts: windows lie end to end, an incomplete last one is left out, a song shorter than a window is one
    window. A stem is silent in a window where its channels sum to zero at every sample; where any stem of the
    references or of the estimates is silent, the window is missing (NaN) for all.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.samples = 0
        self._held: Tensor | None = None
        self._windows: list[tuple[Tensor, Tensor, bool]] = []

    def add(self, references: Tensor, estimates: Tensor) -> None:
        """Take the next block. Shapes: both `[S, C, n]`."""
        self.samples += references.shape[-1]
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

    def metrics(self) -> dict[str, Tensor]:
        """What was measured per window, by the names of museval. Shapes: `[W, S]`."""
        return {"SDR": self.sdr()}

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


class FullScores(WindowScores):
    """SIR, SAR and ISR too, by museval. Their filters are fitted to the song as a whole, so all of it is held."""

    filters_len = 512  # taps, as in museval

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self._blocks: list[Tensor] = []

    def add(self, references: Tensor, estimates: Tensor) -> None:
        super().add(references, estimates)
        self._blocks.append(torch.stack([references, estimates]).float())  # [2, S, C, n]

    def metrics(self) -> dict[str, Tensor]:
        """All four, `[W, S]`; NaN where museval has none, SIR also for a lone stem: nothing interferes with it.

        museval refuses a song in which a stem, or its estimate, is silent throughout: there all is missing.

        For SIR, SAR and ISR the true stems are rounded to 16 bits, as musdb gives them to museval: above the band
        limit of an AAC or MP3 there is nothing at all in float decodings, and the filters, fitted to nothing, explode.
        """
        sdr = self.sdr()
        audio = torch.cat(self._blocks, dim=-1).transpose(-1, -2).double()  # [2, S, n, C]
        audio[0] = (audio[0] * 2**15).round() / 2**15
        missing = torch.full_like(sdr, torch.nan)
        if bool((audio.sum(dim=-1) == 0).all(dim=-1).any()):
            return {"SDR": sdr, "SIR": missing, "SAR": missing, "ISR": missing}
        with _numpy_of_museval():
            _, isr, sir, sar, _ = _museval_metrics().bss_eval(
                *audio.numpy(),
                window=self.window,
                hop=self.window,
                compute_permutation=False,
                filters_len=self.filters_len,
            )
        isr, sir, sar = (torch.from_numpy(np.ascontiguousarray(each.T)) for each in (isr, sir, sar))
        return {"SDR": sdr, "SIR": sir if sdr.shape[1] > 1 else missing, "SAR": sar, "ISR": isr}


def medians(windows: Tensor) -> Tensor:
    """Medians over the first axis, of the values that are there: `[W, S]` -> `[S]`, NaN where there is none.

    As museval aggregates: the middle of an even number of values is the mean of the middle two, and an infinite value
    (an exact estimate) counts as missing.
    """
    finite = torch.where(windows.isfinite(), windows, torch.nan)
    return torch.nanquantile(finite, 0.5, dim=0) if len(windows) else finite.new_full(finite.shape[1:], torch.nan)


def _museval_metrics() -> ModuleType:
    """`museval.metrics` alone: its package imports musdb, which wants the programs ffmpeg and ffprobe."""
    package = importlib.util.find_spec("museval")
    assert package is not None and package.submodule_search_locations, "museval is a dependency"
    path = Path(next(iter(package.submodule_search_locations))) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _numpy_of_museval() -> Iterator[None]:
    """museval 0.4.1 catches `np.linalg.linalg.LinAlgError`, a name that numpy 2.4 no longer has.

    It needs it for mono stems in two channels: their correlations are singular.
    """
    linalg: Any = np.linalg
    if hasattr(linalg, "linalg"):
        yield
        return
    linalg.linalg = linalg
    try:
        yield
    finally:
        del linalg.linalg
