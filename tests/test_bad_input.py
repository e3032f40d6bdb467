"""Whatever is wrong with the input: a clear message, the right exit code, no half-written file, nothing else lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

from separator.audio import StemWriter
from separator.cli import program
from separator.errors import AudioError, ModelError
from separator.separate import Separator
from tests.audiofiles import endless

pytestmark = pytest.mark.usefixtures("one_core")
STEMS = ["vocals", "drums", "bass", "other"]
BATCH = {"manifest.jsonl", ".manifest.jsonl.lock"}  # beside the stems of more than one song
RATE = 8000
Run = Callable[..., Result]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))

    def invoke(*arguments: object, model: object = tiny_model) -> Result:
        return CliRunner().invoke(program, ["split", "--model", str(model), *map(str, arguments)])

    return invoke


def write(path: Path, samples: object, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, np.asarray(samples, dtype=np.float64), RATE, subtype=subtype)
    return path


def noise(path: Path, frames: int = RATE) -> Path:
    return write(path, np.random.default_rng(0).standard_normal((frames, 2)) * 0.1)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def left(folder: Path) -> set[str]:
    """Every file and folder below `folder`, hidden ones too; empty where it does not exist."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- songs that cannot be split --------------------------------------------------------------------------------------


def missing(folder: Path) -> Path:
    return folder / "missing.wav"


def a_folder(folder: Path) -> Path:
    (folder / "album").mkdir()
    return folder / "album"


def empty(folder: Path) -> Path:
    (folder / "empty.wav").touch()
    return folder / "empty.wav"


def text(folder: Path) -> Path:
    (folder / "text.wav").write_text("These are words, not samples. " * 40)
    return folder / "text.wav"


def no_frames(folder: Path) -> Path:
    return write(folder / "none.wav", np.zeros((0, 2)))


def truncated(folder: Path) -> Path:
    whole = noise(folder / "cut.flac", 20 * RATE)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return whole


