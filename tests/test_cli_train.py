"""From stems to a model and back: prepare, train, split and evaluate, by their commands, on songs the test makes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from separator import modelfile
from separator.cli import program
from separator.train.config import Config, load

ROOT = Path(__file__).parents[1]
RATE = 8000
MODEL = {
    "name": "tiny",
    "stems": ["low", "high"],
    "sample_rate": RATE,
    "n_fft": 256,
    "hop": 64,
    "segment_s": 2.0,
    "context_s": 0.2,
    "spec": {"family": "trunk", "input_bands": 24, "hidden": 16, "lstm_hidden": 8, "layers": 1, "head": 16}
    | {"fine_bins": 16, "mask_bands": 24},
}


def tones(seed, low, high, seconds=5):
    """A stereo chord of five tones between two frequencies (Hz), `[2, T]`."""
    rng = np.random.default_rng(seed)
    t = np.arange(seconds * RATE) / RATE
    tone = sum(np.sin(2 * np.pi * rng.uniform(low, high) * t + rng.uniform(0, 6)) for _ in range(5)) / 10
    return torch.from_numpy(np.stack([tone, 0.6 * tone]).astype(np.float32))


def invoke(*arguments):
    return CliRunner().invoke(program, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture
def trained(tmp_path, write_wav, monkeypatch):
    """The folder in which a model was trained for 40 steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    for split, songs in (("train", 3), ("valid", 1)):
        for n in range(songs):
            for s, (stem, band) in enumerate({"low": (60, 500), "high": (1500, 3500)}.items()):
                write_wav(tmp_path / split / f"song{n}" / stem / "layer.wav", tones(10 * s + n + songs, *band), RATE)
        done = invoke("data", "prepare", split, f"data/{split}", "--sample-rate", RATE, "--jobs", 1)
        assert done.exit_code == 0, done.stderr
    config = {
        "model": MODEL,
        "data": {"train": [{"folder": "data/train"}], "valid": "data/valid", "excerpt_s": 1.0, "rows": 8}
        | {"remixes": 2, "valid_excerpts": 4},
        "optim": {"batch_size": 4, "lr": 1e-2, "ema": 0.9},
        "budget": {"max_steps": 40},
        "epoch_steps": 20,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    done = invoke("train", "tiny.yaml", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == "runs/tiny/tiny.safetensors"
    return tmp_path


def test_from_stems_to_a_model_that_splits_and_is_scored(trained, write_wav):
    assert len(list(csv.DictReader((trained / "runs/tiny/history.csv").open()))) == 2
    write_wav(trained / "song.wav", tones(77, 60, 500) + tones(88, 1500, 3500), RATE)
    done = invoke("split", "song.wav", "-m", "runs/tiny/tiny.safetensors")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == ["stems/song/low.wav", "stems/song/high.wav"]
    evaluate = ("evaluate", "runs/tiny/tiny.safetensors", "--folder", "valid", "--oracle", "mix")
    scored = invoke(*evaluate, "--oracle", "irm1")
    assert scored.exit_code == 0, scored.stderr
    assert [line.split()[0] for line in scored.stdout.splitlines()[-6::2]] == ["tiny", "mix", "irm1"]
    done = invoke(*evaluate, "--json", "--csv", "s.csv")
    ours, mix = json.loads(done.stdout)["rows"]
    assert (ours["method"], mix["method"]) == ("tiny", "mix")
    for stem in ("low", "high"):
        assert ours["sdr_median_db"][stem] > mix["sdr_median_db"][stem] + 6     # 40 steps on a planted answer
        assert ours["sdr_global_db"][stem] > mix["sdr_global_db"][stem] + 6
    assert {row["stem"] for row in csv.DictReader((trained / "s.csv").open())} == {"low", "high"}


def test_a_song_that_cannot_be_scored_does_not_stop_the_others(trained, tmp_path):
    (tmp_path / "valid" / "broken" / "low").mkdir(parents=True)
    (tmp_path / "valid" / "broken" / "low" / "x.wav").write_bytes(b"not audio")
    evaluate = ("evaluate", "runs/tiny/tiny.safetensors", "--folder", "valid")
    done = invoke(*evaluate, "--csv", "s.csv")
    assert done.exit_code == 1 and "broken" in done.stderr and "1 of 2 songs" in done.stderr
    assert "tiny" in done.stdout and len(list(csv.DictReader((tmp_path / "s.csv").open()))) == 2
    done = invoke(*evaluate, "--csv", "nowhere/s.csv")
    assert done.exit_code == 2 and "--csv" in done.stderr and not done.stdout


def test_a_second_run_in_the_same_folder_is_refused_and_resume_ends_at_once(trained):
    again = invoke("train", "tiny.yaml")
    assert (again.exit_code, "--resume" in again.stderr) == (3, True)
    resumed = invoke("train", "tiny.yaml", "--resume")
    assert resumed.exit_code == 0 and resumed.stdout.strip() == "runs/tiny/tiny.safetensors"


def test_a_stopped_run_says_how_to_go_on_and_one_without_a_model_fails(trained, monkeypatch):
    def interrupted(run):
        raise KeyboardInterrupt

    options = ("-o", "runs/my run", "--set", "optim.lr=3e-3", "--threads", 1)
    monkeypatch.setattr("separator.cli.train._train", interrupted)
    stopped = invoke("train", "tiny.yaml", *options)
    assert stopped.exit_code == 130 and "stopped at step 0; there is no checkpoint yet" in stopped.stderr
    assert "sepctl train tiny.yaml --resume --out 'runs/my run' --set optim.lr=3e-3\n" in stopped.stderr
    monkeypatch.setattr("separator.cli.train._train", lambda run: None)  # as if every validation gave NaN
    none = invoke("train", "tiny.yaml", "--resume", *options)
    assert none.exit_code == 1 and "no validation gave a loss that is a number" in none.stderr and not none.stdout


def test_errors_of_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = invoke("train", "nothing.yaml")
    assert missing.exit_code == 3 and "nothing.yaml: no such file" in missing.stderr
    (tmp_path / "empty").mkdir()
    none = invoke("evaluate", "mini", "--folder", "empty")
    assert none.exit_code in (4, 5) and "hint" in none.stderr
    unknown = invoke("evaluate", "umxhw", "--folder", "empty", "--oracle", "mix")
    assert unknown.exit_code == 4 and "umxhq" in unknown.stderr


def test_a_dry_run_tells_which_stems_are_missing_or_not_used(trained):
    (trained / "data/train/song0/high").rename(trained / "data/train/song0/strings")
    (trained / "data/train/song0/song.json").unlink()
    done = invoke("train", "tiny.yaml", "-o", "runs/dry", "--dry-run", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert "# data.train.0: high is in 2 of 3\n" in done.stdout
    assert "# data.train.0: strings is in 1 of 3, and not used\n" in done.stdout
    assert "data.valid: high" not in done.stdout


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(trained):
    done = invoke("train", "tiny.yaml", "-o", "runs/dry", "--dry-run", "--set", "budget.max_steps=10", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert not (trained / "runs/dry").exists()
    resolved = Config.model_validate(yaml.safe_load(done.stdout))  # what is no key is a comment
    assert resolved == load(trained / "tiny.yaml", ["budget.max_steps=10"])
    assert "# data.train.0: data/train: 3 songs, 0.00 hours, weight 1" in done.stdout
    _, network = modelfile.load(trained / "runs/tiny/tiny.safetensors")
    assert f"# parameters: {sum(each.numel() for each in network.parameters()):,}\n" in done.stdout
    assert "s of audio (2 stems) per second" in done.stdout and "about 10 steps" in done.stdout


def test_status_tells_where_the_run_stands(trained):
    done = invoke("train", "--status", "runs/tiny")
    assert done.exit_code == 0 and "finished" in done.stdout and "40, epoch 2, 100.0 %" in done.stdout
    assert invoke("train", "--status", "runs/none").exit_code == 3
    assert invoke("train", "tiny.yaml", "--status", "runs/tiny").exit_code == 2
    assert invoke("train").exit_code == 2


def test_the_script_is_the_command(trained):
    """The program itself, by another road: it refuses the folder that holds a run, with the same code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--config", "tiny.yaml", "--threads", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "holds a run already" in done.stderr
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "runs/tiny/tiny.safetensors"


@pytest.mark.slow
def test_the_smoke_configuration_trains_on_songs_of_its_own_and_its_model_splits(tmp_path, monkeypatch, write_wav):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    done = invoke("train", ROOT / "configs" / "smoke.yaml", "--threads", 1)
    assert done.exit_code == 0 and done.stdout.strip() == "runs/smoke/smoke.safetensors", done.stderr
    write_wav(tmp_path / "song.wav", tones(77, 60, 500), 22050)
    done = invoke("split", "song.wav", "-m", "runs/smoke/smoke.safetensors")
    assert done.exit_code == 0 and len(done.stdout.split()) == 4, done.stderr
