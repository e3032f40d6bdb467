"""The whole of a training run, as one typed, frozen configuration read from one YAML file."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, PositiveInt, ValidationError, model_validator

from separator.card import Frozen, ModelCard, TrunkSpec
from separator.errors import ConfigError
from separator.train.augment import Augment
from separator.train.excerpts import Data
from separator.train.losses import Loss
from separator.train.optimiser import Optim
from separator.train.schedule import Budget


class Config(Frozen):
    """One experiment. Each part has its class beside the code that obeys it, with a reason for every default."""

    model: ModelCard
    data: Data
    augment: Augment = Augment()
    loss: Loss = Loss()
    optim: Optim = Optim()
    budget: Budget
    start_from: str | None = None  # a model, by name or file, whose weights the run begins with; None: random ones
    epoch_steps: PositiveInt = 400  # an epoch: steps from one validation to the next; a few minutes of mini
    seed: int = Field(default=0, ge=0, lt=2**63)  # what torch takes, and NumPy

    @property
    def sources(self) -> tuple[str, ...]:
        """The stems that make up the mix."""
        return self.data.stems or self.model.stems

    @property
    def noisy(self) -> int | None:
        """The one of the sources that noise belongs to; None where there is to be none."""
        wanted = self.augment.noise.p > 0 and self.model.residual is not None
        return self.sources.index(self.model.residual) if wanted else None

    @model_validator(mode="after")
    def _fits(self) -> Config:
        for fault in (self._network_fault(), self._stems_fault(), self._batch_fault(), self._loss_fault()):
            if fault:
                raise ValueError(fault)
        return self

    def _network_fault(self) -> str | None:
        spec, bins = self.model.spec, self.model.bins
        if isinstance(spec, TrunkSpec):
            too_many = max(spec.fine_bins + spec.mask_bands, spec.input_bands) > bins
            return f"model.spec asks for more bands than the {bins} bins there are" if too_many else None
        if spec.kept_bins > bins:
            return f"model.spec.kept_bins {spec.kept_bins} exceeds the {bins} bins there are"
        if spec.bidirectional and spec.hidden % 2:
            return f"model.spec.hidden {spec.hidden} must be even: half of it goes to each direction"
        return None

    def _stems_fault(self) -> str | None:
        if self.model.channels != 2:
            return f"model.channels {self.model.channels}: songs are prepared in stereo, so train with 2"
        if len(set(self.sources)) != len(self.sources):
            return f"data.stems are named twice: {', '.join(self.sources)}"
        if missing := [stem for stem in self.model.stems if stem not in self.sources]:
            return f"model.stems has {missing[0]}, which is not one of data.stems ({', '.join(self.sources)})"
        if len(self.sources) == 1:
            return f"the mix would be {self.sources[0]} alone: name in data.stems all that it is made of"
        if self.augment.noise.p and self.model.residual is None:
            return "augment.noise needs model.residual, the stem that it belongs to"
        if self.data.stems is None and not self.model.complete:
            return "model.complete is false, so name in data.stems all that the mix is made of"
        extra = [stem for stem in self.sources if stem not in self.model.stems]
        if extra and self.model.complete:
            return f"model.complete must be false: the mix holds {extra[0]}, which the model does not give out"
        return None

    def _batch_fault(self) -> str | None:
        optim = self.optim
        if optim.batch_size % optim.micro_batches:
            return (f"optim.batch_size {optim.batch_size} must be a multiple of optim.micro_batches"
                    f" {optim.micro_batches}")
        if self.data.rows % optim.lane_items:
            return f"data.rows {self.data.rows} must be a multiple of the {optim.lane_items} items of a (micro-)batch"
        return None

    def _loss_fault(self) -> str | None:
        if self.loss.exact_sum and len(self.sources) > len(self.model.stems):
            return "loss.exact_sum is for models that give out the whole mix: data.stems holds more than model.stems"
        if self.loss.waveform_l1 and self.data.stride > 1:
            return f"loss.waveform_l1 needs every frame: set data.stride to 1 (it is {self.data.stride})"
        length = round(self.data.excerpt_s * self.model.sample_rate)
        if length < 2 * self.model.n_fft:
            return f"data.excerpt_s {self.data.excerpt_s} is too short: less than two windows of model.n_fft"
        frames = 1 + (length - self.model.n_fft) // self.model.hop
        if self.data.stride > frames:
            return f"data.stride {self.data.stride} exceeds the {frames} frames of an excerpt"
        return None

    def with_lanes(self, processes: int) -> Config:
        """The same with a lane for each process at least. Raises `ConfigError` where lanes cannot be shared out."""
        lanes = self.optim.micro_batches
        if lanes % processes == 0:
            return self
        if lanes > 1:
            raise ConfigError(f"optim.micro_batches {lanes} must be a multiple of the {processes} processes")
        try:
            optim = {**self.optim.model_dump(), "micro_batches": processes}
            return Config.model_validate({**self.model_dump(), "optim": optim})
        except ValidationError as error:
            raise ConfigError(f"{processes} processes: {_told(error.errors()[0])}") from error

    def as_yaml(self) -> str:
        """Every key with its value, as `load` reads it."""
        plain = json.loads(self.model_dump_json())
        text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
        return text


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key.subkey=value` overrides, and validate.

    Raises `ConfigError` that names the file and the dotted key, and the nearest known key for an unknown one.
    """
    try:
        raw = _yaml(path.read_text(encoding="utf-8"))
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
        raise _explain(path, raw, error) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML's own loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"the key {name} stands twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in what the file says; numbers in it count in lists."""
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected KEY=VALUE", hint="for example --set optim.lr=3e-4")
    *parents, last = dotted.split(".")
    node: Any = raw
    place = "the file"
    try:
        value = _yaml(text)
        for depth, key in enumerate(parents, 1):
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
            place = ".".join(parents[:depth])
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except yaml.YAMLError as error:
        what = f"{text!r} is not YAML: {getattr(error, 'problem', error)}"
        raise ConfigError(f"--set {override}: {what}", hint="quote it for the shell") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        hint = f"{place} is {node!r:.60}; set that as a whole, or see the keys in docs/training.md"
        raise ConfigError(f"--set {override}: there is no such place", hint=hint) from error


