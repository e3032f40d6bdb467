"""Speed and memory, measured side by side in one run: `python scripts/bench.py`, or `make bench`.

Machines are shared and noisy, so every figure comes from a process of its own, the programs take turns, several times,
and what is reported is the median; what is worth quoting are the ratios. The peer is `openunmix` from PyPI (a test
dependency) with the same random weights of the published umxhq size, one iteration of the Wiener filter on both sides.
It cannot read files with today's torchaudio, so its whole command gets our reader, and libsndfile as a writer.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

RATE = 44100
Figures = dict[str, float]

READ = """
import time
begin = time.perf_counter()
import torch
from pathlib import Path
torch.set_num_threads({threads})
from separator.audio import AudioReader
reader = AudioReader(Path({song!r}))
"""
PEER = READ + """
from openunmix.model import OpenUnmix, Separator
from separator import modelfile
stems = ("vocals", "drums", "bass", "other")
weights = modelfile.load(Path({model!r}))[1].state_dict()
models = {{}}
for stem in stems:
    models[stem] = OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=512, max_bin=1487)
    models[stem].load_state_dict({{k[len(stem) + 1:]: v for k, v in weights.items() if k.startswith(stem + ".")}})
del weights
separator = Separator(models, niter=1, sample_rate=44100.0).eval().to({device!r})
audio = torch.cat(list(reader), dim=-1)[None].to({device!r})
started = time.perf_counter()
with torch.inference_mode():
    result = separator(audio)[0].cpu()
inside = time.perf_counter() - started
"""
PEER_FILES = """
import soundfile
for stem, samples in zip(stems, result):
    soundfile.write({out!r} + "/" + stem + ".wav", samples.T.numpy(), 44100, subtype="PCM_16")
import os
os._exit(0)
"""
OURS = READ + """
from separator.separate import Separator
separator = Separator.load({model!r}, device={device!r}, precision={precision!r}, batch={batch}, stems={stems!r})
started = time.perf_counter()
stems = separator.stream(reader, reader.sample_rate)
next(stems)
first = time.perf_counter() - begin
for _ in stems:
    pass
inside = time.perf_counter() - started
"""
LEAVE = "import os\nos._exit(0)\n"          # as sepctl does: Python's own end takes 130 MB more with torch loaded
TELL = "\nprint(inside, flush=True)\n" + LEAVE
TELL_FIRST = "\nprint(first, flush=True)\n" + LEAVE


def song(folder: Path, minutes: float) -> Path:
    """A stereo WAV of coloured noise and tones, written in pieces: an hour of it needs no memory here either."""
    path = folder / f"{minutes:g}min.wav"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    t = np.arange(10 * RATE) / RATE
    tones = sum(np.sin(2 * np.pi * f * t) for f in (110, 220, 330, 880)) / 8
    piece = np.stack([tones, 0.8 * tones], axis=1) + 0.05 * rng.standard_normal((len(t), 2))
    block = (piece * 12000).astype("<i2").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        left = round(minutes * 60 * RATE)
        while left > 0:
            file.writeframesraw(block[: 4 * left])
            left -= len(t)
    return path


def umxhq_size(folder: Path) -> Path:
    """A model file of the published size with random weights."""
    import torch

    from separator import modelfile
    from separator.card import ModelCard, UmxSpec
    from separator.models import build

    torch.manual_seed(0)
    card = ModelCard(name="umxhq-size", stems=("vocals", "drums", "bass", "other"), spec=UmxSpec(), wiener=1)
    path = folder / "umxhq-size.safetensors"
    modelfile.save(path, card, build(card))
    return path


def run(command: Sequence[str]) -> Figures:
    """Run to the end: seconds of wall clock and of processor, peak resident megabytes, the number it printed last."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        printed, complaint = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command[:4])} ...: exit code {process.returncode}\n{complaint[-2000:]}")
    figures = {
        "wall_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
    }
    try:
        return figures | {"inside_s": float(printed.split()[-1])}
    except (IndexError, ValueError):
        return figures


def take_turns(commands: Mapping[Any, Sequence[str]], repeats: int) -> dict[Any, Figures]:
    """Medians over several rounds; in each round every command runs once, so that noise falls on all alike."""
    runs: dict[Any, list[Figures]] = {name: [] for name in commands}
    for _, (name, command) in itertools.product(range(repeats), commands.items()):
        runs[name].append(run(command))
        click.echo(f"{name}: {runs[name][-1]}", err=True)
    return {
        name: {key: round(statistics.median(each[key] for each in rounds), 3) for key in rounds[0]}
        for name, rounds in runs.items()
    }


def python(program: str, **values: Any) -> list[str]:
    defaults = {"threads": os.cpu_count() or 1, "device": "cpu", "precision": "auto", "batch": None, "stems": None}
    return [sys.executable, "-c", program.format(**(defaults | values))]


