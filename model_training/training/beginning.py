"""What a run of the elastic model begins from: nothing, another model's weights, or its own newest checkpoint.

    train.init_from ──no checkpoint of the run yet──> Origin: weights, normalisation, labels
    train.init_embedding_from ──likewise──> Origin of 3M's embedding network: weights, normalisation
                    ──there is one──────────────────> it says what the run took: normalisation, labels

A run that began from weights keeps their normalisation: what they hear must look as it did when they were trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from model_training.config import Settings
from model_training.data.features import Cmvn
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.training import checkpoint as checkpoints
from model_training.weights.embedding import give_embedding
from model_training.weights.origin import Origin, open_origin
from model_training.weights.transfer import Report, transfer
from operators.errors import UserError
from operators.storage.atomic import replace

REPORT = "init_from.json"
EMBEDDING_REPORT = "init_embedding_from.json"


@dataclass(frozen=True, slots=True)
class Beginning:
    """A Beginning says what a run takes over from weights; without `train.init_from` and its like nothing."""

    origin: Origin | None = None
    """None also where the run goes on from its own checkpoint."""
    cmvn: str | None = None
    """content of cmvn.json"""
    known_labels: Mapping[str, list[str]] = field(default_factory=dict)
    embedding: Origin | None = None
    """of the embedding network alone"""

    @classmethod
    def of(cls, settings: Settings, folder: Path) -> Beginning:
        """Return how the run in `folder` begins, or began. Raises UserError where the weights cannot be read."""
        train = settings.train
        if not train.init_from and not train.init_embedding_from:
            return cls()
        found = checkpoints.latest(folder)
        if found is not None:
            return cls(None, (found.path / "cmvn.json").read_text(encoding="utf-8"), found.record.get("learnt") or {})
        origin = open_origin(train.init_from, settings.model) if train.init_from else None
        embedding = None
        if train.init_embedding_from:
            with _named():
                embedding = open_origin(train.init_embedding_from, settings.model)
        if origin is None:
            return cls(cmvn=embedding.cmvn if embedding is not None else None, embedding=embedding)
        if embedding is not None and not _equal(origin.cmvn, embedding.cmvn):
            raise UserError(
                "train.init_embedding_from: its features were normalised otherwise than those of train.init_from, and "
                "both hear the same: train both on one hand-off"
            )
        return cls(origin, origin.cmvn, origin.known_labels, embedding)

    def normalisation(self) -> Cmvn | None:
        """Return what features are normalised by; None: by the hand-off's own."""
        return Cmvn.from_dict(json.loads(self.cmvn)) if self.cmvn is not None else None

    def give(self, model: SpeechModel, tokenizer: Tokenizer, settings: Settings, folder: Path | None) -> list[str]:
        """Give the model the weights, and return lines that say what it took.

        Args:
            folder: where the whole reports go; None: nowhere.

        Raises:
            UserError: they are of another architecture, or lack a tensor.
        """
        train = settings.train
        made: dict[str, Report] = {}
        if self.origin is not None:
            made[REPORT] = transfer(model, tokenizer.tokens, self.origin, noise=train.init_noise, seed=train.seed)
        if self.embedding is not None:
            with _named():
                made[EMBEDDING_REPORT] = give_embedding(model, tokenizer.tokens, self.embedding)
        if folder is not None:
            for name, one in made.items():
                replace(folder / name, json.dumps(one.to_dict(), ensure_ascii=False, indent=1).encode())
        return [line for one in made.values() for line in one.lines()]


@contextmanager
def _named() -> Iterator[None]:
    """Errors inside are of the embedding network's setting."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("train.init_from=", "train.init_embedding_from=", 1)) from None


def _equal(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    first, second = (Cmvn.from_dict(json.loads(text)) for text in (one, other))
    return np.array_equal(first.mean, second.mean) and np.array_equal(first.istd, second.istd)
