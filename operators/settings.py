"""Settings whose default, bounds and meaning stand in one line; checks, schemas and pages are made from that line.

    @dataclass(kw_only=True)
    class CutSettings:
        min_seconds: float = setting(2.0, "shorter speech is rejected", at_least=0.1)

    record ──check──> UserError for a value out of bounds          ──nearest──> what a misspelt key was meant to be
           ──json_schema──> for editors and other programs         ──as_yaml, as_table──> every setting, explained

A settings record is a plain dataclass, so that OmegaConf can lay a YAML file over it; nobody changes one once it was
checked. Annotations are bool, int, float, str, `X | None`, list, dict and other settings records.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any

from operators.errors import UserError

WIDTH = 120
"""columns of the YAML that `as_yaml` writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known of a setting beside its default. Bounds of a list or table are those of its entries."""

    meaning: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    infinite: bool = False
    """whether infinity is allowed, where it switches a rule off."""

    def allowed(self) -> str:
        """Return the bounds in words; "" when there are none."""
        if self.choices:
            names = [choice or '""' for choice in self.choices]
            return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        if self.at_least is not None and self.at_most is not None:
            return f"{_plain(self.at_least)} to {_plain(self.at_most)}"
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return ", ".join(f"{name} {_plain(bound)}" for name, bound in bounds.items() if bound is not None)


def _plain(number: float) -> str:
    return f"{number:,.6f}".rstrip("0").rstrip(".")


def setting(
    default: Any,
    meaning: str = "",
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    infinite: bool = False,
) -> Any:
    """Return a dataclass field with its default, its bounds, and what it means in one sentence without a full stop.

    Lists, tables and records are copied, so they may be given as they are.
    """
    known = Setting(
        meaning=meaning,
        at_least=at_least,
        above=above,
        at_most=at_most,
        below=below,
        choices=choices,
        infinite=infinite,
    )
    if isinstance(default, list | dict) or is_dataclass(default):
        return field(default_factory=lambda: copy.deepcopy(default), metadata={"setting": known})
    return field(default=default, metadata={"setting": known})


def about(record_field: Field[Any]) -> Setting:
    """Return what `setting` was given for a field; an empty record for a field without it."""
    return record_field.metadata.get("setting", _UNBOUNDED)


_UNBOUNDED = Setting()


def check(record: Any, section: str = "") -> None:
    """Refuse values out of bounds in a settings record and the records in it.

    Args:
        record: an instance of a dataclass.
        section: its dotted place in the settings tree, for the error.

    Raises:
        UserError: one line that names the setting, its value and the bound.
    """
    hints = typing.get_type_hints(type(record))
    for each in fields(record):
        _check(getattr(record, each.name), _join(section, each.name), about(each), hints[each.name])


def _check(value: Any, key: str, known: Setting, hint: Any) -> None:
    inner = typing.get_args(hint)
    if value is None and _optional(hint):
        return
    if not _fits(value, hint):
        raise UserError(f"{key}={value}: expected {expected(hint)}")
    if is_dataclass(value):
        check(value, key)
    elif isinstance(value, dict):
        for name, entry in value.items():
            _check(entry, _join(key, str(name)), known, inner[1] if inner else Any)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check(entry, key, known, inner[0] if inner else Any)
    else:
        _check_one(value, key, known)


def _check_one(value: Any, key: str, known: Setting) -> None:
    if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and not known.infinite)):
        raise UserError(f"{key}={value}: must be a {'' if known.infinite else 'finite '}number")
    if known.choices and value not in known.choices:
        raise UserError(f"{key}={value}: expected one of {', '.join(choice or '(empty)' for choice in known.choices)}")
    if known.at_least is not None and not value >= known.at_least:
        raise UserError(f"{key}={value}: must be at least {known.at_least}")
    if known.above is not None and not value > known.above:
        raise UserError(f"{key}={value}: must be above {known.above}")
    if known.at_most is not None and not value <= known.at_most:
        raise UserError(f"{key}={value}: must be at most {known.at_most}")
    if known.below is not None and not value < known.below:
        raise UserError(f"{key}={value}: must be below {known.below}")


def leaves(record: Any, section: str = "") -> Iterator[tuple[str, Any, Setting]]:
    """Yield the dotted key, the value and the bounds of every setting that is no table of settings, in order."""
    for each in fields(record):
        key, value = _join(section, each.name), getattr(record, each.name)
        if is_dataclass(value):
            yield from leaves(value, key)
        else:
            yield key, value, about(each)


def nearest(key: str, record: Any) -> tuple[str, ...]:
    """Return the dotted keys that a misspelt or shortened `key` may have been meant to be, at most three; () where
    nothing is near: a wrong hint is worse than none.

    >>> nearest("rovr.max_wer", settings)
    ('rover.max_wer',)
    >>> nearest("transcribe.gpus", settings)
    ('execution.transcribe.gpus',)
    """
    known = list(dict.fromkeys(start for name in _keys(record) for start in _starts(name)))
    parts = key.split(".")
    beside = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    shortened = [name for name in beside if "." in key and _is_short_for(parts[-1], name.rpartition(".")[2])]
    within = shortened or [name for name in known if _is_part(parts, name.split("."))]
    if within:
        return tuple(within[:_MOST_HINTS])
    here = ""
    for part in parts:
        inside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == here}
        match = difflib.get_close_matches(part, inside, n=1)
        if not match:
            break
        here = inside[match[0]]
    else:
        return (here,)
    last = parts[-1]  # elsewhere, in the same table first
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in known))
    close = difflib.get_close_matches(last, names, n=1, cutoff=0.75)
    close = close or [name for name in names if len(parts) == 1 and _is_short_for(last, name)]
    found = [name for name in known if name.rpartition(".")[2] in close]
    return tuple(sorted(found, key=lambda name: not name.startswith(f"{parts[0]}."))[:_MOST_HINTS])


_MOST_HINTS = 3


def hint(key: str, record: Any) -> str:
    """Return "did you mean ...?" for a key that no setting has; "" where nothing is near."""
    near = nearest(key, record)
    return f"did you mean {' or '.join(filter(None, [', '.join(near[:-1]), near[-1]]))}?" if near else ""


def _is_part(parts: list[str], whole: list[str]) -> bool:
    """Return whether `whole` is `parts` with tables left out before and between: transcribe.gpus, copilot.zh."""
    rest = iter(whole)
    return parts[-1] == whole[-1] and all(part in rest for part in parts)


def _is_short_for(part: str, name: str) -> bool:
    """Return whether a name is said by its initials (lr), or by one of its words (wer for max_wer)."""
    words = name.split("_")
    return len(words) > 1 and (part == "".join(word[:1] for word in words) or part in words)


def _keys(record: Any) -> Iterator[str]:
    """Yield the keys of `leaves`, and those inside lists and tables: of their records, and of default tables."""
    for key, value, _ in leaves(record):
        yield key
        yield from (f"{key}.{name}" for name in (value if isinstance(value, dict) else ()))
    yield from _entry_keys(record, "")


def _entry_keys(record: Any, section: str) -> Iterator[str]:
    hints = typing.get_type_hints(type(record))
    for each in fields(record):
        entry = (typing.get_args(hints[each.name]) or (None,))[-1]
        key, value = _join(section, each.name), getattr(record, each.name)
        if is_dataclass(value):
            yield from _entry_keys(value, key)
        elif is_dataclass(entry):
            yield from (f"{key}.{inner.name}" for inner in fields(entry))


def _starts(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def json_schema(record: Any, title: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of files that may be laid over `record`: types, defaults, bounds, meanings."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | _schema_of(record)


def _schema_of(record: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(type(record))
    properties = {}
    for each in fields(record):
        value: Any = getattr(record, each.name)
        known = about(each)
        if is_dataclass(value):
            schema = _schema_of(value)
        else:
            schema = _schema_of_type(hints[each.name], known) | {"default": value}
        properties[each.name] = schema | ({"description": known.meaning} if known.meaning else {})
    return {"type": "object", "additionalProperties": False, "properties": properties}


_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _schema_of_type(hint: Any, known: Setting) -> dict[str, Any]:
    inner = typing.get_args(hint)
    if hint is Any:
        return {}
    if is_dataclass(hint):
        return _schema_of(hint())  # type: ignore[operator]
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _schema_of_type(inner[0], known)}
    if typing.get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _schema_of_type(inner[1], known)}
    if _optional(hint):
        one = _schema_of_type(next(each for each in inner if each is not types.NoneType), known)
        return one | {"type": [one["type"], "null"]}
    if _number(hint) and hint is not int:
        hint = float
    bounds = {
        "minimum": known.at_least,
        "exclusiveMinimum": known.above,
        "maximum": known.at_most,
        "exclusiveMaximum": known.below,
        "enum": list(known.choices) or None,
    }
    return {"type": _TYPES[hint]} | {name: bound for name, bound in bounds.items() if bound is not None}


def as_yaml(record: Any) -> str:
    """Return every setting with its value, its meaning and its bounds, as YAML that loads as the same record."""
    return "\n".join(_yaml_lines(record, "", set())) + "\n"


def _yaml_lines(record: Any, indent: str, explained: set[type]) -> Iterator[str]:
    explained.add(type(record))
    hints = typing.get_type_hints(type(record))
    for each in fields(record):
        value: Any = getattr(record, each.name)
        known = about(each)
        allowed = known.allowed()
        words = f"{known.meaning} ({allowed})" if known.meaning and allowed else known.meaning or allowed
        if not is_dataclass(value):
            yield from _commented(f"{indent}{each.name}: {_flow(value)}", words, indent)
            yield from (f"{indent}#   {line}" for line in _entry_lines(hints[each.name]))
        elif indent and type(value) in explained:  # its settings were explained above
            yield from _commented(f"{indent}{each.name}: {_flow(asdict(value))}", words, indent)  # type: ignore[arg-type]
        else:
            if not indent:
                yield ""
            yield from _commented(f"{indent}{each.name}:", words, indent)
            yield from _yaml_lines(value, indent + "  ", explained)


def _entry_lines(hint: Any) -> list[str]:
    """Return what the settings of a list's or a table's records mean, one line each."""
    entry = typing.get_args(hint)[-1] if typing.get_args(hint) else None
    if not is_dataclass(entry):
        return []
    return [f"{each.name}: {about(each).meaning or about(each).allowed()}" for each in fields(entry)]


def _commented(line: str, words: str, indent: str) -> Iterator[str]:
    if not words:
        yield line
    elif len(padded := f"{line:<31} # {words}") <= WIDTH:
        yield padded
    else:
        yield f"{indent}# {words}"
        yield line


def _flow(value: Any) -> str:
    import yaml  # a device that recognises has none

    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
        .removesuffix("\n...\n")
        .strip()
    )


def as_table(record: Any) -> str:
    """Return a Markdown table of every setting: key, default, bounds, meaning. One line ends each row."""
    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    for key, value, known in leaves(record):
        default = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _flow(value)
        cells = (f"`{key}`", f"`{default}`", known.allowed(), known.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _optional(hint: Any) -> bool:
    return types.NoneType in typing.get_args(hint) or hint is Any


def _number(hint: Any) -> bool:
    """Return whether a value of this type is a number: int, float, either, or None."""
    options = set(typing.get_args(hint)) - {types.NoneType} if typing.get_origin(hint) in _UNIONS else {hint}
    return options <= {int, float}


_UNIONS = (types.UnionType, typing.Union)


def _fits(value: Any, hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    if hint is Any:
        return True
    if _number(hint):
        floats = hint is not int and float in (typing.get_args(hint) or (float,))
        return isinstance(value, int | float if floats else int) and not isinstance(value, bool)
    if kind in _UNIONS:
        return any(_fits(value, each) for each in typing.get_args(hint) if each is not types.NoneType)
    return isinstance(value, (list, tuple) if kind is list else kind)


def expected(hint: Any) -> str:
    """Return what a value of an annotation's type is called in an error."""
    kind = typing.get_origin(hint) or hint
    if kind in _UNIONS:
        names = [expected(each) for each in typing.get_args(hint) if each not in (types.NoneType, int)]
        return " or ".join(names) or expected(int)
    names_of = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}
    return names_of.get(kind, "a table")


def wrong_type(key: str, message: str) -> str | None:
    """Return `key=value: expected ...` for OmegaConf's message about a wrong type, None for another message."""
    found = re.match(r".*?value '(.*?)'.* (?:to|type|hint|valid) '?(\w+)", message, flags=re.IGNORECASE)
    kind = _OMEGACONF_TYPES.get(found[2].lower()) if found else None
    return f"{key}={found[1]}: expected {expected(kind)}" if found and kind else None


_OMEGACONF_TYPES = {"float": float, "union": float, "integer": int, "int": int, "bool": bool, "str": str, "string": str}


def yaml_mistake(error: Exception) -> str:
    """Return what PyYAML found wrong, in one line."""
    return " ".join(str(error).replace('in "<unicode string>", ', "at ").split()).removesuffix(": ^")
