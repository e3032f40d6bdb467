"""Option values that click does not know how to read."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

from separator.errors import UsageError
from separator.remote import path_of

_BITRATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kK]?)")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

PRECISIONS = ("auto", "fp32", "bf16", "fp16")  # of separator.models.precision, which imports torch


class Place(click.Path):
    """A path, - or a URL of a remote store."""

    def coerce_path_result(self, value: Any) -> Path:
        try:
            return path_of(str(value))
        except UsageError as error:
            raise click.BadParameter(str(error)) from error


def seconds(text: str) -> float:
    """A time in seconds, or as [h:]mm:ss; finite and not negative."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not all(math.isfinite(part) and part >= 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a time; write seconds (12.5) or [h:]mm:ss (1:02:30)")
    return sum(part * 60.0 ** power for power, part in enumerate(reversed(parts)))


def bit_rate(text: str) -> int:
    """Bits per second, as 192k or 192000."""
    match = _BITRATE.fullmatch(text.strip())
    rate = round(float(match[1]) * (1000 if match[2] else 1)) if match else 0
    if not 6000 <= rate <= 1_000_000:
        raise click.BadParameter(f"{text!r} is not a bit rate from 6k to 1000k; write 192k or 192000")
    return rate


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them: vocals,drums."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise click.BadParameter(f"{text!r}: a name is empty")
    if len(set(parts)) != len(parts):
        raise click.BadParameter(f"{text!r}: a name comes twice")
    return parts


def device(text: str) -> str:
    """auto, cpu, cuda or cuda:N; whether it exists is asked later, because that imports torch."""
    if not _DEVICE.fullmatch(text):
        raise click.BadParameter(f"{text!r} is not auto, cpu, cuda or cuda:N")
    return text


def shard(text: str) -> tuple[int, int]:
    """I/N: the I-th of N parts, from 1."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{text!r} is not a part of a whole; write 1/4 to 4/4")
    return int(match[1]), int(match[2])
