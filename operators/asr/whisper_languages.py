"""The languages of Whisper: their codes, other names for them, and what is prompted as what."""

from __future__ import annotations

_LANGUAGES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy "
    "id is it ja jw "
    "ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl "
    "sn so sq sr su "
    "sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
)
LANGUAGES = frozenset(_LANGUAGES.split())
"""What Whisper can identify."""

NEAREST_LANGUAGE = {"cmn": "zh", "zh-yue": "yue", "zh-hk": "yue", "zh-mo": "yue"}
"""Other names of languages that Whisper has."""

PROMPTED_AS = {"yue": "zh", "wuu": "zh", "nan": "zh", "hak": "zh", "sichuan": "zh", "minnan": "zh"}
"""Languages prompted as another where the model has no token of their own (yue came with large-v3)."""


def canonical_language(code: str) -> str:
    """A language code as Whisper writes it: lower case, no region (zh-CN: zh), but zh-HK is yue."""
    code = code.strip().lower().replace("_", "-")
    return NEAREST_LANGUAGE.get(code) or NEAREST_LANGUAGE.get(code.partition("-")[0]) or code.partition("-")[0]
