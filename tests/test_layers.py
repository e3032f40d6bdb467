"""Modules import downwards only: each from layers with a smaller number, or from its own package."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "separator"

# The first matching prefix decides. A module that matches none fails the test: give it a layer.
LAYERS = (
    ("separator.errors", 0),
    ("separator.card", 1), ("separator.dsp", 1), ("separator.naming", 1), ("separator.atomic", 1),
    ("separator.remote", 1), ("separator.listening", 1), ("separator.heap", 1), ("separator.memory", 1),
    ("separator.parallel", 1), ("separator.failures", 1),
    ("separator.audio", 2), ("separator.models", 2),
    ("separator.modelfile", 3), ("separator.umxfiles", 3), ("separator.download", 3), ("separator.registry", 3),
    ("separator.pulling", 3), ("separator.provenance", 3),
    ("separator.separate", 4), ("separator.jobs", 4), ("separator.split", 4), ("separator.corpus", 4),
    ("separator.train", 5), ("separator.evaluation", 5),
    ("separator.batch", 5),
    ("separator.cli", 6), ("separator.__main__", 7),
)
ROOT = "separator"  # holds the version for all layers, and hands out `Separator` lazily
TERMINAL = {"click", "tqdm"}  # for the command only
HEAVY = {"torch", "torchaudio", "av", "numpy", "soxr", "soundfile", "musdb", "museval", "matplotlib", "safetensors",
         "ray", "fsspec"}


def layer(module: str) -> int:
    found = [number for prefix, number in LAYERS if module == prefix or module.startswith(prefix + ".")]
    assert found, f"{module} has no layer: name it in {Path(__file__).name}"
    return found[0]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, at_start: bool = False) -> set[str]:
    """Modules that a file imports; names of `from a import b` count as a.b where that is a module of ours.

    With `at_start` only those that run when the module is imported: not in functions, not for type checkers.
    """
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import with the full name, not relatively"
            assert node.module
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = full & MODULES.keys()
            found.update(ours)
            if ours != full:
                found.add(node.module)
        todo.extend(ast.iter_child_nodes(node))
    return found


MODULES = modules()
BELOW_ROOT = [name for name in MODULES if name != ROOT]


@pytest.mark.parametrize("module", BELOW_ROOT)
def test_imports_point_downwards(module: str) -> None:
    own = ".".join(module.split(".")[:2])  # the package separator.x that a module belongs to
    for other in imports(MODULES[module]) & MODULES.keys() - {ROOT}:
        inside = other == own or other.startswith(own + ".")
        beside = layer(other) == layer(module) and MODULES[module].parent == MODULES[other].parent == PACKAGE
        assert inside or beside or layer(other) < layer(module), f"{module} imports {other}"


def test_no_cycles() -> None:
    """Also among modules of one layer, as far as imports run when a module is imported."""
    edges = {name: imports(path, at_start=True) & MODULES.keys() - {ROOT} for name, path in MODULES.items()}
    settled: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in settled:
            return
        for other in edges[module] - {module}:
            if not module.startswith(other + "."):  # a package may import its own parts, and they each other
                visit(other, (*trail, module))
        settled.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", BELOW_ROOT)
def test_only_the_command_knows_click_and_prints(module: str) -> None:
    if layer(module) >= 6:
        return
    assert not {name.partition(".")[0] for name in imports(MODULES[module])} & TERMINAL
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit", "input")]
    assert not calls, f"{module} line {calls[0].lineno}: only separator.cli talks to the user"


LIGHT = [ROOT, "separator.errors", "separator.card", "separator.naming",
         *(name for name in MODULES if name.startswith("separator.cli") and name not in (
             "separator.cli.events", "separator.cli.batch", "separator.cli.dryrun"))]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy_at_start(module: str) -> None:
    seen, todo = set(), {module}
    while todo:
        name = todo.pop()
        seen.add(name)
        if name in MODULES:
            todo |= imports(MODULES[name], at_start=True) - seen
    assert not {name.partition(".")[0] for name in seen} & HEAVY


def test_every_package_imported_is_a_declared_dependency() -> None:
    """Names of packages and of what they install agree, but for YAML."""
    declared = (PACKAGE.parent / "setup.cfg").read_text(encoding="utf-8").lower()
    for path in MODULES.values():
        for name in {name.partition(".")[0] for name in imports(path)}:
            if name not in sys.stdlib_module_names and name != ROOT:
                assert f"\n    {'pyyaml' if name == 'yaml' else name} " in declared, f"{path} imports {name}"
