"""Numbers as words, and words back to numbers, in Chinese and in English.

    "203" ─┐                                     ┌─ reading_han ─> 二百零三 | 二零三
           ├─> digits + what stands around them ─┤
    二百零三 ─┘ parse_han, parse_english           └─ reading_english ─> two hundred three

One written number has several readings (`203室` is 二零三 or 二百零三, `2024` is "twenty twenty four" or "two thousand
twenty four") and an engine that writes digits does not say which one it heard. So a reading is a function of the digits
and their context alone, and spelt numbers are parsed and read again by the same function: whatever the style, equal
numbers come out as equal words. The price is that two spelt transcripts that differ only in style count as agreeing.
"""

from __future__ import annotations

import re
import unicodedata

HAN_DIGITS = "零一二三四五六七八九"
_HAN_VALUE = {digit: value for value, digit in enumerate(HAN_DIGITS)} | {"两": 2, "幺": 1}
_HAN_UNIT = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = ("", "万", "亿", "万亿")

MEASURES = (
    "个位名本张条只头匹件块元角毛天周星礼小秒分次遍回场顿口杯瓶碗盘盒箱包袋部台辆架艘列座栋幢层"
    "间家所户排组群帮批节课篇页句行段首支"
    "枚颗粒滴片朵棵株根束串堆双对副套米厘毫公里英尺寸斤克吨升倍人种类样项款份岁成股门则亩平立码年步把晚杆圈场站桌局颗趟笔扇封顶"
    "面道处摄度蚊架啖餐件樽罐仙"
)
"""First characters of measure words and units: a bare 2 before one of them is read 两."""

ORDINAL_NEIGHBOURS = "点月号楼班级期年"
"""What a number counts without being read 两 before it: 二月, 二号楼."""

CURRENCY_SIGNS = r"$£¥\u0e3f\u20a0-\u20cf"
"""The inside of a character class: the signs that are read as a currency beside a number."""

_DIGITWISE_AFTER = re.compile(r"室|房|路公|路车|次列车|次航班|号房|航班")
_DIGITWISE_BEFORE = re.compile(
    r"(?:电话|手机|号码|热线|拨打|拨|密码|验证码|房间|房间号|尾号|编号|邮编|代码|学号|工号|航班|微信|车牌)[是为:号]?$"
)
_HOTLINES = frozenset({"110", "119", "120", "122", "114", "911", "999"})


def currency_name(sign: str) -> str:
    """The English name of a sign that has no word in our tables: ₲ -> guarani. A sign is said, so it must not
    vanish.
    """
    return unicodedata.name(sign, "currency").lower().removesuffix(" sign")


