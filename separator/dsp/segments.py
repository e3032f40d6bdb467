"""From a stream of blocks to equal overlapping segments, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from separator.dsp.stft import Stft

Segment = tuple[Tensor, slice]
"""Audio `[C, T]` that the transform takes as it is, and which of its frames are kept."""


class Segments:
    """One song on its way through segments: the frames of all of them, in turn, are the frames of the whole song.

    Every segment keeps `kept` frames, and hears `context` more on either side; at its beginning and end the song has
    none, so there the first one hears more of what follows, and the last one keeps more and may be shorter. What is
    made of the kept frames is overlapped and added across segments as within them: the transform's own window is the
    cross-fade, and with nothing changed the song comes back.

    Holds one segment and a block, however long the song is. `samples` counts what has come in so far.
    """

    def __init__(self, stft: Stft, kept: int, context: int = 0) -> None:
        """`kept` and `context` in frames. Raises ValueError unless kept >= 1 and context >= 0."""
        if kept < 1 or context < 0:
            raise ValueError(f"a segment keeps at least 1 frame, in a context of at least 0 (got {kept}, {context})")
        self.samples = 0
        self._stft = stft
        self._kept = kept
        self._context = context

    def cut(self, blocks: Iterable[Tensor]) -> Iterator[Segment]:
        """Blocks `[C, any]` -> segments; they may be views of the blocks. No samples, no segments."""
        length = self._stft.samples(self._kept + 2 * self._context)
        held: list[Tensor] = []         # joined only when a segment is full: tiny blocks cost no repeated copies
        total = number = 0
        for block in self._stft.reflected(self._counted(blocks)):
            held.append(block)
            total += block.shape[-1]
            if total <= length:         # strictly more is needed: what remains is always the last segment
                continue
            joined = torch.cat(held, dim=-1)
            while total > length:
                first = self._first(number)
                yield joined[..., :length], slice(first, first + self._kept)
                step = self._step(number) * self._stft.hop
                joined, total, number = joined[..., step:], total - step, number + 1
            held = [joined.clone()]     # a view would keep all of it alive while the next segment fills
            del joined
        frames = 1 + (total - self._stft.n_fft) // self._stft.hop
        if frames > self._first(number):
            yield torch.cat(held, dim=-1), slice(self._first(number), frames)

    def join(self, sums: Iterable[Tensor]) -> Iterator[Tensor]:
        """Sums of each segment's kept frames (`Stft.overlap_add`), `[..., T]` -> audio `[..., any]`, all that was cut.

        The sums are changed in place, and what is yielded may be views of them.
        """
        shared = self._stft.n_fft - self._stft.hop
        skipped, given = self._stft.n_fft // 2, 0           # half a window before the song begins
        tails: tuple[Tensor, Tensor] | None = None
        for total in sums:
            own = total.shape[-1] - shared
            envelope = self._stft.envelope(own // self._stft.hop)
            for each, tail in zip((total, envelope), tails or (), strict=False):
                each[..., :shared] += tail
            tails = total[..., own:].clone(), envelope[own:].clone()
            ready = total[..., :own].div_(envelope[:own])[..., skipped:][..., : self.samples - given]
            skipped -= min(skipped, own)
            given += ready.shape[-1]
            if ready.shape[-1]:
                yield ready
            del total, ready            # before the next are made
        if tails is not None:
            total, envelope = tails
            ready = (total / envelope)[..., skipped : skipped + self.samples - given]
            if ready.shape[-1]:
                yield ready

    def _counted(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        for block in blocks:
            self.samples += block.shape[-1]
            yield block

    def _start(self, number: int) -> int:
        """The first frame that a segment hears."""
        return max(number * self._kept - self._context, 0)

    def _first(self, number: int) -> int:
        """The first frame that it keeps, counted from the first that it hears."""
        return number * self._kept - self._start(number)

    def _step(self, number: int) -> int:
        """Frames from its first to the next segment's."""
        return self._start(number + 1) - self._start(number)
