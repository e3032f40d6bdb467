"""`sepctl split`, from the command line to the files. A tiny random model: what it separates does not matter here."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

from separator import jobs, provenance, separate, split
from separator.audio import StemWriter, read_tags
from separator.cli import program
from separator.modelfile import file_sha256

pytestmark = pytest.mark.usefixtures("one_core")
STEMS = ["vocals", "drums", "bass", "other"]
BATCH = {"manifest.jsonl", ".manifest.jsonl.lock"}  # beside the stems of more than one song
RATE = 8000
Run = Callable[..., Result]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`sepctl split ARGUMENTS` with the tiny model, inside tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))

    def invoke(*arguments: object, model: object = tiny_model, stdin: bytes | io.BytesIO | None = None) -> Result:
        command = ["split", "--model", str(model), *map(str, arguments)]
        return CliRunner().invoke(program, command, input=stdin)

    return invoke


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """Three seconds of stereo noise, quiet enough not to clip: longer than two segments of the model."""
    return noise(tmp_path / "song.wav")


def noise(path: Path, seconds: float = 3.0, rate: int = RATE, channels: int = 2, level: float = 0.1,
          subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(path.name)).standard_normal((round(seconds * rate), channels)) * level
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def read(path: Path) -> np.ndarray[Any, Any]:
    return soundfile.read(path, always_2d=True)[0]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """What changes if any file is written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_gives_four_stems_that_sum_to_the_song(run: Run, song: Path, tmp_path: Path) -> None:
    done = run(song)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [f"stems/song/{stem}.wav" for stem in STEMS]
    stems = [read(tmp_path / "stems/song" / f"{stem}.wav") for stem in STEMS]
    assert all(np.abs(stem).max() > 0.001 for stem in stems)
    assert np.abs(sum(stems) - read(song)).max() <= len(stems) * 0.5001 / 2 ** 15  # each stem rounded once
    assert files(tmp_path / "stems") == {f"song/{stem}.wav" for stem in STEMS}


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (8000, 2), (44100, 1), (48000, 2), (96000, 1)])
@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_frames_rate_and_channels_are_the_songs(
    run: Run, tmp_path: Path, rate: int, channels: int, extension: str
) -> None:
    song = noise(tmp_path / "song.flac", 0.7, rate, channels)
    assert run(song, "-f", extension).exit_code == 0
    for stem in STEMS:
        info = soundfile.info(tmp_path / "stems/song" / f"{stem}.{extension}")
        assert (info.frames, info.samplerate, info.channels) == (round(0.7 * rate), rate, channels)


@pytest.mark.parametrize("frames", [1, 2, 7999, 8000, 8001])
def test_any_length(run: Run, tmp_path: Path, frames: int) -> None:
    song = noise(tmp_path / "song.wav", frames / RATE)
    assert run(song).exit_code == 0
    assert soundfile.info(tmp_path / "stems/song/vocals.wav").frames == frames


@pytest.mark.parametrize(("arguments", "subtype"), [
    ([], "PCM_16"), (["--bit-depth", "24"], "PCM_24"), (["--bit-depth", "32f"], "FLOAT"),
    (["-f", "flac"], "PCM_16"), (["-f", "flac", "--bit-depth", "24"], "PCM_24"),
    (["-f", "mp3", "--bitrate", "64k"], "MPEG_LAYER_III"), (["-f", "ogg"], "VORBIS"), (["-f", "opus"], "OPUS"),
])
def test_formats(run: Run, song: Path, tmp_path: Path, arguments: list[str], subtype: str) -> None:
    done = run(song, "--stems", "bass", *arguments)
    assert done.exit_code == 0, done.stderr
    assert soundfile.info(tmp_path / done.stdout.strip()).subtype == subtype


def test_float_stems_sum_to_the_song_far_below_16_bit(run: Run, song: Path, tmp_path: Path) -> None:
    assert run(song, "--bit-depth", "32f").exit_code == 0
    total = sum(read(tmp_path / "stems/song" / f"{stem}.wav") for stem in STEMS)
    assert np.abs(total - read(song)).max() < 1e-6


