"""The records of the trainer's settings: each one's default, bounds and meaning in a line, and what must go together.

record ──config.py──> merged with CONFIG and key=value ──check──> UserError for what cannot work
"""

from __future__ import annotations

from dataclasses import dataclass

from model_training.data.augment import AugmentSettings
from model_training.text.tokens import ATTRIBUTES
from operators.errors import UserError
from operators.settings import check as check_bounds
from operators.settings import setting

FFN_PLACES = ("none", "second", "all")
ENCODERS = ("conformer", "wenet")
BALANCES = ("none", "bias", "switch", "sparsity")
DISPATCHES = ("auto", "dense", "sorted", "grouped", "loop")
SAMPLINGS = ("step", "micro_batch", "sandwich")


@dataclass
class MoESettings:
    """MoESettings describe an elastic mixture of experts in place of feed-forward blocks (TouchASP section 3.1)."""

    ffn: str = setting(
        "all",
        "blocks with experts; second: the encoder's second macaron block, as in 3M; none: dense",
        choices=FFN_PLACES,
    )
    shared: int = setting(1, "S: always on, no gate", at_least=0)
    experts: list[int] = setting(
        [3, 7, 15], "N of each nested group, the sizes that can be exported; one entry: no groups", at_least=1
    )
    top_k: int = setting(3, "K of N for a frame; does not count the shared", at_least=1)
    expert_width: int = setting(
        0,
        "hidden units of one expert; 0: d_ff · 8 / (S + N), so that all experts together hold 8 blocks",
        at_least=0,
    )
    dropout: float | None = setting(
        None, "share of an expert's hidden units dropped in training; null: model.dropout", at_least=0, below=1
    )
    norm_topk: bool = setting(True, "softmax over the chosen K; false: over all N, as Switch and 3M do")
    group_weights: list[float] = setting([], "how often each group is drawn; empty: 1, 2, 4, …", at_least=0)
    sampling: str = setting(
        "step",
        "when a group is drawn: once a step; micro_batch: for each micro-batch, of which a step then needs several; "
        "sandwich: every micro-batch trains the largest, a drawn one between and the smallest, three times the work",
        choices=SAMPLINGS,
    )
    balance: str = setting(
        "none",
        "TouchASP has none; bias is auxiliary-loss-free, sparsity 3M's L1 and importance",
        choices=BALANCES,
    )
    balance_weight: float = setting(0.01, "of the switch loss", at_least=0)
    bias_rate: float = setting(0.001, "step of the selection bias", at_least=0)
    sparsity_weight: float = setting(0.15, "α of 3M", at_least=0)
    importance_weight: float = setting(0.15, "β of 3M", at_least=0)
    embedding_layers: int = setting(
        0, "blocks of 3M's shared embedding network, which routers also see; 0: none", at_least=0
    )
    embedding_weight: float = setting(0.01, "γ of 3M, of that network's CTC loss", at_least=0)
    dispatch: str = setting("auto", "how frames reach experts; grouped: only with a GPU's bfloat16", choices=DISPATCHES)


@dataclass
class SpeakerHeadSettings:
    """SpeakerHeadSettings describe what answers attributes of the speaker from early layers, beside the decoder."""

    attributes: list[str] = setting(
        [], "what it answers, of language, age, gender and emotion, for example [gender, age]; empty: there is none"
    )
    layers: int = setting(
        2, "Conformer blocks whose encodings it mixes with the sub-sampling's: speakers fade with depth", at_least=0
    )
    hidden: int = setting(64, "hidden units of a frame, and between a clip's statistics and its answers", at_least=1)
    dropout: float = setting(0.2, "share of these dropped in training", at_least=0, below=1)


