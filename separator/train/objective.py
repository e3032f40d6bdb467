"""A network together with what turns a batch of stems into its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from separator import modelfile
from separator.card import ModelCard
from separator.dsp.stft import Stft
from separator.dsp.wiener import share_masks
from separator.errors import ConfigError
from separator.models import build
from separator.models.trunk import Trunk, pool
from separator.models.umx import Umx, UmxNetwork
from separator.train import bands, losses
from separator.train.bands import BandSums, Sums
from separator.train.losses import Loss

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SILENT = 1e-6  # share of the mix's energy below which a stem counts as absent


class Objective(nn.Module, ABC):
    """Owns the network, so that one module holds all that is trained, and DistributedDataParallel can wrap it.

    `measure` reduces the stems of one item to what the loss needs of them, `collect` stacks items to a batch, and
    `forward` gives the loss of a batch.
    """

    compact = False  # whether batches are small enough to be kept

    def __init__(self, card: ModelCard, sources: Sequence[str], loss: Loss, precision: Precision = "fp32") -> None:
        super().__init__()
        self.card = card
        self.loss = loss
        self.dtype = AUTOCAST[precision]
        self.targets = [sources.index(stem) for stem in card.stems]  # among the stems that make up the mix
        self.whole = len(self.targets) == len(sources)
        self.network = build(card)

    @abstractmethod
    def measure(self, stems: Tensor, first: int = 0, stride: int = 1) -> Any:
        """What the loss needs of one item, at every `stride`-th frame. Shape: `[S, C, 2, T, F]`, of the whole mix."""

    @abstractmethod
    def collect(self, items: Iterable[Any], first: int = 0, stride: int = 1) -> Any:
        """Stack measured items."""

    @abstractmethod
    def judge(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The loss, and the signal-to-distortion ratio in dB per item and stem, NaN for a silent one: `[B, S]`."""

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """The loss."""

    def features(self, power: Tensor) -> Tensor:
        """What the network whitens at its input. Shape: powers of a mix `[B, C, F, T]` -> `[N, K]`."""
        if isinstance(self.network, Trunk):
            return self.network.features(power).flatten(0, 1)
        return power.sqrt().mean(dim=1).transpose(1, 2).flatten(0, 1)  # both channels, as in Open-Unmix

    @torch.no_grad()
    def whiten(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and standard deviation `[K]` of the features, as measured on the training set."""
        if isinstance(self.network, Trunk):
            self.network.mean.copy_(mean)
            self.network.scale.copy_(1 / deviation.clamp_min(1e-3))
            return
        assert isinstance(self.network, Umx)
        for network in self.network.children():
            assert isinstance(network, UmxNetwork)
            kept = network.kept_bins
            network.input_mean.copy_(-mean[:kept])
            network.input_scale.copy_(1 / deviation.clamp_min(1e-4 * deviation.max())[:kept])  # as Open-Unmix

    def adopt(self, path: Path) -> None:
        """Take the weights of a model file, its input's statistics included.

        Raises `ModelError` for a file that is none, `ConfigError` for another architecture or other stems.
        """
        card, network = modelfile.load(path)
        for what in ("spec", "stems", "sample_rate", "n_fft", "hop", "channels"):
            own, other = getattr(self.card, what), getattr(card, what)
            if own != other:
                raise ConfigError(
                    f"start_from: model.{what} is {own}, {path} has {other}",
                    hint="start from a model of the same kind, or make the configuration the same",
                )
        self.network.load_state_dict(network.state_dict())

    def _shared(self, masks: Tensor) -> Tensor:
        """As `Separator` uses them with `exact_sum`, if the loss is to see that. Shape: `[B, S, C, any, any]`."""
        return share_masks(masks, self.card.heir(self.card.stems)) if self.loss.exact_sum else masks

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.dtype, enabled=self.dtype is not None)


class BandObjective(Objective):
    """The thresholded SDR of a trunk network, from band sums."""

    compact = True
    network: Trunk

    def measure(self, stems: Tensor, first: int = 0, stride: int = 1) -> Sums:
        return bands.measure(stems, self.targets, self.network.mask_edges, first, stride)

    def collect(self, items: Iterable[Sums], first: int = 0, stride: int = 1) -> BandSums:
        return bands.collect(items, first, stride)

    def forward(self, batch: BandSums) -> Tensor:
        return self._loss(bands.squared_error(self._masks(batch), batch), batch)

    def judge(self, batch: BandSums) -> tuple[Tensor, Tensor]:
        error = bands.squared_error(self._masks(batch), batch)
        return self._loss(error, batch), ratio_db(batch.stems, error, batch.mix)

    def _masks(self, batch: BandSums) -> Tensor:
        features = self.network.features(batch.power)
        with self._autocast(features.device):
            masks = self.network.band_masks(features, self.card.stems, slice(batch.first, None, batch.stride))
        return self._shared(masks.float())

    def _loss(self, error: Tensor, batch: BandSums) -> Tensor:
        value = losses.thresholded_sdr(error.sum(dim=(2, 3)), batch.mix.sum(dim=(2, 3)), self.loss)
        return self.loss.thresholded_sdr * value


@dataclass(frozen=True)
class Spectra:
    """Real and imaginary planes: `mix` `[B, 1, C, 2, T, F]`, and `stems` `[B, S, C, 2, t, F]` at some frames."""

    mix: Tensor
    stems: Tensor
    first: int
    stride: int


class SpectrumObjective(Objective):
    """Any family and any terms, from spectra of full resolution."""

    def __init__(self, card: ModelCard, sources: Sequence[str], loss: Loss, precision: Precision = "fp32") -> None:
        super().__init__(card, sources, loss, precision)
        self.stft = Stft(card.n_fft, card.hop)
        # Bands whose energies the thresholded SDR groups: those of the masks, so that both roads mean the same loss.
        self.edges = self.network.mask_edges if isinstance(self.network, Trunk) else list(range(card.bins + 1))

    def measure(self, stems: Tensor, first: int = 0, stride: int = 1) -> tuple[Tensor, Tensor]:
        return stems.sum(dim=0, keepdim=True), stems[self.targets][..., first::stride, :]

    def collect(self, items: Iterable[tuple[Tensor, Tensor]], first: int = 0, stride: int = 1) -> Spectra:
        mix, stems = (torch.stack(parts) for parts in zip(*items, strict=True))
        return Spectra(mix, stems, first, stride)

    def forward(self, batch: Spectra) -> Tensor:
        return self._loss(self._masks(batch), *self._at_frames(batch))

    def judge(self, batch: Spectra) -> tuple[Tensor, Tensor]:
        masks = self._masks(batch)
        mix, stems = self._at_frames(batch)
        error = (stems - masks[:, :, :, None] * mix).square()
        return self._loss(masks, mix, stems), ratio_db(stems.square(), error, mix.square())

    def _at_frames(self, batch: Spectra) -> tuple[Tensor, Tensor]:
        return batch.mix[..., batch.first :: batch.stride, :], batch.stems

    def _masks(self, batch: Spectra) -> Tensor:
        """Shape: `[B, S, C, t, F]`."""
        frames = slice(batch.first, None, batch.stride)
        planes = batch.mix[:, 0]  # [B, C, 2, T, F]
        if isinstance(self.network, Trunk):
            features = self.network.features(bands.inner(planes, planes).transpose(2, 3))
            with self._autocast(features.device):
                masks = self.network.band_masks(features, self.card.stems, frames)
            return self._shared(masks.float())[..., self.network.band_of_bin]
        assert isinstance(self.network, Umx)
        magnitude = losses.magnitude(planes).permute(2, 0, 1, 3).contiguous()  # [T, B, C, F]
        with self._autocast(magnitude.device):
            gains = [self.network[stem](magnitude)[frames] for stem in self.card.stems]
        return self._shared(torch.stack(gains, dim=1).float().permute(2, 1, 3, 0, 4))

    def _loss(self, masks: Tensor, mix: Tensor, stems: Tensor) -> Tensor:
        if not self.loss.combinations:
            return self._terms(masks, mix, stems)
        subsets = losses.combinations(masks.shape[1], self.whole)
        parts = [self._terms(losses.joined(masks, each), mix, losses.joined(stems, each)) for each in subsets]
        return torch.stack(parts).mean()

    def _terms(self, masks: Tensor, mix: Tensor, stems: Tensor) -> Tensor:
        weights, parts = self.loss, []
        error = stems - masks[:, :, :, None] * mix  # [B, S, C, 2, t, F]
        if weights.thresholded_sdr:
            energy = pool(error.square().sum(dim=(2, 3, 4)), self.edges)  # [B, S, M]
            mixed = pool(mix.square().sum(dim=(2, 3, 4)), self.edges)
            parts.append(weights.thresholded_sdr * losses.thresholded_sdr(energy, mixed, weights))
        if weights.complex_l1:
            parts.append(weights.complex_l1 * losses.complex_l1(error))
        if weights.magnitude_mse:
            parts.append(weights.magnitude_mse * losses.magnitude_mse(masks, mix, stems))
        if weights.waveform_l1:
            parts.append(weights.waveform_l1 * losses.waveform_l1(error, self.stft))
        return torch.stack(parts).sum()


def ratio_db(signal: Tensor, error: Tensor, mix: Tensor) -> Tensor:
    """Signal-to-distortion ratio in dB from energies `[B, S, ...]`; NaN where a stem is silent. Shape: `[B, S]`."""
    signal, error, mix = (each.flatten(2).sum(dim=2) for each in (signal, error, mix))
    ratio = 10 * torch.log10(signal / error.clamp_min(1e-9))
    return torch.where(signal > SILENT * mix, ratio, torch.nan)


def objective(card: ModelCard, sources: Sequence[str], loss: Loss, precision: Precision = "fp32") -> Objective:
    """The quickest objective that computes `loss` for the card's family; weights are random."""
    quick = card.spec.family == "trunk" and loss.from_band_sums
    return (BandObjective if quick else SpectrumObjective)(card, sources, loss, precision)
