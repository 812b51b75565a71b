"""Spoken form of the Latin parts of a transcript: numbers as words, contractions open, one spelling, no fillers.

    text ─write_symbols, write_number─> "five dollars", "march fifth" ─lower case─> respell ─> "can not", "going to",
    "color"
         ─reread_english (operators.text.numbers)─> one reading per number ─strip_fillers─>

Contractions and reduced forms are opened on purpose: "can't", "cannot" and "can not" differ by an engine's house style
far more often than by what was said.
"""

from __future__ import annotations

import re
from functools import lru_cache

from operators.text.numbers import (
    CURRENCY_SIGNS,
    currency_name,
    english_digits,
    english_value,
    ordinal_english,
    reading_english,
)

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = "|".join(_MONTHS)
_PLAIN_MONTH = "|".join(month for month in _MONTHS if month not in ("march", "may"))  # these two are words of their own
_MONTH_SHORT = re.compile(r"\b(jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.?(?=\s\d)", re.I)
_MONTH_DAY = re.compile(rf"\b({_MONTH})\s(\d{{1,2}})(?:st|nd|rd|th)?\b(?![:.]\d)", re.I)
_DAY_MONTH = re.compile(rf"\b(\d{{1,2}})\s(?=(?:{_MONTH})\b)", re.I)
_DAY_WORDS = "|".join(english_value(day) for day in range(31, 0, -1))

_NUMBER = r"\d+(?:\.\d+)?"
_SCALE = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "bn": "billion", "B": "billion"}
_CURRENCY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence"), "¥": ("yuan", "cent")} | {
    sign: (unit, "")  # in hundredths too seldom to say how
    for sign, unit in {
        "₹": "rupee",
        "₱": "peso",
        "₽": "ruble",
        "₪": "shekel",
        "₿": "bitcoin",
        "₺": "lira",
        "฿": "baht",
    }.items()
}
_WITH_PLURAL = frozenset(["dollar", "euro", "pound", "cent", "rupee", "peso", "ruble", "shekel", "bitcoin"])
_MONEY = re.compile(rf"([{CURRENCY_SIGNS}])\s?({_NUMBER})(?:\s?(thousand|million|billion|trillion|bn|[kKmMB])\b)?")
_TIME = re.compile(r"(?<![\d:])(\d{1,2}):([0-5]\d)(?![\d:])")
_PHONE = re.compile(r"(?<![\d-])(?:(?:\+?1[ -]?)?\(\d{3}\)[ -]?|(?:\+?1[ -])?\d{3}-)?\d{3}-\d{4}(?![\d-])")
# A 4K screen, a 5k and a 401k are said as they are written.
_THOUSANDS = re.compile(r"(?<![\w.,])(?!401k)(\d{2,3}|\d{1,3}\.\d+)k\b(\s?[–—~-]\s?(?=\d))?", re.I)
_WITH_FRACTION = re.compile(r"(?<![\d/.])(\d{1,3})[ -](\d{1,2})/(\d{1,2})(?![\d/])")
_FRACTION = re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})(?![\d/])")
_POWER = re.compile(r"\^(-?)(\d{1,4})(?!\d)")
_UNITS = {
    "km/h": "kilometers per hour",
    "km2": "square kilometers",
    "cm2": "square centimeters",
    "m2": "square meters",
    "m3": "cubic meters",
    "ft2": "square feet",
    "mph": "miles per hour",
    "km": "kilometers",
    "kg": "kilograms",
    "cm": "centimeters",
    "mm": "millimeters",
    "ml": "milliliters",
    "mg": "milligrams",
    "lbs": "pounds",
    "lb": "pounds",
    "oz": "ounces",
    "ft": "feet",
    "°F": "degrees fahrenheit",
    "°C": "degrees celsius",
    "°": "degrees",
    "¢": "cents",
}
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(map(re.escape, _UNITS))})(?![A-Za-z])")
_ORDINAL = re.compile(r"(?<!\w)(\d+)(st|nd|rd|th)\b", re.I)
_DECADE = re.compile(r"(?<![\w.])'?((?:1[1-9]|20)?)(\d0)'?s\b")
_RANGE = re.compile(r"(?<![\d.])(\d{1,12})\s?[–—~-]\s?(\d{1,12})(?![\d.])")
_ROMAN_VALUE = {"ii": 2, "iii": 3, "iv": 4, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "xi": 11, "xii": 12}
_ROMAN = re.compile(
    r"(?:(?<=\bwar )|(?<=\bpart )|(?<=\bchapter )|(?<=\bvolume )|(?<=\bphase )|(?<=\btype "
    rf"))(?:{'|'.join(_ROMAN_VALUE)})\b"
)
_ONE_ITEM = re.compile(r"\b(dollar|euro|pound)s(?=[ -](?:bill|note|coin|ticket|fine|prize)s?\b)")
_HALVES = {2: "half", 4: "quarter"}

