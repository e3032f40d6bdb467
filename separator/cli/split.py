"""`sepctl split`: songs in, one file per stem out."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from separator.cli import remember_verbose
from separator.cli.device import choose
from separator.cli.inputs import DASH, check, is_batch, listed
from separator.cli.types import PRECISIONS, Place, bit_rate, device, names, seconds, shard
from separator.errors import UsageError
from separator.remote import Url

if TYPE_CHECKING:
    from separator.audio.formats import BitDepth, Extension, StemFormat
    from separator.card import ModelCard
    from separator.cli.events import Events
    from separator.jobs import Job, Song
    from separator.models.precision import Precision
    from separator.separate import Separator

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")


@click.command(short_help="Split songs into one file per stem.")
@click.argument("songs", nargs=-1, type=Place(allow_dash=True))
@click.option("-o", "--out", default="stems", show_default=True, type=Place(allow_dash=True),
              help="Folder or URL for the stems; - writes one stem to stdout.")
@click.option("-m", "--model", default="mini", show_default=True, metavar="NAME|FILE",
              help="Model: a name from `sepctl models list`, or a model file.")
@click.option("--stems", type=names, metavar="NAMES", help="Make only these stems, e.g. vocals,drums.")
@click.option("--two-stems", metavar="STEM", help="Make STEM and the rest, e.g. vocals and no_vocals.")
@click.option("-f", "--format", "extension", default="wav", show_default=True, type=click.Choice(FORMATS),
              help="File format of the stems; of opus the rate is always 48 kHz.")
@click.option("--bit-depth", type=click.Choice(["16", "24", "32f"]),
              help="Of wav (all three) and flac (16, 24).  [default: 16]")
@click.option("--bitrate", type=bit_rate, metavar="RATE", help="Of mp3, ogg, opus and m4a, e.g. 192k.")
@click.option("--template", default="{track}/{stem}.{ext}", show_default=True,
              help="Path of a stem inside --out; also {model}, and the song's {folder} and {source_ext}.")
@click.option("--device", default="auto", show_default=True, type=device, metavar="DEVICE",
              help="auto, cpu, cuda or cuda:N.")
@click.option("--wiener", type=click.IntRange(0, 10), metavar="N",
              help="Iterations of the multichannel Wiener filter.  [default: the model's own]")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
              help="Of the network's layers: half precision (bf16; fp16 on CUDA) where the hardware has it, or fp32.")
@click.option("--start", default="0", type=seconds, metavar="TIME", help="Begin here, in seconds or [h:]mm:ss.")
@click.option("--duration", type=seconds, metavar="TIME", help="Split only this long a part.")
@click.option("--overwrite", is_flag=True, help="Replace stems that exist.")
@click.option("--skip-existing", is_flag=True,
              help="Skip songs whose stems are complete and were made by the same model and options.")
@click.option("--downmix", is_flag=True, help="Mix songs with more than two channels down to stereo.")
@click.option("--no-exact-sum", is_flag=True, help="Do not make all stems sum exactly to the song.")
@click.option("-r", "--recursive", is_flag=True, help="Split the songs in folders; the stems' folders mirror theirs.")
@click.option("--from-file", metavar="LIST", type=click.Path(path_type=Path, allow_dash=True),
              help="Also split the songs in LIST, one path per line; - reads the list from stdin.")
@click.option("-0", "--null", is_flag=True, help="The paths in --from-file end in NUL, as of `find -print0`.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, what it needs and how long it may take.")
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N",
              help="Worker processes, which share the cores.  [default: one per core or CUDA device, at most 8]")
@click.option("--timeout", type=seconds, metavar="TIME", help="Give a song up after so long.")
@click.option("--retries", type=click.IntRange(0), metavar="N",
              help="Try again after a crash, a timeout, or too little memory.  [default: 1]")
@click.option("--resume", is_flag=True, help="Go on with a batch that was stopped or killed, by its manifest.")
@click.option("--manifest", type=click.Path(path_type=Path), metavar="FILE",
              help="Of a batch; needed with a URL as --out.  [default: manifest.jsonl in --out]")
@click.option("--verify", is_flag=True, help="With --skip-existing or --resume: hash songs and stems, not only sizes.")
@click.option("--shard", type=shard, metavar="I/N", help="Split the I-th of N parts, of about equal duration.")
@click.option("--engine", type=click.Choice(["local", "ray"]),
              help="Who works on a batch: processes of this machine, or a Ray cluster.  [default: local]")
@click.option("--address", metavar="ADDRESS", envvar="RAY_ADDRESS",
              help="With --engine ray: HOST:PORT of the cluster's head, or auto.  [default: a cluster of this machine]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event instead of paths.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notes; of a batch, nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False,
              help="Show the traceback of errors.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
def split(songs: tuple[Path, ...], **options: Any) -> None:
    """Split each of SONGS into one file per stem; - reads a song from stdin.

    Paths of finished stems go to stdout, everything else to stderr. A song that fails does not stop the others.
    """
    check(songs, options)
    named = listed(songs, options)
    found = _songs(named, options)
    card, path = _find_model(options["model"], options["offline"])
    stems, rest = _choose_stems(card, options["stems"], options["two_stems"])
    chosen = _device(options)
    options["precision"] = _precision(options["precision"], chosen)
    job = _job(card, path, (*stems, *([rest] if rest else [])), options)
    loading = {"stems": stems, "rest": rest, "wiener": options["wiener"], "exact_sum": not options["no_exact_sum"],
               "device": chosen, "precision": options["precision"]}
    _heed_quiet(options["quiet"])
    if len(found) > 1 or is_batch(options) or isinstance(found[0].source, Url):
        from separator.cli.batch import run_batch

        loading["sha256"] = job.sha256      # workers start later too, when the file may be another
        run_batch(found, frozenset(named), job, path, loading, options)
    else:
        _run_one(found[0], job, lambda: _load(path, loading), _events(options))


def _songs(named: Sequence[Path], options: dict[str, Any]) -> list[Song]:
    from separator.batch.inputs import find
    from separator.jobs import Song

    if DASH in named:
        return [Song(sys.stdin.buffer)]
    found = find(named, recursive=options["recursive"], out=options["out"])
    if not found:
        raise UsageError(f"--from-file {options['from_file']}: the list is empty")
    if options["out"] == DASH and len(found) > 1:
        raise UsageError("--out - writes the stem of one song to stdout, and these are several")
    return found


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
    if sink is not None and options["skip_existing"]:
        raise UsageError("--skip-existing cannot tell whether stdout (-) has the stem already", hint="leave it out")
    shaping = {"wiener": options["wiener"], "exact_sum": not options["no_exact_sum"], "precision": options["precision"]}
    return Job(stems=stems, model=card.name, sha256=file_sha256(path), options=shaping, out=options["out"],
               template=options["template"], sink=sink,
               fmt=_format(options["extension"], options["bit_depth"], options["bitrate"]),
               start_s=options["start"], duration_s=options["duration"], downmix=options["downmix"],
               overwrite=options["overwrite"], skip_existing=options["skip_existing"] or options["resume"])


def _device(options: dict[str, Any]) -> str:
    """Of this machine; `--device cuda` on a cluster is for its other machines to have."""
    wanted: str = options["device"]
    if options["engine"] != "ray" or not wanted.startswith("cuda"):
        return choose(wanted)
    if wanted != "cuda":
        raise UsageError(f"--device {wanted} is a device of one machine", hint="--engine ray --device cuda takes all")
    import torch

    if options["precision"] == "auto" and not torch.cuda.is_available():
        raise UsageError("this machine has no CUDA device that would tell which precision the cluster's have",
                         hint="--precision bf16 (fp16 for GPUs before Ampere)")
    return wanted


def _precision(wanted: Precision, device: str) -> Precision:
    """What `auto` is here: stems of another precision are other stems."""
    import torch

    from separator.models.precision import resolve

    return resolve(wanted, torch.device(device))


def _format(extension: Extension, bit_depth: BitDepth | None, bitrate: int | None) -> StemFormat:
    """The format, or an error that names the option which does not fit it."""
    from separator.audio import StemFormat

    for option, depth, rate in (("--bit-depth", bit_depth, None), ("--bitrate", None, bitrate)):
        try:
            StemFormat(extension, depth, rate)
        except UsageError as error:
            raise UsageError(f"{option}: {error.fact}", hint=error.hint) from error
    return StemFormat(extension, bit_depth, bitrate)


def _load(path: Path, loading: dict[str, Any]) -> Separator:
    from separator.separate import Separator

    return Separator.load(path, **loading)


def _heed_quiet(quiet: bool) -> None:
    """Let the package's warnings pass, or not, until the command ends."""
    if quiet:
        log = logging.getLogger("separator")
        click.get_current_context().call_on_close(functools.partial(log.setLevel, log.level))
        log.setLevel(logging.ERROR)


def _events(options: dict[str, Any]) -> Events:
    from separator.cli.events import Human, Json

    return Json() if options["as_json"] else Human(quiet=options["quiet"], paths=options["out"] != DASH)


def _run_one(song: Song, job: Job, separator: Callable[[], Separator], events: Events) -> None:
    """Split a single song, in this process: its error becomes the program's."""
    from separator.failures import as_sepctl
    from separator.jobs import is_done, plan
    from separator.split import split_song

    started, status = time.perf_counter(), "failed"
    (song, paths), = plan([song], job).items()
    try:
        if is_done(song, paths, job):
            status = "skipped"
            events.skipped(song)
            return
        events.started(song)
        song.check()
        result = split_song(song, separator(), job, functools.partial(events.progress, song))
        status = "done"
        events.done(result)
    except Exception as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from error
        known = as_sepctl(error)
        if known is not None:
            events.failed(song, known)
        raise
    finally:
        events.stopped()
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt | BrokenPipeError):
            events.summary({name: int(name == status) for name in ("done", "skipped", "failed")},
                           time.perf_counter() - started)
