"""What the audio edge hands over: the format of a stem, the facts about a song, a cover picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from separator.errors import UsageError

Extension = Literal["wav", "flac", "mp3", "ogg", "opus", "m4a"]
BitDepth = Literal["16", "24", "32f"]


@dataclass(frozen=True)
class Kind:
    """One file type that can be written: FFmpeg's names for it, and what it can hold."""

    muxer: str
    codec: str
    bit_depths: tuple[str, ...] = ()        # empty: lossy
    rates: tuple[int, ...] = ()             # Hz; empty: any up to `top_rate`
    top_rate: int = 2**31 - 1               # Hz
    bitrates: tuple[int, int] = (0, 0)      # bits/s, lowest and highest that may be asked for
    default_bitrate: int = 0                # bits/s for stereo; mono takes half

    def nearest_rate(self, rate: int) -> int:
        """The rate in Hz nearest to `rate` that this file type can hold; of two equally near, the higher."""
        if not self.rates:
            return min(rate, self.top_rate)
        return min(self.rates, key=lambda held: (abs(held - rate), -held))


# Rates: those FFmpeg's encoders declare. Opus always decodes at 48 kHz, whatever it was made from (RFC 7845, 5.1), so
# other rates would come back changed. FLAC: STREAMINFO has 20 bits for the rate, but 655350 Hz is the most a frame
# header can say. Vorbis: the highest rate that FFmpeg decodes to the right length.
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
KINDS: Mapping[str, Kind] = {
    "wav": Kind("wav", "pcm", bit_depths=("16", "24", "32f")),
    "flac": Kind("flac", "flac", bit_depths=("16", "24"), top_rate=655350),
    "mp3": Kind("mp3", "libmp3lame", rates=MP3_RATES, bitrates=(8_000, 320_000), default_bitrate=256_000),
    "ogg": Kind("ogg", "libvorbis", top_rate=192000, bitrates=(32_000, 500_000), default_bitrate=192_000),
    "opus": Kind("opus", "libopus", rates=(48000,), bitrates=(6_000, 512_000), default_bitrate=160_000),
    "m4a": Kind("mp4", "aac", rates=AAC_RATES, bitrates=(8_000, 512_000), default_bitrate=256_000),
}


@dataclass(frozen=True)
class StemFormat:
    """How a stem is written. `bit_depth` is for wav and flac (16 if not said), `bitrate` in bits/s for the others.

    Bit rates are the encoder's target: an encoder that cannot go so high at a low sample rate stays at its limit.
    Raises `UsageError` for a combination that means nothing.
    """

    extension: Extension = "wav"
    bit_depth: BitDepth | None = None
    bitrate: int | None = None

    def __post_init__(self) -> None:
        kind = KINDS.get(self.extension)
        if kind is None:
            raise UsageError(f"format {self.extension!r} is unknown", hint=f"formats: {', '.join(KINDS)}")
        if self.bit_depth is not None and self.bit_depth not in kind.bit_depths:
            depths = ", ".join(kind.bit_depths)
            raise UsageError(
                f"{self.extension} has no bit depth {self.bit_depth}",
                hint=f"{self.extension} takes {depths}" if depths else f"{self.extension} takes a bit rate instead",
            )
        if self.bitrate is None:
            return
        if kind.bit_depths:
            raise UsageError(f"{self.extension} has no bit rate", hint="give a bit depth, or take another format")
        low, high = kind.bitrates
        if not low <= self.bitrate <= high:
            raise UsageError(
                f"{self.extension} has no bit rate of {self.bitrate} bits/s",
                hint=f"give {low // 1000}k to {high // 1000}k",
            )

    @property
    def kind(self) -> Kind:
        return KINDS[self.extension]

    @property
    def depth(self) -> BitDepth | None:
        """The bit depth that is written; None for the lossy formats, which have none."""
        return (self.bit_depth or "16") if self.kind.bit_depths else None

    def bits_per_second(self, channels: int) -> int:
        """The bit rate asked of a lossy encoder."""
        return self.bitrate or self.kind.default_bitrate * channels // 2


@dataclass(frozen=True)
class Cover:
    """A cover picture, as it stood in the file: the bytes of a JPEG or PNG."""

    data: bytes
    mime: str       # image/jpeg or image/png


@dataclass(frozen=True)
class AudioInfo:
    """What a file says about itself, found without decoding it."""

    sample_rate: int            # Hz
    channels: int
    duration_s: float | None    # the container's estimate
    codec: str                  # FFmpeg's name
    bit_depth: int | None       # of a sample in lossless formats; None for lossy ones
    tags: Mapping[str, str] = field(default_factory=dict)   # keys in lower case
