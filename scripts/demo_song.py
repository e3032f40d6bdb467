"""Synthesises a short pop song with four true stems: for the demo, and as a musical fixture for tests.

    python scripts/demo_song.py FOLDER [SECONDS]

writes FOLDER/{mixture,vocals,drums,bass,other}.wav (44.1 kHz, stereo, 16 bit). The song is computed, not recorded:
it shows that the program works, not how well it separates real music. Same arguments, same samples.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]  # mono [T], or stereo [T, 2]

RATE = 44100                  # Hz
BEAT_S = 60 / 96              # 96 beats per minute, four to the bar
CHORDS = ((57, 60, 64), (53, 57, 60), (48, 55, 64), (55, 59, 62))  # Am F C G, one bar each, as MIDI notes
# The sung line over four bars: (beat, beats, MIDI note, openness of the vowel: 0 = "ooh", 1 = "aah").
MELODY = ((0, 1.5, 64, 1), (1.5, 0.5, 67, 1), (2, 1.5, 69, 1), (4, 1, 69, 0), (5, 1, 67, 0), (6, 1.5, 65, 1),
          (8, 1, 67, 1), (9, 0.5, 69, 1), (9.5, 2, 72, 1), (12, 1, 71, 0), (13, 1, 69, 0), (14, 1.75, 67, 1))
# First four formants of a female voice (centre Hz, bandwidth Hz, gain), for "ooh" and "aah".
FORMANTS = (((325, 50, 1.0), (700, 60, 0.16), (2700, 170, 0.017), (3800, 180, 0.01)),
            ((800, 80, 1.0), (1150, 90, 0.5), (2900, 120, 0.1), (3900, 130, 0.1)))


def compose(seconds: float = 30.0, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Stem name -> stereo samples [T, 2]; the mixture is their sum, and peaks at 0.9."""
    rng = np.random.default_rng(seed)
    length = round(seconds * RATE)
    parts = {"vocals": vocals(length, rng), "drums": drums(length, rng), "bass": bass(length), "other": other(length)}
    stems = {"vocals": 0.85 * room(pan(parts["vocals"], 0.0), rng, 0.12), "drums": 1.3 * parts["drums"],
             "bass": pan(parts["bass"], 0.0), "other": 1.4 * room(parts["other"], rng, 0.10)}
    peak = np.abs(sum(stems.values())).max()
    return {stem: (0.9 / peak * signal).astype(np.float32) for stem, signal in stems.items()}


def hertz(note: float | Signal) -> float | Signal:
    return 440.0 * 2.0 ** ((note - 69) / 12)


def pan(mono: Signal, position: float) -> Signal:
    """Constant-power panning, -1 (left) to 1 (right)."""
    angle = (position + 1) * np.pi / 4
    return mono[:, None] * np.array([np.cos(angle), np.sin(angle)])


def place(track: Signal, sound: Signal, start_s: float) -> None:
    """Add `sound` to `track` at a time; what hangs over the end is lost."""
    begin = round(start_s * RATE)
    count = min(len(sound), len(track) - begin)
    if count > 0:
        track[begin:begin + count] += sound[:count]


def room(stereo: Signal, rng: np.random.Generator, wet: float) -> Signal:
    """A small room: convolution with 0.8 s of decaying noise, different on both sides."""
    size = round(0.8 * RATE)
    tail = rng.standard_normal((size, 2)) * np.exp(-np.arange(size) / (0.16 * RATE))[:, None]
    tail /= np.sqrt((tail ** 2).sum(axis=0))
    points = 1 << (len(stereo) + size).bit_length()
    spectrum = np.fft.rfft(stereo, points, axis=0) * np.fft.rfft(tail, points, axis=0)
    return stereo + wet * np.fft.irfft(spectrum, points, axis=0)[:len(stereo)]


def bars(length: int) -> range:
    return range(int(length / RATE / (4 * BEAT_S)) + 1)


