"""Scores against museval itself, and on songs whose answer is planted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from separator.corpus import true_songs
from separator.errors import AudioError
from separator.evaluation import FullScores, WindowScores, aligned, mix_itself, score
from separator.evaluation.scores import medians

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


@pytest.fixture
def example_song():
    """The excerpt of a MUSDB18 song that stempeg ships."""
    stempeg = pytest.importorskip("stempeg")
    return true_songs(Path(stempeg.example_stem_path()))[0]


@pytest.mark.real
def test_sdr_is_that_of_museval_on_real_music(example_song):
    """Three seconds of a song, its mix as estimate, a window without bass, and one whose drums are antiphase."""
    with example_song.open(["vocals", "drums", "bass", "other"], 1.0, 3.0) as opened:
        rate = opened.sample_rate
        mix, *stems = torch.cat(list(opened), dim=-1)[..., : 3 * rate]
    references = torch.stack(stems)
    estimates = 0.5 * references + 0.1 * mix
    references[2, :, :rate] = 0
    references[1, 0, rate : 2 * rate] = -references[1, 1, rate : 2 * rate]
    scores = WindowScores(rate)
    for block in torch.stack([references, estimates]).split(10_007, dim=-1):
        scores.add(*block)
    museval = pytest.importorskip("museval")
    expected, *_ = museval.metrics.bss_eval(
        *torch.stack([references, estimates]).double().transpose(2, 3).numpy(), window=rate, hop=rate, filters_len=4
    )
    assert np.isnan(expected).sum(axis=1).tolist() == [2] * 4
    torch.testing.assert_close(scores.sdr(), torch.from_numpy(expected).T, rtol=0, atol=1e-6, equal_nan=True)


def full(references, estimates):
    scores = FullScores(RATE)
    for a, b in zip(references.split(700, -1), estimates.split(700, -1), strict=True):
        scores.add(a, b)
    return scores.metrics()


@pytest.mark.parametrize("length", [900, 2500, 3000])
def test_full_scores_are_those_of_museval(length):
    museval = pytest.importorskip("museval")
    references = (torch.randn(2, 2, length) * 2**15).round() / 2**15
    estimates = references + 0.3 * references.flip(0) + 0.2 * torch.randn(2, 2, length)
    if length == 3000:
        references[1, :, 1000:2000] = 0
    arrays = torch.stack([references, estimates]).transpose(2, 3).double().numpy()
    expected = museval.evaluate(*arrays, win=RATE, hop=RATE)  # as museval.eval_mus_track does: SDR, ISR, SIR, SAR
    found = full(references, estimates)
    assert list(found) == ["SDR", "SIR", "SAR", "ISR"]
    for name, values in zip(("SDR", "ISR", "SIR", "SAR"), expected, strict=True):
        torch.testing.assert_close(found[name], torch.from_numpy(values).T, rtol=0, atol=1e-6, equal_nan=True, msg=name)


@pytest.mark.real
def test_full_scores_find_the_noise_that_was_planted_in_stems_without_high_frequencies(example_song):
    """AAC ends at 16 kHz: fitted to such stems as they are decoded, museval's filters explode (SAR falls by 17 dB)."""
    with example_song.open(["vocals", "bass"], 0.0, 2.0) as opened:
        rate, references = opened.sample_rate, torch.cat(list(opened), dim=-1)[1:]
    noise = 1e-3 * torch.randn_like(references)
    scores, noisy = FullScores(rate), WindowScores(rate)
    scores.add(references, references + 0.1 * references.flip(0) + noise)
    noisy.add(references, references + noise)
    torch.testing.assert_close(medians(scores.metrics()["SAR"]), medians(noisy.sdr()), rtol=0, atol=3.0)


def test_stereo_stems_that_are_really_mono_have_full_scores():
    """Their correlations are singular; museval then looks for a name that numpy no longer has."""
    mono = torch.randn(2, 1, 2000).expand(2, 2, 2000)
    found = full(mono, mono + 0.1 * mono.flip(0))
    assert all(values.isfinite().all() for values in found.values())
    torch.testing.assert_close(found["SIR"], found["SDR"], rtol=0, atol=1.0)  # all that disturbs is the other stem
    assert (found["SAR"] > 60).all()


def test_what_museval_cannot_score_is_missing():
    noise = torch.randn(1, 2, 2000)
    alone = full(noise, noise + 0.1 * torch.randn(1, 2, 2000))
    assert alone["SIR"].isnan().all() and alone["SAR"].isfinite().all()  # nothing is there to interfere
    silent = torch.cat([noise, torch.zeros_like(noise)])
    found = full(silent, silent + 0.1 * torch.randn(2, 2, 2000))
    assert all(values.shape == (2, 2) and values.isnan().all() for values in found.values())


def test_medians_leave_out_what_is_missing_or_infinite():
    nan, inf = torch.nan, torch.inf
    windows = torch.tensor([[1.0, nan, 5.0, nan], [4.0, 2.0, inf, nan], [2.0, 8.0, 1.0, nan], [9.0, 3.0, 2.0, nan]])
    torch.testing.assert_close(medians(windows), torch.tensor([3.0, 3.0, 2.0, nan]), equal_nan=True)
    assert medians(windows[:0]).isnan().all()


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
    assert "drums" not in a.stems
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


def test_all_stems_are_heard_but_only_those_asked_for_are_scored(folder):
    root, _ = folder
    song = true_songs(root)[1]
    assert set(song.stems) == {"vocals", "bass"} and song.mixture is None
    vocals = score(song, ["vocals"], mix_itself).global_sdr()
    both = score(song, ["bass", "vocals"], mix_itself).global_sdr()
    assert vocals.shape == (1,) and vocals[0] == both[1]
