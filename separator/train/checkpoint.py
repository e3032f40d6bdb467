"""Checkpoints: written completely or not at all, and only read into the run that they belong to."""

from __future__ import annotations

import io
import json
import pickle
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from separator.atomic import replacing
from separator.errors import ConfigError, ModelError, ResourceError
from separator.train.config import Config

# Keys that may change when a run is resumed: none of them alters a step that is already made. Folders may, because
# the fingerprints say whether what is in them is the same.
HARMLESS = (
    "budget", "data.valid.folder", "data.valid.generate", "data.threads", "model.description",
    "model.licence", "model.attribution", "model.source", "model.training", "model.scores",
)  # fmt: skip
NETWORK = ("model.spec", "model.stems", "model.sample_rate", "model.channels", "model.n_fft", "model.hop")
ABSENT = "absent"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write atomically and durably. Raises `ResourceError` on a full disk; the checkpoint before stays."""
    buffer = io.BytesIO()  # torch's own writer turns a full disk into an error of its own kind
    torch.save(dict(state), buffer)
    try:
        with replacing(path) as file:
            file.write(buffer.getbuffer())
    except ResourceError as error:
        hint = "free some space and go on with --resume: the checkpoint before this one is sound"
        raise ResourceError(error.fact, hint=hint) from error


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint. Raises `ConfigError` where there is none, `ModelError` where it is damaged."""
    if not path.exists():
        raise ConfigError(f"{path.parent}: no checkpoint to resume from", hint="leave --resume out to begin a run")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or "step" not in state:
            raise ValueError("not a checkpoint of sepctl")
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} is truncated or damaged: {reason}",
            hint="put a copy of it there, or begin again with another --out; the best model so far is not affected",
        ) from error
    return state


def refuse_other(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` that names what differs between two `{"config": ..., "data": fingerprints}`."""
    for key, (old, new) in sorted(differences(_completed(before["config"]), now["config"]).items()):
        if key.startswith(HARMLESS) or (key.startswith("data.train.") and key.endswith((".folder", ".generate"))):
            continue
        what = "is of another architecture" if key.startswith(NETWORK) else "was made with another configuration"
        value = old if isinstance(old, str) else json.dumps(old)
        same = "" if ABSENT in (old, new) else f"--set {shlex.quote(f'{key}={value}')} goes on as before; "
        raise ConfigError(
            f"{folder}: the checkpoint {what}: {key} was {old}, and is {new}",
            hint=f"{same}{folder / 'config.yaml'} tells what it was; a new run needs another --out",
        )
    for source, (old, new) in sorted(differences(before["data"], now["data"]).items()):
        raise ConfigError(
            f"{folder}: what {source} names has changed since the checkpoint ({old:.8} then, {new:.8} now)",
            hint="put back what was there, or begin a new run with another --out",
        )


def _completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the defaults of keys that are younger than it; as it is where it is no configuration any more."""
    try:
        completed: Mapping[str, Any] = json.loads(Config.model_validate(config).model_dump_json())
    except ValidationError:
        return config
    return completed


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both; `absent` where one lacks the key."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    pairs = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in {**old, **new}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else None
    if items is None:
        yield prefix.removesuffix("."), node
        return
    for key, value in items:
        yield from _leaves(value, f"{prefix}{key}.")
