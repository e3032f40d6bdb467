"""The short-time Fourier transform and its exact inverse."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
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
        return self.analyse(torch.cat(list(self.reflected([audio])), dim=-1))

    def reflected(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Blocks `[..., any]` of audio, and before and after all of them half a window more, reflected.

        Holds the last half window. As in `forward`, too short audio is continued with zeros first.
        """
        half = self.n_fft // 2
        last: deque[Tensor] = deque()
        held, begun = 0, False
        for block in blocks:
            last.append(block)
            held += block.shape[-1]
            if begun:
                yield block
            elif held > half:
                first = torch.cat(tuple(last), dim=-1)
                yield first[..., 1 : half + 1].flip(-1)
                yield first
                begun = True
            while held - last[0].shape[-1] > half:
                held -= last.popleft().shape[-1]
        if not held:
            return
        end = torch.cat(tuple(last), dim=-1)
        if not begun:
            end = F.pad(end, (0, half + 1 - held))
            yield end[..., 1:].flip(-1)
            yield end
        yield end[..., -half - 1 : -1].flip(-1)

    def analyse(self, audio: Tensor) -> Tensor:
        """The frames that audio `[..., T]`, T >= n_fft, holds as it is: `[..., F, 1 + (T - n_fft) // hop]`."""
        pieces = audio.reshape(-1, audio.shape[-1]).unfold(-1, self.n_fft, self.hop)    # [planes, frames, n_fft]: view
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
        frames, half = spectrum.shape[-1], self.n_fft // 2
        if frames != self.frames(length):
            raise ValueError(f"{length} samples have {self.frames(length)} frames, not {frames}")
        planes = spectrum.reshape(-1, *spectrum.shape[-2:])
        total = torch.zeros(len(planes), self.samples(frames), dtype=spectrum.dtype.to_real(), device=spectrum.device)
        for number, plane in enumerate(planes):
            for first, block in in_blocks(plane):
                self.overlap_add(total[number], block, first)
        kept = slice(half, half + length)
        return (total[:, kept] / self.envelope(frames).to(total)[kept]).view(*spectrum.shape[:-2], length)

    def overlap_add(self, total: Tensor, spectrum: Tensor, first: int) -> None:
        """Add frames `[..., F, n]`, transformed back and windowed, to `total` `[..., samples(any)]`.

        `first` is the number of their first one in it. See `in_blocks` for how many at a time are best.
        """
        pieces = torch.fft.irfft(spectrum.mT, n=self.n_fft).unflatten(-1, (-1, self.hop))       # [..., n, shifts, hop]
        window = self.window.view(-1, self.hop).to(total.dtype)
        _overlap_add(total.unflatten(-1, (-1, self.hop))[..., first:, :], pieces, window)

    def envelope(self, frames: int) -> Tensor:
        """What frames added up have to be divided by: the summed squared window, `[samples(frames)]`."""
        square = self.window.view(-1, self.hop).square()
        total = square.new_zeros(self.samples(frames) // self.hop, self.hop)
        _overlap_add(total, square.expand(frames, -1, -1), torch.ones_like(square))
        return total.flatten()

    def samples(self, frames: int) -> int:
        """Number of samples that so many overlapping frames take."""
        return (frames - 1) * self.hop + self.n_fft

    def frames(self, length: int) -> int:
        """Number of frames that `length` samples have, reflected edges included."""
        return 1 + max(length, self.n_fft // 2 + 1) // self.hop


def power_of(spectrum: Tensor) -> Tensor:
    """|X|^2. Several times as fast as `abs`, which guards against overflow."""
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def in_blocks(spectrum: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Number of a first frame, and `[..., F, any]` from it on: so few that on a CPU their work stays in its cache."""
    step = _block(spectrum)
    for first in range(0, spectrum.shape[-1], step):
        yield first, spectrum[..., first : first + step]


def _block(spectrum: Tensor) -> int:
    return CPU_FRAMES if spectrum.device.type == "cpu" else sys.maxsize


def _overlap_add(total: Tensor, pieces: Tensor, window: Tensor) -> None:
    """Add pieces `[..., n, shifts, hop]` times the window `[shifts, hop]`, each a hop after the one before.

    Piece k's r-th hop of samples falls on hop k + r of the `total` `[..., any, hop]`: one shifted addition for each r.
    """
    n = pieces.shape[-3]
    for r, gain in enumerate(window):
        total[..., r : r + n, :].addcmul_(pieces[..., r, :], gain)
