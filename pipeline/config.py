"""The settings tree of a curation run: defaults < YAML file < `key=value` on the command line.

    dataclasses (defaults, types, comments) ──OmegaConf──> merged with CONFIG.yaml and dots ──check──> Settings

Unknown keys and wrong types are errors that name the nearest real key. YAML holds numbers, names and paths; structure
lives in code. Secrets never belong here: S3 credentials come from boto3's own chain (environment, profile, instance
role).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from operators.errors import UserError
from operators.storage.base import S3Settings


@dataclass
class SourceSettings:
    path: str = ""  # directory, s3:// prefix, manifest (.jsonl .csv .parquet) or .tar of raw audio
    domain: str | None = None  # overrides the first folder, and the manifest where it gives none
    language: str | None = None  # what is spoken, when it is known for the whole source


LEAST_UNIT_MINUTES, MOST_UNIT_MINUTES = 2.0, 30.0
"""Of units whose length the plan chooses."""


@dataclass
class PlanSettings:
    # about this much raw audio of one domain is one unit of work; None: 30, less where the sources are short
    unit_minutes: float | None = None
    edge_radius_seconds: float = 15.0  # a long recording is cut at the quietest point this near a unit's edge
    probe_workers: int = 4


@dataclass
class AudioSettings:
    codec: str = "flac"  # of the shards: flac or opus
    opus_kbps: int = 32
    max_hours: float = 48.0  # a recording is decoded no further than this
    max_gigabytes: float = 64.0
    decode_timeout_seconds: float = 300.0  # without progress, per attempt
    decode_attempts: int = 2


@dataclass
class VadSettings:
    engine: str = "pyannote"  # pyannote (whisperX's own), silero, fsmn, or module:Class
    model: str | None = None  # folder or hub name, where the engine needs one
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)  # the engine's own (step, batch_size, onset, offset, ...)


@dataclass
class CutSettings:
    min_seconds: float = 2.0
    max_seconds: float = 30.0
    target_seconds: float = (
        20.0  # joining stops about here: a longer clip costs less GPU, but is lost whole for one wrong word
    )
    max_gap_seconds: float = 0.8  # a pause up to this long stays inside a clip
    rescue_gap_seconds: float = 2.5  # or this long, when an island would be too short otherwise
    pad_seconds: float = 0.2  # of silence kept at each end


@dataclass
class AsrSettings:
    engine: str = "whisperx"  # or module:Class
    model: str = "large-v3"  # hub name or a local CTranslate2 folder
    device: str = "cpu"
    compute_type: str = "default"
    batch_size: int = 16
    share_windows: bool = True  # consecutive clips of a recording in one 30-s window of Whisper
    window_gap_seconds: float = 0.8  # of silence between them
    language: str | None = None  # one language for everything; otherwise per clip, or per source where it is given
    trust_source_language: bool = True
    languages: list[str] = field(default_factory=list)  # keep these only; empty: all
    min_language_prob: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class CopilotSettings:
    engine: str = "funasr"  # or module:Class
    # language -> model (hub name or folder), or a list of models for a vote; "*" serves the rest
    models: dict[str, Any] = field(
        default_factory=lambda: {"zh": "paraformer-zh", "en": "paraformer-en", "yue": "iic/SenseVoiceSmall"}
    )
    device: str = "cpu"
    batch_seconds: float = 300.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class TextSettings:
    fillers: bool = True  # drop fillers before comparing
    erhua: bool = True  # 花儿 equals 花


@dataclass
class RoverSettings:
    max_wer: float = 10.0  # percent
    max_per: float = 5.0
    drop_when: str = "either"  # "either" exceeds its limit (default), or only when "both" do
    tones: bool = True
    # language -> whose transcript is the reference of the rates, and whose becomes the label: asr or copilot
    reference: dict[str, str] = field(default_factory=lambda: {"zh": "copilot", "default": "asr"})
    label: dict[str, str] = field(default_factory=lambda: {"zh": "copilot", "default": "asr"})
    label_form: str = "written"  # as the engine wrote it; "spoken": as compared, numbers in words, no punctuation


@dataclass
class WorkerSettings:
    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1  # of the worker's native libraries
    min_workers: int = 1
    max_workers: int = 1


@dataclass
class ExecutionSettings:
    runner: str = "ray"  # ray, or local: the same stages in one plain loop
    address: str | None = None  # of a running cluster ("auto" finds it); None starts one here
    num_cpus: int | None = None  # logical CPUs of the cluster started here; None: as many as the stages need
    max_failures: int = 20  # give up after this many units have failed
    max_task_retries: int = 20  # of one unit whose worker died
    scratch: str | None = None  # folder for temporary files
    segment: WorkerSettings = field(default_factory=lambda: WorkerSettings(cpus=1.0))
    transcribe: WorkerSettings = field(default_factory=lambda: WorkerSettings(cpus=1.0))
    copilot: WorkerSettings = field(default_factory=lambda: WorkerSettings(cpus=0.5))
    rover: WorkerSettings = field(default_factory=lambda: WorkerSettings(cpus=0.25))
    write_shard: WorkerSettings = field(default_factory=lambda: WorkerSettings(cpus=0.25))


@dataclass
class Settings:
    output: str = ""  # run directory, local or s3://
    sources: list[SourceSettings] = field(default_factory=list)
    seed: int = 0
    s3: S3Settings = field(default_factory=S3Settings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    vad: VadSettings = field(default_factory=VadSettings)
    cut: CutSettings = field(default_factory=CutSettings)
    asr: AsrSettings = field(default_factory=AsrSettings)
    hallucination: dict[str, Any] = field(default_factory=dict)  # see operators.asr.hallucination.HallucinationRules
    copilot: CopilotSettings = field(default_factory=CopilotSettings)
    text: TextSettings = field(default_factory=TextSettings)
    rover: RoverSettings = field(default_factory=RoverSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)


def load(path: str | None, overrides: list[str]) -> Settings:
    """Settings from defaults, a YAML file and `key=value` overrides, in rising order of authority.

    Paths inside the file are relative to the current directory, as on the command line. Raises UserError.
    """
    return _merge(OmegaConf.structured(Settings), path, overrides)


def _merge(tree: Any, path: str | None, overrides: list[str]) -> Settings:
    try:
        if path is not None:
            tree = _laid_over(tree, _read_yaml(path))
        for override in overrides:
            if "=" not in override:
                raise UserError(f"'{override}' is no setting: write key=value, for example rover.max_wer=15")
            if override.partition("=")[0] in _FREE:
                _empty(tree, override.partition("=")[0])
            tree = OmegaConf.merge(tree, _plain(OmegaConf.to_container(OmegaConf.from_dotlist([override]))))
        settings = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML in {path or 'an override'}: {' '.join(str(error).split())}") from None
    assert isinstance(settings, Settings)
    _check(settings)
    return settings


def restore(values: dict[str, Any]) -> Settings:
    """Settings from what `to_dict` gave; keys that an older run did not know have their defaults. Raises UserError."""
    if not isinstance(values, dict):
        raise UserError("config.yaml of the run is damaged: its settings are no table")
    try:
        settings = OmegaConf.to_object(_laid_over(OmegaConf.structured(Settings), values))
    except OmegaConfBaseException as error:
        raise UserError(f"config.yaml of the run: {_explain(error)}") from None
    assert isinstance(settings, Settings)
    return settings


def override(settings: Settings, overrides: list[str]) -> Settings:
    """The same settings with `key=value` changes. Raises UserError."""
    return _merge(OmegaConf.structured(settings), None, overrides)


def _read_yaml(path: str) -> Any:
    try:
        if not Path(path).is_file():
            raise UserError(f"no settings file {path}: give the path of a YAML file (pipeline/configs/ has examples)")
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: expected 'key: value' lines at the top level")
    return _plain(content)


def _plain(content: Any) -> Any:
    """A settings tree without surprises. `sources: crawl/` and `sources: [a, b]` are short for records that name only a
    path.

    ${...} is refused: a settings file must not be able to pull secrets out of the environment and into config.yaml.
    """
    if "${" in json.dumps(content, default=str):
        raise UserError("settings may not hold ${...}: write the value itself")
    if isinstance(content.get("sources"), str):
        content["sources"] = [content["sources"]]
    if isinstance(content.get("sources"), list):
        content["sources"] = [{"path": item} if isinstance(item, str) else item for item in content["sources"]]
    _check_tables(content, Settings(), "")
    return content


def _check_tables(content: dict[str, Any], defaults: Any, prefix: str) -> None:
    """OmegaConf does not tell which table is given as something else."""
    for key, default in vars(defaults).items():
        if key not in content or not (is_dataclass(default) or isinstance(default, dict)):
            continue
        if not isinstance(content[key], dict):
            raise UserError(
                f"{prefix}{key} is a table of settings, not {content[key]}: pipeline/configs/full.yaml shows its keys"
            )
        if is_dataclass(default):
            _check_tables(content[key], default, f"{prefix}{key}.")


def _laid_over(tree: Any, content: dict[str, Any]) -> Any:
    for key in _FREE:
        section, _, name = key.partition(".")
        if isinstance(content.get(section), dict) and isinstance(content[section].get(name), dict):
            _empty(tree, key)
    return OmegaConf.merge(tree, content)


def _empty(tree: Any, key: str) -> None:
    """A table of the user's own replaces the default one; only `table.entry=value` adds to it."""
    OmegaConf.update(tree, key, {}, merge=False)