def test_without_exact_sum_the_model_alone_decides(run: Run, song: Path, tmp_path: Path) -> None:
    assert run(song, "--no-exact-sum", "--bit-depth", "32f").exit_code == 0
    total = sum(read(tmp_path / "stems/song" / f"{stem}.wav") for stem in STEMS)
    assert np.abs(total - read(song)).max() > 1e-3


def test_stems_chooses_and_orders(run: Run, song: Path, tmp_path: Path) -> None:
    done = run(song, "--stems", "drums, vocals")
    assert done.stdout.splitlines() == ["stems/song/drums.wav", "stems/song/vocals.wav"]
    assert files(tmp_path / "stems") == {"song/drums.wav", "song/vocals.wav"}


def test_two_stems_are_one_and_the_rest(run: Run, song: Path, tmp_path: Path) -> None:
    done = run(song, "--two-stems", "vocals", "--bit-depth", "32f")
    assert done.stdout.splitlines() == ["stems/song/vocals.wav", "stems/song/no_vocals.wav"]
    vocals, rest = (read(tmp_path / line) for line in done.stdout.splitlines())
    assert np.abs(vocals).max() > 0.001
    assert np.abs(vocals + rest - read(song)).max() < 1e-6


def test_start_and_duration_cut_the_song(run: Run, song: Path, tmp_path: Path) -> None:
    assert run(song, "--start", "0:01.5", "--duration", "0.25", "--bit-depth", "32f").exit_code == 0
    total = sum(read(tmp_path / "stems/song" / f"{stem}.wav") for stem in STEMS)
    np.testing.assert_allclose(total, read(song)[12000:14000], atol=1e-6)


