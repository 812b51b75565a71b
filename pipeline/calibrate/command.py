"""`calibrate`: from a hand-checked sample of a run to a threshold per language, which `redecide` takes.

ledgers, truth ──collect──> LanguageSample by language ──calibrate──> calibration.yaml, calibration.json, terminal
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import yaml
from rich.console import Console

from operators.errors import UserError
from operators.storage.base import Store
from pipeline import ledger, recipe
from pipeline.calibrate.choose import Calibrated, NotCalibrated, calibrate
from pipeline.calibrate.samples import collect
from pipeline.calibrate.terminal import render
from pipeline.config import Settings
from pipeline.display.words import printable
from pipeline.score.clips import SCORE_COLUMNS
from pipeline.score.command import load_truth
from pipeline.score.truth import Tolerance

SETTINGS_KEY, NUMBERS_KEY = "calibration.yaml", "calibration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A Wish says how good labels must be. Percent."""

    target_cer: float
    """character errors of the labels kept."""
    bound: float = 5.0
    """a label is right up to this character error rate."""

    def __post_init__(self) -> None:
        if not 0 < self.target_cer < 100:
            raise UserError(f"--target-cer {self.target_cer:g}: expected a percentage above 0 and below 100")
        if not 0 <= self.bound < 100:
            raise UserError(f"--right {self.bound:g}: expected a percentage from 0 to below 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrations:
    """Calibrations are what was found for every language of a run."""

    wish: Wish
    found: tuple[Calibrated, ...]
    missing: dict[str, str]
    """languages without a threshold, and why."""


def calibrations(
    settings: Settings, store: Store, truth_uri: str, wish: Wish, tolerance: Tolerance, seed: int = 0
) -> Calibrations:
    """Return the calibrations of a run by the truth file at a path or s3:// URI.

    Raises UserError, also where no language could be calibrated.
    """
    if seed < 0 or not math.isfinite(seed):
        raise UserError("--seed is a whole number from 0")
    truth = load_truth(truth_uri, settings)
    normaliser = recipe.normaliser(settings.text)
    samples = collect(ledger.ledgers(store, SCORE_COLUMNS), truth, tolerance, settings.rover, normaliser)
    found: list[Calibrated] = []
    missing: dict[str, str] = {}
    for language, sample in samples.items():
        try:
            found.append(calibrate(language, sample, target=wish.target_cer, bound=wish.bound, seed=seed))
        except NotCalibrated as why:
            missing[language] = str(why)
    if not found:
        reasons = "; ".join(f"{printable(language) or 'no language'}: {why}" for language, why in missing.items())
        raise UserError(f"nothing was calibrated: {reasons or 'no clip of the run was kept'}")
    return Calibrations(wish=wish, found=tuple(found), missing=missing)


def write_calibrations(store: Store, made: Calibrations, run: str, console: Console) -> None:
    """Print what was found, and write calibration.yaml and calibration.json; the same run gives the same bytes."""
    store.put(SETTINGS_KEY, settings_fragment(made))
    store.put(NUMBERS_KEY, (json.dumps(_numbers(made), indent=1, allow_nan=False) + "\n").encode())
    console.print(render(made.found, made.missing, made.wish.target_cer, made.wish.bound))
    url = store.url(SETTINGS_KEY)
    console.print(
        f"\ncalibration: {url}\napply it:    python -m pipeline redecide {run} --settings {url}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def settings_fragment(made: Calibrations) -> bytes:
    """Return the part of a settings file that applies the calibrations, for `redecide --settings` or a run's file."""
    table = {"rover": {"calibration": {each.language: asdict(each.calibration) for each in made.found}}}
    asked = f"--target-cer {made.wish.target_cer:g} --right {made.wish.bound:g}"
    return (
        f"# Written by `python -m pipeline calibrate {asked}`.\n"
        "# min_right may be changed; docs/how-to/check-label-quality.md says how to read it.\n"
        f"{yaml.safe_dump(table, sort_keys=False, allow_unicode=True)}"
    ).encode()


def _numbers(made: Calibrations) -> dict[str, object]:
    return {
        "target_cer": made.wish.target_cer,
        "right": made.wish.bound,
        "languages": {each.language: asdict(each) for each in made.found},
        "missing": made.missing,
    }
