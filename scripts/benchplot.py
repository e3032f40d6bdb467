"""Pictures of what `bench.py` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def against_length(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds (both axes logarithmic) and peak memory of the whole command against the song's length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (time, memory) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for program in dict.fromkeys(row["program"] for row in rows):
        own = [row for row in rows if row["program"] == program and row["what"] == "command"]
        lengths = [row["minutes"] for row in own]
        time.plot(lengths, [row["seconds"] for row in own], "o-", label=program)
        memory.plot(lengths, [row["peak_mb"] / 1000 for row in own], "o-", label=program)
    ticks = sorted({row["minutes"] for row in rows})
    time.plot(ticks, [60 * tick for tick in ticks], ":", color="grey", label="real time")
    for axes, label in ((time, "seconds, WAV to four WAVs"), (memory, "peak resident memory in GB")):
        axes.set(xscale="log", xlabel="minutes of song", ylabel=label, xticks=ticks)
        axes.set_xticklabels([f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    time.set(yscale="log")
    memory.set(ylim=(0, None))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def against_settings(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any], path: Path) -> None:
    """Seconds against threads, segments in a batch, precision and stems asked for; all else as in `base`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    usual = {**base, "stems": "all"}
    keys = ("threads", "batch", "precision", "stems")
    figure, panels = plt.subplots(1, len(keys), figsize=(11, 3), constrained_layout=True, sharey=True)
    for axes, key in zip(panels, keys, strict=True):
        chosen = [row for row in rows if all(row[other] == usual[other] for other in keys if other != key)]
        chosen.sort(key=lambda row: str(row[key]).rjust(9))
        bars = axes.bar([str(row[key]) for row in chosen], [row["seconds"] for row in chosen], color="#4477aa")
        axes.bar_label(bars, fmt="%.2g")
        axes.set(xlabel={"batch": "segments in a batch", "stems": "stems asked for"}.get(key, key))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="seconds in process")
    figure.savefig(path, dpi=110)
    plt.close(figure)
