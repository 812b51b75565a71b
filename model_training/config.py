"""Settings of the trainer: files, presets and key=value laid over the defaults of settings.py.

    records (setting: default, meaning, bounds) ──OmegaConf──> merged with CONFIG and key=value ──check──> Settings

CONFIG is a YAML file or the name of a preset in configs/. A key that does not exist is an error that names the one it
was most likely meant to be. `python -m model_training settings` prints every setting.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from model_training.settings import (
    BALANCES,
    DISPATCHES,
    ENCODERS,
    FFN_PLACES,
    SAMPLINGS,
    DataSettings,
    LargeTrainSettings,
    LoadingSettings,
    LossSettings,
    ModelSettings,
    MoESettings,
    OptimizerSettings,
    Settings,
    SpeakerHeadSettings,
    TrainSettings,
    WarmTrainSettings,
    check,
)
from operators.errors import UserError
from operators.settings import hint, leaves, wrong_type, yaml_mistake
from operators.storage.base import S3Settings

__all__ = [
    "BALANCES",
    "DISPATCHES",
    "ENCODERS",
    "FFN_PLACES",
    "SAMPLINGS",
    "DataSettings",
    "LargeTrainSettings",
    "LoadingSettings",
    "LossSettings",
    "MoESettings",
    "ModelSettings",
    "OptimizerSettings",
    "Settings",
    "SpeakerHeadSettings",
    "TrainSettings",
    "WarmTrainSettings",
    "check",
]

PRESETS = Path(__file__).parent / "configs"
RENAMED = {"data.forget_attributes": "data.attribute_dropout"}
"""Older names of settings, which YAML files, checkpoints and command lines may still have."""


class Checked(Protocol):
    """A Checked is the settings of one kind of model: a record that can say what of it cannot work."""

    def check(self) -> None:
        """Refuse what cannot work. Raises UserError."""


S = TypeVar("S", bound=Checked)


def presets(folder: Path = PRESETS) -> list[str]:
    """Return the names of the settings that come with the package."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load(config: str | None, overrides: list[str]) -> Settings:
    """Return the elastic model's settings, see `load_as`."""
    return load_as(Settings, config, overrides, PRESETS)


def load_as(kind: type[S], config: str | None, overrides: list[str], folder: Path) -> S:
    """Return the defaults of a kind, overlaid with CONFIG (a YAML file or a preset's name), then with key=value.

    Args:
        folder: of the presets.

    Raises:
        UserError: no such file or preset, a key that does not exist, a value of the wrong type or out of range.
    """
    try:
        layers = [("", _read(config, folder))] if config else []
        for override in overrides:
            if "=" not in override or override.startswith("="):
                raise UserError(f"'{override}' is no setting: write key=value, for example train.max_steps=1000")
            layers.append((override.partition("=")[0], OmegaConf.to_container(OmegaConf.from_dotlist([override]))))
        return _merged(kind, *layers)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML in {config or 'an override'}: {yaml_mistake(error)}") from None


def restore(values: dict[str, Any]) -> Settings:
    """Return the elastic model's settings, see `restore_as`."""
    return restore_as(Settings, values)


def restore_as(kind: type[S], values: dict[str, Any]) -> S:
    """Return the settings that `to_dict` wrote, of this version or an older one.

    Raises:
        UserError: they are damaged, or of a newer version.
    """
    try:
        return _merged(kind, ("", values))
    except (OmegaConfBaseException, UserError) as error:
        reason = error if isinstance(error, UserError) else _explain(error)
        raise UserError(f"the checkpoint's settings are damaged or of another version: {reason}") from None


def to_dict(settings: Any) -> dict[str, Any]:
    """Return the settings as nested dictionaries, for JSON and YAML."""
    return asdict(settings)


def flat(settings: Any) -> dict[str, Any]:
    """Return every setting by its dotted key."""
    return {key: value for key, value, _ in leaves(settings)}


def _merged(kind: type[S], *layers: tuple[str, Any]) -> S:
    """Return the defaults with the layers laid over them, each the key that it was given by and nested values.

    A table of the user's own (data.tasks) replaces the one below it; only `table.entry=value` adds to that.
    """
    tree = OmegaConf.structured(kind)
    tables = [table for table, value in flat(kind()).items() if isinstance(value, dict)]
    for key, layer in layers:
        values = _with_new_names(layer)
        _refuse_unknown(values, kind())
        for table in tables:
            whole = isinstance(OmegaConf.select(OmegaConf.create(values), table), DictConfig)
            if whole and not key.startswith(f"{table}."):
                OmegaConf.update(tree, table, {}, merge=False)
        tree = OmegaConf.merge(tree, values)
    settings = OmegaConf.to_object(tree)
    assert isinstance(settings, kind)
    settings.check()
    return settings


def _with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        table = values.get(section)
        if isinstance(table, dict) and name in table:
            table.setdefault(new.partition(".")[2], table.pop(name))
    return values


def _refuse_unknown(values: dict[str, Any], defaults: Checked) -> None:
    known = set(flat(defaults))
    sections = {start for key in known for start in _starts(key)} - known
    for key, value in _dotted(values):
        if key in sections and value != {}:
            one = next(name for name in flat(defaults) if name.startswith(f"{key}."))
            raise UserError(f"{key}={value}: {key} is a table of settings; set one of it, for example {one}")
        # A table that is one setting, data.tasks, has keys of its own.
        if key not in sections and not known.intersection(_starts(key)):
            raise UserError(
                f"no setting '{key}': {hint(key, defaults) or '`python -m model_training settings` shows every key'}"
            )


def _starts(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _dotted(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if prefix and (not isinstance(values, dict) or not values):
        yield prefix, values
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from _dotted(value, f"{prefix}.{name}" if prefix else str(name))


def _read(config: str, folder: Path) -> Any:
    path = Path(config)
    if not path.exists() and (config in presets(folder) or not path.suffix):  # osum-0.5b has a point, and no suffix
        path = folder / f"{config}.yaml"
        if not path.exists():
            raise UserError(
                f"no preset '{config}': there are {', '.join(presets(folder))}; or give the path of a YAML file"
            )
    if not path.is_file():
        raise UserError(
            f"no settings file {config}: give the path of a YAML file or a preset: {', '.join(presets(folder))}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{config} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{config} holds no settings: expected 'key: value' lines at the top level")
    return content


def _explain(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None) or ""
    message = str(error).splitlines()[0]
    return wrong_type(key, message) or f"{key}: {message}"


def s3_settings(recorded: Mapping[str, Any] | None = None) -> S3Settings:
    """Return how to reach a store: AWS_ENDPOINT_URL, then what a hand-off's `storage` says, then boto3's own."""
    recorded = recorded or {}
    return S3Settings(
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL") or recorded.get("endpoint_url"),
        region=recorded.get("region"),
        addressing_style=recorded.get("addressing_style") or "auto",
    )
