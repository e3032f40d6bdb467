"""Oracles: norbert in complex128, openunmix in float32, a planted answer, and conserved sums.

norbert mutates the mix it is given (`x /= max_abs`) and the estimates, so it gets copies.
"""

from __future__ import annotations

from collections.abc import Callable

import norbert
import pytest
import torch
from openunmix import filtering
from torch import Tensor

from separator.dsp import stereo
from separator.dsp.wiener import WIDE, filter_masks, refine, share_masks

EPS = 1e-10


def spectra(stems: int, channels: int, gain: float = 1.0, bins: int = 70, frames: int = 40) -> tuple[Tensor, Tensor]:
    """A mix `[C, F, T]` and masked stems `[S, C, F, T]`, complex64, with a peak near 10 at gain 1."""
    mix = 3 * gain * torch.randn(channels, bins, frames, dtype=torch.complex64)
    return mix, mix * torch.rand(stems, channels, bins, frames)


def by_bins(masks: Tensor) -> Callable[[slice], Tensor]:
    return lambda bins: masks[:, :, bins]


@pytest.fixture(params=["compiled", "torch"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `filter_masks` runs on. The test of the second is a test of the first where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setattr(stereo, "compiled", lambda: None)
    elif stereo.compiled() is None:
        pytest.skip("the filter is not compiled: there was no C compiler when sepctl was installed")


def by_norbert(mix: Tensor, stems: Tensor, iterations: int, scale: float = 1.0) -> Tensor:
    """In complex128, whatever comes in."""
    x = (mix.to(torch.complex128) / scale).permute(2, 1, 0).numpy().copy()
    y = (stems.to(torch.complex128) / scale).permute(3, 2, 1, 0).numpy().copy()
    out = norbert.expectation_maximization(y, x, iterations, eps=EPS)[0]
    return scale * torch.from_numpy(out).permute(3, 2, 1, 0)


def by_openunmix(mix: Tensor, stems: Tensor, iterations: int, scale: float = 1.0) -> Tensor:
    """In float32, as its Separator runs it."""
    x = torch.view_as_real(mix.permute(2, 1, 0) / scale).contiguous()
    y = torch.view_as_real(stems.permute(3, 2, 1, 0) / scale).transpose(-1, -2).contiguous()
    out = filtering.expectation_maximization(y, x, iterations, eps=EPS)[0]
    return scale * torch.view_as_complex(out.transpose(-1, -2).contiguous()).permute(3, 2, 1, 0)


def scale_of(mix: Tensor) -> float:
    return max(1.0, float(mix.abs().max()) / 10)


def relative(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).abs().max() / expected.abs().max())


def sdr(estimate: Tensor, truth: Tensor) -> float:
    return float(10 * torch.log10(truth.abs().square().sum() / (truth - estimate).abs().square().sum()))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("stems", [1, 2, 4])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_equals_norbert_in_double_precision(channels: int, stems: int, iterations: int) -> None:
    mix, first = (z.to(torch.complex128) for z in spectra(stems, channels, gain=4))
    expected = by_norbert(mix, first, iterations, scale_of(mix))
    allowed = 1e-5 if channels == 1 else 1e-6           # for one channel norbert adds eps to C a second time
    assert relative(refine(mix, first, iterations, EPS), expected) < allowed


@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_equals_norberts_whole_filter(softmask: bool, gain: float) -> None:
    mix, first = (z.to(torch.complex128) for z in spectra(3, 2, gain))
    magnitudes = first.abs()
    if softmask:
        first = mix * (magnitudes / magnitudes.sum(0))
    v, x = magnitudes.permute(3, 2, 1, 0).numpy(), mix.permute(2, 1, 0).numpy().copy()
    expected = torch.from_numpy(norbert.wiener(v, x, 2, softmask, eps=EPS)).permute(3, 2, 1, 0)
    assert relative(refine(mix, first, 2, EPS), expected) < 1e-6


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("iterations", [1, 2])
def test_equals_openunmix_in_single_precision(channels: int, iterations: int) -> None:
    mix, first = spectra(4, channels)
    expected = by_openunmix(mix, first, iterations, scale_of(mix))
    assert relative(refine(mix, first, iterations, EPS), expected) < 1e-5


@pytest.mark.parametrize(("softmask", "residual"), [(False, True), (True, False), (True, True)])
def test_equals_openunmix_with_its_options(softmask: bool, residual: bool) -> None:
    """Soft masks and a residual stem are choices of the first estimates."""
    mix, first = spectra(3, 2, gain=10)
    magnitudes = first.abs()
    expected = filtering.wiener(
        magnitudes.permute(3, 2, 1, 0), torch.view_as_real(mix.permute(2, 1, 0)).contiguous(), 1, softmask, residual
    )
    if softmask:
        first = mix * (magnitudes / (EPS + magnitudes.sum(0)))
    if residual:
        first = torch.cat([first, (mix - first.sum(0))[None]])
    result = refine(mix, first, 1, EPS)
    assert relative(result, torch.view_as_complex(expected.transpose(-1, -2).contiguous()).permute(3, 2, 1, 0)) < 1e-5


def alike(difference: float, same_masks: bool, stems: int = 4) -> tuple[Tensor, Tensor]:
    """A loud mix whose channels differ by `difference`, relatively."""
    mix, _ = spectra(stems, 2)
    mix[1] = mix[0] * (1 + difference * torch.randn(mix.shape[1:]))
    masks = torch.rand(stems, 1 if same_masks else 2, *mix.shape[1:])
    return mix, mix * masks


@pytest.mark.parametrize("same_masks", [True, False])
@pytest.mark.parametrize("difference", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_channels_alike_lose_no_precision(difference: float, same_masks: bool) -> None:
    """The error stays within a few times what a rounding of the input in float32 does to the exact answer."""
    mix, first = alike(difference, same_masks)
    scale = scale_of(mix)
    expected = by_norbert(mix, first, 1, scale)
    rounded = mix.to(torch.complex128) * (1 + 2.0**-24 * (2 * torch.rand(mix.shape, dtype=torch.float64) - 1))
    unavoidable = relative(by_norbert(rounded, first.to(torch.complex128), 1, scale), expected)
    assert relative(refine(mix, first, 1, EPS), expected) < max(15 * unavoidable, 1e-6)


def test_channels_alike_defeat_openunmix() -> None:
    """The defect that `refine` is free of: a determinant as the difference of two large, almost equal products."""
    mix, first = alike(0.0, same_masks=True)
    expected = by_norbert(mix, first, 1, scale_of(mix))
    theirs = relative(by_openunmix(mix, first, 1, scale_of(mix)), expected)
    ours = relative(refine(mix, first, 1, EPS), expected)
    assert not theirs < 1e-3                            # nor is NaN below
    assert ours < 1e-6


@pytest.mark.parametrize("gain", [1e-3, 1e-2, 1.0, 1e2, 1e3])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("mono", [True, False])
def test_any_level_is_finite_and_right(gain: float, channels: int, mono: bool) -> None:
    mix, first = spectra(4, channels, gain)
    if mono:
        mix = mix[:1].expand(channels, -1, -1)
        first = first[:, :1].expand(-1, channels, -1, -1)
    expected = by_norbert(mix, first, 2, scale_of(mix))
    result = refine(mix, first, 2, EPS)
    assert torch.isfinite(torch.view_as_real(result)).all()
    assert relative(result, expected) < 2e-5            # the second iteration starts from rounded estimates


def test_masks_beyond_all_reason_stay_finite() -> None:
    """Rank-one covariances at huge powers: rounding must not make a determinant negative."""
    mix, _ = spectra(4, 2)
    mix[1] = mix[0] / 2                                       # without rounding
    for size in (1e3, 1e6, 1e8):
        masks = size * torch.rand(4, 1, *mix.shape[1:])
        result = refine(mix, mix * masks, 1, EPS)
        expected = mix * masks**2 / masks.square().sum(0)           # what is alike is told apart by power alone
        assert relative(result, expected) < 1e-5


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_silence_stays_silent(channels: int) -> None:
    mix, first = spectra(3, channels)
    mix[..., 10:20] = 0
    first[..., 10:20] = 0
    result = refine(mix, first, 2)
    assert not result[..., 10:20].any()
    assert torch.isfinite(torch.view_as_real(result)).all()
    assert not refine(mix * 0, first * 0, 2).any()


def test_silence_defeats_openunmix() -> None:
    """The defect that we are free of: its arc tangent writes ones into bins of the mix that are exactly zero."""
    mix, first = spectra(3, 2, gain=0)
    theirs = filtering.wiener(first.abs().permute(3, 2, 1, 0), torch.view_as_real(mix.permute(2, 1, 0)).contiguous(), 0,
                              residual=True)
    assert theirs.max() == 1
    assert not torch.cat([first, (mix - first.sum(0))[None]]).any()
    assert not refine(mix, torch.cat([first, (mix - first.sum(0))[None]])).any()


def test_a_stem_that_is_silent_stays_silent() -> None:
    mix, first = spectra(3, 2)
    first[1] = 0
    assert not refine(mix, first, 2)[1].any()


def test_batch_items_do_not_know_each_other() -> None:
    """Also their scales are their own."""
    quiet, loud = spectra(3, 2), spectra(3, 2, gain=100)
    both = refine(torch.stack([quiet[0], loud[0]]), torch.stack([quiet[1], loud[1]]))
    assert torch.equal(both[0], refine(*quiet))
    assert torch.equal(both[1], refine(*loud))


@pytest.mark.usefixtures("road")
def test_arguments_are_left_alone() -> None:
    mix, first = spectra(3, 2, gain=100)
    before = mix.clone(), first.clone()
    refine(mix, first, 2)
    filter_masks(mix, by_bins((first / mix).real), 2, exact=True)
    assert torch.equal(mix, before[0])
    assert torch.equal(first, before[1])


def test_panned_stems_are_told_apart() -> None:
    """Planted answer: two stems, each with one direction per bin; masks of their magnitudes as first estimates."""
    bins, frames = 40, 200
    source = torch.randn(2, 1, bins, frames, dtype=torch.complex64) * torch.rand(2, 1, bins, frames) ** 3
    angle = torch.tensor([0.3, 1.2]) + 0.05 * torch.randn(bins, 2)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1).permute(1, 2, 0)[..., None]
    truth = 3 * direction * source                                              # [S, C, F, T]
    mix = truth.sum(0)
    level = truth.abs().square().mean(1, keepdim=True).sqrt()
    soft = mix * level / level.sum(0)
    assert sdr(refine(mix, soft, iterations=3), truth) > sdr(soft, truth) + 6


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("bins_first", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("iterations", [1, 3])
def test_filtered_masks_equal_the_refined_masked_mix(channels: int, iterations: int, bins_first: bool) -> None:
    mix, _ = spectra(4, channels, gain=4, bins=2 * WIDE + 3, frames=20)
    masks = torch.rand(4, channels, *mix.shape[1:]) - 0.1                       # what others leave may be negative
    given = masks if bins_first else masks.mT.contiguous().mT
    result = filter_masks(mix, by_bins(given), iterations)
    assert relative(result, refine(mix, mix * masks, iterations)) < 2e-6


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("same_masks", [True, False])
@pytest.mark.parametrize("difference", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_filtered_masks_lose_no_precision_where_channels_are_alike(difference: float, same_masks: bool) -> None:
    mix, _ = spectra(4, 2, gain=30)
    mix[1] = 0.7 * mix[0] * (1 + difference * torch.randn(mix.shape[1:]))
    masks = torch.rand(4, 1 if same_masks else 2, *mix.shape[1:]).expand(-1, 2, -1, -1)
    scale = scale_of(mix)
    expected = by_norbert(mix, mix * masks, 1, scale)
    rounded = mix.to(torch.complex128) * (1 + 2.0**-24 * (2 * torch.rand(mix.shape, dtype=torch.float64) - 1))
    unavoidable = relative(by_norbert(rounded, rounded * masks, 1, scale), expected)
    assert relative(filter_masks(mix, by_bins(masks)), expected) < max(15 * unavoidable, 1e-6)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("gain", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("iterations", [1, 2])
def test_exact_stems_sum_to_the_mix_and_share_what_is_left_by_power(
    gain: float, channels: int, iterations: int
) -> None:
    mix, _ = spectra(4, channels, gain)
    masks = torch.rand(4, channels, *mix.shape[1:])
    masks[:, :, 3] = 0                                                          # nobody claims the fourth bin
    masks[2] = 0                                                                # and the third stem claims nothing
    exact, plain = (filter_masks(mix, by_bins(masks), iterations, exact=each) for each in (True, False))
    assert relative(exact.sum(0), mix) < 1e-6
    torch.testing.assert_close(exact[:, :, 3], (mix[:, 3] / 4).expand(4, -1, -1))
    others = [bin for bin in range(mix.shape[1]) if bin != 3]
    assert not exact[2][:, others].any()
    left = (mix - plain.sum(0))[:, others]
    if gain < 1e-3:                                                             # quiet: the filter leaves a lot
        added = ((exact - plain)[:, :, others] / left)
        assert float(left.abs().max() / mix.abs().max()) > 0.1
        assert float(added.imag.abs().median()) < 1e-4
        if iterations == 1:
            power = (mix * masks).abs().square().mean(1)[:, None][:, :, others]
            error = (added.real - power / power.sum(0)).abs()
            assert float(error.median()) < 1e-4


@pytest.mark.usefixtures("road")
def test_filtered_silence_is_silent() -> None:
    mix, _ = spectra(3, 2, gain=0)
    assert not filter_masks(mix, by_bins(torch.rand(3, 2, *mix.shape[1:])), exact=True).any()


@pytest.mark.parametrize("residual", [None, 0, 2])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_shared_masks_sum_to_one(batch: tuple[int, ...], residual: int | None) -> None:
    masks = torch.rand(*batch, 4, 2, 20, 30) * torch.rand(20, 1)                # more than the mix, and less
    masks[..., 3, :] = 0                                                        # nobody claims the fourth bin
    before = masks.clone()
    shared = share_masks(masks, residual)
    assert torch.equal(masks, before) and bool((shared >= 0).all())
    torch.testing.assert_close(shared.sum(-4), torch.ones(*batch, 2, 20, 30))
    heir = shared[..., 3, :] if residual is None else shared.select(-4, residual)[..., 3, :]
    torch.testing.assert_close(heir, torch.full_like(heir, 0.25 if residual is None else 1))
    masks.requires_grad_()
    (share_masks(masks, residual) * torch.rand_like(masks)).sum().backward()
    assert masks.grad is not None and bool(masks.grad.isfinite().all())         # nobody's bin as well


@pytest.mark.parametrize(
    ("masks", "residual", "shared"),
    [
        ([0.6, 0.6, 0.8], 1, [0.3, 0.3, 0.4]),          # too much claimed
        ([0.6, 0.3, 0.1], 1, [0.6, 0.3, 0.1]),
        ([0.4, 0.2, 0.2], 1, [0.48, 0.28, 0.24]),       # a fifth left: each a fifth more, 0.04 to the residual
        ([0.4, 0.2, 0.2], None, [0.5, 0.25, 0.25]),
    ],
)
def test_how_shared_masks_share(masks: list[float], residual: int | None, shared: list[float]) -> None:
    found = share_masks(torch.tensor(masks)[:, None, None, None], residual)
    torch.testing.assert_close(found.flatten(), torch.tensor(shared))
