"""Oracles against independent computations of what they claim to be."""

import numpy as np
import pytest
import scipy.signal
import torch

from separator.evaluation import ORACLES, mix_itself, model, ratio_mask
from separator.separate import Separator

RATE = 8000


def run(method, blocks, size=3000):
    """Estimates of a song given as blocks `[1 + A, 2, T]`."""
    return torch.cat(list(method(iter(blocks.split(size, -1)), RATE)), dim=-1)


@pytest.fixture(scope="module")
def song():
    """Three seconds of coloured, panned noise: `[1 + 3, 2, T]`; the mix has some noise of its own."""
    noise = np.random.default_rng(1).standard_normal((3, 3 * RATE))
    shapes = [scipy.signal.butter(2, band, "band", fs=RATE) for band in ((50, 900), (300, 2500), (900, 3500))]
    mono = np.stack([scipy.signal.lfilter(*shape, row) for shape, row in zip(shapes, noise, strict=True)])
    stems = np.array([[1, 0.2], [0.5, 0.6], [0.1, 1]])[..., None] * mono[:, None]
    mix = stems.sum(0, keepdims=True) + 0.01 * np.random.default_rng(2).standard_normal((1, 2, 3 * RATE))
    return torch.from_numpy(0.1 * np.concatenate([mix, stems])).float()


def spectra(audio):
    """By scipy, of n_fft 4096 and hop 1024, not normalised: `[..., F, T]`."""
    window = scipy.signal.get_window("hann", 4096)
    padded = np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(2048, 2048)], mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 4096, axis=-1)[..., ::1024, :]
    return np.fft.rfft(frames * window).swapaxes(-1, -2)


def inverse(spectrum, length):
    """By least squares: frames overlapped and added, divided by the summed squared window."""
    window = scipy.signal.get_window("hann", 4096)
    frames = np.fft.irfft(spectrum.swapaxes(-1, -2)) * window
    audio = np.zeros((*frames.shape[:-2], 4096 + 1024 * (frames.shape[-2] - 1)))
    weight = np.zeros(audio.shape[-1])
    for t in range(frames.shape[-2]):
        audio[..., 1024 * t : 1024 * t + 4096] += frames[..., t, :]
        weight[1024 * t : 1024 * t + 4096] += window**2
    return (audio / np.maximum(weight, 1e-9))[..., 2048 : 2048 + length]


@pytest.mark.parametrize(("name", "power"), [("irm1", 1), ("irm2", 2)])
def test_ratio_masks_are_their_closed_form(song, name, power):
    mix, *stems = spectra(song.double().numpy())
    part = np.abs(np.stack(stems)) ** power
    expected = inverse(mix * part / part.sum(axis=0), song.shape[-1])
    np.testing.assert_allclose(run(ORACLES[name], song).numpy(), expected, rtol=0, atol=1e-5)


def test_the_wiener_oracle_is_the_filter_of_the_true_statistics(song):
    """Written out: y_j = v_j R_j C^-1 x, with v_j and R_j measured on the stems (scale max|X| / 10, floor 1e-5)."""
    mix, *stems = spectra(song.double().numpy())
    scale = max(1.0, np.abs(mix).max() / 10)
    x, y = mix.transpose(1, 2, 0) / scale, np.stack(stems).transpose(0, 2, 3, 1) / scale    # [F, T, C], [A, F, T, C]
    v = (np.abs(y) ** 2).mean(axis=-1)
    r = np.einsum("aftc,aftd->afcd", y, y.conj()) / (1e-10 + v.sum(axis=-1))[..., None, None]
    c = np.einsum("aft,afcd->ftcd", v, r) + 1e-5 * np.eye(2)
    white = np.linalg.solve(c, x[..., None])[..., 0]
    filtered = np.einsum("aft,afcd,ftd->acft", v, r, white) * scale
    expected = inverse(filtered, song.shape[-1])
    np.testing.assert_allclose(run(ORACLES["mwf"], song).numpy(), expected, rtol=0, atol=1e-5)


def test_the_wiener_oracle_is_one_step_of_norbert_on_the_true_stems(song):
    norbert = pytest.importorskip("norbert")
    mix, *stems = spectra(song.double().numpy())
    scale = max(1.0, np.abs(mix).max() / 10)
    y, x = np.stack(stems).transpose(3, 2, 1, 0) / scale, mix.transpose(2, 1, 0) / scale    # [T, F, C, A], [T, F, C]
    y, *_ = norbert.expectation_maximization(y, x, iterations=1, eps=1e-10)
    expected = inverse(y.transpose(3, 2, 1, 0) * scale, song.shape[-1])
    np.testing.assert_allclose(run(ORACLES["mwf"], song).numpy(), expected, rtol=0, atol=1e-4)


def test_knowing_more_scores_higher(song):
    def sdr(name):
        error = (run(ORACLES[name], song) - song[1:]).square().sum((1, 2))
        return 10 * torch.log10(song[1:].square().sum((1, 2)) / error)

    mix, irm1, irm2, mwf = (sdr(name).mean() for name in ("mix", "irm1", "irm2", "mwf"))
    assert mix < irm1 - 5 and irm1 < irm2 < mwf - 1     # only the last one hears where the stems stand


def test_the_ratio_mask_separates_what_does_not_overlap():
    t = torch.arange(40_000) / RATE
    low, high = torch.sin(2 * torch.pi * 200 * t), torch.sin(2 * torch.pi * 1500 * t)
    stems = torch.stack([low, high])[:, None].expand(2, 2, -1)
    estimate = run(ratio_mask, torch.cat([stems.sum(0, keepdim=True), stems]))
    error = (estimate - stems)[..., 4000:-4000].square().mean()
    assert estimate.shape == stems.shape and error < 1e-6 < stems.square().mean()


@pytest.mark.parametrize("name", ["irm1", "irm2", "mwf"])
def test_oracles_stream_in_fixed_memory_and_do_not_depend_on_the_blocks(name):
    """Never more than a window of 300 frames and a block is heard before something is answered."""
    rate, heard, told, furthest = 8000, 0, 0, 0
    song = torch.randn(3, 2, 700 * 1024)

    def blocks():
        nonlocal heard
        for block in song.split(1500, -1):
            heard += block.shape[-1]
            yield block

    parts = []
    for part in ORACLES[name](blocks(), rate):
        furthest = max(furthest, heard - told)
        told += part.shape[-1]
        parts.append(part)
    assert told == 700 * 1024 and furthest <= 304 * 1024 + 1500
    whole = torch.cat(list(ORACLES[name](iter([song]), rate)), dim=-1)
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-6)


def test_the_mix_is_the_estimate_of_every_stem(song):
    assert torch.equal(run(mix_itself, song), song[:1].expand(3, -1, -1))


def test_a_model_gives_the_stems_asked_for_in_that_order(tiny_model, song):
    separator = Separator.load(tiny_model)
    whole = separator.separate(song[0], RATE)
    found = run(model(separator, ["bass", "vocals"]), song)
    torch.testing.assert_close(found, torch.stack([whole["bass"], whole["vocals"]]), rtol=0, atol=0)
    assert torch.equal(run(model(separator), song), torch.stack(list(whole.values())))