def test_same_run_same_bytes(run: Run, song: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert run(song, "-o", out).exit_code == 0
    for stem in STEMS:
        assert (tmp_path / f"one/song/{stem}.wav").read_bytes() == (tmp_path / f"two/song/{stem}.wav").read_bytes()


def test_wiener_changes_the_stems_but_not_their_sum(run: Run, song: Path, tmp_path: Path) -> None:
    for n in ("0", "1"):
        assert run(song, "-o", n, "--wiener", n, "--bit-depth", "32f").exit_code == 0
    masks, filtered = ([read(tmp_path / n / "song" / f"{stem}.wav") for stem in STEMS] for n in "01")
    assert np.abs(masks[0] - filtered[0]).max() > 1e-3
    assert np.abs(sum(filtered) - read(song)).max() < 1e-5


def test_template(run: Run, tmp_path: Path) -> None:
    song = noise(tmp_path / "LP/side.a/01. One.wav", 0.2)
    done = run(song, "--stems", "bass", "--template", "{model}/{folder} - {track} ({stem}).{ext}")
    assert done.stdout == "stems/tiny/side.a - 01. One (bass).wav\n"
    assert (tmp_path / done.stdout.strip()).is_file()


def test_the_folder_of_a_song_above_the_current_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(tmp_path / "LP/song.flac", 0.2)
    (tmp_path / "LP/here").mkdir()
    monkeypatch.chdir(tmp_path / "LP/here")
    done = run("../song.flac", "--stems", "bass", "--template", "{folder} {track} {source_ext}.{ext}")
    assert done.stdout == "stems/LP song flac.wav\n"


@pytest.mark.parametrize(("file", "folder"), [
    ("夜に駆ける.wav", "夜に駆ける"), ("trailing dots... .wav", "trailing dots"), ("What?.wav", "What_"),
    ("a.b.c.wav", "a.b.c"), ("no extension", "no extension"), ("-dash.wav", "-dash"), ("new\nline.wav", "new_line"),
])
def test_any_file_name(run: Run, tmp_path: Path, file: str, folder: str) -> None:
    noise(tmp_path / "x.wav", 0.2).rename(tmp_path / file)
    assert run("--stems", "bass", "--", file).exit_code == 0
    assert files(tmp_path / "stems") == {f"{folder}/bass.wav"}


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_a_file_name_that_is_no_text(run: Run, tmp_path: Path) -> None:
    song = noise(tmp_path / "x.wav", 0.2).rename(tmp_path / "caf\udce9.wav")
    done = run(song, "--stems", "bass")
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes == b"stems/caf\xe9/bass.wav\n"
    assert (tmp_path / "stems/caf\udce9/bass.wav").is_file()


# --- what exists -----------------------------------------------------------------------------------------------------


def test_existing_stems_are_refused_before_any_work(run: Run, song: Path, tmp_path: Path) -> None:
    other = noise(tmp_path / "a.wav", 0.2)
    (tmp_path / "stems/song").mkdir(parents=True)
    (tmp_path / "stems/song/drums.wav").write_text("mine")
    done = run(other, song)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == ("Error: stems/song/drums.wav exists\n"
                           "  hint: use --overwrite or --skip-existing, or another --out\n")
    assert files(tmp_path / "stems") == {"song/drums.wav"}
    assert (tmp_path / "stems/song/drums.wav").read_text() == "mine"


def test_overwrite_replaces(run: Run, song: Path, tmp_path: Path) -> None:
    (tmp_path / "stems/song").mkdir(parents=True)
    (tmp_path / "stems/song/drums.wav").write_text("mine")
    assert run(song, "--overwrite").exit_code == 0
    assert soundfile.info(tmp_path / "stems/song/drums.wav").frames == 24000


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg", "opus", "m4a"])
def test_skip_existing_skips_what_is_done(run: Run, song: Path, tmp_path: Path, extension: str) -> None:
    assert run(song, "-f", extension).exit_code == 0
    before = snapshot(tmp_path / "stems")
    done = run(song, "-f", extension, "--skip-existing")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{song}: already split, skipped\n"
    assert snapshot(tmp_path / "stems") == before


def test_skipping_needs_no_weights(run: Run, song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(song).exit_code == 0
    monkeypatch.setattr(separate.Separator, "load", None)
    assert run(song, "--skip-existing").exit_code == 0


@pytest.mark.parametrize(("options", "told"), [
    (["--wiener", "1"], "it has wiener null, not 1"),
    (["--no-exact-sum"], "it has exact_sum true, not false"),
    (["--duration", "1", "--start", "0.5"], "it has duration_s null, not 1.0; start_s 0.0, not 0.5"),
    (["--bit-depth", "24"], 'it has format ["wav", "16", null], not ["wav", "24", null]'),
    (["--downmix"], "it has downmix false, not true"),
    (["--stems", "vocals,drums"], 'not ["vocals", "drums"]'),
])
def test_skip_existing_does_not_take_other_work_for_done(
    run: Run, song: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    assert run(song).exit_code == 0
    before = snapshot(tmp_path / "stems")
    done = run(song, "--skip-existing", *options)
    assert done.exit_code == 2
    assert re.search(rf"was not made from .*: .*{re.escape(told)}", done.stderr)
    assert snapshot(tmp_path / "stems") == before


def test_skip_existing_notices_another_model_and_another_song(
    run: Run, song: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from separator.modelfile import load, save

    card, estimator = load(tiny_model)
    other = tmp_path / "other.safetensors"
    save(other, card.model_copy(update={"description": "the same name, another file"}), estimator)
    assert run(song).exit_code == 0
    done = run(song, "--skip-existing", model=other)
    assert (done.exit_code, "it was made by another file of tiny" in done.stderr) == (2, True)
    save(other, card.model_copy(update={"name": "small"}), estimator)
    done = run(song, "--skip-existing", model=other)
    assert (done.exit_code, "it was made by tiny" in done.stderr) == (2, True)
    noise(song, 2.0)
    done = run(song, "--skip-existing")
    assert (done.exit_code, "it is of another state of song.wav" in done.stderr) == (2, True)


def test_skip_existing_notices_another_song_of_the_same_name_and_size(run: Run, song: Path) -> None:
    assert run(song).exit_code == 0
    size, before = song.stat().st_size, song.read_bytes()
    song.write_bytes(before[:-2] + bytes(byte ^ 1 for byte in before[-2:]))
    assert song.stat().st_size == size
    done = run(song, "--skip-existing")
    assert done.exit_code == 2
    assert "was not made from" in done.stderr
    song.write_bytes(before)
    assert run(song, "--skip-existing").exit_code == 0


def test_stems_without_the_songs_hash_are_not_the_same_work(
    run: Run, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stems of versions that did not write it."""
    stamp = provenance.stamp

    def old(*arguments: Any) -> str:
        record = json.loads(stamp(*arguments).removeprefix("sepctl "))
        del record["song_sha256"]
        return "sepctl " + json.dumps(record)

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "stamp", old)
        assert run(song).exit_code == 0
    assert run(song, "--skip-existing").exit_code == 2


def test_a_song_is_hashed_once_and_only_where_needed(
    run: Run, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(jobs, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    assert run(song).exit_code == 0
    assert hashed == [song]
    assert run(song).exit_code == 2  # stems exist: that is refused without a look at the song
    assert hashed == [song]
    (tmp_path / "stems/song/bass.wav").unlink()
    assert run(song, "--skip-existing").exit_code == 0  # compared, and made again
    assert hashed == [song, song]


def test_one_stale_or_missing_song_does_not_stop_skip_existing(run: Run, tmp_path: Path) -> None:
    songs = [noise(tmp_path / f"{name}.wav", 0.2) for name in ("a", "bb", "ccc", "dddd")]
    assert run(*songs[:2], "--wiener", "1").exit_code == 0
    assert run(songs[2]).exit_code == 0
    before = snapshot(tmp_path / "stems/a")
    songs[1].unlink()
    done = run(*songs, "--skip-existing")
    assert done.exit_code == 1
    assert "Error: stems/a/vocals.wav exists, but was not made from" in done.stderr
    assert "it has wiener 1, not null" in done.stderr
    assert f"Error: {songs[1]} does not exist\n" in done.stderr
    assert f"{songs[2]}: already split, skipped\n" in done.stderr
    assert done.stdout.splitlines() == [f"stems/dddd/{stem}.wav" for stem in STEMS]
    assert "4 songs: 1 done, 1 skipped, 2 failed" in done.stderr
    assert snapshot(tmp_path / "stems/a") == before


def test_a_stream_is_never_taken_for_done(run: Run, song: Path, tmp_path: Path) -> None:
    assert run("-", stdin=song.read_bytes()).exit_code == 0
    assert json.loads(read_tags(tmp_path / "stems/stdin/bass.wav")["comment"].removeprefix("sepctl "))["bytes"] is None
    done = run("-", "--skip-existing", stdin=song.read_bytes())
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--skip-existing cannot tell whether stdin" in done.stderr


def test_skip_existing_makes_incomplete_songs_again(run: Run, song: Path, tmp_path: Path) -> None:
    assert run(song).exit_code == 0
    (tmp_path / "stems/song/bass.wav").unlink()
    done = run(song, "--skip-existing")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 4
    assert files(tmp_path / "stems") == {f"song/{stem}.wav" for stem in STEMS}


def test_what_appears_during_the_run_is_safe_too(
    run: Run, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object) -> dict[Any, dict[str, Path]]:
        (tmp_path / "stems/song").mkdir(parents=True)
        (tmp_path / "stems/song/vocals.wav").write_text("mine")
        return {split.Song(song): {}}

    monkeypatch.setattr("separator.jobs.plan", late)
    done = run(song)
    assert done.exit_code == 2
    assert (tmp_path / "stems/song/vocals.wav").read_text() == "mine"


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("options", [[], ["--skip-existing"]])
@pytest.mark.parametrize("when", ["split", "renamed"])
def test_what_appears_while_a_song_is_split_is_safe_and_stands_alone(
    run: Run, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, options: list[str], links: bool
) -> None:
    """Before the last check, and between it and the renaming of the third stem."""
    folder, real = tmp_path / "stems/song", StemWriter.finish if when == "split" else StemWriter.commit
    called: list[StemWriter] = []

    def mine_first(writer: StemWriter, **replacing: bool) -> None:
        called.append(writer)
        if len(called) == 3:
            (folder / "bass.wav").write_text("mine")
        real(writer, **replacing)

    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    monkeypatch.setattr(StemWriter, real.__name__, mine_first)
    done = run(song, *options)
    assert (done.exit_code, len(called) >= 3) == (2, True)
    assert "stems/song/bass.wav exists" in done.stderr
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("bass.wav", "mine")]


def test_a_folder_that_another_song_made_and_takes_away_is_made_again(
    run: Run, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other fails after this one found its folder, and before it wrote into it; a song is hashed before that."""
    real_make, real_stamp = split._make, jobs.Job.stamp
    folder = tmp_path / "stems/song"
    gone: list[Path] = []

    def make(path: Path) -> None:
        real_make(path)
        if not gone:
            gone.append(path)
            folder.rmdir()

    def stamp(job: jobs.Job, of: jobs.Song) -> str:
        assert not folder.exists()
        return real_stamp(job, of)

    monkeypatch.setattr(split, "_make", make)
    monkeypatch.setattr(jobs.Job, "stamp", stamp)
    assert run(song).exit_code == 0
    assert gone and files(tmp_path / "stems") == {f"song/{stem}.wav" for stem in STEMS}


def test_a_model_file_called_like_a_model_is_the_file(
    run: Run, song: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Then its name is given as a path, and its stems tell the SHA-256 of what made them."""
    (tmp_path / "mini").write_bytes(tiny_model.read_bytes())
    assert run(song, model="./mini").exit_code == run(song, "-o", "tiny").exit_code == 0
    for stem in STEMS:
        assert (tmp_path / f"stems/song/{stem}.wav").read_bytes() == (tmp_path / f"tiny/song/{stem}.wav").read_bytes()


def test_stems_tell_what_made_them(run: Run, song: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert run(song, "--wiener", "1").exit_code == 0
    comment = read_tags(tmp_path / "stems/song/bass.wav")["comment"]
    assert comment.startswith("sepctl {")
    record = json.loads(comment.removeprefix("sepctl "))
    assert (record["model"], record["sha256"]) == ("tiny", file_sha256(tiny_model))
    assert (record["song"], record["bytes"]) == ("song.wav", song.stat().st_size)
    assert record["song_sha256"] == hashlib.sha256(song.read_bytes()).hexdigest()
    assert record["options"]["wiener"] == 1
    assert record["options"]["stems"] == STEMS


def test_tags_carry_over_and_the_comment_is_kept_below_ours(run: Run, tmp_path: Path) -> None:
    song = tmp_path / "song.flac"
    with soundfile.SoundFile(song, "w", RATE, 1, format="FLAC") as file:
        file.title, file.artist, file.comment = "Tïtle", "Artist", "first\nsecond"
        file.write(np.zeros(800))
    assert run(song, "-f", "flac", "--stems", "bass").exit_code == 0
    tags = read_tags(tmp_path / "stems/song/bass.flac")
    assert (tags["title"], tags["artist"]) == ("Tïtle", "Artist")
    assert tags["comment"].split("\n", 1)[1] == "first\nsecond"


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_bad_song_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "b.wav"
    bad.write_text("no audio")
    done = run(noise(tmp_path / "a.wav", 0.2), bad, tmp_path / "missing.wav", noise(tmp_path / "d.wav", 0.2))
    assert done.exit_code == 1
    assert files(tmp_path / "stems") - BATCH == {f"{track}/{stem}.wav" for track in "ad" for stem in STEMS}
    assert not (tmp_path / "stems/b").exists()
    assert f"Error: {bad} is not audio" in done.stderr
    assert f"Error: {tmp_path}/missing.wav does not exist\n" in done.stderr
    assert done.stderr.endswith("Error: 2 of 4 songs failed, listed in stems/manifest.jsonl\n"
                                "  hint: sepctl report --failed stems/manifest.jsonl\n")


def test_a_bug_shows_its_traceback(run: Run, song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*_: object) -> split.SongResult:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(split, "split_song", buggy)
    assert isinstance(run(song).exception, ZeroDivisionError)


def test_a_song_given_twice_is_split_once(run: Run, song: Path) -> None:
    done = run(song, song)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 4


# --- stdin, stdout, stderr -------------------------------------------------------------------------------------------


def test_stdin_to_a_folder(run: Run, song: Path, tmp_path: Path) -> None:
    assert run("-", stdin=song.read_bytes()).exit_code == 0
    assert files(tmp_path / "stems") == {f"stdin/{stem}.wav" for stem in STEMS}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_fifo_is_read_once_as_a_stream(song: Path, tiny_model: Path, tmp_path: Path) -> None:
    """As in `sepctl split <(ffmpeg ...)`. In a process of its own, for the failure is that it hangs."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(song.read_bytes()), daemon=True)
    writer.start()
    command = [sys.executable, "-m", "separator", "split", str(fifo), "-m", str(tiny_model), "--stems", "bass"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    writer.join(10)
    assert (done.returncode, done.stdout) == (0, "stems/fifo/bass.wav\n"), done.stderr
    assert soundfile.info(tmp_path / "stems/fifo/bass.wav").frames == 24000
    again = subprocess.run([*command, "--skip-existing"], cwd=tmp_path, capture_output=True, text=True, timeout=90,
                           check=False)
    assert again.returncode == 2
    assert "exists, and a stream cannot be compared with it" in again.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
@pytest.mark.parametrize(("arguments", "words"), [
    ("- <&-", "Error: stdin is closed\n"), ("song.wav -o - --stems bass >&-", "Error: stdout is closed\n"),
])
def test_closed_descriptors_are_a_usage_error(
    song: Path, tiny_model: Path, tmp_path: Path, arguments: str, words: str
) -> None:
    command = f'"{sys.executable}" -m separator split -m "{tiny_model}" {arguments}'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(words)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
def test_a_closed_stderr_hinders_nothing(song: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m separator split -m "{tiny_model}" song.wav --stems bass 2>&-'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stems/song/bass.wav\n")


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_stdin_to_stdout(run: Run, song: Path, tmp_path: Path, extension: str) -> None:
    done = run("-", "-o", "-", "--stems", "vocals", "-f", extension, stdin=song.read_bytes())
    assert done.exit_code == 0, done.stderr
    assert b"vocals." not in done.stdout_bytes[-99:]  # no path behind the audio
    assert run(song, "--stems", "vocals").exit_code == 0
    np.testing.assert_array_equal(read(io.BytesIO(done.stdout_bytes)), read(tmp_path / "stems/song/vocals.wav"))


def test_a_stem_on_stdout_has_no_place_on_the_disk(run: Run, song: Path, tmp_path: Path) -> None:
    (tmp_path / "-").write_text("mine")
    done = run(song, "-o", "-", "--stems", "vocals")
    assert (done.exit_code, len(read(io.BytesIO(done.stdout_bytes)))) == (0, 3 * RATE)
    assert files(tmp_path) == {"song.wav", "-"}
    done = run(song, "-o", "-", "--stems", "vocals", "--skip-existing")
    assert (done.exit_code, done.stdout_bytes) == (2, b"")
    assert "--skip-existing cannot tell whether stdout" in done.stderr


def test_stdin_is_not_read_unless_asked_for(run: Run, song: Path) -> None:
    """As in `while read song; do sepctl split "$song"; done < list`."""
    rest = io.BytesIO(b"the next song\n")
    done = run(song, stdin=rest)
    assert done.exit_code == 0, done.output
    assert rest.tell() == 0
    assert run("-", stdin=rest).exit_code == 5  # the check itself is no idle one: here it is read
    assert rest.tell() > 0


def test_quiet_keeps_the_paths(run: Run, song: Path) -> None:
    done = run(song, "-q")
    assert (len(done.stdout.splitlines()), done.stderr) == (4, "")


def test_no_progress_bar_where_stderr_is_no_terminal(run: Run, song: Path) -> None:
    done = run(song)
    assert done.stderr.startswith(f"{song}: 3.0 s of music in ")
    assert "%" not in done.stderr
    assert "\r" not in done.stderr


def test_a_terminal_sees_one_bar_that_goes_away(run: Run, song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from separator.cli import events

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(events, "sys", type("sys", (), {"stderr": screen}))
    assert run(song, "--stems", "bass").exit_code == 0
    assert screen.getvalue().startswith("\rsong.wav:   0%|")
    assert "/3 s [" in screen.getvalue()
    assert screen.getvalue().endswith("\r")  # wiped
    screen.truncate(0)
    assert run(song, "--stems", "bass", "-q", "--overwrite").exit_code == 0
    assert screen.getvalue() == ""


def test_json_lines(run: Run, song: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    noise(tmp_path / "done.wav", 0.2)
    assert run(tmp_path / "done.wav").exit_code == 0
    done = run(song, bad, tmp_path / "done.wav", "--skip-existing", "--json")
    assert done.exit_code == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["song"] for event in events[:3]] == [str(song), str(bad), str(tmp_path / "done.wav")]
    assert [(event["event"], event["duration_s"]) for event in events[:3]] == [
        ("planned", 3.0), ("planned", None), ("planned", 0.2)]
    told = [event for event in events[3:] if event["event"] != "progress"]
    assert [event["event"] for event in told] == ["started", "done", "started", "failed", "skipped", "summary"]
    assert all(event["schema"] == 1 for event in events)
    assert any(event["event"] == "progress" and event["total_s"] == 3.0 for event in events)
    assert told[1]["song"] == str(song)
    assert told[1]["stems"] == {stem: f"stems/song/{stem}.wav" for stem in STEMS}
    assert (told[1]["frames"], told[1]["sample_rate"], told[1]["channels"]) == (24000, RATE, 2)
    assert (told[3]["song"], told[3]["exit_code"], told[3]["again"]) == (str(bad), 5, False)
    assert "is not audio" in told[3]["error"]
    assert {key: told[5][key] for key in ("songs", "done", "skipped", "failed")} == {
        "songs": 3, "done": 1, "skipped": 1, "failed": 1}


def test_clipped_samples_are_counted_and_told(run: Run, tmp_path: Path) -> None:
    song = noise(tmp_path / "loud.wav", 0.5, level=3.0, subtype="FLOAT")
    done = run(song, "--two-stems", "vocals", "--json")
    event = next(json.loads(line) for line in done.stdout.splitlines() if '"done"' in line)
    assert run(song, "--two-stems", "vocals", "--bit-depth", "32f", "-o", "float").exit_code == 0
    exact = {stem: read(tmp_path / f"float/loud/{stem}.wav") for stem in ("vocals", "no_vocals")}
    over = {stem: int((np.abs(samples) > 1).sum()) for stem, samples in exact.items()}
    assert sum(over.values()) > 100
    assert event["clipped"] == over
    assert "--bit-depth 32f" in event["warnings"][0]
    assert "warning: " in run(song, "--two-stems", "vocals", "--overwrite").stderr
    assert "warning: " not in run(song, "--two-stems", "vocals", "--overwrite", "--bit-depth", "32f").stderr


def test_a_rate_that_the_format_cannot_hold_is_told(run: Run, tmp_path: Path) -> None:
    done = run(noise(tmp_path / "song.wav", 0.2, rate=44100), "-f", "opus", "--stems", "bass")
    assert "opus cannot hold 44100 Hz: written at 48000 Hz" in done.stderr


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words"), [
    (["--overwrite", "--skip-existing"], "--overwrite and --skip-existing exclude each other"),
    (["--stems", "vocals", "--two-stems", "bass"], "--stems and --two-stems exclude each other"),
    (["--stems", "vocals,guitar"], "--stems guitar: the model tiny has no such stem\n  hint: its stems are vocals, d"),
    (["--two-stems", "guitar"], "--two-stems guitar: the model tiny has no such stem"),
    (["--stems", "vocals,,bass"], "'--stems': 'vocals,,bass': a name is empty"),
    (["--stems", "bass,bass"], "a name comes twice"), (["--stems", ""], "a name is empty"),
    (["--bitrate", "192k"], "--bitrate: wav has no bit rate"), (["--bitrate", "fast"], "'--bitrate': 'fast' is not"),
    (["-f", "mp3", "--bit-depth", "24"], "--bit-depth: mp3 has no bit depth 24"),
    (["-f", "flac", "--bit-depth", "32f"], "--bit-depth: flac has no bit depth 32f"),
    (["-f", "mp3", "--bitrate", "999k"], "--bitrate: mp3 has no bit rate of 999000"),
    (["--template", "{trak}/{stem}.{ext}"], "--template '{trak}/{stem}.{ext}': unknown placeholder {trak}"),
    (["--template", "../{stem}.{ext}"], "--template '../{stem}.{ext}' leads out of the output folder"),
    (["--template", "{track}.{ext}"], "--template '{track}.{ext}' gives all stems the same file"),
    (["--template", "{track}/{stem}.mp3"], "--template '{track}/{stem}.mp3' must end in .{ext}"),
    (["--start", "-1"], "'--start'"), (["--start", "nan"], "'--start': 'nan' is not a time"),
    (["--start", "1:2:3:4"], "'--start'"), (["--duration", "0"], "--duration must be greater than 0"),
    (["--device", "tpu"], "'--device': 'tpu' is not auto, cpu, cuda or cuda:N"), (["--wiener", "-1"], "'--wiener'"),
    (["--device", "cuda:99"], "--device cuda:99: torch sees"), (["-o", "-"], "--out - writes one stem, but 4 would"),
    (["-o", "-", "--json"], "--out -"),
])
def test_an_option_error_names_the_option_and_nothing_is_done(
    run: Run, song: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    done = run(song, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (tmp_path / "stems").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(run: Run, song: Path) -> None:
    done = run(song, "--device", "cuda")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, "Error: --device cuda: torch sees no CUDA device here")


@pytest.mark.parametrize(("text", "value"), [
    ("0", 0), ("12.5", 12.5), ("1:30", 90), ("1:02:03.5", 3723.5), ("90", 90), ("0:0.25", 0.25),
])
def test_times(text: str, value: float) -> None:
    from separator.cli.types import seconds

    assert seconds(text) == value


@pytest.mark.parametrize(("text", "value"), [("192k", 192000), ("192000", 192000), ("64K", 64000), ("127.5k", 127500)])
def test_bit_rates(text: str, value: int) -> None:
    from separator.cli.types import bit_rate

    assert bit_rate(text) == value


def test_the_network_has_the_calling_thread_and_its_processor_threads(
    run: Run, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever reads and writes has one each: two teams of OpenMP threads would slow the network down."""
    seen: dict[str, set[tuple[bool, int]]] = {"answer": set(), "write": set()}

    def watch(owner: type, name: str, key: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: object, **kwargs: object) -> object:
            seen[key].add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, outer)

    watch(separate.Separator, "_answer", "answer")
    watch(split.StemWriter, "write", "write")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(song).exit_code == 0
        assert seen == {"answer": {(True, 2)}, "write": {(False, 1)}}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
