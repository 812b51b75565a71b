"""The dataset card: what is in it, where it came from, under which licences, and how it was judged.

Contents (counted clip by clip) + settings of the runs ──> README.md with the front matter that hubs read
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from pipeline.export.clips import ExportedClip

UNKNOWN = "unknown"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(slots=True)
class Contents:
    """The Contents count clips and seconds by split, domain, language and licence."""

    clips: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    domains: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    languages: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    licenses: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, clip: ExportedClip) -> None:
        self.clips[clip.split] += 1
        self.seconds[clip.split] += clip.seconds
        self.samples[clip.split] += clip.samples
        self.domains[clip.row.domain] += clip.seconds
        self.languages[clip.row.language or UNKNOWN] += clip.seconds
        self.licenses[clip.license or UNKNOWN] += clip.seconds


def dataset_card(name: str, contents: Contents, thresholds: Mapping[str, Mapping[str, object]]) -> str:
    """Return the text of README.md. `thresholds` has, for each run, the settings by which clips were kept."""
    total = sum(contents.clips.values())
    front = {
        "pretty_name": name,
        "language": sorted(code for code in contents.languages if code != UNKNOWN),
        "license": "other" if len(contents.licenses) != 1 or UNKNOWN in contents.licenses else _spdx(contents),
        "task_categories": ["automatic-speech-recognition"],
        "size_categories": [next((label for limit, label in _SIZES if total < limit), "n>1M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}.parquet"} for split in contents.clips],
            }
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(front, allow_unicode=True, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        "Speech whose labels two independent recognisers agree on. The audio is not in these files: the column `audio`",
        "points into tars, so the rows can be read where the tars can.",
        "",
        "| split | clips | hours |",
        "|---|---:|---:|",
        *(
            f"| {split} | {contents.clips[split]:,} | {contents.seconds[split] / 3600:.2f} |"
            for split in contents.clips
        ),
    ]
    for title, found in (
        ("domain", contents.domains),
        ("language", contents.languages),
        ("licence, as the manifest says it", contents.licenses),
    ):
        lines += ["", f"| {title} | hours |", "|---|---:|"]
        lines += [f"| {_cell(each)} | {seconds / 3600:.2f} |" for each, seconds in sorted(found.items())]
    if UNKNOWN in contents.licenses:
        lines += ["", "Nothing is known of the licence of some clips: find out before you publish them."]
    for root, settings in thresholds.items():
        lines += ["", f"Kept in `{root}` by:", "", "```", *_settings(settings), "```"]
    return "\n".join(lines) + "\n"


def _spdx(contents: Contents) -> str:
    """Return the licence as hubs spell it: cc-by-4.0 for CC BY 4.0."""
    return "-".join(next(iter(contents.licenses)).lower().replace("_", " ").split())


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _settings(settings: Mapping[str, object]) -> Sequence[str]:
    return [f"{key}: {value}" for key, value in settings.items()]
