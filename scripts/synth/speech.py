"""Words for the singers: sentences read by the Flite voices (men and a woman), kept in the cache."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from scripts.synth.library import Library

VOICES = {"rms": 49, "awb": 51, "slt": 58}  # MIDI key around which each sings comfortably
SENTENCES = 48
WORDS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()


def sentences() -> list[str]:
    """Word strings without sense, the same every time."""
    rng = np.random.default_rng(70)
    return [" ".join(rng.choice(WORDS, int(rng.integers(8, 15)))) for _ in range(SENTENCES)]


def spoken(library: Library, voice: str) -> list[Path]:
    """Recordings of all sentences by a voice; made on first use, empty where Flite is missing."""
    if library.flite is None:
        return []
    folder = library.cache / "flite" / voice
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.wav" for i in range(SENTENCES)]
    libraries = ":".join(str(p) for p in (library.flite.parents[1] / "lib").glob("*-linux-gnu"))
    for path, text in zip(paths, sentences(), strict=True):
        if not path.is_file():
            temporary = path.with_suffix(".part")
            command = [
                str(library.flite),
                "-voice",
                voice,
                "--setf",
                "duration_stretch=1.15",
                "-t",
                text,
                "-o",
                str(temporary),
            ]
            subprocess.run(command, check=True, env={"LD_LIBRARY_PATH": libraries}, capture_output=True)
            temporary.rename(path)
    return paths
