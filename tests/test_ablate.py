"""Comparing choices: the table from planted scores, and two tiny runs of a plan from beginning to end."""

import json

import numpy as np
import pytest
import soundfile

from scripts import ablate
from tests.trainingruns import RATE, tiny, write_songs

SCORES = {"a": [{"low": 1.0, "high": 3.0}, {"low": 2.0, "high": 5.0}], "b": [{"low": 4.0, "high": 4.0}]}


def test_the_table_has_means_and_half_ranges_and_the_best_first():
    assert ablate.table(SCORES).splitlines() == [
        "| | low | high | mean |", "|---|---|---|---|",
        "| b | 4.00 ± 0.00 | 4.00 ± 0.00 | 4.00 ± 0.00 |", "| a | 1.50 ± 0.50 | 4.00 ± 1.00 | 2.75 ± 0.75 |",
    ]  # fmt: skip


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
score: [{tmp_path}/score]
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
    assert all(learnt["sdr_db"][stem] > not_learnt["sdr_db"][stem] + 3 for stem in ("low", "high"))
    assert capsys.readouterr().out.splitlines()[-2].startswith("| as it is |")
    monkeypatch.setattr(ablate, "_sepctl", pytest.fail)
    ablate.main()
    assert json.loads((tmp_path / "out.json").read_text()) == report
