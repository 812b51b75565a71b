"""Stages for tests that need some stage, whatever it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from operators.clip import Unit
from stages.base import Resources


@dataclass(kw_only=True)
class Named:
    """The Named stage does nothing but have a name."""

    name: str
    resources: Resources = field(default_factory=Resources)

    def open(self) -> None:
        pass

    def process(self, unit: Unit) -> Unit:
        return unit

    def close(self) -> None:
        pass
