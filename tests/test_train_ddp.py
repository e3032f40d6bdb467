"""Two processes of torchrun, over Gloo, compute what one process with two lanes computes."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from separator.train.distributed import Team
from separator.train.history import read
from tests.trainingruns import TINY, UMX, tiny, trained, write_songs

VARIETIES = {
    "trunk": {},
    # Without early batches' running statistics, which lanes of one process take in turn and two processes average.
    "umx": {"model": TINY["model"] | {"spec": UMX}, "loss": {"magnitude_mse": 1}},
}


def test_running_statistics_are_averaged_and_all_other_buffers_stay(monkeypatch):
    """The other processes' statistics are greater by 1.5 each, so the mean by 1."""
    module = nn.BatchNorm1d(2)
    module.register_buffer("constant", torch.tensor([1.7]))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda buffer: buffer.mul_(3).add_(3))
    Team(0, 3).agree(module)
    assert module.running_mean.tolist() == [1, 1] and module.running_var.tolist() == [2, 2]
    assert torch.equal(module.constant, torch.tensor([1.7]))


def torchrun(folder, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "separator", "train", "tiny.yaml", "--device", "cpu", *options]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIETIES)
def test_two_processes_equal_one_with_two_lanes(tmp_path, monkeypatch, name):
    """Dropout included: every lane has random numbers of its own."""
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    write_songs(tmp_path)
    config = tiny(tmp_path, budget={"max_steps": 6}, epoch_steps=3, **VARIETIES[name])
    (tmp_path / "tiny.yaml").write_text(config.as_yaml())
    lanes = config.with_lanes(2)
    assert lanes.optim.micro_batches == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have: sums rounded in another order grow apart within six steps
    try:
        one = trained(lanes, tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    done = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["runs/tiny/tiny.safetensors"]  # the leader alone speaks
    assert done.stderr.count("train_loss") == 2
    ours, theirs = read(tmp_path / "one" / "history.csv"), read(tmp_path / "runs/tiny/history.csv")
    judged = ("step", "lr", "train_loss") if name == "umx" else ("step", "lr", "train_loss", "loss", "low", "high")
    for a, b in zip(ours, theirs, strict=True):
        assert [a[key] for key in judged] == pytest.approx([b[key] for key in judged], rel=1e-4)
    state = torch.load(tmp_path / "runs/tiny/checkpoint.pt", weights_only=True)
    assert state["identity"]["config"]["optim"]["micro_batches"] == 2
    for key, value in one.learner.objective.named_parameters():
        torch.testing.assert_close(state["learner"]["objective"][key], value.detach(), rtol=2e-3, atol=2e-5)
    longer = torchrun(tmp_path, "--resume", "--set", "budget.max_steps=8")
    assert longer.returncode == 0, longer.stderr
    assert read(tmp_path / "runs/tiny/history.csv")[-1]["step"] == 8


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_process_stops_both(tmp_path, monkeypatch):
    """The leader writes what was in the other's batch."""
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    write_songs(tmp_path)
    (tmp_path / "tiny.yaml").write_text(tiny(tmp_path, budget={"max_steps": 6}).as_yaml())
    (tmp_path / "poisoned.py").write_text(POISON)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "poisoned.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "the loss is nan at step 2" in done.stderr and "lane 1" in done.stderr
    assert '"lane": 1' in (tmp_path / "runs/tiny/nan-batch.json").read_text()


POISON = """
import os, sys
from separator.train.objective import BandObjective
forward = BandObjective.forward
steps = 0
def poisoned(self, batch):
    global steps
    steps += 1
    loss = forward(self, batch)
    return loss * float("nan") if steps == 3 and os.environ["RANK"] == "1" else loss
BandObjective.forward = poisoned
from separator.cli import run
sys.argv = ["sepctl", "train", "tiny.yaml", "--device", "cpu"]
run()
"""
