"""`sepctl evaluate` on songs the tests make, with all that can be wrong with them, and on a real one."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from scripts import publish
from separator.cli import program
from separator.corpus import validation_names
from separator.modelfile import file_sha256

RATE = 8000
STEMS = ("vocals", "drums", "bass", "other")


def invoke(*arguments):
    return CliRunner().invoke(program, ["evaluate", *(str(each) for each in arguments)], catch_exceptions=False)


def read(path):
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def stems(seed, seconds=3):
    return torch.randn(4, 2, seconds * RATE, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.fixture
def songs(tmp_path, write_wav, monkeypatch):
    """A folder of three songs of 3 s with all four stems."""
    monkeypatch.chdir(tmp_path)
    for n in range(3):
        for stem, audio in zip(STEMS, stems(n), strict=True):
            write_wav(tmp_path / "songs" / f"song{n}" / f"{stem}.wav", audio)
    return tmp_path / "songs"


def table(done):
    """Lines of numbers as method and measure -> cells."""
    assert done.exit_code == 0, done.stderr
    found, method = {}, ""
    for line in done.stdout.split("\n\n")[1].splitlines()[1:]:
        method = line[:16].strip() or method
        what, *cells = line[16:].split("  ")[0].strip(), *line[27:].split()
        found[method, what] = cells
    return found


def test_a_table_names_its_data_model_and_command(tiny_model, songs):
    done = invoke(tiny_model, "--folder", "songs", "--oracle", "mix,irm1", "--oracle", "irm2", "--oracle", "mwf,mix")
    head = done.stdout.split("\n\n")[0]
    assert file_sha256(tiny_model) in head and "3 of 3 songs" in head and "museval" in head
    assert f"sepctl evaluate {tiny_model} --folder songs --oracle mix,irm1 --oracle irm2 --oracle mwf,mix " in head
    rows = table(done)
    methods = [method for method, what in rows if what == "SDR median"]
    assert methods == ["tiny", "mix", "irm1", "irm2", "mwf"]
    floor, best = rows["mix", "SDR global"], rows["mwf", "SDR global"]
    assert [float(each) for each in floor] == pytest.approx([-4.77] * 5, abs=0.1)   # three others, as loud
    assert all(float(a) > float(b) + 5 for a, b in zip(best, floor, strict=True))
    speed, memory = rows["tiny", "SDR median"][-2:]
    assert float(speed) > 0 and float(memory) > 50


def test_results_do_not_depend_on_the_number_of_processes(tiny_model, songs, write_wav):
    for stem, audio in zip(STEMS, stems(0, 90), strict=True):
        write_wav(songs / "song0" / f"{stem}.wav", audio)   # so that with two the first song ends last
    told = {}
    for jobs in (1, 2):
        options = ("--oracle", "irm1", "--csv", f"{jobs}.csv", "--json-dir", f"files{jobs}", "--jobs", jobs, "--json")
        done = invoke(tiny_model, "--folder", "songs", *options)
        assert done.exit_code == 0, done.stderr
        report = json.loads(done.stdout)
        for row in report["rows"]:
            assert row.pop("x_real_time") > 0 and row.pop("peak_mb") > 50
        files = {path.relative_to(f"files{jobs}"): path.read_text() for path in Path(f"files{jobs}").rglob("*.json")}
        told[jobs] = report["rows"], Path(f"{jobs}.csv").read_text(), files
    assert told[1] == told[2]
    rows, _, files = told[1]
    assert [row["songs_scored"]["vocals"] for row in rows] == [3, 3] and len(files) == 6
    lines = read("1.csv")
    assert [line["song"] for line in lines[::8]] == ["song0", "song1", "song2"] and len(lines) == 3 * 2 * 4
    assert [line["windows"] for line in lines[::8]] == ["90", "3", "3"]
    assert report["model"]["sha256"] == file_sha256(tiny_model)


def test_bad_songs_are_named_and_the_others_scored(tiny_model, songs, write_wav):
    (songs / "song1" / "drums.wav").write_bytes(b"RIFF of nothing")
    write_wav(songs / "odd" / "vocals.wav", stems(7)[0], RATE)
    write_wav(songs / "odd" / "bass.wav", stems(7)[1], 2 * RATE)
    write_wav(songs / "flute" / "flute.wav", stems(7)[1])
    for jobs in (1, 2):
        done = invoke(tiny_model, "--folder", "songs", "--jobs", jobs, "--csv", "s.csv")
        assert done.exit_code == 1 and "3 of 5 songs could not be scored" in done.stderr
        assert "song1: " in done.stderr and "drums.wav" in done.stderr
        assert "odd: " in done.stderr and f"[{RATE}, {2 * RATE}]" in done.stderr
        assert "flute: " in done.stderr and "it has flute" in done.stderr
        assert "2 of 5 songs" in done.stdout
        assert {row["song"] for row in read("s.csv")} == {"song0", "song2"}


def test_a_stem_that_a_song_lacks_is_missing_there_and_one_too_many_is_only_heard(tiny_model, songs, write_wav):
    (songs / "song0" / "bass.wav").rename(songs / "song0" / "flute.wav")
    done = invoke(tiny_model, "--folder", "songs", "--oracle", "mix", "--json", "--csv", "s.csv")
    assert done.exit_code == 0 and "song0: has no bass" in done.stderr
    _, mix = json.loads(done.stdout)["rows"]
    assert mix["songs_scored"] == {"vocals": 3, "drums": 3, "bass": 2, "other": 3}
    rows = {(row["song"], row["stem"]): row for row in read("s.csv") if row["method"] == "mix"}
    assert ("song0", "bass") not in rows and ("song0", "flute") not in rows
    assert float(rows["song0", "vocals"]["sdr_global_db"]) == pytest.approx(-4.77, abs=0.1)     # the flute disturbs


def test_published_scores_are_those_of_the_command(tiny_model, songs):
    (songs / "song0" / "bass.wav").unlink()
    told = json.loads(invoke(tiny_model, "--folder", "songs", "--oracle", "mix,irm1", "--json").stdout)["rows"]
    published = publish.measured(tiny_model, STEMS, songs)
    for name, row in zip(("model", "mix", "irm1"), told, strict=True):
        for key in ("median_db", "global_db"):
            assert published[name][key] == {stem: round(row[f"sdr_{key}"][stem], 2) for stem in STEMS}


def test_a_silent_reference_is_missing(tiny_model, songs, write_wav):
    shutil.rmtree(songs / "song1")
    shutil.rmtree(songs / "song2")
    write_wav(songs / "song0" / "bass.wav", torch.zeros(2, 3 * RATE))
    rows = table(invoke(tiny_model, "--folder", "songs", "--oracle", "mix"))
    assert rows["mix", "SDR median"][:5] == ["-"] * 5
    assert rows["mix", "SDR global"][2] == "-" and float(rows["mix", "SDR global"][0]) < 0
    mix = json.loads(invoke(tiny_model, "--folder", "songs", "--oracle", "mix", "--json").stdout)["rows"][1]
    assert mix["sdr_median_db"]["bass"] is None and mix["sdr_global_db"]["bass"] is None


def test_full_scores_have_all_four_measures(tiny_model, songs):
    for path in songs.rglob("*.wav"):
        if path.stem in ("drums", "other") or path.parent.name == "song1":
            path.unlink()   # a quarter of the work
    options = ("--full", "--oracle", "irm1", "--json-dir", "files", "--duration", "2")
    done = invoke(tiny_model, "--folder", "songs", *options)
    rows = table(done)
    assert [what for method, what in rows if method == "irm1"] == [
        "SDR median", "SDR global", "SIR median", "SAR median", "ISR median"]
    for what in ("SIR", "SAR", "ISR"):
        vocals, bass, mean = (float(cell) for cell in rows["irm1", f"{what} median"])
        assert -20 < vocals < 40 and mean == pytest.approx((vocals + bass) / 2, abs=0.011)
    frames = json.loads(Path("files/irm1/test/song2.json").read_text())["targets"][0]["frames"]
    assert [frame["time"] for frame in frames] == [0, 1] and set(frames[0]["metrics"]) == {"SDR", "SIR", "SAR", "ISR"}


def test_musdb_is_read_by_its_splits_in_both_editions(tiny_model, tmp_path, write_wav, monkeypatch):
    monkeypatch.chdir(tmp_path)
    valid = validation_names()[0]
    for place in ("train/Some - One", f"train/{valid}", "test/No - Body"):
        audio = stems(1, 2)
        for stem, each in zip(("mixture", *STEMS), (audio.sum(0), *audio), strict=True):
            write_wav(tmp_path / "hq" / place / f"{stem}.wav", each)
    for split, song in ((None, "No - Body"), ("test", "No - Body"), ("valid", valid), ("train", "Some - One")):
        more = () if split is None else ("--split", split)
        done = invoke(tiny_model, "--musdb", "hq", *more, "--csv", "s.csv", "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["data"] == {
            "path": "hq", "kind": "MUSDB18", "split": split or "test", "songs": 1, "scored": 1}
        assert {row["song"] for row in read("s.csv")} == {song}
    done = invoke(tiny_model, "--musdb", "hq/test")
    assert done.exit_code == 5 and "MUSDB18" in done.stderr


def test_a_folder_may_have_splits(tiny_model, songs):
    done = invoke(tiny_model, "--folder", "songs", "--split", "valid")
    assert done.exit_code == 2 and "valid" in done.stderr
    for n, split in enumerate(("train", "valid", "valid")):
        (songs / split).mkdir(exist_ok=True)
        (songs / f"song{n}").rename(songs / split / f"song{n}")
    report = json.loads(invoke(tiny_model, "--folder", "songs", "--split", "valid", "--json").stdout)
    assert report["data"]["split"] == "valid" and report["data"]["songs"] == 2
    report = json.loads(invoke(tiny_model, "--folder", "songs", "--json").stdout)
    assert report["data"]["split"] == "train, valid" and report["data"]["songs"] == 3
    (songs / "valid" / "song1").rename(songs / "valid" / "song0")
    done = invoke(tiny_model, "--folder", "songs", "--json-dir", "files")
    assert done.exit_code == 2 and "--split" in done.stderr and not Path("files").exists()


@pytest.fixture
def one_stem_model(tmp_path):
    from separator.card import ModelCard, UmxSpec
    from separator.modelfile import save
    from separator.models import build

    card = ModelCard(name="only-vocals", stems=("vocals",), spec=UmxSpec(hidden=8, layers=1, kept_bins=100), n_fft=512,
                     hop=128, sample_rate=RATE, segment_s=1.0, context_s=0.1, complete=False)
    path = tmp_path / "only-vocals.safetensors"
    save(path, card, build(card))
    return path


def test_a_model_of_one_stem_is_scored_on_that_alone(one_stem_model, songs):
    done = invoke(one_stem_model, "--folder", "songs", "--oracle", "mix,irm1", "--json")
    assert done.exit_code == 0, done.stderr
    ours, mix, mask = json.loads(done.stdout)["rows"]
    assert list(ours["sdr_median_db"]) == ["vocals"]
    assert mix["sdr_global_db"]["vocals"] == pytest.approx(-4.77, abs=0.1)  # the others are in the mix all the same
    assert 2 < mask["sdr_global_db"]["vocals"] < 20                         # and in the mask
    for song in songs.iterdir():
        (song / "vocals.wav").unlink()
    done = invoke(one_stem_model, "--folder", "songs")
    assert done.exit_code == 2 and "only-vocals makes vocals" in done.stderr and "drums" in done.stderr


@pytest.mark.parametrize(("arguments", "code", "words"), [
    ((), 2, "--musdb ROOT or --folder"),
    (("--folder", ".", "--musdb", "."), 2, "--musdb ROOT or --folder"),
    (("--folder", "nowhere"), 2, "nowhere"),
    (("--folder", "empty"), 5, "no songs"),
    (("--folder", "songs", "--oracle", "mix,irm3"), 2, "irm3"),
    (("--folder", "songs", "--csv", "nowhere/s.csv"), 2, "--csv"),
    (("--folder", "songs", "--plot", "nowhere/p.png"), 2, "--plot"),
    (("--folder", "songs", "--json-dir", "songs/song0/bass.wav/x"), 2, "--json-dir"),
    (("--folder", "songs", "--start", "100"), 1, "3 of 3 songs"),
    (("--folder", "songs", "--duration", "0"), 2, "--duration"),
    (("--folder", "songs", "--precision", "fp16", "--device", "cpu"), 2, "fp16"),
])
def test_what_cannot_be_done_is_refused(tiny_model, songs, arguments, code, words):
    (songs.parent / "empty").mkdir()
    done = invoke(tiny_model, *arguments)
    assert done.exit_code == code and words in done.stderr and not done.stdout


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_keeps_what_is_done(tiny_model, songs, write_wav):
    for n in range(3, 6):
        for stem in STEMS:
            write_wav(songs / f"song{n}" / f"{stem}.wav", stems(n)[0].repeat(1, 200))     # ten minutes
    command = [sys.executable, "-m", "separator", "evaluate", str(tiny_model), "--folder", "songs", "--csv", "s.csv",
               "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and (not Path("s.csv").exists() or "song2" not in Path("s.csv").read_text()):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)   # as a terminal does: to all of them
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "killed" not in err and not out
    assert {row["song"] for row in read("s.csv")} >= {"song0", "song1", "song2"}
    assert ended(process.pid, within_s=20)


def ended(group, within_s):
    """Whether no process of the group is left; the last is Python's tracker of resources."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.real