# What a word is scored as: contractions and reduced forms open, abbreviations spoken, one spelling.
_WORDS = {
    "mins": "minutes",
    "secs": "seconds",
    "hrs": "hours",
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "prof": "professor",
    "vs": "versus",
    "etc": "et cetera",
    "ok": "okay",
    "jr": "junior",
    "sr": "senior",
    "mt": "mount",
    "sgt": "sergeant",
    "capt": "captain",
    "lt": "lieutenant",
    "can't": "can not",
    "cannot": "can not",
    "cant": "can not",
    "won't": "will not",
    "wont": "will not",
    "shan't": "shall not",
    "dont": "do not",
    "doesnt": "does not",
    "didnt": "did not",
    "isnt": "is not",
    "arent": "are not",
    "wasnt": "was not",
    "werent": "were not",
    "havent": "have not",
    "hasnt": "has not",
    "hadnt": "had not",
    "couldnt": "could not",
    "wouldnt": "would not",
    "shouldnt": "should not",
    "im": "i am",
    "ive": "i have",
    "youre": "you are",
    "youve": "you have",
    "theyre": "they are",
    "weve": "we have",
    "thats": "that is",
    "whats": "what is",
    "theres": "there is",
    "let's": "let us",
    "gonna": "going to",
    "wanna": "want to",
    "gotta": "got to",
    "kinda": "kind of",
    "sorta": "sort of",
    "gimme": "give me",
    "lemme": "let me",
    "dunno": "do not know",
    "outta": "out of",
    "hafta": "have to",
    "coulda": "could have",
    "shoulda": "should have",
    "woulda": "would have",
    "y'all": "you all",
    "ma'am": "madam",
    "maam": "madam",
    "'em": "them",
    "'cause": "because",
    "cuz": "because",
    "'til": "until",
    "till": "until",
    "c'mon": "come on",
    "alright": "all right",
    "o'clock": "",
    "oclock": "",
    "thru": "through",
    "learnt": "learned",
    "whilst": "while",
    "amongst": "among",
    "towards": "toward",
    "mum": "mom",
    "mums": "moms",
    "grey": "gray",
    "ageing": "aging",
    "storey": "story",
    "storeys": "stories",
    "fourty": "forty",
    "enrol": "enroll",
    "fulfil": "fulfill",
}

# British to American: a word that begins with the first is spelt with the second, whatever its ending.
_STEMS = {
    "colour": "color",
    "favour": "favor",
    "flavour": "flavor",
    "honour": "honor",
    "labour": "labor",
    "neighbour": "neighbor",
    "behaviour": "behavior",
    "harbour": "harbor",
    "humour": "humor",
    "rumour": "rumor",
    "organis": "organiz",
    "realis": "realiz",
    "recognis": "recogniz",
    "apologis": "apologiz",
    "criticis": "criticiz",
    "specialis": "specializ",
    "civilis": "civiliz",
    "travell": "travel",
    "cancelled": "canceled",
    "cancelling": "canceling",
    "modell": "model",
    "labell": "label",
    "centre": "center",
    "theatre": "theater",
    "metre": "meter",
    "kilometre": "kilometer",
    "centimetre": "centimeter",
    "litre": "liter",
    "defence": "defense",
    "offence": "offense",
    "licence": "license",
    "catalogue": "catalog",
    "dialogue": "dialog",
    "programme": "program",
    "plough": "plow",
    "mould": "mold",
    "jewellery": "jewelry",
    "aluminium": "aluminum",
    "skilful": "skillful",
    "moustache": "mustache",
    "pyjama": "pajama",
    "cosy": "cozy",
    "judgement": "judgment",
    "acknowledgement": "acknowledgment",
    "sceptic": "skeptic",
}
_UNCHANGED_STEMS = ("realist", "realism", "criticism", "specialist", "organism", "organist", "programmer", "programmed")
_STEM = re.compile("|".join(_STEMS))
_CLITICS = {"n't": " not", "'re": " are", "'ve": " have", "'ll": " will", "'m": " am", "'d": " would"}
_WITH_IS = frozenset(["it", "he", "she", "that", "what", "there", "here", "where", "who", "how", "this", "when", "why"])

