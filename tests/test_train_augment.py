"""Every change of the training material against what it must do by its definition."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchaudio.functional
from pydantic import ValidationError

from separator.train.augment import (
    Augment,
    Band,
    Drive,
    Equalise,
    Gain,
    Loudness,
    Noise,
    Pan,
    Reverb,
    Speed,
    Width,
    noise_floor,
    response,
)
from separator.train.loudness import k_weighting, loudness, weighted
from separator.train.waveforms import GAP_S, MARGIN, Waveforms, at_speed, convolved, room, soft_clipped, widened

RATE = 16000
STILL = Augment(drop_stem=0, polarity=0, gain=Gain(p=0), pan=Pan(p=0), equalise=Equalise(p=0))
LOUD = {"drive": Drive(p=1), "width": Width(p=1), "reverb": Reverb(p=1), "speed": Speed(p=1), "loudness": Loudness(p=1)}


def sine(hz, seconds=1.0, rate=RATE):
    return torch.sin(2 * math.pi * hz / rate * torch.arange(round(seconds * rate), dtype=torch.float64)).float()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(**changes):
    return response(STILL.model_copy(update=changes), 500, 4, 33, RATE / 2, torch.Generator().manual_seed(1))


# Real factors per bin


def test_without_any_change_the_response_is_exactly_one():
    assert torch.equal(factors(), torch.ones(500, 4, 2, 33))


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_a_change_happens_as_often_as_it_is_told(p):
    for change in ({"gain": Gain(p=p, low=3, high=6)}, {"pan": Pan(p=p, low=1)}, {"equalise": Equalise(p=p)},
                   {"polarity": p}, {"drop_stem": p}):
        changed = (factors(**change) != 1).any(dim=(2, 3))
        assert changed.float().mean() == pytest.approx(p, abs=0.05)


def test_gain_is_uniform_in_its_range_on_its_scale():
    for gain in (Gain(p=1, low=-6, high=2), Gain(p=1, low=0.25, high=1.25, scale="linear")):
        factor = factors(gain=gain)[:, :, 0, 0].flatten().sort()[0]
        amount = 20 * factor.log10() if gain.scale == "db" else factor
        uniform = torch.linspace(gain.low, gain.high, len(amount))
        assert (amount - uniform).abs().max() < 0.06 * (gain.high - gain.low)  # 0.04 is once in 300 (Kolmogorov)
    assert torch.equal(factors(gain=Gain())[:, :, 0], factors(gain=Gain())[:, :, 1])  # keeps the panning


def test_pan_sets_left_against_right_and_keeps_their_geometric_mean():
    left, right = factors(pan=Pan(p=1, low=2, high=3)).unbind(2)
    assert (20 * (left / right).log10() - 2.5).abs().max() < 0.501
    torch.testing.assert_close(left * right, torch.ones_like(left))


def test_polarity_and_dropout_are_signs_and_zeros():
    assert set(factors(polarity=0.5).unique().tolist()) == {-1, 1}
    assert set(factors(drop_stem=0.5).unique().tolist()) == {0, 1}


def test_equalisers_are_smooth_and_as_strong_as_told():
    augment = STILL.model_copy(update={"equalise": Equalise(sd_db=4)})
    db = 20 * response(augment, 500, 4, 2049, RATE / 2, torch.Generator()).log10()
    assert db[..., 0].std() == pytest.approx(4, rel=0.05) and db[..., -1].std() == pytest.approx(4, rel=0.05)
    assert db[..., 256:].diff().abs().max() < 0.3  # neighbouring bins nearly alike
    assert db.mean().abs() < 0.3


def test_bands_are_those_of_butterworth_filters_and_the_same_for_all_stems():
    from scipy.signal import butter, freqs

    augment = STILL.model_copy(update={"band": Band(p=1, low_hz=300, high_hz=3400)})
    narrow = response(augment, 200, 4, 2049, RATE / 2, torch.Generator().manual_seed(1))
    assert torch.equal(narrow, narrow[:, :1, :1].expand_as(narrow))
    hz, rows = torch.linspace(0, RATE / 2, 2049).numpy(), narrow[:, 0, 0].double().numpy()
    low = hz[10] * (1 / rows[:, 10] ** 2 - 1) ** (1 / 8)  # 39 Hz: the upper end is far
    high = hz[1024] / (1 / rows[:, 1024] ** 2 - 1) ** (1 / 8)  # 4 kHz: the lower one is
    assert 19.9 < low.min() < 22 and 280 < low.max() < 300.1 and 3399 < high.min() < 3500 and 7800 < high.max() < 8001
    assert np.median(low) == pytest.approx((20 * 300) ** 0.5, rel=0.2)  # uniform over octaves
    for row, *corners in zip(rows[:9], low, high, strict=False):
        for corner, kind in zip(corners, ("high", "low"), strict=True):
            row = row / np.maximum(abs(freqs(*butter(4, corner, kind, analog=True), worN=hz)[1]), 1e-12)
        assert row[1:] == pytest.approx(1, abs=2e-3)
    assert (factors(band=Band(p=0.25)) != 1).any(dim=(1, 2, 3)).float().mean() == pytest.approx(1 - 0.75**2, abs=0.07)


def test_noise_has_its_level_its_slope_and_independent_channels():
    generator, shape = torch.Generator().manual_seed(3), (2, 2, 400, 513)
    slopes = []
    for low, high in ((-40, -40), (-60, -50)) * 6:
        noise = noise_floor(Noise(p=1, low=low, high=high), torch.tensor(9.0), shape, generator)
        assert low - 0.5 < 10 * math.log10(float(noise.square().mean()) / 9) < high + 0.5
        assert abs(float((noise[0] * noise[1]).mean() / noise.square().mean())) < 0.08
        power = noise.square().mean(dim=(0, 1, 2))
        slopes.append(10 * math.log10(power[200:300].mean() / power[400:500].mean()) / math.log2(450 / 250))
    assert all(-0.3 < slope < 6.3 for slope in slopes) and min(slopes) < 2 and max(slopes) > 4  # dB per octave
    drawn = [noise_floor(Noise(p=0.25), torch.tensor(1.0), (1, 2, 1, 5), generator) for _ in range(1000)]
    assert sum(noise is not None for noise in drawn) == pytest.approx(250, abs=50)


@pytest.mark.parametrize("wrong", [
    {"gain": {"low": 2, "high": 1}}, {"gain": {"low": -1, "scale": "linear"}}, {"swap": 2}, {"reverb": {"low_s": 3}},
    {"band": {"low_hz": 20}}, {"band": {"low_hz": 4000}},
    {"speed": {"low": 0}}, {"width": {"low": -1}}, {"pan_db": 3},
])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        Augment.model_validate(wrong)


# Waveforms


def test_width_zero_is_mono_one_is_identity_and_the_side_scales():
    x = noise(3, 2, 999)
    mono = widened(x, 0)
    assert torch.equal(mono[:, 0], mono[:, 1])
    torch.testing.assert_close(mono[:, 0], x.mean(dim=1))
    torch.testing.assert_close(widened(x, 1), x)
    wide = widened(x, 1.7)
    torch.testing.assert_close(wide.sum(dim=1), x.sum(dim=1))
    torch.testing.assert_close(wide[:, 0] - wide[:, 1], 1.7 * (x[:, 0] - x[:, 1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("speed", [0.8, 0.987654, 1.1, 1.25])
def test_speed_scales_frequencies_and_length(speed):
    x = torch.stack([sine(440), sine(1234.5)])[None]
    y = at_speed(x, speed)
    assert y.shape[-1] == round(RATE / speed)
    expected = torch.stack([sine(440 * speed, 2), sine(1234.5 * speed, 2)])[None, :, : y.shape[-1]]
    middle = slice(MARGIN, -MARGIN)
    torch.testing.assert_close(y[..., middle], expected[..., middle], rtol=0, atol=2e-3)


def test_speed_folds_nothing_back():
    assert at_speed(sine(7000)[None], 1.3)[..., MARGIN:-MARGIN].abs().max() < 1e-3  # 9.1 kHz, above half the rate


def test_soft_clipping_is_an_odd_tanh_of_the_same_level():
    x = noise(2, 4000)
    y = soft_clipped(x, 6.0)
    curve = torch.tanh(10 ** (6 / 20) / x.abs().max() * x)
    torch.testing.assert_close(y / y.max(), curve / curve.max())
    torch.testing.assert_close(y.square().mean(), x.square().mean())
    torch.testing.assert_close(soft_clipped(-x, 6.0), -y)
    torch.testing.assert_close(soft_clipped(0.01 * x, 6.0), 0.01 * y)
    torch.testing.assert_close(soft_clipped(x, -60.0), x, rtol=1e-3, atol=1e-4)  # far below the knee: a straight line
    assert torch.equal(soft_clipped(torch.zeros(2, 9), 6.0), torch.zeros(2, 9))


def test_soft_clipping_adds_the_odd_harmonics_of_tanh():
    y = soft_clipped(torch.stack([sine(100), sine(100)]), 12.0)[0]
    harmonics = torch.fft.rfft(y).abs()[::100][:10] / (RATE / 2)
    phase = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096 * 2 * math.pi
    curve = torch.tanh(10 ** (12 / 20) * phase.sin())
    series = torch.stack([(curve * (n * phase).sin()).mean() for n in range(10)]).abs().float()  # Fourier's
    torch.testing.assert_close(harmonics[1::2] / harmonics[1], series[1::2] / series[1], rtol=1e-3, atol=1e-5)
    assert harmonics[0::2].max() < 1e-5 < 0.1 < harmonics[3]


@pytest.mark.parametrize(("rt60_s", "direct_db"), [(0.2, 3.0), (0.5, 10.0), (1.5, -3.0)])
def test_a_room_has_its_reverberation_time_and_direct_sound(rt60_s, direct_db):
    h = room(rt60_s, direct_db, RATE, np.random.default_rng(1)).double()
    gap = round(GAP_S * RATE)
    assert h.shape == (2, gap + round(rt60_s * RATE)) and not h[:, 1:gap].any()
    direct, tail = h[:, 0].square(), h[:, gap:].square().sum(dim=1)
    torch.testing.assert_close(10 * (direct / tail).log10(), torch.full((2,), direct_db).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(direct + tail, torch.ones(2).double(), rtol=1e-5, atol=0)
    left = 10 * h[:, gap:].square().flip(1).cumsum(1).flip(1).log10()  # Schroeder's backward integration
    for channel in left - left[:, :1]:
        first, last = (int((channel > level).sum()) for level in (-5.0, -25.0))
        assert 3 * (last - first) / RATE == pytest.approx(rt60_s, rel=0.1)
    correlation = (h[0, gap:] * h[1, gap:]).sum() / tail.sqrt().prod()
    assert abs(correlation) < 0.15


@pytest.mark.parametrize("length", [1, 2, 99, 1000])
@pytest.mark.parametrize("taps", [1, 2, 64, 1500])
def test_convolution_is_linear_and_equals_the_direct_sum(length, taps):
    x, h = noise(2, length).double(), noise(2, taps, seed=1).double()
    direct = F.conv1d(F.pad(x, (taps - 1, 0))[None], h.flip(-1)[:, None], groups=2)[0]
    torch.testing.assert_close(convolved(x, h), direct)


# Loudness


def test_k_weighting_is_the_standards_own_at_48_khz():
    """Coefficients from tables 1 and 2 of ITU-R BS.1770."""
    z = np.exp(-2j * np.pi * np.arange(24001) / 48000)
    shelf = np.polyval([1.19839281085285, -2.69169618940638, 1.53512485958697], z) / np.polyval(
        [0.73248077421585, -1.69065929318241, 1], z)
    highpass = np.polyval([1, -2, 1], z) / np.polyval([0.99007225036621, -1.99004745483398, 1], z)
    np.testing.assert_allclose(k_weighting(48000, 48000).numpy(), shelf * highpass, atol=1e-6)


def test_a_sine_at_full_scale_reads_as_the_standard_says():
    x = torch.stack([sine(997, 5, 48000), torch.zeros(5 * 48000)])
    assert loudness(x, 48000) == pytest.approx(-3.01, abs=0.01)
    assert loudness(x.flip(0), 48000) == pytest.approx(-3.01, abs=0.01)
    assert loudness(0.1 * x, 48000) == pytest.approx(-23.01, abs=0.01)
    assert loudness(x[:, : 48000 * 4 // 10], 48000) == pytest.approx(-3.01, abs=0.01)  # one block
    assert loudness(x[:, : round(0.4 * 11026)], 11026) < 0  # one block, though a tenth of the rate is no whole number


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_loudness_agrees_with_torchaudio(rate):
    steps = torch.tensor([1.0, 0.1, 0.5, 0.0, 1.0, 0.3]).repeat_interleave(rate)
    x = 0.02 * noise(2, 6 * rate) * steps  # torchaudio clips its filters' output at 1
    theirs = float(torchaudio.functional.loudness(x, rate))
    assert loudness(x, rate) == pytest.approx(theirs, abs=0.3)  # its filters are near the standard's, not equal


def test_gates_leave_out_silence_and_what_is_far_below_the_rest():
    x = 0.1 * noise(2, 4 * RATE)
    alone = loudness(x, RATE)
    for tail, expected in ((torch.zeros(2, 20 * RATE), alone), (torch.cat([0.1 * x, 0.1 * x], dim=1), alone),
                           (torch.cat([0.5 * x, 0.5 * x], dim=1), alone - 3.01)):  # -6 dB is heard: power 1.5 of 3
        together = loudness(torch.cat([x, tail], dim=1), RATE)
        assert together == pytest.approx(expected, abs=0.4)  # the seam's blocks hear of both
    quiet = x * 10 ** ((-67 - alone) / 20)  # -67 LUFS; at half the amplitude -73, below the absolute gate
    together = loudness(torch.cat([quiet, 0.5 * quiet, 0.5 * quiet], dim=1), RATE)
    assert together == pytest.approx(-67, abs=0.4)
    assert loudness(1e-5 * x, RATE) == loudness(torch.zeros(2, RATE), RATE) == -math.inf
    with pytest.raises(ValueError, match="0.4 s"):
        loudness(x[:, : RATE * 4 // 10 - 1], RATE)


def test_the_filter_starts_from_silence_and_does_not_wrap_round():
    x = torch.zeros(1, 2000)
    x[0, -1] = 1.0
    assert weighted(x, RATE)[0, :-1].abs().max() < 1e-6


# Rows


def apply(augment, row, seed=0, length=RATE):
    waveforms, rng = Waveforms(augment, RATE), np.random.default_rng(seed)
    speed = waveforms.speed(rng)
    return waveforms.apply(row[..., : waveforms.frames(length, speed)], speed, length, rng)


def test_a_row_without_changes_stays_bit_for_bit():
    row = noise(3, 2, RATE)
    assert torch.equal(apply(Augment(), row), row)  # by default only factors per bin are on
    assert torch.equal(apply(Augment(loudness=Loudness(of="mix")), row), row)


@pytest.mark.parametrize("name", LOUD)
def test_a_row_with_a_change_is_new_memory_finite_and_of_the_same_shape(name):
    row = 0.1 * noise(3, 2, 2 * RATE)
    row[1] = 0
    before = row.clone()
    changed = apply(Augment(**{name: LOUD[name]}), row)
    assert torch.equal(row, before) and changed.shape == (3, 2, RATE)
    assert not torch.allclose(changed[0], row[0, :, :RATE], atol=1e-3)
    assert torch.isfinite(changed).all() and changed[1].abs().max() < 1e-6  # silence stays silence
    assert torch.equal(changed, apply(Augment(**{name: LOUD[name]}), row))  # a function of the random state
    assert not torch.equal(changed, apply(Augment(**{name: LOUD[name]}), row, seed=1))


@pytest.mark.parametrize("name", ["drive", "width", "reverb", "loudness"])
def test_each_stem_is_changed_as_often_as_told(name):
    row = 0.1 * noise(200, 2, RATE // 2)
    changed = apply(Augment(**{name: LOUD[name].model_copy(update={"p": 0.3})}), row, length=RATE // 2)
    assert (changed != row).flatten(1).any(dim=1).float().mean() == pytest.approx(0.3, abs=0.1)


def test_speed_is_one_for_all_stems_of_a_row_and_varies_between_rows():
    tone = torch.stack([sine(1000, 2), sine(1000, 2)])
    peaks = set()
    for seed in range(5):
        row = apply(Augment(speed=Speed(p=1, low=0.8, high=1.2)), torch.stack([tone, 0.5 * tone]), seed)
        torch.testing.assert_close(row[0], 2 * row[1])
        peaks.add(int(torch.fft.rfft(row[0, 0]).abs().argmax()))
    assert len(peaks) == 5 and min(peaks) >= 800 and max(peaks) <= 1200


def test_speed_hears_nothing_of_the_silence_around_the_excerpt():
    """A sinusoid obeys y[n - 1] + y[n + 1] = 2 cos(w) y[n] from its first sample to its last; a fade would not."""
    row = apply(Augment(speed=Speed(p=1, low=1.05, high=1.05)), sine(1000, 2)[4:].expand(1, 2, -1))  # begins at a peak
    residual = row[..., :-2] + row[..., 2:] - 2 * math.cos(2 * math.pi * 1050 / RATE) * row[..., 1:-1]
    assert row.square().mean() == pytest.approx(0.5, rel=0.01) and residual.abs().max() < 1e-3


def test_stems_and_mixes_are_brought_to_the_loudness_asked_for():
    row = noise(3, 2, RATE) * torch.tensor([0.01, 0.1, 0.3])[:, None, None]
    each = apply(Augment(loudness=Loudness(p=1, low=-25, high=-25)), row)
    assert [loudness(stem, RATE) for stem in each] == pytest.approx([-25.0] * 3, abs=1e-3)
    mixed = apply(Augment(loudness=Loudness(p=1, low=-20, high=-20, of="mix")), row)
    assert loudness(mixed.sum(dim=0), RATE) == pytest.approx(-20.0, abs=1e-3)
    torch.testing.assert_close(mixed / row, (mixed / row)[:1, :1, :1].expand(row.shape))  # one factor: balance kept
    drawn = [loudness(stem, RATE) for seed in range(20) for stem in apply(Augment(loudness=Loudness(p=1)), row, seed)]
    assert min(drawn) >= -32.001 and max(drawn) <= -13.999 and max(drawn) - min(drawn) > 12
