"""Labels by agreement: enough opinions, none that contradicts, and the manifest's word above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.annotate.agree import agree
from operators.annotate.annotator import Cache, Heard, Opinion, opinions
from operators.annotate.limits import QualityLimits, reject
from operators.annotate.manifest import known_labels
from operators.clip import KINDS, Attributes, NamedOpinion, Quality


def said(annotator: str, kind: str, *labels: str) -> NamedOpinion:
    return NamedOpinion(annotator=annotator, kind=kind, labels=labels)


def test_a_label_needs_enough_opinions_and_no_other() -> None:
    two = [said("a", "emotion", "anger"), said("b", "emotion", "anger")]
    assert agree(two, {}, 2).emotion == "anger"
    assert agree(two[:1], {}, 2).emotion is None
    assert agree(two[:1], {}, 1).emotion == "anger"
    assert agree([*two, said("c", "emotion", "neutral")], {}, 2).emotion is None, "all who answered must agree"
    assert agree([*two, said("c", "style", "read")], {}, 2) == Attributes(emotion="anger"), "abstaining is no objection"


def test_events_agree_as_a_whole() -> None:
    """Some of the events would teach that the others are absent."""
    both = [said("a", "events", "dog", "rain"), said("b", "events", "dog", "rain")]
    assert agree(both, {}, 2).events == ("dog", "rain")
    assert agree([both[0], said("b", "events", "dog")], {}, 2).events is None
    assert agree([said("a", "events"), said("b", "events")], {}, 2).events == (), "known to have none"


def test_the_manifests_label_always_wins() -> None:
    against = [said(name, "gender", "female") for name in ("a", "b", "c")]
    known = known_labels({"gender": "M", "age": "unknown", "events": "Laughter; cough"}) | {"language": "zh-HK"}
    found = agree(against, known, 2)
    assert found == Attributes(language="yue", gender="male", events=("laughing", "coughing"))


KIND = st.sampled_from([kind for kind in KINDS if kind != "events"])


@given(st.lists(st.tuples(KIND, st.sampled_from("xyz")), max_size=12), st.integers(1, 4))
def test_what_is_agreed_is_what_everybody_said(answers: list[tuple[str, str]], least: int) -> None:
    given_ = [said(str(number), kind, label) for number, (kind, label) in enumerate(answers)]
    found = agree(given_, {}, least)
    for kind in KINDS:
        labels = [label for answered, label in answers if answered == kind]
        expected = labels[0] if len(labels) >= least and set(labels) == {labels[0]} else None
        assert getattr(found, kind) == expected
    assert agree(given_[::-1], {}, least) == found, "the order of annotators does not matter"


class Says:
    """An annotator that answers what it was made with, whatever it hears."""

    name = "says"

    def __init__(self, *answers: Mapping[str, Opinion]) -> None:
        self.answers = answers

    def annotate(self, clips: Sequence[Heard]) -> list[Mapping[str, Opinion]]:
        return list(self.answers)

    def close(self) -> None:
        pass


HEARD = Heard(pcm=np.zeros(16_000, np.int16), text="hello")


def test_labels_come_under_one_name_and_in_one_order() -> None:
    answer = {
        "events": Opinion(("Laughter", "dog", "laughing")),
        "language": Opinion(("zh-HK",), 0.9),
        "emotion": Opinion((" Happy ",), 0.5),
        "gender": Opinion(("male",)),
    }
    (found,) = opinions(Says(answer), [HEARD], ["language", "emotion", "events"])
    assert [(each.kind, each.labels, each.score) for each in found] == [
        ("language", ("yue",), 0.9),
        ("emotion", ("happiness",), 0.5),
        ("events", ("dog", "laughing"), None),
    ], "in the order of KINDS; gender was not asked for"


@pytest.mark.parametrize("labels", [(), ("anger", "fear"), ("",), (" ",)])
def test_no_label_or_more_than_one_is_no_opinion(labels: tuple[str, ...]) -> None:
    assert opinions(Says({"emotion": Opinion(labels)}), [HEARD], KINDS) == [()]


@pytest.mark.parametrize(("answers", "message"), [([], "0 of 1"), ([{"mood": Opinion(("x",))}], "mood")])
def test_an_answer_of_another_form_is_a_bug(answers: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opinions(Says(*answers), [HEARD], KINDS)


def test_an_annotator_gets_the_keywords_that_it_names() -> None:
    given_: dict[str, Any] = {}

    class Caching(Says):
        def annotate(  # type: ignore[override]
            self, clips: Sequence[Heard], *, cache: Cache
        ) -> list[Mapping[str, Opinion]]:
            given_["cache"] = cache
            return [{}]

    cache: Any = object()
    opinions(Caching(), [HEARD], KINDS, cache=cache, progress=lambda *_: None)
    assert given_ == {"cache": cache}


GOOD = Quality(snr_db=20.0, bandwidth_hz=7000.0, clipped=0.0, dnsmos_ovrl=3.0)


@pytest.mark.parametrize(
    ("limit", "at", "beyond", "reason"),
    [
        ("min_snr_db", 20.0, 20.1, "low_snr"),
        ("min_bandwidth_hz", 7000.0, 7001.0, "narrow_band"),
        ("min_ovrl", 3.0, 3.1, "low_dnsmos"),
    ],
)
def test_a_limit_that_is_met_is_kept_and_without_one_nothing_is_rejected(
    limit: str, at: float, beyond: float, reason: str
) -> None:
    assert reject(GOOD, QualityLimits()) is None
    assert reject(GOOD, QualityLimits(**{limit: at})) is None
    rejection = reject(GOOD, QualityLimits(**{limit: beyond}))
    assert rejection is not None
    assert (rejection.stage, rejection.reason) == ("annotate", reason)
    assert reject(Quality(), QualityLimits(**{limit: beyond})) is None, "what could not be measured breaks no limit"


def test_clipping_has_a_highest_share() -> None:
    loud = Quality(clipped=0.02)
    assert reject(loud, QualityLimits(max_clipped=0.02)) is None
    rejection = reject(loud, QualityLimits(max_clipped=0.01))
    assert rejection is not None
    assert rejection.reason == "clipped"