_WORD = re.compile(r"(?<![\w'])'?[a-z]+(?:'[a-z]+)*(?![\w])")
_FILLER = re.compile(r"u+h+|u+m+|e+r+m?|u+hm|h+m+|m{2,}|a+h+")
_PHRASES = (
    (re.compile(r"\bper cent\b"), "percent"),
    (re.compile(r"\b(dollars?|pounds?|euros?) and (?=[a-z]+(?: [a-z]+)? (?:cents?|pence)\b)"), r"\1 "),
    (re.compile(r"\bnegative (?=(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)\b)"), "minus "),
    (re.compile(r"\be[- ](mail|book|commerce)(?=s?\b)"), r"e\1"),
    (re.compile(r"\bwi[- ]fi\b"), "wifi"),
    (re.compile(r"\b(web|health|good)[- ](site|care|bye)(?=s?\b)"), r"\1\2"),
    (re.compile(r"\b([ap]) m\b(?! i\b)"), r"\1m"),
    (re.compile(rf"\b({_PLAIN_MONTH}) ({_DAY_WORDS})\b(?! hundred| thousand)"), None),
)
_WORTH_PHRASES = re.compile(rf"per cent|cent|pence|negative|\be[- ]|wi[- ]|web|health|good|[ap] m\b|{_MONTH}")
_DOTTED = re.compile(r"\b(?:[a-z]\.){2,}(?:[a-z]\b)?")


def write_symbols(text: str) -> str:
    """Symbols around Arabic digits to English: $5.50 -> 5 dollars 50 cents, 3:05 pm -> 3 oh 5 pm, March 5 -> March
    fifth.
    """
    if "-" in text:
        text = _PHONE.sub(lambda match: f" {english_digits(re.sub(r'[^0-9]', '', match.group()))} ", text)
    text = _ONE_ITEM.sub(r"\1", _MONEY.sub(_money, text))
    text = _THOUSANDS.sub(lambda match: f"{match[1]} thousand{' to ' if match[2] else ''}", text)
    if "^" in text:
        text = _POWER.sub(_power, text)
    text = _TIME.sub(_clock, text)
    text = _MONTH_SHORT.sub(lambda match: next(m for m in _MONTHS if m.startswith(match[1].lower()[:3])), text)
    text = _MONTH_DAY.sub(lambda match: f"{match[1]} {ordinal_english(int(match[2]))}", text)
    text = _DAY_MONTH.sub(lambda match: f"{ordinal_english(int(match[1]))} ", text)
    text = _UNIT.sub(lambda match: f" {_UNITS[match[1]]} ", text)
    if "/" in text:
        text = _FRACTION.sub(_fraction, _WITH_FRACTION.sub(_with_fraction, text))
    text = _ORDINAL.sub(lambda match: ordinal_english(int(match[1])) if len(match[1]) < 13 else match.group(), text)
    text = _DECADE.sub(_decade, text)
    text = re.sub(r"(?<=\d)\s?%", " percent", text)
    text = re.sub(r"(?:#|\bno\.\s?|\bNo\.\s?)(?=\d)", "number ", text)
    text = _RANGE.sub(_range, text)
    text = re.sub(rf"(^|[\s(])-(?={_NUMBER})", r"\1minus ", text)
    for symbol, word in (("+", "plus"), ("×", "times"), ("÷", "divided by"), ("=", "equals")):
        if symbol in text:
            text = re.sub(rf"(?<=\d)\s?{re.escape(symbol)}\s?(?=\d)", f" {word} ", text)
    return text


def _range(match: re.Match[str]) -> str:
    """10-15 is a range and says "to"; 3-2 is a score and does not."""
    first, second = match.groups()
    return f"{first} to {second}" if int(first) < int(second) else f"{first} {second}"


