"""The Han parts of a folded form: what two right transcripts of Mandarin or Cantonese may differ in, brought together.

    spoken form ─spelling variants─> ─numbers read one way─> ─clock times─> ─fillers, 儿化─> folded form ─> numbers

Rules are kept to what spelling leaves open: what a listener hears (日 or 号, 元 or 块) stays apart. A syllable that is
part of a word stays too: 五十两, 托儿所, 幸运儿, 重点整治.
"""

from __future__ import annotations

import re
from functools import lru_cache

from operators.text.numbers_zh import HAN_DIGITS, MEASURES, han_value, parse_han, reading_han
from operators.text.scripts import HAN, table

_N = "[零一二三四五六七八九十百千万亿]"
# 两 belongs to a number where one begins with it or a unit follows: 两千, 三千两百; 五十两 is fifty liang.
_RUN = re.compile(rf"(?:(?<!{_N})两(?=[百千万亿])|{_N})(?:{_N}|两(?=[百千万亿]))+")
_D = f"[{HAN_DIGITS}幺]"
_ODD_NUMERALS = re.compile(rf"[〇○廿卅]|幺(?={_D}{{2}})|(?<={_D}{{2}})幺|(?<={_D})幺(?={_D})")
_ODD_VALUE = {"〇": "零", "○": "零", "廿": "二十", "卅": "三十", "幺": "一"}
# 二 that counts is said 两; 二 that ranks (第二, 二层, 二级, 周二) is not.
_RANKING = "第十百千万亿零一二三四五六七八九两初周期老点之星"
_TWO_MEASURED = re.compile(
    rf"(?<![{_RANKING}])二(?=[{MEASURES}百千万亿两](?!级|手))(?![层级手班等类号楼路队栋座排区环线])"
)
_TWO_HUNDRED = re.compile(r"二(?=百)")
_TWO_DECIMAL = re.compile(r"两点(?=[零一二三四五六七八九])")
_TWO_O_CLOCK = re.compile(rf"(?<![{_RANKING}])二点(?![零一二三四五六七八九])")
_DECIMAL_MYRIAD = re.compile(rf"(?<!{_N})((?:两|{_N}{{1,8}}))点([{HAN_DIGITS}]{{1,2}})([万亿])(?!{_N})")
_WHOLE_PERCENT = re.compile(rf"百分之一百(?!{_N}|点)")

# Clock times: the parts that digits leave unsaid (3:30 is 三点半 or 三点三十分) fall together. An hour stands before
# them, and no measure behind them: 这一点三十年前 and 差一点三十个人 are no times.
_HOUR = "(?<=[零一二三四五六七八九十两])"
_NO_COUNT = rf"(?![{MEASURES}{_N[1:-1]}多几])"
_CLOCK = (
    (re.compile(f"{_HOUR}点三十(?:分(?![之钟{_N[1:-1]}])|{_NO_COUNT})"), "点半"),
    (re.compile(f"{_HOUR}点一刻"), "点十五"),
    (re.compile(f"{_HOUR}点三刻"), "点四十五"),
    (re.compile(f"{_HOUR}点整(?![治个理天顿合体洁容形齐])"), "点"),
)
# 八点五分 is 8:05 after a time of day; without one it may be a score of 8.5.
_CLOCK_SHORT_MINUTE = re.compile(
    rf"((?:[上下中]午|[早晚]上|[早清凌]晨|傍晚|夜里|夜晚|朝早|下昼|[今明][早晚]|昨晚)的?(?:两|{_N}{{1,3}})点)"
    rf"([一二三四五六七八九])分(?![之钟{_N[1:-1]}])"
)
_CLOCK_MINUTE = re.compile(
    f"{_HOUR}(点(?:[二三四五]?十[一二三四五六七八九]?|零[一二三四五六七八九]))分(?![之钟{_N[1:-1]}])"
)

_FILLERS = re.compile("[嗯呃啊呀哦噢喔诶欸哎唉]+")
_SYLLABLE_BEFORE = "女婴幼少孤健胎产宠血男育生小侄患弃妻乞儿托潮能"
_ERHUA = re.compile(
    rf"(?<=[{HAN}])(?<![{_SYLLABLE_BEFORE}])(?<!幸运)(?<!畸形)(?<!问题)(?<!聋哑)(?<!天之骄)儿"
    "(?![子童女媳歌科孙时戏郎茶化园所])"
)
_NUMBER = re.compile(
    rf"(?:负|零下|第)?(?:[百千]分之)?(?:{_N}|两|几(?={_N})|(?<={_N})几)+(?:点(?:{_N}+|半))*(?:分之{_N}+)?(?:又{_N}+分之{_N}+)?"
)


@lru_cache(maxsize=2)
def _variants(cantonese: bool) -> tuple[re.Pattern[str], dict[str, str]]:
    found = {row[0]: row[1] for row in table("spelling_yue.txt" if cantonese else "spelling_zh.txt")}
    return re.compile("|".join(sorted(map(re.escape, found), key=len, reverse=True))), found


# 左 (left) and 咗 (a thing done) sound alike: 食左 is 食咗, but 转左 and 左边 are directions.
_DONE = re.compile(rf"(?<=[{HAN}])(?<![向转靠最姓])左(?![右边手转面侧翼便轮派岸方脚腿眼耳上下肩膊近])")
_LETTER_D = re.compile(r"(?<=[\u3400-\u9fff])\s?d(?![a-z0-9])\s?")


def fold(text: str, *, cantonese: bool, fillers: bool, erhua: bool) -> str:
    """Return a spoken form with what spelling leaves open in its Han brought together."""
    pattern, variants = _variants(cantonese)
    text = pattern.sub(lambda match: variants[match.group()], text)
    if cantonese:
        text = _DONE.sub("咗", text) if "左" in text else text
        text = _LETTER_D.sub("啲", text) if "d" in text else text
    if fillers:
        text = _FILLERS.sub("", text)
    text = _fold_numbers(text)
    return _ERHUA.sub("", text) if erhua and not cantonese and "儿" in text else text


def numbers(text: str) -> list[str]:
    """Return the numbers of a folded form, in order, each as the words of its one reading."""
    found = []
    for match in _NUMBER.finditer(text):
        number = match.group().replace("两", "二").removeprefix("第")
        # 一 alone is as often an article (有一个人), and its number is weak; 几 and 半 count with their neighbours.
        found.append("1" if number == "一" else number)
    return found


def _fold_numbers(text: str) -> str:
    """Every spelt number read in the one canonical way, so that 203室, 二零三室 and 二百零三室 come out alike."""
    if _ODD_NUMERALS.search(text):
        text = _ODD_NUMERALS.sub(lambda match: _ODD_VALUE[match.group()], text)
    if "点" in text:
        text = _DECIMAL_MYRIAD.sub(_decimal_myriad, text)
    text = _RUN.sub(_reread_run, text)
    if "二" in text:
        text = _TWO_MEASURED.sub("两", _TWO_HUNDRED.sub("两", text))
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
    return han_value(value) if value < 10**16 else match.group()


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
