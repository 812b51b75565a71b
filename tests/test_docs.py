"""The documents say what the code does: reasons, ledger columns, settings and links.

code ──closed lists──> docs/reference/reasons.md       `python -m tests.test_docs` writes the tables again
     ──settings──────> docs/reference/settings.md
     ──metrics───────> docs/reference/metrics.md
docs/**.md ──links, setting keys, columns──> must exist
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from model_training import config as training
from model_training.osum.settings import OsumSettings
from operators import agreement, shard
from operators.annotate import limits
from operators.asr import hallucination
from operators.audio import decode as audio
from operators.settings import as_table, leaves
from pipeline import config
from pipeline.display.words import explain
from pipeline.executor import metrics
from pipeline.sources import files as sources
from stages import segment, transcribe

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TRAINING_PAGE = ROOT / "docs" / "reference" / "training-settings.md"
BEGIN, END = "<!-- table: python -m tests.test_docs -->\n", "<!-- end of table -->\n"

BY_STAGE: dict[str, tuple[str, ...]] = {
    "plan": sources.REASONS,
    "fetch": ("missing", "permission"),
    "decode": (*audio.REASONS, *(reason for reason in audio.PROBLEMS if reason not in audio.REASONS)),
    "segment": ("too_short",),
    "transcribe": (*hallucination.REASONS, "other_language", "uncertain_language"),
    "copilot": ("no_copilot",),
    "rover": agreement.REASONS,
    "annotate": limits.REASONS,
}
"""Which stage may give which reason. Those without a list of their own in the code are looked for in its text below."""


def reasons_table() -> str:
    lines = ["| stage | reason | in plain words |", "|---|---|---|"]
    for stage, reasons in BY_STAGE.items():
        lines += [f"| {stage} | `{reason}` | {explain(reason) or 'see below'} |" for reason in reasons]
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    return as_table(config.Settings())


def metrics_table() -> str:
    lines = ["| metric | labels | what it says |", "|---|---|---|"]
    kinds = [(name, labels, meaning) for name, (meaning, labels) in metrics.GAUGES.items()]
    kinds += [(name, labels, f"histogram: {meaning}") for name, (meaning, labels, _) in metrics.HISTOGRAMS.items()]
    for name, labels, meaning in kinds:
        lines.append(f"| `ray_{name}` | {', '.join(('`run`', *(f'`{label}`' for label in labels)))} | {meaning} |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "reasons.md": reasons_table,
    "settings.md": settings_table,
    "metrics.md": metrics_table,
}
"""Pages of docs/reference with a table that is made from the code."""


def test_every_setting_says_what_it_means() -> None:
    assert not [key for key, _, known in leaves(config.Settings()) if not known.meaning]


@pytest.mark.parametrize("page", TABLES)
def test_the_table_of_a_reference_page_is_the_codes(page: str) -> None:
    written = (REFERENCE / page).read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert written == TABLES[page](), f"docs/reference/{page} is behind: python -m tests.test_docs"


def test_every_reason_is_explained() -> None:
    unexplained = sorted({reason for reason in chain.from_iterable(BY_STAGE.values()) if not explain(reason)})
    assert not unexplained, f"pipeline.display.words.EXPLANATIONS lacks {unexplained}"


@pytest.mark.parametrize(("module", "stage"), [(segment, "segment"), (segment, "fetch"), (transcribe, "transcribe")])
def test_reasons_written_in_a_stage_are_listed(module: object, stage: str) -> None:
    text = Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8")
    found = set(re.findall(rf'stage="{stage}", reason="(\w+)"', text))
    assert found
    assert found <= set(BY_STAGE[stage])


def test_every_ledger_column_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "run-directory.md").read_text(encoding="utf-8")
    table = page.partition("## A ledger")[2].partition("Metadata of the file")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert documented == shard.LEDGER_SCHEMA.names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"", text):
        path = target[0] or target[1]
        assert path.startswith(("https://", "http://")) or (page.parent / path).exists(), (
            f"{page.name} points at {path}"
        )


def mentioned_settings(text: str) -> Iterator[str]:
    """Dotted keys of the settings tree, in code spans and code blocks."""
    groups = "|".join(sorted({key.partition(".")[0] for key, _, _ in leaves(config.Settings()) if "." in key}))
    for code in re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL):
        found = re.findall(rf"(?<![\w./:-])((?:{groups})\.[a-z_]+(?:\.[a-z_]+)*)(?=[=`\s'])", code)
        yield from (key for key in found if not key.endswith((".py", ".parquet", ".yaml")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_a_page_names_exist(page: Path) -> None:
    keys = {key: default for key, default, _ in leaves(config.Settings())}
    known = keys.keys() | {key.rpartition(".")[0] for key in keys}
    tables = {key for key, default in keys.items() if isinstance(default, dict)}
    for name in mentioned_settings(page.read_text(encoding="utf-8")):
        entry = any(name.startswith(f"{table}.") for table in tables)
        assert name in known or entry, f"{page.name} names the setting {name}, which does not exist"


def with_training_tables(page: str) -> str:
    """Return the page with a table of every section's settings in place of the one that stands there."""
    head, rule, *rows = as_table(training.Settings()).splitlines()

    def table(match: re.Match[str]) -> str:
        begin, section, _, end = match.groups()
        own = [row for row in rows if row.split("`")[1].rpartition(".")[0] == section]
        return "\n".join((begin, head, rule, *own, end))

    return re.sub(r"(<!-- settings ([\w.]+): .*? -->)\n(.*?)(<!-- end of settings -->)", table, page, flags=re.DOTALL)


def test_every_training_setting_is_documented_as_it_is_declared() -> None:
    page = TRAINING_PAGE.read_text(encoding="utf-8")
    assert page == with_training_tables(page), f"{TRAINING_PAGE} is behind: python -m tests.test_docs"
    documented = re.findall(r"^\| `([\w.]+)` \| .* \| .* \| .* \|$", page, flags=re.MULTILINE)
    assert sorted(documented) == sorted(training.flat(training.Settings()))


FILES = (".py", ".png", ".yaml", ".arrow", ".tar", ".safetensors", ".bin", ".pt", ".onnx", ".data", ".jsonl", ".json")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_training_settings_that_a_page_names_exist(page: Path) -> None:
    settings = training.flat(training.Settings()) | training.flat(OsumSettings())
    keys = {*settings, *training.RENAMED}
    for code in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for name in re.findall(
            r"(?<![\w./:-])((?:model|loss|data|optimizer|train)\.[a-z_]+(?:\.[a-z_]+)*)(?![\w/.(])", code
        ):
            group = any(key.startswith(f"{name}.") for key in keys)
            entry = isinstance(settings.get(name.rpartition(".")[0]), dict)  # data.tasks.gender
            assert name in keys or group or entry or name.endswith(FILES), (
                f"{page.name} names the setting {name}, which does not exist"
            )


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_example_settings_load(path: Path) -> None:
    assert config.load(str(path), []).output


if __name__ == "__main__":
    for name, table in TABLES.items():
        before = (REFERENCE / name).read_text(encoding="utf-8")
        head, rest = before.partition(BEGIN)[0], before.partition(END)[2]
        (REFERENCE / name).write_text(head + BEGIN + table() + END + rest, encoding="utf-8")
    TRAINING_PAGE.write_text(with_training_tables(TRAINING_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
