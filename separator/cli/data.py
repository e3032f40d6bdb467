"""`sepctl data`: songs to train on, prepared and checked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from tqdm import tqdm

from separator.cli import types
from separator.cli.text import shown, shown_lines, told
from separator.errors import ResourceError, SepctlError
from separator.parallel import Failure, run

if TYPE_CHECKING:
    from separator.train.check import Report

Item = TypeVar("Item")
Result = TypeVar("Result")

_musdb = click.option("--musdb", is_flag=True, help="The folder is MUSDB18 or MUSDB18-HQ: it holds train/ and test/.")
_stems = click.option("--stems", type=types.names, metavar="NAMES", help="These stems, with commas [default: all].")
_jobs = click.option("--jobs", type=click.IntRange(min=1), help="Processes side by side [default: one per core].")


@click.group()
def data() -> None:
    """Prepare and check songs to train on."""


@data.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@click.option("--sample-rate", type=click.IntRange(min=1000), default=44100, show_default=True,
              help="Rate of the model to train, Hz.")
@_stems
@_musdb
@click.option("--valid", type=click.IntRange(min=1), metavar="N",
              help="Set N songs of train aside for validation, chosen by their names.")
@_jobs
def prepare(
    source: Path, destination: Path, sample_rate: int, stems: tuple[str, ...] | None, musdb: bool, valid: int | None,
    jobs: int | None,
) -> None:  # fmt: skip
    """Decode the songs of SOURCE once to what training reads below DESTINATION.

    SOURCE holds SONG/<stem>.<ext>, SONG/<stem>/<layer>.<ext> or SONG.stem.mp4, all in train, valid and test folders or
    none. It may be killed at any moment: the same command goes on.
    """
    from separator.train.prepare import Prepared, filling, prepare_song
    from separator.train.prepareplan import plan

    tasks, notes = plan(source, destination, sample_rate=sample_rate, stems=stems, musdb=musdb, valid=valid)
    for note in notes:
        click.echo(f"note: {shown(note)}", err=True)
    done: list[Prepared] = []
    outcomes = _outcomes(prepare_song, tasks, jobs)
    with filling(destination), _bar(len(tasks)) as bar, contextlib.closing(outcomes):
        for task, result in outcomes:
            bar.update()
            if isinstance(result, Failure):
                bar.write(shown_lines(f"Error: {task.song.name}: {told(result, bar.write)}"), file=sys.stderr)
                continue
            done.append(result)
            for note in result.notes:
                bar.write(f"note: {shown(f'{task.song.name}: {note}')}", file=sys.stderr)
    kept, size = sum(result.kept for result in done), sum(result.bytes for result in done)
    hours = sum(result.seconds for result in done) / 3600
    click.echo(f"{len(done)} songs ({kept} were there already), {hours:.2f} h, {size / 2**20:.1f} MiB", err=True)
    if done:
        click.echo(os.fsencode(destination))
    if len(done) < len(tasks):
        raise SepctlError(f"{len(tasks) - len(done)} of {len(tasks)} songs could not be prepared")


@data.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_stems
@_musdb
@_jobs
@click.option("--json", "as_json", is_flag=True, help="One JSON object per song instead of the table.")
def check(folder: Path, stems: tuple[str, ...] | None, musdb: bool, jobs: int | None, as_json: bool) -> None:
    """Read all songs of FOLDER, sources or prepared ones, and tell what is wrong with them.

    Exit code 1 where something would break training: an unreadable file, stems of different lengths or rates, a stem
    that no song has.
    """
    from separator.train.check import check_song, items, over_songs, unchecked

    songs = items(folder, stems=stems, musdb=musdb)
    reports: list[Report] = []
    outcomes = _outcomes(check_song, songs, jobs)
    with _bar(len(songs)) as bar, contextlib.closing(outcomes):
        for song, report in outcomes:
            bar.update()
            reports.append(unchecked(song, told(report, bar.write)) if isinstance(report, Failure) else report)
    reports.sort(key=lambda report: (report.split, report.song))
    if as_json:
        click.echo("\n".join(json.dumps(dataclasses.asdict(report)) for report in reports))
    else:
        click.echo(_table(reports))
    problems, notes = over_songs(songs, reports)
    for line in (*(f"problem: {text}" for text in problems), *(f"note: {text}" for text in notes)):
        click.echo(shown(line), err=as_json)
    bad = sum(bool(report.problems) for report in reports)
    if bad or problems:
        raise SepctlError(f"{bad} of {len(reports)} songs have problems" if bad else problems[0])


def _outcomes(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int | None
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Every item with its outcome, as they end; to be closed. Raises ResourceError: a full disk is full for all."""
    with contextlib.closing(run(functools.partial(_itself, work), items, jobs or os.cpu_count() or 1)) as outcomes:
        for number, outcome in outcomes:
            if isinstance(outcome, Failure) and isinstance(outcome.error, ResourceError):
                raise outcome.error
            yield items[number], outcome


def _itself(work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """What every process starts with."""
    return work


def _bar(total: int) -> tqdm[Any]:
    return tqdm(total=total, unit="song", disable=None)


def _table(reports: Sequence[Report]) -> str:
    """A line per song, and below it what is to be said of it."""
    width = max(len(shown(report.song)) for report in reports)
    lines = [f"{'song':{width}}  split  {'length':>8} {'rate':>6} {'ch':>2} {'clipped':>7} {'DC':>7} {'mix dB':>6}"]
    for report in reports:
        minutes, seconds = divmod(report.seconds, 60)
        mix = "-" if report.mix_db is None else f"{report.mix_db:.1f}"
        lines.append(
            f"{shown(report.song):{width}}  {report.split or '-':5}  {f'{minutes:.0f}:{seconds:04.1f}':>8}"
            f" {report.sample_rate or '-':>6} {report.channels:>2} {report.clipped:>7} {report.dc_offset:7.4f} {mix:>6}"
        )
        lines += [f"    problem: {shown(text)}" for text in report.problems]
        lines += [f"    note: {shown(text)}" for text in report.notes]
    return "\n".join(lines)
