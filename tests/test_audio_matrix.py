"""Formats x rates x channels x lengths: as many frames out as in, at the rate promised, and in the right place."""

from __future__ import annotations

import math
import os
from pathlib import Path

import audiofiles as af
import pytest
import soundfile
import torch
from audiofiles import needs_ffmpeg, read
from torch import Tensor

from separator.audio import AudioReader, StemFormat, StemWriter
from separator.dsp.rate import resample, resampled_length

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
KINDS = {
    "wav16": StemFormat("wav", "16"), "wav24": StemFormat("wav", "24"), "wav32f": StemFormat("wav", "32f"),
    "flac16": StemFormat("flac", "16"), "flac24": StemFormat("flac", "24"),
    "mp3": StemFormat("mp3"), "ogg": StemFormat("ogg"), "opus": StemFormat("opus"), "m4a": StemFormat("m4a"),
}
LOSSLESS = ("wav16", "wav24", "wav32f", "flac16", "flac24")
# Around nothing, blocks of Vorbis (128, 2048), MPEG frames (576, 1152) with and without LAME's delay (47 is left of
# the first), AAC (1024) and Opus (960) packets, FLAC's (4608) and the pieces that are handed to libsndfile (4096).
LENGTHS = (1, 2, 46, 47, 48, 127, 128, 129, 255, 257, 575, 577, 959, 961, 1023, 1024, 1025, 1105, 1152, 1153, 2049,
           4095, 4097, 4609, 10007)
LOSSLESS_LENGTHS = (1, 2, 4095, 4096, 4097, 4607, 4608, 4609, 10007)
# The rate that is written for one that cannot be held.
WRITTEN = {
    "mp3": {88200: 48000, 96000: 48000, 176400: 48000, 192000: 48000},
    "m4a": {176400: 96000, 192000: 96000},
    "opus": dict.fromkeys(RATES, 48000),
}


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch):
    """Thousands of files that need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def write(path: Path, kind: str, audio: Tensor, rate: int, block: int = 4001) -> StemWriter:
    with StemWriter(path, KINDS[kind], rate, audio.shape[0]) as writer:
        for each in audio.split(block, dim=1):
            writer.write(each)
    return writer


def expected_length(kind: str, frames: int, rate: int) -> int:
    """As FFmpeg decodes it: exact, but for the exception that `StemWriter` tells."""
    written = WRITTEN.get(kind, {}).get(rate, rate)
    exact = max(1, resampled_length(frames, rate, written))
    return -(-exact // 1024) * 1024 if kind == "m4a" else exact     # m4a: the last packet whole


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", KINDS)
def test_frames_rate_and_channels_are_kept(tmp_path, kind, rate, channels):
    path = tmp_path / f"a.{KINDS[kind].extension}"
    wrong = {}
    audio = af.music(channels, max(LENGTHS), rate)
    for frames in LOSSLESS_LENGTHS if kind in LOSSLESS else LENGTHS:
        writer = write(path, kind, audio[:, :frames], rate)
        assert writer.frames == frames
        assert writer.written_rate == WRITTEN.get(kind, {}).get(rate, rate)
        with AudioReader(path) as reader:
            assert (reader.sample_rate, reader.channels) == (writer.written_rate, channels)
            found = sum(block.shape[1] for block in reader)
        if found != expected_length(kind, frames, rate):
            wrong[frames] = found
    assert not wrong


@needs_ffmpeg
@pytest.mark.parametrize("rate", [8000, 24000, 44100, 192000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ffmpeg_program_finds_the_same_frames(tmp_path, kind, rate):
    path = tmp_path / f"a.{KINDS[kind].extension}"
    for frames in (1, 1153, 10007):
        write(path, kind, af.music(2, frames, rate), rate)
        assert af.ffmpeg_decode(path, 2).shape[1] == expected_length(kind, frames, rate)


@pytest.mark.parametrize("frames", [1, 2, 127, 128, 1024, 10007, 200_000])
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_ogg_is_exact_at_any_length_for_libvorbis(tmp_path, rate, frames):
    write(tmp_path / "a.ogg", "ogg", af.music(2, frames, rate), rate)
    assert soundfile.info(tmp_path / "a.ogg").frames == frames


@pytest.mark.parametrize("frames", [1, 1000, 10007])
def test_m4a_tells_its_exact_length(tmp_path, frames):
    import av

    write(tmp_path / "a.m4a", "m4a", af.music(2, frames, 44100), 44100)
    with av.open(str(tmp_path / "a.m4a")) as container:
        assert container.streams.audio[0].duration == frames


@pytest.mark.parametrize("rate", [8000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_is_in_its_place(tmp_path, kind, rate):
    """The error is far below the signal, and grows if the stem is moved by one frame to either side."""
    audio = af.music(2, 2 * rate, rate)
    writer = write(tmp_path / f"a.{KINDS[kind].extension}", kind, audio, rate)
    decoded = read(tmp_path / f"a.{KINDS[kind].extension}")
    asked = torch.cat(list(resample([audio], rate, writer.written_rate)), 1)
    decoded = decoded[:, :asked.shape[1]]
    error = {lag: (decoded.roll(lag, 1) - asked)[:, 1:-1].square().sum().item() for lag in (-1, 0, 1)}
    ratio = 10 * math.log10(asked.square().sum().item() / max(error[0], 1e-30))
    least = {"wav16": 80, "flac16": 80, "wav24": 120, "flac24": 120, "wav32f": 140, "m4a": 25}
    assert ratio > least.get(kind, 14)
    assert error[0] < min(error[-1], error[1])


@pytest.mark.parametrize(("kind", "rate", "channels"), [
    ("wav16", 44100, 2), ("flac16", 44100, 2), ("mp3", 16000, 1), ("ogg", 16000, 1), ("opus", 48000, 1),
    ("m4a", 16000, 1),
])
def test_three_minutes(tmp_path, kind, rate, channels):
    frames = 180 * rate + 1
    audio = af.music(channels, frames, rate)
    path = tmp_path / f"a.{KINDS[kind].extension}"
    writer = write(path, kind, audio, rate, block=65536)
    with AudioReader(path) as reader:
        found = sum(block.shape[1] for block in reader)
        assert reader.duration_s == pytest.approx(180, abs=0.1)
    assert found == expected_length(kind, frames, rate)
    assert writer.peak == audio.abs().max().item()
