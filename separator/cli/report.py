"""`sepctl report`: what became of the songs of a batch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from separator.errors import UsageError

if TYPE_CHECKING:
    from separator.batch.summary import Summary


@click.command(short_help="Sum up the manifests of batches.")
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--failed", is_flag=True, help="Print the paths of the songs that failed, for `split --from-file`.")
@click.option("-0", "--null", is_flag=True, help="With --failed: end paths in NUL instead of a newline.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(manifests: Sequence[Path], failed: bool, null: bool, as_json: bool) -> None:
    """Sum up MANIFESTS, of shards too: counts, causes of failures, throughput, the slowest songs.

    A folder stands for the manifests in it. A song counts once, as it ended last.
    """
    if null and not failed:
        raise UsageError("--null is about paths", hint="add --failed")
    if failed and as_json:
        raise UsageError("--failed and --json exclude each other", hint="--json lists the failed songs too")
    from separator.batch.manifest import read
    from separator.batch.summary import summarise

    summary = summarise(record for path in _files(manifests) for record in read(path))
    if failed:
        for record in summary.failures:
            click.echo(os.fsencode(record["input"]) + (b"\0" if null else b"\n"), nl=False)
    else:
        click.echo(json.dumps(_as_json(summary)) if as_json else _as_text(summary))


def _files(named: Sequence[Path]) -> list[Path]:
    from separator.batch.inputs import MANIFESTS

    files: list[Path] = []
    for path in named:
        found = sorted(filter(_is_ours, path.glob(MANIFESTS))) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"{path} holds no manifest", hint="a batch of sepctl split writes one into its --out")
        files += found
    return list(dict.fromkeys(files))


def _is_ours(path: Path) -> bool:
    """Whether a file is a manifest, perhaps of a batch that has not finished a song yet."""
    from separator.batch.manifest import is_manifest

    return is_manifest(path) or not path.stat().st_size


def _as_json(summary: Summary) -> dict[str, object]:
    return {
        "schema": 1, "songs": summary.songs, "done": summary.done, "skipped": summary.skipped,
        "failed": summary.failed, "audio_s": round(summary.audio_s, 3), "work_s": round(summary.work_s, 3),
        "wall_s": summary.wall_s, "x_real_time": summary.x_real_time, "peak_memory": summary.peak_memory,
        "causes": summary.causes, "warnings": summary.warnings,
        "slowest": [{"input": path, "elapsed_s": took, "duration_s": audio} for path, took, audio in summary.slowest],
        "failures": [{"input": record["input"], **record["error"]} for record in summary.failures],
    }


def _as_text(summary: Summary) -> str:
    lines = [f"{summary.songs:,} songs: {summary.done:,} done, {summary.skipped:,} skipped, {summary.failed:,} failed"]
    if summary.x_real_time is not None:
        memory = "" if summary.peak_memory is None else f", at most {summary.peak_memory / 1e6:,.0f} MB of memory"
        lines.append(f"{summary.audio_s / 3600:.2f} h of audio in {summary.work_s / 3600:.2f} h of work: "
                     f"{summary.x_real_time:.1f} x real time per worker{memory}")
    lines += _table("failed because", summary.causes) + _table("warnings", summary.warnings)
    if summary.slowest:
        from separator.cli.text import shown

        lines += ["slowest", *(f"{took:10,.1f} s  {shown(path)} ({audio:.1f} s of audio)"
                               for path, took, audio in summary.slowest)]
    return "\n".join(lines)


def _table(head: str, counts: object) -> list[str]:
    assert isinstance(counts, dict)
    return [head, *(f"{count:10,}  {what}" for what, count in counts.items())] if counts else []
