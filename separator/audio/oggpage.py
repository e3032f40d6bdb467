"""The last page of an Ogg file (RFC 3533, 6): whether the file is whole, and where it ends."""

from __future__ import annotations

import zlib

END_OF_STREAM = 4       # flag
MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def end_of_ogg(tail: bytes) -> int | None:
    """The position, in samples, of the end of the stream; None if `tail` does not hold its whole last page."""
    at = tail.rfind(b"OggS\0")
    page = tail[at:] if at >= 0 else b""
    if len(page) < 27 or not page[5] & END_OF_STREAM:
        return None
    size = 27 + page[26] + sum(page[27:27 + page[26]])
    if len(page) < size or checksum(page[:22] + bytes(4) + page[26:size]) != int.from_bytes(page[22:26], "little"):
        return None
    return int.from_bytes(page[6:14], "little", signed=True)


def checksum(page: bytes) -> int:
    """The CRC-32 of a page whose checksum field is zero: zlib's polynomial, with all bits in the other order.

    >>> hex(checksum(b"123456789"))     # no reflection, no start value, no final inversion
    '0x89a1897f'
    """
    crc = zlib.crc32(page.translate(MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
