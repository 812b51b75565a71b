"""Cards have the keys that hubs read, in the values that hubs take, and what a person changed is told apart."""

from __future__ import annotations

import pytest

from operators.page import card


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["CC BY 4.0"], {"license": "cc-by-4.0"}),
        (["https://creativecommons.org/licenses/by-nc-sa/3.0/deed.en"], {"license": "cc-by-nc-sa-3.0"}),
        (["https://creativecommons.org/publicdomain/zero/1.0/", "CC0"], {"license": "cc0-1.0"}),
        (["CC0-1.0", "CC BY 4.0"], {"license": ["cc-by-4.0", "cc0-1.0"]}),
        (["Our own terms"], {"license": "other", "license_name": "our-own-terms"}),
        (["CC BY 4.0", None], {"license": "other"}),
        (["……"], {"license": "other"}),
        ([], {"license": "other"}),
    ],
)
def test_licences_are_spelt_as_the_hub_lists_them(names: list[str | None], keys: dict[str, object]) -> None:
    assert card.licence(names) == keys


def test_languages_are_codes_of_iso_639() -> None:
    assert card.languages(["zh", "en", "yue", "minnan", "sichuan", "klingon"]) == ["en", "nan", "yue", "zh"]


def test_a_card_is_known_again_until_somebody_changes_it() -> None:
    text = card.card({"license": "mit"}, "# Name", card.table(["a", "b"], [["x|y", "1"]], 1))
    assert text.startswith("---\nlicense: mit\n---\n\n# Name\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n")
    assert card.is_own(text)
    assert not card.is_own(text.replace("Name", "Another"))
    assert not card.is_own("# A card that a person wrote\n")
