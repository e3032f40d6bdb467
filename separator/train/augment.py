"""Changes of the training material."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from separator.card import Frozen


class Augment(Frozen):
    """Changes of each stem in each mix; linear, so that they are exact in the transform domain."""

    coherent: float = Field(default=0.3, ge=0, le=1)  # share of mixes whose stems stay together
    drop_stem: float = Field(default=0.1, ge=0, le=1)  # probability that a stem is silent in a mix
    balance: bool = True  # bring the stems of incoherent mixes to one level first: none drowns
    gain_db: NonNegativeFloat = 6.0  # uniform in +-gain_db per stem
    swap: float = Field(default=0.5, ge=0, le=1)  # probability that left and right change places
    polarity: float = Field(default=0.5, ge=0, le=1)  # probability that a stem is turned upside down
    pan_db: NonNegativeFloat = 3.0  # uniform difference of level between the channels
    equalise_db: NonNegativeFloat = 4.0  # standard deviation of a smooth random response per stem


def response(augment: Augment, batch: int, stems: int, bins: int, generator: torch.Generator) -> Tensor:
    """Gain, polarity, panning, dropout and equalisation as one real factor. Shape: `[B, S, 2, F]`."""
    a = augment

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    level = (2 * uniform(batch, stems, 1) - 1) * a.gain_db
    pan = (uniform(batch, stems, 1) - 0.5) * a.pan_db
    level_db = level + torch.cat([pan, -pan], dim=-1)  # [B, S, 2]
    knots = torch.randn(batch * stems, 1, 7, generator=generator) * a.equalise_db
    octaves = torch.linspace(0, 1, 512)  # log axis, resampled to bins
    curve = F.interpolate(knots, size=len(octaves), mode="linear", align_corners=True)[:, 0]
    position = torch.log2(1 + torch.arange(bins)) / math.log2(bins) * (len(octaves) - 1)
    curve = curve[:, position.long()].view(batch, stems, 1, bins)
    sign = torch.where(uniform(batch, stems, 1, 1) < a.polarity, -1.0, 1.0)
    kept = uniform(batch, stems, 1, 1) >= a.drop_stem
    return sign * kept * 10 ** ((level_db[..., None] + curve) / 20)
