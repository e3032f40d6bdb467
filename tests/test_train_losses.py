"""Each term against a formula or another program: waveforms by torch.istft, magnitudes by Open-Unmix's own loss."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from separator.dsp.stft import Stft
from separator.train.losses import Loss, combinations, complex_l1, joined, magnitude, magnitude_mse, waveform_l1
from separator.train.remix import spectra

N_FFT, HOP = 256, 64


@pytest.fixture
def audio():
    """Rows `[N, S, C, T]` whose frames end with the last sample."""
    return torch.randn(2, 3, 2, N_FFT + 20 * HOP, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def planes(audio):
    return spectra(audio, N_FFT, HOP)


def as_complex(planes):
    return torch.complex(*planes.unbind(dim=-3))


def test_waveform_l1_is_that_of_the_waveforms(audio):
    """The error of two waveforms, taken through their spectra, where every window is whole."""
    target, estimate = audio[0], audio[1]
    error = spectra((target - estimate)[None], N_FFT, HOP)
    edge = N_FFT - HOP  # samples that fewer than all overlapping windows cover
    expected = (target - estimate)[..., edge : audio.shape[-1] - edge].abs().mean()
    torch.testing.assert_close(waveform_l1(error, Stft(N_FFT, HOP)), expected, rtol=1e-4, atol=1e-6)


def test_waveform_l1_of_masked_spectra_is_that_of_torch_istft(planes):
    """A masked spectrum is no waveform's: its inverse is the least-squares one, and that of torch."""
    masks = torch.rand(2, 3, 2, *planes.shape[-2:])
    error = planes - masks[:, :, :, None] * planes.sum(1, keepdim=True)
    spectrum = as_complex(error).flatten(0, 2).mT
    window = torch.hann_window(N_FFT)
    length = (spectrum.shape[-1] - 1) * HOP
    wave = torch.istft(spectrum, N_FFT, HOP, window=window, length=length)  # centred: drops half a window
    edge = N_FFT // 2 - HOP
    expected = wave[:, edge : length - edge].abs().mean()
    torch.testing.assert_close(waveform_l1(error, Stft(N_FFT, HOP)), expected, rtol=1e-4, atol=1e-6)


def test_magnitude_mse_is_that_of_open_unmix(planes):
    masks = torch.rand(2, 3, 2, *planes.shape[-2:])
    mix = planes.sum(1, keepdim=True)
    expected = F.mse_loss(masks * as_complex(mix).abs(), as_complex(planes).abs())
    torch.testing.assert_close(magnitude_mse(masks, mix, planes), expected)
    torch.testing.assert_close(magnitude(planes), as_complex(planes).abs())


def test_complex_l1_counts_real_and_imaginary_parts(planes):
    z = as_complex(planes)
    torch.testing.assert_close(complex_l1(planes), (z.real.abs() + z.imag.abs()).mean() / 2)


@pytest.mark.parametrize("stems", [1, 2, 3, 4])
def test_combinations_are_the_proper_subsets(stems):
    found = combinations(stems, whole=True)
    bits = {sum(1 << s for s in subset) for subset in found}
    assert bits == (set(range(1, 2**stems - 1)) if stems > 1 else {1}) and len(found) == len(bits)
    assert combinations(stems, whole=False)[-1] == tuple(range(stems))  # the sum of all is not the mix: it counts
    assert len(combinations(stems, whole=False)) == 2**stems - 1


def test_joined_sums_a_subset():
    values = torch.randn(2, 4, 3)
    for subset in itertools.combinations(range(4), 2):
        assert torch.equal(joined(values, subset), values[:, subset[0]][:, None] + values[:, subset[1]][:, None])


def test_a_loss_without_any_term_is_refused():
    with pytest.raises(ValidationError, match="all weights are 0"):
        Loss(thresholded_sdr=0)
    with pytest.raises(ValidationError):
        Loss(complex_l1=-1)


def test_which_losses_need_no_more_than_band_sums():
    assert Loss().from_band_sums and Loss(thresholded_sdr=2).from_band_sums
    for other in ({"complex_l1": 1}, {"magnitude_mse": 1}, {"waveform_l1": 1}, {"combinations": True}):
        assert not Loss(**other).from_band_sums
