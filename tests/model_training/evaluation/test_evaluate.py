"""Whole evaluations, from a scripted model and from a real one, to the printed page."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from rich.console import Console

from model_training.evaluation.evaluate import evaluate, evaluate_scorers
from model_training.evaluation.evaluation import Evaluation, Result, from_json, to_json
from model_training.evaluation.metrics import (
    ErrorRate,
    Scores,
)
from model_training.evaluation.page import to_html
from model_training.evaluation.tables import make_tables
from model_training.evaluation.terminal import render
from model_training.text.perception import Recognition, build_targets
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import EOT, Scheme
from operators.errors import UserError
from tests.support.corpus import Clip

TOKENIZER = Tokenizer.train(["你好吗我很 hello there world", "hello the other"], Scheme(), bpe_size=40)


@dataclass(frozen=True)
class Bad:
    clip_id: str
    reason: str


@dataclass
class Batch:
    rows: Sequence[Clip]
    bad: Sequence[Bad] = ()
    features_BT80: object = None
    feature_lengths_B: object = None


class Oracle:
    """Says what it is given, by CTC and by decoder: `answers` are its answers, clip by clip."""

    def __init__(self, answers: Sequence[Clip]) -> None:
        self.targets = [build_targets(answer, TOKENIZER) for answer in answers]
        self.frames = [2 * len(targets.ctc) + 1 for targets in self.targets]

    has_reverse = False

    def head(self, clip: int) -> None:
        return None

    def ctc(self, clip: int) -> np.ndarray:
        # Blanks between the units, so that repeats survive.
        spread = [0] * self.frames[clip]
        spread[1::2] = self.targets[clip].ctc
        return self._sure(spread)

    def next(self, ids_HL: np.ndarray, clips_H: np.ndarray, parents_H: np.ndarray | None) -> np.ndarray:
        return self.score(ids_HL, clips_H)[:, -1]

    def score(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        out = []
        for clip, ids in zip(clips_H, ids_HL, strict=True):
            said = [*self.targets[clip].inputs[1:], EOT, *[EOT] * len(ids)]
            out.append(self._sure(said[: len(ids)]))
        return np.stack(out)

    def score_reverse(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        raise AssertionError("nobody reads from the end")

    def _sure(self, ids: Sequence[int]) -> np.ndarray:
        scores = np.full((len(ids), len(TOKENIZER)), -20.0)
        scores[np.arange(len(ids)), ids] = -1e-6
        return scores


METHODS = ("ctc_greedy", "ctc_prefix_beam", "attention", "attention_rescoring")
TRUTH = [
    Clip(clip_id="a", label="hello 你好", language="zh", gender="male", frames=200),
    Clip(clip_id="b", label="the other", language="en", gender="female", age="child", frames=300),
    Clip(clip_id="c", label="", events=("dog",), frames=500),
]
HEARD = [
    Clip(label="hello 你", language="zh", gender="male", age="adult", emotion="neutral"),
    Clip(label="the other", language="zh", gender="female", age="child", emotion="neutral"),
    Clip(label="", language="en", gender="male", age="adult", emotion="neutral", events=("dog",)),
]


def run(
    methods: Sequence[str] = METHODS, batches: Sequence[Sequence[int]] = ((0, 1), (2,)), **more: object
) -> Evaluation:
    """Group 3 hears as HEARD, group 7 hears the truth."""

    def scorer(batch: Batch, group: int) -> Oracle:
        places = [[clip.clip_id for clip in TRUTH].index(row.clip_id) for row in batch.rows]
        heard = [HEARD[place] for place in places]
        if group == 7:
            full = {"language": "zh", "gender": "male", "age": "adult", "emotion": "neutral"}
            heard = [
                Clip(
                    label=TRUTH[place].label,
                    events=TRUTH[place].events,
                    **{kind: getattr(TRUTH[place], kind) or label for kind, label in full.items()},
                )
                for place in places
            ]
        return Oracle(heard)

    made = [Batch([TRUTH[place] for place in places]) for places in batches]
    return evaluate_scorers(
        scorer,  # type: ignore[arg-type]
        TOKENIZER,
        {"first": made, "second": [Batch([TRUTH[0]], bad=[Bad("z", "corrupt")])]},  # type: ignore[dict-item]
        groups=(3, 7),
        methods=methods,
        beam=3,
        **more,  # type: ignore[arg-type]
    )


def test_every_group_and_method_is_scored_against_the_truth() -> None:
    evaluation = run()
    assert evaluation.groups == (3, 7)
    assert evaluation.methods == METHODS
    for method in METHODS:
        worse, better = evaluation.scores("first", 3, method), evaluation.scores("first", 7, method)
        assert worse is not None
        assert better is not None
        # One deletion in HELLO 你 好 + THE OTHER.
        assert (worse.tokens.deletions, worse.tokens.errors, worse.tokens.reference) == (1, 1, 5)
        assert better.tokens.errors == 0
        assert worse.events.accuracy[:2] == (1, 1)
        assert (worse.clips, worse.seconds) == (3, pytest.approx(10.0))
        if method.startswith("attention"):
            assert worse.attributes["language"].accuracy[:2] == (1, 2)
            assert worse.attributes["gender"].accuracy[:2] == (2, 2)
            assert worse.attributes["age"].accuracy[:2] == (1, 1)
            assert better.attributes["language"].accuracy[:2] == (2, 2)
        else:
            assert worse.attributes == {}
    assert evaluation.unusable == {"first": [], "second": [("z", "corrupt")]}


def test_averages_over_sets() -> None:
    evaluation = run(methods=["attention"])
    # first: 1 error of 5 tokens in 10 s; second: 1 error of 3 tokens in 2 s.
    assert evaluation.pooled(3, "attention").tokens.percent == pytest.approx(100 * 2 / 8)
    assert evaluation.weighted_by_seconds(3, "attention") == pytest.approx((10 * 20 + 2 * 100 / 3) / 12)
    assert evaluation.weighted_by_seconds(7, "attention") == 0


def test_batching_does_not_matter() -> None:
    whole, split = run(), run(batches=((0,), (), (1,), (2,)))
    assert to_json(whole) == to_json(split)


def test_each_recognition_is_handed_on() -> None:
    seen = []
    run(methods=["attention"], on_recognition=lambda *event: seen.append(event))
    assert [(name, group, row.clip_id) for name, group, _, row, _ in seen[:3]] == [
        ("first", 3, "a"),
        ("first", 3, "b"),
        ("first", 7, "a"),
    ]
    assert seen[0][4].text == "HELLO 你"
    assert seen[1][4].age == "child"


def test_an_empty_set_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no clip to evaluate in dev: 1 could not be used"):
        evaluate_scorers(
            lambda batch, group: Oracle([]),
            TOKENIZER,
            {"dev": [Batch([], bad=[Bad("z", "corrupt")])]},  # type: ignore[dict-item]
            groups=(0,),
            methods=["attention"],
        )
    with pytest.raises(UserError, match="viterbi"):
        run(methods=["viterbi"])


def test_json_holds_the_counts_and_comes_back() -> None:
    evaluation = run()
    again = from_json(to_json(evaluation))
    assert to_json(again) == to_json(evaluation)
    assert make_tables([again]) == make_tables([evaluation])
    first = json.loads(to_json(evaluation))["results"][0]
    assert first["tokens"]["percent"] == pytest.approx(20.0)
    for data in (b"{", b"[]", b'{"schema_version": 99}', b'{"schema_version": 2}', b'{"schema_version": 1}'):
        with pytest.raises(UserError, match="evaluation"):
            from_json(data)


def cells(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str, str], str]:
    return {
        (table.title, row.name, column): cell.text
        for table in make_tables(evaluations)
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    }


def test_tables_have_a_column_for_each_size() -> None:
    shown = cells([run(methods=["attention"])])
    assert shown["Error rate, %", "first", "N=3"] == "20.00"
    assert shown["Error rate, %", "first", "N=7"] == "0.00"
    assert shown["Error rate, %", "all, by tokens", "N=3"] == "25.00"
    assert shown["Error rate, %", "all, by duration", "N=3"] == "22.22"
    # Heard: zh zh zh for zh en zh.
    assert shown["Language identification, F1", "N=3", "zh"] == "0.800"
    assert shown["Language identification, F1", "N=3", "en"] == "0.000"
    assert shown["Language identification, F1", "N=7", "en"] == "1.000"
    assert shown["Gender, accuracy, %", "all", "N=3"] == "100.0"
    assert shown["Gender, accuracy, %", "  always male", "N=3"] == "66.7", "two of three: the total's row comes last"
    assert shown["Sound events, %", "event · first", "N=3"] == "100.0"
    assert shown["Kinds of errors, %", "first", "N=3"] == "0.0 / 20.0 / 0.0"
    assert not any(title.startswith("Emotion") for title, _, _ in shown), "nobody knows a true emotion here"


def test_models_stand_beside_each_other_as_in_table_4() -> None:
    scores = Scores(clips=1, seconds=1.0, tokens=ErrorRate(1, 0, 0, 4, 1, 1, 4, 16))
    elastic = Evaluation(
        model="eMoE",
        results=tuple(Result(set="s", n_experts=n, method="attention", scores=scores) for n in (3, 15)),
        parameters={
            3: {"total": 335_000_000, "active": 335_000_000},
            15: {"total": 1_002_000_000, "active": 335_000_000},
        },
    )
    dense = Evaluation(model="dense", results=(Result(set="s", n_experts=0, method="attention", scores=scores),))
    shown = cells([elastic, dense])
    assert shown["Model size", "Parameters", "eMoE N=15"] == "1,002.0 M"
    assert shown["Model size", "Parameters", "dense dense"] == "–"
    assert shown["Error rate, %", "s", "dense dense"] == "25.00"


@pytest.mark.parametrize("width", [60, 200])
def test_the_terminal_shows_every_number(width: int) -> None:
    out = io.StringIO()
    render([run(methods=["attention"])], Console(file=out, width=width))
    for text in ("N=3", "N=7", "20.00", "22.22", "0.800", "second: 1 clip could not be used and is in no number"):
        assert text in out.getvalue()


def test_tables_too_wide_for_the_terminal_go_on_below_and_break_no_word() -> None:
    out = io.StringIO()
    evaluations = [replace(run(methods=["ctc_greedy", "attention"]), model=f"model-{number}") for number in range(4)]
    render(evaluations, Console(file=out, width=60))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    words = {word for line in lines for word in re.split(r"[\s│┃]+", line)}
    assert {"Language", "attention", "ctc_greedy", *(f"model-{number}" for number in range(4))} <= words
    assert sum(line.strip() == "Error rate, %" for line in lines) == 1


def test_the_page_is_self_contained_and_escapes_names() -> None:
    nasty = "<script>alert(1)</script>[bold]"
    scores = Scores(clips=1, seconds=1.0, tokens=ErrorRate(1, 0, 0, 4, 1, 1, 4, 16))
    result = Result(set=nasty, n_experts=3, method="attention", scores=scores)
    evaluation = Evaluation(model=nasty, results=(result,), unusable={nasty: [("z", "corrupt")]})
    page = to_html([evaluation])
    assert page == to_html([evaluation])
    text = page.decode("utf-8")
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert "25.00" in text
    out = io.StringIO()
    render([evaluation], Console(file=out, width=200))
    assert nasty in out.getvalue()


@dataclass
class Features:
    """A real batch of random features for the real model."""

    rows: Sequence[Clip]
    features_BT80: object
    feature_lengths_B: object
    bad: Sequence[Bad] = field(default_factory=list)


def test_the_model_is_evaluated_at_every_size_and_left_as_it_was() -> None:
    import torch

    from model_training.config import ModelSettings, MoESettings
    from model_training.model.speech_model import SpeechModel

    torch.manual_seed(0)
    settings_ = ModelSettings(
        d_model=16,
        heads=2,
        d_ff=32,
        encoder_layers=1,
        decoder_layers=1,
        kernel=3,
        moe=MoESettings(experts=[3, 7], top_k=3),
    )
    model = SpeechModel(settings_, len(TOKENIZER)).train()
    lengths = torch.tensor([60, 100])
    batch = Features(TRUTH[:2], torch.randn(2, 100, 80), lengths)
    together = evaluate(model, TOKENIZER, {"dev": [batch]}, methods=METHODS, beam=3)  # type: ignore[dict-item]
    assert model.training
    assert together.groups == (3, 7)
    assert together.parameters[7]["total"] > together.parameters[3]["total"]
    # Padding and batching must not change what is recognised; cached steps must equal whole sequences.
    said: dict[bool, list[Recognition]] = {True: [], False: []}
    for alone in (True, False):
        batches = (
            [
                Features([TRUTH[i]], batch.features_BT80[i : i + 1, : int(lengths[i])], lengths[i : i + 1])  # type: ignore[index]
                for i in (0, 1)
            ]
            if alone
            else [batch]
        )
        evaluate(
            model,
            TOKENIZER,
            {"dev": batches},  # type: ignore[dict-item]
            groups=[7],
            methods=["attention"],
            beam=4,
            on_recognition=lambda *event, alone=alone: said[alone].append(event[-1]),
        )
    assert [one.ids for one in said[True]] == [one.ids for one in said[False]]
    assert [one.score for one in said[True]] == pytest.approx([one.score for one in said[False]], rel=1e-4)
    with pytest.raises(UserError, match="group 15"):
        evaluate(model, TOKENIZER, {"dev": [batch]}, groups=[15])  # type: ignore[dict-item]


def test_a_model_in_bfloat16_scores_in_float32_and_close_to_itself() -> None:
    import torch

    from model_training.config import ModelSettings
    from model_training.decoding.scorer import ModelScorer
    from model_training.model.device import evaluation_dtype
    from model_training.model.speech_model import SpeechModel

    cpu = torch.device("cpu")
    assert evaluation_dtype("auto", cpu) is None, "no number of a CPU moves by itself"
    assert evaluation_dtype("bf16", cpu) == torch.bfloat16
    torch.manual_seed(2)
    model = SpeechModel(ModelSettings(d_model=16, heads=2, d_ff=32, encoder_layers=1, decoder_layers=1), len(TOKENIZER))
    batch = torch.randn(2, 80, 80), torch.tensor([80, 50])
    exact, rounded = (
        ModelScorer(model.eval(), *batch, 7, precision) for precision in (None, evaluation_dtype("bf16", cpu))
    )
    ids_HL, clips_H = np.array([(2, 4), (2, 5)]), np.array([0, 1])
    for name, pair in {
        "ctc": (exact.ctc(0), rounded.ctc(0)),
        "score": (exact.score(ids_HL, clips_H), rounded.score(ids_HL, clips_H)),
        "next": (exact.next(ids_HL, clips_H, None), rounded.next(ids_HL, clips_H, None)),
    }.items():
        want, got = pair
        assert got.dtype == np.float32, name
        np.testing.assert_allclose(np.exp(got).sum(-1), 1, rtol=1e-5, err_msg=name)
        assert 0 < np.abs(want - got).max() < 0.1, f"{name}: computed in bfloat16"


def test_cached_steps_score_as_whole_sequences_do() -> None:
    import torch

    from model_training.config import ModelSettings, MoESettings
    from model_training.decoding.scorer import ModelScorer
    from model_training.model.speech_model import SpeechModel

    torch.manual_seed(1)
    settings_ = ModelSettings(
        d_model=16,
        heads=2,
        d_ff=32,
        encoder_layers=1,
        decoder_layers=2,
        kernel=3,
        moe=MoESettings(experts=[3], top_k=3),
    )
    scorer = ModelScorer(
        SpeechModel(settings_, len(TOKENIZER)).eval(), torch.randn(2, 80, 80), torch.tensor([80, 50]), n_experts=3
    )
    draw = random.Random(0)
    rows, clips, parents = [(2, 4), (2, 4)], [0, 1], None
    for _ in range(6):
        ids_HL, clips_H = np.array(rows), np.array(clips)
        stepped = scorer.next(ids_HL, clips_H, parents)
        whole = scorer.score(ids_HL, clips_H)[:, -1]
        np.testing.assert_allclose(stepped, whole, atol=1e-5)
        # A beam's next step: some rows branch, some die, some only grow.
        picked = [draw.randrange(len(rows)) for _ in range(draw.randint(1, 5))]
        rows = [(*rows[row], draw.randrange(4, len(TOKENIZER))) for row in picked]
        clips = [clips[row] for row in picked]
        parents = np.array(picked)
