"""Scores as tables: rows per song, the summary over songs, and museval's own files."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from separator.atomic import replacing
from separator.evaluation.scores import METRICS, medians
from separator.evaluation.scoring import Scores, SongScores

COLUMNS = (
    *("song", "split", "method", "stem", "windows"),
    *(f"{name.lower()}_median_db" for name in METRICS),
    "sdr_global_db",
)
DIGITS = 5  # of a dB, as in museval's files


def song_rows(scores: SongScores) -> list[dict[str, Any]]:
    """A row per stem, with the keys of `COLUMNS`; what is missing is "". `windows` counts those that have an SDR."""
    columns = {f"{name.lower()}_median_db": scores.median(name) for name in scores.windows}
    columns["sdr_global_db"] = scores.global_sdr
    counts = np.isfinite(scores.windows["SDR"]).sum(axis=0)
    about = {"song": scores.song, "split": scores.split, "method": scores.method}
    return [
        {**dict.fromkeys(COLUMNS, ""), **about, "stem": stem, "windows": int(counts[s])}
        | {key: "" if np.isnan(values[s]) else round(float(values[s]), DIGITS) for key, values in columns.items()}
        for s, stem in enumerate(scores.stems)
    ]


def summary(scores: Sequence[SongScores], stems: Sequence[str]) -> list[dict[str, Any]]:
    """A row per method: over songs, the median of the medians of each metric, and the mean of the global SDR.

    In dB per stem, None where no song has a value; `songs_scored` counts the songs that have a median SDR. Speed is
    that of one process, decoding and scoring included; memory the most that one held.
    """
    methods = dict.fromkeys(each.method for each in scores)
    return [_method_row(name, [each for each in scores if each.method == name], stems) for name in methods]


def _method_row(method: str, scores: Sequence[SongScores], stems: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method, "songs": len(scores)}
    for name in scores[0].windows:
        values = per_song(scores, stems, [each.median(name) for each in scores])
        if name == "SDR":
            row["songs_scored"] = dict(zip(stems, np.isfinite(values).sum(axis=0).tolist(), strict=True))
        row[f"{name.lower()}_median_db"] = _named(stems, medians(torch.from_numpy(values)))
    whole = per_song(scores, stems, [each.global_sdr for each in scores])
    row["sdr_global_db"] = _named(stems, torch.from_numpy(whole).nanmean(dim=0))
    peaks = [each.peak_bytes for each in scores if each.peak_bytes is not None]
    row["x_real_time"] = round(sum(each.duration_s for each in scores) / sum(each.elapsed_s for each in scores), 2)
    row["peak_mb"] = round(max(peaks) / 2**20) if peaks else None
    return row


def per_song(scores: Sequence[SongScores], stems: Sequence[str], values: Sequence[Scores]) -> Scores:
    """The values of each song's own stems as a table `[songs, S]` over `stems`; NaN for a stem that a song lacks."""
    table = np.full((len(scores), len(stems)), np.nan)
    for row, each, value in zip(table, scores, values, strict=True):
        row[[list(stems).index(stem) for stem in each.stems]] = value
    return table


def _named(stems: Sequence[str], values: torch.Tensor) -> dict[str, float | None]:
    return {
        stem: None if math.isnan(value) else round(value, DIGITS)
        for stem, value in zip(stems, values.tolist(), strict=True)
    }


def text(rows: Sequence[Mapping[str, Any]], stems: Sequence[str]) -> str:
    """The summary for people; the mean over stems stands only where all have a value."""
    names = "".join(f"{name[:9]:>10}" for name in (*stems, "mean"))
    lines = [f"{'dB':16} {'':10}{names}   x real time   peak MB"]
    for row in rows:
        label = str(row["method"])[:16]
        for key in ("sdr_median_db", "sdr_global_db", "sir_median_db", "sar_median_db", "isr_median_db"):
            if key not in row:
                continue
            values = list(row[key].values())
            mean = None if None in values else sum(values) / len(values)
            what = " ".join((key[:3].upper(), key.split("_")[1]))
            line = f"{label:16} {what:10}" + "".join(f"{_shown(value, 2):>10}" for value in (*values, mean))
            if key == "sdr_median_db":
                line += f"{_shown(row['x_real_time'], 1):>14}{_shown(row['peak_mb'], 0):>10}"
            lines.append(line)
            label = ""
    return "\n".join(lines)


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def to_json(report: Mapping[str, Any]) -> str:
    """As JSON proper: it knows no infinity, so the score of an exact estimate becomes null too."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [finite(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(report), indent=2, allow_nan=False)


def museval_path(folder: Path, scores: SongScores) -> Path:
    """Where museval looks for it: `EvalStore.add_eval_dir(folder / method)` reads `test/**/*.json`, and names songs
    by their files."""
    return folder / scores.method / "test" / f"{scores.song}.json"


def write_museval(folder: Path, scores: SongScores) -> Path:
    """Write the windows of one song as museval does: five digits, NaN for what is missing or infinite."""

    def metric(name: str, window: int, s: int) -> float:
        value = float(scores.windows[name][window, s]) if name in scores.windows else math.nan
        return round(value, DIGITS) if math.isfinite(value) else math.nan

    targets = [
        {
            "name": stem,
            "frames": [
                {"time": float(w), "duration": 1.0, "metrics": {name: metric(name, w, s) for name in METRICS}}
                for w in range(len(scores.windows["SDR"]))
            ],
        }
        for s, stem in enumerate(scores.stems)
    ]
    path = museval_path(folder, scores)
    document = {"targets": targets, "museval_version": importlib.metadata.version("museval")}
    with replacing(path) as file:
        file.write(json.dumps(document, indent=2).encode())
    return path
