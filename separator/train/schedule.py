"""How the learning rate goes, and when training ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from separator.card import Frozen


class Cosine(Frozen):
    """Linear warm-up, then half a cosine that reaches zero when the budget does, be it steps or minutes."""

    name: Literal["cosine"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)  # share of the budget
    stop_patience: PositiveInt | None = None  # epochs without a better validation before training ends early

    def rate(self, progress: float, scale: float) -> float:
        """Factor of the learning rate where `progress` (0 to 1) of the budget is used."""
        done = min(progress, 1.0)
        if done < self.warmup:
            return max(done / self.warmup, 1e-3)
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


class Plateau(Frozen):
    """Constant, and cut whenever validation stops getting better; the defaults are Open-Unmix's."""

    name: Literal["plateau"] = "plateau"
    factor: float = Field(default=0.3, gt=0, lt=1)  # of the rate at each cut
    patience: NonNegativeInt = 80  # epochs without a better validation before a cut
    cooldown: NonNegativeInt = 10  # epochs after a cut that do not count
    stop_patience: PositiveInt | None = None  # epochs without a better validation before training ends early

    def rate(self, progress: float, scale: float) -> float:
        """Factor of the learning rate after the cuts so far (`scale`)."""
        return scale


Schedule = Annotated[Cosine | Plateau, Field(discriminator="name")]


class Budget(Frozen):
    """When to stop: exactly one of the three. An epoch is `epoch_steps` steps and a validation."""

    max_steps: PositiveInt | None = None
    max_minutes: PositiveFloat | None = None  # of training and validating, summed over resumed runs
    max_epochs: PositiveInt | None = None

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(each is not None for each in (self.max_steps, self.max_minutes, self.max_epochs)) != 1:
            raise ValueError("give exactly one of max_steps, max_minutes and max_epochs, and set the others to null")
        return self

    def used(self, step: int, elapsed_s: float, epoch_steps: int) -> float:
        """Share of the budget that is used; training ends at 1."""
        if self.max_minutes is not None:
            return elapsed_s / (60 * self.max_minutes)
        return step / (self.max_steps or (self.max_epochs or 0) * epoch_steps)


@dataclass
class Pace:
    """What the validations so far mean for the learning rate, for early stopping and for the best model."""

    best: float = math.inf
    best_step: int | None = None
    stale: int = 0  # validations since the best
    bad: int = 0  # of them, since the last cut and its cooldown
    cooling: int = 0
    scale: float = 1.0  # product of the cuts

    def observe(self, loss: float, step: int, schedule: Cosine | Plateau) -> bool:
        """Take in one validation, made after `step`; True if it is the best so far, which NaN never is.

        Cuts as `torch.optim.lr_scheduler.ReduceLROnPlateau` does, with threshold 0.
        """
        better = loss < self.best
        if better:
            self.best, self.best_step = loss, step
        self.stale = 0 if better else self.stale + 1
        self.bad = 0 if better else self.bad + 1
        if self.cooling:
            self.cooling -= 1
            self.bad = 0
        if isinstance(schedule, Plateau) and self.bad > schedule.patience:
            self.scale *= schedule.factor
            self.cooling, self.bad = schedule.cooldown, 0
        return better

    def exhausted(self, schedule: Cosine | Plateau) -> bool:
        """Whether to stop early."""
        return schedule.stop_patience is not None and self.stale >= schedule.stop_patience
