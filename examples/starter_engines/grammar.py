"""Sentences to say: a small grammar of everyday Mandarin and English, with digits, dates, prices and code-switching.

    random.Random ──sentence(language)──> "明天早上七点半我和老师去图书馆" | "we arrive at seven thirty in the morning"
    a sentence ──split──> "train" (nine in ten) or "test" (one in ten, never trained on)

Everything is in spoken form (no digits, no punctuation, English in lower case), as a recogniser writes it. The closed
vocabulary, some 240 Han characters and 250 English words, is all that the starter engines know. Words that sound alike
and that context could not tell apart (他 and 她, "for" and "four") are left out on purpose.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable


def _list(items: str) -> list[str]:
    """A vocabulary as it reads best, one after the other."""
    return items.split(", ")


DIGITS_ZH = "零一二三四五六七八九"
UNITS_EN = _list(
    "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, "
    "fifteen, sixteen, seventeen, eighteen, nineteen"
)
TENS_EN = _list("twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety")
ORDINALS_EN = _list(
    "first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, eleventh, twelfth, thirteenth, "
    "fourteenth, fifteenth, sixteenth, seventeenth, eighteenth, nineteenth"
)

WHO_ZH = _list(
    "我, 你, 我们, 你们, 老师, 妈妈, 爸爸, 朋友, 医生, 学生, 小王, 小李, 老张, 弟弟, 姐姐, "
    "我和朋友, 小李和小王, 妈妈和姐姐"
)
DAY_ZH = _list("今天, 明天, 昨天, 后天, 周末, 下个星期, 每天, 星期一, 星期二, 星期三, 星期四, 星期五, 星期六, 星期天")
PART_ZH = _list("早上, 上午, 中午, 下午, 晚上")
CITY_ZH = _list("北京, 上海, 广州, 南京, 西安, 成都, 杭州, 香港")
PLACE_ZH = _list("学校, 公园, 医院, 图书馆, 火车站, 超市, 饭店, 机场, 银行, 办公室, 家里, 电影院, 教室, 商店")
ACT_ZH = _list(
    "吃饭, 喝咖啡, 看电影, 打电话, 买水果, 学习英语, 听音乐, 写作业, 开会, 跑步, 唱歌, 跳舞, 踢足球, 看书, 上网, "
    "休息, 做饭, 喝茶, 买衣服, 打篮球, 画画, 聊天, 骑自行车, 游泳"
)
WEATHER_ZH = _list("天气很好, 下大雨, 下雪了, 非常冷, 很热, 有大风, 是晴天, 是多云")
THING_ZH = _list("苹果, 手机, 电脑, 书, 衣服, 帽子, 面包, 牛奶, 鸡蛋, 桌子, 杯子, 花")
COUNTED_ZH = _list("杯咖啡, 杯牛奶, 杯茶, 个苹果, 个面包, 本书, 张票, 件衣服, 个鸡蛋, 瓶水, 碗面")
COLOUR_ZH = _list("红色, 白色, 黑色, 绿色, 蓝色, 黄色")

WHO_EN = _list(
    "i, we, you, they, tom, mary, john, anna, david, lucy, the teacher, my mother, my father, my brother, "
    "my sister, the doctor, our friends, the students"
)
DAY_EN = _list(
    "today, tomorrow, yesterday, every day, this week, next month, on monday, on tuesday, on wednesday, "
    "on thursday, on friday, on saturday, on sunday"
)
PART_EN = _list("in the morning, in the afternoon, in the evening, at night, after lunch, before dinner")
CITY_EN = _list("london, paris, boston, chicago, tokyo, berlin, sydney, toronto")
PLACE_EN = _list(
    "the school, the park, the hospital, the library, the train station, the market, the airport, the bank, "
    "the office, the kitchen, the museum, the restaurant, the river, the hotel"
)
ACT_EN = _list(
    "eat breakfast, drink coffee, watch a movie, call a friend, buy some fruit, study history, listen to music, "
    "do homework, play football, read a book, cook dinner, take a walk, clean the room, wash the car, "
    "draw a picture, learn chinese, sing a song, ride a bicycle, open the window, send a message"
)
WEATHER_EN = _list("sunny, cloudy, rainy, windy, snowy, very cold, very warm")
THING_EN = _list(
    "apple, phone, computer, table, chair, bottle, ticket, jacket, basket, garden, letter, camera, orange, window"
)
PLURAL_EN = _list("apples, tickets, bottles, oranges, letters, chairs, children, horses, pencils, flowers")
COLOUR_EN = _list("blue, green, yellow, black, white, purple, brown")
MONTH_EN = _list("january, february, march, april, may, june, july, august, september, october, november, december")


def number_zh(value: int) -> str:
    """0 to 999 as it is read in Mandarin: 23 -> 二十三."""
    if value < 10:
        return DIGITS_ZH[value]
    if value < 20:
        return "十" + (DIGITS_ZH[value - 10] if value > 10 else "")
    if value < 100:
        return DIGITS_ZH[value // 10] + "十" + (DIGITS_ZH[value % 10] if value % 10 else "")
    rest = value % 100
    head = DIGITS_ZH[value // 100] + "百"
    if rest == 0:
        return head
    return head + (DIGITS_ZH[rest // 10] + "十" if rest >= 10 else "零") + (DIGITS_ZH[rest % 10] if rest % 10 else "")


def number_en(value: int) -> str:
    """0 to 999 as it is read in English: 23 -> "twenty three"."""
    if value < 20:
        return UNITS_EN[value]
    if value < 100:
        return TENS_EN[value // 10 - 2] + (" " + UNITS_EN[value % 10] if value % 10 else "")
    return UNITS_EN[value // 100] + " hundred" + (" and " + number_en(value % 100) if value % 100 else "")


def _ordinal_en(day: int) -> str:
    if day < 20:
        return ORDINALS_EN[day - 1]
    if day % 10 == 0:
        return {20: "twentieth", 30: "thirtieth"}[day]
    return TENS_EN[day // 10 - 2] + " " + ORDINALS_EN[day % 10 - 1]


def _clock_zh(r: random.Random) -> str:
    minute = r.choice(["", "半", "", number_zh(r.randint(11, 59)) + "分"])
    hour = r.randint(1, 12)
    return ("两" if hour == 2 else number_zh(hour)) + "点" + minute


def _clock_en(r: random.Random) -> str:
    minute = r.choice(["", " thirty", " fifteen", " " + number_en(r.randint(11, 59))])
    return number_en(r.randint(1, 12)) + minute


def _quantity_zh(r: random.Random) -> str:
    value = r.choice([2, 3, 4, 5, 6, 7, 8, 9, 10, 12])
    return "两" if value == 2 else number_zh(value)


def _quantity_en(r: random.Random) -> str:
    return f"{number_en(r.randint(2, 30))} {r.choice(PLURAL_EN)}"


def _zh(r: random.Random) -> list[Callable[[], str]]:
    who, day, part, city, place, act = (
        lambda choices=choices: r.choice(choices) for choices in (WHO_ZH, DAY_ZH, PART_ZH, CITY_ZH, PLACE_ZH, ACT_ZH)
    )
    return [
        lambda: f"{day()}{part()}{who()}在{place()}{act()}",
        lambda: f"{who()}{day()}{part()}要去{place()}{act()}",
        lambda: (
            f"{who()}{r.choice(['想', '要', '不想', '打算'])}{day()}"
            f"去{city()}{r.choice(['旅游', '工作', '开会', '看朋友'])}"
        ),
        lambda: f"现在是{part()}{_clock_zh(r)}",
        lambda: f"{part()}{_clock_zh(r)}{who()}在{place()}等你",
        lambda: f"今天是{number_zh(r.randint(1, 12))}月{number_zh(r.randint(1, 30))}号星期{r.choice('一二三四五六天')}",
        lambda: (
            f"{city()}{r.choice(['今天', '明天', '昨天'])}{r.choice(WEATHER_ZH)}气温{number_zh(r.randint(1, 39))}度"
        ),
        lambda: (
            f"这{r.choice(['个', '本', '件'])}{r.choice(COLOUR_ZH)}的"
            f"{r.choice(THING_ZH)}{number_zh(r.randint(11, 299))}块钱"
        ),
        lambda: f"{who()}的电话号码是{''.join(r.choice(DIGITS_ZH) for _ in range(r.randint(6, 8)))}",
        lambda: f"请给我{_quantity_zh(r)}{r.choice(COUNTED_ZH)}和{_quantity_zh(r)}{r.choice(COUNTED_ZH)}",
        lambda: f"坐{number_zh(r.randint(3, 120))}路公共汽车到{place()}下车",
        lambda: f"从{place()}到{place()}要{number_zh(r.randint(5, 59))}分钟",
        lambda: f"{who()}喜欢{act()}也喜欢{act()}",
        lambda: (
            f"{who()}{r.choice(['觉得', '知道', '听说'])}{city()}"
            f"{r.choice(['很大', '很远', '很漂亮', '人很多', '的水果很好吃'])}"
        ),
        lambda: f"你{day()}{part()}{r.choice(['想吃什么', '想去哪里', '有没有时间', '几点起床', '想不想' + act()])}",
        lambda: f"{who()}住在{city()}已经{number_zh(r.randint(2, 30))}年了",
        lambda: f"因为{day()}{r.choice(WEATHER_ZH)}所以{who()}不去{place()}",
    ]


def _mixed(r: random.Random) -> list[Callable[[], str]]:
    return [
        lambda: (
            f"{r.choice(WHO_ZH)}{r.choice(DAY_ZH)}{r.choice(PART_ZH)}有一个 {r.choice(['meeting', 'party', 'project'])}"
        ),
        lambda: (
            f"请{r.choice(['今天', '明天', '现在'])}把 {r.choice(['email', 'video', 'project'])} 发给{r.choice(WHO_ZH)}"
        ),
        lambda: (
            f"{r.choice(WHO_ZH)}用 {r.choice(['python', 'computer', 'app'])} "
            f"{r.choice(['学习英语', '听音乐', '写作业', '画画'])}"
        ),
        lambda: f"{r.choice(PLACE_ZH)}的 wifi {r.choice(['很好', '不好', '非常好'])}",
        lambda: f"{r.choice(WHO_ZH)}喜欢在{r.choice(PLACE_ZH)}喝 coffee {r.choice(['看书', '上网', '聊天'])}",
        lambda: f"{r.choice(DAY_ZH)}{_clock_zh(r)}我们 online {r.choice(['开会', '聊天'])}可以吗 ok",
    ]


def _en(r: random.Random) -> list[Callable[[], str]]:
    who, day, part, city, place, act = (
        lambda choices=choices: r.choice(choices) for choices in (WHO_EN, DAY_EN, PART_EN, CITY_EN, PLACE_EN, ACT_EN)
    )
    return [
        lambda: f"{day()} {who()} {r.choice(['will', 'want to', 'like to', 'can', 'did not'])} {act()} {part()}",
        lambda: f"{who()} will {act()} near {place()} {day()}",
        lambda: f"{who()} {r.choice(['went', 'must go', 'will go', 'plan to go'])} to {city()} {day()}",
        lambda: f"the time is now {_clock_en(r)} {r.choice(PART_EN[:4])}",
        lambda: f"we will meet you at {_clock_en(r)} outside {place()}",
        lambda: f"today is {r.choice(DAY_EN[6:])[3:]} {r.choice(MONTH_EN)} {_ordinal_en(r.randint(1, 30))}",
        lambda: f"the weather in {city()} is {r.choice(WEATHER_EN)} and {number_en(r.randint(2, 39))} degrees",
        lambda: f"this {r.choice(COLOUR_EN)} {r.choice(THING_EN)} costs {number_en(r.randint(11, 299))} dollars",
        lambda: f"my phone number is {' '.join(r.choice(UNITS_EN[:10]) for _ in range(r.randint(5, 7)))}",
        lambda: f"please give me {_quantity_en(r)} and {_quantity_en(r)}",
        lambda: f"take bus number {number_en(r.randint(3, 120))} from {place()} to {place()}",
        lambda: f"it takes {number_en(r.randint(5, 59))} minutes to walk from {place()} to {place()}",
        lambda: f"{who()} put the {r.choice(COLOUR_EN)} {r.choice(THING_EN)} under the {r.choice(THING_EN)}",
        lambda: f"do you {r.choice(['want to', 'like to'])} {act()} or {act()}",
        lambda: f"where is the {r.choice(COLOUR_EN)} {r.choice(THING_EN)} from {city()}",
        lambda: f"{who()} lived in {city()} about {number_en(r.randint(2, 30))} years",
        lambda: f"because it is {r.choice(WEATHER_EN)} {who()} will stay in {place()}",
    ]


def split(sentence: str) -> str:
    """Which side a sentence is on, by its text alone: "test" for one in ten, "train" for the rest."""
    return "test" if hashlib.sha256(sentence.encode()).digest()[0] % 10 == 0 else "train"


def sentence(r: random.Random, language: str, side: str) -> str:
    """A sentence of `language` ("zh", one in eight of it code-switching, or "en") from one side of the split."""
    while True:
        if language == "zh":
            forms = _mixed(r) if r.random() < 0.125 else _zh(r)
        else:
            forms = _en(r)
        text = r.choice(forms)()
        if split(text) == side:
            return text
