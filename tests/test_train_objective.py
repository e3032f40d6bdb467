"""Objectives: two roads to one loss, and networks that see what they will see when separating."""

import pytest
import torch

from separator.card import ModelCard
from separator.dsp.wiener import share_masks
from separator.models import build
from separator.train import losses
from separator.train.losses import Loss
from separator.train.objective import BandObjective, SpectrumObjective, objective
from separator.train.remix import spectra

N_FFT, HOP, BINS = 256, 64, 129
STEMS = ("a", "b", "c")
TRUNK = {"family": "trunk", "input_bands": 24, "hidden": 8, "lstm_hidden": 4, "layers": 1, "head": 8}
TRUNK |= {"fine_bins": 16, "mask_bands": 24}
UMX = {"family": "umx", "hidden": 8, "layers": 1, "kept_bins": 100}


def card(spec, stems=STEMS, **more):
    return ModelCard.model_validate({"name": "tiny", "stems": stems, "n_fft": N_FFT, "hop": HOP, "spec": spec, **more})


@pytest.fixture
def planes():
    audio = torch.randn(2, 3, 2, 4000, generator=torch.Generator().manual_seed(1))
    return spectra(audio * torch.tensor([1.0, 0.2, 3.0])[:, None, None], N_FFT, HOP)


def batch_of(model, planes, first=0, stride=1):
    return model.collect((model.measure(row, first, stride) for row in planes), first, stride)


def masks_of_network(model, planes):
    """By the way that separation takes: the network's own forward, from the complex mix."""
    mix = planes.sum(1)
    spectrum = torch.complex(mix[:, :, 0], mix[:, :, 1]).mT.contiguous()  # [B, C, F, T]
    return model.network(spectrum, model.card.stems).mT  # [B, S, C, T, F]


