"""The command `touchasp` finds the command meant, and says which extra is missing; a bare machine can recognise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXPORTED = ROOT / "examples" / "starter_engines" / "models" / "perception-starter" / "n3"
RECORDING = ROOT / "examples" / "demo_crawl" / "crawl" / "audiobook" / "letters-home-01.opus"
MISSING = ("fork", "register_at_fork", "O_CLOEXEC", "O_DIRECTORY", "O_NONBLOCK", "O_NOCTTY", "getuid", "pread")
"""What Windows' module `os` lacks."""


def call(*words: str, without: tuple[str, ...] = (), more: str = "") -> subprocess.CompletedProcess[str]:
    """Run `touchasp` where some modules cannot be imported."""
    code = (
        f"import sys\nfor name in {without!r}: sys.modules[name] = None\n{more}\n"
        f"sys.argv = ['touchasp', *{words!r}]\nimport touchasp\nsys.exit(touchasp.main())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_recognises_with_nothing_but_the_base_and_without_what_windows_lacks() -> None:
    heavy = ("torch", "ray", "whisperx", "funasr", "omegaconf", "yaml", "pyarrow", "rich", "boto3", "webdataset")
    unix = ("fcntl", "resource", "grp", "pwd", "termios")
    found = call(
        "recognize", str(EXPORTED), str(RECORDING), "--method", "ctc_greedy",
        without=heavy + unix, more=f"import os\nfor name in {MISSING!r}: delattr(os, name)",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    path, text = found.stdout.rstrip("\n").split("\t")[:2]
    assert path == str(RECORDING)
    assert len(text.split()) > 10


@pytest.mark.parametrize(
    ("words", "missing", "extra"),
    [
        (("run", "my.yaml"), "rich", "curate"),
        (("train", "--data", "handoff"), "torch", "train"),
        (("export", "runs/first", "--to", "hf", "--out", "x"), "rich", "curate"),
        (("export", "models/tiny", "--out", "x"), "torch", "train"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(words: tuple[str, ...], missing: str, extra: str) -> None:
    found = call(*words, without=(missing,))
    assert found.returncode == 2
    assert f"touchasp[{extra}]" in found.stderr
    assert found.stderr.count("\n") == 1, found.stderr


def test_version_help_and_a_misspelt_command() -> None:
    assert call("--version").stdout.startswith("touchasp 0.")
    listing = call("--help").stdout
    assert call("runn").stderr == "touchasp: no command is called runn: did you mean run?\n"

    from model_training.__main__ import parser as training
    from pipeline.__main__ import parser as curation

    for parser, other in ((curation(), {"export"}), (training(), {"export", "settings"})):
        commands = next(action.choices for action in parser._actions if action.dest == "command")
        assert all(f"  {name} " in listing for name in set(commands) - other)
