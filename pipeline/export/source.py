"""What is exported, or told of in a card: a hand-off, or runs.

HANDOFF | RUN ... ──open_source──> Source: its clips, and the runs behind it that can be reached
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from operators.errors import UserError
from operators.handoff_record import HandoffRecord
from operators.storage.base import S3Settings, Store
from operators.storage.fetch import open_store
from operators.storage.uri import is_s3
from pipeline.config import Settings, load
from pipeline.export.clips import ExportedClip, LeftOut, Sources, clips_of_handoff, clips_of_runs
from pipeline.handoff.runs import one_s3, open_runs
from pipeline.run_directory import existing_run


@dataclass(frozen=True, slots=True)
class Source:
    """A Source is a hand-off, or runs."""

    clips: Iterator[ExportedClip]
    sources: Sources
    left_out: LeftOut
    stores: tuple[Store, ...]
    """of the hand-off, or of each run"""
    is_handoff: bool
    runs: tuple[tuple[Store, Settings], ...]
    """those that can be reached"""

    @property
    def roots(self) -> tuple[str, ...]:
        return tuple(store.root for store in self.stores)

    def nothing(self, what: str) -> UserError:
        """Return the error for a source without a clip."""
        why = "; ".join(f"{count:,} clips: {reason}" for reason, count in self.left_out.reasons.items())
        return UserError(f"nothing to {what}: no clip was kept{f' ({why})' if why else ''}")


def open_source(roots: Sequence[str], overrides: list[str]) -> Source:
    """Open a hand-off or some runs. `overrides` are s3.* settings. Raises UserError."""
    left_out = LeftOut()
    s3 = load(None, overrides).s3
    stores = [open_store(root.rstrip("/").removesuffix("/handoff.json"), s3) for root in roots]
    handoffs = [store for store in stores if store.exists("handoff.json")]
    if not handoffs:
        try:
            runs = open_runs(roots, overrides)
        except UserError as error:
            neither = [store.root for store in stores if not store.exists("config.yaml")]
            if not neither:
                raise
            raise UserError(
                f"{neither[0]} is neither a hand-off (it has no handoff.json) nor a run (no config.yaml): give the "
                "--out of `handoff` or the `output` of a run"
            ) from error
        sources = Sources(one_s3(runs, overrides))
        known = tuple((run.store, run.settings) for run in runs)
        clips = clips_of_runs(runs, sources, left_out)
        return Source(clips, sources, left_out, tuple(store for store, _ in known), False, known)
    if len(stores) > 1:
        raise UserError(f"{handoffs[0].root} is a hand-off, and stands alone: hand several runs off together")
    store = handoffs[0]
    record = HandoffRecord.from_json(store.read("handoff.json"), store.url("handoff.json"))
    place = record.storage
    if not overrides:
        s3 = S3Settings(
            endpoint_url=place.endpoint_url, region=place.region, addressing_style=place.addressing_style or "auto"
        )
    sources = Sources(s3)
    reached = []
    for each in record.runs or ():
        try:
            settings, of_run = existing_run(each.root, overrides if is_s3(each.root) else [])
        except UserError:
            continue  # a card without its thresholds is still a card
        reached.append((of_run, settings))
    clips = clips_of_handoff(store.root, record, sources, left_out)
    return Source(clips, sources, left_out, (store,), True, tuple(reached))
