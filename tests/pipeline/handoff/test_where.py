"""--where against SQLite, which knows what SQL means; mistakes; conditions that try to do more than choose."""

from __future__ import annotations

import random
import sqlite3
from typing import Any

import pytest

from operators.errors import UserError
from pipeline.handoff.spool import SpoolNames
from pipeline.handoff.where import Where

ROWS: list[dict[str, Any]] = [
    {
        "clip_id": f"c{number}",
        "domain": ("live", "meeting", "it's")[number % 3],
        "language": (None, "zh", "en", "yue")[number % 4],
        "gender": (None, "male", "female")[number // 2 % 3],
        "snr_db": None if number % 5 == 0 else float(number % 40) - 3.5,
        "frames": 10 * number,
        "label": "x" * (number % 3),
        "events": (None, [], ["dog"], ["dog", "rain"])[number % 4],
        "samples": 16_000 * number,
    }
    for number in range(60)
]


def chosen(condition: str) -> list[str]:
    names = SpoolNames()
    batch = names.batch({name: [row[name] for row in ROWS] for name in ROWS[0]}, len(ROWS))
    found: list[str] = Where.parse(condition).chosen(batch, names).column("clip_id").to_pylist()
    return found


@pytest.fixture(scope="module")
def sqlite() -> sqlite3.Connection:
    base = sqlite3.connect(":memory:")
    names = [name for name in ROWS[0] if name not in ("events", "samples")]
    base.execute(f"create table clips ({', '.join(names)}, seconds)")
    for row in ROWS:
        values = [*(row[name] for name in names), row["samples"] / 16_000]
        base.execute(f"insert into clips values ({', '.join('?' * len(values))})", values)
    return base


def a_condition(draw: random.Random, depth: int = 0) -> str:
    if depth < 3 and draw.random() < 0.6:
        inner = f" {draw.choice(['and', 'or', 'AND', 'Or'])} ".join(a_condition(draw, depth + 1) for _ in range(2))
        return draw.choice(["({})", "not ({})", "{}"]).format(inner)
    sign = draw.choice(["=", "==", "!=", "<>", "<", "<=", ">", ">="])
    text, number = draw.choice(["'zh'", "'en'", "'it''s'", "'male'"]), draw.choice(["15", "-2.5", "1e1", "+3", ".5"])
    texts, numbers = draw.choice(["language", "domain", "gender"]), draw.choice(["snr_db", "frames", "seconds"])
    return draw.choice(
        [
            f"{texts} {sign} {text}",
            f"{numbers} {sign} {number}",
            f"{numbers}{sign}{number}",
            f"{texts} {draw.choice(['', 'not '])}in ('zh', {text})",
            f"{numbers} {draw.choice(['', 'not '])}in ({number}, 100)",
            f"{draw.choice([texts, numbers])} is {draw.choice(['', 'not '])}null",
        ]
    )


def test_a_condition_chooses_what_sqlite_chooses(sqlite: sqlite3.Connection) -> None:
    draw = random.Random(0)
    sizes = set()
    for _ in range(300):
        condition = a_condition(draw)
        expected = [row[0] for row in sqlite.execute(f"select clip_id from clips where {condition}")]
        assert chosen(condition) == expected, condition
        sizes.add(len(expected))
    assert len(sizes) > 20, "the conditions choose nothing: this test tests nothing"


def test_a_clip_may_have_several_events() -> None:
    assert chosen("events has 'rain'") == [row["clip_id"] for row in ROWS if "rain" in (row["events"] or [])]
    without = [row["clip_id"] for row in ROWS if row["events"] is not None and "dog" not in row["events"]]
    assert chosen("not events has 'dog'") == without, "what is unknown is not known to be without"
    assert chosen("events is null") == [row["clip_id"] for row in ROWS if row["events"] is None]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("", "expected a column, not the end"),
        ("snr > 15", "no column is called snr: did you mean snr_db?"),
        ("snr_db > '15'", "snr_db is compared with a number"),
        ("language = zh", "a text in single quotes"),
        ('language = "zh"', "cannot be read from here on"),
        ("snr_db > 15 and", "expected a column"),
        ("(snr_db > 15", "expected )"),
        ("snr_db > 15) or (1 = 1", "expected and, or, or the end"),
        ("snr_db", "expected = or"),
        ("snr_db between 1 and 2", "expected = or"),
        ("1 = 1", "expected a column"),
        ("language in ()", "a text in single quotes"),
        ("events = 'dog'", "expected has"),
        ("label = 'x'; drop table clips", "cannot be read from here on: ;"),
        ("label = 'x' -- comment", "cannot be read from here on: --"),
        ("__import__('os').system('true')", "cannot be read from here on: .system"),
        ("__import__('os') = 1", "no column is called __import__"),
        ("lower(language) = 'zh'", "no column is called lower"),
        ("snr_db > 15 union select 1", "expected and, or, or the end"),
        ("(" * 5000 + "snr_db > 1" + ")" * 5000, "inside each other"),
        ("snr_db > 1e", "cannot be read from here on"),
        ("label = 'unclosed", "cannot be read from here on"),
    ],
)
def test_anything_else_is_one_line(condition: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        Where.parse(condition)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700


def test_what_a_text_holds_is_compared_and_nothing_more() -> None:
    assert chosen("domain = 'it''s'") == [row["clip_id"] for row in ROWS if row["domain"] == "it's"]
    assert chosen("domain = ''' or ''1''=''1'") == []
