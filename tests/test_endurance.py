"""Hundreds of songs through one process: nothing grows, nothing is left, every damaged one is reported."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.endurance import WARM_UP, Sample, endure, growth, make_songs, own_temporary_folder

SONGS, DAMAGED_EVERY = 200, 60


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at itself in /proc")
def test_nothing_grows(tmp_path: Path, tiny_model: Path) -> None:
    make_songs(tmp_path / "music", SONGS, 0.5, DAMAGED_EVERY)
    gc.collect()  # what other tests left open would be closed meanwhile
    with own_temporary_folder(tmp_path / "tmp"):
        samples = endure(tmp_path / "music", str(tiny_model), tmp_path / "stems")
    assert [sample.songs for sample in samples] == list(range(1, SONGS + 1))
    late = samples[round(WARM_UP * SONGS):]
    assert len({(sample.files, sample.threads, sample.parts) for sample in late}) == 1
    assert late[0].parts == 0
    slope, error = growth(samples)
    assert slope - error < 20_000, f"{slope:.0f} +- {error:.0f} bytes a song"
    lines = [json.loads(line) for line in (tmp_path / "stems/manifest.jsonl").read_text().splitlines()]
    assert len(lines) == SONGS
    failed = [os.path.basename(line["input"]).partition(".")[0] for line in lines if line["status"] == "failed"]
    assert failed == ["00059", "00119", "00179"]
    assert len(list((tmp_path / "stems").rglob("vocals.wav"))) == SONGS - len(failed)


def test_growth_is_found_among_noise() -> None:
    """A planted slope, below a saw of the size that decoders of several formats make."""
    samples = [Sample(songs, round(6e8 + 30_000 * songs + 2e6 * (songs % 6)), 8, 1, 0) for songs in range(1, 401)]
    slope, error = growth(samples)
    assert abs(slope - 30_000) < error < 10_000
