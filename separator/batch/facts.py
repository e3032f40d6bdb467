"""What a song says about itself, asked in a moment: ten thousand songs are planned in seconds.

FFmpeg takes its time to open a wav; its header, and those of w64 and au, are read here instead (`audio/pcmhead`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from separator import provenance
from separator.audio import probe
from separator.audio.pcmhead import read_pcm_head
from separator.errors import SepctlError
from separator.remote import Url


@dataclass(frozen=True)
class Facts:
    """By the file's own word, without decoding; all None where it cannot be read. `ours`: it is a stem we made."""

    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    ours: bool = False


def facts(path: Path) -> Facts:
    """Never raises: what is wrong with a song is told when it is its turn. Streams and URLs are not touched."""
    if isinstance(path, Url) or not os.path.isfile(path):
        return Facts()
    try:
        with path.open("rb") as file:
            if head := read_pcm_head(file):
                there = max(path.stat().st_size - file.tell(), 0) // head.frame_bytes   # of a cut song, less
                frames = min(head.frames, there)
                return Facts(frames / head.sample_rate, head.sample_rate, head.channels, _ours(head.comment))
        info = probe(path)
    except (SepctlError, OSError):
        return Facts()
    return Facts(info.duration_s, info.sample_rate, info.channels, _ours(info.tags.get("comment", "")))


def _ours(comment: str) -> bool:
    return provenance.parse(comment) is not None
