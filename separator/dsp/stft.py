"""The short-time Fourier transform and its exact inverse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stft(nn.Module):
    """Centred short-time Fourier transform with a periodic Hann window, reflected edges, not normalised.

    `forward` equals `torch.stft`; `inverse` is the least-squares inverse of Griffin & Lim, IEEE TASSP 32(2), 1984,
    as in `torch.istft`: the windowed frames are overlapped and added, and divided by the summed squared window.
    Spectra are `[..., F, T]` views of memory that holds each frame's bins side by side: element-wise work keeps that
    order, and then neither direction copies.

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
        flat = audio.reshape(-1, audio.shape[-1])
        flat = F.pad(flat, (0, self._padded(audio.shape[-1]) - audio.shape[-1]))
        spectrum = torch.stft(flat, self.n_fft, self.hop, window=self.window.to(audio.dtype), return_complex=True)
        return spectrum.view(*audio.shape[:-1], *spectrum.shape[-2:])           # [..., F, frames]

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Complex spectrum `[..., F, frames]` of `length` samples -> audio `[..., length]`.

        Raises ValueError where so many samples do not have so many frames.
        """
        frames = spectrum.shape[-1]
        if frames != self.frames(length):
            raise ValueError(f"{length} samples have {self.frames(length)} frames, not {frames}")
        pieces = torch.fft.irfft(spectrum.transpose(-1, -2), n=self.n_fft)      # [..., frames, n_fft]
        window = self.window.to(pieces.dtype)
        audio = self._overlap_add(pieces.mul_(window))
        envelope = self._overlap_add(window.square().expand(frames, -1))
        kept = slice(self.n_fft // 2, self.n_fft // 2 + length)
        return audio[..., kept] / envelope[kept]

    def frames(self, length: int) -> int:
        """Number of frames that `length` samples have."""
        return 1 + self._padded(length) // self.hop

    def _padded(self, length: int) -> int:
        return max(length, self.n_fft // 2 + 1)

    def _overlap_add(self, pieces: Tensor) -> Tensor:
        """Sum pieces `[..., frames, n_fft]`, each a hop later than the one before -> `[..., (frames - 1) hop + n_fft]`.

        Piece k's r-th hop of samples falls on hop k + r: one shifted addition of all frames for each r.
        """
        frames = pieces.shape[-2]
        shifts = self.n_fft // self.hop
        hops = pieces.reshape(*pieces.shape[:-1], shifts, self.hop)             # [..., frames, shifts, hop]
        total = pieces.new_zeros(*pieces.shape[:-2], frames + shifts - 1, self.hop)
        for r in range(shifts):
            total[..., r : r + frames, :] += hops[..., r, :]
        return total.flatten(-2)
