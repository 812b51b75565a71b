"""The settings tree of a curation run: defaults < YAML file < `key=value` on the command line.

    dataclasses (defaults, types, bounds, meanings) ──OmegaConf──> merged with CONFIG.yaml and dots ──check──> Settings

A section that an operator or a stage works by is that operator's own record. Unknown keys and wrong types are errors
that name the nearest real key. YAML holds numbers, names and paths; structure lives in code. Secrets never belong here:
S3 credentials come from boto3's own chain (environment, profile, instance role).
"""

from __future__ import annotations

import hashlib
import json
import re
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from operators import settings as declared
from operators.agreement import AgreementRule
from operators.annotate.settings import AnnotateSettings
from operators.asr.hallucination import HallucinationRules
from operators.errors import UserError
from operators.settings import as_yaml, check, expected, json_schema, leaves, setting, wrong_type, yaml_mistake
from operators.speech.segments import CutSettings
from operators.storage.base import S3Settings
from operators.text.spoken import RULES_VERSION
from pipeline.copilots import entries
from stages.base import Resources


@dataclass(kw_only=True)
class SourceSettings:
    """SourceSettings say where some of the audio lies, and what is known of all of it."""

    path: str = setting("", "a folder or s3:// prefix, a manifest (.jsonl .csv .parquet), or a .tar of raw audio")
    domain: str | None = setting(None, "overrides the first folder, and the manifest where it gives none")
    language: str | None = setting(None, "what is spoken, where it is known for the whole source")


LEAST_UNIT_MINUTES, MOST_UNIT_MINUTES = 2.0, 30.0
"""Of units whose length the plan chooses."""


@dataclass(kw_only=True)
class PlanSettings:
    """PlanSettings say how recordings become units of work (pipeline/plan.py)."""

    unit_minutes: float | None = setting(
        None,
        "about this much raw audio of one domain is one unit; null: 30, less where the sources are short",
        at_least=0.5,
        at_most=10_000,
    )
    edge_radius_seconds: float = setting(
        15.0, "a long recording is cut at the quietest point this near a unit's edge", at_least=0
    )
    probe_workers: int = setting(4, "that read headers, each with a process of its own", at_least=1, at_most=256)


@dataclass(kw_only=True)
class AudioSettings:
    """AudioSettings say how far a recording is trusted, and how clips are encoded."""

    # Limits that let nothing through would put every recording into quarantine, one by one.
    codec: str = setting("flac", "of the shards", choices=("flac", "opus"))
    opus_kbps: int = setting(32, "what libopus takes for one channel", at_least=6, at_most=256)
    max_hours: float = setting(48.0, "a recording is decoded no further than this", at_least=0.001, at_most=10_000)
    max_gigabytes: float = setting(64.0, "a larger file is not opened", at_least=0.000001, at_most=1_000_000)
    decode_timeout_seconds: float = setting(300.0, "without a sign of life, per attempt", at_least=1)
    decode_attempts: int = setting(2, "of one recording, before it is quarantined", at_least=1)


@dataclass(kw_only=True)
class VadSettings:
    """VadSettings choose the engine that finds speech (pipeline/engines.py)."""

    engine: str = setting("pyannote", "whisperX's own; or silero, fsmn, or module:Class of yours")
    model: str | None = setting(None, "folder or hub name, where the engine needs one")
    device: str = setting("cpu", "or cuda")
    options: dict[str, Any] = setting(
        {}, "the engine's own, e.g. {step: 2.5, onset: 0.5, offset: 0.2, batch_size: 8}", infinite=True
    )


@dataclass(kw_only=True)
class AsrSettings:
    """AsrSettings choose the first recogniser, and the languages that it may report."""

    engine: str = setting("whisperx", "exported: a folder of model_training export; or module:Class of yours")
    model: str = setting("large-v3", "hub name or local CTranslate2 folder; of exported, its folder")
    device: str = setting("cpu", "or cuda")
    compute_type: str = setting("default", "int8, float16, ...")
    batch_size: int = setting(16, "clips that are recognised together", at_least=1)
    share_windows: bool = setting(True, "consecutive clips in one 30-s window of Whisper, taken apart when in doubt")
    window_gap_seconds: float = setting(0.8, "of silence between clips that share a window", at_least=0.1, at_most=5)
    language: str | None = setting(None, "one for everything; otherwise per source where given, else per clip")
    trust_source_language: bool = setting(True, "do not identify a language that the source gives")
    languages: list[str] = setting([], "keep these only; empty: all")
    min_language_prob: float = setting(0.0, "a clip whose language is less certain is rejected", at_least=0, at_most=1)
    sure_language_prob: float = setting(
        0.8, "a less certain clip gives way to the language of its recording; 0: never", at_least=0, at_most=1
    )
    retry_language: bool = setting(True, "such a clip is heard again in that language; false: it is rejected")
    options: dict[str, Any] = setting({}, "the engine's own", infinite=True)


