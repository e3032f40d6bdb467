"""Writing: the stem that was given, to the bit where the format can, in a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import audiofiles as af
import numpy as np
import pytest
import soundfile
import torch
from audiofiles import needs_ffmpeg, read

from separator.audio import AudioReader, Cover, StemFormat, StemWriter, probe, read_tags
from separator.errors import AudioError, ResourceError, UsageError

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")
RATE = 44100
COMMENT = "sepctl 1.0 model=mini sha256=0123456789abcdef " + "options: --wiener 1, naïve – äöü 東京;" * 14

# JPEG and PNG of one pixel.
JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d1a1f1e1d1a"
    "1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b080001000101011100ffc4001f00000105010101"
    "01010100000000000000000102030405060708090a0bffc400b5100002010303020403050504040000017d01020300041105122131410613516107"
    "227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a"
    "636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7"
    "c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffda0008010100003f00fbfeffd9")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8ffff3f0005fe02fea735811b"
    "0000000049454e44ae426082")


def write(path: object, audio: torch.Tensor, extension: str = "wav", depth: str | None = None, rate: int = RATE,
          **options: object) -> StemWriter:
    """Write `[C, n]` in blocks of different lengths."""
    fmt = StemFormat(extension, depth)  # type: ignore[arg-type]
    with StemWriter(path, fmt, rate, audio.shape[0], **options) as writer:  # type: ignore[arg-type]
        for block in audio.split([min(7, audio.shape[1]), max(0, audio.shape[1] - 7)], dim=1):
            writer.write(block)
    return writer


def parts(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".part")]


# --- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"extension": "aac"}, {"extension": ""}, {"extension": "mp3", "bit_depth": "16"},
    {"extension": "flac", "bit_depth": "32f"}, {"extension": "wav", "bit_depth": "8"},
    {"extension": "wav", "bitrate": 128_000}, {"extension": "mp3", "bitrate": 0},
    {"extension": "mp3", "bitrate": 500_000}, {"extension": "opus", "bitrate": 1000},
])
def test_a_format_that_means_nothing_is_a_usage_error(options):
    with pytest.raises(UsageError):
        StemFormat(**options)


def test_defaults_of_formats():
    assert StemFormat().depth == StemFormat("flac").depth == "16"
    assert StemFormat("mp3").depth is None
    assert StemFormat("mp3").bits_per_second(1) * 2 == StemFormat("mp3").bits_per_second(2) == 256_000
    assert StemFormat("mp3", bitrate=96_000).bits_per_second(1) == 96_000


@pytest.mark.parametrize("channels", [0, 3, 6])
def test_a_stem_has_one_or_two_channels(tmp_path, channels):
    with pytest.raises(UsageError):
        StemWriter(tmp_path / "a.wav", StemFormat(), RATE, channels)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("extension", ["mp3", "opus", "m4a", "ogg"])
def test_the_bit_rate_asked_for_is_the_size_of_the_file(tmp_path, extension):
    audio = 0.1 * torch.randn(2, 5 * 48000)         # noise: encoders have no reason to save
    for bitrate in (64_000, 128_000):
        path = tmp_path / f"{bitrate}.{extension}"
        with StemWriter(path, StemFormat(extension, bitrate=bitrate), 48000, 2) as writer:
            writer.write(audio)
        assert path.stat().st_size * 8 / 5 == pytest.approx(bitrate, rel=0.35 if extension == "ogg" else 0.12)


# --- samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["wav", "flac"])
@pytest.mark.parametrize(("depth", "bits"), [("16", 16), ("24", 24)])
@pytest.mark.parametrize("channels", [1, 2])
def test_integers_come_back_bit_for_bit(tmp_path, extension, depth, bits, channels):
    full = 2 ** (bits - 1)
    stored = np.random.default_rng(0).integers(-full, full, (channels, 30011))
    stored[:, :3] = -full, full - 1, 0
    audio = torch.from_numpy((stored / full).astype(np.float32))
    path = tmp_path / f"a.{extension}"
    writer = write(path, audio, extension, depth)
    assert torch.equal(read(path), audio)
    assert probe(path).bit_depth == bits
    assert (writer.frames, writer.clipped, writer.peak, writer.written_rate) == (30011, 0, 1.0, RATE)
    theirs, rate = soundfile.read(path, dtype="int32", always_2d=True)      # libsndfile: another road
    assert rate == RATE
    assert np.array_equal(theirs.T >> (32 - bits), stored)


def test_floats_come_back_bit_for_bit(tmp_path):
    audio = torch.randn(2, 10007) * 3
    writer = write(tmp_path / "a.wav", audio, "wav", "32f")
    assert torch.equal(read(tmp_path / "a.wav"), audio)
    assert writer.clipped == 0
    assert writer.peak == pytest.approx(audio.abs().max().item())


@pytest.mark.parametrize(("depth", "full"), [("16", 2**15), ("24", 2**23)])
def test_rounding_is_to_the_nearest_and_halves_go_to_even(tmp_path, depth, full):
    steps = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, 0.51, -3.7, 100.25]], dtype=torch.float64)
    write(tmp_path / "a.wav", (steps / full).float(), "wav", depth)
    assert (read(tmp_path / "a.wav") * full).tolist() == [[0, 2, 2, 0, -2, -2, 0, 1, -4, 100]]


@pytest.mark.parametrize(("depth", "full"), [("16", 2**15), ("24", 2**23)])
def test_what_exceeds_full_scale_is_clipped_and_counted(tmp_path, depth, full):
    audio = torch.tensor([[1.0, -1.0, 1.5, -7.0, 0.5, 1e9], [0, 0, 0, 0, -2.0, 0]])
    writer = write(tmp_path / "a.wav", audio, "wav", depth)
    top = (full - 1) / full
    assert read(tmp_path / "a.wav").tolist() == [[top, -1, top, -1, 0.5, top], [0, 0, 0, 0, -1, 0]]
    assert (writer.clipped, writer.peak) == (4, 1e9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stem_that_is_not_finite_is_a_bug(tmp_path, value):
    with pytest.raises(ValueError, match="not finite"):
        write(tmp_path / "a.wav", torch.tensor([[0.0, value]]))
    assert not os.listdir(tmp_path)


def test_a_block_of_another_shape_is_a_bug(tmp_path):
    for audio in (torch.zeros(2, 10), torch.zeros(10)):
        with pytest.raises(ValueError, match="shape"), StemWriter(tmp_path / "a.wav", StemFormat(), RATE, 1) as writer:
            writer.write(audio)


@pytest.mark.parametrize("extension", FORMATS)
def test_same_samples_same_bytes_whatever_the_blocks(tmp_path, extension):
    audio = af.music(2, 30011, RATE)
    files = []
    for number, block in enumerate((30011, 4096, 1000, 30011)):
        path = tmp_path / f"{number}.{extension}"
        with StemWriter(path, StemFormat(extension), RATE, 2, tags={"comment": COMMENT, "title": "T"},
                        cover=Cover(JPEG, "image/jpeg")) as writer:
            for each in audio.split(block, dim=1):
                writer.write(each)
        files.append(path.read_bytes())
    assert files[0] == files[3] == files[1] == files[2]


def test_blocks_of_any_kind_of_memory_are_taken(tmp_path):
    audio = torch.randn(5003, 2, dtype=torch.float64).clamp(-1, 1)
    write(tmp_path / "a.wav", audio.T, "wav", "32f")
    assert torch.equal(read(tmp_path / "a.wav"), audio.T.float())


# --- tags and cover ----------------------------------------------------------------------------------------------

COMMON = {"title": "Lied №1", "artist": "Ä & B", "album": "C", "date": "2024", "genre": "Rock", "track": "3"}


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("target", ["file", "stream"])
def test_the_comment_and_common_tags_come_back(tmp_path, extension, target):
    tags = {**COMMON, "comment": COMMENT}
    path = tmp_path / f"a.{extension}"
    if target == "file":
        write(path, af.music(2, 5000, RATE), extension, tags=tags)
    else:
        with path.open("wb") as file:
            write(file, af.music(2, 5000, RATE), extension, tags=tags)
    assert read_tags(path) == tags
    assert len(COMMENT) > 500


@needs_ffmpeg
@pytest.mark.parametrize("extension", FORMATS)
def test_the_ffprobe_program_sees_the_comment(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    write(path, af.music(1, 5000, RATE), extension, tags={"comment": COMMENT})
    shown = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "format_tags:stream_tags", path],
                           capture_output=True, text=True, check=True).stdout
    assert COMMENT in shown


@pytest.mark.parametrize("extension", FORMATS)
def test_rare_tags_are_kept_where_the_container_has_a_place(tmp_path, extension):
    tags = {"composer": "C", "album_artist": "AA", "lyrics": "la\nla", "isrc": "DE1", "custom": "x", "copyright": "me"}
    path = tmp_path / f"a.{extension}"
    write(path, af.music(1, 5000, RATE), extension, tags=tags)
    lost = {"wav": {"composer", "album_artist", "lyrics", "isrc", "custom"}, "m4a": {"isrc", "custom"}}
    assert set(tags) - set(read_tags(path)) == lost.get(extension, set())


@pytest.mark.parametrize("extension", FORMATS)
def test_odd_tags_do_no_harm(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    tags = {"": "x", "empty": "", "a=b": "y", "nul": "a\0b", "TITLE": "T", "comment": "c"}
    write(path, af.music(1, 5000, RATE), extension, tags=tags)
    assert {"title": "T", "comment": "c"}.items() <= read_tags(path).items()
    assert read(path).shape[0] == 1


@pytest.mark.parametrize("extension", ["mp3", "flac", "m4a", "ogg", "opus"])
@pytest.mark.parametrize("cover", [Cover(JPEG, "image/jpeg"), Cover(PNG, "image/png"),
                                   Cover(JPEG[:-2] + bytes(200_000) + JPEG[-2:], "image/jpeg")],
                         ids=["jpeg", "png", "large"])
def test_the_cover_comes_back(tmp_path, extension, cover):
    path = tmp_path / f"a.{extension}"
    audio = af.music(2, 48000, 48000)
    write(path, audio, extension, rate=48000, cover=cover, tags={"comment": COMMENT})
    with AudioReader(path) as reader:
        assert reader.cover == cover
        assert reader.tags == {"comment": COMMENT}
        frames = sum(block.shape[1] for block in reader)
    assert frames == 48000 or (extension == "m4a" and frames == 48128)


@pytest.mark.parametrize("extension", FORMATS)
def test_a_cover_that_is_no_picture_does_not_cost_the_stem(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    write(path, af.music(2, 9000, RATE), extension, cover=Cover(b"not a picture", "image/png"))
    assert read(path).abs().max() > 0.1


def test_tags_of_the_song_go_to_the_stem(tmp_path):
    song, stem = tmp_path / "song.mp3", tmp_path / "stem.flac"
    write(song, af.music(2, 9000, RATE), "mp3", tags={**COMMON, "comment": "old"}, cover=Cover(PNG, "image/png"))
    with AudioReader(song) as reader, StemWriter(stem, StemFormat("flac"), reader.sample_rate, 2, cover=reader.cover,
                                                 tags={**reader.tags, "comment": "new"}) as writer:
        for block in reader:
            writer.write(block)
    assert read_tags(stem) == {**COMMON, "comment": "new"}
    with AudioReader(stem) as reader:
        assert reader.cover == Cover(PNG, "image/png")


# --- whole or not at all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", FORMATS)
def test_a_file_appears_when_it_is_whole(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_text("old")
    writer = StemWriter(path, StemFormat(extension), RATE, 2)
    writer.write(af.music(2, 30000, RATE))
    assert path.read_text() == "old"
    writer.finish()
    assert path.read_text() == "old"
    assert parts(tmp_path) == [f".a.{extension}.{socket.gethostname()}-{os.getpid()}.part"]
    writer.commit()
    writer.abort()                                  # too late to lose anything
    assert os.listdir(tmp_path) == [path.name]
    assert read(path).abs().max() > 0.1


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("when", ["opened", "written", "finished"])
def test_abort_leaves_nothing_behind(tmp_path, extension, when):
    path = tmp_path / f"a.{extension}"
    path.write_text("old")
    writer = StemWriter(path, StemFormat(extension), RATE, 2)
    if when != "opened":
        writer.write(af.music(2, 30000, RATE))
    if when == "finished":
        writer.finish()
    writer.abort()
    writer.abort()
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == "old"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def note_replace(old: Path, new: Path) -> None:
        events.append(f"{old} -> {new}")
        replace(old, new)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    path = tmp_path / "a.wav"
    write(path, torch.zeros(1, 10))
    part = tmp_path / f".a.wav.{socket.gethostname()}-{os.getpid()}.part"
    assert events == [str(part), f"{part} -> {path}", str(tmp_path)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_behind(tmp_path, error):
    def fail() -> None:
        with StemWriter(tmp_path / "a.flac", StemFormat("flac"), RATE, 2) as writer:
            writer.write(af.music(2, 30000, RATE))
            raise error

    with pytest.raises(error):
        fail()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("extension", FORMATS)
def test_a_stem_without_samples_is_written_without_error(tmp_path, extension):
    with StemWriter(tmp_path / f"a.{extension}", StemFormat(extension), RATE, 2) as writer:
        pass
    assert writer.frames == 0
    assert os.listdir(tmp_path) == [f"a.{extension}"]


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_swept(tmp_path):
    host, alive = socket.gethostname(), os.getppid()
    stays = [f".a.wav.{host}-{alive}.part", f".a.wav.elsewhere-{dead_pid()}.part", ".a.wav.part", f"a.{host}-1.wav"]
    goes = [f".a.wav.{host}-{dead_pid()}.part", f".new\nline.mp3.{host}-{dead_pid()}.part",
            f".b.wav.{host}-{os.getpid()}.part"]    # our number, not our file: of a process before us
    for name in stays + goes:
        (tmp_path / name).touch()
    write(tmp_path / "c.wav", torch.zeros(1, 10))
    assert sorted(os.listdir(tmp_path)) == sorted([*stays, "c.wav"])


def test_what_another_container_is_writing_is_not_swept(tmp_path):
    """It has our host name, and its processes have numbers that are no process's here."""
    fcntl = pytest.importorskip("fcntl")
    part = tmp_path / f".a.wav.{socket.gethostname()}-{dead_pid()}.part"
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(tmp_path / "b.wav", torch.zeros(1, 10))
        assert part.exists()
    write(tmp_path / "c.wav", torch.zeros(1, 10))
    assert not part.exists()


