"""Numbers as Han words, and words back to numbers.

    "203" ──readings_han──> 二百零三 | 二零三 | 两百零三     what a speaker may have said, the usual reading first
    二百零三 ──parse_han──> 203 ──reading_han──> one reading   what a comparison needs

One written number has several readings (`203室` is 二零三 or 二百零三) and an engine that writes digits does not say
which one it heard. The spoken form takes the reading that the other engine spelt out, or the usual one; the folded form
reads all of them alike.
"""

from __future__ import annotations

import re

HAN_DIGITS = "零一二三四五六七八九"
_HAN_VALUE = {digit: value for value, digit in enumerate(HAN_DIGITS)} | {"两": 2, "幺": 1}
_HAN_UNIT = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = ("", "万", "亿", "万亿")

MEASURES = (
    "个位名本张条只头匹件块元角毛天周星礼小秒分次遍回场顿口杯瓶碗盘盒箱包袋部台辆架艘列座栋幢层"
    "间家所户排组群帮批节课篇页句行段首支"
    "枚颗粒滴片朵棵株根束串堆双对副套米厘毫公里英尺寸斤克吨升倍人种类样项款份岁成股门则亩平立码年步把晚杆圈场站桌局颗趟笔扇封顶"
    "面道处摄度蚊架啖餐件樽罐仙"
    "個條張塊頭週禮遍場頓盤間戶組節課篇頁顆雙對釐畝類樣項歲門碼趟筆輛臺層處"
)
"""First characters of measure words and units: a bare 2 before one of them is read 两."""

ORDINAL_NEIGHBOURS = "点月号楼班级期年"
"""What a number counts without being read 两 before it: 二月, 二号楼."""

_DIGITWISE_AFTER = re.compile(r"室|房|路公|路车|次列车|次航班|号房|航班")
_DIGITWISE_BEFORE = re.compile(
    r"(?:电话|手机|号码|热线|拨打|拨|密码|验证码|房间|房间号|尾号|编号|邮编|代码|学号|工号|航班|微信|车牌)[是为:号]?$"
)
_HOTLINES = frozenset({"110", "119", "120", "122", "114", "911", "999"})


def parse_han(run: str) -> int | None:
    """Return the value of a well-formed spelt number (二百零三, 十二万三千, 一百五 = 150).

    None for anything else (四五百, 千万, 七八十).
    """
    total, myriad_cap = 0, 10**16
    section, digit, unit_cap, zero = 0, None, 10_000, False
    last_unit = 0  # unit that a closing bare digit would abbreviate: 一百五, 一万二
    started = False
    for at, char in enumerate(run):
        # 两 is a digit only before a unit or alone: 五十两 is fifty liang, 三百两 is silver too.
        if char == "两" and run[at + 1 : at + 2] not in ("百", "千", "万", "亿") and run != "两":
            return None
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
    """Return a whole number in words: 2024 -> 两千零二十四.

    两 before 千 万 亿, 二 before 百 and 十, as in careful speech.
    """
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
    """Return a number digit by digit: 2024 -> 二零二四."""
    return "".join(HAN_DIGITS[int(digit)] for digit in digits)


def reading_han(digits: str, before: str = "", after: str = "") -> str:
    """Return how the digits of a whole number are read in Chinese, given the text on both sides of them.

    Digit by digit: years, rooms, telephone numbers, codes, leading zeros, runs such as 123. Otherwise by value.
    """
    size = len(digits)
    measured = after[:1] != "" and (after[0] in MEASURES or after[0] in "点.") and after[0] != "年"
    if digits == "2" and _is_two_of_them(before, after):
        return "两"
    if size == 1:
        return HAN_DIGITS[int(digits)]
    if digits[0] == "0" or size > 16 or (size >= 12 and not digits.endswith("000")):
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


def _is_two_of_them(before: str, after: str) -> bool:
    """A 2 that counts is 两, one that ranks is 二: 两个, 两层楼, but 第二个, 住在二层, 二级, 周二."""
    if not after or after[0] not in MEASURES + "点":
        return False
    if before[-1:] in tuple("第十百千万亿零一二三四五六七八九两初周期老点之.星") or after[0] in "级手":
        return False
    return not (after[0] in "层班区队组楼栋座" and re.search(r"(?:在|到|去|上|来|是|住|从)$", before))


def readings_han(digits: str, before: str = "", after: str = "") -> list[str]:
    """Return all the ways in which a whole number is read there, the usual one first: 二百零三, 二零三, 两百零三."""
    found = [reading_han(digits, before, after)]
    if len(digits) > 1:
        if digits[0] != "0" and len(digits) <= 16:
            value = han_value(int(digits))
            found += [value, value.replace("二百", "两百")]
            if len(value) > 3 and value[-1] in "百十千" and value[-3] in "百千万":
                found.append(value[:-1])  # 一百五, 三千六
        if len(digits) == 2 and after[:1] == "年":
            found += [han_digits(f"20{digits}"), han_digits(f"19{digits}")]  # 23年 is 二零二三年 too
        # 56个人 is never 五六个人, which is five or six; 19年 may be 一九年.
        if len(digits) > 2 or digits[0] == "0" or not after or after[0] == "年" or after[0] not in MEASURES:
            found += [han_digits(digits), han_digits(digits).replace("一", "幺")]
    elif digits == "2":
        found.append("两" if found[0] == "二" else "二")
    return list(dict.fromkeys(found))


def _is_short_year(digits: str) -> bool:
    """98 as the year 1998: two digits that are seldom a length. 80年 is often one, and 七八年 may be seven or eight
    years.
    """
    return digits[0] in "789" and digits[1] != "0" and int(digits[1]) != int(digits[0]) + 1


def _is_count(digits: str) -> bool:
    """Counting up or down by one: 123, 54321."""
    return digits in "0123456789" or digits in "9876543210"
