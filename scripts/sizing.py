"""What a large batch needs, from one measured speed: the sizing table of docs/batch.md.

    python scripts/sizing.py --speed 40 --cores 2 --minutes 4
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from separator.audio import StemFormat

SONGS = (1_000, 100_000, 10_000_000)
MACHINES = (1, 10, 100)
FORMATS = (StemFormat("wav"), StemFormat("flac"), StemFormat("mp3"))
FLAC_SHARE = 0.55       # of the bytes of wav: what FLAC makes of music, rounded up
RATE, CHANNELS, STEMS = 44_100, 2, 4


def stem_bytes(fmt: StemFormat, minutes: float) -> float:
    """About what the four stems of a song take, 44.1 kHz stereo, by bits a second."""
    if fmt.depth is None:
        return STEMS * minutes * 60 * fmt.bits_per_second(CHANNELS) / 8
    return STEMS * minutes * 60 * RATE * CHANNELS * 2 * (FLAC_SHARE if fmt.extension == "flac" else 1.0)


def quantity(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """Two figures, with the largest unit of which there is one.

    >>> quantity(5400, ((3600, "h"), (60, "min")))
    '1.5 h'
    """
    size, unit = next(((size, unit) for size, unit in units if value >= size), units[-1])
    number = value / size
    return f"{number:,.1f} {unit}" if number < 10 else f"{float(f'{number:.2g}'):,.0f} {unit}"


def rows(x: float, cores: int, machine_cores: int, minutes: float) -> Iterator[list[str]]:
    """Songs, core hours, wall time on so many machines, and bytes. `x` times real time on `cores` cores."""
    times, sizes = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s")), ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"))
    for songs in SONGS:
        core_s = songs * minutes * 60 / (x / cores)
        yield [f"{songs:,}", f"{float(f'{core_s / 3600:.2g}'):,.0f}",
               *(quantity(core_s / machine_cores / machines, times) for machines in MACHINES),
               *(quantity(songs * stem_bytes(fmt, minutes), sizes) for fmt in FORMATS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, required=True, help="seconds of audio split in a second, measured")
    parser.add_argument("--cores", type=int, required=True, help="on so many cores")
    parser.add_argument("--machine-cores", type=int, default=16, help="cores of the machines of the table")
    parser.add_argument("--minutes", type=float, default=4.0, help="length of a song")
    options = parser.parse_args()
    an_hour = options.speed / options.cores * 60 / options.minutes
    print(f"{options.speed:g} x real time on {options.cores} cores: "
          f"{an_hour:,.0f} songs of {options.minutes:g} minutes per hour and core.\n")
    print("| songs | core hours |", " | ".join(f"{count} x {options.machine_cores} cores" for count in MACHINES), "|",
          " | ".join(fmt.extension for fmt in FORMATS), "|")
    print("|---:" * (2 + len(MACHINES) + len(FORMATS)) + "|")
    for row in rows(options.speed, options.cores, options.machine_cores, options.minutes):
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
