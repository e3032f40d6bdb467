"""The documents tell the truth: what README shows runs, and every command and option is told of, none that is not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from separator import errors, registry
from separator.cli import program

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MANUAL = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
NOT_RUN = ("make ", "sepctl models pull ")  # builds an environment; needs the network


def commands(group: click.Command, *words: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that can be called, with its full name."""
    yield " ".join(words), group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, *words, name)


COMMANDS = dict(commands(program, "sepctl"))
OPTIONS = [(name, option) for name, command in COMMANDS.items()
           for option in command.params if isinstance(option, click.Option)]


def section(name: str) -> str:
    """What docs/cli.md says below the heading of a command, up to the next command's; of `sepctl`, the beginning."""
    if name == "sepctl":
        return MANUAL.split("\n## ")[0]
    found = re.search(rf"^##+ {re.escape(name)}\n(.*?)(?=^## |^### sepctl |\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no heading {name!r}"
    return found[1]


def shell_lines() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def sepctl(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program `sepctl` whose model `mini` is the tiny one, so that examples run in a moment."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "mini.safetensors").write_bytes(tiny_model.read_bytes())
    (folder / "sepctl").write_text(f"""#!{sys.executable}
from pathlib import Path
from separator import registry
real = registry.Registry.from_yaml
def from_yaml(path, **_):
    found = real(path, weights=Path(__file__).parent)
    found.entries["mini"] = found.entries["mini"].model_copy(update={{"sha256": None}})
    return found
registry.Registry.from_yaml = from_yaml
from separator.cli import run
if __name__ == "__main__":      # the workers of a batch import this file too
    run()
""")
    (folder / "sepctl").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every song that README names; the examples run in it one after the other."""
    folder = tmp_path_factory.mktemp("songs")
    noise = np.random.default_rng(0).standard_normal((8000 * 62, 1)) * 0.1  # one example begins at 1:00
    for name in sorted({word for line in shell_lines() for word in re.findall(r"\w+\.(?:mp3|flac|m4a)\b", line)}):
        soundfile.write(folder / "x.flac", noise, 8000)  # what is inside a file decides, not its name
        (folder / "x.flac").rename(folder / name)
    return folder


@pytest.mark.parametrize("line", shell_lines())
def test_the_examples_of_readme_run(line: str, sepctl: Path, songs: Path) -> None:
    if line.startswith(NOT_RUN):
        pytest.skip("shown only")
    environment = {**os.environ, "PATH": f"{sepctl}{os.pathsep}{os.environ['PATH']}", "SEPCTL_OFFLINE": "1",
                   "SEPCTL_CACHE": str(songs / "cache")}
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=songs, env=environment, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in done.stdout.splitlines():
        if " split " in line and "--json" not in line:
            assert (songs / path).is_file()


def test_the_python_of_readme_runs(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda *_, **__: tiny_model)
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_told_of_and_has_help(name: str) -> None:
    assert COMMANDS[name].help
    section(name)
    if name.count(" ") == 1:
        assert f"| `{name}` |" in README


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_option_is_told_of_and_has_help(name: str, option: click.Option) -> None:
    assert option.help
    for spelling in option.opts:
        assert re.search(rf"`{spelling}[` ]|{spelling}[=` ]", section(name)), f"docs/cli.md, {name}: {spelling}?"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_told_of_that_does_not_exist(name: str) -> None:
    known = {"--help"} | {spelling for other, option in OPTIONS for spelling in option.opts
                          if other == name or name == "sepctl"}
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section(name)))
    assert told <= known, f"docs/cli.md, {name}"


def test_readme_names_no_option_that_does_not_exist() -> None:
    for line in README.splitlines():
        for call in re.findall(r"sepctl (?:\w+ )?.*", line):
            words = [word for word in shlex.split(call, comments=True, posix=False) if word.startswith("--")]
            command = max((name for name in COMMANDS if call.startswith(name)), key=len)
            known = {spelling for name, option in OPTIONS if name == command for spelling in option.opts}
            assert set(words) <= known, line


def test_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("text", [README, MANUAL], ids=["README", "cli.md"])
def test_exit_codes_are_those_of_the_errors(text: str) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SepctlError)]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert told == {0} | {kind.exit_code for kind in kinds}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    assert f"_SEPCTL_COMPLETE={shell}_source sepctl" in MANUAL
    environment = {"_SEPCTL_COMPLETE": f"{shell}_complete", "COMP_WORDS": "sepctl split --two", "COMP_CWORD": "2"}
    if shell == "fish":
        environment["COMP_CWORD"] = "--two"
    done = CliRunner().invoke(program, [], prog_name="sepctl", env=environment)
    assert "--two-stems" in done.stdout
