"""How fast this machine is, found in a moment."""

from __future__ import annotations

import time

import torch

from separator.separate import Separator

SECONDS = 10.0      # of noise: for a network, as much work as music


def speed(separator: Separator, threads: int) -> float:
    """Seconds of audio that the model alone splits in a second, with so many threads; files cost some more."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rate = separator.card.sample_rate
        noise = torch.randn(separator.card.channels, round(SECONDS * rate), generator=torch.Generator().manual_seed(0))
        separator.separate(0.1 * noise[:, :rate], rate)         # what is slow only the first time
        started = time.perf_counter()
        separator.separate(0.1 * noise, rate)
        return SECONDS / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
