"""From a stream of blocks to equal overlapping segments, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def cut(blocks: Iterable[Tensor], length: int, overlap: int) -> Iterator[Tensor]:
    """Re-cut blocks `[C, any]` into segments `[C, length]`, each sharing `overlap` samples with the one before.

    Only the last segment may be shorter: it keeps its true length, and unless the whole stream is shorter than
    `overlap` it has more than `overlap` samples, so that it always brings something new. No samples, no segments.
    Holds `length` samples plus one block, however long the stream is; segments may be views of the blocks.

    Raises ValueError unless 0 <= overlap < length.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"overlap must be at least 0 and below the length {length} (got {overlap})")
    held: list[Tensor] = []             # joined only when a segment is full: tiny blocks cost no repeated copies
    total = 0
    for block in blocks:
        held.append(block)
        total += block.shape[-1]
        if total <= length:             # strictly more is needed: what remains is always the last segment
            continue
        joined = torch.cat(held, dim=-1)
        while total > length:
            yield joined[..., :length]
            joined = joined[..., length - overlap :]
            total -= length - overlap
        held = [joined.clone()]         # a view would keep all of it alive while the next segment fills
        del joined
    if total:
        yield torch.cat(held, dim=-1)


def join(segments: Iterable[Tensor], overlap: int, fade: int) -> Iterator[Tensor]:
    """Merge segments `[..., n]` that share `overlap` samples into one stream, so that `join(cut(x)) == x`.

    The overlap is context, fade, context: where two segments meet, each drops the `(overlap - fade) / 2` samples
    nearest to its own edge, and between them a linear cross-fade passes from the old one to the new one.

        old  ...---------------\\________|
                       |________\\---------------...  new
                        context fade context

    The fade interpolates, `old + ramp * (new - old)`: equal segments come back bit for bit.
    Holds one segment. Raises ValueError for a fade outside 0..overlap or of another parity than the overlap, and for
    a segment, other than the last, that is no longer than the overlap.
    """
    if not 0 <= fade <= overlap or (overlap - fade) % 2:
        raise ValueError(f"the overlap {overlap} must be twice a context plus the fade {fade}")
    start, stop = (overlap - fade) // 2, (overlap + fade) // 2
    ramp = (torch.arange(fade, dtype=torch.float32) + 0.5) / max(fade, 1)
    tail: Tensor | None = None
    for segment in segments:
        if tail is not None:
            if tail.shape[-1] < overlap or segment.shape[-1] <= overlap:
                raise ValueError(f"only a lone segment may be as short as the overlap of {overlap} samples")
            faded = torch.lerp(tail[..., start:stop], segment[..., start:stop], ramp.to(segment))
            segment = torch.cat([tail[..., :start], faded, segment[..., stop:]], dim=-1)
        keep = max(segment.shape[-1] - overlap, 0)
        if keep:
            yield segment[..., :keep]
        tail = segment[..., keep:]
    if tail is not None and tail.shape[-1]:
        yield tail
