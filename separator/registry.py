"""Model names: what they stand for, and where their files are. Never touches the network.

A name or path means, in this order:
1. a path, if it is written like one (a `/`, or the ending `.safetensors`);
2. a model of the registry: bundled with the program, or pulled into the cache;
3. a model imported into the cache under that name;
4. a file of that name in the current folder.

A `Path` is always a file.

The cache is `SEPCTL_CACHE`, else the platform's user cache folder. Next to each model file in it lies
`NAME.safetensors.sha256`, readable by `sha256sum --check`: a file that does not match is never loaded.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PositiveInt, TypeAdapter

from separator.atomic import replacing
from separator.card import Frozen, ModelCard
from separator.errors import ModelError
from separator.modelfile import file_sha256, read_card

HERE = Path(__file__).parent
SUFFIX = ".safetensors"


class RemoteFile(Frozen):
    """One file of a model that is pulled from the network."""

    url: str = Field(pattern=r"^https?://")
    sha256: str = Field(pattern=r"^[0-9a-f]{8,64}$")    # all of it, or the published beginning
    size: PositiveInt | None = None                     # bytes


class Entry(Frozen):
    """What the registry knows of a model without having it; bundled if it has no `files`."""

    summary: str
    stems: tuple[str, ...]
    licence: str                                        # of the weights, as an SPDX identifier
    licence_note: str = ""
    licence_url: str = ""
    must_accept: bool = False                           # the licence must be shown and accepted before first use
    attribution: tuple[str, ...] = ()
    source: str = ""
    card: Mapping[str, Any] = Field(default_factory=dict)   # further fields of the card
    scored_on: str = ""
    sdr_db: Mapping[str, float] = Field(default_factory=dict)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")     # of a bundled model's file
    files: Mapping[str, RemoteFile] = Field(default_factory=dict)           # stem -> Open-Unmix .pth

    @property
    def size(self) -> int | None:
        """Bytes to pull, if published."""
        sizes = [file.size for file in self.files.values()]
        return sum(size or 0 for size in sizes) if sizes and all(sizes) else None

    def card_fields(self) -> dict[str, Any]:
        """The fields of the card that the weights themselves do not tell."""
        scores = {"data": self.scored_on, "sdr_db": dict(self.sdr_db)} if self.sdr_db else {}
        return {"description": self.summary, "licence": self.licence, "attribution": self.attribution,
                "source": self.source, "scores": scores, **self.card}

    def licence_text(self) -> str:
        """Licence and authors in a few lines, for people."""
        lines = [f"licence: {self.licence}", self.licence_note, self.licence_url, *self.attribution]
        return "\n  ".join(line for line in lines if line)


class Registry:
    """Known models, the folder of bundled ones, and the cache of pulled and imported ones."""

    def __init__(self, entries: Mapping[str, Entry], *, weights: Path, cache: Path) -> None:
        self.entries = dict(entries)
        self.weights = weights
        self.models = cache / "models"
        self.downloads = cache / "downloads"

    @classmethod
    def from_yaml(cls, path: Path, *, weights: Path | None = None, cache: Path | None = None) -> Registry:
        """The registry in a YAML file; the defaults are the package's weights and the user's cache."""
        with path.open(encoding="utf-8") as file:
            entries = TypeAdapter(dict[str, Entry]).validate_python(yaml.safe_load(file))
        return cls(entries, weights=weights or HERE / "weights", cache=cache or cache_folder())

    def names(self) -> list[str]:
        """All names that `resolve` knows or could pull: those of the registry, then those imported into the cache."""
        cached = sorted(path.name.removesuffix(SUFFIX) for path in self.models.glob(f"[!.]*{SUFFIX}"))
        return [*self.entries, *(name for name in cached if name not in self.entries)]

    def path(self, name: str) -> Path:
        """Where the file of a named model is, or would be."""
        entry = self.entries.get(name)
        folder = self.weights if entry and not entry.files else self.models
        return folder / f"{name}{SUFFIX}"

    def resolve(self, name_or_path: str | Path, *, offline: bool = False) -> Path:
        """The verified file of a model; never touches the network.

        Raises `ModelError` if the model is unknown (with the nearest names), not pulled yet, or damaged.
        """
        name = str(name_or_path)
        if isinstance(name_or_path, Path) or written_as_path(name):
            return _checked(Path(name), _recorded(Path(name)))
        if name in self.names():
            return self.verify(name, offline=offline)
        if Path(name).is_file():
            return _checked(Path(name), _recorded(Path(name)))
        raise self.unknown(name)

    def verify(self, name: str, *, offline: bool = False) -> Path:
        """The file of a named model, after checking its SHA-256 and its header."""
        if name not in self.names():
            raise self.unknown(name)
        path, entry = self.path(name), self.entries.get(name)
        if entry and not path.exists():
            if not entry.files:
                raise ModelError(f"{name} belongs to sepctl, but its file {path} is missing",
                                 hint="install sepctl again, or choose another model with --model")
            raise ModelError(f"{name} is not pulled yet", hint=_how_to_get(name, entry, offline or offline_asked()))
        return _checked(path, entry.sha256 if entry and not entry.files else _recorded(path, required=True))

    def unknown(self, name: str) -> ModelError:
        """The error for a name that stands for nothing."""
        near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known models: {', '.join(self.names())}"
        return ModelError(f"no model is called {name!r}", hint=hint)

    def accept(self, name: str, accepted: bool) -> Entry | None:
        """The entry of `name`; raises `ModelError` with the licence if it has to be accepted first."""
        entry = self.entries.get(name)
        if entry and entry.must_accept and not accepted:
            raise ModelError(f"{name} may be used only under its licence\n  {entry.licence_text()}",
                             hint="if you agree, run the same command with --accept-license")
        return entry

    def recorded(self, name: str, path: Path) -> str | None:
        """The SHA-256 that `resolve` checked the file of a model against, None where there is none."""
        entry = self.entries.get(name)
        return entry.sha256 if entry and not entry.files else _recorded(path)

    def record(self, path: Path, sha256: str) -> None:
        """Write the side file that `path` is checked against."""
        with replacing(_side_file(path)) as file:
            file.write(f"{sha256}  {path.name}\n".encode())


def default() -> Registry:
    """The program's own registry, with today's cache folder."""
    return Registry.from_yaml(HERE / "registry.yaml")


def names() -> list[str]:
    """See `Registry.names`."""
    return default().names()


def resolve(name_or_path: str | Path, *, offline: bool = False) -> Path:
    """See `Registry.resolve`."""
    return default().resolve(name_or_path, offline=offline)


def cache_folder() -> Path:
    """`SEPCTL_CACHE`, else the platform's user cache folder."""
    if asked := os.environ.get("SEPCTL_CACHE"):
        return Path(asked).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("sepctl"))


