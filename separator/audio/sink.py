"""Where encoders write: files and pipes that keep the first error until somebody asks for it."""

from __future__ import annotations

import errno
import io
import select
from pathlib import Path
from typing import IO

from separator.dsp.ahead import PATIENCE_MS, unwanted
from separator.errors import AudioError, Interrupted, ResourceError, SepctlError

FULL = {errno.ENOSPC, errno.EDQUOT}


class Sink:
    """A file as FFmpeg and libsndfile write it.

    The first error is kept in `error`, an interrupt too, and everything after it goes nowhere: both libraries lose or
    delay what a write tells them, so whoever writes asks `check` instead.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self.name = name        # PyAV wants one
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while len(rest) and self.error is None:
            try:
                rest = rest[self._put(rest):]
            except BaseException as error:
                self.error = error
        return len(data)

    def _put(self, data: memoryview) -> int:
        return self._file.write(data)       # an unbuffered file may take less than all

    def check(self) -> None:
        """Raise what went wrong; an error of the disk as `AudioError` or `ResourceError`."""
        if isinstance(self.error, OSError):
            raise write_error(self.name, self.error) from self.error
        if self.error is not None:
            raise self.error

    def fail(self) -> None:
        """From now on everything goes nowhere."""
        self.error = self.error or OSError(errno.ECANCELED, "given up")


class Outlet(Sink):
    """A pipe. A write to one that stalls cannot be ended from another thread: it is begun only if it ends at once."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        super().__init__(file, name)
        raw = getattr(file, "raw", file)
        self._raw = raw if isinstance(raw, io.FileIO) and hasattr(select, "poll") else None     # Windows has none
        file.flush()

    def _put(self, data: memoryview) -> int:
        if self._raw is None:
            return super()._put(data)
        ready = select.poll()
        ready.register(self._raw, select.POLLOUT)
        while not ready.poll(PATIENCE_MS):
            if unwanted():
                raise Interrupted("nobody waits for the stem to be written any more")
        return self._raw.write(data[:select.PIPE_BUF]) or 0


class SeekableSink(Sink):
    """A file in which headers can be completed at the end."""

    def read(self, size: int = -1) -> bytes:
        return b"" if self.error else self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0 if self.error else self._file.seek(offset, whence)

    def tell(self) -> int:
        return 0 if self.error else self._file.tell()


def write_error(name: str, error: OSError) -> SepctlError:
    """What to tell of a write that failed: a full disk is another thing than one that may not be written."""
    folder = Path(name).parent
    if error.errno in FULL:
        return ResourceError(
            f"the disk is full: {name} cannot be written in {folder}/",
            hint="free some space, choose another folder with --out, or a smaller format such as --format flac",
        )
    if error.errno == errno.EFBIG:
        return ResourceError(
            f"{name} grew beyond what its disk holds in one file", hint="choose another disk, or --format flac"
        )
    if error.errno == errno.EPIPE:
        return AudioError(f"{name}: whoever read it has gone", hint="look at the command behind the pipe")
    hints = {
        errno.ENOENT: f"the folder {folder}/ does not exist",
        errno.ENAMETOOLONG: "choose a shorter name with --template",
    }
    fact = f"{name} cannot be written: {error.strerror or error}"
    return AudioError(fact, hint=hints.get(error.errno or 0, "choose a folder that you may write to with --out"))
