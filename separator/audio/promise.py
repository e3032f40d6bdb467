"""What a file promises in its header, and whether it kept it: how a truncated song is told from a short one.

FFmpeg reads what is there and stops without a word. These file types say beforehand how much there should be:

| file | promise |
|---|---|
| wav, RF64, w64, au | size of the samples (none in recordings of unknown length: 0, about 2^31 - 1 or 2^32 - 1) |
| aiff, caf | number of frames; in a caf with a packet table, of packets, less one |
| flac, wavpack, tta | number of frames (none if it says 0) |
| mp3 | number of MPEG frames in a Xing or Info header (none without one) |
| mp4, m4a, mov | number of packets in the sample table that the edit list leaves in; of PCM, their bytes |
| ogg, opus (of one audio stream, and covers) | the last page says that it is the last, and how many frames there were |
| wma, matroska (of the same) | duration, to a quarter of a second |

A raw stream (aac, mp3 without a header) promises nothing: cut between two frames it is just a shorter song.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from separator.audio.oggpage import end_of_ogg
from separator.audio.pcmhead import read_pcm_head
from separator.audio.xing import DECODER_DELAY, Xing

VORBIS_SLACK = 2048     # samples by which FFmpeg may misplace a Vorbis packet, or misjudge the first and the last
# Narrow-band packets come 0.5 ms late, and in chained files the later ones begin with what nobody is to hear.
_OPUS_SLACK_S = dict.fromkeys(("opus", "libopus"), 0.008)
COARSE_S = 0.25         # durations in milliseconds, and of the longest stream, are believed to this


@dataclass(frozen=True)
class Promise:
    """Of a song: `frames` (samples per channel), `packets` or their `size` in bytes, a duration `at_least_s`, or an end
    in its last Ogg page."""

    frames: int | None = None
    packets: int | None = None
    size: int | None = None
    at_least_s: float | None = None
    ogg: bool = False
    ogg_delay: int = 0      # samples that an Ogg page's position counts and nobody hears
    ogg_slack: int = 0      # samples that may lack

    def broken(self, frames: int, packets: int, size: int, start: int, sample_rate: int, tail: bytes) -> str:
        """Why a song that ended after so many frames, the first at time stamp `start`, is not whole.

        Empty where it is, or where nobody can tell. `size` is that of its packets in bytes, `tail` the last bytes of
        the file.
        """
        if self.frames is not None and frames < self.frames:
            return f"its header promises {self.frames} frames, there are {frames}"
        if self.packets is not None and packets < self.packets:
            return f"its index lists {self.packets} packets, there are {packets}"
        if self.size is not None and size < self.size:
            return f"its index lists {self.size} bytes of audio, there are {size}"
        if self.at_least_s is not None and frames / sample_rate < self.at_least_s:
            return f"its header promises {self.at_least_s + COARSE_S:.1f} s"
        if self.ogg:
            end = end_of_ogg(tail)
            if end is None:
                return "its last page is missing or damaged"
            if end - self.ogg_delay - self.ogg_slack > start + frames:
                return f"its last page ends with frame {end - self.ogg_delay}, there are {frames}"
        return ""


def promise_of(container: InputContainer, stream: AudioStream) -> Promise:
    """What an open file of another type than those of `pcmhead` and mp3 says."""
    names = set(container.format.name.split(","))
    codec = stream.codec_context.name
    if names & {"flac", "wv", "tta"} and stream.duration and stream.time_base:
        return Promise(frames=round(stream.duration * stream.time_base * stream.sample_rate))
    index = len(stream.index_entries)
    if stream.frames and (names & {"aiff"} or (names & {"caf"} and not index)):
        return Promise(frames=stream.frames)
    if names & {"caf"} and index:       # where it counts frames, it counts whole packets, though the song ends in one
        return Promise(packets=index - 1)       # FFmpeg's own flac has one more, which is empty
    if names & {"mp4"} and stream.frames:       # which counts also what an edit list leaves out; the index does not
        if codec.startswith("pcm"):             # whose last packet may be cut, and still be decoded
            return Promise(size=sum(entry.size for entry in stream.index_entries))
        return Promise(packets=index)
    alone = _sound_only(container) and len(container.streams.audio) == 1
    if names & {"ogg"} and alone:
        extra = stream.codec_context.extradata or b""
        delay = int.from_bytes(extra[10:12], "little") if codec in ("opus", "libopus") else 0   # RFC 7845, 5.1
        slack = VORBIS_SLACK if codec == "vorbis" else round(_OPUS_SLACK_S.get(codec, 0) * stream.sample_rate)
        return Promise(ogg=True, ogg_delay=delay, ogg_slack=slack)
    if names & {"asf", "matroska"} and alone and container.duration:    # the duration is where the last stream ends
        start_s = float((stream.start_time or 0) * (stream.time_base or 0))
        return Promise(at_least_s=container.duration / av.time_base - start_s - COARSE_S)
    return Promise()


def gap_tolerance(container: InputContainer, stream: AudioStream) -> float | None:
    """By how many seconds time stamps may run ahead of the audio; None where that says nothing about damage.

    FFmpeg's of Vorbis are a little off where a page ends with a short block. What is lost of an Ogg file is a page.
    """
    names = set(container.format.name.split(","))
    if names & {"flac", "ogg"}:
        codec = stream.codec_context.name
        return VORBIS_SLACK / stream.sample_rate if codec == "vorbis" else _OPUS_SLACK_S.get(codec, 1e-6)
    return 0.1 if names & {"asf", "matroska"} and _sound_only(container) else None


def _sound_only(container: InputContainer) -> bool:
    return all(s.type == "audio" or s.disposition & Disposition.attached_pic for s in container.streams)


def promise_of_pcm(file: BinaryIO) -> Promise | None:
    """What a wav, w64 or au says in its first bytes, which FFmpeg corrects silently; None if it says nothing."""
    head = read_pcm_head(file)
    return Promise(frames=head.frames) if head else None


def promise_of_xing(xing: Xing) -> Promise:
    """What an mp3 says, less two MPEG frames: some encoders count the header itself as a frame."""
    ends = xing.delay + max(xing.padding, DECODER_DELAY)
    return Promise(frames=max(0, xing.coded - ends - 2 * xing.frame_samples) if xing.coded else None)
