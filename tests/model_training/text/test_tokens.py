"""The inventory is data: one entry more is one token more, and nothing else moves in front of it."""

from __future__ import annotations

import pytest

from model_training.text.tokens import BLANK, CONTROLS, EOT, SOT, UNK, Scheme, spell
from operators.errors import UserError


def test_specials_start_with_the_ids_every_model_shares() -> None:
    specials = Scheme().specials()
    assert (specials[BLANK], specials[UNK], specials[SOT], specials[EOT]) == CONTROLS
    assert specials[4] == "<task:transcribe>"
    assert len(set(specials)) == len(specials)


def test_default_inventory_is_the_papers() -> None:
    scheme = Scheme()
    assert set(scheme.languages) == {"zh", "en", "yue", "sichuan", "minnan"}
    assert set(scheme.ages) == {"child", "adult", "elderly"}
    assert set(scheme.genders) == {"male", "female"}
    assert set(scheme.emotions) == {"neutral", "anger", "sadness", "happiness", "surprise", "fear", "disgust"}
    assert len(scheme.events) > 70
    assert {"coughing", "sneezing", "breathing", "crying_baby", "cat"} <= set(scheme.events)


def test_every_attribute_has_an_unknown_and_events_have_none() -> None:
    specials = Scheme().specials()
    assert [token for token in specials if token.endswith(":unk>")] == [
        "<lang:unk>",
        "<age:unk>",
        "<gender:unk>",
        "<emotion:unk>",
    ]


@pytest.mark.parametrize(
    ("settings", "token", "after"),
    [
        ({"more_events": ["toaster"]}, "<event:toaster>", "<event:motorcycle>"),
        ({"more_languages": ["hakka"]}, "<lang:hakka>", "<lang:minnan>"),
    ],
)
def test_one_more_event_or_dialect_is_one_entry(settings: dict[str, list[str]], token: str, after: str) -> None:
    before, now = list(Scheme().specials()), list(Scheme.from_dict(settings).specials())
    place = now.index(token)
    assert now[place - 1] == after
    assert now[:place] + now[place + 1 :] == before


def test_a_scheme_comes_back_from_its_plain_form() -> None:
    scheme = Scheme.from_dict({"events": ["dog"], "more_events": ["cat"], "order": "text_first", "aliases": {}})
    assert scheme.events == ("dog", "cat")
    assert Scheme.from_dict(scheme.to_dict()) == scheme


def test_labels_of_other_data_sets_are_understood() -> None:
    scheme = Scheme()
    assert scheme.known("event", "dog_bark") == "dog"
    assert scheme.known("gender", "F") == "female"
    assert scheme.known("language", "fr") is None
    assert scheme.known("emotion", None) is None
    assert scheme.known("emotion", "unk") is None


def test_default_aliases_lead_to_labels() -> None:
    scheme = Scheme()
    for alias, label in scheme.aliases.items():
        assert label in scheme.labels(alias.partition(":")[0]), alias


@pytest.mark.parametrize(
    "settings",
    [
        {"event": ["dog"]},
        {"more_order": "text_first"},
        {"events": "dog"},
        {"events": ["dog", "dog"]},
        {"events": ["dog bark"]},
        {"genders": ["unk"]},
        {"order": "backwards"},
        {"tasks": ["translate"]},
        {"tasks": ["gender"]},
        {"events": None},
        {"more_aliases": ["dog"]},
        ["dog"],
    ],
)
def test_a_wrong_scheme_is_one_clear_line(settings: dict[str, object]) -> None:
    with pytest.raises(UserError) as error:
        Scheme.from_dict(settings)
    assert "\n" not in str(error.value)


def test_spelling() -> None:
    assert spell("language", "zh") == "<lang:zh>"
