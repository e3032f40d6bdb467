"""Train a model: `python scripts/train.py --config CONFIG.yaml`, with all options of `sepctl train`, which it calls."""

from __future__ import annotations

import sys

import click

from separator.cli import run


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--config", required=True, help="A configuration file (YAML).")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(config: str, options: tuple[str, ...]) -> None:
    """Train a model as CONFIG says. OPTIONS are those of `sepctl train`."""
    sys.argv = ["sepctl", "train", config, *options]
    run()


if __name__ == "__main__":
    main()
