"""What a run directory says of itself: config.yaml, written before the plan, read by every later command.

Settings ──config_bytes──> config.yaml (settings, their fingerprint, versions) ──existing_run──> Settings, Store
                                       └──refuse_other_settings──> UserError: one directory holds one run
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from typing import Any

import yaml

from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.fetch import open_store
from operators.text.spoken import RULES_VERSION
from pipeline import ledger
from pipeline.config import Settings, fingerprint, load, output_settings, restore, to_dict

CONFIG_KEY = "config.yaml"

PACKAGES = (
    "touchasp",
    "av",
    "boto3",
    "ctranslate2",
    "faster-whisper",
    "funasr",
    "numpy",
    "onnxruntime",
    "OpenCC",
    "pocketsphinx",
    "pyannote-audio",
    "pyarrow",
    "pypinyin",
    "rapidfuzz",
    "ray",
    "silero-vad",
    "soundfile",
    "tokenizers",
    "torch",
    "torchaudio",
    "ToJyutping",
    "transformers",
    "whisperx",
)
"""Packages whose versions may change what a run writes."""


def config_bytes(settings: Settings) -> bytes:
    """Return config.yaml of a run."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    content = {
        "fingerprint": fingerprint(settings),
        "text_rules": RULES_VERSION,
        "settings": to_dict(settings),
        "versions": versions,
    }
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode("utf-8")


def stored_config(store: Store) -> dict[str, Any]:
    """Return config.yaml of a run. Raises UserError when the folder is no run."""
    if not store.exists(CONFIG_KEY):
        raise UserError(f"{store.root} is no run directory (it has no {CONFIG_KEY}): give the `output` of a run")
    try:
        content = yaml.safe_load(store.read(CONFIG_KEY))
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict) or not {"settings", "fingerprint"} <= content.keys():
        raise UserError(f"{store.url(CONFIG_KEY)} is damaged: put back a copy of it, or choose another output")
    return content


def text_rules(stored: dict[str, Any]) -> int:
    """Return the version of the text rules that a run was begun under; 1 where its config.yaml does not say."""
    version = stored.get("text_rules", 1)
    return version if isinstance(version, int) else 1


def existing_run(root: str, overrides: list[str]) -> tuple[Settings, Store]:
    """Return the settings that made a run directory, and its store; `s3.*` overrides say how to reach it. Raises
    UserError.
    """
    refused = [override for override in overrides if not override.startswith("s3.")]
    if refused:
        raise UserError(f"{refused[0]}: only s3.* settings can be given here; 'redecide' changes thresholds")
    reach = load(None, overrides).s3
    store = open_store(root, reach)
    settings = restore(stored_config(store)["settings"])
    return replace(settings, output=root, s3=reach if overrides else settings.s3), store


def refuse_other_settings(settings: Settings, store: Store) -> None:
    """Refuse settings that are not those of the run: they would mix two kinds of shard in it. Raises UserError."""
    stored = stored_config(store)
    if stored["fingerprint"] == fingerprint(settings):
        return
    before = output_settings(restore(stored["settings"]))
    if text_rules(stored) != RULES_VERSION:
        raise UserError(
            f"{store.root} was begun under version {text_rules(stored)} of the text rules, and version "
            f"{RULES_VERSION} gives other labels: choose another output, or 'redecide' the run once it is finished"
        )
    now = output_settings(settings)
    changed = [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    fix = "choose another output, or use 'redecide' to change thresholds"
    if not ledger.any_done(store):
        fix = "nothing is done in it yet, so remove it if no run is at work there, or choose another output"
    more = " ..." if len(changed) > 4 else ""
    raise UserError(f"{store.root} was made with other settings ({'; '.join(changed[:4])}{more}): {fix}")