def _explain(error: OmegaConfBaseException) -> str:
    full_key = str(getattr(error, "full_key", "") or "")
    message = str(error).splitlines()[0]
    if full_key.endswith((".False", ".True")):
        return (
            f"{full_key}: YAML reads yes, no, on and off as true and false: put a code such as no (Norwegian) in quotes"
        )
    if "not in" in message or "Unexpected" in message or "Key" in message:
        near = difflib.get_close_matches(full_key, list(setting_keys()), n=1, cutoff=0.5)
        hint = f": did you mean {near[0]}?" if near else ": see pipeline/configs/full.yaml for every key"
        return f"no setting is called {full_key}{hint}"
    return f"setting {full_key}: {message}"


def setting_keys() -> dict[str, Any]:
    """Every leaf setting by its dotted key, with its default."""
    leaves: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value and prefix not in _FREE:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            leaves[prefix] = value

    walk("", asdict(Settings()))
    return leaves


_FREE = ("copilot.models", "rover.reference", "rover.label")


def _check(settings: Settings) -> None:
    def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise UserError(f"{key}={value}: expected one of {', '.join(allowed)}")

    def at_least(key: str, value: float, least: float) -> None:
        if not value >= least:
            raise UserError(f"{key}={value}: must be at least {least}")

    def between(key: str, value: float, least: float, most: float) -> None:
        at_least(key, value, least)
        if value > most:
            raise UserError(f"{key}={value}: must be at most {most}")

    _check_finite(settings, "")
    one_of("audio.codec", settings.audio.codec, ("flac", "opus"))
    one_of("execution.runner", settings.execution.runner, ("ray", "local"))
    one_of("rover.drop_when", settings.rover.drop_when, ("either", "both"))
    one_of("rover.label_form", settings.rover.label_form, ("spoken", "written"))
    for table in ("reference", "label"):
        for language, engine in getattr(settings.rover, table).items():
            one_of(f"rover.{table}.{language}", engine, ("asr", "copilot"))
    built_ins = {"vad": ("pyannote", "silero", "fsmn"), "asr": ("whisperx",), "copilot": ("funasr",)}
    for section, known in built_ins.items():
        part = getattr(settings, section)
        if ":" not in part.engine and part.engine not in known:
            built_in = " or ".join(known)
            raise UserError(
                f"{section}.engine={part.engine}: give {built_in}, or module:Class for an engine of your own"
            )
    if settings.plan.unit_minutes is not None:
        between("plan.unit_minutes", settings.plan.unit_minutes, 0.5, 10_000)
    at_least("cut.min_seconds", settings.cut.min_seconds, 0.1)
    between("cut.max_seconds", settings.cut.max_seconds, 2 * settings.cut.min_seconds, 30)  # Whisper hears no further
    at_least("rover.max_wer", settings.rover.max_wer, 0)
    at_least("rover.max_per", settings.rover.max_per, 0)
    at_least("asr.batch_size", settings.asr.batch_size, 1)
    between("asr.window_gap_seconds", settings.asr.window_gap_seconds, 0.1, 5.0)
    at_least("copilot.batch_seconds", settings.copilot.batch_seconds, 1)
    # Limits that let nothing through would put every recording into quarantine, one by one.
    between("audio.max_hours", settings.audio.max_hours, 0.001, 10_000)
    between("audio.max_gigabytes", settings.audio.max_gigabytes, 0.000001, 1_000_000)
    at_least("audio.decode_timeout_seconds", settings.audio.decode_timeout_seconds, 1)
    at_least("audio.decode_attempts", settings.audio.decode_attempts, 1)
    between("audio.opus_kbps", settings.audio.opus_kbps, 6, 256)  # what libopus takes for one channel
    at_least("s3.max_attempts", settings.s3.max_attempts, 1)
    at_least("s3.connect_timeout", settings.s3.connect_timeout, 0.001)
    at_least("s3.read_timeout", settings.s3.read_timeout, 0.001)
    between("plan.probe_workers", settings.plan.probe_workers, 1, 256)  # each has a process of its own
    at_least("plan.edge_radius_seconds", settings.plan.edge_radius_seconds, 0)
    at_least("execution.max_failures", settings.execution.max_failures, 1)
    at_least("execution.max_task_retries", settings.execution.max_task_retries, 0)
    if not any(settings.copilot.models.values()):
        raise UserError(
            "copilot.models names no model: without a second engine no clip would be kept; give {zh: paraformer-zh}"
        )
    for language, models in settings.copilot.models.items():
        named = [] if models is None else models if isinstance(models, list) else [models]
        if not all(isinstance(model, str) and model.strip() for model in named):
            raise UserError(
                f"copilot.models.{language}={models}: expected the name or folder of a model, or a list of them"
            )
    if "@" in (settings.s3.endpoint_url or ""):
        raise UserError(
            "s3.endpoint_url may hold no user or password: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if settings.s3.endpoint_url and not re.match(r"https?://[^/]", settings.s3.endpoint_url):
        raise UserError(
            f"s3.endpoint_url={settings.s3.endpoint_url}: write the scheme and the host, as in http://store:9000"
        )
    unit_minutes = LEAST_UNIT_MINUTES if settings.plan.unit_minutes is None else settings.plan.unit_minutes
    if settings.plan.edge_radius_seconds * 4 > unit_minutes * 60:
        raise UserError("plan.edge_radius_seconds is too wide: at most a quarter of plan.unit_minutes")
    for stage in STAGES:
        workers = getattr(settings.execution, stage)
        at_least(f"execution.{stage}.cpus", workers.cpus, 0)
        at_least(f"execution.{stage}.gpus", workers.gpus, 0)
        at_least(f"execution.{stage}.threads", workers.threads, 1)
        at_least(f"execution.{stage}.min_workers", workers.min_workers, 1)
        at_least(f"execution.{stage}.max_workers", workers.max_workers, workers.min_workers)


def _check_finite(record: Any, prefix: str) -> None:
    for key, value in vars(record).items():
        if is_dataclass(value):
            _check_finite(value, f"{prefix}{key}.")
        elif (
            isinstance(value, float) and not math.isfinite(value) and prefix != "rover."
        ):  # there infinity switches a rule off
            raise UserError(f"{prefix}{key}={value}: must be a finite number")


STAGES = ("segment", "transcribe", "copilot", "rover", "write_shard")


def to_dict(settings: Settings) -> dict[str, Any]:
    """The whole tree as plain values, for config.yaml."""
    return asdict(settings)


# Where and how fast a run works does not change what it writes; everything else does, devices and the threads of an
# engine too: a GPU sums in another order, and so do four threads.
_NOT_IN_OUTPUT = ("output", "s3", "execution", "plan.probe_workers")
_IN_OUTPUT = tuple(f"execution.{stage}.threads" for stage in ("segment", "transcribe", "copilot"))


def output_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide the bytes of a run, as dotted keys."""
    leaves: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix in _IN_OUTPUT or not any(
            prefix == name or prefix.startswith(name + ".") for name in _NOT_IN_OUTPUT
        ):
            leaves[prefix] = value

    walk("", asdict(settings))
    return leaves


def fingerprint(settings: Settings) -> str:
    """A short name of `output_settings`: two runs with equal fingerprints over equal sources write equal shards."""
    text = json.dumps(output_settings(settings), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
