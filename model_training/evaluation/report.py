"""What an evaluation leaves behind: its numbers, its answers and its page.

Evaluation ──write_results──> NAME.json, NAME.jsonl ──read_results──> Evaluation
Evaluations ──write_report──> tables in the terminal, eval.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from model_training.evaluation.answers import from_lines, to_lines
from model_training.evaluation.comparison import Comparison, compare_all
from model_training.evaluation.evaluation import Evaluation, from_json, to_json
from model_training.evaluation.listen import Hear
from model_training.evaluation.page import to_html
from model_training.evaluation.terminal import render
from operators.errors import UserError
from operators.storage import atomic

PAGE = "eval.html"


def write_results(folder: Path, evaluation: Evaluation, name: str = "eval") -> None:
    """Write the counts as `name`.json and the answers as `name`.jsonl."""
    atomic.replace(folder / f"{name}.jsonl", to_lines(evaluation.answers))
    atomic.replace(folder / f"{name}.json", to_json(evaluation))


def read_results(path: Path) -> Evaluation:
    """Return the evaluation of a `name`.json, with its answers where `name`.jsonl is beside it. Raises UserError."""
    answers = path.with_suffix(".jsonl")
    try:
        found = from_json(path.read_bytes())
        return replace(found, answers=tuple(from_lines(answers.read_bytes(), str(answers))) if answers.exists() else ())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give the eval.json that 'eval' wrote") from None


def write_report(folder: Path, evaluations: Sequence[Evaluation], hear: Hear | None = None) -> Path:
    """Print the tables of some models and write their page, with what changed where they are two. Return its path."""
    comparisons = comparisons_of(evaluations)
    render(evaluations, comparisons=comparisons)
    atomic.replace(folder / PAGE, to_html(evaluations, comparisons, hear))
    return folder / PAGE


def comparisons_of(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Return what changed from the first model to each of the others, where their answers are known. Raises
    UserError.
    """
    if not all(evaluation.answers for evaluation in evaluations):
        return []
    return [found for other in evaluations[1:] for found in compare_all(evaluations[0], other)]
