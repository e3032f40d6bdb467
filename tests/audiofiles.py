"""Audio files made and read without `separator`: oracles for the tests of the audio edge."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from separator.audio import AudioReader

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def fmt(tag: int, channels: int, rate: int, bits: int) -> bytes:
    align = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits))


def riff(samples: np.ndarray, rate: int = 44100, *, bits: int | None = None, data_size: int | None = None,
         before: bytes = b"") -> bytes:
    """A wav of `[C, n]`: integers as they are (int32 with `bits=24`: packed), floats as floats."""
    frames = np.ascontiguousarray(samples.T)
    bits = bits or frames.dtype.itemsize * 8
    data = frames.tobytes()
    if bits == 24:
        data = frames.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    head = fmt(3 if frames.dtype.kind == "f" else 1, samples.shape[0], rate, bits)
    body = b"WAVE" + head + before + chunk(b"data", data, data_size)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def rf64(samples: np.ndarray, rate: int = 44100) -> bytes:
    """The same as RF64 (EBU Tech 3306), as for a file over 4 GiB."""
    frames = np.ascontiguousarray(samples.T)
    data = frames.tobytes()
    sizes = struct.pack("<QQQI", 4 + 36 + 24 + 8 + len(data), len(data), frames.shape[0], 0)
    body = b"WAVE" + chunk(b"ds64", sizes) + fmt(1, samples.shape[0], rate, 16) + chunk(b"data", data, 0xFFFFFFFF)
    return b"RF64" + struct.pack("<I", 0xFFFFFFFF) + body


def noise(channels: int, frames: int, seed: int = 0) -> np.ndarray:
    """int16 noise `[C, n]` over the whole range."""
    return np.random.default_rng(seed).integers(-32768, 32768, (channels, frames), dtype=np.int16)


def music(channels: int, frames: int, rate: int) -> Tensor:
    """Chords and a beat, `[C, n]`: something that lossy encoders are made for."""
    t = torch.arange(frames, dtype=torch.float64) / rate
    tones = sum(torch.sin(2 * torch.pi * f * t + f) for f in (220.0, 331.0, 442.0, 1234.5))
    beat = torch.exp(-20 * (t * 4 % 1)) * torch.sin(2 * torch.pi * 90 * t)
    left = 0.1 * tones + 0.3 * beat
    return torch.stack([left, left.flip(0)][:channels]).float()


def read(source: object, **options: object) -> Tensor:
    with AudioReader(source, **options) as reader:  # type: ignore[arg-type]
        return torch.cat(list(reader), dim=1)


def ffmpeg(*arguments: object) -> bytes:
    """Run the ffmpeg program; returns its stdout."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def ffmpeg_decode(path: Path, channels: int) -> Tensor:
    """`[C, n]` of the first audio stream, as the ffmpeg program decodes it."""
    data = ffmpeg("-i", path, "-map", "0:a:0", "-f", "f32le", "-")
    return torch.from_numpy(np.frombuffer(data, np.float32).reshape(-1, channels).T.copy())


def made_by_ffmpeg(path: Path, audio: Tensor, rate: int, *options: object) -> Path:
    """Encode `[C, n]` with the ffmpeg program."""
    raw = path.with_suffix(".raw.wav")
    raw.write_bytes(riff(audio.numpy(), rate))
    ffmpeg("-i", raw, *options, path)
    raw.unlink()
    return path


def endless(path: Path, sample_rate: int) -> Path:
    """Five hours of silence that take no room on the disk: work that is surely interrupted in the middle."""
    size = 2 * 5 * 3600 * sample_rate
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE",
                         b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16, b"data", size)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    return path
