"""The score of a run: what score.json says, and its words.

    ScoreCounts ──scopes, curve──> Score ──to_json──> score.json

score.json, schema 2. Rates and shares are percent. A *estimate* is {"value", "low", "high"}: low and high are its 95 %
interval, drawn by recording; each is null where it is not known.

    schema_version, ledgers, headline
    units, units_done       of the run's plan, and how many of them have a ledger; both null where the run has no plan
    settings        "limits" (a transcript is right when its mixed-token error rate is within), "form" that was compared
                    ("spoken" or "written"), "tolerance_seconds", "silence_seconds", "seed"
    thresholds      the agreement rule of the run: "max_wer", "max_per", "drop_when"
    engines[]       {"system", "names"[]}: which engines were the asr, the copilot, ...
    coverage[]      {"domain", "placement", "clips", "samples"}; placements: "scored", and why the others are not:
                    "unheard" (rejected before any engine), "no_truth" (of the recording), "no_text" (of a segment),
                    "cut" (holds a part of a segment), "overlapping" (two voices at once)
    unalignable_percent    cut and overlapping, of these and the scored
    total, domains[], languages[]    pipeline/score/estimates.py Scope, as it is there
    curves          {"wer", "per"}: CurvePoint[] while that limit changes and the other stays
    wrong_labels[]  the worst kept labels, beside the truth
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from operators.agreement import AgreementRule
from operators.clip import SAMPLE_RATE
from operators.resampling import Estimate
from pipeline.display.words import human_factor
from pipeline.score.counts import UNSCORED, ScoreCounts, ScoreSettings
from pipeline.score.estimates import CurvePoint, Scope, curve, scopes

SCHEMA_VERSION = 2
PLACEMENTS = {
    "unheard": "rejected before any engine heard them",
    "no_truth": "of recordings without truth",
    "no_text": "over segments without text",
    "cut": "cut through a segment",
    "overlapping": "with two voices at once",
}
"""Why a clip cannot be scored, in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A Score is all that `score` found out about a run."""

    ledgers: int
    settings: ScoreSettings
    seed: int
    rule: AgreementRule
    engines: tuple[tuple[str, ...], ...]
    coverage: dict[tuple[str, str], tuple[int, int]]
    total: Scope
    domains: tuple[Scope, ...]
    languages: tuple[Scope, ...]
    over_wer: tuple[CurvePoint, ...]
    over_per: tuple[CurvePoint, ...]
    wrong_labels: tuple[dict[str, Any], ...]
    units: int | None = None
    """of the run's plan; None: it has none."""
    units_done: int | None = None

    @property
    def placed(self) -> dict[str, tuple[int, int]]:
        """Return clips and samples by placement, over all domains."""
        sums: dict[str, tuple[int, int]] = dict.fromkeys(("scored", *UNSCORED), (0, 0))
        for (_, placement), (clips, samples) in self.coverage.items():
            sums[placement] = (sums[placement][0] + clips, sums[placement][1] + samples)
        return sums

    @property
    def unalignable(self) -> float:
        """Return the percentage of the clips with a written truth that its segments do not fit."""
        clips = Counter({placement: clips for placement, (clips, _) in self.placed.items()})
        lost = clips["cut"] + clips["overlapping"]
        return 100 * lost / (lost + clips["scored"])

    def to_json(self) -> dict[str, Any]:
        tolerance = self.settings.tolerance
        return {
            "schema_version": SCHEMA_VERSION,
            "ledgers": self.ledgers,
            "units": self.units,
            "units_done": self.units_done,
            "headline": headline(self.total),
            "settings": {
                "limits": list(self.settings.limits),
                "form": "spoken" if self.settings.spoken else "written",
                "tolerance_seconds": tolerance.edge / SAMPLE_RATE,
                "silence_seconds": tolerance.silence / SAMPLE_RATE,
                "seed": self.seed,
            },
            "thresholds": {name: getattr(self.rule, name) for name in ("max_wer", "max_per", "drop_when")},
            "engines": [
                {"system": system.name, "names": list(names)}
                for system, names in zip(self.total.systems[1:], self.engines, strict=True)
            ],
            "coverage": [
                {"domain": domain, "placement": placement, "clips": clips, "samples": samples}
                for (domain, placement), (clips, samples) in self.coverage.items()
            ],
            "unalignable_percent": self.unalignable,
            "total": asdict(self.total),
            "domains": [asdict(scope) for scope in self.domains],
            "languages": [asdict(scope) for scope in self.languages],
            "curves": {
                "wer": [asdict(point) for point in self.over_wer],
                "per": [asdict(point) for point in self.over_per],
            },
            "wrong_labels": list(self.wrong_labels),
        }


def summarise(counts: ScoreCounts, settings: ScoreSettings, rule: AgreementRule, seed: int = 0) -> Score:
    """Return everything that can be said of what was counted; `rule` is the run's."""
    total, domains, languages = scopes(counts, settings.limits, seed)
    return Score(
        ledgers=counts.ledgers,
        settings=settings,
        seed=seed,
        rule=rule,
        engines=counts.engines,
        coverage=counts.coverage,
        total=total,
        domains=tuple(domains),
        languages=tuple(languages),
        over_wer=curve(counts, "wer", rule),
        over_per=curve(counts, "per", rule),
        wrong_labels=tuple(asdict(wrong) for wrong in counts.wrong_labels),
    )


def headline(total: Scope) -> str:
    """Return the central claim in one line: do two engines that agree err less than the better one alone?

    Alone means: in the kept clips, with the engine's own rate of each domain. So no domain is compared with another,
    and a run does not look better because a hard domain was rejected whole.
    """
    kept = total.systems[0].kept
    on_kept = next(system for system in total.systems if system.name == total.better).kept
    if not kept.clips:
        return "no kept label can be scored"
    if kept.cer.value is None or total.alone.value is None:
        return "no speech was said in the kept clips that can be scored: there is no error rate"
    against = (
        f"the better engine alone in the same domains ({total.better}: {error_rate(total.alone)}; "
        f"{error_rate(on_kept.cer)} in the kept clips)"
    )
    if kept.cer.value == 0:
        return f"kept labels have no error in {kept.characters:,} characters, against {against}"
    factor = total.lower_by.value or 0.0
    if 0.95 <= factor < 1.05:
        return f"kept labels have the same CER ({error_rate(kept.cer)}) as {against}"
    change = (
        f"{human_factor(factor)} lower" if factor > 1 else f"{human_factor(1 / factor)} higher" if factor else "higher"
    )
    return f"kept labels have {change} CER ({error_rate(kept.cer)}) than {against}"


def error_rate(estimate: Estimate) -> str:
    """Return a rate in percent with the digits that an error rate needs."""
    if estimate.value is None:
        return "–"
    return f"{_short(estimate.value)} %"


def interval(estimate: Estimate) -> str:
    """Return the 95 % interval in words, "" where there is none."""
    if estimate.low is None:
        return ""
    return (
        f"{_short(estimate.low)}–{_short(estimate.high)}"
        if estimate.high is not None
        else f"from {_short(estimate.low)}"
    )


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"
