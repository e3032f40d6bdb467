"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from separator.errors import ModelError, ResourceError, SepctlError

LONGEST_NAME = 255  # bytes of a file name, on all common file systems


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file under a hidden name in the same folder; renamed to `path`, durably, if the block succeeds.

    The folder is made if it is missing. On an exception the temporary file is removed and whatever was at
    `path` stays as it was. Two processes never share a temporary name. Raises what `write_error` tells.
    """
    name = path.name if len(os.fsencode(path.name)) > LONGEST_NAME else path.name[:48]      # too long: told at once
    part = path.with_name(f".{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # renamed, or never made; what went wrong is told by another error
            part.unlink()


def write_error(path: Path, error: OSError, *, hint: str = "choose a folder that you may write to") -> SepctlError:
    """`ResourceError` for a full disk or quota, else `ModelError`: what to raise when `path` cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{path}: the disk is full", hint="free some space, or choose another folder")
    blocked = isinstance(error, FileExistsError | NotADirectoryError)
    reason = "what should be its folder is a file" if blocked else error.strerror or error
    return ModelError(f"{path} cannot be written: {reason}", hint=hint)
