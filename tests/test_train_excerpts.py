"""Rows depend on their place alone, and are drawn as the settings say."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from separator.errors import AudioError, ConfigError
from separator.train.augment import Augment, Drive, Loudness, Reverb, Speed
from separator.train.excerpts import SILENCE, Data, Excerpts, Source
from separator.train.prepared import QUIET, Manifest, PreparedLayer, songs

RATE = 4000
STEMS = ("low", "high")


def write_song(folder, stems, seconds=6):
    """Every layer constant and different, so that a sample tells which layer it is of."""
    for stem, levels in stems.items():
        (folder / stem).mkdir(parents=True)
        for n, level in enumerate(levels):
            np.save(folder / stem / f"{n}.npy", np.full((seconds * RATE, 2), level, dtype=np.int16))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(3):
        write_song(tmp_path / "train" / f"song{n}", {stem: [0] for stem in STEMS})
        for path in (tmp_path / "train" / f"song{n}").glob("*/*.npy"):
            np.save(path, rng.integers(-9999, 9999, (6 * RATE, 2)).astype(np.int16))
    return tmp_path


def settings(folder, **changes):
    return Data(**{"train": [{"folder": folder / "train"}], "valid": folder / "train", "excerpt_s": 1.0, "rows": 6}
                | changes)


LOUD = Augment(speed=Speed(p=0.5), drive=Drive(p=0.5), reverb=Reverb(p=0.5), loudness=Loudness(p=0.5))


@pytest.mark.parametrize("augment", [None, LOUD])
def test_a_row_depends_on_its_place_alone(folder, augment):
    """One by one, backwards, by several threads, by another object: the same rows."""
    block = Excerpts(settings(folder), STEMS, RATE, 5, augment).rows(7, lane=1)
    other = Excerpts(settings(folder, threads=3), STEMS, RATE, 5, augment)
    other.rows(0)
    assert torch.equal(other.rows(7, lane=1), block)
    for index in reversed(range(6)):
        assert torch.equal(other.row(7, 1, index), block[index])
    assert len({tuple(row.flatten()[:9].tolist()) for row in block}) == 6  # no row is another's
    for seed, number, lane in ((6, 7, 1), (5, 8, 1), (5, 7, 0), (5, 1, 7)):
        assert not torch.equal(Excerpts(settings(folder), STEMS, RATE, seed, augment).rows(number, lane), block)


def test_another_process_makes_the_same_rows(folder):
    block = Excerpts(settings(folder), STEMS, RATE, 5, LOUD).rows(3)
    script = f"""
