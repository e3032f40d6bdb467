"""Speed and memory, measured side by side in one run: `python scripts/bench.py`, or `make bench`.

Machines are shared and noisy, so every figure comes from a process of its own, several times, as a median; what is
worth quoting are the ratios. `memory` shows that a song's length does not matter; `speed` runs random weights of the
published umxhq size through sepctl and through `openunmix` from PyPI (a test dependency), and `mini` beside them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import click
import numpy as np

RATE = 44100
PEER = """
import sys, time, torch
torch.set_num_threads({threads})
from openunmix.model import OpenUnmix, Separator
from separator.audio import AudioReader
torch.manual_seed(0)
stems = ("vocals", "drums", "bass", "other")
models = {{stem: OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=512, max_bin=1487) for stem in stems}}
separator = Separator(models, niter=1, sample_rate=44100.0).eval()
audio = torch.cat(list(AudioReader(__import__("pathlib").Path({song!r}))), dim=-1)
started = time.perf_counter()
with torch.inference_mode():
    separator(audio[None])
print(time.perf_counter() - started)
"""
OURS = """
import sys, time, torch
torch.set_num_threads({threads})
from pathlib import Path
from separator.audio import AudioReader
from separator.separate import Separator
separator = Separator.load({model!r})
with AudioReader(Path({song!r})) as reader:
    blocks = list(reader)
    started = time.perf_counter()
    for _ in separator.stream(blocks, reader.sample_rate):
        pass
print(time.perf_counter() - started)
"""


def song(folder: Path, minutes: float) -> Path:
    """A stereo WAV of coloured noise and tones, written in pieces: an hour of it needs no memory here either."""
    path = folder / f"{minutes:g}min.wav"
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


def run(command: list[str]) -> dict[str, float]:
    """Run to the end: seconds of wall clock and of processor, peak resident megabytes, the number it printed last."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        printed, complaint = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command[:4])} ...: exit code {process.returncode}\n{complaint[-2000:]}")
    words = printed.split()
    figures = {
        "wall_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }
    try:
        return figures | {"inside_s": float(words[-1])}
    except (IndexError, ValueError):
        return figures


def median(command: list[str], repeats: int) -> dict[str, float]:
    """Medians over several runs."""
    runs = [run(command) for _ in range(repeats)]
    return {key: round(statistics.median(each[key] for each in runs), 2) for key in runs[0]}


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


def report(rows: list[dict[str, Any]], out: Path | None) -> None:
    columns = list(rows[0])
    click.echo(" | ".join(columns))
    for row in rows:
        click.echo(" | ".join(str(row.get(key, "")) for key in columns))
    if out:
        machine = {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        }
        out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


@click.group()
def main() -> None:
    """Measure speed and memory."""


@main.command()
@click.option("--minutes", default="3,60", show_default=True, help="Lengths of the songs.")
@click.option("-m", "--model", default="mini", show_default=True)
@click.option("--repeats", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def memory(minutes: str, model: str, repeats: int, out: Path | None) -> None:
    """Peak resident memory of `sepctl split` against the song's length."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in map(float, minutes.split(",")):
            path = song(Path(folder), length)
            command = [
                sys.executable,
                "-m",
                "separator",
                "split",
                str(path),
                "-m",
                model,
                "-o",
                f"{folder}/stems",
                "--overwrite",
                "-q",
            ]
            figures = median(command, repeats)
            rows.append(
                {
                    "model": model,
                    "minutes": length,
                    **figures,
                    "times_real_time": round(60 * length / figures["wall_s"], 1),
                }
            )
        report(rows, out)
    first, last = rows[0], rows[-1]
    ratio = last["peak_mb"] / first["peak_mb"]
    click.echo(f"peak memory at {last['minutes']:g} minutes / at {first['minutes']:g} minutes: {ratio:.3f}")


@main.command()
@click.option("--minutes", default=1.0, show_default=True, help="Length of the song.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def speed(minutes: float, threads: int, repeats: int, out: Path | None) -> None:
    """Separation inside the process: openunmix, sepctl on the same size, and mini."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(song(Path(folder), minutes))
        model = str(umxhq_size(Path(folder)))
        programs = {
            "openunmix": PEER.format(song=path, threads=threads),
            "sepctl, umxhq size": OURS.format(song=path, model=model, threads=threads),
            "sepctl, mini": OURS.format(song=path, model="mini", threads=threads),
        }
        for name, program in programs.items():
            figures = median([sys.executable, "-c", program], repeats)
            rows.append(
                {
                    "program": name,
                    "minutes": minutes,
                    **figures,
                    "times_real_time": round(60 * minutes / figures["inside_s"], 1),
                }
            )
    report(rows, out)
    for row in rows[1:]:
        click.echo(f"{row['program']} / openunmix: {rows[0]['inside_s'] / row['inside_s']:.1f} times faster")


if __name__ == "__main__":
    main()
