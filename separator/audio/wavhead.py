"""The header of a wav, read without FFmpeg.

That corrects sizes silently, and takes 26 ms to open a wav of noise, for it looks for DTS in disguise.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

PCM = (1, 3, 0xFFFE)    # integers, floats, either with a channel mask: format tags whose size tells the length
UNKNOWN = (range(0x7FFFF000, 0x80000001), range(0xFFFFF000, 0x100000000))   # data sizes of those who do not know:
# sox writes 0x7FFFF000, arecord 0x80000000, FFmpeg 0xFFFFFFFF, others the greatest that leaves room for a header
LIST_MOST = 1 << 16     # bytes of tags that are read


@dataclass(frozen=True)
class WavHead:
    """What a wav says of itself; `frames` (samples per channel) may be more than there are."""

    sample_rate: int
    channels: int
    frame_bytes: int
    frames: int
    comment: str


def read_wav_head(file: BinaryIO) -> WavHead | None:
    """The header of the RIFF or RF64 that `file` stands at the beginning of, and then at the beginning of its samples.

    None where it says too little: no wav, not PCM, or of unknown length.
    """
    magic = file.read(12)
    if magic[:4] not in (b"RIFF", b"RF64", b"BW64") or magic[8:] != b"WAVE":
        return None
    rate = channels = frame_bytes = long_size = 0
    comment = ""
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            size = long_size if any(size in sizes for sizes in UNKNOWN) else size
            known = size and frame_bytes and rate
            return WavHead(rate, channels, frame_bytes, size // frame_bytes, comment) if known else None
        body = file.read(min(size, LIST_MOST if name == b"LIST" else 24))
        if name == b"ds64" and len(body) >= 16:
            long_size = int.from_bytes(body[8:16], "little")
        elif name == b"fmt " and len(body) >= 16:
            tag, channels, rate, frame_bytes = struct.unpack("<HHI4xH", body[:14])
            if tag not in PCM:
                return None
        elif name == b"LIST" and (at := body.find(b"ICMT")) >= 0:
            comment = body[at + 8:].split(b"\0")[0].decode("utf-8", "replace")
        file.seek(size - len(body) + size % 2, 1)
    return None
