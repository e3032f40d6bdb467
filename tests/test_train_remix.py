"""Mixing in the transform domain against the long way round: waveforms, full-resolution spectra, plain formulas."""

import pytest
import torch

from separator.models.trunk import band_edges
from separator.train.augment import Augment, response
from separator.train.losses import Loss, squared_error, thresholded_sdr
from separator.train.remix import Remixer, collect, measure, spectra
from separator.train.validation import sdr

N_FFT, HOP, BINS = 256, 64, 129
EDGES = band_edges(BINS, 16, 24)
STILL = Augment(coherent=1, drop_stem=0, balance=False, gain_db=0, swap=0, polarity=0, pan_db=0, equalise_db=0)


@pytest.fixture
def rows():
    return torch.randn(6, 3, 2, 4000, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def planes(rows):
    return spectra(rows, N_FFT, HOP)


def complex_of(planes):
    return torch.complex(planes[..., 0, :, :], planes[..., 1, :, :])  # [..., T, F]


def full_masks(masks):
    """Masks `[..., M]` at every bin."""
    widths = torch.tensor(EDGES).diff()
    return masks.repeat_interleave(widths, dim=-1)


def test_spectra_equal_torch_stft(rows, planes):
    expected = torch.stft(
        rows.flatten(0, 2), N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True
    )
    torch.testing.assert_close(complex_of(planes).flatten(0, 2).transpose(1, 2), expected)


def test_squared_error_from_band_sums_is_the_squared_error_of_the_masked_mix(planes):
    batch = collect(measure(row, EDGES) for row in planes)
    masks = torch.rand(batch.cross.shape)
    stems = complex_of(planes)
    error = (stems - full_masks(masks) * stems.sum(1, keepdim=True)).abs().square()
    torch.testing.assert_close(squared_error(masks, batch).sum(-1), error.sum(-1), rtol=1e-3, atol=1e-2)


def test_without_augmentation_a_batch_is_the_rows_themselves(planes):
    remixer = Remixer(STILL, EDGES, BINS, stride=1)
    generator = torch.Generator().manual_seed(0)
    power = torch.cat([batch.power for batch in remixer.batches(planes, 1, 2, generator)])
    expected = complex_of(planes).sum(1).abs().square().transpose(2, 3)
    order = [int((expected - item).abs().amax((1, 2, 3)).argmin()) for item in power]
    assert sorted(order) == list(range(6))  # each row once, in random order
    torch.testing.assert_close(power, expected[order], rtol=1e-4, atol=1e-3)


def test_incoherent_remixing_uses_every_excerpt_of_every_stem_once(planes):
    remixer = Remixer(STILL.model_copy(update={"coherent": 0.0}), EDGES, BINS, stride=1)
    batches = list(remixer.batches(planes, 1, 3, torch.Generator().manual_seed(0)))
    stems = torch.cat([batch.stems for batch in batches]).sum((2, 3, 4))  # energies identify excerpts
    expected = complex_of(planes).abs().square().sum((2, 3, 4))
    for s in range(3):
        torch.testing.assert_close(stems[:, s].sort()[0], expected[:, s].sort()[0])
    rows_used = (stems[:, None] - expected[None]).abs().argmin(dim=1)
    assert (rows_used[:, 0] != rows_used[:, 1]).any()


def test_balancing_brings_the_stems_of_incoherent_mixes_to_one_level(planes):
    uneven = planes * torch.tensor([1.0, 0.1, 10.0])[:, None, None, None, None]
    uneven[0, 1] = 0  # a silent excerpt stays silent
    for coherent in (0.0, 1.0):
        augment = STILL.model_copy(update={"coherent": coherent, "balance": True})
        batch = next(Remixer(augment, EDGES, BINS, stride=1).batches(uneven, 1, 6, torch.Generator().manual_seed(0)))
        power = batch.stems.sum((2, 3, 4))
        audible = power[power > 0]
        assert (power == 0).sum() == 1 and torch.isfinite(power).all()
        spread_db = 10 * torch.log10(audible.max() / audible.min())
        assert spread_db < 0.01 if not coherent else spread_db > 35


def test_swap_polarity_and_gain_act_as_on_waveforms(planes):
    swap = Remixer(STILL.model_copy(update={"swap": 1.0}), EDGES, BINS, stride=1)
    still = Remixer(STILL, EDGES, BINS, stride=1)
    a, b = (next(r.batches(planes, 1, 6, torch.Generator().manual_seed(3))) for r in (swap, still))
    torch.testing.assert_close(a.stems.sum((2, 3, 4)), b.stems.sum((2, 3, 4)))
    torch.testing.assert_close(a.power.flip(1), b.power)
    factor = response(STILL.model_copy(update={"polarity": 1.0}), 2, 3, BINS, torch.Generator())
    assert torch.equal(factor, -torch.ones(2, 3, 2, BINS))
    factor = response(STILL.model_copy(update={"gain_db": 6.0}), 200, 3, BINS, torch.Generator())
    assert 10 ** (-6 / 20) - 1e-4 < factor.min() < 0.53 and 1.9 < factor.max() < 10 ** (6 / 20) + 1e-4
    assert torch.equal(factor[:, :, 0], factor[:, :, 1])  # gain alone keeps the panning


def test_dropped_stems_are_silent_and_equalisation_is_smooth():
    dropped = response(STILL.model_copy(update={"drop_stem": 1.0}), 4, 3, BINS, torch.Generator())
    assert not dropped.any()
    factor = response(STILL.model_copy(update={"equalise_db": 4.0}), 50, 4, BINS, torch.Generator())
    db = 20 * factor[:, :, 0].log10()
    assert 3 < db.std() < 5
    assert db[..., 64:].diff().abs().max() < 1  # neighbouring bins nearly alike


def test_stride_keeps_every_second_frame_of_the_sums(planes):
    whole = measure(planes[0], EDGES)
    for first in (0, 1):
        half = measure(planes[0], EDGES, first, 2)
        assert torch.equal(half[0], whole[0])
        for part, full in zip(half[1:], whole[1:], strict=True):
            torch.testing.assert_close(part, full[..., first::2, :])


def test_sdr_from_band_sums_is_the_plain_formula(planes):
    batch = collect(measure(row, EDGES) for row in planes)
    stems = complex_of(planes)
    masks = torch.full(batch.cross.shape, 0.3)
    error = (stems - 0.3 * stems.sum(1, keepdim=True)).abs().square().sum((2, 3, 4))
    torch.testing.assert_close(
        sdr(masks, batch), 10 * torch.log10(stems.abs().square().sum((2, 3, 4)) / error), rtol=1e-3, atol=1e-3
    )


def test_loss_floor_perfect_masks_and_silent_targets():
    stems = torch.zeros(1, 2, 2, 2, 5, BINS)
    stems[:, 0] = torch.randn(1, 2, 2, 5, BINS)  # one stem is the mix, one is silent
    batch = collect(measure(row, EDGES) for row in stems)
    loss = Loss(threshold_db=30)
    perfect = torch.zeros_like(batch.cross)
    perfect[:, 0] = 1
    assert thresholded_sdr(perfect, batch, loss).item() == pytest.approx(-30, abs=0.1)
    assert thresholded_sdr(1 - perfect, batch, loss).item() == pytest.approx(0, abs=0.1)  # all wrong: error = mix
    leak = perfect.clone()
    leak[:, 1] = 0.1  # -20 dB of leakage into silence
    assert thresholded_sdr(leak, batch, loss).item() == pytest.approx((-30 - 19.6) / 2, abs=0.1)


def test_optimum_of_the_loss_on_a_quiet_stem_is_not_silence():
    """The collapse that L1 has: a stem active in four of ten frames; one mask value for all frames."""
    stems = torch.zeros(1, 2, 1, 2, 10, 1)
    stems[0, 0, 0, 0, :4] = 1.0
    stems[0, 1, 0, 0, 4:] = 1.0
    batch = collect(measure(row, [0, 1]) for row in stems)
    values = torch.linspace(0, 1, 101)
    losses = [thresholded_sdr(torch.full_like(batch.cross, v), batch, Loss(groups=1)).item() for v in values.tolist()]
    alone = [squared_error(torch.full_like(batch.cross, v), batch)[0, 0].sum().item() for v in values.tolist()]
    assert values[torch.tensor(alone).argmin()] == pytest.approx(0.4)  # the mean; the median would be 0
    assert losses[40] < losses[0]