def parse_han(run: str) -> int | None:
    """Value of a well-formed spelt number (二百零三, 十二万三千, 一百五 = 150).

    None for anything else (四五百, 千万, 七八十).
    """
    total, myriad_cap = 0, 10**16
    section, digit, unit_cap, zero = 0, None, 10_000, False
    last_unit = 0  # unit that a closing bare digit would abbreviate: 一百五, 一万二
    started = False
    for char in run:
        if char == "零":
            if digit is not None or not started:
                return None
            zero, last_unit = True, 0
        elif char in _HAN_VALUE:
            if digit is not None:
                return None
            digit, started = _HAN_VALUE[char], True
        elif char in _HAN_UNIT:
            unit = _HAN_UNIT[char]
            if digit is None:
                if unit != 10 or started:
                    return None
                digit = 1  # 十二: the one is silent at the start
            if unit >= unit_cap:
                return None
            section, digit, unit_cap, zero, last_unit, started = section + digit * unit, None, unit, False, unit, True
        else:  # 万 亿
            myriad = 10_000 if char == "万" else 100_000_000
            section += digit or 0
            if char == "亿" and total and myriad_cap == 10_000:  # 一万亿
                section, total, myriad_cap = section + total // 10_000 * 10_000, 0, 10**16
            if section == 0 or myriad >= myriad_cap:
                return None
            total, section, myriad_cap = total + section * myriad, 0, myriad
            digit, unit_cap, zero, last_unit = None, 10_000, False, myriad
    if digit is not None:
        section += digit * (last_unit // 10 if last_unit > 10 and not zero else 1)
    elif zero:
        return None
    return total + section if started else None


def han_value(number: int) -> str:
    """A whole number in words: 2024 -> 两千零二十四. 两 before 千 万 亿, 二 before 百 and 十, as in careful speech."""
    if number == 0:
        return "零"
    if number >= 10**16:
        return han_digits(str(number))
    sections: list[int] = []
    while number:
        number, section = divmod(number, 10_000)
        sections.append(section)
    words = ""
    for place in range(len(sections) - 1, -1, -1):
        section = sections[place]
        if not section:
            continue
        if words and (section < 1000 or (place + 1 < len(sections) and sections[place + 1] == 0)):
            words += "零"
        spelt = _han_section(section)
        if place and section == 2:
            spelt = "两"
        words += spelt + (_MYRIADS[place] if place < 3 or sections[2] == 0 else "万")
    return words[1:] if words.startswith("一十") else words


def _han_section(section: int) -> str:
    words, gap = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, section = divmod(section, unit)
        if digit:
            words += (
                ("零" if gap and words else "") + ("两" if digit == 2 and unit == 1000 else HAN_DIGITS[digit]) + name
            )
            gap = False
        else:
            gap = True
    return words


def han_digits(digits: str) -> str:
    """Digit by digit: 2024 -> 二零二四."""
    return "".join(HAN_DIGITS[int(digit)] for digit in digits)


def reading_han(digits: str, before: str = "", after: str = "") -> str:
    """How the digits of a whole number are read in Chinese, given the text on both sides of them.

    Digit by digit: years, rooms, telephone numbers, codes, leading zeros, runs such as 123. Otherwise by value.
    """
    size = len(digits)
    measured = after[:1] != "" and (after[0] in MEASURES or after[0] == "点") and after[0] != "年"
    if size == 1:
        return HAN_DIGITS[int(digits)]
    if digits[0] == "0" or size >= 12:
        return han_digits(digits)
    if size == 2 and before.endswith("米") and not measured:
        return han_digits(digits)  # 一米八五 is 1.85 m
    if size == 2 and after[:1] == "年" and _is_short_year(digits) and not before.endswith("第"):
        return han_digits(digits)
    if size == 2:
        return (
            han_digits(digits)
            if after[:1] == "后" and digits[1] in "05" and digits[0] in "56789"
            else han_value(int(digits))
        )
    if size == 4 and after[:1] == "年":
        return han_value(int(digits)) if digits[1:] == "000" and digits != "2000" else han_digits(digits)
    if _DIGITWISE_AFTER.match(after) or _DIGITWISE_BEFORE.search(before):
        return han_digits(digits)
    if not measured and (digits in _HOTLINES or _is_count(digits)):
        return han_digits(digits)
    if size >= 5 and not measured and not digits.endswith("00"):
        return han_digits(digits)
    return han_value(int(digits))


def _is_short_year(digits: str) -> bool:
    """98 as the year 1998: two digits that are seldom a length. 80年 is often one, and 七八年 may be seven or eight
    years.
    """
    return digits[0] in "789" and digits[1] != "0" and int(digits[1]) != int(digits[0]) + 1


def _is_count(digits: str) -> bool:
    """Counting up or down by one: 123, 54321."""
    return digits in "0123456789" or digits in "9876543210"


_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"trillion": 10**12, "billion": 10**9, "million": 10**6, "thousand": 1000}
_ENGLISH_VALUE = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * i for i, word in enumerate(_TENS) if i > 1
}
_ENGLISH_VALUE |= {"fourty": 40, "oh": 0, "o": 0}
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}

_WORD = "|".join([*_ONES, *_TENS[2:], "fourty"])
_ENGLISH_RUN = re.compile(
    rf"\b(?:{_WORD}|an?(?= hundred| thousand| million| billion))"
    rf"(?:[ -]+(?:and )?(?:{_WORD}|hundred|thousand|million|billion|trillion|oh|o(?!'))\b)+"
)
_DIGIT_WORD = f"(?:{'|'.join(_ONES[:10])}|oh|o)"
# 0.5 is said with the zero or without; in "1, 0.5" the zero is what keeps the numbers apart.
_ZERO_POINT = re.compile(
    rf"\b((?:{_WORD}|oh|hundred|thousand|[a-z]+illion)[^a-z]+)?(?:zero|oh) (?=point (?:{_WORD}|oh)\b)"
)
_ONE_PART = re.compile(r" and (?:one|an?) (?=(half|quarter|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b)")
_NUMBER_LAST = re.compile(rf"\b(?:{_WORD})$")
# Ten thousand is also said "ten k"; a 401k is a pension.
_SPELT_K = re.compile(
    rf"\b(?!hundred one k)((?:{'|'.join([*_ONES[10:], *_TENS[2:]])}|hundred)(?: (?:{'|'.join(_ONES[1:10])}))?) k\b"
)
_TOLL_FREE = re.compile(rf"\b(eight|nine) hundred (?=(?:{_DIGIT_WORD} ){{6}}{_DIGIT_WORD}\b)")
_WORTH_PARSING = re.compile(rf"hundred|thousand|illion|(?:\b{_DIGIT_WORD}\b[ -]*){{3}}|twenty[ -]oh?\b")


