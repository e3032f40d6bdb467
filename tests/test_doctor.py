"""`sepctl doctor` tells the truth about this machine, and its exit code whether `sepctl split` would work."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from pathlib import Path

import av
import pytest
import torch
from click.testing import CliRunner, Result

from separator import __version__, registry
from separator.cli import doctor, program


def run(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["doctor", *arguments])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def with_model(cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the default model were the tiny one."""
    monkeypatch.setattr(doctor, "DEFAULT_MODEL", str(tiny_model))


@pytest.fixture
def without_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DEFAULT_MODEL", "umxhq")


@pytest.mark.usefixtures("with_model")
def test_json_agrees_with_what_is_here(cache: Path) -> None:
    done = run("--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["versions"]["sepctl"] == __version__
    assert report["versions"]["python"] == platform.python_version()
    assert report["versions"]["av"] == importlib.metadata.version("av")
    assert report["versions"]["libavcodec"] == ".".join(map(str, av.library_versions["libavcodec"]))
    assert report["compute"]["threads"] == torch.get_num_threads()
    assert len(report["compute"]["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert set(report["codecs"]) == {"wav", "flac", "mp3", "ogg", "opus", "m4a"}
    assert all(report["codecs"].values())
    assert [model["name"] for model in report["models"]] == registry.names()
    assert (report["cache"]["folder"], report["cache"]["writable"]) == (str(cache), True)
    assert abs(report["cache"]["free_gb"] - shutil.disk_usage(cache.parent).free / 1e9) < 1
    assert report["problem"] is None
    assert not cache.exists()  # looking changes nothing


@pytest.mark.usefixtures("with_model")
def test_for_people() -> None:
    done = run()
    assert done.exit_code == 0
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert told["torch"] == importlib.metadata.version("torch")
    assert told[".wav"] == "pcm_s16le, pcm_s24le, pcm_f32le"
    assert told["umxhq"] == "umxhq is not pulled yet"


@pytest.mark.usefixtures("without_model")
def test_a_missing_default_model_is_exit_code_4_and_all_else_is_still_told() -> None:
    done = run()
    assert done.exit_code == 4
    assert done.stderr.startswith("Error: umxhq is not pulled yet\n  hint: ")
    assert "\ncpu " in done.stdout
    assert "umxhq is not pulled yet" in json.loads(run("--json").stdout)["problem"]


@pytest.mark.usefixtures("with_model")
def test_a_torch_that_does_not_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.setattr("separator.modelfile.load", lambda _: __import__("torch"))
    done = run()
    assert done.exit_code == 1
    assert "torch does not import" in done.stderr
    assert "\n.flac " in done.stdout
