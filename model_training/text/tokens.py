"""The special tokens of the perception model, declared once: what can be asked, what can be answered, in which order.

    Scheme (one list of labels per kind) ──specials──> <blank> <unk> <sot> <eot> <task:…> <lang:…> … <event:…>
                                                       0       1     2     3     4 …          then the text units

A new dialect or sound is one entry at the end of its list. That moves the ids behind it, so it makes a new vocabulary
and a new model; a tokenizer therefore keeps the scheme it was built with.

Source: TouchASP, section 3.3; sound classes are those of ESC-50, then common ones of FSD50K and of talking to machines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from operators.errors import UserError
from operators.language import canonical

BLANK, UNK, SOT, EOT = 0, 1, 2, 3
"""Ids that every vocabulary shares: CTC blank, a character the tokenizer does not know, start and end of a
transcript.
"""
CONTROLS = ("<blank>", "<unk>", "<sot>", "<eot>")
UNKNOWN = "unk"
"""The label that stands in for an attribute nobody knows. Fed to the decoder, never a target and never predicted."""

TRANSCRIBE = "transcribe"
Order = Literal["attributes_first", "text_first"]


class Kind(NamedTuple):
    """A Kind is one kind of special token: `plural` is its list in a Scheme, `prefix` its spelling, `has_unknown` adds
    <prefix:unk>.
    """

    name: str
    plural: str
    prefix: str
    has_unknown: bool


KINDS = (
    Kind("task", "tasks", "task", False),
    Kind("language", "languages", "lang", True),
    Kind("age", "ages", "age", True),
    Kind("gender", "genders", "gender", True),
    Kind("emotion", "emotions", "emotion", True),
    Kind("event", "events", "event", False),
)
"""In the order of their ids."""
ATTRIBUTES = ("language", "age", "gender", "emotion")
"""What a clip has exactly one of, in the order of the prompt."""

_BY_NAME = {kind.name: kind for kind in KINDS}
_LABEL = re.compile(r"[^\s<>:|]+")

# fmt: off
_ESC50 = (
    "dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow",
    "rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds", "water_drops", "wind", "pouring_water",
    "toilet_flush", "thunderstorm",
    "crying_baby", "sneezing", "clapping", "breathing", "coughing", "footsteps", "laughing", "brushing_teeth",
    "snoring", "drinking_sipping",
    "door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening", "washing_machine",
    "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking",
    "helicopter", "chainsaw", "siren", "car_horn", "engine", "train", "church_bells", "airplane", "fireworks",
    "hand_saw",
)
_MORE_EVENTS = (
    "sighing", "yawning", "gasping", "throat_clearing", "hiccup", "burping", "crying", "screaming", "shouting",
    "whispering", "humming", "whistling", "singing", "cheering", "crowd", "chewing",
    "music", "guitar", "piano", "drum", "doorbell", "telephone_ringing", "finger_snapping", "door_slam",
    "kitchen_noise", "water_tap", "hair_dryer", "camera_shutter", "gunshot", "explosion", "bicycle_bell", "motorcycle",
)
# fmt: on

_ALIASES = {
    "language:cmn": "zh",
    "language:mandarin": "zh",
    "language:zh-cn": "zh",
    "language:english": "en",
    "language:cantonese": "yue",
    "language:zh-yue": "yue",
    "language:nan": "minnan",
    "age:kid": "child",
    "age:senior": "elderly",
    "gender:m": "male",
    "gender:f": "female",
    "emotion:angry": "anger",
    "emotion:sad": "sadness",
    "emotion:happy": "happiness",
    "emotion:surprised": "surprise",
    "emotion:fearful": "fear",
    "emotion:disgusted": "disgust",
    "event:dog_bark": "dog",
    "event:fire_crackling": "crackling_fire",
    "event:baby_cry": "crying_baby",
    "event:person_sneeze": "sneezing",
    "event:cough": "coughing",
    "event:laughter": "laughing",
    "event:applause": "clapping",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A Scheme is the labels that a model knows. Raises UserError for a label that is repeated or could not be spelt as
    a token.
    """

    tasks: tuple[str, ...] = (TRANSCRIBE, "language", "age", "gender", "emotion", "event")
    """`transcribe` is everything at once; each other task answers with its one attribute, or with the events."""
    languages: tuple[str, ...] = ("zh", "en", "yue", "sichuan", "minnan")
    ages: tuple[str, ...] = ("child", "adult", "elderly")
    genders: tuple[str, ...] = ("male", "female")
    emotions: tuple[str, ...] = ("neutral", "anger", "sadness", "happiness", "surprise", "fear", "disgust")
    events: tuple[str, ...] = _ESC50 + _MORE_EVENTS
    order: Order = "attributes_first"
    """Of the transcribe task: attributes before the text (TouchASP), or the text first (OSUM's ASR+X)."""
    aliases: Mapping[str, str] = field(default_factory=lambda: dict(_ALIASES))
    """What data sets call a label, as `kind:their name` -> our name."""

    def __post_init__(self) -> None:
        for kind in KINDS:
            labels = self.labels(kind.name)
            for label in labels:
                if not _LABEL.fullmatch(label) or label == UNKNOWN:
                    raise UserError(
                        f"scheme.{kind.plural}: {label!r} cannot be a label (no spaces, no < > : |, not unk)"
                    )
            repeated = sorted({label for label in labels if labels.count(label) > 1})
            if repeated:
                raise UserError(f"scheme.{kind.plural} names {', '.join(repeated)} twice: give each label once")
        allowed = {TRANSCRIBE, *ATTRIBUTES, "event"}
        if not set(self.tasks) <= allowed or TRANSCRIBE not in self.tasks:
            raise UserError(
                f"scheme.tasks must hold {TRANSCRIBE} and may hold {', '.join(sorted(allowed))}: {self.tasks}"
            )
        if self.order not in ("attributes_first", "text_first"):
            raise UserError(f'scheme.order is "attributes_first" or "text_first", not {self.order!r}')

    def labels(self, kind: str) -> tuple[str, ...]:
        """Return the labels of a kind by its name: task, language, age, gender, emotion or event."""
        labels: tuple[str, ...] = getattr(self, _BY_NAME[kind].plural)
        return labels

    def specials(self) -> tuple[str, ...]:
        """Return every special token in the order of ids, from <blank> = 0."""
        return CONTROLS + tuple(
            spell(kind.name, label)
            for kind in KINDS
            for label in self.labels(kind.name) + ((UNKNOWN,) if kind.has_unknown else ())
        )

    def known(self, kind: str, label: str | None) -> str | None:
        """Return our name of a data set's label, aliases resolved; None when it is missing or not in the scheme."""
        if not label:
            return None
        label = label.strip().lower()
        label = self.aliases.get(f"{kind}:{label}", label)
        if kind == "language" and label not in self.labels(kind):
            label = canonical(label)
        return label if label in self.labels(kind) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the scheme as plain settings."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()} | {
            "aliases": dict(sorted(self.aliases.items()))
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Scheme:
        """Build a scheme from plain settings: `events: [...]` replaces a default, `more_events: [...]` appends to it.

        Raises UserError for an unknown key or a value of the wrong kind.
        """
        if not isinstance(settings, Mapping):
            raise UserError(f"a scheme is a mapping of keys such as more_events to lists, not {settings!r:.80}")
        known = {item.name for item in fields(cls)}
        lists = {kind.plural for kind in KINDS}
        more = {f"more_{key}": key for key in (*lists, "aliases")}
        changes: dict[str, Any] = {}
        for key, value in sorted(settings.items(), key=lambda item: item[0] in more):
            name = more.get(key, key)
            if name not in known:
                raise UserError(f"unknown key scheme.{key}: it has {', '.join(sorted(known))}, and more_… to append")
            if name in lists:
                if not isinstance(value, (list, tuple)) or not all(isinstance(label, str) for label in value):
                    raise UserError(f"scheme.{key} is a list of names, not {value!r}")
                value = tuple(value)
            if name == "aliases" and not isinstance(value, Mapping):
                raise UserError(f"scheme.{key} maps `kind:their name` to our name, not {value!r}")
            if key in more:
                before = changes.get(name, getattr(cls(), name))
                value = before + value if name in lists else {**before, **value}
            changes[name] = value
        return cls(**changes)


def spell(kind: str, label: str) -> str:
    """Return how a token is written: spell("language", "zh") == "<lang:zh>"."""
    return f"<{_BY_NAME[kind].prefix}:{label}>"
