"""Splits a song with the bundled model, offline, and says where the stems are and how good they are.

    python scripts/demo.py [SONG]

Without SONG: the 6 seconds of real music that the package stempeg ships with their true stems (installed along with
musdb), else a synthetic song. True stems allow a score; for a song of your own, listen.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch
from demo_song import compose, write
from torch import Tensor

from separator.audio import AudioReader
from separator.corpus import STREAMS
from separator.evaluation import WindowScores

OUT = Path("demo")
EXCERPT_NOTE = '6 seconds of real music: The Easton Ellises, "Falcon 69" (MUSDB18, CC BY-NC-SA 3.0, shipped by stempeg)'
SYNTHETIC_NOTE = "30 seconds of synthetic music (scripts/demo_song.py): it shows that splitting works, not how well"


def excerpt() -> Path | None:
    """The real song inside the installed package stempeg, which is not imported: it wants an ffmpeg program."""
    spec = importlib.util.find_spec("stempeg")
    folders = spec.submodule_search_locations if spec is not None else None
    return next((song for folder in folders or () for song in Path(folder).glob("data/*.stem.mp4")), None)


def decode(path: Path, stream: int = 0) -> Tensor:
    """One audio stream of a file as `[C, T]`."""
    with AudioReader(path, stream=stream) as reader:
        return torch.cat(list(reader), dim=-1)


def sdr(true: Tensor, estimate: Tensor) -> float:
    """Signal-to-distortion ratio over the whole song, in dB."""
    scores = WindowScores(window=true.shape[-1])
    scores.add(true[None], estimate[None, :, : true.shape[-1]])
    return float(scores.global_sdr())


def synthetic() -> tuple[Path, dict[str, Tensor]]:
    stems = compose()
    song = OUT / "synthetic.wav"
    OUT.mkdir(exist_ok=True)
    write(song, sum(stems.values()))
    return song, {name: torch.from_numpy(samples.T).float() for name, samples in stems.items()}


def split(song: Path) -> dict[str, Path]:
    """Run the command as a user would; stem -> file."""
    command = ["sepctl", "split", str(song), "-o", str(OUT), "--overwrite", "--offline"]
    print("$", *(f'"{word}"' if " " in word else word for word in command), file=sys.stderr)
    done = subprocess.run([sys.executable, "-m", "separator", *command[1:]], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return {Path(line).stem: Path(line) for line in done.stdout.decode().splitlines()}


def table(song: Path, stems: dict[str, Path], true: dict[str, Tensor]) -> None:
    mix = decode(song)
    print(f"\n{'SDR, dB':<10}{'the mix':>10}{'the stem':>10}   file")
    for stem, path in stems.items():
        print(f"{stem:<10}{sdr(true[stem], mix):>10.2f}{sdr(true[stem], decode(path)):>10.2f}   {path}")
    print("(over the whole excerpt; the first column is what you get by not splitting at all)")


def main(song: Path | None) -> None:
    real = excerpt()
    if song is not None:
        print(f"{song}: no true stems to compare with, so listen:", flush=True)
        print(*split(song).values(), sep="\n")
    elif real is not None:
        print(EXCERPT_NOTE, flush=True)
        table(real, split(real), {stem: decode(real, number) for stem, number in STREAMS.items()})
    else:
        print(SYNTHETIC_NOTE, flush=True)
        made, true = synthetic()
        table(made, split(made), true)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
