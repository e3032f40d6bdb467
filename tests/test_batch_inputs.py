"""Which songs a batch has, and what is known of them before any work."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

import audiofiles as af
import av
import numpy as np
import pytest
import soundfile
import torch

from separator import provenance
from separator.audio import StemFormat, StemWriter
from separator.batch.facts import Facts, facts
from separator.batch.inputs import EXTENSIONS, Unreadable, expand, find, read_list
from separator.batch.plan import make, settle
from separator.errors import AudioError, UsageError
from separator.jobs import Job, Song, outputs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


RECORD = '{"schema": 1, "status": "done", "input": "/music/a.wav"}\n'     # the first line of a manifest of ours


def names(songs: list[Song], root: Path) -> list[str]:
    return [str(song.path.relative_to(root)) for song in songs]


def test_folders_in_order_without_what_is_no_song(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp3", "a/2.FLAC", "a/1.wav", "a.wav", "c/d/e/f.opus",                    # songs
          "cover.jpg", "a/list.m3u", "notes.txt", ".hidden.mp3", ".trash/x.mp3", "a/._1.wav",   # none
          "stems/song/vocals.wav", "old/x/bass.wav", "old2/a.wav")
    for name in ("old/manifest.jsonl", "old2/manifest-1-of-2.jsonl"):
        (tmp_path / name).write_text(RECORD)
    found = find([tmp_path], recursive=True, out=tmp_path / "stems")
    assert names(found, tmp_path) == ["a/1.wav", "a/2.FLAC", "a.wav", "b.mp3", "c/d/e/f.opus"]
    assert [song.folder for song in found] == [PurePath(folder) for folder in ("a", "a", ".", ".", "c/d/e")]


def test_stems_may_stand_beside_the_songs(tmp_path: Path) -> None:
    """`--out .`: the folder itself holds the manifest, and is read all the same."""
    touch(tmp_path, "a.wav")
    (tmp_path / "manifest.jsonl").write_text(RECORD)
    assert names(find([tmp_path], recursive=True, out=tmp_path), tmp_path) == ["a.wav"]


@pytest.mark.parametrize("content", ["", "x", '{"file": "a.wav"}\n', "[]\n"])
def test_a_manifest_of_another_program_does_not_hide_songs(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "data/a.wav")
    (tmp_path / "data/manifest.jsonl").write_text(content)
    assert names(find([tmp_path], recursive=True, out=Path("stems")), tmp_path) == ["data/a.wav"]


def test_a_folder_that_cannot_be_listed_fails_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "m/a.wav", "m/lost+found.wav", "m/lost+found/x.wav", "m/z/c.wav")
    real = os.scandir

    def scandir(folder: Path) -> Iterator[os.DirEntry[str]]:
        if Path(folder).name == "lost+found":       # root may list all
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find([tmp_path / "m"], recursive=True, out=Path("stems"))
    assert names(found, tmp_path / "m") == ["a.wav", "lost+found", "lost+found.wav", "z/c.wav"]
    assert "lost+found cannot be listed: Permission denied" in caplog.text
    assert isinstance(found[1], Unreadable)
    with pytest.raises(AudioError, match="lost.found cannot be listed"):
        found[1].check()
    assert len(make(found, Job(stems=("bass",), out=tmp_path / "stems"))) == 4     # no two write one file


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_to_themselves_and_names_too_long_are_no_songs_and_no_end(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert names(find([tmp_path], recursive=True, out=Path("stems")), tmp_path) == ["a.wav"]
    long = Path("x" * 300 + ".wav")
    found = find([long], recursive=True, out=Path("stems"))
    assert [song.path for song in found] == [long] and facts(long) == Facts()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_linked_folders_are_entered_but_never_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "music/a/1.wav", "elsewhere/2.wav")
    (tmp_path / "music/a/up").symlink_to(tmp_path / "music")
    (tmp_path / "music/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music/gone.wav").symlink_to(tmp_path / "nowhere")
    assert names(find([tmp_path / "music"], recursive=True, out=Path("stems")), tmp_path / "music") == [
        "a/1.wav", "link/2.wav"]


def test_arguments_keep_their_order_and_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "z.wav", "m/a.wav", "m/b.wav", "strange.xyz")
    found = find([Path("z.wav"), Path("m"), Path("m/a.wav"), Path("strange.xyz"), Path("gone.wav")], recursive=True,
                 out=Path("stems"))
    assert names(found, Path()) == ["z.wav", "m/a.wav", "m/b.wav", "strange.xyz", "gone.wav"]
    assert names(find([Path("m")], recursive=False, out=Path("stems")), Path()) == ["m"]    # refused in its turn


def test_one_file_by_several_names_is_one_song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "m/a.wav", "m/b.wav")
    Path("l").symlink_to("m")
    Path("c.wav").symlink_to("m/b.wav")     # a link with a name of its own is a song of its own
    named = [Path("m/a.wav"), tmp_path / "m/a.wav", Path("m/../m/a.wav"), Path("l/a.wav"), Path("c.wav"), Path("m")]
    assert names(find(named, recursive=True, out=Path("stems")), Path()) == ["m/a.wav", "c.wav", "m/b.wav"]


def test_patterns_are_for_names_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "b1.mp3", "a1.mp3", "a2.wav", "what[1].mp3", "what1.mp3", "deep/er/c1.mp3")
    def matched(pattern: str) -> list[str]:
        return [str(path) for path in expand([Path(pattern)])]

    assert matched("gone.mp3") == ["gone.mp3"]
    assert names(find([Path("*1.mp3")], recursive=False, out=Path("stems")), Path()) == ["*1.mp3"]     # of a list
    assert matched("*1.mp3") == ["a1.mp3", "b1.mp3", "what1.mp3"]
    assert matched("what[1].mp3") == ["what[1].mp3"]
    assert matched("**/*1.mp3") == ["a1.mp3", "b1.mp3", "deep/er/c1.mp3", "what1.mp3"]
    with pytest.raises(UsageError, match=r"\*\.ogg matches no file"):
        matched("*.ogg")


def test_a_folder_without_songs_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(UsageError, match="holds no songs"):
        find([tmp_path], recursive=True, out=Path("stems"))


@pytest.mark.parametrize(("data", "null", "paths"), [
    (b"a.mp3\nb c.mp3\n", False, ["a.mp3", "b c.mp3"]), (b"a.mp3\r\n\r\n#b.mp3\r\n", False, ["a.mp3", "#b.mp3"]),
    (b"\xef\xbb\xbfa.mp3", False, ["a.mp3"]), (b"", False, []), (b"*.mp3\n", False, ["*.mp3"]),
    (b"a\nb.mp3\0 c.mp3 \0", True, ["a\nb.mp3", " c.mp3 "]), (b"caf\xe9.mp3\n", False, ["caf\udce9.mp3"]),
])
@pytest.mark.skipif(sys.platform == "win32", reason="names that are not UTF-8")
def test_lists(data: bytes, null: bool, paths: list[str]) -> None:
    assert read_list(data, null=null) == [Path(path) for path in paths]


def test_a_list_of_names_that_end_in_nul_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="-0"):
        read_list(b"a.mp3\0b.mp3\0", null=False)


def test_a_file_called_dash_is_not_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "-")
    assert read_list(b"-\n./-\n.//-\n", null=False) == [Path("-"), tmp_path / "-", tmp_path / "-"]
    assert [*expand([Path("?")])] == [tmp_path / "-"]


def test_every_extension_is_one_that_ffmpeg_knows() -> None:
    """By the file names of its readers and writers, or by a format's own name; the rest go by another's format."""
    known = {"alac", "m4r", "divx", "mp+", "ogm", "rf64", "rmvb", "snd", "wave"}
    for name in av.formats_available:
        for mode in "rw":
            try:
                known |= {*av.format.ContainerFormat(name, mode).extensions, *name.split(",")}
            except ValueError:      # it reads only, or writes only
                continue
    assert known >= EXTENSIONS
    assert {"wav", "flac", "mp3", "m4a", "ogg", "opus", "wma", "aiff", "mp4", "mkv", "webm", "mov"} <= EXTENSIONS
    assert not EXTENSIONS & {"jpg", "png", "gif", "txt", "srt", "m3u", "cue", "pdf", "nfo", "log", "yuv"}


# --- what is known of a song -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extension", "subtype"), [
    ("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("wav", "ULAW"), ("wav", "PCM_U8"), ("flac", "PCM_16"),
    ("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS"), ("aiff", "PCM_16"),
])
@pytest.mark.parametrize("channels", [1, 2])
def test_facts_are_those_of_libsndfile(tmp_path: Path, extension: str, subtype: str, channels: int) -> None:
    song = tmp_path / f"song.{extension}"
    soundfile.write(song, np.random.default_rng(0).standard_normal((33075, channels)) * 0.1, 22050, subtype=subtype)
    found = facts(song)
    assert found == Facts(pytest.approx(1.5, abs=0.06 if extension == "mp3" else 1e-6), 22050, channels)


@pytest.mark.parametrize("says", [9600, 9604, 1_900_000_000])
def test_a_wav_is_no_longer_than_its_file(tmp_path: Path, says: int) -> None:
    (tmp_path / "song.wav").write_bytes(af.riff(af.noise(2, 2400), 8000, data_size=says))
    assert facts(tmp_path / "song.wav") == Facts(0.3, 8000, 2)
    (tmp_path / "long.wav").write_bytes(af.rf64(af.noise(2, 2400), 8000)[:-4800])
    assert facts(tmp_path / "long.wav") == Facts(0.15, 8000, 2)
    (tmp_path / "far.au").write_bytes(b".snd" + struct.pack(">5I", 1 << 31, 4000, 3, 8000, 2) + bytes(400))
    assert facts(tmp_path / "far.au") == Facts(0.0, 8000, 2)     # its samples begin behind its end


def test_what_cannot_be_read_has_no_facts(tmp_path: Path) -> None:
    touch(tmp_path, "text.mp3", "short.wav")
    (tmp_path / "short.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1")
    (tmp_path / "empty.wav").touch()
    assert {facts(tmp_path / name) for name in ("text.mp3", "short.wav", "empty.wav", "gone.wav", "")} == {Facts()}


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg", "opus", "m4a"])
def test_our_own_stems_are_left_out_unless_named(
    tmp_path: Path, extension: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(stems=("vocals",), model="tiny", out=tmp_path / "stems")
    touch(tmp_path, "song.mp3")
    for name, tags in (("stem", {"comment": job.stamp(Song(tmp_path / "song.mp3"))}), ("song2", {"comment": "sepctl"})):
        with StemWriter(tmp_path / f"{name}.{extension}", StemFormat(extension), 48000, 1, tags=tags) as writer:
            writer.write(torch.zeros(1, 4800))
    songs = find([tmp_path], recursive=True, out=job.out)
    assert [task.song.path.name for task in make(songs, job)] == ["song.mp3", f"song2.{extension}"]
    assert "stems that sepctl made: 1 files" in caplog.text
    caplog.clear()
    assert len(make(songs, job, named={tmp_path / f"stem.{extension}"})) == 3
    assert not caplog.text
    with pytest.raises(UsageError, match="stems that sepctl made, 1 files"):
        make([song for song in songs if song.path.stem == "stem"], job)
    assert provenance.read_stamp(tmp_path / f"stem.{extension}") is not None


# --- where the stems go ----------------------------------------------------------------------------------------------


def test_the_output_tree_mirrors_the_input_tree(tmp_path: Path) -> None:
    touch(tmp_path, "Artist?/LP: 1/01. One.mp3")
    song, = find([tmp_path], recursive=True, out=Path("stems"))
    job = Job(stems=("vocals", "bass"))
    assert outputs(song, job) == {stem: Path(f"stems/Artist_/LP_ 1/01. One/{stem}.wav") for stem in job.stems}
    job = Job(stems=("bass",), template="{folder} - {track}.{ext}")
    assert outputs(song, job) == {"bass": Path("stems/Artist_/LP_ 1/LP_ 1 - 01. One.wav")}


def test_a_collision_in_the_tree_names_both_songs(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp3", "a/x.wav")
    with pytest.raises(UsageError, match=r"a/x\.mp3 and .*a/x\.wav would both write .*stems/a/x/bass\.wav"):
        make(find([tmp_path], recursive=True, out=tmp_path / "stems"), Job(stems=("bass",), out=tmp_path / "stems"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_collision_by_way_of_links_is_seen(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "stems").mkdir()
    (tmp_path / "stems/b").symlink_to(tmp_path / "real")
    (tmp_path / "stems/a").symlink_to(tmp_path / "real")
    touch(tmp_path, "a/x.mp3", "b/x.mp3", "x.wav")
    with pytest.raises(UsageError, match="would both write"):
        make([Song(tmp_path / "a/x.mp3", PurePath("a")), Song(tmp_path / "b/x.mp3", PurePath("b"))],
             Job(stems=("bass",), out=tmp_path / "stems"))
    (tmp_path / "link.wav").symlink_to(tmp_path / "stems/x/bass.wav")
    touch(tmp_path, "stems/x/bass.wav")
    with pytest.raises(UsageError, match="is itself one of the songs"):
        make([Song(tmp_path / "x.wav"), Song(tmp_path / "link.wav")],
             Job(stems=("bass",), out=tmp_path / "stems", overwrite=True))


def test_ten_thousand_songs_are_a_plan(tmp_path: Path) -> None:
    """Takes about two seconds; with a look at each folder for each stem it took ten."""
    job = Job(stems=("vocals", "drums", "bass", "other"), out=tmp_path / "stems")
    songs = [Song(Path(f"/music/{i // 100}/{i}.mp3"), PurePath(str(i // 100))) for i in range(10_000)]
    tasks = make(songs, job)
    assert [task.number for task in tasks] == list(range(1, 10_001))
    assert len({path for task in tasks for path in task.paths.values()}) == 40_000
    assert settle(tasks, {}, job, resume=False, verify=False) == (tasks, [])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("change", "told"), [
    ({"version": "0.0.1"}, ""),
    ({"song": "b.wav"}, "it is of b.wav"),
    ({"bytes": 4}, "it is of another state of a.wav"),
    ({"song_sha256": "c"}, "it is of another state of a.wav"),
    ({"model": "umx"}, "it was made by umx"),
    ({"sha256": "f"}, "it was made by another file of mini"),
    ({"options": "none"}, "it does not say with which options"),
    ({"options": {"wiener": 1, "rest": None}}, "it has wiener 1, not null"),
    ({"more": 1}, "a comment that was changed"),
])
def test_what_tells_a_stem_from_the_one_wanted(change, told):
    line = provenance.stamp("mini", "e", {"wiener": None, "rest": None}, "a.wav", 3, "d")
    wanted = provenance.parse(line)
    assert wanted is not None
    found = provenance.difference({**wanted, **change}, wanted)
    assert told in found
    assert bool(told) == bool(found)
