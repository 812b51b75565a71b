"""`--where`: which clips a hand-off takes, as a condition on the columns of the index.

    snr_db > 15 and (language = 'zh' or domain in ('live', 'meeting')) and not events has 'music'
        ──_words──> tokens ──_Parser──> Where, a tree of closures over columns ──Arrow's kernels──> bool [clips]

The grammar is that of SQL's WHERE, as far as it goes here, and nothing else: no function, no name but a column's, no
arithmetic. Nothing is evaluated as code and nothing is given to a data base, so a condition can do nothing but choose.
As in SQL a comparison with what is unknown is unknown, and what is not true is left out: `snr_db > 15 or snr_db is
null` takes clips whose SNR nobody measured.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.index import CLIP_SCHEMA, CODED
from pipeline.handoff.spool import SpoolNames

SECONDS = "seconds"
_TEXTS = [each.name for each in CLIP_SCHEMA if pa.types.is_string(each.type) and each.name not in ("shard", "clip_id")]
_NUMBERS = [
    *(each.name for each in CLIP_SCHEMA if pa.types.is_floating(each.type)), "frames", "label_tokens", SECONDS,
]  # fmt: skip
_LISTS = ["events"]
COLUMNS = {**dict.fromkeys(_TEXTS, str), **dict.fromkeys(_NUMBERS, float), **dict.fromkeys(_LISTS, list)}
"""What a condition may name, and what kind of value it has."""

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    **{"=": pc.equal, "==": pc.equal, "!=": pc.not_equal, "<>": pc.not_equal},
    **{"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal},
}
_TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])"
                    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign>==|!=|<>|<=|>=|[=<>(),]))")  # fmt: skip
_WORDS = frozenset(("and", "or", "not", "in", "is", "null", "has"))
_DEEPEST = 50

Columns = Mapping[str, Any]
Test = Callable[[Columns], Any]
"""Returns bool [rows] with nulls."""


@dataclass(frozen=True, slots=True)
class Where:
    """A Where is a condition that was understood."""

    text: str
    columns: frozenset[str]
    test: Test = field(repr=False, compare=False)

    @staticmethod
    def parse(text: str) -> Where:
        """Return the condition that a text says. Raises UserError with one line that points at what is wrong."""
        parser = _Parser(text)
        test = parser.disjunction(0)
        parser.end()
        return Where(text, frozenset(parser.columns), test)

    def chosen(self, batch: pa.RecordBatch, names: SpoolNames) -> pa.RecordBatch:
        """Return the rows of a batch of the spool of which the condition is true."""
        columns: dict[str, Any] = {}
        for name in self.columns:
            if name == SECONDS:
                columns[name] = pc.divide(pc.cast(batch.column("samples"), pa.float64()), float(SAMPLE_RATE))
            elif name in CODED:
                columns[name] = names.coded[name].array().take(batch.column(name))
            else:
                columns[name] = batch.column(name)
        return batch.filter(pc.fill_null(self.test(columns), False))


class _Parser:
    """A _Parser reads a condition by recursive descent; `columns` are those that it met."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split(text))
        self._at = 0
        self.columns: set[str] = set()

    def _split(self, text: str) -> Any:
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise self._wrong(f"cannot be read from here on: {text[at:].strip()[:30]}")
            kind = str(found.lastgroup)
            value = found[kind]
            word = value.lower() if kind == "word" and value.lower() in _WORDS else value
            yield ("keyword" if kind == "word" and word in _WORDS else kind), word
            at = found.end()

    def _wrong(self, what: str) -> UserError:
        return UserError(f"--where {self._text!r:.200}: {what}")

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, *wanted: str) -> str:
        kind, value = self._peek()
        if value not in wanted or kind not in ("keyword", "sign"):
            raise self._wrong(f"expected {' or '.join(wanted)}, not {value or 'the end'}")
        self._at += 1
        return value

    def _follows(self, *wanted: str) -> bool:
        kind, value = self._peek()
        if kind in ("keyword", "sign") and value in wanted:
            self._at += 1
            return True
        return False

    def end(self) -> None:
        if self._peek()[0] != "end":
            raise self._wrong(f"expected and, or, or the end, not {self._peek()[1]}")

    def disjunction(self, depth: int) -> Test:
        if depth > _DEEPEST:
            raise self._wrong(f"more than {_DEEPEST} conditions inside each other")
        tests = [self._conjunction(depth)]
        while self._follows("or"):
            tests.append(self._conjunction(depth))
        return _joined(pc.or_kleene, tests)

    def _conjunction(self, depth: int) -> Test:
        tests = [self._negation(depth)]
        while self._follows("and"):
            tests.append(self._negation(depth))
        return _joined(pc.and_kleene, tests)

    def _negation(self, depth: int) -> Test:
        negated = False
        while self._follows("not"):
            negated = not negated
        if self._follows("("):
            test = self.disjunction(depth + 1)
            self._take(")")
        else:
            test = self._comparison()
        return _not(test) if negated else test

    def _comparison(self) -> Test:
        kind, name = self._peek()
        if kind != "word":
            raise self._wrong(f"expected a column, not {name or 'the end'}")
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COLUMNS)}"
            raise self._wrong(f"no column is called {name}: {hint}")
        self._at += 1
        self.columns.add(name)
        if self._follows("is"):
            negated = self._follows("not")
            self._take("null")
            return (
                (lambda columns: pc.is_valid(columns[name])) if negated else (lambda columns: pc.is_null(columns[name]))
            )
        if COLUMNS[name] is list:
            self._take("has")
            label = self._literal(name)
            return lambda columns: _has(columns[name], label)
        if self._peek() in (("keyword", "in"), ("keyword", "not")):
            negated = self._follows("not")
            self._take("in")
            values = pa.array(self._literals(name))
            test: Test = lambda columns: _is_in(columns[name], values)  # noqa: E731
            return _not(test) if negated else test
        compare = _COMPARE[self._take(*_COMPARE)]
        value = self._literal(name)
        return lambda columns: compare(columns[name], pa.scalar(value))

    def _literals(self, name: str) -> list[Any]:
        self._take("(")
        found = [self._literal(name)]
        while self._follows(","):
            found.append(self._literal(name))
        self._take(")")
        return found

    def _literal(self, name: str) -> Any:
        kind, value = self._peek()
        wants_number = COLUMNS[name] is float
        if kind != ("number" if wants_number else "text"):
            expected = "a number" if wants_number else "a text in single quotes, such as 'zh'"
            raise self._wrong(f"{name} is compared with {expected}, not {value or 'the end'}")
        self._at += 1
        return float(value) if wants_number else value[1:-1].replace("''", "'")


def _joined(join: Callable[[Any, Any], Any], tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def test(columns: Columns) -> Any:
        found = tests[0](columns)
        for each in tests[1:]:
            found = join(found, each(columns))
        return found

    return test


def _not(test: Test) -> Test:
    return lambda columns: pc.invert(test(columns))


def _is_in(column: Any, values: pa.Array) -> Any:
    # Of what is unknown nobody can say whether it is among them.
    found = pc.is_in(pc.cast(column, values.type), values)
    return pc.if_else(pc.is_valid(column), found, pa.scalar(None, pa.bool_()))


def _has(column: Any, label: str) -> Any:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    found = np.zeros(len(column), bool)
    parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    found[parents[np.asarray(pc.equal(pc.list_flatten(column), label), bool)]] = True
    return pc.if_else(pc.is_valid(column), pa.array(found), pa.scalar(None, pa.bool_()))