@dataclass
class ModelSettings:
    """ModelSettings describe a Conformer encoder with a CTC head and an attention decoder."""

    encoder: str = setting(
        "conformer",
        "wenet: places of frames instead of distances, a norm behind the last block; to begin from its checkpoints",
        choices=ENCODERS,
    )
    d_model: int = setting(144, "width of encoder and decoder; even, a multiple of heads", at_least=8)
    heads: int = setting(4, "of attention", at_least=1)
    d_ff: int = setting(576, "hidden units of a dense feed-forward block", at_least=1)
    encoder_layers: int = setting(6, "Conformer blocks, two feed-forward blocks each", at_least=1)
    decoder_layers: int = setting(2, "of the attention decoder", at_least=1)
    reverse_layers: int = setting(
        0, "of a second decoder that reads text from its end, for attention rescoring, as in U2++; 0: none", at_least=0
    )
    kernel: int = setting(15, "of the convolution module, frames of 40 ms; odd unless causal", at_least=1)
    causal: bool = setting(False, "no frame sees a later one; with dynamic_chunks only convolutions are so")
    dynamic_chunks: bool = setting(
        False,
        "attention by chunks of 1 to 25 frames or the whole, drawn for every micro-batch: for recognize --stream",
    )
    dropout: float = setting(0.1, "share of hidden units dropped in training", at_least=0, below=1)
    extra_decoders: int = setting(
        0, "3M: decoders at equal depths of the encoder, in training only; fewer than encoder_layers", at_least=0
    )
    moe: MoESettings = setting(MoESettings(), "the elastic experts")
    speaker_head: SpeakerHeadSettings = setting(
        SpeakerHeadSettings(), "what answers attributes of the speaker from early layers"
    )

    def expert_width(self) -> int:
        """Return the hidden units of one expert."""
        return self.moe.expert_width or self.d_ff * 8 // (self.moe.shared + self.moe.experts[-1])

    def expert_dropout(self) -> float:
        """Return the share of an expert's hidden units that is dropped in training."""
        return self.dropout if self.moe.dropout is None else self.moe.dropout


@dataclass
class LossSettings:
    """What is minimised."""

    ctc_weight: float = setting(0.3, "the attention decoder gets the rest", at_least=0, at_most=1)
    reverse_weight: float = setting(
        0.3, "of the right-to-left decoder in that rest, where the model has one", at_least=0, at_most=1
    )
    label_smoothing: float = setting(0.1, "of the decoder", at_least=0, below=1)
    distill_weight: float = setting(
        1.0,
        "of what parts a smaller size's answers, CTC's and the decoder's, from the largest's; with "
        "model.moe.sampling=sandwich",
        at_least=0,
    )
    speaker_weight: float = setting(
        10.0, "of what the speaker head costs: a clip's attributes, rare labels counting more", at_least=0
    )


@dataclass
class LoadingSettings:
    """LoadingSettings say how clips become batches, whatever the model."""

    hours: float = setting(
        0.0,
        "how many of the train split: of each domain its share, whole recordings drawn by train.seed, so that more "
        "hours hold all that fewer do; 0: all",
        at_least=0,
    )
    max_frames: int = setting(
        24_000,
        "padded 10 ms frames in one micro-batch: what memory is bounded by; at least max_clip_frames",
        at_least=7,
    )
    max_clips: int = setting(64, "clips in one micro-batch", at_least=1)
    min_clip_frames: int = setting(20, "shorter clips are left out, by name", at_least=0)
    max_clip_frames: int = setting(
        3_000, "longer clips too; also the longest window that an exported model takes at once", at_least=7
    )
    micro_batches: int = setting(2, "of one step, over all workers, among whom they must divide", at_least=1)
    loaders: int = setting(1, "processes that read and decode; 0: none", at_least=0)


@dataclass
class DataSettings(LoadingSettings):
    """DataSettings say how clips become batches, and labels become targets."""

    features: str = setting(
        "loaders",
        "where the filterbank is computed; device: samples go to the GPU and loaders save its time, with rounding of "
        "their own",
        choices=("loaders", "device"),
    )
    task_order: str = setting(
        "",
        "of attributes and text, text_first as OSUM's ASR+X; empty: the tokenizer's",
        choices=("", "attributes_first", "text_first"),
    )
    tasks: dict[str, float] = setting(
        {"transcribe": 1.0},
        "how often each prompt is trained: transcribe, one attribute, or event",
        at_least=0,
    )
    attribute_dropout: float = setting(
        0.0,
        "share of language, age, gender and emotion labels treated as unknown: for experiments",
        at_least=0,
        at_most=1,
    )
    labelled_weight: float = setting(
        1.0,
        "how often an epoch shows a clip that has a label for model.speaker_head, but for its language, as a multiple "
        "of the others",
        above=0,
        at_most=100,
    )
    augment: AugmentSettings = setting(
        AugmentSettings(), "drawn for every clip from (seed, micro-batch, place, clip); masks come after normalisation"
    )


@dataclass
class OptimizerSettings:
    """OptimizerSettings say how weights are moved."""

    name: str = setting(
        "adamw",
        "muon: orthogonal updates for matrices between layers, AdamW for the rest; needs fewer steps",
        choices=("adamw", "muon"),
    )
    learning_rate: float = setting(1e-3, "at the end of the warm-up", at_least=0)
    schedule: str = setting(
        "noam",
        "after the warm-up: noam, 1/√step; cosine, to zero at train.max_steps; constant",
        choices=("noam", "cosine", "constant"),
    )
    warmup_steps: int = setting(500, "over which the learning rate rises", at_least=0)
    weight_decay: float = setting(0.01, "not of biases, norms and other vectors", at_least=0)
    betas: list[float] = setting([0.9, 0.98], "of AdamW, two", at_least=0, below=1)
    clip_norm: float = setting(5.0, "of the gradient of the mean over the step's clips", above=0)
    ema: float = setting(0.0, "decay of an averaged copy of the weights, for --ema; 0: none", at_least=0, below=1)


