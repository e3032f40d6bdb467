"""Changes of the training material: every setting, and those changes that are one real factor per bin.

Each change happens with probability `p`, by an amount uniform in `low` to `high`, drawn for every stem of every mix
unless told otherwise. What is linear and acts channel by channel is done on spectra, anew whenever a row is remixed
(`response`, `Remixer`); the rest is done on waveforms, once per row (`separator.train.waveforms`), and costs more:
docs/training.md has the figures. Layers of a stem are left out at random where they are read: `data.drop_layer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from separator.card import Frozen

LOWEST_HZ = 20.0  # what can be heard begins here


class Change(Frozen):
    """What happens with probability `p`, by an amount uniform in `low` to `high`."""

    p: float = Field(default=0.0, ge=0, le=1)
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Change:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} must not exceed high {self.high}")
        return self


class Gain(Change):
    """Level of a stem: in dB, or as a factor (Open-Unmix: 0.25 to 1.25)."""

    p: float = Field(default=1.0, ge=0, le=1)  # free: one product with all else that is linear
    low: float = -6.0  # mixes differ by about this much from one another
    high: float = 6.0
    scale: Literal["db", "linear"] = "db"

    @model_validator(mode="after")
    def _positive(self) -> Gain:
        if self.scale == "linear" and self.low < 0:
            raise ValueError(f"low {self.low} must not be negative on a linear scale: polarity has a key of its own")
        return self


class Pan(Change):
    """Level of left over right, in dB; the geometric mean of both stays."""

    p: float = Field(default=1.0, ge=0, le=1)
    low: float = -3.0  # moves a centred stem without leaving one side empty
    high: float = 3.0


class Equalise(Frozen):
    """A smooth random response: seven knots on a logarithmic frequency axis, normally distributed in dB."""

    p: float = Field(default=1.0, ge=0, le=1)
    sd_db: NonNegativeFloat = 4.0  # standard deviation of a knot: what a mixing engineer turns


class Band(Frozen):
    """A narrower band for the whole mix, as of old recordings, small loudspeakers and telephones.

    Each end is moved with probability `p`: the lower one up to `low_hz` at most, the upper one down to `high_hz`,
    uniform over octaves. Magnitude responses of Butterworth filters of fourth order, without their phase.
    """

    p: float = Field(default=0.0, ge=0, le=1)
    low_hz: float = Field(default=300.0, gt=LOWEST_HZ)  # a telephone's
    high_hz: PositiveFloat = 3400.0

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        if not self.low_hz < self.high_hz:
            raise ValueError(f"low_hz {self.low_hz} must be below high_hz {self.high_hz}: nothing would be left")
        return self


class Noise(Change):
    """A floor of stationary noise, in dB relative to the power of the mix: tape, preamplifiers, rooms.

    It belongs to `model.residual`, the stem of all that no other one claims. Its power falls by 0 to 6 dB per octave,
    white to brown, and its channels are independent.
    """

    low: float = -80.0  # hardly audible, but not digital silence
    high: float = -30.0  # an old cassette


class Width(Change):
    """Factor on the side signal (left minus right): 0 is mono, 1 leaves all as it is."""

    low: float = Field(default=0.5, ge=0)
    high: float = 1.5  # wider than that, most stems lose their middle


class Speed(Change):
    """Playback speed of a whole row, so that its stems stay aligned: pitch and tempo change together, as on tape.

    By resampling alone, which is transparent. Pitch without tempo, or tempo without pitch, would need a time
    stretcher, whose artefacts a network learns to hear.
    """

    low: float = Field(default=0.9, gt=0)  # about two semitones down and up: voices stay voices
    high: float = 1.1


class Drive(Change):
    """Soft clipping: dB by which a stem's peak exceeds the knee of a hyperbolic tangent; the level is kept."""

    low: float = 0.0  # hardly audible
    high: float = 12.0  # a distorted amplifier


class Reverb(Frozen):
    """Convolution with a synthetic room: a direct path and an exponentially decaying tail of noise."""

    p: float = Field(default=0.0, ge=0, le=1)
    low_s: PositiveFloat = 0.2  # time in which the tail decays by 60 dB: a booth
    high_s: PositiveFloat = 0.8  # a hall; more costs more and mostly leaves the excerpt
    low_db: float = 3.0  # energy of the direct path over the tail's: far from the microphone
    high_db: float = 15.0  # near

    @model_validator(mode="after")
    def _ordered(self) -> Reverb:
        if self.low_s > self.high_s or self.low_db > self.high_db:
            raise ValueError("low_s must not exceed high_s, nor low_db high_db")
        return self


class Loudness(Change):
    """Integrated loudness (ITU-R BS.1770) that a stem, or the mix with all its stems alike, is brought to, in LUFS."""

    low: float = -32.0  # a quiet stem
    high: float = -14.0  # a whole mix as streaming services play it
    of: Literal["stem", "mix"] = "stem"


