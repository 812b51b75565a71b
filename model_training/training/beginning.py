"""What a run of the elastic model begins from: nothing, another model's weights, or its own newest checkpoint.

    train.init_from ──no checkpoint of the run yet──> Origin: weights, normalisation, labels
                    ──there is one──────────────────> it says what the run took: normalisation, labels

A run that began from weights keeps their normalisation: what they hear must look as it did when they were trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_training.config import Settings
from model_training.data.features import Cmvn
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.training import checkpoint as checkpoints
from model_training.weights.origin import Origin, open_origin
from model_training.weights.transfer import transfer
from operators.storage.atomic import replace

REPORT = "init_from.json"


@dataclass(frozen=True, slots=True)
class Beginning:
    """A Beginning says what a run takes over from weights; without `train.init_from` nothing."""

    origin: Origin | None = None
    """None also where the run goes on from its own checkpoint."""
    cmvn: str | None = None
    """content of cmvn.json"""
    known_labels: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, folder: Path) -> Beginning:
        """Return how the run in `folder` begins, or began. Raises UserError where the weights cannot be read."""
        if not settings.train.init_from:
            return cls()
        found = checkpoints.latest(folder)
        if found is not None:
            return cls(None, (found.path / "cmvn.json").read_text(encoding="utf-8"), found.record.get("learnt") or {})
        origin = open_origin(settings.train.init_from, settings.model)
        return cls(origin, origin.cmvn, origin.known_labels)

    def normalisation(self) -> Cmvn | None:
        """Return what features are normalised by; None: by the hand-off's own."""
        return Cmvn.from_dict(json.loads(self.cmvn)) if self.cmvn is not None else None

    def give(self, model: SpeechModel, tokenizer: Tokenizer, settings: Settings, report: Path | None) -> list[str]:
        """Give the model the weights, and return lines that say what it took.

        Args:
            report: where the whole report goes; None: nowhere.

        Raises:
            UserError: they are of another architecture, or lack a tensor.
        """
        if self.origin is None:
            return []
        train = settings.train
        made = transfer(model, tokenizer.tokens, self.origin, noise=train.init_noise, seed=train.seed)
        if report is not None:
            replace(report, json.dumps(made.to_dict(), ensure_ascii=False, indent=1).encode())
        return made.lines()
