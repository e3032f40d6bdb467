"""Equal short trainings, one choice changed at a time, and a table that says which choice is better.

    python -m scripts.ablate scripts/ablations.yaml --out docs/ablations.json

The plan names a configuration, what all runs share, the seeds, folders of songs to score, and the variants; each change
is written as for `sepctl train --set`:

    config: configs/mini.yaml
    common: ["budget={max_steps: 800}"]
    seeds: [1, 2]
    score: {real: songs/valid, made: songs/made}
    variants:
      as it is: []
      without dropped stems: [augment.drop_stem=0]

A run that is there already is kept, if it was made with the same configuration, and one that was interrupted goes on.
SDR is global, over whole songs. The table has a column per stem, the mean over the folders, and one per folder, the
mean over the stems. Differences between seeds say what differences between variants are worth: each cell gives mean and
half range.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from pydantic import Field

from separator.atomic import replacing
from separator.card import Frozen
from separator.corpus import true_songs
from separator.evaluation import model, score
from separator.evaluation.tables import to_json
from separator.modelfile import file_sha256
from separator.separate import Separator
from separator.train.checkpoint import differences
from separator.train.config import load
from separator.train.status import status

Scores = Mapping[str, Mapping[str, float]]  # SDR in dB by folder and stem


class Plan(Frozen):
    """What is compared."""

    config: Path
    common: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field(min_length=1)
    score: Mapping[str, Path] = Field(min_length=1)
    variants: Mapping[str, tuple[str, ...]] = Field(min_length=1)


def train(plan: Plan, name: str, seed: int, folder: Path, threads: int) -> tuple[Path, list[str]]:
    """One run; its model, and the command that makes it."""
    words = [f"seed={seed}", *plan.common, *plan.variants[name]]
    out = folder / f"{name.replace(' ', '-')}-{seed}"
    command = ["sepctl", "train", str(plan.config), "--out", str(out), "--threads", str(threads)]
    command += [word for change in words for word in ("--set", change)]
    if not (out / "config.yaml").exists():
        _sepctl(command)
    elif found := differences(load(out / "config.yaml").model_dump(), load(plan.config, words).model_dump()):
        key, (old, new) = min(found.items())
        sys.exit(f"{out}: was made with {key} {old}, the plan says {new}: remove that folder, or name other --runs")
    elif not status(out).finished:
        _sepctl([*command, "--resume"])
    (path,) = out.glob("*.safetensors")
    return path, command


def _sepctl(command: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "separator", *command[1:]], stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)  # it has said what is wrong


def scores(path: Path, folders: Mapping[str, Path]) -> Scores:
    """Global SDR per folder and stem, each the mean over the folder's songs that have the stem."""
    separator = Separator.load(path, precision="fp32")
    stems = separator.stems

    def mean(folder: Path) -> dict[str, float]:
        every = [score(song, stems, model(separator)).global_sdr() for song in true_songs(folder, stems)]
        return dict(zip(stems, torch.stack(every).nanmean(dim=0).tolist(), strict=True))

    return {name: mean(folder) for name, folder in folders.items()}


def table(found: Mapping[str, Sequence[Scores]]) -> str:
    """A row per variant, the best mean first: means over folders and over stems, and half the range between seeds."""
    first = next(iter(found.values()))[0]
    stems = list(next(iter(first.values())))

    def cells(run: Scores) -> list[float]:
        by_stem = [fmean(folder[stem] for folder in run.values()) for stem in stems]
        return [*by_stem, *(fmean(folder.values()) for folder in run.values()), fmean(by_stem)]

    def cell(values: Sequence[float]) -> str:
        return f"{fmean(values):.2f} ± {(max(values) - min(values)) / 2:.2f}"

    lines = [f"| | {' | '.join([*stems, *first])} | mean |", f"|{'---|' * (len(stems) + len(first) + 2)}"]
    rows = {name: list(zip(*map(cells, runs), strict=True)) for name, runs in found.items()}
    for name in sorted(rows, key=lambda name: -fmean(rows[name][-1])):
        lines.append(f"| {name} | {' | '.join(map(cell, rows[name]))} |")
    return "\n".join(lines)


def main() -> None:
    options = parse()
    plan = Plan.model_validate(yaml.safe_load(options.plan.read_text(encoding="utf-8")))
    found: dict[str, list[Scores]] = {name: [] for name in plan.variants}
    runs: list[dict[str, Any]] = []
    for seed in plan.seeds:  # the first seed of every variant first: a table can be looked at early
        for name in plan.variants:
            path, command = train(plan, name, seed, options.runs, options.threads)
            found[name].append(scores(path, plan.score))
            run = status(path.parent).progress
            runs.append({"variant": name, "seed": seed, "command": shlex.join(command), "sha256": file_sha256(path),
                         "steps": run.step, "best_step": run.best_step, "elapsed_s": run.elapsed_s,
                         "validation_loss": run.best, "sdr_db": found[name][-1]})
            report = {"plan": json.loads(plan.model_dump_json()), "metric": "global SDR", "runs": runs}
            with replacing(options.out) as file:
                file.write((to_json(report) + "\n").encode())
            print(table({name: each for name, each in found.items() if each}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="YAML")
    parser.add_argument("--out", type=Path, required=True, help="JSON, written anew after every run")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablate"), help="folder of the runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
