"""Floats to what an encoder takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from separator.audio.formats import BitDepth
from separator.dsp.rate import QUALITY, resampled_length

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pcm:
    """How samples are stored: FFmpeg's sample format, and the integers that it holds."""

    codec: str              # of a wav
    sample_format: str
    bits: int               # 0: floats
    shift: int = 0          # integers of fewer bits stand at the top of FFmpeg's


PCM: Mapping[BitDepth, Pcm] = {
    "16": Pcm("pcm_s16le", "s16", 16),
    "24": Pcm("pcm_s24le", "s32", 24, 8),
    "32f": Pcm("pcm_f32le", "flt", 0),
}


def to_integers(samples: Samples, pcm: Pcm) -> npt.NDArray[np.int16] | npt.NDArray[np.int32]:
    """Float `[C, n]` to integers, to the nearest, halves to even; full scale is 2^(bits - 1), what exceeds is clipped.

    x / 2^(bits - 1) of any integer x comes back as x, as float32 holds it exactly.
    """
    full = 2.0 ** (pcm.bits - 1)
    wide = np.multiply(samples, full, dtype=np.float32 if pcm.bits <= 16 else np.float64)
    np.rint(wide, out=wide)
    np.clip(wide, -full, full - 1, out=wide)
    return wide.astype(np.int16) if pcm.bits <= 16 else wide.astype(np.int32) << pcm.shift


class Resampler:
    """Blocks in, blocks at another rate out, whenever they are ready.

    `separator.dsp.rate.resample` pulls its blocks; a writer is pushed. Same filter, same length, same bits.
    """

    def __init__(self, source: int, target: int, channels: int) -> None:
        self._source, self._target = source, target
        self._stream = soxr.ResampleStream(source, target, channels, dtype="float32", quality=QUALITY)
        self._channels = channels
        self._read = self._written = 0

    def push(self, samples: Samples) -> Samples:
        """Take `[C, n]`, give `[C, m]`."""
        self._read += samples.shape[1]
        out: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples.T)).T
        self._written += out.shape[1]
        return out

    def rest(self) -> Samples:
        """What is left, so that the whole has the length `resampled_length` says, and at least one frame."""
        out: Samples = self._stream.resample_chunk(np.empty((0, self._channels), np.float32), last=True).T
        missing = max(1, resampled_length(self._read, self._source, self._target)) - self._written
        padded: Samples = np.pad(out[:, :missing], ((0, 0), (0, max(0, missing - out.shape[1]))))
        return padded
