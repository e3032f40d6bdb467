"""How a model fares on what people own: bad copies, old and live recordings, less than a whole band, no music at all.

    python -m scripts.robustness mini --songs songs/valid --out docs/robustness.json --markdown

makes every case of `scripts/cases.py` from excerpts of songs with known stems (the layouts that `sepctl evaluate
--folder` reads) and measures per stem, over a whole excerpt: the SDR and what it gains over that of the untouched mix;
or, where the true stem is silent or 40 dB below the mix, the leakage: the energy of the estimate over that of the mix.
SDR and gain are means over excerpts, leakage is the mean of the energy ratios, all in dB. JSON knows no infinity: null
is infinite there, as is the leakage without any sound, and the gain over a mix that is the stem itself.

Speech is read out by `flite` or `espeak-ng`; where neither is on the path, its cases are left out.
"""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from scripts.cases import Case, Take, at_rate, cases, power
from separator import Separator, __version__
from separator.atomic import replacing
from separator.audio import AudioReader
from separator.corpus import STREAMS, TrueSong, true_songs
from separator.evaluation import Method, WindowScores, mix_itself, model
from separator.evaluation.tables import to_json
from separator.modelfile import file_sha256
from separator.registry import resolve

SILENT_DB = -40.0  # a true stem so far below the mix is not there: nobody hears it, and its SDR says nothing
BLOCK = 1 << 16
VOICES = {  # program -> what it is called with, before the options that `_say` adds
    "flite": {"man": ["-voice", "rms"], "woman": ["-voice", "slt"]},
    "espeak-ng": {"man": ["-v", "en+m3"], "woman": ["-v", "en+f3"]},
}
TEXT = (
    "Good evening, and welcome back. Before the next song I want to say a few words about the people who made this "
    "record. They met in a small town by the sea, played in the back room of a bakery, and wrote more than forty songs "
    "in one winter. Some of them you will know. Others were never heard outside that room, until now."
)

Row = dict[str, float]  # of one stem, in dB: sdr_db and gain_db where it is there, leakage_db where it is silent


@dataclass(frozen=True)
class Excerpt:
    """A part of a song with known stems, in seconds."""

    song: TrueSong
    start_s: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """One case of one excerpt. `sum_error`: the greatest difference between the sum of the stems and the mix."""

    stems: Mapping[str, Row]
    finite: bool
    sum_error: float
    seconds: float
    elapsed_s: float


def excerpts(songs: Sequence[TrueSong], windows: int, seconds: float, start_s: float | None) -> Iterator[Excerpt]:
    """`windows` parts of every song, spread evenly over it; a song shorter than they are together is one.

    A song ends with the first of its files to end.
    """
    for song in songs:
        whole_s = min(_duration_s(*file) for files in song.stems.values() for file in files)
        if start_s is not None:
            yield Excerpt(song, start_s, seconds)
        elif whole_s <= windows * seconds:
            yield Excerpt(song, 0.0, whole_s)
        else:
            for number in range(windows):
                yield Excerpt(song, round((number + 0.5) * whole_s / windows - seconds / 2, 3), seconds)


def _duration_s(path: Path, stream: int) -> float:
    with AudioReader(path, stream=stream) as reader:
        return reader.duration_s or sum(block.shape[-1] for block in reader) / reader.sample_rate


def read(excerpt: Excerpt, stems: Sequence[str]) -> Take:
    """The true stems, a model's own first, and as mix their sum: the mixture of an AAC edition differs from it."""
    names = tuple(dict.fromkeys([*stems, *STREAMS, *excerpt.song.stems]))
    with excerpt.song.open(names, excerpt.start_s, excerpt.seconds) as opened:
        audio = torch.cat(list(opened), dim=-1)[1:]
        return Take(audio.sum(dim=0), audio, names, opened.sample_rate)


def audible(take: Take, name: str) -> bool:
    return power(take.stems[take.names.index(name)]) > 10 ** (SILENT_DB / 10) * power(take.mix)


def measure(take: Take, stems: Sequence[str], method: Method) -> Result:
    """Separate the mix of a take into `stems`, the first of the take's, and compare them with the true ones."""
    truth = take.stems[: len(stems)]
    blocks = torch.cat([take.mix[None], truth]).split(BLOCK, dim=-1)
    started = time.perf_counter()
    estimates = torch.cat(list(method(blocks, take.sample_rate)), dim=-1)
    elapsed_s = time.perf_counter() - started
    untouched = torch.cat(list(mix_itself(blocks, take.sample_rate)), dim=-1)
    sdr, floor = (_global_sdr(truth, each, take.sample_rate) for each in (estimates, untouched))
    return Result(
        {
            stem: {"sdr_db": sdr[s], "gain_db": sdr[s] - floor[s]} if audible(take, stem)
            else {"leakage_db": leakage_db(estimates[s], take.mix)}
            for s, stem in enumerate(stems)
        },
        finite=bool(estimates.isfinite().all()),
        sum_error=float((estimates.sum(dim=0) - take.mix).abs().max()),
        seconds=take.mix.shape[-1] / take.sample_rate,
        elapsed_s=elapsed_s,
    )


def _global_sdr(truth: Tensor, estimates: Tensor, rate: int) -> list[float]:
    scores = WindowScores(rate)
    scores.add(truth, estimates)
    return [float(value) for value in scores.global_sdr()]


def leakage_db(estimate: Tensor, mix: Tensor) -> float:
    """Energy of the estimate of a silent stem over that of the mix; minus infinity where there is no sound at all."""
    leaked, heard = power(estimate), power(mix)
    return _db(leaked / heard) if heard else (math.inf if leaked else -math.inf)


