"""The compact network: its bands, and what it promises about level and silence."""

import itertools

import pytest
import torch

from separator.card import ModelCard, TrunkSpec
from separator.models.trunk import Trunk, band_edges, pool

CARD = ModelCard(
    name="tiny",
    stems=("vocals", "drums", "bass"),
    n_fft=256,
    hop=64,
    spec=TrunkSpec(input_bands=20, hidden=12, lstm_hidden=8, layers=1, head=8, fine_bins=16, mask_bands=24),
)


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    return Trunk(CARD).eval()


@pytest.fixture
def mix():
    return torch.randn(2, 2, CARD.bins, 30, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("bins", "fine", "bands"), [(2049, 256, 214), (2049, 0, 144), (129, 16, 24), (16, 4, 3), (5, 4, 1), (8, 0, 8)]
)
def test_band_edges_cover_every_bin_once(bins, fine, bands):
    edges = band_edges(bins, fine, bands)
    widths = [b - a for a, b in itertools.pairwise(edges)]
    assert edges[0] == 0 and edges[-1] == bins and len(widths) == fine + bands
    assert min(widths) >= 1 and widths[:fine] == [1] * fine


def test_band_edges_refuse_more_bands_than_bins():
    with pytest.raises(ValueError, match="do not fit"):
        band_edges(10, 6, 5)


def test_pool_is_the_product_with_the_band_matrix():
    edges = band_edges(129, 16, 24)
    values = torch.rand(3, 129, dtype=torch.float64)
    matrix = torch.zeros(129, 40, dtype=torch.float64)
    for band, (a, b) in enumerate(itertools.pairwise(edges)):
        matrix[a:b, band] = 1
    torch.testing.assert_close(pool(values, edges), values @ matrix)


@pytest.mark.parametrize("gain", [1e-3, 0.1, 30.0, 1e3])
def test_masks_do_not_depend_on_the_level(trunk, mix, gain):
    torch.testing.assert_close(trunk(mix * gain, CARD.stems), trunk(mix, CARD.stems), rtol=1e-3, atol=1e-4)


def test_a_stem_has_the_same_mask_alone_and_in_company(trunk, mix):
    every = trunk(mix, CARD.stems)
    for s, stem in enumerate(CARD.stems):
        torch.testing.assert_close(trunk(mix, [stem])[:, 0], every[:, s])
    torch.testing.assert_close(trunk(mix, CARD.stems[::-1]), every.flip(1))


def test_only_the_heads_asked_for_are_run(trunk, mix):
    ran = []
    for stem, head in trunk.heads.items():
        head.register_forward_hook(lambda *_, stem=stem: ran.append(stem))
    trunk(mix, ["bass"])
    assert ran == ["bass"]


def test_silence_gives_finite_masks_and_training_starts_at_equal_shares(trunk):
    silent = torch.zeros(1, 2, CARD.bins, 4, dtype=torch.complex64)
    assert torch.isfinite(trunk(silent, CARD.stems)).all()
    for head in trunk.heads.values():
        torch.testing.assert_close(
            head(torch.zeros(1, 28)),
            torch.nn.functional.softplus(head.masks(head.hidden(torch.zeros(28)).relu())[None]),
        )
        torch.nn.init.zeros_(head.masks.weight)
        torch.testing.assert_close(head(torch.randn(1, 28)), torch.full((1, 80), 1 / 3))


def test_masks_are_constant_within_a_band_and_fine_below(trunk, mix):
    masks = trunk(mix, ["vocals"])[:, 0]  # [B, C, F, T]
    edges = band_edges(CARD.bins, 16, 24)
    for a, b in itertools.pairwise(edges):
        assert torch.equal(masks[:, :, a:b], masks[:, :, a : a + 1].expand(-1, -1, b - a, -1))
    assert not torch.equal(masks[:, :, 0], masks[:, :, 1])
