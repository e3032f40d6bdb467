"""Networks prepared for inference against the networks that were trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from separator.card import ModelCard, TrunkSpec, UmxSpec
from separator.cli import types
from separator.errors import UsageError
from separator.models import build, prepare
from separator.models.precision import DTYPES, PRECISIONS, resolve
from separator.separate import Separator

STEMS = ("vocals", "drums", "bass")
UMX = UmxSpec(hidden=24, kept_bins=90)
TRUNK = TrunkSpec(input_bands=20, hidden=24, lstm_hidden=16, head=16, fine_bins=16, mask_bands=24)
CPU = torch.device("cpu")


def make(spec: UmxSpec | TrunkSpec, **changes: Any) -> tuple[ModelCard, nn.Module]:
    """A network in which nothing is at its initial value."""
    torch.manual_seed(5)
    card = ModelCard(name="tiny", stems=STEMS, spec=spec, n_fft=256, hop=64, **changes)
    network = build(card).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_var", "scale")):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("mean", "bias")):
            tensor.normal_(0, 0.3)
    return card, network


def decibels(error: Tensor, signal: Tensor) -> float:
    return float(10 * torch.log10(error.abs().square().sum() / signal.abs().square().sum()))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("spec", [UMX, UmxSpec(hidden=24, kept_bins=90, bidirectional=False), TRUNK])
@pytest.mark.parametrize("stems", [STEMS, ("bass", "vocals"), ("drums",)])
@pytest.mark.parametrize(("precision", "below_db"), [("fp32", -110), ("bf16", -33)])
def test_prepared_networks_give_the_masks_of_the_trained_ones(
    spec: UmxSpec | TrunkSpec, stems: tuple[str, ...], channels: int, precision: str, below_db: float
) -> None:
    card, network = make(spec, channels=channels)
    mix = 3 * torch.randn(2, channels, card.bins, 50, dtype=torch.complex64)
    with torch.inference_mode():
        expected = network(mix, stems)                                          # [B, S, C, F, T]
        estimator = prepare(network, DTYPES[precision])
        heard = estimator.hear(mix, stems)
        for item in range(2):
            for frames in (slice(0, 50), slice(7, 30)):
                masks = estimator.masks(heard[item], stems, frames)
                some = estimator.masks(heard[item], stems, frames, slice(3, 20))
                assert decibels(some - masks[:, :, 3:20], masks[:, :, 3:20]) < -40      # products of other sizes
                if estimator.bands is not None:
                    masks = masks[..., estimator.bands, :]
                wanted = expected[item][..., frames]
                assert masks.shape == wanted.shape and masks.dtype == torch.float32
                assert decibels(masks - wanted, wanted) < below_db
    assert next(network.parameters()).dtype == torch.float32                    # left as it was


def test_an_unknown_stem_is_a_usage_error() -> None:
    card, network = make(UMX)
    with pytest.raises(UsageError, match="no stem 'piano'"):
        prepare(network, torch.float32).hear(torch.zeros(1, 2, card.bins, 3, dtype=torch.complex64), ["piano"])


@pytest.mark.parametrize("spec", [UMX, TRUNK])
@pytest.mark.parametrize("wiener", [0, 1])
def test_half_precision_stays_far_below_the_stems(spec: UmxSpec | TrunkSpec, wiener: int) -> None:
    """Tiny layers round most: they average over little. And the stems sum and last as before."""
    card, network = make(spec, sample_rate=8000, segment_s=1, context_s=0.1)
    audio = 0.2 * torch.randn(2, 30_000)
    exact, half = (Separator(card, network, wiener=wiener, precision=each).separate(audio, 8000)
                   for each in ("fp32", "bf16"))
    for stem in STEMS:
        assert -100 < decibels(half[stem] - exact[stem], exact[stem]) < -26
    torch.testing.assert_close(torch.stack(list(half.values())).sum(0), audio, rtol=0, atol=2e-6)


@pytest.mark.parametrize("spec", [UMX, TRUNK])
def test_the_wiener_filter_may_ask_for_a_few_bins_at_a_time(
    spec: UmxSpec | TrunkSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, network = make(spec, sample_rate=8000, segment_s=1, context_s=0.1)
    separator, audio = Separator(card, network, wiener=1, precision="fp32"), 0.2 * torch.randn(2, 9000)
    whole = separator.separate(audio, 8000)
    monkeypatch.setattr("separator.dsp.wiener.WIDE", 50)
    for stem, parts in separator.separate(audio, 8000).items():
        torch.testing.assert_close(parts, whole[stem], rtol=0, atol=1e-5)


def test_auto_is_what_the_processor_multiplies_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [({name: True}, "bf16") for name in ("avx512_bf16", "amx_bf16", "bf16")]
    for capabilities, expected in (*cases, ({"avx2": True, "avx512_bf16": False}, "fp32"), ({}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert resolve("auto", CPU) == expected
        assert resolve("fp32", CPU) == "fp32" and resolve("bf16", CPU) == "bf16"


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_cuda_is_half_precision(bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert resolve("auto", torch.device("cuda")) == expected


def test_precisions_that_cannot_be_are_refused() -> None:
    assert set(PRECISIONS) == {"auto", *DTYPES} == set(types.PRECISIONS)
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        resolve("fp8", CPU)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="for CUDA"):
        resolve("fp16", CPU)
    card, network = make(TRUNK)
    with pytest.raises(UsageError, match="for CUDA"):
        Separator(card, network, precision="fp16")
    assert Separator(card, network, precision="bf16").precision == "bf16"
