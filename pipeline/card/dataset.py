"""The dataset card: what is in it, where it came from, under which licences, and how it was judged.

Contents (counted clip by clip) + RunFacts of the runs ──> README.md with the front matter that hubs read

Only what was counted or measured is said. A run or a model is named by its last part: a card is for others, and a
path of this machine tells them nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from operators.clip import SAMPLE_RATE
from operators.page.card import card, languages, licence, table
from operators.settings import leaves
from pipeline.card.facts import RunFacts
from pipeline.copilots import entries
from pipeline.display.words import human_percent
from pipeline.export.clips import ExportedClip
from pipeline.report.retention import Retention, Tally

UNKNOWN = "unknown"
_SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
    1_000_000_000: "100M<n<1B",
}
_ATTRIBUTES = ("speaker", "age", "gender", "emotion", "style", "events")


@dataclass(slots=True)
class Contents:
    """The Contents count clips and seconds by split, domain, language and licence."""

    clips: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    domains: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    languages: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    licenses: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    attributes: Counter[str] = field(default_factory=Counter)
    """clips that have a label of the kind"""

    def add(self, clip: ExportedClip) -> None:
        self.clips[clip.split] += 1
        self.seconds[clip.split] += clip.seconds
        self.samples[clip.split] += clip.samples
        self.domains[clip.row.domain] += clip.seconds
        self.languages[clip.row.language or UNKNOWN] += clip.seconds
        self.licenses[clip.license or UNKNOWN] += clip.seconds
        self.attributes.update(kind for kind in _ATTRIBUTES if getattr(clip.row, kind) is not None)


def dataset_card(
    name: str, contents: Contents, runs: Sequence[RunFacts], files: Mapping[str, Sequence[str]], audio: str
) -> str:
    """Return the text of README.md.

    Args:
        runs: what is known of the runs that can be reached.
        files: of each split the files that a loader opens, relative to the card; without any, none is named.
        audio: the sentence that says where the audio lies, and how it is read.
    """
    total = sum(contents.clips.values())
    front = {
        "pretty_name": name,
        "language": languages(contents.languages.keys() - {UNKNOWN}),
        **licence(None if each == UNKNOWN else each for each in contents.licenses),
        "task_categories": ["automatic-speech-recognition"],
        "size_categories": [next((label for limit, label in _SIZES.items() if total < limit), "1B<n<10B")],
        "annotations_creators": ["machine-generated"],
        "tags": ["audio", "speech", "touchasp"],
    }
    if files:
        data_files = [{"split": split, "path": _one(paths)} for split, paths in files.items()]
        front["configs"] = [{"config_name": "default", "data_files": data_files}]
    return card(front, f"# {name}", f"Speech and its transcripts. {audio}", *_parts(contents, total), *_of_runs(runs))


def _one(paths: Sequence[str]) -> str | list[str]:
    return paths[0] if len(paths) == 1 else list(paths)


def _parts(contents: Contents, total: int) -> Iterator[str]:
    rows = [[split, f"{clips:,}", f"{contents.seconds[split] / 3600:.2f}"] for split, clips in contents.clips.items()]
    yield table(["split", "clips", "hours"], rows, 2)
    for title, found in (
        ("domain", contents.domains),
        ("language", contents.languages),
        ("licence, as the manifest says it", contents.licenses),
    ):
        yield table([title, "hours"], [[each, f"{seconds / 3600:.2f}"] for each, seconds in sorted(found.items())], 1)
    if UNKNOWN in contents.licenses:
        yield "Nothing is known of the licence of some clips: find out before you publish them."
    if contents.attributes:
        known = [[kind, f"{contents.attributes[kind]:,}", human_percent(100 * contents.attributes[kind] / total)]
                 for kind in _ATTRIBUTES if contents.attributes[kind]]  # fmt: skip
        yield table(["known besides the words", "clips", "of all"], known, 2)


def _of_runs(runs: Sequence[RunFacts]) -> Iterator[str]:
    for facts in runs:
        yield f"## Curated: {_last(facts.root)}"
        yield "Labels are transcripts on which recognisers agree that know nothing of each other, not human ones."
        if facts.units_left:
            yield f"The run is not finished: {facts.units_left:,} of {facts.units:,} units are left."
        yield "Hours that went in, were found to hold clips of speech, and were kept:"
        yield _retention(facts.retention)
        yield (
            f"Labels against what was said, on a hand-checked sample: {facts.score}."
            if facts.score
            else ("Labels were not compared with what was said.")
        )
        yield "\n".join(["Heard and kept by:", "", "```", *_settings(facts), "```"])


def _retention(found: Retention) -> str:
    rows = [_tally(name, tally) for name, tally in sorted(found.domains.items())]
    return table(["domain", "in", "in clips", "kept", "kept of what went in"], [*rows, _tally("all", found.total)], 4)


def _tally(name: str, tally: Tally) -> list[str]:
    hours = [f"{samples / SAMPLE_RATE / 3600:.2f}" for samples in (tally.input, tally.clipped, tally.kept.samples)]
    return [name, *hours, human_percent(tally.retention)]


def _settings(facts: RunFacts) -> Iterator[str]:
    settings = facts.settings
    yield f"asr: {settings.asr.engine} {_last(settings.asr.model)}"
    for language, models in entries(settings.copilot.models, settings.copilot.engine).items():
        yield f"copilot, {language}: {' + '.join(f'{each.engine} {_last(each.model)}' for each in models)}"
    for key, value, _ in leaves(settings.rover):
        yield f"rover.{key}: {value}"


def _last(path: str) -> str:
    """Return the last part of a path or URI."""
    return Path(path.rstrip("/")).name