@dataclass
class TrainSettings:
    """TrainSettings say how long a run goes, where, and what it leaves. All but the seed may change when a
    run goes on.
    """

    max_steps: int = setting(2_000, "the whole length of the run", at_least=1)
    max_minutes: float = setting(0.0, "stop after a checkpoint, to go on later; 0: no limit", at_least=0)
    seed: int = setting(0, "of weights, order, groups, augmentation, dropout", at_least=0, below=2**63)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1")
    precision: str = setting("auto", "auto: bfloat16 where the hardware has it", choices=("auto", "bf16", "fp32"))
    tf32: bool = setting(True, "on a GPU products of float32 read 10 bits of a factor's mantissa: many times as quick")
    threads: int = setting(0, "of torch on a CPU; 0: torch's choice", at_least=0)
    checkpoint_steps: int = setting(500, "steps between checkpoints", at_least=1)
    keep_checkpoints: int = setting(5, "the newest; --average N needs N of them", at_least=1)
    keep_best: int = setting(3, "beside them those with the lowest error on dev; RUN@average is their mean", at_least=1)
    patience: int = setting(0, "evaluations without a lower error on dev before the run ends; 0: no end", at_least=0)
    eval_steps: int = setting(500, "how often loss and error rate on dev are taken, of every size", at_least=1)
    eval_clips: int = setting(200, "of dev, for it", at_least=0)
    log_steps: int = setting(10, "steps between lines of the log", at_least=1)
    tensorboard: bool = setting(True, "write the same numbers for TensorBoard")
    dead_expert_steps: int = setting(
        200, "an expert without a frame in so many steps of its group raises the alarm", at_least=1
    )


@dataclass
class LargeTrainSettings(TrainSettings):
    """LargeTrainSettings also say how a large elastic model fits into memory. They too may change later."""

    recompute: bool = setting(
        False, "keep nothing of encoder blocks for the way back, but compute them again: less memory, more time"
    )
    shard: bool = setting(
        False, "each worker holds a part of weights, gradients and moments (FSDP2); with more than one, adamw"
    )


@dataclass
class WarmTrainSettings(LargeTrainSettings):
    """WarmTrainSettings also say what the elastic model begins from, and which of its parts move how much. None of
    that may change when a run goes on.
    """

    init_from: str = setting(
        "",
        "weights to begin from: a run, RUN@best, RUN@average, a checkpoint, a safetensors export, WeNet's; empty: none",
    )
    init_embedding_from: str = setting(
        "",
        "3M: a dense model whose encoder and CTC head the embedding network begins from; given as init_from is",
    )
    init_noise: float = setting(
        0.01, "of experts copied from a dense block or from each other, as a share of the weights' spread", at_least=0
    )
    freeze: list[str] = setting([], "parts that stay as they are: names of modules, for example encoder.subsampling")
    lr_by_part: dict[str, float] = setting(
        {}, "factors of the learning rate by part, for example {encoder: 0.1}; the longest name counts", above=0
    )


@dataclass
class Settings:
    """Settings hold every setting of a training."""

    model: ModelSettings = setting(ModelSettings(), "sizes: widths and depths have no right value, start from a preset")
    loss: LossSettings = setting(LossSettings(), "what is minimised")
    data: DataSettings = setting(DataSettings(), "batches, tasks and augmentation")
    optimizer: OptimizerSettings = setting(OptimizerSettings(), "how weights are moved")
    train: WarmTrainSettings = setting(WarmTrainSettings(), "length, place and output of the run")

    def check(self) -> None:
        """Refuse what cannot work. Raises UserError."""
        check(self)


