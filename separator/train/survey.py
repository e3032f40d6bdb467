"""What a run would be, before it is one: its data, its size, its speed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from separator.train.config import Config
from separator.train.loop import Run
from separator.train.prepared import Song
from separator.train.remix import seeded

WARM_STEPS, TIMED_STEPS = 1, 2  # the first step of a process pays for what later ones find ready


@dataclass(frozen=True)
class Speed:
    """Measured on the device at hand; a step computes while the next block is made in a thread beside it."""

    block_s: float  # to draw and transform the blocks that all lanes of this process need
    step_s: float  # to remix one step's batches and learn from them
    steps_per_block: int
    batch_s: float  # audio in one step, of every stem

    @property
    def apart_s(self) -> float:
        """Time per step if nothing ran side by side."""
        return self.step_s + self.block_s / self.steps_per_block

    @property
    def audio_s_per_s(self) -> float:
        """Seconds of audio, all stems at once, that a second of training goes through."""
        return self.batch_s / self.apart_s


def data_lines(run: Run) -> list[str]:
    """Per source: songs, hours, weight; and how many songs lack a stem, or have one that takes no part."""
    config, lines = run.config, []
    weights = {f"data.train.{n}": f", weight {source.weight:g}" for n, source in enumerate(config.data.train)}
    folders = {f"data.train.{n}": source.folder for n, source in enumerate(config.data.train)}
    folders["data.valid"] = config.data.valid.folder
    for source, songs in run.songs.items():
        hours = sum(song.frames for song in songs) / config.model.sample_rate / 3600
        lines.append(f"{source}: {folders[source]}: {len(songs)} songs, {hours:.2f} hours{weights.get(source, '')}")
        lines += _stem_lines(source, songs, config.sources)
    return lines


def _stem_lines(source: str, songs: Sequence[Song], stems: Sequence[str]) -> list[str]:
    """What the songs of a source lack, and what of them is left out."""
    there, number = Counter(stem for song in songs for stem in song.layers), len(songs)
    lines = [f"{source}: {stem} is in {there[stem]} of {number}" for stem in stems if there[stem] < number]
    others = sorted(there.keys() - set(stems))
    return lines + [f"{source}: {stem} is in {there[stem]} of {number}, and not used" for stem in others]


def parameters(run: Run) -> int:
    """Numbers that are learnt."""
    return sum(each.numel() for each in run.learner.objective.parameters() if each.requires_grad)


def speed(run: Run) -> Speed:
    """Time a block and a few steps. The run's weights change, so it is good for nothing else afterwards."""
    config, lanes = run.config, run.learner.lanes
    started = time.perf_counter()
    block = [run.feed.spectra(0, lane) for lane in lanes]
    _finish(run.device)
    block_s = time.perf_counter() - started
    streams = [run.feed.batches(rows, 0, lane) for lane, rows in zip(lanes, block, strict=True)]
    step_s, count = 0.0, min(WARM_STEPS + TIMED_STEPS, run.feed.steps_per_block)
    for index in range(count):
        started = time.perf_counter()
        batches = [next(stream)[0] for stream in streams]
        run.learner.update(batches, [seeded(0, index, lane).initial_seed() for lane in lanes], run.rate())
        _finish(run.device)
        if index >= count - TIMED_STEPS:
            step_s += (time.perf_counter() - started) / min(TIMED_STEPS, count)
    return Speed(block_s, step_s, run.feed.steps_per_block, config.optim.batch_size * config.data.excerpt_s)


def total_s(config: Config, seconds_per_step: float) -> float:
    """How long the whole budget takes."""
    budget = config.budget
    if budget.max_minutes is not None:
        return 60 * budget.max_minutes
    return (budget.max_steps or (budget.max_epochs or 0) * config.epoch_steps) * seconds_per_step


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
