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

Probability = float


class Source(Frozen):
    """A folder of prepared songs (`scripts/prepare.py`) and how often to draw from it."""

    folder: Path  # holds <song>/<stem>/<layer>.npy
    weight: PositiveFloat = 1.0  # relative to the other sources


class Data(Frozen):
    """Where excerpts come from, and how they are drawn."""

    train: tuple[Source, ...] = Field(min_length=1)
    valid: Path  # a folder of prepared songs, never trained on
    excerpt_s: PositiveFloat = 6.0  # Open-Unmix's length: a few bars
    valid_excerpts: PositiveInt = 48  # evenly spaced over the validation songs
    silent: float = Field(default=0.1, ge=0, le=1)  # share of silent excerpts accepted: absence must be learnt too
    drop_layer: float = Field(default=0.15, ge=0, le=1)  # probability that a layer of a stem is left out
    rows: PositiveInt = 32  # excerpts transformed together and remixed among themselves
    stride: PositiveInt = 2  # the loss reads every second frame: neighbours share 3/4 of their samples
    remixes: PositiveInt = 4  # times a row is used before it is drawn anew: saves decoding and transforms


class Augment(Frozen):
    """Changes of each stem in each mix; linear, so that they are exact in the transform domain."""

    coherent: float = Field(default=0.3, ge=0, le=1)  # share of mixes whose stems stay together
    drop_stem: float = Field(default=0.1, ge=0, le=1)  # probability that a stem is silent in a mix
    balance: bool = True  # bring the stems of incoherent mixes to one level first: none drowns
    gain_db: NonNegativeFloat = 6.0  # uniform in +-gain_db per stem
    swap: float = Field(default=0.5, ge=0, le=1)  # probability that left and right change places
    polarity: float = Field(default=0.5, ge=0, le=1)  # probability that a stem is turned upside down
    pan_db: NonNegativeFloat = 3.0  # uniform difference of level between the channels
    equalise_db: NonNegativeFloat = 4.0  # standard deviation of a smooth random response per stem


class Loss(Frozen):
    """Thresholded signal-to-distortion ratio (Wisdom et al., ICASSP 2021), full band and per band group."""

    threshold_db: PositiveFloat = 20.0  # errors this far below the mix no longer count: more would pay for silencing
    groups: PositiveInt = 8  # band groups judged one by one, so that quiet treble counts as well
    group_share: float = Field(default=0.5, ge=0, le=1)  # weight of the groups against the full band


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
