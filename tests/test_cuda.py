"""The same song on a card and on the processor. Skipped where there is no card."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from separator.card import ModelCard, Spec, TrunkSpec, UmxSpec
from separator.models import build
from separator.separate import Separator

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
STEMS = ("vocals", "drums", "bass", "other")


def split(spec: Spec, wiener: int, device: str, precision: str, audio: Tensor) -> Tensor:
    torch.manual_seed(1)
    card = ModelCard(name="tiny", stems=STEMS, spec=spec, segment_s=4, context_s=0.5, wiener=wiener)
    separator = Separator(card, build(card), device=device, precision=precision)  # type: ignore[arg-type]
    return torch.stack(list(separator.separate(audio, 44100).values()))


@pytest.mark.parametrize("spec", [UmxSpec(hidden=64), TrunkSpec()])
@pytest.mark.parametrize("wiener", [0, 1])
@pytest.mark.parametrize(("precision", "below_db"), [("fp32", -60), ("bf16", -25), ("fp16", -30)])
def test_a_card_gives_the_processors_stems(spec: Spec, wiener: int, precision: str, below_db: float) -> None:
    audio = 0.1 * torch.randn(2, 20 * 44100)
    expected = split(spec, wiener, "cpu", "fp32", audio)
    stems = split(spec, wiener, "cuda", precision, audio)
    assert stems.device.type == "cpu"
    error = (stems - expected).square().sum() / expected.square().sum()
    assert float(10 * torch.log10(error)) < below_db
    torch.testing.assert_close(stems.sum(0), audio, rtol=0, atol=1e-5)