def check(settings: Settings) -> None:
    """Refuse what cannot work: values out of their bounds, and values that do not go together.

    Raises:
        UserError: one line that names the setting and says how to fix it.
    """
    check_bounds(settings)
    model, data, optimizer, train = settings.model, settings.data, settings.optimizer, settings.train
    check_device(train.device)
    if train.shard and optimizer.name == "muon":
        raise UserError("train.shard: muon needs whole matrices; say optimizer.name=adamw, or leave the model whole")
    if len(optimizer.betas) != 2:
        raise UserError(f"optimizer.betas={optimizer.betas}: give two, for example [0.9, 0.98]")
    if data.max_frames < data.max_clip_frames:
        raise UserError(
            f"data.max_frames={data.max_frames}: must be at least data.max_clip_frames={data.max_clip_frames}"
        )
    if model.extra_decoders >= model.encoder_layers:
        raise UserError(
            f"model.extra_decoders={model.extra_decoders}: must be below model.encoder_layers={model.encoder_layers}"
        )
    if model.d_model % model.heads or model.d_model % 2:
        raise UserError(f"model.d_model={model.d_model}: must be even and a multiple of model.heads={model.heads}")
    if not model.causal and model.kernel % 2 == 0:
        raise UserError(f"model.kernel={model.kernel}: must be odd, so that it has a middle")
    if model.dynamic_chunks and not model.causal:
        raise UserError("model.dynamic_chunks=true: set model.causal=true, so that convolutions look at no later frame")
    if not sum(data.tasks.values()):
        raise UserError("data.tasks: give at least one task a weight above 0, for example {transcribe: 1}")
    data.augment.check_ranges("data.augment")
    _check_speaker_head(model, data)
    if model.moe.ffn != "none":
        _check_experts(model)
    elif model.moe.sampling != "step":
        raise UserError(f"model.moe.sampling={model.moe.sampling}: a dense model has one size; say step")
    if train.init_embedding_from and (model.moe.ffn == "none" or not model.moe.embedding_layers):
        raise UserError("train.init_embedding_from: the model has no embedding network: set model.moe.embedding_layers")


def check_device(name: str) -> None:
    """Raise UserError for a device that cannot be."""
    if name.split(":")[0] not in ("auto", "cpu", "cuda"):
        raise UserError(f"train.device={name}: expected one of auto, cpu, cuda, cuda:1")


def _check_speaker_head(model: ModelSettings, data: DataSettings) -> None:
    head = model.speaker_head
    for place, name in enumerate(head.attributes):
        if name not in ATTRIBUTES or name in head.attributes[:place]:
            known = ", ".join(ATTRIBUTES)
            raise UserError(f"model.speaker_head.attributes={head.attributes}: give some of {known}, each once")
    if head.attributes and head.layers > model.encoder_layers:
        raise UserError(
            f"model.speaker_head.layers={head.layers}: must be at most model.encoder_layers={model.encoder_layers}"
        )
    if data.labelled_weight != 1 and not set(head.attributes) - {"language"}:
        raise UserError(
            f"data.labelled_weight={data.labelled_weight:g}: it is of model.speaker_head's attributes: name some, "
            "for example model.speaker_head.attributes=[gender,age]"
        )


def _check_experts(model: ModelSettings) -> None:
    moe = model.moe
    if not moe.experts or any(more <= fewer for fewer, more in zip(moe.experts, moe.experts[1:])):
        raise UserError(f"model.moe.experts={moe.experts}: give increasing numbers, for example [3, 7, 15]")
    if moe.top_k > moe.experts[0]:
        raise UserError(
            f"model.moe.top_k={moe.top_k}: must be from 1 to {moe.experts[0]}, the experts of the smallest group"
        )
    if moe.group_weights and len(moe.group_weights) != len(moe.experts):
        raise UserError(
            f"model.moe.group_weights={moe.group_weights}: give one for each of the {len(moe.experts)} groups"
        )
    if moe.group_weights and not sum(moe.group_weights):
        raise UserError(f"model.moe.group_weights={moe.group_weights}: give numbers of at least 0, one of them above")
    if moe.sampling == "sandwich" and len(moe.experts) == 1:
        raise UserError(
            f"model.moe.sampling=sandwich: it takes a largest and a smallest size, and model.moe.experts={moe.experts} "
            "has one; say step, or give more"
        )
    if moe.sampling == "sandwich" and moe.group_weights and len(moe.experts) > 2 and not sum(moe.group_weights[1:-1]):
        raise UserError(
            f"model.moe.group_weights={moe.group_weights}: sandwich draws one of the groups between the smallest and "
            "the largest, so one of these needs a weight above 0"
        )
    if not moe.expert_width and (model.d_ff * 8) % (moe.shared + moe.experts[-1]):
        raise UserError(
            f"model.d_ff={model.d_ff}: 8 x d_ff must divide by S + N = {moe.shared + moe.experts[-1]}; "
            "or set model.moe.expert_width"
        )
    if moe.dispatch == "dense" and moe.experts != [moe.top_k]:
        raise UserError(f"model.moe.dispatch=dense: works only where all experts are chosen (experts: [{moe.top_k}])")