def test_a_file_is_locked_until_it_has_its_name(tmp_path):
    fcntl = pytest.importorskip("fcntl")

    def is_locked() -> bool:
        part, = parts(tmp_path)
        with (tmp_path / part).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with StemWriter(tmp_path / "a.wav", StemFormat(), RATE, 1) as writer:
        writer.write(torch.zeros(1, 10))
        assert is_locked()
        writer.finish()
        assert is_locked()
    assert os.listdir(tmp_path) == ["a.wav"]


def test_two_writers_do_not_sweep_each_other_nor_share_a_file(tmp_path):
    def writer(name: str) -> StemWriter:
        return StemWriter(tmp_path / name, StemFormat(), RATE, 1)

    with writer("a.wav") as one, writer("b.wav") as two:
        with pytest.raises(AudioError, match="being written already"):
            writer("a.wav")
        one.write(torch.zeros(1, 10))
        two.write(torch.zeros(1, 10))
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav"]


def test_a_killed_process_leaves_no_file_of_that_name(tmp_path):
    code = f"""
import torch
from pathlib import Path
from separator.audio import StemFormat, StemWriter
writer = StemWriter(Path({str(tmp_path / "a.wav")!r}), StemFormat(), 44100, 2)
writer.write(torch.zeros(2, 100_000))
print("ready", flush=True)
import time; time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(parts(tmp_path)) == len(os.listdir(tmp_path)) == 1
    write(tmp_path / "b.wav", torch.zeros(1, 10))
    assert os.listdir(tmp_path) == ["b.wav"]


@pytest.mark.parametrize("name", ["a.b.c.wav", " lead and trail ", "東京 — Ä.wav", "-x.wav", "http:a.wav", "%d.wav",
                                  "new\nline.wav", "a" * 251 + ".wav", "東" * 83 + "ab.wav", "noextension"])
def test_any_name_is_a_name(tmp_path, name):
    audio = torch.zeros(1, 100)
    with StemWriter(tmp_path / name, StemFormat(), RATE, 1) as one:
        one.write(audio)
        with StemWriter(tmp_path / (name[:-1] + "~"), StemFormat(), RATE, 1) as two:    # differs at the very end
            two.write(audio)
    assert sorted(os.listdir(tmp_path)) == sorted([name, name[:-1] + "~"])
    assert torch.equal(read(tmp_path / name), audio)


def test_a_relative_path_survives_a_change_of_folder(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    with StemWriter(Path("a.wav"), StemFormat(), RATE, 1) as writer:
        monkeypatch.chdir(tmp_path / "x")
        writer.write(torch.zeros(1, 10))
    assert (tmp_path / "a.wav").exists()


# --- where it cannot be written ----------------------------------------------------------------------------------


def test_a_missing_folder_a_folder_of_that_name_a_name_too_long(tmp_path):
    (tmp_path / "a.wav").mkdir()
    for path, message in ((tmp_path / "none" / "a.wav", "does not exist"), (tmp_path / "a.wav", "is a folder"),
                          (tmp_path / ("a" * 300), "shorter name")):
        with pytest.raises(AudioError, match=message):
            write(path, torch.zeros(1, 10))
    assert os.listdir(tmp_path) == ["a.wav"]


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder(tmp_path):
    message = r"cannot be written[\s\S]*--out"
    with mounted(tmp_path / "ro", "ro,size=1m") as folder, pytest.raises(AudioError, match=message):
        write(folder / "a.wav", torch.zeros(1, 10))


def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(AudioError, match=r"cannot be written[\s\S]*--out"):
        write(folder / "a.wav", torch.zeros(1, 10))


@pytest.mark.parametrize("extension", FORMATS)
def test_a_full_disk_is_noticed_and_nothing_stays(tmp_path, extension):
    audio = 0.1 * torch.randn(2, 20 * RATE)
    with mounted(tmp_path / "full", "size=64k") as folder:
        with pytest.raises(ResourceError, match=r"the disk is full[\s\S]*full/[\s\S]*--out"):
            write(folder / f"a.{extension}", audio, extension)
        assert not os.listdir(folder)


@pytest.mark.parametrize("extension", FORMATS)
def test_a_full_disk_is_noticed_even_by_the_last_bytes(tmp_path, extension):
    audio = 0.1 * torch.randn(2, RATE)
    write(tmp_path / f"a.{extension}", audio, extension)
    size = (tmp_path / f"a.{extension}").stat().st_size
    size += size if extension == "ogg" else 0       # the bare Vorbis file
    with mounted(tmp_path / "full", f"size={size // 4096 * 4096}") as folder:   # the last page does not fit
        with pytest.raises(ResourceError, match="the disk is full"):
            write(folder / f"a.{extension}", audio, extension)
        assert not os.listdir(folder)


def test_a_file_that_grows_too_large(tmp_path):
    code = f"""
import resource, torch
from pathlib import Path
from separator.audio import StemFormat, StemWriter
from separator.errors import ResourceError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with StemWriter(Path({str(tmp_path / "a.wav")!r}), StemFormat(), 44100, 2) as writer:
        for _ in range(10):
            writer.write(torch.zeros(2, 10_000))
except ResourceError as error:
    print(error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("6\n", "")
    assert not os.listdir(tmp_path)


class Full(io.BytesIO):
    """A stream that takes so many bytes and no more."""

    def __init__(self, room: int, error: BaseException) -> None:
        super().__init__()
        self.room, self.failure = room, error

    def write(self, data: object) -> int:
        if self.tell() + len(data) > self.room:  # type: ignore[arg-type]
            raise self.failure
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("room", [0, 2000])
@pytest.mark.parametrize("frames", [100, 100_000])
def test_a_stream_that_is_full(extension, room, frames):
    audio = 0.1 * torch.randn(2, frames)
    if frames == 100 and room:
        pytest.skip("fits")
    with pytest.raises(ResourceError, match="the disk is full"):
        write(Full(room, OSError(errno.ENOSPC, "No space left on device")), audio, extension)


@pytest.mark.parametrize("extension", FORMATS)
def test_dev_full(extension):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(ResourceError, match="the disk is full"):
        write(stream, af.music(2, 100, RATE), extension)


def test_a_reader_that_has_gone():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as stream, pytest.raises(AudioError, match="whoever read it has gone"):
        write(stream, af.music(2, 100_000, RATE))


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_writing_is_not_lost(extension, error):
    with pytest.raises(error):
        write(Full(0, error()), 0.1 * torch.randn(2, 400_000), extension)


# --- mp3 ---------------------------------------------------------------------------------------------------------


def crc16_arc(data: bytes) -> int:
    """By long division of the mirrored bits: x^16 + x^15 + x^2 + 1."""
    bits = int("".join(f"{byte:08b}"[::-1] for byte in data) + "0" * 16, 2)
    for shift in range(8 * len(data) - 1, -1, -1):
        if bits >> (shift + 16) & 1:
            bits ^= 0x18005 << shift
    return int(f"{bits:016b}"[::-1], 2)


@pytest.mark.parametrize(("rate", "channels", "word"), [(44100, 2, 36), (44100, 1, 21), (16000, 2, 21), (8000, 1, 13)])
@pytest.mark.parametrize("frames", [1, 1153, 10007])
def test_the_header_of_an_mp3_tells_its_ends_under_a_right_checksum(tmp_path, rate, channels, word, frames):
    path = tmp_path / "a.mp3"
    write(path, af.music(channels, frames, rate), "mp3", rate=rate)
    data = path.read_bytes()
    header = data[data.index(b"Info") - word:]
    coded = int.from_bytes(header[word + 8:word + 12], "big") * (1152 if rate >= 32000 else 576)
    ends = int.from_bytes(header[word + 141:word + 144], "big")
    assert (ends >> 12) + frames + (ends & 0xFFF) == coded
    assert ends >> 12 == 576 + (0 if rate >= 32000 else 47)
    assert int.from_bytes(header[word + 154:word + 156], "big") == crc16_arc(header[:word + 154])


def test_mp3s_too_short_for_ffmpeg_to_recognise_are_read(tmp_path):
    path = tmp_path / "a.mp3"
    for frames in range(1, 600, 3):         # a few in a hundred look like pictures or worse
        write(path, 0.1 * torch.randn(2, frames), "mp3")
        assert read(path).shape == (2, frames)


# --- streams -----------------------------------------------------------------------------------------------------


def through_a_pipe(audio: torch.Tensor, extension: str, depth: str | None = None) -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "wb") as stream:
            write(stream, audio, extension, depth)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    assert os.waitpid(child, 0)[1] == 0
    return data


@pytest.mark.parametrize("depth", ["16", "24", "32f"])
def test_wav_in_a_pipe_has_no_length_and_is_read_again(depth):
    audio = torch.from_numpy(af.noise(2, 20011) / np.float32(32768))
    data = through_a_pipe(audio, "wav", depth)
    assert data[:4] == b"RIFF"
    assert struct.unpack("<I", data[4:8])[0] == struct.unpack("<I", data[data.index(b"data") + 4:][:4])[0] == 0xFFFFFFFF
    assert torch.equal(read(io.BytesIO(data)), audio)


@pytest.mark.parametrize("extension", ["flac", "mp3", "ogg", "opus", "m4a"])
def test_other_formats_in_a_pipe_are_the_files(tmp_path, extension):
    audio = af.music(2, 20011, RATE)
    write(tmp_path / "file", audio, extension)
    assert through_a_pipe(audio, extension) == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("extension", FORMATS)
def test_memory_and_files_get_what_a_path_gets(tmp_path, extension):
    audio = af.music(2, 20011, RATE)
    write(tmp_path / "path", audio, extension)
    memory = io.BytesIO()
    write(memory, audio, extension)
    with (tmp_path / "object").open("wb") as file:
        write(file, audio, extension)
        assert not file.closed
    assert memory.getvalue() == (tmp_path / "path").read_bytes() == (tmp_path / "object").read_bytes()


def test_wav_behind_other_bytes_does_not_overwrite_them(tmp_path):
    path, audio = tmp_path / "a", torch.zeros(1, 1000)
    for mode in ("ab", "wb"):
        path.write_bytes(b"")
        with path.open(mode) as file:
            if mode == "wb":
                file.write(b"before")
                file.flush()
            write(file, audio)
        data = path.read_bytes().removeprefix(b"before")
        assert data[:8] == b"RIFF\xff\xff\xff\xff"
        assert torch.equal(read(io.BytesIO(data)), audio)


# --- long files --------------------------------------------------------------------------------------------------


class Sparse:
    """A file of any length of which only the head is kept."""

    name = "sparse"

    def __init__(self) -> None:
        self.head, self.at, self.size = bytearray(4096), 0, 0

    def write(self, data: bytes) -> int:
        kept = data[:max(0, len(self.head) - self.at)]
        self.head[self.at:self.at + len(kept)] = kept
        self.at += len(data)
        self.size = max(self.size, self.at)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("minutes_over", [-1, 1])
def test_wav_beyond_4_gib_is_rf64(minutes_over):
    block = torch.zeros(2, 1 << 20)
    blocks = 512 + minutes_over
    file = Sparse()
    write_many = StemWriter(file, StemFormat("wav", "32f"), RATE, 2)  # type: ignore[arg-type]
    for _ in range(blocks):
        write_many.write(block)
    write_many.commit()
    head, data_bytes = bytes(file.head), blocks << 23
    assert file.size - data_bytes < 200
    if minutes_over < 0:
        assert head[:4] == b"RIFF"
        assert struct.unpack("<I", head[4:8])[0] == file.size - 8
    else:
        assert head[:16] == b"RF64\xff\xff\xff\xffWAVEds64"
        assert struct.unpack("<QQQ", head[20:44]) == (file.size - 8, data_bytes, blocks << 20)


@needs_ffmpeg
def test_short_wav_keeps_room_for_rf64_and_is_plain_riff(tmp_path):
    write(tmp_path / "a.wav", torch.zeros(2, 10))
    data = (tmp_path / "a.wav").read_bytes()
    assert (data[:4], data[12:16]) == (b"RIFF", b"JUNK")        # a chunk that becomes ds64 beyond 4 GiB
    assert struct.unpack("<I", data[16:20])[0] == 28
    assert soundfile.info(tmp_path / "a.wav").frames == af.ffmpeg_decode(tmp_path / "a.wav", 2).shape[1] == 10


def test_memory_does_not_grow_with_the_length(tmp_path):
    code = f"""
import resource, sys, torch
from pathlib import Path
from separator.audio import AudioReader, StemFormat, StemWriter
block = torch.zeros(2, 65536)
def song(extension, blocks):
    path = Path({str(tmp_path)!r}) / f"a.{{extension}}"
    with StemWriter(path, StemFormat(extension), 44100, 2) as writer:
        for _ in range(blocks):
            writer.write(block)
    with AudioReader(path) as reader:
        assert sum(b.shape[1] for b in reader) >= blocks * 65536
for extension in ("wav", "flac", "ogg"):
    song(extension, 30)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for extension in ("wav", "flac", "ogg"):
    song(extension, 300)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000        # KiB; 300 blocks of floats would be 150 MB
