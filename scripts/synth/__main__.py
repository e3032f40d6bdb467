"""python -m scripts.synth --songs 500 --out DIR --seed 1 --data DATA: writes songs that are not there yet."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import click
from tqdm import tqdm

from scripts.synth.library import Library
from scripts.synth.mixing import bounced, write_song
from scripts.synth.produce import produce


def keep_memory() -> None:
    """Ask glibc not to hand freed arrays back to the system: mapping them anew costs a fifth of the time."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for parameter, value in ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20)):
            library.mallopt(parameter, value)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


@lru_cache(maxsize=1)
def open_library(data: Path, cache: Path, system: Path, permissive: bool) -> Library:
    return Library(data, cache, system=system, permissive=permissive)


@dataclass(frozen=True)
class Order:
    """What all songs of a run have in common."""

    library: tuple[Path, Path, Path, bool]
    out: Path
    seed: int
    seconds: float
    vocals: bool
    layers: int


def make(order: Order, index: int) -> str:
    """Write one song unless it is there; returns the folder's name."""
    there = list(order.out.glob(f"synth-{order.seed}-{index:05d}-*"))
    if there:
        return there[0].name
    name, stems = produce(open_library(*order.library), order.seed, index, order.seconds, order.vocals)
    write_song(order.out / name, bounced(stems, order.layers))
    return name


@click.command()
@click.option("--songs", default=40, show_default=True, help="Number of songs.")
@click.option("--first", default=0, show_default=True, help="Index of the first song.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder that receives one folder per song.")
@click.option("--seed", default=1, show_default=True, help="Song i is a function of seed and i alone.")
@click.option(
    "--data", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of the licensed recordings."
)
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Decoded recordings are kept here.  [default: OUT/../synth-cache]"
)
@click.option(
    "--system",
    default="/",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where Debian's soundfonts, hydrogen-drumkits and flite are installed, if they are.",
)
@click.option("--permissive", is_flag=True, help="Leave out sources under share-alike and GPL licences.")
@click.option("--seconds", default=60.0, show_default=True, help="Length of each song.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option(
    "--layers",
    default=99,
    show_default=True,
    type=click.IntRange(1),
    help="Most files per stem: further layers are mixed into the last.",
)
@click.option("--skip-vocals", is_flag=True, help="Write drums, bass and other alone.")
def main(
    songs: int,
    first: int,
    out: Path,
    seed: int,
    data: Path,
    cache: Path | None,
    system: Path,
    permissive: bool,
    seconds: float,
    jobs: int,
    layers: int,
    skip_vocals: bool,
) -> None:
    """Write layered songs for training: OUT/<song>/{vocals,drums,bass,other}/<layer>.flac, 44.1 kHz, 16 bit, stereo."""
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    cache = cache or out.parent / "synth-cache"
    order = Order((data, cache, system, permissive), out, seed, seconds, not skip_vocals, layers)
    todo = range(first, first + songs)
    if jobs == 1:
        for index in tqdm(todo, unit="song"):
            make(order, index)
        return
    with ProcessPoolExecutor(jobs, initializer=keep_memory) as pool:
        futures = [pool.submit(make, order, index) for index in todo]
        for future in tqdm(as_completed(futures), total=len(futures), unit="song"):
            future.result()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
