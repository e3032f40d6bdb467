"""A song, opened by FFmpeg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer

from separator.audio.promise import Promise, promise_of, promise_of_pcm, promise_of_xing
from separator.audio.source import Source, open_source
from separator.audio.xing import find_xing
from separator.errors import AudioError


@dataclass(frozen=True)
class Song:
    """An open song: one audio stream, if not told otherwise the first, and how much of it the file promises."""

    name: str
    source: Source
    container: InputContainer
    stream: AudioStream
    promise: Promise

    @property
    def duration_s(self) -> float | None:
        """The container's estimate."""
        return self.container.duration / av.time_base if self.container.duration else None


@contextlib.contextmanager
def open_song(given: Path | BinaryIO, stream: int = 0) -> Iterator[Song]:
    """Let FFmpeg open a path or a file object, at its audio stream number `stream`.

    Raises `AudioError` where there is no audio to be had.
    """
    source, name = open_source(given)
    with contextlib.closing(source):
        head = promise_of_pcm(source.head())
        source.rewind()
        xing = find_xing(source.head())
        source.rewind()
        # A very short mp3 is too little for FFmpeg's guess, but its header is plain.
        with contextlib.closing(_open(source, name, "mp3" if xing else None)) as container:
            source.check()
            audio = _audio(container, name, stream)
            promise = head or (promise_of_xing(xing) if xing else promise_of(container, audio))
            yield Song(name, source, container, audio, promise)


def _open(source: Source, name: str, form: str | None) -> InputContainer:
    try:
        # No protocols: a playlist posing as a song must not make FFmpeg open other files or addresses.
        return av.open(
            source,
            "r",
            format=form,
            container_options={"protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=1 << 16,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        source.check()
        raise AudioError(
            f"{name} is not audio that FFmpeg can read", hint="is it complete, and really the type its name says?"
        ) from error


def _audio(container: InputContainer, name: str, number: int) -> AudioStream:
    if not container.streams.audio:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise AudioError(f"{name} has no audio stream, only {kinds}", hint="is it the right file?")
    if number >= len(container.streams.audio):
        raise AudioError(f"{name} has {len(container.streams.audio)} audio streams, and number {number} is asked for",
                         hint="a .stem.mp4 has five: the mixture and its four stems")
    stream = container.streams.audio[number]
    if getattr(stream, "codec_context", None) is None:
        raise AudioError(
            f"{name} has an audio codec that this FFmpeg does not know",
            hint="convert it to FLAC with the program that made it",
        )
    return stream
