"""The split that a published set gives to an utterance: its column `split`, in the words that sets use.

"test", "Test-clean", "validation" ──known_split──> one of SPLITS        "tset" ──split_of──> UserError
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from operators.errors import UserError
from operators.split import SPLITS

_CALLED = {
    "train": "train training",
    "dev": "dev devel development val valid validation cv",
    "test": "test testing eval evaluation",
}
_SPLIT_OF = {word: split for split, words in _CALLED.items() for word in words.split()}
assert tuple(_CALLED) == SPLITS
_WORD = re.compile(r"[a-z]+")


def known_split(value: Any) -> str | None:
    """Return the split that a value means, by its first word (test-clean); None where that is none."""
    word = _WORD.match(str(value).strip().lower())
    return _SPLIT_OF.get(word[0]) if word else None


def split_of(record: Mapping[str, Any], where: str) -> str | None:
    """Return the split that a row of the manifest `where` names, None where it names none. Raises UserError when it is
    an unknown one.
    """
    value = record.get("split")
    if value is None or str(value).strip() == "":
        return None
    found = known_split(value)
    if found is None:
        raise UserError(f"{where}: the split {str(value)[:40]!r} is not known: write train, dev or test")
    return found