def _explain(path: Path, raw: dict[str, Any], error: ValidationError) -> ConfigError:
    """The first unknown key, which is mostly why another one is missing; else the first complaint."""
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    dotted = _dotted(raw, first["loc"])
    if first["type"] == "union_tag_not_found":  # of a schedule or a spec, whose kind says what else it has
        return ConfigError(f"{path}: {dotted}.{first['ctx']['discriminator'].strip(chr(39))}: Field required")
    if first["type"] != "extra_forbidden":
        got = "" if first["type"] == "missing" or not dotted else f" (got {first['input']!r:.80})"
        return ConfigError(f"{path}: {dotted or 'configuration'}: {_told(first)}{got}")
    near = difflib.get_close_matches(_pattern(dotted), sorted(set(_keys(Config))), n=1)
    hint = f"did you mean {_numbered(near[0], dotted)}?" if near else "the keys stand in docs/training.md"
    return ConfigError(f"{path}: unknown key {dotted}", hint=hint)


def _told(error: Mapping[str, Any]) -> str:
    """What pydantic says, without the words that it puts before ours."""
    return str(error["msg"]).removeprefix("Value error, ")


def _dotted(raw: Any, loc: Sequence[int | str]) -> str:
    """A place in the file; pydantic's own path also names the kind of spec or schedule, which is no key."""
    parts = []
    for number, part in enumerate(loc):
        inside = part in raw if isinstance(raw, dict) else isinstance(raw, list) and isinstance(part, int)
        if inside or number == len(loc) - 1:
            parts.append(str(part))
            raw = raw[part] if inside else None
    return ".".join(parts)


def _pattern(dotted: str) -> str:
    """`data.train.0.folder` -> `data.train.N.folder`."""
    return ".".join("N" if part.isdigit() else part for part in dotted.split("."))


def _numbered(pattern: str, dotted: str) -> str:
    """The pattern with the numbers that `dotted` has in the same places."""
    parts = dotted.split(".") + [""] * len(pattern)
    return ".".join(there if part == "N" and there.isdigit() else part
                    for part, there in zip(pattern.split("."), parts, strict=False))


def _keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key below a type; list items are `N`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield prefix + name
            yield from _keys(field.annotation, f"{prefix}{name}.")
    elif get_origin(kind) in (Annotated, Union, types.UnionType):
        for each in get_args(kind):
            yield from _keys(each, prefix)
    elif get_origin(kind) is tuple:
        yield from _keys(get_args(kind)[0], f"{prefix}N.")
