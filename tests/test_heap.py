"""Oracle: the system's own count of page faults, in a process of its own, for the setting is a process's."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from separator.heap import keep_freed_memory

FAULTS = """
import ctypes, resource
from separator.heap import keep_freed_memory
kept = {call}
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.memset.argtypes, c.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
def use(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = c.malloc(size)
    c.memset(place, 1, size)
    c.free(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
use(100_000_000)
print(kept, sum(use(80_000_000) for _ in range(3)))         # more than glibc keeps by itself
"""
PAGES = 3 * 80_000_000 // os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def run(call: str, **environment: str) -> tuple[bool, int]:
    """What it said, and the page faults of three allocations after a larger one."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", FAULTS.format(call=call)], env=clean | environment,
                          capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@glibc
def test_memory_that_was_freed_comes_back_without_page_faults() -> None:
    kept, count = run("keep_freed_memory()")
    assert kept and count < PAGES / 100
    assert run("False")[1] >= PAGES


@glibc
def test_the_environments_wish_goes_first() -> None:
    kept, count = run("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept and count >= PAGES


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory.__wrapped__()
