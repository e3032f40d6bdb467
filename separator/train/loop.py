"""The training loop: blocks of rows -> remixed batches -> steps, with checkpoints that lose nothing.

A run folder holds `config.json`, `checkpoint.pt` (newest state), `history.csv` and `<name>.safetensors` (the best
averaged weights so far, a finished model file at any time).
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from separator import modelfile
from separator.card import ModelCard
from separator.dsp.ahead import ahead
from separator.errors import ConfigError, SepctlError
from separator.models.trunk import Trunk
from separator.train.config import Config
from separator.train.excerpts import Excerpts
from separator.train.losses import thresholded_sdr
from separator.train.remix import Batch, Remixer, spectra
from separator.train.validation import Validation

Log = Callable[[dict[str, Any]], None]


def _averaging(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Moving average whose memory is at first as short as the run: else early averages are the random start."""

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        torch._foreach_lerp_(list(averages), list(values), max(1 - decay, 9 / (10 + int(count))))

    return update


class Run:
    """One training run, new or resumed."""

    def __init__(self, config: Config, folder: Path, *, resume: bool = False) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.folder = folder
        self.card: ModelCard = config.model
        self.network = Trunk(self.card)
        self.average = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=_averaging(config.optim.ema))
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay
        )
        self.excerpts = Excerpts(config.data, self.card.stems, self.card.sample_rate, config.seed)
        self.remixer = Remixer(config.augment, self.network.mask_edges, self.card.bins, config.data.stride)
        self.validation = Validation(config, self.remixer.edges)
        self.step = self.block = 0
        self.elapsed_s = 0.0
        self.best = math.inf
        if resume:
            self._restore()
        else:
            self._begin()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def model_path(self) -> Path:
        """The best model so far."""
        return self.folder / f"{self.card.name}.safetensors"

    def _begin(self) -> None:
        if self.checkpoint.exists():
            raise ConfigError(
                f"{self.folder}: holds a run already", hint="continue it with --resume, or name another --out"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(self.config.model_dump_json(indent=1), encoding="utf-8")
        self._whiten()

    def _whiten(self) -> None:
        """Set the mean and scale of the features from the first block, in its un-augmented mix."""
        rows = self._spectra(0)
        power = rows.sum(dim=1).square().sum(dim=2).transpose(2, 3)
        features = self.network.features(power).flatten(0, 1)
        self.network.mean.copy_(features.mean(dim=0))
        self.network.scale.copy_(1 / features.std(dim=0).clamp_min(1e-3))
        self.average.module.load_state_dict(self.network.state_dict())

    def _spectra(self, block: int) -> Tensor:
        return spectra(self.excerpts.rows(block), self.card.n_fft, self.card.hop)

    def _blocks(self) -> Iterator[Tensor]:
        block = self.block
        while True:
            yield self._spectra(block)
            block += 1

    def progress(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        budget = self.config.budget
        if budget.max_steps is not None:
            return self.step / budget.max_steps
        return self.elapsed_s / (60 * (budget.max_minutes or math.inf))

    def train(self, log: Log) -> None:
        """Run until the budget is used. A checkpoint is written after every block, so at most one block is lost."""
        started = time.monotonic() - self.elapsed_s
        with contextlib.closing(ahead(self._blocks(), depth=1)) as blocks:
            while self.progress() < 1:
                rows = next(blocks)
                generator = torch.Generator().manual_seed(1_000_003 * self.config.seed + self.block)
                data = self.config.data
                for batch in self.remixer.batches(rows, data.remixes, self.config.optim.batch_size, generator):
                    loss = self._update(batch)
                    self.elapsed_s = time.monotonic() - started
                    log({"step": self.step, "loss": loss, "lr": self._rate(), "elapsed_s": self.elapsed_s})
                    if self.step % self.config.validate_every == 0:
                        self._validate(log)
                    if self.progress() >= 1:
                        break
                self.block += 1
                self._save()
        if self.step % self.config.validate_every:
            self._validate(log)
        self._save()

    def _rate(self) -> float:
        """Learning rate now: linear warm-up, then a half cosine to zero at the end of the budget."""
        done, warmup = min(self.progress(), 1.0), self.config.optim.warmup
        if done < warmup:
            return self.config.optim.lr * max(done / warmup, 1e-3)
        return self.config.optim.lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))

    def _update(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        features = self.network.features(batch.power)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.optim.bf16):
            masks = self.network.band_masks(features, self.card.stems, slice(batch.first, None, batch.stride))
        loss = thresholded_sdr(masks.float(), batch, self.config.loss)
        if not torch.isfinite(loss):
            raise SepctlError(
                f"loss is {loss.item()} at step {self.step} (seed {self.config.seed}, block {self.block})",
                hint="lower optim.lr; the last checkpoint is sound",
            )
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.clip_norm)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return loss.item()

    def _validate(self, log: Log) -> None:
        network = self.average.module.eval()
        assert isinstance(network, Trunk)
        scores = self.validation.scores(network)
        row = {"step": self.step, "elapsed_s": round(self.elapsed_s), **scores}
        log({"validation": row})
        new = not (self.folder / "history.csv").exists()
        with (self.folder / "history.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        if scores["loss"] < self.best:
            self.best = scores["loss"]
            self._publish(row)

    def _publish(self, row: dict[str, Any]) -> None:
        """Write the averaged weights as a model file, half precision, with what is known of the run in its card."""
        training = {"config": json.loads(self.config.model_dump_json(exclude={"model"})), "validation": row}
        card = self.card.model_copy(update={"training": training})
        modelfile.save(self.model_path, card, self.average.module, dtype=torch.float16)

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump_json(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "block": self.block,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
        }

    def _save(self) -> None:
        part = self.checkpoint.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(self._state(), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.checkpoint)

    def _restore(self) -> None:
        if not self.checkpoint.exists():
            raise ConfigError(f"{self.folder}: no checkpoint to resume from", hint="leave --resume out to begin a run")
        state = torch.load(self.checkpoint, weights_only=True)
        before, now = json.loads(state["config"])["model"], json.loads(self.card.model_dump_json())
        if any(before[key] != now[key] for key in ("spec", "stems", "channels", "n_fft")):
            raise ConfigError(f"{self.folder}: the checkpoint is of another architecture", hint="name another --out")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        self.step, self.block = state["step"], state["block"]
        self.elapsed_s, self.best = state["elapsed_s"], state["best"]
