"""Synthesiser voices by name, and chance applied to their knobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter

from scripts.synth.oscillator import Patch

_FOUND = TypeAdapter(dict[str, dict[str, Patch]]).validate_python(
    yaml.safe_load(Path(__file__).with_name("patches.yaml").read_text(encoding="utf-8"))
)
BASSES, VOICES = _FOUND["basses"], _FOUND["voices"]
SPREAD = {  # how far chance turns each knob: standard deviation of its logarithm
    "detune": 0.3,
    "sweep": 0.3,
    "sweep_s": 0.4,
    "resonance": 0.2,
    "attack": 0.4,
    "decay": 0.4,
    "release": 0.3,
    "sustain": 0.3,
    "brightness": 0.3,
    "wobble": 0.3,
    "wobble_hz": 0.4,
}


def vary(patch: Patch, rng: np.random.Generator) -> Patch:
    """The same voice with its knobs moved."""
    turned: dict[str, Any] = {
        knob: float(getattr(patch, knob) * np.exp(rng.normal(0, spread))) for knob, spread in SPREAD.items()
    }
    turned["sustain"] = min(turned["sustain"], 1.0)
    return replace(patch, cutoff=patch.cutoff + float(rng.normal(0, 0.5)), **turned)
