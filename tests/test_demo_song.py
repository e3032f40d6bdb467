"""The synthetic song is what its score says: the same every time, in time, in tune, and with true stems."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts/demo_song.py"))
RATE, BEAT_S = SCRIPT["RATE"], SCRIPT["BEAT_S"]


@pytest.fixture(scope="module")
def stems() -> dict[str, np.ndarray]:
    return SCRIPT["compose"](8.0)


def test_four_stems_that_can_be_summed_without_clipping(stems: dict[str, np.ndarray]) -> None:
    assert list(stems) == ["vocals", "drums", "bass", "other"]
    assert all(samples.shape == (8 * RATE, 2) and samples.dtype == np.float32 for samples in stems.values())
    assert np.abs(sum(stems.values())).max() == pytest.approx(0.9, abs=1e-6)


def test_the_same_every_time(stems: dict[str, np.ndarray]) -> None:
    again = SCRIPT["compose"](8.0)
    assert all(np.array_equal(again[stem], stems[stem]) for stem in stems)


def test_the_bass_plays_the_root_of_the_chord(stems: dict[str, np.ndarray]) -> None:
    """A1, 55 Hz, in the first half bar."""
    note = stems["bass"][: round(BEAT_S * RATE), 0]
    heard = np.fft.rfftfreq(8 * len(note), 1 / RATE)[np.abs(np.fft.rfft(note, 8 * len(note))).argmax()]
    assert heard == pytest.approx(55.0, abs=1.0)


def test_the_voice_sings_the_melody_after_two_bars(stems: dict[str, np.ndarray]) -> None:
    """It enters on G4, 392 Hz, the first note of the third bar."""
    entry = round(8 * BEAT_S * RATE)
    assert np.abs(stems["vocals"][: entry - RATE // 5]).max() < 1e-3
    voice = stems["vocals"][entry + RATE // 5: entry + RATE // 2, 0]
    spectrum = np.abs(np.fft.rfft(voice * np.hanning(len(voice)), 1 << 16))
    frequencies = np.fft.rfftfreq(1 << 16, 1 / RATE)
    harmonics = [spectrum[np.abs(frequencies - n * 392.0) < 25].max() for n in (1, 2, 3)]
    between = [spectrum[np.abs(frequencies - (n + 0.5) * 392.0) < 25].max() for n in (1, 2, 3)]
    assert min(harmonics) > 5 * max(between)


def test_the_drums_keep_time(stems: dict[str, np.ndarray]) -> None:
    """Kick on the first beat of every bar: the loudest moment around it."""
    power = np.convolve(stems["drums"].mean(axis=1) ** 2, np.ones(441) / 441, "same")
    for bar in range(3):
        at = round(4 * bar * BEAT_S * RATE)
        assert power[at: at + 2000].max() > 20 * np.median(power)


def test_the_command_writes_what_compose_makes(tmp_path: Path, stems: dict[str, np.ndarray]) -> None:
    SCRIPT["main"](tmp_path, 8.0)
    for stem in stems:
        written, rate = soundfile.read(tmp_path / f"{stem}.wav")
        assert rate == RATE
        np.testing.assert_allclose(written, stems[stem], atol=1e-4)
    assert (tmp_path / "mixture.wav").exists()
