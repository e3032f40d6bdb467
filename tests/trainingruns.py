"""Tiny training runs, on songs whose stems lie in different bands: separable by anyone who learns where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from separator.train.config import Config
from separator.train.loop import Run

RATE = 4000
TRUNK = {"family": "trunk", "input_bands": 24, "hidden": 16, "lstm_hidden": 8, "layers": 2, "head": 16}
TRUNK |= {"fine_bins": 16, "mask_bands": 24}
UMX = {"family": "umx", "hidden": 16, "layers": 2, "kept_bins": 129}
TINY: dict[str, Any] = {
    "model": {"name": "tiny", "stems": ["low", "high"], "sample_rate": RATE, "n_fft": 256, "hop": 64, "spec": TRUNK},
    "data": {"excerpt_s": 1.0, "rows": 8, "remixes": 2, "valid_excerpts": 4},
    "optim": {"batch_size": 4, "lr": 1e-2, "ema": 0.9},
    "budget": {"max_steps": 60},
    "epoch_steps": 20,
    "seed": 3,
}


def write_song(folder: Path, seed: int, seconds: int = 6) -> None:
    """One stem below 500 Hz, the other above 900 Hz, prepared."""
    rng = np.random.default_rng(seed)
    t = np.arange(seconds * RATE) / RATE
    for stem, low, high in (("low", 60, 500), ("high", 900, 1900)):
        tones = sum(np.sin(2 * np.pi * rng.uniform(low, high) * t + rng.uniform(0, 6)) for _ in range(5))
        path = folder / stem / "layer.npy"
        path.parent.mkdir(parents=True)
        np.save(path, (np.stack([tones, tones * 0.7], axis=1) * 4000).astype(np.int16))


def write_songs(folder: Path) -> None:
    """Three songs to train on and one to validate with."""
    for split, number in (("train", 3), ("valid", 1)):
        for n in range(number):
            write_song(folder / split / f"song{n}", 10 * n + len(split))


def tiny(folder: Path, **changes: Any) -> Config:
    """The configuration for the songs in `folder`; `changes` are merged into its parts."""
    whole = {**TINY, "data": TINY["data"] | {"train": [{"folder": str(folder / "train")}],
                                             "valid": str(folder / "valid")}}
    for key, value in changes.items():
        whole[key] = whole.get(key, {}) | value if isinstance(value, dict) and key != "budget" else value
    return Config.model_validate(whole)


def trained(config: Config, folder: Path) -> Run:
    """A whole new run."""
    run = Run(config, folder)
    run.begin()
    run.train(lambda event: None)
    return run


def same(a: Any, b: Any) -> bool:
    """Whether two states hold the same numbers, to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return bool(a == b)
