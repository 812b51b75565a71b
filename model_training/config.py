"""Settings of the trainer: what can be set, its default, and what it means.

    dataclasses (defaults, types, comments) ──OmegaConf──> merged with CONFIG and key=value ──check──> Settings

CONFIG is a YAML file or the name of a preset in configs/. A key that does not exist is an error that names its
neighbours.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from model_training.data.augment import AugmentSettings
from operators.errors import UserError

PRESETS = Path(__file__).parent / "configs"

FFN_PLACES = ("none", "second", "all")
BALANCES = ("none", "bias", "switch", "sparsity")
DISPATCHES = ("auto", "dense", "sorted", "grouped", "loop")


@dataclass
class MoESettings:
    """An elastic mixture of experts in place of feed-forward blocks (TouchASP section 3.1; SPEC.md section 2)."""

    ffn: str = (
        "all"  # which blocks: all | second (the second macaron block of the encoder only, as in 3M) | none (dense)
    )
    shared: int = 1  # S: always on, no gate
    experts: list[int] = field(default_factory=lambda: [3, 7, 15])  # N of each nested group; one entry = no groups
    top_k: int = 3  # K of N; does not count the shared
    expert_width: int = (
        0  # hidden units of one expert; 0: d_ff * 8 / (S + N), so that all experts together hold 8 blocks
    )
    norm_topk: bool = True  # softmax over the chosen K; false: over all N, as Switch and 3M do
    group_weights: list[float] = field(default_factory=list)  # how often a group is drawn; empty: 1, 2, 4, ...
    balance: str = "none"  # none (paper) | bias (auxiliary-loss-free) | switch | sparsity (3M: L1 and mean importance)
    balance_weight: float = 0.01  # of the switch loss
    bias_rate: float = 0.001  # step of the selection bias
    sparsity_weight: float = 0.15  # alpha of 3M
    importance_weight: float = 0.15  # beta of 3M
    embedding_layers: int = 0  # blocks of 3M's shared embedding network, which routers also see; 0: none
    embedding_weight: float = 0.01  # gamma of 3M: its CTC loss
    dispatch: str = (
        "auto"  # auto | dense | sorted | grouped | loop: how frames reach experts; grouped: a GPU's bfloat16 only
    )


@dataclass
class ModelSettings:
    """A Conformer encoder with a CTC head and a left-to-right attention decoder."""

    d_model: int = 144
    heads: int = 4
    d_ff: int = 576  # of a dense feed-forward block
    encoder_layers: int = 6
    decoder_layers: int = 2
    kernel: int = 15  # of the convolution module, frames of 40 ms
    causal: bool = False  # no frame sees a later one
    dropout: float = 0.1
    extra_decoders: int = 0  # 3M: decoders at equal depths of the encoder, in training only
    moe: MoESettings = field(default_factory=MoESettings)

    def expert_width(self) -> int:
        """Return the hidden units of one expert."""
        return self.moe.expert_width or self.d_ff * 8 // (self.moe.shared + self.moe.experts[-1])


@dataclass
class LossSettings:
    ctc_weight: float = 0.3
    label_smoothing: float = 0.1


@dataclass
class AugmentConfig:
    """What a clip goes through before its features, and its features after normalisation (3M section 4.2; SPEC.md
    section 2).
    """

    speed_factors: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])  # one for each clip; []: none
    noise_probability: float = 0.5
    snr_db: list[float] = field(default_factory=lambda: [15.0, 30.0])
    reverb_probability: float = 0.5
    rt60_seconds: list[float] = field(default_factory=lambda: [0.0, 0.9])
    frequency_masks: int = 2
    frequency_mask_bins: int = 30
    time_masks: int = 2
    time_mask_frames: int = 50
    time_mask_share: float = 0.2  # no time mask is longer than this share of the clip
    noises: list[str] = field(default_factory=list)  # recordings of noise; none: noise of random colour is made

    def settings(self) -> AugmentSettings:
        """Raises UserError for values out of range."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in asdict(self).items()
        }
        values.pop("noises")
        for key in ("snr_db", "rt60_seconds"):
            if len(values[key]) != 2 or not all(map(math.isfinite, values[key])):
                raise UserError(f"data.augment.{key}={list(values[key])}: give the smallest and the largest")
        return AugmentSettings(**values)


