"""The Xing or Info header of an mp3: how many frames there are, and what to cut off both ends.

It poses as a first, silent MPEG frame. Fields as LAME and FFmpeg write them, from the word Xing or Info on: flags (4
bytes), MPEG frames (4), bytes (4), table of contents (100), quality (4), the encoder's name (9), and twelve bytes
later delay and padding (12 bits each); at 154 a checksum of everything before it in the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

DECODER_DELAY = 529     # samples that every layer 3 decoder adds to the encoder's delay
DELAY_AT, CHECKSUM_AT = 141, 154    # bytes from the word Xing, where all fields are there
MOST = (1 << 12) - 1    # samples that delay or padding can say


class Bytes(Protocol):
    """As much of a file as is needed here."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int, /) -> int: ...


@dataclass(frozen=True)
class Xing:
    """What the header says, in samples per channel, and where it stands."""

    frame_at: int       # byte of the file where the MPEG frame begins
    word_at: int        # byte of the frame where the word Xing or Info stands
    frame_samples: int  # 1152 in MPEG 1, else 576
    coded: int          # samples in all frames; 0: not said
    delay: int
    padding: int


def id3_bytes(begin: bytes) -> int:
    """The size of the ID3 tag, cover art and all, that a file with this beginning starts with; 0 if there is none."""
    if begin[:3] != b"ID3" or len(begin) < 10:
        return 0
    b = begin[6:]
    return 10 + (b[0] << 21 | b[1] << 14 | b[2] << 7 | b[3]) + (10 if begin[5] & 0x10 else 0)


def find_xing(file: Bytes) -> Xing | None:
    """The header of the mp3 in `file`, which stands at its beginning; None if there is none."""
    frame_at, begin = 0, file.read(10)
    while size := id3_bytes(begin):     # some programs put a tag before the one that is there
        frame_at += size
        file.seek(size - len(begin), 1)
        begin = file.read(10)
    frame = begin + file.read(246)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:      # the sync word, and layer 3
        return None
    mpeg1, mono = frame[1] & 0x18 == 0x18, frame[3] >> 6 == 3
    at = 4 + {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[mpeg1, mono]
    if frame[at:at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(frame[at + 4:at + 8], "big")
    frames = int.from_bytes(frame[at + 8:at + 12], "big") if flags & 1 else 0
    lame = at + 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    known = len(frame) >= lame + 24 and frame[lame:lame + 4].strip(b"\0")
    ends = int.from_bytes(frame[lame + 21:lame + 24], "big") if known else 0
    samples = 1152 if mpeg1 else 576
    return Xing(frame_at, at, samples, frames * samples, ends >> 12, ends & MOST)


def with_ends(header: bytes, xing: Xing, delay: int, padding: int) -> bytes:
    """The first bytes of the MPEG frame, up to the checksum, with other ends; `header` holds at least so many."""
    at = xing.word_at + DELAY_AT
    changed = header[:at] + (delay << 12 | padding).to_bytes(3, "big") + header[at + 3:xing.word_at + CHECKSUM_AT]
    return changed + crc16(changed).to_bytes(2, "big")


def crc16(data: bytes) -> int:
    """CRC-16/ARC, the checksum of LAME's header.

    >>> hex(crc16(b"123456789"))
    '0xbb3d'
    """
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc
