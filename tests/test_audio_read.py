"""Reading: what comes in is what FFmpeg decodes, to the bit and to the frame, or an error that says what is wrong."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

import audiofiles as af
import av
import numpy as np
import pytest
import torch
from audiofiles import needs_ffmpeg, read, riff

from separator.audio import AudioReader, Cover, StemFormat, StemWriter, pcmhead, probe
from separator.errors import AudioError, ResourceError, UsageError

RATE = 22050
# Extension and ffmpeg options of files that ffmpeg makes, whether they are lossless, at 22050 Hz.
KINDS = {
    "flac": ("flac", (), True),
    "flac24": ("flac", ("-sample_fmt", "s32"), True),
    "aiff": ("aiff", (), True),
    "alac": ("m4a", ("-c:a", "alac"), True),
    "wavpack": ("wv", (), True),
    "caf": ("caf", (), True),
    "w64": ("w64", (), True),
    "w64 float": ("w64", ("-c:a", "pcm_f32le"), True),
    "au": ("au", (), True),
    "au mu-law": ("au", ("-c:a", "pcm_mulaw"), True),
    "mp3": ("mp3", ("-b:a", "128k"), False),
    "m4a": ("m4a", (), False),
    "aac": ("aac", (), False),
    "ogg": ("ogg", ("-c:a", "libvorbis"), False),
    "opus": ("opus", ("-c:a", "libopus"), False),
    "wma": ("wma", (), False),
    "mkv": ("mkv", ("-c:a", "libvorbis"), False),
}


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Stereo songs of 2.5 s, one of each kind, made once by the ffmpeg program."""
    folder = tmp_path_factory.mktemp("songs")
    audio = af.music(2, 55123, RATE)

    def song(kind: str) -> Path:
        extension, options, _ = KINDS[kind]
        path = folder / f"{kind}.{extension}"
        return path if path.exists() else af.made_by_ffmpeg(path, audio, RATE, *options)

    return song


def wav(path: Path, samples: np.ndarray, rate: int = 8000, **options: object) -> Path:
    path.write_bytes(riff(samples, rate, **options))  # type: ignore[arg-type]
    return path


# --- what is decoded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bits", "full"), [
    (np.uint8, 8, 2**7), (np.int16, 16, 2**15), (np.int32, 24, 2**23), (np.int32, 32, 2**31),
    (np.float32, 32, 1), (np.float64, 64, 1),
])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_samples_are_the_stored_numbers_over_full_scale(tmp_path, dtype, bits, full, channels):
    rng = np.random.default_rng(0)
    if full == 1:
        stored = rng.uniform(-1, 1, (channels, 5003)).astype(dtype)
        expected = stored.astype(np.float32)
    else:
        low, high = (0, 256) if bits == 8 else (-full, full)
        stored = rng.integers(low, high, (channels, 5003)).astype(dtype)
        stored[:, :2] = low, high - 1
        expected = ((stored.astype(np.float64) - (128 if bits == 8 else 0)) / full).astype(np.float32)
    path = wav(tmp_path / "a.wav", stored, bits=bits)
    with AudioReader(path) as reader:
        assert (reader.sample_rate, reader.channels, reader.bit_depth) == (8000, channels, bits)
        assert np.array_equal(torch.cat(list(reader), 1).numpy(), expected)


def test_rf64_is_read(tmp_path):
    samples = af.noise(2, 3001)
    path = tmp_path / "long.wav"
    path.write_bytes(af.rf64(samples))
    assert np.array_equal(read(path).numpy(), samples / np.float32(32768))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0], ids=["ffmpeg", "sox", "never closed"])
def test_wav_of_unknown_length_is_read_to_its_end(tmp_path, size):
    samples = af.noise(2, 3001)
    assert np.array_equal(read(wav(tmp_path / "a.wav", samples, data_size=size)).numpy(), samples / np.float32(32768))


@needs_ffmpeg
@pytest.mark.parametrize("kind", KINDS)
def test_decodes_like_the_ffmpeg_program(songs, kind):
    path = songs(kind)
    ours, theirs = read(path), af.ffmpeg_decode(path, 2)
    assert ours.shape == theirs.shape
    tolerance = 0 if KINDS[kind][2] else 2e-4       # lossy decoders differ in the last bits between versions
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@needs_ffmpeg
@pytest.mark.parametrize("frames", [1, 2, 575, 576, 577, 1105, 1152, 1153, 2304, 5000])
@pytest.mark.parametrize("kind", ["mp3", "m4a", "ogg", "opus"])
def test_short_songs_are_as_long_as_ffmpeg_decodes_them(tmp_path, kind, frames):
    extension, options, _ = KINDS[kind]
    path = af.made_by_ffmpeg(tmp_path / f"a.{extension}", af.music(1, frames, RATE), RATE, *options)
    try:
        expected = af.ffmpeg_decode(path, 1).shape[1]
    except subprocess.CalledProcessError:
        expected = 0
    if expected:
        assert read(path).shape[1] == expected
    else:                                           # ffmpeg 5's mp4 rounds one frame down to none
        with pytest.raises(AudioError):
            read(path)


@needs_ffmpeg
def test_gapless_mp3_and_opus_have_the_length_of_what_was_encoded(songs):
    assert read(songs("mp3")).shape == (2, 55123)
    assert read(songs("opus")).shape == (2, round(55123 * 48000 / RATE))


@needs_ffmpeg
def test_he_aac_has_the_doubled_rate(tmp_path):
    # No free encoder makes it; but plain AAC that is announced as HE-AAC makes the decoder double the rate.
    path = af.made_by_ffmpeg(tmp_path / "a.m4a", af.music(2, 44100, RATE), RATE)
    plain, doubled = bytes.fromhex("139056e500"), bytes.fromhex("2b92080000")   # AudioSpecificConfig, ISO 14496-3
    data = path.read_bytes()
    assert data.count(plain) == 1
    path.write_bytes(data.replace(plain, doubled))
    with AudioReader(path) as reader:
        assert reader.sample_rate == 2 * RATE
        assert sum(block.shape[1] for block in reader) == af.ffmpeg_decode(path, 2).shape[1] == 90112
    assert probe(path).sample_rate == 2 * RATE


@needs_ffmpeg
def test_first_audio_stream_of_a_stem_file_and_of_a_video(tmp_path):
    mix, stem = tmp_path / "mix.wav", tmp_path / "stem.wav"
    wav(mix, af.music(2, 30000, RATE).numpy(), RATE)
    wav(stem, np.zeros((2, 30000), np.float32), RATE)
    both, film = tmp_path / "a.stem.mp4", tmp_path / "film.mkv"
    af.ffmpeg("-i", mix, "-i", stem, "-map", 0, "-map", 1, "-c:a", "aac", both)
    af.ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=5:d=1", "-i", mix, "-c:v", "mpeg4", "-c:a", "flac", film)
    torch.testing.assert_close(read(both), af.ffmpeg_decode(both, 2), rtol=0, atol=2e-4)
    assert read(both).abs().max() > 0.1
    assert read(both, stream=1).abs().max() < 1e-3                                  # the silent stem
    with pytest.raises(AudioError, match="has 2 audio streams"):
        AudioReader(both, stream=2)
    assert torch.equal(read(film), af.ffmpeg_decode(film, 2))


@pytest.mark.real
def test_real_stem_file_is_read_like_ffmpeg_does():
    stempeg = pytest.importorskip("stempeg")
    path = Path(stempeg.example_stem_path())
    ours = read(path)
    assert ours.shape == (2, 268288)                # of every stem, as the ffmpeg program decodes it
    assert 0.1 < ours.abs().max() < 1.5


def test_block_size_changes_nothing_but_the_blocks(tmp_path):
    path = wav(tmp_path / "a.wav", af.noise(2, 10007))
    whole = read(path)
    for block in (1, 7, 1024, 4096, 10006, 10007, 10008, 65536):
        with AudioReader(path, block=block) as reader:
            blocks = list(reader)
        assert [b.shape[1] for b in blocks[:-1]] == [block] * (len(blocks) - 1)
        assert torch.equal(torch.cat(blocks, 1), whole)
        assert all(b.dtype == torch.float32 and b.is_contiguous() for b in blocks)


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["flac", "mp3", "m4a", "ogg", "opus", "wma"])
def test_start_and_duration_are_a_slice_of_the_whole(songs, kind):
    path = songs(kind)
    with AudioReader(path) as reader:
        rate, whole = reader.sample_rate, torch.cat(list(reader), 1)
    for start, duration in ((0.0, 0.5), (0.01, None), (1.2345, 0.3), (2.4, 100.0), (1 / rate, 1 / rate)):
        end = None if duration is None else round((start + duration) * rate)
        assert torch.equal(read(path, start_s=start, duration_s=duration), whole[:, round(start * rate):end])


@pytest.mark.parametrize("start", [1.0, 1.00001, 99.0])
def test_start_at_or_beyond_the_end_is_an_error(tmp_path, start):
    path = wav(tmp_path / "a.wav", af.noise(1, 8000))
    assert read(path, start_s=1 - 1 / 8000).shape == (1, 1)
    with pytest.raises(AudioError, match=r"1\.000 s long.*nothing from"):
        read(path, start_s=start)


def test_cuts_of_any_size(tmp_path):
    path = wav(tmp_path / "a.wav", af.noise(1, 16000))
    for for_ever in (1e305, float("inf")):
        assert read(path, start_s=1.0, duration_s=for_ever).shape == (1, 8000)
        with pytest.raises(AudioError, match=r"2\.000 s long.*nothing from"):
            read(path, start_s=for_ever)
        with pytest.raises(AudioError, match=r"2\.000 s long.*nothing from"):
            read(path, start_s=for_ever, duration_s=1.0)
    for start in (0.0, 0.512, 1.0, 1.5):            # 0.512 s: FFmpeg's frames may end there
        with pytest.raises(AudioError, match=r"1e-05 s are less than a frame at 8000 Hz[\s\S]*--duration"):
            read(path, start_s=start, duration_s=1e-5)
    with pytest.raises(AudioError, match=r"2\.000 s long.*nothing from"):
        read(path, start_s=2.0, duration_s=1e-5)


@pytest.mark.parametrize("options", [{"start_s": -1.0}, {"duration_s": 0.0}, {"duration_s": -1.0},
                                     {"start_s": float("nan")}, {"block": 0}])
def test_senseless_cuts_are_usage_errors(tmp_path, options):
    with pytest.raises(UsageError):
        AudioReader(wav(tmp_path / "a.wav", af.noise(1, 10)), **options)


# --- channels ----------------------------------------------------------------------------------------------------

LAYOUT_51 = 0x3F    # front left, right, centre, low frequencies, back left, right


def surround(path: Path, samples: np.ndarray, mask: int) -> Path:
    """A wav with a channel mask (WAVE_FORMAT_EXTENSIBLE)."""
    plain = riff(samples, 48000)
    channels = samples.shape[0]
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    head = np.array([0xFFFE, channels], "<u2").tobytes() + plain[24:36] + np.array([22, 16], "<u2").tobytes()
    body = b"WAVE" + af.chunk(b"fmt ", head + np.array([mask], "<u4").tobytes() + guid) + plain[36:]
    path.write_bytes(b"RIFF" + np.array([len(body)], "<u4").tobytes() + body)
    return path


@pytest.mark.parametrize("channels", [3, 4, 6, 8])
def test_more_than_two_channels_are_refused_by_name(tmp_path, channels):
    path = wav(tmp_path / "a.wav", af.noise(channels, 100))
    with pytest.raises(AudioError, match=rf"{channels} channels[\s\S]*--downmix"):
        AudioReader(path)


@pytest.mark.parametrize("mask", [LAYOUT_51, 0], ids=["5.1", "six channels, no layout"])
@pytest.mark.parametrize(("channel", "left", "right"), [(0, 1, 0), (1, 0, 1), (2, 0.7071, 0.7071), (3, 0, 0),
                                                       (4, 0.7071, 0), (5, 0, 0.7071)])
def test_downmix_has_every_channel_where_it_belongs(tmp_path, mask, channel, left, right):
    samples = np.zeros((6, 4800), np.int16)
    samples[channel] = 16000
    path = surround(tmp_path / "a.wav", samples, mask)
    with AudioReader(path, downmix=True) as reader:
        assert reader.channels == 2
        mixed = torch.cat(list(reader), 1)
    scale = 16000 / 32768 / (1 + 2 * 0.70711)       # front + centre + back may not exceed full scale
    expected = torch.tensor([[left], [right]]).float().expand(2, 4800) * scale
    torch.testing.assert_close(mixed, expected, rtol=0, atol=2e-5)


@needs_ffmpeg
@pytest.mark.parametrize("mask", [LAYOUT_51, 0x63F])
def test_downmix_equals_that_of_the_ffmpeg_program(tmp_path, mask):
    path = surround(tmp_path / "a.wav", af.noise(mask.bit_count(), 4800), mask)
    theirs = tmp_path / "stereo.wav"
    af.ffmpeg("-i", path, "-ac", 2, theirs)
    torch.testing.assert_close(read(path, downmix=True), read(theirs), rtol=0, atol=2 / 32768)  # theirs is rounded


def test_downmix_leaves_mono_and_stereo_alone(tmp_path):
    for channels in (1, 2):
        path = wav(tmp_path / "a.wav", af.noise(channels, 100))
        assert torch.equal(read(path, downmix=True), read(path))


@needs_ffmpeg
def test_channels_that_change_in_the_middle_follow_the_first(tmp_path):
    stereo = af.made_by_ffmpeg(tmp_path / "s.mp3", af.music(2, 30000, RATE), RATE, "-write_xing", 0)
    mono = af.made_by_ffmpeg(tmp_path / "m.mp3", af.music(1, 30000, RATE), RATE, "-write_xing", 0, "-id3v2_version", 0)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(stereo.read_bytes() + mono.read_bytes())
    audio, first = read(joined), read(stereo)
    assert audio.shape[0] == 2
    assert audio.shape[1] > first.shape[1] + 28000
    assert torch.equal(audio[0, -20000:], audio[1, -20000:])


@needs_ffmpeg
def test_a_rate_that_changes_in_the_middle_is_an_error(tmp_path):
    one = af.made_by_ffmpeg(tmp_path / "a.mp3", af.music(2, 30000, RATE), RATE, "-write_xing", 0)
    two = af.made_by_ffmpeg(tmp_path / "b.mp3", af.music(2, 60000, 44100), 44100, "-write_xing", 0, "-id3v2_version", 0)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(AudioError, match="changes from 22050 to 44100 Hz|damaged at"):
        read(joined)


# --- file objects ------------------------------------------------------------------------------------------------


def pipe_of(data: bytes) -> BinaryIO:
    """The reading end of a pipe through which `data` comes."""
    reading, writing = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as end:
            end.write(data)

    threading.Thread(target=feed, daemon=True).start()
    return os.fdopen(reading, "rb")


@needs_ffmpeg
@pytest.mark.parametrize("kind", KINDS)
def test_pipes_and_file_objects_give_what_files_give(songs, kind):
    path = songs(kind)
    expected = read(path)
    assert torch.equal(read(io.BytesIO(path.read_bytes())), expected)
    with pipe_of(path.read_bytes()) as pipe:
        assert torch.equal(read(pipe), expected)


@needs_ffmpeg
def test_an_mp3_with_a_great_cover_through_a_pipe(tmp_path, songs):
    """The header that tells the padding, and the length, stands behind it."""
    picture, path = tmp_path / "c.png", tmp_path / "a.mp3"
    af.ffmpeg("-f", "lavfi", "-i", "nullsrc=s=400x400,geq=random(1)*255:128:128", "-frames:v", 1, picture)
    assert picture.stat().st_size > 1 << 17
    af.ffmpeg("-i", songs("mp3"), "-i", picture, "-map", 0, "-map", 1, "-c", "copy", path)
    assert read(path).shape == (2, 55123)
    with pipe_of(path.read_bytes()) as pipe:
        assert torch.equal(read(pipe), read(path))
    with pipe_of(path.read_bytes()[:-6000]) as pipe, pytest.raises(AudioError, match="is damaged at"):
        read(pipe)


def test_long_wav_through_a_pipe(tmp_path):
    path = wav(tmp_path / "a.wav", af.noise(2, 400_000))
    with pipe_of(path.read_bytes()) as pipe:
        assert torch.equal(read(pipe), read(path))


def test_named_pipe_is_read(tmp_path):
    path, fifo = wav(tmp_path / "a.wav", af.noise(2, 4000)), tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=lambda: fifo.write_bytes(path.read_bytes()), daemon=True).start()
    assert torch.equal(read(fifo), read(path))


def test_a_file_object_stays_open_and_a_path_does_not(tmp_path):
    path = wav(tmp_path / "a.wav", af.noise(1, 100))
    with path.open("rb") as file:
        read(file)
        assert not file.closed
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for _ in range(5):
        read(path)
        with pytest.raises(AudioError):
            read(path, start_s=10)
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)


@pytest.mark.parametrize("name", ["a.b.c.wav", " lead and trail .wav ", "東京 — Ä.wav", "-x.wav", "http:a.wav",
                                  "%d.wav", "new\nline.wav", "a" * 251 + ".wav", "noextension"])
def test_any_name_is_a_name(tmp_path, name):
    samples = af.noise(1, 100)
    assert np.array_equal(read(wav(tmp_path / name, samples)).numpy(), samples / np.float32(32768))


def test_name_in_no_encoding(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    try:
        wav(path, af.noise(1, 100))
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert read(path).shape == (1, 100)


# --- tags, cover, facts ------------------------------------------------------------------------------------------


def test_probe_tells_the_facts(tmp_path):
    path = tmp_path / "a.flac"
    with StemWriter(path, StemFormat("flac", "24"), 48000, 1, tags={"title": "T"}) as writer:
        writer.write(af.music(1, 72000, 48000))
    info = probe(path)
    assert (info.sample_rate, info.channels, info.codec, info.bit_depth, info.duration_s, dict(info.tags)) == (
        48000, 1, "flac", 24, 1.5, {"title": "T"})
    with pytest.raises(AudioError, match="does not exist"):
        probe(tmp_path / "none.wav")


@needs_ffmpeg
def test_tags_and_cover_of_others_are_read(tmp_path, songs):
    picture = tmp_path / "c.jpg"
    af.ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32", "-frames:v", 1, picture)
    path = tmp_path / "tagged.mp3"
    af.ffmpeg("-i", songs("mp3"), "-i", picture, "-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic",
              "-metadata", "title=Ünï", "-metadata", "artist=A", "-metadata", "encoder=x", path)
    with AudioReader(path) as reader:
        assert reader.tags == {"title": "Ünï", "artist": "A"}
        assert reader.cover == Cover(picture.read_bytes(), "image/jpeg")
        assert sum(b.shape[1] for b in reader) == 55123


def test_tags_in_another_encoding_are_no_error(tmp_path):
    info = af.chunk(b"LIST", b"INFO" + af.chunk(b"INAM", "Café".encode("latin-1") + b"\0"))
    with AudioReader(wav(tmp_path / "a.wav", af.noise(1, 10), before=info)) as reader:
        assert reader.tags["title"].startswith("Caf")


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("block", [100, 65536])
def test_not_a_number_is_refused_by_its_place(tmp_path, value, block):
    samples = np.zeros((2, 5000), np.float32)
    samples[1, 3456] = value
    samples[0, 4000] = value
    path = wav(tmp_path / "a.wav", samples, 1000)
    word = "NaN" if np.isnan(value) else "infinite"
    with pytest.raises(AudioError, match=rf"sample 3456 of channel 2 \(3\.456 s\) is {word}"):
        read(path, block=block)
    with pytest.raises(AudioError, match=r"sample 3456 of channel 2 \(3\.456 s\)"):
        read(path, start_s=3.0)
    assert read(path, duration_s=3.4).shape == (2, 3400)


def image(path: Path) -> Path:
    """A white PNG of one pixel."""
    path.write_bytes(bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8ffff3f0005fe02fea7"
        "35811b0000000049454e44ae426082"))
    return path


def broken_wav_codec(path: Path) -> Path:
    body = b"WAVE" + af.fmt(0x6789, 2, 8000, 16) + af.chunk(b"data", bytes(4000))
    path.write_bytes(b"RIFF" + np.array([len(body)], "<u4").tobytes() + body)
    return path


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: p, "does not exist"),
    (lambda p: p.mkdir() or p, "is a folder"),
    (lambda p: p.touch() or p, "is empty"),
    (lambda p: p.write_text("Dear diary,\n" * 999) and p, "is not audio"),
    (lambda p: p.write_bytes(os.urandom(1)) and p, "is not audio"),
    (lambda p: p.write_bytes(bytes(100_000)) and p, "is not audio"),
    (lambda p: wav(p, np.zeros((2, 0), np.int16)), "0 frames"),
    (lambda p: image(p), "no audio stream, only video"),
    (lambda p: broken_wav_codec(p), "codec|decode"),
    (lambda p: p.write_bytes(riff(af.noise(2, 100))[:30]) and p, "is not audio"),
], ids=["missing", "folder", "empty", "text", "one byte", "zeros", "no frames", "picture", "codec", "header only"])
def test_what_is_no_song_says_so(tmp_path, make, message):
    with pytest.raises(AudioError, match=message):
        read(make(tmp_path / "song.wav"))


def test_empty_pipe(tmp_path):
    with pipe_of(b"") as pipe, pytest.raises(AudioError, match="is empty"):
        read(pipe)


def test_unreadable_file(tmp_path):
    path = wav(tmp_path / "a.wav", af.noise(1, 10))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(AudioError, match="may not be read"):
        read(path)


@pytest.mark.parametrize("at", [0, 100, 300_000], ids=["at once", "in the header", "in the audio"])
def test_a_failing_disk_is_not_the_end_of_the_song(tmp_path, at):
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= at:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    with pytest.raises(AudioError, match="Input/output error"):
        read(Failing(riff(af.noise(2, 200_000))))


def test_an_interrupt_while_reading_is_not_lost(tmp_path):
    class Interrupting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 300_000:
                raise KeyboardInterrupt
            return super().read(size)

    with pytest.raises(KeyboardInterrupt):
        read(Interrupting(riff(af.noise(2, 200_000))))


@needs_ffmpeg
def test_an_interrupt_while_a_song_is_opened_is_not_lost(tmp_path):
    """One comes once, and FFmpeg can open a file that it cannot read to its end."""
    class Counted(io.BytesIO):
        reads, last = 0, 10**9

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            if self.reads == self.last:
                raise KeyboardInterrupt
            return super().read(size)

    song = af.made_by_ffmpeg(tmp_path / "a.ogg", af.music(2, 20 * RATE, RATE), RATE, "-c:a", "libvorbis").read_bytes()
    whole = Counted(song)
    probe(whole)
    assert whole.reads > 4
    for number in range(1, whole.reads + 1):
        file = Counted(song)
        file.last = number
        with pytest.raises(KeyboardInterrupt):
            probe(file)
        assert file.reads == number     # another read may wait for a pipe that has stalled


def test_a_full_disk_for_a_song_from_a_pipe(monkeypatch):
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    def full(*_: object) -> BinaryIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ResourceError, match="the disk is full.*stored there first") as raised:
        read(Pipe(b"\0\0\0\x20ftypM4A " + bytes(99)))
    assert "TMPDIR" in raised.value.hint


@needs_ffmpeg
def test_another_number_of_channels_in_the_middle_is_told(tmp_path):
    """As broadcasts have it: films in 5.1, and what comes between them in stereo."""
    parts = {}
    for channels in (1, 2, 6):
        path = tmp_path / f"{channels}.ac3"
        af.made_by_ffmpeg(path, af.music(min(channels, 2), 48000, 48000), 48000, "-ac", channels)
        parts[channels] = path.read_bytes()
    song = tmp_path / "song.ac3"
    song.write_bytes(parts[2] + parts[6])
    with pytest.raises(AudioError, match="from 2 to 6 channels in the middle") as raised:
        read(song)
    assert "--downmix" in raised.value.hint
    assert read(song, downmix=True).shape[0] == 2
    song.write_bytes(parts[1] + parts[2])
    for downmix in (False, True):
        with pytest.raises(AudioError, match="from 1 to 2 channels"):
            read(song, downmix=downmix)


@needs_ffmpeg
def test_opus_of_a_telephone_is_whole(tmp_path):
    """FFmpeg's decoder gives 624 of the first packet's 648 frames, and the others later."""
    path = tmp_path / "call.opus"
    voip = ("-c:a", "libopus", "-application", "voip", "-b:a", "16k")
    af.made_by_ffmpeg(path, af.music(1, 4 * 8000, 8000), 8000, *voip)
    assert read(path).shape == af.ffmpeg_decode(path, 1).shape


@pytest.mark.parametrize("text", [
    "ffconcat version 1.0\nfile 'secret.wav'\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
], ids=["concat", "hls", "sdp"])
def test_a_playlist_cannot_open_other_files(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    wav(tmp_path / "secret.wav", af.noise(1, 8000))
    song = tmp_path / "song.wav"
    song.write_text(text)
    with pytest.raises(AudioError):
        read(song)


# --- damage ------------------------------------------------------------------------------------------------------


def test_a_cut_wav_of_more_than_two_gigabytes_is_no_shorter_song(tmp_path):
    with pytest.raises(AudioError, match="its header promises 738197504 frames, there are 3001"):
        read(wav(tmp_path / "a.wav", af.noise(2, 3001), data_size=0xB0000000))


@needs_ffmpeg
def test_a_cut_mp3_behind_two_tags_is_no_shorter_song(tmp_path, songs):
    tag = b"ID3\4\0\0\0\0\0\x40" + bytes(64)
    data = songs("mp3").read_bytes()
    path = tmp_path / "a.mp3"
    path.write_bytes(tag + tag + data)
    assert torch.equal(read(path), read(songs("mp3")))
    path.write_bytes(tag + tag + data[: len(data) // 2])
    with pytest.raises(AudioError, match="the file ends too early"):
        read(path)


@needs_ffmpeg
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "caf"] + ["wav", "rf64"])
def test_a_truncated_song_is_no_shorter_song(tmp_path, songs, kind):
    if kind in ("wav", "rf64"):
        data = (riff if kind == "wav" else af.rf64)(af.noise(2, 55123), RATE)
    else:
        data = songs(kind).read_bytes()
    path = tmp_path / ("cut" + (songs(kind).suffix if kind in KINDS else ".wav"))
    for part in (0.6, 0.9):
        path.write_bytes(data[:int(len(data) * part)])
        with pytest.raises(AudioError) as caught:
            read(path)
        if "damaged at" in str(caught.value):       # an mp4 whose index is gone cannot even be opened
            assert "--duration" in caught.value.hint
            usable = float(caught.value.hint.split()[-1])
            assert read(path, duration_s=usable).shape[1] > 0
        with pipe_of(path.read_bytes()) as pipe, pytest.raises(AudioError):
            read(pipe)


@needs_ffmpeg
@pytest.mark.parametrize(("kind", "bytes"), [("w64", 8), ("w64 float", 8), ("au", 4), ("au mu-law", 2)])
def test_one_that_lacks_one_frame_is_truncated(tmp_path, songs, kind, bytes):
    path = tmp_path / f"a{songs(kind).suffix}"
    path.write_bytes(songs(kind).read_bytes()[:-bytes])
    with pytest.raises(AudioError, match=r"promises 5512[34] frames, there are 5512[12]"):      # a w64's padding counts
        read(path)


@needs_ffmpeg
def test_an_au_that_does_not_know_its_length_is_read_to_its_end(tmp_path, songs):
    """As a program leaves it that writes into a pipe."""
    data = bytearray(songs("au").read_bytes())
    data[8:12] = b"\xff" * 4
    path = tmp_path / "a.au"
    path.write_bytes(data[: len(data) * 6 // 10])
    part = read(path)
    assert 0.59 * 55123 < part.shape[1] < 0.6 * 55123
    assert torch.equal(part, read(songs("au"))[:, : part.shape[1]])


WAVE64 = pcmhead.W64_RIFF + bytes(8) + b"wave" + pcmhead.W64_REST


@pytest.mark.parametrize("header", [
    pcmhead.W64_RIFF, b".snd", b".snd" + bytes(8), b".snd" + (24).to_bytes(4, "big") + bytes(16),
    b".snd" + b"\xff" * 20, *(WAVE64 + b"fact" + pcmhead.W64_REST + size.to_bytes(8, "little")
                              for size in (0, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)),
])
def test_a_header_that_makes_no_sense_promises_nothing(tmp_path, header):
    path = tmp_path / "a"
    for data in (header, header + bytes(100)):
        path.write_bytes(data)
        with path.open("rb") as buffered, path.open("rb", buffering=0) as unbuffered:
            for file in (io.BytesIO(data), buffered, unbuffered):
                assert pcmhead.read_pcm_head(file) is None
        with pytest.raises(AudioError):
            read(path)


def test_a_wav_that_lacks_one_frame_is_truncated(tmp_path):
    path = wav(tmp_path / "a.wav", af.noise(2, 1000))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AudioError, match=r"promises 1000 frames, there are 999"):
        read(path)


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["aac", "alac", "pcm_s16le"])
def test_a_trimmed_mp4_is_whole_until_it_is_cut(tmp_path, codec):
    """An edit list leaves out packets that the sample table counts."""
    path, raw = tmp_path / ("a.mov" if codec.startswith("pcm") else "a.m4a"), af.music(2, 3 * RATE, RATE)
    data = bytearray(af.made_by_ffmpeg(path, raw, RATE, "-c:a", codec, "-movflags", "faststart").read_bytes())
    at = data.index(b"elst") + 12                   # of the only edit: its length, and where it begins
    begin = int.from_bytes(data[at + 4:at + 8], "big")
    data[at:at + 8] = (1500).to_bytes(4, "big") + (begin + RATE).to_bytes(4, "big")     # a movie's time is in ms
    path.write_bytes(data)
    torch.testing.assert_close(read(path), af.ffmpeg_decode(path, 2), rtol=0, atol=2e-4)
    assert 1.5 * RATE <= read(path).shape[1] < 1.7 * RATE
    path.write_bytes(data[:len(data) * 6 // 10])    # within the second that is heard
    with pytest.raises(AudioError, match="is damaged at"):
        read(path)


@needs_ffmpeg
def test_a_mov_that_lacks_one_frame_is_truncated(tmp_path):
    path = tmp_path / "a.mov"
    af.made_by_ffmpeg(path, af.music(2, 2 * RATE, RATE), RATE, "-c:a", "pcm_s24le", "-movflags", "faststart")
    assert read(path).shape[1] == 2 * RATE
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(AudioError, match=r"index lists 264600 bytes of audio, there are 264594"):
        read(path)


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["alac", "flac", "libopus", "adpcm_ima_qt", "pcm_s16be"])
def test_a_caf_need_not_end_with_a_whole_packet(tmp_path, codec):
    path = af.made_by_ffmpeg(tmp_path / "a.caf", af.music(2, 3 * RATE + 7, RATE), RATE, "-c:a", codec)
    torch.testing.assert_close(read(path), af.ffmpeg_decode(path, 2), rtol=0, atol=2e-4)


@needs_ffmpeg
def test_a_caf_with_its_packet_table_in_front_is_truncated(tmp_path):
    path = af.made_by_ffmpeg(tmp_path / "a.caf", af.music(2, 3 * RATE, RATE), RATE, "-c:a", "libopus")
    data = path.read_bytes()
    begin, end = data.index(b"data"), data.index(b"pakt")
    path.write_bytes(data[:begin] + data[end:] + data[begin:end])
    assert read(path).shape[1] > 3 * 48000
    path.write_bytes(path.read_bytes()[:-(end - begin) // 4])
    with pytest.raises(AudioError, match=r"damaged at 2\.\d+ s: .* (index lists|decoder cannot)"):
        read(path)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mka", "a.webm", "a.wma"])
def test_audio_that_starts_late_is_whole_until_it_is_cut(tmp_path, name):
    raw, path = wav(tmp_path / "raw.wav", af.noise(2, 3 * 44100), 44100), tmp_path / name
    codec = {"a.mka": "flac", "a.webm": "libopus", "a.wma": "wmav2"}[name]
    af.ffmpeg("-itsoffset", 2, "-i", raw, "-c:a", codec, "-copyts", path)
    with AudioReader(path) as reader:
        assert sum(block.shape[1] for block in reader) / reader.sample_rate == pytest.approx(3, abs=0.05)
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 8 // 10])
    with pytest.raises(AudioError, match="is damaged at"):
        read(path)


@needs_ffmpeg
def test_the_shorter_of_two_tracks_is_whole(tmp_path):
    short, long = (wav(tmp_path / f"{s}.wav", af.noise(2, s * RATE), RATE) for s in (1, 2))
    path = tmp_path / "a.mka"
    af.ffmpeg("-i", short, "-i", long, "-map", 0, "-map", 1, "-c:a", "flac", path)
    assert read(path).shape == (2, RATE)
    assert read(path, stream=1).shape == (2, 2 * RATE)


@pytest.mark.parametrize("extension", ["ogg", "opus"])
def test_a_truncated_song_with_a_cover_is_no_shorter_song(tmp_path, extension):
    path, cover = tmp_path / f"a.{extension}", Cover(image(tmp_path / "c.png").read_bytes(), "image/png")
    with StemWriter(path, StemFormat(extension), 48000, 2, cover=cover) as writer:
        writer.write(af.music(2, 5 * 48000, 48000))
    with AudioReader(path) as reader:
        assert reader.cover == cover
        assert sum(block.shape[1] for block in reader) == 5 * 48000
    data = path.read_bytes()
    path.write_bytes(data[:data.rindex(b"OggS")])   # whole pages, but the last
    with pytest.raises(AudioError, match="last page is missing"):
        read(path)


@needs_ffmpeg
def test_a_truncated_mp3_that_promises_nothing_is_read(tmp_path):
    path = af.made_by_ffmpeg(tmp_path / "a.mp3", af.music(2, 55123, RATE), RATE, "-write_xing", 0)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    assert 25000 < read(path).shape[1] < 30000


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["flac", "flac24", "m4a", "ogg", "opus", "aac", "wavpack", "mkv"])
def test_damage_in_the_middle_is_named_with_its_time(tmp_path, songs, kind):
    data = bytearray(songs(kind).read_bytes())
    at = len(data) * 6 // 10
    data[at:at + 300] = np.random.default_rng(1).bytes(300)
    path = tmp_path / songs(kind).name
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"is damaged at [12]\.\d+ s"):
        read(path)
    assert read(path, duration_s=0.5).shape[1] > 0


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["flac", "ogg", "opus"])
def test_a_hole_is_noticed_where_it_is_and_not_only_at_the_end(tmp_path, kind):
    extension, options, _ = KINDS[kind]
    path = af.made_by_ffmpeg(tmp_path / f"a.{extension}", af.music(2, 8 * RATE, RATE), RATE, *options)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at:at + 50] = np.random.default_rng(1).bytes(50)
    path.write_bytes(data)
    assert read(path, duration_s=2.0).shape[1] > 0
    told = r"damaged at [345]\.\d+ s: ([\d.]+ s of audio are missing|the decoder cannot go on)"    # FFmpeg 8, FFmpeg 7
    with pytest.raises(AudioError, match=told):
        read(path, duration_s=6.5)


@needs_ffmpeg
def test_an_mp4_that_ends_between_two_packets_is_truncated(tmp_path):
    path = tmp_path / "a.m4a"
    af.made_by_ffmpeg(path, af.music(2, 55123, RATE), RATE, "-movflags", "faststart")
    with av.open(str(path)) as container:
        last = [packet.pos for packet in container.demux() if packet.size][-1]
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(AudioError, match=r"damaged at 2\.\d+ s"):
        read(path)


@needs_ffmpeg
@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(200), bytes(512)],
                         ids=["ID3v1", "APE", "zeros"])
def test_what_follows_an_mp3_is_no_damage(tmp_path, songs, tail):
    path = tmp_path / "a.mp3"
    path.write_bytes(songs("mp3").read_bytes() + tail)
    assert torch.equal(read(path), read(songs("mp3")))


def test_nothing_is_printed_by_ffmpeg(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(b"\xff\xfb\x90\x64" + np.random.default_rng(0).bytes(60_000))
    code = f"""
from separator.audio import AudioReader
from separator.errors import AudioError
try:
    list(AudioReader({str(path)!r}))
except AudioError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_closing_early_is_allowed(tmp_path):
    path = wav(tmp_path / "a.wav", af.noise(2, 100_000))
    with AudioReader(path, block=100) as reader, closing(iter(reader)) as blocks:  # type: ignore[type-var]
        assert next(blocks).shape == (2, 100)