@dataclass
class DataSettings:
    max_frames: int = 24_000  # padded 10 ms frames in one micro-batch
    max_clips: int = 64
    min_clip_frames: int = 20
    max_clip_frames: int = 3_000
    micro_batches: int = 2  # of one optimiser step, over all workers: dividing them among more changes nothing
    loaders: int = 1  # processes that read and decode; 0: none
    task_order: str = ""  # attributes_first, or text_first (OSUM's ASR+X); empty: the tokenizer's
    tasks: dict[str, float] = field(default_factory=lambda: {"transcribe": 1.0})  # how often each prompt is trained
    attribute_dropout: float = (
        0.0  # share of age, gender, emotion and language labels treated as unknown (an experiment's knob)
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class OptimizerSettings:
    name: str = "adamw"  # adamw | muon (orthogonal updates for matrices, AdamW for the rest; needs fewer steps)
    learning_rate: float = 1e-3
    schedule: str = (
        "noam"  # noam (warm-up, then 1/sqrt(step)) | cosine (to zero at max_steps) | constant (after warm-up)
    )
    warmup_steps: int = 500
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    clip_norm: float = 5.0
    ema: float = 0.0  # decay of the averaged weights; 0: none


@dataclass
class TrainSettings:
    max_steps: int = 2_000
    max_minutes: float = 0.0  # 0: no limit. The run stops after a checkpoint and can go on later
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda
    precision: str = "auto"  # auto (bf16 where the hardware has it) | bf16 | fp32
    threads: int = 0  # of torch on a CPU; 0: torch's choice
    checkpoint_steps: int = 500
    keep_checkpoints: int = 5
    eval_steps: int = 500
    eval_clips: int = 200  # of dev, for the loss during training
    log_steps: int = 10
    tensorboard: bool = True
    dead_expert_steps: int = 200  # an expert that got no frame for so many steps of its group raises the alarm


@dataclass
class Settings:
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


def presets() -> list[str]:
    """Names of the settings that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(config: str | None, overrides: list[str]) -> Settings:
    """Defaults, then CONFIG (a YAML file or a preset's name), then key=value.

    Raises:
        UserError: no such file or preset, a key that does not exist, a value of the wrong type or out of range.
    """
    tree = OmegaConf.structured(Settings)
    try:
        if config:
            tree = OmegaConf.merge(tree, _read(config))
        for override in overrides:
            if "=" not in override or override.startswith("="):
                raise UserError(f"'{override}' is no setting: write key=value, for example train.max_steps=1000")
            tree = OmegaConf.merge(tree, OmegaConf.from_dotlist([override]))
        settings = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML in {config or 'an override'}: {' '.join(str(error).split())}") from None
    assert isinstance(settings, Settings)
    check(settings)
    return settings


def restore(values: dict[str, Any]) -> Settings:
    """Settings that `to_dict` wrote."""
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), values))
    except OmegaConfBaseException as error:
        raise UserError(f"the checkpoint's settings are damaged or of another version: {_explain(error)}") from None
    assert isinstance(settings, Settings)
    check(settings)
    return settings


def to_dict(settings: Settings) -> dict[str, Any]:
    return asdict(settings)


def flat(settings: Settings) -> dict[str, Any]:
    """Return every setting by its dotted key."""
    return dict(_leaves(settings))


def check(settings: Settings) -> None:
    """Refuse what cannot work, with the mend."""
    model, moe, data, optimizer, train = (
        settings.model,
        settings.model.moe,
        settings.data,
        settings.optimizer,
        settings.train,
    )

    def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise UserError(f"{key}={value}: expected one of {', '.join(allowed)}")

    def at_least(key: str, value: float, least: float) -> None:
        if not least <= value < math.inf:
            raise UserError(f"{key}={value}: must be at least {least:g}")

    def share(key: str, value: float) -> None:
        if not 0 <= value < 1:
            raise UserError(f"{key}={value}: must be at least 0 and below 1")

    one_of("model.moe.ffn", moe.ffn, FFN_PLACES)
    one_of("model.moe.balance", moe.balance, BALANCES)
    one_of("model.moe.dispatch", moe.dispatch, DISPATCHES)
    one_of("data.task_order", data.task_order, ("", "attributes_first", "text_first"))
    one_of("optimizer.name", optimizer.name, ("adamw", "muon"))
    one_of("optimizer.schedule", optimizer.schedule, ("noam", "cosine", "constant"))
    one_of("train.device", train.device.split(":")[0], ("auto", "cpu", "cuda"))
    one_of("train.precision", train.precision, ("auto", "bf16", "fp32"))
    for key, value, least in (
        ("model.d_model", model.d_model, 8),
        ("model.heads", model.heads, 1),
        ("model.encoder_layers", model.encoder_layers, 1),
        ("model.decoder_layers", model.decoder_layers, 1),
        ("model.d_ff", model.d_ff, 1),
        ("model.kernel", model.kernel, 1),
        ("model.extra_decoders", model.extra_decoders, 0),
        ("model.moe.expert_width", moe.expert_width, 0),
        ("model.moe.embedding_layers", moe.embedding_layers, 0),
        ("model.moe.bias_rate", moe.bias_rate, 0),
        ("data.max_clip_frames", data.max_clip_frames, 7),
        ("data.max_clips", data.max_clips, 1),
        ("data.micro_batches", data.micro_batches, 1),
        ("data.loaders", data.loaders, 0),
        ("data.augment.frequency_masks", data.augment.frequency_masks, 0),
        ("data.augment.frequency_mask_bins", data.augment.frequency_mask_bins, 0),
        ("data.augment.time_masks", data.augment.time_masks, 0),
        ("data.augment.time_mask_frames", data.augment.time_mask_frames, 0),
        ("optimizer.learning_rate", optimizer.learning_rate, 0),
        ("optimizer.warmup_steps", optimizer.warmup_steps, 0),
        ("optimizer.weight_decay", optimizer.weight_decay, 0),
        ("train.seed", train.seed, 0),
        ("train.threads", train.threads, 0),
        ("train.max_minutes", train.max_minutes, 0),
        ("train.eval_clips", train.eval_clips, 0),
        ("train.dead_expert_steps", train.dead_expert_steps, 1),
        ("train.max_steps", train.max_steps, 1),
        ("train.checkpoint_steps", train.checkpoint_steps, 1),
        ("train.keep_checkpoints", train.keep_checkpoints, 1),
        ("train.eval_steps", train.eval_steps, 1),
        ("train.log_steps", train.log_steps, 1),
    ):
        at_least(key, value, least)
    for key, value in (
        ("model.dropout", model.dropout),
        ("loss.label_smoothing", settings.loss.label_smoothing),
        ("optimizer.ema", optimizer.ema),
        *(("optimizer.betas", beta) for beta in optimizer.betas),
    ):
        share(key, value)
    if train.seed >= 2**63:
        raise UserError(f"train.seed={train.seed}: must be below 2^63, for torch's generators")
    if len(optimizer.betas) != 2:
        raise UserError(f"optimizer.betas={optimizer.betas}: give two, for example [0.9, 0.98]")
    if not optimizer.clip_norm > 0:
        raise UserError(f"optimizer.clip_norm={optimizer.clip_norm}: must be above 0")
    if data.max_frames < data.max_clip_frames:
        raise UserError(
            f"data.max_frames={data.max_frames}: must be at least data.max_clip_frames={data.max_clip_frames}"
        )
    if not 0 <= data.attribute_dropout <= 1:
        raise UserError(f"data.attribute_dropout={data.attribute_dropout}: must lie between 0 and 1")
    if model.extra_decoders >= model.encoder_layers:
        raise UserError(
            f"model.extra_decoders={model.extra_decoders}: must be below model.encoder_layers={model.encoder_layers}"
        )
    if model.d_model % model.heads or model.d_model % 2:
        raise UserError(f"model.d_model={model.d_model}: must be even and a multiple of model.heads={model.heads}")
    if not model.causal and model.kernel % 2 == 0:
        raise UserError(f"model.kernel={model.kernel}: must be odd, so that it has a middle")
    if not 0 <= settings.loss.ctc_weight <= 1:
        raise UserError(f"loss.ctc_weight={settings.loss.ctc_weight}: must lie between 0 and 1")
    if not data.tasks or any(weight < 0 for weight in data.tasks.values()) or not sum(data.tasks.values()):
        raise UserError("data.tasks: give at least one task a weight above 0, for example {transcribe: 1}")
    data.augment.settings()
    if moe.ffn != "none":
        _check_experts(model)


def _check_experts(model: ModelSettings) -> None:
    moe = model.moe
    if not moe.experts or any(more <= fewer for fewer, more in zip(moe.experts, moe.experts[1:])):
        raise UserError(f"model.moe.experts={moe.experts}: give increasing numbers, for example [3, 7, 15]")
    if not 1 <= moe.top_k <= moe.experts[0]:
        raise UserError(
            f"model.moe.top_k={moe.top_k}: must be from 1 to {moe.experts[0]}, the experts of the smallest group"
        )
    if moe.shared < 0:
        raise UserError(f"model.moe.shared={moe.shared}: must be at least 0")
    if moe.group_weights and len(moe.group_weights) != len(moe.experts):
        raise UserError(
            f"model.moe.group_weights={moe.group_weights}: give one for each of the {len(moe.experts)} groups"
        )
    if moe.group_weights and not (min(moe.group_weights) >= 0 and 0 < sum(moe.group_weights) < math.inf):
        raise UserError(f"model.moe.group_weights={moe.group_weights}: give numbers of at least 0, one of them above")
    if not moe.expert_width and (model.d_ff * 8) % (moe.shared + moe.experts[-1]):
        raise UserError(
            f"model.d_ff={model.d_ff}: 8 x d_ff must divide by S + N = {moe.shared + moe.experts[-1]}; "
            "or set model.moe.expert_width"
        )
    if moe.dispatch == "dense" and moe.experts != [moe.top_k]:
        raise UserError(f"model.moe.dispatch=dense: works only where all experts are chosen (experts: [{moe.top_k}])")


def _read(config: str) -> Any:
    path = Path(config)
    if not path.suffix and not path.exists():
        path = PRESETS / f"{config}.yaml"
        if not path.exists():
            raise UserError(f"no preset '{config}': there are {', '.join(presets())}; or give the path of a YAML file")
    if not path.is_file():
        raise UserError(f"no settings file {config}: give the path of a YAML file or a preset: {', '.join(presets())}")
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
    known = list(flat(Settings()))
    if "not in" in str(error) and key and key not in known:
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
        return f"no setting '{key}'" + (f": did you mean {' or '.join(near)}?" if near else "")
    return f"{key}: {str(error).splitlines()[0]}"


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not is_dataclass(value):
        yield prefix, value
        return
    start = f"{prefix}." if prefix else ""
    for item in fields(value):
        yield from _leaves(getattr(value, item.name), start + item.name)


def endpoint_url(storage: dict[str, Any]) -> str | None:
    """Where an S3-compatible store answers: the environment first, then what the handoff wrote down."""
    return os.environ.get("AWS_ENDPOINT_URL") or storage.get("endpoint_url")
