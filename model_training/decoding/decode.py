"""What a checkpoint recognises: recordings of any length, or the clips of a hand-off's split.

    file ──hear──> windows ──ModelScorer──> search ──join──> one JSON line        split ──labelled_sets──> a line for
    each clip

The same cutting and joining as in recognize.py, with torch. `load` is shared with `eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from model_training.data.handoff import Handoff
from model_training.decoding.recognize import check_task, hear, join
from model_training.decoding.scorer import ModelScorer
from model_training.decoding.search import SearchSettings, check_speaker, decode_batch
from model_training.evaluation.sets import LoadedModel, labelled_sets, load_model
from model_training.model.device import pick_device
from model_training.text.perception import Grammar, Recognition
from operators.errors import UserError


def decode(options: argparse.Namespace) -> int:
    """Print recordings, or the clips of a split, as JSON lines, and return the exit code.

    A recording that cannot be read is named on stderr, the others go on; the code is then 2.
    """
    if bool(options.files) == bool(options.data):
        raise UserError("give audio files, or --data with a hand-off")
    loaded = load(options, options.checkpoint, [options.method])
    given = dict(pair.partition("=")[::2] for pair in options.given)
    order = loaded.settings.data.task_order or None
    grammar = Grammar(loaded.tokenizer, task=options.task, order=order, given=given, known_labels=loaded.known_labels)  # type: ignore[arg-type]
    search = SearchSettings(
        method=options.method,
        beam=options.beam,
        ctc_weight=options.ctc_weight,
        reverse_weight=options.reverse_weight,
        speaker=options.speaker,
    )
    check_speaker(options.speaker, loaded.model.speaker_head is not None)
    n_experts = options.group if options.group is not None else loaded.model.sizes[-1]
    loaded.model.tier(n_experts)  # refuses a size that is not there before any file is read

    def show(clip: str, found: Recognition, **label: str) -> None:
        record = {key: getattr(found, key) for key in ("text", "language", "age", "gender", "emotion", "events")}
        print(json.dumps({"clip": clip, **record, **label}, ensure_ascii=False), flush=True)

    failed = False
    for path in options.files:
        try:
            show(path, recognise_file(path, loaded, n_experts, grammar, search))
        except UserError as error:
            print(f"touchasp: {error}", file=sys.stderr)
            failed = True
    sets = labelled_sets(Handoff.open(options.data), options.split, loaded) if options.data else {}
    for batch in (batch for batches in sets.values() for batch in batches):
        for sample in batch.bad:
            print(f"{sample.clip_id}: {sample.reason} ({sample.detail})", file=sys.stderr)
        if batch.rows:
            scorer = ModelScorer(loaded.model, batch.features_BT80, batch.feature_lengths_B, n_experts, loaded.autocast)
            for row, found in zip(batch.rows, decode_batch(scorer, loaded.tokenizer, grammar, search), strict=True):
                show(row.clip_id, found, label=row.label)
    return 2 if failed else 0


def load(options: argparse.Namespace, path: str, methods: Sequence[str]) -> LoadedModel:
    """Return the model that the options ask for.

    Raises:
        UserError: it was not trained for the task, or a method cannot do it.
    """
    for name, value, least in (("--threads", options.threads, 0), ("--average", options.average, 1)):
        if value < least:
            raise UserError(f"{name} {value}: must be at least {least}")
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load_model(
        path,
        average=options.average,
        ema=options.ema,
        interpolate=options.interpolate,
        device=str(pick_device(options.device)),
        precision=options.precision,
    )
    check_task(options.task, loaded.tasks, methods)
    return loaded


def recognise_file(
    path: str, loaded: LoadedModel, n_experts: int, grammar: Grammar, search: SearchSettings
) -> Recognition:
    """Return what a recording of any length says, cut and joined as `recognize` does.

    Raises:
        UserError: it cannot be read.
    """
    parts: list[tuple[Recognition, int]] = []
    for features_F80 in hear(path, loaded.settings.data.max_clip_frames, loaded.cmvn):
        frames = len(features_F80)
        features_BF80 = torch.from_numpy(features_F80).unsqueeze(0)
        scorer = ModelScorer(loaded.model, features_BF80, torch.tensor([frames]), n_experts, loaded.autocast)
        parts += [(found, frames) for found in decode_batch(scorer, loaded.tokenizer, grammar, search)]
    return join(parts, loaded.tokenizer)
