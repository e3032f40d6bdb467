"""Summaries with a planted answer, and files that museval itself reads."""

import csv
import io
import json

import numpy as np
import pytest

from separator.errors import UsageError
from separator.evaluation import SongScores, tables
from separator.evaluation.plot import box_plot

NAN, INF = np.nan, np.inf
STEMS = ("vocals", "bass")


def scores(song, windows, whole, method="tiny", stems=STEMS, **more):
    windows = {"SDR": np.array(windows, dtype=float)} if not isinstance(windows, dict) else windows
    return SongScores(song=song, split="", method=method, stems=stems, windows=windows,
                      global_sdr=np.array(whole, dtype=float), **{"duration_s": 10.0, "elapsed_s": 4.0,
                                                                  "peak_bytes": 3 << 20, **more})


@pytest.fixture
def three():
    return [
        scores("a", [[1, 5], [2, NAN], [4, 7], [9, 6]], [3, 6]),                    # medians 3 and 6
        scores("b", [[NAN, NAN], [NAN, NAN]], [-1, NAN], peak_bytes=5 << 20),       # its bass is silent throughout
        scores("c", [[5.0], [INF]], [2], stems=("vocals",), elapsed_s=2.0),         # it has no bass
    ]


def test_the_summary_is_the_median_of_medians_and_the_mean_of_global_sdr(three):
    (row,) = tables.summary(three, STEMS)
    assert row["sdr_median_db"] == {"vocals": 4.0, "bass": 6.0}     # of 3 and 5; of 6
    assert row["sdr_global_db"] == {"vocals": pytest.approx(4 / 3, abs=1e-3), "bass": 6.0}
    assert row["songs"] == 3 and row["songs_scored"] == {"vocals": 2, "bass": 1}
    assert row["x_real_time"] == 3.0 and row["peak_mb"] == 5


def test_what_no_song_has_is_missing_never_zero(three):
    (row,) = tables.summary(three[1:2], STEMS)
    assert row["sdr_median_db"] == {"vocals": None, "bass": None} and row["sdr_global_db"]["bass"] is None
    first, second = (line.split() for line in tables.text([row], STEMS).splitlines()[1:])
    assert first[:6] == ["tiny", "SDR", "median", "-", "-", "-"]
    assert second == ["SDR", "global", "-1.00", "-", "-"]
    cells = tables.song_rows(three[1])
    found = [(each["windows"], each["sdr_median_db"], each["sdr_global_db"]) for each in cells]
    assert found == [(0, "", -1), (0, "", "")]


def test_json_has_null_where_a_number_is_missing_or_infinite():
    told = json.loads(tables.to_json({"a": [INF, -INF, NAN, 1.5], "b": {"c": None}}), parse_constant=pytest.fail)
    assert told == {"a": [None, None, None, 1.5], "b": {"c": None}}


def test_rows_of_a_song_fill_the_columns_of_the_csv(three):
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=tables.COLUMNS)
    writer.writerows(tables.song_rows(three[0]))
    assert file.getvalue().splitlines()[0] == "a,,tiny,vocals,4,3.0,,,,3.0"


def test_museval_reads_our_files_and_aggregates_them_to_our_numbers(tmp_path):
    museval = pytest.importorskip("museval")
    jsonschema = pytest.importorskip("jsonschema")
    random = np.random.default_rng(0)
    songs = []
    for n, windows in enumerate((4, 7, 6)):
        values = {name: random.normal(5, 3, (windows, 2)) for name in ("SDR", "SIR", "SAR", "ISR")}
        for each in values.values():
            each[1] = NAN
        values["SIR"][2, 0] = INF
        songs.append(scores(f"A. B - Söng {n}", values, [1, 2]))
    paths = [tables.write_museval(tmp_path, each) for each in songs]
    assert paths[0] == tmp_path / "tiny" / "test" / "A. B - Söng 0.json"
    schema = museval.TrackStore("x").schema
    for path in paths:
        jsonschema.validate(json.loads(path.read_text()), schema)
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path / "tiny")
    assert set(store.df["track"]) == {each.song for each in songs} and len(store.df) == (4 + 7 + 6) * 4 * 2
    theirs = store.agg_frames_tracks_scores().unstack()
    (row,) = tables.summary(songs, STEMS)
    for name in ("SDR", "SIR", "SAR", "ISR"):
        for stem in STEMS:
            assert row[f"{name.lower()}_median_db"][stem] == pytest.approx(theirs[name][stem], abs=6e-4), (name, stem)
    methods = museval.MethodStore()
    methods.add_eval_dir(tmp_path / "tiny")
    assert set(methods.df["method"]) == {"tiny"}


def test_a_file_is_what_museval_itself_would_write(tmp_path):
    museval = pytest.importorskip("museval")
    ours = scores("song", {name: np.random.default_rng(n).normal(0, 9, (3, 2)) for n, name in enumerate(
        ("SDR", "SIR", "SAR", "ISR"))}, [0, 0])
    ours.windows["ISR"][1] = NAN
    store = museval.TrackStore("song", win=1.0, hop=1.0)
    for s, stem in enumerate(STEMS):
        store.add_target(stem, {name: values[:, s].tolist() for name, values in ours.windows.items()})
    found = json.loads(tables.write_museval(tmp_path, ours).read_text())
    expected = json.loads(store.json)
    assert str(found) == str(expected)      # as text: NaN equals nothing


def test_the_picture_shows_what_there_is(tmp_path, three):
    pytest.importorskip("matplotlib")
    other = [scores(each.song, each.windows, each.global_sdr, "mix", each.stems) for each in three]
    box_plot(tmp_path / "many.png", [*three, *other], STEMS, "three songs")
    box_plot(tmp_path / "one.png", three[2:], STEMS, "no bass")
    box_plot(tmp_path / "none.png", three[1:2], STEMS, "nothing to draw")
    many, one, none = ((tmp_path / f"{name}.png").read_bytes() for name in ("many", "one", "none"))
    assert many[:8] == one[:8] == none[:8] == b"\x89PNG\r\n\x1a\n" and len({many, one, none}) == 3
    with pytest.raises(UsageError, match="--plot"):
        box_plot(tmp_path / "x.abc", three, STEMS, "")