def _db(ratio: float) -> float:
    return 10 * math.log10(ratio) if ratio else -math.inf


def mean(results: Sequence[Result]) -> dict[str, Any]:
    """One case over all excerpts; a stem that is silent in some of them has both, SDR and leakage."""
    return {
        "excerpts": len(results),
        "stems": {stem: _mean_row([each.stems[stem] for each in results]) for stem in results[0].stems},
        "finite": all(each.finite for each in results),
        "sum_error": max(each.sum_error for each in results),
        "x_real_time": round(sum(each.seconds for each in results) / sum(each.elapsed_s for each in results), 1),
    }


def _mean_row(rows: Sequence[Row]) -> Row:
    values = {key: [row[key] for row in rows if key in row] for key in ("sdr_db", "gain_db", "leakage_db")}
    return {
        key: _db(fmean(10 ** (each / 10) for each in some)) if key == "leakage_db" else fmean(some)
        for key, some in values.items() if some
    }


def made(name: str, case: Case, take: Take) -> Take:
    """The case, always the same: its noise depends on its name alone."""
    return case.make(take, torch.Generator().manual_seed(zlib.crc32(name.encode())))


def run(separator: Separator, parts: Sequence[Excerpt], speech: Mapping[str, tuple[Tensor, int]],
        show: Callable[[str], None]) -> dict[str, list[Result]]:
    """All cases of all excerpts, in the order of the cases; without those whose stem an excerpt lacks."""
    found: dict[str, list[Result]] = {name: [] for name in cases({voice: said for voice, (said, _) in speech.items()})}
    method = model(separator)
    for part in parts:
        take = read(part, separator.stems)
        here = cases({voice: at_rate(said, rate, take.sample_rate) for voice, (said, rate) in speech.items()})
        for name, case in here.items():
            if all(audible(take, stem) for stem in case.needs):
                found[name].append(measure(made(name, case, take), separator.stems, method))
        show(f"{part.song.name} from {part.start_s:g} s")
    return {name: results for name, results in found.items() if results}


def spoken() -> dict[str, tuple[Tensor, int]]:
    """Speech `[T]` and its rate by voice; empty where no program speaks."""
    program = next(filter(shutil.which, VOICES), None)
    return {} if program is None else {voice: _say(program, words) for voice, words in VOICES[program].items()}


def _say(program: str, words: Sequence[str]) -> tuple[Tensor, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        target = ["-t", TEXT, "-o", str(path)] if program == "flite" else ["-w", str(path), TEXT]
        subprocess.run([program, *words, *target], check=True, capture_output=True, stdin=subprocess.DEVNULL)
        with AudioReader(path) as reader:
            return torch.cat(list(reader), dim=-1)[0], reader.sample_rate


def markdown(found: Mapping[str, Mapping[str, Any]], stems: Sequence[str]) -> str:
    """A row per case: SDR and gain, leakage in italics."""

    def cell(row: Row) -> str:
        sdr = f"{row['sdr_db']:.1f}" if "sdr_db" in row else ""
        gain = f" ({row['gain_db']:+.1f})" if math.isfinite(row.get("gain_db", math.inf)) else ""
        leak = f"*{row['leakage_db']:.0f}*".replace("inf", "∞") if "leakage_db" in row else ""
        return "; ".join(filter(None, (sdr + gain, leak)))

    lines = [f"| | {' | '.join(stems)} | x real time |", f"|{'---|' * (len(stems) + 2)}"]
    for name, row in found.items():
        cells = " | ".join(cell(row["stems"][stem]) for stem in stems)
        lines.append(f"| {name} | {cells} | {row['x_real_time']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    options = parse()
    started = time.perf_counter()
    path = resolve(options.model, offline=True)
    separator = Separator.load(path, precision="fp32")
    songs = [song for folder in options.songs for song in true_songs(folder)]
    parts = list(excerpts(songs, options.windows, options.seconds, options.start))
    speech = spoken()
    results = run(separator, parts, speech, lambda text: print(text, file=sys.stderr, flush=True))
    found = {name: mean(each) for name, each in results.items()}
    about = {name: case.about for name, case in cases({voice: said for voice, (said, _) in speech.items()}).items()}
    skipped = {} if speech else {"speech": "neither flite nor espeak-ng is on the path"}
    report = {
        "model": {"name": separator.card.name, "sha256": file_sha256(path)},
        "command": shlex.join(["python", "-m", "scripts.robustness", *sys.argv[1:]]),
        "version": __version__,
        "excerpts": [{"song": part.song.name, "start_s": part.start_s, "seconds": part.seconds} for part in parts],
        "skipped": skipped,
        "cases": {name: {"about": about[name], **row, "each": [each.stems for each in results[name]]}
                  for name, row in found.items()},
        "elapsed_s": round(time.perf_counter() - started, 1),
    }
    if options.out:
        with replacing(options.out) as file:
            file.write((to_json(report) + "\n").encode())
    if options.markdown or not options.out:
        print(markdown(found, separator.stems))
    for name, why in skipped.items():
        print(f"{name}: left out, {why}", file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a file")
    parser.add_argument("--songs", type=Path, action="append", required=True, metavar="FOLDER", help="may be repeated")
    parser.add_argument("--windows", type=int, default=4, help="parts of every song (default: 4)")
    parser.add_argument("--seconds", type=float, default=30, help="length of each part (default: 30)")
    parser.add_argument("--start", type=float, help="one part of every song only, from here on, in seconds")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    parser.add_argument("--markdown", action="store_true", help="print a table, as is done without --out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
