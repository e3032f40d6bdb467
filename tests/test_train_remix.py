"""Mixing in the transform domain against the long way round: waveforms, full-resolution spectra, plain formulas."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from separator.card import ModelCard
from separator.models.trunk import band_edges
from separator.train import bands
from separator.train.augment import Augment, Equalise, Gain, Noise, Pan
from separator.train.bands import collect, squared_error
from separator.train.losses import Loss, thresholded_sdr
from separator.train.objective import objective, ratio_db
from separator.train.remix import Remixer, balancing, seeded, spectra

N_FFT, HOP, BINS = 256, 64, 129
EDGES = band_edges(BINS, 16, 24)
STILL = Augment(coherent=1, drop_stem=0, balance=False, gain=Gain(p=0), swap=0, polarity=0, pan=Pan(p=0),
                equalise=Equalise(p=0))
STEMS = ("a", "b", "c")
SPEC = {"family": "trunk", "input_bands": 24, "hidden": 4, "lstm_hidden": 4, "layers": 1, "head": 4}
CARD = ModelCard.model_validate(
    {"name": "tiny", "stems": STEMS, "n_fft": N_FFT, "hop": HOP, "spec": SPEC | {"fine_bins": 16, "mask_bands": 24}}
)


def make(augment, stride=1):
    return Remixer(augment, objective(CARD, STEMS, Loss()), stride)


def measure(row, edges=EDGES, first=0, stride=1):
    return bands.measure(row, range(len(row)), edges, first, stride)


def decibels(masks, batch, loss):
    """The loss of masks, by way of their squared error."""
    return thresholded_sdr(squared_error(masks, batch).sum((2, 3)), batch.mix.sum((2, 3)), loss)


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
    batch = collect(measure(row) for row in planes)
    masks = torch.rand(batch.cross.shape)
    stems = complex_of(planes)
    error = (stems - full_masks(masks) * stems.sum(1, keepdim=True)).abs().square()
    torch.testing.assert_close(squared_error(masks, batch).sum(-1), error.sum(-1), rtol=1e-3, atol=1e-2)


def test_noise_is_added_to_the_rest_alone_in_proportion_to_the_mix(planes):
    noisy = STILL.model_copy(update={"noise": Noise(p=1, low=-20, high=-20)})
    clean, dirty = (
        torch.cat([batch.stems for batch, _ in Remixer(augment, objective(CARD, STEMS, Loss()), 1, 1).batches(
            planes, 1, 2, torch.Generator().manual_seed(0))])
        for augment in (STILL, noisy)
    )  # fmt: skip
    torch.testing.assert_close(dirty[:, [0, 2]], clean[:, [0, 2]])
    added = (dirty - clean)[:, 1].flatten(1).sum(1) / clean.flatten(1).sum(1)  # 1 % of the power of all three stems
    torch.testing.assert_close(added, torch.full_like(added, 0.01), rtol=0.3, atol=0)


def test_without_augmentation_a_batch_is_the_rows_themselves(planes):
    remixer = make(STILL)
    generator = torch.Generator().manual_seed(0)
    power = torch.cat([batch.power for batch, _ in remixer.batches(planes, 1, 2, generator)])
    expected = complex_of(planes).sum(1).abs().square().transpose(2, 3)
    order = [int((expected - item).abs().amax((1, 2, 3)).argmin()) for item in power]
    assert sorted(order) == list(range(6))  # each row once, in random order
    torch.testing.assert_close(power, expected[order], rtol=1e-4, atol=1e-3)


def test_incoherent_remixing_uses_every_excerpt_of_every_stem_once(planes):
    remixer = make(STILL.model_copy(update={"coherent": 0.0}))
    batches = list(remixer.batches(planes, 1, 3, torch.Generator().manual_seed(0)))
    told = torch.cat([rows for _, rows in batches])
    stems = torch.cat([batch.stems for batch, _ in batches]).sum((2, 3, 4))  # energies identify excerpts
    expected = complex_of(planes).abs().square().sum((2, 3, 4))
    for s in range(3):
        torch.testing.assert_close(stems[:, s].sort()[0], expected[:, s].sort()[0])
    rows_used = (stems[:, None] - expected[None]).abs().argmin(dim=1)
    assert (rows_used[:, 0] != rows_used[:, 1]).any()
    assert torch.equal(told, rows_used)  # what names the batch's items in nan-batch.json


def test_coherent_mixes_are_the_whole_rows_and_others_are_made_of_the_rest(planes):
    uneven = planes * torch.tensor([1.0, 0.2, 5.0])[:, None, None, None, None]
    augment = STILL.model_copy(update={"coherent": 0.5, "balance": True})
    whole = augment.whole(6)
    batches = list(make(augment).batches(uneven, 4, 3, torch.Generator().manual_seed(0)))
    told = torch.cat([rows for _, rows in batches])
    coherent = (told < whole).any(dim=1)
    assert whole == 3 and coherent.sum() == 12 and (told[coherent] == told[coherent][:, :1]).all()
    expected = complex_of(uneven).abs().square().sum((2, 3, 4))
    stems = torch.cat([batch.stems for batch, _ in batches]).sum((2, 3, 4))
    torch.testing.assert_close(stems[coherent], expected[told[coherent, 0]])  # at their own levels
    torch.testing.assert_close(stems[~coherent], stems[~coherent][:1, :1].expand(12, 3))
    assert len({tuple(row) for row in told[~coherent].tolist()}) > 3
    assert (coherent[:12].view(4, 3).sum(dim=1) % 3).any()  # spread over batches


def test_balancing_brings_the_stems_of_incoherent_mixes_to_one_level(planes):
    uneven = planes * torch.tensor([1.0, 0.2, 5.0])[:, None, None, None, None]
    uneven[0, 1] = 0  # a silent excerpt stays silent
    for coherent in (0.0, 1.0):
        augment = STILL.model_copy(update={"coherent": coherent, "balance": True})
        batch, _ = next(make(augment).batches(uneven, 1, 6, torch.Generator().manual_seed(0)))
        power = batch.stems.sum((2, 3, 4))
        audible = power[power > 0]
        assert (power == 0).sum() == 1 and torch.isfinite(power).all()
        spread_db = 10 * torch.log10(audible.max() / audible.min())
        assert spread_db < 0.01 if not coherent else spread_db > 25


def test_balancing_neither_wakes_silence_nor_amplifies_more_than_20_db(rows):
    levels_db = torch.tensor([0.0, -6.0, -30.0, -59.0, -61.0, -200.0])
    leveled = rows / rows.square().mean(dim=(2, 3), keepdim=True).sqrt() * 10 ** (levels_db / 20)[:, None, None, None]
    gains_db = 20 * balancing(spectra(leveled, N_FFT, HOP)).log10().mean(dim=1)
    torch.testing.assert_close(gains_db, torch.tensor([-30.0, -24, 0, 20, 0, 0]), atol=0.3, rtol=0)  # median: -30 dB
    assert balancing(torch.zeros(2, 3, 2, 2, 5, BINS)).eq(1).all()


def test_swap_polarity_and_gain_act_as_on_waveforms(planes):
    swap = make(STILL.model_copy(update={"swap": 1.0}))
    still = make(STILL)
    a, b = (next(r.batches(planes, 1, 6, torch.Generator().manual_seed(3)))[0] for r in (swap, still))
    torch.testing.assert_close(a.stems.sum((2, 3, 4)), b.stems.sum((2, 3, 4)))
    torch.testing.assert_close(a.power.flip(1), b.power)
    turned = make(STILL.model_copy(update={"polarity": 1.0}))
    c, _ = next(turned.batches(planes, 1, 6, torch.Generator().manual_seed(3)))
    torch.testing.assert_close(c.stems, b.stems)  # all stems upside down: nothing that counts changes
    torch.testing.assert_close(c.power, b.power)


def test_stride_keeps_every_second_frame_of_the_sums(planes):
    whole = measure(planes[0])
    for first in (0, 1):
        half = measure(planes[0], EDGES, first, 2)
        assert torch.equal(half[0], whole[0])
        for part, full in zip(half[1:], whole[1:], strict=True):
            torch.testing.assert_close(part, full[..., first::2, :])


def test_sdr_from_band_sums_is_the_plain_formula(planes):
    batch = collect(measure(row) for row in planes)
    stems = complex_of(planes)
    masks = torch.full(batch.cross.shape, 0.3)
    error = (stems - 0.3 * stems.sum(1, keepdim=True)).abs().square().sum((2, 3, 4))
    torch.testing.assert_close(
        ratio_db(batch.stems, squared_error(masks, batch), batch.mix),
        10 * torch.log10(stems.abs().square().sum((2, 3, 4)) / error), rtol=1e-3, atol=1e-3,
    )  # fmt: skip


def test_loss_floor_perfect_masks_and_silent_targets():
    stems = torch.zeros(1, 2, 2, 2, 5, BINS)
    stems[:, 0] = torch.randn(1, 2, 2, 5, BINS)  # one stem is the mix, one is silent
    batch = collect(measure(row) for row in stems)
    loss = Loss(threshold_db=30)
    perfect = torch.zeros_like(batch.cross)
    perfect[:, 0] = 1
    assert decibels(perfect, batch, loss).item() == pytest.approx(-30, abs=0.1)
    assert decibels(1 - perfect, batch, loss).item() == pytest.approx(0, abs=0.1)  # all wrong: error = mix
    leak = perfect.clone()
    leak[:, 1] = 0.1  # -20 dB of leakage into silence
    assert decibels(leak, batch, loss).item() == pytest.approx((-30 - 19.6) / 2, abs=0.1)


def test_optimum_of_the_loss_on_a_quiet_stem_is_not_silence():
    """The collapse that L1 has: a stem active in four of ten frames; one mask value for all frames."""
    stems = torch.zeros(1, 2, 1, 2, 10, 1)
    stems[0, 0, 0, 0, :4] = 1.0
    stems[0, 1, 0, 0, 4:] = 1.0
    batch = collect(measure(row, [0, 1]) for row in stems)
    values = torch.linspace(0, 1, 101)
    losses = [decibels(torch.full_like(batch.cross, v), batch, Loss(groups=1)).item() for v in values.tolist()]
    alone = [squared_error(torch.full_like(batch.cross, v), batch)[0, 0].sum().item() for v in values.tolist()]
    assert values[torch.tensor(alone).argmin()] == pytest.approx(0.4)  # the mean; the median would be 0
    assert losses[40] < losses[0]


def test_a_target_is_measured_against_the_mix_of_all_stems(planes):
    some = bands.measure(planes[0], [2, 0], EDGES)
    power, mix, cross, stems = measure(planes[0])
    assert torch.equal(some[0], power) and torch.equal(some[1], mix)
    assert torch.equal(some[2], cross[[2, 0]]) and torch.equal(some[3], stems[[2, 0]])


def test_random_numbers_of_blocks_and_lanes_are_apart_and_repeat():
    draws = {numbers: float(torch.rand((), generator=seeded(*numbers))) for numbers in
             [(1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0), (2, 1, 0)]}
    assert len(set(draws.values())) == len(draws)
    assert float(torch.rand((), generator=seeded(1, 2, 1))) == draws[1, 2, 1]


class OneDevice(TorchDispatchMode):
    """Refuses operations between devices, some of which torch lets pass."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        assert len({each.device.type for each in tensors}) <= 1, func
        return func(*args, **(kwargs or {}))


def test_nothing_of_a_step_is_made_on_a_default_device(rows):
    """Where the default device is `meta`, a tensor made without saying where cannot meet those of the rows."""
    for loss in (Loss(), Loss(complex_l1=1, magnitude_mse=1, waveform_l1=1, combinations=True)):
        model = objective(CARD, STEMS, loss)
        planes = spectra(rows, N_FFT, HOP)
        items = [model.measure(planes[n]) for n in range(2)]
        with torch.device("meta"), OneDevice():
            spectra(rows, N_FFT, HOP)
            loss_value = model(model.collect(items))
            loss_value.backward()
        assert loss_value.device.type == "cpu"
