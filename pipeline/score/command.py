"""`score`: how good are the labels of a run? Engines, kept labels and the filter between them against a truth file.

truth file ─┐
ledgers ────┴─count──> ScoreCounts ──summarise──> Score ──> terminal, score.json, score.html
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

from rich.console import Console

from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.fetch import locate
from pipeline import ledger, recipe
from pipeline.config import Settings
from pipeline.plan import PLAN_KEY, load_plan
from pipeline.score.attributes import ATTRIBUTE_COLUMNS, score_attributes
from pipeline.score.clips import SCORE_COLUMNS
from pipeline.score.counts import ScoreSettings, count
from pipeline.score.page import render_page
from pipeline.score.result import Score, summarise
from pipeline.score.terminal import render_terminal
from pipeline.score.truth import Tolerance, Truth, read_truth


def score_settings(right: str, tolerance: float, silence: float, *, written: bool) -> ScoreSettings:
    """Return what the command line asks for: `right` as in "0,5,10", tolerances in seconds. Raises UserError."""
    try:
        limits = tuple(sorted({float(each) for each in right.split(",")}))
    except ValueError:
        raise UserError(f"--right {right}: expected percentages with commas between, for example 0,5,10") from None
    return ScoreSettings(limits=limits, tolerance=tolerances(tolerance, silence), spoken=not written)


def tolerances(tolerance: float, silence: float) -> Tolerance:
    """Return --tolerance and --silence, in seconds. Raises UserError."""
    if not (math.isfinite(tolerance) and math.isfinite(silence)):
        raise UserError("--tolerance and --silence are seconds")
    return Tolerance(edge=round(tolerance * SAMPLE_RATE), silence=round(silence * SAMPLE_RATE))


def score(settings: Settings, store: Store, truth_uri: str, asked: ScoreSettings, seed: int = 0) -> Score:
    """Return the score of a run by the truth file at a path or s3:// URI. Raises UserError."""
    if seed < 0:
        raise UserError("--seed is a whole number from 0")
    truth = load_truth(truth_uri, settings)
    normaliser = recipe.normaliser(settings.text)
    counts = count(ledger.ledgers(store, SCORE_COLUMNS), truth, asked, settings.rover, normaliser)
    found = summarise(counts, asked, settings.rover, seed)
    if settings.annotate.annotators and truth.has_attributes:
        told = score_attributes(ledger.ledgers(store, ATTRIBUTE_COLUMNS), truth, asked.tolerance, seed)
        found = replace(found, attributes=told)
    if not store.exists(PLAN_KEY):
        return found
    plan = load_plan(store)
    return replace(found, units=len(plan), units_done=len(plan) - len(ledger.to_do(plan, store)))


def load_truth(uri: str, settings: Settings) -> Truth:
    """Return the truth file at a path or s3:// URI. Raises UserError."""
    store, key = locate(uri, settings.s3)
    if not store.exists(key):
        raise UserError(f"no truth file {uri}: give a JSONL file with a line per recording, local or s3://")
    return read_truth(store.read(key), uri)


def write_score(store: Store, found: Score, console: Console) -> None:
    """Print the score, and write score.json and score.html into the run; the same run gives the same bytes."""
    document = (json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n").encode()
    page, table = render_page(found), render_terminal(found)
    store.put("score.json", document)
    store.put("score.html", page)
    console.print(table)
    console.print(f"\nscore: {store.url('score.html')}", highlight=False, soft_wrap=True)
