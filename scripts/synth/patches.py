"""Synthesiser voices by name, and chance applied to their knobs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scripts.synth.oscillator import Patch

BASSES = {
    "808": Patch("sine", cutoff=3, drop=12, attack=0.002, decay=1.2, sustain=0.25, release=0.25),
    "sub": Patch("triangle", cutoff=2.5, sweep=0.5, attack=0.01, decay=1.0, sustain=0.8),
    "saw": Patch("saw", cutoff=2.0, sweep=3.0, sweep_s=0.15, resonance=2.0, decay=0.4, sustain=0.6, sub=0.5),
    "square": Patch("square", cutoff=2.5, sweep=2.0, sweep_s=0.2, resonance=1.2, decay=0.5, sustain=0.7),
    "reese": Patch(
        "saw", voices=3, detune=0.5, width=0.4, cutoff=2.5, sweep=0.5, sweep_s=1.0, decay=2, sustain=0.9, sub=0.7
    ),
    "acid": Patch("saw", cutoff=1.5, sweep=4.0, sweep_s=0.12, resonance=3.8, decay=0.3, sustain=0.4),
    "pulse": Patch("pulse", voices=2, detune=0.12, width=0.2, cutoff=3.0, sweep=1.5, decay=0.6, sustain=0.6, sub=0.3),
    "fm": Patch("fm", cutoff=3.0, sweep=3.0, sweep_s=0.1, decay=0.5, sustain=0.35, brightness=0.4, sub=0.8),
}
VOICES = {
    "pad": Patch(
        "saw", voices=4, detune=0.25, cutoff=2.2, sweep=1.0, sweep_s=2.0, attack=0.5, decay=2, sustain=0.9, release=1.0
    ),
    "pad2": Patch("triangle", voices=3, detune=0.2, cutoff=4, sweep=1.0, attack=0.8, decay=2, sustain=0.9, release=1.5),
    "strings": Patch(
        "saw", voices=5, detune=0.3, cutoff=3.5, sweep=0.5, attack=0.18, decay=1, sustain=0.9, release=0.4, vibrato=0.08
    ),
    "supersaw": Patch(
        "saw", voices=5, detune=0.45, cutoff=5, sweep=1.0, attack=0.01, decay=1, sustain=0.8, release=0.25
    ),
    "lead": Patch(
        "square",
        voices=2,
        detune=0.1,
        cutoff=3.5,
        sweep=1.5,
        attack=0.01,
        decay=0.5,
        sustain=0.7,
        release=0.2,
        vibrato=0.25,
    ),
    "lead2": Patch(
        "saw", voices=2, detune=0.15, cutoff=3.5, sweep=2.0, attack=0.01, decay=0.5, sustain=0.7, vibrato=0.2
    ),
    "pluck": Patch(
        "saw",
        voices=2,
        detune=0.15,
        cutoff=1.5,
        sweep=4.0,
        sweep_s=0.1,
        attack=0.002,
        decay=0.25,
        sustain=0.0,
        release=0.2,
    ),
    "pluck2": Patch("triangle", cutoff=3, sweep=3.0, sweep_s=0.15, attack=0.002, decay=0.4, sustain=0.0, release=0.4),
    "bell": Patch("fm", cutoff=6, sweep=1, attack=0.002, decay=0.9, sustain=0.0, release=0.9, brightness=0.8),
    "organ": Patch(
        "organ", voices=2, detune=0.04, cutoff=7, sweep=0, attack=0.004, decay=1, sustain=1.0, release=0.06, vibrato=0.1
    ),
    "stab": Patch(
        "saw",
        voices=4,
        detune=0.3,
        cutoff=3,
        sweep=3.0,
        sweep_s=0.2,
        attack=0.003,
        decay=0.3,
        sustain=0.2,
        release=0.25,
    ),
    "brass": Patch(
        "saw",
        voices=3,
        detune=0.12,
        cutoff=1.5,
        sweep=2.5,
        sweep_s=0.4,
        resonance=1.4,
        attack=0.04,
        decay=0.6,
        sustain=0.8,
        release=0.1,
    ),
}


def vary(patch: Patch, rng: np.random.Generator) -> Patch:
    """The same voice with its knobs moved."""

    def turn(value: float, spread: float = 0.3) -> float:
        return float(value * np.exp(rng.normal(0, spread)))

    return replace(
        patch,
        detune=turn(patch.detune),
        cutoff=patch.cutoff + float(rng.normal(0, 0.5)),
        sweep=turn(patch.sweep),
        sweep_s=turn(patch.sweep_s, 0.5),
        resonance=turn(patch.resonance, 0.2),
        attack=turn(patch.attack, 0.4),
        decay=turn(patch.decay, 0.4),
        release=turn(patch.release),
        sustain=float(np.clip(turn(patch.sustain), 0, 1)),
        brightness=turn(patch.brightness),
    )
