"""Reads the files of Open-Unmix: a folder with one pickled state dictionary (.pth) per stem.

Only tensors are unpickled (`weights_only`), so a crafted file cannot run code. The architecture is read off the
tensors' shapes; the file `separator.json` that the Open-Unmix trainer writes is used for rate and hop if it is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from separator.card import ModelCard, UmxSpec
from separator.errors import ModelError
from separator.modelfile import assemble, file_sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

STEMS = ("vocals", "drums", "bass", "other")                    # the usual ones, in the order the card lists them
DROPPED = ("stft.window", "transform.0.window", "sample_rate")  # extra keys in the files of version 1.0
DEFAULT_RATE = 44100                                            # Hz, where nothing says otherwise


def find_pth(folder: Path) -> dict[str, Path]:
    """Stem -> its .pth file: the usual stems first, then others by name.

    A file belongs to the usual stem that its name begins with (`vocals.pth`, `vocals-b62c91ce.pth`), else to
    the stem named by the part before the first of `-_.`. Raises `ModelError` if there is none, or two for one stem.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder",
                         hint="name the folder that holds one .pth file per stem: vocals.pth, drums.pth, ...")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.pth")):
        name = path.name.lower()
        stem = next((stem for stem in STEMS if name.startswith(stem)), re.split(r"[-_.]", name)[0])
        if stem in found:
            raise ModelError(f"{folder} has two files for {stem}: {found[stem].name} and {path.name}",
                             hint="keep the one you want in a folder of its own")
        found[stem] = path
    if not found:
        raise ModelError(f"{folder} holds no .pth files",
                         hint="expected one per stem: vocals.pth, drums.pth, bass.pth, other.pth")
    usual = [stem for stem in STEMS if stem in found]
    return {stem: found[stem] for stem in [*usual, *sorted(found.keys() - set(usual))]}


def import_umx(folder: Path, name: str, **fields: Any) -> tuple[ModelCard, nn.Module]:
    """Card and estimator from a folder of Open-Unmix .pth files; `fields` complete the card (licence, source, ...).

    Raises `ModelError` naming the file for pickles that hold anything but tensors, for missing, unknown or
    wrongly shaped keys, for numbers that are not finite, and where the stems' networks differ in shape.
    """
    paths = find_pth(folder)
    states = {stem: _read_pth(path) for stem, path in paths.items()}
    forms = {stem: _infer(paths[stem], state) for stem, state in states.items()}
    first = next(iter(forms))
    for stem, form in forms.items():
        if form != forms[first]:
            raise ModelError(f"{paths[stem].name} and {paths[first].name} are networks of different shape",
                             hint="one model holds networks of one shape: import them apart")
    rates = [float(state["sample_rate"]) for state in states.values() if "sample_rate" in state]
    form = forms[first] | {"sample_rate": round(rates[0]) if rates else DEFAULT_RATE} | _read_json(folder)
    files = {stem: {"file": path.name, "sha256": file_sha256(path)} for stem, path in paths.items()}
    defaults = {"wiener": 1, "description": "Open-Unmix", "training": {"imported": files},
                "complete": set(paths) == set(STEMS)}       # of others nobody can tell whether they sum to the mix
    try:
        card = ModelCard.model_validate({"name": name, "stems": tuple(paths), **form, **defaults, **fields})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        hint = "a name is made of lower-case letters, digits and . _ -" if place == "name" else ""
        raise ModelError(f"{folder} cannot be imported as {name!r}: {place or 'its card'}: {fault['msg']}",
                         hint=hint or "sepctl runs Open-Unmix networks with the usual transforms only") from error
    weights = {f"{stem}.{key}": tensor for stem, state in states.items() for key, tensor in state.items()
               if key not in DROPPED}
    return card, assemble(str(folder), card, weights)


def _read_pth(path: Path) -> Mapping[str, Tensor]:
    """The state dictionary in a .pth file; nothing but tensors and plain containers is ever unpickled."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}", hint="check its permissions") from error
    except Exception as error:  # a damaged or crafted pickle may fail in any way; none of them is a bug of ours
        raise ModelError(f"{path} is not a file of plain tensors ({type(error).__name__})",
                         hint="it is damaged, or not an Open-Unmix state dictionary: get it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} holds more than a state dictionary",
                         hint="import the .pth files, not the trainer's .chkpnt files")
    return state


def _infer(path: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The card's fields that the tensors' shapes tell. Whatever is inconsistent fails later, at the strict check."""
    try:
        hidden, inputs = state["fc1.weight"].shape
        (kept,), (bins,) = state["input_mean"].shape, state["output_mean"].shape
        layers = sum(re.fullmatch(r"lstm\.weight_ih_l\d+", key) is not None for key in state)
        spec = UmxSpec(hidden=hidden, layers=layers, kept_bins=kept,
                       bidirectional="lstm.weight_ih_l0_reverse" in state)
        n_fft = 2 * (bins - 1)
        return {"spec": spec, "channels": inputs // kept, "n_fft": n_fft, "hop": n_fft // 4}
    except KeyError as error:
        raise ModelError(f"{path} is not an Open-Unmix network: it has no {error.args[0]}",
                         hint="expected the state dictionary of one openunmix.model.OpenUnmix") from error
    except (ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{path} is not an Open-Unmix network: its tensors have other shapes",
                         hint="expected the state dictionary of one openunmix.model.OpenUnmix") from error


def _read_json(folder: Path) -> dict[str, Any]:
    """Rate and transform from `separator.json`, as far as it is there."""
    path = folder / "separator.json"
    if not path.exists():
        return {}
    names = {"sample_rate": "sample_rate", "nfft": "n_fft", "nhop": "hop"}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {ours: round(settings[theirs]) for theirs, ours in names.items() if theirs in settings}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="repair or remove it") from error
