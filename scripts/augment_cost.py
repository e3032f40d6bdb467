"""Processor time that each waveform change of the training material takes, per row.

    python scripts/augment_cost.py [SECONDS]

A row is four stereo stems of SECONDS (6) at 44.1 kHz; every change happens to all of them, at the top of its range. One
thread; the least of nine runs.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from separator.train.augment import Augment, Drive, Loudness, Reverb, Speed, Width, response
from separator.train.waveforms import Waveforms

RATE = 44100
CHANGES = {
    "width": {"width": Width(p=1)},
    "speed 1.1": {"speed": Speed(p=1, low=1.1)},
    "drive": {"drive": Drive(p=1)},
    "reverb 0.8 s": {"reverb": Reverb(p=1, low_s=0.8)},
    "loudness of stems": {"loudness": Loudness(p=1)},
    "loudness of the mix": {"loudness": Loudness(p=1, of="mix")},
}


def least_ms(work, runs: int = 9) -> float:
    taken = []
    for _ in range(runs):
        begun = time.thread_time()
        work()
        taken.append(time.thread_time() - begun)
    return 1000 * min(taken)


def main(seconds: float) -> None:
    torch.set_num_threads(1)
    length = round(seconds * RATE)
    generator = torch.Generator()
    print(f"factors per bin: {least_ms(lambda: response(Augment(), 32, 4, 2049, 22050.0, generator)) / 32:.1f} ms")
    for name, change in CHANGES.items():
        waveforms, rng = Waveforms(Augment(**change), RATE), np.random.default_rng(0)
        speed = waveforms.speed(rng)
        row = 0.1 * torch.randn(4, 2, waveforms.frames(length, speed))
        print(f"{name}: {least_ms(lambda: waveforms.apply(row, speed, length, rng)):.1f} ms")  # noqa: B023


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 6.0)
