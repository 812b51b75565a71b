"""What stands in `copilot.models`: for each language a model, or several for a vote, each with its engine.

    zh: paraformer-zh                                        ┐
    en: {engine: "module:Class", model: any-name, options}   ├──entries──> CopilotModel by language
    yue: [iic/SenseVoiceSmall, {model: …, options: …}]       ┘

An entry without an engine is of `copilot.engine`. Models of that engine get `copilot.options`, with their own options
laid over them; a model of another engine gets its own options only, which would mean something else there.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from operators.errors import UserError

KEYS = ("engine", "model", "options")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopilotModel:
    """A CopilotModel is one entry of `copilot.models`. `engine` is a built-in name or module:Class."""

    engine: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)


def entries(
    models: Mapping[str, Any], engine: str, options: Mapping[str, Any] | None = None
) -> dict[str, list[CopilotModel]]:
    """Return the models of each language as the settings write it; languages that are set to nothing are left out.

    engine, options: `copilot.engine` and `copilot.options`. Raises UserError for an entry that names no model.
    """
    found: dict[str, list[CopilotModel]] = {}
    for language, given in models.items():
        listed = given if isinstance(given, list) else [] if given is None else [given]
        read = [_entry(f"copilot.models.{language}", each, engine, options or {}) for each in listed]
        if read:
            found[language] = read
    return found


def _entry(key: str, given: Any, engine: str, options: Mapping[str, Any]) -> CopilotModel:
    if isinstance(given, str) and given.strip():
        return CopilotModel(engine=engine, model=given, options=options)
    if not isinstance(given, dict):
        raise UserError(
            f"{key}={given}: expected the name or folder of a model, {{engine: …, model: …}}, or a list of them"
        )
    for name in given:
        if name not in KEYS:
            near = difflib.get_close_matches(str(name), KEYS, n=1)
            raise UserError(f"{key} has no {name}: {f'did you mean {near[0]}?' if near else 'it takes ' + _KEYS}")
    own: Any = given.get("engine", engine)
    model: Any = given.get("model")
    for name, value in (("engine", own), ("model", model)):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{key}.{name}={value}: expected text, as in {{engine: {engine}, model: paraformer-zh}}")
    more = given.get("options") or {}
    if not isinstance(more, dict) or not all(isinstance(name, str) for name in more):
        raise UserError(f"{key}.options is a table of settings, not {more}")
    return CopilotModel(engine=own, model=model, options={**(options if own == engine else {}), **more})


_KEYS = f"{', '.join(KEYS[:-1])} and {KEYS[-1]}"
