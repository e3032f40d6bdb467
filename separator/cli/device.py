"""Which device a command computes on."""

from __future__ import annotations

from separator.errors import UsageError


def choose(name: str) -> str:
    """`auto` is the first CUDA device, else the CPU. Raises UsageError for a device that this machine lacks."""
    if name == "cpu":
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        have = "no CUDA device" if not count else f"{count} CUDA device{'s' if count > 1 else ''}"
        raise UsageError(f"--device {name}: torch sees {have} here", hint="use --device auto, or see sepctl doctor")
    return name
