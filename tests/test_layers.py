"""The floors of the house: scripts -> training -> {models, diffusion, losses, data, evaluation} -> foundation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CODES = Path(__file__).parents[1] / "codes"
PACKAGE = CODES / "stepwise"
SCRIPTS = sorted(CODES.glob("*.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {"foundation": 0, "models": 1, "diffusion": 1, "losses": 1, "data": 1, "evaluation": 1, "training": 2}
FORBIDDEN = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
MAX_MODULE, MAX_FUNCTION = 300, 60
LONG_IN_SCRIPTS = {"parse_args", "main"}  # flags and wiring, read from top to bottom

# Rooms of one floor that a module may use all the same; each entry needs its reason.
NEIGHBOURS: set[tuple[str, str]] = set()


def name_of(path: Path) -> str:
    return str(path.relative_to(CODES))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports from this project, lazily imported modules too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: import by the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("stepwise.")}


def test_there_is_something_to_check() -> None:
    assert len(SCRIPTS) >= 5
    assert len(MODULES) >= 30
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here not in FLOORS:
        assert rooms(path) == set()
        return
    for room in rooms(path) - {here}:
        assert FLOORS[room] < FLOORS[here] or (here, room) in NEIGHBOURS, f"{name_of(path)} imports from {room}"


@pytest.mark.parametrize("path", SCRIPTS + MODULES, ids=name_of)
def test_nothing_imports_a_script(path: Path) -> None:
    scripts = {script.stem for script in SCRIPTS}
    assert not {name.split(".")[0] for name in imports(path)} & scripts
    text = path.read_text(encoding="utf-8")
    for loader in ("importlib", "run_path", "__import__", "exec("):
        assert loader not in text, f"{name_of(path)} loads code by {loader}"


@pytest.mark.parametrize("path", SCRIPTS + MODULES, ids=name_of)
def test_names_say_what_is_inside(path: Path) -> None:
    for part in path.relative_to(CODES).parts:
        words = set(part.removesuffix(".py").lower().replace("-", "_").split("_"))
        assert not words & FORBIDDEN, f"{name_of(path)}: a name that says nothing"
    assert not path.stem.endswith(("V2", "_v2", "_new", "_old"))


@pytest.mark.parametrize("path", SCRIPTS + MODULES, ids=name_of)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE, f"{name_of(path)} has {len(text.splitlines())} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            excused = path in SCRIPTS and node.name in LONG_IN_SCRIPTS
            assert length <= MAX_FUNCTION or excused, f"{name_of(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_described_and_typed(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, f"{name_of(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            bare = [argument.arg for argument in arguments if argument.annotation is None]
            assert not bare, f"{name_of(path)}:{node.lineno} {node.name}: no type for {bare}"
