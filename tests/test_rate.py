"""Oracles: a sine is a sine at any rate; bits do not depend on blocks; lengths follow from the two rates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from separator.dsp.rate import resample, resampled_length

RATES = [(48000, 44100), (44100, 48000), (8000, 44100), (44100, 8000), (96000, 44100), (44100, 192000)]


def run(x: Tensor, source: int, target: int, block: int = 4096) -> Tensor:
    return torch.cat([x[..., :0], *resample(x.split(block, dim=-1), source, target)], dim=-1)


@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("length", [1, 2, 3, 100, 9999, 10000])
def test_length_follows_from_the_rates(source: int, target: int, length: int) -> None:
    exact = length * target / source
    assert abs(resampled_length(length, source, target) - exact) <= 0.5
    assert run(torch.randn(2, length), source, target).shape == (2, resampled_length(length, source, target))


def test_half_a_sample_rounds_up() -> None:
    assert [resampled_length(n, 2, 1) for n in range(6)] == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("block", [1, 7, 1000, 4095])
def test_bits_do_not_depend_on_blocks(source: int, target: int, block: int) -> None:
    x = torch.randn(2, 4096)
    assert torch.equal(run(x, source, target, block), run(x, source, target, 5000))


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_sine_keeps_frequency_level_and_place(source: int, target: int) -> None:
    def sine(rate: int) -> Tensor:
        return 0.5 * torch.sin(2 * math.pi * 997 * torch.arange(rate, dtype=torch.float64) / rate).float()[None]

    y = run(sine(source), source, target)
    inner = slice(target // 4, -target // 4)        # the sine starts and ends sharply: there the filters may ring
    torch.testing.assert_close(y[:, inner], sine(target)[:, inner], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("source", "target"), [(44100, 48000), (8000, 44100), (44100, 96000)])
@pytest.mark.parametrize("length", [1, 2, 99, 100, 8001])
def test_up_and_down_again(source: int, target: int, length: int) -> None:
    x = torch.randn(2, length)
    y = run(run(x, source, target), target, source)
    assert y.shape == x.shape


def test_leading_dimensions_are_resampled_alike() -> None:
    x = torch.randn(3, 2, 5000)
    y = run(x, 48000, 44100)
    for stem, expected in zip(y, x, strict=True):
        assert torch.equal(stem, run(expected, 48000, 44100))


def test_equal_rates_pass_blocks_through() -> None:
    blocks = [torch.randn(2, 5), torch.randn(2, 1)]
    assert all(a is b for a, b in zip(resample(blocks, 8000, 8000), blocks, strict=True))


def test_empty_blocks_and_streams() -> None:
    assert list(resample([], 48000, 44100)) == []
    assert list(resample([torch.empty(2, 0)], 48000, 44100)) == []
    x = torch.randn(2, 100)
    parts = [torch.empty(2, 0), x[:, :50], torch.empty(2, 0), x[:, 50:]]
    assert torch.equal(torch.cat(list(resample(parts, 48000, 44100)), dim=-1), run(x, 48000, 44100))


def test_silence_stays_silent() -> None:
    assert not run(torch.zeros(1, 10000), 48000, 44100).any()
