"""`sepctl train`: one YAML file in, one model file out."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from separator.cli import device as devices
from separator.cli import types
from separator.errors import Interrupted, SepctlError, UsageError

if TYPE_CHECKING:
    from separator.train.loop import Run


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Run folder [default: runs/<name of CONFIG>].")
@click.option("--resume", is_flag=True, help="Continue the run in the run folder from its checkpoint.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a key of CONFIG: --set optim.lr=3e-4.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and how long it would take; train nothing.")
@click.option("--status", "status_of", metavar="RUN", type=click.Path(path_type=Path),
              help="Print where the run in this folder stands, and nothing else.")
@click.option("--device", default="auto", show_default=True, type=types.device, metavar="DEVICE",
              help="auto, cpu, cuda, cuda:1.")
@click.option("--threads", type=click.IntRange(min=1),
              help="Threads that compute gradients [default: all cores but one, which prepares batches].")
def train(config: Path | None, out: Path | None, resume: bool, overrides: tuple[str, ...], dry_run: bool,
          status_of: Path | None, device: str, threads: int | None) -> None:
    """Train a model as CONFIG (YAML) says; print the path of the finished model file.

    Several processes or machines: torchrun --nproc-per-node 2 -m separator train CONFIG.
    """
    if status_of is not None:
        if config is not None or resume or dry_run:
            raise UsageError("--status only looks at a run; it takes no CONFIG, --resume or --dry-run")
        from separator.train.status import status

        click.echo(status(status_of).text())
        return
    if config is None:
        raise UsageError("which CONFIG?", hint="for example: sepctl train configs/smoke.yaml")
    import torch

    from separator.train.config import load
    from separator.train.distributed import joined
    from separator.train.loop import Run

    torch.set_num_threads(threads or max(torch.get_num_threads() - 1, 1))
    chosen = _own(devices.choose(device))
    with joined(torch.device(chosen)) as team:
        run = Run(load(config, overrides), out or Path("runs") / config.stem, device=chosen, team=team)
        if dry_run:
            _survey(run)
            return
        if resume:
            run.resume()
        else:
            run.begin()
        try:
            _train(run)
        except KeyboardInterrupt as error:
            kept = "the last checkpoint stands" if run.checkpoint.exists() else "there is no checkpoint yet"
            hint = f"go on with: {_resuming(config, out, overrides)}"
            raise Interrupted(f"stopped at step {run.step}; {kept}", hint=hint) from error
        if team.leads:
            if not run.model_path.exists():
                raise SepctlError(f"{run.model_path} is not there: no validation gave a loss that is a number,"
                                  " or it was removed", hint="look at history.csv; try a lower optim.lr in a new run")
            click.echo(run.model_path)


def _resuming(config: Path, out: Path | None, overrides: Sequence[str]) -> str:
    """The command that continues a run."""
    command = ["sepctl", "train", str(config), "--resume"]
    command += ["--out", str(out)] if out else []
    return shlex.join([*command, *(word for override in overrides for word in ("--set", override))])


def _own(device: str) -> str:
    """Under torchrun every process of a machine has a CUDA device of its own."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device


def _train(run: Run) -> None:
    """Train, and show it on the leader's terminal."""
    disable = None if run.team.leads else True
    size, first, start_s = run.config.optim.batch_size, run.step, run.elapsed_s
    with tqdm(total=100, unit="%", disable=disable, bar_format="{l_bar}{bar}| {elapsed}<{postfix}") as bar:

        def log(event: dict[str, Any]) -> None:
            if not run.team.leads:
                return
            if row := event.get("validation"):
                bar.write("  ".join(f"{key} {_short(value)}" for key, value in row.items()), file=sys.stderr)
                return
            spent, share = event["elapsed_s"] - start_s, run.progress()
            pace = size * (event["step"] - first) / max(spent, 1e-9)
            left = event["elapsed_s"] * (1 - min(share, 1)) / max(share, 1e-9)
            bar.n = round(min(100 * share, 100), 1)
            bar.set_postfix_str(f"{tqdm.format_interval(left)}, step {event['step']}, loss {event['loss']:.3f},"
                                f" lr {event['lr']:.1e}, {pace:.1f} examples/s", refresh=False)
            bar.update(0)

        run.train(log)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _survey(run: Run) -> None:
    """What `--dry-run` prints: the resolved configuration, the data, the size, and how long it would take."""
    from separator.train import survey

    speed = survey.speed(run)  # by all processes: steps are common work
    if not run.team.leads:
        return
    config, total = run.config, survey.total_s(run.config, speed.apart_s)
    click.echo(config.as_yaml())
    for line in (
        *survey.data_lines(run),
        f"parameters: {survey.parameters(run):,}",
        f"device: {run.device}, {run.team.world} process{'es' if run.team.world > 1 else ''}",
        f"step: {speed.step_s:.2f} s, and {speed.block_s:.2f} s per {speed.steps_per_block} steps to make their block:"
        f" {speed.audio_s_per_s:.0f} s of audio ({len(config.sources)} stems) per second, or more where they overlap",
        f"epoch of {config.epoch_steps} steps: {tqdm.format_interval(config.epoch_steps * speed.apart_s)},"
        f" validation not counted",
        f"total: {tqdm.format_interval(total)}, about {total / speed.apart_s:.0f} steps",
    ):
        click.echo(f"# {line}")
