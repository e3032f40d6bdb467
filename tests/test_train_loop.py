"""Training end to end on made songs: it learns, resumes bit by bit, and refuses what cannot be right."""

import json

import numpy as np
import pytest
import torch

from separator import modelfile
from separator.errors import AudioError, ConfigError, SepctlError
from separator.train.config import Config
from separator.train.config import load as load_config
from separator.train.excerpts import Excerpts
from separator.train.loop import Run
from separator.train.prepared import songs

RATE = 4000
TINY = {
    "model": {
        "name": "tiny",
        "stems": ["low", "high"],
        "sample_rate": RATE,
        "n_fft": 256,
        "hop": 64,
        "spec": {
            "family": "trunk",
            "input_bands": 24,
            "hidden": 16,
            "lstm_hidden": 8,
            "layers": 1,
            "head": 16,
            "fine_bins": 16,
            "mask_bands": 24,
        },
    },
    "data": {"excerpt_s": 1.0, "rows": 8, "remixes": 2, "valid_excerpts": 4},
    "optim": {"batch_size": 4, "lr": 1e-2, "ema": 0.9},
    "budget": {"max_steps": 60},
    "validate_every": 20,
    "seed": 3,
}


def write_song(folder, seed, seconds=6):
    """One stem below 500 Hz, the other above 900 Hz: separable by anyone who learns where they lie."""
    rng = np.random.default_rng(seed)
    t = np.arange(seconds * RATE) / RATE
    for stem, low, high in (("low", 60, 500), ("high", 900, 1900)):
        tones = sum(np.sin(2 * np.pi * rng.uniform(low, high) * t + rng.uniform(0, 6)) for _ in range(5))
        path = folder / stem / "layer.npy"
        path.parent.mkdir(parents=True)
        np.save(path, (np.stack([tones, tones * 0.7], axis=1) * 4000).astype(np.int16))


@pytest.fixture
def config(tmp_path):
    for split, number in (("train", 3), ("valid", 1)):
        for n in range(number):
            write_song(tmp_path / split / f"song{n}", hash((split == "valid", n)) % 1000)
    data = TINY["data"] | {"train": [{"folder": str(tmp_path / "train")}], "valid": str(tmp_path / "valid")}
    return Config.model_validate(TINY | {"data": data})


def test_training_learns_what_was_planted_and_writes_a_model_that_runs(config, tmp_path):
    events = []
    run = Run(config, tmp_path / "run")
    run.train(events.append)
    validations = [event["validation"] for event in events if "validation" in event]
    assert validations[-1]["low"] > 8 and validations[-1]["high"] > 8  # dB; equal shares give about 0
    assert validations[-1]["loss"] < validations[0]["loss"]
    card, network = modelfile.load(run.model_path)
    assert card.training["config"]["seed"] == 3
    scores = run.validation.scores(network.eval())
    assert scores["loss"] == pytest.approx(run.best, abs=0.05)  # half precision costs next to nothing


def test_resumed_training_equals_uninterrupted_training(config, tmp_path):
    def stop_at(step):
        def log(event):
            if event.get("step") == step:
                raise KeyboardInterrupt  # in the middle of a block

        return log

    whole = Run(config, tmp_path / "whole")
    whole.train(lambda event: None)
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path / "cut").train(stop_at(22))
    resumed = Run(config, tmp_path / "cut", resume=True)
    assert 0 < resumed.step < 22
    resumed.train(lambda event: None)
    assert resumed.step == whole.step
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
    for key, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[key]), key
    assert (tmp_path / "whole" / "history.csv").read_text().splitlines()[-1].split(",")[2:] == (
        tmp_path / "cut" / "history.csv"
    ).read_text().splitlines()[-1].split(",")[2:]


def test_rows_depend_on_seed_and_block_alone(config):
    first, again = (Excerpts(config.data, config.model.stems, RATE, seed=5) for _ in range(2))
    first.rows(0)
    assert torch.equal(first.rows(7), again.rows(7))
    assert not torch.equal(first.rows(7), first.rows(8))


