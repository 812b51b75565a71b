"""Rover throughput, in pairs of transcripts per second on one core, against jiwer and pypinyin called per pair.

    python -m benchmarks.rover [--pairs 3000] [--seed 1] [--json FILE]

What is compared, on the same pairs in the same order:

    ours       AgreementJudge.measure: normalise both, tokens, phones, WER and PER (the paths the Rover stage runs)
    per pair   what one would write first: jiwer.process_words over space-joined mixed tokens for WER, then
               pypinyin.lazy_pinyin twice per side (initials, finals with tones), English words looked up one by one in
               the same CMU dictionary (letters when it lacks one), and jiwer.process_words over those phones for PER

The baseline never skips equal pairs, remembers nothing between pairs, has no rules for unknown words and no Cantonese.
Both must give the same WER and PER for every Mandarin pair, or the benchmark stops before it times anything.

    included   both sides normalise with operators.text.spoken inside the timed loop
    excluded   both get spoken forms made beforehand, so only scoring is timed
    naive      the baseline only strips punctuation with a regular expression, ours normalises in full

The corpus is made here from a seed: clip-length sentences (about 10 s of speech), all distinct, 50 % Mandarin, 30 %
English, 20 % code-switched. The "ASR" side has punctuation, capitals and digits, the "copilot" side is bare, as Whisper
and Paraformer write. Half of the pairs say the same words; in the rest one to three tokens were replaced, dropped or
doubled. docs/benchmarks/text.md, section "Rover", holds what came out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jiwer
from pypinyin import Style, lazy_pinyin

from operators.agreement import AgreementJudge
from operators.clip import Hypothesis
from operators.text.folded import Compared, Folder, Form
from operators.text.phones_en import cmu_dictionary
from operators.text.spoken import Normaliser, tokens

SHARES = {"zh": 0.5, "en": 0.3, "mixed": 0.2}
DIFFERING = 0.5


class Pair(NamedTuple):
    kind: str
    language: str
    asr: str
    copilot: str


ZH_WHO: tuple[str, ...] = (
    "我们", "他们", "老师", "公司", "医生", "记者", "邻居", "司机", "爷爷", "小王", "经理", "同学们", "主持人",
    "专家", "市政府", "那位女士",
)  # fmt: skip
ZH_WHEN: tuple[str, ...] = (
    "今天上午", "昨天晚上", "上个星期", "去年夏天", "最近几天", "下班以后", "开会之前", "第二天早上", "春节期间",
    "刚才",
)  # fmt: skip
ZH_DO: tuple[str, ...] = (
    "在银行办理了贷款", "去火车站接了一位重要的客人", "把重要的文件放在了桌子上", "讨论了下一步的工作计划",
    "参加了音乐会的排练", "行走在长长的街道上", "觉得这个方案还有很多问题", "买了{n}斤苹果和{m}个西瓜", "跑了{n}公里",
    "花了{m}块钱", "重新检查了一遍设备", "等了{n}分钟才等到公交车", "长大以后想当一名科学家", "看完了那本厚厚的小说",
    "给远方的朋友写了一封很长的信", "收到了{n}封邮件", "介绍了传统文化的发展", "测量了房间的长度",
)  # fmt: skip
ZH_LINK: tuple[str, ...] = (
    "，所以", "，但是", "，然后", "，而且", "，因为", "，不过", "。后来", "，于是",
)  # fmt: skip
EN_WHO: tuple[str, ...] = (
    "we", "the teacher", "my brother", "the company", "their doctor", "a reporter", "our neighbour", "the driver",
    "somebody", "the committee",
)  # fmt: skip
EN_DO: tuple[str, ...] = (
    "decided to move the meeting to the afternoon", "couldn't find the right address",
    "has already finished reading the report", "bought {n} apples and {m} oranges",
    "walked {n} miles along the river", "doesn't really know what happened", "spent {m} dollars on lunch",
    "would like to record another song", "were talking about the weather for a while", "is going to visit the museum",
    "thought their plan wasn't good enough", "travelled through the mountains last summer",
    "won't be home before dinner",
)  # fmt: skip
EN_WHEN: tuple[str, ...] = (
    "yesterday", "this morning", "last week", "in the evening", "after the game", "on Monday", "before breakfast",
    "a few days ago",
)  # fmt: skip
EN_LINK: tuple[str, ...] = (
    ", and ", ", but ", ". Then ", ", so ", ". After that ",
)  # fmt: skip
MIXED_DO: tuple[str, ...] = (
    "用 iPhone {n} 拍了一段 video 发到 YouTube 上", "把 PPT 发给了 marketing 部门", "的 KPI 今年完成了百分之{m}",
    "在 GitHub 上提交了 code", "和 Peter 约好去 Starbucks 喝 coffee", "觉得这个 project 的 deadline 太紧了",
    "打开 WeChat 看了一下 message", "参加了一个 machine learning 的 workshop", "下载了最新版本的 Python",
)  # fmt: skip


def sentence(kind: str, draw: random.Random) -> str:
    """One sentence as an ASR with punctuation writes it."""

    def filled(template: str) -> str:
        return template.format(n=draw.randint(2, 99), m=draw.randint(2, 990))

    if kind == "en":
        clauses = [
            f"{draw.choice(EN_WHO)} {filled(draw.choice(EN_DO))} {draw.choice(EN_WHEN)}"
            for _ in range(draw.randint(1, 3))
        ]
        text = clauses[0]
        for clause in clauses[1:]:
            text += draw.choice(EN_LINK) + clause
        return text[0].upper() + text[1:] + "."
    does = MIXED_DO if kind == "mixed" else ZH_DO
    clauses = []
    for _ in range(draw.randint(1, 3)):
        clauses.append(draw.choice(ZH_WHO) + draw.choice(ZH_WHEN) + filled(draw.choice(does)))
        does = ZH_DO
    text = clauses[0]
    for clause in clauses[1:]:
        text += draw.choice(ZH_LINK) + clause
    return text + "。"


def corpus(count: int, seed: int) -> list[Pair]:
    """`count` pairs of distinct sentences, from a seed."""
    draw = random.Random(seed)
    normaliser = Normaliser()
    pairs: list[Pair] = []
    seen: set[str] = set()
    while len(pairs) < count:
        kind = draw.choices(list(SHARES), list(SHARES.values()))[0]
        language = "en" if kind == "en" else "zh"
        asr = sentence(kind, draw)
        if asr in seen:
            continue
        seen.add(asr)
        copilot = normaliser.spoken(asr, language)
        if draw.random() < DIFFERING:
            copilot = misheard(copilot, draw)
        pairs.append(Pair(kind, language, asr, copilot))
    return pairs


def misheard(text: str, draw: random.Random) -> str:
    """A spoken form with one to three tokens replaced by a token of its own, dropped, or doubled."""
    words = tokens(text)
    for _ in range(draw.randint(1, 3)):
        place, other = draw.randrange(len(words)), draw.choice(words)
        words[place : place + 1] = draw.choice(([other], [], [words[place]] * 2)) if len(words) > 1 else [other]
    return re.sub("(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])", "", " ".join(words))


class AsGiven(Folder):
    """Takes both texts as they are, for timing without normalisation."""

    def compare(self, first: str, second: str, language: str | None, *, always_fold: bool = False) -> Compared:
        return Compared(Form(first, first, ()), Form(second, second, ()))


def as_given(text: str, language: str | None) -> str:
    return text


RUNS = re.compile(r"[a-z']+|[\u4e00-\u9fff]+|\d+")
PUNCTUATION = re.compile(r"[^\w\s']")


def without_punctuation(text: str, language: str | None) -> str:
    return PUNCTUATION.sub(" ", text).lower()


def per_pair(pair: Pair, normalise: Callable[[str, str | None], str]) -> tuple[float, float]:
    """WER and PER of one pair with jiwer and pypinyin, in percent."""
    asr, copilot = normalise(pair.asr, pair.language), normalise(pair.copilot, pair.language)
    reference, hypothesis = (copilot, asr) if pair.language == "zh" else (asr, copilot)
    wer = jiwer.process_words(" ".join(tokens(reference)), " ".join(tokens(hypothesis))).wer
    per = jiwer.process_words(" ".join(phones(reference)), " ".join(phones(hypothesis))).wer
    return 100 * wer, 100 * per


def phones(text: str) -> list[str]:
    found: list[str] = []
    for run in RUNS.findall(text):
        if run[0].isascii():
            found += cmu_dictionary().get(run, run)
        else:
            initials = lazy_pinyin(run, style=Style.INITIALS)
            finals = lazy_pinyin(run, style=Style.FINALS_TONE3, neutral_tone_with_five=True)
            found += [phone for both in zip(initials, finals, strict=True) for phone in both if phone]
    return found


def ours(pair: Pair, rover: AgreementJudge) -> tuple[float, float]:
    asr, copilot = Hypothesis(engine="asr", text=pair.asr), Hypothesis(engine="copilot", text=pair.copilot)
    agreement = rover.measure(asr, [copilot], pair.language, seconds=10.0)
    return agreement.wer, agreement.per


def pairs_per_second(works: dict[str, tuple[Callable[[Pair], object], list[Pair]]], repeats: int) -> dict[str, float]:
    """Pairs per second of CPU time, so that neighbours on the machine count little; the best of `repeats` rounds of
    all.
    """
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, (work, pairs) in works.items():
            start = time.process_time()
            for pair in pairs:
                work(pair)
            best[name] = max(best.get(name, 0.0), len(pairs) / (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    raw = corpus(arguments.pairs, arguments.seed)
    normaliser = Normaliser()
    spoken = [
        pair._replace(
            asr=normaliser.spoken(pair.asr, pair.language), copilot=normaliser.spoken(pair.copilot, pair.language)
        )
        for pair in raw
    ]
    full, bare = AgreementJudge(), AgreementJudge(folder=AsGiven())
    for pair in spoken:  # both must say the same before it matters which is quicker; this also loads the dictionaries
        if pair.kind == "zh":
            mine, theirs = ours(pair, bare), per_pair(pair, as_given)
            assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 1e-6, (pair, mine, theirs)
        else:
            ours(pair, bare)

    rows = []
    for kind in ("all", *SHARES):
        some_raw = [pair for pair in raw if kind in ("all", pair.kind)]
        some_spoken = [pair for pair in spoken if kind in ("all", pair.kind)]
        measured = pairs_per_second(
            {
                "ours_included": (lambda pair: ours(pair, full), some_raw),
                "per_pair_included": (lambda pair: per_pair(pair, normaliser.spoken), some_raw),
                "per_pair_naive": (lambda pair: per_pair(pair, without_punctuation), some_raw),
                "ours_excluded": (lambda pair: ours(pair, bare), some_spoken),
                "per_pair_excluded": (lambda pair: per_pair(pair, as_given), some_spoken),
            },
            arguments.repeats,
        )
        rows.append(
            {
                "kind": kind,
                "pairs": len(some_raw),
                "equal_share": sum(pair.asr == pair.copilot for pair in some_spoken) / len(some_spoken),
                "tokens_per_side": sum(len(tokens(pair.asr)) for pair in some_spoken) / len(some_spoken),
                **measured,
                "ratio_included": measured["ours_included"] / measured["per_pair_included"],
                "ratio_naive": measured["ours_included"] / measured["per_pair_naive"],
                "ratio_excluded": measured["ours_excluded"] / measured["per_pair_excluded"],
            }
        )

    print(
        f"{arguments.pairs} pairs, seed {arguments.seed}: pairs per second of CPU time on one core, best of "
        f"{arguments.repeats}\n"
    )
    print(
        "| pairs | tokens | equal | ours | per pair | ratio | ours, no norm. | per pair, no norm. | ratio | naive "
        "| ratio |"
    )
    print("|---|" + "--:|" * 10)
    for row in rows:
        cells = (
            f"{row['kind']} | {row['tokens_per_side']:.1f} | {row['equal_share']:.0%}",
            f"{row['ours_included']:.0f} | {row['per_pair_included']:.0f} | {row['ratio_included']:.1f}",
            f"{row['ours_excluded']:.0f} | {row['per_pair_excluded']:.0f} | {row['ratio_excluded']:.1f}",
            f"{row['per_pair_naive']:.0f} | {row['ratio_naive']:.1f}",
        )
        print(f"| {' | '.join(cells)} |")
    print()
    result = {"seed": arguments.seed, "differing_share": DIFFERING, "rows": rows}
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