class Augment(Frozen):
    """All changes. Those that are off by default cost time: each says in docs/training.md how much."""

    coherent: float = Field(default=0.3, ge=0, le=1)  # share of mixes that are one song's, as it is; 0: all are remixed
    drop_stem: float = Field(default=0.1, ge=0, le=1)  # probability that a stem is silent in a mix
    balance: bool = True  # bring the stems of incoherent mixes to one level first: none drowns
    gain: Gain = Gain()
    swap: float = Field(default=0.5, ge=0, le=1)  # probability that left and right change places
    polarity: float = Field(default=0.5, ge=0, le=1)  # probability that a stem is turned upside down
    pan: Pan = Pan()
    equalise: Equalise = Equalise()
    band: Band = Band()
    noise: Noise = Noise()
    width: Width = Width()
    speed: Speed = Speed()
    drive: Drive = Drive()
    reverb: Reverb = Reverb()
    loudness: Loudness = Loudness()  # `balance` and `gain` come after it: switch them off where the target must hold

    def whole(self, rows: int) -> int:
        """How many of a block's rows, the first ones, are one song at one place, and make up the coherent mixes."""
        return round(self.coherent * rows)


def response(
    augment: Augment, batch: int, stems: int, bins: int, nyquist_hz: float, generator: torch.Generator
) -> Tensor:
    """Gain, polarity, panning, dropout, equalisation and band as one real factor. Shape: `[B, S, 2, F]`."""
    a, shape = augment, (batch, stems, 1, 1)
    if a.gain.scale == "db":
        gain = _decibels(_drawn(a.gain, 0.0, shape, generator))
    else:
        gain = _drawn(a.gain, 1.0, shape, generator)
    pan_db = _drawn(a.pan, 0.0, shape, generator)
    sides = _decibels(torch.cat([pan_db, -pan_db], dim=2) / 2)  # [B, S, 2, 1]
    curve = _decibels(_curves(a.equalise, shape, bins, generator))  # [B, S, 1, F]
    sign = torch.where(_happens(a.polarity, shape, generator), -1.0, 1.0)
    kept = ~_happens(a.drop_stem, shape, generator)
    return kept * sign * gain * sides * curve * _bands(a.band, batch, bins, nyquist_hz, generator)


def noise_floor(noise: Noise, mix_power: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor | None:
    """Spectral planes of the noise, mostly None. Shape: `[C, 2, T, F]`; `mix_power` is the mean square of such planes.

    Drawn bin by bin, though neighbouring frames of real noise overlap: no network is asked about that.
    """
    if not _happens(noise.p, (), generator):
        return None
    amount, slope = torch.rand(2, generator=generator)
    level_db = noise.low + (noise.high - noise.low) * amount
    colour = torch.arange(1, shape[-1] + 1).pow(-slope)  # amplitude: 6 dB per octave at slope 1
    colour = colour / colour.square().mean().sqrt() * _decibels(level_db)
    planes = torch.randn(*shape, generator=generator) * colour
    return planes.to(mix_power.device) * mix_power.sqrt()


def _bands(band: Band, batch: int, bins: int, nyquist_hz: float, generator: torch.Generator) -> Tensor:
    """Amplitude responses of the mixes' bands. Shape: `[B, 1, 1, F]`."""
    hz = torch.linspace(0, nyquist_hz, bins)
    happens = _happens(band.p, (2, batch, 1, 1, 1), generator)
    low, high = torch.rand((2, batch, 1, 1, 1), generator=generator)
    low_hz = LOWEST_HZ * (band.low_hz / LOWEST_HZ) ** low
    high_hz = nyquist_hz * min(band.high_hz / nyquist_hz, 1.0) ** high
    above = torch.where(happens[0], 1 / (1 + (low_hz / hz) ** 8).sqrt(), 1.0)  # an eighth power: order four
    return above * torch.where(happens[1], 1 / (1 + (hz / high_hz) ** 8).sqrt(), 1.0)


def _curves(equalise: Equalise, shape: tuple[int, ...], bins: int, generator: torch.Generator) -> Tensor:
    """Responses in dB, piecewise linear over octaves. Shape: `[B, S, 1, F]`."""
    knots = torch.randn(shape[0] * shape[1], 1, 7, generator=generator) * equalise.sd_db
    fine = F.interpolate(knots, size=512, mode="linear", align_corners=True)[:, 0]  # log axis, resampled to bins
    position = torch.log2(1 + torch.arange(bins)) / math.log2(bins) * 511
    curves = fine[:, position.long()].view(*shape[:3], bins)
    return torch.where(_happens(equalise.p, shape, generator), curves, 0.0)


def _drawn(change: Change, neutral: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    amount = change.low + (change.high - change.low) * torch.rand(shape, generator=generator)
    return torch.where(_happens(change.p, shape, generator), amount, neutral)


def _happens(p: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) < p


def _decibels(level_db: Tensor) -> Tensor:
    """Level in dB as a factor on the amplitude."""
    return 10 ** (level_db / 20)