def corrupt(folder: Path) -> Path:
    path = noise(folder / "corrupt.flac", 20 * RATE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2: len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    return path


def not_a_number(folder: Path) -> Path:
    samples = np.zeros((RATE, 2))
    samples[1234, 1] = np.nan
    return write(folder / "nan.wav", samples, "FLOAT")


def infinite(folder: Path) -> Path:
    samples = np.zeros((RATE, 2))
    samples[4321] = np.inf
    return write(folder / "inf.wav", samples, "FLOAT")


def unknown_codec(folder: Path) -> Path:
    path = noise(folder / "codec.wav")
    data = bytearray(path.read_bytes())
    data[20:22] = struct.pack("<H", 0x7FFE)  # the format tag of nobody
    path.write_bytes(data)
    return path


def six_channels(folder: Path) -> Path:
    return write(folder / "surround.wav", np.random.default_rng(0).standard_normal((RATE, 6)) * 0.1)


BAD_SONGS = [
    (missing, "does not exist"), (a_folder, "is a folder"), (empty, "is empty"), (text, "is not audio"),
    (no_frames, "0 frames|no audio"), (truncated, "damaged at|ends too early"), (corrupt, "damaged at"),
    (not_a_number, "sample 1234 .*is NaN"), (infinite, "sample 4321 .*is infinite"),
    (unknown_codec, "codec|is not audio|cannot be decoded"), (six_channels, "has 6 channels\n  hint: .*--downmix"),
]


@pytest.mark.parametrize(("make", "words"), BAD_SONGS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_song(run: Run, tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    """Alone it ends in exit code 5, and leaves no trace."""
    bad = make(tmp_path)
    done = run(bad)
    assert (done.exit_code, done.stdout) == (5, "")
    assert re.search(f"^Error: .*{bad.name}.*({words})", done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "stems").exists()


def test_bad_songs_among_good_ones(run: Run, tmp_path: Path) -> None:
    """The others are split; of the bad ones there is no trace but in the manifest, each with its words."""
    bad = [make(tmp_path) for make, _ in BAD_SONGS]
    done = run(noise(tmp_path / "good.wav"), *bad, noise(tmp_path / "last.wav"))
    assert done.exit_code == 1
    assert f"Error: {len(bad)} of {len(bad) + 2} songs failed, listed in stems/manifest.jsonl\n" in done.stderr
    assert "Traceback" not in done.stderr
    tracks = {"good", "last"}
    assert left(tmp_path / "stems") == BATCH | tracks | {f"{track}/{stem}.wav" for track in tracks for stem in STEMS}
    records = [json.loads(line) for line in (tmp_path / "stems/manifest.jsonl").read_text().splitlines()]
    assert [record["input"] for record in records] == [
        os.path.abspath(path) for path in (tmp_path / "good.wav", *bad, tmp_path / "last.wav")]
    assert [record["status"] for record in records] == ["done", *["failed"] * len(bad), "done"]
    for record, (_, words) in zip(records[1:-1], BAD_SONGS, strict=True):
        error = record["error"]
        assert re.search(words, f"{error['fact']}\n  hint: {error['hint']}"), error
        assert (error["class"], error["exit_code"]) == ("AudioError", 5)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind root")
def test_an_unreadable_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    song = noise(tmp_path / "locked/song.wav")
    song.parent.chmod(0)
    try:
        done = run(song)
    finally:
        song.parent.chmod(0o755)
    assert done.exit_code == 5
    assert "cannot be read" in done.stderr


def test_a_song_that_may_not_be_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the test before, also for root."""
    song = noise(tmp_path / "song.wav")
    real = Path.open

    def guarded(path: Path, *rest: object, **more: object) -> object:
        if path == song:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(Path, "open", guarded)
    done = run(song)
    assert (done.exit_code, done.stderr) == (5, f"Error: {song} cannot be read: Permission denied\n")


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_silence_and_near_silence_stay_so(run: Run, tmp_path: Path, level: float) -> None:
    samples = np.full((RATE, 2), level)
    song = write(tmp_path / "quiet.wav", samples, "FLOAT")
    assert run(song, "--bit-depth", "32f").exit_code == 0
    for stem in STEMS:
        heard = soundfile.read(tmp_path / f"stems/quiet/{stem}.wav")[0]
        assert np.abs(heard).max() <= 100 * level


def test_a_song_far_beyond_full_scale_is_named_and_the_model_not_blamed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.random.default_rng(0).uniform(-3e30, 3e30, (RATE, 2))
    song = write(tmp_path / "song.wav", samples, subtype="FLOAT")
    done = run(song, model="mini")
    assert done.exit_code == 5
    assert f"Error: {song}: its peak is 3.0e+30 times full scale" in done.stderr
    assert not (tmp_path / "stems").exists()

    def diverged(*_: object) -> Iterator[torch.Tensor]:
        raise ModelError("tiny answered with values that are not finite")
        yield

    monkeypatch.setattr(Separator, "stream", diverged)
    done = run(noise(song))
    assert (done.exit_code, f"Error: {song}: tiny answered" in done.stderr) == (4, True)


@pytest.mark.parametrize("options", [[], ["--jobs", "1"]])
def test_control_characters_of_names_never_reach_the_terminal(run: Run, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "a\x1b[2Jb.wav").write_bytes(b"no audio" * 99)
    done = run("a\x1b[2Jb.wav", *options)
    assert done.exit_code == (1 if options else 5)
    assert "\x1b" not in done.stderr
    assert "Error: a\N{REPLACEMENT CHARACTER}[2Jb.wav" in done.stderr


def test_one_sample(run: Run, tmp_path: Path) -> None:
    assert run(write(tmp_path / "one.wav", [[0.5, -0.5]]), "--bit-depth", "32f").exit_code == 0
    heard = [soundfile.read(tmp_path / f"stems/one/{stem}.wav")[0] for stem in STEMS]
    np.testing.assert_allclose(sum(heard), [[0.5, -0.5]], atol=1e-6)


def test_downmix_takes_what_the_hint_offers(run: Run, tmp_path: Path) -> None:
    assert run(six_channels(tmp_path), "--downmix").exit_code == 0
    assert soundfile.info(tmp_path / "stems/surround/vocals.wav").channels == 2


def test_a_start_behind_the_end(run: Run, tmp_path: Path) -> None:
    done = run(noise(tmp_path / "song.wav"), "--start", "5")
    assert done.exit_code == 5
    assert "song.wav" in done.stderr
    assert "--start" in done.stderr
    assert not (tmp_path / "stems").exists()


# --- outputs that cannot be written ----------------------------------------------------------------------------------


def test_two_songs_with_the_same_name(run: Run, tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
    songs = [noise(tmp_path / "a/song.wav"), noise(tmp_path / "b/song.flac")]
    done = run(*songs)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Error: {songs[0]} and {songs[1]} would both write stems/song/vocals.wav\n" in done.stderr
    assert not (tmp_path / "stems").exists()
    template = "{folder}/{track}/{stem}.{ext}"  # the remedy in the hint
    assert template in done.stderr
    assert run(*songs, "--template", template).exit_code == 0
    assert (tmp_path / "stems/a/song/vocals.wav").exists()
    assert (tmp_path / "stems/b/song/vocals.wav").exists()


@pytest.mark.parametrize(("files", "hint"), [
    (("ex.wav", "ex.flac"), '--template "{track}.{source_ext}/{stem}.{ext}"'),
    (("a/ex.wav", "a/ex.flac", "b/ex.wav"), '--template "{folder}/{track}.{source_ext}/{stem}.{ext}"'),
    (("ex.wav", "ex.stem.wav"), "split them separately, each with another --out"),
])
def test_the_hint_for_a_collision_is_one_that_helps(
    run: Run, tmp_path: Path, files: tuple[str, ...], hint: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        noise(tmp_path / file)
    done = run(*files)
    assert done.exit_code == 2
    assert done.stderr.endswith(f"{hint}\n")
    if "--template" in hint:
        assert len(run(*files, *hint.replace('"', "").split()).stdout.splitlines()) == len(files) * len(STEMS)


@pytest.mark.parametrize(("options", "code"), [
    (["--out", "o" * 300], 2), (["--out", "new/" + "o" * 300], 2),
    (["--template", "{track}" * 80 + "/{stem}.{ext}"], 2), (["--template", "{stem}" * 60 + ".{ext}"], 2),
    (["--out", "new/" + "/".join(["o" * 200] * 30)], 5),
])
def test_names_that_are_too_long(run: Run, tmp_path: Path, options: list[str], code: int) -> None:
    song = noise(tmp_path / "song.wav")
    done = run(song, *options)
    assert done.exit_code == code, done.output
    assert "hint: use a shorter --template or --out\n" in done.stderr
    assert left(tmp_path) == {"song.wav"}


def test_a_stem_never_replaces_a_song(run: Run, tmp_path: Path) -> None:
    song = noise(tmp_path / "vocals.wav")
    before = song.read_bytes()
    done = run(song, "-o", ".", "--template", "{stem}.{ext}", "--overwrite")
    assert done.exit_code == 2
    assert "vocals.wav is itself one of the songs" in done.stderr
    assert song.read_bytes() == before


def test_a_file_where_a_folder_should_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "stems").write_text("mine")
    done = run(noise(tmp_path / "song.wav"))
    assert done.exit_code == 5
    assert "stems/song/: a file is in the way" in done.stderr
    assert (tmp_path / "stems").read_text() == "mine"


def test_a_folder_where_a_stem_should_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "stems/song/bass.wav").mkdir(parents=True)
    done = run(noise(tmp_path / "song.wav"), "--overwrite")
    assert done.exit_code == 2
    assert "stems/song/bass.wav is a folder" in done.stderr
    assert left(tmp_path / "stems") == {"song", "song/bass.wav"}


def test_a_rename_that_fails_takes_the_others_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, called = StemWriter.commit, []

    def commit(writer: StemWriter, **options: bool) -> None:
        called.append(writer)
        if len(called) == 3:
            raise AudioError("no")
        real(writer, **options)

    monkeypatch.setattr(StemWriter, "commit", commit)
    assert run(noise(tmp_path / "song.wav")).exit_code == 5
    assert len(called) == 3
    assert not (tmp_path / "stems").exists()


@pytest.mark.parametrize("links", [True, False])
def test_an_overwrite_that_fails_at_the_renames_leaves_the_old_stems(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    song = noise(tmp_path / "song.wav")
    assert run(song).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "stems/song").iterdir()}
    noise(song, frames=RATE // 2)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    real, called = StemWriter.commit, []

    def commit(writer: StemWriter, **options: bool) -> None:
        called.append(writer)
        if len(called) == 3:
            raise AudioError("no")
        real(writer, **options)

    with monkeypatch.context() as patch:
        patch.setattr(StemWriter, "commit", commit)
        assert run(song, "--overwrite").exit_code == 5
    assert {path.name: path.read_bytes() for path in (tmp_path / "stems/song").iterdir()} == before
    assert run(song, "--overwrite").exit_code == 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "stems/song").iterdir()}
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in before)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own, where the system lets us."""
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_seen_before_the_work(run: Run, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        done = run(noise(tmp_path / "song.wav", 30 * RATE), "-o", disk / "stems")
        assert (done.exit_code, done.stdout) == (6, "")
        assert f"song.wav need 4 MB, but {disk}/stems has 1 MB\n  hint: " in done.stderr
        assert left(disk) == set()


def test_a_disk_that_fills_up(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the length is not known before."""
    monkeypatch.setattr("separator.split._check_space", lambda *_: None)
    with mounted(tmp_path / "disk", "size=1m") as disk:
        done = run(noise(tmp_path / "song.wav", 30 * RATE), "-o", disk / "stems")
        assert done.exit_code == 6
        assert "disk is full" in done.stderr
        assert left(disk) == set()


def test_a_read_only_disk(run: Run, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro,size=1m") as disk:
        done = run(noise(tmp_path / "song.wav"), "-o", disk / "stems")
        assert (done.exit_code, done.stdout) == (5, "")
        assert f"{disk}/stems" in done.stderr
        assert "Traceback" not in done.stderr


# --- models ----------------------------------------------------------------------------------------------------------


def test_an_unknown_model_and_its_nearest_names(run: Run, tmp_path: Path) -> None:
    done = run(noise(tmp_path / "song.wav"), model="umxhg")
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr.startswith("Error: no model is called 'umxhg'\n  hint: did you mean umxhq")
    assert not (tmp_path / "stems").exists()


def test_a_model_that_is_not_here_never_gives_out_a_copy_of_the_mix(run: Run, tmp_path: Path) -> None:
    done = run(noise(tmp_path / "song.wav"), model="umxhq")
    assert done.exit_code == 4
    assert "sepctl models pull umxhq" in done.stderr
    assert not (tmp_path / "stems").exists()


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "other"])
def test_a_model_file_that_is_none(run: Run, tmp_path: Path, tiny_model: Path, damage: str) -> None:
    path = tmp_path / "bad.safetensors"
    if damage == "text":
        path.write_text("weights")
    elif damage == "cut":
        path.write_bytes(tiny_model.read_bytes()[:-100])
    elif damage == "other":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(3)}, path)
    done = run(noise(tmp_path / "song.wav"), model=path)
    assert (done.exit_code, done.stdout) == (4, "")
    assert "bad.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "stems").exists()


def test_a_model_of_another_architecture(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    """The card says one thing, the weights another."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(tiny_model, "pt") as file:
        metadata = file.metadata()
    metadata["card"] = metadata["card"].replace('"hidden":8', '"hidden":16').replace('"hidden": 8', '"hidden": 16')
    assert "16" in metadata["card"]
    other = tmp_path / "other.safetensors"
    save_file(load_file(tiny_model), other, metadata)
    done = run(noise(tmp_path / "song.wav"), model=other)
    assert (done.exit_code, done.stdout) == (4, "")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "stems").exists()


# --- interrupts ------------------------------------------------------------------------------------------------------


def heed_signals() -> None:
    """A job in the background starts with SIGINT ignored, and so would all that it starts."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def in_the_middle(tmp_path: Path, model: Path) -> Iterator[subprocess.Popen[str]]:
    """A `sepctl split` of two songs that has finished the first and is in the second."""
    songs = [noise(tmp_path / "first.wav"), endless(tmp_path / "second.wav", RATE)]
    command = [sys.executable, "-m", "separator", "split", *map(str, songs), "-m", str(model), "--duration", "10000"]
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=heed_signals)
    try:
        deadline = time.monotonic() + 120
        while sum(part.stat().st_size > 1000 for part in tmp_path.glob("stems/second/.*.part")) < len(STEMS):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
def test_an_interrupt_in_the_middle(tmp_path: Path, tiny_model: Path, numbers: tuple[signal.Signals, ...]) -> None:
    with in_the_middle(tmp_path, tiny_model) as process:
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.5)             # two of a kind at once are one to the system
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-2:] == ["stopping ...", "Error: interrupted"]
    assert stdout.splitlines() == [f"stems/first/{stem}.wav" for stem in STEMS]
    assert left(tmp_path / "stems") == BATCH | {"first", *(f"first/{stem}.wav" for stem in STEMS)}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes")
@pytest.mark.parametrize("from_fifo", [False, True])
def test_an_interrupt_while_the_song_stalls(tmp_path: Path, tiny_model: Path, from_fifo: bool) -> None:
    """What comes through a pipe stays away, but the pipe stays open."""
    fifo, whole = tmp_path / "fifo", endless(tmp_path / "song.wav", RATE)
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDWR)
    os.set_blocking(end, False)
    with whole.open("rb") as song, open(end, "wb", buffering=0) as feed, open(fifo, "rb", buffering=0) as stdin:
        command = [sys.executable, "-m", "separator", "split", str(fifo) if from_fifo else "-", "-m", str(tiny_model)]
        process = subprocess.Popen(command, cwd=tmp_path, text=True, stdin=None if from_fifo else stdin,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_signals)
        try:
            rest, deadline = memoryview(song.read(2_000_000)), time.monotonic() + 120
            while rest or sum(part.stat().st_size > 1000 for part in tmp_path.glob("stems/*/.*.part")) < len(STEMS):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                rest = rest[feed.write(rest) or 0:]
                time.sleep(0.001)
            time.sleep(1)               # for the rest to be split: now all wait for the song
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-2:] == ["stopping ...", "Error: interrupted"]
    assert not (tmp_path / "stems").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes")
@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_an_interrupt_while_the_reader_stalls(tmp_path: Path, tiny_model: Path, extension: str) -> None:
    """Nobody takes what goes out through a pipe, a wav at once and a flac at the end, but the pipe stays open."""
    song = noise(tmp_path / "song.wav", 60 * RATE)
    command = [sys.executable, "-m", "separator", "split", str(song), "-m", str(tiny_model), "-o", "-", "-f", extension,
               "--stems", "vocals"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=heed_signals)
    try:
        assert process.stdout is not None
        assert process.stdout.read(1000)[:4] in (b"RIFF", b"fLaC")     # and then no more
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        _, stderr = process.communicate()
    assert stderr.decode().splitlines()[-2:] == ["stopping ...", "Error: interrupted"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_kill_in_the_middle_is_swept_up_by_the_next_run(tmp_path: Path, tiny_model: Path, run: Run) -> None:
    with in_the_middle(tmp_path, tiny_model) as process:
        process.kill()
        process.communicate(timeout=60)
    parts = list(tmp_path.glob("stems/second/.*.part"))
    assert len(parts) == len(STEMS)
    worker, deadline = int(parts[0].name.split("-")[-1].removesuffix(".part")), time.monotonic() + 30
    while alive(worker):                                    # it ends when it notices; its files are its own till then
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not list(tmp_path.glob("stems/second/*.wav"))
    assert run(tmp_path / "first.wav", tmp_path / "second.wav", "--duration", "1").exit_code == 2  # the first is done
    assert run(tmp_path / "second.wav", "--duration", "1").exit_code == 0
    assert left(tmp_path / "stems/second") == {f"{stem}.wav" for stem in STEMS}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_real_pipes_and_a_reader_that_leaves(tmp_path: Path, tiny_model: Path) -> None:
    """Through real pipes, which cannot seek; and `| head -c 1000` ends the run without noise."""
    song = endless(tmp_path / "song.wav", RATE)
    command = (f'cat "{song}" | "{sys.executable}" -m separator split - -o - --stems vocals -q -m "{tiny_model}"'
               f' 2> "{tmp_path}/stderr" | head -c 1000')
    done = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[1]}}"], capture_output=True, check=False)
    assert done.stdout[:4] in (b"RIFF", b"RF64")
    assert len(done.stdout) == 1000
    assert (tmp_path / "stderr").read_text() == ""
    assert done.returncode == 1
