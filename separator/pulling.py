"""Brings models into the cache: from the network, or from a folder of Open-Unmix files.

One process at a time works on one model (a lock file beside it), and a model appears in the cache complete,
after its SHA-256 is on record, or not at all.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from separator.atomic import write_error
from separator.download import UNWRITABLE, Progress, download
from separator.errors import ModelError, UsageError
from separator.modelfile import file_sha256, save
from separator.registry import SUFFIX, Entry, Registry, offline_asked, written_as_path
from separator.umxfiles import find_pth, import_umx

if TYPE_CHECKING:
    from torch import nn

    from separator.card import ModelCard

log = logging.getLogger(__name__)


def pull(registry: Registry, name: str, *, accept_license: bool = False, offline: bool = False,
         progress: Progress | None = None, timeout_s: float = 30.0, pause_s: float = 1.0) -> Path:
    """The verified file of a named model, fetched and converted first if it is not in the cache or is damaged.

    A download that breaks is continued by the next call. With `offline`, or SEPCTL_OFFLINE, the network is not
    touched. Raises `ModelError` for an unknown name, a licence not accepted, a failing network and a wrong hash,
    `ResourceError` for a full disk.
    """
    if written_as_path(name):
        raise UsageError(f"{name} is a path, not the name of a model", hint=f"names: {', '.join(registry.names())}")
    entry, target = registry.entries.get(name), registry.path(name)
    if entry is None or not entry.files or offline or offline_asked():
        return registry.verify(name, offline=offline)
    if ready := _ready(registry, name):
        return ready
    registry.accept(name, accept_license)
    folder = registry.downloads / name
    with _lock(target):
        if ready := _ready(registry, name):
            return ready                                # another process was faster
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error, hint=UNWRITABLE) from error
        for stem, file in entry.files.items():
            path = folder / f"{stem}.pth"
            if not (path.exists() and file_sha256(path).startswith(file.sha256)):
                download(file.url, path, sha256=file.sha256, progress=progress, timeout_s=timeout_s, pause_s=pause_s)
        _store(registry, target, *import_umx(folder, name, **entry.card_fields()))
        shutil.rmtree(folder, ignore_errors=True)
    return target


def import_folder(registry: Registry, folder: Path, name: str, *, out: Path | None = None,
                  overwrite: bool = False, accept_license: bool = False, **fields: Any) -> Path:
    """Turn a folder of Open-Unmix .pth files into a model file, by default in the cache, where `name` finds it.

    For a name of the registry the files must be the published ones, and licence and authors come from there;
    `fields` (licence, source, ...) fill the card of any other. Raises `ModelError` as `import_umx` does, and
    `UsageError` where the name reads as a path, and where the file exists already, unless `overwrite` allows to
    replace it.
    """
    if name.endswith(SUFFIX):
        raise UsageError(f"a model called {name} could never be loaded by its name: it reads as a path",
                         hint=f"--name {name.removesuffix(SUFFIX)}")
    entry = registry.accept(name, accept_license)
    if entry and not entry.files:
        raise ModelError(f"{name} is the name of a bundled model", hint="choose another --name")
    _check_free(out or registry.path(name), name, overwrite)
    if entry:
        _check_published(find_pth(folder), name, entry)
        fields = entry.card_fields()
    card, estimator = import_umx(folder, name, **fields)
    if out is not None:
        save(out, card, estimator)
        return out
    target = registry.path(card.name)
    with _lock(target):
        _check_free(target, name, overwrite)                # another process may have been faster
        _store(registry, target, card, estimator)
    return target


def _store(registry: Registry, target: Path, card: ModelCard, estimator: nn.Module) -> None:
    """Write a model into the cache, under its lock: hidden first, then its hash goes on record, then it is renamed."""
    for pattern in (f".{target.name}.*.part", f"..{target.name}.*.part"):
        for stale in target.parent.glob(pattern):       # of a process that was killed
            stale.unlink(missing_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    try:
        registry.record(target, save(fresh, card, estimator))
        fresh.replace(target)
    except OSError as error:
        raise write_error(target, error, hint=UNWRITABLE) from error
    finally:
        fresh.unlink(missing_ok=True)


def _check_free(target: Path, name: str, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already", hint=f"--overwrite replaces it; or import {name} as another name")


def _check_published(paths: Mapping[str, Path], name: str, entry: Entry) -> None:
    """Raise `ModelError` unless `paths` are the files that the registry names."""
    for stem, file in entry.files.items():
        if stem not in paths:
            raise ModelError(f"{name} has a file for {stem}, the folder has none", hint=f"get it from {file.url}")
        if not (found := file_sha256(paths[stem])).startswith(file.sha256):
            raise ModelError(f"{paths[stem]} is not the published {stem} of {name}: its SHA-256 is {found}, "
                             f"expected {file.sha256}", hint=f"get it from {file.url}, or choose another --name")
    if extra := sorted(paths.keys() - entry.files.keys()):
        raise ModelError(f"{name} has no stem {extra[0]}", hint=f"take {paths[extra[0]].name} out of the folder")


def _ready(registry: Registry, name: str) -> Path | None:
    """The cached file if it is there and sound; a damaged one is to be replaced."""
    if not registry.path(name).exists():
        return None
    try:
        return registry.verify(name)
    except ModelError as error:
        log.warning("%s; fetching it again", error.fact)
        return None


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Hold the lock of one model in the cache; waits while another process works on it."""
    from filelock import FileLock, Timeout

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("another sepctl is working on %s; waiting for it", target.name)
            lock.acquire()
    except OSError as error:
        raise write_error(target, error, hint=UNWRITABLE) from error
    try:
        yield
    finally:
        lock.release()
