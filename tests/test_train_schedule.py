"""Learning rates and ends of training, against closed forms and torch's own scheduler."""

import math

import pytest
import torch
from pydantic import ValidationError

from separator.train.optimiser import Optim, averaging
from separator.train.schedule import Budget, Cosine, Pace, Plateau


def test_cosine_warms_up_linearly_and_reaches_zero_with_the_budget():
    schedule = Cosine(warmup=0.2)
    rates = [schedule.rate(progress, 1.0) for progress in (0, 0.1, 0.2, 0.6, 1.0, 1.3)]
    assert rates == pytest.approx([1e-3, 0.5, 1.0, 0.5, 0.0, 0.0], abs=1e-9)
    assert Cosine(warmup=0).rate(0, 1.0) == 1.0


@pytest.mark.parametrize("cooldown", [0, 3])
@pytest.mark.parametrize("patience", [0, 2])
def test_plateau_cuts_when_torch_does(patience, cooldown):
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.3, patience=patience, cooldown=cooldown, threshold=0.0, eps=0.0
    )
    schedule, pace = Plateau(factor=0.3, patience=patience, cooldown=cooldown), Pace()
    for step, loss in enumerate((torch.randn(80, generator=torch.Generator().manual_seed(2))).tolist()):
        theirs.step(loss)
        pace.observe(loss, step, schedule)
        assert schedule.rate(0.5, pace.scale) == pytest.approx(optimiser.param_groups[0]["lr"])
    assert pace.scale < 0.3  # it was cut more than once


def test_the_best_is_the_lowest_and_never_nan():
    pace, schedule = Pace(), Cosine(stop_patience=3)
    assert not pace.observe(math.nan, 1, schedule) and pace.best == math.inf
    assert [pace.observe(loss, step, schedule) for step, loss in enumerate((5.0, 6.0, 4.0, 4.0, math.nan))] == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert (pace.best, pace.best_step, pace.stale) == (4.0, 2, 2)
    assert not pace.exhausted(schedule)
    pace.observe(9.0, 6, schedule)
    assert pace.exhausted(schedule) and not pace.exhausted(Cosine())


def test_budgets_are_used_up_by_steps_minutes_or_epochs():
    assert Budget(max_steps=10).used(5, 1e9, 7) == 0.5
    assert Budget(max_minutes=2).used(10**9, 30, 7) == 0.25
    assert Budget(max_epochs=4).used(14, 1e9, 7) == 0.5
    for wrong in ({}, {"max_steps": 1, "max_epochs": 1}):
        with pytest.raises(ValidationError, match="exactly one"):
            Budget(**wrong)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weight_decay_is_that_of_the_optimiser_named(name):
    """With a zero gradient, AdamW shrinks weights by lr * decay; Adam takes the decay for a gradient: a whole step."""
    parameter = torch.nn.Parameter(torch.tensor([4.0]))
    parameter.grad = torch.zeros(1)
    Optim(name=name, lr=0.1, weight_decay=0.5).optimiser([parameter]).step()
    assert float(parameter.detach()) == pytest.approx(3.9 if name == "adam" else 3.8)


def test_the_average_remembers_a_tenth_at_first_and_its_decay_later():
    average, update = torch.zeros(1), averaging(0.99)
    update([average], [torch.ones(1)], 0)
    assert float(average) == pytest.approx(0.9)
    average = torch.zeros(1)
    update([average], [torch.ones(1)], 10**6)
    assert float(average) == pytest.approx(0.01)
    averaging(0.0)([average], [torch.ones(1)], 10**6)
    assert float(average) == 1  # no memory: the newest weights
