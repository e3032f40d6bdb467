"""`sepctl models`: what models there are, and how to get and check them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from separator.errors import ModelError, SepctlError

if TYPE_CHECKING:
    from separator.card import ModelCard
    from separator.download import Progress
    from separator.registry import Registry

COLUMNS = ("name", "state", "size", "stems", "licence", "sdr_db", "scored_on")
ACCEPT = click.option("--accept-license", is_flag=True, help="Agree to the model's licence, where it asks for that.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")


@click.group()
def models() -> None:
    """List, show, fetch, verify and import models.

    A model is given by its name (`sepctl models list`) or by the path of a model file. Fetched and imported
    models live in the cache: the folder SEPCTL_CACHE, or the platform's usual place.
    """


@models.command("list")
@AS_JSON
def list_models(as_json: bool) -> None:
    """List all models: bundled, in the cache, or to be fetched (remote)."""
    from separator.registry import default

    registry = default()
    rows = [_row(registry, name) for name in registry.names()]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    table = [list(COLUMNS), *([_cell(row[column]) for column in COLUMNS] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(COLUMNS))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@models.command()
@click.argument("name")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """Show what is known of the model NAME: its card, licence, origin and measured scores."""
    from separator.modelfile import read_card
    from separator.registry import default

    registry = default()
    entry = registry.entries.get(name)
    about: dict[str, Any]
    if entry and entry.files and not registry.path(name).exists():
        about = {**_row(registry, name), **entry.model_dump(mode="json", exclude={"sha256", "sdr_db"})}
    else:
        path = registry.resolve(name)
        about = {"path": str(path), "state": _state(registry, name), "size": path.stat().st_size,
                 **read_card(path).model_dump(mode="json")}
    if as_json:
        click.echo(json.dumps(about))
        return
    for line in _lines(about):
        click.echo(line)


@models.command()
@click.argument("name")
@ACCEPT
@click.option("--offline", is_flag=True, help="Never touch the network: fail if the model is not there yet.")
def pull(name: str, accept_license: bool, offline: bool) -> None:
    """Fetch the model NAME into the cache and print its path.

    A download that broke is continued. Files whose SHA-256 is not the published one are thrown away.
    Proxies are taken from https_proxy and http_proxy.
    """
    from separator import pulling
    from separator.registry import default

    registry = default()
    with _bars() as progress:
        path = pulling.pull(registry, name, accept_license=accept_license, offline=offline, progress=progress)
    if entry := registry.entries.get(name):
        click.echo(f"{name}\n  {entry.licence_text()}", err=True)
    click.echo(os.fsencode(path))


@models.command()
@click.argument("names", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Check that model files are whole and unchanged; without NAMES, all that are bundled or in the cache.

    Unchanged is what has the SHA-256 on record; a file beside which none lies can only be found whole.
    """
    from separator.registry import default

    registry = default()
    failed = 0
    chosen = names or [name for name in registry.names() if registry.path(name).exists()]
    if not chosen:
        click.echo("no model is bundled or in the cache", err=True)
    for name in chosen:
        try:
            path = registry.resolve(name)
        except SepctlError as error:
            failed += 1
            click.echo(f"{name}: {error}", err=True)
        else:
            click.echo(f"{name}: {'OK' if registry.recorded(name, path) else 'whole; no hash on record'} {path}")
    if failed:
        raise ModelError(f"{failed} of {len(chosen)} models failed", hint="sepctl models pull NAME replaces a bad file")


@models.command()
@click.argument("name")
def path(name: str) -> None:
    """Print the path of the file of the model NAME."""
    from separator.registry import resolve

    click.echo(os.fsencode(resolve(name)))


@models.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the new model; umxhq, umx or umxl for their published files.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write this file instead of one in the cache.")
@click.option("--overwrite", is_flag=True, help="Replace a model of that name, or that file, if it exists.")
@click.option("--licence", default="unknown", show_default=True, help="Licence of the weights, as an SPDX identifier.")
@click.option("--source", default="", help="Where the weights come from; kept in the card.")
@ACCEPT
def import_model(folder: Path, name: str, out: Path | None, overwrite: bool, licence: str, source: str,
                 accept_license: bool) -> None:
    """Turn a FOLDER of Open-Unmix files, one .pth per stem, into a model; print its path.

    The stem is the beginning of the file's name: vocals.pth, drums-9619578f.pth. Nothing in the files is executed.
    """
    from separator import pulling
    from separator.registry import default

    made = pulling.import_folder(default(), folder, name, out=out, overwrite=overwrite, accept_license=accept_license,
                                 licence=licence, source=source)
    click.echo(os.fsencode(made))


def _row(registry: Registry, name: str) -> dict[str, Any]:
    """What `list` tells of one model, without reading more than its header."""
    from separator.modelfile import read_card
    from separator.registry import sdr_db

    file, entry = registry.path(name), registry.entries.get(name)
    state = _state(registry, name)
    size = file.stat().st_size if file.exists() else entry.size if entry else None
    stems, licence, sdr = (entry.stems, entry.licence, dict(entry.sdr_db)) if entry else ((), "unknown", {})
    scored_on = entry.scored_on if entry else ""
    if file.exists():
        try:
            card: ModelCard = read_card(file)
            stems, licence, sdr = card.stems, card.licence, sdr_db(card)
            scored_on = str(card.scores.get("data", scored_on))
        except ModelError:
            state = "damaged"
    return {"name": name, "state": state, "size": size, "stems": list(stems), "licence": licence, "sdr_db": sdr,
            "scored_on": scored_on}


def _state(registry: Registry, name: str) -> str:
    entry = registry.entries.get(name)
    if entry is None:
        return "imported" if name in registry.names() else "file"
    if not entry.files:
        return "bundled" if registry.path(name).exists() else "missing"
    return "cached" if registry.path(name).exists() else "remote"


def _cell(value: Any) -> str:
    """A table's cell: sizes in MB, scores as their mean, unknown as a dash."""
    if isinstance(value, int):
        return f"{value / 1e6:.1f} MB"
    if isinstance(value, dict):
        return f"{sum(value.values()) / len(value):.2f}" if value else "-"
    return (",".join(value) if isinstance(value, list) else value) or "-"


def _lines(about: dict[str, Any], indent: str = "") -> Iterator[str]:
    """`key: value`, nested mappings indented, empty values left out."""
    for key, value in about.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and value:
            yield f"{indent}{key}: {', '.join(map(str, value))}"
        elif value not in ("", None, [], {}):
            yield f"{indent}{key}: {value}"


@contextmanager
def _bars() -> Iterator[Progress]:
    """One progress bar per file, on stderr, if that is a terminal."""
    from tqdm import tqdm

    bar: tqdm[Any] | None = None
    current = ""

    def progress(file: str, done: int, total: int | None) -> None:
        nonlocal bar, current
        if not sys.stderr.isatty():
            return
        if bar is None or file != current:
            if bar is not None:
                bar.close()
            current, bar = file, tqdm(desc=file, total=total, initial=done, unit="B", unit_scale=True, file=sys.stderr)
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
