"""A picture of scores: one box per stem and method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from separator.errors import UsageError
from separator.evaluation.scoring import Scores, SongScores
from separator.evaluation.tables import per_song

# Colours that stay apart for colour-blind eyes (Okabe & Ito, 2008), the model's first.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
POINTS = 60  # up to so many values, each is drawn too


def require_matplotlib() -> Any:
    """`matplotlib.figure.Figure`. Raises UsageError where the extra is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a picture needs matplotlib", hint='pip install "sepctl[report]"') from error
    return Figure


def box_plot(path: Path, scores: Sequence[SongScores], stems: Sequence[str], title: str) -> None:
    """Draw SDR per stem and method: of several songs their medians, of a single one its windows.

    Boxes span the quartiles, the line is the median, whiskers reach to the last value within 1.5 box lengths.
    """
    figure = require_matplotlib()(figsize=(max(6.0, 1.2 + 1.9 * len(stems)), 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(each.method for each in scores))
    songs = len({(each.split, each.song) for each in scores})
    width = 0.8 / len(methods)
    for m, method in enumerate(methods):
        values = _values([each for each in scores if each.method == method], stems, songs)
        places = [s + (m - (len(methods) - 1) / 2) * width for s in range(len(stems))]
        _boxes(axes, values, places, 0.82 * width, COLOURS[m % len(COLOURS)])
    axes.axhline(0, color="#888888", linewidth=0.8, zorder=0)
    for edge in range(1, len(stems)):
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(stems)), stems)
    axes.set_xlim(-0.5, len(stems) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"SDR (dB), {f'median of each of {songs} songs' if songs > 1 else 'windows of 1 s'}")
    axes.grid(axis="y", color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    handles = [axes.scatter([], [], marker="s", color=COLOURS[m % len(COLOURS)]) for m in range(len(methods))]
    figure.legend(handles, methods, loc="outside lower center", ncols=len(methods), frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # a format that matplotlib does not know
        raise UsageError(f"--plot {path}: cannot be written ({error})") from error


def _values(scores: Sequence[SongScores], stems: Sequence[str], songs: int) -> list[Scores]:
    """The finite values of each stem: a song's windows, or the medians of several songs."""
    if songs > 1:
        table = per_song(scores, stems, [each.median("SDR") for each in scores])
    else:
        own = list(scores[0].stems)
        windows = scores[0].windows["SDR"]
        table = np.stack([windows[:, own.index(s)] if s in own else windows[:, 0] * np.nan for s in stems], axis=1)
    return [column[np.isfinite(column)] for column in table.T]


def _boxes(axes: Any, values: Sequence[Scores], places: Sequence[float], width: float, colour: str) -> None:
    shown = [s for s, each in enumerate(values) if len(each)]
    if not shown:
        return
    few = all(len(each) <= POINTS for each in values)
    axes.boxplot(
        [values[s] for s in shown],
        positions=[places[s] for s in shown],
        widths=width,
        manage_ticks=False,
        patch_artist=True,
        showfliers=not few,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour},
        medianprops={"color": "black", "linewidth": 1.4},
        whiskerprops={"color": colour},
        capprops={"color": colour},
        boxprops={"facecolor": colour, "edgecolor": colour, "alpha": 0.45},
    )
    if few:
        spread = np.random.default_rng(0)
        for s in shown:
            across = places[s] + spread.uniform(-0.25, 0.25, len(values[s])) * width
            axes.scatter(across, values[s], s=5, color=colour, zorder=3, linewidths=0)
