"""A compact mask estimator: one BLSTM trunk shared by all stems, one mask head per stem.

Cheap on a CPU because nothing in it works bin by bin: the trunk sees log-spaced bands, and the heads give one
mask value per bin only at low frequencies, where harmonics are resolved, and one per band above.
The sequence layer and the skip follow Open-Unmix (Stoeter et al., JOSS 4(41), 2019); features and heads are our own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separator.card import ModelCard, TrunkSpec
from separator.dsp.stft import power_of
from separator.models.estimator import EVERY


def band_edges(bins: int, fine_bins: int, bands: int) -> list[int]:
    """First bin of every band, and `bins` at the end: `fine_bins` bands of one bin, then `bands` log-spaced ones.

    A log-spaced band is never narrower than one bin, so the lowest of them may be linear.

    >>> band_edges(bins=16, fine_bins=4, bands=3)
    [0, 1, 2, 3, 4, 6, 10, 16]
    """
    if fine_bins + bands > bins:
        raise ValueError(f"{fine_bins} fine bins and {bands} bands do not fit into {bins} bins")
    edges = list(range(fine_bins + 1))
    for left in range(bands, 0, -1):  # `left` bands remain: give the next one its share of the log axis
        start = max(edges[-1], 1)
        width = start * ((bins / start) ** (1 / left) - 1) if left > 1 else bins - edges[-1]
        edges.append(min(edges[-1] + max(round(width), 1), bins - left + 1))
    return edges


def pool(values: Tensor, edges: Sequence[int]) -> Tensor:
    """Sum over the bins of each band. Shape: `[..., F]` -> `[..., K]`, for K + 1 `edges`.

    Neighbouring bands of one width are summed as one reshaped slice: on a CPU several times faster than a
    product with a band matrix or a difference of running sums, and without the latter's cancellation.

    >>> pool(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), [0, 1, 3, 5]).tolist()
    [1.0, 5.0, 9.0]
    """
    parts, first = [], 0
    for width, run in groupby(b - a for a, b in pairwise(edges)):
        last = first + len(list(run))
        piece = values[..., edges[first] : edges[last]]
        parts.append(piece if width == 1 else piece.unflatten(-1, (last - first, width)).sum(-1))
        first = last
    return torch.cat(parts, dim=-1)


class Trunk(nn.Module):
    """Masks for any of the card's stems.

    The level of the music around is taken out before the trunk and the masks are relative to the mix, so the
    output scales with the input exactly: quiet transfers and loud masters meet the same network.

    Shape: mix `[B, C, F, T]` complex -> masks `[B, S, C, F, T]`, non-negative, unbounded above.
    """

    band_of_bin: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        if not isinstance(card.spec, TrunkSpec):
            raise TypeError(f"the card describes a {card.spec.family} network")
        spec = card.spec
        self.channels = card.channels
        self.level_frames = round(spec.level_s * card.sample_rate / card.hop)
        self.input_edges = band_edges(card.bins, 0, spec.input_bands)
        self.mask_edges = band_edges(card.bins, spec.fine_bins, spec.mask_bands)
        widths = torch.tensor(self.mask_edges).diff()
        self.register_buffer("band_of_bin", torch.arange(len(widths)).repeat_interleave(widths), persistent=False)
        width = card.channels * spec.input_bands
        self.register_buffer("mean", torch.zeros(width))  # of the features, measured on the training set
        self.register_buffer("scale", torch.ones(width))  # one over their standard deviation
        self.squeeze = nn.Linear(width, spec.hidden)
        dropout = 0.1 if spec.layers > 1 else 0.0  # torch applies it between layers only
        self.lstm = nn.LSTM(
            spec.hidden, spec.lstm_hidden, spec.layers, batch_first=True, bidirectional=True, dropout=dropout
        )
        joint = spec.hidden + 2 * spec.lstm_hidden
        masks = card.channels * (spec.fine_bins + spec.mask_bands)
        self.heads = nn.ModuleDict(
            {stem: MaskHead(joint, spec.head, masks, 1 / len(card.stems)) for stem in card.stems}
        )

    def features(self, power: Tensor) -> Tensor:
        """Log band powers relative to the power around each frame. Shape: `[B, C, F, T]` -> `[B, T, C*K]`.

        A window and not the whole segment: else a frame would look different in each segment that holds it.
        """
        bands = pool(power.transpose(2, 3), self.input_edges)  # [B, C, T, K]
        near = self.level_frames // 2
        level = F.avg_pool1d(bands.mean(dim=(1, 3))[:, None], 2 * near + 1, 1, near, count_include_pad=False)
        bands = torch.log10(bands / level[..., None].clamp_min(1e-30) + 1e-6)  # 60 dB below the level: silence
        return bands.transpose(1, 2).flatten(2)  # [B, T, C*K]

    def band_masks(self, features: Tensor, stems: Sequence[str], frames: slice = slice(None)) -> Tensor:
        """One value per mask band, at the chosen frames. Shape: `[B, T, C*K]` -> `[B, S, C, T, M]`."""
        return self.answer(self.trunk(self.normalised(features))[:, frames], stems)

    def normalised(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.scale

    def trunk(self, x: Tensor) -> Tensor:
        """What all heads read: normalised features `[B, T, C*K]` -> `[B, T, J]`."""
        x = torch.tanh(self.squeeze(x))  # [B, T, H]
        context, _ = self.lstm(x)
        return torch.cat([x, context], dim=-1)

    def answer(self, joint: Tensor, stems: Sequence[str]) -> Tensor:
        """The trunk's state `[B, T, J]` -> one value per mask band, `[B, S, C, T, M]`."""
        masks: Tensor = torch.stack([self.heads[stem](joint) for stem in stems], dim=1)  # [B, S, T, C*M]
        split: Tensor = masks.unflatten(-1, (self.channels, -1))  # [B, S, T, C, M]
        return split.transpose(2, 3)

    def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
        masks = self.band_masks(self.features(power_of(mix)), stems)
        return masks[..., self.band_of_bin].mT  # [B, S, C, F, T]


class MaskHead(nn.Module):
    """From the trunk's state to the masks of one stem; starts at an equal share of the mix."""

    def __init__(self, width: int, hidden: int, masks: int, share: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.masks = nn.Linear(hidden, masks)
        nn.init.constant_(self.masks.bias, math.log(math.expm1(share)))  # softplus(bias) == share

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.masks(F.relu(self.hidden(x))))


class TrunkEstimator:
    """`Trunk` for inference, in any precision: the features stay in single precision, the layers need not."""

    def __init__(self, network: Trunk, dtype: torch.dtype) -> None:
        """Leaves the network as it is."""
        self.network = network
        self.bands = network.band_of_bin
        self.dtype = dtype
        own = network.squeeze.weight.dtype
        self._layers = network if dtype == own else copy.deepcopy(network).to(dtype)

    def hear(self, mixes: Iterable[Tensor], stems: Sequence[str]) -> Tensor:
        """Mixes `[C, F, T]` -> the trunk's state, `[B, T, J]`."""
        features = torch.cat([self.network.features(power_of(mix[None])) for mix in mixes])
        return self._layers.trunk(self.network.normalised(features).to(self.dtype))

    def masks(self, heard: Tensor, stems: Sequence[str], frames: slice, bins: slice = EVERY) -> Tensor:
        return self._layers.answer(heard[None, frames], stems)[0].float().mT[..., bins, :]
