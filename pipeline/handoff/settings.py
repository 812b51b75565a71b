"""What may be chosen of a hand-off."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.handoff.labelled import LabelledSet


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffSettings:
    """The settings are what the options of the command line say."""

    seed: int = 0
    dev: float = 0.01
    """share of the groups of recordings, 0-1"""
    test: float = 0.01
    alpha: float = 0.7
    """a domain is seen in proportion to its hours to the power of this: 1 as they come, 0 all domains alike"""
    max_weight: float = 4.0
    """the most often that a balanced domain's clips are seen in an epoch"""
    weights: dict[str, float] = field(default_factory=dict)
    """of domains, instead of the balanced ones"""
    labelled: tuple[LabelledSet, ...] = ()
    scheme: str | None = None
    """file with the labels that the model knows; None: the trainer's own"""
    bpe_size: int | None = None
    tokenizer: str | None = None
    """of an earlier hand-off, to be used again; None: built from the labels of train"""
    checksums: bool = True
    skip_damaged: bool = False
    scratch: str | None = None
