"""The spoken form of English: every number, sign and abbreviation as a speaker says it, and nothing else changed.

    text ─addresses─> dot, at, slash ─chains of digits─> one by one ─money, times, dates, units, signs─> words
         ─numbers─> the reading that the other engine spelt out, else the usual one ─abbreviations, Roman numerals─>

Where one sign has several readings ($4.99, 4 July, 3-1, 105, St.) the other engine's words say which one it was.
Nothing is dropped or unified here: "can't", "um" and "grey" stay (operators.text.folded unifies them, to compare).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

from operators.text.numbers_en import english_digits, english_value, ordinal_english, readings_english
from operators.text.scripts import CURRENCY_SIGNS, EVERY_CURRENCY_SIGN, table

Rule = tuple[re.Pattern[str], "Callable[[re.Match[str], str], str]"]

MONTHS = [
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
_MONTH = "|".join(MONTHS)
_SHORT_MONTH = "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
_NUMBER = r"\d+(?:\.\d+)?"
_SCALE = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "bn": "billion", "B": "billion"}
_SCALE |= {"b": "billion", "tn": "trillion", "T": "trillion"}
_CURRENCY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence"), "¥": ("yuan", "cent")} | {
    sign: (unit, "")  # in hundredths too seldom to say how
    for sign, unit in {
        "₹": "rupee", "₱": "peso", "₽": "ruble", "₪": "shekel", "₿": "bitcoin", "₺": "lira", "฿": "baht",
    }.items()
}  # fmt: skip
SIGN_LAST = re.compile(
    rf"(?<![\d.{CURRENCY_SIGNS}])(?<![{CURRENCY_SIGNS}] )(\d+(?:[.,]\d+)*"
    rf"(?:\s?(?:(?:thousand|million|billion|trillion|bn|[kKmMB])\b|[万亿]+))?)\s?([{CURRENCY_SIGNS}])(?!\s?[\d.]\d?)"
)
"""An amount whose currency stands behind it: 20 €."""
GROUPED = re.compile(r"(?<![\d,])(?<!\d\.)\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_WITH_PLURAL = frozenset(["dollar", "euro", "pound", "cent", "rupee", "peso", "ruble", "shekel", "bitcoin"])
_ROMAN_CUES = "war|part|chapter|volume|phase|type|act|scene|book|title|class|grade|level|stage|section|article|appendix"
_REIGNS = (
    "king|queen|pope|emperor|tsar|czar|henry|elizabeth|louis|charles|edward|george|william|james|richard|paul|benedict"
    "|napoleon|philip|catherine|peter|nicholas|alexander|frederick|leo|pius|mary|gregory|innocent|clement|urban|ramses"
)
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def beside_form(text: str) -> str:
    """Return what the other engine wrote as words between single blanks, for looking up a reading in it."""
    words = re.sub(r"[^\w']|_", " ", text.lower().replace("’", "'")).split()
    return f" {' '.join(words)} "


def _choose(candidates: Iterable[str], beside: str) -> str:
    """The first reading that the other engine spelt out, else the first of all."""
    readings = list(candidates)
    return next((words for words in readings if f" {words} " in beside), readings[0])


def currency_name(sign: str) -> str:
    """Return the English name of a sign that has no word in our tables: ₲ -> guarani. A sign is said: it stays."""
    return unicodedata.name(sign, "currency").lower().removesuffix(" sign")


# Rules: each takes a match and the other engine's words, and answers with words and Arabic numbers still to be read.


def _address(match: re.Match[str], beside: str) -> str:
    spelt = match.group().rstrip("./")
    for sign, word in (
        ("@", "at"),
        (".", "dot"),
        ("_", "underscore"),
        ("/", "slash"),
        ("-", "dash" if " dash " in beside else ""),
    ):
        spelt = spelt.replace(sign, f" {word} ")
    return f" {spelt.replace('://', ' ').replace(':', ' ')} "


def _chain(match: re.Match[str], beside: str) -> str:
    return f" {_digit_words(re.sub('[^0-9]', '', match.group()), beside)} "


def _digit_words(digits: str, beside: str) -> str:
    spelt = english_digits(digits)
    return spelt.replace("zero", "oh") if f" {spelt.replace('zero', 'oh')} " in beside else spelt


def _by_value(text: str, beside: str) -> str:
    """What the other engine wrote, and every grouped number by value: 12,345 is never said digit by digit."""
    for match in GROUPED.finditer(text):
        digits = match.group().replace(",", "")
        if not any(f" {words} " in beside for words in readings_english(digits)):
            beside = f"{beside or ' '}{english_value(int(digits))} "
    return beside


def _ratio(match: re.Match[str], beside: str) -> str:
    first, second = (english_value(int(number[:15])) for number in match.groups())
    return f"{match[1]} {match[2]}" if f" {first} {second} " in beside else f"{match[1]} to {match[2]}"


def _height(match: re.Match[str], beside: str) -> str:
    feet, inches = (english_value(int(number)) for number in match.groups())
    return f" {_choose([f'{feet} foot {inches}', f'{feet} {inches}', f'{feet} feet {inches} inches'], beside)} "


def _iso_date(match: re.Match[str], beside: str) -> str:
    year, month, day = match.groups()
    return f" {MONTHS[int(month) - 1]} {ordinal_english(int(day))} {year} "


def _money(match: re.Match[str], beside: str) -> str:
    minus, sign, amount, scale = match.groups()
    unit, hundredth = _CURRENCY.get(sign) or (currency_name(sign), "")
    if f" {unit} " in beside and f" {unit}s " not in beside:
        return f"{'minus ' if minus else ''}{amount} {_SCALE.get(scale, scale.lower()) + ' ' if scale else ''}{unit} "
    minus = " minus " if minus else ""
    if scale:
        return f"{minus}{amount} {_SCALE.get(scale, scale.lower())} {_plural(unit)} "
    whole, _, cents = amount.partition(".")
    if len(cents) == 2 and int(cents) and f" {unit}" not in beside:
        bare = f"{english_value(int(whole))} {english_value(int(cents))}"
        if f" {bare} " in beside:
            return f"{minus}{bare} "  # four ninety nine
    if not cents or not int(cents):
        return f"{minus}{whole} {_plural(unit, whole)}"
    if len(cents) > 2 or not hundredth:
        return f"{minus}{amount} {_plural(unit)}"
    cents = str(int(cents.ljust(2, "0")))
    small = f"{cents} {hundredth if hundredth == 'pence' else _plural(hundredth, cents)}"
    if not int(whole):
        return f"{minus}{small}"
    large = f"{whole} {_plural(unit, whole)}"
    spelt = f" {_plural(unit, whole)} {english_value(int(cents))} "
    if spelt in beside:
        return f"{minus}{large} {small if f'{spelt}{small.split()[1]} ' in beside else cents} "
    return f"{minus}{large} and {small}"


def _plural(unit: str, amount: str = "") -> str:
    return unit + "s" if unit in _WITH_PLURAL and (not amount or int(amount) != 1) else unit


def _clock(match: re.Match[str], beside: str) -> str:
    hour, minute, second = int(match[1]), int(match[2]), match[3]
    if not second and hour > 0 and f" {english_value(hour)} to {english_value(minute)} " in beside:
        return f" {hour} to {minute} "  # a score, a ratio
    words = str(hour) + (f" oh {minute}" if 0 < minute < 10 else f" {minute}" if minute else "")
    if second:
        return f"{words} {'oh ' if int(second) < 10 else ''}{int(second)}"
    # 20:30 is eight thirty, and 8:30 half past eight, where the other engine has it.
    heard = (one for at in ((hour, hour - 12) if hour > 12 else (hour,)) for one in _clock_readings(at, minute))
    return next((f" {one} " for one in heard if f" {one} " in beside), words)


def _clock_readings(hour: int, minute: int) -> list[str]:
    spelt, following = english_value(hour), english_value(hour % 12 + 1)
    if not minute:
        return [f"{spelt} o'clock", f"{spelt} pm", f"{spelt} p m"] if hour else []
    readings = [f"{spelt} oh {english_value(minute)}" if minute < 10 else f"{spelt} {english_value(minute)}"]
    for quarter in ("a quarter", "quarter"):
        readings += {15: [f"{quarter} past {spelt}"], 45: [f"{quarter} to {following}"]}.get(minute, [])
    return readings + ([f"half past {spelt}"] if minute == 30 else [])


def _day_first(match: re.Match[str], beside: str) -> str:
    day, month = ordinal_english(int(match["day"])), _month(match["month"])
    the = match["the"] or ("" if match["of"] else "the ")
    readings = [f"{the}{day} of {month}", f"{month} {day}", f"{day} of {month}", f"{day} {month}"]
    return f" {_choose(readings, beside)} "


def _month_first(match: re.Match[str], beside: str) -> str:
    month, day = _month(match["month"]), int(match["day"])
    ordinal = ordinal_english(day)
    readings = [f"{month} {ordinal}", f"{month} the {ordinal}", f"the {ordinal} of {month}", f"{ordinal} of {month}"]
    return f" {_choose([*readings, f'{month} {english_value(day)}'], beside)} "


def _month(name: str) -> str:
    return next(month for month in MONTHS if month.startswith(name.lower()[:3]))


def _thousands(match: re.Match[str], beside: str) -> str:
    spelt = f"{english_value(int(float(match[1])))} k "
    return f"{match[1]} {'k' if f' {spelt}' in beside else 'thousand'}{' to ' if match[2] else ''}"


@lru_cache(maxsize=1)
def _units() -> dict[str, tuple[str, ...]]:
    return {row[0]: tuple(words.replace("_", " ") for words in row[1:]) for row in table("units_en.txt")}


def _unit(match: re.Match[str], beside: str) -> str:
    sign = match[1]
    units = _units()
    one, many, *others = units.get(sign) or units.get(sign.lower()) or (sign, sign)
    if f" {one} " not in beside and f" {many} " not in beside:
        for words in others:
            if f" {words} " in beside:
                return f" {words} "
    # A 12 oz can is a twelve ounce can; how many there are says the rest.
    before = re.search(r"[\d.]+$", match.string[: match.start()])
    single = (before is not None and before.group() == "1") or (f" {one} " in beside and f" {many} " not in beside)
    return f" {one if single else many} "


def _fraction(match: re.Match[str], beside: str) -> str:
    whole, above, below = match[1], int(match[2]), int(match[3])
    if not 0 < above < below <= 10:
        return f"{whole + ' ' if whole else ''}{above} {'slash ' if ' slash ' in beside else ''}{below}"
    part = {2: "half", 4: "quarter"}.get(below) or ordinal_english(below)
    single = "an" if below == 8 else "a"
    if above > 1:
        return f"{whole + ' and ' if whole else ''}{english_value(above)} {part}s"
    readings = [f"{single} {part}", f"one {part}"] if whole else [f"one {part}", f"{single} {part}", part]
    return f"{whole + ' and ' if whole else ''}{_choose(readings, beside)}"


def _power(match: re.Match[str], beside: str) -> str:
    minus, exponent = match.groups()
    if not minus and exponent in ("2", "3"):
        return " squared " if exponent == "2" else " cubed "
    value = int(exponent)
    readings = [f"to the power of {english_value(value)}", f"to the {ordinal_english(value)}", f"to the {exponent}"]
    return f" to the power of minus {exponent}" if minus else f" {_choose(readings, beside)} "


def _decade(match: re.Match[str], beside: str) -> str:
    century, decade = match[1], int(match[2])
    if century and decade == 0:
        return f"{english_value(int(century))} hundreds" if century != "20" else "two thousands"
    if decade < 20:
        return match.group()
    return f"{english_value(int(century)) if century else ''} {english_value(decade)[:-1]}ies"


def _range(match: re.Match[str], beside: str) -> str:
    """10-15 is a range and says "to"; 3-2 is a score and does not, unless the other engine heard it."""
    first, second = match.groups()
    spelt = [f" {english_value(int(number[:12]))} " for number in (first, second)]
    for word in ("to", "or", "through", "minus", "dash"):
        if f"{spelt[0]}{word}{spelt[1]}" in beside:
            return f"{first} {word} {second}"
    return (
        f"{first} {second}"
        if int(first) >= int(second) or "".join(spelt).replace("  ", " ") in beside
        else (f"{first} to {second}")
    )


def _version(match: re.Match[str], beside: str) -> str:
    word = "dot" if " dot " in beside else "point"
    return f" {f' {word} '.join(match.group().split('.'))} "


def _ordinal(match: re.Match[str], beside: str) -> str:
    if len(match[1]) > 12:
        return match.group()
    words = ordinal_english(int(match[1]))
    return f" {_choose([words, words.removeprefix('one ')], beside)} "


def _roman(match: re.Match[str], beside: str) -> str:
    cue, numeral = match[1], match[2]
    value = _roman_value(numeral)
    cued = re.search(rf"\b(?:{_ROMAN_CUES}|{_REIGNS}) $", cue, re.I) is not None
    if not value or (len(numeral) == 1 and not cued):
        return match.group()
    if numeral == "I" and re.search(rf"\b(?:{_REIGNS}) $", cue, re.I) and " the first " not in beside:
        return match.group()  # "Henry, I said": a king only where the other engine heard one
    ordinal = f"the {ordinal_english(value)}"
    if len(numeral) == 1 and f" {ordinal} " not in beside and numeral not in "VX":
        return match.group() if not cued else cue + english_value(value)
    reign = re.search(rf"\b(?:{_REIGNS}) $", cue, re.I) is not None
    return cue + _choose([ordinal, english_value(value)] if reign else [english_value(value), ordinal], beside)


def _roman_value(numeral: str) -> int:
    """0 for letters that are no Roman numeral, or that are seldom one (XL is a size, CC a copy)."""
    if numeral in ("XL", "XX", "XXL", "CC", "LL", "LX", "CV", "CI", "CL", "LI", "C", "L", "XC", "IC"):
        return 0
    if not re.fullmatch("C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})", numeral):
        return 0
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    return sum(-one if one < following else one for one, following in zip(values, [*values[1:], 0], strict=True))


def _words(first: str, second: str = "") -> Callable[[re.Match[str], str], str]:
    """A rule that writes words for a sign: the second reading where the other engine has that one."""
    return lambda match, beside: f" {second if second and f' {second} ' in beside else first} "


def _number(match: re.Match[str], beside: str) -> str:
    whole, fraction = match[1], match[2]
    if fraction is None:
        return f" {_choose(readings_english(whole), beside)} "
    words = readings_english(whole.lstrip("0") or "0")
    if fraction == "5":
        for first in words:
            if f" {first} and a half " in beside:
                return f" {first} and a half "
    plain = english_digits(fraction)
    for last in (plain, plain.replace("zero", "oh"), *([english_value(int(fraction))] if fraction[0] != "0" else [])):
        for first in (*words, ""):
            for point in ("point", "dot"):
                if first and f" {first} {point} {last} " in beside:
                    return f" {first} {point} {last} "
    return f" {words[0]} point {plain} "


_SIGNS = {
    "±": ("plus or minus",), "≥": ("greater than or equal to", "at least"), "≤": ("less than or equal to", "at most"),
    "≈": ("approximately", "about"), "≠": ("is not equal to",), "×": ("times", "by"), "÷": ("divided by",),
    "√": ("the square root of",), "∞": ("infinity",), "§": ("section",), "%": ("percent",), "°": ("degrees",),
}  # fmt: skip
_TLD = "com|org|net|edu|gov|cn|io|ai|tv|hk|uk|app|info|dev"
# (signs, rules that need one of them in the written text), in the order in which they run; "" stands for always.
_RULES: tuple[tuple[Iterable[str], tuple[Rule, ...]], ...] = (
    (".", (
        (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), _address),
        (re.compile(rf"(?:\bhttps?://)?\b(?:[\w-]+\.)+(?:{_TLD})\b(?!\.\w)(?:/[\w./-]*)?"), _address),
        (re.compile(r"(?<=\bwww)\.(?=\w)"), _words("dot")),
        (re.compile(r"\bNo\.\s?(?=\d)", re.I), _words("number")),
        (re.compile(r"(?<![\w.])\.(?=\d)"), lambda match, beside: "0."),
    )),
    (",", ((GROUPED, lambda match, beside: match.group().replace(",", "")),)),
    ("-", (
        (re.compile(r"(?<![\d-])((?:19|20)\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?![\d-])"), _iso_date),
        (re.compile(r"(?<![\w-])(?:\+?1[ -]?)?\(\d{3}\)[ -]?\d{3}-\d{4}(?![\d-])|(?<![\w-])\+?\d+(?:-\d+){2,}(?![\w-])"
                    r"|(?<![\w-])\d{3}-\d{4}(?![\w-])"), _chain),
    )),
    (EVERY_CURRENCY_SIGN, (
        (SIGN_LAST, lambda match, beside: f"{match[2]}{match[1]}"),
        (re.compile(rf"(?<!\w)(-?)([{CURRENCY_SIGNS}])\s?({_NUMBER})(?:\s?((?i:thousand|million|billion|trillion|bn|tn)"
                    r"|[kKmMbBT])\b)?"), _money),
        (re.compile(r"(?<=\d )(dollar|euro|pound)s(?=[ -](?:bill|note|coin|ticket|fine|prize)s?\b)"),
         lambda match, beside: match[1]),
    )),
    ("kK", (
        (re.compile(r"(?<![\w.,])(?!401k)(\d{2,3}|\d{1,3}\.\d+)k\b(\s?[–—~-]\s?(?=\d))?", re.I), _thousands),
    )),
    ("'", ((re.compile(r"(?<![\w'])(\d)'\s?(\d{1,2})(?:\"|''|(?!\w))"), _height),)),
    ("^", ((re.compile(r"\^(-?)(\d{1,4})(?!\d)"), _power),)),
    (":", ((re.compile(r"(?<![\d:])(\d{1,2}):(\d\d)(?::(\d\d))?(?![\d:])"), _clock),
           (re.compile(r"(?<![\d:])(\d+):(\d+)(?![\d:])"), _ratio))),
    ("", (
        (re.compile(rf"\b(?P<month>{_MONTH}|(?:{_SHORT_MONTH})\b\.?)\s(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?\b"
                    r"(?![:.]\d|\s?[-%])", re.I), _month_first),
        (re.compile(rf"(?P<the>\bthe )?(?<![\w.-])(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?(?P<of> of)? (?P<month>"
                    rf"{_MONTH}|(?:{_SHORT_MONTH})\b\.?)\b", re.I), _day_first),
        (re.compile(r"(?<=\d)\s?fl\.?\s?oz\b\.?", re.I), _words("fluid ounces", "fluid ounce")),
        (re.compile(r"(?<=\d)\s?(km/h|m/s|°[FC]?|[%‰¢]|[A-Za-z]{1,4}[23]?)(?![\w°])"), lambda match, beside:
         _unit(match, beside) if match[1] in _units() or (match[1].lower() in _units() and match[1] != "M")
         else match.group()),
    )),
    ("/", (
        (re.compile(r"(?<=\d)\s/\s(?=\d)"), _words("divided by", "over")),
        (re.compile(r"(?<![\d/.])(?:(\d{1,3})[ -])?(\d{1,2})/(\d{1,2})(?![\d/])"), _fraction),
    )),
    ("", (
        (re.compile(r"(?<!\w)(\d+)(?:st|nd|rd|th)\b", re.I), _ordinal),
        (re.compile(r"(?<![\w.])'?((?:1[1-9]|20)?)(\d0)'?s\b"), _decade),
        (re.compile(r"(?<!\w)#\s?(?=\d)"), _words("number")),
        (re.compile(r"(?<=\d)x\b(?=\s\w+er\b|\s(?:more|less|as)\b)", re.I), _words("times", "x")),
        (re.compile(r"(?<=\d)\s?x\s?(?=\d)", re.I), _words("by", "times")),
        (re.compile(r"(?<=\d)x\b", re.I), _words("x", "times")),
        (re.compile(r"(?<![\d.])(\d{1,12})\s?[–—~-]\s?(\d{1,12})(?![\d.]\d|\d)"), _range),
        (re.compile(r"(?<=\b[A-F])-(?=\s|$)"), _words("minus")),
        (re.compile(rf"(?:^|(?<=[\s(=:<>,]))-(?={_NUMBER})"), _words("minus", "negative")),
    )),
    ("+", (
        (re.compile(r"(?<=[^\W\d_])\+\+(?!\w)"), _words("plus plus")),
        (re.compile(rf"(?<![\w.])\+(?={_NUMBER})|(?<=\w)\s?\+\s?(?=\w)|(?<=\w)\+(?!\w)"), _words("plus")),
    )),
    ("#", (
        (re.compile(r"(?<=\b[A-Ga-g])#(?!\w)"), _words("sharp")),
        (re.compile(r"(?<!\w)#(?=\w)"), _words("hashtag", "hash")),
    )),
    ("&", ((re.compile("&"), _words("and")),)),
    ("@", ((re.compile(r"@(?=\w)"), _words("at")),)),
    ("=", ((re.compile(r"(?<=[\w)])\s?=\s?(?=[\w(-])"), _words("equals", "is")),)),
    ("*", ((re.compile(r"(?<=\d)\s?\*\s?(?=\d)"), _words("times")),)),
    *((sign, ((re.compile(re.escape(sign)), _words(*words)),)) for sign, words in _SIGNS.items()),
    ("~", ((re.compile(r"(?<![\w~])~(?=\s?\d)"), _words("about", "around")),)),
    ("<", ((re.compile(r"(?<![\w\s<])\s?<(?=\s?\d)|^<(?=\s?\d)"), _words("less than", "under")),
           (re.compile(r"(?<=[\w)])\s?<\s?(?=[\w(-])"), _words("less than", "is less than")),)),
    (">", ((re.compile(r"(?<![\w\s>])\s?>(?=\s?\d)|^>(?=\s?\d)"), _words("more than", "over")),
           (re.compile(r"(?<=[\w)])\s?>\s?(?=[\w(-])"), _words("greater than", "is greater than")),)),
    ("", (
        (re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}(?!\.?\d)"), _version),
        (re.compile(r"([0-9]+)(?:\.([0-9]+))?(?!\.\d)|([0-9]+)"), lambda match, beside:
         _number(match, beside) if match[1] else f" {_choose(readings_english(match[3]), beside)} "),
    )),
)  # fmt: skip
_TITLES = frozenset(["gen", "gov", "sen", "rep", "rev", "hon", "col", "lt", "mt", "ft", "sr"])
_HAS_NUMBER_OR_SIGN = re.compile(rf"[0-9{CURRENCY_SIGNS}#&@=<>^%°±≥≤≈≠×÷√∞§+*~]|\b[A-F]-(?:\s|$)|\.(?:{_TLD})\b")
_ROMAN = re.compile(r"\b((?:[^\W\d_]+ )?[^\W\d_]+ )([IVXLC]+)\b(?!')")
_MAY_BE_ROMAN = re.compile(r" [IVXLC]+\b")


def write(text: str, other: str) -> str:
    """Return English with numbers, signs and abbreviations as words; `other` is what another engine wrote."""
    roman = _MAY_BE_ROMAN.search(text) is not None and not text.isupper()
    signs = _HAS_NUMBER_OR_SIGN.search(text) is not None
    short = has_abbreviation(text)
    if not (roman or signs or short):
        return text
    beside = beside_form(other) if other else ""
    if roman:
        text = _ROMAN.sub(lambda match: _roman(match, beside), text)
    if signs:
        beside = _by_value(text, beside) if "," in text else beside
        present = set(text)
        for trigger, rules in _RULES:
            if not trigger or not present.isdisjoint(trigger):
                for pattern, rule in rules:
                    text = pattern.sub(lambda match, rule=rule: rule(match, beside), text)  # type: ignore[misc]
    return spell_abbreviations(text, beside) if short else text


def spell_abbreviations(text: str, beside: str) -> str:
    """Return the text with abbreviations as words; `beside` is what another engine wrote, in its own spoken form."""
    return _abbreviated().sub(lambda match: _abbreviation(match, beside), text)


def has_abbreviation(text: str) -> bool:
    return _abbreviated().search(text) is not None


@lru_cache(maxsize=1)
def _abbreviated() -> re.Pattern[str]:
    words = "|".join(sorted({word.rstrip(".") for word in _abbreviations()}, key=len, reverse=True))
    return re.compile(rf"(?<![\w'.])({words})(\.?)(?![\w'])", re.I)


@lru_cache(maxsize=1)
def _abbreviations() -> dict[str, tuple[str, ...]]:
    return {row[0]: tuple(word.replace("_", " ") for word in row[1:]) for row in table("abbreviations_en.txt")}


def _abbreviation(match: re.Match[str], beside: str) -> str:
    short = match[1].lower()
    found = _abbreviations().get(short + match[2]) or _abbreviations().get(short)
    if found is None:
        return match.group()
    if short in _TITLES and not re.match(r"\s+[A-Z]", match.string[match.end() :]):
        return match.group()  # at the end of a sentence it is a word of its own: a sales rep.
    if len(found) > 1:
        # Before a name it is the first (Dr. Lee, St. Paul), behind one the second (Ocean Dr., Main St.).
        name_first = re.search(r"(?:[A-Z]\w*|\d(?:st|nd|rd|th))\s$", match.string[: match.start()]) is not None
        name_last = re.match(r"\s+[A-Z]", match.string[match.end() :]) is not None
        if name_first == name_last:
            return _choose(found, beside)
        return found[name_first]
    return found[0]


def write_number(whole: str, fraction: str | None, beside: str = "") -> str:
    """Return one Arabic number in English words, a space on either side: 3.5 -> three point five."""
    words = _choose(readings_english(whole.lstrip("0") or "0" if fraction is not None else whole), beside)
    return f" {words} point {english_digits(fraction)} " if fraction is not None else f" {words} "
