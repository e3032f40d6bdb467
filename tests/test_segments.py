"""Oracle: join undoes cut, bit for bit; and a plain slicing of the whole signal."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from separator.dsp.segments import cut, join

LENGTHS = [0, 1, 2, 19, 20, 21, 99, 100, 101, 179, 180, 181, 1009]      # around the overlap, the segment, the step


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("block", [1, 7, 100, 4096])
@pytest.mark.parametrize(("context", "fade"), [(0, 0), (0, 1), (0, 20), (8, 4), (10, 0), (24, 51)])
def test_join_undoes_cut(length: int, block: int, context: int, fade: int) -> None:
    overlap = 2 * context + fade
    x = torch.randn(2, length)
    segments = list(cut(x.split(block, dim=-1), 100, overlap))
    parts = list(join(segments, overlap, fade))
    assert torch.equal(torch.cat([torch.empty(2, 0), *parts], dim=-1), x)
    assert all(part.shape[-1] for part in parts)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("block", [1, 7, 100, 4096])
@pytest.mark.parametrize("overlap", [0, 20, 99])
def test_segments_are_slices_of_the_song(length: int, block: int, overlap: int) -> None:
    x = torch.randn(2, length)
    step = 100 - overlap
    count = 0 if not length else 1 + max(0, -((overlap - length) // step) - 1) if length > overlap else 1
    expected = [x[:, k * step : k * step + 100] for k in range(count)]
    segments = list(cut(x.split(block, dim=-1), 100, overlap))
    assert [s.shape for s in segments] == [e.shape for e in expected]
    assert all(torch.equal(s, e) for s, e in zip(segments, expected, strict=True))
    assert all(s.shape[-1] == 100 for s in segments[:-1])
    if length > overlap:
        assert segments[-1].shape[-1] > overlap


def test_the_context_at_a_seam_is_never_heard() -> None:
    """Each segment is marked with its own number: away from the fades only the right number may appear."""
    context, fade = 10, 4
    overlap = 2 * context + fade
    marks = [torch.full((1, 1, n), float(k)) for k, n in enumerate([100, 100, 60])]
    y = torch.cat(list(join(marks, overlap, fade)), dim=-1)[0, 0]
    step = 100 - overlap
    assert y.shape == (2 * step + 60,)
    for seam in (1, 2):
        start = seam * step + context
        assert y[start - 1] == seam - 1
        torch.testing.assert_close(y[start : start + fade], seam - 1 + (torch.arange(4) + 0.5) / 4)
        assert y[start + fade] == seam


def test_tiny_blocks_are_not_joined_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quadratic cut would copy the held samples once per block."""
    copied = 0
    cat = torch.cat

    def counting(tensors: list[Tensor], dim: int = 0) -> Tensor:
        nonlocal copied
        copied += sum(t.shape[dim] for t in tensors)
        return cat(tensors, dim=dim)

    monkeypatch.setattr(torch, "cat", counting)
    for _ in cut(torch.zeros(1, 5000).split(1, dim=-1), 1000, 100):
        pass
    assert copied < 3 * 5000


def test_cut_holds_no_more_than_a_segment_and_a_block() -> None:
    """Before the first segment leaves, no more than one sample beyond it may have been read."""
    read = 0

    def blocks() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(1000):
            read += 10
            yield torch.zeros(1, 10)

    segments = cut(blocks(), 100, 20)
    for k in range(5):
        next(segments)
        assert read <= k * 80 + 100 + 10


def test_what_has_left_is_not_kept_alive_by_what_remains() -> None:
    """While the next segment fills, no tensor, not even one behind a view, may still hold the first one."""

    def large() -> int:
        found = [t for t in gc.get_objects() if type(t) is Tensor and t.untyped_storage().nbytes() > 4 * 50_000]
        return len(found)

    def blocks() -> Iterator[Tensor]:
        for _ in range(6):
            yield torch.zeros(1, 20_000)
        kept.append(large())
        yield torch.zeros(1, 20_000)

    kept: list[int] = []
    for segment in cut(blocks(), 100_000, 10):
        del segment
    assert kept == [0]


@pytest.mark.parametrize(("length", "overlap"), [(10, 10), (10, -1), (0, 0)])
def test_impossible_overlaps_are_refused(length: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        next(cut([torch.zeros(1, 5)], length, overlap))


@pytest.mark.parametrize(("overlap", "fade"), [(4, 5), (5, 2), (4, -2)])
def test_impossible_fades_are_refused(overlap: int, fade: int) -> None:
    with pytest.raises(ValueError, match="fade"):
        next(join([torch.zeros(1, 5)], overlap, fade))


def test_a_segment_too_short_to_fade_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        list(join([torch.zeros(1, 10), torch.zeros(1, 4), torch.zeros(1, 10)], 4, 2))
