"""What comes into a separator: blocks of a song, checked, copied and remembered until they are answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from numbers import Integral

import torch
from torch import Tensor

from separator.errors import AudioError, UsageError

CHANNELS = 8        # no song has more: what seems to have them is the other way round
WANTED = "pass float32 torch tensors [channels, samples] within +-1"


class Listened:
    """What has been heard of a song and not yet been answered with stems."""

    def __init__(self) -> None:
        self.channels = 0
        self._held: deque[Tensor] = deque()
        self._samples = 0

    def listen(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pass copies of blocks `[C, any]` on, checked, and remember them."""
        for block in blocks:
            check_audio(block)
            if self.channels and block.shape[0] != self.channels:
                raise UsageError(f"blocks must be of {self.channels} channels like the first, not {block.shape[0]}")
            block = block.detach().to("cpu", torch.float32, copy=True)      # the caller may use its memory again
            finite = block.isfinite().all(dim=0)
            if not finite.all():
                first = self._samples + int(finite.int().argmin())
                raise AudioError(f"sample {first} of the song is not a finite number")
            self.channels = block.shape[0]
            self._samples += block.shape[-1]
            self._held.append(block)
            yield block

    def take(self, samples: int | None) -> Tensor:
        """Forget and return the next samples, or as many as there are, `[C, up to samples]`; None: all."""
        parts = [torch.empty(self.channels, 0)]
        missing = self._samples if samples is None else samples
        while missing and self._held:
            block = self._held.popleft()
            if block.shape[-1] > missing:
                self._held.appendleft(block[:, missing:])
                block = block[:, :missing]
            missing -= block.shape[-1]
            parts.append(block)
        return torch.cat(parts, dim=-1)


def check_rate(sample_rate: object) -> None:
    """Raise UsageError for what cannot be a sample rate."""
    if not isinstance(sample_rate, Integral) or isinstance(sample_rate, bool):
        raise UsageError(f"the sample rate must be an int, in Hz (got {sample_rate!r})")
    if int(sample_rate) < 1:
        raise UsageError(f"the sample rate must be positive (got {sample_rate})")


def check_audio(audio: object) -> None:
    """Raise UsageError for what cannot be a block of a song; other precisions than float32 are converted later."""
    if not isinstance(audio, Tensor):
        raise UsageError(f"audio must be a torch tensor, not {type(audio).__module__}.{type(audio).__name__}",
                         hint=f"{WANTED}: torch.from_numpy makes them of arrays")
    if audio.dim() != 2 or not 1 <= audio.shape[0] <= CHANNELS:
        turned = audio.dim() == 2 and 1 <= audio.shape[1] <= CHANNELS
        raise UsageError(f"audio and its blocks must be of shape [channels, samples], not {list(audio.shape)}",
                         hint="pass audio.T" if turned else WANTED)
    if not audio.is_floating_point():
        raise UsageError(f"samples must be floating-point numbers, not {str(audio.dtype).removeprefix('torch.')}",
                         hint=f"{WANTED}: divide 16-bit integers by 32768")
