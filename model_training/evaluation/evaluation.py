"""An evaluation: what a system's answers come to, for each test set at each size and method.

    Answers ──evaluation_of──> Evaluation ──to_json──> eval.json ──from_json──> Evaluation (its counts, not its answers)

Whoever answers: evaluate.py makes the answers of our models. tables.py, page.py and comparison.py show it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_training.evaluation.answers import Answer
from model_training.evaluation.metrics import Scores
from operators.errors import UserError

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A Result is the scores of one test set at one size with one method."""

    set: str
    n_experts: int
    method: str
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An Evaluation holds all results of one model. `n_experts` is N, of routed experts; 0 means a dense model."""

    model: str
    results: tuple[Result, ...]
    parameters: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Per group: `total` stored and `active` per frame, where they were given."""
    unusable: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    """Per set: the clips that could not be read, and why. They are in no score."""
    answers: tuple[Answer, ...] = ()
    """What the results were counted from; none where only the counts were kept."""

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.set for result in self.results))

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(result.n_experts for result in self.results))

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.method for result in self.results))

    @property
    def main(self) -> tuple[int, str]:
        """Return the size and method that stand for the model where only one can: the largest, the first."""
        largest = max(self.groups)
        return largest, next(result.method for result in self.results if result.n_experts == largest)

    def of(self, n_experts: int, method: str) -> list[Answer]:
        """Return the answers at one size by one method."""
        return [answer for answer in self.answers if answer.variant == (n_experts, method)]

    def scores(self, set_name: str, n_experts: int, method: str) -> Scores | None:
        wanted = (set_name, n_experts, method)
        return next((r.scores for r in self.results if (r.set, r.n_experts, r.method) == wanted), None)

    def pooled(self, n_experts: int, method: str) -> Scores:
        """Return the scores of all sets as one: rates weighted by tokens and clips."""
        total = Scores()
        for result in self.results:
            if (result.n_experts, result.method) == (n_experts, method):
                total = total.plus(result.scores)
        return total

    def weighted_by_seconds(self, n_experts: int, method: str) -> float | None:
        """Return the token error rate in percent, the mean of the sets that have one, weighted by their duration."""
        rated = [
            (result.scores.seconds, result.scores.tokens.percent)
            for result in self.results
            if (result.n_experts, result.method) == (n_experts, method)
        ]
        pairs = [(seconds, percent) for seconds, percent in rated if percent is not None]
        total = sum(seconds for seconds, _ in pairs)
        return sum(seconds * percent for seconds, percent in pairs) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "parameters": {str(n_experts): dict(counts) for n_experts, counts in sorted(self.parameters.items())},
            "results": [
                {"set": r.set, "group": r.n_experts, "method": r.method} | r.scores.to_dict() for r in self.results
            ],
            "averages": [
                {
                    "group": n_experts,
                    "method": method,
                    "weighted_by_seconds": self.weighted_by_seconds(n_experts, method),
                }
                | {"pooled": self.pooled(n_experts, method).to_dict()}
                for n_experts in self.groups
                for method in self.methods
            ],
            "unusable": {name: [list(clip) for clip in clips] for name, clips in self.unusable.items()},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_dict` wrote. Raises UserError when this is none, or one of another form."""
        try:
            if plain["schema_version"] > SCHEMA_VERSION:
                raise UserError(
                    f"the evaluation has schema {plain['schema_version']}, newer than {SCHEMA_VERSION}: upgrade"
                )
            if plain["schema_version"] < SCHEMA_VERSION:
                raise UserError(f"the evaluation has schema {plain['schema_version']}, an older one: evaluate again")
            results = [
                Result(set=r["set"], n_experts=r["group"], method=r["method"], scores=Scores.from_dict(r))
                for r in plain["results"]
            ]
            return cls(
                model=plain["model"],
                results=tuple(results),
                parameters={int(n_experts): counts for n_experts, counts in plain["parameters"].items()},
                unusable={name: [(c, why) for c, why in clips] for name, clips in plain["unusable"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no evaluation ({type(error).__name__}: {error}): evaluate again") from error


def evaluation_of(
    answers: Iterable[Answer],
    *,
    name: str = "model",
    parameters: Mapping[int, Mapping[str, int]] | None = None,
    unusable: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> Evaluation:
    """Return what answers come to, whoever gave them: a result for each set, size and method that any of them is of.

    `parameters` are by size, `unusable` by set: clips that nobody could be asked about, and why. Raises UserError
    where there is no answer.
    """
    answers, unusable = tuple(answers), unusable or {}
    if not answers:
        sets, bad = ", ".join(unusable) or "no set", sum(map(len, unusable.values()))
        raise UserError(f"no clip to evaluate in {sets}" + (f": {bad} could not be used" if bad else ""))
    parts: dict[tuple[str, int, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        parts[answer.set, *answer.variant].append(answer)
    results = tuple(
        Result(set=of, n_experts=n_experts, method=method, scores=Scores.of(part))
        for (of, n_experts, method), part in parts.items()
    )
    return Evaluation(
        model=name, results=results, parameters=dict(parameters or {}), unusable=dict(unusable), answers=answers
    )


def to_json(evaluation: Evaluation) -> bytes:
    """Return every count, and the rates that follow; the same evaluation gives the same bytes."""
    return (json.dumps(evaluation.to_dict(), ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def from_json(data: bytes) -> Evaluation:
    """Return the evaluation that `to_json` wrote. Raises UserError when the bytes are none."""
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise UserError(f"this is no evaluation: not JSON ({error})") from error
    return Evaluation.from_dict(plain)


def read_evaluation(path: str | Path) -> Evaluation:
    """Return the evaluation in a file that `eval` wrote. Raises UserError."""
    try:
        return from_json(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the evaluation {path}: {error.strerror}") from None
