"""The command `sepctl models`, from its arguments to what it prints and its exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from serving import Server, serving
from tinymodels import make_registry, pth

from separator import registry as module
from separator.cli import program
from separator.cli.models import _bars
from separator.modelfile import read_card
from separator.registry import Registry

FILES = {"vocals": pth(1), "drums": pth(2)}
Sepctl = Callable[..., Result]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "SEPCTL_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        server.files = {f"/{stem}.pth": body for stem, body in FILES.items()}
        yield server


@pytest.fixture
def registry(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = make_registry(tmp_path, server.url(""), FILES)
    monkeypatch.setattr(module, "default", lambda: registry)
    return registry


@pytest.fixture
def sepctl(registry: Registry) -> Sepctl:
    return lambda *words: CliRunner().invoke(program, ["models", *map(str, words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pth").mkdir()
    for stem, body in FILES.items():
        (tmp_path / "pth" / f"{stem}.pth").write_bytes(body)
    return tmp_path / "pth"


def test_pull_path_verify_show(sepctl: Sepctl, registry: Registry) -> None:
    path = str(registry.path("tiny"))
    pulled = sepctl("pull", "tiny")
    assert (pulled.exit_code, pulled.stdout) == (0, f"{path}\n")
    assert pulled.stderr == "tiny\n  licence: MIT\n  Tester\n", "no progress bar without a terminal"
    assert sepctl("path", "tiny").stdout == f"{path}\n"
    assert sepctl("verify").stdout == f"tiny: OK {path}\n"
    shown = sepctl("show", "tiny").stdout.splitlines()
    assert {f"path: {path}", "state: cached", "name: tiny", "stems: vocals, drums", "licence: MIT",
            "attribution: Tester", "  family: umx", "  hidden: 8", "    vocals: 6.0"} <= set(shown)
    told = json.loads(sepctl("show", path, "--json").stdout)
    assert told.pop("state") == "file"
    assert told.pop("path") == path
    assert told.pop("size") == registry.path("tiny").stat().st_size
    assert told == read_card(registry.path("tiny")).model_dump(mode="json")


def test_list(sepctl: Sepctl, registry: Registry, folder: Path) -> None:
    sepctl("pull", "tiny")
    sepctl("import", folder, "--name", "own", "--licence", "CC0-1.0", "--source", "a friend")
    (registry.models / "broken.safetensors").write_text("no")
    size, served = registry.path("tiny").stat().st_size, sum(map(len, FILES.values()))
    table = [line.split("  ") for line in sepctl("list").stdout.splitlines()]
    assert [[cell.strip() for cell in line if cell.strip()] for line in table] == [
        ["name", "state", "size", "stems", "licence", "sdr_db", "scored_on"],
        ["mini", "missing", "-", "vocals,drums", "MIT", "-", "-"],
        ["tiny", "cached", f"{size / 1e6:.1f} MB", "vocals,drums", "MIT", "5.00", "nothing"],
        ["strict", "remote", f"{served / 1e6:.1f} MB", "vocals,drums", "CC-BY-NC-SA-4.0", "5.00", "nothing"],
        ["broken", "damaged", "0.0 MB", "-", "unknown", "-", "-"],
        ["own", "imported", f"{size / 1e6:.1f} MB", "vocals,drums", "CC0-1.0", "-", "-"],
    ]
    rows = [json.loads(line) for line in sepctl("list", "--json").stdout.splitlines()]
    assert rows[1] == {"name": "tiny", "state": "cached", "size": size, "stems": ["vocals", "drums"],
                       "licence": "MIT", "sdr_db": {"vocals": 6.0, "drums": 4.0}, "scored_on": "nothing"}
    assert rows[2]["size"] == served
    assert read_card(registry.path("own")).source == "a friend"


def test_show_a_remote_model(sepctl: Sepctl) -> None:
    told = json.loads(sepctl("show", "strict", "--json").stdout)
    assert (told["state"], told["must_accept"], told["licence"]) == ("remote", True, "CC-BY-NC-SA-4.0")
    assert "    url: http://127.0.0.1" in sepctl("show", "strict").stdout


def test_import_to_a_file(sepctl: Sepctl, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "mine.safetensors"
    done = sepctl("import", folder, "--name", "mine", "-o", out)
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert read_card(out).name == "mine"
    assert read_card(out).licence == "unknown"
    assert sepctl("verify", out).stdout == f"{out}: whole; no hash on record {out}\n"


@pytest.mark.parametrize("to_file", [True, False])
def test_import_replaces_nothing_unless_asked_to(
    sepctl: Sepctl, registry: Registry, folder: Path, tmp_path: Path, to_file: bool
) -> None:
    path = tmp_path / "mine.safetensors" if to_file else registry.path("mine")
    words = ["import", folder, "--name", "mine", *(["-o", path] if to_file else [])]
    assert sepctl(*words, "--source", "first").exit_code == 0
    refused = sepctl(*words, "--source", "second")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{path} exists already" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert read_card(path).source == "first"
    assert sepctl(*words, "--source", "second", "--overwrite").exit_code == 0
    assert read_card(path).source == "second"
    assert sepctl("verify", path).exit_code == 0


def test_one_bad_model_does_not_hide_the_others(sepctl: Sepctl, registry: Registry) -> None:
    sepctl("pull", "tiny")
    (registry.models / "broken.safetensors").write_text("no")
    done = sepctl("verify")
    assert (done.exit_code, done.stdout) == (4, f"tiny: OK {registry.path('tiny')}\n")
    assert "broken: " in done.stderr
    assert "1 of 2 models failed" in done.stderr


@pytest.mark.parametrize(("words", "code", "told"), [
    (["pull", "strict"], 4, "--accept-license"),
    (["pull", "tiny", "--offline"], 4, "off limits"),
    (["pull", "tinny"], 4, "did you mean tiny"),
    (["pull", "x/tiny"], 2, "is a path"),
    (["path", "tiny"], 4, "sepctl models pull tiny"),
    (["show", "tinny"], 4, "did you mean tiny"),
    (["verify", "tinny"], 4, "did you mean tiny"),
    (["import", "nowhere", "--name", "x"], 4, "is not a folder"),
    (["import", "nowhere"], 2, "--name"),
    (["import", "nowhere", "--name", "my.safetensors"], 2, "it reads as a path"),
    (["verify"], 0, "no model is bundled or in the cache"),
])
def test_what_goes_wrong_is_told_on_stderr(sepctl: Sepctl, words: list[str], code: int, told: str) -> None:
    done = sepctl(*words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert told in done.stderr


def test_the_licence_can_be_accepted(sepctl: Sepctl, registry: Registry) -> None:
    done = sepctl("pull", "strict", "--accept-license")
    assert done.exit_code == 0
    assert "CC-BY-NC-SA-4.0" in done.stderr
    assert sepctl("path", "strict").stdout == f"{registry.path('strict')}\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_bar_per_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with _bars() as progress:
        for file, start in (("vocals.pth", 0), ("drums.pth", 400)):
            for done in range(start, 1001, 100):
                progress(file, done, 1000)
        shown = sys.stderr
    assert isinstance(shown, Terminal)
    last = [line.split("\r")[-1] for line in shown.getvalue().split("\n")]
    assert [line.split("|")[0] for line in last if line] == ["vocals.pth: 100%", "drums.pth: 100%"]
    assert all("1.00k/1.00k" in line for line in last if line)


@pytest.mark.parametrize("words", [["list"], ["show", "umxhq"], ["path", "umxhq"], ["--help"]])
def test_quick_commands_do_not_import_torch(tmp_path: Path, words: list[str]) -> None:
    script = ("import sys; from separator.cli import program\n"
              f"try: program.main(['models', *{words!r}])\nfinally: print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env={"SEPCTL_CACHE": str(tmp_path), "PATH": ""}, cwd=Path(__file__).parent.parent)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
