"""Open-Unmix: one BLSTM network per stem, tensor for tensor compatible with the published weights.

Stoeter, Uhlich, Liutkus & Mitsufuji, "Open-Unmix: a reference implementation for music source
separation", JOSS 4(41), 2019; the network is that of Uhlich et al., ICASSP 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from separator.card import ModelCard, UmxSpec
from separator.errors import ModelError, UsageError


class UmxNetwork(nn.Module):
    """Mask estimator for one stem.

    Crops to the informative bins, whitens them, squeezes each frame to `hidden`, reads the frames
    one or both ways, and expands to one gain per channel and bin. `input_mean` holds minus the mean
    and `input_scale` one over the deviation, as in the published files.

    Shape: magnitude `[T, B, C, F]` -> gains `[T, B, C, F]`, non-negative, unbounded above.
    Frames lead and bins are contiguous: that is how the LSTM and the Fourier transform want them.
    """

    def __init__(self, spec: UmxSpec, bins: int, channels: int) -> None:
        super().__init__()
        if spec.kept_bins > bins:
            raise ModelError(f"kept_bins {spec.kept_bins} exceeds the {bins} bins of the spectrum")
        if spec.bidirectional and spec.hidden % 2:
            raise ModelError(f"hidden {spec.hidden} must be even: half of it goes to each direction")
        hidden = spec.hidden
        self.kept_bins = spec.kept_bins
        self.input_mean = nn.Parameter(torch.zeros(spec.kept_bins))
        self.input_scale = nn.Parameter(torch.ones(spec.kept_bins))
        self.fc1 = nn.Linear(channels * spec.kept_bins, hidden, bias=False)  # index = c * kept_bins + f
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lstm = nn.LSTM(
            input_size=hidden,
            hidden_size=hidden // 2 if spec.bidirectional else hidden,
            num_layers=spec.layers,
            bidirectional=spec.bidirectional,
            dropout=0.4 if spec.layers > 1 else 0.0,
        )
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, channels * bins, bias=False)
        self.bn3 = nn.BatchNorm1d(channels * bins)
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.output_mean = nn.Parameter(torch.ones(bins))

    def forward(self, magnitude: Tensor) -> Tensor:
        frames, batch, channels, bins = magnitude.shape
        x = (magnitude[..., : self.kept_bins] + self.input_mean) * self.input_scale
        x = torch.tanh(self.bn1(self.fc1(x.reshape(frames * batch, -1))))        # [T*B, H]
        context, _ = self.lstm(x.reshape(frames, batch, -1))                  # [T, B, H]
        x = torch.cat([x, context.flatten(0, 1)], dim=-1)                        # [T*B, 2H]
        x = torch.relu(self.bn2(self.fc2(x)))
        x = self.bn3(self.fc3(x)).reshape(frames, batch, channels, bins)
        return torch.relu(x * self.output_scale + self.output_mean)


class Umx(nn.ModuleDict):
    """One `UmxNetwork` per stem; only those of the stems asked for run.

    The state dictionary's keys are those of the published files behind the stem: `vocals.fc1.weight`.

    Shape: mix `[B, C, F, T]`, complex -> masks `[B, S, C, F, T]`, real, in the order asked for;
    F is contiguous in memory.
    """

    def __init__(self, card: ModelCard) -> None:
        if not isinstance(card.spec, UmxSpec):
            raise ModelError(f"{card.name} is of family {card.spec.family}, not umx")
        super().__init__({stem: UmxNetwork(card.spec, card.bins, card.channels) for stem in card.stems})

    def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
        """Masks of `stems`. Raises `UsageError` for a stem that the model does not have, or for none at all."""
        unknown = [stem for stem in stems if stem not in self]
        if unknown or not stems:
            raise UsageError(f"the model has no stem {unknown[0]!r}" if unknown else "no stem is asked for",
                             hint=f"its stems are {', '.join(self)}")
        magnitude = mix.abs().permute(3, 0, 1, 2).contiguous()                   # [T, B, C, F]
        masks = torch.stack([self[stem](magnitude) for stem in stems], dim=2)    # [T, B, S, C, F]
        return masks.permute(1, 2, 3, 4, 0)
