"""`sepctl split`: songs in, one file per stem out."""

from __future__ import annotations

import functools
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from separator.cli import VERBOSE, remember_verbose
from separator.cli.device import choose
from separator.cli.failures import as_sepctl
from separator.cli.types import bit_rate, device, names, seconds
from separator.errors import SepctlError, UsageError

if TYPE_CHECKING:
    from separator.audio.formats import BitDepth, Extension, StemFormat
    from separator.card import ModelCard
    from separator.cli.events import Events
    from separator.jobs import Job, Song
    from separator.separate import Separator

DASH = Path("-")
FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")


@click.command(short_help="Split songs into one file per stem.")
@click.argument("songs", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("-o", "--out", default="stems", show_default=True, type=click.Path(path_type=Path, allow_dash=True),
              help="Folder for the stems; - writes one stem to stdout.")
@click.option("-m", "--model", default="mini", show_default=True, metavar="NAME|FILE",
              help="Model: a name from `sepctl models list`, or a model file.")
@click.option("--stems", type=names, metavar="NAMES", help="Make only these stems, e.g. vocals,drums.")
@click.option("--two-stems", metavar="STEM", help="Make STEM and the rest, e.g. vocals and no_vocals.")
@click.option("-f", "--format", "extension", default="wav", show_default=True, type=click.Choice(FORMATS),
              help="File format of the stems.")
@click.option("--bit-depth", type=click.Choice(["16", "24", "32f"]),
              help="Of wav (all three) and flac (16, 24).  [default: 16]")
@click.option("--bitrate", type=bit_rate, metavar="RATE", help="Of mp3, ogg, opus and m4a, e.g. 192k.")
@click.option("--template", default="{track}/{stem}.{ext}", show_default=True,
              help="Path of a stem inside --out; also {model}, and the song's {folder} and {source_ext}.")
@click.option("--device", default="auto", show_default=True, type=device, metavar="DEVICE",
              help="auto, cpu, cuda or cuda:N.")
@click.option("--wiener", type=click.IntRange(0, 10), metavar="N",
              help="Iterations of the multichannel Wiener filter.  [default: the model's own]")
@click.option("--start", default="0", type=seconds, metavar="TIME", help="Begin here, in seconds or [h:]mm:ss.")
@click.option("--duration", type=seconds, metavar="TIME", help="Split only this long a part.")
@click.option("--overwrite", is_flag=True, help="Replace stems that exist.")
@click.option("--skip-existing", is_flag=True,
              help="Skip songs whose stems are complete and were made by the same model and options.")
@click.option("--downmix", is_flag=True, help="Mix songs with more than two channels down to stereo.")
@click.option("--no-exact-sum", is_flag=True, help="Do not make all stems sum exactly to the song.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event instead of paths.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors on stderr; no progress, no notes.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False,
              help="Show the traceback of errors.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
def split(songs: tuple[Path, ...], **options: Any) -> None:
    """Split each of SONGS into one file per stem; - reads a song from stdin.

    Paths of finished stems go to stdout, everything else to stderr. A song that fails does not stop the others.
    """
    _check(songs, options)
    card, path = _find_model(options["model"], options["offline"])
    stems, rest = _choose_stems(card, options["stems"], options["two_stems"])
    chosen = choose(options["device"])
    job = _job(card, path, (*stems, *([rest] if rest else [])), options)

    @functools.cache
    def separator() -> Separator:
        from separator.separate import Separator

        return Separator.load(str(path), stems=stems, rest=rest, wiener=options["wiener"],
                              exact_sum=not options["no_exact_sum"], device=chosen)

    _run(_songs(songs), job, separator, _events(len(set(songs)), options))


def _check(songs: Sequence[Path], options: dict[str, Any]) -> None:
    """Refuse options that contradict each other, before anything heavy is imported."""
    for one, other in (("overwrite", "skip_existing"), ("stems", "two_stems")):
        if options[one] and options[other]:
            raise UsageError(f"--{one.replace('_', '-')} and --{other.replace('_', '-')} exclude each other")
    if options["duration"] == 0:
        raise UsageError("--duration must be greater than 0")
    if songs.count(DASH) > 1:
        raise UsageError("stdin (-) can be read only once")
    if DASH in songs and options["skip_existing"]:
        raise UsageError("--skip-existing cannot tell whether stdin (-) gives a song that was split before",
                         hint="use --overwrite, or another --out")
    if DASH in songs and sys.stdin is None:
        raise UsageError("stdin is closed", hint="pipe a song into it: sepctl split - < song.mp3")
    if DASH in songs and sys.stdin.isatty():
        raise UsageError("stdin is a terminal", hint="pipe a song into it: sepctl split - < song.mp3")
    if options["out"] != DASH:
        return
    if len(songs) > 1 or options["as_json"]:
        raise UsageError("--out - writes the stem of one song to stdout: no second song, and no --json beside it")
    if sys.stdout is None:
        raise UsageError("stdout is closed", hint="sepctl split song.mp3 -o - --stems vocals > vocals.wav")
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal", hint="sepctl split song.mp3 -o - --stems vocals > vocals.wav")


def _find_model(name: str, offline: bool) -> tuple[ModelCard, Path]:
    from separator.modelfile import read_card
    from separator.registry import resolve

    path = resolve(name, offline=offline)
    return read_card(path), path


def _choose_stems(card: ModelCard, wanted: tuple[str, ...] | None, two: str | None,
                  ) -> tuple[tuple[str, ...], str | None]:
    """The stems to ask the model for, and the name of the rest where `--two-stems` wants one."""
    for option, asked in (("--stems", wanted or ()), ("--two-stems", (two,) if two is not None else ())):
        for name in asked:
            if name not in card.stems:
                raise UsageError(f"{option} {name}: the model {card.name} has no such stem",
                                 hint=f"its stems are {', '.join(card.stems)}")
    if two is not None:
        return (two,), f"no_{two}"
    return wanted or card.stems, None


def _job(card: ModelCard, path: Path, stems: tuple[str, ...], options: dict[str, Any]) -> Job:
    from separator.jobs import Job
    from separator.modelfile import file_sha256

    sink = sys.stdout.buffer if options["out"] == DASH else None
    if sink is not None and len(stems) != 1:
        raise UsageError(f"--out - writes one stem, but {len(stems)} would come out: {', '.join(stems)}",
                         hint=f"name it: --stems {stems[0]}")
    shaping = {"wiener": options["wiener"], "exact_sum": not options["no_exact_sum"]}
    return Job(stems=stems, model=card.name, sha256=file_sha256(path), options=shaping, out=options["out"],
               template=options["template"], sink=sink,
               fmt=_format(options["extension"], options["bit_depth"], options["bitrate"]),
               start_s=options["start"], duration_s=options["duration"], downmix=options["downmix"],
               overwrite=options["overwrite"], skip_existing=options["skip_existing"])


def _format(extension: Extension, bit_depth: BitDepth | None, bitrate: int | None) -> StemFormat:
    """The format, or an error that names the option which does not fit it."""
    from separator.audio import StemFormat

    for option, depth, rate in (("--bit-depth", bit_depth, None), ("--bitrate", None, bitrate)):
        try:
            StemFormat(extension, depth, rate)
        except UsageError as error:
            raise UsageError(f"{option}: {error.fact}", hint=error.hint) from error
    return StemFormat(extension, bit_depth, bitrate)


def _songs(paths: Sequence[Path]) -> list[Song]:
    from separator.jobs import Song

    return [Song(sys.stdin.buffer if path == DASH else path) for path in dict.fromkeys(paths)]


def _events(total: int, options: dict[str, Any]) -> Events:
    context = click.get_current_context()
    if options["quiet"]:
        log = logging.getLogger("separator")
        context.call_on_close(functools.partial(log.setLevel, log.level))
        log.setLevel(logging.ERROR)
    from separator.cli.events import Human, Json

    if options["as_json"]:
        return Json()
    verbose = bool(context.meta.get(VERBOSE))
    return Human(total=total, quiet=options["quiet"], verbose=verbose, paths=options["out"] != DASH)


def _run(songs: Sequence[Song], job: Job, separator: Callable[[], Separator], events: Events) -> None:
    """Split every song; raise at the end if any failed: a single song's own error, else how many."""
    from separator.jobs import is_done, plan

    started, failures = time.perf_counter(), []
    counts = {"done": 0, "skipped": 0, "failed": 0}
    for song, paths in plan(songs, job).items():
        error: SepctlError | None = None
        try:
            if is_done(song, paths, job):
                events.skipped(song)
                counts["skipped"] += 1
                continue
        except SepctlError as caught:
            error = caught
        events.started(song)
        error = error or _split_one(song, job, separator, events, alone=len(songs) == 1)
        counts["failed" if error else "done"] += 1
        if error:
            failures.append(error)
            events.failed(song, error)
    events.summary(counts, time.perf_counter() - started)
    if failures:
        raise failures[0] if len(songs) == 1 else SepctlError(f"{len(failures)} of {len(songs)} songs failed")


def _split_one(song: Song, job: Job, separator: Callable[[], Separator], events: Events, *, alone: bool,
               ) -> SepctlError | None:
    """The error of a song that failed, even through a bug of ours if other songs wait (its traceback is shown).

    A model that does not load is no song's fault: that error is raised and ends the run.
    """
    from separator.split import split_song

    try:
        song.check()
    except SepctlError as error:
        return error
    ready = separator()
    try:
        events.done(split_song(song, ready, job, events.progress))
        return None
    except BrokenPipeError:
        raise  # whoever reads our stdout has left
    except Exception as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from error
        known = as_sepctl(error)
        if known is None:
            if alone:
                raise
            traceback.print_exc()
            known = SepctlError(f"{song.name}: {error!r}", hint="this is a bug in sepctl; its traceback is above")
        if known is not error:
            known.__cause__ = error
        return known
    finally:
        events.stopped()
