"""Samples to a file by FFmpeg."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from fractions import Fraction

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from separator.audio.formats import Cover, StemFormat
from separator.audio.pcm import PCM, Samples, to_integers
from separator.audio.sink import SeekableSink, Sink
from separator.audio.tags import MIMES, carried
from separator.audio.xing import CHECKSUM_AT, DECODER_DELAY, MOST, find_xing, with_ends

BITEXACT = {"fflags": "+bitexact"}      # no versions, dates or random serials: same input, same bytes
LAYOUTS = {1: "mono", 2: "stereo"}
LOSSY_FORMATS = {"mp3": "fltp", "m4a": "fltp", "opus": "flt"}   # the samples that these encoders take
OPUS_MOST = 256_000     # bits/s for each channel that libopus accepts through FFmpeg
LAME_DELAY = 576        # samples


class Encoder:
    """One audio stream, with tags and cover, into `sink`. Errors of the disk show in `sink.check`."""

    def __init__(
        self, sink: Sink, fmt: StemFormat, rate: int, channels: int, tags: Mapping[str, str], cover: Cover | None
    ) -> None:
        self._sink, self._fmt, self._rate, self._layout = sink, fmt, rate, LAYOUTS[channels]
        self._pcm = PCM[fmt.depth] if fmt.depth else None
        self._format = self._pcm.sample_format if self._pcm else LOSSY_FORMATS[fmt.extension]
        self._done = 0
        self._container = open_output(sink, fmt, _muxer_options(fmt, rate))
        self._stream = self._add_stream(channels)
        describe(self._container, self._stream, carried(tags, cover, fmt.extension), fmt.extension)
        picture = _add_picture(self._container, cover, fmt.extension)
        self._container.start_encoding()
        if picture is not None:
            self._container.mux(picture)
        self._lead = _lead(fmt, rate)
        if self._lead:
            self._encode(np.zeros((channels, self._lead), np.float32))

    def _add_stream(self, channels: int) -> AudioStream:
        name = self._pcm.codec if self._pcm and self._fmt.extension == "wav" else self._fmt.kind.codec
        options = {"flags": "+bitexact"}
        if not self._pcm:
            most = OPUS_MOST * channels if self._fmt.extension == "opus" else self._fmt.kind.bitrates[1]
            options["b"] = str(min(self._fmt.bits_per_second(channels), most))
        stream = self._container.add_stream(name, rate=self._rate, layout=self._layout, options=options)
        assert isinstance(stream, AudioStream)
        stream.format = self._format
        return stream

    def write(self, samples: Samples) -> None:
        """Encode float `[C, n]`."""
        if samples.shape[1]:
            self._encode(samples)

    def _encode(self, samples: Samples) -> None:
        data = to_integers(samples, self._pcm) if self._pcm and self._pcm.bits else samples
        data = np.ascontiguousarray(data if self._format.endswith("p") else data.T.reshape(1, -1))
        frame = AudioFrame.from_ndarray(data, format=self._format, layout=self._layout)
        frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._done
        self._done += samples.shape[1]
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Encode what is held back, and complete the file."""
        if self._done:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if self._fmt.extension == "mp3" and isinstance(self._sink, SeekableSink):
            _mend_ends(self._sink, self._lead, self._done - self._lead)

    def abort(self) -> None:
        """Let go of everything; the sink must have failed before."""
        with contextlib.suppress(av.error.FFmpegError):
            self._container.close()


def open_output(sink: Sink, fmt: StemFormat, options: Mapping[str, str]) -> OutputContainer:
    """A file of that type in `sink`."""
    return av.open(sink, "w", format=fmt.kind.muxer, options={**BITEXACT, **options}, buffer_size=1 << 18)


def describe(container: OutputContainer, stream: Stream, tags: Mapping[str, str], extension: str) -> None:
    """Set the tags where the muxer looks for them: Ogg files have them in the stream."""
    (stream if extension in ("ogg", "opus") else container).metadata.update(tags)


def _muxer_options(fmt: StemFormat, rate: int) -> dict[str, str]:
    """RF64 beyond 4 GiB; an m4a's kind, and its length to the frame, which FFmpeg else rounds to milliseconds."""
    m4a = {"brand": "M4A ", "movie_timescale": str(rate)}
    return {"wav": {"rf64": "auto"}, "m4a": m4a}.get(fmt.extension, {})


def _add_picture(container: OutputContainer, cover: Cover | None, extension: str) -> Packet[Stream] | None:
    """Add the stream of a cover, where the file type has them; returns its packet."""
    if cover is None or extension not in ("mp3", "flac", "m4a"):
        return None
    form = {mime: codec for codec, mime in MIMES.items()}[cover.mime].replace("mjpeg", "jpeg") + "_pipe"
    with contextlib.suppress(av.error.FFmpegError), av.open(io.BytesIO(cover.data), format=form) as picture:
        if not picture.streams.video[0].codec_context.width:
            return None
        stream = container.add_stream_from_template(picture.streams.video[0])
        stream.disposition = Disposition.attached_pic
        packet: Packet[Stream] = Packet(cover.data)
        packet.stream = stream
        packet.pts = packet.dts = 0
        return packet
    return None


def _lead(fmt: StemFormat, rate: int) -> int:
    """Silence that an mp3 of the short MPEG frames, below 32 kHz, starts with.

    Added to LAME's delay and the decoder's it fills two frames. FFmpeg cannot cut at both ends of one frame.
    """
    return 2 * 576 - LAME_DELAY - DECODER_DELAY if fmt.extension == "mp3" and rate < 32000 else 0


def _mend_ends(sink: SeekableSink, lead: int, frames: int) -> None:
    """Write the true delay and padding into an mp3's header.

    FFmpeg knows nothing of the lead, and of the padding only what is in the last packet; LAME's delay can make it
    more.
    """
    sink.seek(0)
    xing = find_xing(sink)
    if xing is not None:
        delay = xing.delay + lead
        padding = xing.coded - delay - frames
        sink.seek(xing.frame_at)
        header = sink.read(xing.word_at + CHECKSUM_AT)
        if 0 <= padding <= MOST and len(header) == xing.word_at + CHECKSUM_AT:
            sink.seek(xing.frame_at)
            sink.write(with_ends(header, xing, delay, padding))
    sink.seek(0, os.SEEK_END)
