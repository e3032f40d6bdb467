"""What the C library does with memory that is given back: keep it, for the next segment wants as much again."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

KEPT_BYTES = 1 << 30        # more than one segment's tensors take; below 2^31, for `mallopt` takes an int
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3       # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_USERS = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next allocation, in the whole process; says whether it was asked to.

    It would otherwise return every large tensor to the system, and the pages of the next one come back one by one,
    zeroed, at half a million page faults for four minutes of song. The most memory that the process ever holds grows
    by some 50 MB, and it holds it until it ends. Other C libraries are left alone, and so is glibc where the
    environment has its own wishes.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USERS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
