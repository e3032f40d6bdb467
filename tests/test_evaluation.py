"""Scores against museval itself, and on songs whose answer is planted."""

import numpy as np
import pytest
import torch

from separator.errors import AudioError
from separator.evaluation import WindowScores, aligned, mix_itself, ratio_mask, score, true_songs

RATE = 1000


def scored(references, estimates, block=700):
    scores = WindowScores(RATE)
    for a, b in zip(references.split(block, -1), estimates.split(block, -1), strict=True):
        scores.add(a, b)
    return scores


def museval_sdr(references, estimates):
    museval = pytest.importorskip("museval")
    sdr, *_ = museval.metrics.bss_eval(
        references.double().transpose(1, 2).numpy(),
        estimates.double().transpose(1, 2).numpy(),
        window=RATE,
        hop=RATE,
        filters_len=16,
    )
    return torch.from_numpy(np.asarray(sdr)).T


@pytest.mark.parametrize("length", [999, 1000, 1001, 2999, 3000, 4500])
@pytest.mark.parametrize("block", [1, 700, 10_000])
def test_sdr_is_that_of_museval(length, block):
    references = torch.randn(3, 2, length)
    estimates = references + 0.3 * torch.randn(3, 2, length)
    if length >= 3000:
        references[1, :, 1000:2000] = 0  # one stem silent in one window
    if length > 4000:
        estimates[2, 0, 3000:4000] = -estimates[2, 1, 3000:4000]  # antiphase counts as silent there
    sdr = scored(references, estimates, block if length < 1002 or block > 1 else 10).sdr()
    torch.testing.assert_close(sdr, museval_sdr(references, estimates), rtol=0, atol=1e-6, equal_nan=True)


def test_global_sdr_counts_every_sample_and_a_silent_stem_is_missing():
    references, estimates = torch.randn(2, 2, 2500), torch.randn(2, 2, 2500)
    references[1] = 0
    expected = 10 * torch.log10(
        references[0].double().square().sum() / (references[0] - estimates[0]).double().square().sum()
    )
    result = scored(references, estimates).global_sdr()
    assert result[0].item() == pytest.approx(expected.item(), abs=1e-4)
    assert torch.isnan(result[1])


def test_no_audio_cannot_be_scored():
    with pytest.raises(AudioError, match="no audio"):
        WindowScores(RATE).sdr()


def test_aligned_recuts_both_streams_to_common_blocks():
    x = torch.arange(100.0)
    pairs = list(aligned(iter(x.split(7)), iter((2 * x).split(13))))
    assert torch.equal(torch.cat([a for a, _ in pairs]), x)
    assert all(torch.equal(b, 2 * a) for a, b in pairs)


@pytest.fixture
def folder(tmp_path, write_wav):
    """Two songs: one with files per stem and a mixture of its own, one with layers."""
    stems = torch.randn(2, 2, 9000, generator=torch.Generator().manual_seed(0)) * 0.1
    write_wav(tmp_path / "a" / "vocals.wav", stems[0])
    write_wav(tmp_path / "a" / "bass.wav", stems[1])
    write_wav(tmp_path / "a" / "mixture.wav", stems.sum(0))
    write_wav(tmp_path / "b" / "vocals" / "lead.wav", stems[0])
    write_wav(tmp_path / "b" / "vocals" / "choir.wav", stems[0, :1, :5000])  # shorter, mono
    write_wav(tmp_path / "b" / "bass" / "sub.wav", stems[1])
    return tmp_path, stems


def test_songs_are_found_with_files_and_with_layers(folder):
    root, _ = folder
    a, b = true_songs(root, ["vocals", "bass", "drums"])
    assert (a.name, b.name) == ("a", "b")
    assert a.mixture == (root / "a" / "mixture.wav", 0) and b.mixture is None
    assert [path.name for path, _ in b.stems["vocals"]] == ["choir.wav", "lead.wav"]
    assert a.stems["drums"] == ()
    with pytest.raises(AudioError, match="no songs"):
        true_songs(root / "a", ["flute"])


def test_a_perfect_method_scores_infinity_and_the_mix_its_closed_form(folder):
    root, stems = folder
    song = true_songs(root, ["vocals", "bass"])[0]
    perfect = score(song, ["vocals", "bass"], lambda blocks, rate: (block[1:] for block in blocks))
    assert torch.isposinf(perfect.global_sdr()).all()
    floor = score(song, ["vocals", "bass"], mix_itself).global_sdr()
    energy = stems.double().square().sum((1, 2))
    torch.testing.assert_close(floor, 10 * torch.log10(energy / energy.flip(0)), rtol=0, atol=1e-2)


def test_layers_sum_to_their_stem_and_a_short_one_ends_in_silence(folder):
    root, stems = folder
    song = true_songs(root, ["vocals", "bass"])[1]
    expected = stems[0].clone()
    expected[:, :5000] += stems[0, :1, :5000]
    seen = []

    def method(blocks, rate):
        for block in blocks:
            seen.append(block)
            yield block[1:]

    score(song, ["vocals", "bass"], method)
    heard = torch.cat(seen, dim=-1)
    torch.testing.assert_close(heard[1], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(heard[0], heard[1:].sum(0))


def test_the_ratio_mask_oracle_separates_what_does_not_overlap():
    t = torch.arange(40_000) / 8000
    low, high = torch.sin(2 * torch.pi * 200 * t), torch.sin(2 * torch.pi * 1500 * t)
    stems = torch.stack([low, high])[:, None].expand(2, 2, -1)
    blocks = torch.cat([stems.sum(0, keepdim=True), stems])
    estimate = torch.cat(list(ratio_mask(iter(blocks.split(3000, -1)), 8000)), dim=-1)
    error = (estimate - stems)[..., 4000:-4000].square().mean()
    assert estimate.shape == stems.shape and error < 1e-6 < stems.square().mean()
