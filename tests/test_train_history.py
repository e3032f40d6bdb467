"""The record of a run: what is written is read back, what is drawn is seen, the dead are not taken for the living."""

import importlib.util
import io
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from separator.errors import ConfigError
from separator.train import curves
from separator.train.history import History, read
from separator.train.status import Progress, alone, status

PROGRESS = Progress(step=40, share=0.25, elapsed_s=60.0, loss=-9.5, lr=1e-3, epoch=2.0, best=-11.0, best_step=20)


def row(step, loss=None, **changes):
    return {"step": step, "epoch": step / 20, "elapsed_s": step * 1.5, "lr": 1e-3 / step, "train_loss": -step / 7,
            "loss": -step / 9 if loss is None else loss, "vocals": step / 11, "drums": step / 13} | changes


def pixels(png):
    """Colours of a picture, as a set of (red, green, blue) of 0 to 255."""
    from matplotlib.image import imread

    picture = (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def colour(name):
    return tuple(int(name[n : n + 2], 16) for n in (1, 3, 5))


# The table


def test_rows_are_read_back_as_they_were_given(tmp_path):
    rows = [row(20), row(40, vocals=math.nan), row(60, loss=-1 / 3)]
    for each in rows:
        History(tmp_path).append(each)  # each time as after a resumption
    assert (tmp_path / "history.csv").read_text().splitlines()[0] == ",".join(rows[0])
    for got, given in zip(read(tmp_path / "history.csv"), rows, strict=True):
        np.testing.assert_equal(got, given)  # every digit, and nan is nan


def test_a_run_that_went_back_to_its_checkpoint_ends_with_the_same_file(tmp_path):
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    for folder in (whole, cut):
        folder.mkdir()
        history = History(folder)
        for step in (20, 40, 60):
            history.append(row(step))
    with (cut / "history.csv").open("a") as file:
        file.write("80,4,12")  # killed in the middle of a line
    again = History(cut)
    again.rewind(30)
    assert [each["step"] for each in read(cut / "history.csv")] == [20]
    for step in (40, 60):
        again.append(row(step))
    assert (cut / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    again.rewind(-1)
    again.append(row(20))
    assert [each["step"] for each in read(cut / "history.csv")] == [20]


def test_a_step_that_was_recorded_before_is_replaced(tmp_path):
    history = History(tmp_path)
    for each in (row(20), row(40), row(40, loss=5.0)):
        history.append(each)
    assert [(each["step"], each["loss"]) for each in read(tmp_path / "history.csv")] == [(20, -20 / 9), (40, 5)]


def test_other_columns_and_other_files_are_refused(tmp_path):
    History(tmp_path).append(row(20))
    with pytest.raises(ConfigError, match=r"history\.csv: has the columns .*drums; the run has .*bass"):
        History(tmp_path).append(row(40, bass=1.0))
    for text in ("step,loss\n20,many\n", "step,loss\n20,1,2\n", "step,loss\n20\n"):
        (tmp_path / "history.csv").write_text(text)
        with pytest.raises(ConfigError, match=r"history\.csv: damaged"):
            History(tmp_path)


# The picture


def test_the_picture_shows_every_curve(tmp_path):
    pytest.importorskip("matplotlib")
    history = History(tmp_path)
    history.append(row(20))
    first = (tmp_path / "history.png").read_bytes()
    history.append(row(40))
    png = (tmp_path / "history.png").read_bytes()
    assert png != first and {path.name for path in tmp_path.iterdir()} >= {"history.csv", "history.png"}
    assert not list(tmp_path.glob(".*"))  # no half a picture
    shown = pixels(png)
    assert {colour(curves.COLOURS[0]), colour(curves.COLOURS[1]), colour(curves.GREY), (0, 0, 0)} <= shown
    assert colour(curves.COLOURS[2]) not in shown  # there is no third stem


def test_the_best_row_is_the_one_of_the_lowest_loss_that_is_a_number():
    rows = [row(20, loss=math.nan), row(40, loss=2.0), row(60, loss=1.0), row(80, loss=-math.inf), row(100, loss=3.0)]
    assert curves.best_of(rows)["step"] == 60


def test_silent_stems_and_lone_rows_are_drawn_without_complaint(tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    file = io.BytesIO()
    curves.draw([row(20, vocals=math.nan, loss=math.nan)], ["vocals", "drums"], "run", file)
    shown = pixels(file.getvalue())
    assert colour(curves.COLOURS[1]) in shown and not recwarn.list
    minimal = io.BytesIO()
    curves.draw([{"step": n, "loss": 1.0 / n, "a": n} for n in (1, 2)], ["a"], "run", minimal)
    assert colour(curves.COLOURS[0]) in pixels(minimal.getvalue())


def test_without_matplotlib_there_is_the_table_alone(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    absent = ("matplotlib", "tensorboard")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else find(name))
    History(tmp_path).append(row(20))
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


# TensorBoard


def test_tensorboard_holds_the_same_numbers_and_forgets_what_was_gone_back_on(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = History(tmp_path)
    for step in (20, 40, 60):
        history.append(row(step, loss=1.0))
    history.rewind(30)
    for step in (40, 60):
        history.append(row(step, loss=2.0))
    history.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {*row(20).keys() - {"step", "vocals", "drums"},
                                             "sdr_db/vocals", "sdr_db/drums"}
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(20, 1), (40, 2), (60, 2)]
    assert [each.value for each in events.Scalars("sdr_db/drums")] == pytest.approx([20 / 13, 40 / 13, 60 / 13])


# The status


def test_status_tells_what_was_written(tmp_path):
    history = History(tmp_path)
    for each in (row(20), row(40, drums=math.nan), row(60)):  # 60: written, but no block finished since
        history.append(each)
    PROGRESS.write(tmp_path)
    found = status(tmp_path)
    assert found.progress == PROGRESS
    assert found.validation["step"] == 40 and found.scores == {"vocals": 40 / 11}
    assert found.left_s == 180 and not found.finished and found.running is False
    assert 0 <= found.updated_s < 60
    os.utime(tmp_path / "status.json", (0, 0))
    assert status(tmp_path).updated_s > 1e9
    text = found.text()
    for told in ("stopped", "--resume", "step 20", "epoch 2", "25.0 %", "1 min 0 s", "3 min 0 s left", "loss -9.5000",
                 "1.00e-03", "best", "-11.0000", "vocals 3.64 dB"):
        assert told in text


def test_before_the_first_validation_and_after_the_end(tmp_path):
    Progress(step=0, share=0.0, elapsed_s=0.0, loss=math.nan, lr=None, best=math.inf).write(tmp_path)
    assert json.loads((tmp_path / "status.json").read_text(), parse_constant=pytest.fail)["best"] is None
    begun = status(tmp_path)
    assert begun.left_s is None and not begun.validation and "best" not in begun.text() and "left" not in begun.text()
    Progress(step=9, share=1.02, elapsed_s=7.0, loss=1.0, lr=0.0).write(tmp_path)
    done = status(tmp_path)
    assert done.finished and done.left_s == 0 and "finished" in done.text() and "100.0 %" in done.text()
    Progress(step=9, share=0.5, elapsed_s=7.0, loss=1.0, lr=0.0, finished=True).write(tmp_path)  # stopped early
    assert status(tmp_path).finished and "finished" in status(tmp_path).text() and "left" not in status(tmp_path).text()


def test_a_run_is_running_while_its_process_lives_and_no_longer(tmp_path):
    PROGRESS.write(tmp_path)
    script = f"""
import time
from pathlib import Path
from separator.train.status import alone
with alone(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    try:
        assert status(tmp_path).running is True and "running" in status(tmp_path).text()
        with pytest.raises(ConfigError, match="another process trains"), alone(tmp_path):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert status(tmp_path).running is False
    with alone(tmp_path):
        assert status(tmp_path).running is True
    assert status(tmp_path).running is False


def test_what_is_no_run_and_what_has_not_begun_is_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="no training run"):
        status(tmp_path)
    with pytest.raises(ConfigError, match="no training run"):
        status(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="has not finished its first block"):
        status(tmp_path)
    for text in ("{", "[]", '{"step": 3}', '{"speed": 3}'):
        (tmp_path / "status.json").write_text(text)
        with pytest.raises(ConfigError, match=r"status\.json: damaged"):
            status(tmp_path)


def test_looking_at_a_run_loads_no_heavy_module(tmp_path):
    heavy = {"torch", "numpy", "matplotlib", "pydantic"}
    script = f"import sys, separator.train.status; sys.exit(', '.join({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
