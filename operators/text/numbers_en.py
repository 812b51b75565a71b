"""Numbers as English words, and words back to numbers.

    "737" ──readings──> seven thirty seven | seven hundred thirty seven | seven three seven     what may have been said
    words ──reread──> every run of number words read one way, and the numbers of the text       what a comparison needs

An engine that writes digits hides which reading it heard. The spoken form takes the reading that the other engine
spelt out, or the usual one; the folded form reads all of them alike: a number is the string of its digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_SCALES = {"quadrillion": 10**15, "trillion": 10**12, "billion": 10**9, "million": 10**6, "thousand": 1000}
_VALUE = {word: value for value, word in enumerate(_ONES)} | {word: 10 * i for i, word in enumerate(_TENS) if i > 1}
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_REPEATED = {"double": 2, "triple": 3}
_BEFORE_AND = re.compile(rf" hundred (?!{'|'.join(_SCALES)})")
_STARTS = frozenset([*_VALUE, *_REPEATED, "oh", "o", "a", "an"])


def english_value(number: int) -> str:
    """Return a whole number in words, without "and": 105 -> one hundred five. Digit by digit from 10^18."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f" {_ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (f" {english_value(rest)}" if rest else "")
    for name, scale in _SCALES.items():
        if number >= scale:
            if number >= 1000 * scale:
                return english_digits(str(number))
            many, rest = divmod(number, scale)
            return f"{english_value(many)} {name}" + (f" {english_value(rest)}" if rest else "")
    raise AssertionError("unreachable: every number above 999 has a scale")


def english_digits(digits: str) -> str:
    """Return the digits one by one: 911 -> nine one one."""
    return " ".join(_ONES[int(digit)] for digit in digits)


def ordinal_english(number: int) -> str:
    """Return 21 as twenty first."""
    head, _, last = english_value(number).rpartition(" ")
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return f"{head} {last}" if head else last


_ORDINAL_VALUE = {ordinal_english(value): value for value in (*range(1, 20), *range(20, 100, 10))}
_ORDINAL_VALUE |= {"hundredth": 100, "thousandth": 1000, "millionth": 10**6}


def reading_english(digits: str) -> str:
    """Return how a whole number is usually read: 1999 -> nineteen ninety nine, 0826 -> digit by digit."""
    size = len(digits)
    if (digits[0] == "0" and size > 1) or (size >= 3 and _is_count(digits)):
        return english_digits(digits)
    number = int(digits)
    if 1100 <= number < 2000 or 2010 <= number < 2100:
        return _by_pairs(digits)
    if number == 911 or (size >= 5 and not digits.endswith("00")):
        return english_digits(digits)
    return english_value(number)


def _is_count(digits: str) -> bool:
    """Counting up or down by one: 123, 54321."""
    return digits in "0123456789" or digits in "9876543210"


def _by_pairs(digits: str) -> str:
    """nineteen ninety nine, nineteen oh five, nineteen hundred; seven thirty seven."""
    first, rest = int(digits[:-2]), int(digits[-2:])
    return f"{english_value(first)} " + (
        "hundred" if rest == 0 else f"oh {_ONES[rest]}" if rest < 10 else english_value(rest)
    )


def readings_english(digits: str) -> list[str]:
    """Return all the ways in which a whole number is read, the usual one first."""
    size, number = len(digits), int(digits)
    found = [reading_english(digits)]
    if digits[0] != "0" or size == 1:
        by_value = english_value(number)
        found.append(by_value)
        last = list(_BEFORE_AND.finditer(by_value))
        if last:
            found.append(f"{by_value[: last[-1].end()]}and {by_value[last[-1].end() :]}")
        elif number > 1000 and number % 1000 < 100 and number % 1000:
            head, _, tail = by_value.rpartition(" thousand ")
            if head:
                found.append(f"{head} thousand and {tail}")
        found += [
            f"a {words.removeprefix('one ')}"
            for words in list(found)
            if words.startswith(("one hundred", "one thousand"))
        ]
        if size in (3, 4):
            found.append(_by_pairs(digits))
    if size > 1:
        found += [english_digits(digits), english_digits(digits).replace("zero", "oh")]
    if size == 4 and digits[0] == "0" and digits.endswith("00") and digits[1] != "0":
        found += [f"oh {_ONES[int(digits[1])]} hundred", f"zero {_ONES[int(digits[1])]} hundred"]
    if size == 3 and digits.startswith("00"):
        found.append(f"double oh {_ONES[int(digits[2])]}")
    return list(dict.fromkeys(found))


def reread(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return lower-case words with every run of number words read one way, and the numbers of the run in order.

    "two thousand and five" and "twenty oh five" come out alike, "nineteen ninety nine" as 1999 does, "double oh seven"
    as 007. A number is the string of its digits, with "-" before it, "." and "/" in it and "th" behind it where they
    were said. Numbers that stand side by side are one chain: 70, 61, 165 is 7061165, however an engine grouped it.
    """
    out: list[str] = []
    numbers: list[str] = []
    at = 0
    while at < len(words):
        chain, end = _chain(words, at)
        if words[at] == "point" and _chain(words, at + 1)[0] and words[at + 1] in (*_ONES[:10], "oh"):
            chain, end = ["0"], at
        if not chain:
            value = _ORDINAL_VALUE.get(words[at])
            if value is not None:
                numbers.append(f"{value}th")
            out.append(words[at])
            at += 1
            continue
        digits = _joined(chain)
        sign = "-" if out and out[-1] in ("minus", "negative") else ""
        if sign:
            out[-1] = "minus"
        spelt = " ".join(reading_english(part) for part in digits)
        number = ",".join(digits)
        fraction, end = _fraction(words, end)
        if fraction:
            number += f".{'.'.join(fraction)}"
            # 0.5 is said with the zero or without; "zero" goes, unless it keeps two numbers apart.
            if number.startswith("0.") and not (out and out[-1] in _VALUE):
                spelt = ""
            spelt = f"{spelt} " * bool(spelt) + " ".join(f"point {english_digits(part)}" for part in fraction)
        scale = ""
        while end < len(words) and words[end] in _SCALES and (fraction or len(digits) == 1):
            scale, end = scale + words[end][0], end + 1
            spelt += f" {words[end - 1]}"
        half, end, said = _half(words, end)
        ordinal, end = _ordinal_end(words, end) if len(digits) == 1 and not fraction and not half else (0, end)
        if ordinal:
            value = int(digits[0]) + ordinal
            spelt, number = ordinal_english(value), f"{value}th"
        out += spelt.split()
        out += said
        numbers.append(sign + number + scale + half)
        at = end
    return out, numbers


def _chain(words: Sequence[str], at: int) -> tuple[list[str], int]:
    """The numbers that stand side by side from `at` on, as digits, and where they end."""
    chain: list[str] = []
    while at < len(words):
        word = words[at]
        if word not in _STARTS:
            break
        if word in _REPEATED:
            digit = words[at + 1] if at + 1 < len(words) else ""
            value = 0 if digit in ("oh", "o") else _VALUE.get(digit, 10)
            if value > 9:
                break
            chain += [str(value)] * _REPEATED[word]
            at += 2
            continue
        if word in ("oh", "o"):
            following = words[at + 1] if at + 1 < len(words) else ""
            if not (chain and len(chain[-1]) <= 2) and not (_VALUE.get(following, 10) < 10 or following in ("oh",)):
                break
            if not chain and not (following in _VALUE and words[at + 2 : at + 3] and words[at + 2] in (*_VALUE, "oh")):
                break
            chain.append("0")
            at += 1
            continue
        value_, end = _parse(words, at)
        if value_ is None:
            break
        chain.append(str(value_))
        at = end
    return chain, at


def _joined(chain: list[str]) -> list[str]:
    """seven thirty seven -> 737, seven five zero two -> 7502; but one two stays two numbers, and so do 2010 10."""
    if len(chain) == 1:
        return chain
    if len(chain) == 2:
        first, second = chain
        return ["".join(chain)] if len(first) <= 2 and len(second) == 2 else chain
    return ["".join(chain)] if all(len(part) <= 3 for part in chain) else chain


def _fraction(words: Sequence[str], at: int) -> tuple[list[str], int]:
    """What follows the point, and the second point of a version: "point one four" -> 14, "point four point two"."""
    found: list[str] = []
    while at + 1 < len(words) and words[at] in ("point", "dot"):
        digits, end = "", at + 1
        while end < len(words) and (words[end] in ("oh", "o") or words[end] in _VALUE):
            value, after = (0, end + 1) if words[end] in ("oh", "o") else _parse_below_100(words, end)
            digits, end = digits + str(value), after
        if not digits:
            break
        found.append(digits)
        at = end
    return found, at


def _half(words: Sequence[str], at: int) -> tuple[str, int, list[str]]:
    """ "and a half", also "and one half": part of the number before it."""
    part = tuple(words[at : at + 3])
    if len(part) == 3 and part[0] == "and" and part[1] in ("a", "an", "one") and part[2] in _PARTS:
        return f"+{_PARTS[part[2]]}", at + 3, ["and", "an" if part[2] == "eighth" else "a", part[2]]
    return "", at, []


_PARTS = {"half": "1/2", "quarter": "1/4"} | {ordinal_english(below): f"1/{below}" for below in (3, *range(5, 11))}


def _ordinal_end(words: Sequence[str], at: int) -> tuple[int, int]:
    """twenty first, one hundred and third: the number goes on in an ordinal below ten."""
    before = words[at - 1]
    end = at + 1 if words[at : at + 1] == ["and"] and before in ("hundred", "thousand") else at
    value = _ORDINAL_VALUE.get(words[end]) if end < len(words) else None
    tens = before in _TENS[2:] and value is not None and value < 10
    return (value, end + 1) if value is not None and (tens or before in ("hundred", *_SCALES)) else (0, at)


def _parse(words: Sequence[str], at: int) -> tuple[int | None, int]:
    """The longest well-formed number that starts at `at`: (value, end), (None, at) when there is none."""
    total, cap, end = 0, 10**18, at
    if words[at] in ("a", "an") and words[at + 1 : at + 2] not in (["hundred"], *([scale] for scale in _SCALES)):
        return None, at
    while True:
        group, after = _parse_group(words, end, joined=end > at)
        if group is None:
            break
        scale = _SCALES.get(words[after]) if after < len(words) else None
        if scale is None or scale >= cap:
            if total and group >= cap:
                break
            return total + group, after
        total, cap, end = total + group * scale, scale, after + 1
    return (total, end) if end > at else (None, at)


def _parse_group(words: Sequence[str], at: int, *, joined: bool) -> tuple[int | None, int]:
    """A number below 10,000 spelt with at most one "hundred"; `joined` allows a leading "and" (a thousand and five)."""
    if joined and at < len(words) and words[at] == "and":
        at += 1
    if joined and at < len(words) and words[at] in ("a", "an") and words[at + 1 : at + 2] != ["hundred"]:
        return None, at
    value, end = _parse_below_100(words, at)
    if value and end < len(words) and words[end] == "hundred":
        value, end = value * 100, end + 1
        tail = end + 1 if end < len(words) and words[end] == "and" else end
        rest, after = _parse_below_100(words, tail)
        if rest and rest < 10 and tail == end and _VALUE.get("".join(words[after : after + 1]), 10) < 10:
            return value, end  # eight hundred five five five is a telephone number
        if rest and words[tail] not in ("a", "an") and words[after : after + 1] != ["hundred"]:
            return value + rest, after
    return value, end


def _parse_below_100(words: Sequence[str], at: int) -> tuple[int | None, int]:
    word = words[at] if at < len(words) else ""
    if word in ("a", "an"):
        return 1, at + 1
    value = _VALUE.get(word)
    if value is None:
        return None, at
    if value >= 20 and at + 1 < len(words) and 0 < _VALUE.get(words[at + 1], 0) < 10:
        return value + _VALUE[words[at + 1]], at + 2
    return value, at + 1


MAY_BE_A_NUMBER = re.compile(
    rf"\b(?:{'|'.join([*_ONES, *_TENS[2:], *_SCALES, *_ORDINAL_VALUE])}|hundred|double|triple|oh|point)\b"
)
"""Finds whether a lower-case text has any number word, so that most texts need no scan."""
