"""What a run was made with: kept in its folder and in its model file."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

import separator


def versions() -> dict[str, str]:
    """Of everything that numbers depend on."""
    return {
        "sepctl": separator.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, with `-dirty` where files differ; None elsewhere."""
    checkout = Path(separator.__file__).parents[1]
    if not (checkout / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def provenance(device: torch.device, seed: int, data: dict[str, str]) -> dict[str, Any]:
    """Everything but the configuration; `data` holds the fingerprint of each source."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "git_commit": git_commit(),
        "versions": versions(),
        "device": f"{device.type} ({kind})",
        "seed": seed,
        "data": data,
    }
