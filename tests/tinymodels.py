"""Tiny Open-Unmix networks as files, and registries that know where they are served."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from openunmix.model import OpenUnmix

from separator.registry import Registry

STEMS = ("vocals", "drums")


def make_umx(seed: int, hidden: int = 8, unidirectional: bool = False, channels: int = 2, layers: int = 3) -> OpenUnmix:
    """A network in which nothing is at its initial value."""
    torch.manual_seed(seed)
    network = OpenUnmix(nb_bins=33, nb_channels=channels, hidden_size=hidden, nb_layers=layers,
                        unidirectional=unidirectional, max_bin=21).eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0) if name.endswith(("var", "scale")) else tensor.normal_(0, 0.4)
    return network


def pth(seed: int) -> bytes:
    """The bytes of one .pth file."""
    buffer = io.BytesIO()
    torch.save(make_umx(seed).state_dict(), buffer)
    return buffer.getvalue()


def write_registry(path: Path, base_url: str, files: dict[str, bytes]) -> None:
    """Two remote models of the same files, the second under a licence that must be accepted, and a bundled one."""
    lines = ["mini: {summary: bundled one, stems: [vocals, drums], licence: MIT}"]
    for name, more in (("tiny", "licence: MIT"), ("strict", "licence: CC-BY-NC-SA-4.0, must_accept: true")):
        lines.append(f"{name}:\n  {{summary: served one, stems: [vocals, drums], {more}, attribution: [Tester],"
                     f" source: here, card: {{wiener: 2}}, scored_on: nothing, sdr_db: {{vocals: 6.0, drums: 4.0}},"
                     f" files: {{")
        for number, (stem, body) in enumerate(files.items()):
            digest = hashlib.sha256(body).hexdigest()[:64 if number else 8]     # whole, or the beginning only
            lines.append(f"    {stem}: {{url: '{base_url}/{stem}.pth', sha256: '{digest}', size: {len(body)}}},")
        lines.append("  }}")
    path.write_text("\n".join(lines))


def make_registry(folder: Path, base_url: str, files: dict[str, bytes]) -> Registry:
    """A registry with its own cache and its own folder of bundled models, all in `folder`."""
    write_registry(folder / "registry.yaml", base_url, files)
    return Registry.from_yaml(folder / "registry.yaml", weights=folder / "weights", cache=folder / "cache")
