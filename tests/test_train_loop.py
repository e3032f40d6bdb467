"""Training end to end on made songs: it learns, with either family, and stops at what is not a number."""

import itertools
import json
import math
import shutil
import types

import pytest
import torch

from separator import modelfile
from separator.errors import AudioError, ConfigError, SepctlError
from separator.train import curves
from separator.train.excerpts import Data
from separator.train.feed import Feed
from separator.train.history import read
from separator.train.loop import Run
from separator.train.status import status
from tests.trainingruns import RATE, TINY, UMX, same, tiny, trained, write_songs


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    """Statistics are kept with the test, and pictures, which take longer than the training, are not drawn."""
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(curves, "draw", lambda *_: None)


@pytest.fixture
def songs(tmp_path):
    write_songs(tmp_path)
    return tmp_path


UMX_MODEL = TINY["model"] | {"spec": UMX}
LONGER = {"budget": {"max_steps": 150}, "epoch_steps": 50}  # batch normalisation's averages need it
FAST = {"name": "adam", "ema": 0, "lr": 2e-2}
FAMILIES = {
    "trunk": {},
    "trunk by spectra": {"loss": {"complex_l1": 30, "thresholded_sdr": 1}},
    "umx": {
        "model": UMX_MODEL, "loss": {"thresholded_sdr": 0, "magnitude_mse": 1}, "optim": FAST, **LONGER,
    },
    "umx, one target": {
        "model": UMX_MODEL | {"stems": ["high"], "complete": False}, "data": {"stems": ["low", "high"]},
        "loss": {"thresholded_sdr": 0, "magnitude_mse": 1}, "optim": FAST, **LONGER,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_training_learns_what_was_planted_and_writes_a_model_that_runs(songs, tmp_path, name):
    config = tiny(songs, **FAMILIES[name])
    run = trained(config, tmp_path / "run")
    rows = read(tmp_path / "run" / "history.csv")
    assert [row["step"] for row in rows] == [config.epoch_steps * n for n in (1, 2, 3)]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert all(rows[-1][stem] > 6 for stem in config.model.stems)  # dB; equal shares give about 0
    card, network = modelfile.load(run.model_path)
    assert card.training["seed"] == 3 and card.training["config"]["optim"]["lr"] == config.optim.lr
    assert card.training["versions"]["torch"] == torch.__version__ and card.training["device"].startswith("cpu")
    assert card.training["data"].keys() == {"data.train.0", "data.valid"}
    best = run.learner.averaged
    best.network.load_state_dict(network.state_dict())
    scores = run.validation.scores(best)
    assert scores["loss"] == pytest.approx(run.pace.best, rel=0.02)  # half precision costs next to nothing


def test_the_run_folder_says_what_it_was_made_with(songs, tmp_path):
    from separator.train.config import load

    config = tiny(songs, budget={"max_epochs": 1}, epoch_steps=4)
    run = trained(config, tmp_path / "run")
    assert run.step == 4
    assert load(tmp_path / "run" / "config.yaml") == config
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made.keys() == {"git_commit", "versions", "device", "seed", "data"}


def test_a_run_goes_on_from_the_weights_of_a_model(songs, tmp_path):
    first = trained(tiny(songs, budget={"max_epochs": 1}, epoch_steps=4), tmp_path / "first")
    before = modelfile.load(first.model_path)[1].state_dict()
    config = tiny(songs, start_from=str(first.model_path), seed=9)
    run = Run(config, tmp_path / "second")
    assert same(run.learner.objective.network.state_dict(), before)
    assert same(run.learner.averaged.network.state_dict(), before)
    run.begin()
    run.train(lambda _: None)
    made = modelfile.load(run.model_path)[0].training
    assert made["data"]["start_from"] == modelfile.file_sha256(first.model_path)
    again = Run(config, tmp_path / "second")
    again.resume()
    assert same(again.learner.averaged.network.state_dict(), run.learner.averaged.network.state_dict())
    run.model_path.replace(first.model_path)  # another one of the same name
    with pytest.raises(ConfigError, match="what start_from names has changed"):
        Run(config, tmp_path / "second").resume()


def test_what_a_run_began_with_stays_the_best_until_something_is_better(songs, tmp_path):
    first = trained(tiny(songs), tmp_path / "first")
    config = tiny(songs, start_from=str(first.model_path), optim={"lr": 1.0, "ema": 0}, budget={"max_steps": 4},
                  epoch_steps=2)
    run = trained(config, tmp_path / "second")
    rows = read(tmp_path / "second" / "history.csv")
    assert [row["step"] for row in rows] == [0, 2, 4] and min(row["loss"] for row in rows[1:]) > rows[0]["loss"]
    (card, network), (_, before) = modelfile.load(run.model_path), modelfile.load(first.model_path)
    assert same(network.state_dict(), before.state_dict())
    assert card.training["validation"] == {key: rows[0][key] for key in rows[0].keys() - {"elapsed_s", "train_loss"}}
    told = status(tmp_path / "second").progress
    assert (told.best_step, told.best) == (0, rows[0]["loss"])


@pytest.mark.parametrize(("change", "message"), [
    ({"model": UMX_MODEL}, "start_from: model.spec is"), ({"start_from": "nothing.safetensors"}, "nothing.safetensors"),
])
def test_a_run_goes_on_from_nothing_else_than_a_model_of_its_kind(songs, tmp_path, change, message):
    first = trained(tiny(songs, budget={"max_epochs": 1}, epoch_steps=4), tmp_path / "first")
    with pytest.raises(SepctlError, match=message):
        Run(tiny(songs, **({"start_from": str(first.model_path)} | change)), tmp_path / "second")


def test_lanes_of_a_batch_are_each_their_own_blocks(songs, tmp_path):
    """A step of two lanes: its loss is the mean, its gradient the mean, of what each lane alone gives."""
    config = tiny(songs, optim={"micro_batches": 2, "clip_norm": None, "name": "adam", "weight_decay": 0})
    run = Run(config, tmp_path / "run")
    model = run.learner.objective.eval()
    batches = [run.feed.batch(0, lane, 0) for lane in (0, 1)]
    assert not torch.equal(batches[0].power, batches[1].power)
    rows = run.feed.spectra(0, 0)
    takes = [next(run.feed.batches(rows, 0, lane))[1] for lane in (0, 1)]
    assert not torch.equal(*takes)  # nor are they remixed alike
    losses = [model(batch) for batch in batches]
    expected = torch.autograd.grad(sum(losses) / 2, list(model.parameters()))
    told = run.learner.update(batches, [0, 0], 0.0)
    assert told == pytest.approx(float(sum(losses).detach()) / 2)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_dropout_of_a_step_depends_on_its_seed_alone(songs, tmp_path):
    run = Run(tiny(songs, optim={"lr": 1e-9}), tmp_path / "run")
    batch = run.feed.batch(0, 0, 0)
    losses = [run.learner.update([batch], [seed], 0.0) for seed in (1, 2, 1)]
    torch.rand(5)  # nor on what else was drawn
    assert losses[0] == losses[2] == run.learner.update([batch], [1], 0.0) and losses[0] != losses[1]


def test_early_stopping_ends_a_run_that_no_longer_gets_better(songs, tmp_path):
    schedule = {"name": "plateau", "patience": 0, "cooldown": 0, "stop_patience": 2}
    config = tiny(songs, optim={"lr": 1e-12, "schedule": schedule}, epoch_steps=2)
    run = Run(config, tmp_path / "run")
    run.begin()
    run.pace.best = -1e9  # nothing will be better
    run.train(lambda event: None)
    assert run.step == 4 and run.pace.scale == pytest.approx(0.09)
    assert not run.model_path.exists()
    assert status(tmp_path / "run").finished  # for those who ask, too


def test_the_validation_loss_does_not_depend_on_how_excerpts_are_batched(songs, tmp_path):
    losses = []
    for size in (1, 2, 4):  # of 3 excerpts: none, one or all in a smaller last batch
        run = Run(tiny(songs, data={"valid_excerpts": 3}, optim={"batch_size": size}), tmp_path / "run")
        losses.append(run.validation.scores(run.learner.averaged)["loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_the_sdr_of_a_validation_is_the_median_of_what_has_one(songs, tmp_path, monkeypatch):
    run = Run(tiny(songs), tmp_path / "run")
    table = torch.tensor([[1.0, math.nan], [4.0, math.nan], [math.nan, math.nan], [2.0, 5.0], [9.0, math.nan]])
    monkeypatch.setattr(run.validation, "_batches", lambda _: [None])
    model = types.SimpleNamespace(judge=lambda _: (0.0, table))
    assert run.validation.scores(model) == {"loss": 0.0, "low": 3.0, "high": 5.0}  # of 1, 2, 4, 9; of 5


def test_a_model_names_the_commit_that_its_run_was_started_from(songs, tmp_path, monkeypatch):
    commits = itertools.count()
    monkeypatch.setattr("separator.train.loop.provenance", lambda *_: {"git_commit": f"commit {next(commits)}"})
    run = trained(tiny(songs, budget={"max_steps": 4}, epoch_steps=2), tmp_path / "run")
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert modelfile.load(run.model_path)[0].training["git_commit"] == made["git_commit"] == "commit 0"


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(songs, tmp_path):
    """The batch can be made again from what `nan-batch.json` says."""
    run = Run(tiny(songs), tmp_path / "run")
    run.begin()
    seen = []
    batches = Feed.batches

    def poison(event):
        if event.get("step") == 6:
            run.learner.objective.network.squeeze.weight.data[0, 0] = torch.nan

    def spy(self, rows, block, lane):
        for batch in batches(self, rows, block, lane):
            seen.append(batch)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "batches", spy)
        with pytest.raises(SepctlError, match="the loss is nan at step 6 .*block 1, batch 2.*nan-batch.json"):
            run.train(poison)
    told = json.loads((tmp_path / "run" / "nan-batch.json").read_text())
    (identity,) = told["batches"]
    assert (told["step"], told["losses"], identity["seed"], identity["remix"]) == (6, ["nan"], 3, 1)
    batch, rows = seen[run.feed.steps_per_block * identity["block"] + identity["index"]]  # later ones wait
    assert [list(item.values()) for item in identity["items"]] == rows.tolist()
    again = Run(tiny(songs), tmp_path / "again").feed.batch(*(identity[key] for key in ("block", "lane", "index")))
    assert same([again.power, again.cross], [batch.power, batch.cross])
    state = torch.load(run.checkpoint, weights_only=True)
    assert state["step"] == 4
    assert all(torch.isfinite(value).all() for value in state["learner"]["objective"].values())
    assert not run.model_path.exists()


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(songs, tmp_path):
    run = Run(tiny(songs), tmp_path / "run")
    run.begin()
    run.learner.objective.network.squeeze.weight.register_hook(lambda gradient: gradient * math.inf)
    before = {key: value.clone() for key, value in run.learner.objective.state_dict().items()}
    with pytest.raises(SepctlError, match="a gradient is not finite at step 0"):
        run.train(lambda event: None)
    assert same(before, run.learner.objective.state_dict())
    assert len(json.loads((tmp_path / "run" / "nan-batch.json").read_text())["batches"]) == 1


def test_what_this_machine_or_these_songs_cannot_do_is_refused_before_anything_is_written(songs, tmp_path):
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        Run(tiny(songs, optim={"precision": "fp16"}), tmp_path / "run")
    for key, data in (("train.0", {"train": [{"folder": "nowhere"}]}), ("valid", {"valid": "nowhere"})):
        with pytest.raises(AudioError, match=rf"^data\.{key}: nowhere: no prepared songs\n.*sepctl data prepare"):
            Run(tiny(songs, data=data), tmp_path / "run")
    twice = {"train": [{"folder": str(songs / "train")}, {"folder": str(songs / "valid")}]}
    with pytest.raises(ConfigError, match=r"valid/song0: is in data\.train\.1 and in data\.valid"):
        Run(tiny(songs, data=twice), tmp_path / "run")
    toys = {name: {"folder": str(tmp_path / name), "generate": 2} for name in ("toys", "others")}
    data = Data(train=[toys["toys"]], valid=toys["others"])
    for source in (*data.train, data.valid):
        source.songs(("low", "high"), RATE)
    shutil.copytree(tmp_path / "others" / "toy001", tmp_path / "toys" / "renamed")
    with pytest.raises(ConfigError, match=r"renamed: is in data\.train\.0 and in data\.valid as .*toy001"):
        Run(tiny(songs, data={"train": [toys["toys"]], "valid": toys["others"]}), tmp_path / "run")
    for song in (songs / "valid").iterdir():
        (song / "high" / "layer.npy").unlink()
    with pytest.raises(AudioError, match="valid: no validation song has the stem high"):
        Run(tiny(songs), tmp_path / "run")
    assert not (tmp_path / "run").exists()