def english_value(number: int) -> str:
    """A whole number in words, without "and": 105 -> one hundred five."""
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
    """Digit by digit: 911 -> nine one one."""
    return " ".join(_ONES[int(digit)] for digit in digits)


def reading_english(digits: str) -> str:
    """How the digits of a whole number are read in English: 1999 -> nineteen ninety nine, 2005 -> two thousand five."""
    size = len(digits)
    if (digits[0] == "0" and size > 1) or size > 12 or (size >= 3 and _is_count(digits)):
        return english_digits(digits)
    number = int(digits)
    if 1100 <= number < 2000 or 2010 <= number < 2100:
        century, rest = divmod(number, 100)
        return f"{english_value(century)} " + (
            "hundred" if rest == 0 else f"oh {_ONES[rest]}" if rest < 10 else english_value(rest)
        )
    if number == 911 or (size >= 5 and not digits.endswith("00")):
        return english_digits(digits)
    return english_value(number)


def ordinal_english(number: int) -> str:
    """21 -> twenty first."""
    head, _, last = english_value(number).rpartition(" ")
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return f"{head} {last}" if head else last


def reread_english(text: str) -> str:
    """Spelt numbers of a lower-case text, parsed and read in the one canonical way: "two thousand and five" == 2005."""
    if "point" in text:
        text = _ZERO_POINT.sub(lambda match: match.group() if match[1] else "", text)
    if " and " in text:
        text = _ONE_PART.sub(_one_part, text)
    if " k " in text or text.endswith(" k"):
        text = _SPELT_K.sub(r"\1 thousand", text)
    if "hundred" in text:
        text = _TOLL_FREE.sub(r"\1 zero zero ", text)
    return _ENGLISH_RUN.sub(_reread_run, text) if _WORTH_PARSING.search(text) else text


def _one_part(match: re.Match[str]) -> str:
    """two and one half -> two and a half; nothing where no number stands before it."""
    if not _NUMBER_LAST.search(match.string[max(0, match.start() - 10) : match.start()]):
        return match.group()
    return " and an " if match[1] == "eighth" else " and a "


def _reread_run(match: re.Match[str]) -> str:
    run = match.group()
    if not _WORTH_PARSING.search(run) or match.string[: match.start()].endswith("point "):
        return run
    words = re.split("[ -]+", run)
    out: list[str] = []
    at = 0
    while at < len(words):
        end = at
        while (
            end < len(words) and _ENGLISH_VALUE.get(words[end], 10) < 10 and (end > at or words[end] not in ("o", "oh"))
        ):
            end += 1
        if end - at >= 3 and (end == len(words) or words[end] not in ("hundred", *_SCALES)):
            out.append(reading_english("".join(str(_ENGLISH_VALUE[word]) for word in words[at:end])))
            at = end
            continue
        if (
            words[at] == "twenty"
            and words[at + 1 : at + 2] in (["oh"], ["o"])
            and _ENGLISH_VALUE.get("".join(words[at + 2 : at + 3]), 0) in range(1, 10)
        ):
            out.append(reading_english(f"200{_ENGLISH_VALUE[words[at + 2]]}"))
            at += 3
            continue
        value, end = _parse_english(words, at)
        if value is None:
            out.append("oh" if words[at] == "o" else words[at])
            at += 1
        else:
            out.append(reading_english(str(value)) if value >= 100 else english_value(value))
            at = end
    return " ".join(out)


def _parse_english(words: list[str], at: int) -> tuple[int | None, int]:
    """The longest well-formed number that starts at `at`: (value, end), (None, at) when there is none."""
    total, cap, end = 0, 10**15, at
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


def _parse_group(words: list[str], at: int, *, joined: bool) -> tuple[int | None, int]:
    """A number below 10,000 spelt with at most one "hundred"; `joined` allows a leading "and" (one thousand and
    five).
    """
    if joined and words[at : at + 1] == ["and"]:
        at += 1
    value, end = _parse_below_100(words, at)
    if value is not None and words[end : end + 1] == ["hundred"] and value:
        value, end = value * 100, end + 1
        tail = end + 1 if words[end : end + 1] == ["and"] else end
        rest, after = _parse_below_100(words, tail)
        if rest:
            return value + rest, after
    return value, end


def _parse_below_100(words: list[str], at: int) -> tuple[int | None, int]:
    word = words[at] if at < len(words) else ""
    if word in ("a", "an"):
        return 1, at + 1
    value = None if word in ("oh", "o") else _ENGLISH_VALUE.get(word)
    if value is None:
        return None, at
    if (
        value >= 20
        and at + 1 < len(words)
        and words[at + 1] not in ("oh", "o")
        and 0 < _ENGLISH_VALUE.get(words[at + 1], 0) < 10
    ):
        return value + _ENGLISH_VALUE[words[at + 1]], at + 2
    return value, at + 1
