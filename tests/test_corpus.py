"""Songs with known stems, found in every layout; MUSDB18's own lists and its real excerpt as oracles."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import audiofiles as af
import pytest
import torch

from separator.corpus import STREAMS, musdb_songs, oddities, true_songs, validation_names
from separator.errors import AudioError

STEMPEG = importlib.util.find_spec("stempeg")  # not imported: that needs the ffmpeg program
EXCERPT = STEMPEG and Path(STEMPEG.origin).parent / "data" / "The Easton Ellises - Falcon 69.stem.mp4"


@pytest.fixture
def song(write_wav):
    """Writes a song of noise in the given files, `[2, n]` each at -20 dB; returns what is in them."""

    def write(folder, *names, frames=900, rate=8000):
        audio = 0.1 * torch.randn(len(names), 2, frames)
        audio = (audio * 32768).round() / 32768
        for each, name in zip(audio, names, strict=True):
            write_wav(folder / f"{name}.wav", each, rate)
        return audio

    return write


def names(songs):
    return [(each.split, each.name) for each in songs]


def test_a_layer_that_ends_before_the_part_asked_for_is_silent_there(tmp_path, song):
    long = song(tmp_path / "b", "vocals", "drums/kick", frames=2400)
    song(tmp_path / "b", "drums/fill", frames=800)
    (found,) = true_songs(tmp_path)
    with found.open(["vocals", "drums"], start_s=0.2) as opened:
        read = torch.cat(list(opened), dim=-1)
    assert torch.equal(read[1:], long[:, :, 1600:])
    with found.open(["vocals", "drums"], start_s=0.4) as opened, pytest.raises(AudioError, match="nothing from 0.4 s"):
        list(opened)


def test_stems_are_files_or_folders_of_layers_whatever_their_type(tmp_path, song):
    song(tmp_path / "b", "vocals", "mixture", "bass/low", "bass/sub")
    (tmp_path / "b" / "vocals.wav").rename(tmp_path / "b" / "vocals.FLAC")
    for junk in ("._vocals.wav", "vocals.txt", "cover.png"):
        (tmp_path / "b" / junk).write_bytes(b"x")
    (tmp_path / "b" / "empty").mkdir()
    song(tmp_path / "a", "drums")
    (tmp_path / "notes").mkdir()
    a, b = true_songs(tmp_path)
    assert names([a, b]) == [("", "a"), ("", "b")]
    assert b.stems == {
        "bass": ((tmp_path / "b/bass/low.wav", 0), (tmp_path / "b/bass/sub.wav", 0)),
        "vocals": ((tmp_path / "b/vocals.FLAC", 0),),
    }
    assert b.mixture == (tmp_path / "b/mixture.wav", 0) and a.mixture is None
    (only,) = true_songs(tmp_path, ["vocals", "flute"])
    assert only.name == "b" and list(only.stems) == ["vocals"]


def test_splits_are_recognised_and_never_mixed_with_songs(tmp_path, song):
    for name in ("test/c", "train/a", "valid/b", "train/d"):
        song(tmp_path / name, "bass")
    assert names(true_songs(tmp_path)) == [("train", "a"), ("train", "d"), ("valid", "b"), ("test", "c")]
    song(tmp_path / "stray", "bass")
    with pytest.raises(AudioError, match="train/ beside other folders: stray"):
        true_songs(tmp_path)


@pytest.mark.parametrize("where", ["empty", "nowhere"])
def test_no_songs_are_an_error_that_tells_the_layouts(tmp_path, where):
    (tmp_path / "empty" / "song").mkdir(parents=True)
    with pytest.raises(AudioError, match=r"no songs with known stems[\s\S]*SONG/<stem>.wav"):
        true_songs(tmp_path / where)


def test_a_stem_that_is_there_twice_is_refused_and_a_folder_of_layers_wins(tmp_path, song):
    song(tmp_path / "a", "vocals", "bass/x", "bass")
    (tmp_path / "a" / "vocals.flac").write_bytes(b"x")
    (found,) = true_songs(tmp_path)
    assert found.files("bass") == ((tmp_path / "a/bass/x.wav", 0),) and found.files("flute") == ()
    with pytest.raises(AudioError, match="a: the stem vocals is there twice: vocals.flac, vocals.wav"):
        found.files("vocals")


def test_an_open_song_gives_mix_and_stems_and_short_files_end_in_silence(tmp_path, song, write_wav):
    audio = song(tmp_path / "a", "low", "high/x", "high/y", frames=100_000)
    mono = write_wav(tmp_path / "a" / "high" / "z.wav", torch.full((1, 70_000), 0.25), 8000)
    (found,) = true_songs(tmp_path)
    with found.open(["high", "none", "low"]) as opened:
        blocks = list(opened)
        assert opened.sample_rate == 8000 and len(blocks) == 2
    high = audio[1] + audio[2]
    high[:, :70_000] += 0.25
    expected = torch.stack([high + audio[0], high, torch.zeros_like(high), audio[0]])
    torch.testing.assert_close(torch.cat(blocks, -1), expected, rtol=0, atol=1e-6)
    with found.open(["low"], 1.0, 0.5) as opened:
        torch.testing.assert_close(torch.cat(list(opened), -1)[1], audio[0][:, 8000:12000])
    with pytest.raises(AudioError, match="a has none of the stems flute"), found.open(["flute"]):
        pass
    write_wav(mono, torch.zeros(1, 10), 16000)
    with pytest.raises(AudioError, match=r"different sample rates: \[8000, 16000\]"), found.open(["high", "low"]):
        pass


def test_a_mixture_of_its_own_is_the_mix(tmp_path, song):
    audio = song(tmp_path / "a", "low", "mixture")
    (found,) = true_songs(tmp_path)
    with found.open(["low"]) as opened:
        torch.testing.assert_close(torch.cat(list(opened), -1), audio.flip(0))


@pytest.fixture
def musdb_root(tmp_path):
    """A MUSDB18 of some names; every song is the real excerpt."""
    if EXCERPT is None:
        pytest.skip("stempeg is not installed")
    valid = validation_names()
    for subset, chosen in {"train": ["Z - Z", *valid[:3], "A - A"], "test": ["B - B", "C - C"]}.items():
        (tmp_path / subset).mkdir()
        for name in chosen:
            (tmp_path / subset / f"{name}.stem.mp4").symlink_to(EXCERPT)
    return tmp_path


@af.needs_ffmpeg
@pytest.mark.parametrize("part", [("train", None), ("train", "train"), ("train", "valid"), ("test", None)])
def test_names_and_splits_are_those_of_the_musdb_package(musdb_root, part):
    musdb = pytest.importorskip("musdb")
    theirs = musdb.DB(root=str(musdb_root), subsets=[part[0]], split=part[1])
    ours = musdb_songs(musdb_root, *part)
    assert [each.name for each in ours] == [track.name for track in theirs]
    setup = theirs.setup["stem_ids"]
    assert {stem: number for stem, number in setup.items() if number} == STREAMS
    for each in ours:
        assert {stem: file[0][1] for stem, file in each.stems.items()} == STREAMS and each.mixture[1] == 0
    assert len(validation_names()) == 14 and set(validation_names()) == set(theirs.setup["validation_tracks"])


def test_both_subsets_at_once_with_their_splits(musdb_root):
    songs = musdb_songs(musdb_root)
    assert [each.split for each in songs if each.name in validation_names()] == ["valid"] * 3
    assert [each.name for each in songs if each.split == "test"] == ["B - B", "C - C"]
    assert len(songs) == 7
    with pytest.raises(AudioError, match="no folder train/, so this is not MUSDB18"):
        musdb_songs(musdb_root / "test")


def test_a_misspelt_validation_song_is_refused_for_it_would_be_trained_on(musdb_root):
    name = validation_names()[0]
    (musdb_root / "train" / f"{name}.stem.mp4").rename(musdb_root / "train" / f"{name.replace(' - ', '_-_')}.stem.mp4")
    with pytest.raises(AudioError, match=f"validation song '{name}' is missing"):
        musdb_songs(musdb_root, "train")


def test_unknown_and_missing_names_are_told(musdb_root):
    (musdb_root / "train" / "strange.stem.mp4").symlink_to(EXCERPT)
    unknown, missing = oddities(musdb_songs(musdb_root), True)
    assert unknown.endswith(": strange") and "A - A" not in unknown
    assert set(missing.partition(": ")[2].split(", ")) == set(validation_names()[3:])
    assert oddities(musdb_songs(musdb_root, "test"), True) == []
    plain = oddities(true_songs(musdb_root), False)     # without --musdb, they would be trained on
    assert plain == [f"validation songs of MUSDB18 among the others: {', '.join(sorted(validation_names()[:3]))}"]


def test_lists_are_read_without_the_ffmpeg_program():
    code = "import sys; from separator.corpus import validation_names as v; print(len(v()), 'musdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["14", "False"], done.stderr


@pytest.mark.real
@af.needs_ffmpeg
def test_the_real_excerpt_is_the_same_song_in_both_editions(tmp_path):
    if EXCERPT is None:
        pytest.skip("stempeg is not installed")
    (tmp_path / "aac" / "test").mkdir(parents=True)
    (tmp_path / "aac" / "test" / EXCERPT.name).symlink_to(EXCERPT)
    hq = tmp_path / "hq" / "test" / "The Easton Ellises - Falcon 69"
    hq.mkdir(parents=True)
    for number, stem in enumerate(("mixture", *STREAMS)):
        af.ffmpeg("-i", EXCERPT, "-map", f"0:a:{number}", "-c:a", "pcm_f32le", hq / f"{stem}.wav")
    read = []
    for edition in ("aac", "hq"):
        (found,) = musdb_songs(tmp_path / edition, "test")
        assert names([found]) == [("test", "The Easton Ellises - Falcon 69")]
        with found.open(list(STREAMS)) as opened:
            read.append(torch.cat(list(opened), -1))
    assert read[0].shape == (5, 2, 268288)
    torch.testing.assert_close(*read, rtol=0, atol=2e-4)
    levels = read[0].square().mean((1, 2))
    assert len({round(float(level), 6) for level in levels}) == 5   # no stream is another one's
