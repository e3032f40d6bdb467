"""Generated songs: repeatable, complete or absent, and with stems that lie where they should."""

import errno

import numpy as np
import pytest
import torch

from separator.errors import ResourceError
from separator.train.prepared import fingerprint, songs
from separator.train.toysongs import generate

RATE = 16000
FOUR = ("vocals", "drums", "bass", "other")


def stem_of(song, stem):
    return song.excerpt(stem, 0, song.frames)


def median_hz(audio):
    """The frequency that half of the energy lies below."""
    power = torch.fft.rfft(audio.double()).abs().square().sum(dim=0).cumsum(0)
    return float((power < power[-1] / 2).sum()) * RATE / audio.shape[-1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "train"
    generate(folder, 3, FOUR, RATE, seed=1, seconds=6)
    return songs(folder, RATE)


def test_songs_are_as_long_and_as_many_as_told_and_all_different(made):
    assert len(made) == 3
    for song in made:
        assert set(song.layers) == set(FOUR) and song.frames == 6 * RATE
        assert all(layer.frames == 6 * RATE for layers in song.layers.values() for layer in layers)
        assert len(song.layers["drums"]) == 3 and len(song.layers["other"]) == 2
    for stem in FOUR:
        assert not torch.equal(stem_of(made[0], stem), stem_of(made[1], stem))


def test_stems_sound_throughout_stay_below_full_scale_and_lie_where_they_should(made):
    for song in made:
        for stem in FOUR:
            audio = stem_of(song, stem)
            assert audio.abs().max() < 0.9
            seconds = audio.unfold(1, RATE, RATE).square().mean(dim=(0, 2)).sqrt()
            assert (seconds > 1e-3).float().mean() > 0.6, stem  # no stem is silent for long
        assert 35 < median_hz(stem_of(song, "bass")) < 160 < median_hz(stem_of(song, "vocals")) < 1500
        left, right = stem_of(song, "other")
        assert (left - right).abs().max() > 1e-3  # stereo


def test_the_voice_glides_and_rests(made):
    resting = total = 0
    for song in made:
        windows = stem_of(song, "vocals")[0].unfold(0, RATE // 20, RATE // 20)
        resting, total = resting + int((windows == 0).all(dim=1).sum()), total + len(windows)
    assert 0.1 < resting / total < 0.6


def test_the_same_arguments_make_the_same_songs_and_stems_do_not_mind_the_others(tmp_path, made):
    generate(tmp_path / "again", 3, FOUR, RATE, seed=1, seconds=6)
    assert fingerprint(songs(tmp_path / "again")) == fingerprint(made)
    generate(tmp_path / "few", 1, ("other", "vocals"), RATE, seed=1, seconds=6)
    for stem in ("other", "vocals"):
        assert torch.equal(stem_of(songs(tmp_path / "few")[0], stem), stem_of(made[0], stem))
    generate(tmp_path / "else", 3, FOUR, RATE, seed=2, seconds=6)
    assert fingerprint(songs(tmp_path / "else")) != fingerprint(made)


def test_stems_of_unknown_names_have_bands_of_their_own(tmp_path):
    stems = ("flute", "oboe", "vocals", "zither")
    generate(tmp_path / "toy", 1, stems, RATE, seed=3, seconds=6)
    (song,) = songs(tmp_path / "toy")
    edges = np.geomspace(80, 0.4 * RATE, 4)
    for n, stem in enumerate(("flute", "oboe", "zither")):
        power = torch.fft.rfft(stem_of(song, stem)).abs().square().sum(dim=0)
        hz = torch.arange(len(power)) * RATE / song.frames
        inside = power[(hz > edges[n]) & (hz < edges[n + 1])].sum() / power.sum()
        assert inside > 0.97


@pytest.mark.parametrize("rate", [4000, 44100])
def test_any_rate_will_do(tmp_path, rate):
    generate(tmp_path / "toy", 1, (*FOUR, "flute"), rate, seed=0, seconds=1.5)
    (song,) = songs(tmp_path / "toy", rate)
    assert song.frames == round(1.5 * rate)
    assert all(stem_of(song, stem).abs().max() > 0.02 for stem in song.layers)


def test_a_folder_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    save, saved = np.save, []

    def full(path, samples):
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(path)
        save(path, samples)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        generate(tmp_path / "toy", 1, FOUR, RATE, seed=0, seconds=1)
    assert len(saved) == 3 and not list(tmp_path.iterdir())


def test_songs_of_a_quicker_process_stay(tmp_path, made):
    generate(tmp_path / "toy", 1, ("vocals",), RATE, seed=0, seconds=1)
    before = fingerprint(songs(tmp_path / "toy"))
    generate(tmp_path / "toy", 2, ("vocals",), RATE, seed=9, seconds=1)
    assert fingerprint(songs(tmp_path / "toy")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
