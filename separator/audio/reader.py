"""Songs to blocks."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av.error
import numpy as np
import numpy.typing as npt
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.filter import Graph
from av.packet import Packet
from torch import Tensor

from separator.audio.container import Song, open_song
from separator.audio.promise import gap_tolerance
from separator.audio.tags import bit_depth_of, cover_of, tags_of
from separator.errors import AudioError, UsageError

Samples = npt.NDArray[np.float32]

# Full scale of FFmpeg's sample formats, packed or planar. 8 bit is unsigned, centred on 128.
FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}
# Layouts that FFmpeg assumes for a channel count where the file names none.
LAYOUTS = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
FOR_EVER = 2**62    # frames; what is more may be beyond all integers
CHECKED = ("flac", "wavpack", "tta", "ape")    # codecs with checksums
TAGS = (b"TAG", b"APETAGEX", b"LYRICS", b"ID3")     # what may lie around an mp3's audio


class EndedBefore(AudioError):
    """The song ends before the part that was asked for begins."""


class AudioReader:
    """A song as float32 blocks `[C, n]`, all of `block` frames but the last.

    Reads whatever FFmpeg reads: files, videos, the mixture of a .stem.mp4, and file objects, also ones that cannot
    seek. Integers become x / 2^(bits - 1), exactly up to 24 bits. The length is FFmpeg's: an encoder's delay and
    padding are cut where the file tells them (mp3, opus, vorbis; of aac the delay, while the padding of the last
    packet, up to 1023 frames, stays).

    `start_s` and `duration_s` cut the decoded song at the nearest frame; what lies before is decoded and dropped, so
    the result equals a slice of the whole. A duration may reach beyond the end, a start may not.

    More than two channels are refused, unless `downmix`: then FFmpeg's matrix makes stereo of them, scaled so that
    it cannot clip, as `ffmpeg -ac 2` does for integers.

    What is broken is refused, when the reading gets there, with the time where it broke: never a shorter song, never
    silence in the place of damage. That is: an error of the decoder or demuxer; a gap in the time stamps of flac,
    ogg, or (over 0.1 s) of wma and matroska files that hold nothing but audio; an end before the frames that the
    header promises (see `promise`); NaN or infinity. Whoever wants the part before the damage asks for it by
    `duration_s`. Not noticed: damage that a decoder itself bridges without a word, a raw stream without a header
    (mp3 without Xing, aac) that was cut between two frames, and wrong bits in a PCM file, which has no checksums.

    Attributes: `sample_rate` (Hz), `channels`, `tags`, `cover`, `duration_s` (estimate of the container for the whole
    song, or None), `codec`, `bit_depth` (None for lossy), `name` (for messages).
    """

    def __init__(
        self,
        source: Path | BinaryIO,
        *,
        start_s: float = 0.0,
        duration_s: float | None = None,
        downmix: bool = False,
        stream: int = 0,
        block: int = 65536,
    ) -> None:
        if not start_s >= 0 or (duration_s is not None and not duration_s > 0) or block < 1:
            raise UsageError(
                f"cannot read {duration_s} s from {start_s} s on", hint="a start is at least 0, a duration more than 0"
            )
        self._start_s, self._wanted_s, self._block = start_s, duration_s, block
        with contextlib.ExitStack() as stack:
            self._song = stack.enter_context(open_song(source, stream))
            self._describe(self._song)
            self._frames = self._decode()
            first = next(self._frames, None)    # only the first frame tells for sure: HE-AAC doubles its rate
            if first is None:
                raise AudioError(f"{self.name} has no audio in it: 0 frames", hint="was the recording ever started?")
            self._settle(first, downmix)
            self._frames = itertools.chain([first], self._frames)
            self._closing = stack.pop_all()

    def _describe(self, song: Song) -> None:
        """Take what the container says."""
        context = song.stream.codec_context
        if context.name in CHECKED:
            context.options = {"err_detect": "crccheck+explode"}    # else FFmpeg plays over wrong checksums
        self.name, self.codec, self.duration_s = song.name, context.name, song.duration_s
        self.bit_depth = bit_depth_of(song.stream)
        self.tags = tags_of(song.container, song.stream)
        self.cover = cover_of(song.container)
        self._stopped: Exception | None = None
        self._gap_s, self._origin_s = gap_tolerance(song.container, song.stream), 0.0

    def _settle(self, first: AudioFrame, downmix: bool) -> None:
        """Take rate and channels from the first frame."""
        self.sample_rate = first.sample_rate
        given = first.layout.nb_channels
        if given > 2 and not downmix:
            raise AudioError(f"{self.name} has {given} channels", hint="mix them down to stereo with --downmix")
        self.channels = min(given, 2)
        self._most = math.inf if downmix and given > 1 else given       # channels that a frame may have
        self._convert = {(first.format.name, first.layout.name): _converter(first, self.channels)}

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._closing.close()

    def __iter__(self) -> Iterator[Tensor]:
        """The blocks. There is one pass: a second iteration goes on where the first stopped."""
        at = self._frame_at(self._start_s)
        for block in _regroup(self._cut(self._arrays()), self._block):
            if not np.isfinite(block).all():
                self._refuse_nan(block, at)
            at += block.shape[1]
            yield torch.from_numpy(block)

    def _arrays(self) -> Iterator[Samples]:
        """All frames as `[C, n]`."""
        for frame in self._frames:
            if frame.sample_rate != self.sample_rate:
                raise AudioError(
                    f"{self.name} changes from {self.sample_rate} to {frame.sample_rate} Hz in the middle",
                    hint="convert it first: ffmpeg -i SONG song.flac",
                )
            if frame.layout.nb_channels > self._most:       # fewer are spread over those that there were
                down = "mix them down to stereo with --downmix" if self._most > 1 else ""
                raise AudioError(
                    f"{self.name} changes from {self._most} to {frame.layout.nb_channels} channels in the middle",
                    hint=down or "convert it first: ffmpeg -i SONG -ac 2 song.flac",
                )
            key = (frame.format.name, frame.layout.name)
            if key not in self._convert:
                self._convert[key] = _converter(frame, self.channels)
            yield self._convert[key](frame)

    def _cut(self, arrays: Iterator[Samples]) -> Iterator[Samples]:
        """What lies between start and end."""
        start = self._frame_at(self._start_s)
        end = None if self._wanted_s is None else self._frame_at(self._start_s + self._wanted_s)
        at, some = 0, False
        for array in arrays:
            kept = array[:, max(0, start - at): None if end is None else max(0, end - at)]
            at += array.shape[1]
            if kept.shape[1]:
                some = True
                yield kept
            if end is not None and at >= end and at > start:
                break
        if start and at <= start:
            raise EndedBefore(
                f"{self.name} is {at / self.sample_rate:.3f} s long, it has nothing from {self._start_s:g} s on",
                hint="choose an earlier --start",
            )
        if self._wanted_s is not None and not some:
            raise AudioError(f"of {self.name}, {self._wanted_s:g} s are less than a frame at {self.sample_rate} Hz",
                             hint="choose a longer --duration")

    def _frame_at(self, seconds: float) -> int:
        return round(min(seconds * self.sample_rate, FOR_EVER))

    def _decode(self) -> Iterator[AudioFrame]:
        """All frames of the first audio stream; damage ends in an `AudioError`."""
        done = packets = size = 0
        junk: Exception | None = None
        for packet in self._packets():
            packets += bool(packet.size)
            size += packet.size
            try:
                decoded = packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                self._song.source.check()
                if not _is_junk(bytes(packet)):
                    raise self._damage(done, "the decoder cannot go on") from error
                junk = error if done else None      # before and after the audio it is harmless
                continue
            for frame in decoded:
                if junk is not None:
                    raise self._damage(done, "there is something other than audio") from junk
                self._check_gap(frame, done)
                done += frame.samples
                yield frame
        self._song.source.check()
        if self._stopped is not None and done < (self._song.promise.frames or done + 1):
            raise self._damage(done, "the file is damaged or cut off") from self._stopped
        start = round(self._origin_s * self._rate())
        fault = self._song.promise.broken(done, packets, size, start, self._rate(), self._song.source.tail())
        if done and fault:
            raise self._damage(done, f"the file ends too early: {fault}")

    def _packets(self) -> Iterator[Packet[AudioStream]]:
        """The stream's packets, and an empty one at the end that makes the decoder give what it holds back."""
        try:
            yield from self._song.container.demux(self._song.stream)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._stopped = error   # a wavpack in a pipe ends so

    def _check_gap(self, frame: AudioFrame, done: int) -> None:
        """Raise where the time stamps jump ahead: a demuxer drops what fails its checksum without a word."""
        if self._gap_s is None or frame.pts is None:
            return
        ahead_s = float(frame.pts * (frame.time_base or 0)) - done / frame.sample_rate
        self._origin_s = ahead_s if done == 0 else min(self._origin_s, ahead_s)     # a chained file starts again at 0
        if ahead_s - self._origin_s > self._gap_s:
            raise self._damage(done, f"{ahead_s - self._origin_s:.3f} s of audio are missing")

    def _rate(self) -> int:
        return self._song.stream.codec_context.sample_rate or 1

    def _damage(self, done: int, fact: str) -> AudioError:
        """The error for a song that was in order for `done` frames."""
        if not done:
            return AudioError(f"{self.name} cannot be decoded: {fact}", hint="get a whole copy of the file")
        at_s = done / self._rate()
        before_s = math.floor((at_s - self._start_s) * 10) / 10
        rest = f", or take the part before with --duration {before_s:g}" if before_s > 0 else ""
        return AudioError(f"{self.name} is damaged at {at_s:.3f} s: {fact}", hint=f"get a whole copy{rest}")

    def _refuse_nan(self, block: Samples, at: int) -> None:
        channel, frame = (int(i) for i in min(np.argwhere(~np.isfinite(block)), key=lambda found: found[1]))
        value = "NaN" if np.isnan(block[channel, frame]) else "infinite"
        raise AudioError(
            f"{self.name}: sample {at + frame} of channel {channel + 1} ({(at + frame) / self.sample_rate:.3f} s)"
            f" is {value}",
            hint="mend it in an audio editor, or leave it out with --start and --duration",
        )


