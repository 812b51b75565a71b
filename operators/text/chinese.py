"""Spoken form of the Han parts of a transcript: one script, numbers as words, no fillers, no 儿化.

    text ─one_script─> 买了 23 个 ─write_symbols, write_number─> 买了二十三个 ─reread_numbers─> one reading per number
         ─strip_fillers, strip_erhua─> 嗯花儿 -> 花

Rules are kept to what an engine's spelling leaves open. What a listener can hear (日 or 号, 元 or 块) stays as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from operators.text.numbers import (
    CURRENCY_SIGNS,
    HAN_DIGITS,
    MEASURES,
    ORDINAL_NEIGHBOURS,
    currency_name,
    han_digits,
    han_value,
    parse_han,
    reading_english,
    reading_han,
)

# Two spellings with one pronunciation (异形词; many are pairs of GF 1001-2001): no listener can tell which was meant.
_VARIANTS_ZH = {
    "甚么": "什么",
    "妳": "你",
    "牠": "它",
    "想像": "想象",
    "好象": "好像",
    "其它": "其他",
    "部份": "部分",
    "身分": "身份",
    "成份": "成分",
    "惟一": "唯一",
    "帐号": "账号",
    "帐户": "账户",
    "当做": "当作",
    "叫作": "叫做",
    "看作": "看做",
    "定购": "订购",
    "预定": "预订",
    "定金": "订金",
    "思惟": "思维",
    "倒楣": "倒霉",
    "辞汇": "词汇",
    "计画": "计划",
    "连络": "联络",
    "份量": "分量",
    "图象": "图像",
    "录象": "录像",
    "装璜": "装潢",
    "交待": "交代",
    "渡假": "度假",
    "做为": "作为",
    "做客": "作客",
    "凭藉": "凭借",
    "热呼呼": "热乎乎",
    "祇": "只",
    "衹": "只",
    "麽": "么",
}

# Cantonese has no one spelling: the same word written two ways.
_VARIANTS_YUE = {
    "俾": "畀",
    "噉": "咁",
    "依家": "而家",
    "搵": "揾",
    "哂": "晒",
    "嗮": "晒",
    "喇": "啦",
    "嘞": "啦",
    "咯": "啰",
    "噃": "喎",
    "咩嘢": "乜嘢",
    "尐": "啲",
    "吖": "啊",
    "系度": "喺度",
    "嗰": "𠮶",
    "甚么": "什么",
    "妳": "你",
}

_VARIANT_PATTERN = {
    True: re.compile("|".join(_VARIANTS_YUE)),
    False: re.compile("|".join(_VARIANTS_ZH)),
}
# 著 is 着 in Taiwan and Hong Kong spelling; OpenCC's tw2s also breaks 显著 in text that was simplified all along,
# so not tw2s.
_ASPECT_ZHE = re.compile(r"(?<![名显土原编专巨昭合译论卓拙遗])著(?![名作者书称述录于有])")
# 著书 and 著录 are words, unless what stands before is something one does with a book or a recording: 拿著書, 聽著錄音.
_ASPECT_ZHE_BOOK = re.compile("(?<=[拿看读抱带背捧翻念教握提拎挎夹摆放堆听开跟])著(?=[书录])")
_LETTER_D = re.compile(r"(?<=[\u3400-\u9fff])\s?[dD](?![A-Za-z0-9])")

HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_N = "[零一二三四五六七八九十百千万亿两]"
_D = f"[{HAN_DIGITS}幺]"
_ODD_NUMERALS = re.compile(rf"[〇○廿卅]|幺(?={_D}{{2}})|(?<={_D}{{2}})幺|(?<={_D})幺(?={_D})")
_ODD_VALUE = {"〇": "零", "○": "零", "廿": "二十", "卅": "三十", "幺": "一"}
_RUN = re.compile(rf"{_N}{{2,}}")
_AFTER_LATIN = re.compile(
    rf"(?<=[A-Za-z])\s?((?:{_N}{{2,}}|[二三四五六七八九]|一(?=[的季])|一(?![{HAN}])))(?![{MEASURES}{ORDINAL_NEIGHBOURS}]|{_N})"
)
_TWO_MEASURED = re.compile(rf"(?<![第十百千万亿零一二三四五六七八九两初周期老点之])二(?=[{MEASURES}](?!级|手))")
_TWO_DECIMAL = re.compile(r"两点(?=[零一二三四五六七八九])")
_TWO_O_CLOCK = re.compile(r"(?<![第十百千万亿零一二三四五六七八九两])二点(?![零一二三四五六七八九])")
_DECIMAL_MYRIAD = re.compile(rf"(?<!{_N})({_N}{{1,8}})点([{HAN_DIGITS}]{{1,2}})([万亿])(?!{_N})")
_NEGATIVE_DEGREES = re.compile(
    rf"(?<!正)负(?={_N}{{1,4}}(?:点{_N}{{1,4}})?(?:到(?:零下)?{_N}{{1,4}}(?:点{_N}{{1,4}})?)?度)"
)
_WHOLE_PERCENT = re.compile(rf"百分之一百(?!{_N}|点)")

# Clock times: the parts that digits leave unsaid (3:30 is 三点半 or 三点三十分) fall together.
_CLOCK = (
    (re.compile("点三十(?:分(?![之钟])|(?![一二三四五六七八九分]))"), "点半"),
    (re.compile("点一刻"), "点十五"),
    (re.compile("点三刻"), "点四十五"),
    (re.compile("点整"), "点"),
)
# 八点五分 is 8:05 after a time of day; without one it may be a score of 8.5.
_CLOCK_SHORT_MINUTE = re.compile(
    rf"((?:[上下中]午|[早晚]上|[早清凌]晨|傍晚|夜里|夜晚|朝早|下昼|[今明][早晚]|昨晚)的?{_N}{{1,3}}点)([一二三四五六七八九])分(?![之钟])"
)
_CLOCK_MINUTE = re.compile("(点(?:[二三四五]?十[一二三四五六七八九]?|零[一二三四五六七八九]))分(?![之钟])")

_UNITS = {
    "km/h": "公里每小时",
    "m/s": "米每秒",
    "km2": "平方公里",
    "m2": "平方米",
    "m3": "立方米",
    "km": "公里",
    "kg": "公斤",
    "cm": "厘米",
    "mm": "毫米",
    "ml": "毫升",
    "mL": "毫升",
    "mg": "毫克",
    "m": "米",
    "g": "克",
    "L": "升",
    "°C": "度",
    "°F": "华氏度",
    "°": "度",
    "℃": "度",
    "¢": "美分",
}
_NUMBER = r"\d+(?:\.\d+)?"
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(map(re.escape, _UNITS))})(?![A-Za-z])")
_CURRENCY = {"¥": "元", "￥": "元", "US$": "美元", "HK$": "港元", "NT$": "台币", "$": "美元", "€": "欧元", "£": "英镑"}
_CURRENCY |= {
    "₹": "卢比",
    "₩": "韩元",
    "₽": "卢布",
    "₺": "里拉",
    "₫": "越南盾",
    "₱": "比索",
    "฿": "泰铢",
    "₪": "谢克尔",
}
_MONEY = re.compile(rf"(US\$|HK\$|NT\$|[{CURRENCY_SIGNS}])\s?({_NUMBER})([万亿]*)(?:[美港欧韩]?元)?")
_DATE = re.compile(r"(?<![\d.])((?:19|20)\d\d)([-/.])(1[0-2]|0?[1-9])\2(3[01]|[12]\d|0?[1-9])(?![\d.])")
_TIME = re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_PHONE = re.compile(r"(?<![\d-])(?:0\d{2,3}-\d{7,8}|\d{3}-\d{3,4}-\d{4})(?![\d-])")
_SCORE = re.compile(r"(?<![\d:])(\d+):(\d+)(?![\d:])")
_SCORE_BEFORE = re.compile(r"(?:比分|以|赢|输|败|胜|打成|领先|落后|战平)(?:了|是|为)?\s?$")
# A dash before a number is a minus only where nothing measured stands before it: 5度-10度 and 5%-10% are ranges. After
# Han it needs a percentage or a temperature behind it, or 是 为 到 至 于 before it: the dash of 歼-20 is not said.
_NO_RANGE = r"(?<![\d.%‰°])(?<!\d度)(?<!\d\s)(?<!°[CF])"
_BELOW_ZERO = re.compile(
    rf"{_NO_RANGE}-\s?({_NUMBER})(?=(?:\s?(?:到|至|[~～—–-]+)\s?-?\s?{_NUMBER})?\s?(?:°|度|摄氏度))"
)
_NEGATIVE_SHARE = re.compile(rf"(?<![A-Za-z)]){_NO_RANGE}-(?={_NUMBER}\s?(?:[%‰]|个百分点))")
_MINUS = re.compile(rf"(^|[^\w)]|[是为到至于])-(?={_NUMBER})")
_SPAN = re.compile(r"(?:(?<=\d)|(?<=\d度))\s?[~～—–-]+\s?(?=\d|零下|负|百分之|千分之)")
_WITH_FRACTION = re.compile(r"(?<![\d/.])(\d{1,3}) (\d{1,2})/(\d{1,2})(?![\d/])")
_POWER = re.compile(r"\^(-?)(\d{1,4})(?!\d)")
_CENTS = re.compile(r"(\.\d)0(?=元|块|美元|欧元|英镑)")

_FILLERS = re.compile("[嗯呃啊呀哦噢喔诶欸哎唉]+")
_ERHUA = re.compile(rf"(?<=[{HAN}])(?<![女婴幼少孤健胎产宠血男育生小侄患弃妻乞儿])儿(?![子童女媳歌科孙时戏郎茶化])")


@lru_cache(maxsize=1)
def _simplifier() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


def simplify(text: str) -> str:
    """Traditional Han to simplified, by phrases where one character has two forms (乾隆, 干净). OpenCC, t2s."""
    return str(_simplifier().convert(text))


def one_script(text: str, *, cantonese: bool) -> str:
    """Simplified Han with one spelling per word. Cantonese too: traditional to simplified merges, the other way
    guesses.
    """
    text = simplify(text)
    if "著" in text:
        text = _ASPECT_ZHE_BOOK.sub("着", _ASPECT_ZHE.sub("着", text))
    variants = _VARIANTS_YUE if cantonese else _VARIANTS_ZH
    text = _VARIANT_PATTERN[cantonese].sub(lambda match: variants[match.group()], text)
    return _LETTER_D.sub("啲", text) if cantonese else text


def write_symbols(text: str, *, cantonese: bool) -> str:
    """Symbols around Arabic digits to Han.

    ￥5 -> 5元, 12% -> 百分之12, 3:05 -> 3点零5, 5km -> 5公里, -3°C -> 零下3度.
    """
    currency = _CURRENCY | ({"$": "蚊"} if cantonese else {})
    text = _PHONE.sub(lambda match: match.group().replace("-", ""), text)
    text = _MONEY.sub(
        lambda match: f"{match[2]}{match[3]}{currency.get(match[1]) or f' {currency_name(match[1])} '}", text
    )
    text = _CENTS.sub(r"\1", text)
    text = _DATE.sub(lambda match: f"{match[1]}年{int(match[3])}月{int(match[4])}日", text)
    text = _TIME.sub(_clock, text)
    text = _SCORE.sub(r"\1比\2", text)
    if "^" in text:
        text = _POWER.sub(_power, text)
    if "-" in text:
        text = _NEGATIVE_SHARE.sub("负", _BELOW_ZERO.sub(r"零下\1", text))
    text = _UNIT.sub(lambda match: _UNITS[match[1]], text)
    text = re.sub(rf"({_NUMBER})\s?%", r"百分之\1", text)
    text = re.sub(rf"({_NUMBER})\s?‰", r"千分之\1", text)
    text = _WITH_FRACTION.sub(_with_fraction, text)
    text = re.sub(r"(?<![\d/])(\d{1,3})/(\d{1,3})(?![\d/])", r"\2分之\1", text)
    text = _MINUS.sub(r"\1负", _SPAN.sub("到", text))
    for symbol, word in (("+", "加"), ("×", "乘"), ("*", "乘"), ("÷", "除以"), ("=", "等于")):
        if symbol in text:
            text = re.sub(rf"(?<=\d)\s?{re.escape(symbol)}\s?(?=\d)", word, text)
    return text


def _power(match: re.Match[str]) -> str:
    minus, exponent = match.groups()
    return f"的{'负' if minus else ''}{exponent}次方" if minus or exponent != "2" else "的平方"


def _with_fraction(match: re.Match[str]) -> str:
    whole, above, below = match.groups()
    return f"{whole}又{below}分之{above}" if 0 < int(above) < int(below) else match.group()


def drop_units(text: str) -> str:
    """Without the Latin letters that are units of a number, to see whether any other Latin is there."""
    return _UNIT.sub("", text)


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match.groups()
    if _SCORE_BEFORE.search(match.string[: match.start()]):
        return match.group()
    words = f"{int(hour)}点"
    if int(minute) or second:
        words += f"零{int(minute)}" if int(minute) < 10 else minute
    return words + (f"分{int(second)}秒" if second and int(second) else "")


def write_number(whole: str, fraction: str | None, before: str, after: str) -> str:
    """One Arabic number in Han words: digits of the whole part, digits after the point if any, and the text around
    it.
    """
    if fraction is not None:
        return f"{reading_han(whole.lstrip('0') or '0', before, '点')}点{han_digits(fraction)}"
    return reading_han(whole, before, after)


def reread_numbers(text: str) -> str:
    """Every spelt number read in the one canonical way, so that 203室, 二零三室 and 二百零三室 come out alike."""
    if _ODD_NUMERALS.search(text):
        text = _ODD_NUMERALS.sub(lambda match: _ODD_VALUE[match.group()], text)
    if "摄氏度" in text:
        text = text.replace("摄氏度", "度")
    text = _AFTER_LATIN.sub(_english_number, text)
    if "负" in text:
        text = _NEGATIVE_DEGREES.sub("零下", text.replace("百分之负", "负百分之"))
    if "点" in text:
        text = _DECIMAL_MYRIAD.sub(_decimal_myriad, text)
    text = _RUN.sub(_reread_run, text)
    if "二" in text:
        text = _TWO_MEASURED.sub("两", text)
    if "点" in text:
        for pattern, words in _CLOCK:
            text = pattern.sub(words, text)
        text = _CLOCK_SHORT_MINUTE.sub(r"\1零\2", text)
        text = _CLOCK_MINUTE.sub(r"\1", text)
        text = _TWO_O_CLOCK.sub("两点", _TWO_DECIMAL.sub("二点", text))
    if "百分之一百" in text:
        text = _WHOLE_PERCENT.sub("百分之百", text)
    return text


def _arabic(digits: str) -> str:
    return "".join(str(HAN_DIGITS.index(digit)) for digit in digits)


def _decimal_myriad(match: re.Match[str]) -> str:
    """一点二万 -> 一万两千: written 1.2万 and 12000, it is said either way, or 一万二."""
    whole, tenths, myriad = match.groups()
    value = parse_han(whole)
    if value is None:
        return match.group()
    value = (100 * value + int(_arabic(tenths).ljust(2, "0"))) * (100 if myriad == "万" else 1_000_000)
    return han_value(value) if value < 10**11 else match.group()


def _reread_run(match: re.Match[str]) -> str:
    run, text = match.group(), match.string
    if match.start() and text[match.start() - 1] in "点几数":
        return run  # decimals are digits already; 几十 and 数百 are no numbers
    before, after = text[max(0, match.start() - 6) : match.start()], text[match.end() : match.end() + 3]
    if all(char in HAN_DIGITS for char in run):
        if len(run) < 3:
            return run  # 五六个 is five or six
        return reading_han(_arabic(run), before, after)
    if run[-1] in HAN_DIGITS and run[-2] in "百千万亿" and after and after[0] in MEASURES:
        return run  # 三百一个 is 300 apiece, not 310
    value = parse_han(run)
    return run if value is None else reading_han(str(value), before, after)


def _english_number(match: re.Match[str]) -> str:
    run = match[1]
    if all(char in HAN_DIGITS for char in run):
        digits = _arabic(run)
    else:
        value = parse_han(run)
        if value is None:
            return match.group()
        digits = str(value)
    return f" {reading_english(digits)} "


def strip_fillers(text: str) -> str:
    """嗯 呃 啊 and their like dropped, also as particles: engines disagree on them and a label loses nothing."""
    return _FILLERS.sub("", text)


def strip_erhua(text: str) -> str:
    """花儿 -> 花, 玩儿 -> 玩; 女儿, 儿子, 婴儿 and the like keep a syllable of their own."""
    return _ERHUA.sub("", text) if "儿" in text else text
