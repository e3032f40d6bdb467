"""Thousands of short songs of mixed formats through one process: what grows?

    python scripts/endurance.py --songs 2000 --out docs

makes the songs, one in a hundred of them damaged, splits them one after the other in this process, with a manifest, by
what the workers of `sepctl split` do, and writes endurance.json and endurance.png: resident memory, open files, threads
and temporary files after each song.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from separator.audio import StemFormat, StemWriter
from separator.batch import plan
from separator.batch.engine import Begun, Ended, Event
from separator.batch.inputs import find
from separator.batch.manifest import open_manifest
from separator.batch.records import recorded
from separator.batch.worker import Broken, Splitter, Work, attempt
from separator.jobs import Job
from separator.modelfile import file_sha256, read_card
from separator.registry import resolve

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")
RATES = (44100, 48000, 22050)
WARM_UP = 0.25      # of the songs: memory still grows to what the largest of them takes


@dataclass(frozen=True)
class Sample:
    """This process after so many songs; memory in bytes."""

    songs: int
    rss: int
    files: int
    threads: int
    parts: int


def make_songs(folder: Path, count: int, seconds: float, damaged_every: int) -> None:
    """Mono and stereo noise with a beat, by format in turn; every `damaged_every`-th is no audio at all."""
    rng = np.random.default_rng(0)
    for number in range(count):
        rate, kind = RATES[number % len(RATES)], FORMATS[number % len(FORMATS)]
        time_s = np.arange(round(seconds * rate * (1 + number % 3 / 4))) / rate
        beat = np.exp(-8 * (time_s * 2 % 1)) * rng.standard_normal((1 + number % 2, len(time_s)))
        path = folder / f"{number // 100}/{number:05}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with StemWriter(path, StemFormat(kind), rate, len(beat)) as writer:     # type: ignore[arg-type]
            writer.write(torch.from_numpy((0.2 * beat).astype(np.float32)))
            writer.finish()
            writer.commit()
        if number % damaged_every == damaged_every - 1:
            path.write_bytes(b"no audio" * 999)


class Here:
    """`Engine` of this process alone, one song after the other."""

    def __init__(self, work: Work, after_each: Callable[[], None]) -> None:
        self._work, self._after_each = work, after_each

    def run(self, tasks: Sequence[plan.Task]) -> Generator[Event, None, None]:
        for task in tasks:
            yield Begun(task, 1)
            ending = attempt(self._work, task, lambda _: None)
            if isinstance(ending, Broken):
                raise ending.failure.error()
            yield Ended(task, 1, ending)
            self._after_each()

    def drain(self) -> None:
        raise NotImplementedError("this one is never interrupted")


def endure(music: Path, model: str, out: Path, after_each: Callable[[Sample], None] = lambda _: None) -> list[Sample]:
    """Split all songs below `music` into `out`; one sample after each."""
    path = resolve(model, offline=True)
    card = read_card(path)
    job = Job(stems=card.stems, model=card.name, sha256=file_sha256(path), out=out)
    options = {"stems": card.stems, "rest": None, "wiener": None, "exact_sum": True, "device": "cpu",
               "precision": "auto"}
    samples: list[Sample] = []

    def look() -> None:
        samples.append(_sample(len(samples) + 1, out))
        after_each(samples[-1])

    tasks = plan.make(find([music], recursive=True, out=out), job)
    with open_manifest(out / "manifest.jsonl") as manifest:
        for _ in recorded(Here(Splitter(path, options, job)(), look).run(tasks), job, manifest):
            pass
    return samples


def _sample(songs: int, out: Path) -> Sample:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    parts = sum(1 for _ in out.rglob(".*.part")) + sum(1 for _ in Path(tempfile.gettempdir()).iterdir())
    return Sample(songs, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")),
                  len(os.listdir("/proc/self/task")), parts)


def growth(samples: Sequence[Sample]) -> tuple[float, float]:
    """Bytes a song by which memory grows after the warm-up (least squares), and their standard error.

    The error is that of independent residuals times 3, for memory of one song is much like that of the song before.
    """
    late = samples[round(WARM_UP * len(samples)):]
    x = np.array([sample.songs for sample in late], dtype=float)
    y = np.array([sample.rss for sample in late], dtype=float)
    slope, start = np.polyfit(x, y, 1)
    rest = y - slope * x - start
    return float(slope), 3 * float(np.sqrt(rest @ rest / (len(x) - 2) / ((x - x.mean()) ** 2).sum()))


def summary(samples: Sequence[Sample], out: Path, damaged: int, seconds: float) -> dict[str, Any]:
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    slope, error = growth(samples)
    late = samples[round(WARM_UP * len(samples)):]
    return {
        "songs": len(samples), "damaged": damaged, "seconds": round(seconds, 1),
        "done": sum(record["status"] == "done" for record in records),
        "failed": sum(record["status"] == "failed" for record in records),
        "growth_bytes_per_song": round(slope), "growth_error": round(error),
        "rss_mb": [round(choose(sample.rss for sample in late) / 1e6, 1) for choose in (min, max)],
        **{name: sorted({getattr(sample, name) for sample in late}) for name in ("files", "threads", "parts")},
    }


def draw(samples: Sequence[Sample], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x = [sample.songs for sample in samples]
    figure, (memory, counts) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, constrained_layout=True)
    memory.plot(x, [sample.rss / 1e6 for sample in samples], linewidth=0.8)
    memory.axvline(WARM_UP * len(x), linestyle=":", color="grey")
    memory.set(ylabel="resident memory in MB", ylim=(0, 1.2e-6 * max(sample.rss for sample in samples)))
    for name, label in (("files", "open files"), ("threads", "threads"), ("parts", "temporary files")):
        counts.plot(x, [getattr(sample, name) for sample in samples], linewidth=1.2, label=label)
    counts.set(xlabel="songs done", ylabel="count", ylim=(-1, None))
    counts.legend(frameon=False, ncols=3)
    for axes in (memory, counts):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


@contextlib.contextmanager
def own_temporary_folder(folder: Path) -> Iterator[None]:
    """All temporary files of this process go there, to be counted."""
    folder.mkdir(parents=True, exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of the shortest songs")
    parser.add_argument("--damaged-every", type=int, default=100)
    parser.add_argument("-m", "--model", default="mini")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_songs(folder / "music", options.songs, options.seconds, options.damaged_every)
        started = time.perf_counter()

        def show(sample: Sample) -> None:
            for done in (folder / "stems").iterdir():      # the disk is not what is tested
                if done.is_dir():
                    shutil.rmtree(done)
            if sample.songs % 100 == 0:
                print(f"{sample.songs} songs, {sample.rss / 1e6:.0f} MB", file=sys.stderr, flush=True)

        with own_temporary_folder(folder / "tmp"):
            samples = endure(folder / "music", options.model, folder / "stems", show)
        seconds = time.perf_counter() - started
        found = summary(samples, folder / "stems", options.songs // options.damaged_every, seconds)
    found = {"model": options.model, "python": sys.version.split()[0], "torch": torch.__version__, **found}
    draw(samples, options.out / "endurance.png")
    (options.out / "endurance.json").write_text(
        json.dumps({**found, "samples": [asdict(sample) for sample in samples[::20]]}) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
