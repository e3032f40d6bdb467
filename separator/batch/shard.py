"""The part of a batch that one of several machines takes, without a word between them."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from separator.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts, counted from 1."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"there is no shard {self.index} of {self.count}", hint="--shard 1/4 to --shard 4/4")

    @property
    def manifest(self) -> str:
        """The name of its manifest: no two shards write to one file."""
        return "manifest.jsonl" if self.count == 1 else f"manifest-{self.index}-of-{self.count}.jsonl"


def keys(paths: Sequence[Path]) -> list[str]:
    """What the songs are called on every machine, wherever mounted: their paths below what all have in common."""
    whole = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in whole]) if whole else ""
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in whole]


def assign(weights: Mapping[str, float], count: int) -> list[list[str]]:
    """`count` lists of keys of nearly equal weight; the same for any order of the same keys.

    The heaviest first, each to the lightest shard so far (LPT; R. L. Graham, Bounds on multiprocessing timing
    anomalies, 1969): no shard is heavier than another by more than one song. Of equal weights the hash decides, so
    that albums are spread.
    """
    shards: list[list[str]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]
    for key in sorted(weights, key=lambda key: (-weights[key], _hash(key))):
        load, number = loads[0]
        heapq.heapreplace(loads, (load + weights[key], number))
        shards[number].append(key)
    return shards


def weights(durations: Sequence[float | None], sizes: Sequence[int]) -> list[float]:
    """Seconds of each song; where they are not known, estimated from its bytes at the rate of the others."""
    known = [(seconds, size) for seconds, size in zip(durations, sizes, strict=True) if seconds is not None]
    total_s, total = sum(seconds for seconds, _ in known), sum(size for _, size in known)
    rate = total_s / total if total else 1.0
    return [size * rate if seconds is None else seconds for seconds, size in zip(durations, sizes, strict=True)]


def _hash(key: str) -> str:
    return hashlib.sha256(os.fsencode(key)).hexdigest()
