"""Where the time goes: each stage of `Separator` on its own, on a batch of segments in the middle of a song."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from separator.dsp.stft import in_blocks
from separator.dsp.wiener import WINDOW
from separator.separate import Separator


@torch.inference_mode()
def measure(model: str, threads: int, segments: int, precision: Any, device: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of `stage` and `seconds_per_minute` of song: the best of several runs, for what disturbs only adds."""
    torch.set_num_threads(threads)
    separator = Separator.load(model, precision=precision, device=device)
    estimator, kept, hop = separator._estimator, separator.kept, separator.card.hop
    frames = slice(separator.context, separator.context + kept)
    length = separator._stft.samples(kept + 2 * separator.context)
    minutes = segments * kept * hop / separator.card.sample_rate / 60
    mixes = list((0.1 * torch.randn(segments, separator.card.channels, length)).to(separator.device))
    windows = [slice(first, min(first + WINDOW, frames.stop)) for first in range(frames.start, frames.stop, WINDOW)]
    rows: list[dict[str, Any]] = []

    def stage(name: str, work: Callable[[], Any]) -> Any:
        result, best = work(), float("inf")
        for _ in range(repeats):
            _synchronise(separator.device)
            started = time.perf_counter()
            result = work()
            _synchronise(separator.device)
            best = min(best, time.perf_counter() - started)
        rows.append({"stage": name, "seconds_per_minute": round(best / minutes, 4)})
        return result

    def every(work: Callable[[torch.Tensor, torch.Tensor, slice], Any]) -> None:
        for spectrum, item in zip(spectra, heard, strict=True):
            for window in windows:
                work(spectrum[..., window], item, window)

    def inverse(spectrum: torch.Tensor, *_: Any) -> None:
        sums = spectrum.real.new_zeros(len(spectrum), separator._stft.samples(spectrum.shape[-1]))
        for _stem in separator._wanted:
            for first, block in in_blocks(spectrum):
                separator._stft.overlap_add(sums, block, first)

    spectra = stage("STFT (of two)", lambda: [separator._stft.analyse(mix) for mix in mixes])
    heard = stage("layers up to the last", lambda: estimator.hear(spectra, separator._wanted))
    stage("masks alone", lambda: every(lambda _, item, window: estimator.masks(item, separator._wanted, window)))
    stage("masks, masking, Wiener filter, sharing", lambda: every(lambda *window: list(separator._spectra(*window))))
    stage("inverse STFT", lambda: every(inverse))
    group = [(mix, frames) for mix in mixes]
    stage("all together", lambda: [None for _ in separator._forward(group)])
    return rows


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
