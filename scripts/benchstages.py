"""Where the time goes: each stage of `Separator` on its own, on a batch of segments in the middle of a song."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from separator.dsp.stft import in_blocks
from separator.separate import Separator


@torch.inference_mode()
def measure(model: str, threads: int, segments: int, precision: Any, device: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of `stage` and `seconds_per_minute` of song: the best of several runs, for what disturbs only adds."""
    torch.set_num_threads(threads)
    separator = Separator.load(model, precision=precision, device=device)
    length, context = separator.length, (separator.overlap - separator.fade) // 2
    kept = slice(context, length - context)
    frames = separator._stft.frames_of(kept, length)
    minutes = segments * (length - separator.overlap) / separator.card.sample_rate / 60
    mixes = list((0.1 * torch.randn(segments, separator.card.channels, length)).to(separator.device))
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

    spectra = stage("STFT (of two)", lambda: [separator._stft(mix) for mix in mixes])
    heard = stage("layers up to the last", lambda: separator._estimator.hear(spectra, separator._wanted))
    stage("masks alone", lambda: [separator._estimator.masks(item, separator._wanted, frames) for item in heard])
    stage("masks, masking, Wiener filter, sharing", lambda: [
        [list(stem) for stem in separator._stems(spectrum[..., frames], item, frames)]
        for spectrum, item in zip(spectra, heard, strict=True)])
    stage("inverse STFT", lambda: [
        separator._stft.inverse_part(in_blocks(spectrum[..., frames]), kept, length)
        for spectrum in spectra for _ in separator._wanted])
    group = [(mix, kept) for mix in mixes]
    stage("all together", lambda: [None for _ in separator._forward(group)])
    return rows


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
