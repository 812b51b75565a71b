"""OSUM as an annotator of curation, the paper's own use of it: labels of kept clips, by questions.

    Heard ──Answerer, one question a kind──> answer ──read_answer──> Opinion     no known label: no opinion

Named in a configuration by its place, for curation imports no trainer:
    annotate.annotators: [{engine: "model_training.osum.annotator:OsumAnnotator", model: FOLDER}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model_training.osum.ask import Answerer
from model_training.osum.build import open_model
from model_training.osum.tasks import ASR, Asked, parse_task, read_answer
from operators.annotate.annotator import Heard, Opinion, Progress
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE

KINDS = ("age", "gender", "emotion", "style", "events")
_WINDOW = 30 * SAMPLE_RATE


class OsumAnnotator:
    """An OsumAnnotator gives its opinion of every kind that its model was trained to answer.

    Args:
        model: a run, a checkpoint, or a merged folder.
        kinds: of KINDS; empty: all that it was trained for. With ASR+X it was trained to give the transcript first,
            and does so here.

    Raises:
        UserError: no such model, or a kind that it cannot answer.
    """

    def __init__(
        self,
        model: str,
        *,
        kinds: Sequence[str] = (),
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        together: int = 8,
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        opened = open_model(model, device, precision)
        self._answerer = Answerer(opened, together=together)
        trained = [parse_task(name) for name, weight in opened.settings.data.tasks.items() if weight]
        # X alone costs no transcript; where only ASR+X was taught, that is asked.
        best = {asked.task.name: asked for asked in sorted(trained, key=lambda asked: not asked.transcript)}
        able = [kind for kind in KINDS if kind in best and opened.labels.known.get(kind)]
        if unable := sorted(set(kinds) - set(able)):
            raise UserError(f"{model} gives no opinion of {unable[0]}: it was trained for {', '.join(able) or ASR}")
        if not able:
            raise UserError(f"{model} was trained for no label: an annotator needs one of {', '.join(KINDS)}")
        self._asked: dict[str, Asked] = {kind: best[kind] for kind in able if not kinds or kind in kinds}
        self.name = f"osum {Path(model).name} step {opened.step}"

    def annotate(self, clips: Sequence[Heard], *, progress: Progress | None = None) -> list[Mapping[str, Opinion]]:
        """Return its opinions of each clip; a kind without a known label in the answer is left out."""
        found: list[dict[str, Opinion]] = [{} for _ in clips]
        # Alike long together: what a batch answers does not depend on it, what it costs does.
        order = sorted(range(len(clips)), key=lambda place: (len(clips[place].pcm), place))
        pcms = [np.asarray(clips[place].pcm[:_WINDOW]) for place in order]
        for kind, asked in self._asked.items():
            answers = self._answerer.ask(pcms, self._answerer.prompt(asked))
            for place, answer in zip(order, answers, strict=True):
                value = read_answer(asked, answer, self._answerer.opened.labels).value
                if value is not None:
                    found[place][kind] = Opinion(value if isinstance(value, tuple) else (value,))
        if progress is not None:
            progress(len(clips), sum(len(clip.pcm) for clip in clips) / SAMPLE_RATE)
        return list(found)

    def close(self) -> None:
        """Free the model."""
        del self._answerer
