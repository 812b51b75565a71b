"""Imports point one way: operators <- stages <- pipeline; model_training sees operators.shard and operators.text only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"operators", "stages", "pipeline", "model_training"}
MAY_IMPORT = {
    "operators": {"operators"},
    "stages": {"operators", "stages"},
    "pipeline": {"operators", "stages", "pipeline"},
    "model_training": {"model_training", "operators"},
}
HEAVY = {"torch", "whisperx", "funasr", "pyannote", "ray", "transformers", "torchaudio", "ctranslate2", "faster_whisper"}


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
            if package == "model_training" and first == "operators":
                assert name in ("operators.shard", "operators.text", "operators.errors"), f"{path.name} imports {name}"
        assert first != "ray" or path == ROOT / "pipeline" / "run.py", f"only pipeline/run.py imports ray, not {path.name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_not_imported_at_the_top(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "model_training":
        pytest.skip("training is torch through and through")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for name in imports(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            assert name.partition(".")[0] not in HEAVY, f"{path.name} imports {name} at the top"
