"""Production chains: what a mixing engineer puts on a layer of each kind."""

from __future__ import annotations

import numpy as np
import pedalboard as pb
from scipy.signal import butter, sosfilt

from scripts.synth.effects import (
    Rng,
    cabinet,
    compressor,
    delay,
    distorted,
    equaliser,
    haas,
    high_pass,
    modulation,
    normalised,
    pan,
    room,
    saturate,
    width,
)
from scripts.synth.library import RATE, Audio
from scripts.synth.mixing import apply


def drum_chain(layer: str, audio: Audio, rng: Rng) -> Audio:
    """Drums at close microphones: equaliser, punch, grit, for some snares a plate."""
    audio = normalised(audio)
    plugins = equaliser(rng, 2.0)
    if rng.random() < 0.6:
        plugins.append(compressor(rng, (-28, -14)))
    if layer in ("hats", "cymbals"):
        plugins.append(high_pass(rng.uniform(150, 600)))
    if layer in ("snare", "percussion") and rng.random() < 0.3:
        size, damping, share = rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.8), rng.uniform(0.03, 0.2)
        plugins.append(pb.Reverb(float(size), float(damping), float(share)))
    audio = apply(audio, plugins)
    if rng.random() < 0.5:
        audio = saturate(audio, float(rng.uniform(-6, 14)), str(rng.choice(["tape", "tube", "diode"])))
    return audio


def bass_chain(audio: Audio, rng: Rng) -> Audio:
    """Bass: compressed, sometimes driven through an amplifier, nearly mono."""
    audio = normalised(audio)
    audio = apply(audio, [high_pass(25), *equaliser(rng, 2.5), compressor(rng, (-32, -16), (3, 8))])
    if rng.random() < 0.5:  # the tone knob, or an amplifier without a horn
        audio = apply(audio, [pb.LowpassFilter(float(np.exp(rng.uniform(np.log(600), np.log(6000)))))])
    if rng.random() < 0.3:  # levelled: every note as loud as the next
        audio = apply(audio, [pb.Compressor(-34.0, 10.0, float(rng.uniform(0.5, 5)), float(rng.uniform(60, 150)))])
        audio = normalised(audio)
    draw = rng.random()
    if draw < 0.5:
        audio = saturate(audio, float(rng.uniform(-6, 12)), str(rng.choice(["tape", "tube"])))
    elif draw < 0.65:  # fuzz beside the clean signal
        audio = audio + np.float32(rng.uniform(0.2, 0.7)) * cabinet(
            saturate(audio, float(rng.uniform(15, 30)), "diode"), rng
        )
    if rng.random() < 0.12:
        audio = apply(audio, modulation(rng))
    if rng.random() < 0.15:
        audio = room(audio, float(rng.uniform(0.2, 0.6)), float(rng.uniform(0.05, 0.15)), rng)
    low = sosfilt(butter(2, 150, fs=RATE, output="sos"), audio, axis=1)
    spread = width(audio - low, float(rng.choice([0.0, 0.3, 0.7, 1.0])))
    return np.asarray(spread + width(low, 0.0), np.float32)


def other_chain(kind: str, audio: Audio, rng: Rng, beat_s: float) -> Audio:
    """Keys, guitars and synthesisers: space, modulation, width; guitars through amplifiers."""
    audio = normalised(audio)
    if kind.startswith(("power", "lead_guitar")):
        audio = cabinet(audio, rng) if kind.endswith("gm") and rng.random() < 0.7 else distorted(audio, rng)
        audio = haas(audio, rng) if kind.startswith("power") and rng.random() < 0.7 else audio
    elif kind.startswith(("strum", "clean", "skank", "offbeat")) and rng.random() < 0.75:
        audio = cabinet(saturate(audio, float(rng.uniform(-10, 8)), "tube"), rng)
    elif rng.random() < 0.25:
        audio = saturate(audio, float(rng.uniform(-8, 10)), "tape")
    plugins = [high_pass(np.exp(rng.uniform(np.log(20), np.log(200)))), *equaliser(rng, 3.0)]
    if rng.random() < 0.5:
        plugins.append(compressor(rng))
    if rng.random() < (0.2 if kind.startswith("power") else 0.4):
        plugins += modulation(rng)
    if rng.random() < 0.35:
        plugins.append(delay(beat_s, rng))
    audio = apply(audio, plugins)
    if rng.random() < 0.8:
        audio = room(audio, float(np.exp(rng.uniform(np.log(0.3), np.log(3.5)))), float(rng.uniform(0.05, 0.6)), rng)
    audio = width(audio, float(rng.uniform(0.3, 1.4)))
    return pan(audio, float(np.clip(rng.normal(0, 0.35), -0.8, 0.8)))


def vocal_chain(name: str, audio: Audio, rng: Rng, beat_s: float) -> Audio:
    """Voices: low cut, two compressors, presence, air, echo and hall; doubles and backing go to the sides."""
    audio = normalised(audio)
    lead = name == "vox-lead"
    plugins = [
        high_pass(rng.uniform(70, 160)),
        compressor(rng, (-30, -18), (2, 5)),
        *equaliser(rng, 2.5),
        pb.HighShelfFilter(float(rng.uniform(5000, 9000)), float(rng.uniform(0, 6))),
    ]
    if rng.random() < 0.6:
        plugins.append(compressor(rng, (-24, -14), (2, 4)))
    audio = apply(audio, plugins)
    if rng.random() < (0.9 if "shout" in name else 0.3):
        audio = saturate(audio, float(rng.uniform(-4, 10)), str(rng.choice(["tape", "tube"])))
    if rng.random() < 0.05:  # telephone
        audio = apply(audio, [high_pass(400), pb.LowpassFilter(3400)])
    space = [delay(beat_s, rng)] if rng.random() < 0.4 else []
    if rng.random() < 0.15:  # thickened
        rate_hz, delay_ms, share = rng.uniform(0.2, 0.8), rng.uniform(8, 20), rng.uniform(0.15, 0.4)
        space.append(pb.Chorus(float(rate_hz), 0.1, float(delay_ms), 0.0, float(share)))
    audio = apply(audio, space) if space else audio
    share = float(rng.uniform(0.0, 0.35) if lead else rng.uniform(0.1, 0.6))
    audio = room(audio, float(np.exp(rng.uniform(np.log(0.4), np.log(3.0)))), share, rng) if share > 0.03 else audio
    if lead:
        return pan(audio, float(np.clip(rng.normal(0, 0.05), -0.2, 0.2)))
    return haas(audio, rng) if rng.random() < 0.5 else pan(audio, float(rng.uniform(-0.7, 0.7)))
