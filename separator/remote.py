"""Files that are not on a disk of this machine: URLs that fsspec knows (s3://, gs://, ...), named like paths."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat as modes
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from separator.errors import AudioError, ResourceError, SepctlError, UsageError

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}     # of sepctl, by scheme


class StorageError(AudioError):
    """A remote store did not do what it should; another attempt may go better."""


class Url(type(Path())):        # type: ignore[misc]
    """A path in a remote store: its name, suffix and parents are those of any path, its text is the URL.

    `stat` and `open` ask the store. What the store has said in a listing is kept in `info`.
    """

    info: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}"

    def __fspath__(self) -> str:
        return str(self)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of the last change, 0 where the store does not tell. Raises OSError, StorageError."""
        info = self.info
        if info is None:
            with _told(self, "read") as (files, path):
                info = files.info(path)
        mode = modes.S_IFDIR if info["type"] == "directory" else modes.S_IFREG
        time_s = _time_s(info)
        return os.stat_result((mode, 0, 0, 1, 0, 0, info.get("size") or 0, time_s, time_s, time_s))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        try:
            return modes.S_ISDIR(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> Any:
        with _told(self, "read") as (files, path):
            return files.open(path, mode)

    def below(self) -> list[Url]:
        """All files whose names begin with this one and a slash, sorted."""
        with _told(self, "listed") as (files, path):
            return [_listed(files, info) for _, info in sorted(files.find(path, detail=True).items())]

    def matches(self) -> list[Url]:
        """The files that this pattern fits, sorted; hidden ones only where it says so, as in a shell."""
        with _told(self, "listed") as (files, path):
            found = [_listed(files, info) for _, info in sorted(files.glob(path, detail=True).items())]
        return [url for url in found if "/." in str(self) or "/." not in str(url)]

    def fetch(self, local: Path) -> None:
        """Copy it to a file of this machine, if there is room. Raises OSError, StorageError, ResourceError."""
        size, free = self.stat().st_size, shutil.disk_usage(local.parent).free
        if size > free:
            raise ResourceError(f"{self} has {size / 1e6:.0f} MB, but {local.parent} has {free / 1e6:.0f} MB",
                                hint="set TMPDIR to a folder with more space")
        with _told(self, "read") as (files, path):
            files.get_file(path, str(local))

    def put(self, local: Path) -> None:
        """Give it the bytes of a file of this machine; a store shows them when it has them all."""
        with _told(self, "written") as (files, path):
            files.makedirs(files._parent(path), exist_ok=True)
            files.put_file(str(local), path)

    def remove(self) -> None:
        with _told(self, "removed") as (files, path):
            files.rm_file(path)


def path_of(text: str) -> Path:
    """A path, or a `Url` where it looks like one; `file://` is a path. Raises UsageError for a URL without a host."""
    found = _URL.fullmatch(text)
    if not found:       # for pathlib `./-` is `-`, which means stdin
        return Path(os.path.abspath(text) if text != "-" and Path(text) == Path("-") else text)
    scheme, rest = found.groups()
    if scheme in ("file", "local"):
        return Path(rest)
    if not rest.strip("/") or rest.startswith("/"):
        raise UsageError(f"{text} names no bucket or host", hint=f"{scheme}://BUCKET/PATH")
    return Url(f"{scheme}://{rest}")


def name_of(path: Path) -> str:
    """What a file is called whatever the current folder is."""
    return str(path) if isinstance(path, Url) else os.path.abspath(path)


def exists(path: Path) -> bool:
    """Whether the name is taken, be it by a link that leads nowhere."""
    return path.exists() if isinstance(path, Url) else os.path.lexists(path)


@contextlib.contextmanager
def near(path: Path) -> Iterator[Path]:
    """The file on this machine: a temporary copy of a remote one, in a folder of the same name."""
    if not isinstance(path, Url):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sepctl-") as folder:
        local = Path(folder, path.parent.name.replace(":", "_") or "_", path.name)
        local.parent.mkdir()
        path.fetch(local)
        yield local


def publish(files: Mapping[Path, Path]) -> None:
    """Bring them all to their places in the store; of those that were not there before, all or none."""
    with contextlib.ExitStack() as undo:
        for local, url in files.items():
            assert isinstance(url, Url)
            if not url.exists():
                undo.callback(_remove_quietly, url)
            url.put(local)
        undo.pop_all()


def _remove_quietly(url: Url) -> None:
    with contextlib.suppress(OSError, SepctlError):
        url.remove()


def _listed(files: Any, info: Mapping[str, Any]) -> Url:
    url = Url(files.unstrip_protocol(info["name"]))
    url.info = info
    return url


def _time_s(info: Mapping[str, Any]) -> int:
    """Stores call it differently, and some tell it as text."""
    told = next((info[key] for key in ("LastModified", "mtime", "updated", "last_modified", "created") if key in info),
                0)
    if isinstance(told, str):
        with contextlib.suppress(ValueError):
            told = datetime.fromisoformat(told.replace("Z", "+00:00"))
    if isinstance(told, datetime):
        return int(told.timestamp())
    return int(told) if isinstance(told, int | float) else 0


@contextlib.contextmanager
def _told(url: Url, what: str) -> Iterator[tuple[Any, str]]:
    """The store and the path in it. What goes wrong becomes a SepctlError, but for a file that is not there."""
    scheme = str(url).partition(":")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UsageError(f"{url}: URLs need the package fsspec", hint="pip install 'sepctl[remote]'") from error
    try:
        yield url_to_fs(str(url), use_listings_cache=False)
    except (SepctlError, FileNotFoundError, MemoryError):
        raise
    except ImportError as error:
        raise UsageError(f"{url}: {error}", hint=f"pip install 'sepctl[{_EXTRAS.get(scheme, 'remote')}]'") from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}", hint="s3://, gs://, and whatever else fsspec knows") from error
    except PermissionError as error:
        raise AudioError(f"{url} cannot be {what}: not allowed", hint="check the credentials of the store") from error
    except Exception as error:      # each store has exceptions of its own
        words = str(error).splitlines() or [type(error).__name__]
        raise StorageError(f"{url} cannot be {what}: {words[0]}", hint="does the store answer?") from error
