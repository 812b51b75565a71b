"""Fixtures shared by every test: the real recordings beside the project, when they are there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import hypothesis
import pytest

# Telemetry of dependencies off before any of them is imported, as the product does.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two test processes share the cores: threads that spin while they wait would stop each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples each time, so that a change answers for what it broke; `make soak` looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.register_profile("exploring", print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

REPOSITORY = Path(__file__).resolve().parent.parent
CLUSTERS = {
    "deploy/test_commands.py",
    "deploy/test_read_only.py",
    *(f"pipeline/executor/test_{name}.py" for name in ("dying_workers", "job_submit", "kills", "ray")),
    *(f"pipeline/test_{name}.py" for name in ("curate", "s3_run")),
    "test_end_to_end.py",
}
"""Files that start Ray and kill it: `make test` runs them one after the other, and all others beside them."""


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.relative_to(REPOSITORY / "tests").as_posix() in CLUSTERS:
        item.add_marker(pytest.mark.clusters)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings, models and schemas beside the project; a test that needs it skips without it."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data" / "unpack.sh").exists():
        pytest.skip("no ../shared/data beside the project: real recordings are not here")
    return folder


@pytest.fixture(scope="session")
def crawl(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real crawl, unpacked once: `<domain>/<file>`, `truth.jsonl`, `manifest.jsonl`, `broken/` with its odd
    files.
    """
    folder = tmp_path_factory.mktemp("real")
    subprocess.run([str(shared / "data" / "unpack.sh"), str(folder)], check=True)
    subprocess.run(["sh", "make_odd.sh", "."], check=True, cwd=folder / "crawl" / "broken")
    return folder / "crawl"
