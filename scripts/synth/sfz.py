"""Reader of SFZ maps: which recording sounds for which key and velocity (https://sfzformat.com)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HEADER = re.compile(r"<(\w+)>")
OPCODE = re.compile(r"([\w$]+)=(.*?)(?=\s+[\w$]+=|\s*<\w+>|$)")
LEVELS = ("global", "master", "group", "region")
NAMES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}


@dataclass(frozen=True)
class Region:
    """One recording and when it sounds; levels in dB, tuning in cents, offset in samples of the original file."""

    sample: Path
    lokey: int = 0
    hikey: int = 127
    keycenter: int = 60
    lovel: int = 0
    hivel: int = 127
    position: int = 1  # round robin, counted from 1
    length: int = 1
    lorand: float = 0.0
    hirand: float = 1.0
    volume_db: float = 0.0
    tune_cents: float = 0.0
    pan: float = 0.0
    offset: int = 0
    release_s: float = 0.0
    group: int = 0
    off_by: int = 0
    trigger: str = "attack"
    keyswitch: int | None = None  # sounds only after this key was the last switch pressed
    loop: tuple[int, int] | None = None  # samples
    attack_s: float = 0.0
    decay_s: float = 0.0
    sustain: float = 1.0


def key_number(text: str) -> int:
    """MIDI number of `60`, `c4` or `f#3` (C4 = 60)."""
    text = text.strip().lower()
    match = re.fullmatch(r"([a-g])([#b]?)(-?\d+)", text)
    if not match:
        return int(float(text))
    name, sign, octave = match.groups()
    return NAMES[name] + {"#": 1, "b": -1, "": 0}[sign] + 12 * (int(octave) + 1)


def read_sfz(path: Path) -> list[Region]:
    """Regions of the map at `path`; includes that are missing are left out, unknown opcodes ignored."""
    held: dict[str, dict[str, str]] = {level: {} for level in LEVELS}
    prefix, level, found = "", "", []
    for kind, name, value in _tokens(path, {}, 0):
        if kind == "header":
            if level == "region":
                found.append(_region({k: v for at in LEVELS for k, v in held[at].items()}, path.parent, prefix))
            level = name
            for inner in LEVELS[LEVELS.index(name) :] if name in LEVELS else ():
                held[inner] = {}
        elif level == "control" and name == "default_path":
            prefix = value
        elif level in LEVELS:
            held[level][name] = value
    if level == "region":
        found.append(_region({k: v for at in LEVELS for k, v in held[at].items()}, path.parent, prefix))
    return [region for region in found if region is not None]


def _tokens(path: Path, defines: dict[str, str], depth: int) -> list[tuple[str, str, str]]:
    """Headers and opcodes of a file and of what it includes, in order, with `#define`s replaced."""
    if depth > 8 or not path.is_file():
        return []
    tokens: list[tuple[str, str, str]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = line.split("//")[0].strip()
        if line.startswith("#define"):
            name, value = line.split()[1:3]
            defines[name] = value
            continue
        for name in sorted(defines, key=len, reverse=True):
            line = line.replace(name, defines[name])
        if line.startswith("#include"):
            inner = line.split('"')[1].replace("\\", "/")
            tokens += _tokens(path.parent / inner, defines, depth + 1)
            continue
        tokens += _line_tokens(line)
    return tokens


def _line_tokens(line: str) -> list[tuple[str, str, str]]:
    tokens = [(m.start(), ("header", m[1], "")) for m in HEADER.finditer(line)]
    tokens += [(m.start(), ("opcode", m[1].lower(), m[2].strip())) for m in OPCODE.finditer(line)]
    return [token for _, token in sorted(tokens)]


def _region(values: dict[str, str], folder: Path, prefix: str) -> Region | None:
    if "sample" not in values or values["sample"].startswith("*"):
        return None
    key = values.get("key")

    def number(name: str, default: float) -> float:
        try:
            return float(values.get(name, default))
        except ValueError:
            return default

    def keyed(name: str, default: int) -> int:
        return key_number(values[name]) if name in values else key_number(key) if key else default

    switch = values.get("sw_last")
    return Region(
        sample=folder / (prefix + values["sample"]).replace("\\", "/"),
        lokey=keyed("lokey", 0),
        hikey=keyed("hikey", 127),
        keycenter=keyed("pitch_keycenter", 60),
        lovel=int(number("lovel", 0)),
        hivel=int(number("hivel", 127)),
        position=int(number("seq_position", 1)),
        length=int(number("seq_length", 1)),
        lorand=number("lorand", 0.0),
        hirand=number("hirand", 1.0),
        volume_db=number("volume", 0.0) + number("group_volume", 0.0),
        tune_cents=number("tune", 0.0),
        pan=number("pan", 0.0),
        offset=int(number("offset", 0)),
        release_s=number("ampeg_release", 0.0),
        group=int(number("group", 0)),
        off_by=int(number("off_by", number("offby", 0))),
        trigger=values.get("trigger", "attack"),
        keyswitch=key_number(switch) if switch else None,
    )
