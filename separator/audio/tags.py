"""What a file says about itself: tags, cover art, and the facts that need no decoding."""

from __future__ import annotations

import base64
import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream

from separator.audio.container import open_song
from separator.audio.formats import AudioInfo, Cover

# Not about the song but about the file it stood in: these would be false in a stem's file.
OF_THE_FILE = frozenset({
    "encoder", "encoded_with", "tsse", "tlen", "duration", "length", "creation_time", "handler_name",
    "vendor_id", "major_brand", "minor_version", "compatible_brands", "itunsmpb", "itunnorm", "itunes_cddb_1",
    "metadata_block_picture", "coverart", "bps", "number_of_frames", "number_of_bytes",
    "time_reference", "umid", "coding_history", "originator_reference",
})
MIMES = {"mjpeg": "image/jpeg", "png": "image/png"}


def tags_of(container: InputContainer, stream: Stream) -> dict[str, str]:
    """The song's tags, keys in FFmpeg's names and lower case; of a video or a .stem.mp4, those of the whole file."""
    told = {**stream.metadata, **container.metadata}
    tags = {key.lower(): value for key, value in told.items() if value and (key, value) != ("language", "und")}
    return {key: value for key, value in tags.items() if key not in OF_THE_FILE and not key.startswith("_statistics")}


def cover_of(container: InputContainer) -> Cover | None:
    """The first JPEG or PNG that is attached as a picture. To be called before anything is demuxed."""
    for stream in container.streams.video:
        mime = MIMES.get(stream.codec_context.name if stream.codec_context else "")
        if mime and stream.disposition & Disposition.attached_pic:
            with contextlib.suppress(av.error.FFmpegError):
                packet = next(iter(container.demux(stream)), None)     # FFmpeg hands out the pictures first
                if packet is not None and packet.size:
                    return Cover(bytes(packet), mime)
    return None


def bit_depth_of(stream: AudioStream) -> int | None:
    """Bits of a sample as stored; None for lossy codecs."""
    context = stream.codec_context
    name = context.name
    if name.startswith("pcm_"):
        digits = "".join(c for c in name if c.isdigit())
        return int(digits) if digits else 16
    extra = context.extradata or b""
    if name == "flac" and len(extra) >= 34:     # STREAMINFO, RFC 9639, 8.2: five bits, less one
        return ((extra[12] & 1) << 4 | extra[13] >> 4) + 1
    if name == "alac" and len(extra) >= 36:
        return extra[17]
    return context.format.bits if name in ("wavpack", "tta", "ape") else None


def probe(source: Path | BinaryIO) -> AudioInfo:
    """What a song says about itself, without decoding it. Raises `AudioError`."""
    with open_song(source) as song:
        context = song.stream.codec_context
        return AudioInfo(
            sample_rate=context.sample_rate,
            channels=context.channels,
            duration_s=song.duration_s,
            codec=context.name,
            bit_depth=bit_depth_of(song.stream),
            tags=tags_of(song.container, song.stream),
        )


def read_tags(path: Path) -> dict[str, str]:
    """The tags of a file, keys in lower case. Raises `AudioError`."""
    return dict(probe(path).tags)


def picture_block(cover: Cover) -> str:
    """The cover as Ogg files carry it: a FLAC picture block (RFC 9639, 8.8) in base64, kind 3, front cover."""
    mime = cover.mime.encode()
    width, height, depth = image_size(cover)
    block = struct.pack(f">II{len(mime)}sI", 3, len(mime), mime, 0)
    block += struct.pack(">IIIII", width, height, depth, 0, len(cover.data)) + cover.data
    return base64.b64encode(block).decode()


def image_size(cover: Cover) -> tuple[int, int, int]:
    """Width and height in pixels and bits per pixel; zeros, which readers must accept, for what cannot be parsed."""
    data = cover.data
    if cover.mime == "image/png" and len(data) > 24:
        return (*struct.unpack(">II", data[16:24]), 24)
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:      # JPEG: from marker to marker until a start of frame
        if data[at + 1] in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack(">HH", data[at + 5:at + 9])
            return width, height, 24
        at += 2 + int.from_bytes(data[at + 2:at + 4], "big")
    return 0, 0, 0


def carried(tags: Mapping[str, str], cover: Cover | None, extension: str) -> dict[str, str]:
    """The tags as FFmpeg's muxer of that file type is to be given them: no empty values, no NULs, no = in a key."""
    given = {key.lower().replace("=", ""): value.replace("\0", " ") for key, value in tags.items()}
    given = {key: value for key, value in given.items() if key and value}
    if cover is not None and extension in ("ogg", "opus"):
        given["METADATA_BLOCK_PICTURE"] = picture_block(cover)
    return given
