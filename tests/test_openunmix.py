"""The whole chain against `openunmix.model.Separator`, with the same random weights.

It runs in double precision, where its defects do not show, and in single precision, where they are proved. Excerpts fit
into one window of the filter, except in the test of a long song.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import pytest
import torch
from openunmix.model import OpenUnmix
from openunmix.model import Separator as Oracle
from torch import Tensor, nn

from separator.card import ModelCard, UmxSpec
from separator.models import build
from separator.separate import Separator

STEMS = ("vocals", "drums", "bass", "other")
EPS = 1e-10                                                 # openunmix's


def make_card(stems: Sequence[str] = STEMS) -> ModelCard:
    """The published models' transform and bins, with a small network; one segment holds any of the excerpts."""
    return ModelCard(name="small", stems=tuple(stems), spec=UmxSpec(hidden=16), segment_s=30)


def make_networks(card: ModelCard, *, alike: bool = False) -> tuple[nn.Module, dict[str, OpenUnmix]]:
    """Ours and theirs. No weight or statistic is at its initial value; the masks spread around 0.5.

    With `alike` both channels always get the same masks.
    """
    ours = build(card)
    for name, tensor in ours.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("input_mean", "running_mean", "bias")):
            tensor.normal_(0, 0.2)
        elif name.endswith("input_scale"):
            tensor.uniform_(0.05, 0.2)
        elif name.endswith(("output_scale", "output_mean")):
            tensor.normal_(0.4, 0.3)
        if alike and (".bn3." in name or ".fc3." in name) and tensor.dim():
            tensor[len(tensor) // 2 :] = tensor[: len(tensor) // 2]
    theirs = {}
    for stem in card.stems:
        network = OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=16, max_bin=1487)
        prefix = stem + "."
        state = {key.removeprefix(prefix): value for key, value in ours.state_dict().items() if key.startswith(prefix)}
        network.load_state_dict(state, strict=True)
        theirs[stem] = network
    return ours, theirs


def run_oracle(
    networks: dict[str, OpenUnmix], mix: Tensor, niter: int, *, softmask: bool = False, residual: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    oracle = Oracle(networks, niter=niter, softmask=softmask, residual=residual, wiener_win_len=None).to(dtype)
    oracle.freeze()
    stems = oracle(mix[None].to(dtype))[0]
    oracle.float()                                          # the networks are the caller's
    return stems


def relative(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def real() -> Tensor:
    """Two seconds of the mix of the excerpt that stempeg ships, from its loudest part."""
    stempeg = pytest.importorskip("stempeg")
    with av.open(Path(stempeg.example_stem_path()).as_posix()) as container:
        frames = [torch.from_numpy(frame.to_ndarray()) for frame in container.decode(audio=0)]
    return torch.cat(frames, dim=-1)[:, 44_100 : 3 * 44_100].clone()


@pytest.fixture
def noise() -> Tensor:
    return 0.3 * torch.randn(2, 40_000)


class Soft(nn.Module):
    """openunmix's soft mask, as an estimator: each mask's share of all masks."""

    def __init__(self, estimator: nn.Module) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
        magnitudes = self.estimator(mix, stems) * mix.abs()[:, None]
        shares: Tensor = magnitudes / (EPS + magnitudes.sum(1, keepdim=True))
        return shares


@pytest.mark.parametrize("niter", [0, 1])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("song", ["noise", "real"])
def test_the_chain_equals_openunmix(niter: int, softmask: bool, song: str, request: pytest.FixtureRequest) -> None:
    mix = request.getfixturevalue(song)
    card = make_card()
    ours, theirs = make_networks(card)
    separator = Separator(card, Soft(ours) if softmask else ours, wiener=niter, exact_sum=False, precision="fp32")
    result = separator.forward(mix[None])[0]
    expected = run_oracle(theirs, mix, niter, softmask=softmask)
    assert result.shape == expected.shape == (4, *mix.shape)
    assert expected.abs().max() > 0.05
    assert relative(result, expected) < 1e-4
    if song == "noise":                                     # independent channels: nothing for its defects to show on
        assert relative(result, run_oracle(theirs, mix, niter, softmask=softmask, dtype=torch.float32)) < 1e-4


def test_segments_of_a_long_song_equal_its_whole_song() -> None:
    """Its filter has windows of 300 frames of the whole song, and ours has them too: two in a segment, five here.

    What remains is that a network hears a segment, not the song, before and after a context of one second.
    """
    card = make_card().model_copy(update={"segment_s": 16.0})
    ours, theirs = make_networks(card)
    mix = 0.3 * torch.randn(2, 1230 * 1024) * torch.linspace(0.2, 1, 1230 * 1024)
    for niter in (0, 1):
        separator = Separator(card, ours, wiener=niter, exact_sum=False, precision="fp32")
        assert separator.kept == (600 if niter else 603)
        result = torch.stack(list(separator.separate(mix, 44_100).values()))
        oracle = Oracle(theirs, niter=niter, wiener_win_len=300)
        oracle.freeze()
        expected = oracle(mix[None])[0]
        assert float((result - expected).square().sum() / expected.square().sum()) < 1e-8           # -80 dB


def test_the_rest_equals_its_residual(real: Tensor) -> None:
    """Unfiltered, the residual target is what our `rest` is: the mix minus the stems wanted."""
    card = make_card()
    ours, theirs = make_networks(card)
    separator = Separator(card, ours, stems=["drums", "bass"], rest="rest", precision="fp32")
    result = torch.stack(list(separator.separate(real, 44_100).values()))
    expected = run_oracle({stem: theirs[stem] for stem in ("drums", "bass")}, real, 0, residual=True)
    assert relative(result, expected) < 1e-4


def test_a_filtered_lone_stem_equals_its_residual_option(real: Tensor) -> None:
    card = make_card(["vocals"])
    ours, theirs = make_networks(card)
    result = Separator(card, ours, wiener=1, precision="fp32").forward(real[None])[0]
    expected = run_oracle(theirs, real, 1, residual=True)[:1]
    assert relative(result, expected) < 1e-4


def test_equal_channels_defeat_it_but_not_us(real: Tensor) -> None:
    """Its determinants cancel in single precision; judged by itself in double precision."""
    mix = real.mean(0, keepdim=True).expand(2, -1)
    card = make_card()
    ours, theirs = make_networks(card, alike=True)
    expected = run_oracle(theirs, mix, 1)
    assert not relative(run_oracle(theirs, mix, 1, dtype=torch.float32), expected) < 1e-3   # NaN is no better
    result = Separator(card, ours, wiener=1, exact_sum=False, precision="fp32").forward(mix[None])[0]
    assert relative(result, expected) < 1e-4
