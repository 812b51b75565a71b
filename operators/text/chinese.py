"""The spoken form of Mandarin and Cantonese: every number and sign as a speaker says it, and nothing else changed.

    text ─addresses─> 点, at ─money, dates, times, scores, units, shares, signs─> words
         ─numbers─> in the language of the script beside them, as the other engine spelt them out, else as usual

Where one sign has several readings (65kg, 100%, 3:30, 1-2线, 19年, 2层) the other engine's words say which one it was.
Nothing is dropped or unified here: 嗯, 花儿 and 五十两 stay (operators.text.folded unifies them, to compare).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from operators.text import english
from operators.text.numbers_zh import MEASURES, ORDINAL_NEIGHBOURS, han_digits, han_value, readings_han
from operators.text.scripts import CURRENCY_SIGNS, EVERY_CURRENCY_SIGN, HAN, simplify, table

Rule = tuple[re.Pattern[str], "Callable[[re.Match[str], str], str]"]

_NUMBER = r"\d+(?:\.\d+)?"
_CURRENCY = {
    "¥": ("元", "块"), "US$": ("美元", "美金"), "HK$": ("港元", "港币"), "NT$": ("台币",), "$": ("美元", "美金", "刀"),
    "€": ("欧元",), "£": ("英镑",), "₹": ("卢比",), "₩": ("韩元",), "₽": ("卢布",), "₺": ("里拉",), "₫": ("越南盾",),
    "₱": ("比索",), "฿": ("泰铢",), "₪": ("谢克尔",),
}  # fmt: skip
_SCORE_BEFORE = re.compile(r"(?:比分|以|赢|输|败|胜|打成|领先|落后|战平|半场)(?:了|是|为)?\s?$")
_SCORE_AFTER = re.compile(r"\s?(?:领先|落后|战平|获胜|取胜|击败|战胜|大胜|完胜|赢|输|负于|战平|平局|不敌|逆转)")
# A dash before a number is a minus only where nothing measured stands before it: 5度-10度 and 5%-10% are ranges. After
# Han it needs a percentage or a temperature behind it, or 是 为 到 至 于 before it: the dash of 歼-20 is not said.
_NO_RANGE = r"(?<![\d.%‰°])(?<!\d度)(?<!\d\s)(?<!°[CF])"


def beside_form(text: str) -> str:
    """Return what the other engine wrote without blanks and punctuation, for looking up a reading in it."""
    return re.sub(r"[\W_]+", "", text.lower())


def _choose(candidates: Iterable[str], beside: str) -> str:
    """The first reading that the other engine spelt out, else the first of all."""
    readings = list(candidates)
    # 度 is part of 摄氏度: of readings that are there, the longest.
    return (
        max((words for words in readings if words in beside), key=len, default=readings[0]) if beside else readings[0]
    )


def _address(match: re.Match[str], beside: str) -> str:
    spelt = match.group().rstrip("./").replace("@", " at ")
    return spelt.replace(".", "点").replace("/", "斜杠" if "斜杠" in beside else " ").replace(":", " ")


def _money(match: re.Match[str], beside: str) -> str:
    sign, amount, myriads, unit = match.groups()
    amount = re.sub(r"(\.\d)0$|\.00$", r"\1", amount)  # the closing zero of an amount is written and not said
    names = _CURRENCY.get("¥" if sign == "￥" else sign) or (f" {english.currency_name(sign)} ",)
    return f"{amount}{myriads}{unit or _choose(names, beside)}"


def _hong_kong_money(match: re.Match[str], beside: str) -> str:
    return f"{match[2]}{match[3]}蚊" if match[1] == "$" else _money(match, beside)


def _date(match: re.Match[str], beside: str) -> str:
    year, _, month, day = match.groups()
    last = "号" if f"{han_value(int(day))}号" in beside else "日"
    return f"{year}年{int(month)}月{int(day)}{last}"


def _clock(match: re.Match[str], beside: str) -> str:
    hour, minute, second = match.groups()
    if not second:
        score = f"{han_value(int(hour))}比{han_value(int(minute))}"
        around = _SCORE_BEFORE.search(match.string[: match.start()]) or _SCORE_AFTER.match(match.string[match.end() :])
        if around or score in beside:
            return f"{int(hour)}比{int(minute)}"
    readings = _clock_readings(int(hour), int(minute), second)
    if int(hour) > 12 and not any(words in beside for words in readings):
        readings += _clock_readings(
            int(hour) - 12, int(minute), second
        )  # 20:30 is 八点半 where the other engine has it
    return _choose(readings, beside)


def _clock_readings(hour: int, minute: int, second: str | None) -> list[str]:
    spelt = f"{'两' if hour == 2 else han_value(hour)}点"
    two = f"{'零' if minute < 10 else ''}{han_value(minute)}"
    if second:
        return [f"{spelt}{two}分{'零' if int(second) < 10 else ''}{han_value(int(second))}秒"]
    if not minute:
        return [spelt, f"{spelt}整"]
    readings = [f"{spelt}{two}分", f"{spelt}{two}"]
    if minute < 10:
        readings.append(f"{spelt}{han_value(minute)}分")
    return readings + {15: [f"{spelt}一刻"], 30: [f"{spelt}半"], 45: [f"{spelt}三刻"]}.get(minute, [])


def _power(match: re.Match[str], beside: str) -> str:
    minus, exponent = match.groups()
    return f"的{'负' if minus else ''}{exponent}次方" if minus or exponent != "2" else "的平方"


def _with_fraction(match: re.Match[str], beside: str) -> str:
    whole, above, below = match.groups()
    return f"{whole}又{below}分之{above}" if 0 < int(above) < int(below) else match.group()


@lru_cache(maxsize=1)
def _units() -> dict[str, tuple[str, ...]]:
    """By sign as it is written and, of more than one letter, in lower case."""
    found = {row[0]: tuple(row[1:]) for row in table("units_zh.txt")}
    return {sign.lower(): words for sign, words in found.items() if len(sign) > 1} | found


@lru_cache(maxsize=1)
def _unit_pattern() -> re.Pattern[str]:
    signs = "|".join(re.escape(sign) if len(sign) == 1 else f"(?i:{re.escape(sign)})" for sign in _units())
    return re.compile(rf"(?<=\d)\s?({signs})(?![A-Za-z\d])")


def _unit(match: re.Match[str], beside: str) -> str:
    return _choose(_units().get(match[1]) or _units()[match[1].lower()], beside)


def drop_units(text: str) -> str:
    """Return the text without the Latin letters that are units of a number, to see whether any other Latin is there."""
    return _unit_pattern().sub("", text)


def _share(match: re.Match[str], beside: str) -> str:
    if match[1] == "100":
        return _choose(("百分之百", "百分百", "百分之一百"), beside)
    return f"百分之{match[1]}"


def _shares(match: re.Match[str], beside: str) -> str:
    """20%-30% is 百分之二十到三十 where the other engine has it."""
    spelt = f"百分之{han_value(int(match[1]))}到{han_value(int(match[2]))}"
    return spelt if spelt in beside else match.group()


def _span(match: re.Match[str], beside: str) -> str:
    """1-2线: 到 unless the other engine heard 一二, 一比二 or 一至二."""
    first, last = match.groups()
    ones, others = (readings_han(number[:16]) for number in (first, last))
    for word in ("到", "至", "比", "杠", "减", ""):
        for one in ones:
            for other in others:
                if f"{one}{word}{other}" in beside:
                    return f"{one}{word}{other}"
    if len(first) == len(last) and 1 < len(first) < 6 and not int(first[1:]) and not int(last[1:]):
        unit = "十百千万"[len(first) - 2]
        for start in (han_digits(first[0]), "两" if first[0] == "2" else ""):
            if start and f"{start}{han_digits(last[0])}{unit}" in beside:
                return f"{start}{han_digits(last[0])}{unit}"  # 五六百, 两三百
    text = match.string
    around = _SCORE_BEFORE.search(text[: match.start()]) or _SCORE_AFTER.match(text[match.end() :])
    return f"{first}{'比' if around else '到'}{last}"


def _two_in_a_row(match: re.Match[str], beside: str) -> str:
    """2、3天 is 两三天 where the other engine has it."""
    spelt = f"{'两' if match[1] == '2' else han_digits(match[1])}{han_digits(match[2])}"
    return spelt if spelt in beside else match.group()


def _heard_minus(match: re.Match[str], beside: str) -> str:
    """余额-200 is 负二百 where the other engine has it; the dash of 歼-20 is silent."""
    heard = any(f"负{words}" in beside for words in readings_han(match[1][:16]))
    return f"负{match[1]}" if heard else match.group()


def _with_tenths(match: re.Match[str], beside: str) -> str:
    """99.9元 is 九十九块九, 1.8米 一米八, 0.5元 五毛 where the other engine has it."""
    whole, tenths, unit = match.groups()
    unit = "米" if unit == "m" else unit
    money = unit in "元块蚊"
    for spelt_unit in ("块", "蚊", "元") if money else (unit, "度") if unit[0] == "°" else (unit,):
        for said in (tenths, tenths.removesuffix("0")):
            spelt = f"{han_value(int(whole))}{spelt_unit}{han_digits(said)}"
            if said and spelt in beside:
                return spelt
    dimes = f"{han_digits(tenths)}毛"
    return dimes if money and whole == "0" and len(tenths) == 1 and dimes in beside else match.group()


def _remembered_day(match: re.Match[str], beside: str) -> str:
    """5.4运动, 9.18事变, 5.30惨案: the digits of month and day one by one."""
    month, day, event = match.groups()
    digits = han_digits(month + day)
    readings = [f"{digits}{event}", *([f"{han_digits(month)}卅{event}"] if day == "30" else [])]
    usual = readings[0] if event in _OF_A_DAY else match.group()
    return next((words for words in readings if words in beside), usual)


_OF_A_DAY = ("运动", "事变", "事件", "惨案", "起义", "晚会", "革命", "国际")
_OF_A_DAY_OR_A_SIZE = ("地震", "大地震", "洪水", "讲话", "长假", "假期")


def _height(match: re.Match[str], beside: str) -> str:
    """180cm is 一米八 where the other engine has it."""
    metres, tenths, hundredths = tuple(match[1])
    spelt = f"{han_digits(metres)}米{han_digits(tenths)}"
    readings = [f"{spelt}{han_digits(hundredths)}", *([spelt] if hundredths == "0" else [])]
    return next((words for words in readings if words in beside), match.group())


def _words(*readings: str) -> Callable[[re.Match[str], str], str]:
    return lambda match, beside: _choose(readings, beside)


_SIGNS = {
    "±": ("正负",), "≥": ("大于等于", "大于或等于"), "≤": ("小于等于", "小于或等于"), "≈": ("约等于",),
    "≠": ("不等于",), "×": ("乘", "乘以"), "÷": ("除以",), "√": ("根号",), "∞": ("无穷",), "%": ("百分号",),
    "‰": ("千分号",),
}  # fmt: skip


@lru_cache(maxsize=2)
def _rules(cantonese: bool) -> tuple[tuple[Iterable[str], tuple[Rule, ...]], ...]:
    """(signs, rules that need one of them in the written text), in the order in which they run; "": always."""
    return (
        (".", (
            (re.compile(r"[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"), _address),
            (re.compile(r"(?:https?://)?(?<![A-Za-z0-9])(?:[A-Za-z0-9-]+\.)+(?:com|org|net|edu|gov|cn|io|ai|tv|hk)"
                        r"(?![A-Za-z0-9])(?:/[A-Za-z0-9./-]*)?"), _address),
            (re.compile(r"(?<=www)\.(?=\w)"), _words("点")),
            (re.compile(r"(?<![A-Za-z\d_.])\.(?=\d)"), lambda match, beside: "0."),
            (re.compile(r"(?<![\d.])(?!(?:19|20)\d\d\.[01]?\d\.[0-3]?\d(?!\d))\d+(?:\.\d+){2,}(?!\.?\d)(?![年月日号])"),
             lambda match, beside: "点".join(han_digits(part) for part in match.group().split("."))),
        )),
        (",", ((re.compile(r"(?<=\d),(?=\d{3}(?:\D|,|$))"), lambda match, beside: ""),)),
        ("-", ((re.compile(r"(?<![\d-])(?:0\d{2,3}-\d{7,8}|\d{3}-\d{3,4}-\d{4}|(?!(?:19|20)\d\d-[01]?\d-[0-3]?\d(?!\d))"
                           r"\d+(?:-\d+){2,})(?![\d-])"),
                lambda match, beside: han_digits(re.sub("[^0-9]", "", match.group()))),)),
        (EVERY_CURRENCY_SIGN, ((english.SIGN_LAST, lambda match, beside: f"{match[2]}{match[1]}"),)),
        (EVERY_CURRENCY_SIGN, (
            (re.compile(rf"(US\$|HK\$|NT\$|[{CURRENCY_SIGNS}])\s?({_NUMBER})([万亿]*)([美港欧韩]?元|块|蚊)?"),
                _hong_kong_money if cantonese else _money),)),
        (".", (
            (re.compile(r"(\.\d)0(?=元|块|美元|欧元|英镑)"), lambda match, beside: match[1]),
            (re.compile(rf"(?<![\d.])(1[0-2]|[1-9])\.(3[01]|[12]\d|[1-9])({'|'.join(_OF_A_DAY + _OF_A_DAY_OR_A_SIZE)})"
                        ), _remembered_day),
            (re.compile(r"(?<![\d.])(\d{1,6})\.(\d{1,2})(元|块|蚊|米|m(?![A-Za-z\d²/])|度|°C?)"), _with_tenths),
        )),
        ("m米公", ((re.compile(r"(?<![\d.])([12]\d\d)\s?(?:cm|CM|厘米|公分)(?![A-Za-z\d²])"), _height),)),
        ("·", ((re.compile(r"(?<![\d·])(\d{1,2})·(\d{1,2})(?![\d·])"),
                lambda match, beside: han_digits(match[1] + match[2])),)),
        ("-/.", ((re.compile(r"(?<![\d.])((?:19|20)\d\d)([-/.])(1[0-2]|0?[1-9])\2(3[01]|[12]\d|0?[1-9])(?![\d.])"),
                _date),)),
        (":", (
            (re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])"), _clock),
            (re.compile(r"(?<=\d):(?=\d)"), _words("比")),
        )),
        ("^", ((re.compile(r"\^(-?)(\d{1,4})(?!\d)"), _power),)),
        ("-", (
            (re.compile(rf"{_NO_RANGE}-\s?({_NUMBER})(?=(?:\s?(?:到|至|[~～—–-]+)\s?-?\s?{_NUMBER})?\s?(?:°|度|摄氏度))"),
             lambda match, beside: f"{_choose(('零下', '负'), beside)}{match[1]}"),
            (re.compile(rf"(?<![A-Za-z)]){_NO_RANGE}-(?={_NUMBER}\s?(?:[%‰]|个百分点))"), _words("负")),
        )),
        ("", ((_unit_pattern(), _unit),)),
        ("%", (
            (re.compile(r"(\d+)%\s?[-~–—到至]\s?(\d+)%"), _shares),
            (re.compile(rf"负({_NUMBER})\s?%"),
             lambda match, beside: f"百分之负{match[1]}" if "百分之负" in beside else f"负百分之{match[1]}"),
            (re.compile(rf"({_NUMBER})\s?%"), _share),
        )),
        ("‰", ((re.compile(rf"({_NUMBER})\s?‰"), lambda match, beside: f"千分之{match[1]}"),)),
        ("/", (
            (re.compile(r"(?<![\d/.])(\d{1,3}) (\d{1,2})/(\d{1,2})(?![\d/])"), _with_fraction),
            (re.compile(r"(?<![\d/])(\d{1,3})/(\d{1,3})(?![\d/])"), lambda match, beside: f"{match[2]}分之{match[1]}"),
        )),
        ("~～—–-、", (
            (re.compile(r"(?<![\d.])(\d+)\s?[~～—–-]+\s?(\d+)(?![\d.])"), _span),
            (re.compile(r"(?<![\d.])(\d)、(\d)(?![\d.、])"), _two_in_a_row),
            (re.compile(r"(?:(?<=\d)|(?<=\d度))\s?[~～—–-]+\s?(?=\d|零下|负|百分之|千分之)"), _words("到", "至")),
            (re.compile(rf"(^|[^\w)]|[是为到至于])-(?={_NUMBER})"), lambda match, beside: f"{match[1]}负"),
            (re.compile(r"(?<=\w)-(\d+)"), _heard_minus),
        )),
        ("+", (
            (re.compile(r"(?<=[A-Za-z])\+\+(?![A-Za-z])"), _words("加加", " plus plus ")),
            (re.compile(r"(?<=\w)\s?\+\s?(?=\w)|(?<=\w)\+(?!\w)"), _words("加")),
            (re.compile(r"(?<![\w])\+(?=\d)"), _words("正")),
        )),
        ("#", ((re.compile(r"(?<=[A-Ga-g])#"), 
                lambda match, beside: "井" if "井" in beside else " sharp "),)),
        ("=", ((re.compile(r"(?<=\w)\s?=\s?(?=[\w-])"), _words("等于")),)),
        ("*", ((re.compile(r"(?<=\d)\s?\*\s?(?=\d)"), _words("乘", "乘以")),)),
        ("@", ((re.compile("@"), _words(" at ")),)),
        ("&", ((re.compile("&"), _words(" and ")),)),
        *((sign, ((re.compile(rf"\s?{re.escape(sign)}\s?"), _words(*words)),)) for sign, words in _SIGNS.items()),
        ("<", ((re.compile(r"(?<![A-Za-z\d\s<])\s?<(?=\s?\d)|^<(?=\s?\d)"), _words("小于", "低于")),
               (re.compile(r"(?<=\w)\s?<\s?(?=[\w-])"), _words("小于")),)),
        (">", ((re.compile(r"(?<![A-Za-z\d\s>])\s?>(?=\s?\d)|^>(?=\s?\d)"), _words("大于", "超过")),
               (re.compile(r"(?<=\w)\s?>\s?(?=[\w-])"), _words("大于")),)),
    )  # fmt: skip


_HAS_NUMBER_OR_SIGN = re.compile(
    rf"[0-9{CURRENCY_SIGNS}{''.join(_SIGNS)}#&@=<>^*+]|\.(?:com|org|net|edu|gov|cn|io|ai|tv|hk)"
)
_DIGITS = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?!\.\d)|[0-9]+")
# Many write 23 度 and 2023 年 with blanks that say nothing.
_BLANK_BESIDE_HAN = re.compile(rf"(?<=[{HAN}])\s+(?=[\d{HAN}])|(?<=[\d{HAN}])\s+(?=[{HAN}])")
_MULTIPLIED = re.compile(r"(?<![\d.])([0-9]{1,4})(?=[百千万亿])")


def write(text: str, other: str, *, cantonese: bool) -> str:
    """Return Chinese with numbers and signs as words; `other` is what another engine wrote."""
    if " " in text:
        text = _BLANK_BESIDE_HAN.sub("", text)
    if not _HAS_NUMBER_OR_SIGN.search(text):
        return text
    beside = beside_form(simplify(other)) if other else ""
    for match in english.GROUPED.finditer(text):  # 12,345 is never said digit by digit
        digits = match.group().replace(",", "")
        if not any(words in beside for words in readings_han(digits[:16])):
            beside += han_value(int(digits))
    present = set(text)
    for trigger, rules in _rules(cantonese):
        if not trigger or not present.isdisjoint(trigger):
            for pattern, rule in rules:
                text = pattern.sub(lambda match, rule=rule: rule(match, beside), text)  # type: ignore[misc]
    text = _MULTIPLIED.sub(lambda match: _choose(readings_han(match[1]), beside), text)
    return _DIGITS.sub(lambda match: _number(match, beside), text)


def _number(match: re.Match[str], beside: str) -> str:
    text, whole, fraction = match.string, match[1] or match.group(), match[2]
    before, after = text[max(0, match.start() - 6) : match.start()], text[match.end() : match.end() + 3]
    if _belongs_to_latin(before, after) and not _said_in_han(whole, fraction, before, beside):
        return english.write_number(whole, fraction)
    if fraction is None:
        return _in_place(readings_han(whole, before, after), before, after, beside)
    readings = readings_han(whole.lstrip("0") or "0", before, ".")
    return f"{_choose([f'{one}点{han_digits(fraction)}' for one in readings], beside)}"


def _in_place(readings: list[str], before: str, after: str, beside: str) -> str:
    """The reading that the other engine has between the same neighbours, else beside one of them, else the usual."""
    first, last = beside_form(before)[-1:], beside_form(after)[:1]
    for form in (f"{first}{{}}{last}", f"{{}}{last}" if last else "", f"{first}{{}}" if first else ""):
        for words in readings if form else ():
            if form.format(words) in beside:
                return words
    return readings[0]


def _belongs_to_latin(before: str, after: str) -> bool:
    """In a sentence with Han: does the number belong to the Latin word before it (iPhone 15) or after it (3 apples)?"""
    if re.search(r"[A-Za-z][ -]?$", before):
        return not re.match(rf"\s?[{MEASURES}{ORDINAL_NEIGHBOURS}]", after)
    return re.match(r" [A-Za-z]{2}", after) is not None


def _said_in_han(whole: str, fraction: str | None, before: str, beside: str) -> bool:
    tail = f"点{han_digits(fraction)}" if fraction else ""
    letter = beside_form(before)[-1:]
    return any(f"{letter}{words}{tail}" in beside for words in readings_han(whole.lstrip("0") or "0"))
