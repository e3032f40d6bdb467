"""Rhythms on a grid of sixteenths, one bar each.

Drums: `X` accent, `x` normal, `o` ghost. Notes: any sign starts a note, `-` holds it, `.` is a rest; basses use
`r` root, `o` octave, `5` fifth, `3` third, `7` seventh, `a` approach to the next chord, chords use `x`.
"""

from __future__ import annotations

from functools import lru_cache

REST = "." * 16
DRUMS: dict[str, dict[str, tuple[str, ...]]] = {
    "@four": {
        "kick": ("x...x...x...x...", "X...x...X...x..o"),
        "clap": ("....x.......x...",),
        "snare": (REST, "....X.......X..."),
        "hat_open": ("..x...x...x...x.",),
        "hat_closed": ("xoxoxoxoxoxoxoxo", "x.x.x.x.x.x.x.x.", "ooxoooxoooxoooxo"),
        "perc": (REST, "...x..x....x..x.", ".......x..x....."),
    },
    "@pop": {
        "kick": ("X.....x.x.......", "X.......x.x.....", "X..x....x..x...."),
        "snare": ("....X.......X...",),
        "hat_closed": ("x.o.x.o.x.o.x.o.", "x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo"),
        "tamb": (REST, "....x.......x...", "x.x.x.x.x.x.x.x."),
    },
    "@rock": {
        "kick": ("X.x.....X.x.....", "X.....x.X.......", "X..x..x.x......."),
        "snare": ("....X.......X...", "....X.....o.X..o"),
        "hat_closed": ("x.x.x.x.x.x.x.x.", "X.x.X.x.X.x.X.x.", REST),
        "hat_open": (REST, REST, "x...x...x...x..."),
    },
    "@half": {
        "kick": ("X.........x.....", "X..x......x....."),
        "snare": ("........X.......",),
        "hat_closed": ("x.o.x.o.x.o.x.o.", "x...x...x...x..."),
        "rim": (REST, "........x.....x."),
    },
    "@funk": {
        "kick": ("X..x......x..x..", "X.x....x..x....."),
        "snare": ("....X..o.o..X..o", "....X.o..o.oX..o"),
        "hat_closed": ("xoxoxoxoxoxoxo.o", "x.xox.xox.xox.xo"),
        "hat_open": ("..............x.", REST),
    },
    "@boombap": {
        "kick": ("X.....x..xx.....", "X..x....x.x.....", "X.x....x..x....."),
        "snare": ("....X.......X...", "....X..o....X..o"),
        "hat_closed": ("x.x.x.x.x.x.x.x.", "x.xox.x.x.xox.x."),
    },
    "@trap": {
        "kick": ("X.....x...x.....", "X......x..x..x..", "X..x......x....."),
        "snare": ("........X.......",),
        "clap": ("........x.......", REST),
        "hat_closed": ("x.x.x.x.x.x.xxxx", "x.x.xxx.x.x.x.xx", "xxx.x.x.xxx.x.x."),
        "perc": (REST, "...x.......x...."),
    },
    "@break": {
        "kick": ("X.x.......xx....", "X.x......x.x...."),
        "snare": ("....X..o.o..X..o", "....X..o.o....X.", "....X..o.oo.X..o"),
        "hat_closed": ("x.x.x.x.x.x.x.x.",),
        "ride": (REST, "x.x.x.x.x.x.x.x."),
    },
    "@garage": {
        "kick": ("X.........x.....", "X......x..x....."),
        "snare": ("....X.......X...",),
        "hat_closed": ("..xo.ox...xo.ox.", "x.xx.xx.x.xx.xx."),
        "hat_open": ("..x...x...x...x.", REST),
        "perc": ("...x..x..x......", ".......o...o...."),
    },
    "@reggaeton": {
        "kick": ("X...x...X...x...",),
        "snare": ("...x..x....x..x.",),
        "hat_closed": ("x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo"),
        "perc": ("..x..x....x..x..", REST),
        "shaker": ("xoxoxoxoxoxoxoxo", REST),
    },
    "@metal": {
        "kick": ("xxxxxxxxxxxxxxxx", "X.xxX.xxX.xxX.xx", "X.x.X.x.X.x.X.x.", "XxxXxxXxxXxxXxxx"),
        "snare": ("....X.......X...", "..X...X...X...X.", "........X......."),
        "crash": ("X...............", "x...x...x...x..."),
        "hat_open": ("x...x...x...x...", REST),
        "ride": (REST, "x...x...x...x..."),
    },
}
BASS: dict[str, tuple[str, ...]] = {
    "pop": ("r-r-r-r-r-r-r-r-", "r-----r-r-------", "r---r---5---r---", "r---------------", "r-----5---o-a---"),
    "rock": ("r-r-r-r-r-r-r-r-", "r---r-r-r---5-a-", "r-----r-r-----o-"),
    "funk": ("r-.r..o7..r.5.oa", "r--.o..o.r.5.7a-", "r.o.r.o.r.o.r.o.", "r..rr.o...r.5.7."),
    "synth": (
        "..r-..r-..r-..r-",
        "rrrorrrorrrorrro",
        "r---------------",
        "r.o.r.o.r.o.r.o.",
        "r--r--r---r-a---",
        ".rrr.rrr.rrr.rrr",
    ),
    "808": ("r-------..r-----", "r-------------..", "r-----.r--5---o-", "r---------..a---"),
    "walk": ("r---3---5---a---", "r---5---o---a---", "r---r---3-5-a---"),
    "latin": ("r-----5-----o---", "r-----r-5-----5-", "......5-----r---", "....r-r-..5-r---"),
    "metal": ("rrrrrrrrrrrrrrrr", "r-r-r-r-r-r-r-r-", "r.rrr---r.rrr---", "r..rr..rr..rr..r"),
}
CHORDS = {
    "whole": "x---------------",
    "half": "x-------x-------",
    "quarter": "x---x---x---x---",
    "eighth": "x-x-x-x-x-x-x-x-",
    "offbeat": "..x-..x-..x-..x-",
    "charleston": "x-----x-........",
    "push": "x-----x-----x---",
    "skank": "x..x.x....x..x..",
    "clave": "x-.x-.x-..x-x-..",
    "late": "....x-......x-..",
    "sync": "..x-..x---....x-",
}
RIFFS = (
    "x---------------",
    "x-x-x-x-x-x-x-x-",
    "x.xxx.xxx.xxx.xx",
    "xxxxxxxxxxxxxxxx",
    "x-----x-----x---",
    "x..x..x.x..x..x.",
)


@lru_cache(maxsize=512)
def notes(pattern: str) -> tuple[tuple[float, float, str], ...]:
    """Beat, length in beats and sign of each note of a bar.

    >>> notes("r--.5-..")
    ((0.0, 0.75, 'r'), (1.0, 0.5, '5'))
    """
    starts = [i for i, sign in enumerate(pattern) if sign not in ".-"]
    out = []
    for i in starts:
        end = i + 1
        while end < len(pattern) and pattern[end] == "-":
            end += 1
        out.append((i / 4, (end - i) / 4, pattern[i]))
    return tuple(out)
