"""The house: which room may import which, and how large anything in it may be (lft/README.md)."""

from __future__ import annotations

import ast
import statistics
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from tests.support.processes import ROOT

MODULES = ("config", "protocol", "server", "client", "auth")
TOP_LEVEL = {*(f"{name}.py" for name in MODULES), "input", "output", "tests", "lft"}
TOP_LEVEL |= {"requirements.txt", "README.md"}

# From the ground up. A room imports only rooms of a lower number, and files of its own room.
FLOORS = {
    "lft.records": 0, "lft.errors": 0, "lft.fields": 0.5,
    "config": 1, "protocol": 1,
    "lft.terminal": 2,
    "lft.strictjson": 3, "lft.files": 3, "lft.holes": 3, "lft.options": 3, "lft.commandline": 3,
    "lft.clock": 3, "lft.manifest": 3, "lft.renaming": 3, "lft.sums": 3.5,
    "lft.addresses": 3, "lft.memory": 3, "lft.syncfs": 3,
    "lft.wire": 4, "lft.accounts": 4, "lft.store": 4,
    "lft.server": 5, "lft.client": 5,
    "lft.web": 6,
    "server": 7, "client": 7, "auth": 7,
}  # fmt: skip

# Who opens a door to the outside: a module of the standard library, and where it may stand.
DOORS = {
    "socket": ("lft.wire", "lft.addresses", "server"),
    "ssl": ("lft.wire", "lft.addresses", "server"),
    "sqlite3": ("lft.store",),
    "http": ("lft.web",),
}

LONGEST_FILE = 650  # lines: read in one sitting
MEDIAN_FUNCTION, USUAL_FUNCTION = 8, 25  # lines of code: of half of the functions, of nine in ten
MOST_METHODS, MOST_ATTRIBUTES = 30, 20  # of a class

SOURCES = sorted([*(ROOT / f"{name}.py" for name in MODULES), *(ROOT / "lft").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a file's name as an import says it."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str:
    """Return the room that a module stands in: its longest name that has a floor."""
    parts = module.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((name for name in names if name in FLOORS), "")


def imports_of(source: str) -> Iterator[tuple[str, int]]:
    """Give each imported module and its line, wherever that stands, relative ones as ``.``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield ".", node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def faults_in(module: str, source: str) -> list[str]:
    """Return what is wrong with the imports of one file."""
    room, faults = room_of(module), []
    for imported, line in imports_of(source):
        target, door = room_of(imported), imported.split(".")[0]
        if imported == ".":
            faults.append(f"{module}:{line}: a relative import")
        elif target and target != room and FLOORS[target] >= FLOORS[room]:
            faults.append(f"{module}:{line}: {room} imports {target}, which is not below it")
        elif door in DOORS and room not in DOORS[door]:
            faults.append(f"{module}:{line}: {door} has no place in {room}")
    return faults


def test_a_room_imports_only_what_stands_below_it() -> None:
    """Whoever changes the store never opens the wire; ``lft`` knows no program."""
    faults = [fault for path in SOURCES for fault in faults_in(name_of(path), path.read_text())]
    assert faults == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lft.store.journal", "from lft.wire.frames import encode"),
        ("lft.store.journal", "import lft.server.transfer"),
        ("lft.server.transfer", "from lft.client.upload import Upload"),
        ("lft.wire.frames", "from lft import accounts"),
        ("lft.clock", "from lft.options import parse_size"),
        ("lft.client.demo", "def run():\n    import client"),
        ("lft.client.sender", "if TYPE_CHECKING:\n    from client import Session"),
        ("protocol", "import config"),
        ("lft.store.partfile", "from . import journal"),
        ("lft.client.sender", "import socket"),
        ("lft.server.login", "import sqlite3"),
        ("server", "import http.server"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    """A wall that lets everything through would look as whole as one that holds."""
    assert len(set(faults_in(module, source))) >= 1


def test_every_file_has_a_floor() -> None:
    """A new room is given its place here, with a thought for what it may know."""
    homeless = [name_of(path) for path in SOURCES if not room_of(name_of(path))]
    assert [name for name in homeless if not name.endswith("__init__")] == []


def test_nothing_else_stands_at_the_top_level() -> None:
    """The user's card names all of it; tool settings are dot-files."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name_of)
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    """What grows beyond that has two nouns in it."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def lines_of(function: ast.FunctionDef) -> int:
    """Return the lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    """Half of them have a few lines, nearly all are seen whole."""
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    functions = [node for tree in trees for node in ast.walk(tree)]
    lengths = sorted(lines_of(node) for node in functions if isinstance(node, ast.FunctionDef))
    assert statistics.median(lengths) <= MEDIAN_FUNCTION
    assert lengths[len(lengths) * 9 // 10] <= USUAL_FUNCTION


def attributes_of(kind: ast.ClassDef) -> set[str]:
    """Return the attributes that a class's own methods set."""
    names = [node for node in ast.walk(kind) if isinstance(node, ast.Attribute)]
    return {
        node.attr
        for node in names
        if isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_class_is_one_thing(path: Path) -> None:
    """One with very many methods or attributes is several things that know too much."""
    for kind in ast.walk(ast.parse(path.read_text())):
        if isinstance(kind, ast.ClassDef):
            methods = [node for node in kind.body if isinstance(node, ast.FunctionDef)]
            assert len(methods) <= MOST_METHODS, kind.name
            assert len(attributes_of(kind)) <= MOST_ATTRIBUTES, kind.name
