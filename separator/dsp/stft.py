"""The short-time Fourier transform and its exact inverse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        flat = audio.reshape(-1, audio.shape[-1])
        flat = F.pad(flat, (0, self._padded(audio.shape[-1]) - audio.shape[-1]))
        spectrum = torch.stft(flat, self.n_fft, self.hop, window=self.window.to(audio.dtype), return_complex=True)
        return spectrum.view(*audio.shape[:-1], *spectrum.shape[-2:])           # [..., F, frames]

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Complex spectrum `[..., F, frames]` of `length` samples -> audio `[..., length]`, in any memory order.

        Raises ValueError where so many samples do not have so many frames.
        """
        if spectrum.shape[-1] != self.frames(length):
            raise ValueError(f"{length} samples have {self.frames(length)} frames, not {spectrum.shape[-1]}")
        return self.inverse_part(spectrum, slice(0, length), length)

    def inverse_part(self, spectrum: Tensor, samples: slice, length: int) -> Tensor:
        """Some samples of what `inverse` gives, from those frames alone that `frames_of` names: `[..., n]`."""
        frames = self.frames_of(samples, length)
        planes = spectrum.reshape(-1, *spectrum.shape[-2:])
        audio = torch.stack([self._overlap_add(torch.fft.irfft(plane, n=self.n_fft, dim=0)) for plane in planes])
        square = self.window.square().to(audio.dtype)
        envelope = self._overlap_add(torch.ones_like(square)[:, None].expand(-1, spectrum.shape[-1]), square)
        first = samples.start + self.n_fft // 2 - frames.start * self.hop
        kept = slice(first, first + samples.stop - samples.start)
        return (audio[:, kept] / envelope[kept]).view(*spectrum.shape[:-2], -1)

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

    def _overlap_add(self, pieces: Tensor, window: Tensor | None = None) -> Tensor:
        """Sum windowed pieces `[n_fft, frames]`, each a hop later than the one before -> `[(frames - 1) hop + n_fft]`.

        Piece k's r-th hop of samples falls on hop k + r: one shifted addition of all frames for each r.
        """
        frames = pieces.shape[-1]
        shifts = self.n_fft // self.hop
        hops = pieces.mT.reshape(frames, shifts, self.hop)      # the transform leaves a frame's samples side by side
        window = (self.window.to(pieces.dtype) if window is None else window).view(shifts, self.hop)
        total = pieces.new_zeros(frames + shifts - 1, self.hop)
        for r in range(shifts):
            total[r : r + frames].addcmul_(hops[:, r], window[r])
        return total.flatten()
