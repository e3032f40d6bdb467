"""Decode songs once to what training reads: SRC/<song>/<stem>/<layer>.<any audio> to DST/<song>/<stem>/<layer>.npy."""

from __future__ import annotations

from pathlib import Path

import av
import click
import numpy as np
from tqdm import tqdm


def decode(path: Path, sample_rate: int) -> np.ndarray:
    """int16 `[frames, 2]` at `sample_rate`."""
    resampler = av.AudioResampler(format="flt", layout="stereo", rate=sample_rate)
    with av.open(str(path)) as container:
        frames = [f.to_ndarray() for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        frames += [f.to_ndarray() for f in resampler.resample(None)]
    audio = np.concatenate(frames, axis=1).reshape(-1, 2)
    return np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--sample-rate", default=44100, show_default=True)
def main(source: Path, destination: Path, sample_rate: int) -> None:
    """Decode every layer of every song of SOURCE below DESTINATION; what is there already is kept."""
    files = [p for p in sorted(source.glob("*/*/*")) if p.is_file()]
    for path in tqdm(files, unit="layer", disable=None):
        target = (destination / path.relative_to(source)).with_suffix(".npy")
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, decode(path, sample_rate))
        part.replace(target)


if __name__ == "__main__":
    main()