def test_the_bundled_model_on_the_excerpt_of_stempeg(tmp_path, monkeypatch):
    """Figures that were measured before, by hand."""
    stempeg = pytest.importorskip("stempeg")
    monkeypatch.chdir(tmp_path)
    song = Path(stempeg.example_stem_path())
    (tmp_path / "musdb" / "test").mkdir(parents=True)
    shutil.copy(song, tmp_path / "musdb" / "test")
    done = invoke("mini", "--musdb", "musdb", "--oracle", "mix,irm1", "--plot", "p.png", "--json")
    assert done.exit_code == 0, done.stderr
    found = {row["method"]: list(row["sdr_global_db"].values()) for row in json.loads(done.stdout)["rows"]}
    assert found["mini"] == pytest.approx([3.25, 5.37, 3.94, 1.99], abs=0.006)
    assert found["mix"] == pytest.approx([-7.06, -4.08, -2.95, -5.44], abs=0.006)
    assert found["irm1"] == pytest.approx([8.22, 9.08, 8.11, 6.15], abs=0.006)
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_is_the_same_command(tiny_model, songs):
    script = Path(__file__).parents[1] / "scripts" / "evaluate.py"
    done = subprocess.run([sys.executable, str(script), str(tiny_model), "--folder", str(songs), "--split", "test"],
                          text=True, capture_output=True)
    assert done.returncode == 2 and "no split 'test'" in done.stderr and "Traceback" not in done.stderr
