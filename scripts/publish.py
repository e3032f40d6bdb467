"""Measure a trained model, write what was measured into its card, and put it among the bundled models.

`python scripts/publish.py runs/mini/mini.safetensors --config configs/mini.yaml --score sodium=songs/valid`
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
import yaml

from separator import modelfile
from separator.card import ModelCard
from separator.corpus import true_songs
from separator.evaluation import Setup
from separator.evaluation.tables import summary

WEIGHTS = Path("separator/weights")
REGISTRY = Path("separator/registry.yaml")


def measured(trained: Path, stems: Sequence[str], folder: Path) -> dict[str, Any]:
    """SDR in dB of the model, the mix and the ratio mask, as `sepctl evaluate` gives them, to two digits."""
    score, songs = Setup(trained, oracles=("mix", "irm1"))(), true_songs(folder)
    rows = summary([each for song in songs for each in score(song)], stems)
    table = {
        name: {key: {stem: None if value is None else round(value, 2) for stem, value in row[f"sdr_{key}"].items()}
               for key in ("median_db", "global_db")}
        for name, row in zip(("model", "mix", "irm1"), rows, strict=True)
    }  # fmt: skip
    return {"songs": [song.name for song in songs], "metric": "museval v4 SDR, and global SDR", **table}


def restated(card: ModelCard, config: Path, scores: Mapping[str, Any]) -> ModelCard:
    """The card with the words of the configuration file, and with the scores."""
    told = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    restatable = ("description", "licence", "attribution", "segment_s", "context_s")
    words = {key: told[key] for key in restatable if key in told}
    first = next(iter(scores.values()))["model"]["median_db"]
    sdr = {stem: value for stem, value in first.items() if value is not None}
    return ModelCard.model_validate(card.model_dump() | words | {"scores": {"sdr_db": sdr, **scores}})


@click.command()
@click.argument("trained", type=click.Path(exists=True, path_type=Path))
@click.option("--config", required=True, type=click.Path(exists=True, path_type=Path), help="Says licence and sources.")
@click.option("--score", "folders", multiple=True, required=True, metavar="NAME=FOLDER", help="Songs to score on.")
def main(trained: Path, config: Path, folders: tuple[str, ...]) -> None:
    """Publish TRAINED as a bundled model."""
    card, network = modelfile.load(trained)
    named = dict(each.split("=", 1) for each in folders)
    scores = {name: measured(trained, card.stems, Path(folder)) for name, folder in named.items()}
    card = restated(card, config, scores)
    WEIGHTS.mkdir(exist_ok=True)
    sha256 = modelfile.save(WEIGHTS / f"{card.name}.safetensors", card, network, dtype=torch.float16)
    entry = re.compile(rf"(^{card.name}:\n(?:  .*\n)*?  sha256: )\S+", re.MULTILINE)
    text, count = entry.subn(rf"\g<1>{sha256}", REGISTRY.read_text(encoding="utf-8"))
    if count != 1:
        raise click.ClickException(f"{REGISTRY} has no entry {card.name} with a line sha256")
    REGISTRY.write_text(text, encoding="utf-8")
    click.echo(yaml.safe_dump(scores, sort_keys=False))
    click.echo(sha256)


if __name__ == "__main__":
    main()
