"""A run that is stopped, in whatever way, and resumed ends as if nothing had happened."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from separator import atomic
from separator.errors import ConfigError, ModelError, ResourceError
from separator.train import checkpoint, curves, loop, status
from separator.train.history import read
from separator.train.loop import Run
from tests.trainingruns import TINY, UMX, same, tiny, trained, write_song, write_songs

SCHEDULE = {"name": "plateau", "patience": 0, "cooldown": 1, "factor": 0.5}
VARIETIES = {
    "trunk": {},
    "umx, lanes, plateau": {
        "model": TINY["model"] | {"spec": UMX}, "loss": {"magnitude_mse": 1},
        "optim": {"name": "adam", "micro_batches": 2, "schedule": SCHEDULE},
    },
}  # fmt: skip
BUDGET = {"budget": {"max_steps": 22}, "epoch_steps": 5}  # validations in the middle of blocks, and a last one


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    """Statistics are kept with the test, and pictures, which take longer than the training, are not drawn."""
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(curves, "draw", lambda *_: None)
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)  # after every block


@pytest.fixture
def songs(tmp_path):
    write_songs(tmp_path)
    return tmp_path


def resumed(config, folder):
    run = Run(config, folder)
    run.resume()
    return run


def everything(folder):
    """Weights, optimiser, schedule, history and model file, without what a clock says."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    del state["elapsed_s"]
    rows = [{key: value for key, value in row.items() if key != "elapsed_s"} for row in read(folder / "history.csv")]
    return state, rows, (folder / "tiny.safetensors").read_bytes()


def assert_same_end(a, b):
    (state, rows, model), (other_state, other_rows, other_model) = everything(a), everything(b)
    assert rows == other_rows
    assert same(state, other_state)
    assert model == other_model


class Stopped(Exception):
    pass


def stop_at(step):
    def log(event):
        if event.get("step") == step:
            raise Stopped

    return log


@pytest.mark.parametrize("name", VARIETIES)
@pytest.mark.parametrize("stop", [10, 21])
def test_resumed_training_equals_uninterrupted_training(songs, tmp_path, name, stop):
    config = tiny(songs, **BUDGET, **VARIETIES[name])
    trained(config, tmp_path / "whole")
    run = Run(config, tmp_path / "cut")
    run.begin()
    with pytest.raises(Stopped):
        run.train(stop_at(stop))  # in the middle of a block
    run = resumed(config, tmp_path / "cut")
    assert 0 < run.step < stop
    run.train(lambda event: None)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    before = everything(tmp_path / "cut")
    resumed(config, tmp_path / "cut").train(lambda event: None)  # there is nothing left to do
    assert same(everything(tmp_path / "cut"), before)


def test_a_run_from_a_model_killed_after_its_first_validation_begins_anew(songs, tmp_path):
    first = trained(tiny(songs, budget={"max_steps": 4}, epoch_steps=4), tmp_path / "first")
    config = tiny(songs, start_from=str(first.model_path), **BUDGET)
    trained(config, tmp_path / "whole")
    for stop in (1, 10):  # before the first checkpoint, and after some
        run = Run(config, tmp_path / "cut")
        run.resume() if stop > 1 else run.begin()
        with pytest.raises(Stopped):
            run.train(stop_at(stop))
    resumed(config, tmp_path / "cut").train(lambda event: None)
    assert [row["step"] for row in read(tmp_path / "cut" / "history.csv")] == [0, 5, 10, 15, 20, 22]
    for name in ("whole", "cut"):  # whose training loss at step 0 is NaN, which equals nothing
        path = tmp_path / name / "history.csv"
        path.write_text(path.read_text().replace("nan", "0"))
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(("every_s", "saved"), [(0.0, [4, 8, 12, 16, 20, 22, 22]), (1e9, [4, 12, 20, 22, 22])])
def test_checkpoints_are_due_at_first_after_validations_at_the_end_and_by_time(songs, tmp_path, monkeypatch, every_s,
                                                                                saved):
    """Blocks end at every fourth step, validations are made at every tenth and after the last."""
    steps = []
    monkeypatch.setattr(loop, "CHECKPOINT_S", every_s)
    monkeypatch.setattr(checkpoint, "save", lambda path, state: steps.append(state["step"]))
    trained(tiny(songs, budget={"max_steps": 22}, epoch_steps=10), tmp_path / "run")
    assert steps == saved
    assert status.status(tmp_path / "run").progress.step == 22


