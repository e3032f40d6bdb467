"""Where songs come from: a file, or a pipe, with every way they can fail to be there."""

from __future__ import annotations

import errno
import io
import os
import select
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from separator.audio.xing import find_xing, id3_bytes
from separator.dsp.ahead import PATIENCE_MS, unwanted
from separator.errors import AudioError, Interrupted, ResourceError

EDGE = 1 << 17      # bytes of a pipe's beginning and end that are kept; an Ogg page has at most 65307


class Source:
    """A song's bytes as FFmpeg reads them.

    An error of the disk, or an interrupt, ends the bytes for good and is kept in `error`: FFmpeg would take it for the
    end of the song, and can open one that ends early. Whoever opened it, or sees an end, asks `check`.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name.encode("utf-8", "replace").decode()    # FFmpeg's guess may use the extension
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        if self.error is not None:
            return b""
        try:
            return self._read(size)
        except BaseException as error:
            self.error = error
            return b""

    def _read(self, size: int) -> bytes:
        return self._file.read(size) or b""

    def check(self) -> None:
        """Raise what ended the bytes; an error of the disk as `AudioError`."""
        if isinstance(self.error, OSError):
            fact = f"{self.name} cannot be read to its end: {self.error.strerror or self.error}"
            raise AudioError(fact, hint="look after the disk or the connection it is on") from self.error
        if self.error is not None:
            raise self.error

    def head(self) -> BinaryIO:
        """The bytes from the beginning, for whoever reads them before FFmpeg does; call `rewind` afterwards."""
        raise NotImplementedError

    def rewind(self) -> None:
        """Back to the beginning, after use of `head`."""

    def tail(self) -> bytes:
        """The last bytes of the song, known once it was read."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what was opened here; a file object that was handed in stays open."""


class Seekable(Source):
    """A song in a file."""

    def __init__(self, file: BinaryIO, name: str, *, own: bool) -> None:
        super().__init__(file, name)
        self._own = own
        self._start = file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset + self._start if whence == 0 else offset, whence) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    def head(self) -> BinaryIO:
        return self._file

    def rewind(self) -> None:
        self._file.seek(self._start)

    def tail(self) -> bytes:
        here = self._file.tell()
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(self._start, size - EDGE))
        try:
            return self._file.read(EDGE)
        finally:
            self._file.seek(here)

    def close(self) -> None:
        if self._own:
            self._file.close()


class Pipe(Source):
    """A song that comes once, from front to back: it keeps the edges and forgets the rest."""

    def __init__(self, head: bytes, file: BinaryIO, name: str) -> None:
        super().__init__(file, name)
        self._head = head
        self._given = 0         # bytes of the head that FFmpeg has had
        self._tail = head

    def read(self, size: int = -1) -> bytes:
        if self._given < len(self._head):
            part = self._head[self._given:self._given + size if size >= 0 else None]
            self._given += len(part)
            return part
        part = super().read(size)
        self._tail = (self._tail + part)[-EDGE:]
        return part

    def _read(self, size: int) -> bytes:
        return _next(self._file, size)

    def head(self) -> BinaryIO:
        return io.BytesIO(self._head)

    def tail(self) -> bytes:
        return self._tail


def open_source(source: Path | BinaryIO) -> tuple[Source, str]:
    """Open a path, or take a file object; returns it with the name to use in messages.

    An MP4 may have its index at the end, and FFmpeg cuts an mp3's padding only where it knows the file's size: they are
    stored in a temporary file first if they come through a pipe.
    Raises `AudioError` where there is nothing to read.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _open_path(path), str(path)
    given = getattr(source, "name", None)
    name = given if isinstance(given, str) else "stdin"
    name = "stdin" if name == "<stdin>" else name
    try:
        if source.seekable():
            file: Source = Seekable(source, name, own=False)
            head = source.read(1)
            file.rewind()
        else:
            head = _fill(source, EDGE)
            head += _fill(source, id3_bytes(head) + EDGE - len(head))   # a cover may be greater than that
            whole = head[4:8] == b"ftyp" or find_xing(io.BytesIO(head))
            file = Seekable(_spool(head, source), name, own=True) if whole else Pipe(head, source, name)
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error.strerror or error}") from error
    if not head:
        raise AudioError(f"{name} is empty", hint="no byte came; is the command before the pipe running?")
    return file, name


def _open_path(path: Path) -> Source:
    try:
        if path.is_dir():
            raise AudioError(f"{path} is a folder, not a song", hint="name the files in it, for example FOLDER/*.flac")
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise AudioError(f"{path} does not exist", hint="check the spelling and the current folder") from error
    except PermissionError as error:
        raise AudioError(f"{path} may not be read", hint="check the rights of the file and its folder") from error
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if path.is_fifo() or path.is_char_device():
        return open_source(io.BufferedReader(file))[0]
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise AudioError(f"{path} is empty (0 bytes)", hint="was it downloaded or copied completely?")
    return Seekable(file, path.name, own=True)


def _fill(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, or all there are, from a file that may give less at a time."""
    parts = bytearray()
    while len(parts) < size:
        part = _next(file, size - len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)


def _next(file: BinaryIO, size: int) -> bytes:
    """What comes next out of a pipe, up to `size` bytes; none at its end.

    A read of a pipe that stalls cannot be ended from another thread: if the one that reads is to be ended, it must not
    begin one.
    """
    raw = getattr(file, "raw", file)
    if isinstance(raw, io.FileIO) and hasattr(select, "poll"):      # Windows has none
        ready = select.poll()
        ready.register(raw, select.POLLIN)
        while not ready.poll(PATIENCE_MS):
            if unwanted():
                raise Interrupted("nobody waits for the song any more")
    return getattr(file, "read1", file.read)(size) or b""


def _spool(head: bytes, file: BinaryIO) -> BinaryIO:
    try:
        stored = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its Source
        stored.write(head)
        shutil.copyfileobj(file, stored)
        stored.seek(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(f"{tempfile.gettempdir()}: the disk is full, and the song has to be stored there first",
                            hint="free some space, or set TMPDIR to a folder on another disk") from error
    return stored
