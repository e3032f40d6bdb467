"""The short-time Fourier transform and its exact inverse."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CPU_FRAMES = 64     # of one channel's spectrum 1 MB: the transforms' second level of cache


class Stft(nn.Module):
    """Centred short-time Fourier transform with a periodic Hann window, reflected edges, not normalised.

    `forward` equals `torch.stft`; `inverse` is the least-squares inverse of Griffin & Lim, IEEE TASSP 32(2), 1984,
    as in `torch.istft`: the windowed frames are overlapped and added, and divided by the summed squared window.
    Spectra are `[..., F, T]` views of memory that holds each frame's bins side by side. The inverse is fastest in that
    order, and takes the other one, each bin's frames side by side, without a copy.

    >>> stft = Stft(n_fft=64, hop=16)
    >>> stft(torch.rand(2, 100)).shape
    torch.Size([2, 33, 7])
    >>> stft.inverse(stft(torch.rand(2, 100)), 100).shape
    torch.Size([2, 100])
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        """Raises ValueError unless `n_fft` is a multiple of `hop`, and at least three times as long.

        With two hops per window the end of the audio is covered only by a window's foot, and cannot be recovered.
        """
        super().__init__()
        if hop < 1 or n_fft % hop or n_fft < 3 * hop or n_fft % 2:
            raise ValueError(f"n_fft must be even, a multiple of the hop, and at least 3 hops (got {n_fft}, hop {hop})")
        self.n_fft = n_fft
        self.hop = hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio `[..., T]`, T >= 1 -> complex spectrum `[..., F, frames]`.

        Audio too short for its edge to be reflected, up to `n_fft / 2` samples, is continued with zeros first.
        """
        planes = audio.reshape(-1, audio.shape[-1])
        planes = self._reflected(F.pad(planes, (0, self._padded(audio.shape[-1]) - audio.shape[-1])))
        pieces = planes.unfold(-1, self.n_fft, self.hop)                        # [planes, frames, n_fft], a view
        spectrum = pieces.new_empty(*pieces.shape[:-1], self.n_fft // 2 + 1, dtype=audio.dtype.to_complex())
        window = self.window.to(audio.dtype)
        step = _block(pieces)
        for number, first in product(range(len(pieces)), range(0, pieces.shape[1], step)):
            frames = slice(first, first + step)
            spectrum[number, frames] = torch.fft.rfft(pieces[number, frames] * window)
        return spectrum.mT.view(*audio.shape[:-1], *spectrum.mT.shape[-2:])     # [..., F, frames]

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Complex spectrum `[..., F, frames]` of `length` samples -> audio `[..., length]`, in any memory order.

        Raises ValueError where so many samples do not have so many frames.
        """
        if spectrum.shape[-1] != self.frames(length):
            raise ValueError(f"{length} samples have {self.frames(length)} frames, not {spectrum.shape[-1]}")
        planes = spectrum.reshape(-1, *spectrum.shape[-2:])
        audio = torch.stack([self.inverse_part([plane], slice(0, length), length) for plane in planes])
        return audio.view(*spectrum.shape[:-2], length)

    def inverse_part(self, parts: Iterable[Tensor], samples: slice, length: int) -> Tensor:
        """Some samples of what `inverse` gives, from those frames alone that `frames_of` names: `[..., n]`.

        The spectrum comes in parts of neighbouring frames, `[..., F, any]`. See `in_blocks` for how many are best.
        """
        frames = self.frames_of(samples, length)
        shifts, window = self.n_fft // self.hop, self.window.view(-1, self.hop)
        total, done = torch.empty(0), 0
        for part in parts:
            pieces = torch.fft.irfft(part.mT, n=self.n_fft).unflatten(-1, window.shape)     # [..., n, shifts, hop]
            if not done:
                total = pieces.new_zeros(*part.shape[:-2], frames.stop - frames.start + shifts - 1, self.hop)
            _overlap_add(total[..., done:, :], pieces, window.to(total.dtype))
            done += part.shape[-1]
        envelope = torch.zeros_like(total[(0,) * (total.dim() - 2)])
        square = window.to(total.dtype).square()
        _overlap_add(envelope, square.expand(done, -1, -1), torch.ones_like(square))
        first = samples.start + self.n_fft // 2 - frames.start * self.hop
        kept = slice(first, first + samples.stop - samples.start)
        return total.flatten(-2)[..., kept] / envelope.flatten()[kept]

    def frames(self, length: int) -> int:
        """Number of frames that `length` samples have."""
        return 1 + self._padded(length) // self.hop

    def frames_of(self, samples: slice, length: int) -> slice:
        """The frames that hold any of these samples of audio of `length`: frame k is centred on sample k * hop."""
        half = self.n_fft // 2
        first = max(samples.start - half, -1) // self.hop + 1
        return slice(first, min((samples.stop + half - 1) // self.hop + 1, self.frames(length)))

    def _padded(self, length: int) -> int:
        return max(length, self.n_fft // 2 + 1)

    def _reflected(self, planes: Tensor) -> Tensor:
        """`[planes, T]` with half a window more at each end; ten times faster than `F.pad`, which is for any shape."""
        half = self.n_fft // 2
        return torch.cat([planes[:, 1 : half + 1].flip(-1), planes, planes[:, -half - 1 : -1].flip(-1)], dim=-1)


def in_blocks(spectrum: Tensor) -> tuple[Tensor, ...]:
    """Neighbouring frames, `[..., F, any]`, few enough on a CPU that what is made of them stays in its cache."""
    return tuple(spectrum.split(_block(spectrum), -1))


def _block(spectrum: Tensor) -> int:
    return CPU_FRAMES if spectrum.device.type == "cpu" else sys.maxsize


def _overlap_add(total: Tensor, pieces: Tensor, window: Tensor) -> None:
    """Add pieces `[..., n, shifts, hop]` times the window `[shifts, hop]`, each a hop after the one before.

    Piece k's r-th hop of samples falls on hop k + r of the `total` `[..., any, hop]`: one shifted addition for each r.
    """
    n = pieces.shape[-3]
    for r, gain in enumerate(window):
        total[..., r : r + n, :].addcmul_(pieces[..., r, :], gain)
