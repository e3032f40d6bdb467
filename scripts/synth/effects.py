"""Tools of a mixing engineer, their settings drawn at random within what is usual."""

from __future__ import annotations

import numpy as np
import pedalboard as pb
from scipy.signal import butter, oaconvolve, sosfilt

from scripts.synth.library import RATE, Audio
from scripts.synth.mixing import apply

Rng = np.random.Generator


def bell(rng: Rng, low: float, high: float, spread_db: float) -> pb.Plugin:
    return pb.PeakFilter(
        float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        float(rng.normal(0, spread_db)),
        float(rng.uniform(0.5, 2)),
    )


def equaliser(rng: Rng, spread_db: float = 2.5) -> list[pb.Plugin]:
    """A broad random equaliser: two shelves and two bells."""
    return [
        pb.LowShelfFilter(float(rng.uniform(80, 250)), float(rng.normal(0, spread_db))),
        bell(rng, 200, 1000, spread_db),
        bell(rng, 1000, 6000, spread_db),
        pb.HighShelfFilter(float(rng.uniform(3000, 10000)), float(rng.normal(0, spread_db))),
    ]


def compressor(
    rng: Rng, threshold_db: tuple[float, float] = (-30, -14), ratio: tuple[float, float] = (2, 6)
) -> pb.Plugin:
    return pb.Compressor(
        float(rng.uniform(*threshold_db)),
        float(rng.uniform(*ratio)),
        float(rng.uniform(1, 30)),
        float(rng.uniform(40, 300)),
    )


def high_pass(hz: float) -> pb.Plugin:
    return pb.HighpassFilter(float(hz))


