"""What training minimises: terms of the error `stem - mask * mix`, and their weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from separator.card import Frozen
from separator.dsp.stft import Stft

TERMS = ("thresholded_sdr", "complex_l1", "magnitude_mse", "waveform_l1")


class Loss(Frozen):
    """Weights of the terms, whose weighted sum is minimised; a term of weight 0 is not computed."""

    thresholded_sdr: NonNegativeFloat = 1.0  # in dB; with a trunk network and nothing else, by far the fastest
    complex_l1: NonNegativeFloat = 0.0
    magnitude_mse: NonNegativeFloat = 0.0  # Open-Unmix's
    waveform_l1: NonNegativeFloat = 0.0
    exact_sum: bool = False  # judge the masks as they are used: made to sum to one
    combinations: bool = False  # judge sums of stems as well as single ones
    threshold_db: PositiveFloat = 20.0  # errors this far below the mix no longer count: more would pay for silencing
    groups: PositiveInt = 8  # band groups judged one by one, so that quiet treble counts as well
    group_share: float = Field(default=0.5, ge=0, le=1)  # weight of the groups against the full band

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if not any(getattr(self, term) for term in TERMS):
            raise ValueError(f"all weights are 0; give one of {', '.join(TERMS)}")
        return self

    @property
    def from_band_sums(self) -> bool:
        """Whether sums of energies per mask band are all that is needed."""
        return not (self.complex_l1 or self.magnitude_mse or self.waveform_l1 or self.combinations)


def thresholded_sdr(error: Tensor, mix: Tensor, loss: Loss) -> Tensor:
    """Mean of 10 log10((|s - m x|^2 + t |x|^2) / |x|^2) over stems, for the full band and for groups of bands, in dB.

    Why not L1: its optimum is the median, which for a stem that is quiet more often than not is silence. The
    squared error has the mean as its optimum, and the logarithm weighs every stem of every excerpt alike, so a
    quiet bass pulls as hard as a loud voice. Measured against the mix, a silent stem needs no special case.
    After Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021, eq. 2-3.

    Shape: energies per band, `error` `[B, S, M]` and `mix` `[B, 1, M]`.
    """
    bands = mix.shape[-1]
    group = torch.arange(bands, device=mix.device) * loss.groups // bands
    grouped = error.new_zeros(*error.shape[:2], loss.groups).index_add(2, group, error)
    grouped_mix = mix.new_zeros(*mix.shape[:2], loss.groups).index_add(2, group, mix)
    full = _decibels(grouped.sum(-1), grouped_mix.sum(-1), loss.threshold_db).mean()
    parts = _decibels(grouped, grouped_mix, loss.threshold_db).mean()
    return (1 - loss.group_share) * full + loss.group_share * parts


def _decibels(error: Tensor, mix: Tensor, threshold_db: float) -> Tensor:
    tiny = 1e-6  # of |X|^2: far below one step of 16 bit, so silence has loss zero
    floor = 10 ** (-threshold_db / 10)
    return 10 * torch.log10((error + floor * mix + tiny) / (mix + tiny))


def magnitude(planes: Tensor) -> Tensor:
    """Modulus of real and imaginary planes. Shape: `[..., 2, T, F]` -> `[..., T, F]`."""
    return planes.square().sum(dim=-3).sqrt()


def complex_l1(error: Tensor) -> Tensor:
    """Mean absolute real and imaginary part (Luo & Yu, IEEE TASLP 31, 2023). Shape: `[..., 2, T, F]`."""
    return error.abs().mean()


def magnitude_mse(masks: Tensor, mix: Tensor, stems: Tensor) -> Tensor:
    """Mean of (mask |x| - |s|)^2, as Open-Unmix has it.

    Shape: masks `[B, S, C, T, F]`, planes of mix `[B, 1, C, 2, T, F]` and stems `[B, S, C, 2, T, F]`.
    """
    return (masks * magnitude(mix) - magnitude(stems)).square().mean()


def waveform_l1(error: Tensor, stft: Stft) -> Tensor:
    """Mean absolute error of the waveforms, where all of the overlapping windows are there.

    Because the inverse transform is linear, that of the error is the error of the waveforms. The frames begin at the
    excerpt's first sample, so their first is whole; `Stft.inverse` drops half a window, and a bit more is cut here.
    Shape: planes of consecutive frames `[..., 2, T, F]`.
    """
    real, imaginary = error.unbind(dim=-3)
    spectrum = torch.complex(real, imaginary).transpose(-1, -2)  # [..., F, T]
    length = (spectrum.shape[-1] - 1) * stft.hop
    edge = stft.n_fft // 2 - stft.hop
    return stft.inverse(spectrum, length)[..., edge : length - edge].abs().mean()


def combinations(stems: int, whole: bool) -> list[tuple[int, ...]]:
    """All non-empty subsets of the stems; without that of all where they are the whole mix, whose mask is one.

    After Sawata, Uhlich, Takahashi & Mitsufuji, "All for one and one for all", ICASSP 2021.

    >>> combinations(3, whole=True)
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    """
    sizes = range(1, stems + (0 if whole and stems > 1 else 1))
    return [subset for size in sizes for subset in itertools.combinations(range(stems), size)]


def joined(values: Tensor, subset: Sequence[int]) -> Tensor:
    """Sum over a subset of the stems, which are the second dimension: `[B, S, ...]` -> `[B, 1, ...]`."""
    return values[:, list(subset)].sum(dim=1, keepdim=True)
