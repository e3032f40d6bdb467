"""Oracle: `openunmix.model.OpenUnmix`, given the same weights and the same input."""

from __future__ import annotations

import pytest
import torch
from openunmix.model import OpenUnmix
from torch import Tensor, nn

from separator.card import ModelCard, TrunkSpec, UmxSpec
from separator.errors import ModelError, UsageError
from separator.models import build
from separator.models.umx import Umx

STEMS = ("vocals", "drums", "bass", "other")
N_FFT = 64


def make_card(bidirectional: bool = True, channels: int = 2, layers: int = 3) -> ModelCard:
    spec = UmxSpec(hidden=8, layers=layers, kept_bins=21, bidirectional=bidirectional)
    return ModelCard(name="tiny", stems=STEMS, spec=spec, n_fft=N_FFT, hop=N_FFT // 4, channels=channels)


def randomise(module: nn.Module) -> None:
    """Nothing at its initial value: means, variances, scales and shifts all random."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.2, 3.0)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, 0.5)


def make_oracles(card: ModelCard, estimator: nn.Module, dtype: torch.dtype) -> dict[str, OpenUnmix]:
    assert isinstance(card.spec, UmxSpec)
    oracles = {}
    for stem in card.stems:
        oracle = OpenUnmix(nb_bins=card.bins, nb_channels=card.channels, hidden_size=card.spec.hidden,
                           nb_layers=card.spec.layers, unidirectional=not card.spec.bidirectional,
                           max_bin=card.spec.kept_bins).to(dtype)
        state = {key.removeprefix(f"{stem}."): tensor for key, tensor in estimator.state_dict().items()
                 if key.startswith(f"{stem}.")}
        oracle.load_state_dict(state, strict=True)
        oracles[stem] = oracle.eval()
    return oracles


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize(("batch", "channels", "frames", "layers"),
                         [(1, 2, 1, 3), (1, 2, 50, 3), (3, 2, 7, 3), (2, 1, 20, 2), (1, 2, 9, 1)])
def test_masked_magnitude_equals_open_unmix(
    bidirectional: bool, dtype: torch.dtype, tolerance: float, batch: int, channels: int, frames: int, layers: int
) -> None:
    torch.manual_seed(batch * 100 + frames)
    card = make_card(bidirectional, channels, layers)
    estimator = build(card).to(dtype).eval()
    randomise(estimator)
    mix = torch.randn(batch, channels, card.bins, frames, dtype=torch.complex128).to(dtype.to_complex())
    with torch.inference_mode():
        masks = estimator(mix, STEMS)
        assert masks.shape == (batch, 4, channels, card.bins, frames)
        for s, (stem, oracle) in enumerate(make_oracles(card, estimator, dtype).items()):
            expected = oracle(mix.abs())
            assert (expected > 0).float().mean() > 0.2, "the oracle must say something"
            assert relative(masks[:, s] * mix.abs(), expected) < tolerance, stem


def test_gradients_equal_open_unmix() -> None:
    torch.manual_seed(1)
    card = make_card()
    estimator = build(card).double().eval()
    randomise(estimator)
    mix = torch.randn(2, 2, card.bins, 12, dtype=torch.complex128)
    weight = torch.randn(2, 2, card.bins, 12, dtype=torch.float64)
    oracle = make_oracles(card, estimator, torch.float64)["bass"]
    (oracle(mix.abs()) * weight).sum().backward()
    (estimator(mix, ["bass"])[:, 0] * mix.abs() * weight).sum().backward()
    ours = dict(estimator.get_submodule("bass").named_parameters())
    for name, parameter in oracle.named_parameters():
        assert relative(ours[name].grad, parameter.grad) < 1e-12, name


def test_only_the_stems_asked_for_run_and_their_order_is_kept() -> None:
    torch.manual_seed(2)
    card = make_card()
    estimator = build(card).eval()
    randomise(estimator)
    ran: list[str] = []
    for stem in STEMS:
        estimator.get_submodule(stem).register_forward_hook(lambda *_, stem=stem: ran.append(stem))
    mix = torch.randn(1, 2, card.bins, 9, dtype=torch.complex64)
    with torch.inference_mode():
        two = estimator(mix, ["other", "vocals"])
        assert ran == ["other", "vocals"]
        every = estimator(mix, STEMS)
    torch.testing.assert_close(two, every[:, [3, 0]], rtol=0, atol=0)


@pytest.mark.parametrize("stems", [["piano"], []])
def test_a_stem_the_model_does_not_have_is_a_usage_error(stems: list[str]) -> None:
    card = make_card()
    with pytest.raises(UsageError, match="vocals, drums, bass, other"):
        build(card)(torch.zeros(1, 2, card.bins, 3, dtype=torch.complex64), stems)


def test_contradicting_numbers_are_model_errors() -> None:
    card = make_card()
    with pytest.raises(ModelError, match="kept_bins 34 exceeds the 33 bins"):
        build(card.model_copy(update={"spec": UmxSpec(hidden=8, kept_bins=34)}))
    with pytest.raises(ModelError, match="hidden 7 must be even"):
        build(card.model_copy(update={"spec": UmxSpec(hidden=7, kept_bins=9)}))
    with pytest.raises(ModelError, match="of family trunk, not umx"):
        Umx(card.model_copy(update={"spec": TrunkSpec()}))
