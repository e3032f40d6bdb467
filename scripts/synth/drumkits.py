"""Drum kits of the Hydrogen drum machine (drumkit.xml), sorted into the roles of `kits`."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from scripts.synth.kits import GM_ROLES, Hit, Kit
from scripts.synth.library import Library
from scripts.synth.orchestra import KITS
from scripts.synth.soundfont import open_font

PERMISSIVE = (
    "Audiophob",
    "ElectricEmpireKit",
    "HardElectro1",
    "VariBreaks",
)  # CC0, or all rights granted by the author
ROLES = (
    ("", r"roll|demo"),
    ("kick", r"kick|bass ?drum|\bbd|b\. ?drum"),
    ("rim", r"rim|stick|side|clave"),
    ("clap", r"clap"),
    ("snare", r"snare|\bsd|snr|sn\b"),
    ("hat_open", r"open|semi|hho"),
    ("hat_pedal", r"pedal|foot"),
    ("hat_closed", r"hat|hh"),
    ("ride_bell", r"bell|cup"),
    ("ride", r"ride"),
    ("splash", r"splash"),
    ("crash", r"crash|china|cym"),
    ("tom_lo", r"(floor|low|lo|l).{0,3}tom|tom.{0,3}(low|lo|l\b|3)|djembe.*bass|surdo"),
    ("tom_hi", r"(hi|high|h).{0,3}tom|tom.{0,3}(hi|h\b|1)"),
    ("tom_mid", r"tom"),
    ("cowbell", r"cow|agogo|triangle"),
    ("shaker", r"shak|marac|cabasa"),
    ("tamb", r"tamb"),
    ("perc_lo", r"bass|low|dun"),
    ("perc", r"conga|bongo|djembe|slap|tone|perc|block|fx|timb|hand"),
)


def role_of(name: str) -> str:
    """Role of an instrument by its name; empty when unknown."""
    return next((role for role, pattern in ROLES if re.search(pattern, name.lower())), "")


def read_kit(folder: Path) -> Kit:
    """Every instrument's velocity layers; names without meaning are left out."""
    text = re.sub(r'\sxmlns="[^"]*"', "", (folder / "drumkit.xml").read_text(encoding="utf-8", errors="replace"))
    kit = Kit(folder.name)
    for instrument in ElementTree.fromstring(text).iter("instrument"):
        role = role_of(instrument.findtext("name") or "")
        layers = list(instrument.iter("layer"))
        files = [(folder / (layer.findtext("filename") or ""), layer) for layer in layers]
        if not layers and instrument.findtext("filename"):
            files = [(folder / (instrument.findtext("filename") or ""), instrument)]
        for path, layer in files:
            if role and path.is_file():
                low, high = float(layer.findtext("min") or 0), float(layer.findtext("max") or 1)
                kit.hits.setdefault(role, []).append(Hit(path, int(low * 127), int(high * 127)))
    return kit


def draw_whole(library: Library, rng: np.random.Generator) -> Kit | None:
    """A Hydrogen kit or the drums of a SoundFont; None when neither is installed."""
    folders = kits(library.drumkits, library.permissive) if library.drumkits else []
    if folders and rng.random() < 0.6:
        return read_kit(folders[rng.integers(len(folders))])
    if library.fonts:
        font = open_font(library.fonts[rng.integers(len(library.fonts))])
        regions = font.preset(128, KITS[rng.integers(len(KITS))], library) or font.preset(128, 0, library)
        kit = Kit("general-midi")
        for region in regions:
            for key in range(region.lokey, region.hikey + 1):
                if key in GM_ROLES and region.lovel <= region.hivel:
                    kit.hits.setdefault(GM_ROLES[key], []).append(
                        Hit(region.sample, region.lovel, region.hivel, region.pan / 100)
                    )
        return kit
    return None


def kits(folder: Path, permissive: bool) -> list[Path]:
    """Folders of usable kits."""
    found = sorted(p.parent for p in folder.glob("*/drumkit.xml"))
    return (
        [p for p in found if p.name in PERMISSIVE]
        if permissive
        else [p for p in found if "rumpf" not in p.name and "BJA" not in p.name]
    )
