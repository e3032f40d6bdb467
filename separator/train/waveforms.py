"""Changes of the training material that need the waveform: speed, width, soft clipping, rooms, loudness.

Plain functions of audio `[..., T]`, and `Waveforms`, which draws their amounts for a row and applies them in the order
of the studio: the recording's speed, the amplifier, the stereo image, the room, the level.
"""

from __future__ import annotations

import math

import numpy as np
import soxr
import torch
from torch import Tensor

from separator.train.augment import Augment, Change
from separator.train.loudness import fast_length, loudness

MARGIN = 128  # samples at either end of a resampled excerpt that hear of the silence beyond: cut off
GAP_S = 0.005  # from the direct sound to the first of the tail: a wall less than a metre behind


def at_speed(audio: Tensor, speed: float) -> Tensor:
    """The audio played faster: frequencies times `speed`, length over `speed`. Shape: `[..., T]` -> `[..., T/speed]`.

    Band-limited: what would exceed half the sample rate is filtered out, not folded back.
    """
    flat = audio.reshape(-1, audio.shape[-1]).numpy()
    out = soxr.resample(np.ascontiguousarray(flat.T), speed, 1.0, "HQ")  # 20 bits: the material has 16
    return torch.from_numpy(np.ascontiguousarray(out.T)).view(*audio.shape[:-1], -1)


def widened(audio: Tensor, width: float) -> Tensor:
    """Side signal times `width`; the middle stays. Shape: `[..., 2, T]`, two channels."""
    left, right = audio[..., 0, :], audio[..., 1, :]
    middle, side = (left + right) / 2, (left - right) / 2 * width
    return torch.stack([middle + side, middle - side], dim=-2)


def soft_clipped(audio: Tensor, drive_db: float) -> Tensor:
    """tanh(d x / peak), brought back to the root mean square of x, where d is `drive_db` as a factor. Same shape.

    Relative to the peak, so that `soft_clipped(a * x) == a * soft_clipped(x)`. Not oversampled: the highest harmonics
    fold back, as in most digital recordings that clip. Silence stays.
    """
    peak = audio.abs().max()
    if peak == 0:
        return audio
    bent = torch.tanh(audio * (10 ** (drive_db / 20) / peak))
    return bent * (audio.square().mean() / bent.square().mean()).sqrt()


def room(rt60_s: float, direct_db: float, sample_rate: int, rng: np.random.Generator) -> Tensor:
    """Impulse response of a synthetic room, of unit energy. Shape: `[2, round((GAP_S + rt60_s) * sample_rate)]`.

    A direct path at sample 0, then, `GAP_S` later, Gaussian noise that decays by 60 dB in `rt60_s` and has `direct_db`
    less energy than the direct path; the two channels' tails are independent, as in a diffuse field. The model is that
    of Moorer, "About this reverberation business", Computer Music Journal 3(2), 1979; the decay is the same at all
    frequencies, while real rooms lose the treble first.
    """
    gap, length = round(GAP_S * sample_rate), max(round(rt60_s * sample_rate), 1)
    decay = np.exp(-3 * math.log(10) * np.arange(length) / length)  # amplitude 10^-3: -60 dB
    tail = rng.standard_normal((2, length)) * decay
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.square(tail).sum(axis=1, keepdims=True))
    response = np.concatenate([np.zeros((2, gap)), tail], axis=1)
    response[:, 0] += 1.0
    return torch.from_numpy((response / np.sqrt(1 + 10 ** (-direct_db / 10))).astype(np.float32))


def convolved(audio: Tensor, response: Tensor) -> Tensor:
    """Linear convolution, the tail beyond the audio's end cut off. Shape: `[..., T]` with `[..., R]` -> `[..., T]`."""
    length = audio.shape[-1]
    points = fast_length(length + response.shape[-1] - 1)
    spectrum = torch.fft.rfft(audio, points).mul_(torch.fft.rfft(response, points))
    whole: Tensor = torch.fft.irfft(spectrum, points)
    return whole[..., :length]


class Waveforms:
    """Draws and applies the waveform changes of a row. Where no change happens the row stays bit for bit."""

    def __init__(self, augment: Augment, sample_rate: int) -> None:
        self.augment = augment
        self.sample_rate = sample_rate

    def speed(self, rng: np.random.Generator) -> float:
        """Playback speed of the next row: the one change that must be known before the row is read."""
        return _drawn(self.augment.speed, rng) or 1.0

    @staticmethod
    def frames(length: int, speed: float) -> int:
        """Samples to read for a row of `length` samples at `speed`."""
        return length if speed == 1 else math.ceil((length + 2 * MARGIN) * speed)

    def apply(self, row: Tensor, speed: float, length: int, rng: np.random.Generator) -> Tensor:
        """The changed row. Shape: `[S, 2, frames(length, speed)]` -> `[S, 2, length]`."""
        if speed != 1:
            row = at_speed(row, speed)[..., MARGIN : MARGIN + length]
        stems = list(row)
        changed = [self._stem(stem, rng) for stem in stems]
        if any(new is not old for new, old in zip(changed, stems, strict=True)):
            row = torch.stack(changed)
        if self.augment.loudness.of == "mix":
            row = self._levelled(row, row.sum(dim=0), rng)
        return row

    def _stem(self, stem: Tensor, rng: np.random.Generator) -> Tensor:
        a = self.augment
        if (drive_db := _drawn(a.drive, rng)) is not None:
            stem = soft_clipped(stem, drive_db)
        if (width := _drawn(a.width, rng)) is not None:
            stem = widened(stem, width)
        if rng.random() < a.reverb.p:
            rt60_s = rng.uniform(a.reverb.low_s, a.reverb.high_s)
            direct_db = rng.uniform(a.reverb.low_db, a.reverb.high_db)
            stem = convolved(stem, room(rt60_s, direct_db, self.sample_rate, rng))
        return self._levelled(stem, stem, rng) if a.loudness.of == "stem" else stem

    def _levelled(self, audio: Tensor, heard: Tensor, rng: np.random.Generator) -> Tensor:
        """The audio times what brings `heard` to a loudness drawn; silence stays. Shapes: `[..., 2, T]`, `[2, T]`."""
        target = _drawn(self.augment.loudness, rng)
        if target is None or not math.isfinite(measured := loudness(heard, self.sample_rate)):
            return audio
        return audio * 10 ** ((target - measured) / 20)


def _drawn(change: Change, rng: np.random.Generator) -> float | None:
    """The amount, or None where the change does not happen. Draws two numbers in either case."""
    happens, amount = rng.random() < change.p, rng.uniform(change.low, change.high)
    return float(amount) if happens else None
