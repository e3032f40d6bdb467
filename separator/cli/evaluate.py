"""`sepctl evaluate`: how well a model separates songs whose stems are known."""

from __future__ import annotations

import contextlib
import csv
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from separator import __version__
from separator.cli import device as devices
from separator.cli import types
from separator.cli.text import shown, told
from separator.errors import SepctlError, UsageError

if TYPE_CHECKING:
    from separator.card import ModelCard
    from separator.corpus import TrueSong
    from separator.evaluation import Setup, SongScores
    from separator.parallel import Failure

ORACLES = ("mix", "irm1", "irm2", "mwf")
METRIC = "BSSEval v4 as museval counts it, in dB: windows of 1 s, median of windows, median of songs"
GLOBAL = "10 log10 of energies of whole songs, in dB: mean of songs"
MOST_JOBS = 8  # if none are asked for: each holds a model and, on many cores, memory ends before the cores do


class Recorded(click.Command):
    """Remembers its arguments, so that a table can name the command that made it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["separator.arguments"] = list(args)
        return super().parse_args(ctx, args)


def _oracles(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Names with commas, options repeated: all in one, each once."""
    names = tuple(dict.fromkeys(name for value in values for name in types.names(value)))
    if unknown := [name for name in names if name not in ORACLES]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(ORACLES)}")
    return names


@click.command(cls=Recorded)
@click.argument("model")
@click.option("--musdb", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="ROOT",
              help="MUSDB18 or MUSDB18-HQ: the folder that holds train/ and test/.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), metavar="ROOT",
              help="Songs with known stems: SONG/<stem>.wav, SONG/<stem>/<layer>.wav, or SONG.stem.mp4.")
@click.option("--split", type=click.Choice(["test", "valid", "train"]),
              help="Of MUSDB18 [default: test], or of a folder that has them [default: all].")
@click.option("--oracle", "oracles", multiple=True, callback=_oracles, metavar="NAMES",
              help="Add rows: mix (the untouched mix as every stem), irm1 and irm2 (ideal ratio masks, of magnitudes "
                   "and of powers), mwf (Wiener filter that knows the stems). With commas, or repeated.")
@click.option("--full", is_flag=True, help="SIR, SAR and ISR too, by museval: minutes and gigabytes per song.")
@click.option("--wiener", type=click.IntRange(min=0), help="Iterations of the Wiener filter [default: the model's].")
@click.option("--start", "start_s", type=types.seconds, default="0", metavar="TIME", help="Score from here on.")
@click.option("--duration", "duration_s", type=types.seconds, metavar="TIME", help="Score this much of each song.")
@click.option("--device", type=types.device, default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(types.PRECISIONS), default="fp32", show_default=True,
              help="Of the model's layers; auto is what `sepctl split` takes on this machine.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N",
              help="Songs at a time, in processes of their own [default: as many as cores, at most 8; 1 on CUDA and "
                   "with --full].")
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a row per song, stem and method.")
@click.option("--json-dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write DIR/METHOD/test/SONG.json with all windows, as museval does.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Draw a box per stem and method (PNG; needs the extra `report`).")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def evaluate(model: str, musdb: Path | None, folder: Path | None, split: str | None, csv_path: Path | None,
             json_dir: Path | None, plot: Path | None, as_json: bool, **options: Any) -> None:
    """Score MODEL (a name or a file) on songs whose stems are known.

    SDR as museval counts it: median over windows of one second, median over songs; beside it the global SDR, over
    whole songs, mean over songs. All in dB.
    """
    if options["duration_s"] == 0:
        raise UsageError("--duration must be greater than 0")
    from separator.modelfile import file_sha256, read_card
    from separator.registry import resolve

    path = resolve(model)
    card, sha256 = read_card(path), file_sha256(path)
    songs, data = _songs(musdb, folder, split)
    stems = _stems_scored(card, songs)
    setup, jobs, threads = _setup(path, len(songs), options)
    with _outputs(songs, csv_path, json_dir, plot) as write:
        scores, failures = _score(setup, songs, jobs, threads, write)
    if scores:
        about = {"model": {"name": card.name, "sha256": sha256}, "precision": setup.precision,
                 "data": {**data, "songs": len(songs)}, "metric": METRIC, "global": GLOBAL, "command": _command(),
                 "version": __version__}
        _show(about, scores, stems, as_json)
    if scores and plot:
        from separator.evaluation.plot import box_plot

        where = ", ".join(filter(None, (Path(data["path"]).name, data["split"])))
        box_plot(plot, scores, stems, f"{card.name} on {where}: SDR of BSSEval v4")
    if failures:
        count = f"{len(failures)} of {len(songs)} songs could not be scored"
        raise failures[0] if len(songs) == 1 else SepctlError(count)


def _songs(musdb: Path | None, folder: Path | None, split: str | None) -> tuple[list[TrueSong], dict[str, Any]]:
    """The songs, and what to call them."""
    from separator.corpus import musdb_songs, true_songs

    if musdb is not None and folder is None:
        split = split or "test"
        songs = musdb_songs(musdb, "test") if split == "test" else musdb_songs(musdb, "train", split)
        return songs, {"path": str(musdb), "kind": "MUSDB18", "split": split}
    if folder is None or musdb is not None:
        raise UsageError("say where the songs are: either --musdb ROOT or --folder ROOT")
    songs = true_songs(folder)
    there = list(dict.fromkeys(song.split for song in songs))
    if split is not None:
        songs = [song for song in songs if song.split == split]
        if not songs:
            has = f"it has {', '.join(there)}" if all(there) else f"there is no {split}/ in it"
            raise UsageError(f"{folder} has no split {split!r}", hint=has)
    return songs, {"path": str(folder), "kind": "folder", "split": split or ", ".join(there) or None}


