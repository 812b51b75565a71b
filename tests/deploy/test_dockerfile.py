"""The Dockerfile parses, keeps its promises, and copies enough to install our packages. No image is built here."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import dockerfile
import pytest

from tests.conftest import REPOSITORY

FILE = REPOSITORY / "deploy" / "Dockerfile"
IGNORE = FILE.with_name("Dockerfile.dockerignore")


@dataclass
class Stage:
    base: str
    commands: list[dockerfile.Command] = field(default_factory=list)

    def of(self, name: str) -> list[dockerfile.Command]:
        return [command for command in self.commands if command.cmd.upper() == name]


def stages() -> dict[str, Stage]:
    """By name. Parsed by BuildKit's own parser."""
    found: dict[str, Stage] = {}
    for command in dockerfile.parse_file(str(FILE)):
        if command.cmd.upper() == "FROM":
            base, word, name = command.value
            assert word.upper() == "AS"
            assert not command.flags
            current = found[name] = Stage(base)
        elif command.cmd.upper() != "ARG" or found:
            current.commands.append(command)
    return found


def ancestors(name: str) -> list[Stage]:
    """A stage and what it builds on, as far as that is in this file."""
    line, found = [], stages()
    while name in found:
        line.append(found[name])
        name = found[name].base
    return line


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_as_nobody_in_particular(target: str) -> None:
    last = stages()[target].commands[-1]
    assert (last.cmd.upper(), last.value) == ("USER", ("1000:1000",)), "the manifests run as 1000"
    made = "\n".join(command.value[0] for stage in ancestors(target) for command in stage.of("RUN"))
    assert "--uid 1000" in made
    assert "apt-get" not in made, "compilers stay in the stages that build"
    for folder in ("/models", "/scratch", "/spill", "/etc/touchasp"):
        assert folder in made


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_every_stage_that_is_copied_from_exists(target: str) -> None:
    found = stages()
    for stage in [*ancestors(target), *ancestors(f"build-{target}")]:
        for command in stage.of("COPY"):
            for flag in command.flags:
                assert flag.startswith("--from=")
                assert flag.removeprefix("--from=") in found
    assert found["models"].base == "scratch"
    assert not found["models"].commands, "--build-context models=FOLDER takes its place"


def test_versions_are_those_of_constraints() -> None:
    run = [command.value[0] for stage in stages().values() for command in stage.of("RUN")]
    installs = [line for line in run if "pip install" in line]
    assert len(installs) == 4
    for line in installs:
        assert re.match(r"pip install -c constraints\.txt ", line), line
    assert "ffmpeg" not in re.sub(r"(?m)^#.*", "", FILE.read_text(encoding="utf-8")).lower()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = FILE.read_text(encoding="utf-8")
    assert f"PYTHON_IMAGE=python:{version}-" in text
    for folder in re.findall(r"lib/python(\d+\.\d+)/", text):
        assert folder == version


def names_cuda(name: str) -> bool:
    """Whether a library of the installed distribution asks for PyTorch's CUDA libraries."""
    libraries = [Path(str(file.locate())) for file in metadata.files(name) or () if ".so" in file.name]
    return any(b"libtorch_cuda.so" in library.read_bytes() for library in libraries)


def built_against_torch() -> Iterator[str]:
    """PyTorch, and what is installed here of the distributions that come in one build for each kind of CUDA."""
    yield "torch"
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name = line.partition("==")[0]
        needs = {re.split(r"[^\w.-]", need)[0] for need in metadata.requires(name) or ()} if installed(name) else set()
        if "torch" in needs and names_cuda(name):
            yield name


def installed(name: str) -> bool:
    return bool(list(metadata.distributions(name=name)))


def test_the_cpu_image_takes_nothing_that_asks_for_cuda() -> None:
    """One build from PyPI among those of the CPU index, and `import whisperx` fails."""
    (first, second) = stages()["build-cpu"].of("RUN")
    options, _, names = first.value[0].rpartition(" ${TORCH_CPU_INDEX} ")
    assert set(names.split()) == {"torch", "torchaudio", "torchvision"} >= set(built_against_torch())
    # The only index that is asked lacks most other pins.
    assert options.split()[4:] == ["--no-deps", "--index-url"]
    assert second.value[0] == "pip install -c constraints.txt '.[all]'"
    for target in ("cpu", "cuda"):
        assert 'python -c "import whisperx.asr, pyannote.audio"' in [one.value[0] for one in stages()[target].of("RUN")]


def copied() -> list[str]:
    """What comes from the project, not from another stage."""
    names: list[str] = []
    for stage in stages().values():
        for command in stage.of("COPY"):
            if not command.flags:
                names += command.value[:-1]
    return names


def ignored(path: str) -> bool:
    """As BuildKit reads a .dockerignore of names and ! names: the last line that fits decides."""
    verdict = False
    for line in IGNORE.read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!")
        if line and not line.startswith("#"):
            parts = Path(path).parts
            below = any(
                fnmatch.fnmatch(part, pattern.removeprefix("**/")) for part in (parts if "**" in pattern else parts[:1])
            )
            verdict = not line.startswith("!") if below else verdict
    return verdict


def test_the_builder_is_sent_what_it_copies_and_no_more() -> None:
    for name in copied():
        assert (REPOSITORY / name).exists(), name
        assert not ignored(name), name
    for name in (".git", ".venv", "runs", "tests", "docs", "operators/__pycache__"):
        assert ignored(name), name


def test_what_is_copied_installs_all_of_our_packages(tmp_path: Path) -> None:
    """A wheel is made from nothing but the files that the image gets, and holds every module and data file."""
    sent = tmp_path / "source"
    for name in copied():
        source, goal = REPOSITORY / name, sent / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, goal, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, goal)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(sent)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    if "Could not find a version that satisfies the requirement setuptools" in done.stderr:
        pytest.skip("no package registry can be reached, so no wheel can be built")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("touchasp-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in ("operators", "stages", "pipeline", "model_training"):
        names = [str(file.relative_to(sent)) for file in (sent / package).rglob("*") if file.is_file()]
        assert names
        for name in names:
            assert name in held, f"{name} is not in the image: see package-data in pyproject.toml"
