"""Mean and standard deviation of a network's input over un-augmented mixes, measured once and kept.

Kept in a file named by a key over everything the figures depend on, so that a change of the data, the transform, the
features or the program measures anew, and runs that share all of these share the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from separator import __version__
from separator.atomic import replacing
from separator.errors import SepctlError
from separator.train.excerpts import Excerpts

MIXES = 128  # at 6 s each, thirteen minutes of music


@dataclass(frozen=True)
class Statistics:
    """Per feature. Shapes: `[K]`, float32."""

    mean: Tensor
    std: Tensor


def statistics(
    features: Callable[[Tensor], Tensor],
    excerpts: Excerpts,
    n_fft: int,
    hop: int,
    *,
    key: Mapping[str, Any],
    folder: Path,
    mixes: int = MIXES,
) -> Statistics:
    """The statistics of `features`, from `folder` where they were measured before, else measured and kept there.

    `features` maps the power spectra `[1, C, F, T]` of one mix to `[N, K]`. `key` tells what they and the songs are:
    the model's specification and the data's fingerprint; the rest is added here. A folder that cannot be written to is
    no error: the figures are then measured every time.
    """
    data = excerpts.data
    known = {"key": dict(key), "stems": excerpts.stems, "length": excerpts.length, "seed": excerpts.seed,
             "n_fft": n_fft, "hop": hop, "mixes": mixes, "rows": data.rows, "silent": data.silent,
             "draws": 2,  # raised when rows are drawn in another way
             "sources": [source.weight for source in data.train], "version": __version__}
    name = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()
    path = folder / f"{name}.safetensors"
    try:
        return Statistics(**safetensors.torch.load_file(path))
    except (OSError, SafetensorError, TypeError):  # not there, or damaged
        found = measured(features, excerpts, n_fft, hop, mixes)
    with suppress(SepctlError), replacing(path) as file:
        file.write(safetensors.torch.save({"mean": found.mean, "std": found.std}))
    return found


def measured(
    features: Callable[[Tensor], Tensor], excerpts: Excerpts, n_fft: int, hop: int, mixes: int = MIXES
) -> Statistics:
    """Mean and standard deviation over all frames of the first `mixes` rows, each un-augmented and mixed as it is.

    One mix at a time, so memory does not depend on their number. Moments are joined in double precision by the update
    of Chan, Golub & LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979).
    """
    plain = excerpts.plain()
    window = torch.hann_window(n_fft)
    count, mean, spread = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for n in range(mixes):
        block, index = divmod(n, plain.data.rows)
        mix = plain.row(block, 0, index).sum(dim=0)  # [C, T]
        power = torch.stft(mix, n_fft, hop, window=window, center=False, return_complex=True).abs().square()
        with torch.no_grad():
            here = features(power[None]).double()  # [N, K]
        gap = here.mean(dim=0) - mean
        total = count + len(here)
        spread = spread + (here - here.mean(dim=0)).square().sum(dim=0) + gap.square() * (count * len(here) / total)
        mean, count = mean + gap * (len(here) / total), total
    return Statistics(mean.float(), (spread / count).sqrt().float())
