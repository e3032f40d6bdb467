"""What `sepctl split` is given: options that contradict each other, lists of songs, stdin and stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from separator.errors import UsageError
from separator.remote import Url

DASH = Path("-")
_DESCRIPTOR = re.compile(r"/dev/(fd/|stdin$)|/proc/(self|thread-self|\d+)/fd/")     # as of <(command)
EXCLUSIVE = (("overwrite", "skip_existing"), ("skip_existing", "resume"), ("stems", "two_stems"))
# Whoever asks for one of these has a batch, even of one song: worker processes and a manifest.
OF_BATCHES = ("recursive", "from_file", "jobs", "timeout", "retries", "resume", "shard", "dry_run", "engine",
              "manifest", "verify")


def check(songs: Sequence[Path], options: dict[str, Any]) -> None:
    """Refuse options that contradict each other, before anything heavy is imported."""
    if not songs and options["from_file"] is None:
        raise click.UsageError("Missing argument 'SONGS...'.")
    for one, other in EXCLUSIVE:
        if options[one] and options[other]:
            raise UsageError(f"--{one.replace('_', '-')} and --{other.replace('_', '-')} exclude each other")
    if options["verify"] and not (options["skip_existing"] or options["resume"]):
        raise UsageError("--verify says how to look at what is finished", hint="add --skip-existing or --resume")
    if options["manifest"] is not None and options["manifest"].is_dir():
        raise UsageError(f"--manifest {options['manifest']} is a folder", hint="--manifest FILE")
    if options["null"] and options["from_file"] is None:
        raise UsageError("--null is about a list", hint="add --from-file LIST")
    told = click.get_current_context().get_parameter_source("address")
    if told is click.core.ParameterSource.COMMANDLINE and options["engine"] != "ray":
        raise UsageError("--address is of a Ray cluster", hint="add --engine ray")
    if isinstance(options["out"], Url) and options["manifest"] is None:
        raise UsageError("a store cannot add lines to a file: the manifest has to be on a disk",
                         hint="--manifest FILE, and the same FILE to go on")
    for name in ("duration", "timeout"):
        if options[name] == 0:
            raise UsageError(f"--{name} must be greater than 0")
    if DASH in songs:
        _check_stdin(songs, options)
    elif options["from_file"] == DASH and sys.stdin is None:
        raise UsageError("stdin is closed", hint="pipe a list into it: find music -name '*.mp3' | sepctl split ...")
    if options["out"] == DASH:
        _check_stdout(songs, options)
    if len(songs) > 1 or is_batch(options):
        _check_descriptors(songs)


def is_batch(options: dict[str, Any]) -> bool:
    return any(options[name] is not None and options[name] is not False for name in OF_BATCHES)


def _check_stdin(songs: Sequence[Path], options: dict[str, Any]) -> None:
    if songs.count(DASH) > 1:
        raise UsageError("stdin (-) can be read only once")
    if options["skip_existing"]:
        raise UsageError("--skip-existing cannot tell whether stdin (-) gives a song that was split before",
                         hint="use --overwrite, or another --out")
    if len(songs) > 1 or is_batch(options):
        raise UsageError("a song from stdin (-) is split alone, not in a batch", hint="give it a command of its own")
    if sys.stdin is None:
        raise UsageError("stdin is closed", hint="pipe a song into it: sepctl split - < song.mp3")
    if sys.stdin.isatty():
        raise UsageError("stdin is a terminal", hint="pipe a song into it: sepctl split - < song.mp3")


def _check_descriptors(songs: Sequence[Path]) -> None:
    for song in songs:
        if _DESCRIPTOR.match(str(song)):
            raise UsageError(f"{song} is open in this process only: it is split alone, not in a batch",
                             hint="give it a command of its own")


def _check_stdout(songs: Sequence[Path], options: dict[str, Any]) -> None:
    if len(songs) > 1 or is_batch(options) or options["as_json"]:
        raise UsageError("--out - writes the stem of one song to stdout: no second song, and no --json beside it")
    if sys.stdout is None:
        raise UsageError("stdout is closed", hint="sepctl split song.mp3 -o - --stems vocals > vocals.wav")
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal", hint="sepctl split song.mp3 -o - --stems vocals > vocals.wav")


def listed(songs: Sequence[Path], options: dict[str, Any]) -> list[Path]:
    """What the arguments and the list name, one by one: patterns are resolved, and stand in no list."""
    from separator.batch.inputs import expand

    return [*expand(songs), *_in_file(options["from_file"], options["null"])]


def _in_file(source: Path | None, null: bool) -> list[Path]:
    """The songs in the file of `--from-file`."""
    if source is None:
        return []
    from separator.batch.inputs import read_list

    try:
        data = sys.stdin.buffer.read() if source == DASH else source.read_bytes()
    except OSError as error:
        raise UsageError(f"--from-file {source}: cannot be read ({error.strerror})") from error
    try:
        paths = read_list(data, null=null)
    except UsageError as error:
        raise UsageError(f"--from-file {source}: {error.fact}", hint=error.hint) from error
    if DASH in paths:
        raise UsageError(f"--from-file {source}: - stands for stdin only as an argument", hint="write ./- for the file")
    _check_descriptors(paths)
    return paths
