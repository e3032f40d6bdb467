"""Where a stem's bytes go: a file that appears complete or not at all, or a stream."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import IO, BinaryIO

from separator.atomic import LONGEST_NAME
from separator.audio.sink import Outlet, SeekableSink, write_error
from separator.errors import AudioError, UsageError

_open_here: set[Path] = set()   # temporary files of this process that are being written


class FilePlace:
    """A file that gets its name when it is complete: until `commit` it is called `.NAME.HOST-PID.part`.

    It is locked until then, for other containers have the same host's name and process numbers of their own. What
    processes of this host that are no more left in the folder under such names is removed first. The folder must
    exist. Raises `AudioError` or, for a full disk, `ResourceError`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._name = path, str(path)
        self._target = path.absolute()      # a change of the current folder must not lose the file; keeps `link/..`
        self._part = temporary(self._target)
        sweep(self._part.parent)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(path).st_mode):     # also raises, and in time, if the name is too long
                    raise AudioError(f"{path} is a folder", hint="choose another name for the stem")
            self._file = open(self._part, "x+b", buffering=0)   # noqa: SIM115 - closed by commit or abort
            _lock(self._file.fileno())
        except FileExistsError as error:
            raise AudioError(f"{path} is being written already", hint="two stems have the same name") from error
        except OSError as error:
            raise write_error(self._name, error) from error
        _open_here.add(self._part)
        self._status = os.fstat(self._file.fileno())
        self.sink = SeekableSink(self._file, self._name)

    def scratch(self) -> IO[bytes]:
        """A nameless file on the same disk, gone when closed."""
        try:
            return tempfile.TemporaryFile(dir=self._part.parent, buffering=0)
        except OSError as error:
            raise write_error(self._name, error) from error

    def finish(self) -> None:
        """Bring all bytes to the disk."""
        self.sink.check()
        try:
            os.fsync(self._file.fileno())
            if os.name == "nt":
                self._file.close()      # there, what is open cannot be renamed
        except OSError as error:
            raise write_error(self._name, error) from error

    def commit(self, *, replace: bool = True) -> None:
        """Give the file its name; without `replace`, UsageError where the name is taken."""
        try:
            if replace:
                os.replace(self._part, self._target)
            else:
                _rename_new(self._part, self._target)
            _open_here.discard(self._part)
            self._file.close()
            _sync_folder(self._part.parent)
        except FileExistsError as error:
            raise UsageError(f"{self._name} exists: it was written meanwhile",
                             hint="use --overwrite or --skip-existing, or another --out") from error
        except OSError as error:
            raise write_error(self._name, error) from error

    def withdraw(self) -> None:
        """Undo `commit`: remove the name, if the file under it is this one."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._target), self._status):
                self._target.unlink()

    def abort(self) -> None:
        """Remove the file, if it has not got its name yet."""
        self.sink.fail()
        with contextlib.suppress(OSError):
            self._file.close()
        if self._part in _open_here:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
            _open_here.discard(self._part)


class StreamPlace:
    """A file object that was handed in, such as stdout; it stays open.

    With `whole`, for file types that are completed at the end, the bytes are collected in a temporary file and
    handed over by `finish`. Otherwise they go out at once, and headers are completed if the object can seek.
    """

    def __init__(self, stream: BinaryIO, *, whole: bool) -> None:
        self._stream = stream
        name = getattr(stream, "name", None)
        self._name = name if isinstance(name, str) and not name.startswith("<") else "stdout"
        self._whole: IO[bytes] | None = self.scratch() if whole else None
        kind = SeekableSink if whole or _can_complete(stream) else Outlet
        self.sink = kind(self._whole or stream, self._name)

    def scratch(self) -> IO[bytes]:
        """A nameless file, gone when closed."""
        try:
            return tempfile.TemporaryFile(buffering=0)
        except OSError as error:
            raise write_error(tempfile.gettempdir(), error) from error

    def finish(self) -> None:
        """Hand over what is still here."""
        self.sink.check()
        try:
            if self._whole is not None:
                self._whole.seek(0)
                shutil.copyfileobj(self._whole, self._stream, 1 << 20)
                self._whole.close()
            self._stream.flush()
        except OSError as error:
            raise write_error(self._name, error) from error

    def commit(self, *, replace: bool = True) -> None:
        """A stream has no name to be given."""

    def withdraw(self) -> None:
        """What went out is out."""

    def abort(self) -> None:
        """What went out is out."""
        self.sink.fail()
        if self._whole is not None:
            self._whole.close()


def _rename_new(old: Path, new: Path) -> None:
    """Rename, but over no file. Raises FileExistsError."""
    try:
        os.link(old, new)       # of two at once, one fails; a rename would let both pass
    except FileExistsError:
        raise
    except OSError as error:    # a file system without hard links
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from error
        os.replace(old, new)
    else:
        old.unlink()


def temporary(path: Path) -> Path:
    """The hidden name beside `path`, swept when we are dead; where too long, its end gives way to its hash."""
    name = path.name
    suffix = f".{_host()}-{os.getpid()}.part"
    room = LONGEST_NAME - len(suffix) - 1
    data = os.fsencode(name)
    if len(data) > room:
        tag = hashlib.sha256(data).hexdigest()[:16]
        name = os.fsdecode(data[: room - 17]).encode("utf-8", "ignore").decode() + "~" + tag
    return path.with_name(f".{name}{suffix}")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:63] or "host"


def sweep(folder: Path) -> None:
    """Remove what dead processes of this host left in `folder`."""
    ours = re.compile(rf"\..*\.{re.escape(_host())}-(\d+)\.part", re.DOTALL)
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            found = ours.fullmatch(entry.name)
            if found and Path(entry.path) not in _open_here and not _alive(int(found[1])):
                with contextlib.suppress(OSError):
                    if _abandoned(entry.path):
                        os.unlink(entry.path)


def _abandoned(part: str) -> bool:
    """Whether nobody has locked it, in another container either. Raises OSError."""
    handle = os.open(part, os.O_RDWR)
    try:
        return _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed, where there are such locks; False if somebody else has it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def _alive(pid: int) -> bool:
    """Whether another process has this number. Our own number on a file we do not know: a life before ours."""
    if pid == os.getpid():
        return False
    if os.name == "nt":
        return True     # there, asking by a signal would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be synced."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _can_complete(stream: BinaryIO) -> bool:
    """Whether a header at the stream's beginning can be changed later: not in pipes, nor behind other bytes or >>."""
    try:
        if not stream.seekable() or stream.tell():
            return False
        import fcntl

        return not fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_APPEND
    except (OSError, ImportError, AttributeError):
        return True     # memory
