"""`redecide`: the run that other thresholds would have given, from the ledgers of one that is there.

    RUN's config + FILE + key=value ──only rover.*, text.*, annotate's rule may change──> new run directory
        └──Rejudge per unit──> shards, report

The new run is a run like any other; an interrupted redecide goes on where it stopped when it is called again.
"""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from operators.errors import UserError
from operators.storage.base import S3Settings, Store
from operators.storage.fetch import Fetch, locate, open_store
from operators.text.spoken import RULES_VERSION
from pipeline import config, ledger, recipe
from pipeline.curate import Curation
from pipeline.plan import PLAN_KEY, load_plan, save_plan
from pipeline.run_directory import CONFIG_KEY, config_bytes, stored_config, text_rules
from stages.base import Stage
from stages.rejudge import Rejudge

ANNOTATION = ("annotate.min_opinions", "annotate.quality.min_", "annotate.quality.max_")
"""Settings that judge what annotators and meters found."""
CHANGEABLE = ("rover.", "text.", *ANNOTATION)
MEASURED = ("rover.tones", "rover.reference", "rover.numbers", "text.")
"""Settings on which the measured rates depend; a change of the others only judges again. So do the text rules: a run of
another version of them is measured again.
"""


def redecide(run: str, overrides: list[str], output: str | None, console: Console, file: str | None = None) -> int:
    """Write the run that `run` would have been under `overrides`. Return the exit code. Raises UserError.

    file: path or s3:// URI of a YAML file with more settings; `overrides` have the last word.
    """
    s3 = config.load(None, [override for override in overrides if override.startswith("s3.")]).s3
    old = open_store(run, s3)
    stored = stored_config(old)
    before = config.restore(stored["settings"])
    settings = config.override(before, overrides, _read(file, s3) if file else None)
    old_values, new_values = config.output_settings(before), config.output_settings(settings)
    changed = [
        key for key in sorted(old_values.keys() | new_values.keys()) if old_values.get(key) != new_values.get(key)
    ]
    refused = [key for key in changed if not key.startswith((*CHANGEABLE, "execution.annotate."))]
    if refused:
        raise UserError(
            "redecide can change rover.*, text.*, annotate.min_opinions and the limits of annotate.quality only, "
            f"not {refused[0]}: that needs a fresh run"
        )
    if settings.annotate.is_on and not before.annotate.is_on:
        raise UserError(
            f"{run} was not annotated, so there is nothing to judge by {changed[0]}: that needs a fresh run"
        )
    same_rules = text_rules(stored) == RULES_VERSION
    if not changed and same_rules:
        raise UserError("nothing to redecide: give at least one new setting, for example rover.max_wer=15")
    settings = replace(settings, output=output or f"{run.rstrip('/')}-{config.fingerprint(settings)[:8]}")
    plan = load_plan(old)
    if missing := len(ledger.to_do(plan, old)):
        raise UserError(f"{run} is not finished ({missing} of {len(plan)} units to do): finish it with 'run' first")

    # Under other limits alone no other clip comes to Annotate.
    listens = not same_rules or any(key.startswith(("rover.", "text.")) for key in changed)

    def rejudge(settings: config.Settings, store: Store, fetch: Fetch) -> list[Stage]:
        annotate = recipe.annotate(settings, store, earlier=old) if listens else []
        return [
            Rejudge(
                old=old,
                new=store,
                fetcher=fetch,
                rule=settings.rover,
                measure_again=not same_rules or any(key.startswith(MEASURED) for key in changed),
                limits=recipe.limits(settings.audio),
                decode_timeout_seconds=settings.audio.decode_timeout_seconds,
                decode_attempts=settings.audio.decode_attempts,
                annotation=recipe.annotation_rule(settings.annotate) if settings.annotate.is_on else None,
                annotate=annotate[0] if annotate else None,
                format=recipe.shard_format(settings),
                folder=recipe.folder(settings.text),
                resources=settings.execution.segment,
            )
        ]

    curation = Curation(settings=settings, console=console, stages_of=rejudge)
    if not curation.store.exists(PLAN_KEY):
        curation.store.put(CONFIG_KEY, config_bytes(settings))
        save_plan(plan, curation.store, config.fingerprint(settings), scratch=settings.execution.scratch)
    if stored_config(curation.store)["fingerprint"] != config.fingerprint(settings):
        raise UserError(f"{settings.output} holds a run with other settings: choose another --output")
    todo = ledger.to_do(plan, curation.store)
    failed = curation.work(todo, done_before=len(plan) - len(todo)) if len(todo) else 0
    return curation.finish(plan, failed)


def _read(file: str, s3: S3Settings) -> config.SettingsFile:
    store, key = locate(file, s3)
    if not store.exists(key):
        raise UserError(f"no settings file {file}: give the path or s3:// address of a YAML file")
    return config.SettingsFile(file, store.read(key))