def vocals(length: int, rng: np.random.Generator) -> Signal:
    """A glottal source (harmonics at -12 dB per octave) through formants, with vibrato, glides and breath."""
    time = np.arange(length) / RATE
    note, open_, level = (np.zeros(length) for _ in range(3))
    note[:], beat = MELODY[0][2], time / BEAT_S % 16
    for start, beats, midi, openness in MELODY:
        sung = (beat >= start) & (beat < start + beats)
        note[beat >= start] = midi
        open_[beat >= start] = openness
        level[sung] = 1.0
    level[time < 8 * BEAT_S] = 0.0                                       # two bars of introduction
    note, open_, level = smooth(note, 0.05), smooth(open_, 0.08), smooth(level, 0.04)
    pitch = hertz(note + 0.35 * smooth(level, 0.3) * np.sin(2 * np.pi * 5.6 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = np.zeros(length)
    for harmonic in range(1, 31):
        tone = harmonic * pitch
        voice += np.sin(harmonic * phase) * vowel(tone, open_) / harmonic ** 0.9 * (tone < 0.45 * RATE)
    breath = np.diff(rng.standard_normal(length), prepend=0.0)
    return 0.5 * level * (voice + 0.006 * breath)


def vowel(tone: Signal, openness: Signal) -> Signal:
    """Gain of the vocal tract at the frequencies `tone`, between the vowels "ooh" and "aah"."""
    closed, wide = (sum(gain / np.sqrt(1 + ((tone - centre) / width) ** 2) for centre, width, gain in formants)
                    for formants in FORMANTS)
    return 2.5 * closed * (1 - openness) + wide * openness


def smooth(signal: Signal, seconds: float) -> Signal:
    """Moving average, twice: turns steps into glides."""
    size = round(seconds * RATE)
    for _ in range(2):
        total = np.cumsum(np.concatenate([np.full(size, signal[0]), signal]))
        signal = (total[size:] - total[:-size]) / size
    return signal


def drums(length: int, rng: np.random.Generator) -> Signal:
    track = np.zeros((length, 2))
    time = np.arange(round(0.35 * RATE)) / RATE
    kick = np.sin(2 * np.pi * (48 * time + 5.0 * (1 - np.exp(-time / 0.03)))) * np.exp(-time / 0.11)
    noise = rng.standard_normal(len(time))
    snare = 0.5 * np.sin(2 * np.pi * 190 * time) * np.exp(-time / 0.06) + 0.35 * noise * np.exp(-time / 0.07)
    hiss = np.diff(np.diff(rng.standard_normal(len(time)), prepend=0.0), prepend=0.0)
    for bar in bars(length):
        for eighth in range(8):
            start_s = (4 * bar + eighth / 2 + (0.03 if eighth % 2 else 0.0)) * BEAT_S
            place(track, pan(0.06 * hiss * np.exp(-time / (0.09 if eighth == 7 else 0.025)), 0.35), start_s)
            if eighth in (0, 3, 4) if bar % 2 else eighth in (0, 5):
                place(track, pan(0.9 * kick, 0.0), start_s)
            if eighth in (2, 6):
                place(track, pan(0.6 * snare, -0.1), start_s)
    return track


def bass(length: int) -> Signal:
    """Plucked eighth notes on the root, an octave up at the end of each bar."""
    track = np.zeros(length)
    time = np.arange(round(0.5 * BEAT_S * RATE * 0.95)) / RATE
    shape = np.minimum(time / 0.004, 1) * np.minimum((time[-1] - time) / 0.01, 1)
    for bar in bars(length):
        root = CHORDS[bar % 4][0]
        for eighth, jump in enumerate((0, 0, 7, 0, 0, 0, 7, 12)):
            pitch = hertz((root if root < 52 else root - 12) - 12 + jump)
            tone = sum(np.sin(2 * np.pi * n * pitch * time) / n ** 1.1 * np.exp(-time * n / 0.35) for n in range(1, 12))
            place(track, 0.42 * shape * tone, (4 * bar + eighth / 2) * BEAT_S)
    return track


def other(length: int) -> Signal:
    """A pad of slow chords, detuned left against right, and a plucked arpeggio that wanders."""
    track = np.zeros((length, 2))
    long, short = (np.arange(round(beats * BEAT_S * RATE)) / RATE for beats in (4.2, 1.5))
    swell = np.minimum(long / 0.3, 1) * np.minimum((long[-1] - long) / 0.2, 1)
    for bar in bars(length):
        chord = CHORDS[bar % 4]
        for note in chord:
            sides = [sum(np.sin(2 * np.pi * n * hertz(note + detune) * long + note) / n ** 1.6 for n in range(1, 9))
                     for detune in (-0.06, 0.06)]
            place(track, 0.06 * swell[:, None] * np.stack(sides, axis=1), 4 * bar * BEAT_S)
        for eighth, step in enumerate((0, 1, 2, 1, 0, 2, 1, 2)):
            pitch = hertz(chord[step] + 12)
            pluck = sum(np.sin(2 * np.pi * n * pitch * short) / n * np.exp(-short * (2 + 2 * n)) for n in range(1, 9))
            place(track, pan(0.14 * pluck * np.minimum(short / 0.002, 1), 0.6 if eighth % 2 else -0.6),
                  (4 * bar + eighth / 2) * BEAT_S)
    return track


def write(path: Path, stereo: NDArray[np.float32]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(stereo * 32767).astype("<i2").tobytes())


def main(folder: Path, seconds: float = 30.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stems = compose(seconds)
    for name, samples in {"mixture": sum(stems.values()), **stems}.items():
        write(folder / f"{name}.wav", samples)
        print(folder / f"{name}.wav")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *(float(each) for each in sys.argv[2:]))
