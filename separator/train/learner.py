"""The weights and all that moves them: gradients, optimiser, averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from separator.train.distributed import Team
from separator.train.objective import Objective
from separator.train.optimiser import Optim, averaging


class NotFinite(Exception):
    """A loss, or where all of them are finite a gradient, is NaN or infinite; the weights are as before the step."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__(losses)
        self.losses = losses


class Learner:
    """Takes steps; the same on every process of a team."""

    def __init__(self, model: Objective, optim: Optim, team: Team, device: torch.device) -> None:
        self.optim = optim
        self.team = team
        self.lanes = team.lanes(optim.micro_batches)
        self.parallel = team.together(model, device)
        found = getattr(self.parallel, "module", self.parallel)  # not `model` where a layer was exchanged
        assert isinstance(found, Objective)
        self.objective = found
        self.average = AveragedModel(self.objective, multi_avg_fn=averaging(optim.ema))
        self.optimiser = optim.optimiser(self.objective.parameters())
        self.scaler = GradScaler(device.type, enabled=optim.precision == "fp16")

    @property
    def averaged(self) -> Objective:
        """The objective with the averaged weights, for evaluation."""
        found = self.average.module.eval()
        assert isinstance(found, Objective)
        return found

    def update(self, batches: Sequence[Any], seeds: Sequence[int], rate: float) -> float:
        """One step from a batch of each of this process's lanes; returns the mean loss over all lanes of the team.

        The random numbers of a lane's dropout come from its seed alone. Raises `NotFinite` on every process alike.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        losses = []
        for lane, batch, seed in zip(self.lanes, batches, seeds, strict=True):
            torch.manual_seed(seed)
            with contextlib.nullcontext() if lane == self.lanes[-1] else self._unsynchronised():
                loss = self.parallel(batch)
                self.scaler.scale(loss / len(self.lanes)).backward()
            losses.append(loss.detach())
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.optim.clip_norm or math.inf)
        values = self._of_all_lanes([float(loss) for loss in losses])
        sound = bool(norm.isfinite()) or self.scaler.is_enabled()  # the scaler skips overflows, and expects some
        if not (sound and all(map(math.isfinite, values))):
            raise NotFinite(values)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update_parameters(self.objective)
        return sum(values) / len(values)

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        """Gradients add up here first; processes exchange them once per step."""
        if isinstance(self.parallel, DistributedDataParallel):
            return self.parallel.no_sync()
        return contextlib.nullcontext()

    def _of_all_lanes(self, values: list[float]) -> list[float]:
        by_rank, world = self.team.gather(values), self.team.world
        return [by_rank[lane % world][lane // world] for lane in range(self.optim.micro_batches)]

    def agree(self) -> None:
        """Bring the processes' running statistics together, before anyone reads them."""
        self.team.agree(self.objective)
        self.team.agree(self.average)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        parts = (self.objective, self.average, self.optimiser, self.scaler)
        return dict(zip(("objective", "average", "optimiser", "scaler"), (p.state_dict() for p in parts), strict=True))

    def restore(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