def _is_junk(data: bytes) -> bool:
    """Whether bytes that do not decode are known not to be audio: tags around an mp3, or zeros that fill a block."""
    return data.startswith(TAGS) or not data.strip(b"\0")


def _converter(frame: AudioFrame, channels: int) -> Callable[[AudioFrame], Samples]:
    """What turns frames like this one into `[channels, n]`."""
    if frame.layout.nb_channels == channels and frame.format.planar.name[:-1] in FULL_SCALE:
        return _samples
    layout = frame.layout.name
    layout = layout if not layout.endswith("channels") else LAYOUTS.get(frame.layout.nb_channels, layout)
    # `rematrix_maxval` scales the matrix so that full scale in is at most full scale out.
    mixer = Graph()     # not AudioResampler: it takes options from PyAV 18 on only, which has no Python 3.10
    rate, form = frame.sample_rate, frame.format.name
    entry = mixer.add_abuffer(sample_rate=rate, format=form, layout=layout, time_base=Fraction(1, rate))
    matrix = mixer.add("aresample", f"rematrix_maxval=1:ochl={'mono' if channels == 1 else 'stereo'}:osf=fltp")
    leave = mixer.add("abuffersink")
    entry.link_to(matrix)
    matrix.link_to(leave)
    mixer.configure()

    def mix(frame: AudioFrame) -> Samples:
        named = AudioFrame.from_ndarray(frame.to_ndarray(), format=form, layout=layout)
        named.sample_rate = rate
        mixer.push(named)
        mixed = mixer.pull()
        assert isinstance(mixed, AudioFrame)
        return _samples(mixed)

    return mix


def _samples(frame: AudioFrame) -> Samples:
    """A frame as float32 `[C, n]`."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    scale = FULL_SCALE[frame.format.planar.name[:-1]]
    if scale == 1.0:
        return data.astype(np.float32)
    floats = data.astype(np.float32)
    if data.dtype == np.uint8:
        floats -= 128.0
    floats *= np.float32(1 / scale)
    return floats


def _regroup(arrays: Iterator[Samples], length: int) -> Iterator[Samples]:
    """Arrays `[C, any]` as contiguous arrays `[C, length]`, the last one shorter."""
    held: list[Samples] = []
    count = 0
    for array in arrays:
        held.append(array)
        count += array.shape[1]
        if count < length:
            continue
        joined = np.concatenate(held, axis=1)
        whole = count - count % length
        for at in range(0, whole, length):
            yield np.ascontiguousarray(joined[:, at:at + length])
        held, count = [joined[:, whole:]], count - whole
    if count:
        yield np.ascontiguousarray(np.concatenate(held, axis=1))
