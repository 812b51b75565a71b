"""One line says what a setting is; the check, the schema, the YAML and the table say the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import jsonschema
import pytest
import yaml

from operators.errors import UserError
from operators.settings import as_table, as_yaml, check, hint, json_schema, leaves, nearest, setting


@dataclass(kw_only=True)
class Limit:
    per_second: float = setting(1.0, "words in a second", at_least=0)
    shy: bool = setting(False)


@dataclass(kw_only=True)
class Section:
    """What a section is."""

    share: float = setting(0.5, "of all clips", at_least=0, below=1)
    count: int = setting(3, "tries", above=0, at_most=10)
    switch: int | float = setting(3, "infinity switches it off", at_least=1, infinite=True)
    shy: bool = setting(False, "yes or no")
    maybe: int | None = setting(None, "none where nobody knows", at_least=1)
    mode: str = setting("a", "which way", choices=("a", "b|c"))
    sizes: list[int] = setting([3, 7], "of each", at_least=1)
    names: list[str] = setting([], "in order", choices=("x", "y"))
    table: dict[str, str] = setting({"zh": "x"}, "by language", choices=("x", "y"))
    limits: dict[str, Limit] = setting({}, "by language")
    options: dict[str, Any] = setting({}, "the engine's own", infinite=True)


@dataclass(kw_only=True)
class Pair:
    first: Limit = setting(Limit())
    second: Limit = setting(Limit(per_second=2.0), "the slower one")


@dataclass(kw_only=True)
class Tree:
    """Everything."""

    output: str = setting("", "a folder: anywhere")
    rover: Section = setting(Section(), "the first")
    rower: Section = setting(Section(share=0.25), "the same once more")
    workers: Pair = setting(Pair())


NAN = float("nan")
NOT_IN_JSON = (float("inf"), NAN)
WRONG = [
    ("share", 1.0, "rover.share=1.0: must be below 1"),
    ("share", -0.1, "rover.share=-0.1: must be at least 0"),
    ("share", NAN, "rover.share=nan: must be a finite number"),
    ("share", float("inf"), "rover.share=inf: must be a finite number"),
    ("share", "half", "rover.share=half: expected a number"),
    ("share", None, "rover.share=None: expected a number"),
    ("count", 0, "rover.count=0: must be above 0"),
    ("count", 11, "rover.count=11: must be at most 10"),
    ("count", True, "rover.count=True: expected a whole number"),
    ("count", 2.5, "rover.count=2.5: expected a whole number"),
    ("maybe", "no", "rover.maybe=no: expected a whole number"),
    ("shy", 1, "rover.shy=1: expected true or false"),
    ("mode", 3, "rover.mode=3: expected text"),
    ("sizes", [3, 0], "rover.sizes=0: must be at least 1"),
    ("sizes", [3, "x"], "rover.sizes=x: expected a whole number"),
    ("sizes", 3, "rover.sizes=3: expected a list"),
    ("names", "x", "rover.names=x: expected a list"),
    ("table", ["x"], "rover.table=['x']: expected a table"),
    ("limits", {"en": 3}, "rover.limits.en=3: expected a table"),
    ("switch", 0.5, "rover.switch=0.5: must be at least 1"),
    ("switch", NAN, "rover.switch=nan: must be a number"),
    ("maybe", 0, "rover.maybe=0: must be at least 1"),
    ("mode", "c", "rover.mode=c: expected one of a, b|c"),
    ("names", ["x", "z"], "rover.names=z: expected one of x, y"),
    ("table", {"en": "z"}, "rover.table.en=z: expected one of x, y"),
    ("limits", {"en": Limit(per_second=-1)}, "rover.limits.en.per_second=-1: must be at least 0"),
]


@pytest.mark.parametrize(("name", "value", "line"), WRONG)
def test_a_value_out_of_bounds_is_one_line_that_names_it(name: str, value: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        check(Tree(rover=Section(**{name: value})))
    assert str(error.value) == line


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, _ in WRONG if value not in NOT_IN_JSON])
def test_the_schema_refuses_what_the_check_refuses(name: str, value: Any) -> None:
    tree = asdict(Tree(rover=Section(**{name: value})))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, json_schema(Tree(), "settings"))


def test_the_schema_takes_the_defaults_and_knows_no_other_keys() -> None:
    schema = json.loads(json.dumps(json_schema(Tree(), "settings")))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(asdict(Tree()), schema)
    jsonschema.validate({"rover": {"limits": {"zh": {"per_second": 3}}, "maybe": 4}}, schema)
    for unknown in ({"rovr": {}}, {"rover": {"limits": {"zh": {"per_minute": 3}}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(unknown, schema)
    assert schema["properties"]["rower"]["properties"]["share"]["default"] == 0.25
    assert schema["properties"]["rover"]["properties"]["share"]["description"] == "of all clips"


def test_infinity_passes_where_it_switches_a_rule_off() -> None:
    check(Tree(rover=Section(switch=float("inf"), options={"patience": float("inf")})))


def test_yaml_holds_every_setting_and_what_it_means() -> None:
    text = as_yaml(Tree())
    assert yaml.safe_load(text) == asdict(Tree())
    for words in ("in order (x or y)", "(at least 0, below 1)", "per_second: words in a second", "# the first"):
        assert words in text
    assert "  second: {per_second: 2.0, shy: false} # the slower one" in text, "what it holds was explained above"
    assert max(map(len, text.splitlines())) <= 120


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = as_table(Tree()).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [key for key, _, _ in leaves(Tree())]
    assert "| `rower.share` | `0.25` | at least 0, below 1 | of all clips |" in rows
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


@pytest.mark.parametrize(
    "words",
    [
        ("rovr", "rover"),
        ("rovr.share", "rover.share"),
        ("rovr.shre", "rover.share"),
        ("rover.sahre", "rover.share"),
        ("per_second", "workers.first.per_second", "workers.second.per_second", "rover.limits.per_second"),
        ("rower.per_second", "rower.limits.per_second"),
        ("second.shy", "workers.second.shy"),
        ("workers.per_second", "workers.first.per_second", "workers.second.per_second"),
        ("workers.first.second", "workers.first.per_second"),
        ("workers.first.ps", "workers.first.per_second"),
        ("wrkers.secnd.shy", "workers.second.shy"),
        ("ouput", "output"),
        ("zzz",),
        ("rover.zzz",),
    ],
)
def test_a_misspelt_key_is_answered_with_those_that_may_have_been_meant(words: tuple[str, ...]) -> None:
    key, *meant = words
    assert list(nearest(key, Tree())) == meant


def test_a_hint_names_all_that_may_have_been_meant() -> None:
    assert hint("workers.per_second", Tree()) == ("did you mean workers.first.per_second or workers.second.per_second?")
    assert hint("zzz", Tree()) == ""
