"""`sepctl train`: one YAML file in, one model file out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Run folder [default: runs/<name of CONFIG>].")
@click.option("--resume", is_flag=True, help="Continue the run in the run folder from its checkpoint.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG: --set optim.lr=3e-4."
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads [default: all cores].")
def train(config: Path, out: Path | None, resume: bool, overrides: tuple[str, ...], threads: int | None) -> None:
    """Train a model as CONFIG (YAML) says; print the path of the finished model file."""
    import torch

    from separator.train.config import load
    from separator.train.loop import Run

    if threads:
        torch.set_num_threads(threads)
    run = Run(load(config, overrides), out or Path("runs") / config.stem, resume=resume)
    with tqdm(total=100, unit="%", disable=None, bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}") as bar:

        def log(event: dict[str, Any]) -> None:
            if row := event.get("validation"):
                bar.write("  ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
            else:
                bar.n = min(100 * run.progress(), 100)
                bar.set_postfix_str(
                    f"step {event['step']} loss {event['loss']:.3f} lr {event['lr']:.1e}", refresh=False
                )
                bar.update(0)

        run.train(log)
    click.echo(run.model_path)