def _money(match: re.Match[str]) -> str:
    sign, amount, scale = match.groups()
    unit, hundredth = _CURRENCY.get(sign) or (currency_name(sign), "")
    if scale:
        return f"{amount} {_SCALE.get(scale, scale)} {_plural(unit)} "
    whole, _, cents = amount.partition(".")
    words = "" if cents and not int(whole) else f"{whole} {_plural(unit, whole)}"
    if cents and int(cents):
        if len(cents) > 2 or not hundredth:
            return f"{amount} {_plural(unit)}"
        cents = str(int(cents.ljust(2, "0")))
        words += f" {cents} {hundredth if hundredth == 'pence' else _plural(hundredth, cents)}"
    return words


def _plural(unit: str, amount: str = "") -> str:
    return unit + "s" if unit in _WITH_PLURAL and (not amount or int(amount) != 1) else unit


def _clock(match: re.Match[str]) -> str:
    minute = int(match[2])
    return str(int(match[1])) + (f" oh {minute}" if 0 < minute < 10 else f" {minute}" if minute else "")


def _fraction(match: re.Match[str]) -> str:
    above, below = int(match[1]), int(match[2])
    if not 0 < above < below <= 10:
        return f"{above} {below}"
    part = _HALVES.get(below) or ordinal_english(below)
    return f"{english_value(above)} {part}{'s' if above > 1 else ''}"


def _with_fraction(match: re.Match[str]) -> str:
    whole, above, below = match.groups()
    return f"{whole} and {above}/{below}" if 0 < int(above) < int(below) <= 10 else match.group()


def _power(match: re.Match[str]) -> str:
    minus, exponent = match.groups()
    if not minus and exponent in ("2", "3"):
        return " squared " if exponent == "2" else " cubed "
    return f" to the power of {'minus ' if minus else ''}{exponent}"


def _decade(match: re.Match[str]) -> str:
    century, decade = match[1], int(match[2])
    if century and decade == 0:
        return f"{english_value(int(century))} hundreds" if century != "20" else "two thousands"
    if decade < 20:
        return match.group()
    return f"{english_value(int(century)) if century else ''} {english_value(decade)[:-1]}ies"


def write_number(whole: str, fraction: str | None) -> str:
    """One Arabic number in English words, a space on either side: "15" -> " fifteen ", "3.5" -> " three point five
    ".
    """
    words = reading_english(whole.lstrip("0") or "0" if fraction is not None else whole)
    return f" {words} point {english_digits(fraction)} " if fraction is not None else f" {words} "


def write_romans(text: str) -> str:
    """A Roman numeral behind a word that numbers things, in lower-case text: "world war ii" -> "world war two"."""
    return _ROMAN.sub(lambda match: english_value(_ROMAN_VALUE[match.group()]), text)


def respell(text: str, *, contractions: bool, fillers: bool) -> str:
    """Lower-case text with contractions open, abbreviations spoken, British spellings turned American, no um or uh."""
    if "." in text:
        text = _DOTTED.sub(lambda match: match.group().replace(".", ""), text)
    if fillers:
        text = _WORD.sub(lambda match: "" if _is_filler(match.group()) else match.group(), text)
    if contractions:
        text = _WORD.sub(lambda match: _scored_as(match.group()), text)
        if _WORTH_PHRASES.search(text):
            for pattern, words in _PHRASES:
                text = pattern.sub(words or _ordinal_day, text)
    return text


@lru_cache(maxsize=1 << 16)
def _is_filler(word: str) -> bool:
    """um, uh, er, hmm, ah; "oh", "yeah" and "mhm" are words and stay."""
    return _FILLER.fullmatch(word) is not None


@lru_cache(maxsize=1 << 16)
def _scored_as(word: str) -> str:
    """One word as it is scored: "can't" -> "can not", "colours" -> "colors", "they'll" -> "they will"."""
    if word in _WORDS:
        return _WORDS[word]
    stem = _STEM.match(word)
    if stem is not None and not word.startswith(_UNCHANGED_STEMS):
        return _STEMS[stem.group()] + word[stem.end() :]
    if "'" in word:
        head, clitic = (
            (word[:-3], "n't") if word.endswith("n't") else (word[: word.rindex("'")], word[word.rindex("'") :])
        )
        if head and clitic in _CLITICS:
            return _scored_as(head) + _CLITICS[clitic]
        if clitic == "'s" and head in _WITH_IS:
            return f"{head} is"
    return word


_ORDINAL_DAYS = {english_value(day): ordinal_english(day) for day in range(1, 32)}


def _ordinal_day(match: re.Match[str]) -> str:
    return f"{match[1]} {_ORDINAL_DAYS[match[2]]}"
