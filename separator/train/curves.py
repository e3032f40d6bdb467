"""The picture of a run: how the loss fell, how every stem came out, how the learning rate went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

# Okabe & Ito's colours, which all kinds of colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#999999"
BESIDE: dict[str, Any] = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1.0, 0.5), "alignment": "left"}

Row = Mapping[str, float]


def draw(rows: Sequence[Row], stems: Sequence[str], title: str, file: IO[bytes]) -> None:
    """Write the curves of a history's rows as PNG. Needs matplotlib (extra [report]); opens no window.

    What rows do not tell (`train_loss`, `lr`) is not drawn; values that are not finite leave gaps.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7.5), dpi=110, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 4, 1.3))
    best = best_of(rows)
    panels[0].set_title(title, loc="left", fontweight="bold")
    _losses(panels[0], rows, best)
    _scores(panels[1], rows, stems, best)
    _rate(panels[2], rows)
    for panel in panels:
        panel.axvline(best["step"], color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("step")
    panels[-1].margins(x=0.02)
    figure.savefig(file, format="png")


def best_of(rows: Sequence[Row]) -> Row:
    """The row of the lowest loss that is a number."""
    return min(rows, key=lambda row: row["loss"] if math.isfinite(row["loss"]) else math.inf)


def _losses(panel: Any, rows: Sequence[Row], best: Row) -> None:
    if "train_loss" in rows[-1]:
        _curve(panel, rows, "train_loss", GREY, "training")
    _curve(panel, rows, "loss", "#000000", "validation")
    panel.plot([best["step"]], [best["loss"]], "o", color="#000000", markersize=6,
               label=f"best: {best['loss']:.4g}\nat step {best['step']:.0f}")
    panel.set_ylabel("loss")
    panel.legend(**BESIDE)


def _scores(panel: Any, rows: Sequence[Row], stems: Sequence[str], best: Row) -> None:
    """One curve per stem; the legend gives the figures of the best row, highest first."""
    order = sorted(range(len(stems)), key=lambda s: -best[stems[s]] if math.isfinite(best[stems[s]]) else math.inf)
    for s in order:
        score = f"{best[stems[s]]:.2f} dB" if math.isfinite(best[stems[s]]) else "silent"
        _curve(panel, rows, stems[s], COLOURS[s % len(COLOURS)], f"{stems[s]}: {score}")
    panel.set_ylabel("SDR on validation (dB)")
    panel.legend(title="at the best step", **BESIDE)


def _rate(panel: Any, rows: Sequence[Row]) -> None:
    if "lr" in rows[-1]:
        _curve(panel, rows, "lr", COLOURS[0], "")
    panel.set_ylabel("learning rate")
    panel.set_ylim(bottom=0)
    panel.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def _curve(panel: Any, rows: Sequence[Row], key: str, colour: str, label: str) -> None:
    """Markers only while there are few rows: a curve of one point would be invisible."""
    values = [row[key] if math.isfinite(row[key]) else math.nan for row in rows]
    marker = "." if len(rows) <= 30 else ""
    panel.plot([row["step"] for row in rows], values, color=colour, label=label, marker=marker, linewidth=1.5)
