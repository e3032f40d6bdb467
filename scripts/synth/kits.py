"""Drum kits: recordings sorted into roles by their file names and maps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.synth.genres import GENRES
from scripts.synth.library import Library
from scripts.synth.sfz import read_sfz

LAYERS = {
    "kick": ("kick",),
    "snare": ("snare", "rim", "clap"),
    "hats": ("hat_closed", "hat_pedal", "hat_open", "shaker", "tamb"),
    "cymbals": ("ride", "ride_bell", "crash", "splash"),
    "toms": ("tom_lo", "tom_mid", "tom_hi"),
    "percussion": ("cowbell", "perc", "perc_lo"),
}
LAYER_OF = {role: layer for layer, roles in LAYERS.items() for role in roles}
GM_KEYS = {  # General MIDI's map, and two keys of Roland's kits
    "kick": (35, 36),
    "snare": (38, 40),
    "rim": (37,),
    "clap": (39,),
    "hat_closed": (22, 42),
    "hat_pedal": (44,),
    "hat_open": (26, 46),
    "tom_hi": (48, 50),
    "tom_mid": (45, 47),
    "tom_lo": (41, 43, 58),
    "crash": (49, 52, 57),
    "splash": (55,),
    "ride": (51, 59),
    "ride_bell": (53,),
    "tamb": (54,),
    "cowbell": (56,),
    "shaker": (69, 70),
}
GM_ROLES = {key: role for role, keys in GM_KEYS.items() for key in keys}
RULES = (  # first match wins
    ("", r"roll|rub|bow|cresc|rewind|spin|scratch|door|ambi|mess|cats"),
    ("hat_open", r"hat.?open|open.?hat|cymbal/open|hatopen|cymbal_open|hihat_brd_open"),
    ("hat_pedal", r"pedal"),
    ("clap", r"clap|snap"),
    ("rim", r"rim|xstick|sidestick|stick-|clave|block|elec_wood|elec_tick"),
    ("kick", r"kick|\bbd_|/bd_|drum_bass|sub-a|bdrumnew_hit"),
    ("snare", r"snare|/sn_|snr"),
    ("tamb", r"tamb|jingle|coinshake"),
    ("shaker", r"cabasa|maraca|shak|hat_cab"),
    ("cowbell", r"cowb|triangle"),
    ("hat_closed", r"hat_|hat-|hihat|hatclsd|cymbal/closed|cymbal_closed"),
    ("ride_bell", r"bell"),
    ("ride", r"ride"),
    ("splash", r"splash|cymball?-short"),
    ("crash", r"crash|cymbal_hard|cymbal_soft|cymball?-long|/cymbal|elec_cymbal|-cymbal"),
    ("tom_hi", r"tom.?(h|hi|01)\b|tom_hi|hitom|tom-03|tom-hh|timbal|tom_szpaderski_14"),
    ("tom_mid", r"tom.?m|tom_mid|midtom|tom-02|tom_szpaderski_1[58]"),
    ("tom_lo", r"tom.?l|tom_lo|lotom|tom-01|tom_rmif|/tom\b|fuzz_tom|medieval|frame_drum"),
    ("perc_lo", r"conga-l|bongo-?l|tumba|ghe|darbuka_[12]|quinto_hitfm"),
    (
        "perc",
        r"conga|bongo|quinto|darbuka|tabla|perc|guiro|bones|rods|anvil|zap|8bit|logdrum|blip|elec_p|glass-hit|bowl",
    ),
)


@dataclass(frozen=True)
class Hit:
    """One recording of a drum and the velocities it is for."""

    path: Path
    lovel: int = 0
    hivel: int = 127
    pan: float = 0.0


@dataclass
class Kit:
    """Recordings by role; `tune` semitones and `pan` by role are drawn per song."""

    name: str
    hits: dict[str, list[Hit]] = field(default_factory=dict)
    tune: dict[str, float] = field(default_factory=dict)
    pan: dict[str, float] = field(default_factory=dict)

    def choose(self, role: str, velocity: int, rng: np.random.Generator) -> Hit | None:
        held = self.hits.get(role, [])
        fits = [hit for hit in held if hit.lovel <= velocity <= hit.hivel] or held
        return fits[rng.integers(len(fits))] if fits else None


def role_of(path: Path) -> str:
    """Role of a one-shot by its file name and folder; empty when unknown."""
    text = "/".join(path.parts[-3:]).lower()
    return next((role for role, pattern in RULES if re.search(pattern, text)), "")


def pools(library: Library) -> dict[str, list[Path]]:
    """All unpitched one-shots by role."""
    found: dict[str, list[Path]] = defaultdict(list)
    folders = ("drums/oramics/pearl-master-studio", "drums/oramics-machines", "mixed/sonic-pi", "mixed/stargate")
    for path in (p for folder in folders for p in library.files(folder)):
        text = str(path).lower()
        if "loop" in text or "vocals" in text or "guitar-fx" in text or "/fx" in text or "noise" in text:
            continue
        role = role_of(path)
        if role:
            found[role].append(path)
    return dict(found)


def sfz_kit(library: Library, map_path: Path) -> Kit:
    """An acoustic kit with velocity layers from an SFZ map with General MIDI keys."""
    kit = Kit(map_path.stem)
    for region in read_sfz(map_path):
        source, role = library.find(region.sample), GM_ROLES.get(region.lokey, "")
        if source and role:
            kit.hits.setdefault(role, []).append(Hit(source, region.lovel, region.hivel, region.pan / 100))
    return kit


def draw_kit(
    library: Library, genre: str, rng: np.random.Generator, whole: Callable[[np.random.Generator], Kit | None]
) -> Kit:
    """An acoustic kit, a drum machine, or a drum from here and one from there; `whole` draws kits of other formats."""
    maps = library.files("drums/oramics/avl-drumkits-1.1", "*.sfz") if not library.permissive else []
    pool = pools(library)
    kit = Kit("mixed")
    if rng.random() < GENRES[genre].acoustic:
        drawn = whole(rng) if not maps or rng.random() < 0.5 else None
        kit = drawn or (sfz_kit(library, maps[rng.integers(len(maps))]) if maps else kit)
        for role in ("kick", "snare"):  # replaced shells, as producers do
            if rng.random() < 0.3:
                kit.hits[role] = [Hit(_acoustic(pool, role, rng))]
        if rng.random() < 0.2 or kit.name == "mixed":
            kit = _pearl(kit, library)
    elif rng.random() < 0.25:
        machines = ("CR-78", "LM-2", "MRK-2", "TR-505")
        machine = machines[rng.integers(len(machines))]
        kit = Kit(machine, {r: [Hit(p) for p in ps if machine in p.parts][:1] for r, ps in pool.items()})
        kit.hits = {role: hits for role, hits in kit.hits.items() if hits}
    return _completed(kit, pool, rng)


def _completed(kit: Kit, pool: dict[str, list[Path]], rng: np.random.Generator) -> Kit:
    """Missing roles from the pool; tuning and places."""
    for role in sorted(set(LAYER_OF) - {role for role, hits in kit.hits.items() if hits}):
        if pool.get(role):
            kit.hits[role] = [Hit(pool[role][rng.integers(len(pool[role]))])]
    spread = 2.0 if kit.name == "mixed" else 1.2
    for role in sorted(LAYER_OF):
        kit.tune[role] = float(rng.normal(0, spread))
        wide = 0.04 if role in ("kick", "snare", "rim") else 0.3
        kit.pan[role] = float(np.clip(rng.normal(0, wide), -0.9, 0.9))
    return kit


def _acoustic(pool: dict[str, list[Path]], role: str, rng: np.random.Generator) -> Path:
    real = [
        p for p in pool[role] if "karoryfer" in p.parts or "pearl-master-studio" in p.parts or "sgossner" in p.parts
    ]
    return (real or pool[role])[rng.integers(len(real or pool[role]))]


def _pearl(kit: Kit, library: Library) -> Kit:
    """Replace what the Pearl Master Studio kit has by its drums."""
    for path in library.files("drums/oramics/pearl-master-studio"):
        role = role_of(path)
        if role:
            kit.hits[role] = [Hit(path)]
    return kit
