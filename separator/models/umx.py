"""Open-Unmix: one BLSTM network per stem, tensor for tensor compatible with the published weights.

Stoeter, Uhlich, Liutkus & Mitsufuji, "Open-Unmix: a reference implementation for music source
separation", JOSS 4(41), 2019; the network is that of Uhlich et al., ICASSP 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separator.card import ModelCard, UmxSpec
from separator.dsp.stft import power_of
from separator.errors import ModelError, UsageError
from separator.models.estimator import EVERY


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
        _check(stems, self)
        magnitude = mix.abs().permute(3, 0, 1, 2).contiguous()                   # [T, B, C, F]
        masks = torch.stack([self[stem](magnitude) for stem in stems], dim=2)    # [T, B, S, C, F]
        return masks.permute(1, 2, 3, 4, 0)

def _check(stems: Sequence[str], known: Iterable[str]) -> None:
    unknown = [stem for stem in stems if stem not in known]
    if unknown or not stems:
        raise UsageError(f"the model has no stem {unknown[0]!r}" if unknown else "no stem is asked for",
                         hint=f"its stems are {', '.join(known)}")


class FoldedUmx:
    """`Umx` for inference: normalisations and scales folded into the three linear layers, in any precision.

    Equal to the network but for rounding. The last layer is a product with its weights on the left, so that the masks
    come out with each bin's frames side by side, as the Wiener filter wants them.
    """

    bands = None

    def __init__(self, network: Umx, dtype: torch.dtype) -> None:
        """Leaves the network as it is, and shares with it at most the LSTMs' weights."""
        self.dtype = dtype
        self._folded = {stem: _Folded(each, dtype) for stem, each in network.items()}   # type: ignore[arg-type]

    def hear(self, mixes: Iterable[Tensor], stems: Sequence[str]) -> Tensor:
        """Mixes `[C, F, T]` -> the inputs of the last layer, `[B, S, T, H]`."""
        _check(stems, self._folded)
        kept = self._folded[stems[0]].kept_bins
        powers = (power_of(mix.mT[..., :kept]) for mix in mixes)
        magnitudes = [power.sqrt_().to(self.dtype).transpose(0, 1) for power in powers]             # [T, C, b] each
        x = torch.stack(magnitudes, dim=1).flatten(2)                                               # [T, B, C * b]
        del magnitudes
        return torch.stack([self._folded[stem].hear(x) for stem in stems]).permute(2, 0, 1, 3)

    def masks(self, heard: Tensor, stems: Sequence[str], frames: slice, bins: slice = EVERY) -> Tensor:
        x = heard[:, frames]
        channels, count = self._folded[stems[0]].third[1][:, bins].shape[:2]
        masks = x.new_empty(len(stems), channels, count, x.shape[1], dtype=torch.float32)
        for stem, hidden, out in zip(stems, x, masks, strict=True):
            self._folded[stem].masks(hidden, bins, out)
        return masks                                                             # [S, C, f, t]


class _Folded:
    """One stem's network as three linear layers around its LSTM."""

    def __init__(self, network: UmxNetwork, dtype: torch.dtype) -> None:
        self.kept_bins = network.kept_bins
        self.bins = len(network.output_scale)
        channels = network.fc1.in_features // self.kept_bins
        with torch.no_grad():
            scale, mean = network.input_scale.repeat(channels), network.input_mean.repeat(channels)
            first = network.fc1.weight * scale
            self.first = _normalised(first, first @ mean, network.bn1, dtype)
            self.second = _normalised(network.fc2.weight, None, network.bn2, dtype)
            channels = network.fc3.out_features // self.bins
            weight, bias = _normalised(network.fc3.weight, None, network.bn3, torch.float32)
            scale, mean = network.output_scale.repeat(channels), network.output_mean.repeat(channels)
            self.third = ((weight * scale[:, None]).to(dtype).unflatten(0, (channels, -1)),     # [C, F, H]
                          (bias * scale + mean).view(channels, -1, 1))                           # [C, F, 1]
            self.lstm = _inference_lstm(network.lstm, dtype)

    def hear(self, x: Tensor) -> Tensor:
        """Magnitudes `[T, B, C * b]` -> `[T, B, H]`."""
        x = torch.tanh_(F.linear(x, *self.first))
        context, _ = self.lstm(x)
        heard: Tensor = torch.relu_(F.linear(torch.cat([x, context], dim=-1), *self.second))
        return heard

    def masks(self, x: Tensor, bins: slice, out: Tensor) -> None:
        """`[T, H]` -> masks of these bins `[C, f, T]`, written to `out`."""
        for weight, bias, channel in zip(*(each[:, bins] for each in self.third), out, strict=True):
            torch.add(weight @ x.T, bias, out=channel).relu_()


def _normalised(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm1d, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A linear layer `[out, in]` and the batch normalisation after it, at inference, as one linear layer."""
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * gain
    return (weight * gain[:, None]).to(dtype), (shift if bias is None else shift + bias * gain).to(dtype)


def _inference_lstm(lstm: nn.LSTM, dtype: torch.dtype) -> nn.LSTM:
    """A copy of the LSTM in another precision; the same one where that is its own."""
    return lstm if lstm.weight_ih_l0.dtype == dtype else copy.deepcopy(lstm).eval().to(dtype)