def test_a_stem_that_is_nearly_always_silent_is_still_heard(config, tmp_path):
    folder = tmp_path / "quiet"
    write_song(folder / "a", 1)
    layer = np.load(folder / "a" / "low" / "layer.npy")
    layer[: 4 * RATE] = 0
    np.save(folder / "a" / "low" / "layer.npy", layer)
    data = config.data.model_copy(
        update={
            "train": (config.data.train[0].model_copy(update={"folder": folder}),),
            "silent": 0.0,
            "drop_layer": 0.0,
            "rows": 64,
        }
    )
    rows = Excerpts(data, config.model.stems, RATE, 0).rows(0)
    heard = (rows[:, 0].square().mean((1, 2)) > 1e-6).float().mean()
    assert heard > 0.9  # blind draws would hear it in half the rows


def test_an_excerpt_is_a_slice_of_the_sum_of_layers(tmp_path):
    folder = tmp_path / "set" / "a" / "low"
    folder.mkdir(parents=True)
    layers = [np.random.default_rng(n).integers(-9999, 9999, (1000 + n, 2)).astype(np.int16) for n in range(2)]
    for n, layer in enumerate(layers):
        np.save(folder / f"{n}.npy", layer)
    (song,) = songs(tmp_path / "set")
    got = song.excerpt("low", 990, 20, [1.0, 0.5])
    expected = np.zeros((20, 2))
    expected[:10] += layers[0][990:] / 32768
    expected[:11] += layers[1][990:] / 65536
    np.testing.assert_allclose(got.numpy(), expected.T, atol=1e-7)


def test_errors_name_what_is_wrong(config, tmp_path):
    with pytest.raises(AudioError, match="no prepared songs"):
        songs(tmp_path / "nowhere")
    with pytest.raises(AudioError, match="flute"):
        Excerpts(config.data, ["low", "flute"], RATE, 0)
    (tmp_path / "broken" / "a" / "low").mkdir(parents=True)
    (tmp_path / "broken" / "a" / "low" / "x.npy").write_bytes(b"\x93NUMPY half")
    with pytest.raises(AudioError, match=r"x\.npy: damaged"):
        songs(tmp_path / "broken")[0].layers  # noqa: B018
    with pytest.raises(ConfigError, match="no checkpoint"):
        Run(config, tmp_path / "empty", resume=True)


def test_a_run_is_not_overwritten_nor_resumed_as_something_else(config, tmp_path):
    short = config.model_copy(update={"budget": config.budget.model_copy(update={"max_steps": 2})})
    Run(short, tmp_path / "run").train(lambda event: None)
    with pytest.raises(ConfigError, match="--resume"):
        Run(short, tmp_path / "run")
    spec = short.model.spec.model_copy(update={"hidden": 8})
    with pytest.raises(ConfigError, match="another architecture"):
        Run(
            short.model_copy(update={"model": short.model.model_copy(update={"spec": spec})}),
            tmp_path / "run",
            resume=True,
        )


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(config, tmp_path):
    run = Run(config, tmp_path / "run")

    def poison(event):
        if event.get("step") == 6:
            run.network.squeeze.weight.data[0, 0] = torch.nan

    with pytest.raises(SepctlError, match="loss is nan at step 6"):
        run.train(poison)
    state = torch.load(run.checkpoint, weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["network"].values())


def test_config_errors_name_file_and_key(tmp_path, config):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(json.loads(config.model_dump_json()) | {"optim": {"lrr": 3e-4}}))
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown key optim\.lrr\n.*did you mean optim\.lr\?"):
        load_config(path)
    path.write_text(config.model_dump_json())
    assert load_config(path, ["optim.lr=3e-4"]).optim.lr == 3e-4  # YAML alone would read a string
    with pytest.raises(ConfigError, match=r"optim\.lr: .*greater than 0"):
        load_config(path, ["optim.lr=-1"])
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "missing.yaml")
    for override in ("optim.lr=[", "optim.lr.x=1", "data.train.x=1", "data.train.9.folder=x", "seed"):
        with pytest.raises(ConfigError, match="--set"):
            load_config(path, [override])
    with pytest.raises(ConfigError, match="family umx"):
        load_config(path, ["model.spec={family: umx}"])
    with pytest.raises(ConfigError, match="more bands than"):
        load_config(path, ["model.spec.fine_bins=4000"])
    with pytest.raises(ConfigError, match="unknown key modell\\n.*did you mean model"):
        load_config(path, ["modell=1"])
    with pytest.raises(ConfigError, match="exactly one of max_steps and max_minutes"):
        load_config(path, ["budget.max_minutes=3"])
