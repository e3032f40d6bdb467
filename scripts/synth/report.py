"""python -m scripts.synth.report REAL SYNTH --out report.png: how far made songs are from real ones, per stem."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch
from tqdm import tqdm

from scripts.synth.library import RATE, SUFFIXES, Audio, decode
from scripts.synth.mixing import loudness

matplotlib.use("Agg")
STEMS = ("vocals", "drums", "bass", "other")
BANDS = np.geomspace(31.25, 16000, 28)  # Hz, centres a third of an octave apart
MEASURES = {
    "level_db": "loudness while active against the mix, dB",
    "share_db": "power against that of the other stems, dB",
    "crest_db": "crest factor of the active parts, dB",
    "width_db": "side against middle, dB",
    "active": "share of time within 40 dB of the loudest",
    "low_share": "share of power below 200 Hz",
    "flux_db": "level change from one tenth of a second to the next, dB",
}


@dataclass(frozen=True)
class Numbers:
    """What is measured of one stem of one song; `spectrum` is dB per band against the whole."""

    values: dict[str, float]
    spectrum: NDArray[np.float64]


def read_stem(folder: Path) -> Audio | None:
    """Sum of the layers in a folder, `[2, T]`; None when there are none."""
    layers = [decode(p) for p in sorted(folder.glob("*")) if p.suffix in SUFFIXES]
    if not layers:
        return None
    out = np.zeros((2, max(layer.shape[1] for layer in layers)), np.float32)
    for layer in layers:
        out[:, : layer.shape[1]] += layer
    return out


def measure(audio: Audio, mix: Audio) -> Numbers | None:
    """Numbers of a stem `[2, T]` in its mix; None when it is silent."""
    size = RATE // 10
    power = (audio[:, : audio.shape[1] // size * size] ** 2).sum(axis=0).reshape(-1, size).mean(axis=1)
    if power.max(initial=0.0) < 1e-10:
        return None
    active = power > power.max() * 1e-4
    middle, side = audio.sum(axis=0), audio[0] - audio[1]
    hz, density = welch(middle, RATE, nperseg=8192)
    edges = np.concatenate([BANDS * 2 ** (-1 / 6), BANDS[-1:] * 2 ** (1 / 6)])
    bands = np.array([density[(hz >= low) & (hz < high)].sum() for low, high in itertools.pairwise(edges)])
    level = 10 * np.log10(power[active] + 1e-12)
    values = {
        "level_db": loudness(audio) - loudness(mix),
        "share_db": float(10 * np.log10((audio**2).sum() / (((mix - audio) ** 2).sum() + 1e-9))),
        "crest_db": float(10 * np.log10((np.abs(audio) ** 2).max() / (power[active].mean() / 2))),
        "width_db": float(10 * np.log10((side**2).sum() / ((middle**2).sum() + 1e-9) + 1e-6)),
        "active": float(active.mean()),
        "low_share": float(density[hz < 200].sum() / density.sum()),
        "flux_db": float(np.abs(np.diff(level)).mean()) if len(level) > 1 else 0.0,
    }
    return Numbers(values, 10 * np.log10(bands / bands.sum() + 1e-9))


def survey(folder: Path, limit: int) -> dict[str, list[Numbers]]:
    """Numbers of all stems of (at most `limit`) songs below a folder."""
    found: dict[str, list[Numbers]] = {stem: [] for stem in STEMS}
    songs = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for song in tqdm(songs[:limit], unit="song", desc=folder.name):
        stems = {stem: audio for stem in STEMS if (audio := read_stem(song / stem)) is not None}
        mix = np.zeros((2, max((a.shape[1] for a in stems.values()), default=0)), np.float32)
        for audio in stems.values():
            mix[:, : audio.shape[1]] += audio
        for stem, audio in stems.items():
            numbers = measure(np.pad(audio, ((0, 0), (0, mix.shape[1] - audio.shape[1]))), mix)
            if numbers is not None:
                found[stem].append(numbers)
    return found


def table(real: dict[str, list[Numbers]], made: dict[str, list[Numbers]]) -> str:
    """Medians side by side."""
    lines = [f"{'stem':8}{'measure':12}{'real':>8}{'made':>8}{'made 10 %':>11}{'made 90 %':>11}"]
    for stem in STEMS:
        for name in MEASURES:
            a, b = ([n.values[name] for n in group[stem]] for group in (real, made))
            if b:
                low, high = np.percentile(b, [10, 90])
                middle = f"{np.median(a):8.2f}" if a else f"{'-':>8}"
                lines.append(f"{stem:8}{name:12}{middle}{np.median(b):8.2f}{low:11.2f}{high:11.2f}")
    return "\n".join(lines)


def draw(real: dict[str, list[Numbers]], made: dict[str, list[Numbers]], out: Path) -> None:
    """A row of spectra, then one panel per measure."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 4, figsize=(20, 13))
    for axis, stem in zip(axes[0], STEMS, strict=True):
        for group, colour, label in ((made, "tab:orange", "made"), (real, "tab:blue", "real")):
            if group[stem]:
                spectra = np.array([n.spectrum for n in group[stem]])
                axis.semilogx(BANDS, np.median(spectra, axis=0), color=colour, label=f"{label} ({len(spectra)})")
                axis.fill_between(BANDS, *np.percentile(spectra, [10, 90], axis=0), color=colour, alpha=0.2)
        axis.set(title=f"{stem}: long-term spectrum, dB per third", ylim=(-60, 0))
        axis.legend()
    panels = axes[1:].ravel()
    for axis, (name, title) in zip(panels, MEASURES.items(), strict=False):
        for i, stem in enumerate(STEMS):
            for group, colour, shift in ((real, "tab:blue", -0.17), (made, "tab:orange", 0.17)):
                values = [n.values[name] for n in group[stem]]
                axis.plot([i + shift] * len(values), values, ".", color=colour, alpha=0.4)
                if values:
                    axis.plot([i + shift - 0.1, i + shift + 0.1], [np.median(values)] * 2, color="black", lw=2)
        axis.set(title=title, xticks=range(len(STEMS)), xticklabels=STEMS)
    for axis in panels[len(MEASURES) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(out, dpi=70)


@click.command()
@click.argument("real", type=click.Path(exists=True, path_type=Path))
@click.argument("synth", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", default="report.png", show_default=True, type=click.Path(path_type=Path), help="Picture to write."
)
@click.option("--songs", default=60, show_default=True, help="At most so many of each.")
def main(real: Path, synth: Path, out: Path, songs: int) -> None:
    """Compare the stems of REAL and SYNTH songs: a table of medians and a picture."""
    measured = survey(real, songs), survey(synth, songs)
    click.echo(table(*measured))
    draw(*measured, out)


if __name__ == "__main__":
    main()
