"""Comparing choices: the table from planted scores, and two tiny runs of a plan from beginning to end."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from scripts import ablate
from separator.train.config import load
from tests.trainingruns import RATE, tiny, write_songs

SCORES = {
    "a": [{"x": {"low": 1.0, "high": 3.0}, "y": {"low": 3.0, "high": 9.0}},
          {"x": {"low": 2.0, "high": 5.0}, "y": {"low": 4.0, "high": 9.0}}],
    "b": [{"x": {"low": 4.0, "high": 8.0}, "y": {"low": 6.0, "high": 8.0}}],
}  # fmt: skip


def test_the_table_has_means_and_half_ranges_and_the_best_first():
    assert ablate.table(SCORES).splitlines() == [
        "| | low | high | x | y | mean |", "|---|---|---|---|---|---|",
        "| b | 5.00 ± 0.00 | 8.00 ± 0.00 | 6.00 ± 0.00 | 7.00 ± 0.00 | 6.50 ± 0.00 |",
        "| a | 2.50 ± 0.50 | 6.50 ± 0.50 | 2.75 ± 0.75 | 6.25 ± 0.25 | 4.50 ± 0.50 |",
    ]  # fmt: skip


def test_every_variant_of_the_plan_is_a_valid_configuration():
    plan = ablate.Plan.model_validate(yaml.safe_load(Path("scripts/ablations.yaml").read_text(encoding="utf-8")))
    base = load(plan.config, plan.common)
    for name, changes in plan.variants.items():
        assert (load(plan.config, [*plan.common, *changes]) == base) == (not changes), name


def test_a_run_that_was_made_otherwise_is_refused(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(tiny(tmp_path).as_yaml())
    plan = ablate.Plan(config=tmp_path / "tiny.yaml", common=("optim.lr=0.5",), seeds=(3,), score={"a": tmp_path},
                       variants={"as it is": ()})
    run = tmp_path / "as-it-is-3"
    run.mkdir()
    (run / "tiny.safetensors").touch()
    calls = []
    monkeypatch.setattr(ablate, "status", lambda _: calls.append("looked") or argparse.Namespace(finished=True))
    (run / "config.yaml").write_text(load(plan.config, ["seed=3", "optim.lr=0.5"]).as_yaml())
    assert ablate.train(plan, "as it is", 3, tmp_path, 1)[0] == run / "tiny.safetensors" and calls == ["looked"]
    (run / "config.yaml").write_text(load(plan.config, ["seed=3", "optim.lr=0.25"]).as_yaml())
    with pytest.raises(SystemExit, match=r"as-it-is-3: was made with optim\.lr 0\.25, the plan says 0\.5: remove that"):
        ablate.train(plan, "as it is", 3, tmp_path, 1)


@pytest.mark.slow
def test_a_plan_is_run_scored_and_not_run_twice(tmp_path, monkeypatch, capsys):
    write_songs(tmp_path)
    for stem, path in ((p.parent.name, p) for p in (tmp_path / "valid").glob("*/*/*.npy")):
        (tmp_path / "score/song").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"score/song/{stem}.wav", np.load(path), RATE)
    (tmp_path / "tiny.yaml").write_text(tiny(tmp_path).as_yaml())
    (tmp_path / "plan.yaml").write_text(f"""
config: {tmp_path}/tiny.yaml
common: [budget.max_steps=40]
seeds: [3]
score: {{toy: {tmp_path}/score}}
variants: {{as it is: [], never learning: [optim.lr=1e-9]}}
""")
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    options = {"--out": tmp_path / "out.json", "--runs": tmp_path / "runs", "--threads": 1}
    words = [str(word) for option in options.items() for word in option]
    monkeypatch.setattr("sys.argv", ["ablate", f"{tmp_path}/plan.yaml", *words])
    ablate.main()
    report = json.loads((tmp_path / "out.json").read_text())
    learnt, not_learnt = report["runs"]
    assert [run["variant"] for run in report["runs"]] == ["as it is", "never learning"]
    assert learnt["steps"] == not_learnt["steps"] == 40 and "optim.lr=1e-9" in not_learnt["command"]
    gained = {stem: learnt["sdr_db"]["toy"][stem] - not_learnt["sdr_db"]["toy"][stem] for stem in ("low", "high")}
    assert min(gained.values()) > 3
    assert capsys.readouterr().out.splitlines()[-2].startswith("| as it is |")
    monkeypatch.setattr(ablate, "_sepctl", pytest.fail)
    ablate.main()
    assert json.loads((tmp_path / "out.json").read_text()) == report
