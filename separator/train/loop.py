"""The training loop: blocks of rows -> remixed batches -> steps, with checkpoints that lose nothing.

A run folder holds `config.yaml` and `run.json` (what the run was made with), `checkpoint.pt` (newest state), the
history, `status.json`, and `<name>.safetensors` (the best averaged weights so far, a finished model file at any time).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from separator import modelfile, registry
from separator.atomic import replacing
from separator.dsp.ahead import ahead
from separator.errors import ConfigError, SepctlError
from separator.train import checkpoint, status
from separator.train.config import Config
from separator.train.distributed import Team
from separator.train.excerpts import Excerpts, named
from separator.train.feed import Feed, Planned
from separator.train.history import History
from separator.train.learner import Learner, NotFinite
from separator.train.objective import Objective, objective
from separator.train.prepared import Song, fingerprint
from separator.train.record import provenance
from separator.train.remix import seeded
from separator.train.schedule import Pace
from separator.train.statistics import statistics
from separator.train.validation import Validation

Log = Callable[[dict[str, Any]], None]

CHECKPOINT_S = 60.0  # no more than this, and a block, is lost; a checkpoint of Open-Unmix takes longer than a step


class Run:
    """One training run, new or resumed, on one device; the same on every process of a team."""

    def __init__(self, config: Config, folder: Path, *, device: str = "cpu", team: Team | None = None) -> None:
        """Read the data and build the network; nothing is written to `folder` yet.

        Raises `ConfigError` for a configuration that this device or team cannot run, `AudioError` for unusable data.
        """
        self.team = team or Team()
        self.config = config.with_lanes(self.team.world)
        self.folder = folder
        self.device = torch.device(device)
        optim = self.config.optim
        if optim.precision == "fp16" and self.device.type != "cuda":
            raise ConfigError("optim.precision fp16 needs a CUDA device", hint="use bf16 or fp32 on a processor")
        self._load_songs()
        torch.manual_seed(self.config.seed)
        model = objective(config.model, config.sources, config.loss, optim.precision).to(self.device)
        if self.config.start_from is None:
            self._whiten(model)
        else:
            path = registry.resolve(self.config.start_from)
            model.adopt(path)
            self.fingerprints["start_from"] = modelfile.file_sha256(path)
        self._made_with = provenance(self.device, self.config.seed, self.fingerprints)  # now, of the code that runs
        self.learner = Learner(model, optim, self.team, self.device)
        self.feed = Feed(self.config, self.excerpts, self.learner.objective, self.device)
        self.history = History(folder)
        self.pace = Pace()
        self.step = self.block = self.validated = 0
        self._due_s = 0.0  # when the next checkpoint is due, at the end of a block
        self.elapsed_s = 0.0
        self._told: dict[str, Any] = {"loss": None, "lr": None}  # of the newest step
        self.losses = {"sum": 0.0, "steps": 0}  # since the last validation

    def _load_songs(self) -> None:
        """The leader first, which generates songs that are asked for and not there; then the others."""
        data, sources, rate = self.config.data, self.config.sources, self.config.model.sample_rate
        if not self.team.leads:
            self.team.wait()
        self.excerpts = Excerpts(data, sources, rate, self.config.seed, self.config.augment)
        self.songs = {f"data.train.{n}": found for n, found in enumerate(self.excerpts.sources)}
        self.songs["data.valid"] = named("data.valid", data.valid, sources, rate)
        _refuse_shared(self.songs)
        if self.team.leads:
            self.team.wait()
        self.validation = Validation(self.config, self.songs["data.valid"], self.device)
        self.fingerprints = {source: fingerprint(found) for source, found in self.songs.items()}

    def _whiten(self, model: Objective) -> None:
        """Set the input's mean and scale to those of un-augmented mixes, which the leader measures."""
        card = self.config.model
        key = {"spec": card.spec.model_dump(), "data": self.fingerprints}

        def features(power: Tensor) -> Tensor:
            return model.features(power.to(self.device)).cpu()

        def measured() -> tuple[Tensor, Tensor]:
            folder = registry.cache_folder() / "statistics"
            found = statistics(features, self.excerpts, card.n_fft, card.hop, key=key, folder=folder)
            return found.mean, found.std

        shared = self.team.share(measured() if self.team.leads else None)
        assert shared is not None
        mean, deviation = shared
        model.whiten(mean.to(self.device), deviation.to(self.device))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def model_path(self) -> Path:
        """The best model so far."""
        return self.folder / f"{self.config.model.name}.safetensors"

    def begin(self) -> None:
        """Start anew. Raises `ConfigError` where the folder holds a run already, or another process trains in it."""
        if self.checkpoint.exists():
            raise ConfigError(
                f"{self.folder}: holds a run already", hint="continue it with --resume, or name another --out"
            )
        if self.team.leads:
            with status.alone(self.folder):
                self._clean()
                self.history.rewind(-1)
                for name, text in (("config.yaml", self.config.as_yaml()), ("run.json", json.dumps(self._made_with))):
                    with replacing(self.folder / name) as file:
                        file.write(text.encode())
        self.team.wait()

    def resume(self) -> None:
        """Go on from the checkpoint; begin anew if the run was stopped before its first one.

        Raises `ConfigError` where there is no run, or another one, or another process trains in the folder;
        `ModelError` for a damaged checkpoint.
        """
        if not self.checkpoint.exists() and (self.folder / "config.yaml").exists():
            return self.begin()
        state = checkpoint.load(self.checkpoint, self.device)
        checkpoint.refuse_other(self.folder, state["identity"], self._identity())
        self.learner.restore(state["learner"])
        self.pace = Pace(**state["pace"])
        self.losses = state["losses"]
        self.step, self.block, self.validated = state["step"], state["block"], state["validated"]
        self.elapsed_s = state["elapsed_s"]
        if self.team.leads:
            with status.alone(self.folder):
                self._clean()
                self.history.rewind(self.validated)
        self.team.wait()

    def _clean(self) -> None:
        """Remove what a killed process left half-written."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)

    def progress(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        return self.config.budget.used(self.step, self.elapsed_s, self.config.epoch_steps)

    def finished(self) -> bool:
        """Whether the budget is used, or validation has stopped getting better."""
        return self.progress() >= 1 or self.pace.exhausted(self.config.optim.schedule)

    def rate(self) -> float:
        """Learning rate now."""
        return self.config.optim.lr * self.config.optim.schedule.rate(self.progress(), self.pace.scale)

    def train(self, log: Log) -> None:
        """Run until finished. A block's end writes a checkpoint if one is due: the first since the start, since a
        validation, or in `CHECKPOINT_S`.

        Raises `SepctlError` where a loss is not finite, `ResourceError` on a full disk, `ConfigError` where another
        process trains in the same folder.
        """
        started = time.monotonic() - self.elapsed_s
        alone = status.alone(self.folder) if self.team.leads else contextlib.nullcontext()
        # Remixing the next batch costs about as much as a step, so each has a thread, and neither needs many cores.
        steps = ahead(self.feed.steps(self.block, self.learner.lanes), depth=1)
        with alone, contextlib.closing(steps):
            if self.config.start_from is not None and self.step == 0:
                self._validate(log)  # so that nothing worse than what the run began with is published
                self._tell()
            while not self.finished():
                planned = next(steps)
                self._take(planned)
                self.elapsed_s = self.team.share(time.monotonic() - started)
                log({**self._told, "elapsed_s": self.elapsed_s})
                if self.step % self.config.epoch_steps == 0:
                    self._validate(log)
                if planned.ends_block or self.finished():
                    self.block += 1
                    if self.finished() or self.elapsed_s >= self._due_s:
                        self._save()
                    self._tell()
            if self.validated != self.step:
                self._validate(log)
                self._save()
                self._tell()

    def _take(self, planned: Planned) -> None:
        """One step."""
        lanes, rate = self.learner.lanes, self.rate()
        seeds = [seeded(self.config.seed, self.step, lane).initial_seed() for lane in lanes]
        try:
            loss = self.learner.update(planned.batches, seeds, rate)
        except NotFinite as error:
            self._stop(planned, error)
        self.step += 1
        self.losses = {"sum": self.losses["sum"] + loss, "steps": self.losses["steps"] + 1}
        self._told = {"step": self.step, "loss": loss, "lr": rate}

    def _stop(self, planned: Planned, error: NotFinite) -> NoReturn:
        """Save which batch gave a loss or gradient that is not finite, and raise; every process comes here."""
        block, index, lanes = planned.block, planned.index, self.learner.lanes
        mine = {
            lane: self.feed.identity(block, lane, index, rows) for lane, rows in zip(lanes, planned.rows, strict=True)
        }
        batches = {lane: each for found in self.team.gather(mine) for lane, each in found.items()}
        bad = [lane for lane, loss in enumerate(error.losses) if not math.isfinite(loss)]
        path = self.folder / "nan-batch.json"
        if self.team.leads:
            told = {"step": self.step, "losses": [str(loss) for loss in error.losses],
                    "batches": [batches[lane] for lane in bad or sorted(batches)]}
            with replacing(path) as file:
                file.write(json.dumps(told, indent=1).encode())
        what = f"the loss is {error.losses[bad[0]]}" if bad else "a gradient is not finite"
        raise SepctlError(
            f"{what} at step {self.step} (seed {self.config.seed}, block {block}, batch {index}"
            f"{f', lane {bad[0]}' if bad else ''}); {path} tells what the batch was made of",
            hint="the checkpoint and the best model are sound; try a lower optim.lr in a new run",
        ) from error

    def _validate(self, log: Log) -> None:
        """Score the averaged weights on the leader; all processes learn the outcome."""
        self.learner.agree()
        scores = self.team.share(self.validation.scores(self.learner.averaged) if self.team.leads else {})
        train_loss = self.losses["sum"] / self.losses["steps"] if self.losses["steps"] else math.nan
        row = {
            "epoch": math.ceil(self.step / self.config.epoch_steps), "step": self.step,
            "elapsed_s": round(self.elapsed_s), "lr": self.rate(), "train_loss": float(f"{train_loss:.6g}"), **scores,
        }  # fmt: skip
        better = self.pace.observe(scores["loss"], self.step, self.config.optim.schedule)
        self.validated, self.losses, self._due_s = self.step, {"sum": 0.0, "steps": 0}, 0.0
        if self.team.leads:
            self.history.append(row)
            if better:
                self._publish(row)
        log({"validation": row})

    def _publish(self, row: dict[str, Any]) -> None:
        """Write the averaged weights as a model file, half precision, with what is known of the run in its card.

        No times in it: the same run gives the same bytes.
        """
        config = json.loads(self.config.model_dump_json(exclude={"model"}))
        validation = {key: value for key, value in row.items() if key != "elapsed_s" and not math.isnan(value)}
        training = {"config": config, **self._made_with, "validation": validation}
        card = self.config.model.model_copy(update={"training": training})
        modelfile.save(self.model_path, card, self.learner.averaged.network, dtype=torch.float16)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in."""
        return {"config": json.loads(self.config.model_dump_json()), "data": self.fingerprints}

    def _save(self) -> None:
        """Write the checkpoint. Due times are the same on all processes, for they bring statistics together."""
        self._due_s = self.elapsed_s + CHECKPOINT_S
        self.learner.agree()
        if not self.team.leads:
            return
        state = {
            "identity": self._identity(), "learner": self.learner.state(), "pace": asdict(self.pace),
            "losses": self.losses, "step": self.step, "block": self.block, "validated": self.validated,
            "elapsed_s": self.elapsed_s,
        }  # fmt: skip
        checkpoint.save(self.checkpoint, state)

    def _tell(self) -> None:
        """Write where the run stands, for those who ask."""
        if not self.team.leads:
            return
        epoch, best = self.step / self.config.epoch_steps, self.pace
        told = status.Progress(self.step, self.progress(), self.elapsed_s, self._told["loss"],
                               self._told["lr"], epoch, best.best, best.best_step, self.finished())
        told.write(self.folder)


def _refuse_shared(songs: Mapping[str, Sequence[Song]]) -> None:
    """Raise `ConfigError` where a song, or any sound of it, is both trained on and validated with."""
    held_out = {mark: song for song in songs["data.valid"] for mark in _marks(song)}
    for key, found in songs.items():
        for song in found if key != "data.valid" else ():
            if shared := _marks(song) & held_out.keys():
                twin = held_out[min(shared)].folder
                where = "" if twin.resolve() == song.folder.resolve() else f" as {twin}"
                raise ConfigError(
                    f"{song.folder}: is in {key} and in data.valid{where}, so validation would tell what was learnt by"
                    " heart", hint="`sepctl data prepare --valid N` sets songs aside",
                )  # fmt: skip


def _marks(song: Song) -> set[str]:
    """What a song is known by: its place, and the SHA-256 of each layer that its manifest says sounds."""
    layers = song.manifest.layers.values() if song.manifest else ()
    return {str(song.folder.resolve()), *(layer.sha256 for layer in layers if layer.sounding)}
