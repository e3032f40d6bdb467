"""Oracle: a song cut, transformed there and back, and joined is the song; its frames are those of the whole song."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from separator.dsp.segments import Segments
from separator.dsp.stft import Stft

STFT = Stft(64, 16)
EDGES = (-17, -16, -15, -1, 0, 1, 15, 16, 17)
LENGTHS = [1, 2, 31, 32, 33, 34, *(frames * 16 + edge for frames in (10, 14, 20, 60) for edge in EDGES)]
SHAPES = [(10, 0), (10, 4), (10, 10), (4, 10), (1, 0), (1, 3), (100, 7)]


def sums(segments: list[tuple[Tensor, slice]]) -> Iterator[Tensor]:
    """What a separator makes of segments, if it changes nothing."""
    for audio, kept in segments:
        spectrum = STFT.analyse(audio)[..., kept]
        total = torch.zeros(2, STFT.samples(spectrum.shape[-1]))
        STFT.overlap_add(total, spectrum, 0)
        yield total


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize(("kept", "context"), SHAPES)
def test_the_song_comes_back_at_its_length(length: int, block: int, kept: int, context: int) -> None:
    x = torch.randn(2, length)
    way = Segments(STFT, kept, context)
    parts = list(way.join(sums(list(way.cut(x.split(block, dim=-1))))))
    torch.testing.assert_close(torch.cat(parts, dim=-1), x, rtol=0, atol=2e-6)
    assert all(part.shape[-1] for part in parts)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("kept", "context"), SHAPES)
def test_the_frames_kept_are_in_turn_those_of_the_song(length: int, kept: int, context: int) -> None:
    x = torch.randn(2, length)
    segments = list(Segments(STFT, kept, context).cut([x]))
    mine = torch.cat([STFT.analyse(audio)[..., frames] for audio, frames in segments], dim=-1)
    torch.testing.assert_close(mine, STFT(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kept", "context"), SHAPES)
def test_contexts_lie_around_what_is_kept_except_at_the_ends(kept: int, context: int) -> None:
    segments = list(Segments(STFT, kept, context).cut([torch.randn(2, 3000)]))
    sizes = {STFT.analyse(audio).shape[-1] for audio, _ in segments[:-1]}
    assert sizes <= {kept + 2 * context}                                        # all of one length: they make batches
    for number, (_, frames) in enumerate(segments[:-1]):
        assert frames.stop - frames.start == kept
        assert frames.start == min(number * kept, context)
    audio, frames = segments[-1]
    assert frames.stop == STFT.analyse(audio).shape[-1] <= kept + 2 * context


def test_segments_do_not_depend_on_the_blocks() -> None:
    x = torch.randn(2, 1009)
    whole = list(Segments(STFT, 10, 4).cut([x]))
    for block in (1, 7, 100):
        cut = list(Segments(STFT, 10, 4).cut(x.split(block, dim=-1)))
        assert [frames for _, frames in cut] == [frames for _, frames in whole]
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(cut, whole, strict=True))


def test_no_samples_no_segments() -> None:
    way = Segments(STFT, 10, 4)
    assert list(way.cut([])) == list(way.cut([torch.empty(2, 0)])) == []
    assert list(way.join([])) == []


def test_a_change_between_segments_fades_over_one_window() -> None:
    """Each segment is marked with its own number: the transform's window passes from one to the next."""
    way = Segments(STFT, 10)
    segments = list(way.cut([torch.ones(2, 30 * 16)]))
    marks = (number * total for number, total in enumerate(sums(segments), 1))
    y = torch.cat(list(way.join(marks)), dim=-1)[0]
    seam = 10 * 16 - 8                                                          # between the frames centred on 144, 160
    before, after = y[: seam - 24], y[seam + 24 : seam + 10 * 16 - 24]
    torch.testing.assert_close(before, torch.ones_like(before))
    torch.testing.assert_close(after, torch.full_like(after, 2))
    fade = y[seam - 24 : seam + 24].diff()
    assert (fade > -1e-6).all() and fade.max() < 3 / 48


def test_tiny_blocks_are_not_joined_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quadratic cut would copy the held samples once per block."""
    copied = 0
    cat = torch.cat

    def counting(tensors: list[Tensor], dim: int = 0) -> Tensor:
        nonlocal copied
        copied += sum(t.shape[dim] for t in tensors)
        return cat(tensors, dim=dim)

    monkeypatch.setattr(torch, "cat", counting)
    for _ in Segments(STFT, 60).cut(torch.zeros(1, 5000).split(1, dim=-1)):
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

    segments = Segments(STFT, 10, 2).cut(blocks())
    for k in range(5):
        next(segments)
        assert read <= (max(10 * k - 2, 0) + 14) * 16 + 64 - 32 + 10


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
    for segment in Segments(STFT, 6200).cut(blocks()):
        del segment
    assert kept == [0]


@pytest.mark.parametrize(("kept", "context"), [(0, 0), (-1, 5), (5, -1)])
def test_impossible_segments_are_refused(kept: int, context: int) -> None:
    with pytest.raises(ValueError, match="keeps at least 1 frame"):
        Segments(STFT, kept, context)