@dataclass(kw_only=True)
class CopilotSettings:
    """CopilotSettings choose the second, independent recogniser of each language."""

    engine: str = setting("funasr", "or exported, or module:Class of yours; of the models that name none of their own")
    # Entries are read by pipeline/copilots.py.
    models: dict[str, Any] = setting(
        {"zh": "paraformer-zh", "en": "paraformer-en", "yue": "iic/SenseVoiceSmall"},
        "by language, hub name or local folder, or {engine, model, options}, or a list of these for a vote; "
        '"*" serves the rest',
        infinite=True,
    )
    device: str = setting("cpu", "or cuda")
    batch_seconds: float = setting(300.0, "of audio that is recognised together", at_least=1)
    options: dict[str, Any] = setting({}, "the engine's own", infinite=True)


@dataclass(kw_only=True)
class TextSettings:
    """TextSettings say how labels are spelt, and what two transcripts are forgiven (operators/text/)."""

    fillers: bool = setting(True, "compare without 嗯, um, ...")
    erhua: bool = setting(True, "花儿 equals 花")
    han: str = setting(
        "simplified", "script of labels; written: as the engine wrote it", choices=("simplified", "written")
    )


@dataclass(kw_only=True)
class StopWhen:
    """StopWhen says when a run is not worth going on with, by all that it has done (pipeline/watch/watch.py)."""

    min_retention: float | None = setting(
        None, "stop where less of the input is kept, in percent; null: never", at_least=0, at_most=100
    )
    max_quarantine: float | None = setting(
        None, "stop where more of the recordings are in quarantine, in percent; null: never", at_least=0, at_most=100
    )
    after_hours: float = setting(1.0, "of input that are done before anything is stopped", at_least=0)
    after_units: int = setting(10, "that are done before anything is stopped", at_least=1)

    @property
    def is_on(self) -> bool:
        return self.min_retention is not None or self.max_quarantine is not None


@dataclass(kw_only=True)
class Prices:
    """Prices say what hours and storage cost, for `plan --estimate`: without any there is no cost in it."""

    cpu_hour: float | None = setting(None, "of one CPU for an hour; null: not counted", at_least=0)
    gpu_hour: float | None = setting(None, "of one GPU for an hour; null: not counted", at_least=0)
    gigabyte: float | None = setting(
        None, "of a gigabyte stored, for as long as you mean to keep it; null: not counted", at_least=0
    )
    currency: str = setting("", "printed beside the cost")

    @property
    def given(self) -> bool:
        return any(price is not None for price in (self.cpu_hour, self.gpu_hour, self.gigabyte))


@dataclass(kw_only=True)
class ExecutionSettings:
    """ExecutionSettings say where the stages run, and with how many workers."""

    runner: str = setting("ray", "local: the same stages in one plain loop", choices=("ray", "local"))
    address: str | None = setting(None, "of a running cluster (auto finds it); null starts one here")
    num_cpus: int | None = setting(None, "logical CPUs of the cluster started here; null: as many as the stages need")
    max_failures: int = setting(20, "give up after this many units have failed", at_least=1)
    max_task_retries: int = setting(20, "of one unit whose worker died", at_least=0)
    scratch: str | None = setting(None, "folder for temporary files")
    stop_when: StopWhen = setting(StopWhen(), "bounds that stop a run; it goes on once they are changed")
    prices: Prices = setting(Prices(), "what hours and storage cost, for plan --estimate")
    segment: Resources = setting(Resources(cpus=1.0))
    transcribe: Resources = setting(Resources(cpus=1.0))
    copilot: Resources = setting(Resources(cpus=0.5))
    rover: Resources = setting(Resources(cpus=0.25))
    annotate: Resources = setting(Resources(cpus=0.5))
    write_shard: Resources = setting(Resources(cpus=0.25))


