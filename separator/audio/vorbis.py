"""Samples to Ogg Vorbis: libsndfile encodes, FFmpeg writes the tags and pages.

PyAV's wheels have only FFmpeg's own Vorbis encoder, which is experimental and knows no mono.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import IO

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from av.container import InputContainer
from av.packet import Packet

from separator.audio.encoder import describe, open_output
from separator.audio.formats import Cover, StemFormat
from separator.audio.pcm import Samples
from separator.audio.sink import SeekableSink, Sink
from separator.audio.tags import carried

# Nominal bits/s of libvorbis's qualities 0, 0.1, ... 1 for stereo at 44.1 kHz.
NOMINAL = (64_000, 80_000, 96_000, 112_000, 128_000, 160_000, 192_000, 224_000, 256_000, 320_000, 500_000)
SHORT_S = 4         # up to this length every packet has a page of its own
PIECE = 4096        # frames handed over at once; libsndfile keeps them on the stack


class VorbisEncoder:
    """As `Encoder`. The bare Vorbis file grows in `scratch`; `close` copies its packets into `sink`.

    Short files get one page per packet: FFmpeg finds the first frame's time only if the first page is not also the
    last, and cuts the end only if it knows where the last page begins. So the length is exact, down to one frame.
    """

    def __init__(
        self,
        sink: Sink,
        scratch: IO[bytes],
        fmt: StemFormat,
        rate: int,
        channels: int,
        tags: Mapping[str, str],
        cover: Cover | None,
    ) -> None:
        self._sink, self._fmt, self._rate, self._scratch = sink, fmt, rate, scratch
        self._tags = carried(tags, cover, "ogg")
        self._bare = SeekableSink(scratch, sink.name)
        self._done = 0
        self._held = np.empty((channels, 0), np.float32)
        quality = np.interp(fmt.bits_per_second(channels) * 2 / channels, NOMINAL, np.linspace(0, 1, len(NOMINAL)))
        self._file = soundfile.SoundFile(
            self._bare, "w", rate, channels, "VORBIS", format="OGG", compression_level=float(1 - quality)
        )

    def write(self, samples: Samples) -> None:
        """Encode float `[C, n]`, always in pieces of one length: libvorbis decides by what it has at hand."""
        self._done += samples.shape[1]
        held = np.concatenate([self._held, samples], axis=1)
        whole = held.shape[1] - held.shape[1] % PIECE
        for at in range(0, whole, PIECE):
            self._encode(held[:, at:at + PIECE])
        self._held = held[:, whole:].copy()

    def _encode(self, samples: Samples) -> None:
        self._file.write(np.ascontiguousarray(samples.T))
        self._sink.error = self._sink.error or self._bare.error

    def close(self) -> None:
        """Encode what is held back, and complete the file."""
        with self._scratch:
            if self._held.shape[1]:
                self._encode(self._held)
            self._file.close()
            self._sink.error = self._sink.error or self._bare.error
            if self._sink.error is None:
                self._scratch.seek(0)
                self._copy()

    def abort(self) -> None:
        """Let go of everything."""
        if self._scratch.closed:
            return
        self._bare.fail()
        with self._scratch:
            self._file.close()

    def _copy(self) -> None:
        pages = {"pagesize": "1"} if self._done < SHORT_S * self._rate else {}
        with (
            av.open(self._scratch, format="ogg", buffer_size=1 << 18) as bare,
            open_output(self._sink, self._fmt, pages) as out,
        ):
            source = bare.streams.audio[0]
            stream = out.add_stream_from_template(source)
            describe(out, stream, self._tags, "ogg")
            at = 0
            for number, (packet, length) in enumerate(_lengths(bare, source)):
                if at == self._done and number > 1:
                    break       # a last page without samples would confuse FFmpeg
                packet.stream, packet.time_base = stream, Fraction(1, self._rate)
                packet.pts = packet.dts = at
                packet.duration = min(length, self._done - at)      # the last block is cut where the stem ends
                at += packet.duration
                out.mux(packet)


def _lengths(bare: InputContainer, stream: AudioStream) -> Iterator[tuple[Packet[AudioStream], int]]:
    """All packets, and how many samples each completes: by decoding, as FFmpeg's guess errs at some page ends."""
    stream.codec_context.flags2 |= Flags2.skip_manual
    first = True    # a block sounds when the next one has come
    for packet in bare.demux(stream):
        if packet.size:
            length = sum(frame.samples for frame in packet.decode())
            yield packet, 0 if first else length
            first = False
