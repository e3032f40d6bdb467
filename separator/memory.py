"""The most memory that this process has held, and what there still is."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SYSTEM, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def forget_peak() -> None:
    """Count from now on, where the system can (Linux); elsewhere the peak stays that of the whole process."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def peak_bytes() -> int | None:
    """The largest resident size, or None where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def available_bytes() -> int | None:
    """What processes started now may take without swapping, or None where the system does not tell.

    On Linux what the kernel estimates, and no more than the control group (version 2) of a container has left.
    """
    try:
        system = 1024 * _numbers(_SYSTEM)["MemAvailable:"]
    except (OSError, KeyError):
        return None
    try:
        limit, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = _numbers(_GROUP / "memory.stat")["inactive_file"]  # is given back on demand
    except (OSError, KeyError, ValueError):  # no group, or no limit: "max"
        return system
    return max(min(system, limit - used + cached), 0)


def _numbers(path: Path) -> dict[str, int]:
    """The first number behind each name of a table."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