def _stems_scored(card: ModelCard, songs: Sequence[TrueSong]) -> list[str]:
    """Those stems of the model that the data have; what is not scored is told."""
    there = list(dict.fromkeys(stem for song in songs for stem in song.stems))
    stems = [stem for stem in card.stems if stem in there]
    if not stems:
        raise UsageError(f"{card.name} makes {', '.join(card.stems)}, and the songs have {', '.join(there)}",
                         hint="the files must be called as the model's stems are")
    for song in songs:
        missing = [stem for stem in card.stems if stem not in song.stems]
        if missing and len(missing) < len(card.stems):
            click.echo(f"{shown(song.name)}: has no {', '.join(missing)}, which is not scored there", err=True)
    return stems


def _setup(path: Path, songs: int, options: dict[str, Any]) -> tuple[Setup, int, int]:
    """What every process is told, how many there are, and how many threads each has."""
    import torch

    from separator.evaluation import Setup
    from separator.models.precision import resolve

    device = devices.choose(options["device"])
    precision = resolve(options["precision"], torch.device(device))
    chosen = {key: options[key] for key in ("wiener", "oracles", "full", "start_s", "duration_s")}
    setup = Setup(path, device=device, precision=precision, **chosen)
    cores = torch.get_num_threads()
    alone = options["full"] or device != "cpu"
    jobs = min(songs, options["jobs"] or (1 if alone else min(cores, MOST_JOBS)))
    return setup, jobs, max(1, cores // jobs)


@contextlib.contextmanager
def _outputs(songs: Sequence[TrueSong], csv_path: Path | None, json_dir: Path | None, plot: Path | None,
             ) -> Iterator[Callable[[Sequence[SongScores]], None]]:
    """Writes the scores of a song, so that an interrupted evaluation keeps what it has; checked before any work."""
    from separator.evaluation import tables

    if plot is not None:
        from separator.evaluation.plot import require_matplotlib

        require_matplotlib()
        if not plot.absolute().parent.is_dir():
            raise UsageError(f"--plot {plot}: there is no such folder")
    if json_dir is not None:
        _refuse_namesakes(songs)
        try:
            json_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--json-dir {json_dir}: cannot be made ({error.strerror})") from error
    with contextlib.ExitStack() as stack:
        writer = None
        if csv_path is not None:
            try:
                file = stack.enter_context(csv_path.open("w", newline="", encoding="utf-8"))
            except OSError as error:
                raise UsageError(f"--csv {csv_path}: cannot be written ({error.strerror})") from error
            writer = csv.DictWriter(file, fieldnames=tables.COLUMNS)
            writer.writeheader()

        def write(scores: Sequence[SongScores]) -> None:
            for each in scores:
                if writer is not None:
                    writer.writerows(tables.song_rows(each))
                    file.flush()
                if json_dir is not None:
                    tables.write_museval(json_dir, each)

        yield write


def _refuse_namesakes(songs: Sequence[TrueSong]) -> None:
    seen: set[str] = set()
    for song in songs:
        if song.name in seen:
            raise UsageError(f"--json-dir: two songs are called {song.name}", hint="score one --split at a time")
        seen.add(song.name)


def _score(setup: Setup, songs: Sequence[TrueSong], jobs: int, threads: int,
           write: Callable[[Sequence[SongScores]], None]) -> tuple[list[SongScores], list[SepctlError]]:
    """All scores in the order of the songs, however they came, and the errors of the songs that have none."""
    from tqdm import tqdm

    from separator.parallel import Failure, run

    ended: dict[int, list[SongScores]] = {}
    failures: dict[int, SepctlError] = {}
    written = 0
    silent = sys.stderr is None or not sys.stderr.isatty()
    with tqdm(total=len(songs), unit="song", disable=silent, leave=False) as bar, \
            contextlib.closing(run(setup, songs, jobs, threads)) as outcomes:
        try:
            for number, outcome in outcomes:
                if isinstance(outcome, Failure):
                    failures[number] = _told(songs[number], outcome, bar.write, alone=len(songs) == 1)
                ended[number] = [] if isinstance(outcome, Failure) else outcome
                while written in ended:
                    write(ended[written])
                    written += 1
                bar.update()
        except KeyboardInterrupt:
            for number in sorted(number for number in ended if number >= written):
                write(ended[number])
            raise
    in_order = sorted(ended)
    return [each for number in in_order for each in ended[number]], [failures[n] for n in in_order if n in failures]


def _told(song: TrueSong, failure: Failure, echo: Callable[..., None], *, alone: bool) -> SepctlError:
    """The error of a song, once it is on stderr with the song's name; that of a lone song becomes the program's."""
    known = told(failure, echo)
    if not alone:
        echo(f"{shown(song.name)}: {known}", file=sys.stderr)
    return known


def _command() -> str:
    context = click.get_current_context()
    return shlex.join(["sepctl", "evaluate", *context.meta["separator.arguments"]])


def _show(about: dict[str, Any], scores: Sequence[SongScores], stems: Sequence[str], as_json: bool) -> None:
    from separator.evaluation import tables

    rows = tables.summary(scores, stems)
    about["data"]["scored"] = rows[0]["songs"]
    if as_json:
        click.echo(tables.to_json({**about, "rows": rows}))
        return
    data, model = about["data"], about["model"]
    split = f", split {data['split']}" if data["split"] else ""
    click.echo(f"model    {model['name']}, {about['precision']}, SHA-256 {model['sha256']}\n"
               f"data     {data['path']} ({data['kind']}{split}), "
               f"{data['scored']} of {data['songs']} songs\n"
               f"metric   {about['metric']}\n"
               f"global   {about['global']}\n"
               f"command  {about['command']}  (sepctl {about['version']})\n\n{tables.text(rows, stems)}")
