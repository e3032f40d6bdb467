"""The whole of a training run, as one typed, frozen configuration read from one YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from separator.card import Frozen, ModelCard, TrunkSpec
from separator.errors import ConfigError
from separator.train.augment import Augment
from separator.train.excerpts import Data
from separator.train.losses import Loss


class Optim(Frozen):
    """AdamW with warm-up and a cosine that reaches zero when the budget does."""

    lr: PositiveFloat = 1e-3  # peak step
    batch_size: PositiveInt = 8
    weight_decay: NonNegativeFloat = 1e-2
    clip_norm: PositiveFloat = 5.0  # of the gradient; recurrent layers spike
    warmup: float = Field(default=0.03, ge=0, lt=1)  # share of the budget
    ema: float = Field(default=0.999, ge=0, lt=1)  # decay per step of the averaged weights that are kept
    bf16: bool = False  # networks in bfloat16 where the processor has it: half the time


class Budget(Frozen):
    """When to stop: exactly one of the two."""

    max_steps: PositiveInt | None = None
    max_minutes: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.max_steps is None) == (self.max_minutes is None):
            raise ValueError("give exactly one of max_steps and max_minutes")
        return self


class Config(Frozen):
    """One experiment."""

    model: ModelCard
    data: Data
    augment: Augment = Augment()
    loss: Loss = Loss()
    optim: Optim = Optim()
    budget: Budget
    seed: int = 0
    validate_every: PositiveInt = 400  # steps

    @model_validator(mode="after")
    def _fits(self) -> Config:
        spec = self.model.spec
        if not isinstance(spec, TrunkSpec):
            raise ValueError(f"networks of the family {spec.family} cannot be trained yet, only trunk")
        if max(spec.fine_bins + spec.mask_bands, spec.input_bands) > self.model.bins:
            raise ValueError(f"model.spec asks for more bands than the {self.model.bins} bins there are")
        if self.data.rows % self.optim.batch_size:
            raise ValueError(f"data.rows {self.data.rows} must be a multiple of batch_size {self.optim.batch_size}")
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key.subkey=value` overrides, and validate.

    Raises `ConfigError` that names the file and the dotted key, and the nearest known key for an unknown one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values", hint="see configs/mini.yaml")
    for override in overrides:
        _apply(raw, override)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _explain(path, error) from error


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in what the file says; numbers in it count in lists."""
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected KEY=VALUE", hint="for example --set optim.lr=3e-4")
    *parents, last = dotted.split(".")
    node: Any = raw
    try:
        value = yaml.safe_load(text)
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not YAML", hint="quote it for the shell") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        hint = "the keys stand in docs/training.md"
        raise ConfigError(f"--set {override}: there is no such place", hint=hint) from error


def _explain(path: Path, error: ValidationError) -> ConfigError:
    """The first unknown key, which is mostly why another one is missing; else the first complaint."""
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    dotted = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return ConfigError(f"{path}: {dotted or 'configuration'}: {first['msg']} (got {first['input']!r:.80})")
    near = difflib.get_close_matches(dotted, list(_keys(Config)), n=1)
    hint = f"did you mean {near[0]}?" if near else "the keys stand in docs/training.md"
    return ConfigError(f"{path}: unknown key {dotted}", hint=hint)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
