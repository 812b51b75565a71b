"""SenseVoice's tags, emotion2vec's scores, a classifier of transformers: what they say, and when they abstain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.annotate.annotator import Heard, Opinion
from operators.annotate.classifier import HubClassifier, opinion_of
from operators.annotate.emotion import emotion_of
from operators.annotate.sensevoice import SenseVoice
from operators.asr.funasr import plain_text, tags
from operators.clip import Hypothesis
from operators.errors import UserError

TAGGED = "<|yue|><|HAPPY|><|BGM|><|Laughter|><|woitn|>你好"


def heard(transcript: str, seconds: float = 1.0) -> Heard:
    text, language = plain_text(transcript)
    hypothesis = Hypothesis(engine="funasr/sv", text=text, language=language, tags=tags(transcript))
    plain = Hypothesis(engine="whisperx", text=text, language="zh")
    pcm = np.random.default_rng(0).integers(-9000, 9000, round(16_000 * seconds), np.int16)
    return Heard(pcm=pcm, text=text, language="zh", hypotheses=(plain, hypothesis))


def test_the_tags_of_a_copilot_are_opinions_that_cost_nothing() -> None:
    found = SenseVoice().annotate(
        [heard(TAGGED), heard("<|zh|><|EMO_UNKNOWN|><|Speech|>好"), heard("<|nospeech|><|EMO_UNKNOWN|>"), heard("好")]
    )
    assert found == [
        {
            "language": Opinion(("yue",)),
            "emotion": Opinion(("happiness",)),
            "events": Opinion(("music", "laughing")),
        },
        {"language": Opinion(("zh",)), "events": Opinion(())},
        {},
        {},
    ]


def test_two_emotions_in_one_clip_are_no_opinion() -> None:
    (found,) = SenseVoice().annotate([heard("<|zh|><|HAPPY|><|Speech|>好<|zh|><|SAD|><|Speech|>不好")])
    assert found.keys() == {"language", "events"}


def test_a_transcript_without_tags_has_none() -> None:
    assert tags("好") is None
    assert tags(TAGGED) == ("HAPPY", "BGM", "Laughter", "woitn")


LABELS = ["生气/angry", "其他/other", "<unk>", "开心/happy"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.05, 0.0, 0.05], {"emotion": Opinion(("anger",), 0.9)}),
        ([0.1, 0.1, 0.1, 0.7], {"emotion": Opinion(("happiness",), 0.7)}),
        ([0.1, 0.8, 0.0, 0.1], {}),
        ([0.1, 0.0, 0.8, 0.1], {}),
        ([0.4, 0.3, 0.0, 0.3], {}),
        ([], {}),
    ],
)
def test_emotion2vec_abstains_on_other_unknown_and_uncertain(scores: list[float], expected: dict[str, Opinion]) -> None:
    assert emotion_of(LABELS[: len(scores)], scores, min_score=0.5) == expected


def test_events_are_all_labels_that_are_sure_enough() -> None:
    scores = np.array([0.9, 0.2, 0.6, 0.99])
    assert opinion_of("events", ["dog", "rain", "cat", ""], scores, 0.5) == {"events": Opinion(("dog", "cat"), 0.6)}
    assert opinion_of("events", ["dog", "rain"], scores[1:2].repeat(2), 0.5) == {"events": Opinion(())}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of random weights, tiny, in a folder as `save_pretrained` writes it."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    shape: dict[str, Any] = {"conv_dim": (8, 8), "conv_kernel": (20, 8), "conv_stride": (10, 8), "hidden_size": 8}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "classifier_proj_size": 8}
    shape |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}
    labels = {0: "M", 1: "F", 2: "child"}
    torch.manual_seed(0)
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**shape, num_labels=3, id2label=labels))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
    return folder


def test_a_classifier_from_a_folder_gives_its_labels_other_names(classifier: Path) -> None:
    clips = [heard("好", 0.5), heard("好", 1.0)]
    plain = HubClassifier(str(classifier), kind="gender", min_score=0.0)
    first = plain.annotate(clips)
    assert {each["gender"].labels[0] for each in first} <= {"M", "F", "child"}
    assert all(1 / 3 <= (each["gender"].score or 0) <= 1 for each in first)
    assert plain.annotate(clips[1:]) == first[1:], "no clip depends on another"
    said = first[0]["gender"].labels[0]
    renamed = HubClassifier(str(classifier), kind="gender", min_score=0.0, labels={said: "male"})
    assert renamed.annotate(clips)[0]["gender"].labels == ("male",)
    silent = HubClassifier(str(classifier), kind="gender", labels={}, min_score=0.0)
    assert silent.annotate(clips) == [{}, {}], "a label without a name here abstains"
    assert plain.name == f"classifier/{classifier.name}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "mood"}, "kind=mood: expected one of language, age"),
        ({"kind": "gender", "labels": {"X": "male"}}, "no label X: it has M, F, child"),
    ],
)
def test_a_mistake_about_a_classifier_is_one_line(classifier: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HubClassifier(str(classifier), **arguments)


def test_a_classifier_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        HubClassifier(str(tmp_path), kind="gender")
