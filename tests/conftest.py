"""What every test starts from."""

from __future__ import annotations

import signal
import wave
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _heed_interrupts() -> None:
    """A job in the background starts with SIGINT ignored, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hence one worker, unless a test asks for more: songs end in their order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def write_wav() -> Callable[..., Path]:
    """Writes `[C, T]` as a 16-bit WAV, by the standard library: a road of its own, not ours."""

    def write(path: Path, audio: torch.Tensor, rate: int = 8000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(audio.shape[0])
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((audio.T * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy().tobytes())
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a random Open-Unmix model, small enough that a minute of music takes a moment."""
    from separator.card import ModelCard, UmxSpec
    from separator.modelfile import save
    from separator.models import build

    torch.manual_seed(0)
    spec = UmxSpec(hidden=8, layers=1, kept_bins=100)
    card = ModelCard(name="tiny", stems=("vocals", "drums", "bass", "other"), spec=spec, n_fft=512, hop=128,
                     sample_rate=8000, segment_s=1.0, context_s=0.1, licence="MIT")
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(path, card, build(card))
    return path
