"""`make docs`: what docstrings and pages point at must exist, modules must import, and the pages are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docs.build import ROOT, Names, drawings, write_api, write_pages

GOOD = '''"""Look at `room.noun.Noun`, `Noun.size` and `Noun.weight`; tests/test_noun.py is there.

`numpy.array` is not ours.

a ──b──> c
"""
from dataclasses import dataclass


@dataclass
class Base:
    weight: int = 0


class Noun(Base):
    def __init__(self):
        self.size = 1
'''
WRONG = '''"""See `room.noun.Verb`."""


def judge():
    """Return `Noun.colour`, as docs/nowhere.md says; `room.noun.judge()` is elsewhere."""


LIMIT = 1
"""as `room.nowhere.LIMIT`"""
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for path, text in (("room/__init__.py", ""), ("room/noun.py", GOOD), ("tests/test_noun.py", "")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_what_is_not_there_is_named_with_its_line(project: Path) -> None:
    assert not [*Names(project, ("room",)).broken()]
    (project / "room" / "wrong.py").write_text(WRONG)
    assert [*Names(project, ("room",)).broken()] == [
        "room/wrong.py:1: room.noun.Verb does not exist",
        "room/wrong.py:9: room.nowhere.LIMIT does not exist",
        "room/wrong.py:5: Noun.colour does not exist",
        "room/wrong.py:5: room.noun.judge does not exist",
        "room/wrong.py:5: docs/nowhere.md does not exist",
    ]


def test_every_docstring_points_at_something() -> None:
    assert not [*Names(ROOT).broken()]


def test_pages_link_to_headings_that_exist(tmp_path: Path) -> None:
    pytest.importorskip("markdown2", reason="the extra 'docs' is not installed")
    assert not write_pages(ROOT, tmp_path)
    page = (tmp_path / "how-to" / "read-the-report.html").read_text(encoding="utf-8")
    assert 'href="change-thresholds.html"' in page
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.md").write_text("# One\n\n[two](two.md#here) [two](two.md#not-here)\n")
    (tmp_path / "docs" / "two.md").write_text("# Two\n\n## Here\n")
    assert write_pages(tmp_path, tmp_path / "out") == ["docs/one.md: two.md has no heading #not-here"]


def test_drawings_stay_drawings() -> None:
    assert drawings("One.\n\na ──> b\n  └─ c\n\nTwo.") == "One.\n\n    a ──> b\n      └─ c\n\nTwo."


def test_a_module_that_cannot_be_imported_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pdoc", reason="the extra 'docs' is not installed")
    monkeypatch.syspath_prepend(project)
    monkeypatch.delitem(sys.modules, "room", raising=False)
    assert not write_api(project / "api", ("room",))
    assert "<pre>" in (project / "api" / "room" / "noun.html").read_text(encoding="utf-8")
    (project / "room" / "broken.py").write_text("import nowhere_at_all\n")
    monkeypatch.delitem(sys.modules, "room")
    (line,) = write_api(project / "api", ("room",))
    assert "room.broken" in line
    assert "nowhere_at_all" in line


@pytest.mark.soak
def test_make_docs() -> None:
    pytest.importorskip("pdoc", reason="the extra 'docs' is not installed")
    done = subprocess.run([sys.executable, "-m", "docs.build"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    pages = {name: (ROOT / "build" / "docs" / name).read_text("utf-8") for name in ("index.html", "api/pipeline.html")}
    assert 'href="api/index.html"' in pages["index.html"]
    assert 'href="pipeline/recipe.html"' in pages["api/pipeline.html"]
