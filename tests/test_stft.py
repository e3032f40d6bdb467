"""Oracles: torch.stft, torch.istft, and the identity."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from separator.dsp.stft import Stft

SIZES = [(64, 16), (48, 16), (128, 16), (4096, 1024)]


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("length", [-1, 0, 1, 15, 16, 17, 1000])       # samples beyond the shortest that reflects
def test_forward_equals_torch(n_fft: int, hop: int, length: int) -> None:
    x = torch.randn(2, n_fft // 2 + 2 + length)
    window = torch.hann_window(n_fft)
    expected = torch.stft(x, n_fft, hop, window=window, return_complex=True)
    torch.testing.assert_close(Stft(n_fft, hop)(x), expected, rtol=0, atol=5e-6)     # frames in other groups: last bits


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65, 1000, 1023, 1024, 1025, 5000])
def test_inverse_undoes_forward_for_any_length(n_fft: int, hop: int, length: int) -> None:
    x = torch.rand(2, 1, length) * 2 - 1
    stft = Stft(n_fft, hop)
    spectrum = stft(x)
    assert spectrum.shape == (2, 1, n_fft // 2 + 1, stft.frames(length))
    torch.testing.assert_close(stft.inverse(spectrum, length), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [2050, 4096, 9999, 10240])
def test_inverse_of_a_changed_spectrum_equals_torch(length: int) -> None:
    """A masked spectrum is no longer the spectrum of any audio: the least-squares solution must be the same one."""
    stft = Stft(4096, 1024)
    spectrum = stft(torch.randn(3, length))
    spectrum = spectrum * torch.rand(spectrum.shape)
    expected = torch.istft(spectrum, 4096, 1024, window=torch.hann_window(4096), length=length)
    torch.testing.assert_close(stft.inverse(spectrum, length), expected, rtol=0, atol=2e-6)


def test_double_precision_stays_double() -> None:
    x = torch.randn(500, dtype=torch.float64)
    stft = Stft(64, 16).double()
    torch.testing.assert_close(stft.inverse(stft(x), 500), x, rtol=0, atol=1e-14)


def test_bins_of_a_frame_lie_side_by_side() -> None:
    assert Stft(64, 16)(torch.randn(2, 500)).stride()[-2:] == (1, 33)


def test_gradients_flow_both_ways() -> None:
    """d/dx of half the energy of inverse(forward(x)) is x itself."""
    x = torch.randn(200, dtype=torch.float64, requires_grad=True)
    stft = Stft(64, 16).double()
    (stft.inverse(stft(x), 200).square().sum() / 2).backward()
    torch.testing.assert_close(x.grad, x.detach())


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 32), (64, 24), (64, 0), (63, 21)])
def test_a_window_that_cannot_be_inverted_is_refused(n_fft: int, hop: int) -> None:
    with pytest.raises(ValueError, match="n_fft"):
        Stft(n_fft, hop)


def test_a_length_that_does_not_fit_the_frames_is_refused() -> None:
    stft = Stft(64, 16)
    with pytest.raises(ValueError, match="frames"):
        stft.inverse(stft(torch.randn(100)), 120)


@pytest.mark.parametrize("bins_first", [True, False])
@pytest.mark.parametrize("step", [1, 7, 63])
def test_frames_may_be_added_some_at_a_time(step: int, bins_first: bool) -> None:
    stft = Stft(64, 16)
    spectrum = stft(torch.randn(2, 992))                                        # 63 frames
    spectrum = spectrum * torch.rand(spectrum.shape)
    given = spectrum.contiguous() if bins_first else spectrum
    total = torch.zeros(2, stft.samples(63))
    for first in range(0, 63, step):
        stft.overlap_add(total, given[..., first : first + step], first)
    whole = (total / stft.envelope(63))[:, 32 : 32 + 992]
    torch.testing.assert_close(whole, stft.inverse(spectrum, 992), rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
@pytest.mark.parametrize("length", [1, 2, 32, 33, 34, 65, 1000])
def test_a_stream_is_reflected_as_a_whole_is(length: int, block: int) -> None:
    stft, x = Stft(64, 16), torch.randn(2, length)
    padded = torch.nn.functional.pad(x, (0, max(33 - length, 0)))
    expected = torch.nn.functional.pad(padded[None], (32, 32), mode="reflect")[0]
    assert torch.equal(torch.cat(list(stft.reflected(x.split(block, dim=-1))), dim=-1), expected)
    assert list(stft.reflected([])) == []


def test_few_samples_are_held_to_reflect_the_end() -> None:
    read = 0

    def blocks() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(100):
            read += 10
            yield torch.zeros(1, 10)

    given = 0
    for part in Stft(64, 16).reflected(blocks()):
        given += part.shape[-1]
        assert read - 40 <= given
