"""Imports point one way: operators <- stages <- pipeline; model_training sees four operators: shard, text, filterbank,
errors.

What comes from outside is declared in pyproject.toml, and everything that it draws in is pinned in constraints.txt.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OURS = {"operators", "stages", "pipeline", "model_training"}
MAY_IMPORT = {
    "operators": {"operators"},
    "stages": {"operators", "stages"},
    "pipeline": {"operators", "stages", "pipeline"},
    "model_training": {"model_training", "operators"},
}
HEAVY = {
    "torch",
    "whisperx",
    "funasr",
    "pyannote",
    "ray",
    "transformers",
    "torchaudio",
    "ctranslate2",
    "faster_whisper",
}


def modules() -> list[Path]:
    return sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in imports(tree):
        first = name.partition(".")[0]
        if first in OURS:
            assert first in MAY_IMPORT[package], f"{path.name} imports {name}"
        assert first != "ray" or path.parent == ROOT / "pipeline" / "executor", f"{path.name} imports ray"


def arrows() -> dict[str, set[str]]:
    """Return which of our files each of them imports, wherever in the file that happens, by dotted names."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # `from package import module` takes the module, `from module import name` the module of the name.
                targets |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        found[name] = {target for target in targets if target in files and target != name}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the names along one circle of the graph, the first again at the end; [] where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if found := walk(target, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_no_circle_between_files() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    graph = arrows()
    assert sum(map(len, graph.values())) > len(graph), "hardly an import was found: the count itself is broken"
    assert not circle(graph)


MOST_FILES = 15


@pytest.mark.parametrize("package", sorted(OURS | {"tests"}))
def test_no_room_is_a_corridor(package: str) -> None:
    for folder in (ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())):
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, (
            f"{folder.relative_to(ROOT)} holds {len(files)} files: which of them are a room?"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_not_imported_at_the_top(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "model_training":
        pytest.skip("training is torch through and through")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for name in imports(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            assert name.partition(".")[0] not in HEAVY, f"{path.name} imports {name} at the top"


def canonical(name: str) -> str:
    """A distribution's name as registries compare it: Flask-CORS and flask_cors are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, list[Requirement]]:
    """pyproject.toml's requirements: what the packages need, and what tests, benchmarks and examples need besides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    parts = {name: [*map(Requirement, lines)] for name, lines in extras.items()}
    outside = {name: [need for need in needs if need.name != "touchasp"] for name, needs in parts.items()}
    base = [*map(Requirement, project["dependencies"])]
    ours = [*base, *(need for name in ("curate", "train", "osum", "complete") for need in outside[name])]
    return {"ours": ours, "test": [*outside["test"], *outside["docs"]], "base": base} | {
        name: [*base, *outside[name], *(outside["train"] if name == "osum" else ())]
        for name in ("curate", "train", "osum")
    }


ROOMS = {"curate": ("operators", "stages", "pipeline"), "train": ("model_training",), "osum": ("model_training.osum",)}
"""What each extra is for."""


@pytest.mark.parametrize("extra", ROOMS)
def test_an_extra_has_what_its_rooms_import(extra: str) -> None:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    graph = arrows()
    # Training begins each command by itself, and only that of OSUM needs what is in its room.
    waiting = [
        name for name in files if name.startswith(ROOMS[extra]) and (extra == "osum" or ".osum" not in name)
        and name != "model_training.__main__"
    ]  # fmt: skip
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen and (extra == "osum" or not name.startswith("model_training.osum")):
            seen.add(name)
            # Training shares one voice activity detector with curation, at most: its engines are curation's.
            waiting += [to for to in graph[name] if not to.startswith("operators.speech") or extra == "curate"]
    has = {canonical(need.name) for need in declared()[extra]}
    distributions = metadata.packages_distributions()
    missing = {
        first: name
        for name in sorted(seen)
        for each in imports(ast.parse(files[name].read_text(encoding="utf-8")))
        if (first := each.partition(".")[0]) not in OURS | {"touchasp"} | sys.stdlib_module_names
        and has.isdisjoint(canonical(found) for found in distributions.get(first, ()))
    }
    assert not missing


def with_extras(requirement: Requirement) -> list[tuple[str, str]]:
    return [(canonical(requirement.name), extra) for extra in ("", *sorted(requirement.extras))]


@pytest.mark.parametrize("part", ["ours", "test"])
def test_what_is_imported_is_declared(part: str) -> None:
    lists = declared()
    names = {
        canonical(requirement.name) for requirement in (*lists["ours"], *(lists["test"] if part == "test" else ()))
    }
    folders = ("tests", "benchmarks", "examples", "docs")
    paths = (
        modules() if part == "ours" else sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    )
    distributions = metadata.packages_distributions()
    own = OURS | {"touchasp", *folders, *(path.stem for path in paths)}
    undeclared: dict[str, str] = {}
    for path in paths:
        for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
            first = name.partition(".")[0]
            if first in own or first in sys.stdlib_module_names:
                continue
            if names.isdisjoint(canonical(found) for found in distributions.get(first, ())):
                undeclared[first] = str(path.relative_to(ROOT))
    assert not undeclared, "imported, but not in pyproject.toml"


def test_everything_installed_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonical(line.partition("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    unpinned = set()
    waiting = [wanted for part in declared().values() for requirement in part for wanted in with_extras(requirement)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        if name not in pins:
            unpinned.add(name)
        for need in map(Requirement, metadata.requires(name) or ()):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                new = [wanted for wanted in with_extras(need) if wanted not in seen]
                seen.update(new)
                waiting += new
    assert not unpinned - {"setuptools"}, "in no line of constraints.txt"  # Python's own venv brings setuptools
