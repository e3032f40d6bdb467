"""General MIDI timbres for the kinds of layers that `other` and `bass` play, out of SoundFont banks."""

from __future__ import annotations

import numpy as np

from scripts.synth.library import Library
from scripts.synth.sampler import Sampler
from scripts.synth.soundfont import open_font

PROGRAMS: dict[str, tuple[int, ...]] = {
    "piano": (0, 1, 2, 3, 6, 0),
    "epiano": (4, 5, 7, 4, 5),
    "organ": (16, 17, 18, 19, 20, 21, 22),
    "strum": (24, 25, 25, 26),
    "clean": (24, 25, 26, 27, 28, 46),
    "skank": (26, 27, 28, 7),
    "offbeat": (25, 26, 27, 28, 0),
    "power": (29, 30),
    "lead_guitar": (29, 30, 27),
    "strings": (48, 48, 49, 50, 51, 44),
    "brass": (61, 61, 62, 63, 56, 57, 60),
    "pad": (88, 89, 90, 92, 93, 94, 95, 49, 50),
    "lead": (80, 81, 82, 83, 84, 86, 87, 73, 65),
    "pluck": (8, 9, 10, 11, 12, 13, 14, 15, 45, 46, 104, 106, 107, 108),
    "arp": (11, 12, 46, 98, 10, 104, 6),
    "supersaw": (81, 90, 50),
    "stab": (61, 62, 55, 48),
    "solo": (40, 41, 42, *range(56, 61), *range(64, 69), *range(70, 76), 79, 21, 22, 104, 105, 107, 109, 110, 111),
    "electric": (33, 33, 34, 35),
    "slap": (36, 37),
    "pick": (34,),
    "upright": (32, 43, 42),
    "synth": (38, 39),
    "growl": (34,),
}
KITS = (0, 0, 8, 16, 24, 25, 32, 40, 48)  # standard, room, power, electronic, TR-808, jazz, brush, orchestra


def timbre(kind: str, library: Library, rng: np.random.Generator) -> Sampler | None:
    """A random General MIDI instrument for a kind of layer; None without banks."""
    if not library.fonts or kind not in PROGRAMS:
        return None
    font = open_font(library.fonts[rng.integers(len(library.fonts))])
    programs = PROGRAMS[kind]
    regions = font.preset(0, programs[rng.integers(len(programs))], library)
    return Sampler(regions, library, release_s=float(rng.uniform(0.06, 0.2))) if regions else None