def test_a_run_stopped_before_its_last_validation_makes_it(songs, tmp_path, monkeypatch):
    config = tiny(songs, **BUDGET)
    trained(config, tmp_path / "whole")
    run = Run(config, tmp_path / "cut")
    run.begin()
    validate = run._validate
    monkeypatch.setattr(run, "_validate", lambda log: validate(log) if run.step % 5 == 0 else stop_at(22)({"step": 22}))
    with pytest.raises(Stopped):
        run.train(lambda event: None)
    resumed(config, tmp_path / "cut").train(lambda event: None)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


COMMAND = [sys.executable, "-m", "separator", "train", "tiny.yaml", "--threads", "1", "--device", "cpu"]
SLOW_WRITER = """
import os, sys, time
from separator import atomic
fsync = os.fsync
def slow(fd):
    time.sleep(0.1)  # between what is written and what is renamed
    fsync(fd)
os.fsync = slow
from separator.cli import run
sys.argv = ["sepctl", *sys.argv[1:]]
run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("slowly", [False, True], ids=["anywhere", "mostly while writing"])
def test_a_run_killed_at_any_moment_ends_as_if_nothing_had_happened(songs, tmp_path, monkeypatch, slowly):
    """SIGKILL at random moments, until the run gets through."""
    monkeypatch.chdir(tmp_path)
    config = tiny(songs, **BUDGET)
    (tmp_path / "tiny.yaml").write_text(config.as_yaml())
    trained(config, tmp_path / "whole")
    command = [sys.executable, "-c", SLOW_WRITER, *COMMAND[3:]] if slowly else COMMAND
    chance, kills, done = random.Random(4), 0, None
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    while done != 0 and kills < 30:
        resume = ["--resume"] if (tmp_path / "runs/tiny/config.yaml").exists() else []
        process = subprocess.Popen([*command, *resume], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        before = status_time(tmp_path)
        while process.poll() is None and kills < 3 and status_time(tmp_path) == before:
            time.sleep(0.01)  # until a block is done: else nothing would ever be
        if kills < 3:
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        done, message = process.wait(), process.stderr.read()
        assert done in (0, -signal.SIGKILL), message
        process.stdout.close(), process.stderr.close()
    assert kills > 1
    assert_same_end(tmp_path / "whole", tmp_path / "runs/tiny")
    assert not list((tmp_path / "runs/tiny").glob(".*.part"))


def status_time(folder):
    path = folder / "runs/tiny/checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
def test_sigterm_says_how_to_go_on(songs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny(songs, budget={"max_minutes": 10}, optim={"precision": "fp32"})
    (tmp_path / "tiny.yaml").write_text(config.as_yaml())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(COMMAND, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not status_time(tmp_path):
        time.sleep(0.05)
    process.terminate()
    out, err = process.communicate()
    assert process.returncode == 130 and not out
    assert "stopped at step" in err and "sepctl train tiny.yaml --resume" in err
    assert checkpoint.load(tmp_path / "runs/tiny/checkpoint.pt", torch.device("cpu"))["step"] > 0


def test_a_full_disk_during_a_checkpoint(songs, tmp_path, monkeypatch):
    config = tiny(songs, budget={"max_steps": 20}, epoch_steps=100)
    trained(config, tmp_path / "whole")
    run = Run(config, tmp_path / "run")
    run.begin()
    with monkeypatch.context() as patch:
        save = checkpoint.save

        def full(path, state):
            if run.block == 3:
                patch.setattr(atomic.os, "fsync", refuse)
            save(path, state)

        patch.setattr(checkpoint, "save", full)
        with pytest.raises(ResourceError, match=r"checkpoint\.pt: the disk is full\n.*--resume"):
            run.train(lambda event: None)
    assert not list((tmp_path / "run").glob(".*.part"))
    run = resumed(config, tmp_path / "run")
    assert run.block == 2  # the checkpoint before
    run.train(lambda event: None)
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def refuse(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def short(songs, tmp_path):
    """A run of two steps, in `run`."""
    config = tiny(songs, budget={"max_steps": 2}, epoch_steps=10)
    trained(config, tmp_path / "run")
    return config


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, -1])
def test_a_truncated_checkpoint_is_told_from_a_whole_one(short, tmp_path, keep):
    path = tmp_path / "run" / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match=r"checkpoint\.pt is truncated or damaged: .*\n.*--out"):
        resumed(short, tmp_path / "run")


def test_a_checkpoint_that_could_run_code_is_refused(short, tmp_path):
    torch.save({"step": 1, "evil": print}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ModelError, match="truncated or damaged"):
        resumed(short, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"spec": TINY["model"]["spec"] | {"hidden": 8}}},
         r"another architecture: model\.spec\.hidden was 16, and is 8"),
        ({"model": {"spec": UMX}}, r"another architecture: model\.spec\.\w+ was \w+, and is \w+"),
        ({"model": {"stems": ["high", "low"]}}, r"another architecture: model\.stems\.0 was low, and is high"),
        ({"optim": {"batch_size": 8}}, r"another configuration: optim\.batch_size was 4, and is 8"),
        ({"model": {"name": "other"}}, r"another configuration: model\.name was tiny, and is other"),  # of the file
        ({"seed": 4}, r"another configuration: seed was 3, and is 4"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_with_the_key_that_differs(songs, short, tmp_path, changes, told):
    merged = {key: {**TINY[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}
    other = tiny(songs, **{"budget": {"max_steps": 2}, "epoch_steps": 10, **merged})
    with pytest.raises(ConfigError, match=told):
        resumed(other, tmp_path / "run")


def test_a_key_that_is_younger_than_the_run_counts_as_its_default(songs, short, tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state["identity"]["config"]["augment"].pop("swap") == 0.5
    torch.save(state, path)
    assert resumed(short, tmp_path / "run").step == 2
    other = tiny(songs, budget={"max_steps": 2}, epoch_steps=10, augment={"swap": 0.4})
    with pytest.raises(ConfigError, match=r"augment\.swap was 0\.5, and is 0\.4"):
        resumed(other, tmp_path / "run")


def test_a_longer_budget_goes_on_and_so_do_songs_that_moved(songs, short, tmp_path):
    (songs / "train").rename(songs / "moved")
    data = {"train": [{"folder": str(songs / "moved")}]}
    run = resumed(tiny(songs, budget={"max_steps": 6}, epoch_steps=10, data=data), tmp_path / "run")
    run.train(lambda event: None)
    assert run.step == 6


@pytest.mark.parametrize("split", ["train", "valid"])
def test_songs_that_have_changed_are_named(songs, short, tmp_path, split):
    source = {"train": "data.train.0", "valid": "data.valid"}[split]
    write_song(songs / split / "one more", 99)
    with pytest.raises(ConfigError, match=f"what {source} names has changed since the checkpoint"):
        resumed(short, tmp_path / "run")


def test_a_folder_holds_one_run(songs, short, tmp_path):
    with pytest.raises(ConfigError, match="holds a run already\n.*--resume"):
        Run(short, tmp_path / "run").begin()
    with pytest.raises(ConfigError, match="no checkpoint to resume from"):
        resumed(short, tmp_path / "empty")


def test_a_second_process_leaves_a_run_at_work_as_it_is(songs, short, tmp_path, monkeypatch):
    monkeypatch.setattr(status, "PATIENCE_S", 0.1)
    run, early = tmp_path / "run", tmp_path / "early"
    (run / ".checkpoint.pt.7-abc.part").write_bytes(b"being written")
    with (run / "history.csv").open("a") as file:
        file.write("4,1,0,0.01,1,1,1,1\n")  # of a block that is not finished
    Run(short, early).begin()

    def content():
        return {path: path.read_bytes() for folder in (run, early) for path in folder.iterdir()}

    before = content()
    with status.alone(run), status.alone(early):
        with pytest.raises(ConfigError, match="another process trains"):
            resumed(short, run)
        with pytest.raises(ConfigError, match="another process trains"):
            Run(tiny(songs, seed=4), early).begin()
    assert content() == before


def test_what_to_set_to_go_on_is_what_a_command_line_takes(tmp_path):
    def told(before, now):
        with pytest.raises(ConfigError) as caught:
            checkpoint.refuse_other(tmp_path, {"config": before, "data": {}}, {"config": now, "data": {}})
        return str(caught.value)

    assert "--set optim.clip_norm=null goes" in told({"optim": {"clip_norm": None}}, {"optim": {"clip_norm": 5.0}})
    assert "--set optim.name=adam goes" in told({"optim": {"name": "adam"}}, {"optim": {"name": "adamw"}})
    assert "--set" not in told({"data": {"train": [{"weight": 1.0}] * 2}}, {"data": {"train": [{"weight": 1.0}]}})
    assert "another configuration: model.wiener" in told({"model": {"wiener": 1}}, {"model": {"wiener": 0}})


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(songs, short, tmp_path):
    Run(short, tmp_path / "early").begin()
    resumed(short, tmp_path / "early").train(lambda event: None)
    assert_same_end(tmp_path / "run", tmp_path / "early")


def test_leaves_are_compared_by_dotted_key():
    before, now = {"a": {"b": [1, {"c": 2}]}, "d": 3}, {"a": {"b": [1, {"c": 4}]}, "e": 3}
    assert checkpoint.differences(before, now) == {"a.b.1.c": (2, 4), "d": (3, "absent"), "e": ("absent", 3)}
