"""`sepctl evaluate`: how well a model separates songs whose stems are known."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from separator.cli import device as devices
from separator.cli import types
from separator.errors import AudioError, SepctlError, UsageError

if TYPE_CHECKING:
    from separator.evaluation import WindowScores

ORACLES = ("mix", "irm1")


@click.command()
@click.argument("model")
@click.option(
    "--folder",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Songs with known stems: SONG/<stem>.wav, SONG/<stem>/<layer>.wav, or MUSDB18's SONG.stem.mp4.",
)
@click.option(
    "--oracle",
    type=click.Choice(ORACLES),
    multiple=True,
    help="Add a row: mix (the untouched mix as every stem), irm1 (ideal ratio mask of magnitudes). Repeatable.",
)
@click.option("--wiener", type=click.IntRange(min=0), help="Iterations of the Wiener filter [default: the model's].")
@click.option("--start", "start_s", type=types.seconds, default="0", metavar="TIME", help="Score from here on.")
@click.option("--duration", "duration_s", type=types.seconds, metavar="TIME", help="Score this much of each song.")
@click.option("--device", type=types.device, default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a row per song, stem and method."
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def evaluate(
    model: str,
    folder: Path,
    oracle: Sequence[str],
    wiener: int | None,
    start_s: float,
    duration_s: float | None,
    device: str,
    csv_path: Path | None,
    as_json: bool,
) -> None:
    """Score MODEL (a name or a file) on songs whose stems are known.

    SDR as museval counts it: median over windows of one second, median over songs; beside it the global SDR, over
    whole songs, mean over songs. All in dB.
    """
    from separator.evaluation import mix_itself, ratio_mask, score, true_songs
    from separator.evaluation import model as method_of
    from separator.separate import Separator

    separator = Separator.load(model, wiener=wiener, device=devices.choose(device))
    methods = {separator.card.name: method_of(separator)}
    methods |= {name: {"mix": mix_itself, "irm1": ratio_mask}[name] for name in oracle}
    rows: list[dict[str, Any]] = []
    songs, failed = true_songs(folder, separator.stems), 0
    with _table_file(csv_path) as write:
        for song in songs:
            try:
                scored = {
                    name: score(song, separator.stems, each, start_s, duration_s) for name, each in methods.items()
                }
            except AudioError as error:
                failed += 1
                click.echo(f"{song.name}: {error}", err=True)
                continue
            new = [row for name, scores in scored.items() for row in _rows(song.name, name, separator.stems, scores)]
            write(new)
            rows += new
    if rows:
        summary = _summary(rows, list(methods), separator.stems)
        click.echo(json.dumps(summary) if as_json else _table(summary, separator.stems))
    if failed:
        raise SepctlError(f"{failed} of {len(songs)} songs could not be scored")


@contextlib.contextmanager
def _table_file(path: Path | None) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """Writes rows as they come, so that an interrupted evaluation keeps what it has; opened before any work."""
    if path is None:
        yield lambda rows: None
        return
    try:
        file = path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--csv {path}: cannot be written ({error.strerror})") from error
    with file:
        writer = csv.DictWriter(file, fieldnames=["song", "method", "stem", "sdr_median_db", "sdr_global_db"])
        writer.writeheader()

        def write(rows: Sequence[dict[str, Any]]) -> None:
            writer.writerows(rows)
            file.flush()

        yield write


def _rows(song: str, method: str, stems: Sequence[str], scores: WindowScores) -> list[dict[str, Any]]:
    medians, whole = scores.sdr().nanmedian(dim=0).values, scores.global_sdr()
    return [
        {
            "song": song,
            "method": method,
            "stem": stem,
            "sdr_median_db": float(medians[s]),
            "sdr_global_db": float(whole[s]),
        }
        for s, stem in enumerate(stems)
    ]


def _summary(rows: Sequence[dict[str, Any]], methods: Sequence[str], stems: Sequence[str]) -> list[dict[str, Any]]:
    """Median over songs of the medians, mean over songs of the global SDR; null where no song has a score."""
    import torch

    def over_songs(method: str, stem: str, key: str) -> float | None:
        values = torch.tensor([row[key] for row in rows if (row["method"], row["stem"]) == (method, stem)])
        value = float(values.nanmedian() if key == "sdr_median_db" else values.nanmean())
        return None if value != value else round(value, 3)

    return [
        {
            "method": method,
            "songs": len({row["song"] for row in rows}),
            **{
                key: {stem: over_songs(method, stem, key) for stem in stems}
                for key in ("sdr_median_db", "sdr_global_db")
            },
        }
        for method in methods
    ]


def _table(summary: Sequence[dict[str, Any]], stems: Sequence[str]) -> str:
    def cells(values: dict[str, float | None]) -> str:
        return "".join(f"{'-' if value is None else f'{value:.2f}':>10}" for value in values.values())

    head = "".join(f"{stem:>10}" for stem in stems)
    lines = [f"{'SDR (dB)':24}{head}"]
    for row in summary:
        lines += [
            f"{row['method'][:16]:16} {'median':7}{cells(row['sdr_median_db'])}",
            f"{'':16} {'global':7}{cells(row['sdr_global_db'])}",
        ]
    return "\n".join(lines)