import torch
from separator.train.augment import Augment
from separator.train.excerpts import Data, Excerpts
data = Data.model_validate_json({settings(folder).model_dump_json()!r})
excerpts = Excerpts(data, {STEMS}, {RATE}, 5, Augment.model_validate_json({LOUD.model_dump_json()!r}))
torch.save([excerpts.row(3, 0, index) for index in (4, 1)], {str(folder / "rows.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    four, one = torch.load(folder / "rows.pt")
    assert torch.equal(four, block[4]) and torch.equal(one, block[1])


def test_what_is_drawn_does_not_change_with_what_is_done_to_it(folder):
    data = settings(folder, drop_layer=0.0)
    plain = Excerpts(data, STEMS, RATE, 5).rows(0)
    levelled = Excerpts(data, STEMS, RATE, 5, Augment(loudness=Loudness(p=1, low=-20, high=-20)))
    ratio = levelled.rows(0) / plain.where(plain != 0, torch.nan)
    factor = ratio.flatten(2).nanmean(2)[..., None, None]  # one per stem of a row
    assert (factor - 1).abs().min() > 0.01 and (ratio - factor).nan_to_num().abs().max() < 1e-3
    assert torch.equal(levelled.plain().rows(0), plain)


def test_an_excerpt_at_speed_is_the_song_at_speed(folder):
    t = np.arange(6 * RATE) / RATE
    for path in (folder / "train").glob("*/*/*.npy"):
        np.save(path, np.stack([9999 * np.sin(2 * np.pi * 500 * t)] * 2, axis=1).astype(np.int16))
    data = settings(folder, drop_layer=0.0)
    rows = Excerpts(data, STEMS, RATE, 0, Augment(speed=Speed(p=1, low=1.1, high=1.1))).rows(0)
    assert rows.shape == (6, 2, 2, RATE)
    peaks = torch.fft.rfft(rows).abs().argmax(dim=-1)
    assert torch.equal(peaks, torch.full_like(peaks, 550))
    torch.testing.assert_close(rows[:, 0], rows[:, 1])  # read at one place, resampled alike: aligned


def test_sources_are_drawn_from_by_weight_and_their_songs_alike(tmp_path):
    for n in range(4):
        write_song(tmp_path / ("few" if n < 1 else "many") / f"song{n}", {"low": [1000 * (n + 1)]})
    data = Data(train=[{"folder": tmp_path / "few", "weight": 3}, {"folder": tmp_path / "many"}],
                valid=tmp_path / "few", excerpt_s=0.01, rows=2000, drop_layer=0)
    rows = Excerpts(data, ["low"], RATE, 0).rows(0)
    counts = Counter(round(value * 32.768) for value in rows[:, 0, 0, 0].tolist())
    assert counts[1] / 2000 == pytest.approx(3 / 4, abs=0.04)
    for n in (2, 3, 4):
        assert counts[n] / 2000 == pytest.approx(1 / 12, abs=0.03)


def test_layers_are_left_out_as_often_as_told_and_never_in_plain_rows(tmp_path):
    write_song(tmp_path / "set" / "a", {"low": [1024, 2048]})
    data = Data(train=[{"folder": tmp_path / "set"}], valid=tmp_path / "set", excerpt_s=0.01, rows=2000,
                drop_layer=0.3, silent=1.0)
    excerpts = Excerpts(data, ["low"], RATE, 0)
    shares = Counter((excerpts.rows(0)[:, 0, 0, 0] * 32).round().int().tolist())
    for layers, expected in ((0, 0), (1, 0.255), (2, 0.255), (3, 0.49)):  # where all would go, one of them stays
        assert shares[layers] / 2000 == pytest.approx(expected, abs=0.04)
    assert torch.equal(excerpts.plain().rows(0), torch.full((2000, 1, 2, 40), 3 / 32))


def test_the_last_layer_that_sounds_is_not_left_out(tmp_path):
    write_song(tmp_path / "set" / "a", {"low": [0, 1024, 0], "high": [2048]})
    write_song(tmp_path / "set" / "b", {"low": [1024, 0], "high": [2048]})
    data = Data(train=[{"folder": tmp_path / "set"}], valid=tmp_path / "set", excerpt_s=0.01, rows=50, drop_layer=1,
                silent=0)
    excerpts = Excerpts(data, STEMS, RATE, 0)
    drawn = []
    excerpts._song = lambda rng, stem: drawn.append(stem) or excerpts.songs[0]
    assert torch.equal(excerpts.rows(0)[..., 0, 0] * 32, torch.tensor([1.0, 2.0]).expand(50, 2))
    assert drawn == [None] * 50  # none was looked for in another song


def write_sparse_song(folder, manifest, active=1, blocks=16):
    """A stem that sounds in the first `active` of so many blocks, at 0.5, and beside it one that always does."""
    write_song(folder, {"low": [0], "high": [4096]}, seconds=blocks * QUIET // RATE)
    low = np.load(folder / "low" / "0.npy")
    low[: active * QUIET] = 16384
    np.save(folder / "low" / "0.npy", low)
    if manifest:
        told = {f"{stem}/0.npy": PreparedLayer(source="", stream=0, size=0, mtime_ns=0, frames=len(low), sha256="",
                                               clipped=0, sounding=((0, end),))
                for stem, end in (("low", active * QUIET), ("high", len(low)))}
        (folder / "song.json").write_text(Manifest(sample_rate=RATE, layers=told).text())


@pytest.mark.parametrize(("manifest", "active"), [(True, 1), (False, 6)])
def test_a_song_is_drawn_by_its_weight_however_seldom_a_stem_sounds_in_it(tmp_path, manifest, active):
    write_sparse_song(tmp_path / "sparse" / "a", manifest, active)
    write_song(tmp_path / "dense" / "b", {stem: [8192] for stem in STEMS})
    data = Data(train=[{"folder": tmp_path / "sparse"}, {"folder": tmp_path / "dense"}], valid=tmp_path / "dense",
                excerpt_s=0.5, rows=800, drop_layer=0, silent=0)
    low = Excerpts(data, STEMS, RATE, 0).rows(0)[:, 0].amax(dim=(1, 2))
    assert set(low.tolist()) == {0.5, 0.25}
    assert (low == 0.5).double().mean() == pytest.approx(0.5, abs=0.05)


def test_where_a_stem_sounds_all_places_are_as_likely(tmp_path):
    folder = tmp_path / "set" / "a"
    write_sparse_song(folder, manifest=True)
    ramp = np.load(folder / "low" / "0.npy")
    ramp[:QUIET] = np.arange(QUIET)[:, None]  # tells its place
    np.save(folder / "low" / "0.npy", ramp)
    data = Data(train=[{"folder": tmp_path / "set"}], valid=tmp_path / "set", excerpt_s=0.5, rows=1000, drop_layer=0,
                silent=0)
    first = Excerpts(data, ["low"], RATE, 0).rows(0)[:, 0, 0, 0] * 32768
    counts = torch.histc(first, 4, 0, QUIET)
    assert (counts / 1000 - 0.25).abs().max() < 0.05


def test_a_share_of_excerpts_is_from_a_natural_place(tmp_path):
    """Silence in 15 of 16 parts of a song, accepted with probability 0.4."""
    write_sparse_song(tmp_path / "set" / "a", manifest=True)
    data = Data(train=[{"folder": tmp_path / "set"}], valid=tmp_path / "set", excerpt_s=0.01, rows=1000, drop_layer=0,
                silent=0.4)
    low = Excerpts(data, ["low"], RATE, 0).rows(0)[:, 0].amax(dim=(1, 2))
    assert (low == 0).double().mean() == pytest.approx(0.4 * 15 / 16, abs=0.05)


def test_whole_rows_are_one_song_at_one_place_with_its_silences(tmp_path):
    for n, name in enumerate("ab"):
        write_song(tmp_path / "set" / name, {stem: [0] for stem in STEMS})
        for stem in STEMS:
            ramp = np.arange(6 * RATE)[:, None].repeat(2, axis=1) * (-1) ** n
            np.save(tmp_path / "set" / name / stem / "0.npy", ramp.astype(np.int16))
    write_song(tmp_path / "set" / "c", {"low": [16384]})
    data = Data(train=[{"folder": tmp_path / "set"}], valid=tmp_path / "set", excerpt_s=0.01, rows=200, silent=0)
    rows = Excerpts(data, STEMS, RATE, 0, Augment(coherent=0.3)).rows(0)
    whole, remixed = rows[:60], rows[60:]
    lacking = (whole[:, 0] == 0.5).all(dim=(1, 2))
    assert lacking.double().mean() == pytest.approx(1 / 3, abs=0.2) and not whole[lacking, 1].any()
    assert torch.equal(whole[~lacking, 0], whole[~lacking, 1])
    assert remixed.square().mean(dim=(2, 3)).min() > SILENCE**2
    assert not torch.equal(remixed[:, 0], remixed[:, 1])


def test_a_stem_that_a_song_lacks_comes_from_another_song(tmp_path):
    write_song(tmp_path / "set" / "a", {"low": [1024]})
    write_song(tmp_path / "set" / "b", {"low": [2048], "high": [4096]})
    data = Data(train=[{"folder": tmp_path / "set"}], valid=tmp_path / "set", excerpt_s=0.01, rows=50, drop_layer=0,
                silent=0)
    rows = Excerpts(data, STEMS, RATE, 0).rows(0)[:, :, 0, 0] * 32
    assert set(rows[:, 0].tolist()) == {1, 2} and set(rows[:, 1].tolist()) == {4}


def test_the_mix_may_have_more_stems_than_the_model(folder):
    assert Excerpts(settings(folder), ["high"], RATE, 0).rows(0).shape[1] == 1
    both = Excerpts(settings(folder, stems=STEMS), ["high"], RATE, 0)
    assert both.stems == STEMS
    assert torch.equal(both.rows(0), Excerpts(settings(folder), STEMS, RATE, 0).rows(0))


def test_the_validation_folder_may_be_its_name_alone(folder):
    assert settings(folder, valid=str(folder)).valid == Source(folder=folder)
    assert settings(folder, valid={"folder": folder, "generate": 2}).valid.generate == 2


def test_folders_that_do_not_exist_are_filled_with_generated_songs(tmp_path, monkeypatch):
    sources = {name: {"folder": tmp_path / "toy" / name, "generate": 2} for name in ("train", "valid")}
    data = Data(train=[sources["train"]], valid=sources["valid"], excerpt_s=0.5, rows=4)
    first = Excerpts(data, ["vocals", "drums"], RATE, 0)
    assert len(first.songs) == 2 and sorted(first.songs[0].layers) == ["drums", "vocals"]
    held_out = data.valid.songs(["vocals", "drums"], RATE)[0]
    monkeypatch.setattr("separator.train.toysongs.generate", lambda *_: pytest.fail("made twice"))
    assert torch.equal(Excerpts(data, ["vocals", "drums"], RATE, 0).rows(0), first.rows(0))
    whole = (held_out.excerpt("vocals", 0, held_out.frames), first.songs[0].excerpt("vocals", 0, first.songs[0].frames))
    assert not torch.equal(*whole)
    with pytest.raises(AudioError, match="8000 Hz are needed"):
        Excerpts(data, ["vocals"], 8000, 0)


def test_what_cannot_be_drawn_is_refused(folder):
    with pytest.raises(AudioError, match="no prepared songs"):
        songs(folder / "nowhere")
    with pytest.raises(AudioError, match="no training song has the stem flute"):
        Excerpts(settings(folder), ["low", "flute"], RATE, 0)
    with pytest.raises(ConfigError, match=r"data\.excerpt_s 0\.3: loudness is measured over 0\.4 s"):
        Excerpts(settings(folder, excerpt_s=0.3), STEMS, RATE, 0, Augment(loudness=Loudness(p=0.1)))
