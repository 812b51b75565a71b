"""The command `touchasp` finds the command meant, and says which extra is missing; a bare machine can recognise."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from operators.handoff_record import HandoffRecord, Split

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


def test_a_printed_evaluation_names_a_split_that_has_clips_and_survives_a_shell(tmp_path: Path) -> None:
    from model_training.data.handoff import evaluated_on

    folder = tmp_path / "my hand-off"
    folder.mkdir()
    for test_clips, ending in ((3, []), (0, ["--split", "dev"])):
        splits = {name: Split(index=f"{name}.arrow", clips=count) for name, count in (("train", 9), ("dev", 2))}
        record = HandoffRecord(splits=splits | {"test": Split(index="test.arrow", clips=test_clips)})
        (folder / "handoff.json").write_text(record.to_json(), "utf-8")
        assert shlex.split(evaluated_on(str(folder))) == ["--data", str(folder), *ending]


TABS = {
    "touchasp re": {"report", "redecide", "recognize"},
    "touchasp plan my.yaml --est": {"--estimate"},
    "touchasp recognize --meth": {"--method"},
    "touchasp export --to hf --ou": {"--out"},
}
"""Lines, and what the tab key offers for each."""

ASK_BASH = """
eval "$(register-python-argcomplete touchasp)"
complete -p touchasp >&2
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMP_CWORD=1 COMPREPLY=()
    _python_argcomplete touchasp
    echo "$COMP_LINE = ${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_tab_key_of_bash_offers_commands_and_options(tmp_path: Path) -> None:
    registers = Path(sys.executable).parent / "register-python-argcomplete"
    if not registers.exists():
        pytest.skip("argcomplete is not installed")
    # What pip makes of `project.scripts`, for a checkout that is not installed.
    command = tmp_path / "touchasp"
    command.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'import sys, touchasp; sys.exit(touchasp.main())' \"$@\"\n"
    )
    command.chmod(0o755)
    folders = [str(tmp_path), str(registers.parent), os.environ["PATH"]]
    asked = subprocess.run(
        ["bash", "--norc", "-c", ASK_BASH],
        input="".join(f"{line}\n" for line in TABS),
        env=os.environ | {"PATH": os.pathsep.join(folders), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "-F _python_argcomplete touchasp" in asked.stderr
    offered = dict(line.split(" = ") for line in asked.stdout.splitlines())
    for line, words in TABS.items():
        assert words <= set(offered[line].split()), asked.stdout


def test_the_wheel_takes_every_file_of_the_packages() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    listed = subprocess.run(["git", "ls-files", *setup["package-data"]], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("no checkout of git")
    packaged = {
        file.relative_to(ROOT)
        for package, patterns in setup["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package).glob(pattern)
    }
    for path in map(Path, listed.stdout.splitlines()):
        if path.suffix == ".py":  # found by the packages that hold them
            assert (ROOT / path.parent / "__init__.py").exists(), path
        else:
            assert path in packaged, f"{path}: name it in package-data of pyproject.toml"
