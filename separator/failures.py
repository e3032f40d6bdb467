"""Which exceptions of Python and torch are the user's to cure, and how to say so."""

from __future__ import annotations

import errno
import sys

from separator.errors import AudioError, ResourceError, SepctlError


def as_sepctl(error: Exception) -> SepctlError | None:
    """The same failure as a `SepctlError`, or None where it is a bug."""
    if isinstance(error, SepctlError):
        return error
    if _out_of_memory(error):
        return ResourceError("out of memory", hint="close other programs, or use --device cpu, or a smaller model")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"no space left on the disk{_where(error)}", hint="free some space, or use another --out")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AudioError(f"not allowed to write or read{_where(error)}", hint="check the folder's permissions")
    return None


def _where(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


def _out_of_memory(error: Exception) -> bool:
    """Python's, CUDA's, or that of torch's CPU allocator (a bare RuntimeError); never imports torch."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    kind = getattr(torch, "OutOfMemoryError", None)
    if kind is not None and isinstance(error, kind):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
