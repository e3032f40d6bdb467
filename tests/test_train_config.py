"""Configurations: what they refuse, in which words, and that what they resolve to can be read again."""

from pathlib import Path

import pytest
import yaml

from separator.errors import ConfigError
from separator.train.config import load

ROOT = Path(__file__).parents[1]
TRUNK = {
    "model": {"name": "tiny", "stems": ["low", "high"], "spec": {"family": "trunk"}},
    "data": {"train": [{"folder": "a"}, {"folder": "b", "weight": 2}], "valid": "v"},
    "optim": {"lr": 1e-3, "schedule": {"name": "plateau"}},
    "budget": {"max_steps": 60},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(TRUNK))
    return path


def refused(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_numbers_are_read_as_numbers(path):
    assert load(path, ["optim.lr=3e-4"]).optim.lr == 3e-4  # YAML alone would read a string
    assert load(path, ["data.train.1.weight=0.5"]).data.train[1].weight == 0.5


@pytest.mark.parametrize(
    ("override", "unknown", "near"),
    [
        ("optim.lrr=1", "optim.lrr", "optim.lr"),
        ("modell=1", "modell", "model"),
        ("model.spec.hiden=3", "model.spec.hiden", "model.spec.hidden"),
        ("optim.schedule.patiense=3", "optim.schedule.patiense", "optim.schedule.patience"),
        ("data.train.1.foldr=x", "data.train.1.foldr", "data.train.1.folder"),
        ("augment.gain.hi=3", "augment.gain.hi", "augment.gain.high"),
        ("budget.max_epoch=3", "budget.max_epoch", "budget.max_epochs"),
        ("data.valid={folder: v, generat: 3}", "data.valid.generat", "data.valid.generate"),
    ],
)
def test_an_unknown_key_is_named_with_file_and_nearest_key(path, override, unknown, near):
    message = refused(path, override)
    assert f"c.yaml: unknown key {unknown}\n" in message and f"did you mean {near}?" in message


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.lr=-1", "optim.lr: .*greater than 0"),
        ("seed=-1", "seed: .*greater than or equal to 0"),
        ("seed=9223372036854775808", "seed: .*less than"),
        ("optim.schedule={factor: 0.5}", "optim.schedule.name: Field required"),
        ("model.spec={hidden: 8}", "model.spec.family: Field required"),
        ("optim.precision=fp8", "optim.precision: .*fp16"),
        ("optim.schedule.name=linear", "optim.schedule: .*plateau"),
        ("budget.max_minutes=3", "budget: give exactly one of max_steps, max_minutes and max_epochs"),
        ("model.spec.fine_bins=4000", "more bands than the 2049 bins"),
        ("model.spec={family: umx, kept_bins: 3000}", "kept_bins 3000 exceeds the 2049 bins"),
        ("model.spec={family: umx, hidden: 7}", "hidden 7 must be even"),
        ("model.channels=1", "model.channels 1: .*stereo"),
        ("data.rows=12", "data.rows 12 must be a multiple of the 8 items"),
        ("optim.micro_batches=3", "optim.batch_size 8 must be a multiple of optim.micro_batches 3"),
        ("data.stems=[low]", "model.stems has high, which is not one of data.stems"),
        ("model.stems=[low]", "the mix would be low alone: name in data.stems"),
        ("model.complete=false", "model.complete is false, so name in data.stems"),
        ("data.stems=[low, high, low]", "data.stems are named twice"),
        ("data.stems=[low, high, mid]", "model.complete must be false: the mix holds mid"),
        ("loss.waveform_l1=1", "loss.waveform_l1 needs every frame: set data.stride to 1"),
        ("loss.thresholded_sdr=0", "loss: all weights are 0"),
        ("data.excerpt_s=0.1", "data.excerpt_s 0.1 is too short"),
        ("data.stride=256", "data.stride 256 exceeds the 255 frames"),  # of 6 s
        ("data.train=[]", "data.train: .*at least 1"),
        ("data.valid={folder: v, weight: 7}", "data.valid: weight is of sources of data.train"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(path, override, told):
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{told}"):
        load(path, [override])


def test_an_exact_sum_is_for_models_of_the_whole_mix(path):
    assert load(path, ["loss.exact_sum=true"]).loss.exact_sum
    some = ["data.stems=[low, high, mid]", "model.complete=false"]
    load(path, some)
    with pytest.raises(ConfigError, match="loss.exact_sum is for models that give out the whole mix"):
        load(path, [*some, "loss.exact_sum=true"])


def test_a_missing_key_is_named(path):
    path.write_text(yaml.safe_dump({key: value for key, value in TRUNK.items() if key != "budget"}))
    assert "c.yaml: budget: Field required" in refused(path)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.lr=[", "'[' is not YAML"),
        ("optim.lr.x=1", "optim.lr is 0.001; set that as a whole"),
        ("data.valid.folder=w", "data.valid is 'v'; set that as a whole"),
        ("data.train.x=1", "data.train is [{'folder': 'a'}"),
        ("data.train.9.folder=x", "data.train is [{'folder': 'a'}"),
        ("seed", "expected KEY=VALUE"),
    ],
)
def test_an_override_that_fits_nowhere_is_named(path, override, told):
    message = refused(path, override)
    assert f"--set {override}: " in message and told in message


def test_files_that_are_no_configuration(tmp_path):
    assert "nothing.yaml: no such file" in refused(tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    assert "list.yaml: expected keys and values" in refused(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    assert "broken.yaml: not readable as YAML" in refused(tmp_path / "broken.yaml")


def test_a_key_that_stands_twice_is_named_with_its_lines(path):
    path.write_text("seed: 1\noptim:\n  lr: 3\n  ema: 0.9\n  lr: 4\n")
    assert "c.yaml: not readable as YAML: the key lr stands twice, in lines 3 and 5" in refused(path)
    path.write_text(yaml.safe_dump(TRUNK))
    assert "the key max_steps stands twice" in refused(path, "budget={max_steps: 3, max_steps: 4}")


def test_lanes_are_raised_to_the_number_of_processes(path):
    assert load(path).with_lanes(2).optim.micro_batches == 2
    assert load(path, ["optim.micro_batches=4"]).with_lanes(2).optim.micro_batches == 4
    with pytest.raises(ConfigError, match="micro_batches 4 must be a multiple of the 3 processes"):
        load(path, ["optim.micro_batches=4"]).with_lanes(3)
    with pytest.raises(ConfigError, match=r"^3 processes: optim.batch_size 8 must be a multiple"):
        load(path).with_lanes(3)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid_and_resolve_to_themselves(path, tmp_path):
    config = load(path)
    assert config.model.name == path.stem
    assert config.model.licence != "unknown" or path.stem not in ("mini", "smoke")
    (tmp_path / "config.yaml").write_text(config.as_yaml())
    assert load(tmp_path / "config.yaml") == config


def test_umx_is_the_recipe_of_open_unmix():
    """Its published hyperparameters: scripts/train.py and data.py of Open-Unmix 1.x."""
    for name in ("umx", "umx-vocals"):
        config = load(ROOT / "configs" / f"{name}.yaml")
        optim, schedule, gain = config.optim, config.optim.schedule, config.augment.gain
        assert (optim.name, optim.lr, optim.weight_decay, optim.batch_size) == ("adam", 1e-3, 1e-5, 16)
        assert (schedule.factor, schedule.patience, schedule.cooldown, schedule.stop_patience) == (0.3, 80, 10, 140)
        assert (gain.p, gain.low, gain.high, gain.scale) == (1, 0.25, 1.25, "linear")
        assert (config.augment.swap, config.augment.coherent, config.data.excerpt_s) == (0.5, 0, 6)
        assert (config.loss.magnitude_mse, config.loss.thresholded_sdr) == (1, 0)
        assert (config.sources, config.budget.max_epochs) == (("vocals", "drums", "bass", "other"), 1000)
    assert not config.model.complete and config.model.stems == ("vocals",)