STAGES = tuple(name for name, kind in typing.get_type_hints(ExecutionSettings).items() if kind is Resources)
"""Keys of the stages under `execution`, in order."""


@dataclass(kw_only=True)
class Settings:
    """Settings hold every setting of a curation run."""

    output: str = setting("", "run directory, local or s3://bucket/prefix")
    sources: list[SourceSettings] = setting(
        [], "e.g. [{path: crawl/}, {path: s3://bucket/crawl/manifest.jsonl, language: zh}]"
    )
    seed: int = setting(0, "no stage draws anything today; part of the fingerprint")
    s3: S3Settings = setting(S3Settings(), "how s3:// paths are reached")
    plan: PlanSettings = setting(PlanSettings(), "sources into units of work")
    audio: AudioSettings = setting(AudioSettings(), "reading recordings, writing clips")
    vad: VadSettings = setting(VadSettings(), "where somebody speaks")
    cut: CutSettings = setting(CutSettings(), "speech into clips")
    asr: AsrSettings = setting(AsrSettings(), "the first recogniser")
    hallucination: HallucinationRules = setting(HallucinationRules(), "transcripts that the ASR made up")
    copilot: CopilotSettings = setting(CopilotSettings(), "the second, independent recogniser")
    text: TextSettings = setting(TextSettings(), "both transcripts: as labels, and as they are compared")
    rover: AgreementRule = setting(AgreementRule(), "which clips are kept")
    annotate: AnnotateSettings = setting(AnnotateSettings(), "what kept clips carry besides words; off as it stands")
    execution: ExecutionSettings = setting(ExecutionSettings(), "where and how fast; no label depends on it")


def longest_unit_minutes(plan: PlanSettings) -> float:
    """Return how long a unit may get by its plan: as set, else the longest that the plan chooses."""
    return MOST_UNIT_MINUTES if plan.unit_minutes is None else plan.unit_minutes


def load(path: str | None, overrides: list[str]) -> Settings:
    """Return settings from defaults, a YAML file and `key=value` overrides, in rising order of authority.

    Paths inside the file are relative to the current directory, as on the command line. Raises UserError.
    """
    return _merge(OmegaConf.structured(Settings), None if path is None else _settings_file(path), overrides)


def override(settings: Settings, overrides: list[str], file: SettingsFile | None = None) -> Settings:
    """Return the same settings with those of a file and `key=value` changes laid over them. Raises UserError."""
    return _merge(OmegaConf.structured(settings), file, overrides)


_DONE_BEFORE = {"asr": {"sure_language_prob": 0.0}}
"""Settings whose default changed what a run writes, as they were before they came."""


def restore(values: dict[str, Any]) -> Settings:
    """Return settings from what `to_dict` gave. Raises UserError.

    Keys that an older run did not know have their defaults, or the value that does what was done then.
    """
    if not isinstance(values, dict):
        raise UserError("config.yaml of the run is damaged: its settings are no table")
    try:
        before = OmegaConf.merge(OmegaConf.structured(Settings), _DONE_BEFORE)
        settings = OmegaConf.to_object(_laid_over(before, values))
    except OmegaConfBaseException as error:
        raise UserError(f"config.yaml of the run: {_explain(error)}") from None
    assert isinstance(settings, Settings)
    return settings


class SettingsFile(NamedTuple):
    """A SettingsFile is a YAML file that was read: its name, for errors, and its bytes."""

    name: str
    data: bytes


def _merge(tree: Any, file: SettingsFile | None, overrides: list[str]) -> Settings:
    try:
        if file is not None:
            tree = _laid_over(tree, _parse_yaml(file))
        for override in overrides:
            key, equals, _ = override.partition("=")
            if not equals:
                raise UserError(f"'{override}' is no setting: write key=value, for example rover.max_wer=15")
            if key in _REPLACED:
                _empty(tree, key)
            given = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
            if key.rpartition(".")[0] == "copilot.models":
                OmegaConf.update(tree, key, None)  # the entry is replaced whole: options of another engine would stay
            tree.merge_with(_checked(given, whole=key))  # in place: a copy of the tree for each takes most of the time
        settings = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML in {file.name if file else 'an override'}: {yaml_mistake(error)}") from None
    assert isinstance(settings, Settings)
    check(settings)
    _check_together(settings)
    return settings