def normalised(audio: Audio, rms_db: float = -20.0) -> Audio:
    """Scaled so that its loudest fifth has this RMS: thresholds and drives then mean the same for all sources."""
    blocks = audio[:, : audio.shape[1] // 4410 * 4410].reshape(2, -1, 4410)
    power = np.sort((blocks**2).mean(axis=(0, 2)))
    loud = float(power[int(len(power) * 0.8) :].mean()) if len(power) else 0.0
    gain = 10 ** (rms_db / 20) / np.sqrt(loud) if loud > 1e-10 else 1.0
    return np.asarray(audio * np.float32(gain), np.float32)


def saturate(audio: Audio, drive_db: float, shape: str) -> Audio:
    """Wave shaping with about the same level out as in: tape (tanh), tube (asymmetric), diode (hard knee)."""
    x = audio * np.float32(10 ** (drive_db / 20))
    if shape == "tube":
        y = np.tanh(x + np.float32(0.3)) - np.float32(np.tanh(0.3))
    elif shape == "diode":
        y = x / (1 + np.abs(x) ** 3) ** np.float32(1 / 3)
    else:
        y = np.tanh(x)
    level_in, level_out = np.sqrt((audio**2).mean()), np.sqrt((y**2).mean())
    return np.asarray(y * np.float32(level_in / (level_out + 1e-9)), np.float32)


def cabinet(audio: Audio, rng: Rng) -> Audio:
    """A guitar loudspeaker before two microphones: dip, presence, a steep fall above 5 kHz, a comb."""
    top = float(rng.uniform(4000, 6500))
    plugins = [
        high_pass(rng.uniform(70, 120)),
        bell(rng, 90, 160, 3),
        pb.PeakFilter(float(rng.uniform(350, 700)), float(rng.uniform(-6, 0)), 0.8),
        pb.PeakFilter(float(rng.uniform(2000, 3800)), float(rng.uniform(1, 6)), 1.0),
    ]
    sound = apply(audio, plugins)
    sound = sosfilt(butter(4, top, fs=RATE, output="sos"), sound, axis=1)
    lag, share = int(rng.integers(4, 40)), float(rng.uniform(0, 0.35))
    sound[:, lag:] += share * sound[:, :-lag]
    return np.asarray(sound, np.float32)


def room(audio: Audio, seconds: float, share: float, rng: Rng) -> Audio:
    """A room: convolved, or an algorithmic reverb, as either is found in productions."""
    if rng.random() < 0.5:
        return convolved(audio, seconds, share, rng)
    size = float(np.clip((seconds - 0.3) / 3, 0.05, 0.95))
    return apply(audio, [pb.Reverb(size, float(rng.uniform(0.1, 0.8)), share * 0.5, 0.5, float(rng.uniform(0.5, 1.0)))])


def convolved(audio: Audio, seconds: float, share: float, rng: Rng) -> Audio:
    """Convolution with a made-up stereo room."""
    return np.asarray(audio + np.float32(share) * reflections(audio, seconds, rng), np.float32)


def reflections(audio: Audio, seconds: float, rng: Rng) -> Audio:
    """What a room gives back: sparse early reflections, then noise that decays and darkens; level about as it came."""
    n = int(min(seconds * 1.2, 4.0) * RATE)
    time = np.arange(n) / RATE
    tail = rng.standard_normal((2, n))
    bright = tail * np.exp(-time * 6.9 / (seconds * 0.5))
    darkness = butter(1, float(rng.uniform(1500, 5000)), fs=RATE, output="sos")
    response = bright * 0.5 + sosfilt(darkness, tail, axis=1) * np.exp(-time * 6.9 / seconds)
    response *= np.clip(time / float(rng.uniform(0.005, 0.05)), 0, 1)
    for _ in range(int(rng.integers(4, 12))):
        at = int(rng.uniform(0.002, min(0.06, seconds)) * RATE)
        response[:, min(at, n - 1)] += rng.normal(0, 6, 2)
    response = sosfilt(butter(2, float(rng.uniform(120, 400)), "high", fs=RATE, output="sos"), response, axis=1)
    response /= np.sqrt((response**2).sum(axis=1, keepdims=True))
    pre = int(rng.uniform(0, 0.03) * RATE)
    wet = oaconvolve(audio, response.astype(np.float32), axes=1)[:, : audio.shape[1] - pre]
    return np.asarray(np.concatenate([np.zeros((2, pre), np.float32), wet], axis=1), np.float32)


SEND = {"kick": 0.4, "hats": 0.5, "cymbals": 0.6, "loop": 0.3}  # into the microphones of the room, else 1


def drum_room(layers: dict[str, Audio], seconds: float, share: float, crush: bool, rng: Rng) -> Audio:
    """Far microphones that hear the whole kit in one room; crushed, as on many rock records, they pump."""
    send = np.sum([audio * np.float32(SEND.get(name, 1.0)) for name, audio in layers.items()], axis=0)
    heard = normalised(width(reflections(send, seconds, rng), float(rng.uniform(0.2, 1.0))))
    if crush:
        heard = apply(heard, [pb.Compressor(-38.0, 12.0, float(rng.uniform(1, 12)), float(rng.uniform(40, 180)))])
        heard = saturate(heard, float(rng.uniform(12, 24)), "tape")
    level = np.sqrt((send**2).mean() / ((heard**2).mean() + 1e-12))
    return np.asarray(heard * np.float32(share * level), np.float32)


def glue(layers: dict[str, Audio], rng: Rng) -> dict[str, Audio]:
    """A bus compressor: one gain curve, from the sum of the layers, for all of them."""
    mix = np.sum(list(layers.values()), axis=0)
    hop = 64
    frames = mix.shape[1] // hop
    level = 10 * np.log10((mix[:, : frames * hop].reshape(2, frames, hop) ** 2).mean(axis=(0, 2)) + 1e-9)
    over = np.maximum(level - np.percentile(level, float(rng.uniform(50, 85))), 0) * float(rng.uniform(0.3, 0.75))
    attack, release = np.exp(-hop / RATE / rng.uniform(0.001, 0.02)), np.exp(-hop / RATE / rng.uniform(0.05, 0.25))
    state, cut = 0.0, np.empty(frames)
    for i, wanted in enumerate(over.tolist()):
        factor = attack if wanted > state else release
        state = factor * state + (1 - factor) * wanted
        cut[i] = state
    gain = np.interp(np.arange(mix.shape[1]), np.arange(frames) * hop + hop / 2, 10 ** (-cut / 20)).astype(np.float32)
    return {name: audio * gain for name, audio in layers.items()}


def width(audio: Audio, amount: float) -> Audio:
    """Side signal scaled by `amount`: 0 is mono."""
    middle, side = (audio[0] + audio[1]) / 2, (audio[0] - audio[1]) / 2 * np.float32(amount)
    return np.stack([middle + side, middle - side])


def haas(audio: Audio, rng: Rng) -> Audio:
    """Double tracking: the right side comes later and a little detuned in level."""
    late = int(rng.uniform(0.008, 0.025) * RATE)
    right = np.concatenate([np.zeros(late, np.float32), audio[1, :-late]])
    return np.stack([audio[0], right])


def pan(audio: Audio, place: float) -> Audio:
    """Balance: -1 left to 1 right."""
    return audio * np.array([[min(1, 1 - place)], [min(1, 1 + place)]], np.float32)


def delay(beat_s: float, rng: Rng) -> pb.Plugin:
    seconds = beat_s * float(rng.choice([0.25, 0.5, 0.75, 1.0]))
    return pb.Delay(min(seconds, 1.9), float(rng.uniform(0.1, 0.45)), float(rng.uniform(0.05, 0.3)))


def modulation(rng: Rng) -> list[pb.Plugin]:
    draw = rng.random()
    if draw < 0.5:
        return [
            pb.Chorus(
                float(rng.uniform(0.3, 2)),
                float(rng.uniform(0.1, 0.5)),
                float(rng.uniform(5, 10)),
                0.0,
                float(rng.uniform(0.2, 0.5)),
            )
        ]
    if draw < 0.75:
        return [
            pb.Phaser(
                float(rng.uniform(0.1, 1.5)),
                float(rng.uniform(0.2, 0.7)),
                1300.0,
                float(rng.uniform(0, 0.4)),
                float(rng.uniform(0.2, 0.5)),
            )
        ]
    return []


def distorted(audio: Audio, rng: Rng) -> Audio:
    """Guitar amplifier: tight low end, one or two gain stages, cabinet."""
    audio = apply(audio, [high_pass(rng.uniform(80, 250)), bell(rng, 600, 1500, 3)])
    shapes = ("tape", "tube", "diode")
    audio = saturate(normalised(audio), float(rng.uniform(12, 40)), shapes[rng.integers(3)])
    audio = saturate(apply(audio, [bell(rng, 300, 3000, 3)]), float(rng.uniform(0, 12)), shapes[rng.integers(3)])
    return cabinet(audio, rng)