def offline_asked() -> bool:
    """Whether `SEPCTL_OFFLINE` forbids the network; 0 and an empty value do not."""
    return os.environ.get("SEPCTL_OFFLINE", "") not in ("", "0")


def written_as_path(name: str) -> bool:
    """Whether a model is given as a path rather than as a name."""
    return "/" in name or os.sep in name or name.endswith(SUFFIX)


def sdr_db(card: ModelCard) -> dict[str, float]:
    """The card's SDR per stem, in dB, if it tells any."""
    found = card.scores.get("sdr_db", {})
    return {stem: float(value) for stem, value in found.items()} if isinstance(found, Mapping) else {}


def _how_to_get(name: str, entry: Entry, offline: bool) -> str:
    command = f"sepctl models pull {name}{' --accept-license' if entry.must_accept else ''}"
    if offline:
        return f"the network is off limits (--offline or SEPCTL_OFFLINE); where it is not: {command}"
    return command


def _side_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path, *, required: bool = False) -> str | None:
    """The SHA-256 in the side file of `path`; without one, None, or "" where one is required."""
    try:
        return (_side_file(path).read_text(encoding="ascii").split() or [""])[0]
    except (OSError, ValueError):
        return "" if required else None


def _checked(path: Path, sha256: str | None) -> Path:
    """`path`, if its header is whole and its SHA-256 is the recorded one (if there is any)."""
    read_card(path)
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise ModelError(f"{path} is damaged: its SHA-256 is {found}, recorded was {sha256 or 'none'}",
                         hint="pull or import it again")
    return path