def _settings_file(path: str) -> SettingsFile:
    try:
        if not Path(path).is_file():
            raise UserError(f"no settings file {path}: give the path of a YAML file (pipeline/configs/ has examples)")
        return SettingsFile(path, Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _parse_yaml(file: SettingsFile) -> Any:
    try:
        content = yaml.safe_load(file.data.decode())
    except UnicodeDecodeError:
        raise UserError(f"{file.name} is not UTF-8: save it as UTF-8") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{file.name} holds no settings: expected 'key: value' lines at the top level")
    return _checked(content)


def _checked(content: Any, whole: str = "") -> Any:
    """Return a part of the tree as the user gave it, without surprises. `whole` is the dotted key on the command line.

    `sources: crawl/` and `sources: [a, b]` are short for records that name only a path. ${...} is refused: a settings
    file must not be able to pull secrets out of the environment and into config.yaml.
    """
    if "${" in json.dumps(content, default=str):
        raise UserError("settings may not hold ${...}: write the value itself")
    if isinstance(content.get("sources"), str):
        content["sources"] = [content["sources"]]
    if isinstance(content.get("sources"), list):
        content["sources"] = [{"path": item} if isinstance(item, str) else item for item in content["sources"]]
    _check_shape(content, Settings, "", whole)
    return content


def _check_shape(value: Any, hint: Any, key: str, whole: str) -> None:
    """Refuse keys that do not exist, and a table, list or value where another of the three belongs: OmegaConf would
    not always say where.
    """
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if is_dataclass(hint) or kind is dict:
        if not isinstance(value, dict):
            raise UserError(f"{key} is a table of settings, not {value}: `python -m pipeline settings` shows its keys")
        hints = typing.get_type_hints(hint) if is_dataclass(hint) else dict.fromkeys(value, inner[1])
        for name, entry in value.items():
            path = f"{key}.{name}" if key else str(name)
            if name not in hints:
                raise UserError(_unknown(whole if whole.startswith(f"{path}.") else path))
            _check_shape(entry, hints[name], path, whole)
    elif kind is list:
        if not isinstance(value, list):
            raise UserError(f"{key}={value}: expected a list")
        for index, entry in enumerate(value):
            _check_shape(entry, inner[0], f"{key}[{index}]", whole)
    elif isinstance(value, list | dict) and hint is not Any:
        raise UserError(f"{key}={value}: expected {expected(hint)}")


def _unknown(key: str) -> str:
    near = declared.hint(re.sub(r"\[\d+\]", "", key), Settings())
    return f"no setting is called {key}: {near or '`python -m pipeline settings` shows every key'}"


def _laid_over(tree: Any, content: dict[str, Any]) -> Any:
    for key in _REPLACED:
        section, _, name = key.partition(".")
        if isinstance(content.get(section), dict) and isinstance(content[section].get(name), dict):
            _empty(tree, key)
    return OmegaConf.merge(tree, content)


def _empty(tree: Any, key: str) -> None:
    """A table of the user's own replaces the default one; only `table.entry=value` adds to it."""
    OmegaConf.update(tree, key, {}, merge=False)


_REPLACED = tuple(key for key, default, _ in leaves(Settings()) if isinstance(default, dict) and default)


def _explain(error: OmegaConfBaseException) -> str:
    key = str(getattr(error, "full_key", "") or "")
    message = str(error).splitlines()[0]
    if key.endswith((".False", ".True")):
        return f"{key}: YAML reads yes, no, on and off as true and false: put a code such as no (Norwegian) in quotes"
    if "not in" in message:
        return _unknown(key)
    return wrong_type(key, message) or f"setting {key}: {message}"


def _check_together(settings: Settings) -> None:
    """Refuse what no bound of one setting can say."""
    if not entries(settings.copilot.models, settings.copilot.engine):
        raise UserError(
            "copilot.models names no model: without a second engine no clip would be kept; give {zh: paraformer-zh}"
        )
    _check_annotate(settings.annotate)
    endpoint = settings.s3.endpoint_url
    if "@" in (endpoint or ""):
        raise UserError(
            "s3.endpoint_url may hold no user or password: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise UserError(f"s3.endpoint_url={endpoint}: write the scheme and the host, as in http://store:9000")
    unit_minutes = LEAST_UNIT_MINUTES if settings.plan.unit_minutes is None else settings.plan.unit_minutes
    if settings.plan.edge_radius_seconds * 4 > unit_minutes * 60:
        raise UserError("plan.edge_radius_seconds is too wide: at most a quarter of plan.unit_minutes")
    for stage in STAGES:
        workers: Resources = getattr(settings.execution, stage)
        if workers.max_workers < workers.min_workers:
            raise UserError(
                f"execution.{stage}.max_workers={workers.max_workers}: must be at least "
                f"execution.{stage}.min_workers={workers.min_workers}"
            )


def _check_annotate(annotate: AnnotateSettings) -> None:
    """Refuse settings under which nothing could ever be agreed on."""
    if 0 < len(annotate.annotators) < annotate.min_opinions:
        raise UserError(
            f"annotate.min_opinions={annotate.min_opinions}, and {len(annotate.annotators)} in annotate.annotators: "
            "no label could ever be kept; name more annotators, or ask for fewer opinions"
        )
    if len(annotate.words.aligners) == 1:
        raise UserError("annotate.words.aligners names one: a word is kept where two agree, so name two or more")
    if annotate.quality.min_ovrl is not None and annotate.quality.dnsmos is None:
        raise UserError("annotate.quality.min_ovrl needs DNSMOS: give its ONNX file in annotate.quality.dnsmos")
    for key, choices in (("annotators", annotate.annotators), ("words.aligners", annotate.words.aligners)):
        for at, choice in enumerate(choices):
            if not choice.engine:
                raise UserError(f"annotate.{key}[{at}] names no engine: give a built-in name, or module:Class of yours")


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return the whole tree as plain values, for config.yaml."""
    return asdict(settings)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a settings file."""
    tree = json_schema(Settings(), "touchasp: settings of a curation run")
    sources = tree["properties"]["sources"]
    path = {"type": "string"}
    sources["items"] = {"anyOf": [path, sources["items"]]}  # a path alone is short for a source, and for all of them
    tree["properties"]["sources"] = {"anyOf": [path, sources], "description": sources.pop("description")}
    return tree


def full_yaml() -> str:
    """Return pipeline/configs/full.yaml."""
    return f"""\
# Every setting with its default. Copy what you change; anything left out keeps the value shown here.
# On the command line the same keys are written with dots: rover.max_wer=15 'copilot.models.zh=/models/paraformer'
# This file is what `python -m pipeline settings` prints.

{as_yaml(Settings())}"""


# Where and how fast a run works does not change what it writes; everything else does, devices and the threads of an
# engine too: a GPU sums in another order, and so do four threads.
_NOT_IN_OUTPUT = ("output", "s3", "execution", "plan.probe_workers")
_IN_OUTPUT = ("execution.segment.threads", "execution.transcribe.threads", "execution.copilot.threads")
_IN_OUTPUT_ANNOTATED = (*_IN_OUTPUT, "execution.annotate.threads")


def output_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide the bytes of a run, as dotted keys.

    Of `hallucination` and `annotate` those only that differ from their defaults: runs from before they came go on.
    """
    found: dict[str, Any] = {}
    kept = _IN_OUTPUT_ANNOTATED if settings.annotate.is_on else _IN_OUTPUT

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix in kept or not any(prefix == name or prefix.startswith(name + ".") for name in _NOT_IN_OUTPUT):
            found[prefix] = value

    newer = {"hallucination": _changed(settings.hallucination), "annotate": _changed(settings.annotate)}
    walk("", asdict(settings) | newer)
    return found


def _changed(value: Any) -> Any:
    """Return a record as a table of what differs from its defaults, tables and lists of records alike."""
    if isinstance(value, dict):
        return {key: _changed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_changed(inner) for inner in value]
    if not is_dataclass(value):
        return value
    now = {each.name: getattr(value, each.name) for each in fields(value)}
    defaults = type(value)()  # type: ignore[misc]
    return {name: _changed(inner) for name, inner in now.items() if inner != getattr(defaults, name)}


def fingerprint(settings: Settings) -> str:
    """Return a short name of `output_settings`: equal ones over equal sources write equal shards."""
    what = output_settings(settings) | {"text rules": RULES_VERSION}
    text = json.dumps(what, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