def split_command(path: Path, model: str, out: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "separator", "split", str(path), "-m", model, "-o", out]
    return [*command, "--overwrite", "-q", *options]


def save(name: str, rows: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Print a table, and write it as JSON with what one must know to read it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    click.echo(" | ".join(columns))
    for row in rows:
        click.echo(" | ".join(str(row.get(key, "")) for key in columns))
    if out:
        import torch

        machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine(),
                   "python": platform.python_version(), "torch": torch.__version__,
                   "capabilities": [k for k in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")
                                    if torch.cpu.get_capabilities().get(k)]}
        out.mkdir(parents=True, exist_ok=True)
        body = {"command": f"python scripts/bench.py {' '.join(sys.argv[1:])}", "machine": machine, "rows": list(rows)}
        (out / f"bench-{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def numbers(kind: Callable[[str], Any]) -> Callable[[Any, Any, str], list[Any]]:
    return lambda _ctx, _param, text: [kind(each) for each in text.split(",")]


OUT = click.option("--out", type=click.Path(path_type=Path), help="Folder for the JSON files and pictures.")
REPEATS = click.option("--repeats", default=3, show_default=True)
DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")


@click.group()
def main() -> None:
    """Measure speed and memory."""


@main.command()
@click.option("--minutes", default="1,4", show_default=True, callback=numbers(float), help="Lengths of the songs.")
@click.option("--peer-minutes", default=4.0, show_default=True, help="Longest song for the peer (7 GB at 4).")
@click.option("--precision", default="auto", show_default=True)
@click.option("--long-repeats", default=1, show_default=True, help="Of songs longer than those for the peer.")
@REPEATS
@DEVICE
@OUT
def speed(
    minutes: list[float], peer_minutes: float, precision: str, long_repeats: int, repeats: int, device: str,
    out: Path | None,
) -> None:
    """Separation in the process (ours reading the file meanwhile), and the whole command from one WAV file to four."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = str(umxhq_size(Path(folder)))
        for length in minutes:
            path = song(Path(folder), length)
            peer = {"song": str(path), "model": model, "device": device, "out": folder}
            ours = {"song": str(path), "device": device, "precision": precision}
            options = ("--device", device, "--precision", precision)
            commands = {
                ("sepctl, umxhq size", "process"): python(OURS + TELL, model=model, **ours),
                ("sepctl, umxhq size", "command"): split_command(path, model, f"{folder}/stems", *options),
                ("sepctl, mini", "process"): python(OURS + TELL, model="mini", **ours),
                ("sepctl, mini", "command"): split_command(path, "mini", f"{folder}/stems", *options),
            }
            if length <= peer_minutes:
                commands = {
                    ("openunmix", "process"): python(PEER + TELL, **peer),
                    ("openunmix", "command"): python(PEER + PEER_FILES, **peer),
                } | commands
            found = take_turns(commands, repeats if length <= peer_minutes else long_repeats)
            for (program, what), figures in found.items():
                seconds = figures["inside_s" if what == "process" else "wall_s"]
                row = {"program": program, "what": what, "minutes": length, "seconds": seconds,
                       "cpu_s": figures["cpu_s"], "peak_mb": figures["peak_mb"],
                       "times_real_time": round(60 * length / seconds, 1)}
                if ("openunmix", what) in found:
                    key = "inside_s" if what == "process" else "wall_s"
                    row["times_openunmix"] = round(found["openunmix", what][key] / seconds, 2)
                rows.append(row)
    save("speed" if device == "cpu" else "speed-cuda", rows, out)
    if out:
        from benchplot import against_length

        against_length(rows, out / "bench-speed.png")


@main.command()
@click.option("-m", "--model", default="umxhq-size", show_default=True, help="umxhq-size, a name, or a file.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("--segments", default=4, show_default=True, help="Segments in the batch.")
@click.option("--precision", default="auto", show_default=True)
@REPEATS
@DEVICE
@OUT
def stages(
    model: str, threads: int, segments: int, precision: str, repeats: int, device: str, out: Path | None
) -> None:
    """Seconds per minute of song that each stage takes."""
    from benchstages import measure

    with tempfile.TemporaryDirectory() as folder:
        path = str(umxhq_size(Path(folder))) if model == "umxhq-size" else model
        rows = measure(path, threads, segments, precision, device, repeats)
    save(f"stages-{Path(model).stem}" + ("" if device == "cpu" else "-cuda"), rows, out)


@main.command()
@click.option("--minutes", default=2.0, show_default=True)
@click.option("-m", "--model", default="umxhq-size", show_default=True, help="umxhq-size, a name, or a file.")
@click.option("--threads", default=",".join(map(str, range(1, (os.cpu_count() or 1) + 1))), callback=numbers(int))
@click.option("--batches", default="1,2,4,8", show_default=True, callback=numbers(int))
@REPEATS
@OUT
def scaling(minutes: float, model: str, threads: list[int], batches: list[int], repeats: int, out: Path | None) -> None:
    """Separation in the process against processor threads, segments in a batch, precision, and stems asked for."""
    with tempfile.TemporaryDirectory() as folder:
        values = {"song": str(song(Path(folder), minutes)),
                  "model": str(umxhq_size(Path(folder))) if model == "umxhq-size" else model}
        base: dict[str, Any] = {"threads": max(threads), "batch": max(batches), "precision": "auto", "stems": None}
        variants = [base | {"threads": n} for n in threads] + [base | {"batch": n} for n in batches]
        variants += [base | {"precision": "fp32"}, base | {"stems": ["vocals"]}, base | {"stems": ["vocals", "drums"]}]
        unique = {json.dumps(each): each for each in variants}
        found = take_turns({key: python(OURS + TELL, **values, **each) for key, each in unique.items()}, repeats)
        rows = [{"model": model, **each, "stems": "all" if each["stems"] is None else len(each["stems"]),
                 "seconds": found[key]["inside_s"], "peak_mb": found[key]["peak_mb"],
                 "times_real_time": round(60 * minutes / found[key]["inside_s"], 1)} for key, each in unique.items()]
    save("scaling", rows, out)
    if out:
        from benchplot import against_settings

        against_settings(rows, base, out / "bench-scaling.png")


@main.command()
@click.option("--minutes", default=2.0, show_default=True, help="Length of each song.")
@click.option("--songs", default=8, show_default=True)
@click.option("--jobs", "numbers_of_jobs", default=",".join(map(str, range(1, (os.cpu_count() or 1) + 1))),
              callback=numbers(int))
@click.option("-m", "--model", default="mini", show_default=True)
@REPEATS
@OUT
def jobs(minutes: float, songs: int, numbers_of_jobs: list[int], model: str, repeats: int, out: Path | None) -> None:
    """A batch, start to end, against the number of worker processes that share the cores."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "library")
        library.mkdir()
        one = song(Path(folder), minutes)
        for number in range(songs):
            os.link(one, library / f"{number}.wav")
        found = take_turns({n: [*split_command(library, model, f"{folder}/stems"), "-r", "-j", str(n)]
                            for n in numbers_of_jobs}, repeats)
    rows = [{"model": model, "songs": songs, "minutes": minutes, "jobs": n, "seconds": figures["wall_s"],
             "cpu_s": figures["cpu_s"], "times_real_time": round(60 * minutes * songs / figures["wall_s"], 1)}
            for n, figures in found.items()]
    save("jobs", rows, out)


@main.command()
@REPEATS
@OUT
def startup(repeats: int, out: Path | None) -> None:
    """Seconds until the help text, and until the first samples of stems."""
    with tempfile.TemporaryDirectory() as folder:
        path, model = str(song(Path(folder), 1)), str(umxhq_size(Path(folder)))
        found = take_turns({
            "sepctl --help": [sys.executable, "-m", "separator", "--help"],
            "first stems, umxhq size": python(OURS + TELL_FIRST, song=path, model=model),
            "first stems, mini": python(OURS + TELL_FIRST, song=path, model="mini"),
        }, repeats)
    rows = [{"what": what, "seconds": figures.get("inside_s", figures["wall_s"])} for what, figures in found.items()]
    save("startup", rows, out)


@main.command()
@click.option("--minutes", default="4,60", show_default=True, callback=numbers(float), help="Lengths of the songs.")
@click.option("-m", "--model", default="mini", show_default=True, help="umxhq-size, a name, or a file.")
@click.option("--repeats", default=1, show_default=True)
@OUT
def memory(minutes: list[float], model: str, repeats: int, out: Path | None) -> None:
    """Peak resident memory of the whole command against the song's length."""
    with tempfile.TemporaryDirectory() as folder:
        name = str(umxhq_size(Path(folder))) if model == "umxhq-size" else model
        commands = {length: split_command(song(Path(folder), length), name, f"{folder}/stems") for length in minutes}
        found = take_turns(commands, repeats)
    rows = [{"model": model, "minutes": length, **figures,
             "times_real_time": round(60 * length / figures["wall_s"], 1)} for length, figures in found.items()]
    save(f"memory-{Path(model).stem}", rows, out)
    ratio = rows[-1]["peak_mb"] / rows[0]["peak_mb"]
    click.echo(f"peak memory at {rows[-1]['minutes']:g} minutes / at {rows[0]['minutes']:g} minutes: {ratio:.3f}")


if __name__ == "__main__":
    main()
