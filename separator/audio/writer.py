"""Blocks to one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from separator.audio.encoder import Encoder
from separator.audio.formats import Cover, StemFormat
from separator.audio.pcm import Resampler, Samples
from separator.audio.place import FilePlace, StreamPlace
from separator.audio.vorbis import VorbisEncoder
from separator.errors import UsageError


class StemWriter:
    """Writes blocks `[C, n]` to a file that appears complete or not at all, or to a file object.

    `finish` completes the file and brings it to the disk, still under its temporary name; `commit` gives it its name;
    `abort` removes it. As a context manager it commits if all went well, and aborts on an exception.

    Integers that were read come back bit for bit in wav and flac of as many bits. Samples are rounded to the nearest,
    halves to even, and clipped at full scale; lossy encoders get them as they are. `clipped` counts those beyond full
    scale (none at 32f, which holds them), `peak` is the greatest magnitude, `frames` what was written so far.

    A rate that the file type cannot hold becomes the nearest it can: `written_rate`. As FFmpeg decodes the files, the
    number of frames is kept, down to one frame, by all but m4a: there FFmpeg decodes the last packet whole, up to 1023
    frames too many, though the file tells the true length, and players keep to it.

    Tags and cover are kept as far as the file type can: wav has no cover and only the tags with a name in FFmpeg's
    INFO list (album, artist, comment, copyright, date, genre, language, title, track); m4a has the tags that iTunes
    names. The `comment` is kept by all.

    Everything but wav is completed at its end: to a file object it goes when finished. A wav in a pipe has a header
    without length, as FFmpeg writes it.

    Raises `UsageError` for other than one or two channels, `AudioError` for a place that cannot be written,
    `ResourceError` for a full disk.
    """

    def __init__(
        self,
        path: Path | BinaryIO,
        fmt: StemFormat,
        sample_rate: int,
        channels: int,
        *,
        tags: Mapping[str, str] | None = None,
        cover: Cover | None = None,
    ) -> None:
        if channels not in (1, 2):
            raise UsageError(f"a stem has one or two channels, not {channels}")
        self.sample_rate, self.channels = sample_rate, channels
        self.written_rate = fmt.kind.nearest_rate(sample_rate)
        self.frames = self.clipped = 0
        self.peak = 0.0
        self._counts_clips = fmt.depth != "32f"
        same = self.written_rate == sample_rate
        self._resampler = None if same else Resampler(sample_rate, self.written_rate, channels)
        self._place: FilePlace | StreamPlace
        if isinstance(path, str | os.PathLike):
            self._place = FilePlace(Path(path))
        else:
            self._place = StreamPlace(path, whole=fmt.extension != "wav")
        self._state = "open"    # then finished, then committed; or aborted
        try:
            self._encoder = self._open(fmt, tags or {}, cover)
        except BaseException:
            self._place.abort()
            raise

    def _open(self, fmt: StemFormat, tags: Mapping[str, str], cover: Cover | None) -> Encoder | VorbisEncoder:
        sink, rate = self._place.sink, self.written_rate
        if fmt.extension == "ogg":
            return VorbisEncoder(sink, self._place.scratch(), fmt, rate, self.channels, tags, cover)
        return Encoder(sink, fmt, rate, self.channels, tags, cover)

    def write(self, block: Tensor) -> None:
        """Append a block `[C, n]` of finite samples."""
        assert self._state == "open", "nothing can be written after finish or abort"
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise ValueError(f"a block of {self.channels} channels has not the shape {tuple(block.shape)}")
        if not block.shape[1]:
            return
        samples: Samples = block.detach().cpu().float().numpy()
        peak = float(np.abs(samples).max())
        if not np.isfinite(peak):
            raise ValueError(f"a block from frame {self.frames} on holds samples that are not finite")
        if peak > 1 and self._counts_clips:
            self.clipped += int((np.abs(samples) > 1).sum())
        self.peak = max(self.peak, peak)
        self.frames += samples.shape[1]
        self._encoder.write(self._resampler.push(samples) if self._resampler else samples)
        self._place.sink.check()

    def finish(self) -> None:
        """Complete the file and bring it to the disk; it keeps its temporary name."""
        if self._state != "open":
            return
        if self._resampler and self.frames:
            self._encoder.write(self._resampler.rest())
        self._encoder.close()
        self._place.finish()
        self._state = "finished"

    def commit(self, *, replace: bool = True) -> None:
        """Give the file its name, in place of a file of that name; without `replace`, UsageError where there is one."""
        self.finish()
        if self._state == "finished":
            self._place.commit(replace=replace)
            self._state = "committed"

    def withdraw(self) -> None:
        """Undo `commit`: what has the name is removed, if it is what was written here."""
        self._place.withdraw()

    def abort(self) -> None:
        """Remove what was written; after `commit`, nothing."""
        self._place.sink.fail()
        if self._state == "open":
            self._encoder.abort()
        if self._state != "committed":
            self._place.abort()
            self._state = "aborted"

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.abort()
