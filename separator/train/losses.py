"""Losses on band sums."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from separator.card import Frozen
from separator.train.remix import Batch


class Loss(Frozen):
    """Thresholded signal-to-distortion ratio (Wisdom et al., ICASSP 2021), full band and per band group."""

    threshold_db: PositiveFloat = 20.0  # errors this far below the mix no longer count: more would pay for silencing
    groups: PositiveInt = 8  # band groups judged one by one, so that quiet treble counts as well
    group_share: float = Field(default=0.5, ge=0, le=1)  # weight of the groups against the full band


def squared_error(masks: Tensor, batch: Batch) -> Tensor:
    """Squared error of `masks * mix` against the stems, per band. Shape: `[B, S, C, T, M]`, like `masks`."""
    return (batch.stems - 2 * masks * batch.cross + masks.square() * batch.mix).clamp_min(0)


def thresholded_sdr(masks: Tensor, batch: Batch, loss: Loss) -> Tensor:
    """Mean of 10 log10((|s - m x|^2 + t |x|^2) / |x|^2) over stems, for the full band and for groups of bands, in dB.

    Why not L1: its optimum is the median, which for a stem that is quiet more often than not is silence. The
    squared error has the mean as its optimum, and the logarithm weighs every stem of every excerpt alike, so a
    quiet bass pulls as hard as a loud voice. Measured against the mix, a silent stem needs no special case.
    After Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021, eq. 2-3.
    """
    errors = squared_error(masks, batch).sum(dim=(2, 3))  # [B, S, M]
    power = batch.mix.sum(dim=(2, 3))  # [B, 1, M]
    bands = power.shape[-1]
    group = torch.arange(bands) * loss.groups // bands
    grouped = torch.zeros(*errors.shape[:2], loss.groups).index_add(2, group, errors)
    mix = torch.zeros(*power.shape[:2], loss.groups).index_add(2, group, power)
    full = _decibels(grouped.sum(-1), mix.sum(-1), loss.threshold_db).mean()
    parts = _decibels(grouped, mix, loss.threshold_db).mean()
    return (1 - loss.group_share) * full + loss.group_share * parts


def _decibels(error: Tensor, mix: Tensor, threshold_db: float) -> Tensor:
    tiny = 1e-6  # of |X|^2: far below one step of 16 bit, so silence has loss zero
    floor = 10 ** (-threshold_db / 10)
    return 10 * torch.log10((error + floor * mix + tiny) / (mix + tiny))