@pytest.mark.parametrize(("first", "stride", "exact_sum"), [(0, 1, False), (1, 2, False), (1, 2, True)])
def test_both_roads_of_a_trunk_give_one_loss_one_gradient_and_one_score(planes, first, stride, exact_sum):
    loss = Loss(thresholded_sdr=0.7, groups=5, exact_sum=exact_sum)
    quick = objective(card(TRUNK), STEMS, loss)
    slow = SpectrumObjective(card(TRUNK), STEMS, loss)
    slow.load_state_dict(quick.state_dict())
    assert isinstance(quick, BandObjective)
    values = [model(batch_of(model, planes, first, stride)) for model in (quick, slow)]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)
    for value in values:
        value.backward()
    pairs = zip(quick.parameters(), slow.parameters(), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-4)
    scores = [model.judge(batch_of(model, planes)) for model in (quick, slow)]
    torch.testing.assert_close(scores[0][0], scores[1][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[0][1], scores[1][1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spec", [TRUNK, UMX], ids=["trunk", "umx"])
def test_training_masks_are_those_of_separation(planes, spec):
    """And so the error of the plain road: |mask * mix - stem|, with the stems of the augmented mix."""
    model = objective(card(spec), STEMS, Loss(thresholded_sdr=0, magnitude_mse=1.0)).eval()
    masks = masks_of_network(model, planes)
    mix, stems = planes.sum(1, keepdim=True), planes
    expected = losses.magnitude_mse(masks, mix, stems)
    torch.testing.assert_close(model(batch_of(model, planes)), expected, rtol=1e-4, atol=1e-5)
    error = (masks[:, :, :, None] * mix - stems).square().sum((2, 3, 4, 5))
    ratio = 10 * torch.log10(stems.square().sum((2, 3, 4, 5)) / error)
    torch.testing.assert_close(model.judge(batch_of(model, planes))[1], ratio, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("residual", [None, "b"])
@pytest.mark.parametrize("spec", [TRUNK, UMX], ids=["trunk", "umx"])
def test_with_an_exact_sum_the_errors_of_all_stems_cancel(planes, spec, residual):
    loss = Loss(thresholded_sdr=0, complex_l1=1, exact_sum=True)
    model = objective(card(spec, residual=residual), STEMS, loss).eval()
    assert isinstance(model, SpectrumObjective)
    batch = batch_of(model, planes)
    masks, raw = model._masks(batch), masks_of_network(model, planes)
    torch.testing.assert_close(masks.sum(1), torch.ones_like(masks[:, 0]), rtol=1e-5, atol=1e-5)
    expected = share_masks(raw.mT, residual and 1).mT  # what separation does
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)
    assert (raw.sum(1) - 1).abs().max() > 0.01
    error = batch.stems - masks[:, :, :, None] * batch.mix
    torch.testing.assert_close(error.sum(1), torch.zeros_like(error[:, 0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("spec", [TRUNK, UMX], ids=["trunk", "umx"])
def test_terms_add_up_by_their_weights(planes, spec):
    weights = {"thresholded_sdr": 0.3, "complex_l1": 2.0, "magnitude_mse": 0.5, "waveform_l1": 7.0}
    none = dict.fromkeys(weights, 0.0)
    whole = SpectrumObjective(card(spec), STEMS, Loss(**weights)).eval()
    total = 0.0
    for term, weight in weights.items():
        model = SpectrumObjective(card(spec), STEMS, Loss(**none | {term: 1.0})).eval()
        model.load_state_dict(whole.state_dict())
        value = model(batch_of(model, planes))
        assert value.isfinite() and value != 0
        total += weight * float(value.detach())
    assert float(whole(batch_of(whole, planes)).detach()) == pytest.approx(total, rel=1e-5)


def test_combinations_average_over_sums_of_stems(planes):
    model = SpectrumObjective(card(UMX), STEMS, Loss(thresholded_sdr=0, complex_l1=1, combinations=True)).eval()
    masks, mix = masks_of_network(model, planes), planes.sum(1)
    values = []
    for subset in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        estimate = sum(masks[:, s, :, None] * mix for s in subset)
        values.append((planes[:, subset].sum(1) - estimate).abs().mean())
    torch.testing.assert_close(model(batch_of(model, planes)), torch.stack(values).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", [TRUNK, UMX], ids=["trunk", "umx"])
@pytest.mark.parametrize("loss", [Loss(), Loss(complex_l1=1)], ids=["bands", "spectra"])
def test_a_model_of_some_stems_hears_the_mix_of_all(planes, spec, loss):
    """The target's loss with the rest of the mix in one stem, or in two: the same."""
    one = objective(card(spec, ("c",)), STEMS, loss).eval()
    two = objective(card(spec, ("c",)), ("rest", "c"), loss).eval()
    two.load_state_dict(one.state_dict())
    merged = torch.stack([planes[:, 0] + planes[:, 1], planes[:, 2]], dim=1)
    torch.testing.assert_close(one(batch_of(one, planes)), two(batch_of(two, merged)), rtol=1e-4, atol=1e-4)
    assert one.judge(batch_of(one, planes))[1].shape == (2, 1)


@pytest.mark.parametrize("spec", [TRUNK, UMX], ids=["trunk", "umx"])
def test_whitened_features_have_mean_zero_and_deviation_one(planes, spec):
    model = objective(card(spec), STEMS, Loss())
    power = planes.sum(1).square().sum(2).mT  # [B, C, F, T]
    found = model.features(power)
    model.whiten(found.mean(0), found.std(0))
    if spec is TRUNK:
        white = (found - model.network.mean) * model.network.scale
    else:  # the network's own first line, on what it sees: the mean over channels of magnitudes
        mix = torch.complex(*planes.sum(1).unbind(2)).abs()  # [B, C, T, F]
        torch.testing.assert_close(found.mean(0), mix.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)
        network, kept = model.network["b"], UMX["kept_bins"]
        white = (found[:, :kept] + network.input_mean) * network.input_scale
    torch.testing.assert_close(white.mean(0), torch.zeros(white.shape[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(white.std(0), torch.ones(white.shape[1]), rtol=1e-3, atol=1e-3)


def test_a_silent_stem_has_no_ratio(planes):
    planes = planes.clone()
    planes[0, 1] = 0
    for loss in (Loss(), Loss(complex_l1=1)):
        model = objective(card(TRUNK), STEMS, loss)
        assert model.judge(batch_of(model, planes))[1].isnan().tolist() == [[False, True, False], [False] * 3]


def test_the_state_holds_the_network_as_the_model_file_does():
    model = objective(card(UMX), STEMS, Loss())
    expected = build(card(UMX)).state_dict().keys()
    assert {key.removeprefix("network.") for key in model.state_dict()} == expected


def test_bfloat16_is_nearly_the_same(planes):
    for spec in (TRUNK, UMX):
        exact, half = (objective(card(spec), STEMS, Loss(), precision) for precision in ("fp32", "bf16"))
        half.load_state_dict(exact.state_dict())
        values = [float(model(batch_of(model, planes)).detach()) for model in (exact, half)]
        assert values[0] != values[1] and values[0] == pytest.approx(values[1], rel=0.02)
