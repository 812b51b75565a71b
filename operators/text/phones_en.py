"""English spelling -> CMU phones: the CMU dictionary first, then what a reader would try on a word it lacks.

    word ──dictionary──> phones                                     color, colour, their/there
         ──ending (-s -ed -ing ...) of a known word──> phones       podcasters, livestreamed
         ──two known words──> phones                                smartwatch, sunroom
         ──no vowel letter──> names of the letters                  nlp, dvds
         ──letter-to-sound rules──> phones                          qwenlin

Phones carry no stress: no pair of recognisers disagrees in stress alone, and the copy of the dictionary in the
`pocketsphinx` wheel (BSD licence; its code is not run here) has none. The first of several pronunciations
is taken, so a word sounds the same wherever it stands. The rules only need to bring two spellings of one name close: a
short ordered list in the manner of Elovitz et al., "Letter-to-sound rules for automatic translation of English text to
phonetics" (1976). On 4,000 words held out of the dictionary the rules alone give 18.5 % wrong phones, endings and
compounds first 13.8 %; tests/operators/text/test_phones.py keeps that true.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from operators.errors import UserError

Phones = tuple[str, ...]

LETTER_NAMES: dict[str, str] = {
    "a": "EY", "b": "B IY", "c": "S IY", "d": "D IY", "e": "IY", "f": "EH F", "g": "JH IY", "h": "EY CH",
    "i": "AY", "j": "JH EY", "k": "K EY", "l": "EH L", "m": "EH M", "n": "EH N", "o": "OW", "p": "P IY",
    "q": "K Y UW", "r": "AA R", "s": "EH S", "t": "T IY", "u": "Y UW", "v": "V IY", "w": "D AH B AH L Y UW",
    "x": "EH K S", "y": "W AY", "z": "Z IY",
}  # fmt: skip

_C = "[bcdfghjklmnpqrstvwxz]"
_END = "(?![a-z])"
_START = "(?<![a-z])"
_MAGIC_E = f"(?={_C}e(?:s|d|r|rs|ly|ment|less|ness)?{_END})"  # one consonant, then a final e: the vowel says its name

# Ordered: the first rule that fits at a position wins. Pattern (lower-case spelling, with context) -> phones, "" is
# silent. Every letter ends in a rule without context, so no letter is lost. Rules that gained under 0.04 points were
# left out.
_RULES: tuple[tuple[str, str], ...] = (
    (f"a{_END}", "AH"), ("ai|ay", "EY"), ("au|aw", "AO"), ("arr", "AE R"), ("ar", "AA R"), (f"able{_END}", "AH B AH L"),
    (f"al{_END}", "AH L"), (f"an{_END}", "AH N"), ("aa", "AA"), ("ae", "IY"), ("a(?=tion|cious|tious)", "EY"),
    (f"a{_MAGIC_E}", "EY"), (f"a(?={_C}[aeiouy])", "AH"), ("a", "AE"),
    ("bb?", "B"),
    ("tch|ch", "CH"), ("cc", "K"), ("c(?=[iey])", "S"), ("c(?=k|q)", ""), ("c", "K"),
    ("dg(?=[eiy])", "JH"), ("dd?", "D"),
    (f"(?<=[td])ed{_END}", "IH D"), (f"(?<=[pkfcs])ed{_END}", "T"), (f"ed{_END}", "D"),
    (f"(?:(?<=[szxgc])|(?<=[cs]h))es{_END}", "IH Z"), (f"(?<=[aeiouy]{_C})es{_END}", "Z"),
    (f"(?<={_C})(?:le|el){_END}", "AH L"),
    ("ea(?=d|th)", "EH"), ("eau", "OW"), ("ea|ee", "IY"), (f"ey{_END}", "IY"), ("ei|ey", "AY"), ("eu|ew", "UW"),
    ("er", "ER"),
    (f"e(?=s{_END})", ""), (f"(?<={_C})e{_END}", ""), (f"e{_MAGIC_E}", "IY"),
    (f"(?<=[a-z])e(?=[nmlt]{_END}|nt|nce)", "AH"), ("e", "EH"),
    ("ff?", "F"),
    ("gh", ""), ("gg", "G"), ("gu(?=[eiy])", "G"), ("g(?=[eiy])", "JH"), ("g", "G"),
    ("(?<=[aeiou])h(?![aeiouy])", ""), ("h", "HH"),
    (f"i{_END}", "IY"), (f"ive{_END}", "IH V"), (f"(?:ies|ied){_END}", "IY Z"), (f"ie(?={_END}|ld|f|v)", "IY"),
    ("ir(?![aeiou])", "ER"), ("ia", "IY AH"), (f"i{_MAGIC_E}", "AY"), (f"i(?=(?:nd|ld){_END}|gh)", "AY"),
    ("i(?=[ou])", "IY"),
    ("i", "IH"),
    ("j", "JH"),
    (f"{_START}k(?=n)", ""), ("kk?", "K"),
    ("ll?", "L"),
    (f"{_START}mc", "M AH K"), ("mm?", "M"),
    (f"ng(?=s?{_END}|{_C})", "NG"), ("n(?=k|q|x|c[^ehiy])", "NG"), ("nn?", "N"),
    (f"o{_END}", "OW"), (f"(?<=[a-z])or{_END}", "ER"), ("or", "AO R"), (f"(?<=[a-z])ous{_END}", "AH S"),
    ("oo", "UW"), ("oa|oe", "OW"),
    ("oi|oy", "OY"), ("ou", "AW"), ("ow", "OW"), (f"(?<=[a-z])on{_END}", "AH N"), (f"o(?={_C}[aeiouy])", "OW"),
    ("o", "AA"),
    ("ph", "F"), ("pp?", "P"),
    ("qu", "K W"), ("q", "K"),
    ("rr?", "R"),
    ("sch(?=[lmnrw])", "SH"), ("sh|ssi(?=o)", "SH"), ("ss", "S"), (f"(?<=[bdgmnlrvw])s{_END}", "Z"),
    (f"sm{_END}", "Z AH M"), ("s", "S"),
    ("th", "TH"), ("ti(?=o|a(?!n?g)|en)", "SH"), ("tt?", "T"),
    ("ur", "ER"), (f"(?<=[bcfhmp])u(?={_C}[aeiouy])", "Y UW"), (f"u(?={_C}?[aeiouy])", "UW"), ("u", "AH"),
    ("vv?", "V"),
    ("wh", "W"), (f"{_START}w(?=r)", ""), ("w", "W"),
    ("x", "K S"),
    (f"{_START}y(?=[aeiou])", "Y"), (f"y{_END}", "IY"), ("y", "IH"),
    ("zz?", "Z"),
)  # fmt: skip

_BY_RULE = re.compile("|".join(f"({pattern})" for pattern, _ in _RULES) + "|(.)", re.DOTALL)

_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})
_SIBILANT = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
_ENDINGS: tuple[tuple[str, Phones], ...] = (
    ("ing", ("IH", "NG")), ("ings", ("IH", "NG", "Z")), ("ly", ("L", "IY")), ("er", ("ER",)), ("ers", ("ER", "Z")),
    ("est", ("AH", "S", "T")),
    ("ness", ("N", "AH", "S")), ("less", ("L", "AH", "S")), ("ment", ("M", "AH", "N", "T")),
    ("ful", ("F", "AH", "L")), ("able", ("AH", "B", "AH", "L")),
)  # fmt: skip


@functools.cache
def cmu_dictionary() -> dict[str, Phones]:
    """Return word -> phones of the CMU dictionary (about 126,000 words), first pronunciation only, read once per
    process.

    Raises UserError when the `pocketsphinx` wheel, which carries it, is not installed.
    """
    spec = importlib.util.find_spec("pocketsphinx")  # finds the files without importing the decoder
    file = Path(spec.origin or "").parent / "model" / "en-us" / "cmudict-en-us.dict" if spec else None
    if file is None or not file.is_file():
        raise UserError("the CMU dictionary is missing: install the pocketsphinx wheel (pip install pocketsphinx)")
    words: dict[str, Phones] = {}
    known: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        if "(" not in word:
            words[word] = tuple(known.setdefault(phone, phone) for phone in phones)
    return words


def letter_to_sound(word: str) -> Phones:
    """Return the phones of a lower-case word by rule alone, no dictionary."""
    phones: list[str] = []
    for match in _BY_RULE.finditer(word):
        if match.lastindex is not None and match.lastindex <= len(_RULES):
            phones += _RULES[match.lastindex - 1][1].split()
    return tuple(phones)


def _plural(stem: Phones) -> Phones:
    if stem[-1] in _SIBILANT:
        return (*stem, "IH", "Z")
    return (*stem, "S" if stem[-1] in _VOICELESS else "Z")


def _past(stem: Phones) -> Phones:
    if stem[-1] in ("T", "D"):
        return (*stem, "IH", "D")
    return (*stem, "T" if stem[-1] in _VOICELESS or stem[-1] in ("S", "SH", "CH") else "D")


def _stems(word: str, ending: str) -> list[str]:
    """Spellings that a word may have had before the ending: smart-er, stream-(e)d, pod(d)-ed, tid(y)-ier."""
    stem = word[: -len(ending)]
    spellings = [stem, stem + "e"]
    if len(stem) > 2 and stem[-1] == stem[-2]:
        spellings.append(stem[:-1])
    if stem.endswith("i"):
        spellings.append(stem[:-1] + "y")
    return [spelling for spelling in spellings if len(spelling) > 2]


def _inflected(word: str, words: dict[str, Phones]) -> Phones | None:
    if word.endswith(("'s", "s'")) and word[:-2] in words:
        return _plural(words[word[:-2]])
    if word.endswith("s") and not word.endswith("ss"):
        stems = [word[:-1]]
        if word.endswith("es"):
            stems.append(word[:-2])
        if word.endswith("ies"):
            stems.append(word[:-3] + "y")
        for stem in stems:
            if len(stem) > 2 and stem in words:
                return _plural(words[stem])
    if word.endswith("ed"):
        for stem in _stems(word, "ed"):
            if stem in words:
                return _past(words[stem])
    for ending, phones in _ENDINGS:
        if word.endswith(ending):
            for stem in _stems(word, ending):
                if stem in words:
                    return words[stem] + phones
    return None


def _compound(word: str, words: dict[str, Phones]) -> Phones | None:
    """Two known words written as one, the longer first part first; parts of under three letters are accidents."""
    for cut in range(len(word) - 3, 2, -1):
        first, second = words.get(word[:cut]), words.get(word[cut:])
        if first and second:
            return first + second
    return None


def pronounce(word: str) -> Phones:
    """Return CMU phones (no stress) of one lower-case word of letters a-z and apostrophes; () for the empty word."""
    words = cmu_dictionary()
    if word in words:
        return words[word]
    return guess(word, words)


def guess(word: str, words: dict[str, Phones]) -> Phones:
    """Return the phones of a word that the dictionary lacks."""
    found = _inflected(word, words) or _compound(word, words)
    if found:
        return found
    letters = word.replace("'", "")
    sounds = letter_to_sound(letters) if re.search("[aeiouy]", letters) else ()
    return sounds or tuple(" ".join(LETTER_NAMES[letter] for letter in letters).split())
